//! Reading the body of an HTTP/1 message from the read buffer.

use super::super::super::buffer::Buffer;
use super::super::Framing;
use super::chunked::{Chunked, Malformed};

/// Why the reading of a body cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadBody {
    /// It does not follow its framing.
    Malformed,
    /// There is more of it than may be.
    TooLarge,
}

impl From<Malformed> for BadBody {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Where the reading of a body stands.
#[derive(Debug, Default)]
pub(crate) struct BodyReader {
    state: State,
    /// Bytes in front of the buffer that may be passed on.
    ready: usize,
    done: bool,
    /// Most bytes, where there is a limit.
    most: Option<u64>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    Length(u64),
    /// Framing is passed on with the payload.
    RawChunked(Box<Chunked>),
    /// Framing is taken off.
    Chunked(Box<Chunked>),
    Close,
}

impl BodyReader {
    /// A reader for a body that ends as `framing` says. `raw` passes the chunked coding on as it is.
    pub(crate) fn new(framing: Framing, raw: bool) -> Self {
        let state = match framing {
            Framing::None => State::None,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked if raw => State::RawChunked(Box::default()),
            Framing::Chunked => State::Chunked(Box::default()),
            Framing::Close => State::Close,
        };
        Self {
            done: framing == Framing::None,
            state,
            ready: 0,
            most: None,
        }
    }

    /// Reads `most` bytes of payload and no more.
    pub(crate) fn up_to(mut self, most: Option<u32>) -> Self {
        self.most = most.map(u64::from);
        self
    }

    /// How many bytes in front of the buffer are of the body.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// Whether everything was read (and, with nothing ready, passed on).
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing follows what is ready.
    pub(crate) fn is_last(&self) -> bool {
        self.done && self.trailers().is_empty()
    }

    /// Whether a large read is worth its memory.
    pub(crate) fn expects(&self, more_than: usize) -> bool {
        match self.state {
            State::Length(left) => usize::try_from(left).is_ok_and(|left| left > more_than),
            _ => false,
        }
    }

    /// Trailer lines that were taken off; empty when raw.
    pub(crate) fn trailers(&self) -> &[u8] {
        match &self.state {
            State::Chunked(chunked) => chunked.trailers(),
            _ => &[],
        }
    }

    /// Trailer lines, taken off or not.
    pub(crate) fn seen_trailers(&self) -> &[u8] {
        match &self.state {
            State::Chunked(chunked) | State::RawChunked(chunked) => chunked.trailers(),
            _ => &[],
        }
    }

    /// Looks at what was read. Afterwards something is ready, or the body is done, or more must be read.
    pub(crate) fn advance(&mut self, buffer: &mut Buffer) -> Result<(), BadBody> {
        if self.ready > 0 || self.done {
            return Ok(());
        }
        match &mut self.state {
            State::None => self.done = true,
            State::Length(left) => {
                let here = buffer.data().len();
                self.ready = usize::try_from(*left).unwrap_or(usize::MAX).min(here);
                *left -= u64::try_from(self.ready).unwrap_or(*left);
                self.done = *left == 0;
            }
            State::Close => self.ready = buffer.data().len(),
            State::RawChunked(chunked) => {
                (self.ready, self.done) = chunked.scan(buffer.data())?;
            }
            State::Chunked(chunked) => {
                let step = chunked.next(buffer.data())?;
                buffer.consume(step.skip);
                self.ready = step.data;
                self.done = step.done;
            }
        }
        let payload = match &self.state {
            State::RawChunked(chunked) | State::Chunked(chunked) => chunked.payload(),
            // A length was judged with the head.
            State::None | State::Length(_) | State::Close => 0,
        };
        if self.most.is_some_and(|most| payload > most) {
            return Err(BadBody::TooLarge);
        }
        Ok(())
    }

    /// Says that `count` of the ready bytes were passed on.
    pub(crate) fn passed(&mut self, count: usize) {
        self.ready = self.ready.saturating_sub(count);
    }

    /// The connection ended. Whether that is a proper end of the body.
    pub(crate) fn end(&mut self) -> bool {
        if matches!(self.state, State::Close) {
            self.done = true;
        }
        self.done
    }
}
