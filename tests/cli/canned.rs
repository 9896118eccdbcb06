//! What the fake control plane answers: bookinfo, as the API's structs.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use meshctl::api::canary::{CanaryReport, CanaryStatus, VersionStatus, VersionWeight};
use meshctl::api::check::{Check, CheckReport, CheckSection, CheckStatus};
use meshctl::api::edges::{EdgeDifference, EdgeRow, EdgeSecurity, EdgesReport, ReportedBy};
use meshctl::api::faults::{FaultStatus, InjectionReport};
use meshctl::api::identity::{
    AuditEntry, AuditEvent, IdentityReport, TokenEntry, TokenReport, TokenState,
};
use meshctl::api::proxies::{ProxySync, Rejection, TypeSync};
use meshctl::api::registry::{EndpointReport, InstanceReport, Lease, PortReport, ServiceReport};
use meshctl::api::resources::{
    ApplyReport, Convergence, HistoryEntry, ObjectOutcome, Outcome, ResourceReport,
};
use meshctl::api::rollouts::{Rollout, RolloutList, RolloutStep};
use meshctl::api::routes::{
    BackendReport, CandidateReport, ExplainReport, Fact, FaultReport, MirrorReport, RouteReport,
    SentReport, SourceReport,
};
use meshctl::api::stats::{StatsReport, StatsRow};
use meshctl::api::{Problem, Reason, Version};
use meshctl::mesh::rollout::{Measure, Phase, StepState, Verdict};
use meshctl::mesh::route::explain::{Condition, RouteTrace};
use meshctl::mesh::{Finding, Health, Instance, Locality, Origin, Severity};
use serde_json::{Value, json};

/// So long ago, in milliseconds since the epoch; the same at every call of a test.
pub(crate) fn ago(seconds: u64) -> u64 {
    static NOW: OnceLock<u64> = OnceLock::new();
    let now = NOW.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::try_from(now.as_millis()).unwrap()
    });
    now - seconds * 1_000
}

/// 5d3h, whatever a test takes.
pub(crate) fn days() -> u64 {
    ago(5 * 86_400 + 3 * 3_600 + 1_800)
}

pub(crate) fn version() -> Version {
    Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: 4_711,
        started_unix_ms: days(),
        revision: 17,
        trust_domain: "cluster.local".to_owned(),
        xds_address: "127.0.0.1:15010".to_owned(),
        tls_address: "127.0.0.1:15012".to_owned(),
        api_address: None,
    }
}

fn service(name: &str, namespace: &str, versions: &[&str], mtls: &str) -> ServiceReport {
    ServiceReport {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        host: format!("{name}.{namespace}.svc.cluster.local"),
        addresses: vec!["240.0.0.7".to_owned()],
        ports: vec![PortReport {
            name: "http".to_owned(),
            port: 9_080,
            target: "http-web".to_owned(),
            protocol: "http".to_owned(),
        }],
        ready: versions
            .len()
            .saturating_sub(usize::from(name == "ratings")),
        instances: versions.len(),
        versions: versions
            .iter()
            .map(|version| ((*version).to_owned(), 1))
            .collect(),
        mtls: mtls.to_owned(),
    }
}

pub(crate) fn services() -> Vec<ServiceReport> {
    vec![
        service("details", "default", &["v1"], "permissive"),
        service("ratings", "default", &["v1", "v2"], "mixed"),
        service("reviews", "default", &["v1", "v2", "v3"], "strict"),
    ]
}

pub(crate) fn endpoints() -> Vec<EndpointReport> {
    [
        ("v1", Health::Healthy, true),
        ("v2", Health::Unhealthy, true),
        ("v3", Health::Draining, false),
    ]
    .into_iter()
    .enumerate()
    .map(|(at, (version, health, mtls))| EndpointReport {
        service: "reviews.default".to_owned(),
        port: 9_080,
        address: format!("127.20.4.{}:9080", at + 2),
        instance: format!("reviews-{version}-5d8f7c9b6-x2x4{at}"),
        version: version.to_owned(),
        health,
        mtls,
        weight: 1,
        ejected_by: Vec::new(),
    })
    .collect()
}

pub(crate) fn instances() -> Vec<InstanceReport> {
    vec![InstanceReport {
        instance: Instance {
            name: "db-1".to_owned(),
            namespace: "default".to_owned(),
            workload: "db".to_owned(),
            service_account: "default".to_owned(),
            labels: [("app".to_owned(), "db".to_owned())].into(),
            locality: Locality::default(),
            address: "10.0.0.7".parse().unwrap(),
            also_at: Vec::new(),
            ports: [].into(),
            port_names: [].into(),
            service_ports: [].into(),
            weight: 1,
            health: Health::Healthy,
            mtls: false,
        },
        seen_unix_ms: days(),
        expires_unix_ms: 0,
    }]
}

pub(crate) fn lease() -> Lease {
    Lease { expires_unix_ms: 0 }
}

fn backend(subset: &str, weight: u32, measured: Option<f64>) -> BackendReport {
    BackendReport {
        cluster: format!("outbound|9080|{subset}|reviews.default.svc.cluster.local"),
        service: "reviews.default".to_owned(),
        subset: subset.to_owned(),
        weight,
        share_percent: f64::from(weight),
        measured_percent: measured,
        ready: 1,
        endpoints: 1,
        invalid: None,
    }
}

pub(crate) fn routes() -> Vec<RouteReport> {
    let route = RouteReport {
        gateway: String::new(),
        service: "reviews.default".to_owned(),
        port: 9_080,
        index: 0,
        name: "jason".to_owned(),
        matches: vec![
            "path under \"/reviews\"".to_owned(),
            "header end-user is \"jason\"".to_owned(),
        ],
        action: "forward".to_owned(),
        backends: vec![backend("v2", 100, None)],
        mirrors: vec![MirrorReport {
            cluster: "outbound|9080|v3|reviews.default.svc.cluster.local".to_owned(),
            service: "reviews.default".to_owned(),
            subset: "v3".to_owned(),
            percent: 12.5,
            invalid: None,
        }],
        faults: vec![FaultReport {
            what: "abort 503".to_owned(),
            percent: 1.0,
        }],
        origins: vec![],
        timeout_ms: Some(500),
        retries: 2,
        origin: "VirtualService default/reviews".to_owned(),
    };
    let split = RouteReport {
        gateway: String::new(),
        index: 1,
        name: String::new(),
        matches: vec![],
        backends: vec![
            backend("v1", 90, Some(89.7)),
            BackendReport {
                ready: 0,
                endpoints: 0,
                invalid: Some("subset v9 is in no DestinationRule".to_owned()),
                ..backend("v9", 10, Some(10.3))
            },
        ],
        mirrors: vec![],
        faults: vec![],
        timeout_ms: None,
        ..route.clone()
    };
    let redirect = RouteReport {
        gateway: String::new(),
        service: "ratings.default".to_owned(),
        action: "redirect 301 https://ratings/".to_owned(),
        backends: vec![],
        mirrors: vec![],
        faults: vec![],
        matches: vec![],
        ..route.clone()
    };
    vec![route, split, redirect]
}

pub(crate) fn explained() -> ExplainReport {
    let condition = |text: &str, holds, found: Option<&str>| Condition {
        text: text.to_owned(),
        holds,
        found: found.map(str::to_owned),
    };
    let origin = |kind: &str, line| Origin {
        kind: kind.to_owned(),
        namespace: "default".to_owned(),
        name: "reviews".to_owned(),
        file: Some("reviews.yaml".into()),
        line,
        column: 5,
    };
    let rule = origin("VirtualService", 12);
    let late = RouteTrace {
        index: 2,
        name: "late".to_owned(),
        conditions: vec![condition(
            "path starts with \"/\"",
            true,
            Some("/reviews/1"),
        )],
        matched: true,
        late: true,
        origin: origin("VirtualService", 30),
    };
    ExplainReport {
        from: "productpage-v1.default".to_owned(),
        table: "9080".to_owned(),
        host: Some("reviews.default.svc.cluster.local:9080".to_owned()),
        routes: vec![
            RouteTrace {
                index: 0,
                name: "jason".to_owned(),
                conditions: vec![
                    condition("path starts with \"/reviews\"", true, Some("/reviews/1")),
                    condition("header end-user is \"jason\"", false, None),
                ],
                matched: false,
                late: false,
                origin: rule.clone(),
            },
            RouteTrace {
                index: 1,
                name: String::new(),
                conditions: vec![],
                matched: true,
                late: false,
                origin: origin("VirtualService", 20),
            },
            late,
        ],
        listener: "virtualOutbound, chain 0.0.0.0_9080".to_owned(),
        outcome: routes().into_iter().nth(1),
        facts: vec![
            Fact::new(
                "service",
                "reviews.default.svc.cluster.local",
                Some(&origin("Service", 1)),
            ),
            Fact::new("timeout", "no limit", Some(&rule)),
            Fact::new(
                "retries",
                "2 after the first try, on connect-failure (Istio's default)",
                None,
            ),
        ],
        steps: vec![
            Fact::new("request headers", "sets x-canary: yes", Some(&rule)),
            Fact::new("path", "/reviews/1 → /v2/1", Some(&rule)),
        ],
        backends: vec![
            vec![Fact::new(
                "subset",
                "v1 (version=v1)",
                Some(&origin("DestinationRule", 0)),
            )],
            vec![],
        ],
        endpoints: vec![
            endpoints()
                .into_iter()
                .map(|endpoint| CandidateReport {
                    endpoint,
                    priority: 0,
                    locality: "eu/eu-1".to_owned(),
                })
                .collect(),
            vec![],
        ],
        sent: Some(SentReport {
            authority: "reviews:9080".to_owned(),
            path: "/v2/1".to_owned(),
        }),
        sources: vec![SourceReport {
            kind: "VirtualService".to_owned(),
            namespace: "default".to_owned(),
            name: "reviews".to_owned(),
            file: Some("reviews.yaml".to_owned()),
            revision: 17,
            generation: None,
        }],
        ..ExplainReport::default()
    }
}

pub(crate) fn unexplained() -> ExplainReport {
    ExplainReport {
        host: None,
        routes: vec![],
        outcome: None,
        facts: vec![],
        steps: vec![],
        backends: vec![],
        endpoints: vec![],
        sent: None,
        sources: vec![],
        answer: Some("404 (NR route_not_found)".to_owned()),
        meant: vec!["reviews.shop".to_owned()],
        ..explained()
    }
}

fn weight(version: &str, weight: u32) -> VersionWeight {
    VersionWeight {
        version: version.to_owned(),
        weight,
        share_percent: f64::from(weight),
        ready: 1,
    }
}

pub(crate) fn convergence(acknowledged: usize) -> Convergence {
    Convergence {
        proxies: 6,
        acknowledged,
        rejected: vec![],
        median_ms: 4.2,
        last_ms: 11.9,
    }
}

pub(crate) fn shifted() -> CanaryReport {
    CanaryReport {
        service: "reviews.default".to_owned(),
        before: vec![weight("v1", 90), weight("v2", 10)],
        after: vec![weight("v1", 50), weight("v3", 50)],
        objects: vec![object("VirtualService", "reviews", Outcome::Configured)],
        revision: 18,
        convergence: convergence(6),
        written: Vec::new(),
    }
}

pub(crate) fn fault() -> FaultStatus {
    FaultStatus {
        service: "reviews.default".to_owned(),
        delay_ms: Some(2_000),
        abort: Some("503".to_owned()),
        percent: 10.0,
        matches: vec!["header:end-user=jason".to_owned()],
        // Far away, so that what is left of it does not depend on today.
        until_unix_ms: 4_000_000_000_000,
    }
}

pub(crate) fn injected(fault: Option<FaultStatus>) -> InjectionReport {
    InjectionReport {
        fault,
        objects: vec![object("FaultInjection", "reviews", Outcome::Created)],
        revision: 19,
        convergence: convergence(6),
        written: Vec::new(),
    }
}

pub(crate) fn canary() -> CanaryStatus {
    CanaryStatus {
        service: "reviews.default".to_owned(),
        versions: vec![
            VersionStatus {
                weight: weight("v1", 90),
                measured_percent: Some(89.7),
                requests_per_second: 180.4,
                success_percent: Some(100.0),
                latency_p99_ms: Some(12.4),
            },
            VersionStatus {
                weight: weight("v3", 10),
                measured_percent: None,
                requests_per_second: 0.0,
                success_percent: None,
                latency_p99_ms: None,
            },
        ],
        origin: "VirtualService default/reviews".to_owned(),
        changed_unix_ms: days(),
    }
}

pub(crate) fn no_rollout() -> Problem {
    Problem::new(Reason::NotFound, "there is no canary of ratings.default")
}

/// One that was rolled back in its second step.
pub(crate) fn rollout() -> Rollout {
    let measure = |metric: &str, unit: &str, value: f64, verdict: Verdict| Measure {
        metric: metric.to_owned(),
        value: Some(value),
        bound: (unit == "%").then_some(99.0),
        bound_is: if unit == "%" { "min" } else { "max" }.to_owned(),
        unit: unit.to_owned(),
        baseline: Some(if unit == "%" { 99.98 } else { 12.4 }),
        verdict,
        requests: 1_204,
        chance: 1.0,
        why: String::new(),
        different: None,
        places: Vec::new(),
    };
    let step = |weight: u32, state: StepState, success: Option<f64>| RolloutStep {
        weight,
        state,
        started_unix_ms: success.map(|_| days()),
        ended_unix_ms: success.map(|_| days() + 30_000),
        measures: success.map_or_else(Vec::new, |success| {
            let verdict = if success < 99.0 {
                Verdict::Fail
            } else {
                Verdict::Pass
            };
            vec![
                measure("success-rate", "%", success, verdict),
                measure("p99", "ms", 13.0, Verdict::Pass),
            ]
        }),
        ..RolloutStep::default()
    };
    Rollout {
        service: "reviews".to_owned(),
        namespace: "default".to_owned(),
        stable: "v1".to_owned(),
        canary: "v3".to_owned(),
        strategy: "weight".to_owned(),
        phase: Phase::RolledBack,
        reason: "success-rate is 95.1 %, below 99 % (1204 requests)".to_owned(),
        step: 2,
        steps: vec![
            step(10, StepState::Passed, Some(99.92)),
            step(50, StepState::Failed, Some(95.1)),
            step(100, StepState::Pending, None),
        ],
        applied: true,
        failures: 2,
        max_failures: 2,
        interval_seconds: 30.0,
        min_requests: 100,
        started_unix_ms: days(),
        updated_unix_ms: days() + 60_000,
        ended_unix_ms: Some(days() + 60_000),
        who: "anna".to_owned(),
        ..Rollout::default()
    }
}

pub(crate) fn rollouts() -> RolloutList {
    RolloutList {
        rollouts: vec![rollout()],
    }
}

fn object(kind: &str, name: &str, outcome: Outcome) -> ObjectOutcome {
    ObjectOutcome {
        kind: kind.to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        outcome,
    }
}

pub(crate) fn finding(severity: Severity, line: u32) -> Finding {
    let origin = Origin {
        kind: "VirtualService".to_owned(),
        namespace: "default".to_owned(),
        name: "reviews".to_owned(),
        file: Some("route.yaml".into()),
        line,
        column: 9,
    };
    Finding::new(
        severity,
        "IST0101",
        &origin,
        "subset v9 is in no DestinationRule",
    )
    .at("spec.http[0].route[1].destination.subset")
    .hint("v1, v2 and v3 are")
}

pub(crate) fn applied() -> ApplyReport {
    ApplyReport {
        revision: 18,
        objects: vec![
            object("VirtualService", "reviews", Outcome::Configured),
            object("DestinationRule", "reviews", Outcome::Created),
            object("Service", "reviews", Outcome::Unchanged),
        ],
        findings: vec![finding(Severity::Warning, 14)],
        convergence: convergence(6),
    }
}

pub(crate) fn deleted() -> ApplyReport {
    ApplyReport {
        objects: vec![object("VirtualService", "reviews", Outcome::Deleted)],
        findings: vec![],
        ..applied()
    }
}

pub(crate) fn resources() -> Vec<ResourceReport> {
    vec![ResourceReport {
        kind: "VirtualService".to_owned(),
        namespace: "default".to_owned(),
        name: "reviews".to_owned(),
        created_unix_ms: days(),
        changed_unix_ms: days(),
        revision: 17,
        object: json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": { "name": "reviews", "namespace": "default" },
            "spec": {
                "hosts": ["reviews"],
                "http": [{ "route": [
                    { "destination": { "host": "reviews", "subset": "v1" }, "weight": 90 },
                    { "destination": { "host": "reviews", "subset": "v3" }, "weight": 10 },
                ]}],
            },
        }),
    }]
}

pub(crate) fn history() -> Vec<HistoryEntry> {
    let entry = |revision, what: &str, objects| HistoryEntry {
        revision,
        at_unix_ms: days(),
        who: "anna".to_owned(),
        what: what.to_owned(),
        objects,
    };
    vec![
        entry(16, "apply", applied().objects),
        entry(
            17,
            "canary set reviews v1=50 v3=50",
            vec![object("VirtualService", "reviews", Outcome::Configured)],
        ),
        entry(
            18,
            "apply",
            vec![object("Service", "ratings", Outcome::Created)],
        ),
    ]
}

pub(crate) fn edges() -> EdgesReport {
    let account = |name: &str| format!("spiffe://cluster.local/ns/default/sa/{name}");
    let mutual = EdgeRow {
        source: "productpage-v1.default".to_owned(),
        destination: "reviews.default".to_owned(),
        destination_workload: "reviews-v1.default".to_owned(),
        protocol: "http".to_owned(),
        client_id: account("productpage"),
        server_id: account("reviews"),
        encrypted: true,
        security: EdgeSecurity::MutualTls,
        tls_version: "TLSv1.3".to_owned(),
        cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
        key_exchange: "X25519MLKEM768".to_owned(),
        reported_by: ReportedBy::Both,
        requests_per_second: 12.5,
        requests: 750,
        connections_opened: 1,
        connections_open: 4,
        ..EdgeRow::default()
    };
    let plain = |source: &str, destination: &str, reason: &str, reported_by| EdgeRow {
        source: source.to_owned(),
        destination: destination.to_owned(),
        protocol: "http".to_owned(),
        reason: reason.to_owned(),
        requests_per_second: 1.0,
        requests: 60,
        connections_open: 1,
        reported_by,
        ..EdgeRow::default()
    };
    EdgesReport {
        window_seconds: 60,
        at_unix_ms: days(),
        edges: vec![
            plain(
                "",
                "productpage.default",
                "permissive",
                ReportedBy::Destination,
            ),
            EdgeRow {
                source: String::new(),
                client_id: account("ops"),
                tls_version: "TLSv1.2".to_owned(),
                cipher: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384".to_owned(),
                key_exchange: "X25519".to_owned(),
                reported_by: ReportedBy::Destination,
                ..mutual.clone()
            },
            mutual.clone(),
            EdgeRow {
                destination: "ratings.default".to_owned(),
                destination_workload: "ratings-v1.default".to_owned(),
                differences: vec![EdgeDifference {
                    key: "keyExchange".to_owned(),
                    source: "X25519MLKEM768".to_owned(),
                    destination: "X25519".to_owned(),
                }],
                ..mutual.clone()
            },
            EdgeRow {
                destination: "db.default".to_owned(),
                destination_workload: "db-v1.default".to_owned(),
                protocol: "tcp".to_owned(),
                requests_per_second: 0.0,
                requests: 0,
                tcp_sent_bytes: 4_200,
                tcp_received_bytes: 2_500_000,
                ..mutual
            },
            plain(
                "reviews-v1.default",
                "PassthroughCluster",
                "passthrough",
                ReportedBy::Source,
            ),
        ],
    }
}

pub(crate) fn stats() -> StatsReport {
    let row = |service: &str, version: &str, rate: f64, success: f64| StatsRow {
        service: service.to_owned(),
        version: version.to_owned(),
        requests_per_second: rate,
        requests: 600,
        success_percent: Some(success),
        latency_p50_ms: Some(0.42),
        latency_p95_ms: Some(4.24),
        latency_p99_ms: Some(42.4),
        mtls_percent: Some(100.0),
        retries: 3,
        ..StatsRow::default()
    };
    StatsReport {
        window_seconds: 60,
        at_unix_ms: days(),
        rows: vec![
            row("reviews.default", "v1", 180.4, 100.0),
            row("reviews.default", "v3", 20.1, 93.5),
            StatsRow {
                service: "details.default".to_owned(),
                version: "v1".to_owned(),
                ..StatsRow::default()
            },
        ],
    }
}

pub(crate) fn check(status: CheckStatus) -> CheckReport {
    CheckReport {
        sections: vec![CheckSection {
            name: "store".to_owned(),
            checks: vec![Check {
                text: "the store takes writes".to_owned(),
                status,
                detail: if status == CheckStatus::Ok {
                    String::new()
                } else {
                    "the disk is full".to_owned()
                },
                hint: (status != CheckStatus::Ok).then(|| "make room".to_owned()),
            }],
        }],
    }
}

pub(crate) fn proxies() -> Vec<ProxySync> {
    let kind = |kind: &str| TypeSync {
        kind: kind.to_owned(),
        resources: 7,
        revision_sent: Some(17),
        revision_acked: 17,
        waiting: false,
        sent_unix_ms: Some(days()),
        acked_unix_ms: Some(days()),
        rejected: None,
    };
    let sync = |name: &str, types| ProxySync {
        proxy: format!("sidecar~127.20.4.2~{name}.default~default.svc.cluster.local"),
        name: name.to_owned(),
        namespace: "default".to_owned(),
        workload: "reviews-v1".to_owned(),
        identity: Some("spiffe://cluster.local/ns/default/sa/reviews".to_owned()),
        client: "meshctl".to_owned(),
        version: "0.1.0".to_owned(),
        protocol: "delta".to_owned(),
        connected_since_unix_ms: days(),
        revision_acked: 17,
        synced: name.starts_with("reviews"),
        types,
    };
    let refused = TypeSync {
        rejected: Some(Rejection {
            reason: "unknown cluster outbound|9080|v9|reviews".to_owned(),
            resources: vec!["9080".to_owned()],
            at_unix_ms: days(),
            revision: 18,
        }),
        ..kind("RDS")
    };
    let waiting = TypeSync {
        waiting: true,
        ..kind("EDS")
    };
    vec![
        sync(
            "reviews-v1-5d8f7c9b6-x2x40",
            ["CDS", "EDS", "LDS", "RDS"].map(kind).to_vec(),
        ),
        sync("ratings-v1-6b7c-k2k4z", vec![kind("CDS"), waiting, refused]),
    ]
}

pub(crate) fn clusters() -> Value {
    let cluster = |subset: &str, tls: Value| {
        json!({
            "kind": "discovered",
            "service": { "host": "reviews.default.svc.cluster.local", "port": 9080, "subset": subset },
            "loadBalancer": "leastRequest",
            "tls": tls,
        })
    };
    json!({
        "BlackHoleCluster": { "kind": "static", "loadBalancer": "leastRequest", "tls": null },
        "outbound|9080|v1|reviews.default.svc.cluster.local": cluster("v1", json!({ "required": true })),
        "outbound|9080||reviews.default.svc.cluster.local": cluster("", json!({ "required": false })),
    })
}

pub(crate) fn token() -> TokenReport {
    TokenReport {
        id: "t1".to_owned(),
        token: "mct1.secret.part".to_owned(),
        spiffe_id: "spiffe://cluster.local/ns/default/sa/reviews".to_owned(),
        expires_unix_ms: 4_102_444_800_000,
    }
}

pub(crate) fn tokens() -> Vec<TokenEntry> {
    let token = |id: &str, account: &str, state, used| TokenEntry {
        id: id.to_owned(),
        spiffe_id: format!("spiffe://cluster.local/ns/default/sa/{account}"),
        gateway: None,
        state,
        used,
        uses_left: 1,
        expires_unix_ms: 4_102_444_800_000,
        created_unix_ms: 1_767_225_600_000,
        created_by: "anna".to_owned(),
        used_unix_ms: 0,
    };
    let edge = TokenEntry {
        gateway: Some("edge".to_owned()),
        uses_left: 0,
        ..token("5d0f2c6a41e8", "edge", TokenState::Spent, 1)
    };
    let old = TokenEntry {
        expires_unix_ms: 1_767_229_200_000,
        ..token("0c1d2e3f4a5b", "reviews", TokenState::Expired, 0)
    };
    vec![
        edge,
        token("a1b2c3d4e5f6", "cart", TokenState::Open, 2),
        old,
    ]
}

pub(crate) fn audit() -> Vec<AuditEntry> {
    let entry = |seconds: u64, event| AuditEntry::new(1_767_225_600_000 + seconds * 1_000, event);
    vec![
        AuditEntry {
            identity: "spiffe://cluster.local/ns/default/sa/cart".to_owned(),
            token: "a1b2c3d4e5f6".to_owned(),
            by: "anna".to_owned(),
            expires_unix_ms: 4_102_444_800_000,
            ..entry(0, AuditEvent::TokenCreated)
        },
        AuditEntry {
            identity: "spiffe://cluster.local/ns/default/sa/cart".to_owned(),
            serial: "5d0f2c6a41e89b73b1d25c1f0e7a9368".to_owned(),
            token: "a1b2c3d4e5f6".to_owned(),
            by: "token".to_owned(),
            expires_unix_ms: 4_102_444_800_000,
            ..entry(60, AuditEvent::CertificateIssued)
        },
        AuditEntry {
            token: "a1b2c3d4e5f6".to_owned(),
            by: "token".to_owned(),
            detail: "this join token is not known here".to_owned(),
            ..entry(120, AuditEvent::TokenRefused)
        },
    ]
}

pub(crate) fn identity() -> IdentityReport {
    IdentityReport {
        spiffe_id: "spiffe://cluster.local/ns/default/sa/ops".to_owned(),
        chain_pem: "-----BEGIN CERTIFICATE-----\nY2hhaW4=\n-----END CERTIFICATE-----\n".to_owned(),
        key_pem: "-----BEGIN PRIVATE KEY-----\na2V5\n-----END PRIVATE KEY-----\n".to_owned(),
        roots_pem: "-----BEGIN CERTIFICATE-----\ncm9vdA==\n-----END CERTIFICATE-----\n".to_owned(),
        expires_unix_ms: 4_102_444_800_000,
    }
}
