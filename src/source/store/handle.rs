//! The handle that everyone else holds. Cheap to clone; the last one to go closes the store.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::engine::{Engine, unknown};
use super::error::StoreError;
use super::journal::Journal;
use super::manifest::Manifest;
use super::memory::Trees;
use super::shared::{Shared, State};
use super::writer::{Reply, Request, Writer};
use super::{
    Batch, Compaction, Migration, OpenReport, Options, Record, Revision, Tree, VerifyReport, disk,
    repair, snapshot, write_fits,
};

/// Commits that may wait for the writer; more block their callers.
const QUEUE: usize = 1024;
/// Records that an iteration reads at a time.
const PAGE: usize = 256;

/// An open store. Clones share it; all methods may be called from any thread.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

/// Without the records, some of which are secrets.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.handle.shared.dir)
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

struct Handle {
    shared: Arc<Shared>,
    /// `None` only while dropping.
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
    /// Held for as long as the store is open.
    _lock: Option<File>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl Store {
    /// Opens or creates a store, checks all of it, and repairs what can be repaired without
    /// guessing. Reads everything once, so it belongs on a blocking thread.
    ///
    /// Fails with [`StoreError::Locked`], [`StoreError::Newer`], [`StoreError::Unrepairable`], or
    /// an I/O error. On a full disk it opens read-only.
    pub fn open(dir: &Path, options: &Options) -> Result<(Self, OpenReport), StoreError> {
        disk::private_dir(dir)?;
        let lock = disk::lock(dir)?;
        Self::open_locked(dir, lock, options)
    }

    fn open_locked(
        dir: &Path,
        lock: File,
        options: &Options,
    ) -> Result<(Self, OpenReport), StoreError> {
        let opened = repair::open(dir, options)?;
        let mut report = opened.report;
        if opened.read_only.is_none() && !disk::keep_reserve(dir, options.reserve_bytes) {
            report.disk_full = true;
        }
        let found = opened.manifest.schema;
        let writable = opened.read_only.is_none();
        let state = State {
            engine: opened.engine,
            manifest: opened.manifest,
        };
        let shared = Shared::new(state, Some(dir.to_owned()), opened.read_only);
        let store = Self::start(shared, opened.journal, options.clone(), Some(lock))?;
        if found < options.schema && writable {
            store.migrate(dir, found, options)?;
            report.migrated_from = Some(found);
            report.revision = store.revision();
        }
        Ok((store, report))
    }

    /// A store that forgets everything when it is dropped: for tests.
    pub fn memory() -> Self {
        let options = Options::default();
        let state = State {
            engine: Engine::Memory(Trees::default()),
            manifest: Manifest::empty(options.schema),
        };
        let shared = Arc::new(Shared::new(state, None, None));
        let writer = Writer::new(Arc::clone(&shared), None, options);
        let (requests, queue) = sync_channel(QUEUE);
        // Without a thread every commit answers that its outcome is unknown.
        let thread = spawn(writer, queue).ok();
        Self {
            handle: Arc::new(Handle {
                shared,
                requests: Some(requests),
                thread,
                _lock: None,
            }),
        }
    }

    fn start(
        shared: Shared,
        journal: Option<Journal>,
        options: Options,
        lock: Option<File>,
    ) -> Result<Self, StoreError> {
        let shared = Arc::new(shared);
        let writer = Writer::new(Arc::clone(&shared), journal, options);
        let (requests, queue) = sync_channel(QUEUE);
        let thread = spawn(writer, queue).map_err(|e| {
            let dir = shared.dir.clone().unwrap_or_default();
            StoreError::io("start the writer of", &dir, e)
        })?;
        Ok(Self {
            handle: Arc::new(Handle {
                shared,
                requests: Some(requests),
                thread: Some(thread),
                _lock: lock,
            }),
        })
    }

    /// Replaces the store in `dir` by a backup and opens it. What was there is kept under names
    /// that end in `before-restore-UNIXTIME`. Interrupted, the next open finishes it.
    pub fn restore(
        dir: &Path,
        backup: &Path,
        options: &Options,
    ) -> Result<(Self, OpenReport), StoreError> {
        let manifest = snapshot::check(backup)?;
        if manifest.schema > options.schema {
            return Err(StoreError::Newer {
                path: backup.to_owned(),
                what: "schema",
                found: manifest.schema,
                supported: options.schema,
            });
        }
        disk::private_dir(dir)?;
        let lock = disk::lock(dir)?;
        let (copy, place) = (dir.join("restoring.tmp"), dir.join(repair::RESTORING));
        let copied = File::open(backup).and_then(|mut from| {
            let mut to = disk::create_private(&copy)?;
            std::io::copy(&mut from, &mut to)?;
            to.sync_all()
        });
        copied.map_err(|e| StoreError::io("copy", backup, e))?;
        disk::publish(&copy, &place)?;
        Self::open_locked(dir, lock, options)
    }

    fn migrate(&self, dir: &Path, found: u32, options: &Options) -> Result<(), StoreError> {
        self.backup(&dir.join(format!("before-schema-{}.backup", options.schema)))?;
        for from in found..options.schema {
            let step = |step: &&Migration| step.from == from;
            let step = options.migrations.iter().find(step);
            let step = step.ok_or(StoreError::NoMigration {
                from,
                wanted: options.schema,
            })?;
            let mut batch = (step.run)(self)?;
            batch.schema = Some(from + 1);
            self.commit(batch)?;
        }
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.settle(tree)?;
        self.handle.shared.read().engine.get(tree, key)
    }

    /// All records whose key starts with `prefix`, in key order, as of one moment. All in memory:
    /// for many use [`Store::iter`].
    pub fn scan(&self, tree: Tree, prefix: &[u8]) -> Result<Vec<Record>, StoreError> {
        self.page(tree, prefix, None, usize::MAX)
    }

    /// At most `limit` records whose key starts with `prefix` and is greater than `after`. Fewer
    /// than `limit` means that there are no more.
    pub fn page(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.settle(tree)?;
        let state = self.handle.shared.read();
        state.engine.page(tree, prefix, after, limit)
    }

    /// Every record of a tree, in key order. Commits that happen meanwhile may be seen in part.
    pub fn iter(&self, tree: Tree) -> Iter {
        Iter {
            store: self.clone(),
            tree,
            page: Vec::new().into_iter(),
            after: None,
            ended: false,
        }
    }

    /// What was put soon is seen at once.
    fn settle(&self, tree: Tree) -> Result<(), StoreError> {
        match tree {
            Tree::Series => self.handle.shared.drain_series(),
            _ => Ok(()),
        }
    }

    /// Applies a batch as a whole and waits until it would survive a power cut. Blocks for two
    /// fsyncs, so not for async code: see [`Store::commit_async`].
    ///
    /// [`StoreError::Unknown`] alone leaves the outcome open; after any other error the batch was
    /// not applied.
    pub fn commit(&self, batch: Batch) -> Result<Revision, StoreError> {
        batch.check()?;
        if batch.is_empty() {
            return Ok(self.revision());
        }
        let (reply, answer) = sync_channel(1);
        self.send(Request::Commit(batch, Reply::Blocking(reply)))?;
        answer.recv().unwrap_or_else(|_| Err(writer_gone()))
    }

    /// [`Store::commit`] for async code. When the future is dropped the batch may be applied or not.
    pub async fn commit_async(&self, batch: Batch) -> Result<Revision, StoreError> {
        batch.check()?;
        if batch.is_empty() {
            return Ok(self.revision());
        }
        let (reply, answer) = oneshot::channel();
        let requests = self.handle.requests.as_ref().ok_or_else(writer_gone)?;
        match requests.try_send(Request::Commit(batch, Reply::Async(reply))) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(_)) => return Err(writer_gone()),
            // The queue is full: wait for room on a thread that may block.
            Err(TrySendError::Full(request)) => {
                let store = self.clone();
                tokio::task::spawn_blocking(move || store.send(request))
                    .await
                    .unwrap_or_else(|_| Err(writer_gone()))?;
            }
        }
        answer.await.unwrap_or_else(|_| Err(writer_gone()))
    }

    /// Adds or replaces a record of [`Tree::Series`] without waiting for the disk. Readers see it
    /// at once; a power cut may lose the last fraction of a second.
    pub fn put_soon(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let (key, value) = (key.into(), value.into());
        write_fits(&key, Some(&value))?;
        self.handle.shared.put_soon(key, Some(value))
    }

    /// The same of several records, `None` for those that go: after a crash all of them are there or none.
    /// [`StoreError::Busy`] when there is no room for all, and then none is.
    pub fn put_all_soon(&self, records: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        for (key, value) in &records {
            write_fits(key, value.as_deref())?;
        }
        self.handle.shared.put_all_soon(records)
    }

    /// Removes a record of [`Tree::Series`] without waiting for the disk.
    pub fn remove_soon(&self, key: impl Into<Vec<u8>>) -> Result<(), StoreError> {
        let key = key.into();
        write_fits(&key, None)?;
        self.handle.shared.put_soon(key, None)
    }

    /// The last acknowledged commit.
    pub fn revision(&self) -> Revision {
        Revision(self.handle.shared.revision.load(Ordering::Acquire))
    }

    /// The version of the callers' data.
    pub fn schema(&self) -> u32 {
        self.handle.shared.read().manifest.schema
    }

    /// Why commits are refused until the store is reopened, when they are.
    pub fn read_only(&self) -> Option<StoreError> {
        self.handle.shared.read_only()
    }

    /// Writes every durable record to one file, checked after writing. Commits wait meanwhile.
    pub fn backup(&self, path: &Path) -> Result<Revision, StoreError> {
        let path = path.to_owned();
        self.ask(move |writer| writer.backup(&path))
    }

    /// Writes a snapshot now instead of when the journal has grown.
    pub fn snapshot(&self) -> Result<(), StoreError> {
        self.ask(Writer::snapshot)
    }

    /// Reads everything back from disk and compares. Commits wait meanwhile.
    pub fn verify(&self) -> Result<VerifyReport, StoreError> {
        self.ask(Writer::verify)
    }

    /// Rewrites the database when its files are more than 8 times what it holds; `None` when not.
    /// Reads and commits wait meanwhile.
    pub fn compact(&self) -> Result<Option<Compaction>, StoreError> {
        self.ask(|writer| writer.compact(false))
    }

    /// Rewrites the database whatever its size; `None` in memory.
    pub fn compact_now(&self) -> Result<Option<Compaction>, StoreError> {
        self.ask(|writer| writer.compact(true))
    }

    /// Bytes of the whole directory; 0 in memory.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        let dir = self.handle.shared.dir.as_deref();
        dir.map_or(Ok(0), disk::size)
    }

    /// Runs something on the writer's thread, between commits.
    fn ask<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = sync_channel(1);
        self.send(Request::Run(Box::new(move |writer| {
            // The caller waits below, so the answer always has a reader.
            drop(reply.send(task(writer)));
        })))?;
        answer.recv().unwrap_or_else(|_| Err(writer_gone()))
    }

    fn send(&self, request: Request) -> Result<(), StoreError> {
        let requests = self.handle.requests.as_ref().ok_or_else(writer_gone)?;
        requests.send(request).map_err(|_| writer_gone())
    }
}

fn spawn(writer: Writer, queue: Receiver<Request>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || writer.run(&queue))
}

fn writer_gone() -> StoreError {
    unknown("the store's writer has stopped", None)
}

/// The records of a tree, read a page at a time.
pub struct Iter {
    store: Store,
    tree: Tree,
    page: std::vec::IntoIter<Record>,
    after: Option<Vec<u8>>,
    ended: bool,
}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter")
            .field("tree", &self.tree)
            .finish_non_exhaustive()
    }
}

impl Iterator for Iter {
    type Item = Result<Record, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.as_slice().is_empty() && !self.ended {
            match self.store.page(self.tree, b"", self.after.as_deref(), PAGE) {
                Ok(page) => {
                    self.ended = page.len() < PAGE;
                    self.after = page.last().map(|(key, _)| key.clone());
                    self.page = page.into_iter();
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        self.page.next().map(Ok)
    }
}
