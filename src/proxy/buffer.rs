//! Read buffers that belong to a connection only while it has bytes: idle connections keep none.

#![expect(
    clippy::indexing_slicing,
    reason = "start <= end <= bytes.len() holds throughout, and this is under every byte that passes"
)]

use std::cell::RefCell;

/// Holds a message of the usual size in one read.
pub(crate) const SMALL: usize = 16 * 1024;
/// For large bodies and heads; above the head limit of 60 KiB.
pub(crate) const LARGE: usize = 64 * 1024;
/// The usual head, with what is put into it.
const TEXT: usize = 1024;
/// Free buffers kept by each thread.
const KEPT: usize = 64;
/// Free byte strings kept by each thread: a request may have one for each of its three heads.
const TEXTS: usize = 256;

thread_local! {
    static FREE: RefCell<Free> = const { RefCell::new(Free { small: Vec::new(), large: Vec::new(), text: Vec::new() }) };
}

struct Free {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    text: Vec<Vec<u8>>,
}

/// Bytes that were read and not yet passed on.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What was read and not yet consumed.
    pub(crate) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room for the next read; empty only when [`LARGE`] bytes are held already.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = take(SMALL);
        } else if self.end == self.bytes.len() {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
            } else if self.bytes.len() < LARGE {
                let mut larger = take(LARGE);
                larger[..self.end].copy_from_slice(&self.bytes);
                give(std::mem::replace(&mut self.bytes, larger));
            }
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Makes the next read a large one; only while empty.
    pub(crate) fn enlarge(&mut self) {
        if self.is_empty() && self.bytes.len() < LARGE {
            give(std::mem::replace(&mut self.bytes, take(LARGE)));
        }
    }

    /// Makes room for a head of up to `most` bytes, twice as much each time; for callers who may
    /// send more than [`LARGE`].
    pub(crate) fn make_room(&mut self, most: usize) {
        let held = self.end - self.start;
        if self.end < self.bytes.len() || held < LARGE || held >= most {
            return;
        }
        let mut larger = vec![0; (held * 2).min(most + 1)].into_boxed_slice();
        larger[..held].copy_from_slice(&self.bytes[self.start..self.end]);
        give(std::mem::replace(&mut self.bytes, larger));
        self.start = 0;
        self.end = held;
    }

    /// Says that `count` bytes were read into [`Buffer::room`].
    pub(crate) fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// No memory is kept.
    #[cfg(test)]
    pub(crate) fn is_released(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Puts `data` behind what is held. False when there is no room for it.
    #[cfg(test)]
    fn append(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let room = self.room();
            let count = room.len().min(data.len());
            if count == 0 {
                return false;
            }
            room[..count].copy_from_slice(&data[..count]);
            self.filled(count);
            data = &data[count..];
        }
        true
    }

    /// Gives the memory back while nothing is held.
    pub(crate) fn release(&mut self) {
        if self.is_empty() && !self.bytes.is_empty() {
            give(std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.bytes));
    }
}

fn take(size: usize) -> Box<[u8]> {
    FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        if size == SMALL {
            free.small.pop()
        } else {
            free.large.pop()
        }
    })
    .ok()
    .flatten()
    .unwrap_or_else(|| vec![0; size].into_boxed_slice())
}

fn give(bytes: Box<[u8]>) {
    // While the thread ends there is nobody to keep it for.
    let _kept = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        match bytes.len() {
            SMALL if free.small.len() < KEPT => free.small.push(bytes),
            LARGE if free.large.len() < KEPT / 8 => free.large.push(bytes),
            _ => {}
        }
    });
}

/// An empty byte string, with the memory of an earlier one where there is one.
pub(crate) fn take_text() -> Vec<u8> {
    FREE.try_with(|free| free.borrow_mut().text.pop())
        .ok()
        .flatten()
        .unwrap_or_else(|| Vec::with_capacity(TEXT))
}

/// Gives the memory of a byte string to the next [`take_text`].
pub(crate) fn give_text(mut text: Vec<u8>) {
    if text.capacity() == 0 || text.capacity() > LARGE {
        return;
    }
    text.clear();
    // While the thread ends there is nobody to keep it for.
    let _kept = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        let most = if text.capacity() > 4 * TEXT {
            KEPT
        } else {
            TEXTS
        };
        if free.text.len() < most {
            free.text.push(text);
        }
    });
}

/// Frees what idle threads keep beyond a few buffers.
pub(crate) fn trim() {
    // While the thread ends there is nothing to trim.
    let _trimmed = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        free.small.truncate(4);
        free.large.clear();
        free.text.truncate(4);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_once_and_then_is_full() {
        let mut buffer = Buffer::default();
        assert!(buffer.append(&vec![1; SMALL + 1]));
        assert_eq!(buffer.data().len(), SMALL + 1);
        assert!(!buffer.append(&vec![2; LARGE]));
        buffer.consume(SMALL);
        assert_eq!(buffer.data()[..2], [1, 2]);
    }

    #[test]
    fn large_heads_get_room_up_to_their_limit() {
        let mut buffer = Buffer::default();
        assert!(buffer.append(&vec![1; LARGE]));
        buffer.make_room(LARGE);
        assert!(buffer.room().is_empty());
        buffer.make_room(3 * LARGE);
        assert!(buffer.append(&vec![2; LARGE]));
        buffer.make_room(3 * LARGE);
        assert_eq!(buffer.room().len(), LARGE + 1);
        assert_eq!(buffer.data()[LARGE - 1..=LARGE], [1, 2]);
    }

    #[test]
    fn moves_to_the_front_when_the_end_is_reached() {
        let mut buffer = Buffer::default();
        assert!(buffer.append(&vec![1; SMALL]));
        buffer.consume(SMALL - 1);
        assert_eq!(buffer.room().len(), SMALL - 1);
        buffer.consume(1);
        buffer.release();
        assert!(buffer.bytes.is_empty());
    }
}
