//! The Gateway API: which rule a request gets to, by the tables of a gateway or of a caller.

use std::sync::Arc;

use meshctl::mesh::node::Node;
use meshctl::mesh::route::{Action, Request, Router};
use meshctl::mesh::{Client, Finding, Locality, NodeKind, Severity, World};
use meshctl::resource::{Instances, Objects, Statuses, collect, lower, parse};
use serde_json::Value;

const SERVICES: &str = "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {selector: {app: a}, ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {selector: {app: b}, ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: c, namespace: other}, spec: {selector: {app: c}, ports: [{name: http, port: 80}]}}
- {apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {team: one}}}
---
";

/// A Gateway `edge` with these listeners.
fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec: {{gatewayClassName: meshctl, listeners: [{listeners}]}}\n---\n"
    )
}

/// A route, by its kind, its metadata and its spec.
fn route(kind: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{{metadata}}}\nspec: {{{spec}}}\n---\n"
    )
}

struct Tried {
    objects: Objects,
    world: World,
    findings: Vec<Finding>,
}

fn tried(parts: &[String]) -> Tried {
    let text = format!("{SERVICES}{}", parts.concat());
    let (objects, read) = parse(&text, "tried.yaml", "default");
    let wrong = |finding: &&Finding| finding.severity == Severity::Error;
    assert!(!read.iter().any(|finding| wrong(&finding)), "{read:?}");
    let (objects, twice) = collect(objects);
    assert_eq!(twice, []);
    let (world, findings) = lower(&objects, Instances::default());
    Tried {
        objects,
        world,
        findings,
    }
}

struct Asked<'a> {
    host: &'a str,
    path: &'a str,
    method: &'a str,
    headers: &'a [(&'a str, &'a str)],
}

impl Request for Asked<'_> {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.host.as_bytes()
    }

    fn scheme(&self) -> &[u8] {
        b"http"
    }

    fn path_and_query(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (own, value) in self.headers {
            if *own == name && !visit(value.as_bytes()) {
                return;
            }
        }
    }
}

fn node(kind: NodeKind, namespace: &str) -> Node {
    let label = ("gateway.networking.k8s.io/gateway-name", "edge");
    Node {
        id: "tried".to_owned(),
        client: Client::Meshctl,
        kind,
        name: "tried".to_owned(),
        namespace: namespace.to_owned(),
        service_account: "default".to_owned(),
        workload: "tried".to_owned(),
        labels: [(label.0.to_owned(), label.1.to_owned())].into(),
        locality: Locality::default(),
        address: "10.0.0.1".parse().unwrap(),
        outbound: "127.0.0.1:15001".parse().unwrap(),
        inbound: "10.0.0.1:15006".parse().unwrap(),
        transparent: true,
        applications: Vec::new(),
    }
}

impl Tried {
    /// Where a request goes: the short names of services, a status, or nothing.
    fn at(&self, node: &Node, table: &str, asked: &Asked<'_>) -> String {
        let view = self.world.view(node);
        let Some(table) = view.routes.get(table) else {
            return "no table".to_owned();
        };
        let router = Router::new(&Arc::clone(table));
        let Some(found) = router.find(asked) else {
            return "404".to_owned();
        };
        match &found.route.action {
            Action::Forward(forward) => {
                let short = |cluster: &str| {
                    let host = cluster.rsplit('|').next().unwrap();
                    let gone = host.ends_with(".invalid");
                    if gone && !view.clusters.contains_key(cluster) {
                        return forward.missing.status().to_string();
                    }
                    host.split('.').next().unwrap().to_owned()
                };
                let to = forward.clusters.iter();
                let names: Vec<String> = to.map(|to| short(&to.cluster)).collect();
                names.join(" ")
            }
            Action::Respond(respond) => respond.status.to_string(),
            Action::Redirect(redirect) => format!("{} away", redirect.status),
        }
    }

    /// As [`Tried::at`], at port 80 of the gateway.
    fn edge(&self, host: &str, path: &str) -> String {
        let asked = Asked {
            host,
            path,
            method: "GET",
            headers: &[],
        };
        self.at(&node(NodeKind::Gateway, "default"), "http.80", &asked)
    }

    fn status(&self, key: &str) -> Value {
        let statuses = Statuses::of(&self.objects, &Instances::default());
        let mut keys = self.objects.keys();
        let key = keys.find(|known| known.to_string() == key).unwrap();
        statuses.get(key, 1, "1970-01-01T00:00:00Z").unwrap()
    }

    /// Status and reason of a condition of a route for its first parent.
    fn parent(&self, key: &str, kind: &str) -> (String, String) {
        condition(self.status(key).pointer("/parents/0").unwrap(), kind)
    }
}

fn condition(of: &Value, kind: &str) -> (String, String) {
    let all = of.get("conditions").and_then(Value::as_array).unwrap();
    let found = all.iter().find(|one| one["type"] == kind).unwrap();
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (text("status"), text("reason"))
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

const HTTP: &str = "{name: http, port: 80, protocol: HTTP}";

#[test]
fn the_narrowest_match_of_all_routes_wins_and_then_the_oldest() {
    let rule = |matches: &str, to: &str| {
        format!(
            "parentRefs: [{{name: edge}}], rules: [{{matches: [{matches}], backendRefs: [{{name: {to}, port: 80}}]}}]"
        )
    };
    let tried = tried(&[
        gateway(HTTP),
        route(
            "HTTPRoute",
            "name: wide, creationTimestamp: '2020-01-01T00:00:00Z'",
            &rule("{path: {value: /}}", "a"),
        ),
        route(
            "HTTPRoute",
            "name: narrow, creationTimestamp: '2021-01-01T00:00:00Z'",
            &rule("{path: {value: /long}}", "b"),
        ),
        route(
            "HTTPRoute",
            "name: exact, creationTimestamp: '2022-01-01T00:00:00Z'",
            &rule("{path: {type: Exact, value: /long/x}}", "a"),
        ),
        route(
            "HTTPRoute",
            "name: header, creationTimestamp: '2023-01-01T00:00:00Z'",
            &rule("{path: {value: /}, headers: [{name: v, value: '2'}]}", "b"),
        ),
        // Younger than one with the same condition.
        route(
            "HTTPRoute",
            "name: late, creationTimestamp: '2024-01-01T00:00:00Z'",
            &rule("{path: {value: /long}}", "a"),
        ),
    ]);
    assert_eq!(tried.findings, []);
    for (path, to) in [
        ("/", "a"),
        ("/longer", "a"),
        ("/long", "b"),
        ("/long/x", "a"),
        ("/long/x/y", "b"),
    ] {
        assert_eq!(tried.edge("x.example.com", path), to, "{path}");
    }
    let asked = Asked {
        host: "x",
        path: "/other",
        method: "GET",
        headers: &[("v", "2")],
    };
    let edge = node(NodeKind::Gateway, "default");
    assert_eq!(tried.at(&edge, "http.80", &asked), "b");
}

/// Every request is for one listener only, whatever is attached to others.
#[test]
fn a_request_is_for_the_listener_with_the_narrowest_host() {
    let listeners = "{name: any, port: 80, protocol: HTTP}, \
        {name: wide, port: 80, protocol: HTTP, hostname: '*.example.com'}, \
        {name: wider, port: 80, protocol: HTTP, hostname: '*.foo.example.com'}, \
        {name: exact, port: 80, protocol: HTTP, hostname: abc.foo.example.com}";
    let to = |section: &str, hosts: &str| {
        let path = section;
        format!(
            "parentRefs: [{{name: edge, sectionName: {section}}}], {hosts} rules: [{{matches: [{{path: {{value: /{path}}}}}], backendRefs: [{{name: a, port: 80}}]}}]"
        )
    };
    let all = "hostnames: [bar.com, '*.example.com', '*.foo.example.com', abc.foo.example.com],";
    for hosts in ["", all] {
        let tried = tried(&[
            gateway(listeners),
            route("HTTPRoute", "name: any", &to("any", hosts)),
            route("HTTPRoute", "name: wide", &to("wide", hosts)),
            route("HTTPRoute", "name: wider", &to("wider", hosts)),
            route("HTTPRoute", "name: exact", &to("exact", hosts)),
        ]);
        for (host, own) in [
            ("bar.com", "any"),
            ("bar.example.com", "wide"),
            ("bar.foo.example.com", "wider"),
            ("abc.foo.example.com", "exact"),
        ] {
            for path in ["any", "wide", "wider", "exact"] {
                let expected = if path == own { "a" } else { "404" };
                let found = tried.edge(host, &format!("/{path}"));
                assert_eq!(found, expected, "{hosts} {host} /{path}");
            }
        }
        for index in 0..4 {
            let status = tried.status("Gateway.gateway.networking.k8s.io default/edge");
            assert_eq!(status["listeners"][index]["attachedRoutes"], 1);
        }
    }
}

/// The rules of a narrower host come first, and those of a wider one of the same listener behind them.
#[test]
fn the_narrowest_host_of_a_listener_wins() {
    let spec = |host: &str, path: &str, to: &str| {
        format!(
            "parentRefs: [{{name: edge}}], hostnames: ['{host}'], rules: [{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: {to}, port: 80}}]}}]"
        )
    };
    let tried = tried(&[
        gateway("{name: http, port: 80, protocol: HTTP, hostname: '*.example.com'}"),
        route(
            "HTTPRoute",
            "name: wide",
            &spec("*.example.com", "/a/b", "a"),
        ),
        route(
            "HTTPRoute",
            "name: narrow",
            &spec("x.example.com", "/a", "b"),
        ),
        route(
            "HTTPRoute",
            "name: outside",
            &spec("x.example.org", "/", "a"),
        ),
    ]);
    assert_eq!(tried.edge("x.example.com", "/a/b"), "b");
    assert_eq!(tried.edge("y.example.com", "/a/b"), "a");
    assert_eq!(tried.edge("x.example.com:80", "/other"), "404");
    assert_eq!(tried.edge("x.example.org", "/"), "404");
    assert_eq!(
        tried.parent("HTTPRoute default/outside", "Accepted"),
        pair("False", "NoMatchingListenerHostname")
    );
}

#[test]
fn listeners_say_which_routes_they_take() {
    let listeners = "{name: own, port: 80, protocol: HTTP}, \
        {name: all, port: 81, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}, \
        {name: team, port: 82, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [one]}]}}}}, \
        {name: none, port: 83, protocol: HTTP, allowedRoutes: {namespaces: {from: None}}}, \
        {name: grpc, port: 84, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}";
    let to = |more: &str| {
        format!(
            "parentRefs: [{{name: edge, namespace: default{more}}}], rules: [{{backendRefs: [{{name: c, namespace: other, port: 80}}]}}]"
        )
    };
    let of_other = |name: &str| format!("name: {name}, namespace: other");
    let tried = tried(&[
        gateway(listeners),
        route("HTTPRoute", &of_other("to-own"), &to(", sectionName: own")),
        route("HTTPRoute", &of_other("to-all"), &to(", sectionName: all")),
        route("HTTPRoute", &of_other("to-team"), &to(", port: 82")),
        route("HTTPRoute", "name: to-team", &to(", sectionName: team")),
        route("HTTPRoute", "name: to-none", &to(", sectionName: none")),
        route("HTTPRoute", "name: to-grpc", &to(", sectionName: grpc")),
        route(
            "HTTPRoute",
            "name: to-nobody",
            &to(", sectionName: own, port: 81"),
        ),
    ]);
    for (key, status, reason) in [
        ("other/to-own", "False", "NotAllowedByListeners"),
        ("other/to-all", "True", "Accepted"),
        ("other/to-team", "True", "Accepted"),
        ("default/to-team", "False", "NotAllowedByListeners"),
        ("default/to-none", "False", "NotAllowedByListeners"),
        ("default/to-grpc", "False", "NotAllowedByListeners"),
        ("default/to-nobody", "False", "NoMatchingParent"),
    ] {
        let found = tried.parent(&format!("HTTPRoute {key}"), "Accepted");
        assert_eq!(found, pair(status, reason), "{key}");
    }
    // No grant lets routes of `default` send requests there.
    assert_eq!(
        tried.parent("HTTPRoute default/to-team", "ResolvedRefs"),
        pair("False", "RefNotPermitted")
    );
    assert_eq!(
        tried.parent("HTTPRoute other/to-all", "ResolvedRefs"),
        pair("True", "ResolvedRefs")
    );
}

#[test]
fn backends_that_are_no_good_answer_500_for_their_share() {
    let spec = "parentRefs: [{name: edge}], rules: [\
        {matches: [{path: {value: /some}}], backendRefs: [{name: a, port: 80}, {name: gone, port: 80}, {name: b, port: 80, weight: 0}]}, \
        {matches: [{path: {value: /kind}}], backendRefs: [{kind: Bucket, name: a}]}, \
        {matches: [{path: {value: /port}}], backendRefs: [{name: a, port: 81}]}, \
        {matches: [{path: {value: /grant}}], backendRefs: [{name: c, namespace: other, port: 80}]}, \
        {matches: [{path: {value: /none}}]}, \
        {matches: [{path: {value: /zero}}], backendRefs: [{name: a, port: 80, weight: 0}]}]";
    let tried = tried(&[gateway(HTTP), route("HTTPRoute", "name: a", spec)]);
    for (path, to) in [
        ("/some", "a 500"),
        ("/kind", "500"),
        ("/port", "500"),
        ("/grant", "500"),
        ("/none", "500"),
        ("/zero", "500"),
    ] {
        assert_eq!(tried.edge("x", path), to, "{path}");
    }
    assert_eq!(
        tried.parent("HTTPRoute default/a", "Accepted"),
        pair("True", "Accepted")
    );
}

#[test]
fn of_routes_for_requests_and_for_calls_the_older_has_a_host() {
    let spec = "parentRefs: [{name: edge}], hostnames: [x.example.com], rules: [{backendRefs: [{name: a, port: 80}]}]";
    let other = spec.replace("x.example.com", "y.example.com");
    let tried = tried(&[
        gateway(HTTP),
        route(
            "GRPCRoute",
            "name: calls, creationTimestamp: '2020-01-01T00:00:00Z'",
            spec,
        ),
        route(
            "HTTPRoute",
            "name: late, creationTimestamp: '2021-01-01T00:00:00Z'",
            spec,
        ),
        route(
            "HTTPRoute",
            "name: apart, creationTimestamp: '2021-01-01T00:00:00Z'",
            &other,
        ),
    ]);
    assert_eq!(
        tried.parent("GRPCRoute default/calls", "Accepted").0,
        "True"
    );
    assert_eq!(
        tried.parent("HTTPRoute default/late", "Accepted").0,
        "False"
    );
    assert_eq!(
        tried.parent("HTTPRoute default/apart", "Accepted").0,
        "True"
    );
}

#[test]
fn routes_of_a_service_are_for_its_callers_and_those_of_another_namespace_for_its_own() {
    let to = |namespace: &str, path: &str, backend: &str| {
        format!(
            "parentRefs: [{{group: '', kind: Service, name: a, namespace: {namespace}, port: 80}}], rules: [{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{backend}]}}]"
        )
    };
    let tried = tried(&[
        route(
            "HTTPRoute",
            "name: producer",
            &to("default", "/produced", "{name: b, port: 80}"),
        ),
        route(
            "HTTPRoute",
            "name: consumer, namespace: other",
            &to("default", "/consumed", "{name: c, port: 80}"),
        ),
    ]);
    assert_eq!(tried.findings, []);
    let from = |namespace: &str, path: &str| {
        let asked = Asked {
            host: "a.default",
            path,
            method: "GET",
            headers: &[],
        };
        tried.at(&node(NodeKind::Sidecar, namespace), "80", &asked)
    };
    for (namespace, path, to) in [
        ("default", "/produced", "b"),
        ("default", "/consumed", "404"),
        ("third", "/produced", "b"),
        ("other", "/consumed", "c"),
        // Routes of its own take the place of those of the Service's namespace.
        ("other", "/produced", "404"),
    ] {
        assert_eq!(from(namespace, path), to, "{namespace} {path}");
    }
}

/// Gateways of one name in another namespace are another's.
#[test]
fn a_gateway_is_served_by_proxies_of_its_own_namespace() {
    let spec = "parentRefs: [{name: edge}], rules: [{backendRefs: [{name: a, port: 80}]}]";
    let tried = tried(&[gateway(HTTP), route("HTTPRoute", "name: a", spec)]);
    assert_eq!(tried.edge("x", "/"), "a");
    let elsewhere = tried.world.view(&node(NodeKind::Gateway, "other"));
    assert!(elsewhere.listeners.is_empty());
}
