//! Calls to services that Consul lists, through a sidecar: by weight, by health, by the mesh's rules, and
//! while Consul is away.

use std::collections::BTreeMap;

use meshctl::rt::Tasks;
use serde_json::json;

use crate::agent::{Agent, instance};
use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, service};

const HOST: &str = "web.service.consul:9080";

/// Waits until calls are shared like this, in each of three rounds.
async fn until_shared(caller: &Caller, mesh: &Mesh, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> = expected
        .iter()
        .map(|(who, share)| ((*who).to_owned(), *share))
        .collect();
    let round: usize = expected.values().sum();
    let deadline = meshctl::rt::now() + std::time::Duration::from_secs(20);
    loop {
        let counts = caller.count(HOST, 3 * round).await;
        let tripled = expected.iter().map(|(who, share)| (who.clone(), 3 * share));
        if counts == tripled.collect() {
            return;
        }
        assert!(
            meshctl::rt::now() < deadline,
            "{counts:?}, not {expected:?}\n{}",
            mesh.said("control-plane")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_where_consul_says_and_by_the_rules_of_the_mesh() {
    let tasks = Tasks::new();
    let mut agent = Agent::start();
    for (id, version, weight) in [("web-1", "v1", 3), ("web-2", "v2", 1)] {
        let at = backend(version, &tasks);
        let mut entry = instance("web", id, &at.ip().to_string(), at.port());
        entry["Service"]["Meta"] =
            json!({"protocol": "http", "service-port": "9080", "version": version});
        entry["Service"]["Weights"] = json!({"Passing": weight, "Warning": 1});
        agent.put(entry);
    }
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    let source = format!("consul=http://{}", agent.address);
    mesh.start_control_plane_with(&["--source", &source]).await;
    mesh.apply(&service("ops", &[("http", 9080)]));
    let app = App {
        service: "ops",
        version: "v1",
        port: 9080,
        at: backend("ops", &tasks),
        flags: &[],
    };
    let sidecar = mesh.sidecar(&app).await;
    let caller = Caller::new(sidecar.outbound());
    until_shared(&caller, &mesh, &[("v1", 3), ("v2", 1)]).await;
    agent.status("web", "web-1", "warning");
    until_shared(&caller, &mesh, &[("v1", 1), ("v2", 1)]).await;
    agent.status("web", "web-1", "critical");
    until_shared(&caller, &mesh, &[("v2", 1)]).await;
    agent.status("web", "web-1", "passing");
    until_shared(&caller, &mesh, &[("v1", 3), ("v2", 1)]).await;

    // Rules go before weights.
    mesh.apply(
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: web}, \
         spec: {host: web.service.consul, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}",
    );
    mesh.apply(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: web}, \
         spec: {hosts: [web.service.consul], http: [{route: [\
           {destination: {host: web.service.consul, subset: v1}, weight: 1}, \
           {destination: {host: web.service.consul, subset: v2}, weight: 4}]}]}}",
    );
    let deadline = meshctl::rt::now() + std::time::Duration::from_secs(20);
    loop {
        let counts = caller.count(HOST, 500).await;
        let share = counts.get("v2").copied().unwrap_or_default();
        if (340..=460).contains(&share) && counts.len() == 2 {
            break;
        }
        assert!(meshctl::rt::now() < deadline, "{counts:?}");
    }

    // Nobody notices that Consul is away, nor a control plane that starts again meanwhile.
    agent.stop().await;
    assert_eq!(caller.count(HOST, 200).await.len(), 2);
    mesh.kill_control_plane();
    mesh.start_control_plane_with(&["--source", &source]).await;
    let counts = caller.count(HOST, 200).await;
    assert_eq!(counts.len(), 2, "{counts:?}");
    mesh.run(&["delete", "virtualservice", "web"], None);
    agent.serve();
    agent.status("web", "web-1", "critical");
    until_shared(&caller, &mesh, &[("v2", 1)]).await;
}
