//! A record written as a format says.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::access_log::format::{Compiled, Node, Piece, Template};
use crate::mesh::access_log::operators::{GrpcForm, Operator, Point, Precision, Show, Time};
use crate::rt::UnixMillis;

use super::access::{clean, found, quote, timestamp};
use super::grpc_status::NAMES;
use super::{AccessRecord, link};

/// What a line says of the proxy itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The machine's name.
    pub hostname: String,
    /// Variables of the proxy's environment.
    pub environment: Arc<BTreeMap<String, String>>,
}

/// What an operator comes to.
enum Said<'r> {
    Nothing,
    Text(Cow<'r, str>),
    /// From a caller or an endpoint: it must not break out of its line.
    Foreign(Cow<'r, str>),
    Figure(u64),
}

impl Compiled {
    /// Appends what `record` comes to, with the end of its line.
    pub fn write(
        &self,
        record: &AccessRecord,
        (place, now): (&Place, UnixMillis),
        out: &mut String,
    ) {
        let writer = Writer { record, place, now };
        match self {
            Self::Text(template) => writer.text(template, out, true),
            Self::Json(node) => {
                writer.json(node, out);
                out.push('\n');
            }
        }
    }
}

pub(super) struct Writer<'w> {
    pub(super) record: &'w AccessRecord,
    pub(super) place: &'w Place,
    pub(super) now: UnixMillis,
}

impl Writer<'_> {
    /// `line`: it is one of its own, where quotes are the format's.
    pub(super) fn text(&self, template: &Template, out: &mut String, line: bool) {
        for piece in &template.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Operator(operator, most) => self.one(operator, *most, out, line),
            }
        }
    }

    pub(super) fn one(
        &self,
        operator: &Operator,
        most: Option<usize>,
        out: &mut String,
        line: bool,
    ) {
        match self.said(operator) {
            Said::Nothing => out.push('-'),
            Said::Foreign(text) if line => out.push_str(&clean(cut(&text, most))),
            Said::Text(text) | Said::Foreign(text) => out.push_str(cut(&text, most)),
            Said::Figure(figure) => {
                let text = figure.to_string();
                out.push_str(cut(&text, most));
            }
        }
    }

    fn json(&self, node: &Node, out: &mut String) {
        match node {
            Node::Value(operator, most) => match self.said(operator) {
                Said::Nothing => out.push_str("null"),
                Said::Text(text) | Said::Foreign(text) => quote(cut(&text, *most), out),
                Said::Figure(figure) => {
                    // Writing into a String cannot fail.
                    let _infallible = write!(out, "{figure}");
                }
            },
            Node::Text(template) => {
                let mut text = String::new();
                self.text(template, &mut text, false);
                quote(&text, out);
            }
            Node::List(list) => {
                out.push('[');
                for (at, node) in list.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    self.json(node, out);
                }
                out.push(']');
            }
            Node::Object(parts) => {
                out.push('{');
                for (at, (name, node)) in parts.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    quote(name, out);
                    out.push(':');
                    self.json(node, out);
                }
                out.push('}');
            }
        }
    }

    fn said(&self, operator: &Operator) -> Said<'_> {
        let record = self.record;
        match operator {
            Operator::StartTime(form) => moment(record.start, form),
            Operator::EmitTime(form) => moment(self.now, form),
            Operator::Request(name, other) => {
                either(name, other.as_ref(), |name| record.request_field(name))
            }
            Operator::Response(name, other) => {
                either(name, other.as_ref(), |name| record.response_field(name))
            }
            Operator::Trailer(name, other) => {
                either(name, other.as_ref(), |name| record.trailer(name))
            }
            Operator::Environment(name) => {
                let value = self.place.environment.get(name);
                value.map_or(Said::Nothing, |value| Said::Text(Cow::Borrowed(value)))
            }
            Operator::Query(name) => {
                let query = record.path.split_once('?').map_or("", |(_, query)| query);
                let found = query
                    .split('&')
                    .find_map(|pair| match pair.split_once('=') {
                        Some((key, value)) => (key == name).then_some(value),
                        None => (pair == name).then_some(""),
                    });
                found.map_or(Said::Nothing, foreign)
            }
            Operator::Path { query: true } => foreign(&record.path),
            Operator::Path { query: false } => {
                foreign(record.path.split('?').next().unwrap_or_default())
            }
            Operator::ResponseCode => Said::Figure(record.code.into()),
            Operator::ResponseCodeDetails => match record.details() {
                details if details.is_empty() => Said::Nothing,
                details => Said::Text(details),
            },
            Operator::ConnectionTerminationDetails => match record.termination() {
                details if details.is_empty() => Said::Nothing,
                details => Said::Text(details),
            },
            Operator::Nothing(_) => Said::Nothing,
            Operator::ResponseFlags => Said::Text(Cow::Borrowed(record.flags())),
            Operator::ResponseFlagsLong => Said::Text(Cow::Borrowed(record.flags_long())),
            Operator::Protocol => own(record.protocol),
            Operator::RouteName => own(&record.route),
            Operator::BytesReceived => Said::Figure(record.received),
            Operator::BytesSent => Said::Figure(record.sent),
            Operator::Duration => millis(Some(record.duration)),
            Operator::RequestDuration => millis(record.request_time),
            Operator::ResponseDuration => millis(record.upstream_time),
            Operator::ResponseTxDuration => millis(self.between(Point::Answered, Point::Ended)),
            Operator::RequestTxDuration => millis(record.sent_time),
            Operator::ConnectedDuration => millis(record.connected_time),
            Operator::Between(from, to, precision) => figure(self.between(*from, *to), *precision),
            Operator::UpstreamHost(show) => address(&record.upstream_host, *show),
            Operator::UpstreamCluster => own(&record.upstream_cluster),
            Operator::UpstreamLocal(show) => address(&record.upstream_local, *show),
            Operator::UpstreamFailure => foreign(&record.upstream_failure),
            Operator::UpstreamAttempts => Said::Figure(record.attempts.into()),
            Operator::DownstreamRemote(show) => address(&record.downstream_remote, *show),
            Operator::DownstreamDirectRemote(show) => address(&record.direct_remote, *show),
            Operator::DownstreamLocal(show) => address(&record.downstream_local, *show),
            Operator::DownstreamTlsVersion => {
                named(record.link.map(|link| link::version_name(link.version)))
            }
            Operator::DownstreamTlsCipher => {
                named(record.link.map(|link| link::cipher_name(link.cipher)))
            }
            Operator::ServerName => foreign(&record.server_name),
            Operator::DownstreamPeerUri => match &record.shown {
                Some(shown) if record.principal.is_empty() => foreign(&shown.uris),
                _ => own(&record.principal),
            },
            Operator::DownstreamLocalUri => {
                let shown = record.own_shown.as_ref();
                shown.map_or(Said::Nothing, |shown| own(&shown.uris))
            }
            Operator::DownstreamLocalClose => {
                // Of a connection that carries bytes it is why the proxy ended it.
                let ended = record.protocol.is_empty() && record.policy.is_empty();
                own(if ended { record.details } else { "" })
            }
            Operator::Certificate { own, detail } => {
                let shown = if *own {
                    &record.own_shown
                } else {
                    &record.shown
                };
                let shown = shown.as_ref();
                shown.map_or(Said::Nothing, |shown| foreign(shown.detail(*detail)))
            }
            Operator::Valid { end, form } => {
                let shown = record.shown.as_ref();
                let at = shown.map(|shown| if *end { shown.ends } else { shown.begins });
                at.map_or(Said::Nothing, |at| moment(at, form))
            }
            Operator::ChainName => own(&record.chain),
            Operator::UpstreamProtocol => own(record.upstream_protocol),
            Operator::UpstreamTlsVersion => {
                let link = record.upstream_link;
                named(link.map(|link| link::version_name(link.version)))
            }
            Operator::UpstreamTlsCipher => {
                let link = record.upstream_link;
                named(link.map(|link| link::cipher_name(link.cipher)))
            }
            Operator::UpstreamPeerUri => own(&record.upstream_principal),
            Operator::UpstreamLocalUri => own(&record.own_principal),
            Operator::Hostname => own(&self.place.hostname),
            Operator::GrpcStatus(form) => record
                .grpc_status
                .map_or(Said::Nothing, |status| grpc(status, *form)),
            Operator::TraceId => match record.trace {
                Some((trace, _)) => Said::Text(Cow::Owned(format!("{trace:032x}"))),
                None => foreign(self.trace().unwrap_or_default()),
            },
            Operator::SpanId => record.trace.map_or(Said::Nothing, |(_, span)| {
                Said::Text(Cow::Owned(format!("{span:016x}")))
            }),
            Operator::UniqueId => Said::Text(Cow::Owned(unique())),
            Operator::StreamId => foreign(&record.request_id),
            Operator::ConnectionId => Said::Figure(record.connection),
            Operator::LogType => Said::Text(Cow::Borrowed(if record.protocol.is_empty() {
                "TcpConnectionEnd"
            } else {
                "DownstreamEnd"
            })),
        }
    }

    /// None where one of both is not known, or comes before the other.
    fn between(&self, from: Point, to: Point) -> Option<Duration> {
        let record = self.record;
        let at = |point| match point {
            Point::Begun => Some(Duration::ZERO),
            Point::Received => record.request_time,
            Point::Connected => record.connected_time,
            Point::Sent => record.sent_time,
            Point::Answered => record.upstream_time,
            Point::Ended => Some(record.duration),
        };
        at(to)?.checked_sub(at(from)?)
    }

    fn trace(&self) -> Option<&str> {
        let parent = found(&self.record.request_headers, "traceparent");
        let parent = parent.and_then(|value| value.split('-').nth(1));
        parent.or_else(|| found(&self.record.request_headers, "x-b3-traceid"))
    }
}

fn either<'r, T: Into<Cow<'r, str>>>(
    name: &str,
    other: Option<&String>,
    get: impl Fn(&str) -> Option<T>,
) -> Said<'r> {
    let value = get(name).or_else(|| other.and_then(|other| get(other)));
    value.map_or(Said::Nothing, |value| Said::Foreign(value.into()))
}

fn own(text: &str) -> Said<'_> {
    if text.is_empty() {
        Said::Nothing
    } else {
        Said::Text(Cow::Borrowed(text))
    }
}

fn named(name: Option<Cow<'static, str>>) -> Said<'static> {
    name.filter(|name| !name.is_empty())
        .map_or(Said::Nothing, Said::Text)
}

fn foreign(text: &str) -> Said<'_> {
    if text.is_empty() {
        Said::Nothing
    } else {
        Said::Foreign(Cow::Borrowed(text))
    }
}

fn millis(time: Option<Duration>) -> Said<'static> {
    figure(time, Precision::Millis)
}

fn figure(time: Option<Duration>, precision: Precision) -> Said<'static> {
    time.map_or(Said::Nothing, |time| {
        let figure = match precision {
            Precision::Millis => time.as_millis(),
            Precision::Micros => time.as_micros(),
            Precision::Nanos => time.as_nanos(),
        };
        Said::Figure(u64::try_from(figure).unwrap_or(u64::MAX))
    })
}

/// A number that nothing else has, as UUIDs of version 4 are written.
fn unique() -> String {
    let number = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let digits = format!("{number:032x}");
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    let parts = [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ];
    parts.join("-")
}

/// `HOST:PORT` or a part of it; brackets are those of IPv6.
fn address(text: &str, show: Show) -> Said<'_> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match show {
        Show::Whole => own(text),
        Show::Host => own(host),
        Show::Port => port.parse().map_or(Said::Nothing, Said::Figure),
    }
}

fn moment(at: UnixMillis, form: &Time) -> Said<'static> {
    let Time::Strftime(format) = form else {
        return Said::Text(Cow::Owned(timestamp(at)));
    };
    let moment = i64::try_from(at).ok();
    let moment = moment.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    // A form that makes no sense is nothing, since a line must not fail.
    let text = moment.and_then(|moment| jiff::fmt::strtime::format(format.as_bytes(), moment).ok());
    text.map_or(Said::Nothing, |text| Said::Text(Cow::Owned(text)))
}

/// The first bytes, as far as they are whole letters.
fn cut(text: &str, most: Option<usize>) -> &str {
    let Some(most) = most.filter(|most| *most < text.len()) else {
        return text;
    };
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

fn grpc(status: u8, form: GrpcForm) -> Said<'static> {
    let name = NAMES.get(usize::from(status));
    match (form, name) {
        (GrpcForm::Number, _) => Said::Figure(status.into()),
        (GrpcForm::Camel, Some((camel, _))) => Said::Text(Cow::Borrowed(camel)),
        (GrpcForm::Snake, Some((_, snake))) => Said::Text(Cow::Borrowed(snake)),
        // Envoy's word for a status that has no name.
        (_, None) => Said::Text(Cow::Owned(status.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mesh::access_log::Format;
    use crate::mesh::access_log::format::Part;
    use crate::mesh::access_log::usual::{ISTIO, istio_json};
    use crate::telemetry::{Flag, LogFormat};

    fn record() -> AccessRecord {
        AccessRecord {
            start: 1_800_000_000_123,
            method: "GET".to_owned(),
            path: "/a/b?token=x&y".to_owned(),
            protocol: "HTTP/1.1",
            code: 503,
            flag: Flag::Uh,
            details: "no_healthy_upstream",
            received: 5,
            sent: 19,
            duration: Duration::from_millis(12),
            upstream_time: Some(Duration::from_millis(7)),
            user_agent: "curl/8 \"x\"\n".to_owned(),
            authority: "shop:9080".to_owned(),
            upstream_host: "[::1]:9080".to_owned(),
            downstream_remote: "127.0.0.1:4711".to_owned(),
            grpc_status: Some(14),
            attempts: 2,
            request_headers: vec![("x-user".to_owned(), "anna".to_owned())],
            response_headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
            response_trailers: vec![("x-cost".to_owned(), "5".to_owned())],
            sent_time: Some(Duration::from_millis(3)),
            upstream_protocol: "HTTP/2",
            trace: Some((1, 255)),
            chain: "web".to_owned(),
            ..AccessRecord::default()
        }
    }

    fn place() -> Place {
        Place {
            hostname: "box".to_owned(),
            environment: Arc::new([("ZONE".to_owned(), "z1".to_owned())].into()),
        }
    }

    fn line(format: &str) -> String {
        written(&Format::Text(format.to_owned()))
    }

    fn written(format: &Format) -> String {
        let mut out = String::new();
        format
            .compile()
            .unwrap()
            .write(&record(), (&place(), 1_800_000_001_000), &mut out);
        out
    }

    #[test]
    fn operators_say_what_envoys_say() {
        for (format, expected) in [
            ("%START_TIME%", "2027-01-15T08:00:00.123Z"),
            (
                "%START_TIME(%s.%3f)% %EMIT_TIME(%H:%M:%S)%",
                "1800000000.123 08:00:01",
            ),
            (
                "%REQ(X-USER)% %REQ(nope)% %REQ(nope?:METHOD)% %REQ(:METHOD):2%",
                "anna - GET GE",
            ),
            (
                "%RESP(Content-Type):4% %RESP(x-envoy-upstream-service-time)%",
                "text 7",
            ),
            (
                "%TRAILER(grpc-status)% %GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%",
                "14 Unavailable UNAVAILABLE 14",
            ),
            (
                "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS%",
                "503 UH NoHealthyUpstream no_healthy_upstream",
            ),
            (
                "%DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_DURATION%",
                "12 7 5 -",
            ),
            (
                "%BYTES_RECEIVED%/%BYTES_SENT% %UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                "5/19 2",
            ),
            (
                "%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%",
                "[::1]:9080 ::1 9080",
            ),
            (
                "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_LOCAL_PORT%",
                "127.0.0.1 4711 -",
            ),
            (
                "%PATH% %PATH(NQ)% %QUERY_PARAM(token)% %QUERY_PARAM(z)%",
                "/a/b?token=x&y /a/b x -",
            ),
            (
                "%HOSTNAME% %ENVIRONMENT(ZONE)% %ENVIRONMENT(NOPE)%",
                "box z1 -",
            ),
            ("%REQ(USER-AGENT)%", "curl/8 _x__"),
            (
                "%UPSTREAM_TLS_CIPHER% %DYNAMIC_METADATA(a:b)% %ACCESS_LOG_TYPE%",
                "- - DownstreamEnd",
            ),
            (
                "%REQUEST_TX_DURATION% %UPSTREAM_PROTOCOL% %SPAN_ID%",
                "3 HTTP/2 00000000000000ff",
            ),
            (
                "%COMMON_DURATION(US_TX_END:US_RX_BEG:us)% %COMMON_DURATION(DS_RX_END:DS_TX_END)%",
                "4000 -",
            ),
            (
                "%TRAILER(x-cost)% %FILTER_CHAIN_NAME% %DOWNSTREAM_PEER_SUBJECT%",
                "5 web -",
            ),
            ("no operators, 100%%", "no operators, 100%"),
        ] {
            assert_eq!(line(format), expected, "{format}");
        }
    }

    #[test]
    fn objects_keep_kinds_and_escape_what_is_not_theirs() {
        let text = |text: &str| Part::Text(text.to_owned());
        let parts = [
            ("took".to_owned(), text("%DURATION%")),
            ("text".to_owned(), text("%DURATION%ms of %REQ(nope)%")),
            ("agent".to_owned(), text("%REQ(USER-AGENT)%")),
            ("none".to_owned(), text("%REQ(nope)%")),
            (
                "list".to_owned(),
                Part::List(vec![text("%RESPONSE_CODE%"), text("x")]),
            ),
            (
                "in".to_owned(),
                Part::Object([("a\"".to_owned(), text("b"))].into()),
            ),
        ];
        assert_eq!(
            written(&Format::Json(parts.into())),
            "{\"agent\":\"curl/8 \\\"x\\\"\\n\",\"in\":{\"a\\\"\":\"b\"},\"list\":[503,\"x\"],\"none\":null,\"text\":\"12ms of -\",\"took\":12}\n"
        );
    }

    #[test]
    fn istios_formats_are_those_that_are_built_in() {
        let mut usual = String::new();
        record().write(LogFormat::Text, &mut usual);
        assert_eq!(line(ISTIO), usual);
        let mut usual = String::new();
        record().write(LogFormat::Json, &mut usual);
        let parsed: serde_json::Value = serde_json::from_str(&usual).unwrap();
        let mut own: serde_json::Value = serde_json::from_str(&written(&istio_json())).unwrap();
        // A field of an answer is a text to Envoy; the form that is built in has a figure.
        assert_eq!(own["upstream_service_time"], "7");
        own["upstream_service_time"] = 7.into();
        assert_eq!(own, parsed);
    }

    proptest! {
        /// Whatever callers send, an object is one line of JSON that says exactly that.
        #[test]
        fn objects_are_json(agent in "\\PC{0,30}|[\\x00-\\x1f\"\\\\]{0,10}") {
            let record = AccessRecord { user_agent: agent.clone(), ..record() };
            let mut out = String::new();
            istio_json().compile().unwrap().write(&record, (&place(), 0), &mut out);
            prop_assert_eq!(out.matches('\n').count(), 1);
            let value: serde_json::Value = serde_json::from_str(&out).unwrap();
            let expected = if agent.is_empty() { serde_json::Value::Null } else { agent.into() };
            prop_assert_eq!(&value["user_agent"], &expected);
        }

        /// And a line of text is one line.
        #[test]
        fn lines_are_lines(path in "\\PC{0,30}|[\\x00-\\x1f\"]{0,10}") {
            let record = AccessRecord { path, ..record() };
            let mut out = String::new();
            Format::Text(ISTIO.to_owned()).compile().unwrap().write(&record, (&place(), 0), &mut out);
            prop_assert_eq!(out.matches('\n').count(), 1);
            prop_assert_eq!(out.matches('"').count(), 14);
        }
    }
}
