//! What readers and the writer share: the records, and the series that wait to become records.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::engine::{Change, Engine};
use super::error::StoreError;
use super::manifest::Manifest;
use super::{Tree, disk};

/// Series that wait for sled, at most.
const SERIES_MAX_BYTES: usize = 8 << 20;

/// What readers and the writer share.
pub(super) struct Shared {
    state: RwLock<State>,
    pub(super) revision: AtomicU64,
    /// Why writes are refused, once they are.
    read_only: Mutex<Option<StoreError>>,
    series: Mutex<Series>,
    pub(super) dir: Option<PathBuf>,
}

/// The records, and the manifest that describes them.
pub(super) struct State {
    pub(super) engine: Engine,
    pub(super) manifest: Manifest,
}

#[derive(Default)]
struct Series {
    pending: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
}

impl Shared {
    pub(super) fn new(state: State, dir: Option<PathBuf>, read_only: Option<StoreError>) -> Self {
        Self {
            revision: AtomicU64::new(state.manifest.revision),
            state: RwLock::new(state),
            read_only: Mutex::new(read_only),
            series: Mutex::default(),
            dir,
        }
    }

    /// The records for reading: no commit is visible in part while this is held.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read_only(&self) -> Option<StoreError> {
        self.read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// After a failure in the middle of writing, nothing more is written until reopening.
    pub(super) fn stop_writing(&self, after: &StoreError) {
        tracing::error!(error = %after, "the store is read-only until it is reopened");
        let mut read_only = self
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        read_only.get_or_insert_with(|| StoreError::ReadOnly {
            why: after.to_string(),
        });
    }

    pub(super) fn set_read_only(&self, why: Option<StoreError>) {
        *self
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(super) fn put_soon(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.put_all_soon(vec![(key, value)])
    }

    /// Under one lock, and whoever drains takes all: so they reach the engine in one transaction.
    pub(super) fn put_all_soon(
        &self,
        records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    ) -> Result<(), StoreError> {
        if let Some(error) = self.read_only() {
            return Err(error);
        }
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = records
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len))
            .sum::<usize>();
        // What is more than the buffer at once has it alone.
        if series.bytes > 0 && series.bytes + bytes > SERIES_MAX_BYTES {
            return Err(StoreError::Busy);
        }
        // What is replaced stays counted until the buffer empties: it only errs towards Busy.
        series.bytes += bytes;
        series.pending.extend(records);
        Ok(())
    }

    /// Hands waiting series to the engine, unless the disk is too full: then they keep waiting.
    pub(super) fn drain_series(&self) -> Result<(), StoreError> {
        if self.read_only().is_some() {
            return Ok(());
        }
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if series.pending.is_empty() || self.lacks_space(series.bytes).is_some() {
            return Ok(());
        }
        let pending = std::mem::take(&mut *series).pending;
        let mut state = self.write();
        let mut changes = Vec::with_capacity(pending.len());
        for (key, value) in pending {
            let old = state.engine.get(Tree::Series, &key)?;
            changes.push(Change {
                tree: Tree::Series,
                key,
                old_len: old.map(|old| old.len()),
                value,
            });
        }
        let applied = state.engine.apply(changes, None);
        if let Err(error) = &applied {
            self.stop_writing(error);
        }
        applied
    }

    /// Says so when writing that many bytes could fail in the middle for lack of space.
    pub(super) fn lacks_space(&self, bytes: usize) -> Option<StoreError> {
        let dir = self.dir.as_deref()?;
        // Once in the journal, once in sled, and sled moves old records while it writes.
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let needed = bytes.saturating_mul(3).saturating_add(disk::HEADROOM_BYTES);
        let available = disk::available(dir)?;
        (available < needed).then(|| StoreError::Full {
            path: dir.to_owned(),
            available,
            needed,
        })
    }
}
