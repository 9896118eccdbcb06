//! Reading HTTP/1 heads, strictly: what two readers could take for two things is refused.

use std::mem::MaybeUninit;

use httparse::{Error, Header, ParserConfig, Status};

use crate::mesh::http::Underscores;

use super::super::super::tables::http::HttpTable;
use super::super::Version;
use super::super::fields::{Fields, MAX_FIELDS, MAX_HEAD};
use super::super::respond::Failure;

/// A request's head, borrowed from the read buffer.
#[derive(Debug)]
pub(crate) struct RequestHead<'m> {
    pub(crate) method: &'m str,
    pub(crate) target: &'m str,
    pub(crate) version: Version,
    pub(crate) fields: Fields<'m>,
    /// Bytes that the head takes.
    pub(crate) length: usize,
}

/// A response's head, borrowed from the read buffer.
#[derive(Debug)]
pub(crate) struct ResponseHead<'m> {
    pub(crate) status: u16,
    pub(crate) reason: &'m str,
    pub(crate) http11: bool,
    pub(crate) fields: Fields<'m>,
    /// Bytes that the head takes.
    pub(crate) length: usize,
}

/// Reads a request's head and hands it to `then`; `None` while it is not complete.
pub(crate) fn request<T>(
    data: &[u8],
    http: &HttpTable,
    then: impl FnOnce(&RequestHead<'_>) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    if http.max_fields <= MAX_FIELDS {
        let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
        let fields = fields.get_mut(..http.max_fields).unwrap_or_default();
        return request_into(data, fields, http, then);
    }
    let mut fields = Vec::new();
    fields.resize_with(http.max_fields, MaybeUninit::uninit);
    request_into(data, &mut fields, http, then)
}

fn request_into<'h, T>(
    data: &'h [u8],
    fields: &'h mut [MaybeUninit<Header<'h>>],
    http: &HttpTable,
    then: impl FnOnce(&RequestHead<'_>) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let mut request = httparse::Request::new(&mut []);
    let parsed =
        ParserConfig::default().parse_request_with_uninit_headers(&mut request, data, fields);
    let length = match parsed {
        Ok(Status::Complete(length)) if length > http.max_head => {
            return Err(Failure::HeadTooLarge);
        }
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if data.len() >= http.max_head => return Err(Failure::HeadTooLarge),
        Ok(Status::Partial) => return Ok(None),
        Err(Error::TooManyHeaders) => return Err(Failure::TooManyFields),
        Err(Error::Version) if names_version(data) => return Err(Failure::Version),
        Err(Error::HeaderName | Error::HeaderValue) => {
            return Err(Failure::Malformed("http1.invalid_characters"));
        }
        Err(Error::NewLine | Error::Token | Error::Status | Error::Version) => {
            return Err(Failure::Malformed("http1.codec_error"));
        }
    };
    if has_bare_line_end(data.get(..length).unwrap_or_default()) {
        return Err(Failure::Malformed("http1.codec_error"));
    }
    let version = match request.version {
        Some(1) => Version::Http11,
        Some(0) if http.options.http1.accept_http_10 => Version::Http10,
        Some(0) => return Err(Failure::LowVersion),
        _ => return Err(Failure::Version),
    };
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(Failure::Malformed("http1.codec_error"));
    };
    if !target.is_ascii() {
        // Some read these bytes as spaces, and a shorter target from it.
        return Err(Failure::Malformed("http1.invalid_url"));
    }
    let fields = match http.options.limits.underscores {
        Underscores::Allow => request.headers,
        action => without_underscores(request.headers, action)?,
    };
    then(&RequestHead {
        method,
        target,
        version,
        fields: Fields::Text(fields),
        length,
    })
    .map(Some)
}

/// Whether the first line ends with a version that is well written.
fn names_version(data: &[u8]) -> bool {
    let line = data.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|byte| *byte == b' ').skip(2);
    matches!(
        (parts.next(), parts.next()),
        (
            Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']),
            None
        )
    )
}

/// The fields that have no `_` in their names, in front of the others.
fn without_underscores<'f, 'h>(
    fields: &'f mut [Header<'h>],
    action: Underscores,
) -> Result<&'f [Header<'h>], Failure> {
    let mut kept = 0;
    for at in 0..fields.len() {
        let odd = fields.get(at).is_some_and(|field| field.name.contains('_'));
        if !odd {
            fields.swap(kept, at);
            kept += 1;
        } else if action == Underscores::RejectRequest {
            return Err(Failure::Malformed("http1.unexpected_underscore"));
        }
    }
    Ok(fields.get(..kept).unwrap_or_default())
}

/// Reads a response's head and hands it to `then`; `None` while it is not complete.
pub(crate) fn response<T>(
    data: &[u8],
    then: impl FnOnce(&ResponseHead<'_>) -> T,
) -> Result<Option<T>, Failure> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        data,
        &mut fields,
    );
    match parsed {
        Ok(Status::Complete(length)) => {
            let Some(status @ 100..=999) = response.code else {
                return Err(Failure::BadResponse);
            };
            if length > MAX_HEAD || has_bare_line_end(data.get(..length).unwrap_or_default()) {
                return Err(Failure::BadResponse);
            }
            Ok(Some(then(&ResponseHead {
                status,
                reason: response.reason.unwrap_or_default(),
                http11: response.version == Some(1),
                fields: Fields::Text(response.headers),
                length,
            })))
        }
        Ok(Status::Partial) if data.len() < MAX_HEAD => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(Failure::BadResponse),
    }
}

/// Whether a line ends in anything but CR LF. `httparse` takes a lone LF for a line end, others
/// take it for a part of the line; a lone CR it refuses itself.
fn has_bare_line_end(head: &[u8]) -> bool {
    let pairs = head.iter().zip(head.iter().skip(1));
    // Without a branch a byte, so that the compiler looks at many at once.
    let bare = pairs.fold(0, |bare, (before, byte)| {
        bare | (u8::from(*byte == b'\n') & u8::from(*before != b'\r'))
    });
    bare > 0 || head.first() == Some(&b'\n')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::mesh::HttpOptions;

    use super::*;

    fn read(text: &str) -> Result<Option<usize>, Failure> {
        request(text.as_bytes(), &HttpTable::default(), |head| {
            Ok(head.length)
        })
    }

    #[test]
    fn a_head_is_read_when_complete() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        assert_eq!(read(text), Ok(Some(text.len() - 4)));
        assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        for bad in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/3.7\r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
            "GET /\u{85}x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\tx HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
            "GET /\r\n\r\n",
            " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \u{7f}\r\n\r\n",
            "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\u{1}\r\n\r\n",
        ] {
            assert!(read(bad).is_err(), "{}", bad.escape_debug());
        }
    }

    #[test]
    fn large_heads_are_refused_while_they_arrive() {
        let long = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(MAX_HEAD));
        assert_eq!(read(&long), Err(Failure::HeadTooLarge));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert_eq!(read(&many), Err(Failure::TooManyFields));
    }

    #[test]
    fn options_say_how_much_is_taken() {
        let mut options = HttpOptions::default();
        options.limits.max_request_headers_kb = 1;
        options.limits.max_headers_count = 200;
        options.http1.accept_http_10 = false;
        let http = HttpTable::new(&Arc::new(options));
        let read = |text: &str| request(text.as_bytes(), &http, |head| Ok(head.length));
        let many =
            |count: usize, end: &str| format!("GET / HTTP/1.1\r\n{}{end}", "a:\r\n".repeat(count));
        assert_eq!(read(&many(200, "\r\n")), Ok(Some(818)));
        assert_eq!(read(&many(201, "\r\n")), Err(Failure::TooManyFields));
        let long = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(1024));
        assert_eq!(read(&long), Err(Failure::HeadTooLarge));
        assert_eq!(read("GET / HTTP/1.0\r\n\r\n"), Err(Failure::LowVersion));
    }

    #[test]
    fn underscores_pass_or_are_left_out_or_refused() {
        let text = "GET / HTTP/1.1\r\na_b: 1\r\nc: 2\r\n_: 3\r\nd: 4\r\n\r\n";
        for (action, expected) in [
            (Underscores::Allow, Ok(Some("a_b c _ d"))),
            (Underscores::DropHeader, Ok(Some("c d"))),
            (
                Underscores::RejectRequest,
                Err(Failure::Malformed("http1.unexpected_underscore")),
            ),
        ] {
            let mut options = HttpOptions::default();
            options.limits.underscores = action;
            let names = request(
                text.as_bytes(),
                &HttpTable::new(&Arc::new(options)),
                |head| {
                    let mut names = Vec::new();
                    head.fields
                        .each(|name, _| names.push(String::from_utf8(name.to_vec()).unwrap()));
                    Ok(names.join(" "))
                },
            );
            assert_eq!(names, expected.map(|names| names.map(str::to_owned)));
        }
    }

    #[test]
    fn ambiguous_answers_are_refused() {
        let read = |text: &str| response(text.as_bytes(), |head| head.status);
        assert_eq!(read("HTTP/1.1 200 OK\r\nX: y\r\n\r\n"), Ok(Some(200)));
        assert_eq!(read("HTTP/1.1 200\r\n\r\n"), Ok(Some(200)));
        assert_eq!(read("HTTP/1.1 20"), Ok(None));
        for bad in [
            "HTTP/1.1 099 Low\r\n\r\n",
            "HTTP/1.1 20 Short\r\n\r\n",
            "HTTP/1.1 2000 Long\r\n\r\n",
            "HTTP/1.1 +20 Sign\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: y\nSet-Cookie: split\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: y\rSet-Cookie: split\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "ICY 200 OK\r\n\r\n",
        ] {
            assert_eq!(
                read(bad),
                Err(Failure::BadResponse),
                "{}",
                bad.escape_debug()
            );
        }
    }
}
