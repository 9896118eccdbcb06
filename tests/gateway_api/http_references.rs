//! HTTPRoute: references that lead nowhere, or may not be made.

use crate::case::{Case, get};
use crate::manifests::{
    all, gateway, grant, http_route, listener_with, prefix, route, rule, tls_routes,
};
use crate::stand::{APPS, INFRA, Outcome, Stand, WEB};

const V1: &str = "infra-backend-v1";
const SAME: &str = "{name: same-namespace}";

/// A route whose one backend cannot be had: it is accepted, says why, and answers 500.
fn unresolved(s: &Stand, backend: &str, reason: &str) -> Outcome {
    s.apply(&http_route(
        "unresolved",
        SAME,
        "",
        &[rule("").backend(backend)],
    ))?;
    said_and_500(s, "unresolved", reason, &[get("/").status(500)])
}

fn said_and_500(s: &Stand, name: &str, reason: &str, cases: &[Case]) -> Outcome {
    let wanted = [("Accepted", true, ""), ("ResolvedRefs", false, reason)];
    s.says(("HTTPRoute", INFRA, name), "same-namespace", &wanted)?;
    s.expect("same-namespace", cases)
}

pub(crate) fn http_route_invalid_backend_ref_unknown_kind(s: &Stand) -> Outcome {
    let backend =
        format!("{{group: unknownkind.example.com, kind: NonExistent, name: {V1}, port: 8080}}");
    unresolved(s, &backend, "InvalidKind")
}

pub(crate) fn http_route_invalid_non_existent_backend_ref(s: &Stand) -> Outcome {
    unresolved(s, "{name: nonexistent, port: 8080}", "BackendNotFound")
}

fn in_web() -> String {
    format!("{{name: web-backend, namespace: {WEB}, port: 8080}}")
}

pub(crate) fn http_route_invalid_cross_namespace_backend_ref(s: &Stand) -> Outcome {
    unresolved(s, &in_web(), "RefNotPermitted")
}

/// Who asks and what is asked for, as grants name them.
pub(crate) fn asks(group: &str, kind: &str, namespace: &str) -> String {
    format!("group: {group}, kind: {kind}, namespace: {namespace}")
}

pub(crate) const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// Grants of which each is wrong in one point, for a service or secret of `namespace`.
pub(crate) fn wrong_grants(
    namespace: &str,
    from_kind: &str,
    kind: &str,
    name: &str,
) -> Vec<String> {
    let to = format!("group: '', kind: {kind}, name: {name}");
    let own = asks(GATEWAY_API, from_kind, INFRA);
    let other_kind = if from_kind == "Gateway" {
        "HTTPRoute"
    } else {
        "Gateway"
    };
    let other_target = if kind == "Secret" {
        "Service"
    } else {
        "Secret"
    };
    let elsewhere = if namespace == APPS { INFRA } else { APPS };
    vec![
        grant(elsewhere, "wrong-namespace", &own, &to),
        grant(
            namespace,
            "wrong-from-group",
            &asks("another.group", from_kind, INFRA),
            &to,
        ),
        grant(
            namespace,
            "wrong-from-kind",
            &asks(GATEWAY_API, other_kind, INFRA),
            &to,
        ),
        grant(
            namespace,
            "wrong-from-namespace",
            &asks(GATEWAY_API, from_kind, "another"),
            &to,
        ),
        grant(
            namespace,
            "wrong-to-group",
            &own,
            &format!("group: another.group, kind: {kind}, name: {name}"),
        ),
        grant(
            namespace,
            "wrong-to-kind",
            &own,
            &format!("group: '', kind: {other_target}, name: {name}"),
        ),
        grant(
            namespace,
            "wrong-to-name",
            &own,
            &format!("group: '', kind: {kind}, name: another"),
        ),
    ]
}

pub(crate) fn http_route_invalid_reference_grant(s: &Stand) -> Outcome {
    s.apply(&all(&wrong_grants(
        WEB,
        "HTTPRoute",
        "Service",
        "web-backend",
    )))?;
    unresolved(s, &in_web(), "RefNotPermitted")
}

pub(crate) fn http_route_reference_grant(s: &Stand) -> Outcome {
    s.apply(&all(&[
        grant(
            WEB,
            "granted",
            &asks(GATEWAY_API, "HTTPRoute", INFRA),
            "group: '', kind: Service, name: web-backend",
        ),
        http_route("granted", SAME, "", &[rule("").backend(&in_web())]),
    ]))?;
    s.http_accepted(&["granted"], "same-namespace")?;
    s.expect("same-namespace", &[get("/").by_in(WEB, "web-backend")])?;
    s.delete("ReferenceGrant", WEB, "granted")?;
    said_and_500(s, "granted", "RefNotPermitted", &[get("/").status(500)])
}

/// What may be had is served, and the rest answered 500.
pub(crate) fn http_route_partially_invalid_via_invalid_reference_grant(s: &Stand) -> Outcome {
    let in_apps = |name: &str| format!("{{name: {name}, namespace: {APPS}, port: 8080}}");
    s.apply(&all(&[
        grant(
            APPS,
            "first-only",
            &asks(GATEWAY_API, "HTTPRoute", INFRA),
            "group: '', kind: Service, name: app-backend-v1",
        ),
        http_route(
            "partly",
            SAME,
            "",
            &[
                rule(&prefix("/v2")).backend(&in_apps("app-backend-v2")),
                rule("").backend(&in_apps("app-backend-v1")),
            ],
        ),
    ]))?;
    let cases = [
        get("/v2").status(500),
        get("/").by_in(APPS, "app-backend-v1"),
    ];
    said_and_500(s, "partly", "RefNotPermitted", &cases)
}

/// A route that no listener takes: said by the route, and counted by no listener.
fn refused(s: &Stand, of: (&str, &str), gateway: &str, reason: &str) -> Outcome {
    let route = ("HTTPRoute", of.0, of.1);
    s.says(route, gateway, &[("Accepted", false, reason)])?;
    s.not_accepted(route)?;
    s.no_routes(gateway)
}

pub(crate) fn http_route_invalid_cross_namespace_parent_ref(s: &Stand) -> Outcome {
    let parent = format!("{{name: same-namespace, namespace: {INFRA}}}");
    let rules = [rule("").to("web-backend")];
    s.apply(&route(
        ("HTTPRoute", "v1"),
        (WEB, "from-elsewhere"),
        &parent,
        "",
        &rules,
    ))?;
    refused(
        s,
        (WEB, "from-elsewhere"),
        "same-namespace",
        "NotAllowedByListeners",
    )
}

pub(crate) fn http_route_disallowed_kind(s: &Stand) -> Outcome {
    s.apply(&all(&[
        gateway(
            "tlsroutes-only",
            &[tls_routes("tls", 443, "", "mode: Passthrough")],
        ),
        http_route(
            "disallowed",
            "{name: tlsroutes-only}",
            "",
            &[rule("").to(V1)],
        ),
    ]))?;
    refused(
        s,
        (INFRA, "disallowed"),
        "tlsroutes-only",
        "NotAllowedByListeners",
    )
}

pub(crate) fn http_route_invalid_parent_ref_not_matching_section_name(s: &Stand) -> Outcome {
    let parent = "{name: same-namespace, port: 80, sectionName: http1}";
    s.apply(&http_route("no-section", parent, "", &[rule("").to(V1)]))?;
    refused(
        s,
        (INFRA, "no-section"),
        "same-namespace",
        "NoMatchingParent",
    )
}

pub(crate) fn http_route_invalid_parent_ref_not_matching_listener_port(s: &Stand) -> Outcome {
    let parent = "{name: same-namespace, port: 81}";
    s.apply(&http_route("no-port", parent, "", &[rule("").to(V1)]))?;
    refused(s, (INFRA, "no-port"), "same-namespace", "NoMatchingParent")
}

pub(crate) fn http_route_invalid_parent_ref_section_name_not_matching_port(s: &Stand) -> Outcome {
    let name = "section-on-80";
    let kinds = "allowedRoutes: {kinds: [{kind: HTTPRoute}], namespaces: {from: All}}";
    let parent = format!("{{name: {name}, sectionName: http, port: 81}}");
    s.apply(&all(&[
        gateway(name, &[listener_with("http", 80, "HTTP", "", kinds)]),
        http_route("not-both", &parent, "", &[rule("").to(V1)]),
    ]))?;
    refused(s, (INFRA, "not-both"), name, "NoMatchingParent")
}

pub(crate) fn http_route_observed_generation_bump(s: &Stand) -> Outcome {
    let to = |service: &str| http_route("changing", SAME, "", &[rule("").to(service)]);
    s.apply(&to(V1))?;
    s.generations(("HTTPRoute", INFRA, "changing"), &to("infra-backend-v2"))?;
    s.http_accepted(&["changing"], "same-namespace")
}
