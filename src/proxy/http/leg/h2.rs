//! The HTTP/2 kind of leg: a stream.

use std::task::{Context, Poll, ready};

use super::super::super::buffer::give_text;
use super::super::h2::block::Block;
use super::super::h2::frame::Reason;
use super::super::h2::handle::Handle;
use super::super::h2::send::{Got, HeadWriter};
use super::super::h2::stream::StreamError;
use super::{LegError, Piece, Trailers};

/// An HTTP/2 stream.
#[derive(Debug)]
pub(crate) struct H2Leg {
    stream: Handle,
    /// Came and was not passed on, from this place.
    data: Vec<u8>,
    at: usize,
    recv_done: bool,
    trailers: Option<Block>,
    /// A replayed body, from this place, that goes before what comes.
    ahead: (Vec<u8>, usize),
    sent_end: bool,
    /// Bytes that may still come, where they are limited.
    left: Option<u64>,
    /// The last head of an answer was sent.
    pub(crate) answered: bool,
}

impl H2Leg {
    /// A leg over `stream`; `sent_end` says that what is sent on it has no body.
    pub(crate) fn new(stream: Handle, sent_end: bool) -> Box<Self> {
        Box::new(Self {
            stream,
            data: Vec::new(),
            at: 0,
            recv_done: false,
            trailers: None,
            ahead: (Vec::new(), 0),
            sent_end,
            left: None,
            answered: false,
        })
    }

    /// Takes `most` bytes at most.
    pub(crate) fn up_to(&mut self, most: Option<u32>) {
        self.left = most.map(u64::from);
    }

    /// Sends an informational head.
    pub(crate) fn inform(&self, write: impl FnOnce(&mut HeadWriter<'_>)) {
        // One that cannot be sent is not missed.
        let _sent = self.stream.send_head(false, write);
    }

    /// Sends the head of the answer; `end` says that it is all.
    pub(crate) fn answer(&mut self, end: bool, write: impl FnOnce(&mut HeadWriter<'_>)) {
        self.answered = true;
        self.sent_end = end;
        // Fails only when the caller is gone, which whatever comes next reports.
        let _sent = self.stream.send_head(end, write);
    }

    /// The head of the answer, and whether that is all of it.
    pub(crate) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<(Block, bool), StreamError>> {
        self.stream.poll_head(cx)
    }

    pub(super) fn poll_piece(&mut self, cx: &Context<'_>) -> Poll<Result<Piece, LegError>> {
        loop {
            if self.at < self.data.len() {
                return Poll::Ready(Ok(Piece::Data));
            }
            if self.recv_done {
                return Poll::Ready(Ok(Piece::End));
            }
            self.data.clear();
            self.at = 0;
            match ready!(self.stream.poll_take(cx, &mut self.data))? {
                Got::End(trailers) => {
                    self.trailers = trailers;
                    self.recv_done = true;
                }
                Got::Data => {
                    let came = u64::try_from(self.data.len()).unwrap_or(u64::MAX);
                    if let Some(left) = &mut self.left {
                        *left = left.checked_sub(came).ok_or(LegError::TooLarge)?;
                    }
                }
            }
        }
    }

    pub(super) fn data(&self) -> &[u8] {
        self.data.get(self.at..).unwrap_or_default()
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.at += count;
        self.stream.consumed(count);
    }

    pub(super) fn ends_after(&self, count: usize) -> bool {
        self.data.len() - self.at == count
            && self.trailers.is_none()
            && (self.recv_done || self.stream.is_last())
    }

    pub(super) fn is_drained(&self) -> bool {
        self.data.len() == self.at && (self.recv_done || self.stream.is_last())
    }

    pub(super) fn trailers(&self) -> Trailers<'_> {
        self.trailers
            .as_ref()
            .map_or(Trailers::None, Trailers::Block)
    }

    /// Sends of a replayed body what there is room for; ready when it is gone.
    pub(super) fn poll_ahead(&mut self, cx: &Context<'_>) -> Poll<Result<(), StreamError>> {
        let (text, at) = &mut self.ahead;
        while let Some(rest) = text.get(*at..).filter(|rest| !rest.is_empty()) {
            *at += ready!(self.stream.poll_send(cx, rest, false))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends `data` as far as there is room, and the end behind it if it is the `last`.
    pub(crate) fn poll_send(
        &mut self,
        cx: &Context<'_>,
        data: &[u8],
        last: bool,
    ) -> Poll<Result<usize, StreamError>> {
        if self.sent_end {
            // Nobody wants it (the answer to a HEAD).
            return Poll::Ready(Ok(data.len()));
        }
        ready!(self.poll_ahead(cx))?;
        let count = ready!(self.stream.poll_send(cx, data, last))?;
        self.sent_end = last && count == data.len();
        Poll::Ready(Ok(count))
    }

    /// Puts bytes of a replayed body behind the head.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.ahead = (data.to_vec(), 0);
    }

    pub(super) fn poll_finish(
        &mut self,
        cx: &Context<'_>,
        trailers: Trailers<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if self.sent_end {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_ahead(cx))?;
        let mut any = false;
        trailers.each(|_, _| any = true);
        if any {
            self.stream.send_head(true, |head| {
                trailers.each(|name, value| head.any_field(name, value));
            })?;
        } else {
            ready!(self.stream.poll_send(cx, &[], true))?;
        }
        self.sent_end = true;
        Poll::Ready(Ok(()))
    }

    /// Whether the peer gave the stream up.
    pub(crate) fn poll_reset(&self, cx: &Context<'_>) -> Poll<StreamError> {
        self.stream.poll_gone(cx)
    }

    /// Gives the stream up.
    pub(crate) fn reset(&self, reason: Reason) {
        self.stream.give_up(reason);
    }
}

impl Drop for H2Leg {
    fn drop(&mut self) {
        // What nobody took is given back to the connection's window.
        self.stream
            .consumed(self.data.len().saturating_sub(self.at));
        give_text(std::mem::take(&mut self.data));
    }
}
