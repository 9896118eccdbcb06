//! Hosts as requests name them: `name`, `name:port`, `[address]:port`.

use crate::mesh::http::{HostOptions, StripPort};

/// Whether `text` is a host with or without a port, and nothing else. Empty is no host, which is
/// for the caller to judge.
pub(crate) fn is_valid(text: &[u8]) -> bool {
    let Some((name, port)) = split(text) else {
        return false;
    };
    let number = |port: &[u8]| {
        (1..=5).contains(&port.len())
            && super::fields::decimal(port).is_some_and(|port| u16::try_from(port).is_ok())
    };
    let plausible = match name {
        [b'[', address @ .., b']'] => {
            address.iter().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'%' | b'-' | b'_')
            }) && address.contains(&b':')
        }
        name => name.iter().copied().all(harmless),
    };
    plausible && port.is_none_or(number) && (!name.is_empty() || port.is_none())
}

/// Letters of a name (RFC 3986, 3.2.2) but for the comma, which is for lists.
fn harmless(byte: u8) -> bool {
    byte < 128 && HARMLESS >> byte & 1 == 1
}

/// A bit for each of them.
const HARMLESS: u128 = {
    let (mut set, mut byte) = (0, 0_u8);
    while byte < 128 {
        let other = matches!(
            byte,
            b'.' | b'-'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b';'
                | b'='
        );
        if other || byte.is_ascii_alphanumeric() {
            set |= 1 << byte;
        }
        byte += 1;
    }
    set
};

/// Name and port; `None` when neither can be told.
fn split(text: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let end = match text {
        [b'[', ..] => 1 + text.iter().position(|byte| *byte == b']')?,
        _ => text
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(text.len()),
    };
    let (name, rest) = text.split_at_checked(end)?;
    match rest {
        [] => Some((name, None)),
        [b':', port @ ..] => Some((name, Some(port))),
        _ => None,
    }
}

/// The port of a valid host that names one.
pub(crate) fn port(text: &[u8]) -> Option<u16> {
    let (_, port) = split(text)?;
    u16::try_from(super::fields::decimal(port?)?).ok()
}

/// `text` as `options` want it spelled; `own` is the port that the caller connected to.
pub(crate) fn stripped(text: &[u8], options: HostOptions, own: u16) -> &[u8] {
    if options == HostOptions::default() {
        return text;
    }
    let Some((name, _)) = split(text) else {
        return text;
    };
    let drop_port = match options.strip_port {
        StripPort::Keep => false,
        StripPort::Matching => port(text) == Some(own),
        StripPort::Any => true,
    };
    match name.strip_suffix(b".") {
        // A dot in front of a port that stays would have to be cut out of the middle; Envoy does,
        // nobody sends it, and the name is found by its exact spelling.
        Some(bare) if options.strip_trailing_dot && (drop_port || name.len() == text.len()) => bare,
        _ if drop_port => name,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_reading_or_none() {
        for good in [
            "a",
            "reviews.default.svc:9080",
            "10.0.0.7:65535",
            "[::1]",
            "[fe80::1%25eth0]:80",
            "a_b.c~d",
            "",
        ] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "a b", "a,b", "a:b", "a:", ":80", "a:80:80", "a:65536", "a:+80", "a:080808", "a@b",
            "a/b", "a?b", "a#b", "a\\b", "[::1", "::1", "[::1]x", "[::1]:", "[]", "[a]", "a[b]",
            "\u{e9}", "\"a\"", "<a>", "a|b", "a{b}", "a^b", "a`b",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn ports_and_dots_are_taken_off_as_asked() {
        let options = |strip_port, strip_trailing_dot| HostOptions {
            strip_port,
            strip_trailing_dot,
        };
        for (strip, dot, text, expected) in [
            (StripPort::Keep, false, "a.:80", "a.:80"),
            (StripPort::Keep, true, "a.", "a"),
            (StripPort::Matching, false, "a:80", "a"),
            (StripPort::Matching, false, "a:81", "a:81"),
            (StripPort::Any, false, "a:81", "a"),
            (StripPort::Any, false, "[::1]:81", "[::1]"),
            (StripPort::Any, true, "a.b.:81", "a.b"),
            (StripPort::Any, false, "a", "a"),
        ] {
            let out = stripped(text.as_bytes(), options(strip, dot), 80);
            assert_eq!(String::from_utf8_lossy(out), expected, "{text}");
        }
        assert_eq!(port(b"[::1]:443"), Some(443));
        assert_eq!(port(b"a"), None);
    }
}
