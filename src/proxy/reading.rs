//! What the data path makes of bytes that strangers send, for whoever tests it from outside: pure
//! functions, without a connection.

use std::borrow::Cow;

use crate::mesh::http::PathOptions;
use crate::mesh::path;

use super::detect::{First, Judge};
use super::http::Framing;
use super::http::fields::{self, Fields};
use super::http::h1::chunked::Chunked;
use super::http::h1::parse;
use super::http::respond::Failure;
use super::tables::http::HttpTable;

/// A head as it was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Method and target, or status and reason.
    pub line: (String, String),
    /// Names and values as they came.
    pub fields: Vec<(String, Vec<u8>)>,
    /// How its body ends.
    pub body: Body,
    /// Bytes that the head takes.
    pub length: usize,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// By its coding.
    Chunked,
    /// With the connection.
    Close,
}

impl From<Framing> for Body {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::None,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked,
            Framing::Close => Self::Close,
        }
    }
}

fn listed(fields: Fields<'_>) -> Vec<(String, Vec<u8>)> {
    let mut list = Vec::new();
    fields.each(|name, value| {
        list.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    });
    list
}

/// An HTTP/1 request's head; `None` while it is not complete, an error by its
/// `response_code_details` when it is refused.
pub fn request(data: &[u8]) -> Result<Option<Head>, &'static str> {
    parse::request(data, HttpTable::usual(), |head| {
        let scan = fields::scan(head.fields).map_err(|bad| Failure::Malformed(bad.details()))?;
        Ok(Head {
            line: (head.method.to_owned(), head.target.to_owned()),
            fields: listed(head.fields),
            body: scan.request_framing().into(),
            length: head.length,
        })
    })
    .map_err(|failure| failure.reply().details)
}

/// An HTTP/1 response's head, likewise; `to_head` says that HEAD was asked.
pub fn response(data: &[u8], to_head: bool) -> Result<Option<Head>, &'static str> {
    let bad = |_| Failure::BadResponse.reply().details;
    let read = parse::response(data, |head| {
        let scan = fields::scan(head.fields)?;
        Ok::<_, fields::BadFields>(Head {
            line: (head.status.to_string(), head.reason.to_owned()),
            fields: listed(head.fields),
            body: scan.response_framing(head.status, to_head).into(),
            length: head.length,
        })
    });
    match read {
        Ok(read) => read.transpose().map_err(bad),
        Err(failure) => Err(failure.reply().details),
    }
}

/// A chunked body that came in `pieces`: the payload, the trailer lines, and how many bytes it took
/// once it has ended. `None` when it is refused.
pub fn chunked(pieces: &[&[u8]]) -> Option<(Vec<u8>, Vec<u8>, Option<usize>)> {
    let mut reader = Chunked::default();
    let (mut payload, mut taken) = (Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let step = reader.next(rest).ok()?;
            rest = rest.get(step.skip..)?;
            payload.extend_from_slice(rest.get(..step.data)?);
            rest = rest.get(step.data..)?;
            taken += step.skip + step.data;
            if step.done {
                return Some((payload, reader.trailers().to_vec(), Some(taken)));
            }
        }
    }
    Some((payload, reader.trailers().to_vec(), None))
}

/// How much of `data` is passed on as it came, as a chunked body, and whether it has ended.
pub fn chunked_as_it_came(data: &[u8]) -> Option<(usize, bool)> {
    Chunked::default().scan(data).ok()
}

/// The one spelling of a target's path; `None` when it is refused or to be asked for elsewhere.
pub fn spelled(target: &[u8], options: PathOptions) -> Option<Vec<u8>> {
    path::normalise(target, options).ok().map(Cow::into_owned)
}

/// What a connection speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spoken {
    /// TLS, with the name and the protocols that its hello asks for.
    Tls(Option<String>, Vec<Vec<u8>>),
    /// HTTP/1.
    Http1,
    /// HTTP/2 without TLS.
    Http2,
    /// Something else.
    Bytes,
}

/// What a connection speaks on which `data` comes, looked at whenever it has grown to one of `lengths`;
/// `None` while that is not clear.
pub fn spoken(data: &[u8], lengths: impl IntoIterator<Item = usize>) -> Option<Spoken> {
    let mut judge = Judge::default();
    let mut looks = lengths
        .into_iter()
        .map(|length| data.get(..length).unwrap_or(data));
    looks
        .find_map(|data| judge.look(data))
        .map(|first| match first {
            First::Tls(hello) => Spoken::Tls(hello.server_name, hello.protocols),
            First::Http1 => Spoken::Http1,
            First::Http2 => Spoken::Http2,
            First::Bytes => Spoken::Bytes,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_by_a_connection() {
        let head = request(b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc");
        let head = head.unwrap().unwrap();
        assert_eq!(head.line, ("POST".to_owned(), "/a".to_owned()));
        assert_eq!((head.body, head.fields.len()), (Body::Length(3), 2));
        assert_eq!(request(b"GET / HTTP/1.1\r\n"), Ok(None));
        assert_eq!(request(b"GET /\n\n"), Err("http1.codec_error"));
        let answer = response(b"HTTP/1.1 200 OK\r\n\r\n", false)
            .unwrap()
            .unwrap();
        assert_eq!(answer.body, Body::Close);
        let body = b"1\r\na\r\n0\r\nb: c\r\n\r\nmore";
        let (payload, trailers, taken) = chunked(&[&body[..4], &body[4..]]).unwrap();
        assert_eq!((&payload[..], &trailers[..]), (&b"a"[..], &b"b: c\r\n"[..]));
        assert_eq!(taken, Some(body.len() - 4));
        assert_eq!(chunked_as_it_came(body), Some((body.len() - 4, true)));
        let path = spelled(b"/a/../b", PathOptions::default());
        assert_eq!(path.as_deref(), Some(&b"/b"[..]));
    }
}
