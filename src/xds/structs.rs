//! Reading and writing `google.protobuf.Struct`, in which metadata is carried.

use std::time::Duration;

use super::pb::{ListValue, Struct, Value, core, value::Kind};

/// Metadata that Istio's proxies know.
pub(crate) const ISTIO: &str = "istio";
/// Metadata that only ours know.
pub(crate) const MESHCTL: &str = "meshctl";
/// Metadata that Envoy chooses a transport socket by.
pub(crate) const SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// Who writes into metadata which policy held of rules that are only counted.
pub(crate) const NOTED_BY: &str = "envoy.filters.http.rbac";
/// The same where bytes are carried.
pub(crate) const NOTED_OF_BYTES_BY: &str = "envoy.filters.network.rbac";
/// The end of the key under which that is written; before it stands the prefix of those rules.
pub(crate) const NOTED_POLICY: &str = "shadow_effective_policy_id";

/// What [`MESHCTL`] metadata of a cluster says about ejection by mean response time.
pub(crate) const RESPONSE_TIME: &str = "outlierResponseTime";

/// What [`MESHCTL`] metadata of a route says of the least wait before another try.
pub(crate) const RETRY_MIN_INTERVAL: &str = "retryMinInterval";

/// What [`MESHCTL`] metadata of a route says of how answers to copies are compared, as JSON.
pub(crate) const COMPARE: &str = "compare";

/// Key and expression of the caller's proven identity, among the values of a rate limit.
pub(crate) const SOURCE_PRINCIPAL: (&str, &str) =
    ("source_principal", "connection.uri_san_peer_certificate");
/// The same for its namespace. Envoy needs its string functions for this one.
pub(crate) const SOURCE_NAMESPACE: (&str, &str) = (
    "source_namespace",
    "connection.uri_san_peer_certificate.split('/')[4]",
);

pub(crate) fn text(text: impl Into<String>) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.into())),
    }
}

pub(crate) fn number(number: u32) -> Value {
    Value {
        kind: Some(Kind::NumberValue(f64::from(number))),
    }
}

/// Protobuf's own text for durations.
pub(crate) fn span(span: Duration) -> Value {
    text(format!("{}.{:09}s", span.as_secs(), span.subsec_nanos()))
}

pub(crate) fn boolean(value: bool) -> Value {
    Value {
        kind: Some(Kind::BoolValue(value)),
    }
}

pub(crate) fn list(values: Vec<Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    }
}

pub(crate) fn nested(fields: Struct) -> Value {
    Value {
        kind: Some(Kind::StructValue(fields)),
    }
}

pub(crate) fn object<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Struct {
    Struct {
        fields: fields
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect(),
    }
}

/// Metadata of those of `parts` that say something; `None` when none does.
pub(crate) fn metadata<const N: usize>(parts: [(&str, Struct); N]) -> Option<core::Metadata> {
    let filter_metadata: std::collections::BTreeMap<_, _> = parts
        .into_iter()
        .filter(|(_, part)| !part.fields.is_empty())
        .map(|(key, part)| (key.to_owned(), part))
        .collect();
    (!filter_metadata.is_empty()).then(|| core::Metadata {
        filter_metadata: filter_metadata.into_iter().collect(),
        ..Default::default()
    })
}

/// The part of `metadata` under `key`.
pub(crate) fn part<'a>(metadata: Option<&'a core::Metadata>, key: &str) -> Option<&'a Struct> {
    metadata?.filter_metadata.get(key)
}

pub(crate) fn as_text(fields: &Struct, key: &str) -> Option<String> {
    match fields.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

/// Whole numbers, also when written as text.
pub(crate) fn as_number(fields: &Struct, key: &str) -> Option<u32> {
    match fields.fields.get(key)?.kind.as_ref()? {
        Kind::NumberValue(number) => number.to_string().parse().ok(),
        Kind::StringValue(text) => text.parse().ok(),
        _ => None,
    }
}

/// Seconds with up to nine decimals and an `s`.
pub(crate) fn as_span(fields: &Struct, key: &str) -> Option<Duration> {
    let text = as_text(fields, key)?;
    let (seconds, fraction) = match text.strip_suffix('s')?.split_once('.') {
        Some((seconds, fraction)) => (seconds.to_owned(), fraction.to_owned()),
        None => (text.strip_suffix('s')?.to_owned(), String::new()),
    };
    let nanos = format!("{fraction:0<9}");
    (nanos.len() == 9).then_some(())?;
    Some(Duration::new(seconds.parse().ok()?, nanos.parse().ok()?))
}

/// Also when written as text.
pub(crate) fn as_bool(fields: &Struct, key: &str) -> Option<bool> {
    match fields.fields.get(key)?.kind.as_ref()? {
        Kind::BoolValue(value) => Some(*value),
        Kind::StringValue(text) => text.parse().ok(),
        _ => None,
    }
}

pub(crate) fn as_object<'a>(fields: &'a Struct, key: &str) -> Option<&'a Struct> {
    as_struct(fields.fields.get(key)?)
}

pub(crate) fn as_struct(value: &Value) -> Option<&Struct> {
    match value.kind.as_ref()? {
        Kind::StructValue(fields) => Some(fields),
        _ => None,
    }
}

pub(crate) fn as_list<'a>(fields: &'a Struct, key: &str) -> Option<&'a [Value]> {
    match fields.fields.get(key)?.kind.as_ref()? {
        Kind::ListValue(list) => Some(&list.values),
        _ => None,
    }
}

/// Where Envoy keeps what a verified token says.
pub(crate) const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";

/// A pattern for any text.
pub(crate) const ANY: &str = ".*";
