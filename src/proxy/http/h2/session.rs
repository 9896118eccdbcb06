//! The state of one HTTP/2 connection, without its socket: bytes go in by [`Session::receive`] and
//! come out in [`Session::output`], the users of its streams are woken, and time is an argument.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::super::super::buffer::{give_text, take_text};
use super::config::Config;
use super::frame::{self, Reason, setting};
use super::guard::{Flood, Guard, PATIENCE};
use super::hpack::{self, Decoder, Encoder};
use super::stream::{StreamError, Streams};

/// Which side we are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Of the caller.
    Client,
    /// Of the called.
    Server,
}

/// What the peer said of itself.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) window: i64,
    pub(super) max_frame: usize,
    pub(super) max_streams: u32,
    /// It takes extended CONNECT.
    pub(super) connect: bool,
}

/// Why the connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    /// In Envoy's words where it has some.
    pub(crate) detail: &'static str,
    pub(crate) flood: Option<Flood>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl Fault {
    /// What a connection ends with on which nothing is wrong.
    const CLOSED: Self = Self {
        reason: Reason::NO_ERROR,
        detail: "closed",
        flood: None,
    };

    pub(super) fn new(reason: Reason, detail: &'static str) -> Self {
        Self {
            reason,
            detail,
            flood: None,
        }
    }

    pub(super) fn protocol(detail: &'static str) -> Self {
        Self::new(Reason::PROTOCOL_ERROR, detail)
    }
}

impl From<Flood> for Fault {
    fn from(flood: Flood) -> Self {
        Self {
            reason: Reason::ENHANCE_YOUR_CALM,
            detail: flood.detail(),
            flood: Some(flood),
        }
    }
}

/// How far we have said goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// GOAWAY without a number, and a PING that tells when the peer has seen it.
    Warned(Instant),
    /// GOAWAY with the last stream that is served.
    Told(u32),
}

/// A header block that is not complete.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) stream: u32,
    pub(super) end: bool,
    pub(super) text: Vec<u8>,
    pub(super) frames: u32,
}

/// A DATA frame that is being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partial {
    /// Where its bytes go; nowhere when the stream is gone.
    pub(super) stream: Option<(usize, u32)>,
    pub(super) left: usize,
    pub(super) padding: usize,
    pub(super) end: bool,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) role: Role,
    pub(super) config: Config,
    pub(super) peer: Peer,
    pub(super) streams: Streams,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) guard: Guard,
    /// Bytes of the preface that have not come yet.
    pub(super) preface: usize,
    /// The peer's settings came.
    pub(super) greeted: bool,
    /// Those who wait for them.
    pub(super) unsettled: Vec<Waker>,
    pub(super) gathering: Option<Gathering>,
    pub(super) partial: Option<Partial>,
    /// Since when something has been incomplete.
    pub(super) waiting: Option<Instant>,
    pub(super) out: Vec<u8>,
    written: usize,
    /// Answers of the protocol's own among the output.
    pub(super) answers: u32,
    pub(super) send_window: i64,
    pub(super) recv_window: i64,
    pub(super) owed: u32,
    /// Streams with data for which the connection has no room.
    pub(super) queue: VecDeque<(usize, u32)>,
    /// Streams of the peer that nobody serves yet.
    pub(super) arrived: VecDeque<Arrived>,
    /// The highest number of a stream of the peer.
    pub(super) last: u32,
    /// Streams that the peer has opened.
    pub(super) opened: u32,
    /// The number of our next stream.
    pub(super) next: u32,
    pub(super) leaving: Leaving,
    /// The last stream that the peer still serves.
    pub(super) peer_last: Option<u32>,
    /// Numbers of the streams that we reset last: what still comes for them is no fault.
    pub(super) reset: VecDeque<u32>,
    ended: Option<Fault>,
    born: Instant,
    idle_since: Instant,
    /// Since when our settings have not been acknowledged.
    pub(super) unacknowledged: Option<Instant>,
    /// When data that is not taken is to be looked for next.
    pub(super) look: Option<Instant>,
    /// When the last PING of ours was sent and whether it was answered.
    pub(super) pinged: (Instant, bool),
    waker: Option<Waker>,
    awake: bool,
}

/// A stream that a peer opened.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) key: usize,
    pub(crate) id: u32,
    pub(crate) head: super::block::Block,
    /// Nothing follows the head.
    pub(crate) end: bool,
}

/// Said in the PING that tells when the peer knows that we leave.
pub(super) const LEAVING: [u8; 8] = *b"goodbye.";
/// Said in a PING that only wants an answer.
pub(super) const ALIVE: [u8; 8] = *b"alive...";
/// Output beyond this waits with its streams.
pub(super) const PILE: usize = 64 * 1024;
/// Numbers of streams that we reset are remembered for this many.
const REMEMBERED: usize = 32;

impl Session {
    /// Begins a connection: what is said first is in the output.
    pub(crate) fn new(role: Role, config: Config, now: Instant) -> Self {
        let mut out = take_text();
        let mut settings = vec![
            (setting::INITIAL_WINDOW, config.stream_window),
            (
                setting::MAX_HEADER_LIST,
                u32::try_from(config.head.size).unwrap_or(u32::MAX),
            ),
        ];
        if config.table_size != 4096 {
            settings.push((setting::TABLE_SIZE, config.table_size));
        }
        match role {
            Role::Client => {
                out.extend_from_slice(frame::PREFACE);
                settings.push((setting::ENABLE_PUSH, 0));
            }
            Role::Server => {
                settings.push((setting::MAX_STREAMS, config.max_streams));
                if config.connect {
                    settings.push((setting::ENABLE_CONNECT, 1));
                }
            }
        }
        frame::put_settings(&mut out, &settings);
        let more = config.connection_window.saturating_sub(frame::WINDOW);
        if more > 0 {
            frame::put_window(&mut out, 0, more);
        }
        Self {
            peer: Peer {
                window: i64::from(frame::WINDOW),
                max_frame: frame::PAYLOAD,
                // Until it says more (what nghttp2 and h2 assume).
                max_streams: 100,
                connect: false,
            },
            streams: Streams::default(),
            decoder: Decoder::new(usize::try_from(config.table_size).unwrap_or(hpack::TABLE)),
            encoder: Encoder::default(),
            guard: Guard::new(config.limits),
            preface: match role {
                Role::Client => 0,
                Role::Server => frame::PREFACE.len(),
            },
            greeted: false,
            unsettled: Vec::new(),
            gathering: None,
            partial: None,
            waiting: Some(now),
            out,
            written: 0,
            answers: 0,
            send_window: i64::from(frame::WINDOW),
            recv_window: i64::from(config.connection_window.max(frame::WINDOW)),
            owed: 0,
            queue: VecDeque::new(),
            arrived: VecDeque::new(),
            last: 0,
            opened: 0,
            next: 1,
            leaving: Leaving::No,
            peer_last: None,
            reset: VecDeque::new(),
            ended: None,
            born: now,
            idle_since: now,
            unacknowledged: Some(now),
            look: None,
            pinged: (now, true),
            waker: None,
            awake: true,
            role,
            config,
        }
    }

    /// What is to be written.
    pub(crate) fn output(&self) -> &[u8] {
        self.out.get(self.written..).unwrap_or_default()
    }

    /// Says that `count` bytes of the output were written.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.written += count;
        if self.written >= self.out.len() {
            self.written = 0;
            self.answers = 0;
            if self.out.capacity() > 2 * PILE {
                self.out = Vec::new();
            }
            self.out.clear();
        }
        if self.output().len() < PILE / 2 {
            self.wake_queued();
        }
    }

    /// Lets those go on that wait for room, in their order.
    pub(super) fn wake_queued(&mut self) {
        for (key, id) in std::mem::take(&mut self.queue) {
            if let Some(stream) = self.streams.get(key, id) {
                stream.queued = false;
                stream.wake();
            }
        }
    }

    /// Has `cx` woken when there is output, and says that its task goes to sleep.
    pub(crate) fn sleep(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waker => *waker = Some(cx.waker().clone()),
        }
        self.awake = false;
    }

    /// Says that the connection's task runs.
    pub(crate) fn awaken(&mut self) {
        self.awake = true;
    }

    /// Wakes the connection's task.
    pub(super) fn notify(&mut self) {
        if !std::mem::replace(&mut self.awake, true)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    /// The next stream that the peer opened and has not given up since.
    pub(crate) fn arrived(&mut self, now: impl Fn() -> Instant) -> Option<Arrived> {
        loop {
            let next = self.arrived.pop_front()?;
            let stream = self.streams.get(next.key, next.id);
            if stream.is_some_and(|stream| stream.gone.is_none()) {
                return Some(next);
            }
            self.release((next.key, next.id), &now);
        }
    }

    /// Streams that are in use.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Why the connection is over, if it is.
    pub(crate) fn ended(&self) -> Option<Fault> {
        self.ended
    }

    /// What the peer did that ended the connection.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.ended.filter(|fault| *fault != Fault::CLOSED)
    }

    /// Whether everything has been said and done: nothing is served and nothing will be.
    pub(crate) fn is_done(&self) -> bool {
        let left = matches!(self.leaving, Leaving::Told(_))
            || (self.peer_last.is_some() && self.arrived.is_empty());
        self.ended.is_some() || (left && self.streams.is_empty())
    }

    /// Whether another stream may be opened, now or when one ends.
    pub(crate) fn is_open(&self) -> bool {
        self.ended.is_none()
            && self.peer_last.is_none()
            && self.leaving == Leaving::No
            && self.next < 0x7fff_ffff
    }

    /// Whether another stream may be opened now.
    pub(crate) fn has_room(&self, most: usize) -> bool {
        let theirs = usize::try_from(self.peer.max_streams).unwrap_or(usize::MAX);
        self.is_open() && self.streams.len() < theirs.min(most)
    }

    /// Whether the peer takes extended CONNECT; pending while it has not said anything.
    pub(crate) fn poll_takes_connect(&mut self, cx: &Context<'_>) -> Poll<bool> {
        if self.greeted || self.ended.is_some() {
            return Poll::Ready(self.peer.connect);
        }
        self.unsettled.push(cx.waker().clone());
        Poll::Pending
    }

    /// Ends the connection over a fault of the peer, and tells it.
    pub(super) fn fail(&mut self, fault: Fault) {
        if self.ended.is_some() {
            return;
        }
        frame::put_go_away(&mut self.out, self.last, fault.reason, fault.detail);
        self.over(fault);
    }

    /// The connection is gone.
    pub(crate) fn close(&mut self) {
        self.over(Fault::CLOSED);
    }

    fn over(&mut self, fault: Fault) {
        let error = match (self.role, fault.reason) {
            // What an endpoint did wrong is told of every request on its connection.
            (Role::Client, reason) if reason != Reason::NO_ERROR => {
                StreamError::Malformed(fault.detail)
            }
            _ => StreamError::Broken,
        };
        self.ended.get_or_insert(fault);
        self.streams.each(|stream| stream.end(error));
        self.arrived.clear();
        self.queue.clear();
        self.gathering = None;
        self.unsettled.drain(..).for_each(Waker::wake);
        self.notify();
    }

    /// Says goodbye: what has begun is served, and nothing new after the peer has heard of it.
    pub(crate) fn leave(&mut self, now: Instant) {
        if self.leaving != Leaving::No || self.ended.is_some() {
            return;
        }
        match self.role {
            Role::Server => {
                frame::put_go_away(&mut self.out, 0x7fff_ffff, Reason::NO_ERROR, "");
                frame::put_ping(&mut self.out, 0, LEAVING);
                self.leaving = Leaving::Warned(now);
            }
            Role::Client => self.tell(),
        }
        self.notify();
    }

    /// Says which stream is the last.
    pub(super) fn tell(&mut self) {
        frame::put_go_away(&mut self.out, self.last, Reason::NO_ERROR, "");
        self.leaving = Leaving::Told(self.last);
        self.notify();
    }

    /// No stream is in use any more.
    pub(super) fn rested(&mut self, now: Instant) {
        self.idle_since = now;
        self.queue.clear();
        self.look = None;
        if self.is_done() {
            self.notify();
        }
    }

    /// Gives memory back that an idle connection does not need.
    pub(crate) fn rest(&mut self) {
        if self.out.is_empty() {
            give_text(std::mem::take(&mut self.out));
        }
        if self.streams.is_empty() {
            self.streams.rest();
            self.queue = VecDeque::new();
            self.arrived = VecDeque::new();
        }
    }

    /// When [`Session::expire`] is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let after = |since: Option<Instant>, limit: Option<Duration>| {
            since.zip(limit).map(|(since, limit)| since + limit)
        };
        let rests = self.streams.is_empty().then_some(self.idle_since);
        let idle = after(rests, self.config.idle);
        let waiting = after(self.waiting, self.config.patience);
        let young = (self.leaving == Leaving::No).then_some(self.born);
        let age = after(young, self.config.max_age);
        let settings = self.unacknowledged.map(|since| since + PATIENCE);
        let leaving = match self.leaving {
            Leaving::Warned(since) => Some(since + self.config.drain),
            Leaving::No | Leaving::Told(_) => None,
        };
        let alive = self.config.keepalive.map(|(interval, timeout)| {
            let (sent, answered) = self.pinged;
            sent + if answered { interval } else { timeout }
        });
        [idle, waiting, settings, leaving, alive, age, self.look]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what time asks for.
    pub(crate) fn expire(&mut self, now: Instant) {
        let over = |since: Option<Instant>, limit: Option<Duration>| {
            since
                .zip(limit)
                .is_some_and(|(since, limit)| now >= since + limit)
        };
        if self.ended.is_some() {
            return;
        }
        if over(self.waiting, self.config.patience) {
            return self.fail(Fault::new(
                Reason::ENHANCE_YOUR_CALM,
                "http2.incomplete_frame_timeout",
            ));
        }
        if over(self.unacknowledged, Some(PATIENCE)) {
            return self.fail(Fault::new(
                Reason::SETTINGS_TIMEOUT,
                "http2.settings_timeout",
            ));
        }
        let rests = self.streams.is_empty().then_some(self.idle_since);
        if over(rests, self.config.idle) {
            return self.tell();
        }
        if over(Some(self.born), self.config.max_age) {
            self.leave(now);
        }
        if let Leaving::Warned(since) = self.leaving
            && now >= since + self.config.drain
        {
            self.tell();
        }
        if let Some((interval, timeout)) = self.config.keepalive {
            let (sent, answered) = self.pinged;
            if !answered && now >= sent + timeout {
                return self.fail(Fault::new(Reason::NO_ERROR, "http2.keepalive_timeout"));
            }
            if answered && now >= sent + interval {
                frame::put_ping(&mut self.out, 0, ALIVE);
                self.pinged = (now, false);
            }
        }
        if self.look.is_some_and(|at| now >= at) {
            self.end_stalled(now);
        }
    }

    fn end_stalled(&mut self, now: Instant) {
        let limit = self.config.stall;
        let (mut next, mut stalled) = (None::<Instant>, Vec::new());
        self.streams.each(|stream| {
            let Some(since) = stream.stalled else { return };
            let until = since + limit;
            if now >= until {
                stalled.push(stream.id);
            } else {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
        });
        for id in stalled {
            self.reset_stream(id, Reason::CANCEL, StreamError::Stalled);
        }
        self.look = next;
    }

    /// Ends a stream and tells the peer.
    pub(super) fn reset_stream(&mut self, id: u32, reason: Reason, error: StreamError) {
        let Some(stream) = self.streams.find(id).and_then(|key| self.streams.at(key)) else {
            return self.put_reset(id, reason);
        };
        if stream.gone.is_none() {
            stream.end(error);
            self.put_reset(id, reason);
        }
    }

    pub(super) fn put_reset(&mut self, id: u32, reason: Reason) {
        if self.ended.is_some() {
            return;
        }
        frame::put_reset(&mut self.out, id, reason);
        self.answers += 1;
        if self.reset.len() >= REMEMBERED {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
        self.notify();
    }
}
