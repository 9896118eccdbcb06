//! What a listener's options add to heads and take out of them: who called, by which proxies, as
//! which request. Made only where a listener has such options; see `HttpTable::marks_requests`.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::mesh::http::{ForwardClientCert, RemoteOptions, ServerHeader, ServerOptions};

use super::super::context::Conn;
use super::fields::{Fields, Name, Scan};
use super::head::proto;

/// Only other proxies of the mesh may say these (Envoy: `cleanInternalHeaders`).
const INTERNAL_ONLY: [&str; 17] = [
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-ms",
];

/// Who a request comes from, as far as the listener believes what is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The nearest that is not a trusted proxy.
    pub(crate) address: IpAddr,
    /// Inside: one of the addresses that the listener is told are.
    pub(crate) internal: bool,
    /// Nobody of the mesh is before this proxy.
    pub(crate) edge: bool,
}

impl Caller {
    /// Envoy's rules, of `x-forwarded-for` and the peer's address.
    pub(crate) fn of(remote: IpAddr, fields: Fields<'_>, options: &RemoteOptions) -> Self {
        let remote = remote.to_canonical();
        let said = forwarded_for(fields);
        let from_end = |skip: usize| {
            let at = said.len().checked_sub(skip + 1)?;
            let text = std::str::from_utf8(said.get(at)?).ok()?;
            text.parse::<IpAddr>()
                .ok()
                .map(|found| found.to_canonical())
        };
        let hops = usize::try_from(options.xff_num_trusted_hops).unwrap_or(usize::MAX);
        // Only an address with nobody before it can be that of an internal caller.
        let (address, alone) = if options.use_remote_address {
            let named = hops.checked_sub(1).and_then(from_end);
            (Some(named.unwrap_or(remote)), said.is_empty())
        } else {
            (from_end(hops), said.len() == 1 && hops == 0)
        };
        let internal = alone
            && address.is_some_and(|address| {
                options
                    .internal
                    .iter()
                    .any(|network| network.contains(&address))
            });
        Self {
            address: address.unwrap_or(remote),
            internal,
            edge: options.use_remote_address && !internal,
        }
    }
}

/// The elements of all `x-forwarded-for`, in order.
pub(super) fn forwarded_for(fields: Fields<'_>) -> SmallVec<[&[u8]; 8]> {
    let mut found = SmallVec::new();
    fields.each(|name, value| {
        if super::fields::classify(name) == Name::ForwardedFor {
            let elements = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            found.extend(elements.filter(|element| !element.is_empty()));
        }
    });
    found
}

/// All values of a field and one more, as one list.
fn appended(fields: Fields<'_>, name: Name, more: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    fields.each(|field, value| {
        if super::fields::classify(field) == name && !value.is_empty() {
            list.extend_from_slice(value);
            list.push(b',');
        }
    });
    list.extend_from_slice(more);
    list
}

/// What a request tells the application about its caller. A value takes the place of what came.
#[derive(Debug, Default)]
pub(crate) struct RequestMarks {
    forwarded_for: Option<Vec<u8>>,
    forwarded_proto: Option<&'static [u8]>,
    external_address: Option<Vec<u8>>,
    /// As sent on, where it is not the one that came.
    new_request_id: Option<[u8; 36]>,
    client_cert: Option<Vec<u8>>,
    via: Option<Vec<u8>>,
    internal: bool,
    edge: bool,
    /// `x-forwarded-client-cert` passes as it came.
    pub(crate) passes_client_cert: bool,
}

impl RequestMarks {
    pub(crate) fn new(conn: &Conn, fields: Fields<'_>, scan: &Scan<'_>, caller: Caller) -> Self {
        let options = &conn.http().options;
        let remote = &options.remote;
        let mut marks = Self {
            internal: caller.internal,
            edge: caller.edge,
            ..Self::default()
        };
        if remote.use_remote_address {
            if !remote.skip_xff_append {
                let own = conn.remote.ip().to_canonical().to_string();
                marks.forwarded_for = Some(appended(fields, Name::ForwardedFor, own.as_bytes()));
            }
            if caller.edge {
                marks.external_address = Some(caller.address.to_string().into_bytes());
            }
        }
        let believed = !remote.use_remote_address || remote.xff_num_trusted_hops > 0;
        if !(believed && scan.has_forwarded_proto) {
            marks.forwarded_proto = Some(proto(conn.tls));
        }
        let id = options.request_id;
        let foreign = caller.edge && !id.preserve_external;
        if id.generate && (foreign || !scan.has_request_id) {
            marks.new_request_id = Some(request_id());
        }
        let proven = conn.client_cert.as_deref();
        match (options.client_cert.forward, proven) {
            (ForwardClientCert::AlwaysForwardOnly, _)
            | (ForwardClientCert::ForwardOnly, Some(_)) => {
                marks.passes_client_cert = true;
            }
            (ForwardClientCert::AppendForward, Some(own)) => {
                marks.client_cert = Some(appended(fields, Name::ClientCert, own));
            }
            (ForwardClientCert::SanitizeSet, Some(own)) => marks.client_cert = Some(own.to_vec()),
            (_, None) | (ForwardClientCert::Sanitize, _) => {}
        }
        let via = &options.server.via;
        if !via.is_empty() {
            marks.via = Some(appended(fields, Name::Via, via.as_bytes()));
        }
        marks
    }

    /// The request is sent on with `id`, where it gets a new one.
    pub(crate) fn name_request(&mut self, id: impl FnOnce() -> [u8; 36]) {
        if let Some(new) = &mut self.new_request_id {
            *new = id();
        }
    }

    /// The request has its id already.
    pub(crate) fn keep_request_id(&mut self) {
        self.new_request_id = None;
    }

    /// The id that the request is sent on with, where it is new.
    pub(crate) fn request_id(&self) -> Option<&[u8; 36]> {
        self.new_request_id.as_ref()
    }

    /// Whether a field of the caller does not pass.
    pub(crate) fn replaces(&self, what: Name, name: &[u8]) -> bool {
        match what {
            Name::ForwardedFor => self.forwarded_for.is_some(),
            Name::ForwardedProto => self.forwarded_proto.is_some(),
            Name::RequestId => self.new_request_id.is_some(),
            Name::Via => self.via.is_some(),
            _ => {
                self.edge
                    && INTERNAL_ONLY
                        .iter()
                        .any(|only| name.eq_ignore_ascii_case(only.as_bytes()))
            }
        }
    }

    /// Each field that is added.
    pub(crate) fn each(&self, mut put: impl FnMut(&'static str, &[u8])) {
        let mut some = |name, value: Option<&[u8]>| {
            if let Some(value) = value {
                put(name, value);
            }
        };
        some("x-forwarded-for", self.forwarded_for.as_deref());
        some("x-forwarded-proto", self.forwarded_proto);
        some("x-envoy-external-address", self.external_address.as_deref());
        some(
            "x-envoy-internal",
            self.internal.then_some(b"true".as_slice()),
        );
        some(
            "x-request-id",
            self.new_request_id.as_ref().map(<[u8; 36]>::as_slice),
        );
        some("x-forwarded-client-cert", self.client_cert.as_deref());
        some("via", self.via.as_deref());
    }
}

/// A random UUID (version 4).
pub(crate) fn request_id() -> [u8; 36] {
    let bits = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let [a, b, c, d] = [96, 64, 32, 0].map(|shift| digits(bits >> shift));
    let mut text = [b'-'; 36];
    let (b1, b2) = b.split_at(4);
    let (c1, c2) = c.split_at(4);
    text[..8].copy_from_slice(&a);
    text[9..13].copy_from_slice(b1);
    text[14..18].copy_from_slice(b2);
    text[19..23].copy_from_slice(c1);
    text[24..28].copy_from_slice(c2);
    text[28..].copy_from_slice(&d);
    text
}

/// The lowest 32 bits as hexadecimal digits, all eight at once.
pub(crate) fn digits(bits: u128) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut spread = u64::try_from(bits & 0xffff_ffff).unwrap_or(0);
    spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
    spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((spread + EACH * 6) >> 4) & EACH;
    let between = u64::from(b'a' - b'0' - 10);
    (spread + EACH * u64::from(b'0') + letters * between).to_be_bytes()
}

/// What an answer tells the caller about the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnswerMarks {
    server: ServerOptions,
    request_id: Option<Vec<u8>>,
}

impl AnswerMarks {
    pub(crate) fn new(server: &ServerOptions, request_id: Option<Vec<u8>>) -> Self {
        Self {
            server: server.clone(),
            request_id,
        }
    }

    /// Whether a field of the application does not pass.
    pub(crate) fn replaces(&self, what: Name) -> bool {
        match what {
            Name::Server => self.server.transformation == ServerHeader::Overwrite,
            Name::Via => !self.server.via.is_empty(),
            Name::RequestId => self.request_id.is_some(),
            _ => false,
        }
    }

    /// Each field that is added to an application's answer, which has `fields`.
    pub(crate) fn each(&self, fields: Fields<'_>, mut put: impl FnMut(&'static str, &[u8])) {
        let named = match self.server.transformation {
            ServerHeader::Overwrite => true,
            ServerHeader::AppendIfAbsent => fields.first("server").is_none(),
            ServerHeader::PassThrough => false,
        };
        if named {
            put("server", self.server.name.as_bytes());
        }
        if !self.server.via.is_empty() {
            let list = appended(fields, Name::Via, self.server.via.as_bytes());
            put("via", &list);
        }
        if let Some(id) = &self.request_id {
            put("x-request-id", id);
        }
    }

    /// Each field that is added to an answer of the proxy's own.
    pub(crate) fn each_own(&self, mut put: impl FnMut(&'static str, &[u8])) {
        put("server", self.server.name.as_bytes());
        if !self.server.via.is_empty() {
            put("via", self.server.via.as_bytes());
        }
        if let Some(id) = &self.request_id {
            put("x-request-id", id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_by_address_and_trusted_hops() {
        let inside = vec!["10.0.0.0/8".parse().unwrap()];
        // Expected as in the table of Envoy's "x-forwarded-for" page: edge or not, hops, what is
        // said, who that is, whether it is inside.
        for (edge, hops, said, address, internal) in [
            (true, 0, &[][..], "10.1.1.1", true),
            (true, 0, &["203.0.113.9"], "10.1.1.1", false),
            (
                true,
                1,
                &["203.0.113.128, 203.0.113.10", "203.0.113.1"],
                "203.0.113.1",
                false,
            ),
            (
                true,
                2,
                &["203.0.113.128, 203.0.113.10", "203.0.113.1"],
                "203.0.113.10",
                false,
            ),
            (true, 9, &["203.0.113.1"], "10.1.1.1", false),
            (true, 1, &["not an address"], "10.1.1.1", false),
            (
                false,
                0,
                &["203.0.113.128,203.0.113.10, 203.0.113.1"],
                "203.0.113.1",
                false,
            ),
            (
                false,
                1,
                &["203.0.113.128,203.0.113.10, 203.0.113.1"],
                "203.0.113.10",
                false,
            ),
            (false, 0, &["10.7.7.7"], "10.7.7.7", true),
            (false, 0, &["::ffff:10.7.7.7"], "10.7.7.7", true),
            (false, 1, &["10.7.7.7"], "10.1.1.1", false),
            (false, 0, &["10.7.7.7, 10.7.7.8"], "10.7.7.8", false),
            (false, 0, &[], "10.1.1.1", false),
        ] {
            let options = RemoteOptions {
                use_remote_address: edge,
                xff_num_trusted_hops: hops,
                skip_xff_append: false,
                internal: inside.clone(),
            };
            let fields: Vec<_> = said
                .iter()
                .map(|value| httparse::Header {
                    name: "X-Forwarded-For",
                    value: value.as_bytes(),
                })
                .collect();
            let caller = Caller::of(
                "::ffff:10.1.1.1".parse().unwrap(),
                Fields::Text(&fields),
                &options,
            );
            let expected = Caller {
                address: address.parse().unwrap(),
                internal,
                edge: edge && !internal,
            };
            assert_eq!(caller, expected, "{edge} {hops} {said:?}");
        }
    }

    #[test]
    fn digits_are_hexadecimal() {
        for bits in [0, 1, 0x0123_4567, 0x89ab_cdef, 0xffff_ffff, 0xa0f9_1b5c] {
            assert_eq!(digits(bits).as_slice(), format!("{bits:08x}").as_bytes());
        }
        assert_eq!(digits(0xdead_0000_0001).as_slice(), b"00000001");
    }

    #[test]
    fn request_ids_are_version_4() {
        let id = String::from_utf8(request_id().to_vec()).unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(
            matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'),
            "{id}"
        );
        assert_ne!(request_id(), request_id());
    }
}
