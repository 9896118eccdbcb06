//! Pods as the injector makes them, on two nodes, with the rules that their init containers make: what is captured
//! and what is not, in IPv4 and IPv6, and how pods begin and end.
//!
//! Everything runs in namespaces of its own (see [`network`]): the API server in memory, a control plane that was
//! installed there, and for each pod its sidecar with the arguments and variables that were injected.

mod captured;
mod kubelet;
mod life;
mod names;
mod network;
mod webhook;
mod world;

use std::net::IpAddr;

use serde_json::{Value, json};

use kubelet::Pod;
use world::{APP, World};

const ASK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/pods/ask.py");

/// What a pod's application is asked, by a program of the pod.
fn ask(pod: &Pod, args: &[&str]) -> String {
    let output = pod.exec("/usr/bin/python3", &[&[ASK], args].concat());
    assert!(
        output.status.success(),
        "{}: {args:?}: {output:?}",
        pod.name
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Where the proxy calls its application at an address like this from.
fn own_source(like: &IpAddr) -> &'static str {
    if like.is_ipv4() { "127.0.0.6" } else { "::6" }
}

/// The application of a pod: it listens at the pod's addresses only, as many do.
fn application(name: &str, at: &[IpAddr], python: &str) -> Value {
    let on = |port: u16| -> Vec<Value> { at.iter().map(|ip| json!([ip, port])).collect() };
    let http = [on(8080), on(7070), on(9999)].concat();
    let mut config = json!({"name": name, "http": http, "tcp": on(9090), "udp": on(5005)});
    if python != SYSTEM_PYTHON {
        config["grpc"] = json!(on(5051));
    }
    json!([python, APP, config.to_string()])
}

const SYSTEM_PYTHON: &str = "/usr/bin/python3";

/// A pod with one container, which is called `app`, that serves.
fn server(world: &World, name: &str, (node, number): (usize, u8), python: &str) -> Value {
    let at = world.families.pod(u8::try_from(node).unwrap() + 1, number);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "labels": {"app": "web", "version": "v1"},
            "annotations": {"traffic.sidecar.istio.io/excludeInboundPorts": "9999"},
        },
        "spec": {
            "serviceAccountName": "web",
            "containers": [{
                "name": "app", "image": "app",
                "command": application(name, &at, python),
                "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9090}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
                "livenessProbe": {"tcpSocket": {"port": 9090}},
            }],
        },
    })
}

/// A pod that calls others.
fn caller(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "serviceAccountName": name,
            "containers": [{"name": "app", "image": "app", "command": ["sleep", "infinity"]}],
        },
    })
}

/// The last leads to a port that no pod declares.
const PORTS: [(&str, u16, u16); 3] = [
    ("http", 80, 8080),
    ("tcp-echo", 90, 9090),
    ("http-quiet", 70, 7070),
];
const TARGETS: [(&str, u16); 3] = [("http", 8080), ("tcp-echo", 9090), ("http-quiet", 7070)];

/// Only the mesh is let in, but at port 7070, which no pod declares.
fn only_the_mesh(world: &World) {
    world.apply(&json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "mtls": {"mode": "STRICT"},
            "portLevelMtls": {"7070": {"mode": "PERMISSIVE"}},
        },
    }));
}
