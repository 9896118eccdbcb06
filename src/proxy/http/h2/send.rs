//! What is sent on streams, and what their users take from them.

use std::task::{Context, Poll};

use tokio::time::Instant;

use super::super::super::buffer::give_text;
use super::block::Block;
use super::frame::{self, Reason, Type};
use super::hpack::Encoder;
use super::session::{PILE, Role, Session};
use super::stream::{Stream, StreamError};

/// Writes the fields of one head into a connection's output.
pub(crate) struct HeadWriter<'s> {
    encoder: &'s mut Encoder,
    out: &'s mut Vec<u8>,
}

impl HeadWriter<'_> {
    /// A field whose name is in lower case.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8], sensitive: bool) {
        self.encoder.field(self.out, name, value, sensitive);
    }

    /// A field whose name may not be in lower case.
    pub(crate) fn any_field(&mut self, name: &[u8], value: &[u8]) {
        if name.iter().any(u8::is_ascii_uppercase) {
            self.field(&name.to_ascii_lowercase(), value, false);
        } else {
            self.field(name, value, false);
        }
    }

    /// `:status`.
    pub(crate) fn status(&mut self, status: u16) {
        self.encoder.status(self.out, status);
    }

    /// All of a request.
    pub(crate) fn request(&mut self, head: &Block) {
        self.encoder.common(self.out, b":method", head.method());
        if !head.scheme().is_empty() {
            self.encoder.common(self.out, b":scheme", head.scheme());
        }
        if let Some(authority) = head.authority() {
            self.field(b":authority", authority, false);
        }
        if !head.path().is_empty() {
            self.encoder.common(self.out, b":path", head.path());
        }
        if let Some(protocol) = head.protocol() {
            self.field(b":protocol", protocol, false);
        }
        head.each_field(|_, name, value, sensitive| self.field(name, value, sensitive));
    }
}

/// What a stream gives next.
#[derive(Debug)]
pub(crate) enum Got {
    /// The given byte string was filled.
    Data,
    /// The body ended, with these trailers.
    End(Option<Block>),
}

impl Session {
    /// Opens a stream with the head that `write` writes. `bodiless` says that its answer has no
    /// body whatever it says (HEAD).
    pub(crate) fn open(
        &mut self,
        (end, bodiless): (bool, bool),
        write: impl FnOnce(&mut HeadWriter<'_>),
    ) -> Result<(usize, u32), StreamError> {
        if !self.is_open() {
            return Err(StreamError::Refused);
        }
        let id = self.next;
        self.next += 2;
        let recv_window = i64::from(self.config.stream_window);
        let mut stream = Stream::new(id, self.peer.window, recv_window);
        stream.local_open = !end;
        stream.bodiless = bodiless;
        let key = self.streams.insert(stream);
        self.put_block(id, end, write);
        Ok((key, id))
    }

    /// Sends a head or trailers.
    pub(crate) fn send_head(
        &mut self,
        (key, id): (usize, u32),
        end: bool,
        write: impl FnOnce(&mut HeadWriter<'_>),
    ) -> Result<(), StreamError> {
        let stream = self.streams.get(key, id).ok_or(StreamError::Broken)?;
        if let Some(gone) = stream.gone {
            return Err(gone);
        }
        if !stream.local_open {
            return Err(StreamError::Broken);
        }
        stream.local_open = !end;
        self.put_block(id, end, write);
        Ok(())
    }

    fn put_block(&mut self, id: u32, end: bool, write: impl FnOnce(&mut HeadWriter<'_>)) {
        let at = self.out.len();
        let last = if end { frame::END_STREAM } else { 0 };
        frame::put_head(
            &mut self.out,
            0,
            (Type::Headers, frame::END_HEADERS | last),
            id,
        );
        self.encoder.begin(&mut self.out);
        write(&mut HeadWriter {
            encoder: &mut self.encoder,
            out: &mut self.out,
        });
        if self.out.len() - at - frame::HEAD > self.peer.max_frame {
            self.split_block(at, id, last);
        } else {
            frame::set_length(&mut self.out, at);
        }
        self.notify();
    }

    /// Cuts a head that is too large for one frame into several.
    #[cold]
    fn split_block(&mut self, at: usize, id: u32, last: u8) {
        let block = self.out.split_off(at);
        let payload = block.get(frame::HEAD..).unwrap_or_default();
        let mut parts = payload.chunks(self.peer.max_frame).peekable();
        let mut kind = (Type::Headers, last);
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                kind.1 |= frame::END_HEADERS;
            }
            frame::put_head(&mut self.out, part.len(), kind, id);
            self.out.extend_from_slice(part);
            kind = (Type::Continuation, 0);
        }
    }

    /// Sends as much of `data` as there is room for, and the end behind all of it if `end`. Pending
    /// while there is no room at all.
    pub(crate) fn poll_send(
        &mut self,
        cx: &Context<'_>,
        (key, id): (usize, u32),
        (data, end): (&[u8], bool),
        now: impl FnOnce() -> Instant,
    ) -> Poll<Result<usize, StreamError>> {
        let pending = self.output().len();
        let stream = self.streams.get(key, id).ok_or(StreamError::Broken)?;
        if let Some(gone) = stream.gone {
            return Poll::Ready(Err(gone));
        }
        if !stream.local_open {
            return Poll::Ready(Err(StreamError::Broken));
        }
        if data.is_empty() {
            if end {
                stream.local_open = false;
                frame::put_head(&mut self.out, 0, (Type::Data, frame::END_STREAM), id);
                self.notify();
            }
            return Poll::Ready(Ok(0));
        }
        let mut sent = 0;
        let mut room = PILE.saturating_sub(pending);
        while let Some(rest) = data.get(sent..).filter(|rest| !rest.is_empty()) {
            let window = stream.send_window.min(self.send_window);
            let count = usize::try_from(window)
                .unwrap_or(0)
                .min(rest.len())
                .min(room)
                .min(frame::PAYLOAD);
            if count == 0 {
                break;
            }
            let last = end && count == rest.len();
            let flags = if last { frame::END_STREAM } else { 0 };
            frame::put_head(&mut self.out, count, (Type::Data, flags), id);
            self.out
                .extend_from_slice(rest.get(..count).unwrap_or_default());
            stream.local_open &= !last;
            let taken = i64::try_from(count).unwrap_or(i64::MAX);
            stream.send_window -= taken;
            self.send_window -= taken;
            self.guard.sent();
            room -= count;
            sent += count;
        }
        if sent > 0 {
            stream.stalled = None;
            self.notify();
            return Poll::Ready(Ok(sent));
        }
        stream.register(cx);
        if stream.send_window > 0 && !stream.queued {
            stream.queued = true;
            self.queue.push_back((key, id));
        }
        if stream.stalled.is_none() {
            let now = now();
            stream.stalled = Some(now);
            let look = now + self.config.stall;
            self.look.get_or_insert(look);
            // The connection's task has to know by when it is to look.
            self.notify();
        }
        Poll::Pending
    }

    /// The head of an answer, and whether that is all of it.
    pub(crate) fn poll_head(
        &mut self,
        cx: &Context<'_>,
        (key, id): (usize, u32),
    ) -> Poll<Result<(Block, bool), StreamError>> {
        let stream = self.streams.get(key, id).ok_or(StreamError::Broken)?;
        if let Some(head) = stream.heads.pop_front() {
            let end = stream.complete && stream.data.is_empty() && stream.trailers.is_none();
            return Poll::Ready(Ok((head, end)));
        }
        if let Some(gone) = stream.gone {
            return Poll::Ready(Err(gone));
        }
        stream.register(cx);
        Poll::Pending
    }

    /// What came on a stream. `into` is empty; its memory is used for what comes next.
    pub(crate) fn poll_take(
        &mut self,
        cx: &Context<'_>,
        (key, id): (usize, u32),
        into: &mut Vec<u8>,
    ) -> Poll<Result<Got, StreamError>> {
        let stream = self.streams.get(key, id).ok_or(StreamError::Broken)?;
        if !stream.data.is_empty() {
            std::mem::swap(&mut stream.data, into);
            return Poll::Ready(Ok(Got::Data));
        }
        if stream.complete {
            return Poll::Ready(Ok(Got::End(stream.trailers.take())));
        }
        if let Some(gone) = stream.gone {
            return Poll::Ready(Err(gone));
        }
        stream.register(cx);
        Poll::Pending
    }

    /// Whether nothing follows what was taken.
    pub(crate) fn is_last(&mut self, (key, id): (usize, u32)) -> bool {
        self.streams.get(key, id).is_none_or(|stream| {
            stream.complete && stream.data.is_empty() && stream.trailers.is_none()
        })
    }

    /// Whether the stream was ended before its time.
    pub(crate) fn poll_gone(
        &mut self,
        cx: &Context<'_>,
        (key, id): (usize, u32),
    ) -> Poll<StreamError> {
        let Some(stream) = self.streams.get(key, id) else {
            return Poll::Ready(StreamError::Broken);
        };
        if let Some(gone) = stream.gone {
            return Poll::Ready(gone);
        }
        stream.register(cx);
        Poll::Pending
    }

    /// Says that `count` bytes of a stream were passed on.
    pub(crate) fn consumed(&mut self, (key, id): (usize, u32), count: usize) {
        self.owe(count);
        self.owe_stream(key, id, count);
    }

    /// Bytes of the connection's window that can be given back; told when they are many.
    pub(super) fn owe(&mut self, count: usize) {
        self.owed = self
            .owed
            .saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        let window = self.config.connection_window.max(frame::WINDOW);
        if self.owed >= window / 2 && self.ended().is_none() {
            frame::put_window(&mut self.out, 0, self.owed);
            self.recv_window += i64::from(self.owed);
            self.owed = 0;
            self.notify();
        }
    }

    pub(super) fn owe_stream(&mut self, key: usize, id: u32, count: usize) {
        let Some(stream) = self.streams.get(key, id) else {
            return;
        };
        if !stream.remote_open {
            return;
        }
        stream.owed = stream
            .owed
            .saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if stream.owed >= self.config.stream_window / 2 {
            stream.recv_window += i64::from(stream.owed);
            frame::put_window(&mut self.out, id, stream.owed);
            stream.owed = 0;
            self.notify();
        }
    }

    /// Ends a stream for a reason of ours.
    pub(crate) fn give_up(&mut self, (key, id): (usize, u32), reason: Reason) {
        if let Some(stream) = self.streams.get(key, id)
            && stream.gone.is_none()
            && (stream.remote_open || stream.local_open)
        {
            stream.end(StreamError::Reset(reason));
            self.put_reset(id, reason);
        }
    }

    /// Lets a stream go. What has not been sent or received of it is cancelled.
    pub(crate) fn release(&mut self, (key, id): (usize, u32), now: impl FnOnce() -> Instant) {
        let Some(stream) = self.streams.remove(key, id) else {
            return;
        };
        if stream.gone.is_none() {
            match (self.role, stream.local_open, stream.remote_open) {
                (_, false, false) => {}
                // The answer is complete: the rest of the request is not needed (RFC 9113, 8.1).
                (Role::Server, false, true) => self.put_reset(id, Reason::NO_ERROR),
                _ => self.put_reset(id, Reason::CANCEL),
            }
        }
        self.owe(stream.data.len());
        give_text(stream.data);
        if self.streams.is_empty() {
            self.rested(now());
        }
    }
}
