//! The `extensionProviders` of a MeshConfig that get spans: OpenTelemetry's collectors and Zipkin's.

use std::collections::BTreeMap;

use super::header_edits::header_name;
use crate::mesh::tracing::{SpanFormat, SpanSink, TIMEOUT};
use crate::resource::reader::{Fields, Value};
use crate::resource::tree::Tree;

/// Somebody who gets spans.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanProvider {
    /// `[NAMESPACE/]HOST`, as it is written.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// In what words; without its cluster.
    pub sink: SpanSink,
    /// Longest path in a tag, in bytes, where it says.
    pub max_path: Option<u32>,
}

/// By name.
pub(super) type SpanProviders = BTreeMap<String, SpanProvider>;

/// Reads them. Names, and what is written twice, are for whoever reads the other providers.
pub(super) fn span_providers(fields: &Fields<'_>) -> SpanProviders {
    let entries = fields.list("extensionProviders");
    let read = entries.iter().filter_map(|entry| {
        let name = entry.tree.get("name").and_then(Tree::text)?;
        let entry = entry.fields();
        let provider = match (entry.get("opentelemetry"), entry.get("zipkin")) {
            (Some(value), _) => opentelemetry(&value),
            (None, Some(value)) => zipkin(&value),
            (None, None) => None,
        };
        Some((name.to_owned(), provider?))
    });
    read.collect()
}

/// `service` and `port` of a provider, such as `example`.
pub(super) fn service(fields: &Fields<'_>, example: &str) -> (Option<String>, Option<u16>) {
    let service = fields.require("service").and_then(|value| {
        let text = value.text()?;
        let host = text.split_once('/').map_or(text.as_str(), |(_, host)| host);
        if host.is_empty() || host.contains(['*', '/']) {
            value.error_hint(
                format!("{text:?} is not a service"),
                format!("NAMESPACE/HOST, such as {example}"),
            );
            return None;
        }
        Some(text)
    });
    (
        service,
        fields.require("port").and_then(|value| value.port()),
    )
}

/// Service, port, and the longest path.
fn common(fields: &Fields<'_>) -> (Option<String>, Option<u16>, Option<u32>) {
    let (service, port) = service(
        fields,
        "observability/collector.observability.svc.cluster.local",
    );
    let longest = fields
        .get("maxTagLength")
        .and_then(|value| value.count(u32::MAX));
    (service, port, longest.filter(|most| *most > 0))
}

fn opentelemetry(value: &Value<'_>) -> Option<SpanProvider> {
    let fields = value.fields();
    let (service, port, max_path) = common(&fields);
    fields.ignore(
        "resourceDetectors",
        "remove it: spans say which workload and pod made them",
    );
    fields.ignore(
        "serviceAttributeEnrichment",
        "remove it: service.name is the canonical service and its namespace",
    );
    fields.ignore(
        "dynatraceSampler",
        "randomSamplingPercentage of a Telemetry",
    );
    let mut sink = SpanSink::default();
    let http = fields.get("http");
    let grpc = fields.get("grpc");
    if let (Some(_), Some(second)) = (&http, &grpc) {
        second.error_hint("spans are sent in one way", "remove http or grpc");
    }
    if let Some(value) = &http {
        let fields = value.fields();
        sink.speaks = SpanFormat::OtlpHttp;
        sink.path = path(&fields, "/v1/traces");
        sink.timeout = timeout(&fields);
        sink.headers = headers(&fields, "headers");
        fields.finish();
    }
    if let Some(value) = &grpc {
        let fields = value.fields();
        sink.timeout = timeout(&fields);
        sink.headers = headers(&fields, "initialMetadata");
        fields.finish();
    }
    fields.finish();
    Some(SpanProvider {
        service: service?,
        port: port?,
        sink,
        max_path,
    })
}

fn zipkin(value: &Value<'_>) -> Option<SpanProvider> {
    let fields = value.fields();
    let (service, port, max_path) = common(&fields);
    let w3c = fields.get("traceContextOption").and_then(|value| {
        value.choice(&[("USE_B3", false), ("USE_B3_WITH_W3C_PROPAGATION", true)])
    });
    let narrow = fields.boolean("enable64bitTraceId").unwrap_or_default();
    let sink = SpanSink {
        speaks: SpanFormat::Zipkin {
            w3c: w3c.unwrap_or_default(),
            wide: !narrow,
        },
        path: path(&fields, "/api/v2/spans"),
        timeout: timeout(&fields),
        headers: headers(&fields, "headers"),
        ..SpanSink::default()
    };
    fields.finish();
    Some(SpanProvider {
        service: service?,
        port: port?,
        sink,
        max_path,
    })
}

fn path(fields: &Fields<'_>, usual: &str) -> String {
    let written = fields.get("path").and_then(|value| {
        let text = value.text()?;
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
        if text.starts_with('/') && text.bytes().all(fits) {
            return Some(text);
        }
        value.error_hint(format!("{text:?} is not a path"), format!("path: {usual}"));
        None
    });
    written.unwrap_or_else(|| usual.to_owned())
}

fn timeout(fields: &Fields<'_>) -> std::time::Duration {
    let written = fields.get("timeout").and_then(|value| {
        let timeout = value.duration()?;
        if timeout.is_zero() {
            value.error_hint("nobody answers in no time", "timeout: 5s");
        }
        Some(timeout)
    });
    written.unwrap_or(TIMEOUT)
}

fn headers(fields: &Fields<'_>, field: &'static str) -> Vec<(String, String)> {
    let read = |value: &Value<'_>| {
        let fields = value.fields();
        let name = fields.require("name");
        let text = fields.get("value").and_then(|value| {
            let text = value.text()?;
            let fits = text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() || byte == b' ');
            if !fits {
                value.error("the value of a header is plain text on one line");
            }
            fits.then_some(text)
        });
        if let Some(variable) = fields.get("envName") {
            variable.refuse(
                "headers of providers do not come from variables",
                "value: …",
            );
        }
        fields.finish();
        let name = name?;
        Some((header_name(&name, &name.text()?)?, text?))
    };
    fields.list(field).iter().filter_map(read).collect()
}
