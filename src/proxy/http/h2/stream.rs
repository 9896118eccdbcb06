//! The streams of a connection: what is known of each, and finding them by number.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use tokio::time::Instant;

use super::block::Block;
use super::frame::Reason;

/// Why a stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    /// The peer has not looked at it: it may be sent again.
    #[error("the peer refused the stream")]
    Refused,
    #[error("the peer reset the stream: {0}")]
    Reset(Reason),
    /// The peer broke the protocol on this stream.
    #[error("the peer broke the rules: {0}")]
    Malformed(&'static str),
    /// It waited for too long for the peer to take data.
    #[error("the peer takes no data")]
    Stalled,
    #[error("the connection ended")]
    Broken,
}

/// A stream, until whoever uses it lets it go.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each direction ends by itself, and an answer has stages of its own"
)]
pub(crate) struct Stream {
    pub(super) id: u32,
    /// Came and was not taken yet.
    pub(super) data: Vec<u8>,
    /// Heads of answers; more than one while there are informational ones.
    pub(super) heads: VecDeque<Block>,
    pub(super) trailers: Option<Block>,
    /// The peer may send more.
    pub(super) remote_open: bool,
    /// The peer has sent all of it.
    pub(super) complete: bool,
    /// We may send more.
    pub(super) local_open: bool,
    /// The last head of an answer came.
    pub(super) answered: bool,
    pub(super) gone: Option<StreamError>,
    /// What is missing of the length that was promised.
    pub(super) missing: Option<u64>,
    /// The answer has no body, whatever length it names.
    pub(super) bodiless: bool,
    pub(super) send_window: i64,
    pub(super) recv_window: i64,
    /// Was taken and not told to the peer yet.
    pub(super) owed: u32,
    /// Since when data waits for the peer to take it.
    pub(super) stalled: Option<Instant>,
    /// On the list of those that wait for the connection.
    pub(super) queued: bool,
    waker: Option<Waker>,
}

impl Stream {
    pub(super) fn new(id: u32, send_window: i64, recv_window: i64) -> Self {
        Self {
            id,
            data: Vec::new(),
            heads: VecDeque::new(),
            trailers: None,
            remote_open: true,
            complete: false,
            local_open: true,
            answered: false,
            gone: None,
            missing: None,
            bodiless: false,
            send_window,
            recv_window,
            owed: 0,
            stalled: None,
            queued: false,
            waker: None,
        }
    }

    /// Has `cx` woken when anything changes.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waker => *waker = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Ends both directions.
    pub(super) fn end(&mut self, error: StreamError) {
        self.gone.get_or_insert(error);
        self.remote_open = false;
        self.local_open = false;
        self.stalled = None;
        self.wake();
    }
}

/// All streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
    /// Numbers in their order, with their slots; numbers only grow.
    order: VecDeque<(u32, Option<usize>)>,
    /// Of these in use.
    count: usize,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Those that were not reset.
    pub(super) fn live(&self) -> usize {
        let live =
            |slot: &&Option<Stream>| slot.as_ref().is_some_and(|stream| stream.gone.is_none());
        self.slots.iter().filter(live).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a stream whose number is higher than all others.
    pub(super) fn insert(&mut self, stream: Stream) -> usize {
        let id = stream.id;
        let key = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(key) {
            Some(slot) => *slot = Some(stream),
            None => self.slots.push(Some(stream)),
        }
        self.order.push_back((id, Some(key)));
        self.count += 1;
        key
    }

    fn place(&self, id: u32) -> Option<usize> {
        // Mostly it is one of the last.
        self.order.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    pub(super) fn find(&self, id: u32) -> Option<usize> {
        self.order.get(self.place(id)?)?.1
    }

    pub(super) fn get(&mut self, key: usize, id: u32) -> Option<&mut Stream> {
        let stream = self.slots.get_mut(key)?.as_mut()?;
        (stream.id == id).then_some(stream)
    }

    pub(super) fn at(&mut self, key: usize) -> Option<&mut Stream> {
        self.slots.get_mut(key)?.as_mut()
    }

    pub(super) fn remove(&mut self, key: usize, id: u32) -> Option<Stream> {
        let slot = self.slots.get_mut(key)?;
        let stream = slot.take_if(|stream| stream.id == id)?;
        self.free.push(key);
        self.count -= 1;
        if let Some(place) = self.place(id)
            && let Some(entry) = self.order.get_mut(place)
        {
            entry.1 = None;
        }
        while self.order.front().is_some_and(|(_, key)| key.is_none()) {
            self.order.pop_front();
        }
        if self.order.len() > 2 * self.count + 32 {
            self.order.retain(|(_, key)| key.is_some());
        }
        Some(stream)
    }

    pub(super) fn each(&mut self, mut visit: impl FnMut(&mut Stream)) {
        for stream in self.slots.iter_mut().flatten() {
            visit(stream);
        }
    }

    /// Gives memory back while there are no streams.
    pub(super) fn rest(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn streams_are_found_by_number_while_they_are_there(ops in proptest::collection::vec(any::<prop::sample::Index>(), 0..300)) {
            let mut streams = Streams::default();
            let mut model: Vec<(u32, usize)> = Vec::new();
            let mut next = 1;
            for op in ops {
                if op.index(3) > 0 || model.is_empty() {
                    model.push((next, streams.insert(Stream::new(next, 0, 0))));
                    next += 2;
                } else {
                    let (id, key) = model.swap_remove(op.index(model.len()));
                    prop_assert!(streams.remove(key, id).is_some());
                    prop_assert!(streams.remove(key, id).is_none());
                    prop_assert_eq!(streams.find(id), None);
                }
                prop_assert_eq!(streams.len(), model.len());
                prop_assert!(streams.order.len() <= 2 * model.len() + 33);
                for (id, key) in &model {
                    prop_assert_eq!(streams.find(*id), Some(*key));
                    prop_assert!(streams.get(*key, *id).is_some());
                }
            }
        }
    }
}
