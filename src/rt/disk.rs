//! Directories and files that others cannot read, and that a power cut does not take away.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Makes a directory of mode 0700 with those above it, or takes the rights of group and others from
/// the one that is there. Whether it was made.
pub fn private_dir(dir: &Path) -> io::Result<bool> {
    let new: Vec<&Path> = dir
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    // Also where something is there, which may be no directory.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    for path in &new {
        sync_dir(parent(path))?;
    }
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    Ok(!new.is_empty())
}

/// Writes `bytes` to `path` with mode 0600: a new file, fsync, rename, fsync of the directory, which
/// is made when it is missing.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = parent(path);
    if !dir.exists() {
        private_dir(dir)?;
    }
    let fresh = path.with_extension("new");
    // A leftover of a crash may have any mode; `create_new` makes sure that ours is 0600.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_dir(dir)
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The directory that `path` is in, also when that is the working directory.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn directories_are_private_whoever_made_them() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        assert!(private_dir(&deep).unwrap());
        assert_eq!((mode(&deep), mode(&dir.path().join("a"))), (0o700, 0o700));
        fs::set_permissions(&deep, Permissions::from_mode(0o755)).unwrap();
        assert!(!private_dir(&deep).unwrap());
        assert_eq!(mode(&deep), 0o700);

        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        assert!(private_dir(&file).is_err());
        assert_eq!(mode(&file), 0o644);
    }

    #[test]
    fn files_are_replaced_whole_and_a_leftover_does_not_open_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/key.pem");
        write_private(&path, b"one").unwrap();
        fs::write(path.with_extension("new"), "left over").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
