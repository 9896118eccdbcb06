//! Snapshots and journals taken together: what the store must contain, said outside sled.
//!
//! Two generations are kept, so one damaged snapshot loses nothing: the one before it, its journal
//! and the current journal lead to the same point.

use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::journal::{self, Scan};
use super::manifest::Manifest;
use super::memory::Trees;
use super::{Tree, disk, snapshot};

/// The snapshots and journals of a directory.
pub(super) struct Ledger {
    /// By revision, oldest first.
    snapshots: Vec<(u64, PathBuf)>,
    journals: Vec<(u64, PathBuf)>,
    /// The newest snapshot: what it is of, or what is wrong with it.
    pub(super) snapshot: Option<Result<Manifest, String>>,
    /// The newest journal.
    pub(super) scan: Option<Scan>,
}

impl Ledger {
    /// Reads the newest snapshot and journal; changes nothing.
    pub(super) fn read(dir: &Path) -> Result<Self, StoreError> {
        let (snapshots, journals) = (list(dir, "snapshot.")?, list(dir, "journal.")?);
        let snapshot = match snapshots.last() {
            Some((_, path)) => Some(sound(path)?),
            None => None,
        };
        let scan = match journals.last() {
            Some((_, path)) => Some(Scan::read(path)?),
            None => None,
        };
        Ok(Self {
            snapshots,
            journals,
            snapshot,
            scan,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.journals.is_empty()
    }

    pub(super) fn newest_snapshot(&self) -> Option<&Path> {
        self.snapshots.last().map(|(_, path)| path.as_path())
    }

    /// The content at `head`, from the newest snapshot that is sound and the journals behind it.
    /// The inner error says for people why there is none.
    pub(super) fn load(&self, head: &Manifest) -> Result<Result<Trees, String>, StoreError> {
        let mut faults = Vec::new();
        for (revision, path) in self.snapshots.iter().rev() {
            if *revision > head.revision {
                continue;
            }
            let mut trees = Trees::default();
            let read = snapshot::read(path, |tree, key, value| trees.set(tree, key, Some(value)));
            let from = match read {
                Ok(from) => from,
                Err(StoreError::BadBackup { what, .. }) => {
                    faults.push(format!("{}: {what}", path.display()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let reached = self.follow(&mut trees, from, head)?;
            if !reached.is_at(head) {
                faults.push(format!(
                    "{}: the journals lead from it to revision {}, not to {}",
                    path.display(),
                    reached.revision,
                    head.revision
                ));
            } else if let Some(difference) = head.sums.difference(&trees.sums()) {
                faults.push(format!("{}: replayed, {difference}", path.display()));
            } else {
                return Ok(Ok(trees));
            }
        }
        if faults.is_empty() {
            faults.push("there is no snapshot".to_owned());
        }
        Ok(Err(faults.join("; ")))
    }

    /// Replays journal records that follow from `at`, as far as `head`.
    fn follow(
        &self,
        trees: &mut Trees,
        mut at: Manifest,
        head: &Manifest,
    ) -> Result<Manifest, StoreError> {
        for (_, path) in &self.journals {
            if at.is_at(head) {
                break;
            }
            let scan = Scan::read(path)?;
            for entry in &scan.entries {
                if at.is_at(head) || entry.prev != at.chain {
                    continue;
                }
                for write in scan.writes(entry).into_iter().flatten() {
                    trees.set(write.tree, write.key, write.value);
                }
                at = entry.manifest.clone();
            }
        }
        Ok(at)
    }

    /// Checks every file, and counts into the report.
    pub(super) fn verify(dir: &Path, report: &mut super::VerifyReport) -> Result<(), StoreError> {
        for (_, path) in list(dir, "snapshot.")? {
            report.snapshots += 1;
            if let Err(what) = sound(&path)? {
                report.faults.push(format!("{}: {what}", path.display()));
            }
        }
        for (_, path) in list(dir, "journal.")? {
            let scan = Scan::read(&path)?;
            report.journal_records += u64::try_from(scan.entries.len()).unwrap_or(u64::MAX);
            let bytes = scan.good_len + scan.torn_bytes();
            report.journal_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
            if let Some(damage) = scan.damage {
                let (path, at) = (path.display(), damage.offset);
                report
                    .faults
                    .push(format!("{path}: byte {at}: {}", damage.what));
            }
        }
        Ok(())
    }
}

fn sound(path: &Path) -> Result<Result<Manifest, String>, StoreError> {
    match snapshot::check(path) {
        Ok(manifest) => Ok(Ok(manifest)),
        Err(StoreError::BadBackup { what, .. }) => Ok(Err(what)),
        Err(error) => Err(error),
    }
}

/// Every snapshot and journal, sound or not.
pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let both = [list(dir, "snapshot.")?, list(dir, "journal.")?].concat();
    Ok(both.into_iter().map(|(_, path)| path).collect())
}

/// Removes what is older than the last two snapshots.
pub(super) fn prune(dir: &Path) -> Result<(), StoreError> {
    let (snapshots, journals) = (list(dir, "snapshot.")?, list(dir, "journal.")?);
    let Some((oldest, _)) = snapshots.iter().rev().nth(1) else {
        return Ok(());
    };
    // A snapshot taken as the last thing before a crash may lie inside an older journal.
    let first = journals
        .iter()
        .map(|(revision, _)| *revision)
        .rfind(|revision| revision <= oldest)
        .unwrap_or(0);
    let old_snapshots = snapshots.iter().filter(|(revision, _)| revision < oldest);
    let old_journals = journals.iter().filter(|(revision, _)| *revision < first);
    for (_, path) in old_snapshots.chain(old_journals) {
        disk::remove(path, false)?;
    }
    Ok(())
}

/// Files named `PREFIX` and a revision, oldest first; what was set aside has another name.
fn list(dir: &Path, prefix: &str) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut found: Vec<(u64, PathBuf)> = disk::entries(dir)?
        .into_iter()
        .filter_map(|(path, _)| {
            let revision = path.file_name()?.to_str()?.strip_prefix(prefix)?;
            Some((revision.parse().ok()?, path))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// The files for the point that `manifest` describes are missing: makes them from the engine.
/// A journal that starts at the same revision must have been set aside before.
pub(super) fn begin(
    dir: &Path,
    engine: &super::engine::Engine,
    manifest: &Manifest,
) -> Result<journal::Journal, StoreError> {
    snapshot::write(
        &snapshot::disk_name(dir, manifest.revision),
        engine,
        manifest,
    )?;
    journal::Journal::create(dir, manifest)
}

/// The durable trees, counted.
pub(super) fn tree_reports(manifest: &Manifest) -> Vec<super::TreeReport> {
    Tree::DURABLE
        .into_iter()
        .map(|tree| {
            let sum = manifest.sums.of(tree);
            super::TreeReport {
                tree,
                records: sum.records,
                bytes: sum.bytes,
            }
        })
        .collect()
}
