//! Header fields of either version, and what a proxy must know from them.

use super::Framing;
use super::h2::block::Block;
pub(crate) use super::name::{EXPECTED_TIMEOUT, Name, PEER, UNDELIVERED, classify};

/// Largest head, in bytes; Envoy's default.
pub(crate) const MAX_HEAD: usize = 60 * 1024;
/// Most fields in a head; Envoy's default.
pub(crate) const MAX_FIELDS: usize = 100;
/// The fields of a head.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fields<'m> {
    /// Read from text.
    Text(&'m [httparse::Header<'m>]),
    /// Read from HTTP/2.
    Block(&'m Block),
}

impl<'m> Fields<'m> {
    /// Calls `visit` with each name and value.
    pub(crate) fn each(self, mut visit: impl FnMut(&'m [u8], &'m [u8])) {
        match self {
            Self::Text(fields) => {
                for field in fields {
                    visit(field.name.as_bytes(), field.value);
                }
            }
            Self::Block(block) => block.each(|_, name, value| visit(name, value)),
        }
    }

    /// As [`Fields::each`], with what each name is.
    pub(crate) fn each_known(self, mut visit: impl FnMut(Name, &'m [u8], &'m [u8])) {
        match self {
            Self::Text(fields) => {
                for field in fields {
                    let name = field.name.as_bytes();
                    visit(classify(name), name, field.value);
                }
            }
            Self::Block(block) => block.each(visit),
        }
    }

    /// The first value of `name`.
    pub(crate) fn first(self, name: &str) -> Option<&'m [u8]> {
        match self {
            Self::Text(fields) => fields
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case(name))
                .map(|field| field.value),
            Self::Block(block) => block.first(name),
        }
    }
}

/// Fields whose framing can be read two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadFields {
    #[error("content-length beside transfer-encoding")]
    TwoFramings,
    #[error("several content-length")]
    SeveralLengths,
    #[error("content-length is not a number")]
    Length,
    #[error("a transfer-encoding other than chunked")]
    TransferEncoding,
    #[error("several host")]
    SeveralHosts,
    #[error("too many fields named by connection")]
    Connection,
}

impl BadFields {
    /// Envoy's `response_code_details` for a request with them.
    pub(crate) fn details(self) -> &'static str {
        match self {
            Self::TwoFramings => "http1.content_length_and_chunked_not_allowed",
            Self::SeveralLengths | Self::Length => "http1.invalid_content_length",
            Self::TransferEncoding => "http1.invalid_transfer_encoding",
            Self::SeveralHosts => "http1.invalid_host",
            Self::Connection => "http1.connection_header_rejected",
        }
    }
}

/// What a proxy must know from a head.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a head, each asked for by name"
)]
pub(crate) struct Scan<'m> {
    pub(crate) host: Option<&'m [u8]>,
    pub(crate) length: Option<u64>,
    pub(crate) chunked: bool,
    pub(crate) upgrade: Option<&'m [u8]>,
    pub(crate) connection: Connection<'m>,
    pub(crate) te_trailers: bool,
    pub(crate) grpc: bool,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) has_request_id: bool,
    /// It is part of a trace.
    pub(crate) traced: bool,
    /// It asks to be traced.
    pub(crate) forces_trace: bool,
    pub(crate) has_forwarded_proto: bool,
    pub(crate) peer: Option<&'m [u8]>,
    /// The peer's proxy says that its application never got the request.
    pub(crate) undelivered: bool,
    /// The application can tell a repetition.
    pub(crate) idempotency_key: bool,
    /// A field asks for limits other than the route's.
    pub(crate) controlled: bool,
    /// Somebody before said how long the answer will be waited for.
    pub(crate) expected_timeout: bool,
}

/// What the `connection` fields say.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a head, each asked for by name"
)]
pub(crate) struct Connection<'m> {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
    /// Names a field that says who called, or how the message is framed: whoever wrote that wants
    /// it lost on the way.
    pub(crate) hides: bool,
    /// The first values that name further fields of this connection only.
    nominating: [Option<&'m [u8]>; 4],
}

impl<'m> Connection<'m> {
    /// Takes note of a value. False when there are too many to be kept.
    fn add(&mut self, value: &'m [u8]) -> bool {
        let mut names = false;
        for token in tokens(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.hides |= is_protected(token);
                names = true;
            }
        }
        if !names {
            return true;
        }
        let free = self.nominating.iter_mut().find(|slot| slot.is_none());
        free.is_some_and(|free| free.replace(value).is_none())
    }

    /// Whether `name` is named as one for this connection only.
    pub(crate) fn nominates(&self, name: &[u8]) -> bool {
        if let [None, ..] = self.nominating {
            return false;
        }
        self.nominating
            .iter()
            .flatten()
            .any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(name)))
    }
}

/// Whether a field may not be taken out by naming it in `connection`.
fn is_protected(name: &[u8]) -> bool {
    let begins = |with: &[u8]| {
        name.get(..with.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    match classify(name) {
        Name::Host
        | Name::ContentLength
        | Name::TransferEncoding
        | Name::Peer
        | Name::ClientCert
        | Name::RequestId => true,
        Name::Connection | Name::Hop | Name::Te | Name::Upgrade => false,
        _ => begins(b":") || begins(b"x-forwarded-") || begins(b"x-envoy-"),
    }
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Looks through `fields` once.
pub(crate) fn scan(fields: Fields<'_>) -> Result<Scan<'_>, BadFields> {
    let mut scan = Scan::default();
    let mut bad = None;
    fields.each_known(|known, _, value| match known {
        Name::Other
        | Name::Cookie
        | Name::Hop
        | Name::ClientCert
        | Name::ForwardedFor
        | Name::Internal
        | Name::Via
        | Name::Server
        | Name::Expect
        | Name::AttemptCount
        | Name::ServiceTime
        | Name::TraceState
        | Name::GrpcTimeout => {}
        Name::Trace => scan.traced = true,
        Name::ForceTrace => scan.forces_trace = true,
        Name::ExpectedTimeout => scan.expected_timeout = true,
        Name::Control => scan.controlled = true,
        Name::IdempotencyKey => scan.idempotency_key = true,
        Name::Undelivered => scan.undelivered = true,
        Name::Host => {
            if scan.host.replace(value).is_some() {
                bad = Some(BadFields::SeveralHosts);
            }
        }
        Name::Connection => {
            if !scan.connection.add(value) {
                bad = Some(BadFields::Connection);
            }
        }
        Name::Te => scan.te_trailers |= tokens(value).any(|t| t.eq_ignore_ascii_case(b"trailers")),
        // Several are none that could be meant.
        Name::Upgrade => scan.upgrade = Some(scan.upgrade.map_or(value, |_| b"")),
        Name::TransferEncoding => {
            if scan.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                bad = Some(BadFields::TransferEncoding);
            }
            scan.chunked = true;
        }
        Name::ContentLength => match decimal(value) {
            None => bad = Some(BadFields::Length),
            Some(length) => {
                if scan.length.replace(length).is_some() {
                    bad = Some(BadFields::SeveralLengths);
                }
            }
        },
        Name::ContentType => {
            scan.grpc = value
                .strip_prefix(b"application/grpc")
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')));
        }
        Name::GrpcStatus => {
            scan.grpc_status = decimal(value).and_then(|status| u8::try_from(status).ok());
        }
        Name::Peer => scan.peer = Some(value),
        Name::ForwardedProto => scan.has_forwarded_proto = true,
        Name::RequestId => scan.has_request_id = true,
    });
    if scan.chunked && scan.length.is_some() {
        bad = Some(BadFields::TwoFramings);
    }
    match bad {
        Some(bad) => Err(bad),
        None => Ok(scan),
    }
}

impl Scan<'_> {
    /// How the body of a request ends.
    pub(crate) fn request_framing(&self) -> Framing {
        match self.length {
            _ if self.chunked => Framing::Chunked,
            Some(0) | None => Framing::None,
            Some(length) => Framing::Length(length),
        }
    }

    /// How the body of a response ends.
    pub(crate) fn response_framing(&self, status: u16, head: bool) -> Framing {
        match self.length {
            _ if head || status < 200 || matches!(status, 204 | 304) => Framing::None,
            _ if self.chunked => Framing::Chunked,
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        }
    }
}

/// Digits and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0_u64, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&'static str, &'static str)]) -> Result<Framing, BadFields> {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| httparse::Header {
                name,
                value: value.as_bytes(),
            })
            .collect();
        scan(Fields::Text(&fields)).map(|scan| scan.request_framing())
    }

    #[test]
    fn framing_has_one_reading_or_none() {
        assert_eq!(of(&[("content-length", "5")]), Ok(Framing::Length(5)));
        assert_eq!(
            of(&[("Transfer-Encoding", "Chunked")]),
            Ok(Framing::Chunked)
        );
        for bad in [
            &[("content-length", "5"), ("content-length", "5")][..],
            &[("content-length", "5, 5")],
            &[("content-length", "+5")],
            &[("content-length", "")],
            &[("content-length", "99999999999999999999")],
            &[("transfer-encoding", "gzip, chunked")],
            &[
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ],
            &[("content-length", "5"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "identity")],
            &[("host", "a"), ("Host", "b")],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fields_named_by_connection_are_found() {
        let fields = [
            httparse::Header {
                name: "Connection",
                value: b"close, X-Mine",
            },
            httparse::Header {
                name: "connection",
                value: b"Upgrade",
            },
        ];
        let scan = scan(Fields::Text(&fields)).unwrap();
        assert!(scan.connection.close && scan.connection.upgrade);
        assert!(scan.connection.nominates(b"x-mine") && !scan.connection.nominates(b"x-other"));
        assert!(!scan.connection.hides);
    }

    #[test]
    fn who_called_cannot_be_hidden_by_connection() {
        let hides = |value: &'static str| {
            let mut connection = Connection::default();
            assert!(connection.add(value.as_bytes()));
            connection.hides
        };
        for name in [
            "X-Forwarded-For",
            "close, x-forwarded-client-cert",
            "x-envoy-internal",
            "Content-Length",
            "transfer-encoding",
            "host",
            ":authority",
            "x-request-id",
        ] {
            assert!(hides(name), "{name}");
        }
        for name in [
            "close",
            "TE",
            "HTTP2-Settings, Upgrade",
            "X-Mine",
            "Keep-Alive",
        ] {
            assert!(!hides(name), "{name}");
        }
        let fields: Vec<_> = (0..5)
            .map(|_| httparse::Header {
                name: "connection",
                value: b"x-mine",
            })
            .collect();
        assert!(matches!(
            scan(Fields::Text(&fields)),
            Err(BadFields::Connection)
        ));
    }

    #[test]
    fn names_are_known_in_any_case() {
        for (name, expected) in [
            ("Content-Length", Name::ContentLength),
            ("X-Meshctl-Peer", Name::Peer),
            ("X-FORWARDED-CLIENT-CERT", Name::ClientCert),
            ("x-forwarded-proto", Name::ForwardedProto),
            ("Keep-Alive", Name::Hop),
            ("x-request-ix", Name::Other),
            ("Proxy-Connection", Name::Hop),
            ("x-envoy-attempt-count", Name::AttemptCount),
            ("X-Envoy-Retry-On", Name::Control),
            ("x-envoy-retry-grpc-on", Name::Control),
            ("x-envoy-upstream-rq-per-try-timeout-ms", Name::Control),
            ("x-envoy-expected-rq-timeout-ms", Name::ExpectedTimeout),
            ("grpc-timeout", Name::GrpcTimeout),
            ("X-Envoy-Force-Trace", Name::ForceTrace),
            ("X-B3-Sampled", Name::Trace),
            ("x-envoy-force-tracx", Name::Other),
        ] {
            assert_eq!(classify(name.as_bytes()), expected, "{name}");
        }
    }
}
