//! One side of an exchange: bodies come from it and go to it, whichever HTTP it speaks.
//!
//! A [`pump`] moves a body from one leg to the other in a single poll function, so that the body
//! going up and the answer coming down share a task without splitting the connections. What has
//! piled up is written together: head and body leave in one write in the common case.

mod h1;
mod h2;
mod recoded;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite as _;

use super::Framing;
use super::fields::{self, Name};
use super::h1::body::BodyReader;
use super::h2::block::{Block, is_field};
use super::h2::stream::StreamError;
use super::replay::Replay;

pub(crate) use self::h1::{H1Leg, Writer};
pub(crate) use self::h2::H2Leg;
pub(crate) use self::recoded::{Recoding, pump as pump_recoded};

/// Pending output is written before more is taken.
const PILE: usize = 32 * 1024;

/// One side of an exchange.
#[derive(Debug)]
pub(crate) enum Leg {
    /// An HTTP/1 connection.
    H1(Box<H1Leg>),
    /// An HTTP/2 stream.
    H2(Box<H2Leg>),
    /// The caller of a copied request: it has sent everything, and takes whatever comes.
    Nobody,
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
    H2(#[from] StreamError),
    #[error("malformed body")]
    Malformed,
    #[error("body too large")]
    TooLarge,
    #[error("ended in the middle")]
    Truncated,
}

/// Which leg of a pump broke.
#[derive(Debug)]
pub(crate) enum Broken {
    From(LegError),
    To(LegError),
}

/// Fields that frame or route a message mean nothing behind it (RFC 9110, 6.5.1).
fn may_trail(name: Name) -> bool {
    matches!(
        name,
        Name::Other
            | Name::GrpcStatus
            | Name::RequestId
            | Name::ServiceTime
            | Name::Trace
            | Name::TraceState
    )
}

/// The trailers of a body, as they were read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trailers<'m> {
    None,
    /// Lines of HTTP/1.
    Text(&'m [u8]),
    /// Read from HTTP/2.
    Block(&'m Block),
}

impl<'m> Trailers<'m> {
    /// Calls `visit` with each field that may be one; lines that are not fields are left out.
    pub(crate) fn each(self, mut visit: impl FnMut(&'m [u8], &'m [u8])) {
        match self {
            Self::None => {}
            Self::Block(block) => block.each(|known, name, value| {
                if may_trail(known) {
                    visit(name, value);
                }
            }),
            Self::Text(lines) => {
                for line in lines.split(|byte| *byte == b'\n') {
                    let Some(at) = line.iter().position(|byte| *byte == b':') else {
                        continue;
                    };
                    let (name, value) = line.split_at(at);
                    let value = value.get(1..).unwrap_or_default().trim_ascii();
                    if is_field(name, value) && may_trail(fields::classify(name)) {
                        visit(name, value);
                    }
                }
            }
        }
    }

    /// `grpc-status`.
    fn grpc_status(self) -> Option<u8> {
        let mut status = None;
        self.each(|name, value| {
            if name.eq_ignore_ascii_case(b"grpc-status") {
                status = fields::decimal(value).and_then(|status| u8::try_from(status).ok());
            }
        });
        status
    }
}

impl Leg {
    /// Waits for more of the body, or its end.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, LegError>> {
        match self {
            Self::H1(leg) => leg.poll_piece(cx),
            Self::H2(leg) => leg.poll_piece(cx),
            Self::Nobody => Poll::Ready(Ok(Piece::End)),
        }
    }

    /// What came and was not taken yet.
    pub(crate) fn data(&self) -> &[u8] {
        match self {
            Self::H1(leg) => leg
                .input
                .data()
                .get(..leg.reader.ready())
                .unwrap_or_default(),
            Self::H2(leg) => leg.data(),
            Self::Nobody => &[],
        }
    }

    /// Takes that much of it.
    pub(crate) fn consume(&mut self, count: usize) {
        match self {
            Self::H1(leg) => {
                leg.input.consume(count);
                leg.reader.passed(count);
            }
            Self::H2(leg) => leg.consume(count),
            Self::Nobody => {}
        }
    }

    /// Whether nothing follows the next `count` bytes.
    fn ends_after(&self, count: usize) -> bool {
        match self {
            Self::H1(leg) => leg.reader.ready() == count && leg.reader.is_last(),
            Self::H2(leg) => leg.ends_after(count),
            Self::Nobody => true,
        }
    }

    fn trailers(&self) -> Trailers<'_> {
        match self {
            Self::H1(leg) => match leg.reader.trailers() {
                [] => Trailers::None,
                lines => Trailers::Text(lines),
            },
            Self::H2(leg) => leg.trailers(),
            Self::Nobody => Trailers::None,
        }
    }

    /// The trailers that were passed on.
    pub(crate) fn seen_trailers(&self) -> Trailers<'_> {
        match self {
            Self::H1(leg) => Trailers::Text(leg.reader.seen_trailers()),
            Self::H2(leg) => leg.trailers(),
            Self::Nobody => Trailers::None,
        }
    }

    /// `grpc-status` in the trailers.
    pub(crate) fn grpc_status(&self) -> Option<u8> {
        self.seen_trailers().grpc_status()
    }

    /// Whether the whole body was read from it and passed on.
    pub(crate) fn is_drained(&self) -> bool {
        match self {
            Self::H1(leg) => leg.reader.is_done() && leg.reader.ready() == 0,
            Self::H2(leg) => leg.is_drained(),
            Self::Nobody => true,
        }
    }

    /// From here on bytes are passed as they are, in both directions.
    pub(crate) fn stop_framing(&mut self) {
        if let Self::H1(leg) = self {
            leg.begin(Writer::Plain);
            leg.reader = BodyReader::new(Framing::Close, false);
        }
    }

    /// Says to the peer that nothing more is sent; over HTTP/2 the last frame said so.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            // One that cannot be shut down has ended already.
            Self::H1(leg) => Pin::new(&mut leg.io).poll_shutdown(cx).map(|_| ()),
            Self::H2(_) | Self::Nobody => Poll::Ready(()),
        }
    }

    /// Writes everything that waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LegError>> {
        match self {
            Self::H1(leg) => leg.poll_flush(cx).map_err(LegError::from),
            // The connection's own task writes, but for what waits for its window.
            Self::H2(leg) => leg.poll_ahead(cx).map_err(LegError::from),
            Self::Nobody => Poll::Ready(Ok(())),
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
                    return Poll::Ready(Err(Broken::To(error.into())));
                }
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::From(error))),
            Poll::Ready(Ok(Piece::End)) => {
                match to {
                    Leg::H1(leg) => leg.finish(from.trailers()),
                    Leg::H2(leg) => {
                        let finished = ready!(leg.poll_finish(cx, from.trailers()));
                        finished.map_err(|error| Broken::To(error.into()))?;
                    }
                    Leg::Nobody => {}
                }
                ready!(to.poll_flush(cx)).map_err(Broken::To)?;
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(Piece::Data)) => {
                let count = match to {
                    Leg::H1(leg) => ready!(leg.poll_accept(cx, from.data())).map_err(Broken::To)?,
                    Leg::H2(leg) => {
                        let data = from.data();
                        let last = from.ends_after(data.len());
                        let sent = ready!(leg.poll_send(cx, data, last));
                        sent.map_err(|error| Broken::To(error.into()))?
                    }
                    Leg::Nobody => from.data().len(),
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
