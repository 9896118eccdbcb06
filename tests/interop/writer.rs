//! Somebody who writes all the time, and remembers what was acknowledged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::mesh::{Mesh, run, service};
use crate::stand::until;

/// A thread that applies one Service after another.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Writer {
    /// Writes `NAME-0`, `NAME-1` and so on into the mesh in `home`.
    pub(crate) fn start(home: PathBuf, name: String) -> Self {
        let (stop, done) = (Arc::default(), Arc::default());
        let (ending, count): (Arc<AtomicBool>, Arc<AtomicUsize>) =
            (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut kept = Vec::new();
            for n in 0.. {
                if ending.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("{name}-{n}");
                let manifest = service(&name, &[("http", 80)]);
                let output = run(&home, &["apply", "-q", "-f", "-"], Some(&manifest));
                // The exit of the command is the acknowledgement.
                if output.status.success() {
                    kept.push(name);
                    count.store(kept.len(), Ordering::Relaxed);
                }
            }
            kept
        });
        Self { stop, done, thread }
    }

    /// Writes that were acknowledged so far.
    pub(crate) fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits for `count` acknowledged writes, and then for the moment in which the next has begun to
    /// reach the journal in `home`, or for the one in which it is acknowledged, in turns.
    pub(crate) async fn amid_a_write(&self, home: &Path, count: usize, round: u32) {
        until("writes", 20, || (self.done() >= count).then_some(())).await;
        let (size, done) = (journal_bytes(home), self.done());
        let begun = meshctl::rt::now();
        loop {
            assert!(begun.elapsed().as_secs() < 20, "no write in 20 s");
            let moment = match round % 2 {
                0 => journal_bytes(home) != size,
                _ => self.done() != done,
            };
            if moment {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Stops, and gives the names that were acknowledged.
    pub(crate) fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What the journals of the store in `home` hold together.
fn journal_bytes(home: &Path) -> u64 {
    let store = std::fs::read_dir(home.join("control/store")).unwrap();
    store
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("journal."))
        .filter_map(|entry| entry.metadata().ok())
        .map(|journal| journal.len())
        .sum()
}

/// Every one of `names` is a Service of the mesh.
pub(crate) fn all_there(mesh: &Mesh, names: &[String]) {
    let objects = mesh.json(&["get", "Service"]);
    let there: BTreeSet<&str> = objects
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|object| object["name"].as_str())
        .collect();
    for name in names {
        assert!(there.contains(name.as_str()), "{name} is lost: {there:?}");
    }
}
