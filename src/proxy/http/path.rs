//! One path, one spelling: what policies and routes judge is what the application gets.
//!
//! Istio's `BASE`: dot segments are resolved, escaped unreserved characters are unescaped and
//! backslashes become slashes. Slashes are not merged and escaped slashes stay.

use std::borrow::Cow;

/// Why a target is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadPath;

/// `target` (path and query) in its one spelling. Borrowed when it has it already.
pub(crate) fn normalise(target: &[u8]) -> Result<Cow<'_, [u8]>, BadPath> {
    let end = target
        .iter()
        .position(|byte| *byte == b'?')
        .unwrap_or(target.len());
    let (path, query) = target.split_at_checked(end).ok_or(BadPath)?;
    if path.contains(&b'#') || query.contains(&b'#') {
        // A fragment is never sent; one that is was meant to confuse somebody.
        return Err(BadPath);
    }
    let mut before = 0;
    let odd = path.iter().any(|byte| {
        let odd = matches!(byte, b'%' | b'\\') || (*byte == b'.' && before == b'/');
        before = *byte;
        odd
    });
    if !odd {
        return Ok(Cow::Borrowed(target));
    }
    let plain = unescape(path)?;
    let mut out = resolve(&plain);
    if out == path {
        return Ok(Cow::Borrowed(target));
    }
    out.extend_from_slice(query);
    Ok(Cow::Owned(out))
}

/// Unescapes unreserved characters and turns backslashes into slashes.
fn unescape(path: &[u8]) -> Result<Vec<u8>, BadPath> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let untouched = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                match (hex(*high), hex(*low)) {
                    (Some(0), Some(0)) => return Err(BadPath),
                    (Some(upper), Some(lower)) if unreserved(upper << 4 | lower, &out) => {
                        out.push(upper << 4 | lower);
                    }
                    (Some(_), Some(_)) => out.extend_from_slice(&[b'%', *high, *low]),
                    _ => {
                        out.push(b'%');
                        rest = untouched;
                    }
                }
            }
            (b'\\', _) => out.push(b'/'),
            (byte, _) => out.push(*byte),
        }
    }
    Ok(out)
}

/// Whether an escaped `byte` may stand for itself behind `out`. Behind a stray `%` it may not: the
/// two would make an escape that the next reader resolves.
fn unreserved(byte: u8, out: &[u8]) -> bool {
    let stray = match out {
        [.., b'%'] => true,
        [.., b'%', digit] => hex(*digit).is_some(),
        _ => false,
    };
    !stray && (byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Resolves `.` and `..` segments (RFC 3986, 5.2.4).
fn resolve(path: &[u8]) -> Vec<u8> {
    let Some(rest) = path.strip_prefix(b"/") else {
        return path.to_vec();
    };
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = rest.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." => {}
            b".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            // "/a/." names a directory: its slash stays.
            kept.push(b"");
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for segment in kept {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_path_become_one() {
        for (target, expected) in [
            ("/a/b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/.%2E/b?q=/../x", "/b?q=/../x"),
            ("/a\\..\\b", "/b"),
            ("/%61dmin", "/admin"),
            ("/a%2fb", "/a%2fb"),
            ("/a//b", "/a//b"),
            ("/..", "/"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/../../etc", "/etc"),
            ("/%zz%", "/%zz%"),
            ("/.hidden/x.y", "/.hidden/x.y"),
            ("*", "*"),
            ("/a?x=%41", "/a?x=%41"),
        ] {
            assert_eq!(
                normalise(target.as_bytes())
                    .map(|path| String::from_utf8(path.into_owned()).unwrap()),
                Ok(expected.to_owned()),
                "{target}"
            );
        }
        assert_eq!(normalise(b"/a%00"), Err(BadPath));
        assert_eq!(normalise(b"/a#b"), Err(BadPath));
    }

    proptest! {
        #[test]
        fn once_is_enough(target in r"/([a-c./\\%2eEF5]|%2e|\.\./|//){0,24}(\?[a-z./%]{0,5})?") {
            if let Ok(once) = normalise(target.as_bytes()) {
                let twice = normalise(&once).unwrap();
                // An escape that only appears by unescaping ("%%32e") must not appear at all.
                prop_assert_eq!(&once, &twice);
            }
        }

        #[test]
        fn nothing_climbs_out(target in r"/([a-b.]|/|%2e|\\){0,24}") {
            let path = normalise(target.as_bytes()).unwrap();
            let dots = path.split(|byte| *byte == b'/').any(|segment| segment == b".." || segment == b".");
            prop_assert!(!dots, "{}", String::from_utf8_lossy(&path));
        }
    }
}
