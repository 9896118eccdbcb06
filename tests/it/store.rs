//! The store against what only processes and mounts can do: SIGKILL, failing fsyncs, a full disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use meshctl::source::store::{Batch, OpenReport, Options, Revision, Store, StoreError, Tree};

const DIR: &str = "STORE_CHILD_DIR";
const MODE: &str = "STORE_CHILD_MODE";

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .expect("stdout takes a line");
}

fn skip(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {why}").expect("stderr takes a line");
}

fn options() -> Options {
    Options {
        reserve_bytes: 256 << 10,
        journal_max_records: 50,
        ..Options::default()
    }
}

fn open(dir: &Path) -> (Store, OpenReport) {
    Store::open(dir, &options()).unwrap()
}

fn put(store: &Store, key: &str, value: &[u8]) -> Result<Revision, StoreError> {
    let mut batch = Batch::new();
    // Two trees, so that a torn transaction would show.
    batch
        .put(Tree::Resources, key, value)
        .put(Tree::Events, key, value);
    store.commit(batch)
}

/// The body of a child process: commits, and says so on stdout only after the answer.
#[test]
#[ignore = "run as a child by the other tests"]
fn child_writer() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return skip("started by hand");
    };
    let mode = std::env::var_os(MODE).unwrap_or_default();
    let round = std::process::id();
    let options = Options {
        // The tests that look at system calls want one journal.
        journal_max_records: if mode == "forever" { 50 } else { 10_000 },
        ..options()
    };
    let (store, report) = Store::open(&dir, &options).unwrap();
    if let Some(repair) = &report.repaired {
        say(&format!("repaired {repair}"));
    }
    if mode == "forever" {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let store = store.clone();
                scope.spawn(move || {
                    for n in 0.. {
                        let key = format!("{round}/{thread}/{n}");
                        put(
                            &store,
                            &key,
                            format!("{key} {}", "x".repeat(n % 3000)).as_bytes(),
                        )
                        .unwrap();
                        say(&format!("ack {key}"));
                    }
                });
            }
        });
    }
    say("opened");
    for n in 0..10 {
        let key = format!("few/{n}");
        match put(&store, &key, b"x") {
            Ok(_) => say(&format!("ack {key}")),
            Err(StoreError::Unknown { .. }) => say(&format!("unknown {key}")),
            Err(StoreError::ReadOnly { .. }) => say(&format!("refused {key}")),
            Err(error) => panic!("{error}"),
        }
    }
    // Reads go on.
    assert!(store.get(Tree::Resources, b"few/0").unwrap().is_some());
}

fn child(dir: &Path, mode: &str, strace: &[&str]) -> Command {
    let exe = std::env::current_exe().unwrap();
    let mut command = if strace.is_empty() {
        Command::new(exe)
    } else {
        let mut command = Command::new("strace");
        command.args(strace).arg(exe);
        command
    };
    command
        .args(["--exact", "store::child_writer", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(MODE, mode)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

fn acks(lines: &mut impl Iterator<Item = std::io::Result<String>>, limit: usize) -> Vec<String> {
    lines
        .map_while(Result::ok)
        .filter_map(|line| {
            assert!(!line.starts_with("repaired"), "{line}");
            line.strip_prefix("ack ").map(str::to_owned)
        })
        .take(limit)
        .collect()
}

#[test]
fn kill_nine_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..20_usize {
        let mut child: Child = child(dir.path(), "forever", &[]).spawn().unwrap();
        let out: ChildStdout = child.stdout.take().unwrap();
        let mut lines = BufReader::new(out).lines();
        acknowledged.extend(acks(&mut lines, 10 + round * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died, but nobody had read yet.
        acknowledged.extend(acks(&mut lines, usize::MAX));

        let (store, report) = open(dir.path());
        assert!(report.repaired.is_none(), "round {round}: {report:?}");
        let resources: BTreeMap<_, _> = store
            .scan(Tree::Resources, b"")
            .unwrap()
            .into_iter()
            .collect();
        let events: BTreeMap<_, _> = store.scan(Tree::Events, b"").unwrap().into_iter().collect();
        assert!(resources == events, "round {round}: half a batch");
        for key in &acknowledged {
            assert!(
                resources.contains_key(key.as_bytes()),
                "round {round}: lost {key}"
            );
        }
    }
    assert!(
        acknowledged.len() > 20 * 10,
        "{} commits",
        acknowledged.len()
    );
    let (store, _) = open(dir.path());
    let report = store.verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// What a power cut may leave: everything that was fsynced, and of the rest nothing. After every
/// acknowledgement either file alone must be enough.
#[test]
fn what_is_acknowledged_survives_the_loss_of_either_file() {
    let dir = tempfile::tempdir().unwrap();
    let started = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    put(&store, "first", b"x").unwrap();
    copy(&dir.path().join("db"), &started.path().join("db"));
    for n in 0..120 {
        put(&store, &format!("{n}"), format!("value {n}").as_bytes()).unwrap();
        if n % 17 != 0 {
            continue;
        }
        let want = store.scan(Tree::Resources, b"").unwrap();
        for loss in ["no database", "an old database", "no journal"] {
            let cut = tempfile::tempdir().unwrap();
            let cut = cut.path().join("store");
            copy(dir.path(), &cut);
            match loss {
                "no journal" => {
                    for entry in fs::read_dir(&cut).unwrap() {
                        let path = entry.unwrap().path();
                        if path.to_str().unwrap().contains("/journal.") {
                            fs::remove_file(path).unwrap();
                        }
                    }
                }
                other => {
                    fs::remove_dir_all(cut.join("db")).unwrap();
                    if other == "an old database" {
                        copy(&started.path().join("db"), &cut.join("db"));
                    }
                }
            }
            let (again, report) = open(&cut);
            assert_eq!(
                again.scan(Tree::Resources, b"").unwrap(),
                want,
                "{n}, {loss}: {report:?}"
            );
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn has_strace() -> bool {
    let works = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        skip("strace is not installed or may not trace");
    }
    works
}

/// Reads the order of system calls: before each acknowledgement, what was written to the journal
/// and to sled's file has been fsynced.
#[test]
fn both_files_are_fsynced_before_the_acknowledgement() {
    if !has_strace() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("trace");
    let store = dir.path().join("store");
    let trace = "trace=fsync,fdatasync,write,pwrite64,sync_file_range";
    let log_arg = log.to_str().unwrap();
    let status = child(
        &store,
        "few",
        &["-f", "-y", "-s", "64", "-e", trace, "-o", log_arg],
    )
    .stdout(Stdio::null())
    .status()
    .unwrap();
    assert!(status.success());

    // A call that another thread interrupted ends at its `resumed` line.
    let mut unfinished: BTreeMap<String, String> = BTreeMap::new();
    let (mut journal, mut database) = (File::default(), File::default());
    let mut acknowledged = 0;
    let mut opened = false;
    for line in fs::read_to_string(&log).unwrap().lines() {
        let (pid, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        let whole = if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid.to_owned(), begun.to_owned());
            // A write counts from its start, a sync from its end.
            if call.contains("sync(") {
                continue;
            }
            begun.to_owned()
        } else if call.starts_with("<... ") {
            let begun = unfinished.remove(pid).unwrap_or_default();
            if !begun.contains("sync(") {
                continue;
            }
            format!("{begun}{call}")
        } else {
            call.to_owned()
        };
        if whole.contains("\"opened\\n\"") {
            opened = true;
            (journal, database) = (File::default(), File::default());
        }
        if !opened {
            continue;
        }
        if whole.contains("/store/journal.") {
            journal.note(&whole);
        } else if whole.contains("/store/db/db>") {
            database.note(&whole);
        } else if whole.contains("\"ack few/") {
            acknowledged += 1;
            assert!(
                journal.is_durable(),
                "ack {acknowledged}: journal {journal:?}"
            );
            assert!(
                database.is_durable(),
                "ack {acknowledged}: database {database:?}"
            );
            (journal, database) = (File::default(), File::default());
        }
    }
    assert_eq!(acknowledged, 10);
}

#[derive(Debug, Default)]
struct File {
    written: bool,
    /// Only counts when nothing was written since.
    synced: bool,
}

impl File {
    fn note(&mut self, call: &str) {
        if call.starts_with("write(") || call.starts_with("pwrite64(") {
            (self.written, self.synced) = (true, false);
        } else if call.starts_with("fsync(") || call.starts_with("fdatasync(") {
            assert!(call.ends_with("= 0"), "{call}");
            self.synced = true;
        }
    }

    fn is_durable(&self) -> bool {
        self.written && self.synced
    }
}

#[test]
fn a_failed_fsync_answers_unknown_and_stops_all_writing() {
    if !has_strace() {
        return;
    }
    // A journal that cannot be synced takes the record back; a database that cannot leaves it in
    // the journal, so that reopening applies it. "Unknown" is right for both.
    for (file, comes_back) in [("journal.00000000000000000000", false), ("db/db", true)] {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        drop(open(&store));
        let path = store.join(file);
        let strace = [
            "-f",
            "-o",
            "/dev/null",
            "-P",
            path.to_str().unwrap(),
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:error=EIO:when=5+",
        ];
        let out = child(&store, "few", &strace).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let out = String::from_utf8(out.stdout).unwrap();
        let said = |word: &str| -> Vec<String> {
            out.lines()
                .filter_map(|line| line.strip_prefix(word))
                .map(|key| key.trim().to_owned())
                .collect()
        };
        let (acked, unknown, refused) = (said("ack"), said("unknown"), said("refused"));
        assert!(
            !acked.is_empty() && unknown.len() == 1 && !refused.is_empty(),
            "{file}: {out}"
        );

        let (again, report) = open(&store);
        assert!(report.repaired.is_none(), "{file}: {report:?}");
        let has = |key: &String| {
            again
                .get(Tree::Resources, key.as_bytes())
                .unwrap()
                .is_some()
        };
        assert!(acked.iter().all(has), "{file}: {out}");
        assert!(!refused.iter().any(has), "{file}: {out}");
        assert_eq!(has(&unknown[0]), comes_back, "{file}");
        put(&again, "then", b"x").unwrap();
        assert!(again.verify().unwrap().is_sound());
    }
}

/// A small file system that goes away with the test.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = nix::mount::mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(size),
        );
        match mounted {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                skip(&format!("cannot mount a small tmpfs ({error}): needs root"));
                None
            }
        }
    }

    /// Takes every free byte.
    fn fill(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        let mut file = fs::File::create(&path).unwrap();
        for size in [64 << 10, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = nix::mount::umount(self.0.path()) {
            skip(&format!(
                "cannot unmount {}: {error}",
                self.0.path().display()
            ));
        }
    }
}

fn assert_full<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    let error = result.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.is_rejection() && error.hint().is_some());
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let Some(disk) = Tmpfs::mount("size=8m") else {
        return;
    };
    let dir = disk.0.path().join("store");
    let (store, report) = open(&dir);
    assert!(!report.disk_full);
    put(&store, "first", b"x").unwrap();

    // Someone else fills it while the store is open: refused, and accepted again with room.
    let filler = disk.fill("filler");
    assert_full(put(&store, "no", b"x"));
    assert!(store.get(Tree::Resources, b"first").unwrap().is_some());
    store.put_soon("series", "x").unwrap();
    fs::remove_file(&filler).unwrap();
    put(&store, "second", b"x").unwrap();

    // The store fills it itself.
    let mut count = 0;
    let full = loop {
        match put(&store, &format!("fill/{count:06}"), &[7; 9000]) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 10_000);
    };
    assert_full::<()>(Err(full));
    assert!(count > 20, "{count}");
    let want = store.scan(Tree::Resources, b"").unwrap();
    assert_eq!(want.len(), count + 2);
    drop(store);

    // Not one byte free: opened all the same, thanks to the reserve.
    let first = disk.fill("first");
    let (store, report) = open(&dir);
    assert!(report.disk_full && report.repaired.is_none(), "{report:?}");
    assert_eq!(store.scan(Tree::Resources, b"").unwrap(), want);
    assert_full(put(&store, "no", b"x"));
    drop(store);

    // And once more with the reserve gone too.
    let second = disk.fill("second");
    for _ in 0..2 {
        let (store, report) = open(&dir);
        assert!(report.disk_full, "{report:?}");
        assert_eq!(store.scan(Tree::Resources, b"").unwrap(), want);
        assert_full(put(&store, "no", b"x"));
        assert!(store.verify().unwrap().is_sound());
    }

    // A database that is lost at the worst moment is read from snapshot and journal.
    let third = disk.fill("third");
    fs::remove_dir_all(dir.join("db")).unwrap();
    let fourth = disk.fill("fourth");
    let (store, report) = open(&dir);
    assert!(report.read_only.is_some(), "{report:?}");
    assert_eq!(store.scan(Tree::Resources, b"").unwrap(), want);
    assert_full(put(&store, "no", b"x"));

    for file in [first, second, third, fourth] {
        fs::remove_file(file).unwrap();
    }
    // What filled it was the store's own, so make the disk bigger.
    nix::mount::mount(
        Some("tmpfs"),
        disk.0.path(),
        None::<&str>,
        nix::mount::MsFlags::MS_REMOUNT,
        Some("size=32m"),
    )
    .unwrap();
    // The open store takes writes by itself.
    let mut tries = 0;
    while store.read_only().is_some() {
        std::thread::sleep(std::time::Duration::from_millis(20));
        tries += 1;
        assert!(tries < 500, "{:?}", store.read_only());
    }
    put(&store, "at last", b"x").unwrap();
    drop(store);

    let (store, report) = open(&dir);
    assert!(report.repaired.is_none() && !report.disk_full, "{report:?}");
    let mut now = store.scan(Tree::Resources, b"").unwrap();
    now.retain(|(key, _)| key != b"at last");
    assert_eq!(now, want);
    assert!(dir.join("reserve").is_file());
    assert!(store.verify().unwrap().is_sound());
}
