//! One line for each request or connection: Istio's default text format, or its JSON keys.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::rt::UnixMillis;

use super::{Flag, Link, PeerId, ServiceId, Shown};

/// Details of a call that policies refuse (Envoy's).
pub const DENIED: &str = "rbac_access_denied";

/// The answer's field that the proxy itself adds.
const SERVICE_TIME: &str = "x-envoy-upstream-service-time";

/// How a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Istio's default line.
    Text,
    /// One JSON object a line.
    Json,
}

/// Everything that is logged about one request or connection. Empty text is logged as `-`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about one call"
)]
pub struct AccessRecord {
    /// When the request began.
    pub start: UnixMillis,
    /// Method.
    pub method: String,
    /// Path with query, as received.
    pub path: String,
    /// `HTTP/1.1`, `HTTP/2`; empty for bytes.
    pub protocol: &'static str,
    /// Status; 0 when there was none.
    pub code: u16,
    /// Why it ended.
    pub flag: Flag,
    /// Envoy's word for it.
    pub details: &'static str,
    /// The policy by which it was refused; tells of [`DENIED`] more.
    pub policy: String,
    /// Why no connection could be made.
    pub upstream_failure: String,
    /// Body bytes from the caller.
    pub received: u64,
    /// Body bytes to the caller.
    pub sent: u64,
    /// From first to last byte.
    pub duration: Duration,
    /// Until the upstream's answer began.
    pub upstream_time: Option<Duration>,
    /// `x-forwarded-for`.
    pub forwarded_for: String,
    /// `user-agent`.
    pub user_agent: String,
    /// `x-request-id`.
    pub request_id: String,
    /// Host that was called.
    pub authority: String,
    /// Endpoint's address.
    pub upstream_host: String,
    /// Cluster's name.
    pub upstream_cluster: String,
    /// Our address towards the endpoint.
    pub upstream_local: String,
    /// The address that the caller connected to.
    pub downstream_local: String,
    /// The caller's address.
    pub downstream_remote: String,
    /// TLS server name.
    pub server_name: String,
    /// Route's name.
    pub route: String,
    /// Towards the application.
    pub inbound: bool,
    /// The other end has proven who it is.
    pub mtls: bool,
    /// The caller's proven name.
    pub principal: String,
    /// It is gRPC.
    pub grpc: bool,
    /// `grpc-status`.
    pub grpc_status: Option<u8>,
    /// Who called.
    pub source: PeerId,
    /// Who answered.
    pub destination: PeerId,
    /// What was called.
    pub service: ServiceId,
    /// Fields of the request that somebody asks about, by their names in lower case.
    pub request_headers: Vec<(String, String)>,
    /// Fields of the answer that somebody asks about, likewise.
    pub response_headers: Vec<(String, String)>,
    /// Tries.
    pub attempts: u32,
    /// Until all of the request had come, where that is known.
    pub request_time: Option<Duration>,
    /// Whoever connected, whatever a PROXY header says.
    pub direct_remote: String,
    /// Number of the caller's connection.
    pub connection: u64,
    /// What protects it, as its handshake says.
    pub link: Option<Link>,
    /// It is TLS that this proxy ended.
    pub tls: bool,
    /// Somebody who taps may be told of it.
    pub tapped: bool,
    /// Fields behind the answer that somebody asks about, likewise.
    pub response_trailers: Vec<(String, String)>,
    /// Until there was a connection to an endpoint, where somebody asks.
    pub connected_time: Option<Duration>,
    /// Until all of the request had gone to it, likewise.
    pub sent_time: Option<Duration>,
    /// What is spoken with it, likewise; empty for bytes.
    pub upstream_protocol: &'static str,
    /// What protects the connection to it, likewise.
    pub upstream_link: Option<Link>,
    /// Its proven name, likewise.
    pub upstream_principal: String,
    /// The name that the proxy proves, where it proves one to it.
    pub own_principal: String,
    /// The chain that took the connection.
    pub chain: String,
    /// Trace and span that it is part of.
    pub trace: Option<(u128, u64)>,
    /// What the caller's certificate says, where somebody asks.
    pub shown: Option<Arc<Shown>>,
    /// What that says which the caller was shown, likewise.
    pub own_shown: Option<Arc<Shown>>,
}

impl AccessRecord {
    /// Appends the record and a line end to `out`.
    pub fn write(&self, format: LogFormat, out: &mut String) {
        match format {
            LogFormat::Text => self.write_text(out),
            LogFormat::Json => self.write_json(out),
        }
        out.push('\n');
    }

    /// Envoy's `response_code_details`, with the policy by which a caller was refused.
    pub fn details(&self) -> Cow<'static, str> {
        if self.policy.is_empty() {
            Cow::Borrowed(self.details)
        } else {
            Cow::Owned(format!("{DENIED}_matched_policy[{}]", clean(&self.policy)))
        }
    }

    /// Envoy's `connection_termination_details`: why a connection that would have carried bytes was refused.
    pub fn termination(&self) -> Cow<'static, str> {
        if self.protocol.is_empty() && !self.policy.is_empty() {
            self.details()
        } else {
            Cow::Borrowed("")
        }
    }

    /// It would have carried bytes, and no endpoint could be connected to in as many tries as there may be, which Envoy has
    /// a second flag for (`URX`).
    pub fn is_unreached(&self) -> bool {
        self.protocol.is_empty() && self.flag == Flag::Uf
    }

    /// Envoy's flags, where all of them are told.
    pub fn flags(&self) -> &'static str {
        if self.is_unreached() {
            "UF,URX"
        } else {
            self.flag.name()
        }
    }

    /// The same in words.
    pub fn flags_long(&self) -> &'static str {
        if self.is_unreached() {
            "UpstreamConnectionFailure,UpstreamRetryLimitExceeded"
        } else {
            self.flag.long_name()
        }
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let texts = [
            &self.method,
            &self.path,
            &self.policy,
            &self.upstream_failure,
            &self.forwarded_for,
            &self.user_agent,
            &self.request_id,
            &self.authority,
            &self.upstream_host,
            &self.upstream_cluster,
            &self.upstream_local,
            &self.downstream_local,
            &self.downstream_remote,
            &self.server_name,
            &self.route,
            &self.principal,
            &self.direct_remote,
            &self.upstream_principal,
            &self.own_principal,
            &self.chain,
        ];
        let texts: usize = texts.iter().map(|text| text.len()).sum();
        let fields = self.request_headers.iter().chain(&self.response_headers);
        let fields = fields.chain(&self.response_trailers);
        let fields: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
        size_of::<Self>() + texts + fields
    }

    /// A field of the request, by its name in lower case, as far as it was kept.
    pub fn request_field(&self, name: &str) -> Option<&str> {
        let known = match name {
            ":method" => &self.method,
            // As the caller sent it; what it was rewritten to is not kept.
            ":path" => &self.path,
            ":authority" | "host" => &self.authority,
            "user-agent" => &self.user_agent,
            "x-forwarded-for" => &self.forwarded_for,
            "x-request-id" => &self.request_id,
            ":scheme" => {
                let scheme = if self.tls { "https" } else { "http" };
                return (!self.protocol.is_empty()).then_some(scheme);
            }
            _ => return found(&self.request_headers, name),
        };
        Some(known.as_str()).filter(|text| !text.is_empty())
    }

    /// A field of the answer, likewise.
    pub fn response_field(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            ":status" => (self.code != 0).then(|| Cow::Owned(self.code.to_string())),
            SERVICE_TIME => self
                .upstream_time
                .map(|time| Cow::Owned(time.as_millis().to_string())),
            _ => found(&self.response_headers, name).map(Cow::Borrowed),
        }
    }

    /// A field behind the answer, likewise.
    pub fn trailer(&self, name: &str) -> Option<Cow<'_, str>> {
        let kept = found(&self.response_trailers, name).map(Cow::Borrowed);
        kept.or_else(|| {
            let status = self.grpc_status.filter(|_| name == "grpc-status")?;
            Some(Cow::Owned(status.to_string()))
        })
    }

    fn write_text(&self, out: &mut String) {
        let line = &mut Line(out);
        line.put("[").put(&timestamp(self.start)).put("] \"");
        line.foreign(&self.method).put(" ").foreign(&self.path);
        line.put(" ").own(self.protocol).put("\" ");
        line.figure(self.code).put(" ").put(self.flag.name());
        line.put(" ").own(&self.details());
        line.put(" - \"").foreign(&self.upstream_failure).put("\" ");
        line.figure(self.received).put(" ").figure(self.sent);
        line.put(" ").figure(millis(self.duration)).put(" ");
        match self.upstream_time {
            Some(time) => line.figure(millis(time)),
            None => line.put("-"),
        };
        for quoted in [
            &self.forwarded_for,
            &self.user_agent,
            &self.request_id,
            &self.authority,
        ] {
            line.put(" \"").foreign(quoted).put("\"");
        }
        line.put(" \"").own(&self.upstream_host).put("\"");
        for known in [
            &self.upstream_cluster,
            &self.upstream_local,
            &self.downstream_local,
            &self.downstream_remote,
        ] {
            line.put(" ").own(known);
        }
        line.put(" ").foreign(&self.server_name);
        line.put(" ").foreign(&self.route);
    }

    fn write_json(&self, out: &mut String) {
        let line = &mut Line(out);
        line.put("{\"start_time\":\"").put(&timestamp(self.start));
        line.put("\",\"route_name\":").json(&self.route);
        line.put(",\"method\":").json(&self.method);
        line.put(",\"path\":").json(&self.path);
        line.put(",\"protocol\":").json(self.protocol);
        line.put(",\"response_code\":").figure(self.code);
        line.put(",\"response_flags\":").json(self.flag.name());
        line.put(",\"response_code_details\":")
            .json(&self.details());
        line.put(",\"connection_termination_details\":")
            .json(&self.termination());
        line.put(",\"bytes_received\":").figure(self.received);
        line.put(",\"bytes_sent\":").figure(self.sent);
        line.put(",\"duration\":").figure(millis(self.duration));
        line.put(",\"upstream_service_time\":");
        match self.upstream_time {
            Some(time) => line.figure(millis(time)),
            None => line.put("null"),
        };
        for (name, text) in [
            ("x_forwarded_for", &self.forwarded_for),
            ("user_agent", &self.user_agent),
            ("request_id", &self.request_id),
            ("authority", &self.authority),
            ("upstream_host", &self.upstream_host),
            ("upstream_cluster", &self.upstream_cluster),
            ("upstream_local_address", &self.upstream_local),
            ("downstream_local_address", &self.downstream_local),
            ("downstream_remote_address", &self.downstream_remote),
            ("requested_server_name", &self.server_name),
            ("upstream_transport_failure_reason", &self.upstream_failure),
        ] {
            line.put(",\"").put(name).put("\":").json(text);
        }
        line.put("}");
    }
}

/// A line while it is written: without the machinery of formats, as a busy proxy writes one for each call.
struct Line<'o>(&'o mut String);

impl Line<'_> {
    fn put(&mut self, text: &str) -> &mut Self {
        self.0.push_str(text);
        self
    }

    /// Of ourselves; `-` where there is nothing.
    fn own(&mut self, text: &str) -> &mut Self {
        self.put(if text.is_empty() { "-" } else { text })
    }

    /// Of a caller or an endpoint.
    fn foreign(&mut self, text: &str) -> &mut Self {
        self.own(&clean(text))
    }

    fn figure(&mut self, figure: impl itoa::Integer) -> &mut Self {
        self.put(itoa::Buffer::new().format(figure))
    }

    /// As JSON; null where there is nothing.
    fn json(&mut self, text: &str) -> &mut Self {
        if text.is_empty() {
            return self.put("null");
        }
        quote(text, self.0);
        self
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn found<'r>(fields: &'r [(String, String)], name: &str) -> Option<&'r str> {
    let mut fields = fields.iter();
    let (_, value) = fields.find(|(known, _)| known == name)?;
    Some(value)
}

/// What a caller sent must not break out of its quotes or its line.
pub(super) fn clean(text: &str) -> std::borrow::Cow<'_, str> {
    let harmless = |c: char| !c.is_control() && c != '"';
    // Nearly all is plain, which is seen faster by bytes.
    let plain = |byte: &u8| matches!(byte, b' ' | b'!' | b'#'..=b'~');
    if text.as_bytes().iter().all(plain) || text.chars().all(harmless) {
        text.into()
    } else {
        text.chars()
            .map(|c| if harmless(c) { c } else { '_' })
            .collect::<String>()
            .into()
    }
}

/// `text` as a string of JSON.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    let plain = |byte: &u8| matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~');
    if text.as_bytes().iter().all(plain) {
        out.push_str(text);
        out.push('"');
        return;
    }
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter.is_control() => {
                // Writing into a String cannot fail.
                let _infallible = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}

/// `2026-11-21T02:03:04.567Z`.
pub(super) fn timestamp(millis: UnixMillis) -> String {
    thread_local! {
        /// The second that was asked for last, and what it is without its parts: lines come in the order of time.
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let (second, rest) = (millis / 1_000, millis % 1_000);
    LAST.with_borrow_mut(|(known, text)| {
        if *known != second {
            let at = i64::try_from(second).ok();
            let at = at.and_then(|second| jiff::Timestamp::from_second(second).ok());
            *text = at.map_or_else(String::new, |at| format!("{at:.0}"));
            *known = second;
        }
        let Some(date) = text.strip_suffix('Z') else {
            return "-".to_owned();
        };
        let mut out = String::with_capacity(date.len() + 5);
        out.push_str(date);
        out.push('.');
        for part in [100, 10, 1] {
            out.extend(char::from_digit(
                u32::try_from(rest / part % 10).unwrap_or(0),
                10,
            ));
        }
        out.push('Z');
        out
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn record() -> AccessRecord {
        AccessRecord {
            start: 1_000,
            method: "GET".to_owned(),
            path: "/a\"\nb".to_owned(),
            protocol: "HTTP/1.1",
            code: 200,
            details: "via_upstream",
            duration: Duration::from_millis(7),
            ..AccessRecord::default()
        }
    }

    #[test]
    fn text_follows_istio_and_cannot_be_broken_out_of() {
        let mut out = String::new();
        record().write(LogFormat::Text, &mut out);
        assert_eq!(
            out,
            "[1970-01-01T00:00:01.000Z] \"GET /a__b HTTP/1.1\" 200 - via_upstream - \"-\" 0 0 7 - \
             \"-\" \"-\" \"-\" \"-\" \"-\" - - - - - -\n"
        );
    }

    #[test]
    fn moments_are_written_with_their_milliseconds() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_795_903_384_567, "2026-11-28T22:03:04.567Z"),
            (1_795_903_384_007, "2026-11-28T22:03:04.007Z"),
            (1_795_903_385_000, "2026-11-28T22:03:05.000Z"),
            (999, "1970-01-01T00:00:00.999Z"),
            (u64::MAX, "-"),
        ] {
            assert_eq!(timestamp(millis), expected);
        }
    }

    #[test]
    fn json_has_istios_keys() {
        let mut out = String::new();
        record().write(LogFormat::Json, &mut out);
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["response_code"], 200);
        assert_eq!(value["path"], "/a\"\nb");
        assert_eq!(value["upstream_service_time"], Value::Null);
    }
}
