//! Frames that come in. Every way to break the protocol is answered as RFC 9113 says: by a reset of
//! the stream, or by the end of the connection where its state can no longer be agreed on.

use tokio::time::Instant;

use super::block::Block;
use super::frame::{self, Head, Reason, Type};
use super::guard::Flood;
use super::session::{Arrived, Fault, Gathering, Leaving, Partial, Role, Session};
use super::stream::{Stream, StreamError};

/// CONTINUATION frames of one block (nghttp2's default).
const MAX_CONTINUATIONS: u32 = 8;
/// Informational heads that may wait to be taken.
const MAX_HEADS: usize = 16;
/// Streams beyond the limit that were reset and are still being cleared away.
const SPARE: usize = 100;

pub(super) const SIZE: &str = "http2.frame_size";
pub(super) const FRAMING: &str = "http2.protocol_error";
const CLOSED: &str = "http2.stream_closed";
pub(super) const WINDOW: &str = "http2.flow_control";

impl Session {
    /// Reads frames from `data`; says how many bytes of it are done with.
    pub(crate) fn receive(&mut self, data: &[u8], now: Instant) -> usize {
        let mut used = 0;
        while self.ended().is_none() {
            let rest = data.get(used..).unwrap_or_default();
            match self.step(rest, now) {
                Ok(0) => {
                    if used > 0 && self.greeted && self.gathering.is_none() {
                        self.waiting = None;
                    }
                    let incomplete = !rest.is_empty() || self.gathering.is_some() || !self.greeted;
                    if incomplete {
                        self.waiting.get_or_insert(now);
                    }
                    return used;
                }
                Ok(count) => used += count,
                Err(fault) => self.fail(fault),
            }
        }
        data.len()
    }

    /// Reads the next thing; 0 when it is not complete.
    fn step(&mut self, rest: &[u8], now: Instant) -> Result<usize, Fault> {
        if self.preface > 0 {
            return self.read_preface(rest);
        }
        if self.partial.is_some() {
            return Ok(self.read_data(rest));
        }
        let Some(head) = Head::read(rest) else {
            return Ok(0);
        };
        if head.length > frame::PAYLOAD {
            return Err(Fault::new(Reason::FRAME_SIZE_ERROR, SIZE));
        }
        if !self.greeted && (head.kind != Type::Settings || head.has(frame::ACK)) {
            return Err(Fault::protocol("http2.no_settings"));
        }
        if let Some(gathering) = &self.gathering
            && (head.kind != Type::Continuation || head.stream != gathering.stream)
        {
            return Err(Fault::protocol(FRAMING));
        }
        if head.kind == Type::Data {
            return self.begin_data(head, rest, now);
        }
        let whole = frame::HEAD + head.length;
        let Some(payload) = rest.get(frame::HEAD..whole) else {
            return Ok(0);
        };
        match head.kind {
            Type::Headers => self.on_headers(head, payload, now)?,
            Type::Continuation => self.on_continuation(head, payload, now)?,
            Type::Priority => self.on_priority(head, payload, now)?,
            Type::Reset => self.on_reset(head, payload, now)?,
            Type::Settings => self.on_settings(head, payload, now)?,
            Type::Ping => self.on_ping(head, payload, now)?,
            Type::GoAway => self.on_go_away(head, payload)?,
            Type::Window => self.on_window(head, payload, now)?,
            // We never allow it.
            Type::Push => return Err(Fault::protocol(FRAMING)),
            Type::Data | Type::Unknown => self.guard.stray(now)?,
        }
        self.guard.unread(self.answers)?;
        Ok(whole)
    }

    fn read_preface(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let at = frame::PREFACE.len() - self.preface;
        let expected = frame::PREFACE.get(at..).unwrap_or_default();
        let count = expected.len().min(rest.len());
        if rest.get(..count) != expected.get(..count) {
            return Err(Fault::protocol("http2.bad_preface"));
        }
        self.preface -= count;
        Ok(count)
    }

    /// Whether a stream of this number has never been opened.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        let ours = (id % 2 == 1) == (self.role == Role::Client);
        if ours {
            id >= self.next
        } else {
            id > self.last
        }
    }

    fn begin_data(&mut self, head: Head, rest: &[u8], now: Instant) -> Result<usize, Fault> {
        let (start, padding) = if head.has(frame::PADDED) {
            if head.length == 0 {
                return Err(Fault::new(Reason::FRAME_SIZE_ERROR, SIZE));
            }
            let Some(padding) = rest.get(frame::HEAD) else {
                return Ok(0);
            };
            (1, usize::from(*padding))
        } else {
            (0, 0)
        };
        let Some(body) = head.length.checked_sub(start + padding) else {
            return Err(Fault::protocol(FRAMING));
        };
        if head.stream == 0 || self.is_idle(head.stream) {
            return Err(Fault::protocol(FRAMING));
        }
        let end = head.has(frame::END_STREAM);
        if body == 0 && !end {
            self.guard.empty()?;
        } else {
            self.guard.received();
        }
        let whole = i64::try_from(head.length).unwrap_or(i64::MAX);
        self.recv_window -= whole;
        if self.recv_window < 0 {
            return Err(Fault::new(Reason::FLOW_CONTROL_ERROR, WINDOW));
        }
        let stream = self.stream_for_data(head.stream, whole, now)?;
        let unused = match stream {
            Some(_) => start + padding,
            None => head.length,
        };
        self.owe(unused);
        if let Some((key, id)) = stream
            && unused > 0
        {
            self.owe_stream(key, id, unused);
        }
        self.partial = Some(Partial {
            stream,
            left: body,
            padding,
            end,
        });
        if body == 0 && padding == 0 {
            self.end_data();
        }
        Ok(frame::HEAD + start)
    }

    /// The stream that takes a DATA frame of `whole` bytes, if there is one.
    fn stream_for_data(
        &mut self,
        id: u32,
        whole: i64,
        now: Instant,
    ) -> Result<Option<(usize, u32)>, Fault> {
        let key = self.streams.find(id);
        let Some(stream) = key.and_then(|key| self.streams.at(key)) else {
            // After a reset of ours some may be under way; after an end there is nothing to follow.
            self.guard.stray(now)?;
            if !self.reset.contains(&id) {
                self.put_reset(id, Reason::STREAM_CLOSED);
            }
            return Ok(None);
        };
        if stream.gone.is_some() {
            self.guard.stray(now)?;
            return Ok(None);
        }
        let (reason, error) = if !stream.remote_open {
            (Reason::STREAM_CLOSED, StreamError::Malformed(CLOSED))
        } else if self.role == Role::Client && !stream.answered {
            (Reason::PROTOCOL_ERROR, StreamError::Malformed(FRAMING))
        } else {
            stream.recv_window -= whole;
            if stream.recv_window >= 0 {
                return Ok(key.map(|key| (key, id)));
            }
            (Reason::FLOW_CONTROL_ERROR, StreamError::Malformed(WINDOW))
        };
        self.offend(id, (reason, error), now)?;
        Ok(None)
    }

    fn read_data(&mut self, rest: &[u8]) -> usize {
        let Some(partial) = &mut self.partial else {
            return 0;
        };
        if partial.left == 0 {
            let count = partial.padding.min(rest.len());
            partial.padding -= count;
            if partial.padding == 0 {
                self.end_data();
            }
            return count;
        }
        let count = partial.left.min(rest.len());
        let data = rest.get(..count).unwrap_or_default();
        partial.left -= count;
        let (whole, end) = (partial.left == 0 && partial.padding == 0, partial.end);
        let length = u64::try_from(count).unwrap_or(u64::MAX);
        let stream = partial
            .stream
            .and_then(|(key, id)| self.streams.get(key, id))
            .filter(|stream| stream.gone.is_none());
        match stream {
            Some(stream) => {
                let fits = match &mut stream.missing {
                    None => !stream.bodiless,
                    Some(missing) => {
                        let left = missing.checked_sub(length);
                        *missing = left.unwrap_or(0);
                        left.is_some()
                    }
                };
                if fits {
                    if stream.data.capacity() == 0 {
                        stream.data = super::super::super::buffer::take_text();
                    }
                    stream.data.extend_from_slice(data);
                    // With its end it is woken once.
                    if !(whole && end) {
                        stream.wake();
                    }
                } else {
                    let id = stream.id;
                    self.owe(count);
                    let error = StreamError::Malformed(super::block::MESSAGING);
                    self.reset_stream(id, Reason::PROTOCOL_ERROR, error);
                }
            }
            None if partial.stream.is_some() => self.owe(count),
            None => {}
        }
        if whole {
            self.end_data();
        }
        count
    }

    fn end_data(&mut self) {
        let Some(partial) = self.partial.take() else {
            return;
        };
        if let Some((_, id)) = partial.stream.filter(|_| partial.end) {
            self.remote_end(id);
        }
    }

    /// The peer has sent all of a stream.
    fn remote_end(&mut self, id: u32) {
        let Some(stream) = self.streams.find(id).and_then(|key| self.streams.at(key)) else {
            return;
        };
        if stream.gone.is_some() {
            return;
        }
        stream.remote_open = false;
        if stream.missing.is_some_and(|missing| missing > 0) && !stream.bodiless {
            let error = StreamError::Malformed(super::block::MESSAGING);
            self.reset_stream(id, Reason::PROTOCOL_ERROR, error);
        } else {
            stream.complete = true;
            stream.wake();
        }
    }

    /// Resets a stream over what the peer did on it; peers that go on doing so are ended.
    pub(super) fn offend(
        &mut self,
        id: u32,
        (reason, error): (Reason, StreamError),
        now: Instant,
    ) -> Result<(), Fault> {
        self.guard.reset(now)?;
        self.reset_stream(id, reason, error);
        Ok(())
    }

    fn on_headers(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<(), Fault> {
        if head.stream == 0 {
            return Err(Fault::protocol(FRAMING));
        }
        let mut fragment = payload;
        if head.has(frame::PADDED) {
            let (padding, rest) = fragment
                .split_first()
                .ok_or(Fault::new(Reason::FRAME_SIZE_ERROR, SIZE))?;
            let end = rest
                .len()
                .checked_sub(usize::from(*padding))
                .ok_or(Fault::protocol(FRAMING))?;
            fragment = rest.get(..end).unwrap_or_default();
        }
        let mut on_itself = false;
        if head.has(frame::PRIORITY) {
            let (priority, rest) = fragment
                .split_at_checked(5)
                .ok_or(Fault::new(Reason::FRAME_SIZE_ERROR, SIZE))?;
            on_itself = frame::number(priority) == head.stream;
            fragment = rest;
        }
        let end = head.has(frame::END_STREAM);
        if fragment.is_empty() {
            self.guard.empty()?;
        }
        if head.has(frame::END_HEADERS) {
            self.on_block(head.stream, end, fragment, now)?;
            if on_itself {
                let error = StreamError::Malformed(FRAMING);
                self.offend(head.stream, (Reason::PROTOCOL_ERROR, error), now)?;
            }
            return Ok(());
        }
        self.gathering = Some(Gathering {
            stream: head.stream,
            end,
            text: fragment.to_vec(),
            frames: 0,
        });
        Ok(())
    }

    fn on_continuation(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<(), Fault> {
        let Some(gathering) = &mut self.gathering else {
            return Err(Fault::protocol(FRAMING));
        };
        gathering.frames += 1;
        // What is longer when compressed than it may be when not is no head.
        if gathering.frames > MAX_CONTINUATIONS
            || gathering.text.len() + payload.len() > self.config.head.size
        {
            return Err(Flood::Continuations.into());
        }
        gathering.text.extend_from_slice(payload);
        if head.has(frame::END_HEADERS) {
            if let Some(whole) = self.gathering.take() {
                return self.on_block(whole.stream, whole.end, &whole.text, now);
            }
        } else if payload.is_empty() {
            self.guard.empty()?;
        }
        Ok(())
    }

    /// A whole header block.
    fn on_block(&mut self, id: u32, end: bool, fragment: &[u8], now: Instant) -> Result<(), Fault> {
        let mut block = Block::default();
        // Always, as the table of the connection depends on it.
        self.decoder
            .decode(fragment, &mut block, self.config.head)
            .map_err(|_| Fault::new(Reason::COMPRESSION_ERROR, "http2.header_compression"))?;
        match self.streams.find(id) {
            Some(key) => self.on_further_block(key, id, end, block, now),
            None if self.role == Role::Server => self.on_request(id, end, block, now),
            None if self.is_idle(id) => Err(Fault::protocol(FRAMING)),
            None => Ok(self.guard.stray(now)?),
        }
    }

    fn on_request(
        &mut self,
        id: u32,
        end: bool,
        mut block: Block,
        now: Instant,
    ) -> Result<(), Fault> {
        if id.is_multiple_of(2) {
            return Err(Fault::protocol(FRAMING));
        }
        if id <= self.last {
            if self.reset.contains(&id) {
                return Ok(self.guard.stray(now)?);
            }
            return Err(Fault::new(Reason::STREAM_CLOSED, CLOSED));
        }
        if matches!(self.leaving, Leaving::Told(_)) {
            // It has been told that this is not looked at.
            return Ok(self.guard.stray(now)?);
        }
        self.last = id;
        self.guard.opened();
        self.opened = self.opened.saturating_add(1);
        if self.opened == self.config.max_requests {
            self.leave(now);
        }
        let allowed = usize::try_from(self.config.max_streams).unwrap_or(usize::MAX);
        if self.streams.len() >= allowed {
            let live = self.streams.live();
            if live >= allowed || self.streams.len() >= allowed.saturating_add(SPARE) {
                self.guard.reset(now)?;
                self.put_reset(id, Reason::REFUSED_STREAM);
                return Ok(());
            }
        }
        if block.fault_of_request().is_some() {
            // Whoever serves it resets it.
            self.guard.reset(now)?;
        }
        block.join_cookies();
        let recv_window = i64::from(self.config.stream_window);
        let mut stream = Stream::new(id, self.peer.window, recv_window);
        stream.remote_open = !end;
        stream.complete = end;
        stream.missing = block.length;
        stream.answered = true;
        let key = self.streams.insert(stream);
        if end && block.length.is_some_and(|length| length > 0) {
            let error = StreamError::Malformed(super::block::MESSAGING);
            self.offend(id, (Reason::PROTOCOL_ERROR, error), now)?;
        }
        self.arrived.push_back(Arrived {
            key,
            id,
            head: block,
            end,
        });
        Ok(())
    }

    /// Trailers, or the head of an answer.
    fn on_further_block(
        &mut self,
        key: usize,
        id: u32,
        end: bool,
        mut block: Block,
        now: Instant,
    ) -> Result<(), Fault> {
        let Some(stream) = self.streams.get(key, id) else {
            return Ok(());
        };
        if stream.gone.is_some() {
            return Ok(self.guard.stray(now)?);
        }
        if !stream.remote_open {
            let error = StreamError::Malformed(CLOSED);
            return self.offend(id, (Reason::STREAM_CLOSED, error), now);
        }
        let fault = if stream.answered {
            let fault = block.fault_of_trailers();
            let cut = block.is_cut().then_some("http2.too_large_trailers");
            let open = (!end).then_some(super::block::MESSAGING);
            fault.or(cut).or(open)
        } else {
            let inform = block.status < 200;
            let fault = block.fault_of_response();
            let many = stream.heads.len() >= MAX_HEADS || (inform && end);
            fault.or(many.then_some(super::block::MESSAGING))
        };
        if let Some(fault) = fault {
            let error = StreamError::Malformed(fault);
            return self.offend(id, (Reason::PROTOCOL_ERROR, error), now);
        }
        if stream.answered {
            stream.trailers = Some(block);
        } else {
            if block.status >= 200 {
                stream.answered = true;
                stream.bodiless |= matches!(block.status, 204 | 304);
                if !stream.bodiless {
                    stream.missing = block.length;
                }
            }
            block.join_cookies();
            stream.heads.push_back(block);
        }
        if end {
            self.remote_end(id);
        } else {
            stream.wake();
        }
        Ok(())
    }
}
