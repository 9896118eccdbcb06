//! One side of an exchange: bodies come from it and go to it, whichever HTTP it speaks.
//!
//! A [`pump`] moves a body from one leg to the other in a single poll function, so that the body
//! going up and the answer coming down share a task without splitting the connections. What has
//! piled up is written together: head and body leave in one write in the common case.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::buffer::{Buffer, LARGE, SMALL, give_text, take_text};
use super::super::stream::Stream;
use super::fields::{self, Name};
use super::h1::body::BodyReader;
use super::replay::Replay;

/// Pending output is written before more is taken.
const PILE: usize = 32 * 1024;

/// One side of an exchange.
#[derive(Debug)]
pub(crate) enum Leg {
    /// An HTTP/1 connection.
    H1(Box<H1Leg>),
    /// An HTTP/2 stream.
    H2(Box<H2Leg>),
}

/// An HTTP/1 connection with its buffers.
#[derive(Debug)]
pub(crate) struct H1Leg {
    pub(crate) io: Stream,
    pub(crate) input: Buffer,
    /// Waits to be written.
    pub(crate) out: Vec<u8>,
    written: usize,
    /// TLS may hold something back.
    unpushed: bool,
    pub(crate) reader: BodyReader,
    pub(crate) writer: Writer,
    finished: bool,
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

/// An HTTP/2 stream.
#[derive(Debug, Default)]
pub(crate) struct H2Leg {
    pub(crate) recv: Option<h2::RecvStream>,
    data: Bytes,
    recv_done: bool,
    trailers: Option<HeaderMap>,
    pub(crate) send: Option<h2::SendStream<Bytes>>,
    pub(crate) respond: Option<h2::server::SendResponse<Bytes>>,
    pub(crate) sent_end: bool,
}

/// What a leg gives next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// [`Leg::data`] is not empty.
    Data,
    /// The body ended.
    End,
}

/// Why a leg cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LegError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    H2(#[from] h2::Error),
    #[error("malformed body")]
    Malformed,
    #[error("ended in the middle")]
    Truncated,
}

/// Which leg of a pump broke.
#[derive(Debug)]
pub(crate) enum Broken {
    From(LegError),
    To(LegError),
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

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, LegError>> {
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
                    .map_err(|_| LegError::Malformed)?;
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

    fn poll_accept(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, LegError>> {
        match self.writer {
            Writer::Plain if self.out.is_empty() => {
                let count = ready!(self.io.poll_send(cx, data))?;
                if count == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                self.unpushed = true;
                Poll::Ready(Ok(count))
            }
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

    fn finish(&mut self, trailers: Trailers<'_>) {
        if std::mem::replace(&mut self.finished, true) || self.writer == Writer::Plain {
            return;
        }
        self.out.extend_from_slice(b"0\r\n");
        match trailers {
            Trailers::None => {}
            Trailers::Text(lines) => self.out.extend_from_slice(lines),
            Trailers::Map(map) => {
                for (name, value) in map {
                    if may_trail(name.as_str().as_bytes()) {
                        self.out.extend_from_slice(name.as_str().as_bytes());
                        self.out.extend_from_slice(b": ");
                        self.out.extend_from_slice(value.as_bytes());
                        self.out.extend_from_slice(b"\r\n");
                    }
                }
            }
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Fields that frame or route a message mean nothing behind it (RFC 9110, 6.5.1).
fn may_trail(name: &[u8]) -> bool {
    matches!(
        fields::classify(name),
        Name::Other | Name::GrpcStatus | Name::RequestId | Name::ServiceTime
    )
}

#[derive(Debug, Clone, Copy)]
enum Trailers<'m> {
    None,
    Text(&'m [u8]),
    Map(&'m HeaderMap),
}

/// Trailer lines as a map; lines that are not fields are left out.
fn parse_trailers(lines: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(at) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(at);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            && may_trail(name.as_str().as_bytes())
        {
            map.append(name, value);
        }
    }
    map
}

impl H2Leg {
    /// The side of a caller.
    pub(crate) fn called(
        recv: h2::RecvStream,
        respond: h2::server::SendResponse<Bytes>,
    ) -> Box<Self> {
        Box::new(Self {
            recv: Some(recv),
            respond: Some(respond),
            ..Self::default()
        })
    }

    /// The side of an endpoint; `sent_end` says that the request has no body.
    pub(crate) fn calling(send: h2::SendStream<Bytes>, sent_end: bool) -> Box<Self> {
        Box::new(Self {
            send: Some(send),
            sent_end,
            ..Self::default()
        })
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, LegError>> {
        loop {
            if !self.data.is_empty() {
                return Poll::Ready(Ok(Piece::Data));
            }
            let Some(recv) = self.recv.as_mut().filter(|_| !self.recv_done) else {
                return Poll::Ready(Ok(Piece::End));
            };
            if let Some(data) = ready!(recv.poll_data(cx)) {
                self.data = data?;
            } else {
                self.trailers = ready!(recv.poll_trailers(cx))?;
                self.recv_done = true;
            }
        }
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Result<usize, LegError>> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(Err(LegError::Truncated));
        };
        let wanted = wanted.min(LARGE);
        send.reserve_capacity(wanted);
        let mut capacity = send.capacity();
        while capacity == 0 {
            capacity = match ready!(send.poll_capacity(cx)) {
                Some(capacity) => capacity?,
                None => return Poll::Ready(Err(LegError::Truncated)),
            };
        }
        Poll::Ready(Ok(capacity.min(wanted)))
    }

    fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), LegError> {
        if let Some(send) = self.send.as_mut().filter(|_| !self.sent_end) {
            send.send_data(data, end)?;
            self.sent_end = end;
        }
        Ok(())
    }

    /// Puts bytes of a replayed body behind the head; few enough not to wait for the window.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(), LegError> {
        if data.is_empty() {
            return Ok(());
        }
        self.send_data(Bytes::copy_from_slice(data), false)
    }

    fn finish(&mut self, trailers: Trailers<'_>) -> Result<(), LegError> {
        if self.sent_end {
            return Ok(());
        }
        let map = match trailers {
            Trailers::Map(map) => map.clone(),
            Trailers::Text(lines) => parse_trailers(lines),
            Trailers::None => HeaderMap::new(),
        };
        if map.is_empty() {
            return self.send_data(Bytes::new(), true);
        }
        if let Some(send) = &mut self.send {
            send.send_trailers(map)?;
            self.sent_end = true;
        }
        Ok(())
    }

    /// Whether the peer gave the stream up.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<LegError> {
        let reset = match (&mut self.send, &mut self.respond) {
            (Some(send), _) if !self.sent_end => send.poll_reset(cx),
            (None, Some(respond)) => respond.poll_reset(cx),
            _ => return Poll::Pending,
        };
        reset.map(|reason| match reason {
            Ok(reason) => LegError::H2(reason.into()),
            Err(error) => LegError::H2(error),
        })
    }
}

impl Leg {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, LegError>> {
        match self {
            Self::H1(leg) => leg.poll_piece(cx),
            Self::H2(leg) => leg.poll_piece(cx),
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::H1(leg) => leg
                .input
                .data()
                .get(..leg.reader.ready())
                .unwrap_or_default(),
            Self::H2(leg) => &leg.data,
        }
    }

    fn take(&self, count: usize) -> Bytes {
        match self {
            Self::H1(_) => Bytes::copy_from_slice(self.data().get(..count).unwrap_or_default()),
            Self::H2(leg) => leg.data.slice(..count.min(leg.data.len())),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::H1(leg) => {
                leg.input.consume(count);
                leg.reader.passed(count);
            }
            Self::H2(leg) => {
                let count = count.min(leg.data.len());
                drop(leg.data.split_to(count));
                if let Some(recv) = &mut leg.recv {
                    // Fails only when the stream is gone, which the next read reports.
                    let _released = recv.flow_control().release_capacity(count);
                }
            }
        }
    }

    /// Whether nothing follows the next `count` bytes.
    fn ends_after(&self, count: usize) -> bool {
        match self {
            Self::H1(leg) => leg.reader.ready() == count && leg.reader.is_last(),
            Self::H2(leg) => {
                leg.data.len() == count
                    && leg.recv.as_ref().is_none_or(h2::RecvStream::is_end_stream)
            }
        }
    }

    fn trailers(&self) -> Trailers<'_> {
        match self {
            Self::H1(leg) => match leg.reader.trailers() {
                [] => Trailers::None,
                lines => Trailers::Text(lines),
            },
            Self::H2(leg) => leg.trailers.as_ref().map_or(Trailers::None, Trailers::Map),
        }
    }

    /// `grpc-status` in the trailers.
    pub(crate) fn grpc_status(&self) -> Option<u8> {
        let status = match self {
            Self::H1(leg) => match leg.reader.seen_trailers() {
                [] => return None,
                lines => parse_trailers(lines).get("grpc-status").cloned()?,
            },
            Self::H2(leg) => leg.trailers.as_ref()?.get("grpc-status").cloned()?,
        };
        u8::try_from(fields::decimal(status.as_bytes())?).ok()
    }

    /// Whether the whole body was read from it and passed on.
    pub(crate) fn is_drained(&self) -> bool {
        match self {
            Self::H1(leg) => leg.reader.is_done() && leg.reader.ready() == 0,
            Self::H2(leg) => {
                leg.data.is_empty()
                    && (leg.recv_done
                        || leg.recv.as_ref().is_none_or(h2::RecvStream::is_end_stream))
            }
        }
    }

    /// Writes everything that waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LegError>> {
        match self {
            Self::H1(leg) => leg.poll_flush(cx).map_err(LegError::from),
            // The connection's own task writes.
            Self::H2(_) => Poll::Ready(Ok(())),
        }
    }
}

/// Moves a body from `from` to `to` until it ends. `moved` counts its bytes.
pub(crate) fn pump(
    cx: &mut Context<'_>,
    from: &mut Leg,
    to: &mut Leg,
    moved: &mut u64,
    replay: Option<&mut Replay>,
) -> Poll<Result<(), Broken>> {
    let mut replay = replay;
    loop {
        if let Leg::H1(leg) = to
            && leg.out.len() > PILE
        {
            ready!(leg.poll_flush(cx)).map_err(|error| Broken::To(error.into()))?;
        }
        match from.poll_piece(cx) {
            Poll::Pending => {
                ready!(to.poll_flush(cx)).map_err(Broken::To)?;
                if let Leg::H2(leg) = to
                    && let Poll::Ready(error) = leg.poll_reset(cx)
                {
                    return Poll::Ready(Err(Broken::To(error)));
                }
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::From(error))),
            Poll::Ready(Ok(Piece::End)) => {
                match to {
                    Leg::H1(leg) => leg.finish(from.trailers()),
                    Leg::H2(leg) => leg.finish(from.trailers()).map_err(Broken::To)?,
                }
                ready!(to.poll_flush(cx)).map_err(Broken::To)?;
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(Piece::Data)) => {
                let count = match to {
                    Leg::H1(leg) => ready!(leg.poll_accept(cx, from.data())).map_err(Broken::To)?,
                    Leg::H2(leg) => {
                        let count =
                            ready!(leg.poll_accept(cx, from.data().len())).map_err(Broken::To)?;
                        leg.send_data(from.take(count), from.ends_after(count))
                            .map_err(Broken::To)?;
                        count
                    }
                };
                if let Some(replay) = &mut replay {
                    replay.keep(from.data().get(..count).unwrap_or_default());
                }
                *moved += u64::try_from(count).unwrap_or(0);
                from.consume(count);
            }
        }
    }
}
