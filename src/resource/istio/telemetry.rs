//! Telemetry: what proxies tell of the calls that they carry: spans, access logs, and which of Istio's metrics with which
//! of their labels.

use std::collections::BTreeMap;
use std::time::Duration;

use super::header_edits::header_name;
use super::security_target::targets;
use crate::mesh::expression::Expression;
use crate::mesh::route::Share;
use crate::mesh::tracing::{CustomTag, TagFrom};
use crate::resource::codes;
use crate::resource::policy::Targets;
use crate::resource::reader::{Fields, Value};

/// A Telemetry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Telemetry {
    /// For whom.
    pub targets: Targets,
    /// Spans; what comes later goes over what came before.
    pub tracing: Vec<TracingRule>,
    /// Metrics.
    pub metrics: Vec<MetricsRule>,
    /// Access logs.
    pub access_logging: Vec<AccessLogging>,
}

/// On which side of a call something holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WorkloadMode {
    /// On both.
    #[default]
    Both,
    /// On the caller's, which gateways are too.
    Client,
    /// On that of the application which is called.
    Server,
}

impl WorkloadMode {
    /// Whether something holds on the side of callers (`client`), or on the other.
    pub fn holds(self, client: bool) -> bool {
        match self {
            Self::Both => true,
            Self::Client => client,
            Self::Server => !client,
        }
    }
}

/// One entry of `tracing`. What is not written is `None`, and stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TracingRule {
    /// On which side.
    pub mode: WorkloadMode,
    /// Names of `extensionProviders`; the first counts.
    pub providers: Vec<String>,
    /// Of traces that begin here.
    pub sampling: Option<Share>,
    /// No spans are made, and contexts are passed as they came.
    pub disabled: Option<bool>,
    /// Further tags of each span, by name.
    pub custom_tags: BTreeMap<String, CustomTag>,
    /// Tags `istio.*` are left out where it is false.
    pub istio_tags: Option<bool>,
}

/// One entry of `metrics`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsRule {
    /// Names of `extensionProviders`.
    pub providers: Vec<String>,
    /// What is otherwise than usual.
    pub overrides: Vec<MetricsOverride>,
    /// How often open connections are reported.
    pub interval: Option<Duration>,
}

/// What is otherwise than usual with some metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsOverride {
    /// The metric's name, such as `istio_requests_total`; empty is all of them.
    pub metric: String,
    /// On which side.
    pub mode: WorkloadMode,
    /// It is not reported.
    pub disabled: Option<bool>,
    /// Labels that are removed (`None`), or the expression (CEL) that they come from.
    pub tags: BTreeMap<String, Option<String>>,
}

/// One entry of `accessLogging`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccessLogging {
    /// On which side.
    pub mode: WorkloadMode,
    /// Names of `extensionProviders`.
    pub providers: Vec<String>,
    /// Nothing is logged.
    pub disabled: Option<bool>,
    /// What holds for the calls that are logged.
    pub filter: Option<Expression>,
}

pub(in crate::resource) fn telemetry(fields: &Fields<'_>) -> Telemetry {
    let Some(spec) = fields.get("spec") else {
        return Telemetry::default();
    };
    let spec = spec.fields();
    let telemetry = Telemetry {
        targets: targets(&spec, ("a Telemetry", "telemetry is not changed")),
        tracing: spec.list("tracing").iter().map(tracing).collect(),
        metrics: spec.list("metrics").iter().map(metrics).collect(),
        access_logging: spec.list("accessLogging").iter().map(logging).collect(),
    };
    spec.finish();
    telemetry
}

fn mode(fields: &Fields<'_>) -> WorkloadMode {
    let written = fields.get("mode").and_then(|value| {
        value.choice(&[
            ("CLIENT_AND_SERVER", WorkloadMode::Both),
            ("CLIENT", WorkloadMode::Client),
            ("SERVER", WorkloadMode::Server),
        ])
    });
    written.unwrap_or_default()
}

fn matched(fields: &Fields<'_>) -> WorkloadMode {
    fields
        .get("match")
        .map_or_else(WorkloadMode::default, |value| {
            let fields = value.fields();
            let mode = mode(&fields);
            fields.finish();
            mode
        })
}

fn providers(fields: &Fields<'_>) -> Vec<String> {
    let named = |value: &Value<'_>| {
        let fields = value.fields();
        let name = fields.require("name").and_then(|name| name.text());
        fields.finish();
        name
    };
    fields.list("providers").iter().filter_map(named).collect()
}

fn tracing(value: &Value<'_>) -> TracingRule {
    let fields = value.fields();
    let named = providers(&fields);
    if named.len() > 1
        && let Some(written) = fields.get("providers")
    {
        written.warn(
            codes::IGNORED,
            "spans go to one provider, the first",
            "leave one; a collector passes spans on to others",
        );
    }
    fields.ignore(
        "useRequestIdForTraceSampling",
        "remove it: whether a trace is sampled is told by its own headers",
    );
    fields.ignore(
        "disableContextPropagation",
        "remove it: a trace that is not passed on ends here",
    );
    let tags = fields.get("customTags").map(|value| {
        let entries = value.entries().into_iter();
        let tags = entries.filter_map(|(name, value)| Some((name.to_owned(), tag(name, &value)?)));
        tags.collect()
    });
    let rule = TracingRule {
        mode: matched(&fields),
        providers: named,
        sampling: fields
            .get("randomSamplingPercentage")
            .and_then(|value| value.percent()),
        disabled: fields.boolean("disableSpanReporting"),
        custom_tags: tags.unwrap_or_default(),
        istio_tags: fields.boolean("enableIstioTags"),
    };
    fields.finish();
    rule
}

/// Reads a tag that spans get besides the usual ones.
pub(super) fn tag(name: &str, value: &Value<'_>) -> Option<CustomTag> {
    let fields = value.fields();
    if name.is_empty() {
        value.error("a tag needs a name");
    }
    let written = [
        fields.get("literal"),
        fields.get("environment"),
        fields.get("header"),
        fields.get("formatter"),
    ];
    fields.finish();
    if let Some(second) = written.iter().flatten().nth(1) {
        second.error_hint(
            "a tag has one of literal, environment and header",
            "remove the others",
        );
        return None;
    }
    let [literal, environment, header, formatter] = written;
    if let Some(formatter) = formatter {
        let fields = formatter.fields();
        fields.require("value");
        fields.finish();
        formatter.warn(
            codes::IGNORED,
            "tags are not written by formats yet, so spans are without this one",
            "header: {name: …} for the value of a header",
        );
        return None;
    }
    if let Some(literal) = literal {
        let fields = literal.fields();
        let text = fields.require("value").and_then(|value| value.text());
        fields.finish();
        return Some(CustomTag {
            from: TagFrom::Literal,
            value: text?,
            default: String::new(),
        });
    }
    let (from, source) = match (environment, header) {
        (Some(source), None) => (TagFrom::Environment, source),
        (None, Some(source)) => (TagFrom::Header, source),
        _ => {
            value.error_hint(
                "a tag needs to come from somewhere",
                "literal: {value: …}, environment: {name: …} or header: {name: …}",
            );
            return None;
        }
    };
    let fields = source.fields();
    let name = fields.require("name");
    let default = fields.text("defaultValue").unwrap_or_default();
    fields.finish();
    let name = name?;
    let text = name.text()?;
    Some(CustomTag {
        from,
        value: match from {
            TagFrom::Header => header_name(&name, &text)?,
            TagFrom::Literal | TagFrom::Environment => text,
        },
        default,
    })
}

fn metrics(value: &Value<'_>) -> MetricsRule {
    let fields = value.fields();
    let rule = MetricsRule {
        providers: providers(&fields),
        overrides: fields.list("overrides").iter().map(overridden).collect(),
        interval: fields.duration("reportingInterval"),
    };
    if rule.interval.is_some()
        && let Some(written) = fields.get("reportingInterval")
    {
        written.warn(
            codes::IGNORED,
            "open connections are counted as their bytes move, whatever the interval",
            "remove it",
        );
    }
    let other = rule.providers.iter().find(|name| *name != "prometheus");
    if let (Some(other), Some(written)) = (other, fields.get("providers")) {
        written.warn(
            codes::IGNORED,
            format!(
                "provider {other:?} gets no metrics: those that are scraped are what is changed"
            ),
            "providers: [{name: prometheus}]",
        );
    }
    fields.finish();
    rule
}

/// Istio's words for its metrics, and their names; empty is all of them.
const METRICS: [(&str, &str); 11] = [
    ("ALL_METRICS", ""),
    ("REQUEST_COUNT", "istio_requests_total"),
    ("REQUEST_DURATION", "istio_request_duration_milliseconds"),
    ("REQUEST_SIZE", "istio_request_bytes"),
    ("RESPONSE_SIZE", "istio_response_bytes"),
    (
        "TCP_OPENED_CONNECTIONS",
        "istio_tcp_connections_opened_total",
    ),
    (
        "TCP_CLOSED_CONNECTIONS",
        "istio_tcp_connections_closed_total",
    ),
    ("TCP_SENT_BYTES", "istio_tcp_sent_bytes_total"),
    ("TCP_RECEIVED_BYTES", "istio_tcp_received_bytes_total"),
    ("GRPC_REQUEST_MESSAGES", "istio_request_messages_total"),
    ("GRPC_RESPONSE_MESSAGES", "istio_response_messages_total"),
];

/// Those of them that this proxy does not have.
const MISSING: [&str; 2] = [
    "istio_request_messages_total",
    "istio_response_messages_total",
];

fn overridden(value: &Value<'_>) -> MetricsOverride {
    let fields = value.fields();
    let mut to = MetricsOverride {
        disabled: fields.boolean("disabled"),
        ..MetricsOverride::default()
    };
    if let Some(matches) = fields.get("match") {
        let fields = matches.fields();
        to.mode = mode(&fields);
        let standard = fields.get("metric");
        let custom = fields.get("customMetric");
        fields.finish();
        let said = standard.as_ref().and_then(|value| value.choice(&METRICS));
        said.unwrap_or_default().clone_into(&mut to.metric);
        if let Some(value) = &custom {
            to.metric = value.text().unwrap_or_default();
        }
        let known = METRICS.iter().any(|(_, name)| *name == to.metric);
        if let Some(value) = custom.or(standard)
            && (!known || MISSING.contains(&to.metric.as_str()))
        {
            value.warn(
                codes::IGNORED,
                format!(
                    "proxies do not tell a metric {:?}, so nothing is changed",
                    to.metric
                ),
                "one of Istio's standard metrics, such as REQUEST_COUNT",
            );
        }
    }
    let tags = fields.get("tagOverrides");
    for (name, value) in tags.iter().flat_map(Value::entries) {
        let fields = value.fields();
        let removes = fields
            .get("operation")
            .and_then(|value| value.choice(&[("UPSERT", false), ("REMOVE", true)]));
        let expression = fields.text("value");
        fields.finish();
        let expression = expression.filter(|_| removes != Some(true));
        if removes != Some(true) {
            value.warn(
                codes::IGNORED,
                format!("label {name:?} is not changed: what calls are counted by is worked out before they come, and an expression would be evaluated for each"),
                "operation: REMOVE takes a label away; write it where metrics are scraped (metric_relabel_configs)",
            );
            to.tags
                .insert(name.to_owned(), Some(expression.unwrap_or_default()));
            continue;
        }
        to.tags.insert(name.to_owned(), None);
    }
    fields.finish();
    to
}

fn logging(value: &Value<'_>) -> AccessLogging {
    let fields = value.fields();
    let filter = fields.get("filter").and_then(|value| {
        let fields = value.fields();
        let expression = fields.get("expression").and_then(|value| {
            let text = value.text().filter(|text| !text.trim().is_empty())?;
            let read = Expression::new(&text);
            if let Err(bad) = &read {
                value.error_hint(
                    format!("the expression is not understood {bad}"),
                    "such as \"response.code >= 400 || request.url_path.startsWith('/cart')\"",
                );
            }
            read.ok()
        });
        fields.finish();
        expression
    });
    let rule = AccessLogging {
        mode: matched(&fields),
        providers: providers(&fields),
        disabled: fields.boolean("disabled"),
        filter,
    };
    fields.finish();
    rule
}
