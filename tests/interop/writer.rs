//! Somebody who writes all the time, and remembers what was acknowledged.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::mesh::{Mesh, run, service};

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

    /// Stops, and gives the names that were acknowledged.
    pub(crate) fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
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
