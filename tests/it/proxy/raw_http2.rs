//! HTTP/2 by hand: frames as they are given, from a caller that acknowledges nothing.

use std::net::SocketAddr;
use std::time::Duration;

use meshctl::net::{ConnectOptions, connect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(20);

/// A connection that has said hello.
pub(crate) struct RawHttp2(TcpStream);

impl RawHttp2 {
    pub(crate) async fn open(to: SocketAddr) -> Self {
        let mut own = Self(connect(to, ConnectOptions::default()).await.unwrap());
        let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        own.0.write_all(hello).await.unwrap();
        own.frame(4, 0, 0, &[]).await;
        own
    }

    /// Sends a frame. Whether it could be: the other side may have closed.
    pub(crate) async fn frame(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [kind, flags, 0, 0, 0, stream];
        let frame = [&length[1..], &head, payload].concat();
        self.0.write_all(&frame).await.is_ok()
    }

    /// Sends a head of these fields, and with `end` no body.
    pub(crate) async fn ask(&mut self, stream: u8, fields: &[(&str, &str)], end: bool) {
        let mut block = Vec::new();
        for (name, value) in fields {
            // A literal without indexing, in plain text (RFC 7541, section 6.2.2).
            block.push(0);
            for text in [name, value] {
                let mut length = text.len();
                if length < 127 {
                    block.push(u8::try_from(length).unwrap());
                } else {
                    block.push(127);
                    length -= 127;
                    while length >= 128 {
                        block.push(u8::try_from(length % 128).unwrap() | 128);
                        length /= 128;
                    }
                    block.push(u8::try_from(length).unwrap());
                }
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.frame(1, if end { 5 } else { 4 }, stream, &block).await;
    }

    /// Ends the body of a stream.
    pub(crate) async fn end(&mut self, stream: u8) {
        self.frame(0, 1, stream, b"all").await;
    }

    /// The status that a stream is answered with; 0 where it or the connection is ended instead.
    pub(crate) async fn status(&mut self, stream: u8) -> u16 {
        while let Some((kind, of, payload)) = self.next().await {
            match kind {
                1 if of == stream => return status_of(&payload),
                3 if of == stream => return 0,
                _ => {}
            }
        }
        0
    }

    /// The next frame: kind, stream, payload. `None` at the end.
    async fn next(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        let read = tokio::time::timeout(DEADLINE, self.0.read_exact(&mut head)).await;
        read.expect("nothing came").ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[8], payload))
    }

    /// Waits until the other side has ended it.
    pub(crate) async fn ended(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Waits until the other side says that it will.
    pub(crate) async fn warned(&mut self) {
        while let Some((kind, ..)) = self.next().await {
            if kind == 7 {
                return;
            }
        }
    }
}

/// The status at the beginning of a block of fields.
fn status_of(block: &[u8]) -> u16 {
    // The size of the table may stand before it.
    let at = block
        .iter()
        .position(|byte| byte & 0xe0 != 0x20)
        .unwrap_or(0);
    let (first, rest) = (block[at], &block[at + 1..]);
    match first {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        // A literal whose name is `:status`.
        _ => {
            let length = usize::from(rest[0] & 0x7f);
            let value = &rest[1..=length];
            if rest[0] & 0x80 == 0 {
                return String::from_utf8_lossy(value).parse().unwrap();
            }
            digits(value)
        }
    }
}

/// Three digits in Huffman's code: `0`, `1`, `2` have five bits, others six (RFC 7541, appendix B).
fn digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
        .collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let take = |count: usize| {
            bits[at..at + count]
                .iter()
                .fold(0, |all, bit| all << 1 | u16::from(*bit))
        };
        let five = take(5);
        let digit = if five < 3 {
            at += 5;
            five
        } else {
            let six = take(6);
            at += 6;
            six - 0x19 + 3
        };
        number = number * 10 + digit;
    }
    number
}
