//! DestinationRule.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::client_tls::tls;
use super::load_balancer::load_balancer;
use super::virtual_service::host;
use crate::mesh::Hostname;
use crate::mesh::cluster::{OutlierDetection, RetryBudget};
use crate::mesh::listener::ProxyVersion;
use crate::mesh::world::{ConnectionPool, H2Upgrade, TrafficPolicy};
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};

/// A DestinationRule.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DestinationRule {
    /// As written; a short name is of the rule's own namespace.
    pub host: String,
    /// For every subset that says nothing else.
    pub policy: Box<Policy>,
    /// In order.
    pub subsets: Vec<RuleSubset>,
    /// Labels of the calling workloads that it is for; none: all.
    pub selector: BTreeMap<String, String>,
    /// Namespaces whose callers it is for, as written (`.` is its own, `*` all); empty is all.
    pub export_to: Vec<String>,
}

/// A policy and its exceptions by port.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// For every port that says nothing else.
    pub all: TrafficPolicy,
    /// By port.
    pub ports: BTreeMap<u16, TrafficPolicy>,
}

/// A subset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuleSubset {
    /// Unique in the rule.
    pub name: String,
    /// Labels that a pod must carry.
    pub labels: BTreeMap<String, String>,
    /// What differs.
    pub policy: Policy,
}

pub(in crate::resource) fn destination_rule(fields: &Fields<'_>) -> DestinationRule {
    let Some(spec) = fields.require("spec") else {
        return DestinationRule::default();
    };
    let spec = spec.fields();
    let (selector, export_to) = scope(&spec);
    let written = spec.list("subsets");
    let subsets: Vec<RuleSubset> = written.iter().map(subset).collect();
    for (index, (value, subset)) in written.iter().zip(&subsets).enumerate() {
        let before = subsets.get(..index).unwrap_or_default();
        if before.iter().any(|other| other.name == subset.name) {
            value.error_hint(
                format!("subset {:?} is defined twice", subset.name),
                "give one of them another name",
            );
        }
    }
    let policy = policy(spec.get("trafficPolicy"));
    upgraded(&spec, &policy, written.iter().zip(&subsets));
    let preferring = |policy: &TrafficPolicy| {
        let balancer = policy.load_balancer.as_ref();
        let setting = balancer.and_then(|balancer| balancer.locality.as_ref());
        setting.is_some_and(|own| !(own.failover.is_empty() && own.priority.is_empty()))
    };
    if preferring(&policy.all)
        && policy.all.outlier.is_none()
        && let Some(value) = spec.get("trafficPolicy")
    {
        value.warn(
            codes::IGNORED,
            "without outlierDetection nobody notices that endpoints are ill, so calls never fail over",
            "add outlierDetection: {}",
        );
    }
    let rule = DestinationRule {
        host: spec
            .require("host")
            .and_then(|value| host(&value))
            .unwrap_or_default(),
        policy: Box::new(policy),
        subsets,
        selector,
        export_to,
    };
    spec.finish();
    rule
}

/// A forward proxy is asked in HTTP/1.1, so it cannot be one that is always spoken HTTP/2 to.
fn upgraded<'a, 'v: 'a>(
    spec: &Fields<'_>,
    all: &Policy,
    subsets: impl Iterator<Item = (&'a Value<'v>, &'a RuleSubset)>,
) {
    let always = |policy: &TrafficPolicy| {
        let pool = policy.connection_pool.as_ref();
        pool.is_some_and(|pool| pool.h2_upgrade == H2Upgrade::Always)
    };
    let any = |policy: &Policy| always(&policy.all) || policy.ports.values().any(always);
    let refuse = |value: &Value<'_>| {
        value.refuse(
            "a tunnel is asked for in HTTP/1.1, and h2UpgradePolicy: UPGRADE says HTTP/2",
            "remove h2UpgradePolicy, or write DO_NOT_UPGRADE",
        );
    };
    if let Some(value) = spec.get("trafficPolicy")
        && all.all.tunnel.is_some()
        && any(all)
    {
        refuse(&value);
    }
    for (value, subset) in subsets {
        let own = &subset.policy;
        let said = own.all.tunnel.is_some() || any(own);
        let tunnel = own.all.tunnel.is_some() || all.all.tunnel.is_some();
        let inherits = own.all.connection_pool.is_none() && any(all);
        if said && tunnel && (any(own) || inherits) {
            refuse(value);
        }
    }
}

/// For whose calls it is.
fn scope(spec: &Fields<'_>) -> (BTreeMap<String, String>, Vec<String>) {
    let value = spec.get("workloadSelector");
    let export_to = export_to(spec, value.is_some());
    let Some(value) = value else {
        return (BTreeMap::new(), export_to);
    };
    let fields = value.fields();
    let labels = fields.texts("matchLabels");
    fields.finish();
    // Even one that chooses all chooses among those of its namespace.
    (labels, vec![".".to_owned()])
}

/// Istio's own rules of what can be exported.
fn export_to(spec: &Fields<'_>, selects: bool) -> Vec<String> {
    let Some(value) = spec.get("exportTo") else {
        return Vec::new();
    };
    let written: Vec<String> = value.list().iter().filter_map(Value::text).collect();
    let others = written.iter().any(|to| to != ".");
    if written.iter().any(|to| to == "~") {
        value.error_hint(
            "a DestinationRule for nobody has no effect",
            "name a namespace, \".\" for its own, or \"*\" for all",
        );
    } else if selects && others {
        value.error_hint(
            "a rule with a workloadSelector is for workloads of its own namespace",
            "write exportTo: [\".\"], or remove it",
        );
    } else if written.len() > 1 && written.iter().any(|to| to == "*") {
        value.error_hint("\"*\" is every namespace already", "remove the others");
    }
    written
}

fn subset(value: &Value<'_>) -> RuleSubset {
    let fields = value.fields();
    let name = fields.require("name").and_then(|value| {
        let name = value.text()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(plain) {
            value.error_hint(
                format!("{name:?} is not a name of a subset"),
                "letters, digits, '-', '_' and '.', such as v1",
            );
        }
        Some(name)
    });
    let subset = RuleSubset {
        name: name.unwrap_or_default(),
        labels: fields.texts("labels"),
        policy: policy(fields.get("trafficPolicy")),
    };
    fields.finish();
    subset
}

fn policy(value: Option<Value<'_>>) -> Policy {
    let Some(value) = value else {
        return Policy::default();
    };
    let fields = value.fields();
    let all = TrafficPolicy {
        tunnel: fields.get("tunnel").and_then(|value| tunnel(&value)),
        proxy_protocol: fields
            .get("proxyProtocol")
            .and_then(|value| proxy_protocol(&value)),
        retry_budget: fields.get("retryBudget").map(|value| retry_budget(&value)),
        ..groups(&fields, codes::UNVERIFIED_DESTINATION)
    };
    let mut ports = BTreeMap::new();
    for item in fields.list("portLevelSettings") {
        let fields = item.fields();
        let number = fields.require("port").and_then(|value| {
            let fields = value.fields();
            let number = fields.require("number").and_then(|value| value.port());
            fields.finish();
            number
        });
        let policy = groups(&fields, codes::UNVERIFIED_PORT);
        fields.finish();
        if let Some(number) = number
            && ports.insert(number, policy).is_some()
        {
            item.error_hint(
                format!("settings of port {number} are written twice"),
                "remove one of them",
            );
        }
    }
    fields.finish();
    Policy { all, ports }
}

/// Host and port, as a forward proxy is asked for them.
fn tunnel(value: &Value<'_>) -> Option<Arc<str>> {
    let fields = value.fields();
    if let Some(value) = fields.get("protocol")
        && value.choice(&[("CONNECT", false), ("POST", true)]) == Some(true)
    {
        value.refuse(
            "bytes are not carried in requests of POST",
            "write protocol: CONNECT, which forward proxies speak, or remove it",
        );
    }
    let host = fields.require("targetHost").and_then(|value| {
        let host = value.text()?;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(match address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            });
        }
        let name = host.parse::<Hostname>();
        if name.is_ok_and(|name| !name.as_str().starts_with('*')) {
            return Some(host.trim_end_matches('.').to_owned());
        }
        value.error_hint(
            format!("{host:?} is neither a name nor an address"),
            "whom the forward proxy is to connect to, such as www.example.com",
        );
        None
    });
    let port = fields.require("targetPort").and_then(|value| value.port());
    fields.finish();
    Some(format!("{}:{}", host?, port?).into())
}

fn proxy_protocol(value: &Value<'_>) -> Option<ProxyVersion> {
    let fields = value.fields();
    let version = fields.get("version");
    let version = version.map_or(Some(ProxyVersion::V1), |value| {
        value.choice(&[("V1", ProxyVersion::V1), ("V2", ProxyVersion::V2)])
    });
    fields.finish();
    version
}

fn retry_budget(value: &Value<'_>) -> RetryBudget {
    let fields = value.fields();
    let mut budget = RetryBudget::default();
    if let Some(value) = fields.get("percent")
        && let Some(percent) = value.thousandths()
    {
        if percent > 100_000 {
            value.error("expected at most 100");
        }
        budget.percent_milli = percent;
    }
    if let Some(least) = fields.count("minRetryConcurrency", u32::MAX) {
        budget.min_concurrency = least;
    }
    fields.ignore(
        "budgetInterval",
        "the budget is a share of the requests that are under way",
    );
    fields.finish();
    budget
}

/// `unverified` is the code of `tls` that does not say whom it believes.
fn groups(fields: &Fields<'_>, unverified: &str) -> TrafficPolicy {
    let (outlier, panic_threshold) = fields
        .get("outlierDetection")
        .map(|value| outlier(&value))
        .unzip();
    TrafficPolicy {
        load_balancer: fields
            .get("loadBalancer")
            .and_then(|value| load_balancer(&value))
            .map(Box::new),
        connection_pool: fields
            .get("connectionPool")
            .map(|value| connection_pool(&value)),
        outlier,
        panic_threshold: panic_threshold.flatten(),
        tls: fields.get("tls").and_then(|value| tls(&value, unverified)),
        ..TrafficPolicy::default()
    }
}

pub(super) fn connection_pool(value: &Value<'_>) -> ConnectionPool {
    let fields = value.fields();
    let mut pool = ConnectionPool::default();
    let limit =
        |fields: &Fields<'_>, name: &'static str| fields.count(name, i32::MAX.unsigned_abs());
    if let Some(value) = fields.get("tcp") {
        let fields = value.fields();
        pool.limits.max_connections = limit(&fields, "maxConnections").unwrap_or(u32::MAX);
        pool.connect_timeout = fields.duration("connectTimeout");
        if let Some(value) = fields.get("connectTimeout")
            && pool
                .connect_timeout
                .is_some_and(|timeout| timeout.is_zero())
        {
            value.error("a connection cannot be made in no time");
        }
        for name in ["tcpKeepalive", "maxConnectionDuration", "idleTimeout"] {
            fields.ignore(name, "idle connections are closed after an hour");
        }
        fields.finish();
    }
    if let Some(value) = fields.get("http") {
        let fields = value.fields();
        let limits = &mut pool.limits;
        limits.max_pending_requests = limit(&fields, "http1MaxPendingRequests").unwrap_or(u32::MAX);
        limits.max_requests = limit(&fields, "http2MaxRequests").unwrap_or(u32::MAX);
        limits.max_retries = limit(&fields, "maxRetries").unwrap_or(u32::MAX);
        limits.max_requests_per_connection =
            limit(&fields, "maxRequestsPerConnection").unwrap_or(0);
        pool.h2_upgrade = fields
            .get("h2UpgradePolicy")
            .and_then(|value| {
                value.choice(&[
                    ("DEFAULT", H2Upgrade::Default),
                    ("DO_NOT_UPGRADE", H2Upgrade::Never),
                    ("UPGRADE", H2Upgrade::Always),
                ])
            })
            .unwrap_or_default();
        pool.use_client_protocol = fields.boolean("useClientProtocol").unwrap_or_default();
        for name in ["idleTimeout", "maxConcurrentStreams", "http2KeepAlive"] {
            fields.ignore(name, "the proxy's own default is used");
        }
        fields.finish();
    }
    fields.finish();
    pool
}

/// The policy, and the share of endpoints below which health no longer counts.
pub(super) fn outlier(value: &Value<'_>) -> (OutlierDetection, Option<u32>) {
    let fields = value.fields();
    let mut outlier = OutlierDetection::default();
    if let Some(value) = fields.get("consecutiveErrors") {
        value.warn(
            codes::DEPRECATED,
            "\"consecutiveErrors\" is gone from Istio; read as consecutive5xxErrors",
            "write consecutive5xxErrors",
        );
        outlier.consecutive_5xx = value.count(u32::MAX).unwrap_or(outlier.consecutive_5xx);
    }
    if let Some(count) = fields.count("consecutive5xxErrors", u32::MAX) {
        outlier.consecutive_5xx = count;
    }
    if let Some(count) = fields.count("consecutiveGatewayErrors", u32::MAX) {
        outlier.consecutive_gateway = count;
    }
    for (name, into) in [
        ("interval", &mut outlier.interval),
        ("baseEjectionTime", &mut outlier.base_ejection),
    ] {
        if let Some(value) = fields.get(name)
            && let Some(duration) = value.duration()
        {
            // Istio refuses less than a millisecond.
            if duration.as_millis() == 0 {
                value.error("expected at least 1ms");
            }
            *into = duration;
        }
    }
    if let Some(percent) = fields.count("maxEjectionPercent", 100) {
        outlier.max_ejection_percent = percent;
    }
    outlier.split_external_local_origin_errors = fields
        .boolean("splitExternalLocalOriginErrors")
        .unwrap_or_default();
    if let Some(value) = fields.get("consecutiveLocalOriginFailures") {
        if outlier.split_external_local_origin_errors {
            // Istio leaves Envoy's default in place of a zero.
            if let Some(count @ 1..) = value.count(u32::MAX) {
                outlier.consecutive_local_origin = count;
            }
        } else {
            value.warn(
                codes::IGNORED,
                "consecutiveLocalOriginFailures counts only with splitExternalLocalOriginErrors",
                "write splitExternalLocalOriginErrors: true, or remove it",
            );
        }
    }
    let panic_threshold = fields.count("minHealthPercent", 100);
    fields.ignore(
        "outlierDetectionHttpErrorCodes",
        "consecutive5xxErrors and consecutiveGatewayErrors decide",
    );
    fields.finish();
    (outlier, panic_threshold)
}
