//! The embedded store: what the control plane has acknowledged survives a power cut.
//!
//! Owns durability, integrity and repair of a directory of key-value trees. What the values mean,
//! and which machine may write, is left to the callers.
//!
//! sled 0.34 is the database that reads are answered from. By itself it is not enough, and this
//! room adds what measuring showed to be missing:
//!
//! * Its `flush()` does not fsync, so each commit is first appended to a journal of our own and
//!   fsynced there, then applied to sled, and sled's file is fsynced too, before the answer.
//! * It opens damaged files silently with fewer records, so each journal record carries the count
//!   and digest of every tree; opening compares them with what sled holds and rebuilds sled from
//!   snapshot and journal when they differ. A damaged database is set aside, never overwritten.
//! * It cannot open on a full disk, so a reserve file is freed for it, and failing that the store
//!   opens read-only from snapshot and journal.
//! * Values above 128 KiB leak files, so larger values are split into chunks.
//! * It never shrinks, so [`Store::compact`] rewrites it.
//!
//! ```text
//! DIR/LOCK                   held while a process has the store open
//! DIR/db/                    sled
//! DIR/journal.REVISION       commits since the snapshot of that revision; a chain of SHA-256
//! DIR/snapshot.REVISION      every durable record, with a hash at the end; also the backup format
//! DIR/reserve                space to give back when the disk is full
//! DIR/*.corrupt-UNIXTIME     what was damaged and set aside
//! ```
//!
//! One thread writes (`writer`); all commits that wait while it fsyncs share the next fsync.
//! [`Tree::Series`] is the exception to all of this: it takes [`Store::put_soon`], costs no fsync,
//! and may lose its last moments in a power cut.

mod coding;
mod disk;
mod engine;
mod error;
mod handle;
mod journal;
mod ledger;
mod manifest;
mod memory;
mod repair;
mod report;
mod shared;
mod snapshot;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

use crate::rt::Wall;

pub use error::StoreError;
pub use handle::{Iter, Store};
pub use report::{Compaction, OpenReport, Repair, TreeReport, VerifyReport};

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 4 << 10;
/// Longest value, in bytes. Longer ones belong in several records.
pub const MAX_VALUE_BYTES: usize = 8 << 20;
/// Most bytes of keys and values in one batch.
pub const MAX_BATCH_BYTES: usize = 16 << 20;
/// Most writes in one batch.
pub const MAX_BATCH_WRITES: usize = 100_000;

/// One record: key and value.
pub type Record = (Vec<u8>, Vec<u8>);

/// A named set of records, ordered by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Tree {
    /// Configuration objects that people applied.
    Resources,
    /// Workloads that registered themselves.
    Registry,
    /// The authority's state: serials, join tokens, trust bundles.
    Identity,
    /// Canaries and the step they are at.
    Canaries,
    /// Past versions of objects, for rollback.
    History,
    /// What happened, for people.
    Events,
    /// Facts about the store's user, such as its name and epoch.
    Meta,
    /// Time series and heartbeats: written by [`Store::put_soon`] only, and not durable.
    Series,
}

impl Tree {
    /// Every tree.
    pub const ALL: [Self; 8] = [
        Self::Resources,
        Self::Registry,
        Self::Identity,
        Self::Canaries,
        Self::History,
        Self::Events,
        Self::Meta,
        Self::Series,
    ];

    /// Trees whose acknowledged writes survive a power cut.
    pub const DURABLE: [Self; 7] = [
        Self::Resources,
        Self::Registry,
        Self::Identity,
        Self::Canaries,
        Self::History,
        Self::Events,
        Self::Meta,
    ];

    /// Its name on disk and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resources => "resources",
            Self::Registry => "registry",
            Self::Identity => "identity",
            Self::Canaries => "canaries",
            Self::History => "history",
            Self::Events => "events",
            Self::Meta => "meta",
            Self::Series => "series",
        }
    }

    /// Its number in journals and snapshots; never reused, and 0 means the end.
    const fn id(self) -> u8 {
        match self {
            Self::Resources => 1,
            Self::Registry => 2,
            Self::Identity => 3,
            Self::Canaries => 4,
            Self::History => 5,
            Self::Events => 6,
            Self::Series => 7,
            Self::Meta => 8,
        }
    }

    fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|tree| tree.id() == id)
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The number of a commit. Grows by one with each; 0 is the empty store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One write: `value: None` removes the key.
#[derive(Clone, PartialEq, Eq)]
struct Write {
    tree: Tree,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// Without the value, which may be a key of the authority.
impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.value.as_ref().map(Vec::len);
        write!(f, "{}/{}: ", self.tree, self.key.escape_ascii())?;
        match len {
            Some(len) => write!(f, "{len} bytes"),
            None => f.write_str("removed"),
        }
    }
}

impl Write {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// Writes to any durable trees that happen together or not at all. A later write to a key wins.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    writes: Vec<Write>,
    /// Set by a migration, so that data and schema number change together.
    schema: Option<u32>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a record.
    pub fn put(
        &mut self,
        tree: Tree,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) -> &mut Self {
        self.writes.push(Write {
            tree,
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }

    /// Removes a record; nothing happens when there is none.
    pub fn remove(&mut self, tree: Tree, key: impl Into<Vec<u8>>) -> &mut Self {
        self.writes.push(Write {
            tree,
            key: key.into(),
            value: None,
        });
        self
    }

    /// How many writes it holds.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.schema.is_none()
    }

    fn bytes(&self) -> usize {
        self.writes.iter().map(Write::bytes).sum()
    }

    /// Refuses what the store cannot hold, before anything is queued.
    fn check(&self) -> Result<(), StoreError> {
        if self.writes.len() > MAX_BATCH_WRITES {
            return Err(StoreError::TooLarge {
                what: "number of writes in the batch",
                size: self.writes.len(),
                limit: MAX_BATCH_WRITES,
            });
        }
        for write in &self.writes {
            if write.tree == Tree::Series {
                return Err(StoreError::NotDurable);
            }
            write_fits(&write.key, write.value.as_deref())?;
        }
        if self.bytes() > MAX_BATCH_BYTES {
            return Err(StoreError::TooLarge {
                what: "batch in bytes",
                size: self.bytes(),
                limit: MAX_BATCH_BYTES,
            });
        }
        Ok(())
    }
}

fn write_fits(key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(StoreError::TooLarge {
            what: "key in bytes",
            size: key.len(),
            limit: MAX_KEY_BYTES,
        });
    }
    let size = value.map_or(0, <[u8]>::len);
    if size > MAX_VALUE_BYTES {
        return Err(StoreError::TooLarge {
            what: "value in bytes",
            size,
            limit: MAX_VALUE_BYTES,
        });
    }
    Ok(())
}

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The clock that names files which are set aside.
    pub wall: Wall,
    /// The version of the callers' own keys and values.
    pub schema: u32,
    /// Steps from older schemas, one for each version.
    pub migrations: Vec<Migration>,
    /// Journal size that starts a new snapshot. Default 16 MiB.
    pub journal_max_bytes: u64,
    /// Journal records that start a new snapshot. Default 10,000.
    pub journal_max_records: u64,
    /// Size of the file that is given back when the disk is full. Default 1 MiB.
    pub reserve_bytes: u64,
    /// sled's page cache. Default 16 MiB.
    pub cache_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wall: Wall::System,
            schema: 1,
            migrations: Vec::new(),
            journal_max_bytes: 16 << 20,
            journal_max_records: 10_000,
            reserve_bytes: 1 << 20,
            cache_bytes: 16 << 20,
        }
    }
}

/// One step from a schema to the next. A backup is written beside the store before it runs.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The schema it starts from; it ends at the next.
    pub from: u32,
    /// Reads the store and returns what to change; applied together with the new schema number.
    pub run: fn(&Store) -> Result<Batch, StoreError>,
}
