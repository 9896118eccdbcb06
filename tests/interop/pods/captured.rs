//! What is captured and what is not.

use std::collections::BTreeSet;

use serde_json::json;

use super::kubelet::ask_at;
use super::network::{BOTH, Families, ONLY_V4, ONLY_V6, in_namespace};
use super::world::{World, url};
use super::{PORTS, Pod, SYSTEM_PYTHON, TARGETS, ask, caller, only_the_mesh, own_source, server};
use crate::processes::installed;
use crate::stand::until;

#[test]
fn with_both_families() {
    in_namespace(|| pods(BOTH));
}

#[test]
fn where_nodes_have_no_ipv6() {
    in_namespace(|| pods(ONLY_V4));
}

#[test]
fn where_pods_have_only_ipv6() {
    in_namespace(|| pods(ONLY_V6));
}

async fn pods(families: Families) {
    let world = World::start(families).await;
    only_the_mesh(&world);
    // What the mesh does not know is not called, so who gets out was not captured.
    world.apply(&json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
        "metadata": {"name": "default", "namespace": "default"},
        "spec": {
            "egress": [{"hosts": ["*/*"]}],
            "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
        },
    }));
    world.service("web", 10, &PORTS);
    let mut client = caller("client");
    client["metadata"]["annotations"] = json!({
        "traffic.sidecar.istio.io/excludeOutboundPorts": "9998",
        "traffic.sidecar.istio.io/excludeOutboundIPRanges": "192.0.2.8/32,2001:db8::8/128",
    });
    // gRPC's probe needs its library.
    let python = installed("grpc", "bin/python");
    let python = python
        .as_ref()
        .map_or(SYSTEM_PYTHON, |path| path.to_str().unwrap());
    let mut one = server(&world, "web-1", (1, 12), python);
    if python != SYSTEM_PYTHON {
        one["spec"]["containers"][0]["startupProbe"] = json!({"grpc": {"port": 5051}});
    }
    let two = server(&world, "web-2", (0, 13), SYSTEM_PYTHON);
    let client = world.start_pod(&world.meshed(&client), 0, 11).await;
    let one = world.start_pod(&world.meshed(&one), 1, 12).await;
    let two = world.start_pod(&world.meshed(&two), 0, 13).await;
    let stranger = world.start_pod(&caller("stranger"), 1, 14).await;
    world.slices("web", &TARGETS, &[(&one, true), (&two, true)]);

    until("calls through the mesh", 60, || {
        client.curl(&["http://web.default/who"]).ok()
    })
    .await;
    probed(&world, &[&one, &two]).await;
    into_the_pod(&world, &one, &stranger);
    out_of_the_pod(&world, &client);
    to_itself(&world, &one);
    datagrams(&world, &client, &one);
    names(&world, &client);
}

/// Probes pass though only the mesh is let in: from the node, at each address.
async fn probed(world: &World, servers: &[&Pod]) {
    for pod in servers {
        let node = world
            .nodes
            .iter()
            .find(|node| pod.addresses[0] == world.families.pod(node.number, last(pod))[0])
            .unwrap();
        let (app, proxy) = (pod.container("app"), pod.container("meshctl-proxy"));
        for (container, field) in [
            (&proxy, "readinessProbe"),
            (&app, "readinessProbe"),
            (&app, "livenessProbe"),
            (&app, "startupProbe"),
        ] {
            let probe = &container[field];
            if probe.is_null() {
                continue;
            }
            for address in &pod.addresses {
                until(&format!("{field} of {} at {address}", pod.name), 20, || {
                    (ask_at(node, probe, *address)? == 200).then_some(())
                })
                .await;
            }
        }
        // As it was before injection the probe would be a caller without a certificate.
        let plain = json!({"httpGet": {"path": "/ready", "port": 8080}});
        assert_ne!(pod.ask(node, &plain), Some(200));
    }
}

fn last(pod: &Pod) -> u8 {
    let text = pod.addresses[0].to_string();
    let digits = text.rsplit(['.', ':']).next().unwrap();
    let radix = if text.contains(':') { 16 } else { 10 };
    u8::from_str_radix(digits, radix).unwrap()
}

/// How many connections a proxy has taken.
fn accepted(pod: &Pod) -> u64 {
    let info: serde_json::Value =
        serde_json::from_str(&pod.admin("/server_info").unwrap()).unwrap();
    info["accepted"].as_u64().unwrap()
}

/// What comes in is captured at every address, but for excluded ports; what is captured is handed over once.
fn into_the_pod(world: &World, server: &Pod, stranger: &Pod) {
    for (at, own) in server.addresses.iter().enumerate() {
        let theirs = stranger.addresses[at].to_string();
        let refused = stranger.curl(&[&url(*own, 8080, "/")]);
        assert!(refused.is_err(), "{refused:?}");
        // Nobody declared it, so the address that was called is called.
        let before = accepted(server);
        let undeclared = stranger.call(&url(*own, 7070, "/"));
        assert_eq!(undeclared["peer"], own_source(own));
        assert_eq!(undeclared["at"], own.to_string());
        assert_eq!(accepted(server), before + 1);
        let excluded = stranger.call(&url(*own, 9999, "/"));
        assert_eq!(excluded["peer"], theirs);
        // Ports of applications are not open on loopback here, and are reached all the same.
        let loopback = if own.is_ipv4() { "127.0.0.1" } else { "[::1]" };
        assert!(server.curl(&[&format!("http://{loopback}:8080/")]).is_err());
    }
    assert_eq!(world.families.v4, stranger.addresses[0].is_ipv4());
}

/// What goes out is captured in both families, but for excluded ports and networks.
fn out_of_the_pod(world: &World, client: &Pod) {
    for vip in world.families.service(10) {
        let mut met = BTreeSet::new();
        for _ in 0..20 {
            let said = client.call(&url(vip, 80, "/who"));
            let by = said["by"].as_str().unwrap();
            assert!(
                by.contains("spiffe://cluster.local/ns/default/sa/client"),
                "{said}"
            );
            assert!(["127.0.0.6", "::6"].contains(&said["peer"].as_str().unwrap()));
            met.insert(said["name"].as_str().unwrap().to_owned());
        }
        assert_eq!(met.into_iter().collect::<Vec<_>>(), ["web-1", "web-2"]);
        let quiet = client.call(&url(vip, 70, "/who"));
        let by = quiet["by"].as_str().unwrap();
        assert!(
            by.contains("spiffe://cluster.local/ns/default/sa/client"),
            "{quiet}"
        );
        let said = ask(client, &["tcp", &vip.to_string(), "90"]);
        assert!(said.starts_with("web-") && said.ends_with('6'), "{said}");
    }
    let outside = world.families.outside(7);
    let excluded = world.families.outside(8);
    for (at, own) in client.addresses.iter().enumerate() {
        let own = own.to_string();
        assert!(client.curl(&[&url(outside[at], 80, "/")]).is_err());
        assert_eq!(client.call(&url(outside[at], 9998, "/"))["peer"], own);
        assert_eq!(client.call(&url(excluded[at], 80, "/"))["peer"], own);
    }
}

/// A service that calls itself comes in like any other caller, and nothing goes round and round.
fn to_itself(world: &World, server: &Pod) {
    for vip in world.families.service(10) {
        let before = accepted(server);
        let mut calls = 0;
        let said = loop {
            calls += 1;
            let said = server.call(&url(vip, 80, "/me"));
            if said["name"] == server.name.as_str() {
                break said;
            }
            assert!(calls < 50);
        };
        assert!(said["by"].as_str().unwrap().contains("sa/web"), "{said}");
        // One for each call going out, and those that came in.
        assert!(accepted(server) <= before + 2 * calls);
    }
}

/// Datagrams go as they are.
fn datagrams(world: &World, client: &Pod, server: &Pod) {
    let outside = world.families.outside(7);
    for (at, own) in client.addresses.iter().enumerate() {
        let to = |ip: std::net::IpAddr| ask(client, &["udp", &ip.to_string(), "5005"]);
        assert_eq!(to(server.addresses[at]), format!("web-1 {own}"));
        assert_eq!(to(outside[at]), format!("outside {own}"));
    }
}

/// Names of the mesh are answered by the proxy whoever is asked, and others as before.
fn names(world: &World, client: &Pod) {
    let sorted = |addresses: Vec<std::net::IpAddr>| {
        let mut texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        texts.sort();
        texts.join(" ")
    };
    let (web, elsewhere) = (world.families.service(10), world.families.outside(7));
    for name in ["web", "web.default", "web.default.svc.cluster.local"] {
        assert_eq!(ask(client, &["names", name]), sorted(web.clone()));
    }
    assert_eq!(
        ask(client, &["names", "elsewhere.example"]),
        sorted(elsewhere.clone())
    );
    let host = "web.default.svc.cluster.local";
    for server in world.families.system(53) {
        let server = server.to_string();
        for over in ["udp", "tcp"] {
            for (kind, v4) in [("1", true), ("28", false)] {
                let of = |all: &[std::net::IpAddr]| {
                    let kept = all.iter().filter(|ip| ip.is_ipv4() == v4);
                    sorted(kept.copied().collect())
                };
                let asked = |name: &str| ask(client, &["dns", over, &server, name, kind]);
                assert_eq!(asked(host), of(&web), "{over} {server}");
                assert_eq!(
                    asked("elsewhere.example"),
                    of(&elsewhere),
                    "{over} {server}"
                );
            }
        }
    }
}
