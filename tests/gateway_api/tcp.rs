//! TCPRoute: connections by port alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use crate::case::same;
use crate::http_references::{GATEWAY_API, asks};
use crate::manifests::{all, gateway, grant, listener_with, tcp_route};
use crate::stand::{INFRA, Outcome, Stand, WEB};
use crate::status::Listener;

fn listens(name: &str, port: u16) -> String {
    listener_with(
        name,
        port,
        "TCP",
        "",
        "allowedRoutes: {kinds: [{kind: TCPRoute}]}",
    )
}

fn to(service: &str) -> String {
    format!("{{name: {service}, port: 3000}}")
}

fn reaches(s: &Stand, at: SocketAddr, backend: &str) -> Outcome {
    s.until(&format!("{at} to reach {backend}"), || {
        let report = s.bytes(at, None)?;
        same("the application", &Value::from(backend), &report["pod"])
    })
}

const ACCEPTED: [crate::status::Condition<'_>; 1] = [("Accepted", true, "Accepted")];

pub(crate) fn tcp_route_invalid_backend_ref_nonexistent(s: &Stand) -> Outcome {
    s.apply(&all(&[
        gateway("tcp", &[listens("tcp", 9300)]),
        tcp_route(
            "nowhere",
            "{name: tcp, sectionName: tcp}",
            "{name: nonexistent, port: 8080}",
        ),
    ]))?;
    let wanted = [("ResolvedRefs", false, "BackendNotFound")];
    s.says(("TCPRoute", INFRA, "nowhere"), "tcp", &wanted)
}

fn in_web() -> String {
    format!("{{name: tcp-web-backend, namespace: {WEB}, port: 3000}}")
}

pub(crate) fn tcp_route_invalid_cross_namespace_backend_ref(s: &Stand) -> Outcome {
    s.apply(&all(&[
        gateway("tcp", &[listens("tcp", 9321)]),
        tcp_route("elsewhere", "{name: tcp, sectionName: tcp}", &in_web()),
    ]))?;
    let wanted = [
        ("Accepted", true, ""),
        ("ResolvedRefs", false, "RefNotPermitted"),
    ];
    s.says(("TCPRoute", INFRA, "elsewhere"), "tcp", &wanted)?;
    let at = s.listener("tcp", 9321)?;
    match s.bytes(at, None) {
        Err(_) => Ok(()),
        Ok(report) => Err(report.to_string()),
    }
}

pub(crate) fn tcp_route_reference_grant(s: &Stand) -> Outcome {
    s.apply(&all(&[
        gateway("tcp", &[listens("tcp", 9320)]),
        grant(
            WEB,
            "tcp",
            &asks(GATEWAY_API, "TCPRoute", INFRA),
            "group: '', kind: Service, name: tcp-web-backend",
        ),
        tcp_route("elsewhere", "{name: tcp, sectionName: tcp}", &in_web()),
    ]))?;
    s.accepted("TCPRoute", &["elsewhere"], "tcp")?;
    let at = s.listener("tcp", 9320)?;
    reaches(s, at, "tcp-web-backend")?;
    s.delete("ReferenceGrant", WEB, "tcp")?;
    let wanted = [("ResolvedRefs", false, "RefNotPermitted")];
    s.says(("TCPRoute", INFRA, "elsewhere"), "tcp", &wanted)
}

pub(crate) fn tcp_route_invalid_non_tcp_listener(s: &Stand) -> Outcome {
    let http = "allowedRoutes: {kinds: [{kind: HTTPRoute}]}";
    s.apply(&all(&[
        gateway("http", &[listener_with("http", 5300, "HTTP", "", http)]),
        tcp_route(
            "misplaced",
            "{name: http, sectionName: http}",
            &to("tcp-one"),
        ),
    ]))?;
    let wanted = [("Accepted", false, "NotAllowedByListeners")];
    s.says(("TCPRoute", INFRA, "misplaced"), "http", &wanted)?;
    s.no_routes("http")
}

/// With the time that an API server would have written.
fn created(route: &str, second: u8) -> String {
    let time = format!("metadata: {{creationTimestamp: '2025-01-01T00:00:0{second}Z', ");
    route.replace("metadata: {", &time)
}

/// Of two routes on a listener both are accepted, and the older has the connections.
pub(crate) fn tcp_route_multiple_routes_attachment(s: &Stand) -> Outcome {
    let parent = "{name: tcp, sectionName: tcp}";
    s.apply(&all(&[
        gateway("tcp", &[listens("tcp", 9310)]),
        created(&tcp_route("older", parent, &to("tcp-one")), 1),
    ]))?;
    s.accepted("TCPRoute", &["older"], "tcp")?;
    s.apply(&created(&tcp_route("newer", parent, &to("tcp-two")), 2))?;
    for route in ["older", "newer"] {
        s.says(("TCPRoute", INFRA, route), "tcp", &ACCEPTED)?;
    }
    s.listeners(
        "tcp",
        &[Listener {
            name: "tcp",
            kinds: Some(&["TCPRoute"]),
            routes: Some(2),
            conditions: &ACCEPTED,
        }],
    )?;
    let at = s.listener("tcp", 9310)?;
    reaches(s, at, "tcp-one")?;
    for _ in 0..50 {
        let report = s.bytes(at, None)?;
        same("the application", &Value::from("tcp-one"), &report["pod"])?;
    }
    Ok(())
}

pub(crate) fn tcp_route_parent_ref_attach_all(s: &Stand) -> Outcome {
    let ports = [9310, 9311, 9312, 9313];
    let listeners = ports.map(|port| listens(&format!("on-{port}"), port));
    s.apply(&all(&[
        gateway("tcp", &listeners),
        tcp_route("everywhere", "{name: tcp}", &to("tcp-four")),
    ]))?;
    s.says(("TCPRoute", INFRA, "everywhere"), "tcp", &ACCEPTED)?;
    ports
        .iter()
        .try_for_each(|port| reaches(s, s.listener("tcp", *port)?, "tcp-four"))
}

pub(crate) fn tcp_route_parent_ref_port_and_section_name(s: &Stand) -> Outcome {
    s.apply(&all(&[
        gateway(
            "tcp",
            &[
                listens("one", 9300),
                listens("two", 9301),
                listens("three", 9302),
            ],
        ),
        tcp_route("by-port", "{name: tcp, port: 9300}", &to("tcp-one")),
        tcp_route(
            "by-section",
            "{name: tcp, sectionName: two}",
            &to("tcp-two"),
        ),
        tcp_route(
            "by-both",
            "{name: tcp, sectionName: three, port: 9302}",
            &to("tcp-three"),
        ),
    ]))?;
    for (route, port, backend) in [
        ("by-port", 9300, "tcp-one"),
        ("by-section", 9301, "tcp-two"),
        ("by-both", 9302, "tcp-three"),
    ] {
        s.says(("TCPRoute", INFRA, route), "tcp", &ACCEPTED)?;
        reaches(s, s.listener("tcp", port)?, backend)?;
    }
    Ok(())
}

pub(crate) fn tcp_route_weighted_routing(s: &Stand) -> Outcome {
    const SENT: u32 = 200;
    let share =
        |service: &str, weight: u8| format!("{{name: {service}, port: 3000, weight: {weight}}}");
    let backends = [
        share("tcp-one", 70),
        share("tcp-two", 30),
        share("tcp-three", 0),
    ]
    .join(", ");
    s.apply(&all(&[
        gateway("tcp", &[listens("tcp", 9300)]),
        tcp_route("weighted", "{name: tcp, sectionName: tcp}", &backends),
    ]))?;
    s.accepted("TCPRoute", &["weighted"], "tcp")?;
    let at = s.listener("tcp", 9300)?;
    s.until("an answer", || s.bytes(at, None))?;
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..SENT {
        let report = s.bytes(at, None)?;
        *shares.entry(report["pod"].to_string()).or_default() += 1;
    }
    let of = |name: &str| {
        let count = shares
            .get(&format!("{name:?}"))
            .copied()
            .unwrap_or_default();
        f64::from(count) / f64::from(SENT)
    };
    let near = (of("tcp-one") - 0.7).abs() <= 0.05 && (of("tcp-two") - 0.3).abs() <= 0.05;
    if near && shares.len() == 2 {
        Ok(())
    } else {
        Err(format!("{shares:?}"))
    }
}
