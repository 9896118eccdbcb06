//! Header compression for HTTP/2 (RFC 7541), in both directions.
//!
//! Decoding writes straight into a [`Block`](super::block::Block); encoding writes straight into a
//! connection's output. What recurs on a connection costs one comparison and one byte.

mod decode;
mod encode;
mod huffman;
mod table;

pub(crate) use decode::Decoder;
pub(crate) use encode::Encoder;

/// Size of the dynamic tables of both directions in bytes; what RFC 7541 begins with.
pub(crate) const TABLE: usize = 4096;

/// Header compression that cannot be followed. The connection cannot go on, as the two tables
/// differ from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// Appends `number` in the coding of section 5.1, with `first` in the bits before the prefix.
fn put_number(out: &mut Vec<u8>, first: u8, prefix: u8, number: usize) {
    let most = (1_u8 << prefix) - 1;
    if let Ok(small) = u8::try_from(number)
        && small < most
    {
        out.push(first | small);
        return;
    }
    out.push(first | most);
    let mut rest = number - usize::from(most);
    while rest >= 0x80 {
        out.push(low(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low(rest));
}

fn low(number: usize) -> u8 {
    u8::try_from(number & 0x7f).unwrap_or(0)
}

/// Takes a number off the front of `rest`, whose first byte is `first`.
fn take_number(first: u8, prefix: u8, rest: &mut &[u8]) -> Result<usize, Broken> {
    let most = (1_u8 << prefix) - 1;
    let small = first & most;
    let mut number = usize::from(small);
    if small < most {
        return Ok(number);
    }
    // No number that means anything here needs more than four further bytes.
    for shift in [0, 7, 14, 21] {
        let (byte, after) = rest.split_first().ok_or(Broken)?;
        *rest = after;
        number += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Broken)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::super::block::{Block, Limits};
    use super::*;

    #[test]
    fn numbers_are_those_of_appendix_c_1() {
        let mut out = Vec::new();
        put_number(&mut out, 0, 5, 10);
        put_number(&mut out, 0, 5, 1337);
        put_number(&mut out, 0, 8 - 1, 42);
        assert_eq!(out, [0x0a, 0x1f, 0x9a, 0x0a, 0x2a]);
    }

    #[test]
    fn endless_numbers_are_refused() {
        let mut rest = &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..];
        assert_eq!(take_number(0x1f, 5, &mut rest), Err(Broken));
        assert_eq!(take_number(0x1f, 5, &mut &[0x80][..]), Err(Broken));
    }

    pub(super) fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn text(block: &Block) -> String {
        let mut text = String::new();
        for (name, value) in [
            (":status", &block.status.to_string().into_bytes()[..]),
            (":method", block.method()),
            (":scheme", block.scheme()),
            (":path", block.path()),
            (":authority", block.authority().unwrap_or_default()),
        ] {
            if !value.is_empty() && value != b"0" {
                writeln!(text, "{name}: {}", value.escape_ascii()).unwrap();
            }
        }
        block.each(|_, name, value| {
            writeln!(text, "{}: {}", name.escape_ascii(), value.escape_ascii()).unwrap();
        });
        text
    }

    /// RFC 7541, appendix C.3 to C.6: three heads each, over one table.
    #[test]
    fn the_examples_of_the_specification_are_read() {
        let requests = [
            ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n",
            ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache\n",
            ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value\n",
        ];
        let rest = "cache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com\n";
        let responses = [
            format!(":status: 302\n{rest}"),
            format!(":status: 307\n{rest}"),
            ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\nlocation: https://www.example.com\ncontent-encoding: gzip\nset-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n".to_owned(),
        ];
        let requests = requests.map(str::to_owned);
        for (table, expected, heads) in [
            (
                4096,
                &requests,
                [
                    "828684410f7777772e6578616d706c652e636f6d",
                    "828684be58086e6f2d6361636865",
                    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
                ],
            ),
            (
                4096,
                &requests,
                [
                    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                    "828684be5886a8eb10649cbf",
                    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
                ],
            ),
            (
                256,
                &responses,
                [
                    "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
                    "4803333037c1c0bf",
                    "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
                ],
            ),
            (
                256,
                &responses,
                [
                    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
                    "4883640effc1c0bf",
                    "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                ],
            ),
        ] {
            let mut decoder = Decoder::new(table);
            for (hex, expected) in heads.iter().zip(expected) {
                let mut block = Block::default();
                let limits = Limits::default();
                decoder.decode(&bytes(hex), &mut block, limits).unwrap();
                assert_eq!(&text(&block), expected);
                assert_eq!(block.fault(), None);
            }
        }
    }

    proptest! {
        /// Whatever is encoded is read back, over tables that fill, change size and are evicted from.
        #[test]
        fn what_is_encoded_is_decoded(
            heads in proptest::collection::vec(
                (proptest::collection::vec(("[a-z][a-z0-9-]{0,12}", "[!-~]{0,40}"), 0..8), prop::option::of(0..5000_usize)),
                1..12,
            ),
        ) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(TABLE));
            // Every head twice, as entries are made for what recurs.
            for (fields, size) in heads.iter().chain(&heads).chain(&heads) {
                if let Some(size) = size {
                    encoder.resize(*size);
                }
                let mut out = Vec::new();
                encoder.begin(&mut out);
                encoder.status(&mut out, 200);
                for (name, value) in fields {
                    encoder.field(&mut out, name.as_bytes(), value.as_bytes(), false);
                }
                let mut block = Block::default();
                decoder.decode(&out, &mut block, Limits::default()).unwrap();
                let mut read = Vec::new();
                block.each(|_, name, value| read.push((name.to_vec(), value.to_vec())));
                let expected: Vec<_> = fields
                    .iter()
                    .map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes()))
                    .collect();
                prop_assert_eq!(read, expected);
            }
        }

        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::new(TABLE);
            for part in bytes.chunks(60) {
                // Only that it ends and stays within its limits matters.
                let mut block = Block::default();
                let _read = decoder.decode(part, &mut block, Limits { size: 1000, count: 10 });
                prop_assert!(block.memory() <= 1000 + 4096 + 300);
            }
        }
    }
}
