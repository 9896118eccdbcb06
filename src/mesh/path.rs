//! One path, one spelling: what policies and routes judge is what the application gets.
//!
//! By default Istio's `BASE`: dot segments are resolved, escaped unreserved characters are unescaped
//! and backslashes become slashes; slashes are not merged and escaped slashes stay. Envoy's options
//! change that, in Envoy's order: escaped slashes first, then the rest, merging last.

use std::borrow::Cow;

use super::http::{EscapedSlashes, PathOptions};

/// Why a target is not taken as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadPath {
    /// It is refused.
    Refused,
    /// The caller is to ask for this one.
    Elsewhere(Vec<u8>),
}

/// `target` (path and query) in its one spelling. Borrowed when it has it already.
pub fn normalise(target: &[u8], options: PathOptions) -> Result<Cow<'_, [u8]>, BadPath> {
    let end = target
        .iter()
        .position(|byte| *byte == b'?')
        .unwrap_or(target.len());
    let (path, query) = target.split_at_checked(end).ok_or(BadPath::Refused)?;
    if path.contains(&b'#') || query.contains(&b'#') {
        // A fragment is never sent; one that is was meant to confuse somebody.
        return Err(BadPath::Refused);
    }
    let mut before = 0;
    let odd = path.iter().any(|byte| {
        let double = *byte == b'.' || (*byte == b'/' && options.merge_slashes);
        let odd = matches!(byte, b'%' | b'\\') || (double && before == b'/');
        before = *byte;
        odd
    });
    if !odd {
        return Ok(Cow::Borrowed(target));
    }
    let mut out = path.to_vec();
    let mut redirect = false;
    if options.escaped_slashes != EscapedSlashes::KeepUnchanged && unescape_slashes(&mut out) {
        match options.escaped_slashes {
            EscapedSlashes::RejectRequest => return Err(BadPath::Refused),
            EscapedSlashes::UnescapeAndRedirect => redirect = true,
            EscapedSlashes::KeepUnchanged | EscapedSlashes::UnescapeAndForward => {}
        }
    }
    if options.normalize {
        out = resolve(&unescape(&out)?);
    }
    if options.merge_slashes {
        out.dedup_by(|second, first| *second == b'/' && *first == b'/');
    }
    if !redirect && out == path {
        return Ok(Cow::Borrowed(target));
    }
    out.extend_from_slice(query);
    if redirect {
        return Err(BadPath::Elsewhere(out));
    }
    Ok(Cow::Owned(out))
}

/// How the most lenient of servers reads `path` (without its query): unescaped until nothing is left to
/// unescape, without parameters (`;v=1`) in its segments, with backslashes as slashes, several slashes as
/// one, and dot segments resolved. `None` where that is no different.
pub fn loosest(path: &[u8]) -> Option<Vec<u8>> {
    let mut before = 0;
    let odd = path.iter().any(|byte| {
        let odd =
            matches!(byte, b'%' | b';' | b'\\') || (matches!(byte, b'/' | b'.') && before == b'/');
        before = *byte;
        odd
    });
    if !odd {
        return None;
    }
    let mut bare = path.to_vec();
    while let Some(next) = unescape_all(&bare) {
        bare = next;
    }
    let mut inside = false;
    bare.retain_mut(|byte| {
        match byte {
            b'\\' => *byte = b'/',
            b';' => inside = true,
            _ => {}
        }
        inside &= *byte != b'/';
        !inside
    });
    bare.dedup_by(|second, first| *second == b'/' && *first == b'/');
    let bare = if bare.starts_with(b"/") {
        resolve(&bare)
    } else {
        bare
    };
    (bare != path).then_some(bare)
}

/// Unescapes everything, once; each time it gets shorter. `None` where there is nothing to do.
fn unescape_all(path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = after.get(2..).unwrap_or_default();
            }
            None => out.push(*first),
        }
    }
    (out.len() != path.len()).then_some(out)
}

/// Turns `%2F` and `%5C` into what they stand for. Whether there was one.
fn unescape_slashes(path: &mut Vec<u8>) -> bool {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_slice();
    let before = path.len();
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'%', [b'2', b'f' | b'F', after @ ..]) => {
                out.push(b'/');
                after
            }
            (b'%', [b'5', b'c' | b'C', after @ ..]) => {
                out.push(b'\\');
                after
            }
            (byte, _) => {
                out.push(*byte);
                after
            }
        };
    }
    *path = out;
    path.len() != before
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
                    (Some(0), Some(0)) => return Err(BadPath::Refused),
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

    fn spelled(target: &str, options: PathOptions) -> Result<String, BadPath> {
        normalise(target.as_bytes(), options)
            .map(|path| String::from_utf8(path.into_owned()).unwrap())
    }

    fn usual(target: &str) -> Result<String, BadPath> {
        spelled(target, PathOptions::default())
    }

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
            assert_eq!(usual(target), Ok(expected.to_owned()), "{target}");
        }
        for bad in ["/a%00", "/a#b", "/a?b#c"] {
            assert_eq!(usual(bad), Err(BadPath::Refused));
        }
    }

    #[test]
    fn escaped_slashes_are_kept_refused_unescaped_or_sent_elsewhere() {
        let with = |escaped_slashes, merge_slashes| PathOptions {
            merge_slashes,
            escaped_slashes,
            ..PathOptions::default()
        };
        let elsewhere = |path: &str| Err(BadPath::Elsewhere(path.as_bytes().to_vec()));
        let here = |path: &str| Ok(path.to_owned());
        for (action, merge, target, expected) in [
            (
                EscapedSlashes::KeepUnchanged,
                false,
                "/a%2F..%5Cb",
                here("/a%2F..%5Cb"),
            ),
            (
                EscapedSlashes::RejectRequest,
                false,
                "/a%2fb",
                Err(BadPath::Refused),
            ),
            (
                EscapedSlashes::RejectRequest,
                false,
                "/a%5Cb",
                Err(BadPath::Refused),
            ),
            (
                EscapedSlashes::RejectRequest,
                false,
                "/a/b?c=%2f",
                here("/a/b?c=%2f"),
            ),
            (
                EscapedSlashes::UnescapeAndForward,
                false,
                "/a%2F..%2fb?q=%2F",
                here("/b?q=%2F"),
            ),
            (
                EscapedSlashes::UnescapeAndForward,
                false,
                "/a%5c..%5Cb",
                here("/b"),
            ),
            // Escaped twice stays escaped once: what the application unescapes is its own affair.
            (
                EscapedSlashes::UnescapeAndForward,
                false,
                "/a%252fb",
                here("/a%252fb"),
            ),
            (
                EscapedSlashes::UnescapeAndForward,
                true,
                "/a%2F%2fb//",
                here("/a/b/"),
            ),
            (
                EscapedSlashes::UnescapeAndRedirect,
                false,
                "/a%2Fb?q",
                elsewhere("/a/b?q"),
            ),
            (
                EscapedSlashes::UnescapeAndRedirect,
                false,
                "/a/./b",
                here("/a/b"),
            ),
            (
                EscapedSlashes::UnescapeAndRedirect,
                true,
                "/a%2F%2Fb",
                elsewhere("/a/b"),
            ),
            (
                EscapedSlashes::KeepUnchanged,
                true,
                "//a///b/",
                here("/a/b/"),
            ),
            (
                EscapedSlashes::KeepUnchanged,
                true,
                "/a//../b",
                here("/a/b"),
            ),
            (
                EscapedSlashes::KeepUnchanged,
                true,
                "/a/b//?c=//",
                here("/a/b/?c=//"),
            ),
        ] {
            let options = with(action, merge);
            assert_eq!(spelled(target, options), expected, "{target} {options:?}");
        }
        let raw = PathOptions {
            normalize: false,
            ..PathOptions::default()
        };
        assert_eq!(spelled("/a/../%61//%2f", raw), here("/a/../%61//%2f"));
    }

    proptest! {
        #[test]
        fn once_is_enough(target in r"/([a-c./\\%2eEF5]|%2e|\.\./|//){0,24}(\?[a-z./%]{0,5})?") {
            if let Ok(once) = normalise(target.as_bytes(), PathOptions::default()) {
                let twice = normalise(&once, PathOptions::default()).unwrap();
                // An escape that only appears by unescaping ("%%32e") must not appear at all.
                prop_assert_eq!(&once, &twice);
            }
        }

        #[test]
        fn nothing_climbs_out(target in r"/([a-b.]|/|%2e|\\){0,24}") {
            let path = normalise(target.as_bytes(), PathOptions::default()).unwrap();
            let dots = path.split(|byte| *byte == b'/').any(|segment| segment == b".." || segment == b".");
            prop_assert!(!dots, "{}", String::from_utf8_lossy(&path));
        }
    }
}
