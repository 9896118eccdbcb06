//! Manifests in; findings, worlds and views out. A case is a file beside this one.
//!
//! `inputs/` holds what users bring, `bad/` what they get wrong, `inject/` pods for the injector.

#![expect(
    clippy::unwrap_used,
    clippy::format_push_string,
    reason = "a failed read should fail the test, and snapshots are put together from lines"
)]

mod callers;
mod conformance;
mod credentials;
mod gateway_api;
mod hints;
mod inject;
mod meaning;
mod mesh;
mod properties;

use std::fs;
use std::path::{Path, PathBuf};

/// The YAML files of `tests/golden/DIR`, by name.
fn cases(dir: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<PathBuf> = fs::read_dir(root.join(dir))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {dir}");
    files
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Snapshots of one case, under a name that says which.
fn snapshots(dir: &str, run: impl FnOnce()) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("snapshots/{dir}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(run);
}
