//! Damage, repair, migration and the model. What needs processes and mounts is in `tests/it/store.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

mod damage;

fn options() -> Options {
    Options {
        wall: Wall::fixed(1_700_000_000_000),
        reserve_bytes: 64 << 10,
        ..Options::default()
    }
}

fn put(store: &Store, tree: Tree, key: &str, value: impl Into<Vec<u8>>) -> Revision {
    let mut batch = Batch::new();
    batch.put(tree, key, value);
    store.commit(batch).unwrap()
}

fn open(dir: &Path) -> (Store, OpenReport) {
    Store::open(dir, &options()).unwrap()
}

/// 300 records over the durable trees, a long value among them, and a snapshot in the middle.
fn filled(dir: &Path) -> BTreeMap<(Tree, Vec<u8>), Vec<u8>> {
    let (store, report) = open(dir);
    assert!(report.created && report.repaired.is_none(), "{report:?}");
    for i in 0..60_u32 {
        let mut batch = Batch::new();
        for (j, tree) in Tree::DURABLE.into_iter().enumerate().take(5) {
            batch.put(
                tree,
                format!("key-{i:03}-{j}"),
                format!("value {i} {j} {}", "x".repeat(1500)),
            );
        }
        if i == 40 {
            batch.put(Tree::Resources, "long", vec![7; 200_000]);
        }
        store.commit(batch).unwrap();
        if i == 20 || i == 30 {
            store.snapshot().unwrap();
        }
    }
    content(&store)
}

fn content(store: &Store) -> BTreeMap<(Tree, Vec<u8>), Vec<u8>> {
    Tree::DURABLE
        .into_iter()
        .flat_map(|tree| store.iter(tree).map(move |record| (tree, record.unwrap())))
        .map(|(tree, (key, value))| ((tree, key), value))
        .collect()
}

fn newest(dir: &Path, prefix: &str) -> PathBuf {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.parse::<u64>().is_ok())
        })
        .collect();
    found.sort();
    found.pop().unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    fs::write(path, bytes).unwrap();
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    disk::copy_dir(from, to.path()).unwrap();
    to
}

/// Every file below a directory; the lock file names a process, so it may change.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for (path, meta) in disk::entries(dir).unwrap() {
        if meta.is_dir() {
            all.extend(files(&path));
        } else if !path.ends_with("LOCK") {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

fn set_aside(dir: &Path, prefix: &str) -> bool {
    disk::entries(dir).unwrap().iter().any(|(path, _)| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(prefix) && name.contains(".corrupt-1700000000")
    })
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(usize, u8, Option<usize>)>),
    Reopen,
    Snapshot,
    Compact,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![
        8 => 0..300_usize,
        1 => engine::CHUNK_BYTES - 1..engine::CHUNK_BYTES + 2,
        1 => 100_000..200_000_usize,
    ];
    let write = (0..7_usize, 0..12_u8, prop::option::weighted(0.7, len));
    let step = prop_oneof![
        12 => prop::collection::vec(write, 1..6).prop_map(Step::Commit),
        2 => Just(Step::Reopen),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Compact),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_that_survives_reopening(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { journal_max_records: 5, ..options() };
        let (mut store, _) = Store::open(dir.path(), &options).unwrap();
        let memory = Store::memory();
        let mut model = BTreeMap::new();
        let mut revision = 0;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Commit(writes) => {
                    let mut batch = Batch::new();
                    for (tree, key, len) in writes {
                        let tree = Tree::DURABLE[tree];
                        let key = vec![key];
                        if let Some(len) = len {
                            let value = vec![u8::try_from(number % 251).unwrap(); len];
                            batch.put(tree, key.clone(), value.clone());
                            model.insert((tree, key), value);
                        } else {
                            batch.remove(tree, key.clone());
                            model.remove(&(tree, key));
                        }
                    }
                    revision += 1;
                    prop_assert_eq!(memory.commit(batch.clone()).unwrap(), Revision(revision));
                    prop_assert_eq!(store.commit(batch).unwrap(), Revision(revision));
                }
                Step::Reopen => {
                    drop(store);
                    let (again, report) = Store::open(dir.path(), &options).unwrap();
                    prop_assert!(report.repaired.is_none() && report.replayed_records == 0, "{:?}", report);
                    prop_assert_eq!(report.revision, Revision(revision));
                    store = again;
                }
                Step::Snapshot => store.snapshot().unwrap(),
                Step::Compact => { store.compact_now().unwrap(); }
            }
            prop_assert_eq!(&content(&store), &model);
            prop_assert_eq!(&content(&memory), &model);
        }
        let report = store.verify().unwrap();
        prop_assert!(report.is_sound() && report.skipped.is_empty(), "{:?}", report);
    }
}

#[test]
fn one_process_owns_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let error = Store::open(dir.path(), &options()).unwrap_err();
    assert!(
        matches!(error, StoreError::Locked { holder: Some(pid), .. } if pid == std::process::id())
    );
    assert!(
        error.to_string().contains(dir.path().to_str().unwrap()),
        "{error}"
    );
    assert!(error.hint().is_some());
    drop(store);
    open(dir.path());
}

#[test]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    fn check(dir: &Path) {
        for (path, meta) in disk::entries(dir).unwrap() {
            let mode = meta.permissions().mode() & 0o777;
            if meta.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
                check(&path);
            } else {
                assert_eq!(mode, 0o600, "{}", path.display());
            }
        }
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/store");
    filled(&dir);
    let (_store, _) = open(&dir);
    check(parent.path());
}

#[test]
fn schemas_migrate_forward_and_never_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put(&store, Tree::Resources, "a", "1");
    drop(store);
    let step = Migration {
        from: 1,
        run: |store| {
            let mut batch = Batch::new();
            for record in store.iter(Tree::Resources) {
                let (key, value) = record?;
                batch.put(Tree::Resources, key, [b"v2:", &value[..]].concat());
            }
            Ok(batch)
        },
    };
    let two = Options {
        schema: 2,
        ..options()
    };
    let error = Store::open(dir.path(), &two).unwrap_err();
    assert!(
        matches!(error, StoreError::NoMigration { from: 1, wanted: 2 }),
        "{error}"
    );
    let with_step = Options {
        migrations: vec![step],
        ..two
    };
    let (store, report) = Store::open(dir.path(), &with_step).unwrap();
    assert_eq!((report.migrated_from, store.schema()), (Some(1), 2));
    assert_eq!(store.get(Tree::Resources, b"a").unwrap().unwrap(), b"v2:1");
    drop(store);
    let error = Store::open(dir.path(), &options()).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Newer {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    // The way back is the backup that the migration wrote.
    let backup = dir.path().join("before-schema-2.backup");
    let (store, _) = Store::restore(dir.path(), &backup, &options()).unwrap();
    assert_eq!(store.get(Tree::Resources, b"a").unwrap().unwrap(), b"1");
}

#[test]
fn a_backup_restores_over_anything_and_keeps_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let all = filled(dir.path());
    let backup = dir.path().join("my.backup");
    let (store, _) = open(dir.path());
    assert_eq!(store.backup(&backup).unwrap(), Revision(60));
    put(&store, Tree::Meta, "later", "x");
    drop(store);
    flip(&newest(dir.path(), "journal."), 700);
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    let (store, report) = Store::restore(dir.path(), &backup, &options()).unwrap();
    assert!(report.repaired.is_none(), "{report:?}");
    assert_eq!(content(&store), all);
    put(&store, Tree::Meta, "after", "x");
    assert!(store.verify().unwrap().is_sound());
    drop(store);
    let kept = disk::entries(dir.path()).unwrap();
    assert!(
        kept.iter()
            .any(|(path, _)| path.to_str().unwrap().contains(".before-restore-"))
    );

    let before = files(dir.path());
    let len = usize::try_from(fs::metadata(&backup).unwrap().len()).unwrap();
    flip(&backup, len / 2);
    let error = Store::restore(dir.path(), &backup, &options()).unwrap_err();
    assert!(matches!(error, StoreError::BadBackup { .. }), "{error}");
    flip(&backup, len / 2);
    assert_eq!(files(dir.path()), before, "a bad backup changes nothing");

    // Interrupted after the backup is in place: opening finishes it.
    fs::copy(&backup, dir.path().join(repair::RESTORING)).unwrap();
    let (store, report) = open(dir.path());
    assert_eq!(content(&store), all, "{report:?}");
}

#[test]
fn concurrent_commits_share_an_fsync() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let store = store.clone();
            scope.spawn(move || {
                for n in 0..20 {
                    put(&store, Tree::Registry, &format!("{thread}/{n}"), "x");
                }
            });
        }
    });
    let report = store.verify().unwrap();
    assert_eq!(report.revision, Revision(320));
    assert_eq!(content(&store).len(), 320);
    assert!(
        report.journal_records < 250,
        "{} records for 320 commits",
        report.journal_records
    );
}

#[tokio::test]
async fn async_commits_wait_for_room_and_answer_in_any_number() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let commits = (0..2000_u32).map(|n| {
        let store = store.clone();
        async move {
            let mut batch = Batch::new();
            batch.put(Tree::Registry, n.to_be_bytes(), "x");
            store.commit_async(batch).await.unwrap()
        }
    });
    let mut revisions = futures_util::future::join_all(commits).await;
    revisions.sort();
    revisions.dedup();
    assert_eq!(
        revisions.len(),
        2000,
        "every commit has a revision of its own"
    );
    assert_eq!(store.scan(Tree::Registry, b"").unwrap().len(), 2000);
}

#[test]
fn limits_are_typed_errors_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for store in [Store::memory(), open(dir.path()).0] {
        let one = |tree, key: Vec<u8>, value: Vec<u8>| {
            let mut batch = Batch::new();
            batch.put(tree, key, value);
            store.commit(batch)
        };
        for (key, value) in [(MAX_KEY_BYTES + 1, 1), (1, MAX_VALUE_BYTES + 1)] {
            let error = one(Tree::Meta, vec![1; key], vec![1; value]).unwrap_err();
            assert!(
                matches!(error, StoreError::TooLarge { .. }) && error.is_rejection(),
                "{error}"
            );
        }
        let error = one(Tree::Series, vec![1], vec![1]).unwrap_err();
        assert!(matches!(error, StoreError::NotDurable));
        one(Tree::Meta, vec![1; MAX_KEY_BYTES], vec![1; MAX_VALUE_BYTES]).unwrap();
        assert_eq!(
            store
                .get(Tree::Meta, &[1; MAX_KEY_BYTES])
                .unwrap()
                .unwrap()
                .len(),
            MAX_VALUE_BYTES
        );
        assert_eq!(
            store.commit(Batch::new()).unwrap(),
            Revision(1),
            "nothing to do"
        );
    }
}

#[test]
fn pages_and_prefixes_are_in_key_order() {
    let dir = tempfile::tempdir().unwrap();
    for store in [Store::memory(), open(dir.path()).0] {
        let mut batch = Batch::new();
        for n in 0..1000_u32 {
            batch.put(Tree::History, format!("b/{n:04}"), n.to_le_bytes());
        }
        batch
            .put(Tree::History, "a/1", "")
            .put(Tree::History, "c", "");
        store.commit(batch).unwrap();
        assert_eq!(store.scan(Tree::History, b"b/").unwrap().len(), 1000);
        assert_eq!(store.scan(Tree::History, b"b/000").unwrap().len(), 10);
        assert_eq!(store.scan(Tree::History, b"d").unwrap().len(), 0);
        let page = store
            .page(Tree::History, b"b/", Some(b"b/0997"), 10)
            .unwrap();
        assert_eq!(
            page.iter()
                .map(|(key, _)| key.as_slice())
                .collect::<Vec<_>>(),
            [b"b/0998", b"b/0999"]
        );
        let keys: Vec<_> = store
            .iter(Tree::History)
            .map(|record| record.unwrap().0)
            .collect();
        assert_eq!(keys.len(), 1002);
        assert!(keys.is_sorted());
    }
}

#[test]
fn series_are_seen_at_once_and_outlive_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let before = store.verify().unwrap().journal_bytes;
    for n in 0..1000_u32 {
        store.put_soon(n.to_be_bytes(), vec![1; 100]).unwrap();
    }
    store.remove_soon(0_u32.to_be_bytes()).unwrap();
    assert_eq!(store.scan(Tree::Series, b"").unwrap().len(), 999);
    store.compact_now().unwrap();
    assert_eq!(store.scan(Tree::Series, b"").unwrap().len(), 999);
    assert_eq!(
        store.verify().unwrap().journal_bytes,
        before,
        "series cost no journal"
    );
    drop(store);
    let (store, report) = open(dir.path());
    assert!(report.repaired.is_none(), "{report:?}");
    assert_eq!(store.scan(Tree::Series, b"").unwrap().len(), 999);
}

#[test]
fn overwriting_long_values_does_not_grow_the_store_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut sizes = Vec::new();
    for round in 0..60_u8 {
        put(&store, Tree::Resources, "big", vec![round; 300_000]);
        if round % 20 == 19 {
            store.snapshot().unwrap();
            store.snapshot().unwrap();
            sizes.push(disk::size(&dir.path().join("db")).unwrap());
        }
    }
    assert!(sizes[2] < sizes[0] * 3, "{sizes:?}");
    let compaction = store.compact_now().unwrap().unwrap();
    assert!(
        compaction.after_bytes < compaction.before_bytes,
        "{compaction:?}"
    );
    assert_eq!(
        store.get(Tree::Resources, b"big").unwrap().unwrap(),
        vec![59; 300_000]
    );
    put(&store, Tree::Resources, "big", "small");
    drop(store);
    let (store, report) = open(dir.path());
    assert!(report.repaired.is_none(), "{report:?}");
    assert_eq!(
        store.get(Tree::Resources, b"big").unwrap().unwrap(),
        b"small"
    );
}

#[test]
fn secrets_are_not_printed() {
    let store = Store::memory();
    let mut batch = Batch::new();
    batch.put(Tree::Identity, "key", "SECRET");
    let printed = format!("{batch:?}");
    assert!(printed.contains("identity/key: 6 bytes"), "{printed}");
    store.commit(batch).unwrap();
    let iter = store.iter(Tree::Identity);
    let printed = format!("{store:?} {iter:?}");
    assert!(
        !printed.contains("SECRET") && !printed.contains("83, 69"),
        "{printed}"
    );
}
