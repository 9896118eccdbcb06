//! The HTTP/1 kind of leg: a connection with its buffers.

use std::io;
use std::task::{Context, Poll, ready};

use super::super::super::buffer::{Buffer, SMALL, give_text, take_text};
use super::super::super::stream::Stream;
use super::super::h1::body::{BadBody, BodyReader};
use super::{LegError, Piece, Trailers};

/// Data from this size on is not copied behind what waits to be written, but written beside it.
const BESIDE: usize = 2048;

/// An HTTP/1 connection with its buffers.
#[derive(Debug)]
pub(crate) struct H1Leg {
    pub(crate) io: Stream,
    pub(crate) input: Buffer,
    /// Waits to be written.
    pub(crate) out: Vec<u8>,
    pub(super) written: usize,
    /// TLS may hold something back.
    pub(super) unpushed: bool,
    pub(crate) reader: BodyReader,
    pub(crate) writer: Writer,
    pub(super) finished: bool,
    /// The peer will send no more.
    pub(crate) ended: bool,
}

/// How a body is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Writer {
    /// As it comes.
    #[default]
    Plain,
    /// In chunks.
    Chunked,
}

impl H1Leg {
    pub(crate) fn new(io: Stream, input: Buffer) -> Box<Self> {
        Box::new(Self {
            io,
            input,
            out: Vec::new(),
            written: 0,
            unpushed: false,
            reader: BodyReader::default(),
            writer: Writer::Plain,
            finished: false,
            ended: false,
        })
    }

    /// Prepares for another message going out.
    pub(crate) fn begin(&mut self, writer: Writer) {
        if self.out.capacity() == 0 {
            self.out = take_text();
        }
        self.writer = writer;
        self.finished = false;
    }

    /// Reads more; 0 is the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let count = ready!(self.io.poll_fill(cx, &mut self.input))?;
        self.ended |= count == 0;
        Poll::Ready(Ok(count))
    }

    /// Ready when the peer has broken off. Its half-close is not that: some callers send their
    /// request and then shut down their side. Looks no further than the first bytes that come.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended || !self.input.is_empty() || self.io.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        let filled = self.poll_fill(cx);
        if self.input.is_empty() {
            self.input.release();
        }
        match filled {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Writes everything that waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            let count = ready!(self.io.poll_send(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.unpushed = true;
        }
        self.out.clear();
        self.written = 0;
        if self.unpushed {
            ready!(self.io.poll_push(cx))?;
            self.unpushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether anything of what waited has been written.
    pub(crate) fn wrote_something(&self) -> bool {
        self.written > 0 || self.unpushed || self.out.is_empty()
    }

    /// Gives buffers back while nothing is in them.
    pub(crate) fn rest(&mut self) {
        self.input.release();
        if self.out.is_empty() {
            give_text(std::mem::take(&mut self.out));
        }
    }

    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, LegError>> {
        loop {
            if self.reader.ready() > 0 {
                return Poll::Ready(Ok(Piece::Data));
            }
            if self.reader.is_done() {
                return Poll::Ready(Ok(Piece::End));
            }
            if !self.input.is_empty() {
                let before = self.input.data().len();
                self.reader
                    .advance(&mut self.input)
                    .map_err(|bad| match bad {
                        BadBody::Malformed => LegError::Malformed,
                        BadBody::TooLarge => LegError::TooLarge,
                    })?;
                let moved = self.input.data().len() != before;
                if moved || self.reader.ready() > 0 || self.reader.is_done() {
                    continue;
                }
            }
            if self.reader.expects(SMALL) {
                self.input.enlarge();
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(if self.reader.end() {
                    Ok(Piece::End)
                } else {
                    Err(LegError::Truncated)
                });
            }
        }
    }

    pub(super) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, LegError>> {
        match self.writer {
            Writer::Plain if self.out.is_empty() || data.len() >= BESIDE => loop {
                let before = self.out.get(self.written..).unwrap_or_default();
                let sent = ready!(self.io.poll_send_both(cx, before, data))?;
                if sent == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                self.unpushed = true;
                let Some(count) = sent.checked_sub(before.len()) else {
                    self.written += sent;
                    continue;
                };
                self.out.clear();
                self.written = 0;
                if count > 0 {
                    break Poll::Ready(Ok(count));
                }
            },
            Writer::Plain => {
                self.out.extend_from_slice(data);
                Poll::Ready(Ok(data.len()))
            }
            Writer::Chunked => {
                chunk(&mut self.out, data);
                Poll::Ready(Ok(data.len()))
            }
        }
    }

    /// Reads the rest of a body and throws it away. Ready with whether it ended within `most` bytes.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<bool> {
        let mut gone = 0;
        loop {
            match ready!(self.poll_piece(cx)) {
                Ok(Piece::End) => return Poll::Ready(true),
                Ok(Piece::Data) => {
                    let count = self.reader.ready();
                    self.input.consume(count);
                    self.reader.passed(count);
                    gone += u64::try_from(count).unwrap_or(0);
                    if gone > most {
                        return Poll::Ready(false);
                    }
                }
                Err(_) => return Poll::Ready(false),
            }
        }
    }

    /// Puts bytes of a replayed body behind the head.
    pub(crate) fn push(&mut self, data: &[u8]) {
        match self.writer {
            Writer::Plain => self.out.extend_from_slice(data),
            Writer::Chunked if data.is_empty() => {}
            Writer::Chunked => chunk(&mut self.out, data),
        }
    }

    pub(super) fn finish(&mut self, trailers: Trailers<'_>) {
        if std::mem::replace(&mut self.finished, true) || self.writer == Writer::Plain {
            return;
        }
        self.out.extend_from_slice(b"0\r\n");
        match trailers {
            Trailers::None => {}
            Trailers::Text(lines) => self.out.extend_from_slice(lines),
            Trailers::Block(_) => trailers.each(|name, value| {
                self.out.extend_from_slice(name);
                self.out.extend_from_slice(b": ");
                self.out.extend_from_slice(value);
                self.out.extend_from_slice(b"\r\n");
            }),
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

impl Drop for H1Leg {
    fn drop(&mut self) {
        give_text(std::mem::take(&mut self.out));
    }
}

fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}
