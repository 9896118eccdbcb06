//! Flipped bytes, cut files and lost files: what opening makes of them.

use super::*;

#[test]
fn a_flipped_byte_in_the_database_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let all = filled(dir.path());
    let mut places = Vec::new();
    for (path, bytes) in files(&dir.path().join("db")) {
        // Only bytes that hold something, spread over the file.
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let count = if path.ends_with("db/db") { 16 } else { 3 };
        let name = path.strip_prefix(dir.path()).unwrap().to_owned();
        places.extend((0..count).map(|n| (name.clone(), used[used.len() * n / count])));
    }
    let mut repaired = 0;
    for (file, at) in places {
        let hurt = copy(dir.path());
        flip(&hurt.path().join(&file), at);
        let (store, report) = open(hurt.path());
        assert_eq!(content(&store), all, "{} {at}: {report:?}", file.display());
        if let Some(repair) = report.repaired {
            repaired += 1;
            assert!(
                !repair.lost_tail && set_aside(hurt.path(), "db"),
                "{repair}"
            );
            assert!(
                repair
                    .to_string()
                    .contains("No acknowledged write was lost"),
                "{repair}"
            );
        }
        assert!(store.verify().unwrap().is_sound());
        drop(store);
        let (_, report) = open(hurt.path());
        assert!(report.repaired.is_none(), "mended for good: {report:?}");
    }
    assert!(repaired > 5, "only {repaired} flips were noticed");
}

#[test]
fn a_database_that_lost_or_changed_a_record_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let all = filled(dir.path());
    for loss in [
        "a record",
        "a value",
        "a part of a long value",
        "the manifest",
    ] {
        let hurt = copy(dir.path());
        let db = sled::open(hurt.path().join("db")).unwrap();
        let tree = |name: &str| db.open_tree(name).unwrap();
        let found = match loss {
            "a record" => tree("identity").remove("key-007-2").unwrap(),
            "a value" => tree("registry")
                .insert("key-007-1", &b"\x01other"[..])
                .unwrap(),
            "a part of a long value" => tree("_chunks").pop_max().unwrap().map(|(_, part)| part),
            _ => tree("_store").remove("manifest").unwrap(),
        };
        assert!(found.is_some(), "{loss}");
        drop(db);
        let (store, report) = open(hurt.path());
        assert_eq!(content(&store), all, "{loss}");
        let repair = report.repaired.expect("reported");
        assert!(
            set_aside(hurt.path(), "db") && !repair.lost_tail,
            "{loss}: {repair}"
        );
    }
}

#[test]
fn a_truncated_or_deleted_database_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let all = filled(dir.path());
    let len = fs::metadata(dir.path().join("db/db")).unwrap().len();
    for part in [0, 1, 3, 6, 9] {
        let hurt = copy(dir.path());
        let db = hurt.path().join("db/db");
        fs::OpenOptions::new()
            .write(true)
            .open(db)
            .unwrap()
            .set_len(len * part / 10)
            .unwrap();
        let (store, report) = open(hurt.path());
        assert_eq!(content(&store), all, "{part}/10: {report:?}");
        if part < 6 {
            assert!(
                report.repaired.is_some() && set_aside(hurt.path(), "db"),
                "{part}/10"
            );
        }
    }
    for gone in ["db", "db/db", "db/conf"] {
        let hurt = copy(dir.path());
        let path = hurt.path().join(gone);
        disk::remove(&path, path.is_dir()).unwrap();
        let (store, report) = open(hurt.path());
        assert_eq!(content(&store), all, "without {gone}: {report:?}");
        if gone != "db/conf" {
            assert!(report.repaired.is_some(), "without {gone}");
        }
    }
}

#[test]
fn an_older_database_is_noticed_and_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put(&store, Tree::Meta, "1", "a");
    drop(store);
    let old = copy(&dir.path().join("db"));
    for (commits, repaired) in [(1, false), (2, true)] {
        let now = copy(dir.path());
        let (store, _) = open(now.path());
        for n in 0..commits {
            put(&store, Tree::Events, &format!("later {n}"), "b");
        }
        let all = content(&store);
        drop(store);
        // As after a power cut in which sled's file lost what it had not fsynced.
        fs::remove_dir_all(now.path().join("db")).unwrap();
        disk::copy_dir(old.path(), &now.path().join("db")).unwrap();
        let (store, report) = open(now.path());
        assert_eq!(content(&store), all, "{report:?}");
        assert_eq!(report.repaired.is_some(), repaired, "{report:?}");
        assert_eq!(report.replayed_records, u64::from(!repaired));
    }
}

#[test]
fn a_journal_damaged_in_the_middle_is_replaced_while_the_database_vouches() {
    let dir = tempfile::tempdir().unwrap();
    let all = filled(dir.path());
    let len = fs::metadata(newest(dir.path(), "journal.")).unwrap().len();
    for at in [3, 100, 700, usize::try_from(len / 2).unwrap()] {
        let hurt = copy(dir.path());
        flip(&newest(hurt.path(), "journal."), at);
        let (store, report) = open(hurt.path());
        assert_eq!(content(&store), all);
        let repair = report.repaired.expect("the damage is reported");
        assert!(
            !repair.lost_tail && set_aside(hurt.path(), "journal."),
            "{repair}"
        );
        put(&store, Tree::Meta, "more", "after");
        drop(store);
        let (store, report) = open(hurt.path());
        assert!(report.repaired.is_none(), "{report:?}");
        assert!(store.verify().unwrap().is_sound());
    }
}

#[test]
fn a_journal_damaged_in_the_middle_without_a_sound_database_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    flip(&newest(dir.path(), "journal."), 700);
    for ruin in ["gone", "flipped"] {
        let hurt = copy(dir.path());
        let db = hurt.path().join("db");
        if ruin == "gone" {
            fs::remove_dir_all(&db).unwrap();
        } else {
            let len = fs::metadata(db.join("db")).unwrap().len();
            fs::OpenOptions::new()
                .write(true)
                .open(db.join("db"))
                .unwrap()
                .set_len(len / 10)
                .unwrap();
        }
        let before = files(hurt.path());
        let error = Store::open(hurt.path(), &options()).unwrap_err();
        assert!(matches!(&error, StoreError::Unrepairable { .. }), "{error}");
        assert!(
            error.to_string().contains("byte ") && error.hint().is_some(),
            "{error}"
        );
        assert_eq!(
            files(hurt.path()),
            before,
            "{ruin}: a refusal changes nothing"
        );
    }
}

#[test]
fn the_end_of_the_journal_is_told_from_a_torn_record() {
    let dir = tempfile::tempdir().unwrap();
    let all = filled(dir.path());
    let journal = newest(dir.path(), "journal.");
    let whole = fs::read(&journal).unwrap();

    // A crash while appending: never acknowledged, so dropped with a word.
    let torn = copy(dir.path());
    fs::write(
        newest(torn.path(), "journal."),
        [&whole[..], b"\x8fMeshRec half a record"].concat(),
    )
    .unwrap();
    let (store, report) = open(torn.path());
    assert_eq!(content(&store), all);
    assert!(
        report.repaired.is_none() && report.torn_bytes > 0,
        "{report:?}"
    );
    drop(store);
    assert_eq!(open(torn.path()).1.torn_bytes, 0);

    // The last acknowledged record is hurt, cut off, or the journal is gone: sled has it.
    for cut in [whole.len() - 5, whole.len() - 400, 10, 0] {
        let hurt = copy(dir.path());
        let journal = newest(hurt.path(), "journal.");
        if cut == 0 {
            fs::remove_file(&journal).unwrap();
        } else {
            fs::write(&journal, &whole[..cut]).unwrap();
        }
        let (store, report) = open(hurt.path());
        assert_eq!(content(&store), all, "cut at {cut}: {report:?}");
        let repair = report.repaired.expect("reported");
        assert!(!repair.lost_tail, "cut at {cut}: {repair}");
    }

    // And when sled is gone too, what is left is served and the doubt is said.
    let hurt = copy(dir.path());
    fs::write(newest(hurt.path(), "journal."), &whole[..whole.len() - 5]).unwrap();
    fs::remove_dir_all(hurt.path().join("db")).unwrap();
    let (store, report) = open(hurt.path());
    let repair = report.repaired.expect("reported");
    assert!(
        repair.lost_tail && set_aside(hurt.path(), "journal."),
        "{repair}"
    );
    assert_eq!(store.revision(), Revision(59));
    assert!(repair.to_string().contains("MAY BE MISSING"), "{repair}");
}

#[test]
fn a_damaged_snapshot_is_replaced_and_the_one_before_it_suffices() {
    let dir = tempfile::tempdir().unwrap();
    let all = filled(dir.path());
    let len =
        usize::try_from(fs::metadata(newest(dir.path(), "snapshot.")).unwrap().len()).unwrap();
    for at in [0, 40, len / 2, len - 1] {
        for db in ["kept", "gone"] {
            let hurt = copy(dir.path());
            flip(&newest(hurt.path(), "snapshot."), at);
            if db == "gone" {
                fs::remove_dir_all(hurt.path().join("db")).unwrap();
            }
            let (store, report) = open(hurt.path());
            assert_eq!(content(&store), all, "byte {at}, database {db}");
            let repair = report.repaired.expect("reported");
            assert!(
                set_aside(hurt.path(), "snapshot.") && !repair.lost_tail,
                "{repair}"
            );
            drop(store);
            let (store, report) = open(hurt.path());
            assert!(report.repaired.is_none(), "{report:?}");
            assert!(store.verify().unwrap().is_sound());
        }
    }
}

#[test]
fn verify_finds_what_happened_to_files_under_an_open_store() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let (store, _) = open(dir.path());
    let report = store.verify().unwrap();
    assert!(report.is_sound() && report.skipped.is_empty(), "{report:?}");
    assert_eq!(
        report.trees.iter().map(|tree| tree.records).sum::<u64>(),
        301
    );
    flip(&newest(dir.path(), "snapshot."), 200);
    let faults = store.verify().unwrap().faults;
    assert!(
        faults.len() == 1 && faults[0].contains("snapshot."),
        "{faults:?}"
    );
    let len = fs::metadata(dir.path().join("db/db")).unwrap().len();
    fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join("db/db"))
        .unwrap()
        .set_len(len / 10)
        .unwrap();
    let faults = store.verify().unwrap().faults;
    assert!(
        faults
            .iter()
            .any(|fault| fault.contains("database on disk")),
        "{faults:?}"
    );
}

#[test]
fn a_newer_file_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let path = newest(dir.path(), "snapshot.");
    let mut bytes = fs::read(&path).unwrap();
    bytes[16] = 9;
    let end = bytes.len() - 32;
    let hash = coding::sha256(&[&bytes[..end]]);
    bytes.truncate(end);
    bytes.extend_from_slice(&hash);
    fs::write(&path, bytes).unwrap();
    let before = files(dir.path());
    let error = Store::open(dir.path(), &options()).unwrap_err();
    assert!(
        matches!(error, StoreError::Newer { found: 9, .. }),
        "{error}"
    );
    assert_eq!(files(dir.path()), before);
}
