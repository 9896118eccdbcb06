//! Heads on their way through: from either version into either version, with a proxy's edits.
//!
//! A field is copied once, from the read buffer into the write buffer (or from one header map into
//! the next), and edits apply while it passes. Fields of one connection only never pass.

use super::super::jwt::Told;
use super::super::trace::Passing;
use super::edits::Edits;
use super::fields::{Fields, Name, Scan, classify};
use super::h2::block::{Block, is_field};
use super::h2::send::HeadWriter;
use super::marks::{AnswerMarks, RequestMarks, request_id};
use super::recode::Coded;
use super::upgrade::{self, Upgrade};
use super::{Framing, Version};

/// Where fields are written.
pub(super) trait Sink {
    /// A field from anywhere.
    fn put(&mut self, name: &[u8], value: &[u8]);

    /// A field that was read over HTTP/1.
    fn put_text(&mut self, _: Name, name: &[u8], value: &[u8]) {
        self.put(name, value);
    }

    /// A field that was read over HTTP/2, which says whether it may be put into a table.
    fn put_known(&mut self, _: Name, name: &[u8], value: &[u8], _sensitive: bool) {
        self.put(name, value);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, name: &[u8], value: &[u8]) {
        self.reserve(name.len() + value.len() + 4);
        self.extend_from_slice(name);
        self.extend_from_slice(b": ");
        self.extend_from_slice(value);
        self.extend_from_slice(b"\r\n");
    }
}

impl Sink for Block {
    fn put(&mut self, name: &[u8], value: &[u8]) {
        // What reached this point was read as a field before; what configuration got wrong is left out.
        if !is_field(name, value) {
            return;
        }
        self.put_text(classify(name), name, value);
    }

    fn put_text(&mut self, kind: Name, name: &[u8], value: &[u8]) {
        if name.iter().any(u8::is_ascii_uppercase) {
            Self::put(self, kind, &name.to_ascii_lowercase(), value, false);
        } else {
            Self::put(self, kind, name, value, false);
        }
    }

    fn put_known(&mut self, kind: Name, name: &[u8], value: &[u8], sensitive: bool) {
        Self::put(self, kind, name, value, sensitive);
    }
}

impl Sink for HeadWriter<'_> {
    fn put(&mut self, name: &[u8], value: &[u8]) {
        if is_field(name, value) {
            self.any_field(name, value);
        }
    }

    fn put_text(&mut self, _: Name, name: &[u8], value: &[u8]) {
        self.any_field(name, value);
    }

    fn put_known(&mut self, _: Name, name: &[u8], value: &[u8], sensitive: bool) {
        self.field(name, value, sensitive);
    }
}

fn copy(fields: Fields<'_>, sink: &mut impl Sink, mut keep: impl FnMut(Name, &[u8]) -> bool) {
    match fields {
        Fields::Text(fields) => {
            for field in fields {
                let name = field.name.as_bytes();
                let known = classify(name);
                if keep(known, name) {
                    sink.put_text(known, name, field.value);
                }
            }
        }
        Fields::Block(block) => block.each_field(|kind, name, value, sensitive| {
            if keep(kind, name) {
                sink.put_known(kind, name, value, sensitive);
            }
        }),
    }
}

/// A request on its way to an endpoint.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a request, each asked for by name"
)]
pub(crate) struct RequestOut<'r> {
    pub(crate) method: &'r [u8],
    pub(crate) path: &'r [u8],
    pub(crate) authority: &'r [u8],
    pub(crate) fields: Fields<'r>,
    /// What its tokens change.
    pub(crate) told: Option<&'r Told<'r>>,
    pub(crate) scan: &'r Scan<'r>,
    pub(crate) edits: Edits<'r>,
    /// Fields from filters.
    pub(crate) added: &'r [(String, String)],
    pub(crate) framing: Framing,
    /// Towards the application rather than towards another proxy.
    pub(crate) inbound: bool,
    /// What it tells the application about its caller, where that is not the usual.
    pub(crate) marks: Option<&'r RequestMarks>,
    /// The caller's proven identity, in `x-forwarded-client-cert` form.
    pub(crate) client_cert: Option<&'r [u8]>,
    /// The caller came by TLS.
    pub(crate) tls: bool,
    pub(crate) version: Version,
    /// Asks for another protocol.
    pub(crate) upgrade: Option<&'r [u8]>,
    /// The caller had no need of a key for a WebSocket.
    pub(crate) key: bool,
    /// What a caller said of its patience is passed on: it is believed, and not said anew.
    pub(crate) passes_deadline: bool,
    /// A gRPC deadline is said anew for each try.
    pub(crate) tells_grpc: bool,
    /// It came as browsers speak gRPC.
    pub(crate) web: bool,
    /// The endpoint does not learn which codings the caller takes.
    pub(crate) hides_encoding: bool,
    /// What it says of the trace that it is part of, where that is not what came.
    pub(crate) trace: Option<&'r Passing>,
}

impl RequestOut<'_> {
    fn write_fields(&self, sink: &mut impl Sink, two: bool) {
        let marks = self.marks;
        let passes = |name: &[u8]| {
            let hidden = self.hides_encoding && name.eq_ignore_ascii_case(b"accept-encoding");
            let told_otherwise = two && self.upgrade.is_some() && upgrade::is_handshake(name);
            let stays = self.scan.connection.nominates(name) || self.edits.touches(name);
            !(stays || hidden || told_otherwise)
        };
        let hides = |name: &[u8]| self.told.is_some_and(|told| told.hides(name));
        copy(self.fields, sink, |known, name| match known {
            _ if hides(name) => false,
            Name::Connection
            | Name::Hop
            | Name::Te
            | Name::Upgrade
            | Name::Host
            | Name::ContentLength
            | Name::TransferEncoding
            | Name::Peer
            | Name::Control
            | Name::Undelivered
            | Name::Internal => false,
            Name::ClientCert => marks.is_some_and(|marks| marks.passes_client_cert),
            Name::AttemptCount => self.inbound,
            Name::ExpectedTimeout if !self.passes_deadline => false,
            Name::GrpcTimeout if self.tells_grpc => false,
            // Nobody answers HTTP/1.0 with 100 (RFC 9110, 10.1.1).
            Name::Expect => self.version != Version::Http10 && passes(name),
            Name::Other
            | Name::ForwardedFor
            | Name::ForwardedProto
            | Name::RequestId
            | Name::ForceTrace
            | Name::Via => passes(name) && marks.is_none_or(|marks| !marks.replaces(known, name)),
            Name::Trace | Name::TraceState => {
                passes(name) && self.trace.is_none_or(|trace| !trace.replaces(known))
            }
            Name::ContentType if self.web => false,
            Name::Cookie
            | Name::ContentType
            | Name::GrpcStatus
            | Name::ExpectedTimeout
            | Name::GrpcTimeout
            | Name::IdempotencyKey
            | Name::ServiceTime
            | Name::Server => passes(name),
        });
        match marks {
            None => {
                if !self.scan.has_forwarded_proto {
                    sink.put(b"x-forwarded-proto", proto(self.tls));
                }
                if !self.scan.has_request_id {
                    let sampled = self.trace.filter(|trace| trace.span.is_some());
                    let id = sampled.map_or_else(request_id, Passing::request_id);
                    sink.put(b"x-request-id", &id);
                }
                if let Some(certificate) = self.client_cert {
                    sink.put(b"x-forwarded-client-cert", certificate);
                }
            }
            Some(marks) => marks.each(|name, value| sink.put(name.as_bytes(), value)),
        }
        if let Some(trace) = self.trace {
            trace.each(|name, value| {
                if !self.edits.touches(name.as_bytes()) {
                    sink.put(name.as_bytes(), value);
                }
            });
        }
        if self.web {
            sink.put(b"content-type", b"application/grpc");
        }
        for (name, value) in self.added {
            sink.put(name.as_bytes(), value.as_bytes());
        }
        let told = self.told.into_iter().flat_map(|told| &told.added);
        for (name, value) in told {
            if !self.edits.touches(name.as_bytes()) {
                sink.put(name.as_bytes(), value.as_bytes());
            }
        }
        let came = |name: &str| {
            let told = self.told.into_iter().flat_map(|told| &told.added);
            let mut told = told.map(|(name, _)| *name);
            told.any(|own| own == name)
                || (!hides(name.as_bytes()) && self.fields.first(name).is_some())
        };
        self.edits.write(came, sink);
    }

    /// Appends the head as HTTP/1.1, but for the empty line that ends it.
    pub(crate) fn write_text(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method);
        out.push(b' ');
        out.extend_from_slice(self.path);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        out.put(b"host", self.authority);
        self.write_fields(out, false);
        match self.framing {
            Framing::Length(length) => put_length(out, length),
            Framing::Chunked | Framing::Close => out.put(b"transfer-encoding", b"chunked"),
            // A body of nothing is said by those who said it (POST without one is refused by some).
            Framing::None if self.scan.length == Some(0) => out.put(b"content-length", b"0"),
            Framing::None => {}
        }
        if let Some(protocol) = self.upgrade {
            out.put(b"connection", b"upgrade");
            out.put(b"upgrade", protocol);
            if self.key && Upgrade::is_websocket(protocol) {
                out.put(b"sec-websocket-key", upgrade::key().as_bytes());
            }
        }
    }

    /// The head as HTTP/2.
    pub(crate) fn to_block(&self, tls: bool) -> Block {
        let mut head = Block::default();
        let scheme = if tls { &b"https"[..] } else { b"http" };
        let method = self.upgrade.map_or(self.method, |_| b"CONNECT");
        head.set_request((method, scheme), (self.authority, self.path));
        if let Some(protocol) = self.upgrade {
            head.set_protocol(protocol);
        }
        self.write_fields(&mut head, true);
        if let Framing::Length(length) = self.framing {
            put_length(&mut head, length);
        }
        if self.scan.te_trailers || self.web {
            Sink::put(&mut head, b"te", b"trailers");
        }
        head
    }
}

/// The value of `x-forwarded-proto`.
pub(crate) fn proto(tls: bool) -> &'static [u8] {
    if tls { b"https" } else { b"http" }
}

pub(super) fn put_length(out: &mut impl Sink, length: u64) {
    let mut text = itoa::Buffer::new();
    out.put(b"content-length", text.format(length).as_bytes());
}

/// A response on its way to the caller.
#[derive(Debug)]
pub(crate) struct ResponseOut<'r> {
    pub(crate) status: u16,
    pub(crate) reason: &'r str,
    pub(crate) fields: Fields<'r>,
    pub(crate) scan: &'r Scan<'r>,
    pub(crate) edits: Edits<'r>,
    /// As it is written.
    pub(crate) framing: Framing,
    /// Milliseconds until the endpoint began to answer.
    pub(crate) service_time: u64,
    /// The connection ends with this response.
    pub(crate) close: bool,
    pub(crate) version: Version,
    /// Switches to another protocol.
    pub(crate) switch: Option<Switch<'r>>,
    /// What it tells the caller about the proxy, where that is not the usual.
    pub(crate) marks: Option<&'r AnswerMarks>,
    /// Tries that it took, where callers are told.
    pub(crate) attempts: Option<u32>,
    /// What becomes of it, where it does not pass as it is.
    pub(crate) coded: Option<Coded>,
}

/// What is said about another protocol that is switched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Switch<'r> {
    pub(crate) protocol: &'r [u8],
    /// `sec-websocket-accept`, where the endpoint had no need to say it.
    pub(crate) accept: Option<&'r str>,
}

impl ResponseOut<'_> {
    fn write_fields(&self, sink: &mut impl Sink) {
        let informational = self.status < 200 && self.switch.is_none();
        let two = self.version == Version::Http2;
        let passes = |name: &[u8]| {
            !self.scan.connection.nominates(name)
                && !self.edits.touches(name)
                && self.coded.is_none_or(|coded| !coded.replaces(name))
                && (self.switch.is_none() || !upgrade::is_handshake(name) || !two)
        };
        copy(self.fields, sink, |known, name| match known {
            Name::Connection
            | Name::Hop
            | Name::Upgrade
            | Name::TransferEncoding
            | Name::Peer
            | Name::Undelivered
            | Name::ServiceTime => false,
            // Of an answer without a body the length is what it would have been; of one that never
            // has a body (RFC 9110, 8.6) it would be taken for another's.
            Name::ContentLength => {
                self.framing == Framing::None && self.status >= 200 && self.status != 204
            }
            Name::Server | Name::Via | Name::RequestId => {
                passes(name) && self.marks.is_none_or(|marks| !marks.replaces(known))
            }
            Name::Other
            | Name::Cookie
            | Name::Te
            | Name::Host
            | Name::ContentType
            | Name::GrpcStatus
            | Name::ClientCert
            | Name::ForwardedFor
            | Name::ForwardedProto
            | Name::Internal
            | Name::Expect
            | Name::Control
            | Name::ExpectedTimeout
            | Name::GrpcTimeout
            | Name::IdempotencyKey
            | Name::Trace
            | Name::TraceState
            | Name::ForceTrace
            | Name::AttemptCount => passes(name),
        });
        if informational {
            return;
        }
        let mut text = itoa::Buffer::new();
        sink.put(
            b"x-envoy-upstream-service-time",
            text.format(self.service_time).as_bytes(),
        );
        if let Some(marks) = self.marks {
            marks.each(self.fields, |name, value| sink.put(name.as_bytes(), value));
        }
        if let Some(attempts) = self.attempts {
            sink.put(b"x-envoy-attempt-count", text.format(attempts).as_bytes());
        }
        if let Some(coded) = self.coded {
            coded.each(self.fields, |name, value| {
                if !self.edits.touches(name.as_bytes()) {
                    sink.put(name.as_bytes(), value);
                }
            });
        }
        self.edits
            .write(|name| self.fields.first(name).is_some(), sink);
    }

    /// Appends the head as HTTP/1.1.
    pub(crate) fn write_text(&self, out: &mut Vec<u8>) {
        status_line(out, self.status, self.reason);
        self.write_fields(out);
        match self.framing {
            Framing::Length(length) => put_length(out, length),
            Framing::Chunked => out.put(b"transfer-encoding", b"chunked"),
            Framing::None | Framing::Close => {}
        }
        if let Some(switch) = self.switch {
            out.put(b"connection", b"upgrade");
            out.put(b"upgrade", switch.protocol);
            if let Some(accept) = switch.accept {
                out.put(b"sec-websocket-accept", accept.as_bytes());
            }
        } else if self.status >= 200 {
            connection(out, self.close, self.version);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the head as HTTP/2.
    pub(crate) fn write_h2(&self, out: &mut HeadWriter<'_>) {
        // Over HTTP/2 a switch is a success like any other.
        out.status(if self.switch.is_some() {
            200
        } else {
            self.status
        });
        self.write_fields(out);
        if let Framing::Length(length) = self.framing {
            put_length(out, length);
        }
    }
}

pub(super) fn status_line(out: &mut Vec<u8>, status: u16, phrase: &str) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let mut text = itoa::Buffer::new();
    out.extend_from_slice(text.format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(phrase.as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(super) fn connection(out: &mut Vec<u8>, close: bool, version: Version) {
    if close {
        out.put(b"connection", b"close");
    } else if version == Version::Http10 {
        out.put(b"connection", b"keep-alive");
    }
}

#[cfg(test)]
mod tests {
    use crate::mesh::route::HeaderOperations;

    use super::super::fields;
    use super::*;

    fn header(name: &'static str, value: &'static str) -> httparse::Header<'static> {
        httparse::Header {
            name,
            value: value.as_bytes(),
        }
    }

    fn request(headers: &[httparse::Header<'_>], edits: &HeaderOperations) -> String {
        let scan = fields::scan(Fields::Text(headers)).unwrap();
        let none = HeaderOperations::default();
        let mut out = Vec::new();
        RequestOut {
            told: None,
            method: b"GET",
            path: b"/",
            authority: b"reviews",
            fields: Fields::Text(headers),
            scan: &scan,
            edits: Edits::new(&none, edits),
            added: &[],
            framing: scan.request_framing(),
            inbound: false,
            marks: None,
            client_cert: None,
            tls: false,
            version: Version::Http11,
            upgrade: None,
            key: false,
            passes_deadline: false,
            tells_grpc: false,
            web: false,
            hides_encoding: false,
            trace: None,
        }
        .write_text(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_of_one_connection_do_not_pass() {
        let text = request(
            &[
                header("Host", "reviews"),
                header("Connection", "keep-alive, X-Hop"),
                header("Keep-Alive", "300"),
                header("X-Hop", "1"),
                header("TE", "trailers"),
                header("X-Meshctl-Peer", "a;b;c;d;e"),
                header("X-Forwarded-Client-Cert", "URI=spiffe://forged"),
                header("X-Request-Id", "abc"),
                header("traceparent", "00-1-2-01"),
            ],
            &HeaderOperations::default(),
        );
        assert_eq!(
            text,
            "GET / HTTP/1.1\r\nhost: reviews\r\nX-Request-Id: abc\r\ntraceparent: 00-1-2-01\r\n\
             x-forwarded-proto: http\r\n"
        );
    }

    #[test]
    fn edits_remove_then_set_then_add() {
        let edits = HeaderOperations {
            set: [("x-a".to_owned(), "new".to_owned())].into(),
            add: [("x-b".to_owned(), "more".to_owned())].into(),
            remove: vec!["x-c".to_owned()],
            ..HeaderOperations::default()
        };
        let text = request(
            &[
                header("X-A", "old"),
                header("X-B", "one"),
                header("X-C", "gone"),
                header("x-request-id", "1"),
                header("x-forwarded-proto", "https"),
            ],
            &edits,
        );
        assert!(text.ends_with(
            "X-B: one\r\nx-request-id: 1\r\nx-forwarded-proto: https\r\nx-a: new\r\nx-b: more\r\n"
        ));
        assert!(!text.contains("old") && !text.contains("gone"));
    }

    #[test]
    fn a_default_is_for_heads_without_the_field() {
        let edits = HeaderOperations {
            set: [("x-set".to_owned(), "1".to_owned())].into(),
            add_if_absent: ["x-a", "x-b", "x-c", "x-set"]
                .map(|name| (name.to_owned(), "usual".to_owned()))
                .into(),
            remove: vec!["x-c".to_owned()],
            ..HeaderOperations::default()
        };
        let text = request(&[header("X-A", "own"), header("X-C", "gone")], &edits);
        let of = |name: &str| -> Vec<&str> {
            let lines = text.lines();
            lines
                .filter(|line| line.to_ascii_lowercase().starts_with(name))
                .collect()
        };
        assert_eq!(of("x-a"), ["X-A: own"]);
        assert_eq!(of("x-b"), ["x-b: usual"]);
        assert_eq!(of("x-c"), ["x-c: usual"]);
        assert_eq!(of("x-set"), ["x-set: 1"]);
    }
}
