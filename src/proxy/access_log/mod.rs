//! Access logs: which calls are written where.
//!
//! What a listener's configuration says ([`LogTable`]) goes in place of what the proxy was started with ([`Started`]).
//! A worker makes a record, judges it, and puts it into the queue of a file, of which [`Writers`] do the rest, or into
//! that of a service ([`services`]), which [`deliver`] tells of it: `batch` gathers entries ([`entry`]), `talk` sends them.

mod batch;
pub(crate) mod deliver;
pub(crate) mod entry;
mod services;
mod table;
mod talk;
mod writers;

use std::path::Path;
use std::sync::Arc;

use crate::mesh::access_log::STDOUT;
use crate::telemetry::{AccessRecord, LogFormat};

pub(crate) use table::LogTable;
pub use writers::Writers;
use writers::{Writer, open_to_append};

/// The log that the proxy was started with.
#[derive(Debug)]
pub(crate) struct Started {
    format: LogFormat,
    writer: Writer,
}

impl Started {
    /// Without a `path` it is standard output.
    pub(crate) fn new(
        writers: &Writers,
        format: LogFormat,
        path: Option<&Path>,
    ) -> std::io::Result<Self> {
        let path = path.unwrap_or(Path::new(STDOUT));
        if path != Path::new(STDOUT) {
            // A file that cannot be written is an error of whoever started it.
            open_to_append(path)?;
        }
        let writer = writers
            .open(&path.display().to_string())
            .ok_or_else(|| std::io::Error::other("no thread for it"))?;
        Ok(Self { format, writer })
    }

    /// Puts a record into the queue.
    pub(crate) fn write(&self, record: &Arc<AccessRecord>) {
        self.writer.usual(self.format, record);
    }
}
