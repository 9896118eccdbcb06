//! One side of an exchange: bodies come from it and go to it, whichever HTTP it speaks.
//!
//! A [`pump`] moves a body from one leg to the other in a single poll function, so that the body
//! going up and the answer coming down share a task without splitting the connections. What has
//! piled up is written together: head and body leave in one write in the common case.

mod h1;
mod h2;

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::fields::{self, Name};
use super::replay::Replay;

pub(crate) use self::h1::{H1Leg, Writer};
pub(crate) use self::h2::H2Leg;

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
    H2(#[from] ::h2::Error),
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
                    && leg
                        .recv
                        .as_ref()
                        .is_none_or(::h2::RecvStream::is_end_stream)
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
                        || leg
                            .recv
                            .as_ref()
                            .is_none_or(::h2::RecvStream::is_end_stream))
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
