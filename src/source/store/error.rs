//! The one error of the store, with a variant for each decision that a caller makes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// Why the store could not do something.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// Another process has the store open.
    #[error("store {} is in use{}", path.display(), holder.map_or_else(String::new, |pid| format!(" by process {pid}")))]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The process that said it holds the lock.
        holder: Option<u32>,
    },
    /// A newer program wrote the store.
    #[error("store {} has {what} {found}, and this program knows up to {supported}", path.display())]
    Newer {
        /// The file or directory.
        path: PathBuf,
        /// Which version it is: "format" or "schema".
        what: &'static str,
        /// The version found.
        found: u32,
        /// The newest version that this program reads.
        supported: u32,
    },
    /// No step leads from an old schema to the wanted one.
    #[error("no migration from schema {from} towards {wanted}")]
    NoMigration {
        /// The schema without a step.
        from: u32,
        /// The schema asked for.
        wanted: u32,
    },
    /// The files disagree and nothing provably complete is left. Nothing was changed.
    #[error("store {} cannot be repaired: {what}", path.display())]
    Unrepairable {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it, with offsets.
        what: String,
    },
    /// A backup or snapshot is incomplete or was changed.
    #[error("{} is not a sound backup: {what}", path.display())]
    BadBackup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A key, value or batch is above its limit.
    #[error("{what} is {size}, more than {limit}")]
    TooLarge {
        /// What was measured, and its unit.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A batch names the tree that is not durable.
    #[error("the series tree takes put_soon, not a batch")]
    NotDurable,
    /// The buffer of writes that need not be durable is full; the write was not taken.
    #[error("the buffer for series is full")]
    Busy,
    /// The disk is full. The write was **not** done, and nothing acknowledged is lost.
    #[error("disk full: {} has {available} bytes free, {needed} needed", path.display())]
    Full {
        /// The store's directory.
        path: PathBuf,
        /// Bytes free there.
        available: u64,
        /// Bytes that must be free to write safely.
        needed: u64,
    },
    /// The disk failed while committing: the write may or may not be there after reopening.
    #[error("the outcome of the write is unknown: {what}")]
    Unknown {
        /// The step that failed.
        what: String,
        /// The cause, when the operating system gave one.
        #[source]
        source: Option<Arc<io::Error>>,
    },
    /// An earlier failure made the store read-only until it is reopened. The write was not done.
    #[error("the store is read-only: {why}")]
    ReadOnly {
        /// The earlier failure.
        why: String,
    },
    /// A record could not be read back.
    #[error("damaged record: {what}")]
    Damaged {
        /// Where, and what is wrong.
        what: String,
    },
    /// The operating system refused something that changes no data.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
}

impl StoreError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Locked { .. } => Some(
                "one process owns the store; ask the running control plane through its API, or stop it first",
            ),
            Self::Newer { .. } => {
                Some("install the newer meshctl, or restore a backup taken by this version")
            }
            Self::NoMigration { .. } => {
                Some("install a version in between first; it migrates the store one step")
            }
            Self::Unrepairable { .. } => Some(
                "nothing was changed; keep a copy of the directory, then restore the latest backup",
            ),
            Self::BadBackup { .. } => Some("use another backup; this one is incomplete or changed"),
            Self::TooLarge { .. } => Some("split it into several records or batches"),
            Self::Full { .. } => Some("free space on the disk; writes resume by themselves"),
            Self::Unknown { .. } => {
                Some("read the record back after the control plane has reopened the store")
            }
            Self::ReadOnly { .. } => Some("check the disk, then restart the control plane"),
            Self::Damaged { .. } => {
                Some("restart the control plane: opening repairs the store from its journal")
            }
            Self::NotDurable | Self::Busy | Self::Io { .. } => None,
        }
    }

    /// Whether the write was certainly not done, so that it may be sent again.
    pub fn is_rejection(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }

    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        if is_full(&source) {
            return Self::Full {
                path: path.to_owned(),
                available: super::disk::available(path).unwrap_or(0),
                needed: super::disk::HEADROOM_BYTES,
            };
        }
        Self::Io {
            what,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}

/// No space, or no quota.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
