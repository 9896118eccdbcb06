//! One line for each request or connection: Istio's default text format, or its JSON keys.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

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
        let upstream_time = self
            .upstream_time
            .map_or_else(|| "-".to_owned(), |time| time.as_millis().to_string());
        // Writing to a String cannot fail.
        let _infallible = write!(
            out,
            "[{}] \"{} {} {}\" {} {} {} - \"{}\" {} {} {} {} \"{}\" \"{}\" \"{}\" \"{}\" \"{}\" {} {} {} {} {} {}",
            timestamp(self.start),
            dash(&clean(&self.method)),
            dash(&clean(&self.path)),
            dash(self.protocol),
            self.code,
            self.flag.name(),
            dash(&self.details()),
            dash(&clean(&self.upstream_failure)),
            self.received,
            self.sent,
            self.duration.as_millis(),
            upstream_time,
            dash(&clean(&self.forwarded_for)),
            dash(&clean(&self.user_agent)),
            dash(&clean(&self.request_id)),
            dash(&clean(&self.authority)),
            dash(&self.upstream_host),
            dash(&self.upstream_cluster),
            dash(&self.upstream_local),
            dash(&self.downstream_local),
            dash(&self.downstream_remote),
            dash(&clean(&self.server_name)),
            dash(&clean(&self.route)),
        );
    }

    fn write_json(&self, out: &mut String) {
        let text = |value: &str| {
            if value.is_empty() {
                Value::Null
            } else {
                Value::from(value)
            }
        };
        let millis =
            |time: Duration| Value::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let fields = [
            ("start_time", Value::from(timestamp(self.start))),
            ("route_name", text(&self.route)),
            ("method", text(&self.method)),
            ("path", text(&self.path)),
            ("protocol", text(self.protocol)),
            ("response_code", Value::from(self.code)),
            ("response_flags", Value::from(self.flag.name())),
            ("response_code_details", text(&self.details())),
            ("connection_termination_details", Value::Null),
            ("bytes_received", Value::from(self.received)),
            ("bytes_sent", Value::from(self.sent)),
            ("duration", millis(self.duration)),
            (
                "upstream_service_time",
                self.upstream_time.map_or(Value::Null, millis),
            ),
            ("x_forwarded_for", text(&self.forwarded_for)),
            ("user_agent", text(&self.user_agent)),
            ("request_id", text(&self.request_id)),
            ("authority", text(&self.authority)),
            ("upstream_host", text(&self.upstream_host)),
            ("upstream_cluster", text(&self.upstream_cluster)),
            ("upstream_local_address", text(&self.upstream_local)),
            ("downstream_local_address", text(&self.downstream_local)),
            ("downstream_remote_address", text(&self.downstream_remote)),
            ("requested_server_name", text(&self.server_name)),
            (
                "upstream_transport_failure_reason",
                text(&self.upstream_failure),
            ),
        ];
        let object: Map<String, Value> = fields
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        out.push_str(&Value::Object(object).to_string());
    }
}

pub(super) fn found<'r>(fields: &'r [(String, String)], name: &str) -> Option<&'r str> {
    let mut fields = fields.iter();
    let (_, value) = fields.find(|(known, _)| known == name)?;
    Some(value)
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// What a caller sent must not break out of its quotes or its line.
pub(super) fn clean(text: &str) -> std::borrow::Cow<'_, str> {
    let harmless = |c: char| !c.is_control() && c != '"';
    if text.chars().all(harmless) {
        text.into()
    } else {
        text.chars()
            .map(|c| if harmless(c) { c } else { '_' })
            .collect::<String>()
            .into()
    }
}

/// `2026-11-21T02:03:04.567Z`.
pub(super) fn timestamp(millis: UnixMillis) -> String {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .map_or_else(|| "-".to_owned(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
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
    fn json_has_istios_keys() {
        let mut out = String::new();
        record().write(LogFormat::Json, &mut out);
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["response_code"], 200);
        assert_eq!(value["path"], "/a\"\nb");
        assert_eq!(value["upstream_service_time"], Value::Null);
    }
}
