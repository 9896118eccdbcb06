//! Lines to files, without holding a call up.
//!
//! Whoever logs puts a record into the queue of its file; one thread a file formats and writes in batches of whole lines.
//! Between two looks at its queue the thread rests, so that nobody has to wake it for a line: that would cost more than
//! the line. When a queue is full, or its file cannot be written, lines are lost and counted: a slow disk must not make
//! calls slow. [`Writers::reopen`] has every file opened again by its name, after somebody has moved it away.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::mesh::access_log::format::Compiled;
use crate::mesh::access_log::{STDERR, STDOUT};
use crate::rt::{self, Wall};
use crate::telemetry::{AccessRecord, LogFormat, Place};

use super::services::{Counts, Services};

/// Records in a queue at most.
const QUEUE: usize = 16 * 1024;
/// Bytes written at once, about.
const BATCH: usize = 64 * 1024;
/// A line waits at most this long, and a look at the queue more.
const WAIT: Duration = Duration::from_millis(200);
/// From one look at the queue to the next, while there are lines: at 100,000 a second a sixteenth of a queue.
const REST: Duration = Duration::from_millis(10);
/// Files at once; each has a thread.
const FILES: usize = 32;
/// How long a flush waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// All files that are written.
#[derive(Debug, Default)]
pub struct Writers {
    open: Mutex<BTreeMap<String, Writer>>,
    lost: Arc<AtomicU64>,
    place: Arc<Place>,
    /// Services that are told, as well.
    pub(super) services: Services,
}

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    queue: SyncSender<Message>,
    /// Who writes, to be woken where somebody waits.
    thread: Thread,
    /// Its file is to be opened again.
    again: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Arc<Compiled>, Arc<AccessRecord>),
    Usual(LogFormat, Arc<AccessRecord>),
    Flush(SyncSender<()>),
    Reopen,
}

impl Writers {
    /// Writers of a proxy at `place`.
    pub fn new(place: Place) -> Self {
        Self {
            place: Arc::new(place),
            ..Self::default()
        }
    }

    /// Where the proxy is.
    pub(super) fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place)
    }

    /// What became of the records that services are told of.
    pub(crate) fn told(&self) -> &Counts {
        &self.services.counts
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Writer>> {
        // Nothing panics while it is held; if something did, what is open is still right.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer of `path`; none where there are too many, or no thread can be had. A file that cannot be opened is
    /// tried again at the next [`Self::reopen`].
    pub(crate) fn open(&self, path: &str) -> Option<Writer> {
        let mut open = self.lock();
        if let Some(writer) = open.get(path) {
            return Some(writer.clone());
        }
        if open.len() >= FILES {
            tracing::warn!(path, "too many files of logs: its lines are lost");
            return None;
        }
        let (queue, messages) = sync_channel(QUEUE);
        let again = Arc::new(AtomicBool::new(false));
        let mut writing = Writing {
            target: Target::new(path),
            again: Arc::clone(&again),
            batch: String::with_capacity(BATCH),
            lines: 0,
            due: rt::now(),
            lost: Arc::clone(&self.lost),
            place: Arc::clone(&self.place),
            wall: Wall::System,
        };
        let started = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writing.run(&messages));
        let thread = match started {
            Ok(started) => started.thread().clone(),
            Err(error) => {
                tracing::warn!(path, %error, "no thread for a log: its lines are lost");
                return None;
            }
        };
        let writer = Writer {
            queue,
            thread,
            again,
            lost: Arc::clone(&self.lost),
        };
        open.insert(path.to_owned(), writer.clone());
        Some(writer)
    }

    /// Says that a line could not be written.
    pub(crate) fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines that were not written.
    pub(crate) fn dropped(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Opens every file again by its name.
    pub fn reopen(&self) {
        let open: Vec<Writer> = self.lock().values().cloned().collect();
        for writer in open {
            // Where the queue is full, it is seen with the next batch: nobody waits here for a slow disk.
            writer.again.store(true, Ordering::Relaxed);
            let _told = writer.queue.try_send(Message::Reopen).is_ok();
            writer.thread.unpark();
        }
    }

    /// Waits until what is queued has been written.
    pub(crate) fn flush(&self) {
        let open: Vec<Writer> = self.lock().values().cloned().collect();
        for writer in open {
            let (done, wait) = sync_channel(1);
            if writer.queue.send(Message::Flush(done)).is_ok() {
                writer.thread.unpark();
                // An error means that the writer is gone, and with it everything to wait for.
                let _written = wait.recv_timeout(PATIENCE);
            }
        }
    }
}

impl Writer {
    /// Puts a record into the queue, or counts it as lost.
    pub(crate) fn line(&self, format: &Arc<Compiled>, record: &Arc<AccessRecord>) {
        self.put(Message::Line(Arc::clone(format), Arc::clone(record)));
    }

    /// The same in one of the built-in forms.
    pub(crate) fn usual(&self, format: LogFormat, record: &Arc<AccessRecord>) {
        self.put(Message::Usual(format, Arc::clone(record)));
    }

    fn put(&self, message: Message) {
        if self.queue.try_send(message).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where bytes go.
enum Target {
    Stdout,
    Stderr,
    File(String, Option<File>),
}

impl Target {
    fn new(path: &str) -> Self {
        match path {
            STDOUT => Self::Stdout,
            STDERR => Self::Stderr,
            path => {
                let mut target = Self::File(path.to_owned(), None);
                target.reopen();
                target
            }
        }
    }

    fn reopen(&mut self) {
        if let Self::File(path, file) = self {
            match open_to_append(Path::new(path)) {
                Ok(opened) => *file = Some(opened),
                // The one that was open is better than none.
                Err(error) => tracing::warn!(path, %error, "a log cannot be opened"),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout()
                .write_all(bytes)
                .and_then(|()| io::stdout().flush()),
            Self::Stderr => io::stderr().write_all(bytes),
            Self::File(_, Some(file)) => file.write_all(bytes),
            Self::File(_, None) => Err(io::Error::other("it could not be opened")),
        }
    }
}

/// Opens a file so that lines go behind what is in it, whoever else writes.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

struct Writing {
    target: Target,
    again: Arc<AtomicBool>,
    batch: String,
    lines: u64,
    /// When the batch is written at the latest.
    due: Instant,
    lost: Arc<AtomicU64>,
    place: Arc<Place>,
    wall: Wall,
}

impl Writing {
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let first = if self.batch.is_empty() {
                messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                messages.recv_timeout(self.due.saturating_duration_since(rt::now()))
            };
            match first {
                Ok(message) => {
                    self.take(message);
                    std::thread::park_timeout(REST);
                    for message in messages.try_iter() {
                        self.take(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.put(),
                Err(RecvTimeoutError::Disconnected) => return self.put(),
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Line(format, record) => {
                let now = self.wall.millis();
                format.write(&record, (&self.place, now), &mut self.batch);
                self.added();
            }
            Message::Usual(format, record) => {
                record.write(format, &mut self.batch);
                self.added();
            }
            Message::Flush(told) => {
                self.put();
                // Whoever asked may have stopped waiting.
                let _told = told.try_send(()).is_ok();
            }
            Message::Reopen => self.put(),
        }
    }

    fn added(&mut self) {
        let now = rt::now();
        if self.lines == 0 {
            self.due = now + WAIT;
        }
        self.lines += 1;
        // Where lines never cease there is no pause to write in.
        if self.batch.len() >= BATCH || now >= self.due {
            self.put();
        }
    }

    fn put(&mut self) {
        if let Err(error) = self.target.write(self.batch.as_bytes()) {
            self.lost.fetch_add(self.lines, Ordering::Relaxed);
            tracing::warn!(%error, lines = self.lines, "lines of a log are lost");
        }
        self.batch.clear();
        self.lines = 0;
        // What came before belongs into the file that was moved away.
        if self.again.swap(false, Ordering::Relaxed) {
            self.target.reopen();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::access_log::Format;

    fn record(path: &str) -> Arc<AccessRecord> {
        Arc::new(AccessRecord {
            path: path.to_owned(),
            ..AccessRecord::default()
        })
    }

    fn count(path: &Path) -> usize {
        std::fs::read_to_string(path).unwrap().lines().count()
    }

    #[test]
    fn a_flush_waits_for_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let writers = Writers::default();
        let writer = writers.open(path.to_str().unwrap()).unwrap();
        for _ in 0..10 {
            writer.usual(LogFormat::Json, &record("/"));
        }
        writers.flush();
        assert_eq!(count(&path), 10);
        assert_eq!(writers.dropped(), 0);
    }

    #[test]
    fn a_file_that_was_moved_away_is_left_without_losing_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (
            dir.path().join("access.log"),
            dir.path().join("access.log.1"),
        );
        let writers = Writers::default();
        let writer = writers.open(path.to_str().unwrap()).unwrap();
        let format = Arc::new(Format::Text("%PATH%\n".to_owned()).compile().unwrap());
        for number in 0..500 {
            writer.line(&format, &record(&format!("/{number}")));
            if number == 200 {
                std::fs::rename(&path, &old).unwrap();
                writers.reopen();
            }
        }
        writers.flush();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let expected: Vec<String> = (0..500).map(|number| format!("/{number}\n")).collect();
        let expected = expected.concat();
        assert_eq!(read(&old) + &read(&path), expected);
        assert!(count(&old) > 0 && count(&path) >= 299);
    }

    #[test]
    fn lines_that_never_cease_are_written_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let writers = Writers::default();
        let writer = writers.open(path.to_str().unwrap()).unwrap();
        let format = Arc::new(Format::Text("%PATH%\n".to_owned()).compile().unwrap());
        let written = (0..WAIT.as_millis()).any(|_| {
            writer.line(&format, &record("/"));
            // Less than a batch in all of the time, and never a pause as long as the longest wait.
            std::thread::sleep(Duration::from_millis(10));
            std::fs::metadata(&path).is_ok_and(|file| file.len() > 0)
        });
        assert!(written);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, path) = (
            dir.path().join("later"),
            dir.path().join("later/access.log"),
        );
        let writers = Writers::default();
        let writer = writers.open(path.to_str().unwrap()).unwrap();
        writer.usual(LogFormat::Text, &record("/"));
        writers.flush();
        assert_eq!(writers.dropped(), 1);
        std::fs::create_dir(&directory).unwrap();
        writers.reopen();
        writer.usual(LogFormat::Text, &record("/"));
        writers.flush();
        assert_eq!((count(&path), writers.dropped()), (1, 1));
    }

    #[test]
    fn there_are_so_many_files_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let writers = Writers::default();
        let at = |number: usize| dir.path().join(number.to_string()).display().to_string();
        for number in 0..FILES {
            assert!(writers.open(&at(number)).is_some());
        }
        assert!(writers.open(&at(FILES)).is_none());
        assert!(writers.open(&at(0)).is_some());
    }
}
