//! `flagger.app/v1beta1`, Canary.

use std::time::Duration;

use crate::mesh::rollout::{Hook, HookKind, Metric, Of, Spec, Stage, Strategy};
use crate::resource::policy::{Canary, finish, millis};
use crate::resource::reader::{Fields, Value};

const ROUTES: &str = "write it in a VirtualService, where it stays as it is while weights move";
const SERVICES: &str =
    "no Services are made: the one that is named stays, and versions are told apart by their label";
const SCALING: &str = "pods are not scaled: each version keeps its own Deployment and autoscaler";
const QUERIES: &str = "the mesh measures by itself: request-success-rate and request-duration, or a Canary of policy.meshctl.dev with p50, p95, p99 and rates";

pub(in crate::resource) fn canary(fields: &Fields<'_>) -> Canary {
    let mut canary = Canary::default();
    let Some(value) = fields.require("spec") else {
        return canary;
    };
    let fields = value.fields();
    if let Some(target) = fields.require("targetRef") {
        (canary.workload_kind, canary.workload) = target_of(&target);
    }
    canary.suspended = fields.boolean("suspend").unwrap_or_default();
    let mut spec = Spec {
        // Flagger's defaults.
        interval_ms: 60_000,
        max_failures: 1,
        metrics: Vec::new(),
        ..Spec::default()
    };
    if let Some(value) = fields.get("progressDeadlineSeconds") {
        let seconds = value
            .integer(1, 2_592_000)
            .and_then(|seconds| u64::try_from(seconds).ok());
        spec.patience_ms = seconds.unwrap_or_default().saturating_mul(1_000);
    }
    fields.ignore("provider", "weights are this mesh's own");
    fields.ignore("metricsServer", QUERIES);
    fields.ignore(
        "revertOnDeletion",
        "a rollout whose object is deleted is aborted, always",
    );
    fields.refuse("skipAnalysis", "shift at once with `meshctl canary set`");
    fields.refuse("autoscalerRef", SCALING);
    fields.refuse("ingressRef", ROUTES);
    fields.refuse("routeRef", ROUTES);
    fields.refuse("upstreamRef", ROUTES);
    canary.service = match fields.require("service") {
        Some(service) => service_of(&service),
        None => String::new(),
    };
    if canary.service.is_empty() {
        canary.service.clone_from(&canary.workload);
    }
    if let Some(analysis) = fields.require("analysis") {
        analysis_of(&analysis, &mut spec);
    }
    fields.finish();
    finish(&value, &mut canary, spec);
    canary
}

/// What the target is, and its name.
fn target_of(value: &Value<'_>) -> (String, String) {
    const KINDS: [(&str, &str); 2] = [("Deployment", "Deployment"), ("DaemonSet", "DaemonSet")];
    let fields = value.fields();
    let version = fields.text("apiVersion").unwrap_or_default();
    let kind = fields.require("kind").and_then(|kind| kind.choice(&KINDS));
    let name = fields.require("name").and_then(|name| name.text());
    fields.finish();
    let kind = format!("{version} {}", kind.unwrap_or_default());
    (kind.trim().to_owned(), name.unwrap_or_default())
}

fn service_of(value: &Value<'_>) -> String {
    let fields = value.fields();
    for name in [
        "port",
        "portName",
        "targetPort",
        "appProtocol",
        "portDiscovery",
        "headless",
        "trafficDistribution",
        "apex",
        "primary",
        "canary",
        "unmanagedMetadata",
    ] {
        fields.ignore(name, SERVICES);
    }
    for name in [
        "timeout",
        "backendTimeout",
        "gateways",
        "gatewayRefs",
        "hosts",
        "match",
        "rewrite",
        "retries",
        "headers",
        "mirror",
        "corsPolicy",
        "trafficPolicy",
        "backends",
        "meshName",
        "delegation",
    ] {
        fields.refuse(name, ROUTES);
    }
    let name = fields.text("name");
    fields.finish();
    name.unwrap_or_default()
}

fn analysis_of(value: &Value<'_>, spec: &mut Spec) {
    let fields = value.fields();
    let whole = |name: &'static str, low: i64, high: i64| {
        let found = fields.get(name)?.integer(low, high)?;
        u32::try_from(found).ok()
    };
    if let Some(interval) = fields.duration("interval") {
        // Flagger raises what is shorter, too.
        spec.interval_ms = millis(interval.max(Duration::from_secs(10)));
    }
    if let Some(threshold) = whole("threshold", 0, i64::from(u32::MAX)) {
        spec.max_failures = threshold.max(1);
    }
    let iterations = whole("iterations", 0, 10_000).unwrap_or(0);
    let most = whole("maxWeight", 1, 100).unwrap_or(100);
    let size = whole("stepWeight", 1, 100);
    let list: Vec<u32> = fields
        .list("stepWeights")
        .iter()
        .filter_map(|weight| u32::try_from(weight.integer(1, 100)?).ok())
        .collect();
    for condition in fields.list("match") {
        matched(&condition, spec);
    }
    let plain = |weight: u32| Stage {
        weight,
        ..Stage::default()
    };
    let mirror = fields.boolean("mirror").unwrap_or_default();
    spec.steps = if iterations > 0 {
        spec.strategy = Strategy::AbTest;
        spec.bake_ms = spec.interval_ms.saturating_mul(u64::from(iterations));
        if spec.matches.is_empty() && !mirror {
            value.refuse(
                "iterations without match and without mirror give the canary no requests to be judged by",
                "write match, mirror: true, or stepWeight",
            );
            spec.matches.push("header:x-canary=always".to_owned());
        }
        if spec.matches.is_empty() {
            Vec::new()
        } else {
            vec![plain(0)]
        }
    } else if list.is_empty() {
        let steps = Spec::by_size(size.unwrap_or(10)).into_iter();
        let mut steps: Vec<Stage> = steps.filter(|stage| stage.weight < most).collect();
        steps.push(plain(most));
        steps
    } else {
        list.into_iter().map(plain).collect()
    };
    if mirror {
        spec.steps.insert(
            0,
            Stage {
                mirror: true,
                ..Stage::default()
            },
        );
    }
    fields.refuse(
        "stepWeightPromotion",
        "promotion gives the canary everything at once",
    );
    if let Some(weight) = whole("mirrorWeight", 1, 100) {
        if mirror {
            spec.mirror_percent = Some(weight);
        } else {
            fields.ignore("mirrorWeight", "nothing is mirrored without mirror: true");
        }
    }
    fields.ignore(
        "primaryReadyThreshold",
        "one instance that is ready is enough",
    );
    fields.ignore(
        "canaryReadyThreshold",
        "one instance that is ready is enough",
    );
    fields.ignore("alerts", "write a webhook of type event");
    if let Some(affinity) = fields.get("sessionAffinity") {
        let fields = affinity.fields();
        spec.affinity = fields.require("cookieName").and_then(|name| name.text());
        for name in [
            "primaryCookieName",
            "maxAge",
            "domain",
            "path",
            "httpOnly",
            "secure",
            "sameSite",
            "partitioned",
        ] {
            fields.ignore(name, "the cookie is for all paths, HttpOnly, SameSite=Lax, and lives for a day; it keeps callers of both versions");
        }
        fields.finish();
    }
    spec.metrics = fields.list("metrics").iter().filter_map(metric).collect();
    if spec.metrics.is_empty() {
        spec.metrics = Spec::default().metrics;
    }
    spec.hooks = fields.list("webhooks").iter().filter_map(hook).collect();
    fields.finish();
}

/// Exact headers; all else has no counterpart.
fn matched(value: &Value<'_>, spec: &mut Spec) {
    let fields = value.fields();
    if let Some(headers) = fields.get("headers") {
        for (name, value) in headers.entries() {
            let forms = value.fields();
            if let Some(exact) = forms.text("exact") {
                spec.matches.push(format!("header:{name}={exact}"));
            }
            for form in ["prefix", "suffix", "regex"] {
                forms.refuse(
                    form,
                    "write exact, or a rule of your own in a VirtualService",
                );
            }
            forms.finish();
        }
    }
    fields.refuse("queryParams", "write headers");
    fields.refuse("sourceLabels", "write headers");
    fields.finish();
}

fn metric(value: &Value<'_>) -> Option<Metric> {
    let fields = value.fields();
    let name = fields.require("name").and_then(|name| name.text());
    fields.refuse("query", QUERIES);
    fields.refuse("templateRef", QUERIES);
    fields.refuse("templateVariables", QUERIES);
    fields.ignore("interval", "all requests of a step count");
    let of = match name.as_deref() {
        Some("request-success-rate") => Some(Of::Success),
        Some("request-duration") => Some(Of::Quantile(990)),
        Some(_) => {
            value.refuse(
                "only request-success-rate and request-duration are measured",
                QUERIES,
            );
            None
        }
        None => None,
    };
    let floor = of.as_ref().is_none_or(Of::is_floor);
    let number = |value: Value<'_>| {
        let read = value.number();
        if read.is_none() {
            value.error("expected a number");
        }
        read
    };
    let mut bound = fields.get("threshold").and_then(number);
    if let Some(range) = fields.get("thresholdRange") {
        let range = range.fields();
        let (used, other) = if floor {
            ("min", "max")
        } else {
            ("max", "min")
        };
        if let Some(found) = range.get(used) {
            bound = number(found);
        }
        range.refuse(other, "a success rate has a least, a duration has a most");
        range.finish();
    }
    fields.finish();
    Some(Metric {
        metric: of?,
        bound,
        compare: bound.is_none(),
    })
}

fn hook(value: &Value<'_>) -> Option<Hook> {
    let fields = value.fields();
    fields.ignore("muteAlert", "there are no alerts");
    fields.refuse(
        "disableTLS",
        "who asks whom it does not know asks nobody: https:// with an authority that is believed, or http://",
    );
    let kind = match fields.get("type") {
        Some(kind) => kind.choice(&HookKind::ALL),
        // Flagger's default.
        None => Some(HookKind::Rollout),
    };
    let hook = Hook {
        name: fields
            .require("name")
            .and_then(|name| name.text())
            .unwrap_or_default(),
        kind: kind.unwrap_or(HookKind::Event),
        url: fields
            .require("url")
            .and_then(|url| url.text())
            .unwrap_or_default(),
        timeout_ms: fields.duration("timeout").map_or(10_000, millis),
        retries: fields.count("retries", 10).unwrap_or_default(),
        metadata: fields.texts("metadata"),
        ca: None,
    };
    fields.finish();
    kind.map(|_| hook)
}
