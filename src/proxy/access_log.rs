//! Getting access-log lines out without holding a request up.
//!
//! Workers put records into a bounded queue; one thread writes them in batches. When the queue is
//! full, records are dropped and counted: a slow disk must not make the proxy slow.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::telemetry::{AccessRecord, LogFormat};

/// Records in the queue at most.
const QUEUE: usize = 16 * 1024;
/// Bytes written at once, about.
const BATCH: usize = 64 * 1024;
/// A line waits at most this long.
const WAIT: Duration = Duration::from_millis(200);

/// Where records are put.
#[derive(Debug, Clone)]
pub(crate) struct LogSink {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Record(Box<AccessRecord>),
    Flush(SyncSender<()>),
}

impl LogSink {
    /// Starts the writing thread. `path` of `None` or `/dev/stdout` is standard output; a file is
    /// appended to.
    pub(crate) fn start(format: LogFormat, path: Option<&Path>) -> io::Result<Self> {
        let file = match path {
            Some(path) if path != Path::new("/dev/stdout") => Some(
                std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)?,
            ),
            _ => None,
        };
        let (queue, records) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || match file {
                Some(mut file) => write_all(&records, format, &mut file),
                None => write_all(&records, format, &mut io::stdout()),
            })?;
        Ok(Self {
            queue,
            dropped: Arc::default(),
        })
    }

    /// Puts a record into the queue, or counts it as dropped.
    pub(crate) fn write(&self, record: &AccessRecord) {
        let message = Message::Record(Box::new(record.clone()));
        if self.queue.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that found the queue full.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what is queued has been written.
    pub(crate) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            // An error means that the writer is gone, and with it everything to wait for.
            let _written = wait.recv_timeout(Duration::from_secs(2));
        }
    }
}

fn write_all(records: &Receiver<Message>, format: LogFormat, out: &mut dyn Write) {
    let mut batch = String::with_capacity(BATCH);
    loop {
        let next = if batch.is_empty() {
            records.recv().map_err(|_| true)
        } else {
            records
                .recv_timeout(WAIT)
                .map_err(|error| matches!(error, std::sync::mpsc::RecvTimeoutError::Disconnected))
        };
        let mut done = None;
        let mut full = false;
        match next {
            Ok(Message::Record(record)) => {
                record.write(format, &mut batch);
                full = batch.len() >= BATCH;
            }
            Ok(Message::Flush(told)) => done = Some(told),
            Err(gone) => {
                put(out, &mut batch);
                if gone {
                    return;
                }
            }
        }
        if full || done.is_some() {
            put(out, &mut batch);
        }
        if let Some(told) = done {
            // Whoever asked may have stopped waiting.
            let _told = told.try_send(());
        }
    }
}

fn put(out: &mut dyn Write, batch: &mut String) {
    if let Err(error) = out.write_all(batch.as_bytes()).and_then(|()| out.flush()) {
        tracing::warn!(%error, "access log cannot be written");
    }
    batch.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_waits_for_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = LogSink::start(LogFormat::Json, Some(&path)).unwrap();
        for _ in 0..10 {
            sink.write(&AccessRecord::default());
        }
        sink.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 10);
        assert_eq!(sink.dropped(), 0);
    }
}
