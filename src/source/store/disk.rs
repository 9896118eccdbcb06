//! Files and directories as the store needs them: private, fsynced, never overwritten.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use crate::rt::{Wall, disk};

/// Free space below which nothing is written: sled takes segments of 512 KiB, two at a time.
pub(super) const HEADROOM_BYTES: u64 = 1 << 20;

/// The database's directory inside the store.
pub(super) const DB: &str = "db";
const LOCK: &str = "LOCK";
const RESERVE: &str = "reserve";

/// Creates the directory with mode 0700, or takes the group's and others' rights from it.
pub(super) fn private_dir(dir: &Path) -> Result<(), StoreError> {
    disk::private_dir(dir)
        .map(drop)
        .map_err(|e| StoreError::io("create", dir, e))
}

/// Takes the rights of group and others from every file below a directory: sled uses the umask.
pub(super) fn private_files(dir: &Path) -> Result<(), StoreError> {
    for (path, meta) in entries(dir)? {
        let (mode, wanted) = (
            meta.permissions().mode() & 0o777,
            if meta.is_dir() { 0o700 } else { 0o600 },
        );
        if mode != wanted {
            fs::set_permissions(&path, Permissions::from_mode(wanted))
                .map_err(|e| StoreError::io("protect", &path, e))?;
        }
        if meta.is_dir() {
            private_files(&path)?;
        }
    }
    Ok(())
}

/// A new file of mode 0600 for writing; replaces one that is there.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    disk::sync_dir(dir).map_err(|e| StoreError::io("sync", dir, e))
}

/// Moves a finished, fsynced temporary file to its name, durably.
pub(super) fn publish(temporary: &Path, path: &Path) -> Result<(), StoreError> {
    fs::rename(temporary, path).map_err(|e| StoreError::io("rename", temporary, e))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Takes the lock that one process holds while the store is open.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| StoreError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path)
                .ok()
                .and_then(|pid| pid.trim().parse().ok());
            return Err(StoreError::Locked {
                path: dir.to_owned(),
                holder,
            });
        }
        Err(fs::TryLockError::Error(e)) => return Err(StoreError::io("lock", &path, e)),
    }
    // Only a help for people, and impossible on a full disk: the lock itself is what counts.
    let noted = file
        .set_len(0)
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    if let Err(error) = noted {
        tracing::debug!(%error, "lock file does not name its holder");
    }
    Ok(file)
}

/// Bytes that can still be written.
pub(super) fn available(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Whether the reserve is there.
pub(super) fn has_reserve(dir: &Path) -> bool {
    dir.join(RESERVE).is_file()
}

/// Gives the reserve back to the disk; whether there was one.
pub(super) fn free_reserve(dir: &Path) -> bool {
    fs::remove_file(dir.join(RESERVE)).is_ok()
}

/// Makes the reserve when there is none and room enough. Filled with noise, so that a file system
/// that compresses or leaves holes really allocates it.
pub(super) fn keep_reserve(dir: &Path, bytes: u64) -> bool {
    if has_reserve(dir) {
        return true;
    }
    if available(dir).is_none_or(|free| free < bytes.saturating_add(HEADROOM_BYTES)) {
        return false;
    }
    let path = dir.join(RESERVE);
    let mut noise = vec![0; usize::try_from(bytes).unwrap_or(0)];
    fastrand::fill(&mut noise);
    let written = create_private(&path).and_then(|mut file| {
        file.write_all(&noise)?;
        file.sync_all()
    });
    if let Err(error) = written {
        free_reserve(dir);
        tracing::warn!(%error, "no space for the store's reserve file");
        return false;
    }
    true
}

/// Renames what is damaged to `NAME.corrupt-UNIXTIME`; never over something else.
pub(super) fn set_aside(path: &Path, wall: &Wall) -> Result<PathBuf, StoreError> {
    set_aside_as(path, "corrupt", wall)
}

/// Renames to `NAME.WHY-UNIXTIME`, with a number after it when that is taken.
pub(super) fn set_aside_as(path: &Path, why: &str, wall: &Wall) -> Result<PathBuf, StoreError> {
    let seconds = wall.millis() / 1000;
    let name = path.file_name().map_or_else(String::new, |name| {
        format!("{}.{why}-{seconds}", name.to_string_lossy())
    });
    let mut target = path.with_file_name(&name);
    let mut more = 1_u32;
    while target.exists() {
        target = path.with_file_name(format!("{name}-{more}"));
        more = more.saturating_add(1);
    }
    publish(path, &target)?;
    Ok(target)
}

/// Removes what an interrupted run left half-made.
pub(super) fn clean_scratch(dir: &Path) -> Result<(), StoreError> {
    for (path, meta) in entries(dir)? {
        let scratch = path.extension().is_some_and(|end| end == "tmp")
            || [NEW_DB, OLD_DB, CHECK_DB]
                .iter()
                .any(|name| path.ends_with(name));
        if scratch {
            remove(&path, meta.is_dir())?;
        }
    }
    Ok(())
}

/// A database being built.
pub(super) const NEW_DB: &str = "db.new";
/// A sound database that a compacted one has replaced.
pub(super) const OLD_DB: &str = "db.old";
/// A copy of the database that is opened to see whether it is sound.
pub(super) const CHECK_DB: &str = "db.check";

/// Removes a file or a whole directory.
pub(super) fn remove(path: &Path, is_dir: bool) -> Result<(), StoreError> {
    let removed = if is_dir {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Copies a directory of files, for a look at a database that must not be touched.
pub(super) fn copy_dir(from: &Path, to: &Path) -> Result<(), StoreError> {
    private_dir(to)?;
    for (path, meta) in entries(from)? {
        let target = to.join(path.file_name().unwrap_or_default());
        if meta.is_dir() {
            copy_dir(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(|e| StoreError::io("copy", &path, e))?;
        }
    }
    Ok(())
}

/// Bytes of everything below a directory, as allocated.
pub(super) fn size(dir: &Path) -> Result<u64, StoreError> {
    let mut total = 0_u64;
    for (path, meta) in entries(dir)? {
        total = total.saturating_add(if meta.is_dir() {
            size(&path)?
        } else {
            std::os::unix::fs::MetadataExt::blocks(&meta).saturating_mul(512)
        });
    }
    Ok(total)
}

/// What a directory holds, by name; what vanishes meanwhile is left out.
pub(super) fn entries(dir: &Path) -> Result<Vec<(PathBuf, fs::Metadata)>, StoreError> {
    let read = fs::read_dir(dir).map_err(|e| StoreError::io("list", dir, e))?;
    let mut entries: Vec<_> = read
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}
