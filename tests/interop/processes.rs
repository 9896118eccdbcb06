//! Other programs: where they are, and that they end with their test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;

/// `path` within the virtual environment `name`; `None` when it is not there and need not be.
pub(crate) fn installed(name: &str, path: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let venv = target.join("interop").join(name);
    let found = find(&venv, path);
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{path} is not in {}: run tests/interop/venvs.sh",
            venv.display()
        );
        eprintln!("SKIPPED: {path} is not installed; run tests/interop/venvs.sh");
    }
    found
}

/// The directory of Python's packages has its version in its name.
fn find(venv: &Path, path: &str) -> Option<PathBuf> {
    let direct = venv.join(path);
    if direct.exists() {
        return Some(direct);
    }
    std::fs::read_dir(venv.join("lib"))
        .ok()?
        .filter_map(Result::ok)
        .map(|python| python.path().join("site-packages").join(path))
        .find(|path| path.exists())
}

/// A process that is killed when the test lets go of it.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.0.kill().is_ok();
        let _reaped = self.0.wait().is_ok();
    }
}

/// A loopback address that nobody listens on just now.
pub(crate) fn free() -> SocketAddr {
    cluster::ports::free_address()
}
