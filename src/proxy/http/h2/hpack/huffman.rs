//! The Huffman code of RFC 7541, appendix B.
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, so
//! the lengths alone say everything. Codes of up to ten bits, which text consists of, are found by
//! one look into a table; longer ones by a search over their lengths.

#![expect(
    clippy::indexing_slicing,
    reason = "indexes are bytes into tables of 256 and more, or numbers of ten bits into one of 1024"
)]

use super::Broken;

/// Bits of each symbol's code; the last one is the end of the string, which is never sent.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Codes of up to this many bits are found at once.
const FAST: u32 = 10;
const LONGEST: usize = 30;

struct Tables {
    /// Code and bits by symbol.
    codes: [(u32, u8); 256],
    /// Symbol and bits by the next ten bits; no bits where the code is longer.
    fast: [(u8, u8); 1 << FAST],
    /// First code of each length, aligned to 32 bits, and the place of its symbol in `order`.
    first: [(u32, u16); LONGEST + 2],
    /// Symbols by length.
    order: [u16; 257],
}

static TABLES: Tables = tables();

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "conversions by From are not constant yet; symbols are below 257 and lengths below 31"
)]
const fn tables() -> Tables {
    let mut tables = Tables {
        codes: [(0, 0); 256],
        fast: [(0, 0); 1 << FAST],
        first: [(0, 0); LONGEST + 2],
        order: [0; 257],
    };
    let (mut code, mut place, mut bits) = (0_u32, 0, 1);
    while bits <= LONGEST {
        tables.first[bits] = (code << (32 - bits), place as u16);
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == bits {
                tables.order[place] = symbol as u16;
                place += 1;
                if symbol < 256 {
                    tables.codes[symbol] = (code, bits as u8);
                    if bits <= FAST as usize {
                        let spread = 1 << (FAST as usize - bits);
                        let mut at = 0;
                        while at < spread {
                            tables.fast[code as usize * spread + at] = (symbol as u8, bits as u8);
                            at += 1;
                        }
                    }
                }
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        bits += 1;
    }
    // Where a search ends: no code of 30 bits is that large.
    tables.first[LONGEST + 1] = (u32::MAX, 0);
    tables
}

/// Appends what `input` stands for to `out`.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    // Seven bits say nothing at least; the shortest code has five.
    out.reserve(input.len() * 8 / 5 + 1);
    // The next bits, the first one on top.
    let mut bits = 0_u64;
    let mut have = 0_u32;
    let mut rest = input;
    loop {
        if have <= 32 {
            if let Some((four, after)) = rest.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*four)) << (32 - have);
                have += 32;
                rest = after;
            } else {
                while let Some((byte, after)) = rest.split_first() {
                    bits |= u64::from(*byte) << (56 - have);
                    have += 8;
                    rest = after;
                }
            }
        }
        let (symbol, length) = match TABLES.fast[index(bits >> (64 - FAST))] {
            (_, 0) => long(bits),
            found => found,
        };
        if u32::from(length) > have {
            break;
        }
        out.push(symbol);
        bits <<= length;
        have -= u32::from(length);
    }
    // Padded by the first bits of the end's code, which are ones, to a whole byte.
    if have >= 8 || bits != !(u64::MAX >> have) {
        return Err(Broken);
    }
    Ok(())
}

fn index(bits: u64) -> usize {
    usize::try_from(bits).unwrap_or(0)
}

/// The symbol of a code of more than ten bits.
#[cold]
fn long(bits: u64) -> (u8, u8) {
    let top = u32::try_from(bits >> 32).unwrap_or(0);
    let mut length = 11_u8;
    while usize::from(length) < LONGEST && TABLES.first[usize::from(length) + 1].0 <= top {
        length += 1;
    }
    let (first, place) = TABLES.first[usize::from(length)];
    let offset = (top - first) >> (32 - u32::from(length));
    let at = usize::from(place) + usize::try_from(offset).unwrap_or(usize::MAX);
    match TABLES.order.get(at).map(|symbol| u8::try_from(*symbol)) {
        Some(Ok(symbol)) => (symbol, length),
        // The end of the string, or nothing: only its first bits may come, as padding.
        _ => (0, u8::MAX),
    }
}

/// Bytes that `text` takes when encoded.
pub(super) fn length(text: &[u8]) -> usize {
    let bits: usize = text
        .iter()
        .map(|byte| usize::from(TABLES.codes[usize::from(*byte)].1))
        .sum();
    bits.div_ceil(8)
}

/// Appends `text`, encoded.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let mut bits = 0_u64;
    let mut have = 0_u32;
    for byte in text {
        let (code, length) = TABLES.codes[usize::from(*byte)];
        bits = bits << length | u64::from(code);
        have += u32::from(length);
        while have >= 8 {
            have -= 8;
            out.push(low(bits >> have));
        }
    }
    if have > 0 {
        out.push(low(bits << (8 - have)) | 0xff >> have);
    }
}

fn low(bits: u64) -> u8 {
    u8::try_from(bits & 0xff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::bytes;
    use super::*;

    fn decoded(input: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    #[test]
    fn words_of_appendix_c() {
        for (text, hex) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("private", "aec3771a4b"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "d07abe941054d444a8200595040b8166e082a62d1bff",
            ),
            ("", ""),
        ] {
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(out, bytes(hex), "{text}");
            assert_eq!(length(text.as_bytes()), out.len());
            assert_eq!(decoded(&out).as_deref(), Ok(text.as_bytes()));
        }
    }

    #[test]
    fn padding_is_ones_and_less_than_a_byte() {
        // "0" is 00000: padded by ones, by a zero, by a byte too many, and the end of the string.
        assert_eq!(decoded(&[0b0000_0111]).as_deref(), Ok(&b"0"[..]));
        assert_eq!(decoded(&[0b0000_0110]), Err(Broken));
        assert_eq!(decoded(&[0b0000_0111, 0xff]), Err(Broken));
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(Broken));
    }

    proptest! {
        #[test]
        fn any_bytes_survive(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut out = Vec::new();
            encode(&text, &mut out);
            prop_assert_eq!(length(&text), out.len());
            prop_assert_eq!(decoded(&out), Ok(text));
        }

        #[test]
        fn what_is_read_was_written(input in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(text) = decoded(&input) {
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, input);
            }
        }
    }
}
