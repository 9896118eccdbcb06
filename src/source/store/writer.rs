//! The one thread that writes: gathers waiting commits, makes them durable together, answers.
//!
//! A commit is acknowledged when it is in the journal and in sled, and both files are fsynced.
//! Readers see it a moment before that, when it is durable in the journal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use tokio::sync::oneshot;

use super::engine::{Change, Engine, OpenFault, Sled};
use super::error::StoreError;
use super::journal::{self, AppendFault, Journal};
use super::ledger::{self, Ledger};
use super::manifest::Manifest;
use super::memory::Trees;
use super::shared::Shared;
use super::{
    Batch, Compaction, MAX_BATCH_BYTES, Options, Revision, Tree, VerifyReport, Write, disk, repair,
    snapshot,
};

/// How often series reach sled, and the reserve is looked after.
const TICK: Duration = Duration::from_millis(200);
/// Commits that share one fsync, at most.
const GROUP_MAX: usize = 256;
/// Groups after which series reach sled even when commits never pause.
const SERIES_EVERY_GROUPS: u32 = 64;
/// The database is worth rewriting when it is this many times what it holds …
const COMPACT_RATIO: u64 = 8;
/// … and at least this big.
const COMPACT_MIN_BYTES: u64 = 16 << 20;

/// Where an answer goes.
#[derive(Debug)]
pub(super) enum Reply {
    Blocking(SyncSender<Result<Revision, StoreError>>),
    Async(oneshot::Sender<Result<Revision, StoreError>>),
}

impl Reply {
    /// Nobody listening any more is fine: the commit happened all the same.
    fn send(self, answer: Result<Revision, StoreError>) {
        match self {
            Self::Blocking(sender) => drop(sender.send(answer)),
            Self::Async(sender) => drop(sender.send(answer)),
        }
    }
}

/// What the writer is asked to do.
pub(super) enum Request {
    Commit(Batch, Reply),
    /// Anything that needs the store to stand still.
    Run(Box<dyn FnOnce(&mut Writer) + Send>),
}

/// A group, ready to be written.
struct Prepared {
    /// The store after it.
    manifest: Manifest,
    changes: Vec<Change>,
    /// For the journal, when there is one.
    record: Option<Vec<u8>>,
}

/// The writing side of a store.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// `None` in memory, and when only reads work.
    journal: Option<Journal>,
    options: Options,
    groups_since_series: u32,
    /// Journal size at which the next try for a snapshot is made; grows when one fails.
    snapshot_at_bytes: u64,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, journal: Option<Journal>, options: Options) -> Self {
        Self {
            shared,
            journal,
            snapshot_at_bytes: options.journal_max_bytes,
            options,
            groups_since_series: 0,
        }
    }

    /// Works until every handle is gone.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        loop {
            match requests.recv_timeout(TICK) {
                Ok(Request::Run(task)) => task(&mut self),
                Ok(Request::Commit(batch, reply)) => {
                    let mut bytes = batch.bytes();
                    let mut group = vec![(batch, reply)];
                    let mut task = None;
                    while group.len() < GROUP_MAX && bytes < MAX_BATCH_BYTES && task.is_none() {
                        match requests.try_recv() {
                            Ok(Request::Commit(batch, reply)) => {
                                bytes += batch.bytes();
                                group.push((batch, reply));
                            }
                            Ok(Request::Run(next)) => task = Some(next),
                            Err(_) => break,
                        }
                    }
                    self.commit(group);
                    self.after_group();
                    if let Some(task) = task {
                        task(&mut self);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.tick();
    }

    fn tick(&mut self) {
        self.groups_since_series = 0;
        self.reopen();
        let done = self.shared.drain_series().and_then(|()| {
            if self.shared.read_only().is_none() && self.shared.lacks_space(0).is_none() {
                self.shared.read().engine.flush()
            } else {
                Ok(())
            }
        });
        if let Err(error) = done {
            self.shared.stop_writing(&error);
        }
        if let Some(dir) = self
            .shared
            .dir
            .as_deref()
            .filter(|_| self.journal.is_some())
        {
            disk::keep_reserve(dir, self.options.reserve_bytes);
        }
    }

    /// A store that was opened on a full disk becomes writable when there is room again.
    fn reopen(&mut self) {
        let (Some(StoreError::Full { .. }), Some(dir)) =
            (self.shared.read_only(), self.shared.dir.clone())
        else {
            return;
        };
        let schema = {
            let manifest = &self.shared.read().manifest;
            let live = usize::try_from(manifest.sums.bytes()).unwrap_or(usize::MAX);
            if self.shared.lacks_space(live).is_some() {
                return;
            }
            manifest.schema
        };
        let opened = match repair::open(&dir, &self.options) {
            Ok(opened) if opened.read_only.is_some() => return,
            Ok(_) if schema != self.options.schema => Err("its data must be migrated".to_owned()),
            Ok(opened) => Ok(opened),
            Err(error) => Err(error.to_string()),
        };
        let why = match opened {
            Ok(opened) => {
                let mut state = self.shared.write();
                let revision = opened.manifest.revision;
                self.shared.revision.store(revision, Ordering::Release);
                (state.engine, state.manifest) = (opened.engine, opened.manifest);
                self.journal = opened.journal;
                tracing::info!(path = %dir.display(), "there is room again; the store takes writes");
                None
            }
            Err(why) => Some(StoreError::ReadOnly { why }),
        };
        self.shared.set_read_only(why);
    }

    fn commit(&mut self, group: Vec<(Batch, Reply)>) {
        let (batches, replies): (Vec<Batch>, Vec<Reply>) = group.into_iter().unzip();
        let first = self.shared.revision.load(Ordering::Acquire);
        match self.commit_group(batches) {
            Ok(()) => {
                for (reply, revision) in replies.into_iter().zip(first + 1..) {
                    reply.send(Ok(Revision(revision)));
                }
            }
            Err(error) => {
                for reply in replies {
                    reply.send(Err(error.clone()));
                }
            }
        }
    }

    fn commit_group(&mut self, batches: Vec<Batch>) -> Result<(), StoreError> {
        if let Some(error) = self.shared.read_only() {
            return Err(error);
        }
        let bytes = batches.iter().map(Batch::bytes).sum();
        if let Some(full) = self.shared.lacks_space(bytes) {
            return Err(full);
        }
        let Prepared {
            manifest,
            changes,
            record,
        } = self.prepare(batches)?;
        if let (Some(journal), Some(record)) = (self.journal.as_mut(), record) {
            match journal.append(&record) {
                Ok(()) => {}
                Err(AppendFault::Full(error)) => {
                    let dir = self.shared.dir.clone().unwrap_or_default();
                    return Err(StoreError::io("append to the journal of", &dir, error));
                }
                Err(AppendFault::Unknown(error)) => {
                    self.shared.stop_writing(&error);
                    return Err(error);
                }
            }
        }
        let revision = manifest.revision;
        let done = {
            let mut state = self.shared.write();
            let applied = state.engine.apply(changes, Some(&manifest));
            if applied.is_ok() {
                state.manifest = manifest;
            }
            applied
        }
        .and_then(|()| self.shared.read().engine.persist());
        if let Err(error) = done {
            self.shared.stop_writing(&error);
            return Err(error);
        }
        self.shared.revision.store(revision, Ordering::Release);
        Ok(())
    }

    /// Works out what the store will be after a group, and the journal record that says so.
    fn prepare(&self, batches: Vec<Batch>) -> Result<Prepared, StoreError> {
        let state = self.shared.read();
        let mut manifest = state.manifest.clone();
        let mut last: BTreeMap<(Tree, Vec<u8>), Option<Vec<u8>>> = BTreeMap::new();
        for batch in batches {
            manifest.revision += 1;
            manifest.schema = batch.schema.unwrap_or(manifest.schema);
            for write in batch.writes {
                last.insert((write.tree, write.key), write.value);
            }
        }
        let mut writes = Vec::with_capacity(last.len());
        let mut old_lens = Vec::with_capacity(last.len());
        for ((tree, key), value) in last {
            // A read that fails here changes nothing: the group is refused as damaged.
            let old = state.engine.get(tree, &key)?;
            if let Some(old) = &old {
                manifest.sums.subtract(tree, &key, old);
            }
            if let Some(new) = &value {
                manifest.sums.add(tree, &key, new);
            }
            old_lens.push(old.map(|old| old.len()));
            writes.push(Write { tree, key, value });
        }
        let mut record = None;
        if self.journal.is_some() {
            let chain = state.manifest.chain;
            let (bytes, linked) = journal::encode_record(&chain, manifest, writes.iter());
            manifest = linked;
            record = Some(bytes);
        }
        let changes = writes
            .into_iter()
            .zip(old_lens)
            .map(|(write, old_len)| Change {
                tree: write.tree,
                key: write.key,
                old_len,
                value: write.value,
            })
            .collect();
        Ok(Prepared {
            manifest,
            changes,
            record,
        })
    }

    /// What is due after the answers have gone out.
    fn after_group(&mut self) {
        self.groups_since_series += 1;
        if self.groups_since_series >= SERIES_EVERY_GROUPS {
            self.tick();
        }
        let due = self.journal.as_ref().is_some_and(|journal| {
            journal.len >= self.snapshot_at_bytes
                || journal.records >= self.options.journal_max_records
        });
        if due
            && self.shared.read_only().is_none()
            && let Err(error) = self.snapshot()
        {
            // Not fatal: the journal goes on. Try again when it has grown by half.
            let len = self.journal.as_ref().map_or(0, |journal| journal.len);
            self.snapshot_at_bytes = len.saturating_add(len / 2);
            self.options.journal_max_records = self.options.journal_max_records.saturating_mul(2);
            tracing::warn!(%error, "cannot write a snapshot of the store; its journal keeps growing");
        }
    }

    /// Writes a snapshot and begins a new journal behind it.
    pub(super) fn snapshot(&mut self) -> Result<(), StoreError> {
        let (Some(dir), Some(journal)) = (self.shared.dir.clone(), self.journal.as_mut()) else {
            return Ok(());
        };
        if journal.records == 0 {
            return Ok(());
        }
        let state = self.shared.read();
        let live = usize::try_from(state.manifest.sums.bytes()).unwrap_or(usize::MAX);
        if let Some(full) = self.shared.lacks_space(live) {
            return Err(full);
        }
        *journal = ledger::begin(&dir, &state.engine, &state.manifest)?;
        drop(state);
        self.snapshot_at_bytes = self.options.journal_max_bytes;
        ledger::prune(&dir)?;
        disk::private_files(&dir)
    }

    /// Writes everything durable to one file.
    pub(super) fn backup(&self, path: &std::path::Path) -> Result<Revision, StoreError> {
        let state = self.shared.read();
        snapshot::write(path, &state.engine, &state.manifest)?;
        Ok(state.manifest.revision())
    }

    /// Rewrites the database when it has grown out of proportion, or when `always`.
    pub(super) fn compact(&mut self, always: bool) -> Result<Option<Compaction>, StoreError> {
        if let Some(error) = self.shared.read_only() {
            return Err(error);
        }
        let Some(dir) = self.shared.dir.clone() else {
            return Ok(None);
        };
        self.shared.drain_series()?;
        let mut state = self.shared.write();
        let live = state.manifest.sums.bytes();
        let Engine::Sled(sled) = &state.engine else {
            return Ok(None);
        };
        let before_bytes = sled.disk_bytes()?;
        let grown =
            before_bytes > COMPACT_MIN_BYTES && before_bytes > live.saturating_mul(COMPACT_RATIO);
        if !grown && !always {
            return Ok(None);
        }
        if let Some(full) = self
            .shared
            .lacks_space(usize::try_from(live).unwrap_or(usize::MAX))
        {
            return Err(full);
        }
        let (new, old, db) = (
            dir.join(disk::NEW_DB),
            dir.join(disk::OLD_DB),
            dir.join(disk::DB),
        );
        let cache = self.options.cache_bytes;
        // Time series are worth carrying over, though nothing promises it.
        let series = state.engine.page(Tree::Series, b"", None, usize::MAX)?;
        let mut trees = Trees::default();
        state.engine.each(|tree, key, value| {
            trees.set(tree, key.to_vec(), Some(value.to_vec()));
            Ok::<(), StoreError>(())
        })?;
        let copy = Engine::Memory(trees);
        Sled::build(&new, &copy, &state.manifest, cache)?;
        // sled knows its files by path, so it is closed before they move; reads never see this.
        drop(std::mem::replace(&mut state.engine, copy));
        // A crash between the two renames leaves no database: opening rebuilds it.
        let swapped = disk::publish(&db, &old)
            .and_then(|()| disk::publish(&new, &db))
            .and_then(|()| Sled::examine(&db, cache).map_err(|fault| fault.for_new(&db)));
        let (sled, _) = swapped.inspect_err(|error| self.shared.stop_writing(error))?;
        state.engine = Engine::Sled(sled);
        let changes = series
            .into_iter()
            .map(|(key, value)| Change {
                tree: Tree::Series,
                key,
                old_len: None,
                value: Some(value),
            })
            .collect();
        state.engine.apply(changes, None)?;
        disk::remove(&old, true)?;
        let after_bytes = match &state.engine {
            Engine::Sled(sled) => sled.disk_bytes()?,
            Engine::Memory(_) => 0,
        };
        Ok(Some(Compaction {
            before_bytes,
            after_bytes,
        }))
    }

    /// Reads everything back: the records in use, the database's file, journals and snapshots.
    pub(super) fn verify(&mut self) -> Result<VerifyReport, StoreError> {
        self.shared.drain_series()?;
        let state = self.shared.read();
        let live_bytes = state.manifest.sums.bytes();
        let mut report = VerifyReport {
            revision: state.manifest.revision(),
            schema: state.manifest.schema,
            trees: ledger::tree_reports(&state.manifest),
            live_bytes,
            ..VerifyReport::default()
        };
        match state.engine.sums() {
            Ok(sums) => {
                if let Some(difference) = state.manifest.sums.difference(&sums) {
                    report.faults.push(format!("database: {difference}"));
                }
            }
            Err(error) => report.faults.push(format!("database: {error}")),
        }
        let Some(dir) = self.shared.dir.as_deref() else {
            return Ok(report);
        };
        Ledger::verify(dir, &mut report)?;
        report.size_on_disk_bytes = disk::size(dir)?;
        let Engine::Sled(sled) = &state.engine else {
            report
                .skipped
                .push("the database is not open: only reads work".to_owned());
            return Ok(report);
        };
        // The open database answers from its cache, so what is on the disk is seen in a copy.
        let size = usize::try_from(sled.disk_bytes()?).unwrap_or(usize::MAX);
        if self.shared.lacks_space(size).is_some() {
            report
                .skipped
                .push("no space for a copy of the database to check".to_owned());
            return Ok(report);
        }
        state.engine.flush()?;
        let check = dir.join(disk::CHECK_DB);
        disk::remove(&check, true)?;
        disk::copy_dir(&dir.join(disk::DB), &check)?;
        match Sled::examine(&check, self.options.cache_bytes) {
            Ok((_, own)) if own.is_at(&state.manifest) => {}
            Ok((_, own)) => report.faults.push(format!(
                "database on disk: it is at revision {}",
                own.revision
            )),
            Err(OpenFault::Damaged(what)) => {
                report.faults.push(format!("database on disk: {what}"));
            }
            Err(OpenFault::Outside(error)) => report.skipped.push(error.to_string()),
        }
        disk::remove(&check, true)?;
        Ok(report)
    }
}
