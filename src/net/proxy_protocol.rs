//! The PROXY protocol, versions 1 and 2: a header by which a load balancer says who calls.
//!
//! Pure: bytes in, meaning out, and back. Where a header is believed, and what becomes of a
//! connection that has a bad one, is decided above. Type-length-values are passed over by the length
//! that the header states, never looked into.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the binary form begins with; nothing else does.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What the text form begins with.
const TEXT: &[u8] = b"PROXY ";
/// Longest line of the text form with its line end.
pub const MAX_TEXT: usize = 107;
/// Signature, version, family and length.
const FIXED: usize = 16;

/// The two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which form.
    pub version: Version,
    /// Bytes before those of the connection itself; more than were looked at when values follow.
    pub length: usize,
    /// Who calls whom; `None` when the sender speaks for itself (`UNKNOWN`, `LOCAL`), or of
    /// addresses that are none of the Internet.
    pub addresses: Option<Addresses>,
}

/// Both ends of the connection that the sender took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The caller.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// They could still become a header.
    Partial,
    /// No header.
    Absent,
    /// A header.
    Header(Header),
    /// They begin like a header of this form and are none.
    Bad(Version),
}

/// Looks at the first bytes of a connection.
pub fn parse(data: &[u8]) -> Parsed {
    let begins = |with: &[u8]| data.starts_with(with) || with.starts_with(data);
    if begins(&SIGNATURE) {
        if data.len() < SIGNATURE.len() {
            return Parsed::Partial;
        }
        return binary(data).unwrap_or(Parsed::Bad(Version::V2));
    }
    if begins(TEXT) {
        if data.len() < TEXT.len() {
            return Parsed::Partial;
        }
        return text(data);
    }
    Parsed::Absent
}

fn text(data: &[u8]) -> Parsed {
    let line = data.get(..data.len().min(MAX_TEXT)).unwrap_or_default();
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() < MAX_TEXT {
            Parsed::Partial
        } else {
            Parsed::Bad(Version::V1)
        };
    };
    let words = line
        .get(TEXT.len()..end)
        .and_then(|words| words.strip_suffix(b"\r"))
        .and_then(|words| std::str::from_utf8(words).ok());
    let addresses = match words {
        // Whatever follows is to be passed over.
        Some(words) if words == "UNKNOWN" || words.starts_with("UNKNOWN ") => Some(None),
        Some(words) => text_addresses(words).map(Some),
        None => None,
    };
    match addresses {
        Some(addresses) => Parsed::Header(Header {
            version: Version::V1,
            length: end + 1,
            addresses,
        }),
        None => Parsed::Bad(Version::V1),
    }
}

fn text_addresses(words: &str) -> Option<Addresses> {
    let mut words = words.split(' ');
    let mut word = || words.next();
    let family = word()?;
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, destination) = (address(word()?)?, address(word()?)?);
    let (from, to) = (port(word()?)?, port(word()?)?);
    word().is_none().then(|| Addresses {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    })
}

/// Decimal digits without a leading zero or sign.
fn port(text: &str) -> Option<u16> {
    let plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// `None` is bad.
fn binary(data: &[u8]) -> Option<Parsed> {
    let Some((fixed, rest)) = data.split_at_checked(FIXED) else {
        // Told as soon as it is known.
        let command = data.get(12).copied();
        return command
            .is_none_or(|byte| matches!(byte, 0x20 | 0x21))
            .then_some(Parsed::Partial);
    };
    let &[.., command, family, high, low] = fixed else {
        return None;
    };
    let values = usize::from(u16::from_be_bytes([high, low]));
    let header = |addresses| {
        Some(Parsed::Header(Header {
            version: Version::V2,
            length: FIXED + values,
            addresses,
        }))
    };
    match (command, family) {
        // LOCAL: the sender's own, such as a health check; the rest means nothing. Unspecified, and
        // Unix sockets: the real addresses are the best there are.
        (0x20, _) | (0x21, 0x00 | 0x31) => header(None),
        (0x21, 0x11 | 0x21) => {
            let size = if family == 0x11 { 12 } else { 36 };
            if values < size {
                return None;
            }
            let Some(block) = rest.get(..size) else {
                return Some(Parsed::Partial);
            };
            header(Some(addresses(block)?))
        }
        _ => None,
    }
}

/// Two addresses and two ports.
fn addresses(block: &[u8]) -> Option<Addresses> {
    let (ips, ports) = block.split_at_checked(block.len().checked_sub(4)?)?;
    let (source, destination) = ips.split_at_checked(ips.len() / 2)?;
    let &[a, b, c, d] = ports else { return None };
    let ip = |bytes: &[u8]| -> Option<IpAddr> {
        match *bytes {
            [_, _, _, _] => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        }
    };
    Some(Addresses {
        source: SocketAddr::new(ip(source)?, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(ip(destination)?, u16::from_be_bytes([c, d])),
    })
}

/// The header for a connection between these, or for one of our own (`UNKNOWN`, `LOCAL`).
/// Addresses of two families both become IPv6.
pub fn write(version: Version, addresses: Option<Addresses>) -> Vec<u8> {
    let Some(Addresses {
        source,
        destination,
    }) = addresses
    else {
        return match version {
            Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            Version::V2 => [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
        };
    };
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let (from, to) = match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (from, to),
        _ => (IpAddr::V6(mapped(from)), IpAddr::V6(mapped(to))),
    };
    match version {
        Version::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from_port, to_port) = (source.port(), destination.port());
            format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
        }
        Version::V2 => {
            let (family, size) = if from.is_ipv4() {
                (0x11, 12)
            } else {
                (0x21, 36)
            };
            let mut out = SIGNATURE.to_vec();
            out.extend([0x21, family, 0, size]);
            for ip in [from, to] {
                match ip {
                    IpAddr::V4(ip) => out.extend(ip.octets()),
                    IpAddr::V6(ip) => out.extend(ip.octets()),
                }
            }
            for port in [source.port(), destination.port()] {
                out.extend(port.to_be_bytes());
            }
            out
        }
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend([command, family]);
        out.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        out.extend(rest);
        out
    }

    #[test]
    fn lines_are_read_strictly() {
        let read = |line: &str| match parse(line.as_bytes()) {
            Parsed::Header(header) => {
                assert_eq!(header.length, line.find('\n').unwrap() + 1);
                header.addresses.map_or("-".to_owned(), |a| {
                    format!("{} {}", a.source, a.destination)
                })
            }
            other => format!("{other:?}"),
        };
        for (line, expected) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nGET",
                "192.0.2.1:56324 198.51.100.7:443",
            ),
            (
                "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
                "[2001:db8::1]:1 [::1]:65535",
            ),
            ("PROXY UNKNOWN\r\n", "-"),
            ("PROXY UNKNOWN anything at all\r\n", "-"),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 0 0\r\n", "1.2.3.4:0 1.2.3.4:0"),
            ("PROXY", "Partial"),
            ("PROXY TCP4 1.2.3.4", "Partial"),
            ("", "Partial"),
            ("PROXX", "Absent"),
            ("POST / HTTP/1.1\r\n", "Absent"),
            ("proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n", "Absent"),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", "Bad(V1)"),
            ("PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n", "Bad(V1)"),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", "Bad(V1)"),
            ("PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n", "Bad(V1)"),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n", "Bad(V1)"),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", "Bad(V1)"),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", "Bad(V1)"),
            ("PROXY TCP4 ::1 ::1 1 1\r\n", "Bad(V1)"),
            ("PROXY TCP6 ::1%lo ::1 1 1\r\n", "Bad(V1)"),
            ("PROXY UNKNOWNX\r\n", "Bad(V1)"),
            ("PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", "Bad(V1)"),
        ] {
            assert_eq!(read(line), expected, "{line:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(parse(endless.as_bytes()), Parsed::Bad(Version::V1));
    }

    #[test]
    fn binary_headers_are_read_by_their_length() {
        let four = [10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 0, 80];
        let with_values = [&four[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        let Parsed::Header(header) = parse(&v2(0x21, 0x11, &with_values)) else {
            panic!();
        };
        let addresses = header.addresses.unwrap();
        assert_eq!(addresses.source, "10.0.0.1:8080".parse().unwrap());
        assert_eq!(addresses.destination, "10.0.0.2:80".parse().unwrap());
        assert_eq!(header.length, 16 + 19);
        // Values are passed over by their total length, even when they have not come yet.
        let mut long = SIGNATURE.to_vec();
        long.extend([0x21, 0x11, 0xff, 0xff]);
        long.extend(four);
        assert!(matches!(parse(&long), Parsed::Header(h) if h.length == 16 + 0xffff));
        for (header, expected) in [
            (v2(0x20, 0x00, &[]), Some(16)),
            (v2(0x20, 0xff, &[1, 2, 3]), Some(19)),
            (v2(0x21, 0x00, &[9; 5]), Some(21)),
            (v2(0x21, 0x31, &[0; 216]), Some(232)),
            // Too short for its addresses, a datagram, another command, another version.
            (v2(0x21, 0x11, &four[..11]), None),
            (v2(0x21, 0x12, &four), None),
            (v2(0x22, 0x11, &four), None),
            (v2(0x11, 0x11, &four), None),
            (v2(0x21, 0x21, &four), None),
        ] {
            match (parse(&header), expected) {
                (Parsed::Header(found), Some(length)) => {
                    assert_eq!((found.length, found.addresses), (length, None));
                }
                (found, _) => {
                    assert_eq!(
                        (found, expected),
                        (Parsed::Bad(Version::V2), None),
                        "{header:?}"
                    );
                }
            }
        }
        // A wrong version is told before the rest has come.
        let mut wrong = SIGNATURE.to_vec();
        wrong.push(0x31);
        assert_eq!(parse(&wrong), Parsed::Bad(Version::V2));
    }

    #[test]
    fn ones_own_connections_say_so() {
        for (version, wire) in [
            (Version::V1, b"PROXY UNKNOWN\r\n".to_vec()),
            (Version::V2, v2(0x20, 0, &[])),
        ] {
            assert_eq!(write(version, None), wire);
            let header = Header {
                version,
                length: wire.len(),
                addresses: None,
            };
            assert_eq!(parse(&wire), Parsed::Header(header));
        }
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
            any::<([u8; 16], u16)>().prop_map(SocketAddr::from),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            source in address(),
            destination in address(),
            v1 in any::<bool>(),
            behind in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let version = if v1 { Version::V1 } else { Version::V2 };
            let mut wire = write(version, Some(Addresses { source, destination }));
            let length = wire.len();
            for cut in 0..length {
                prop_assert_eq!(parse(&wire[..cut]), Parsed::Partial);
            }
            wire.extend(behind);
            let Parsed::Header(header) = parse(&wire) else {
                panic!("{wire:?}");
            };
            prop_assert_eq!((header.version, header.length), (version, length));
            let read = header.addresses.unwrap();
            let plain = |a: SocketAddr| (a.ip().to_canonical(), a.port());
            prop_assert_eq!(plain(read.source), plain(source));
            prop_assert_eq!(plain(read.destination), plain(destination));
        }

        #[test]
        fn more_bytes_never_take_a_verdict_back(data in proptest::collection::vec(any::<u8>(), 0..60), v2 in any::<bool>()) {
            let data = if v2 { [&SIGNATURE[..], &data].concat() } else { [b"PROXY ".as_slice(), &data].concat() };
            let mut verdict = Parsed::Partial;
            for cut in 0..=data.len() {
                let next = parse(&data[..cut]);
                if verdict == Parsed::Partial {
                    verdict = next;
                } else {
                    prop_assert_eq!(next, verdict);
                }
            }
        }
    }
}
