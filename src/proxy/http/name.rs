//! Names of header fields that mean something to a proxy, and how they are told from others.

/// Says who calls, once for each mTLS connection; for telemetry only.
pub(crate) const PEER: &str = "x-meshctl-peer";

/// Fields that mean something to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// Anything else.
    Other,
    Host,
    Connection,
    /// `keep-alive`, `proxy-connection`, `http2-settings`: about one connection only.
    Hop,
    Te,
    Cookie,
    Upgrade,
    TransferEncoding,
    ContentLength,
    ContentType,
    GrpcStatus,
    Peer,
    ClientCert,
    ForwardedFor,
    ForwardedProto,
    /// `x-envoy-internal`: the proxy's own judgement.
    Internal,
    Via,
    Server,
    Expect,
    RequestId,
    /// The trace that a request is part of: `traceparent`, `b3`, `x-b3-…`.
    Trace,
    /// `tracestate`: what others say of that trace.
    TraceState,
    /// `x-envoy-force-trace`.
    ForceTrace,
    AttemptCount,
    ServiceTime,
    /// A caller's wish about the limits of its request.
    Control,
    ExpectedTimeout,
    GrpcTimeout,
    IdempotencyKey,
    Undelivered,
}

/// Callers' wishes, all of them behind `x-envoy-`.
const CONTROLS: [&str; 10] = [
    "x-envoy-retry-on",
    "x-envoy-max-retries",
    "x-envoy-retry-grpc-on",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
];
/// Says that a proxy could not reach its application: believed from peers over mTLS, and never passed
/// on.
pub(crate) const UNDELIVERED: &str = "x-meshctl-undelivered";
/// How long the endpoint's answer is waited for, in milliseconds.
pub(crate) const EXPECTED_TIMEOUT: &str = "x-envoy-expected-rq-timeout-ms";

/// The next `W` bytes of `text` from `at`, as a number.
#[inline]
fn word<const W: usize>(text: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    if let (Some(part), Some(into)) = (text.get(at..at + W), bytes.get_mut(..W)) {
        into.copy_from_slice(part);
    }
    u64::from_le_bytes(bytes)
}

/// Not zero where `W` bytes of a name differ from those of a known one in more than case.
#[inline]
fn apart<const W: usize>(name: &[u8], known: &[u8], at: usize) -> u64 {
    // Set in letters, and not in digits and dashes; half of it is the bit that lower case has.
    const LETTER: u64 = 0x4040_4040_4040_4040;
    let known = word::<W>(known, at);
    (word::<W>(name, at) | (known & LETTER) >> 1) ^ known
}

/// Whether `name` is `known`, which is of two letters in lower case, digits and dashes at least. A few
/// comparisons of words, since the length is known when this is compiled: names are looked at several
/// times in each request.
#[inline]
fn is<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    if name.len() != N {
        return false;
    }
    let known = known.as_slice();
    let differ = if N >= 8 {
        let (mut at, mut differ) = (0, apart::<8>(name, known, N - 8));
        while at + 8 < N {
            differ |= apart::<8>(name, known, at);
            at += 8;
        }
        differ
    } else if N >= 4 {
        apart::<4>(name, known, 0) | apart::<4>(name, known, N - 4)
    } else {
        apart::<2>(name, known, 0) | apart::<2>(name, known, N - 2)
    };
    differ == 0
}

/// What a name of a length that wishes have is.
fn envoy(name: &[u8]) -> Name {
    if name.eq_ignore_ascii_case(UNDELIVERED.as_bytes()) {
        return Name::Undelivered;
    }
    if apart::<8>(name, b"x-envoy-", 0) != 0 {
        return Name::Other;
    }
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("x-envoy-attempt-count") {
        Name::AttemptCount
    } else if is("x-envoy-internal") {
        Name::Internal
    } else if is("x-envoy-force-trace") {
        Name::ForceTrace
    } else if is(EXPECTED_TIMEOUT) {
        Name::ExpectedTimeout
    } else if CONTROLS.into_iter().any(is) {
        Name::Control
    } else {
        Name::Other
    }
}

/// What `name` is. By length first: most names differ from all of these in it.
pub(crate) fn classify(name: &[u8]) -> Name {
    let (found, is_it) = match (name.len(), name.first().map(|first| first | 0x20)) {
        (2, Some(b'b')) => (Name::Trace, is(name, b"b3")),
        (2, _) => (Name::Te, is(name, b"te")),
        (3, _) => (Name::Via, is(name, b"via")),
        (4, _) => (Name::Host, is(name, b"host")),
        (6, Some(b'e')) => (Name::Expect, is(name, b"expect")),
        (6, Some(b's')) => (Name::Server, is(name, b"server")),
        (6, _) => (Name::Cookie, is(name, b"cookie")),
        (7, _) => (Name::Upgrade, is(name, b"upgrade")),
        (10, Some(b'k')) => (Name::Hop, is(name, b"keep-alive")),
        (10, Some(b't')) => (Name::TraceState, is(name, b"tracestate")),
        (10, Some(b'x')) => (Name::Trace, is(name, b"x-b3-flags")),
        (10, _) => (Name::Connection, is(name, b"connection")),
        (11, Some(b't')) => (Name::Trace, is(name, b"traceparent")),
        (11, Some(b'x')) => (Name::Trace, is(name, b"x-b3-spanid")),
        (11, _) => (Name::GrpcStatus, is(name, b"grpc-status")),
        (12, Some(b'x')) if is(name, b"x-request-id") => (Name::RequestId, true),
        (12, Some(b'x')) => (
            Name::Trace,
            is(name, b"x-b3-traceid") || is(name, b"x-b3-sampled"),
        ),
        (12, Some(b'g')) => (Name::GrpcTimeout, is(name, b"grpc-timeout")),
        (12, _) => (Name::ContentType, is(name, b"content-type")),
        (14, Some(b'x')) => (Name::Peer, is(name, b"x-meshctl-peer")),
        (14, Some(b'h')) => (Name::Hop, is(name, b"http2-settings")),
        (14, _) => (Name::ContentLength, is(name, b"content-length")),
        (15, Some(b'x')) => (Name::ForwardedFor, is(name, b"x-forwarded-for")),
        (15, _) => (Name::IdempotencyKey, is(name, b"idempotency-key")),
        (16, Some(b'p')) => (Name::Hop, is(name, b"proxy-connection")),
        (17, Some(b'x')) if is(name, b"x-b3-parentspanid") => (Name::Trace, true),
        (17, Some(b'x')) => (Name::ForwardedProto, is(name, b"x-forwarded-proto")),
        (17, _) => (Name::TransferEncoding, is(name, b"transfer-encoding")),
        (23, _) => (Name::ClientCert, is(name, b"x-forwarded-client-cert")),
        (29, _) => (
            Name::ServiceTime,
            is(name, b"x-envoy-upstream-service-time"),
        ),
        (16 | 19 | 21 | 30 | 32 | 38 | 40, Some(b'x')) => return envoy(name),
        _ => return Name::Other,
    };
    if is_it { found } else { Name::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_in_any_case_and_by_every_byte() {
        for known in [
            "te",
            "via",
            "host",
            "cookie",
            "expect",
            "server",
            "upgrade",
            "connection",
            "keep-alive",
            "grpc-status",
            "x-request-id",
            "grpc-timeout",
            "content-type",
            PEER,
            "http2-settings",
            "content-length",
            "x-forwarded-for",
            "idempotency-key",
            "proxy-connection",
            "x-forwarded-proto",
            "transfer-encoding",
            "x-forwarded-client-cert",
            "x-envoy-upstream-service-time",
            "x-envoy-attempt-count",
            "x-envoy-internal",
            UNDELIVERED,
            EXPECTED_TIMEOUT,
            CONTROLS[0],
            "b3",
            "traceparent",
            "tracestate",
            "x-b3-spanid",
            "x-b3-flags",
            "x-b3-parentspanid",
            "x-envoy-force-trace",
        ] {
            let kind = classify(known.as_bytes());
            assert_ne!(kind, Name::Other, "{known}");
            assert_eq!(
                classify(known.to_ascii_uppercase().as_bytes()),
                kind,
                "{known}"
            );
            for at in 0..known.len() {
                for byte in 0..=u8::MAX {
                    let mut other = known.as_bytes().to_vec();
                    other[at] = byte;
                    let same = other.eq_ignore_ascii_case(known.as_bytes());
                    let found = classify(&other);
                    assert_eq!(found == kind, same, "{known} {at} {byte}");
                }
            }
        }
    }
}
