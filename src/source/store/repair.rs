//! Opening a directory: compares what sled holds with what journal and snapshot say it must hold,
//! and mends what can be mended without guessing.
//!
//! | journal | sled | what happens |
//! |---|---|---|
//! | sound, or torn at its end | at the journal's last record | opens |
//! | sound, or torn at its end | one record behind | the record is applied: a crash between the two |
//! | cut short or gone | ahead, and sound by its own manifest | sled is kept, a new journal begins |
//! | sound, or torn at its end | anything else | sled is set aside and rebuilt |
//! | damaged before its end | sound, and at the journal's last record | sled is kept, a new journal begins |
//! | damaged before its end | anything else | refused; nothing is changed |

use std::path::Path;

use super::disk::{self, CHECK_DB, DB, NEW_DB};
use super::engine::{Change, Engine, OpenFault, Sled};
use super::error::StoreError;
use super::journal::{Entry, Journal, Scan};
use super::ledger::{self, Ledger};
use super::manifest::Manifest;
use super::{OpenReport, Options, Repair, Revision, Write, snapshot};

/// A backup on its way in; while it exists, opening finishes the restore.
pub(super) const RESTORING: &str = "restoring";

/// What sled writes while it opens a sound database: a table of its pages.
const OPEN_BYTES: u64 = 128 << 10;

/// A directory, opened.
pub(super) struct Opened {
    pub(super) engine: Engine,
    pub(super) manifest: Manifest,
    /// `None` when only reads work.
    pub(super) journal: Option<Journal>,
    pub(super) read_only: Option<StoreError>,
    pub(super) report: OpenReport,
}

/// Opens a locked directory.
pub(super) fn open(dir: &Path, options: &Options) -> Result<Opened, StoreError> {
    let tight = disk::available(dir).is_some_and(|free| free < disk::HEADROOM_BYTES);
    let freed = tight && disk::free_reserve(dir);
    let mut opened = match open_with_space(dir, options) {
        Err(StoreError::Full { .. }) if !freed && disk::free_reserve(dir) => {
            open_with_space(dir, options)
        }
        other => other,
    };
    if let Err(StoreError::Full { .. }) = opened {
        opened = open_read_only(dir, opened.err());
    }
    let mut opened = opened?;
    opened.report.disk_full |= tight;
    opened.report.revision = Revision(opened.manifest.revision);
    // Before the first commit there is nothing to lose: a crash while the store was being made.
    if opened.manifest.revision == 0 {
        opened.report.repaired = None;
    }
    if let Some(repair) = &opened.report.repaired {
        tracing::error!(path = %dir.display(), "{repair}");
    }
    Ok(opened)
}

/// Keeps sled away from a full disk: it fails there in ways that look like damage.
fn open_with_space(dir: &Path, options: &Options) -> Result<Opened, StoreError> {
    needs_space(dir, OPEN_BYTES)?;
    open_writable(dir, options)
}

fn needs_space(dir: &Path, needed: u64) -> Result<(), StoreError> {
    match disk::available(dir) {
        Some(available) if available < needed => Err(StoreError::Full {
            path: dir.to_owned(),
            available,
            needed,
        }),
        _ => Ok(()),
    }
}

fn open_writable(dir: &Path, options: &Options) -> Result<Opened, StoreError> {
    disk::clean_scratch(dir)?;
    if dir.join(RESTORING).is_file() {
        finish_restore(dir, options)?;
    }
    let ledger = Ledger::read(dir)?;
    let db = dir.join(DB);
    if ledger.is_empty() && !db.exists() {
        return create(dir, options);
    }
    let mut repair = Repair::default();
    let mut report = OpenReport::default();

    let line = ledger.scan.as_ref().and_then(Scan::head);
    let snap = ledger.snapshot.as_ref().and_then(|s| s.as_ref().ok());
    // The snapshot is ahead when the journal that followed it is gone or cut short.
    let journal_short = match (line, snap) {
        (None, _) => true,
        (Some(line), Some(snap)) => snap.revision > line.revision,
        (Some(_), None) => false,
    };
    let head = if journal_short { snap } else { line };
    if let Some(newest) = head.filter(|head| head.schema > options.schema) {
        return Err(StoreError::Newer {
            path: dir.to_owned(),
            what: "schema",
            found: newest.schema,
            supported: options.schema,
        });
    }
    let damage = ledger.scan.as_ref().and_then(|scan| scan.damage.as_ref());
    let middle = damage.filter(|damage| !damage.after.is_empty());
    let (Some(head), None) = (head, middle) else {
        return adopt_or_refuse(dir, options, &ledger);
    };
    if journal_short {
        repair.what.push(match damage {
            Some(damage) => format!("journal: byte {}: {}", damage.offset, damage.what),
            None => "journal: it is gone or shorter than it was".to_owned(),
        });
    }

    if ledger.snapshot.is_none() {
        repair.what.push("snapshot: it is gone".to_owned());
        repair.done.push("wrote a new snapshot".to_owned());
    }
    // Only a sound database can vouch that a damaged end of the journal was never acknowledged.
    let lost_tail = damage.is_some() || journal_short;

    let found = if db.exists() {
        Sled::examine(&db, options.cache_bytes)
    } else {
        Err(OpenFault::Damaged("it is gone".to_owned()))
    };
    let before = ledger.scan.as_ref().and_then(Scan::before_head);
    let (engine, manifest, adopted) = match found {
        Err(OpenFault::Outside(error)) => return Err(error),
        Ok((sled, own)) if own.is_at(head) => (Engine::Sled(sled), own, false),
        Ok((sled, own)) if own.revision > head.revision => {
            if !journal_short {
                repair.what.push(format!(
                    "journal: it ends at revision {}, the database is sound at {}",
                    head.revision, own.revision
                ));
            }
            (Engine::Sled(sled), own, true)
        }
        Ok((sled, own)) if !journal_short && before.is_some_and(|before| own.is_at(before)) => {
            let mut engine = Engine::Sled(sled);
            let last = ledger.scan.as_ref().and_then(|scan| {
                let entry = scan.entries.last()?;
                scan.writes(entry)
            });
            replay(&mut engine, last.unwrap_or_default(), head)?;
            report.replayed_records = 1;
            (engine, head.clone(), false)
        }
        Ok((sled, own)) => {
            drop(sled);
            let what = format!(
                "it went back to revision {}, and {} was acknowledged",
                own.revision, head.revision
            );
            (
                rebuild(dir, options, &ledger, head, &what, lost_tail, &mut repair)?,
                head.clone(),
                false,
            )
        }
        Err(OpenFault::Damaged(what)) => (
            rebuild(dir, options, &ledger, head, &what, lost_tail, &mut repair)?,
            head.clone(),
            false,
        ),
    };

    if let Some(Err(what)) = &ledger.snapshot {
        set_aside_snapshot(&ledger, what, options, &mut repair)?;
    }
    let scan = ledger.scan.as_ref().filter(|_| !journal_short && !adopted);
    let journal = if let Some(scan) = scan {
        let torn = scan.torn_bytes();
        report.torn_bytes = u64::try_from(torn).unwrap_or(u64::MAX);
        if repair.lost_tail {
            keep_copy(scan, options, &mut repair)?;
        }
        let len = u64::try_from(scan.good_len).unwrap_or(u64::MAX);
        let records = u64::try_from(scan.entries.len()).unwrap_or(u64::MAX);
        let journal = Journal::append_to(&scan.path, len, records)?;
        if matches!(ledger.snapshot, Some(Ok(_))) {
            journal
        } else if records == 0 {
            // The journal already starts here; only its snapshot is wanting.
            let path = snapshot::disk_name(dir, manifest.revision);
            snapshot::write(&path, &engine, &manifest)?;
            journal
        } else {
            ledger::begin(dir, &engine, &manifest)?
        }
    } else {
        set_aside_journal(&ledger, options, &mut repair)?;
        repair
            .done
            .push("began a new journal from the sound database".to_owned());
        ledger::begin(dir, &engine, &manifest)?
    };
    report.repaired = (!repair.what.is_empty()).then_some(repair);
    Ok(Opened {
        engine,
        manifest,
        journal: Some(journal),
        read_only: None,
        report,
    })
}

/// A store that was not there. The database first: without journal and snapshot, a database at
/// revision 0 reads as one that was just being made.
fn create(dir: &Path, options: &Options) -> Result<Opened, StoreError> {
    let manifest = Manifest::empty(options.schema);
    let empty = Engine::Memory(super::memory::Trees::default());
    let engine = Engine::Sled(build(dir, &empty, &manifest, options)?);
    let journal = ledger::begin(dir, &engine, &manifest)?;
    Ok(Opened {
        engine,
        manifest,
        journal: Some(journal),
        read_only: None,
        report: OpenReport {
            created: true,
            ..OpenReport::default()
        },
    })
}

/// Builds a database beside the place of the old one, moves it there and opens it.
pub(super) fn build(
    dir: &Path,
    source: &Engine,
    manifest: &Manifest,
    options: &Options,
) -> Result<Sled, StoreError> {
    let (new, db) = (dir.join(NEW_DB), dir.join(DB));
    Sled::build(&new, source, manifest, options.cache_bytes).map_err(full_if_full)?;
    disk::publish(&new, &db)?;
    let sled = Sled::open(&db, options.cache_bytes).map_err(|fault| fault.for_new(&db))?;
    let own = sled.manifest()?;
    if own.as_ref() != Some(manifest) {
        return Err(StoreError::Damaged {
            what: format!("{} does not read back after it was built", db.display()),
        });
    }
    Ok(sled)
}

/// While opening nothing is in doubt, so a failed write for lack of space is just that.
fn full_if_full(error: StoreError) -> StoreError {
    match error {
        StoreError::Unknown {
            source: Some(source),
            ..
        } if super::error::is_full(&source) => {
            StoreError::io("write", Path::new(DB), source.kind().into())
        }
        other => other,
    }
}

fn replay(engine: &mut Engine, writes: Vec<Write>, to: &Manifest) -> Result<(), StoreError> {
    let mut changes = Vec::with_capacity(writes.len());
    for write in writes {
        let old = engine.get(write.tree, &write.key)?;
        changes.push(Change {
            tree: write.tree,
            key: write.key,
            old_len: old.map(|old| old.len()),
            value: write.value,
        });
    }
    engine
        .apply(changes, Some(to))
        .and_then(|()| engine.persist())
        .map_err(full_if_full)?;
    let found = engine.sums()?;
    match to.sums.difference(&found) {
        None => Ok(()),
        Some(difference) => Err(StoreError::Damaged {
            what: format!("after replaying the last journal record: {difference}"),
        }),
    }
}

/// Sets the database aside and makes a new one from snapshot and journal.
fn rebuild(
    dir: &Path,
    options: &Options,
    ledger: &Ledger,
    head: &Manifest,
    what: &str,
    lost_tail: bool,
    repair: &mut Repair,
) -> Result<Engine, StoreError> {
    let db = dir.join(DB);
    // Loaded first: when it cannot be, nothing has been changed.
    let trees = ledger.load(head)?.map_err(|why| StoreError::Unrepairable {
        path: db.clone(),
        what: format!("{what}; and it cannot be rebuilt: {why}"),
    })?;
    // Nothing is moved unless there is room for what takes its place.
    let size = head.sums.bytes().saturating_mul(2);
    needs_space(dir, size.saturating_add(disk::HEADROOM_BYTES))?;
    if db.exists() {
        repair.set_aside.push(disk::set_aside(&db, &options.wall)?);
    }
    repair.what.push(format!("database: {what}"));
    repair.lost_tail = lost_tail;
    let sled = build(dir, &Engine::Memory(trees), head, options)?;
    repair.done.push(format!(
        "rebuilt the database with {} records at revision {} from snapshot and journal",
        head.sums.records(),
        head.revision
    ));
    Ok(Engine::Sled(sled))
}

/// The journal is damaged before its end, or nothing says what the store must hold. sled may still
/// be sound: looked at as a copy, so that a refusal has changed nothing.
fn adopt_or_refuse(dir: &Path, options: &Options, ledger: &Ledger) -> Result<Opened, StoreError> {
    let (db, check) = (dir.join(DB), dir.join(CHECK_DB));
    let (path, fault, after) = match &ledger.scan {
        Some(scan) => {
            let damage = scan.damage.clone();
            let fault = damage.as_ref().map_or_else(
                || "the journal ends too early".to_owned(),
                |damage| format!("byte {}: {}", damage.offset, damage.what),
            );
            let after = damage.map_or_else(Vec::new, |damage| damage.after);
            (scan.path.clone(), fault, after)
        }
        None => (
            dir.to_owned(),
            "journal and snapshot are gone".to_owned(),
            Vec::new(),
        ),
    };
    let refuse = |why: &str| StoreError::Unrepairable {
        path: path.clone(),
        what: format!("{fault}; and the database cannot stand in for it: {why}"),
    };
    if !db.exists() {
        return Err(refuse("it is gone"));
    }
    disk::copy_dir(&db, &check)?;
    let looked = Sled::examine(&check, options.cache_bytes).map(|(_, own)| own);
    disk::remove(&check, true)?;
    let own = match looked {
        Ok(own) => own,
        Err(OpenFault::Outside(error)) => return Err(error),
        Err(OpenFault::Damaged(what)) => return Err(refuse(&what)),
    };
    if !follows_to_end(&own, &after) {
        return Err(refuse(&format!(
            "it is at revision {}, and the journal's last good record is {}",
            own.revision,
            after.last().map_or(0, |last| last.manifest.revision)
        )));
    }
    let snapshot_ahead = ledger.snapshot.as_ref().and_then(|s| s.as_ref().ok());
    if snapshot_ahead.is_some_and(|snap| snap.revision > own.revision) {
        return Err(refuse("the snapshot is newer"));
    }
    if own.schema > options.schema {
        return Err(StoreError::Newer {
            path: dir.to_owned(),
            what: "schema",
            found: own.schema,
            supported: options.schema,
        });
    }

    let (sled, own) = Sled::examine(&db, options.cache_bytes).map_err(|f| f.for_new(&db))?;
    let mut engine = Engine::Sled(sled);
    let mut manifest = own;
    let behind: Vec<&Entry> = after
        .iter()
        .skip_while(|entry| entry.prev != manifest.chain)
        .collect();
    for entry in behind {
        let writes = ledger.scan.as_ref().and_then(|scan| scan.writes(entry));
        replay(&mut engine, writes.unwrap_or_default(), &entry.manifest)?;
        manifest = entry.manifest.clone();
    }
    let mut repair = Repair::default();
    repair.what.push(format!("{}: {fault}", path.display()));
    if let Some(Err(what)) = &ledger.snapshot {
        set_aside_snapshot(ledger, what, options, &mut repair)?;
    }
    set_aside_journal(ledger, options, &mut repair)?;
    let journal = ledger::begin(dir, &engine, &manifest)?;
    repair
        .done
        .push("began a new journal from the sound database".to_owned());
    Ok(Opened {
        engine,
        manifest,
        journal: Some(journal),
        read_only: None,
        report: OpenReport {
            repaired: Some(repair),
            ..OpenReport::default()
        },
    })
}

/// Whether the records behind the damage continue from `own` without a gap, or end in it.
fn follows_to_end(own: &Manifest, after: &[Entry]) -> bool {
    let Some(last) = after.last() else {
        return true;
    };
    if last.manifest.is_at(own) {
        return true;
    }
    let mut chain = own.chain;
    let rest = after.iter().skip_while(|entry| entry.prev != own.chain);
    for entry in rest {
        if entry.prev != chain {
            return false;
        }
        chain = entry.manifest.chain;
    }
    chain == last.manifest.chain
}

fn set_aside_snapshot(
    ledger: &Ledger,
    what: &str,
    options: &Options,
    repair: &mut Repair,
) -> Result<(), StoreError> {
    if let Some(path) = ledger.newest_snapshot() {
        repair.what.push(format!("{}: {what}", path.display()));
        repair.set_aside.push(disk::set_aside(path, &options.wall)?);
        repair.done.push("wrote a new snapshot".to_owned());
    }
    Ok(())
}

fn set_aside_journal(
    ledger: &Ledger,
    options: &Options,
    repair: &mut Repair,
) -> Result<(), StoreError> {
    if let Some(scan) = ledger.scan.as_ref().filter(|scan| scan.path.exists()) {
        repair
            .set_aside
            .push(disk::set_aside(&scan.path, &options.wall)?);
    }
    Ok(())
}

/// Keeps a journal whose end may have held a commit, before the end is cut off.
fn keep_copy(scan: &Scan, options: &Options, repair: &mut Repair) -> Result<(), StoreError> {
    let copy = scan.path.with_extension("copy.tmp");
    std::fs::copy(&scan.path, &copy)
        .and_then(|_| std::fs::File::open(&copy)?.sync_all())
        .map_err(|e| StoreError::io("copy", &scan.path, e))?;
    let aside = disk::set_aside(&scan.path, &options.wall)?;
    disk::publish(&copy, &scan.path)?;
    repair.set_aside.push(aside);
    Ok(())
}

/// What a full disk still allows: everything acknowledged, read from snapshot and journal.
fn open_read_only(dir: &Path, why: Option<StoreError>) -> Result<Opened, StoreError> {
    let ledger = Ledger::read(dir)?;
    let line = ledger.scan.as_ref().and_then(Scan::head);
    let snap = ledger.snapshot.as_ref().and_then(|s| s.as_ref().ok());
    let head = [line, snap]
        .into_iter()
        .flatten()
        .max_by_key(|m| m.revision);
    let why = why.unwrap_or(StoreError::Full {
        path: dir.to_owned(),
        available: 0,
        needed: disk::HEADROOM_BYTES,
    });
    let Some(head) = head else {
        return Err(why);
    };
    let trees = ledger
        .load(head)?
        .map_err(|what| StoreError::Unrepairable {
            path: dir.to_owned(),
            what: format!("{what}; and the disk is full"),
        })?;
    Ok(Opened {
        engine: Engine::Memory(trees),
        manifest: head.clone(),
        journal: None,
        report: OpenReport {
            disk_full: true,
            read_only: Some(why.to_string()),
            ..OpenReport::default()
        },
        read_only: Some(why),
    })
}

/// Puts a backup in place of everything. Interrupted, it is done again from the start.
fn finish_restore(dir: &Path, options: &Options) -> Result<(), StoreError> {
    let backup = dir.join(RESTORING);
    let mut trees = super::memory::Trees::default();
    let manifest = snapshot::read(&backup, |tree, key, value| {
        trees.set(tree, key, Some(value));
    })?;
    for path in ledger::files(dir)?.into_iter().chain([dir.join(DB)]) {
        if path.exists() {
            disk::set_aside_as(&path, "before-restore", &options.wall)?;
        }
    }
    drop(build(dir, &Engine::Memory(trees), &manifest, options)?);
    drop(Journal::create(dir, &manifest)?);
    disk::publish(&backup, &snapshot::disk_name(dir, manifest.revision))
}
