//! Writing header blocks.
//!
//! A field that is seen for the second time gets an entry of the dynamic table, so that what is
//! different in every message (paths, ids, lengths) does not push out what recurs. The last fields
//! are remembered by a hash in a small table of fixed size: a collision costs an entry, not time.

use super::super::block::Kind;
use super::table::{FIXED, Table, fixed_name};
use super::{TABLE, huffman, put_number};

/// Fields that are remembered.
const SLOTS: usize = 64;

/// The writer of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: Table,
    /// Made with the first field.
    slots: Vec<Slot>,
    /// The smallest and the last size that have not been told yet.
    resized: Option<(usize, usize)>,
}

/// A field that was seen.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// How many entries there had been with its own; 0 while it has none.
    entry: u32,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: Table::new(TABLE),
            slots: Vec::new(),
            resized: None,
        }
    }
}

impl Encoder {
    /// The peer's table may be this large; ours is never larger than [`TABLE`].
    pub(crate) fn resize(&mut self, allowed: usize) {
        let size = allowed.min(TABLE);
        if size == self.table.max && self.resized.is_none() {
            return;
        }
        self.table.resize(size);
        let smallest = self
            .resized
            .map_or(size, |(smallest, _)| smallest.min(size));
        self.resized = Some((smallest, size));
    }

    /// Begins a header block.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((smallest, last)) = self.resized.take() {
            if smallest < last {
                put_number(out, 0x20, 5, smallest);
            }
            put_number(out, 0x20, 5, last);
        }
    }

    /// `:status`.
    pub(crate) fn status(&mut self, out: &mut Vec<u8>, status: u16) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let mut text = itoa::Buffer::new();
                self.field(out, b":status", text.format(status).as_bytes(), false);
                return;
            }
        };
        put_number(out, 0x80, 7, index);
    }

    /// `:method`, `:scheme` and other fields whose value may be in the fixed table.
    pub(crate) fn common(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        let index = match (name, value) {
            (b":method", b"GET") => 2,
            (b":method", b"POST") => 3,
            (b":path", b"/") => 4,
            (b":scheme", b"http") => 6,
            (b":scheme", b"https") => 7,
            _ => return self.field(out, name, value, false),
        };
        put_number(out, 0x80, 7, index);
    }

    /// Any field; its name is in lower case. A sensitive one is never put into a table.
    pub(crate) fn field(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8], sensitive: bool) {
        if sensitive {
            literal(out, (0x10, 4), name, value);
            return;
        }
        if self.slots.is_empty() {
            self.slots = vec![Slot::default(); SLOTS];
        }
        let hash = hash(name, value);
        let at = usize::try_from(hash).unwrap_or(0) % SLOTS;
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        if slot.hash != hash {
            *slot = Slot { hash, entry: 0 };
            literal(out, (0, 4), name, value);
            return;
        }
        if slot.entry > 0 {
            let age = usize::try_from(self.table.inserted.wrapping_sub(slot.entry));
            if let Ok(age) = age
                && let Some(found) = self.table.get(age)
                && found.name == name
                && found.value == value
            {
                put_number(out, 0x80, 7, FIXED.len() + 1 + age);
                return;
            }
        }
        // An entry that took more than a quarter of the table would not stay for long.
        if name.len() + value.len() > self.table.max / 4 {
            literal(out, (0, 4), name, value);
            return;
        }
        self.table.insert(name, value, Kind::Bad);
        slot.entry = self.table.inserted;
        literal(out, (0x40, 6), name, value);
    }
}

fn literal(out: &mut Vec<u8>, (first, prefix): (u8, u8), name: &[u8], value: &[u8]) {
    let index = fixed_name(name);
    put_number(out, first, prefix, index);
    // What goes into the table is sent once and worth being made small; for the rest, shorter
    // bytes would cost more than they save between two machines of a mesh.
    let small = first == 0x40;
    if index == 0 {
        string(out, name, small);
    }
    string(out, value, small);
}

fn string(out: &mut Vec<u8>, text: &[u8], small: bool) {
    if small {
        let length = huffman::length(text);
        if length < text.len() {
            put_number(out, 0x80, 7, length);
            huffman::encode(text, out);
            return;
        }
    }
    put_number(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

fn hash(name: &[u8], value: &[u8]) -> u32 {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let mut hash = u64::try_from(name.len()).unwrap_or(0);
    for text in [name, value] {
        let (words, rest) = text.as_chunks::<8>();
        for word in words {
            hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        }
        let mut last = [0; 8];
        if let Some(place) = last.get_mut(..rest.len()) {
            place.copy_from_slice(rest);
        }
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(last)).wrapping_mul(FACTOR);
    }
    // Never what an empty slot says.
    u32::try_from(hash >> 32).unwrap_or(0) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(encoder: &mut Encoder, name: &str, value: &str) -> usize {
        let mut out = Vec::new();
        encoder.field(&mut out, name.as_bytes(), value.as_bytes(), false);
        out.len()
    }

    #[test]
    fn what_recurs_becomes_one_byte_and_what_does_not_stays_out() {
        let mut encoder = Encoder::default();
        assert_eq!(written(&mut encoder, "x-app", "a"), 9);
        assert_eq!(encoder.table.len(), 0);
        written(&mut encoder, "x-app", "a");
        for n in 0..1000 {
            written(&mut encoder, "x-request-id", &n.to_string());
        }
        assert_eq!(encoder.table.len(), 1);
        // Its slot may have been taken meanwhile: it is then seen for the first time again.
        let sizes = [0; 3].map(|_: i32| written(&mut encoder, "x-app", "a"));
        assert_eq!(sizes[2], 1, "{sizes:?}");
    }

    #[test]
    fn a_sensitive_field_is_marked_and_never_remembered() {
        let mut encoder = Encoder::default();
        for _ in 0..3 {
            let mut out = Vec::new();
            encoder.field(&mut out, b"authorization", b"secret", true);
            assert_eq!(out, b"\x1f\x08\x06secret");
        }
        assert_eq!(encoder.table.len(), 0);
    }

    #[test]
    fn the_smallest_size_in_between_is_told_too() {
        let mut encoder = Encoder::default();
        encoder.resize(0);
        encoder.resize(100_000);
        let mut out = Vec::new();
        encoder.begin(&mut out);
        assert_eq!(out, [0x20, 0x3f, 0xe1, 0x1f]);
        out.clear();
        encoder.begin(&mut out);
        assert!(out.is_empty());
    }
}
