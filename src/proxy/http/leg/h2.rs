//! The HTTP/2 kind of leg: a stream.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use super::super::super::buffer::LARGE;
use super::{LegError, Piece, Trailers, parse_trailers};

/// An HTTP/2 stream.
#[derive(Debug, Default)]
pub(crate) struct H2Leg {
    pub(crate) recv: Option<::h2::RecvStream>,
    pub(super) data: Bytes,
    pub(super) recv_done: bool,
    pub(super) trailers: Option<HeaderMap>,
    pub(crate) send: Option<::h2::SendStream<Bytes>>,
    pub(crate) respond: Option<::h2::server::SendResponse<Bytes>>,
    pub(crate) sent_end: bool,
}

impl H2Leg {
    /// The side of a caller.
    pub(crate) fn called(
        recv: ::h2::RecvStream,
        respond: ::h2::server::SendResponse<Bytes>,
    ) -> Box<Self> {
        Box::new(Self {
            recv: Some(recv),
            respond: Some(respond),
            ..Self::default()
        })
    }

    /// The side of an endpoint; `sent_end` says that the request has no body.
    pub(crate) fn calling(send: ::h2::SendStream<Bytes>, sent_end: bool) -> Box<Self> {
        Box::new(Self {
            send: Some(send),
            sent_end,
            ..Self::default()
        })
    }

    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, LegError>> {
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

    pub(super) fn poll_accept(
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

    pub(super) fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), LegError> {
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

    pub(super) fn finish(&mut self, trailers: Trailers<'_>) -> Result<(), LegError> {
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
