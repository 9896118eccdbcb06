//! How slots and edges are kept, in memory and on disk: whole numbers of variable length, and what is 0 left out.
//!
//! | what | bytes |
//! |---|---|
//! | number | LEB128: seven bits a byte, the lowest first |
//! | text | length, UTF-8 |
//! | cell | which parts follow ([`which_bit`]), counters, number of buckets, buckets, number of codes, codes |
//! | bucket | the place of its bound in [`LATENCY_MICROS`] plus 2, or 1 for the open one, or 0 and the bound; count |
//! | code | status, that of gRPC above 1000; count |
//! | slot | for each edge in order: how far its number is from the one before; its cell |

use std::collections::BTreeMap;

use crate::telemetry::names::LATENCY_MICROS;

use super::cell::{COUNTERS, Cell};
use super::edge::{Class, Edge};

/// Appends a number.
pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Takes a number off the front; none when there is no whole one.
pub(super) fn take(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Takes `count` bytes off the front.
pub(super) fn take_bytes<'b>(from: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
    let (taken, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(taken)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, u64::try_from(text.len()).unwrap_or(0));
    out.extend_from_slice(text.as_bytes());
}

fn take_text(from: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(take(from)?).ok()?;
    let bytes = take_bytes(from, length)?;
    Some(std::str::from_utf8(bytes).ok()?.to_owned())
}

/// Appends buckets: bounds and counts.
pub(super) fn put_buckets(out: &mut Vec<u8>, buckets: &[(u64, u64)]) {
    put(out, u64::try_from(buckets.len()).unwrap_or(0));
    for (bound, count) in buckets {
        match LATENCY_MICROS.binary_search(bound) {
            Ok(at) => put(out, u64::try_from(at).unwrap_or(0) + 2),
            Err(_) if *bound == u64::MAX => put(out, 1),
            Err(_) => {
                put(out, 0);
                put(out, *bound);
            }
        }
        put(out, *count);
    }
}

/// Reads what [`put_buckets`] wrote.
pub(super) fn take_buckets(from: &mut &[u8], mut each: impl FnMut(u64, u64)) -> Option<()> {
    for _ in 0..take(from)? {
        let bound = match take(from)? {
            0 => take(from)?,
            1 => u64::MAX,
            place => *LATENCY_MICROS.get(usize::try_from(place - 2).ok()?)?,
        };
        each(bound, take(from)?);
    }
    Some(())
}

/// Bits for latencies and codes in what says which parts of a cell follow.
const LATENCY_BIT: usize = 10;
const CODES_BIT: usize = COUNTERS + 1;

/// The bit for a counter: those that came later are behind that for latencies, so that older cells are read.
const fn which_bit(counter: usize) -> usize {
    if counter < LATENCY_BIT {
        counter
    } else {
        counter + 1
    }
}

fn put_cell(out: &mut Vec<u8>, cell: &Cell) {
    let counters = cell.counters();
    let mut which = 0_u64;
    for (at, count) in counters.iter().enumerate() {
        which |= u64::from(*count > 0) << which_bit(at);
    }
    let buckets = cell.latency.buckets();
    which |= u64::from(!buckets.is_empty()) << LATENCY_BIT;
    let codes = cell.codes.all();
    which |= u64::from(!codes.is_empty()) << CODES_BIT;
    put(out, which);
    for count in counters.into_iter().filter(|count| *count > 0) {
        put(out, count);
    }
    if !buckets.is_empty() {
        put_buckets(out, buckets);
    }
    if !codes.is_empty() {
        put(out, u64::try_from(codes.len()).unwrap_or(0));
        for (code, count) in codes {
            put(out, u64::from(*code));
            put(out, *count);
        }
    }
}

fn take_cell(from: &mut &[u8]) -> Option<Cell> {
    let which = take(from)?;
    if which >> (CODES_BIT + 1) != 0 {
        return None;
    }
    let mut cell = Cell::default();
    for (at, count) in cell.counters_mut().into_iter().enumerate() {
        if which >> which_bit(at) & 1 == 1 {
            *count = take(from)?;
        }
    }
    if which >> LATENCY_BIT & 1 == 1 {
        take_buckets(from, |bound, count| cell.latency.add(bound, count))?;
    }
    if which >> CODES_BIT & 1 == 1 {
        for _ in 0..take(from)? {
            let code = u16::try_from(take(from)?).ok()?;
            cell.codes.add_number(code, take(from)?);
        }
    }
    Some(cell)
}

/// Cells of a slot by the number of their edge.
pub(super) type Cells = BTreeMap<u32, Cell>;

/// A slot as bytes.
pub(super) fn encode_slot(cells: &Cells) -> Box<[u8]> {
    let mut out = Vec::with_capacity(cells.len() * 32);
    let mut last = 0;
    for (edge, cell) in cells {
        put(&mut out, u64::from(edge - last));
        last = *edge;
        put_cell(&mut out, cell);
    }
    out.into_boxed_slice()
}

/// Every cell of a slot that [`encode_slot`] wrote; none when it is something else.
pub(super) fn each_cell(mut bytes: &[u8], mut each: impl FnMut(u32, Cell)) -> Option<()> {
    let mut last = 0_u32;
    while !bytes.is_empty() {
        last = last.checked_add(u32::try_from(take(&mut bytes)?).ok()?)?;
        each(last, take_cell(&mut bytes)?);
    }
    Some(())
}

/// Reads what [`encode_slot`] wrote; none when it is something else.
pub(super) fn decode_slot(bytes: &[u8]) -> Option<Cells> {
    let mut cells = Cells::new();
    each_cell(bytes, |edge, cell| {
        cells.insert(edge, cell);
    })?;
    Some(cells)
}

/// An edge as bytes, with the second in which it was last seen.
pub(super) fn encode_edge(edge: &Edge, seen: u64) -> Vec<u8> {
    let mut out = vec![u8::from(edge.by_source), edge.class.byte()];
    put(&mut out, seen);
    for text in [&edge.source, &edge.service, &edge.version, &edge.route] {
        put_text(&mut out, text);
    }
    out
}

/// Reads what [`encode_edge`] wrote.
pub(super) fn decode_edge(mut bytes: &[u8]) -> Option<(Edge, u64)> {
    let [by_source, class] = *take_bytes(&mut bytes, 2)? else {
        return None;
    };
    let seen = take(&mut bytes)?;
    let mut text = || take_text(&mut bytes);
    let edge = Edge {
        by_source: by_source == 1,
        source: text()?,
        service: text()?,
        version: text()?,
        route: text()?,
        class: Class::from_byte(class),
    };
    Some((edge, seen))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cells with some counters, and buckets with known, strange and open bounds.
    pub(crate) fn cells() -> impl Strategy<Value = Cell> {
        let bound = prop_oneof![
            proptest::sample::select(&LATENCY_MICROS[..]),
            Just(u64::MAX),
            1..5_000_000_u64,
        ];
        let count = prop_oneof![Just(0), 0..300_u64, any::<u32>().prop_map(u64::from)];
        (
            proptest::collection::vec(count, COUNTERS),
            proptest::collection::vec((bound, 1..1_000_u64), 0..6),
            proptest::collection::vec((100..1_017_u16, 1..9_u64), 0..4),
        )
            .prop_map(|(counters, buckets, codes)| {
                let mut cell = Cell::default();
                for (own, count) in cell.counters_mut().into_iter().zip(counters) {
                    *own = count;
                }
                for (bound, count) in buckets {
                    cell.latency.add(bound, count);
                }
                for (code, count) in codes {
                    cell.codes.add_number(code, count);
                }
                cell
            })
    }

    proptest! {
        #[test]
        fn slots_round_trip(slot in proptest::collection::btree_map(any::<u32>(), cells(), 0..9)) {
            prop_assert_eq!(decode_slot(&encode_slot(&slot)), Some(slot));
        }

        #[test]
        fn numbers_round_trip(number: u64) {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take(&mut rest), Some(number));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn what_was_damaged_is_refused_and_nothing_panics(
            slot in proptest::collection::btree_map(any::<u32>(), cells(), 1..5),
            noise in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let bytes = encode_slot(&slot);
            prop_assert!(decode_slot(&bytes[..bytes.len() - 1]) != Some(slot));
            let _whatever = decode_slot(&noise);
            let _whatever = decode_edge(&noise);
        }
    }

    #[test]
    fn cells_of_earlier_versions_are_read() {
        // One request with one duration below 1 ms, as it was written when there were ten counters.
        let mut old = Vec::new();
        put(&mut old, 1 | 1 << 10);
        put(&mut old, 7);
        put_buckets(&mut old, &[(1_000, 7)]);
        let cell = take_cell(&mut old.as_slice()).unwrap();
        assert_eq!((cell.requests, cell.compared), (7, 0));
        assert_eq!(cell.latency.buckets(), [(1_000, 7)]);
    }

    #[test]
    fn edges_round_trip() {
        let edge = Edge {
            by_source: true,
            source: "page-v1.default".to_owned(),
            service: "reviews.default".to_owned(),
            version: "v1".to_owned(),
            route: "jäson".to_owned(),
            class: Class::of(503),
        };
        assert_eq!(decode_edge(&encode_edge(&edge, 77)), Some((edge, 77)));
        assert_eq!(decode_edge(b"\x01"), None);
    }
}
