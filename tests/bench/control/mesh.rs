//! The mesh: what is written, what runs, and what changes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use meshctl::control::store_dir;
use meshctl::mesh::node::Node;
use meshctl::mesh::{Client, Health, Instance, Locality, NodeKind};
use meshctl::source::store::{Batch, Options, Store, Tree};

use super::server::Server;

const NAMESPACES: usize = 20;
pub(crate) const PORTS: [u16; 5] = [80, 8080, 9080, 9090, 7070];
const ENDPOINTS: usize = 10;
/// Services with a VirtualService and a DestinationRule: 200 objects.
const ROUTED: usize = 100;

fn namespace(service: usize) -> String {
    format!("ns-{}", service % NAMESPACES)
}

fn instance(service: usize, which: usize) -> Instance {
    let number = u32::try_from(service * 64 + which).unwrap() + 0x0a00_0001;
    let version = format!("v{}", which % 2 + 1);
    Instance {
        name: format!("svc-{service}-{version}-7d9c5b8f6-{which:05}"),
        namespace: namespace(service),
        workload: format!("svc-{service}-{version}"),
        service_account: format!("svc-{service}"),
        labels: [
            ("app".to_owned(), format!("svc-{service}")),
            ("version".to_owned(), version),
        ]
        .into(),
        locality: Locality::default(),
        address: IpAddr::V4(Ipv4Addr::from(number)),
        ports: [].into(),
        port_names: [].into(),
        service_ports: [].into(),
        weight: 1,
        health: Health::Healthy,
        mtls: true,
    }
}

/// Puts what runs into the store, as if it had registered.
pub(crate) fn register(home: &Path, services: usize) {
    meshctl::rt::disk::private_dir(&home.join("control")).unwrap();
    let (store, _) = Store::open(&store_dir(home), &Options::default()).unwrap();
    for from in (0..services).step_by(100) {
        let mut batch = Batch::new();
        for service in from..services.min(from + 100) {
            for which in 0..ENDPOINTS {
                let instance = instance(service, which);
                let key = format!("{}/{}", instance.namespace, instance.name);
                let kept = serde_json::json!({"instance": instance, "ttl_seconds": 0});
                batch.put(Tree::Registry, key, serde_json::to_vec(&kept).unwrap());
            }
        }
        store.commit(batch).unwrap();
    }
}

/// Applies what is written.
pub(crate) fn apply(server: &Server, services: usize) {
    for from in (0..services).step_by(250) {
        let mut text = String::new();
        for service in from..services.min(from + 250) {
            let (namespace, port) = (namespace(service), PORTS[service % PORTS.len()]);
            write!(
                text,
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: svc-{service}, namespace: {namespace}}}\nspec: {{selector: {{app: svc-{service}}}, ports: [{{name: http, port: {port}, targetPort: 8080}}]}}\n"
            )
            .unwrap();
        }
        server.apply(&text);
    }
    let mut text = String::new();
    for service in 0..ROUTED {
        let namespace = namespace(service);
        write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: svc-{service}, namespace: {namespace}}}\nspec: {{host: svc-{service}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}\n{}",
            route(service, 90)
        )
        .unwrap();
    }
    server.apply(&text);
}

fn route(service: usize, weight: u32) -> String {
    let namespace = namespace(service);
    let rest = 100 - weight;
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: svc-{service}, namespace: {namespace}}}\nspec: {{hosts: [svc-{service}], http: [{{route: [{{destination: {{host: svc-{service}, subset: v1}}, weight: {weight}}}, {{destination: {{host: svc-{service}, subset: v2}}, weight: {rest}}}]}}]}}\n"
    )
}

/// One more endpoint of a service without rules, or one less.
pub(crate) fn change_endpoint(server: &Server, number: usize) {
    let instance = instance(ROUTED + 700, ENDPOINTS);
    let path = "/registry/instances";
    if number.is_multiple_of(2) {
        let body = serde_json::json!({"instance": instance, "ttlSeconds": 0});
        server.ask("POST", path, &body.to_string());
    } else {
        let one = format!("{path}/{}/{}", instance.namespace, instance.name);
        server.ask("DELETE", &one, "");
    }
}

/// Other weights of one service.
pub(crate) fn change_route(server: &Server, number: usize) {
    let weight = if number.is_multiple_of(2) { 80 } else { 70 };
    server.apply(&route(7, weight));
}

/// The proxy of the first instance of service `which`.
pub(crate) fn node(which: usize, services: usize) -> Node {
    let of = instance(which % services, 0);
    Node {
        id: format!(
            "sidecar~{}~{}.{}~{}.svc.cluster.local",
            of.address, of.name, of.namespace, of.namespace
        ),
        client: Client::Meshctl,
        kind: NodeKind::Sidecar,
        name: of.name,
        namespace: of.namespace,
        service_account: of.service_account,
        workload: of.workload,
        labels: of.labels,
        locality: of.locality,
        address: of.address,
        outbound: ([127, 0, 0, 1], 15001).into(),
        inbound: ([0, 0, 0, 0], 15006).into(),
        transparent: true,
        applications: Vec::new(),
    }
}
