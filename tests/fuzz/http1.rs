//! HTTP/1 from strangers: heads, chunked bodies and paths, against readers that are written here
//! anew, as slow and as plain as can be.

use meshctl::mesh::http::{EscapedSlashes, PathOptions};
use meshctl::proxy::reading::{self, Body, Head};

/// A request: what is accepted is what a plain reader makes of it, and has no second reading.
pub(crate) fn requests(data: &[u8]) {
    let Ok(Some(head)) = reading::request(data) else {
        return;
    };
    let lines = plain(data, &head);
    let (line, fields) = lines.split_first().expect("a head has a line");
    let (method, target) = &head.line;
    assert!(
        line == &format!("{method} {target} HTTP/1.1")
            || line == &format!("{method} {target} HTTP/1.0"),
        "{line:?}"
    );
    assert!(!target.is_empty() && target.bytes().all(|byte| (b'!'..=b'~').contains(&byte)));
    same_fields(fields, &head);
    assert!(count(&head, "host") <= 1);
    framed(&head);
    assert_ne!(
        head.body,
        Body::Close,
        "a request does not end with the connection"
    );
    // Whatever it is cut to, it is another's only when whole.
    for end in 0..head.length {
        let cut = reading::request(&data[..end]);
        assert!(!matches!(cut, Ok(Some(_))), "{end} of {}", head.length);
    }
}

/// A response, likewise; the first byte says whether HEAD was asked.
pub(crate) fn responses(data: &[u8]) {
    for to_head in [false, true] {
        let Ok(Some(head)) = reading::response(data, to_head) else {
            continue;
        };
        let lines = plain(data, &head);
        let (line, fields) = lines.split_first().expect("a head has a line");
        let (status, reason) = &head.line;
        let rest = line
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| line.strip_prefix("HTTP/1.0 "))
            .expect("a version");
        assert!(
            rest.starts_with(status.as_str()) && status.len() == 3,
            "{line:?}"
        );
        assert!(line.ends_with(reason.as_str()) && !reason.contains(['\r', '\n']));
        same_fields(fields, &head);
        framed(&head);
        if to_head || matches!(status.as_bytes(), [b'1', ..] | b"204" | b"304") {
            assert_eq!(head.body, Body::None);
        }
    }
}

/// The lines of a head, which all end in CR LF and hold no control character.
fn plain(data: &[u8], head: &Head) -> Vec<String> {
    let text = &data[..head.length];
    let whole: String = text.iter().copied().map(char::from).collect();
    let body = whole
        .trim_start_matches("\r\n")
        .strip_suffix("\r\n\r\n")
        .expect("an empty line");
    let lines: Vec<String> = body.split("\r\n").map(str::to_owned).collect();
    for line in &lines {
        assert!(!line.is_empty(), "{whole:?}");
        let odd = |letter: char| letter != '\t' && letter.is_ascii_control();
        assert!(!line.contains(odd), "{line:?}");
    }
    lines
}

fn same_fields(lines: &[String], head: &Head) {
    assert_eq!(lines.len(), head.fields.len());
    for (line, (name, value)) in lines.iter().zip(&head.fields) {
        let (own, rest) = line.split_once(':').expect("a colon");
        assert_eq!(own, name);
        assert!(!name.is_empty() && !name.contains([' ', '\t']), "{line:?}");
        let value: String = value.iter().copied().map(char::from).collect();
        assert_eq!(rest.trim_matches([' ', '\t']), value);
    }
}

fn values<'h>(head: &'h Head, name: &str) -> Vec<&'h [u8]> {
    head.fields
        .iter()
        .filter(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_slice())
        .collect()
}

fn count(head: &Head, name: &str) -> usize {
    values(head, name).len()
}

/// The framing has one source, and says what it says.
fn framed(head: &Head) {
    let lengths = values(head, "content-length");
    let codings = values(head, "transfer-encoding");
    assert!(lengths.len() + codings.len() <= 1, "{head:?}");
    for coding in codings {
        assert!(coding.eq_ignore_ascii_case(b"chunked"));
    }
    for length in lengths {
        assert!(!length.is_empty() && length.iter().all(u8::is_ascii_digit));
        if let Body::Length(taken) = head.body {
            let text = std::str::from_utf8(length).expect("digits");
            assert_eq!(text.parse::<u64>(), Ok(taken));
        }
    }
    assert!(head.body != Body::Chunked || count(head, "transfer-encoding") == 1);
}

/// A chunked body; the first byte says where it is cut into pieces. The pieces do not matter, what
/// is taken off is what is passed on as it came, and a plain reader gets the same.
pub(crate) fn chunked(data: &[u8]) {
    let Some((step, data)) = data.split_first() else {
        return;
    };
    let whole = reading::chunked(&[data]);
    let pieces: Vec<&[u8]> = data.chunks(usize::from(*step).max(1)).collect();
    assert_eq!(reading::chunked(&pieces), whole);
    let passed = reading::chunked_as_it_came(data);
    assert_eq!(passed.is_some(), whole.is_some());
    let (Some((payload, trailers, taken)), Some((length, done))) = (whole, passed) else {
        return;
    };
    assert_eq!(done, taken.is_some());
    let Some(taken) = taken else {
        assert_eq!(length, data.len());
        return;
    };
    assert_eq!(length, taken);
    assert_eq!(plainly(&data[..taken]), Some((payload, trailers)));
}

/// Payload and trailers of a whole chunked body.
fn plainly(mut data: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut payload = Vec::new();
    loop {
        let end = data.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&data[..end]).ok()?;
        data = &data[end + 2..];
        let digits = line.split([';', ' ', '\t']).next()?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        if digits.starts_with('+') || line.contains(['\r', '\n']) {
            return None;
        }
        if size == 0 {
            let trailers = data.strip_suffix(b"\r\n")?;
            let fields = trailers
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty());
            for field in fields {
                let field = field.strip_suffix(b"\r")?;
                let colon = field.iter().position(|byte| *byte == b':')?;
                if colon == 0 || field.contains(&b'\r') || field[..colon].contains(&b' ') {
                    return None;
                }
            }
            return Some((payload, trailers.to_vec()));
        }
        payload.extend_from_slice(data.get(..size)?);
        data = data.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// A target; the first byte chooses the options. What comes out stays as it is, climbs nowhere and
/// holds nothing that the options take out.
pub(crate) fn paths(data: &[u8]) {
    let Some((choice, target)) = data.split_first() else {
        return;
    };
    let options = PathOptions {
        normalize: choice & 1 == 0,
        merge_slashes: choice & 2 != 0,
        escaped_slashes: match choice >> 2 & 3 {
            0 => EscapedSlashes::KeepUnchanged,
            1 => EscapedSlashes::RejectRequest,
            2 => EscapedSlashes::UnescapeAndForward,
            _ => EscapedSlashes::UnescapeAndRedirect,
        },
    };
    // What is no path (`*`) was judged before.
    if target.first() != Some(&b'/') {
        return;
    }
    let Some(out) = reading::spelled(target, options) else {
        return;
    };
    let split = |target: &[u8]| -> (Vec<u8>, Vec<u8>) {
        let at = target.iter().position(|byte| *byte == b'?');
        let (path, query) = target.split_at(at.unwrap_or(target.len()));
        (path.to_vec(), query.to_vec())
    };
    let (path, query) = split(&out);
    assert_eq!(query, split(target).1, "a query is nobody's business");
    assert_eq!(path.first(), Some(&b'/'));
    assert!(!out.contains(&b'#'));
    let text = String::from_utf8_lossy(&path).to_ascii_lowercase();
    if options.normalize {
        assert!(
            !text.split('/').any(|segment| matches!(segment, "." | "..")),
            "{text}"
        );
        assert!(!text.contains('\\') && !text.contains("%00"), "{text}");
    }
    if options.merge_slashes {
        assert!(!text.contains("//"), "{text}");
    }
    if options.escaped_slashes != EscapedSlashes::KeepUnchanged && options.normalize {
        assert!(!text.contains("%2f") && !text.contains("%5c"), "{text}");
    }
    if options.escaped_slashes == EscapedSlashes::KeepUnchanged {
        assert_eq!(reading::spelled(&out, options), Some(out), "once is enough");
    }
}
