//! Reading HTTP/1 heads, strictly: what two readers could take for two things is refused.

use std::mem::MaybeUninit;

use httparse::{Error, Header, ParserConfig, Status};

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
    then: impl FnOnce(&RequestHead<'_>) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let parsed =
        ParserConfig::default().parse_request_with_uninit_headers(&mut request, data, &mut fields);
    match parsed {
        Ok(Status::Complete(length)) => {
            if length > MAX_HEAD {
                return Err(Failure::HeadTooLarge);
            }
            let (Some(method), Some(target)) = (request.method, request.path) else {
                return Err(Failure::Malformed("http1.codec_error"));
            };
            if has_bare_line_end(data.get(..length).unwrap_or_default()) {
                return Err(Failure::Malformed("http1.bare_line_end"));
            }
            let version = match request.version {
                Some(1) => Version::Http11,
                Some(0) => Version::Http10,
                _ => return Err(Failure::Version),
            };
            then(&RequestHead {
                method,
                target,
                version,
                fields: Fields::Text(request.headers),
                length,
            })
            .map(Some)
        }
        Ok(Status::Partial) if data.len() >= MAX_HEAD => Err(Failure::HeadTooLarge),
        Ok(Status::Partial) => Ok(None),
        Err(Error::TooManyHeaders) => Err(Failure::HeadTooLarge),
        Err(Error::Version) => Err(Failure::Version),
        Err(Error::HeaderName) => Err(Failure::Malformed("http1.invalid_header_name")),
        Err(Error::HeaderValue) => Err(Failure::Malformed("http1.invalid_header_value")),
        Err(Error::NewLine) => Err(Failure::Malformed("http1.bare_line_end")),
        Err(Error::Token | Error::Status) => Err(Failure::Malformed("http1.codec_error")),
    }
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
    let mut before = 0;
    head.iter().any(|byte| {
        let bare = *byte == b'\n' && before != b'\r';
        before = *byte;
        bare
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<usize>, Failure> {
        request(text.as_bytes(), |head| Ok(head.length))
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
        assert_eq!(read(&many), Err(Failure::HeadTooLarge));
    }
}
