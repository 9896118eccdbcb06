//! Which fields of Istio's kinds, of the Gateway API's, and of others that say where requests go, have their
//! effect here, are refused, or are said to have none.
//!
//! Each line of a table is a field of the kind's schema with a value that is not its
//! default. Setting it must change the world or be answered by a finding; nothing is dropped in
//! silence. `docs/conformance.md` is what came of it, so it follows the code.

#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a line that is no good should fail the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use meshctl::mesh::{Finding, Severity};
use meshctl::resource::{Instances, Statuses, codes, collect, from_value, lower};
use serde_json::{Value, json};

/// One kind and its fields.
struct Kind {
    name: &'static str,
    group: &'static str,
    /// What is left of `spec` in every case.
    base: &'static str,
    /// Lines `Message.field: path = value; …`; a line `with …` is the ground of those that follow.
    fields: &'static str,
}

const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// Group of the mesh's own kinds, which have one version.
const POLICY: &str = "policy.meshctl.dev";

const KINDS: &[Kind] = &[
    Kind {
        name: "VirtualService",
        group: "networking.istio.io",
        base: r#"{"hosts":["a"],"http":[{"route":[{"destination":{"host":"a","port":{"number":80}}}]}]}"#,
        fields: include_str!("conformance/virtual-service.txt"),
    },
    Kind {
        name: "DestinationRule",
        group: "networking.istio.io",
        base: r#"{"host":"a","subsets":[{"name":"v1","labels":{"version":"v1"}}]}"#,
        fields: include_str!("conformance/destination-rule.txt"),
    },
    Kind {
        name: "ServiceEntry",
        group: "networking.istio.io",
        base: r#"{"hosts":["x.example.com"],"ports":[{"number":443,"name":"tls","protocol":"TLS"}],"resolution":"DNS"}"#,
        fields: include_str!("conformance/service-entry.txt"),
    },
    Kind {
        name: "Gateway",
        group: "networking.istio.io",
        base: r#"{"selector":{"istio":"edge"},"servers":[{"port":{"number":80,"name":"http","protocol":"HTTP"},"hosts":["*"]}]}"#,
        fields: include_str!("conformance/gateway.txt"),
    },
    Kind {
        name: "Sidecar",
        group: "networking.istio.io",
        base: r#"{"egress":[{"hosts":["*/*"]}]}"#,
        fields: include_str!("conformance/sidecar.txt"),
    },
    Kind {
        name: "WorkloadEntry",
        group: "networking.istio.io",
        base: r#"{"address":"10.0.0.9","labels":{"app":"a"}}"#,
        fields: include_str!("conformance/workload-entry.txt"),
    },
    Kind {
        name: "Ingress",
        group: "networking.k8s.io",
        base: r#"{"rules":[{"host":"x.example.com","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"a","port":{"number":80}}}}]}}]}"#,
        fields: include_str!("conformance/ingress.txt"),
    },
    Kind {
        name: "IngressClass",
        group: "networking.k8s.io",
        base: r#"{"controller":"example.com/other"}"#,
        fields: include_str!("conformance/ingress-class.txt"),
    },
    Kind {
        name: "TrafficSplit",
        group: "split.smi-spec.io",
        base: r#"{"service":"a","backends":[{"service":"b","weight":100}]}"#,
        fields: include_str!("conformance/traffic-split.txt"),
    },
    Kind {
        name: "HTTPRouteGroup",
        group: "specs.smi-spec.io",
        base: r#"{"matches":[{"name":"m","pathRegex":"/a"}]}"#,
        fields: include_str!("conformance/http-route-group.txt"),
    },
    Kind {
        name: "ServiceProfile",
        group: "linkerd.io",
        base: r#"{"routes":[{"name":"r","condition":{"pathRegex":"/a"}}]}"#,
        fields: include_str!("conformance/service-profile.txt"),
    },
    Kind {
        name: "MeshConfig",
        group: "key mesh of ConfigMap istio",
        base: "{}",
        fields: include_str!("conformance/mesh-config.txt"),
    },
    Kind {
        name: "PeerAuthentication",
        group: "security.istio.io",
        base: r#"{"mtls":{"mode":"PERMISSIVE"}}"#,
        fields: include_str!("conformance/peer-authentication.txt"),
    },
    Kind {
        name: "RequestAuthentication",
        group: "security.istio.io",
        base: r#"{"jwtRules":[{"issuer":"https://issuer.example.com"}]}"#,
        fields: include_str!("conformance/request-authentication.txt"),
    },
    Kind {
        name: "AuthorizationPolicy",
        group: "security.istio.io",
        base: r#"{"rules":[{"from":[{"source":{"ipBlocks":["10.0.0.9"]}}],"to":[{"operation":{"methods":["GET"]}}],"when":[{"key":"source.ip","values":["10.0.0.1"]}]}]}"#,
        fields: include_str!("conformance/authorization-policy.txt"),
    },
    Kind {
        name: "Telemetry",
        group: "telemetry.istio.io",
        base: r#"{"tracing":[{"randomSamplingPercentage":1}]}"#,
        fields: include_str!("conformance/telemetry.txt"),
    },
    Kind {
        name: "GatewayClass",
        group: GATEWAY_API,
        base: r#"{"controllerName":"meshctl.dev/gateway-controller"}"#,
        fields: include_str!("conformance/gateway-class.txt"),
    },
    Kind {
        name: "Gateway",
        group: GATEWAY_API,
        base: r#"{"gatewayClassName":"meshctl","listeners":[{"name":"http","port":80,"protocol":"HTTP"}]}"#,
        fields: include_str!("conformance/kubernetes-gateway.txt"),
    },
    Kind {
        name: "HTTPRoute",
        group: GATEWAY_API,
        base: r#"{"parentRefs":[{"name":"edge"}],"rules":[{"backendRefs":[{"name":"a","port":80}]}]}"#,
        fields: include_str!("conformance/http-route.txt"),
    },
    Kind {
        name: "GRPCRoute",
        group: GATEWAY_API,
        base: r#"{"parentRefs":[{"name":"edge"}],"rules":[{"backendRefs":[{"name":"a","port":80}]}]}"#,
        fields: include_str!("conformance/grpc-route.txt"),
    },
    Kind {
        name: "ReferenceGrant",
        group: GATEWAY_API,
        base: r#"{"from":[{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","namespace":"shop"}],"to":[{"group":"","kind":"Service"}]}"#,
        fields: include_str!("conformance/reference-grant.txt"),
    },
    Kind {
        name: "TLSRoute",
        group: GATEWAY_API,
        base: r#"{"parentRefs":[{"name":"listening","sectionName":"tls"}],"hostnames":["a.example.com"],"rules":[{"backendRefs":[{"name":"a","port":443}]}]}"#,
        fields: include_str!("conformance/tls-route.txt"),
    },
    Kind {
        name: "TCPRoute",
        group: GATEWAY_API,
        base: r#"{"parentRefs":[{"name":"listening","sectionName":"tcp"}],"rules":[{"backendRefs":[{"name":"a","port":5432}]}]}"#,
        fields: include_str!("conformance/tcp-route.txt"),
    },
    Kind {
        name: "BackendTLSPolicy",
        group: GATEWAY_API,
        base: r#"{"targetRefs":[{"group":"","kind":"Service","name":"a"}],"validation":{"wellKnownCACertificates":"System","hostname":"a.example.com"}}"#,
        fields: include_str!("conformance/backend-tls-policy.txt"),
    },
    Kind {
        name: "RateLimitPolicy",
        group: POLICY,
        base: r#"{"limits":[{"requests":10,"unit":"Second"}]}"#,
        fields: include_str!("conformance/rate-limit-policy.txt"),
    },
    Kind {
        name: "CompressionPolicy",
        group: POLICY,
        base: r#"{"level":6}"#,
        fields: include_str!("conformance/compression-policy.txt"),
    },
    Kind {
        name: "FaultInjection",
        group: POLICY,
        base: r#"{"service":"a","delay":"1s","until":"2030-01-01T00:00:00Z"}"#,
        fields: include_str!("conformance/fault-injection.txt"),
    },
    Kind {
        name: "ShadowDiff",
        group: POLICY,
        base: r#"{"service":"a"}"#,
        fields: include_str!("conformance/shadow-diff.txt"),
    },
    Kind {
        name: "HeaderPolicy",
        group: POLICY,
        base: r#"{"response":{"set":{"x":"y"}}}"#,
        fields: include_str!("conformance/header-policy.txt"),
    },
    Kind {
        name: "Canary",
        group: POLICY,
        base: r#"{"service":"a","to":"v2","steps":[10,50]}"#,
        fields: include_str!("conformance/canary.txt"),
    },
    Kind {
        name: "Canary",
        group: "flagger.app",
        base: r#"{"targetRef":{"kind":"Deployment","name":"a"},"service":{"name":"a"},"analysis":{"stepWeight":10}}"#,
        fields: include_str!("conformance/flagger-canary.txt"),
    },
];

/// What stands around: services of one port and of two, and a subset.
fn around() -> Vec<Value> {
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
               "spec": {"selector": {"app": name}, "ports": [
                   {"name": "http", "port": 80}, {"name": "tcp-db", "port": 5432}, {"name": "tls-x", "port": 443}]}})
    };
    let subsets = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "around"},
        "spec": {"host": "b", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]}});
    let delegate = |name: &str, namespace: &str| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"http": [{"name": format!("{name}-{namespace}"),
                "route": [{"destination": {"host": "b.default.svc.cluster.local", "port": {"number": 80}}}]}]}})
    };
    let edge = json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge"},
        "spec": {"servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]}});
    let listener = |name: &str, port: u16, protocol: &str| match protocol {
        "TLS" => {
            json!({"name": name, "port": port, "protocol": protocol, "tls": {"mode": "Passthrough"}})
        }
        _ => json!({"name": name, "port": port, "protocol": protocol}),
    };
    let listening = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "listening"},
        "spec": {"gatewayClassName": "meshctl", "listeners": [
            listener("tls", 443, "TLS"), listener("other", 8443, "TLS"),
            listener("tcp", 9000, "TCP"), listener("tcp-other", 9001, "TCP")]}});
    let authority = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority"},
        "data": {"ca.crt": "-----BEGIN CERTIFICATE-----"}});
    let classed = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "classed"},
        "spec": {"ingressClassName": "tried",
            "defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}});
    let split = json!({"apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit", "metadata": {"name": "grouped"},
        "spec": {"service": "b", "backends": [{"service": "a", "weight": 1}],
            "matches": [{"kind": "HTTPRouteGroup", "name": "tried"}]}});
    let group = |name: &str| {
        json!({"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": {"name": name},
            "spec": {"matches": [{"name": name, "pathRegex": format!("/{name}")}]}})
    };
    let served = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "served"},
        "spec": {"ingressClassName": "meshctl", "rules": [{"host": "served.example.com", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "b", "port": {"number": 80}}}}]}}]}});
    let routed = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "routed"},
        "spec": {"hosts": ["routed.example.com"],
            "http": [{"route": [{"destination": {"host": "b", "port": {"number": 80}}}]}]}});
    let asked = |namespace: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "asked", "namespace": namespace},
               "spec": {"ports": [{"name": "grpc", "port": 9000}, {"name": "grpc-more", "port": 9001}]}})
    };
    let asking = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "asking"},
        "spec": {"selector": {"matchLabels": {"app": "asking"}}, "action": "CUSTOM",
            "provider": {"name": "authority"}, "rules": [{}]}});
    vec![
        asked("default"),
        asked("shop"),
        asking,
        edge,
        listening,
        authority,
        classed,
        served,
        routed,
        split,
        group("one"),
        group("two"),
        service("a"),
        service("b"),
        subsets,
        delegate("delegated", "default"),
        delegate("another", "default"),
        delegate("delegated", "shop"),
    ]
    .into_iter()
    .chain(around_the_gateway_api())
    .collect()
}

/// Gateways with routes of two namespaces, certificates and roots.
fn around_the_gateway_api() -> Vec<Value> {
    let gateway = |name: &str, class: &str| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name},
               "spec": {"gatewayClassName": class, "listeners": [
                   {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}},
                   {"name": "more", "port": 8080, "protocol": "HTTP"}]}})
    };
    let route = |name: &str, namespace: &str, to: &str| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
               "metadata": {"name": name, "namespace": namespace},
               "spec": {"parentRefs": [{"name": to, "namespace": "default"}], "hostnames": ["shop.example.com"],
                        "rules": [{"backendRefs": [{"name": "a", "namespace": "default", "port": 80}]}]}})
    };
    let secret = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {
            "tls.crt": format!("-----BEGIN CERTIFICATE----- {name}"), "tls.key": "-----BEGIN PRIVATE KEY-----",
            "ca.crt": "-----BEGIN CERTIFICATE-----"}})
    };
    vec![
        gateway("edge", "meshctl"),
        gateway("classified", "tried"),
        route("own", "default", "tried"),
        route("of-shop", "shop", "tried"),
        route("granted", "shop", "edge"),
        secret("tls-c"),
        secret("tls-d"),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "roots"},
               "data": {"ca.crt": "-----BEGIN CERTIFICATE-----"}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "c", "namespace": "shop"},
               "spec": {"selector": {"app": "c"}, "ports": [{"name": "http", "port": 80}]}}),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
               "metadata": {"name": "around", "namespace": "shop"},
               "spec": {"from": [
                            {"group": GATEWAY_API, "kind": "HTTPRoute", "namespace": "default"},
                            {"group": GATEWAY_API, "kind": "GRPCRoute", "namespace": "default"},
                            {"group": GATEWAY_API, "kind": "TLSRoute", "namespace": "default"},
                            {"group": GATEWAY_API, "kind": "TCPRoute", "namespace": "default"}],
                        "to": [{"group": "", "kind": "Service"}]}}),
    ]
}

/// One field, what it stands in, and its value.
struct Case {
    field: String,
    with: Vec<(String, Value)>,
    set: Vec<(String, Value)>,
}

/// `path = value; path = value`.
fn assignments(text: &str) -> Vec<(String, Value)> {
    text.split("; ")
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (path, value) = part
                .split_once(" = ")
                .unwrap_or_else(|| panic!("no value in {part:?}"));
            let value = serde_json::from_str(value).unwrap_or_else(|e| panic!("{part:?}: {e}"));
            (path.to_owned(), value)
        })
        .collect()
}

fn cases(kind: &Kind) -> Vec<Case> {
    let mut with = Vec::new();
    let mut cases = Vec::new();
    for line in kind.fields.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(ground) = line.strip_prefix("with") {
            with = assignments(ground);
            continue;
        }
        let (field, set) = line.split_once(": ").unwrap();
        cases.push(Case {
            field: field.to_owned(),
            with: with.clone(),
            set: assignments(set),
        });
    }
    cases
}

/// Puts `value` at `path` (`http/0/timeout`) and makes what is missing on the way; null removes.
fn put(at: &mut Value, path: &str, value: &Value) {
    let (head, rest) = match path.split_once('/') {
        Some((head, rest)) => (head, Some(rest)),
        None => (path, None),
    };
    // Ports are keys, and above every index here.
    if let Ok(index) = head.parse::<u8>().map(usize::from)
        && !at.is_object()
    {
        if !at.is_array() {
            *at = json!([]);
        }
        let list = at.as_array_mut().unwrap();
        while list.len() <= index {
            list.push(json!({}));
        }
        match rest {
            Some(rest) => put(&mut list[index], rest, value),
            None => list[index] = value.clone(),
        }
        return;
    }
    if !at.is_object() {
        *at = json!({});
    }
    let map = at.as_object_mut().unwrap();
    match rest {
        Some(rest) => put(map.entry(head).or_insert(Value::Null), rest, value),
        None if value.is_null() => {
            map.remove(head);
        }
        None => {
            map.insert(head.to_owned(), value.clone());
        }
    }
}

fn object(kind: &Kind, parts: &[&[(String, Value)]]) -> Value {
    let mut spec: Value = serde_json::from_str(kind.base).unwrap();
    for (path, value) in parts.iter().copied().flatten() {
        put(&mut spec, path, value);
    }
    if kind.name == "MeshConfig" {
        return json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": spec.to_string()}});
    }
    let version = match kind.group {
        "split.smi-spec.io" | "specs.smi-spec.io" => "v1alpha4",
        POLICY => "v1alpha1",
        "flagger.app" => "v1beta1",
        "linkerd.io" => "v1alpha2",
        _ => "v1",
    };
    // A ServiceProfile is named for what it is about.
    let name = match kind.name {
        "ServiceProfile" => "a.default.svc.cluster.local",
        _ => "tried",
    };
    json!({"apiVersion": format!("{}/{version}", kind.group), "kind": kind.name,
           "metadata": {"name": name}, "spec": spec})
}

/// What an object means in what stands around it, and what is said of it.
fn meant(object: &Value) -> (String, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut objects = Vec::new();
    for value in around().iter().chain([object]) {
        let (read, found) = from_value(value, "tried.yaml");
        objects.extend(read);
        findings.extend(found);
    }
    let (objects, twice) = collect(objects);
    findings.extend(twice);
    let (world, found) = lower(&objects, Instances::default());
    findings.extend(found);
    findings.extend(meshctl::mesh::check::run(&world));
    findings.retain(|finding| object["metadata"]["name"] == *finding.origin.name);
    let told = Statuses::of(&objects, &Instances::default());
    // What only the injector reads.
    let proxies = meshctl::inject::ProxyConfigs::of(&objects);
    // What the control plane runs, and no proxy is told of.
    let canaries: Vec<_> = objects
        .values()
        .filter_map(|object| match &object.body {
            meshctl::resource::Kind::Canary(canary) => Some(canary),
            _ => None,
        })
        .collect();
    (
        format!("{:?} {told:?} {proxies:?} {canaries:?}", world.config),
        findings,
    )
}

/// What is done with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    Honoured,
    Refused(String),
    Ignored(String),
}

impl Standing {
    fn word(&self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Refused(_) => "refused",
            Self::Ignored(_) => "ignored",
        }
    }
}

fn because(finding: &Finding) -> String {
    finding
        .hint
        .clone()
        .unwrap_or_else(|| finding.message.clone())
}

/// What is done with the field of `case`. `Err`: nothing, and nothing is said.
fn standing(kind: &Kind, case: &Case) -> Result<Standing, String> {
    let (before, known) = meant(&object(kind, &[&case.with]));
    let errors = |findings: &[Finding]| {
        let mut errors = findings.iter();
        errors
            .find(|finding| finding.severity == Severity::Error)
            .cloned()
    };
    if let Some(error) = errors(&known) {
        // What it is part of is refused, and it with that.
        assert_eq!(
            error.code,
            codes::NOT_HONOURED,
            "{}: its ground must be what Istio takes: {error}",
            case.field
        );
        return Ok(Standing::Refused(because(&error)));
    }
    // What must stand beside the field is no effect of it, where it can stand alone.
    let beside = case.set.len() - 1;
    let (mut before, mut known) = (before, known);
    if beside > 0 {
        let alone = meant(&object(kind, &[&case.with, &case.set[..beside]]));
        if errors(&alone.1).is_none() {
            (before, known) = alone;
        }
    }
    let (after, found) = meant(&object(kind, &[&case.with, &case.set]));
    // What it is part of has no effect, and it has none with that.
    let place = written(case);
    let whole = known.iter().find(|finding| {
        let inside = place.replace("[]", "[0]");
        finding.code == codes::IGNORED && inside.starts_with(&finding.path)
    });
    if let Some(whole) = whole.filter(|_| before == after) {
        return Ok(Standing::Ignored(because(whole)));
    }
    let told: BTreeSet<(&str, &str)> = known
        .iter()
        .map(|finding| (finding.code.as_str(), finding.path.as_str()))
        .collect();
    let new: Vec<Finding> = found
        .into_iter()
        .filter(|finding| !told.contains(&(finding.code.as_str(), finding.path.as_str())))
        .collect();
    if let Some(error) = errors(&new) {
        return match error.code.as_str() {
            codes::NOT_HONOURED => Ok(Standing::Refused(because(&error))),
            // Where a reference leads is what the field says, also where it leads nowhere.
            codes::INVALID_REFERENCE_KIND
            | codes::NOT_PERMITTED
            | codes::MISSING_REFERENCE
            | codes::PROVIDER_UNKNOWN
                if before != after =>
            {
                Ok(Standing::Honoured)
            }
            _ if error.message.starts_with("unknown field") => {
                Ok(Standing::Refused("not known".to_owned()))
            }
            _ => Err(format!("the sample is no good: {error}")),
        };
    }
    // Its status says that it is refused.
    if let Some(finding) = new.iter().find(|new| new.code == codes::NOT_ACCEPTED) {
        return Ok(Standing::Refused(because(finding)));
    }
    if let Some(finding) = new.iter().find(|finding| finding.code == codes::IGNORED) {
        return Ok(Standing::Ignored(because(finding)));
    }
    if before != after {
        return Ok(Standing::Honoured);
    }
    match new.first() {
        Some(finding) => Ok(Standing::Ignored(because(finding))),
        None => Err("it changes nothing, and nothing is said of it".to_owned()),
    }
}

/// `spec.http[].timeout` of `http/0/timeout`.
fn written(case: &Case) -> String {
    let last = case.set.iter().rfind(|(_, value)| !value.is_null());
    let path = &last.unwrap().0;
    let mut text = "spec".to_owned();
    for part in path.split('/') {
        if part == "0" || part == "1" {
            text.push_str("[]");
        } else {
            write!(text, ".{part}").unwrap();
        }
    }
    text
}

const HEAD: &str = "\
# Fields of kinds

Generated by the test `golden::conformance`, which sets each field and looks at what becomes of the world; do not edit.

The kinds are Istio's, the Gateway API's, and the mesh's own (`policy.meshctl.dev`). *Honoured* fields have the effect that is documented. *Refused* ones would change routing or security, so an object
that sets one is not applied (one that its status refuses is, and has no effect), and the finding says what to do instead. *Ignored* ones only tune: the object is applied,
and the finding says that the field has no effect. Nothing is dropped in silence. A WorkloadGroup is no part of the
world: it completes what registers, and is tested with that. Nor is a ProxyConfig, which the injector reads, or a Canary, which the control plane runs.

";

fn page() -> Result<String, String> {
    let mut page = HEAD.to_owned();
    let mut faults = String::new();
    for kind in KINDS {
        let mut rows = String::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for case in cases(kind) {
            let written = match kind.name {
                "MeshConfig" => written(&case).replacen("spec.", "", 1),
                _ => written(&case),
            };
            let value = &case.set.last().unwrap().1;
            // A field of an enum has a line for each value.
            let shown = match value {
                Value::String(value) if case.field.ends_with('=') => format!("{written}: {value}"),
                _ => written.clone(),
            };
            assert!(seen.insert(shown.clone()), "{shown} is there twice");
            let field = case.field.trim_end_matches('=');
            match standing(kind, &case) {
                Err(fault) => writeln!(faults, "{} {shown}: {fault}", kind.name).unwrap(),
                Ok(standing) => {
                    *counts.entry(standing.word()).or_default() += 1;
                    let why = match &standing {
                        Standing::Honoured => "",
                        Standing::Refused(why) | Standing::Ignored(why) => why,
                    };
                    let why = why.replace('|', "\\|");
                    let row = format!("| `{shown}` | {field} | {} | {why} |", standing.word());
                    rows.push_str(row.trim_end());
                    rows.push('\n');
                }
            }
        }
        let counts: Vec<String> = counts
            .iter()
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        write!(
            page,
            "## {} ({})\n\n{}.\n\n| field | in the schema | | because |\n|---|---|---|---|\n{rows}\n",
            kind.name,
            kind.group,
            counts.join(", ")
        )
        .unwrap();
    }
    page.pop();
    if faults.is_empty() {
        Ok(page)
    } else {
        Err(faults)
    }
}

#[test]
fn every_field_changes_the_world_or_is_answered_and_the_page_says_which() {
    let page = page().unwrap_or_else(|faults| panic!("{faults}"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    if written != page {
        // For whoever changed a kind: the page is right from now on, and this run says so.
        std::fs::write(&path, &page).unwrap();
        panic!("docs/conformance.md was not up to date; it has been written again");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(192))]

    /// Fields together: whatever they make of each other, it is an effect or an answer.
    #[test]
    fn fields_together_change_the_world_or_are_answered(
        kind in 0..KINDS.len(),
        picks in proptest::collection::vec(proptest::prelude::any::<proptest::sample::Index>(), 1..7),
    ) {
        let kind = &KINDS[kind];
        let all = cases(kind);
        let chosen: Vec<&Case> = picks.iter().map(|pick| pick.get(&all)).collect();
        let parts: Vec<&[(String, Value)]> = chosen
            .iter()
            .flat_map(|case| [case.with.as_slice(), case.set.as_slice()])
            .collect();
        // A value may be that of the base again, but then it is not that of what it stands in.
        let grounds: Vec<&[(String, Value)]> = chosen.iter().map(|case| case.with.as_slice()).collect();
        let before = [&[][..], &grounds].map(|parts| meant(&object(kind, parts)).0);
        let (after, findings) = meant(&object(kind, &parts));
        let names: Vec<&str> = chosen.iter().map(|case| case.field.as_str()).collect();
        let same = before.iter().all(|before| *before == after);
        proptest::prop_assert!(!same || !findings.is_empty(), "{names:?}");
    }
}

/// A field that nobody has, put beside each field of the tables: what is known there is named by the
/// finding about it, and has a line.
#[test]
fn every_field_that_is_read_has_a_line() {
    const NOBODY: &str = "qqqqqqqqqqqqqqqqqqqq";
    // Names that only kinds refer to that are refused as a whole (TrafficTarget).
    const NAMES: [&str; 1] = ["HTTPRouteGroup: matches/name"];
    let mut missing = BTreeSet::new();
    for kind in KINDS {
        let all = cases(kind);
        let plain = |path: &str| -> String {
            let parts: Vec<&str> = path
                .split('/')
                .filter(|p| p.parse::<u8>().is_err())
                .collect();
            parts.join("/")
        };
        let lines: BTreeSet<String> = all
            .iter()
            .flat_map(|case| case.with.iter().chain(&case.set))
            .map(|(path, _)| plain(path))
            .collect();
        for case in &all {
            let (path, _) = case.set.last().unwrap();
            let beside = match path.rsplit_once('/') {
                Some((parent, _)) => format!("{parent}/{NOBODY}"),
                None => NOBODY.to_owned(),
            };
            let set = [(beside.clone(), json!(1))];
            let (_, findings) = meant(&object(kind, &[&case.with, &case.set, &set]));
            let asked = findings
                .iter()
                .find(|finding| finding.path.ends_with(NOBODY));
            let Some(hint) = asked.and_then(|finding| finding.hint.as_deref()) else {
                // Free keys, or what is part of something refused.
                continue;
            };
            let Some(known) = hint.strip_prefix("known here: ") else {
                continue;
            };
            for name in known.split(", ") {
                let path = plain(&beside.replace(NOBODY, name));
                let there = lines
                    .iter()
                    .any(|line| *line == path || line.starts_with(&format!("{path}/")));
                let missed = format!("{}: {path}", kind.name);
                if !there && !NAMES.contains(&missed.as_str()) {
                    missing.insert(missed);
                }
            }
        }
    }
    // A text for people, which is kept and means nothing.
    missing.remove("GatewayClass: description");
    assert!(missing.is_empty(), "no line for {missing:#?}");
}
