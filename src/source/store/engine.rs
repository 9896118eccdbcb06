//! sled, as this store uses it, and its twin in memory.
//!
//! A value in sled starts with a byte that says how it is kept: whole, or as a length whose bytes
//! are chunks in a tree of their own. sled leaks a file for each overwrite above 128 KiB.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional as _};

use super::error::{StoreError, is_full};
use super::manifest::{Manifest, Sums};
use super::memory::Trees;
use super::{Record, Tree, disk};

/// Largest value that is kept whole, and the size of a chunk: with its first byte, 64 KiB.
pub(super) const CHUNK_BYTES: usize = (64 << 10) - 1;
const WHOLE: u8 = 1;
const CHUNKED: u8 = 2;
const CHUNKS: &str = "_chunks";
const STORE: &str = "_store";
const MANIFEST: &[u8] = b"manifest";
/// How much a rebuild puts into one transaction.
const IMPORT_BYTES: usize = 1 << 20;

/// A write together with the length of what it replaces.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) tree: Tree,
    pub(super) key: Vec<u8>,
    pub(super) old_len: Option<usize>,
    pub(super) value: Option<Vec<u8>>,
}

/// Why a database could not be opened.
#[derive(Debug)]
pub(super) enum OpenFault {
    /// Its content cannot be read.
    Damaged(String),
    /// Something around it is wrong: permissions, space, limits.
    Outside(StoreError),
}

/// Where records are read from.
pub(super) enum Engine {
    Sled(Sled),
    Memory(Trees),
}

impl Engine {
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Sled(sled) => sled.get(tree, key),
            Self::Memory(trees) => Ok(trees.get(tree, key)),
        }
    }

    pub(super) fn page(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        match self {
            Self::Sled(sled) => sled.page(tree, prefix, after, limit),
            Self::Memory(trees) => Ok(trees.page(tree, prefix, after, limit)),
        }
    }

    /// Visits every record of the durable trees in order.
    pub(super) fn each<E: From<StoreError>>(
        &self,
        mut visit: impl FnMut(Tree, &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Sled(sled) => {
                for tree in Tree::DURABLE {
                    for record in sled.records(tree, Bound::Unbounded)? {
                        let (key, value) = record?;
                        visit(tree, &key, &value)?;
                    }
                }
            }
            Self::Memory(trees) => {
                for (tree, key, value) in trees.durable() {
                    visit(tree, key, value)?;
                }
            }
        }
        Ok(())
    }

    /// Makes all changes visible together, with the manifest that describes the result.
    pub(super) fn apply(
        &mut self,
        changes: Vec<Change>,
        manifest: Option<&Manifest>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Sled(sled) => sled.apply(&changes, manifest),
            Self::Memory(trees) => {
                trees.apply(changes);
                Ok(())
            }
        }
    }

    /// Makes what was applied survive a power cut.
    pub(super) fn persist(&self) -> Result<(), StoreError> {
        match self {
            Self::Sled(sled) => {
                sled.flush()?;
                sled.sync()
            }
            Self::Memory(_) => Ok(()),
        }
    }

    /// Hands what was applied to the operating system.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        match self {
            Self::Sled(sled) => sled.flush(),
            Self::Memory(_) => Ok(()),
        }
    }

    pub(super) fn sums(&self) -> Result<Sums, StoreError> {
        let mut sums = Sums::default();
        self.each(|tree, key, value| {
            sums.add(tree, key, value);
            Ok::<(), StoreError>(())
        })?;
        Ok(sums)
    }
}

/// An open sled database and the handle that its file is fsynced through.
pub(super) struct Sled {
    path: PathBuf,
    file: File,
    trees: Vec<(Tree, sled::Tree)>,
    chunks: sled::Tree,
    store: sled::Tree,
    // Last, because dropping it flushes and gives the lock back.
    db: sled::Db,
}

impl Sled {
    /// Opens or creates a database and makes its files durable and private.
    pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<Self, OpenFault> {
        disk::private_dir(path).map_err(OpenFault::Outside)?;
        let config = sled::Config::new()
            .path(path)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(cache_bytes)
            // No writing behind our back: on a full disk a failed background flush is for ever.
            .flush_every_ms(None);
        let mut attempts = 0;
        let db = loop {
            match guarded(|| config.open()) {
                // Ours is the store's lock, so this one is a just closed handle of our own, which
                // sled's helper threads may hold for a moment.
                Err(error) if is_locked(&error) && attempts < 200 => {
                    attempts += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(open_fault(path, error)),
                Ok(db) => break db,
            }
        };
        let tree = |name: &str| guarded(|| db.open_tree(name)).map_err(|e| open_fault(path, e));
        let trees = Tree::ALL
            .into_iter()
            .map(|t| Ok((t, tree(t.name())?)))
            .collect::<Result<_, OpenFault>>()?;
        let (chunks, store) = (tree(CHUNKS)?, tree(STORE)?);
        let outside = |what, file: &Path, e| OpenFault::Outside(StoreError::io(what, file, e));
        let file_path = path.join("db");
        let file = File::open(&file_path).map_err(|e| outside("open", &file_path, e))?;
        let sled = Self {
            path: path.to_owned(),
            file,
            trees,
            chunks,
            store,
            db,
        };
        sled.flush().map_err(OpenFault::Outside)?;
        disk::private_files(path).map_err(OpenFault::Outside)?;
        sled.sync().map_err(OpenFault::Outside)?;
        let conf = path.join("conf");
        File::open(&conf)
            .and_then(|conf| conf.sync_all())
            .map_err(|e| outside("sync", &conf, e))?;
        disk::sync_dir(path).map_err(OpenFault::Outside)?;
        Ok(sled)
    }

    /// Opens a database and compares it with the manifest that it holds itself.
    pub(super) fn examine(path: &Path, cache_bytes: u64) -> Result<(Self, Manifest), OpenFault> {
        let sled = Self::open(path, cache_bytes)?;
        let damaged = |error: StoreError| OpenFault::Damaged(error.to_string());
        let manifest = sled
            .manifest()
            .map_err(damaged)?
            .ok_or_else(|| OpenFault::Damaged("its manifest record is gone".to_owned()))?;
        let series = sled
            .records(Tree::Series, Bound::Unbounded)
            .map_err(damaged)?;
        series
            .into_iter()
            .try_for_each(|record| record.map(|_| ()))
            .map_err(damaged)?;
        let engine = Engine::Sled(sled);
        let found = engine.sums().map_err(damaged)?;
        if let Some(difference) = manifest.sums.difference(&found) {
            return Err(OpenFault::Damaged(difference));
        }
        match engine {
            Engine::Sled(sled) => Ok((sled, manifest)),
            Engine::Memory(_) => Err(OpenFault::Damaged("not a database".to_owned())),
        }
    }

    /// Fills a new database at `path` with records and closes it, durably.
    pub(super) fn build(
        path: &Path,
        source: &Engine,
        manifest: &Manifest,
        cache_bytes: u64,
    ) -> Result<(), StoreError> {
        disk::remove(path, true)?;
        let sled = Self::open(path, cache_bytes).map_err(|fault| fault.for_new(path))?;
        let (mut changes, mut bytes) = (Vec::new(), 0);
        source.each(|tree, key, value| {
            bytes += key.len() + value.len();
            changes.push(Change {
                tree,
                key: key.to_vec(),
                old_len: None,
                value: Some(value.to_vec()),
            });
            if bytes < IMPORT_BYTES {
                return Ok(());
            }
            bytes = 0;
            sled.apply(&std::mem::take(&mut changes), None)
        })?;
        sled.apply(&changes, Some(manifest))?;
        sled.flush()?;
        sled.sync()
    }

    pub(super) fn manifest(&self) -> Result<Option<Manifest>, StoreError> {
        let bytes = guarded(|| self.store.get(MANIFEST)).map_err(|e| read_error(&self.path, &e))?;
        bytes.map_or(Ok(None), |bytes| {
            Manifest::decode(&bytes)
                .map(Some)
                .ok_or_else(|| damaged("the manifest record does not read back"))
        })
    }

    pub(super) fn disk_bytes(&self) -> Result<u64, StoreError> {
        disk::size(&self.path)
    }

    fn tree(&self, tree: Tree) -> Result<&sled::Tree, StoreError> {
        self.trees
            .iter()
            .find_map(|(name, handle)| (*name == tree).then_some(handle))
            .ok_or_else(|| damaged("a tree is not open"))
    }

    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let handle = self.tree(tree)?;
        let stored = guarded(|| handle.get(key)).map_err(|e| read_error(&self.path, &e))?;
        stored
            .map(|stored| self.value(tree, key, &stored))
            .transpose()
    }

    fn page(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.records(tree, after.map_or(Bound::Included(prefix), Bound::Excluded))?
            .take_while(|record| {
                record
                    .as_ref()
                    .map_or(true, |(key, _)| key.starts_with(prefix))
            })
            .take(limit)
            .collect()
    }

    fn records<'a>(
        &'a self,
        tree: Tree,
        from: Bound<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<Record, StoreError>> + use<'a>, StoreError> {
        let handle = self.tree(tree)?;
        let mut iter = guarded(|| Ok(handle.range::<&[u8], _>((from, Bound::Unbounded))))
            .map_err(|e| read_error(&self.path, &e))?;
        Ok(std::iter::from_fn(move || {
            let next = guarded(|| iter.next().transpose()).map_err(|e| read_error(&self.path, &e));
            match next {
                Ok(None) => None,
                Ok(Some((key, stored))) => Some(
                    self.value(tree, &key, &stored)
                        .map(|value| (key.to_vec(), value)),
                ),
                Err(error) => Some(Err(error)),
            }
        }))
    }

    /// Undoes [`encode_value`].
    fn value(&self, tree: Tree, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, StoreError> {
        match stored.split_first() {
            Some((&WHOLE, value)) => Ok(value.to_vec()),
            Some((&CHUNKED, len)) => {
                let len = len
                    .try_into()
                    .ok()
                    .map(u64::from_le_bytes)
                    .and_then(|len| usize::try_from(len).ok())
                    .filter(|len| *len <= super::MAX_VALUE_BYTES)
                    .ok_or_else(|| damaged("the length of a long value does not read back"))?;
                let mut value = Vec::with_capacity(len);
                for index in 0..chunks(len) {
                    let key = chunk_key(tree, key, index);
                    let chunk = guarded(|| self.chunks.get(&key))
                        .map_err(|e| read_error(&self.path, &e))?
                        .ok_or_else(|| damaged("a part of a long value is gone"))?;
                    value.extend_from_slice(&chunk);
                }
                if value.len() == len {
                    Ok(value)
                } else {
                    Err(damaged("a long value has another length"))
                }
            }
            _ => Err(damaged("a value of an unknown kind")),
        }
    }

    /// All changes in one sled transaction.
    fn apply(&self, changes: &[Change], manifest: Option<&Manifest>) -> Result<(), StoreError> {
        let mut batches: Vec<sled::Batch> = vec![sled::Batch::default(); self.trees.len()];
        let (mut chunked, mut own) = (sled::Batch::default(), sled::Batch::default());
        for change in changes {
            let new_len = change.value.as_ref().map(Vec::len);
            for index in new_len.map_or(0, chunks)..change.old_len.map_or(0, chunks) {
                chunked.remove(chunk_key(change.tree, &change.key, index));
            }
            let at = self.trees.iter().position(|(tree, _)| *tree == change.tree);
            let Some(batch) = at.and_then(|at| batches.get_mut(at)) else {
                return Err(damaged("a tree is not open"));
            };
            match &change.value {
                None => batch.remove(change.key.as_slice()),
                Some(value) => {
                    batch.insert(change.key.as_slice(), encode_value(value));
                    if chunks(value.len()) > 0 {
                        for (index, chunk) in value.chunks(CHUNK_BYTES).enumerate() {
                            chunked.insert(chunk_key(change.tree, &change.key, index), chunk);
                        }
                    }
                }
            }
        }
        if let Some(manifest) = manifest {
            own.insert(MANIFEST, manifest.encode());
        }
        let mut handles: Vec<&sled::Tree> = self.trees.iter().map(|(_, tree)| tree).collect();
        handles.extend([&self.chunks, &self.store]);
        batches.extend([chunked, own]);
        let done = catch_unwind(AssertUnwindSafe(|| {
            handles.as_slice().transaction(|trees| {
                for (tree, batch) in trees.iter().zip(&batches) {
                    tree.apply_batch(batch)?;
                }
                Ok::<(), ConflictableTransactionError<()>>(())
            })
        }));
        match done {
            Ok(Ok(())) => Ok(()),
            Ok(Err(TransactionError::Storage(error))) => Err(write_error("apply", &error)),
            Ok(Err(TransactionError::Abort(()))) => Err(unknown("apply", None)),
            Err(_) => Err(unknown("apply (the database panicked)", None)),
        }
    }

    fn flush(&self) -> Result<(), StoreError> {
        guarded(|| self.db.flush())
            .map(|_| ())
            .map_err(|e| write_error("flush the database", &e))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .map_err(|e| unknown("sync the database", Some(e)))
    }
}

impl OpenFault {
    /// A database that was just made cannot be damaged: say it as an error.
    pub(super) fn for_new(self, path: &Path) -> StoreError {
        match self {
            Self::Outside(error) => error,
            Self::Damaged(what) => StoreError::Damaged {
                what: format!("{}: {what}", path.display()),
            },
        }
    }
}

/// Runs a call into sled, which panics on some damage that it meets.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
        Err(sled::Error::ReportableBug(
            "the database panicked".to_owned(),
        ))
    })
}

/// Number of chunks that a value of this length is split into; 0 when it is kept whole.
fn chunks(len: usize) -> usize {
    if len <= CHUNK_BYTES {
        0
    } else {
        len.div_ceil(CHUNK_BYTES)
    }
}

fn chunk_key(tree: Tree, key: &[u8], index: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 9);
    out.push(tree.id());
    // Big-endian, so that the chunks of a value lie beside each other in order.
    out.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes());
    out
}

fn encode_value(value: &[u8]) -> Vec<u8> {
    if chunks(value.len()) == 0 {
        let mut out = Vec::with_capacity(value.len() + 1);
        out.push(WHOLE);
        out.extend_from_slice(value);
        return out;
    }
    let mut out = vec![CHUNKED];
    out.extend_from_slice(&u64::try_from(value.len()).unwrap_or(u64::MAX).to_le_bytes());
    out
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
}

fn open_fault(path: &Path, error: sled::Error) -> OpenFault {
    match error {
        sled::Error::Io(e)
            if is_full(&e)
                || matches!(
                    e.kind(),
                    io::ErrorKind::PermissionDenied
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::OutOfMemory
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::WouldBlock
                )
                || matches!(
                    e.raw_os_error(),
                    Some(libc_codes::ENFILE | libc_codes::EMFILE)
                )
                || e.to_string().contains("could not acquire lock") =>
        {
            OpenFault::Outside(StoreError::io("open", path, e))
        }
        error => OpenFault::Damaged(error.to_string()),
    }
}

/// The two that have no [`io::ErrorKind`] and say nothing about the file.
mod libc_codes {
    pub(super) const ENFILE: i32 = 23;
    pub(super) const EMFILE: i32 = 24;
}

fn read_error(path: &Path, error: &sled::Error) -> StoreError {
    damaged(&format!("{}: {error}", path.display()))
}

fn write_error(what: &str, error: &sled::Error) -> StoreError {
    let source = match error {
        sled::Error::Io(e) => io::Error::new(e.kind(), e.to_string()),
        other => io::Error::other(other.to_string()),
    };
    unknown(what, Some(source))
}

pub(super) fn unknown(what: &str, source: Option<io::Error>) -> StoreError {
    StoreError::Unknown {
        what: what.to_owned(),
        source: source.map(std::sync::Arc::new),
    }
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged {
        what: what.to_owned(),
    }
}
