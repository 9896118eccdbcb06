//! Reading header blocks.

use super::super::block::{Block, Kind, Limits, kind, value_fits};
use super::table::{FIXED, Found, Table};
use super::{Broken, huffman, take_number};

/// The reader of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// What we said the table may be at most.
    allowed: usize,
}

impl Decoder {
    /// A reader whose table the peer may fill up to `allowed` bytes.
    pub(crate) fn new(allowed: usize) -> Self {
        Self {
            table: Table::new(allowed),
            allowed,
        }
    }

    /// Reads a whole header block into `block`. What goes beyond `limits` is read, so that the
    /// table stays what the peer thinks it is, but not kept.
    pub(crate) fn decode(
        &mut self,
        input: &[u8],
        block: &mut Block,
        limits: Limits,
    ) -> Result<(), Broken> {
        let mut rest = input;
        let mut begun = false;
        while let Some((first, after)) = rest.split_first() {
            let first = *first;
            rest = after;
            if first & 0xe0 == 0x20 {
                // A new size comes before all fields, and within what we allow.
                let size = take_number(first, 5, &mut rest)?;
                if begun || size > self.allowed {
                    return Err(Broken);
                }
                self.table.resize(size);
                continue;
            }
            begun = true;
            if first & 0x80 != 0 {
                let index = take_number(first, 7, &mut rest)?;
                let found = lookup(&self.table, index)?;
                let at = block.text.len();
                if block.has_room(found.name.len() + found.value.len(), limits) {
                    block.text.extend_from_slice(found.name);
                    let value_at = block.text.len();
                    block.text.extend_from_slice(found.value);
                    block.add((at, value_at), found.kind, false);
                }
                continue;
            }
            self.literal(first, &mut rest, block, limits)?;
        }
        Ok(())
    }

    fn literal(
        &mut self,
        first: u8,
        rest: &mut &[u8],
        block: &mut Block,
        limits: Limits,
    ) -> Result<(), Broken> {
        let (index, insert, sensitive) = if first & 0x40 != 0 {
            (take_number(first, 6, rest)?, true, false)
        } else {
            (take_number(first, 4, rest)?, false, first & 0x10 != 0)
        };
        let at = block.text.len();
        let mut of = if index == 0 {
            string(rest, &mut block.text)?;
            kind(block.text.get(at..).unwrap_or_default())
        } else {
            let found = lookup(&self.table, index)?;
            block.text.extend_from_slice(found.name);
            // The bad part may have been the value.
            if found.kind == Kind::Bad {
                kind(found.name)
            } else {
                found.kind
            }
        };
        let value_at = block.text.len();
        string(rest, &mut block.text)?;
        let value = block.text.get(value_at..).unwrap_or_default();
        if !value_fits(value) {
            of = Kind::Bad;
        }
        let size = block.text.len() - at;
        if insert {
            let name = block.text.get(at..value_at).unwrap_or_default();
            self.table.insert(name, value, of);
        }
        if block.has_room(size, limits) {
            block.add((at, value_at), of, sensitive);
        } else {
            block.text.truncate(at);
        }
        Ok(())
    }
}

fn lookup(table: &Table, index: usize) -> Result<Found<'_>, Broken> {
    let fixed = index.checked_sub(1).ok_or(Broken)?;
    match FIXED.get(fixed) {
        Some((name, value, kind)) => Ok(Found {
            name: name.as_bytes(),
            value: value.as_bytes(),
            kind: *kind,
        }),
        None => table.get(fixed - FIXED.len()).ok_or(Broken),
    }
}

/// Takes a string off the front of `rest`.
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    let (first, after) = rest.split_first().ok_or(Broken)?;
    *rest = after;
    let length = take_number(*first, 7, rest)?;
    let (text, after) = rest.split_at_checked(length).ok_or(Broken)?;
    *rest = after;
    if first & 0x80 != 0 {
        huffman::decode(text, out)
    } else {
        out.extend_from_slice(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(decoder: &mut Decoder, input: &[u8]) -> Result<Block, Broken> {
        let mut block = Block::default();
        decoder.decode(input, &mut block, Limits::default())?;
        Ok(block)
    }

    #[test]
    fn indexes_of_nothing_and_sizes_beyond_ours_are_refused() {
        for bad in [
            &[0x80][..],
            &[0xbe],
            &[0x7e, 0x01, b'a'],
            &[0x40],
            &[0x40, 0x05, b'a'],
            &[0x3f, 0xe2, 0x1f],
            &[0x82, 0x20],
            &[0x40, 0x81, 0x00, 0x00],
        ] {
            assert!(read(&mut Decoder::new(4096), bad).is_err(), "{bad:x?}");
        }
        // Two sizes in front are what the specification asks for when it was lower in between.
        assert!(read(&mut Decoder::new(4096), &[0x20, 0x3f, 0xe1, 0x1f, 0x82]).is_ok());
    }

    /// One byte stands for thousands: what is kept is bounded, and the table stays right.
    #[test]
    fn a_block_that_unfolds_is_cut_off() {
        let mut decoder = Decoder::new(4096);
        let mut bomb = vec![0x40, 0x01, b'a', 0x7f, 0xa1, 0x1e];
        bomb.extend_from_slice(&[b'v'; 4000]);
        bomb.extend_from_slice(&vec![0xbe; 50_000]);
        let block = read(&mut decoder, &bomb).unwrap();
        assert!(block.is_cut() && block.memory() < 100_000);
        let next = read(&mut decoder, &[0xbe]).unwrap();
        assert_eq!(next.count(), 1);
    }

    #[test]
    fn a_bad_value_stays_bad_when_it_recurs_and_its_name_does_not() {
        let mut decoder = Decoder::new(4096);
        let first = read(&mut decoder, &[0x40, 0x01, b'a', 0x01, b'\n']).unwrap();
        assert!(first.fault().is_some());
        assert!(read(&mut decoder, &[0xbe]).unwrap().fault().is_some());
        let named = read(&mut decoder, &[0x0f, 0x2f, 0x01, b'v']).unwrap();
        assert_eq!(named.fault(), None);
    }
}
