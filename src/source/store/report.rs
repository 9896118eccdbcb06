//! What opening, checking and compacting a store found out.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::{Revision, Tree};

/// What happened while a store was opened.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenReport {
    /// The last commit in it.
    pub revision: Revision,
    /// Whether the directory held no store before.
    pub created: bool,
    /// Journal records that the database had not seen, as after a crash; at most one.
    pub replayed_records: u64,
    /// Bytes of an unfinished last journal record, dropped: it was never acknowledged.
    pub torn_bytes: u64,
    /// What was damaged, and what was done about it. Tell people loudly.
    pub repaired: Option<Repair>,
    /// Whether the disk was too full to keep the reserve file.
    pub disk_full: bool,
    /// Why only reads work, when that is so.
    pub read_only: Option<String>,
    /// The schema that the store had before it was migrated.
    pub migrated_from: Option<u32>,
}

/// Damage that opening found and mended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// Each fault, for people.
    pub what: Vec<String>,
    /// What was done, for people.
    pub done: Vec<String>,
    /// Damaged files, kept under these names.
    pub set_aside: Vec<PathBuf>,
    /// Whether a last commit may be missing: the journal's end was damaged and the database could
    /// not vouch that it was never acknowledged.
    pub lost_tail: bool,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "STORE DAMAGED AND REPAIRED: {}", self.what.join("; "))?;
        if !self.done.is_empty() {
            write!(f, ". Done: {}", self.done.join("; "))?;
        }
        for path in &self.set_aside {
            write!(f, ". Kept for inspection: {}", path.display())?;
        }
        if self.lost_tail {
            f.write_str(". THE LAST COMMIT BEFORE THE DAMAGE MAY BE MISSING")?;
        } else {
            f.write_str(". No acknowledged write was lost")?;
        }
        Ok(())
    }
}

/// What a full check found.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// The last commit.
    pub revision: Revision,
    /// The version of the callers' data.
    pub schema: u32,
    /// What each durable tree holds.
    pub trees: Vec<TreeReport>,
    /// Records in the journals, and their bytes on disk.
    pub journal_records: u64,
    /// Bytes of the journals.
    pub journal_bytes: u64,
    /// Snapshots on disk.
    pub snapshots: u64,
    /// Bytes of the whole directory.
    pub size_on_disk_bytes: u64,
    /// Bytes of keys and values in it.
    pub live_bytes: u64,
    /// What is wrong, with the file; empty means sound.
    pub faults: Vec<String>,
    /// What could not be checked, and why.
    pub skipped: Vec<String>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// One tree, counted.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeReport {
    /// Which.
    pub tree: Tree,
    /// Its records.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// What compacting did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compaction {
    /// The database on disk before, in bytes.
    pub before_bytes: u64,
    /// And after.
    pub after_bytes: u64,
}
