//! What a connection speaks, told from its first bytes.
//!
//! The bytes are read, not peeked at, and handed on with the connection: one system call, and no
//! busy waiting on a half-sent hello.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use rustls::server::Acceptor;

use crate::rt;

use super::buffer::Buffer;
use super::stream::Stream;
use super::tables::chain::Hello;
use super::timer::Alarm;

/// What an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line that has not ended by then is none.
const MAX_LINE: usize = 8 * 1024;
/// A client hello that has not ended by then is not looked into (Envoy's `max_client_hello_size`).
const MAX_HELLO: usize = 16 * 1024;

/// What first bytes mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum First {
    /// A TLS client hello.
    Tls(Hello),
    /// HTTP/1.
    Http1,
    /// HTTP/2 without TLS.
    Http2,
    /// Something else, or nothing for too long.
    Bytes,
}

impl First {
    /// As chains match it.
    pub(crate) fn hello(&self) -> Hello {
        let plain = |protocol: Option<&str>| Hello {
            tls: false,
            server_name: None,
            protocols: protocol
                .map(|name| name.as_bytes().to_vec())
                .into_iter()
                .collect(),
        };
        match self {
            Self::Tls(hello) => hello.clone(),
            Self::Http1 => plain(Some("http/1.1")),
            Self::Http2 => plain(Some("h2c")),
            Self::Bytes => plain(None),
        }
    }
}

/// Reads from `stream` until it is clear what it speaks, for `timeout` at most (zero waits for
/// ever). What was read is in `buffer`. Being late is an error where `close_late` says so.
pub(crate) async fn detect(
    stream: &mut Stream,
    buffer: &mut Buffer,
    (timeout, close_late): (Duration, bool),
) -> io::Result<First> {
    let deadline = (!timeout.is_zero()).then(|| rt::now() + timeout);
    let mut alarm = Alarm::default();
    let mut judge = Judge::default();
    loop {
        if let Some(first) = judge.look(buffer.data()) {
            return Ok(first);
        }
        let filled = alarm
            .within(deadline, poll_fn(|cx| stream.poll_fill(cx, buffer)))
            .await;
        match filled {
            None if close_late => return Err(io::ErrorKind::TimedOut.into()),
            // Too slow, or ended: what came is bytes.
            None | Some(Ok(0)) => return Ok(First::Bytes),
            Some(Ok(_)) => {}
            Some(Err(error)) if error.kind() == io::ErrorKind::OutOfMemory => {
                return Ok(First::Bytes);
            }
            Some(Err(error)) => return Err(error),
        }
    }
}

/// Looks at first bytes as they come, at those of a client hello only once.
#[derive(Default)]
pub(super) struct Judge {
    hello: Option<Box<Acceptor>>,
    /// Bytes that `hello` has.
    fed: usize,
}

impl Judge {
    /// What `data`, which begins with what was there the last time, means; `None` while more is
    /// needed.
    pub(super) fn look(&mut self, data: &[u8]) -> Option<First> {
        match data.first()? {
            // A handshake record of TLS 1.x.
            0x16 => match data.get(1) {
                None => None,
                Some(3) if data.len() > MAX_HELLO => Some(First::Tls(unreadable())),
                Some(3) => self.client_hello(data),
                Some(_) => Some(First::Bytes),
            },
            _ if data.starts_with(PREFACE) => Some(First::Http2),
            _ if PREFACE.starts_with(data) => None,
            _ => request_line(data),
        }
    }

    fn client_hello(&mut self, data: &[u8]) -> Option<First> {
        let acceptor = self.hello.get_or_insert_default();
        let mut rest = data.get(self.fed..)?;
        while !rest.is_empty() {
            match acceptor.read_tls(&mut rest) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Some(First::Tls(Hello {
                        tls: true,
                        server_name: hello.server_name().map(str::to_ascii_lowercase),
                        protocols: hello
                            .alpn()
                            .map(|names| names.map(<[u8]>::to_vec).collect())
                            .unwrap_or_default(),
                    }));
                }
                // TLS, but none that can be read: only chains without a name take it.
                Err(_) => return Some(First::Tls(unreadable())),
            }
        }
        self.fed = data.len() - rest.len();
        None
    }
}

fn unreadable() -> Hello {
    Hello {
        tls: true,
        ..Hello::default()
    }
}

/// What `data` means; `None` while more is needed.
#[cfg(test)]
fn judge(data: &[u8]) -> Option<First> {
    Judge::default().look(data)
}

fn request_line(data: &[u8]) -> Option<First> {
    // Empty lines before a request are passed over (RFC 9112, 2.2).
    let start = data
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))
        .unwrap_or(data.len());
    let line = data.get(start..).unwrap_or_default();
    if start > 4 {
        return Some(First::Bytes);
    }
    let end = line.iter().position(|byte| *byte == b'\n');
    let known = line.get(..end.unwrap_or(line.len())).unwrap_or_default();
    let token = known
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap_or(known.len());
    let method = known.get(..token).unwrap_or_default();
    let method_fits = method.len() <= 24
        && method
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'));
    let printable = known
        .iter()
        .all(|byte| (b' '..0x7f).contains(byte) || matches!(byte, b'\r' | 0x80..));
    if !method_fits || !printable || (token == 0 && !known.is_empty()) {
        return Some(First::Bytes);
    }
    match end {
        Some(_) => {
            let text = known.trim_ascii_end();
            let http = text
                .get(text.len().saturating_sub(8)..)
                .is_some_and(|version| version.starts_with(b"HTTP/1."));
            Some(if http && token < known.len() {
                First::Http1
            } else {
                First::Bytes
            })
        }
        None if line.len() >= MAX_LINE => Some(First::Bytes),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_are_told_apart_as_soon_as_possible() {
        for (data, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(First::Http1)),
            (b"\r\nPURGE /x HTTP/1.0\n", Some(First::Http1)),
            (b"GET /", None),
            (b"GET / HTTP/2\r\n", Some(First::Bytes)),
            (b"PRI * HT", None),
            (PREFACE, Some(First::Http2)),
            (b"P", None),
            (b"PING\r\n", Some(First::Bytes)),
            (b"SSH-2.0-x", Some(First::Bytes)),
            (b"SSH-2.0-OpenSSH_9\r\n", Some(First::Bytes)),
            (b"\x00\x00", Some(First::Bytes)),
            (b"\x16", None),
            (b"\x16\x01", Some(First::Bytes)),
            (b"*1\r\n$4\r\nPING\r\n", Some(First::Bytes)),
            (b"", None),
        ] {
            assert_eq!(judge(data), expected, "{}", data.escape_ascii());
        }
    }

    #[test]
    fn server_name_and_protocols_are_read_from_a_hello() {
        let config = {
            let mut config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            config.alpn_protocols = vec![b"istio".to_vec(), b"h2".to_vec()];
            std::sync::Arc::new(config)
        };
        let name = "outbound_.80_._.Reviews.default".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config, name).unwrap();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut slow = Judge::default();
        for cut in 1..wire.len() {
            assert_eq!(judge(&wire[..cut]), None, "{cut}");
            assert_eq!(slow.look(&wire[..cut]), None, "{cut}");
        }
        let Some(First::Tls(hello)) = judge(&wire) else {
            panic!("not TLS");
        };
        assert_eq!(slow.look(&wire), Some(First::Tls(hello.clone())));
        assert_eq!(
            hello.server_name.as_deref(),
            Some("outbound_.80_._.reviews.default")
        );
        assert_eq!(hello.protocols, [b"istio".to_vec(), b"h2".to_vec()]);
    }

    /// One handshake message over many records, each of a byte.
    #[test]
    fn a_hello_in_many_records_is_read_and_an_endless_one_is_not() {
        let mut config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.max_fragment_size = Some(32);
        let name = "a.example".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let Some(First::Tls(hello)) = judge(&wire) else {
            panic!("not TLS");
        };
        assert_eq!(hello.server_name.as_deref(), Some("a.example"));

        // A handshake message of 64 KiB, in records of 1 KiB.
        let mut endless = Vec::new();
        let mut body = vec![1, 0, 0xff, 0xff];
        body.resize(0xffff, 0);
        for part in body.chunks(1024) {
            endless.extend([0x16, 3, 1]);
            endless.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            endless.extend(part);
        }
        let mut slow = Judge::default();
        let end = (1..endless.len())
            .step_by(1000)
            .find(|cut| slow.look(&endless[..*cut]).is_some())
            .unwrap();
        assert!(end < MAX_HELLO + 2000, "{end}");
    }
}
