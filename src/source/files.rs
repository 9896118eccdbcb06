//! Manifests in a directory.
//!
//! A directory is read as a whole, and may be caught in the middle of a change: a file that is half
//! written cannot be parsed, which is the parser's to find, and one that is replaced by removing it
//! first is missing for a moment. So what is gone counts only when it is gone twice in a row
//! ([`Watched`]). A directory that cannot be read says nothing of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Largest file that is read.
const MAX_BYTES: u64 = 8 << 20;

/// Texts by the names of their files.
pub type Texts = BTreeMap<String, String>;

/// Every `*.yaml`, `*.yml` and `*.json` in `directory`. Links are followed, so a volume of Kubernetes is
/// read through its `..data`; names that begin with a dot are not read.
pub fn read(directory: &Path) -> io::Result<Texts> {
    let mut texts = Texts::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
        let wanted = path
            .extension()
            .is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known));
        if !wanted || path.file_name().is_some_and(hidden) || !path.is_file() {
            continue;
        }
        if path.metadata()?.len() > MAX_BYTES {
            return Err(io::Error::other(format!(
                "{} is larger than 8 MiB",
                path.display()
            )));
        }
        let text = std::fs::read_to_string(&path)?;
        texts.insert(path.display().to_string(), text);
    }
    Ok(texts)
}

/// A directory that is looked at again and again.
#[derive(Debug)]
pub struct Watched {
    directory: PathBuf,
    /// What was said last.
    told: Texts,
    /// What was missing when it was last looked at, and has not been told.
    missing: BTreeSet<String>,
}

impl Watched {
    /// One of which `texts` are known already.
    pub fn new(directory: PathBuf, texts: Texts) -> Self {
        Self {
            directory,
            told: texts,
            missing: BTreeSet::new(),
        }
    }

    /// Looks at it; gives what it holds, where that is new.
    pub fn look(&mut self) -> Option<Texts> {
        let mut now = match read(&self.directory) {
            Ok(now) => now,
            Err(error) => {
                let directory = self.directory.display();
                tracing::debug!(%directory, %error, "not readable; what was read stays");
                return None;
            }
        };
        let gone = self.told.keys().filter(|name| !now.contains_key(*name));
        let gone: BTreeSet<String> = gone.cloned().collect();
        for name in gone.difference(&self.missing) {
            if let Some(text) = self.told.get(name) {
                now.insert(name.clone(), text.clone());
            }
        }
        self.missing = gone;
        if now == self.told {
            return None;
        }
        self.told.clone_from(&now);
        Some(now)
    }

    /// Whether a file of that name would be one of the directory's.
    pub fn holds(directory: &Path, file: &str) -> bool {
        Path::new(file).parent() == Some(directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &Texts) -> Vec<&str> {
        let names = texts.keys().filter_map(|name| Path::new(name).file_name());
        names.filter_map(std::ffi::OsStr::to_str).collect()
    }

    #[test]
    fn manifests_are_read_in_order_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "notes.txt", ".b.yaml"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        std::fs::create_dir(dir.path().join("d.yaml")).unwrap();
        let texts = read(dir.path()).unwrap();
        assert_eq!(names(&texts), ["a.json", "b.yaml"]);
    }

    #[test]
    fn a_volume_of_kubernetes_changes_at_once() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("a.yaml"), text).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/a.yaml", at("a.yaml")).unwrap();
        let mut watched = Watched::new(dir.path().to_owned(), read(dir.path()).unwrap());
        assert_eq!(watched.look(), None);
        symlink("..2", at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at("..data")).unwrap();
        std::fs::remove_dir_all(at("..1")).unwrap();
        let news = watched.look().unwrap();
        assert_eq!(names(&news), ["a.yaml"]);
        assert_eq!(news.into_values().next().unwrap(), "two");
        assert_eq!(watched.look(), None);
    }

    #[test]
    fn what_is_gone_for_a_moment_is_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a.yaml", "b.yaml"] {
            std::fs::write(at(name), name).unwrap();
        }
        let mut watched = Watched::new(dir.path().to_owned(), read(dir.path()).unwrap());
        // Replaced by removing it first.
        std::fs::remove_file(at("a.yaml")).unwrap();
        std::fs::write(at("b.yaml"), "new").unwrap();
        assert_eq!(names(&watched.look().unwrap()), ["a.yaml", "b.yaml"]);
        std::fs::write(at("a.yaml"), "newer").unwrap();
        let news = watched.look().unwrap();
        assert_eq!(news.values().next().unwrap(), "newer");
        // Removed.
        std::fs::remove_file(at("a.yaml")).unwrap();
        assert_eq!(watched.look(), None);
        assert_eq!(names(&watched.look().unwrap()), ["b.yaml"]);
        // The directory itself is away for a while: that is no word on its files.
        std::fs::rename(dir.path(), dir.path().with_extension("away")).unwrap();
        assert_eq!((watched.look(), watched.look()), (None, None));
        std::fs::rename(dir.path().with_extension("away"), dir.path()).unwrap();
        assert_eq!((watched.look(), watched.look()), (None, None));
        assert!(Watched::holds(Path::new("/x/y"), "/x/y/a.yaml"));
        assert!(!Watched::holds(Path::new("/x/y"), "/x/y/z/a.yaml"));
    }
}
