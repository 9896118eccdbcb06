//! TLSRoute: TLS that passes, and TLS that ends at the Gateway.

use serde_json::Value;

use crate::case::{Case, get, same};
use crate::http_references::wrong_grants;
use crate::manifests::{
    all, gateway, listener, listener_with, tls_listener, tls_route, tls_routes,
};
use crate::stand::{APPS, INFRA, Outcome, Stand};
use crate::status::Listener;

const PASSES: &str = "mode: Passthrough";
const ENDS: &str = "mode: Terminate, certificateRefs: [{name: terminate-certificate}]";
const TLS: &[&str] = &["TLSRoute"];

fn accepted(s: &Stand, names: &[&str], gateway: &str) -> Outcome {
    s.accepted("TLSRoute", names, gateway)
}

/// A caller that wants the backend's own certificate.
fn passing(s: &Stand, server_name: &str) -> Case {
    get("/").host(server_name).tls(s.tls(server_name))
}

/// The connection is refused.
pub(crate) fn rejected(s: &Stand, gateway: &str, port: u16, server_name: &str) -> Outcome {
    let at = s.listener(gateway, port)?;
    s.until(&format!("{server_name} to be refused"), || {
        match s.bytes(at, Some(&s.tls(server_name))) {
            Err(_) => Ok(()),
            Ok(report) => Err(report.to_string()),
        }
    })
}

/// An application of bytes is reached, over TLS to it or not.
pub(crate) fn reaches(
    s: &Stand,
    (gateway, port): (&str, u16),
    server_name: &str,
    backend: &str,
    backend_name: Option<&str>,
) -> Outcome {
    let at = s.listener(gateway, port)?;
    s.until(&format!("{server_name} to reach {backend}"), || {
        let report = s.bytes(at, Some(&s.tls(server_name)))?;
        same("the application", &Value::from(backend), &report["pod"])?;
        same("TLS", &Value::from(backend_name.is_some()), &report["tls"])?;
        same(
            "its name",
            &Value::from(backend_name.unwrap_or_default()),
            &report["sni"],
        )
    })
}

pub(crate) fn tls_route_simple_same_namespace(s: &Stand) -> Outcome {
    s.apply(&all(&[
        gateway("tls", &[tls_routes("https", 443, "*.example.com", PASSES)]),
        tls_route(
            "simple",
            "{name: tls}",
            "abc.example.com",
            "{name: tcp-backend, port: 8443}",
        ),
    ]))?;
    accepted(s, &["simple"], "tls")?;
    let name = "abc.example.com";
    reaches(s, ("tls", 443), name, "tcp-backend", Some(name))
}

pub(crate) fn tls_route_terminate_simple_same_namespace(s: &Stand) -> Outcome {
    s.apply(&all(&[
        gateway("ends", &[tls_routes("tls", 8443, "tls.example.com", ENDS)]),
        tls_route(
            "ended",
            "{name: ends}",
            "tls.example.com",
            "{name: tcp-backend, port: 3000}",
        ),
    ]))?;
    accepted(s, &["ended"], "ends")?;
    reaches(s, ("ends", 8443), "tls.example.com", "tcp-backend", None)?;
    rejected(s, "ends", 8443, "abc.example.com")
}

/// A listener for TLSRoutes with so many of them.
fn says<'a>(
    name: &'a str,
    routes: u64,
    conditions: &'a [crate::status::Condition<'a>],
) -> Listener<'a> {
    Listener {
        name,
        kinds: Some(TLS),
        routes: Some(routes),
        conditions,
    }
}

const ACCEPTED: &[crate::status::Condition<'_>] = &[("Accepted", true, "Accepted")];

fn mixed(name: &str) -> String {
    gateway(
        name,
        &[
            tls_routes("tls-terminate", 8883, "tls.example.com", ENDS),
            tls_routes("tls-passthrough", 8883, "abc.example.com", PASSES),
        ],
    )
}

pub(crate) fn tls_route_mixed_termination_same_namespace(s: &Stand) -> Outcome {
    s.apply(&all(&[
        mixed("mixed"),
        tls_route(
            "passed",
            "{name: mixed}",
            "abc.example.com",
            "{name: tcp-backend, port: 8443}",
        ),
        tls_route(
            "ended",
            "{name: mixed}",
            "tls.example.com",
            "{name: tcp-backend, port: 3000}",
        ),
    ]))?;
    accepted(s, &["passed", "ended"], "mixed")?;
    s.listeners(
        "mixed",
        &[
            says("tls-terminate", 1, ACCEPTED),
            says("tls-passthrough", 1, ACCEPTED),
        ],
    )?;
    reaches(s, ("mixed", 8883), "tls.example.com", "tcp-backend", None)?;
    let name = "abc.example.com";
    reaches(s, ("mixed", 8883), name, "tcp-backend", Some(name))
}

pub(crate) fn tls_route_listener_passthrough_supported_kinds(s: &Stand) -> Outcome {
    let more =
        "allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: TLSRoute}]}, tls: {mode: Passthrough}";
    s.apply(&gateway(
        "kinds",
        &[listener_with("tls-passthrough", 443, "TLS", "", more)],
    ))?;
    let wanted = says(
        "tls-passthrough",
        0,
        &[("ResolvedRefs", false, "InvalidRouteKinds")],
    );
    s.listeners("kinds", &[wanted])
}

pub(crate) fn tls_route_listener_terminate_supported_kinds(s: &Stand) -> Outcome {
    s.apply(&gateway(
        "kinds",
        &[tls_routes(
            "tls-terminate",
            8443,
            "terminate.example.com",
            ENDS,
        )],
    ))?;
    s.listeners("kinds", &[says("tls-terminate", 0, ACCEPTED)])
}

/// A route serves the names that it and a listener both have, the more specific route first.
pub(crate) fn tls_route_hostname_intersection(s: &Stand) -> Outcome {
    let (one, two) = (
        "{name: tls-backend, port: 443}",
        "{name: tls-backend-2, port: 443}",
    );
    let on = |gateway: &str| format!("{{name: {gateway}}}");
    let of = |gateway: &str, hosts: &str, to: &str, at: u8| {
        tls_route(&format!("{gateway}-{at}"), &on(gateway), hosts, to)
    };
    let listens = |name: &str, host: &str| gateway(name, &[tls_routes("tls", 443, host, PASSES)]);
    let exact = "abc.example.com";
    s.apply(&all(&[
        listens("exact", exact),
        of("exact", "'*.example.com'", one, 1),
        listens("narrow", "*.example.com"),
        of("narrow", exact, one, 1),
        of("narrow", "'*.com'", two, 2),
        listens("wide", "*.com"),
        of("wide", exact, one, 1),
        of("wide", "'*.example.com'", two, 2),
        listens("open", ""),
        of("open", exact, one, 1),
        of("open", "'*.com'", two, 2),
    ]))?;
    for (gateway, routes, stranger) in [
        ("exact", &["exact-1"][..], "non.matching.com"),
        ("narrow", &["narrow-1", "narrow-2"], "non.matching.com"),
        ("wide", &["wide-1", "wide-2"], "non.matching.com"),
        ("open", &["open-1", "open-2"], "non.matching.org"),
    ] {
        accepted(s, routes, gateway)?;
        let at = s.listener(gateway, 443)?;
        s.expect_at(at, &[passing(s, exact).by("tls-backend")])?;
        if routes.len() > 1 {
            s.expect_at(at, &[passing(s, "other.example.com").by("tls-backend-2")])?;
        }
        rejected(s, gateway, 443, stranger)?;
    }
    Ok(())
}

/// A backend that cannot be had: accepted, told, and nobody gets through.
fn unresolved(s: &Stand, backend: &str, reason: &str) -> Outcome {
    s.apply(&all(&[
        gateway("unresolved", &[tls_listener("tls", 443, "TLS", "", PASSES)]),
        tls_route("unresolved", "{name: unresolved}", "example.com", backend),
    ]))?;
    let wanted = [("Accepted", true, ""), ("ResolvedRefs", false, reason)];
    s.says(("TLSRoute", INFRA, "unresolved"), "unresolved", &wanted)?;
    rejected(s, "unresolved", 443, "example.com")
}

pub(crate) fn tls_route_invalid_backend_ref_nonexistent(s: &Stand) -> Outcome {
    unresolved(s, "{name: nonexistent, port: 443}", "BackendNotFound")
}

pub(crate) fn tls_route_invalid_backend_ref_unknown_kind(s: &Stand) -> Outcome {
    let backend =
        "{group: unknownkind.example.com, kind: NonExistent, name: tls-backend, port: 443}";
    unresolved(s, backend, "InvalidKind")
}

pub(crate) fn tls_route_invalid_reference_grant(s: &Stand) -> Outcome {
    s.apply(&all(&wrong_grants(
        APPS,
        "TLSRoute",
        "Service",
        "tls-backend",
    )))?;
    let backend = format!("{{name: tls-backend, namespace: {APPS}, port: 443}}");
    unresolved(s, &backend, "RefNotPermitted")
}

/// No Gateway takes the route, and none counts it.
fn refused(s: &Stand, route: &str, gateway: &str, reason: &str) -> Outcome {
    let route = ("TLSRoute", INFRA, route);
    s.says(route, gateway, &[("Accepted", false, reason)])?;
    s.not_accepted(route)?;
    s.no_routes(gateway)
}

pub(crate) fn tls_route_invalid_no_matching_listener_hostname(s: &Stand) -> Outcome {
    let to = "{name: tls-backend, port: 443}";
    s.apply(&all(&[
        gateway(
            "exact",
            &[tls_routes("tls", 443, "www.example.com", PASSES)],
        ),
        gateway(
            "wildcard",
            &[tls_routes("tls", 443, "*.example.com", PASSES)],
        ),
        tls_route(
            "one",
            "{name: exact}",
            "www.nomatch.com, '*.nomatch.com'",
            to,
        ),
        tls_route(
            "two",
            "{name: wildcard}",
            "www.different.com, '*.different.com'",
            to,
        ),
    ]))?;
    refused(s, "one", "exact", "NoMatchingListenerHostname")?;
    refused(s, "two", "wildcard", "NoMatchingListenerHostname")
}

pub(crate) fn tls_route_invalid_no_matching_listener(s: &Stand) -> Outcome {
    let certificate = "mode: Terminate, certificateRefs: [{name: listener-certificate}]";
    let to = |name: &str, parent: &str| {
        tls_route(
            name,
            parent,
            "tls.example.com",
            "{name: tls-backend, port: 443}",
        )
    };
    s.apply(&all(&[
        gateway("passes", &[tls_listener("tls", 443, "TLS", "", PASSES)]),
        gateway("http-only", &[listener("http", 80, "HTTP", "")]),
        gateway(
            "https-only",
            &[tls_listener("https", 443, "HTTPS", "", certificate)],
        ),
        to("on-http", "{name: http-only}"),
        to("on-https", "{name: https-only}"),
        to("on-none", "{name: passes, sectionName: nonexistent}"),
    ]))?;
    refused(s, "on-http", "http-only", "NotAllowedByListeners")?;
    refused(s, "on-https", "https-only", "NotAllowedByListeners")?;
    refused(s, "on-none", "passes", "NoMatchingParent")
}
