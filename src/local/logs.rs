//! What containers say: one bounded file each, a time and a stream before every line.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};
use tokio::sync::watch;

use crate::api::local::LogLine;
use crate::rt::Wall;

/// When a file is this large it becomes the old one, and the one before that goes.
const MAX_BYTES: u64 = 4 << 20;

/// Longer lines are cut into pieces of this size.
const MAX_LINE: usize = 16 << 10;

/// One container's log: the file and the one before it, 8 MiB at most.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    wall: Wall,
    inner: Mutex<Inner>,
    grown: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    bytes: u64,
    /// How often the file was replaced.
    generation: u64,
}

/// How far someone has read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    generation: u64,
    offset: u64,
}

/// A line as it is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) time: String,
    pub(super) stream: String,
    pub(super) text: String,
}

impl Log {
    /// Opens (or makes) the file, which only its owner can read.
    pub(super) fn open(path: PathBuf, wall: Wall) -> io::Result<Self> {
        let file = private(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path,
            wall,
            inner: Mutex::new(Inner {
                file,
                bytes,
                generation: 0,
            }),
            grown: watch::Sender::new(0),
        })
    }

    /// Adds one line, without its end. A full disk loses the line, never the container.
    pub(super) fn write(&self, stream: &str, line: &[u8]) {
        let time = i64::try_from(self.wall.millis())
            .ok()
            .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
            .unwrap_or_default();
        let mut bytes = format!("{time:.3} {stream} ").into_bytes();
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        let mut inner = self.lock();
        if inner.bytes >= MAX_BYTES
            && let Err(error) = self.rotate(&mut inner)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot rotate a log");
        }
        if let Err(error) = inner.file.write_all(&bytes) {
            tracing::warn!(path = %self.path.display(), %error, "a log line is lost");
            return;
        }
        inner.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        drop(inner);
        self.grown.send_modify(|count| *count += 1);
    }

    /// Says something in the supervisor's own name.
    pub(super) fn note(&self, words: &str) {
        self.write("meshctl", words.as_bytes());
    }

    /// Copies lines from a pipe until it is closed.
    pub(super) async fn pump(&self, stream: &'static str, mut pipe: impl AsyncBufRead + Unpin) {
        let mut line = Vec::new();
        while let Ok(available) = pipe.fill_buf().await {
            if available.is_empty() {
                break;
            }
            let mut used = 0;
            for piece in available.split_inclusive(|byte| *byte == b'\n') {
                used += piece.len();
                let ended = piece.last() == Some(&b'\n');
                line.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
                while line.len() > MAX_LINE {
                    let rest = line.split_off(MAX_LINE);
                    self.write(stream, &line);
                    line = rest;
                }
                if ended {
                    self.write(stream, line.strip_suffix(b"\r").unwrap_or(&line));
                    line.clear();
                }
            }
            pipe.consume(used);
        }
        if !line.is_empty() {
            self.write(stream, &line);
        }
    }

    /// The last `most` lines that are kept, and where to go on from.
    pub(super) fn tail(&self, most: Option<usize>) -> io::Result<(Vec<Line>, Cursor)> {
        let inner = self.lock();
        let mut bytes = read_from(&old(&self.path), 0)?;
        bytes.extend(read_from(&self.path, 0)?);
        let mut lines = parse(&bytes);
        if let Some(most) = most {
            lines.drain(..lines.len().saturating_sub(most));
        }
        let cursor = Cursor {
            generation: inner.generation,
            offset: inner.bytes,
        };
        Ok((lines, cursor))
    }

    /// What came since `cursor`, which moves.
    pub(super) fn since(&self, cursor: &mut Cursor) -> io::Result<Vec<Line>> {
        let inner = self.lock();
        let bytes = if cursor.generation == inner.generation {
            read_from(&self.path, cursor.offset)?
        } else {
            // A reader that missed a whole file goes on with what is kept.
            let missed = inner.generation - cursor.generation > 1;
            let mut bytes = read_from(&old(&self.path), if missed { 0 } else { cursor.offset })?;
            bytes.extend(read_from(&self.path, 0)?);
            bytes
        };
        *cursor = Cursor {
            generation: inner.generation,
            offset: inner.bytes,
        };
        Ok(parse(&bytes))
    }

    /// Changes whenever there is a new line.
    pub(super) fn grown(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }

    fn rotate(&self, inner: &mut Inner) -> io::Result<()> {
        std::fs::rename(&self.path, old(&self.path))?;
        inner.file = private(&self.path)?;
        inner.bytes = 0;
        inner.generation += 1;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn old(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

fn read_from(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Vec<Line> {
    String::from_utf8_lossy(bytes)
        .lines()
        .filter_map(|line| {
            let (time, rest) = line.split_once(' ')?;
            let (stream, text) = rest.split_once(' ')?;
            Some(Line {
                time: time.to_owned(),
                stream: stream.to_owned(),
                text: text.to_owned(),
            })
        })
        .collect()
}

/// One container whose log is read.
pub(super) struct Source {
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) log: Arc<Log>,
}

impl Source {
    pub(super) fn line(&self, line: Line) -> LogLine {
        LogLine {
            pod: self.pod.clone(),
            container: self.container.clone(),
            time: line.time,
            stream: line.stream,
            line: line.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn log(dir: &tempfile::TempDir) -> Log {
        Log::open(dir.path().join("app.log"), Wall::fixed(1_700_000_000_123)).unwrap()
    }

    #[tokio::test]
    async fn lines_have_a_time_and_can_be_followed() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        log.pump("stdout", &b"one\r\ntwo\nthr\xffee"[..]).await;
        let (lines, mut cursor) = log.tail(Some(2)).unwrap();
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["two", "thr\u{fffd}ee"]);
        assert_eq!(lines[0].time, "2023-11-14T22:13:20.123Z");
        log.note("restarted");
        assert_eq!(log.since(&mut cursor).unwrap()[0].text, "restarted");
        assert!(log.since(&mut cursor).unwrap().is_empty());
        let mode = std::fs::metadata(dir.path().join("app.log")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn files_are_bounded_and_a_follower_crosses_from_one_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        let line = [b'x'; 8192];
        let mut cursor = log.tail(None).unwrap().1;
        let mut seen = 0;
        for i in 0..2000 {
            log.write("stdout", &line);
            if i % 100 == 0 {
                seen += log.since(&mut cursor).unwrap().len();
            }
        }
        seen += log.since(&mut cursor).unwrap().len();
        assert_eq!(seen, 2000);
        let total: u64 = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(total < 2 * MAX_BYTES + 20_000, "{total}");
    }

    #[tokio::test]
    async fn an_endless_line_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        log.pump("stderr", &vec![b'y'; 40_000][..]).await;
        let sizes: Vec<usize> = log
            .tail(None)
            .unwrap()
            .0
            .iter()
            .map(|l| l.text.len())
            .collect();
        assert_eq!(sizes, [MAX_LINE, MAX_LINE, 40_000 - 2 * MAX_LINE]);
    }
}
