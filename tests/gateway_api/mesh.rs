//! Routes whose parent is a Service: calls of an application, by its sidecar.

use crate::case::{Case, call, get};
use crate::grpc;
use crate::http_backends::shares;
use crate::http_filters as filters;
use crate::http_matching as matching;
use crate::manifests::{Rule, all, exact, prefix, route, rule};
use crate::stand::{CONSUMER, MESH, Outcome, Stand};

const V1: &str = "echo-v1";
const V2: &str = "echo-v2";
const ECHO: &str = "{group: '', kind: Service, name: echo, port: 80}";

/// Both versions run, and the first calls.
fn caller(s: &Stand) -> Result<std::net::SocketAddr, String> {
    s.sidecar(MESH, "v2")?;
    s.sidecar(MESH, "v1")
}

fn http(name: &str, parent: &str, rules: &[Rule]) -> String {
    route(("HTTPRoute", "v1"), (MESH, name), parent, "", rules)
}

fn to(rule: Rule, service: &str) -> Rule {
    rule.backend(&format!("{{name: {service}, port: 8080}}"))
}

/// Routes for `echo`, and calls of it.
fn calls(s: &Stand, rules: &[Rule], cases: Vec<Case>) -> Outcome {
    let at = caller(s)?;
    s.apply(&http("routes", ECHO, rules))?;
    let cases: Vec<Case> = cases.into_iter().map(|case| case.host("echo")).collect();
    s.expect_at(at, &cases)
}

pub(crate) fn mesh_basic(s: &Stand) -> Outcome {
    s.expect_at(caller(s)?, &[get("/").host("echo")])
}

pub(crate) fn mesh_traffic_split(s: &Stand) -> Outcome {
    let rules = [to(rule(&exact("/v1")), V1), to(rule(&exact("/v2")), V2)];
    calls(s, &rules, vec![get("/v1").by(V1), get("/v2").by(V2)])
}

pub(crate) fn mesh_http_route_simple_same_namespace(s: &Stand) -> Outcome {
    calls(s, &[to(rule(""), V1)], vec![get("/").by(V1)])
}

pub(crate) fn mesh_http_route_matching(s: &Stand) -> Outcome {
    calls(
        s,
        &matching::paths_and_versions(V1, V2),
        matching::paths_and_versions_cases(V1, V2),
    )
}

pub(crate) fn mesh_http_route_query_param_matching(s: &Stand) -> Outcome {
    calls(
        s,
        &matching::query_rules(V1, V2),
        matching::query_cases(V1, V2),
    )
}

pub(crate) fn mesh_http_route_named_rule(s: &Stand) -> Outcome {
    let rules = [
        to(rule(&prefix("/named")), V1).with("name: named-rule"),
        to(rule(&prefix("/unnamed")), V2),
    ];
    calls(
        s,
        &rules,
        vec![get("/named").by(V1), get("/unnamed").by(V2)],
    )
}

fn redirected(s: &Stand, of: &[(&str, String)], cases: Vec<Case>) -> Outcome {
    let rules: Vec<Rule> = of
        .iter()
        .map(|(path, to)| rule(&prefix(path)).filter(&filters::redirect(to)))
        .collect();
    calls(s, &rules, cases)
}

fn redirect_status(s: &Stand, status: u16) -> Outcome {
    let of = [("/moved", format!("statusCode: {status}"))];
    redirected(s, &of, vec![get("/moved").to_same().status(status)])
}

pub(crate) fn mesh_http_route_303_redirect(s: &Stand) -> Outcome {
    redirect_status(s, 303)
}

pub(crate) fn mesh_http_route_307_redirect(s: &Stand) -> Outcome {
    redirect_status(s, 307)
}

pub(crate) fn mesh_http_route_308_redirect(s: &Stand) -> Outcome {
    redirect_status(s, 308)
}

pub(crate) fn mesh_http_route_redirect_host_and_status(s: &Stand) -> Outcome {
    redirected(
        s,
        &filters::host_redirects(),
        filters::host_redirect_cases(),
    )
}

pub(crate) fn mesh_http_route_redirect_path(s: &Stand) -> Outcome {
    redirected(
        s,
        &filters::path_redirects(),
        filters::path_redirect_cases(),
    )
}

pub(crate) fn mesh_http_route_redirect_port(s: &Stand) -> Outcome {
    redirected(
        s,
        &filters::port_redirects(),
        filters::port_redirect_cases(),
    )
}

pub(crate) fn mesh_http_route_scheme_redirect(s: &Stand) -> Outcome {
    redirected(
        s,
        &filters::scheme_redirects(),
        filters::scheme_redirect_cases(),
    )
}

pub(crate) fn mesh_http_route_rewrite_path(s: &Stand) -> Outcome {
    calls(
        s,
        &filters::path_rewrites(|rule| to(rule, V1)),
        filters::path_rewrite_cases(V1),
    )
}

pub(crate) fn mesh_http_route_request_header_modifier(s: &Stand) -> Outcome {
    calls(
        s,
        &filters::header_rules(|rule| to(rule, V1)),
        filters::header_cases(V1),
    )
}

pub(crate) fn mesh_http_route_backend_request_header_modifier(s: &Stand) -> Outcome {
    calls(
        s,
        &filters::backend_header_rules(V1, 8080),
        filters::header_cases(V1),
    )
}

pub(crate) fn mesh_http_route_weight(s: &Stand) -> Outcome {
    let at = caller(s)?;
    let rules = [rule("")
        .backend(&format!("{{name: {V1}, port: 8080, weight: 70}}"))
        .backend(&format!("{{name: {V2}, port: 8080, weight: 30}}"))];
    s.apply(&http("weighted", ECHO, &rules))?;
    shares(s, at, &get("/").host("echo"), &[(V1, 0.7), (V2, 0.3)])
}

/// A filter that shows that a route was taken.
fn marks(value: &str) -> String {
    filters::response_edits(&[("X-Header-Set", value)], &[], "")
}

/// A route for one service is none for another.
pub(crate) fn mesh_frontend(s: &Stand) -> Outcome {
    let at = caller(s)?;
    let parent = "{group: '', kind: Service, name: echo-v2}";
    s.apply(&http(
        "marks",
        parent,
        &[to(rule("").filter(&marks("set")), V2)],
    ))?;
    let pod = s.sidecar(MESH, "v2")?.ip();
    s.expect_at(
        at,
        &[
            get("/").host(V2).by(V2).answers("X-Header-Set", "set"),
            get("/")
                .host(&format!("{pod}:8080"))
                .by(V2)
                .answers_without("X-Header-Set"),
        ],
    )
}

pub(crate) fn mesh_ports(s: &Stand) -> Outcome {
    let at = caller(s)?;
    let parent =
        |name: &str, port: &str| format!("{{group: '', kind: Service, name: {name}{port}}}");
    let own = |service: &str| format!("{{name: {service}, port: 80}}");
    let marked =
        |value: &str, service: &str| [rule("").filter(&marks(value)).backend(&own(service))];
    s.apply(&all(&[
        http("one-port", &parent(V1, ", port: 80"), &marked("v1", V1)),
        http("all-ports", &parent(V2, ""), &marked("v2", V2)),
    ]))?;
    s.expect_at(
        at,
        &[
            get("/").host(V1).by(V1).answers("X-Header-Set", "v1"),
            get("/")
                .host("echo-v1:8080")
                .by(V1)
                .answers_without("X-Header-Set"),
            get("/").host(V2).by(V2).answers("X-Header-Set", "v2"),
            get("/")
                .host("echo-v2:8080")
                .by(V2)
                .answers("X-Header-Set", "v2"),
        ],
    )
}

/// A route of another namespace than its service's is for callers of that namespace.
pub(crate) fn mesh_consumer_route(s: &Stand) -> Outcome {
    let own = caller(s)?;
    let consumer = s.sidecar(CONSUMER, "v1")?;
    let parent = format!("{{group: '', kind: Service, name: {V1}, namespace: {MESH}}}");
    let backend = format!("{{name: {V1}, namespace: {MESH}, port: 80}}");
    let rules = [rule("").filter(&marks("set")).backend(&backend)];
    s.apply(&route(
        ("HTTPRoute", "v1"),
        (CONSUMER, "consumer"),
        &parent,
        "",
        &rules,
    ))?;
    let host = format!("{V1}.{MESH}");
    s.expect_at(
        consumer,
        &[get("/").host(&host).by(V1).answers("X-Header-Set", "set")],
    )?;
    s.expect_at(
        own,
        &[get("/").host(&host).by(V1).answers_without("X-Header-Set")],
    )
}

fn grpc_route(name: &str, rules: &[Rule]) -> String {
    let parent = "{group: '', kind: Service, name: echo, port: 7070}";
    route(("GRPCRoute", "v1"), (MESH, name), parent, "", rules)
}

pub(crate) fn mesh_grpc_route_request_header_modifier(s: &Stand) -> Outcome {
    let at = caller(s)?;
    let to = |service: &str| format!("{{name: {service}, port: 7070}}");
    s.apply(&grpc_route("edits", &grpc::header_rules(&to(V1), &to(V2))))?;
    let cases: Vec<Case> = grpc::header_cases(V1, V2)
        .into_iter()
        .map(|case| case.host("echo:7070"))
        .collect();
    s.expect_at(at, &cases)
}

pub(crate) fn mesh_grpc_route_weight(s: &Stand) -> Outcome {
    let at = caller(s)?;
    let rules = [rule("")
        .backend(&format!("{{name: {V1}, port: 7070, weight: 70}}"))
        .backend(&format!("{{name: {V2}, port: 7070, weight: 30}}"))];
    s.apply(&grpc_route("weighted", &rules))?;
    shares(
        s,
        at,
        &call("Echo").host("echo:7070"),
        &[(V1, 0.7), (V2, 0.3)],
    )
}
