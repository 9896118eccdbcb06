//! Frames that come in and carry no message: settings, windows, pings, and ends.

use tokio::time::Instant;

use super::frame::{self, Head, Reason, Type, setting};
use super::receive::{FRAMING, SIZE, WINDOW};
use super::session::{ALIVE, Fault, LEAVING, Leaving, Role, Session};
use super::stream::StreamError;

impl Session {
    pub(super) fn on_priority(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if head.stream == 0 {
            return Err(Fault::protocol(FRAMING));
        }
        self.guard.priority()?;
        if payload.len() != 5 {
            let error = StreamError::Malformed(SIZE);
            return self.offend(head.stream, (Reason::FRAME_SIZE_ERROR, error), now);
        }
        if frame::number(payload) == head.stream {
            let error = StreamError::Malformed(FRAMING);
            return self.offend(head.stream, (Reason::PROTOCOL_ERROR, error), now);
        }
        Ok(())
    }

    pub(super) fn on_reset(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        let code = payload
            .first_chunk::<4>()
            .filter(|_| payload.len() == 4)
            .ok_or(Fault::new(Reason::FRAME_SIZE_ERROR, SIZE))?;
        if head.stream == 0 || self.is_idle(head.stream) {
            return Err(Fault::protocol(FRAMING));
        }
        let key = self.streams.find(head.stream);
        let Some(stream) = key.and_then(|key| self.streams.at(key)) else {
            return Ok(self.guard.stray(now)?);
        };
        let cancelled = stream.local_open;
        stream.end(match Reason(u32::from_be_bytes(*code)) {
            Reason::REFUSED_STREAM => StreamError::Refused,
            reason => StreamError::Reset(reason),
        });
        if cancelled && self.role == Role::Server {
            self.guard.reset(now)?;
        }
        Ok(())
    }

    pub(super) fn on_settings(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(Fault::protocol(FRAMING));
        }
        if head.has(frame::ACK) {
            if !payload.is_empty() {
                return Err(Fault::new(Reason::FRAME_SIZE_ERROR, SIZE));
            }
            if self.unacknowledged.take().is_none() {
                self.guard.stray(now)?;
            }
            return Ok(());
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Fault::new(Reason::FRAME_SIZE_ERROR, SIZE));
        }
        self.guard.settings(now)?;
        let mut window = None;
        for [a, b, c, d, e, f] in settings {
            let value = u32::from_be_bytes([*c, *d, *e, *f]);
            match u16::from_be_bytes([*a, *b]) {
                setting::TABLE_SIZE => {
                    self.encoder.resize(usize::try_from(value).unwrap_or(0));
                }
                setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                    return Err(Fault::protocol(FRAMING));
                }
                setting::MAX_STREAMS => self.peer.max_streams = value,
                // However often it is said in one frame, streams are gone through once.
                setting::INITIAL_WINDOW => match i64::from(value) {
                    value if value > frame::MAX_WINDOW => {
                        return Err(Fault::new(Reason::FLOW_CONTROL_ERROR, WINDOW));
                    }
                    value => window = Some(value),
                },
                setting::MAX_FRAME => match usize::try_from(value) {
                    Ok(value @ 16_384..=0x00ff_ffff) => self.peer.max_frame = value,
                    _ => return Err(Fault::protocol(FRAMING)),
                },
                setting::ENABLE_CONNECT if value > 1 => return Err(Fault::protocol(FRAMING)),
                setting::ENABLE_CONNECT => self.peer.connect = value == 1,
                _ => {}
            }
        }
        if let Some(window) = window {
            self.resize_windows(window)?;
        }
        self.greeted = true;
        self.unsettled.drain(..).for_each(std::task::Waker::wake);
        frame::put_head(&mut self.out, 0, (Type::Settings, frame::ACK), 0);
        self.answers += 1;
        Ok(())
    }

    /// The windows of all streams change by what new ones differ by.
    fn resize_windows(&mut self, window: i64) -> Result<(), Fault> {
        let change = window - self.peer.window;
        self.peer.window = window;
        let mut most = 0;
        self.streams.each(|stream| {
            stream.send_window += change;
            most = most.max(stream.send_window);
            if change > 0 && stream.stalled.is_some() {
                stream.wake();
            }
        });
        if most > frame::MAX_WINDOW {
            return Err(Fault::new(Reason::FLOW_CONTROL_ERROR, WINDOW));
        }
        Ok(())
    }

    pub(super) fn on_ping(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(Fault::protocol(FRAMING));
        }
        let Some(payload) = payload.first_chunk::<8>().filter(|_| payload.len() == 8) else {
            return Err(Fault::new(Reason::FRAME_SIZE_ERROR, SIZE));
        };
        if !head.has(frame::ACK) {
            self.guard.ping(now)?;
            frame::put_ping(&mut self.out, frame::ACK, *payload);
            self.answers += 1;
            return Ok(());
        }
        match *payload {
            LEAVING if matches!(self.leaving, Leaving::Warned(_)) => self.tell(),
            ALIVE if !self.pinged.1 => self.pinged = (now, true),
            _ => self.guard.stray(now)?,
        }
        Ok(())
    }

    pub(super) fn on_go_away(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(Fault::protocol(FRAMING));
        }
        if payload.len() < 8 {
            return Err(Fault::new(Reason::FRAME_SIZE_ERROR, SIZE));
        }
        let last = frame::number(payload).min(self.peer_last.unwrap_or(u32::MAX));
        self.peer_last = Some(last);
        if self.role == Role::Client {
            self.streams.each(|stream| {
                if stream.id > last {
                    stream.end(StreamError::Refused);
                }
            });
        }
        self.notify();
        Ok(())
    }

    pub(super) fn on_window(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(Fault::new(Reason::FRAME_SIZE_ERROR, SIZE));
        }
        let more = i64::from(frame::number(payload));
        self.guard.window()?;
        if head.stream == 0 {
            if more == 0 {
                return Err(Fault::protocol(FRAMING));
            }
            self.send_window += more;
            if self.send_window > frame::MAX_WINDOW {
                return Err(Fault::new(Reason::FLOW_CONTROL_ERROR, WINDOW));
            }
            self.wake_queued();
            return Ok(());
        }
        if self.is_idle(head.stream) {
            return Err(Fault::protocol(FRAMING));
        }
        let key = self.streams.find(head.stream);
        let Some(stream) = key.and_then(|key| self.streams.at(key)) else {
            return Ok(());
        };
        if stream.gone.is_some() {
            return Ok(());
        }
        if more == 0 {
            let error = StreamError::Malformed(FRAMING);
            return self.offend(head.stream, (Reason::PROTOCOL_ERROR, error), now);
        }
        stream.send_window += more;
        if stream.send_window > frame::MAX_WINDOW {
            let error = StreamError::Malformed(WINDOW);
            return self.offend(head.stream, (Reason::FLOW_CONTROL_ERROR, error), now);
        }
        if stream.stalled.is_some() {
            stream.wake();
        }
        Ok(())
    }
}
