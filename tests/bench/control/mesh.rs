//! The mesh: what is written, what runs, and what changes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use meshctl::control::store_dir;
use meshctl::mesh::node::Node;
use meshctl::mesh::{Client, Health, Instance, Locality, NodeKind};
use meshctl::rt::now;
use meshctl::source::store::{Batch, Options, Store, Tree};
use meshctl::xds::Kind;
use prost::Message as _;

use super::QUIET;
use super::proxies::Fleet;
use super::server::Server;

const NAMESPACES: usize = 20;
pub(crate) const PORTS: [u16; 5] = [80, 8080, 9080, 9090, 7070];
const ENDPOINTS: usize = 10;
/// Services with a VirtualService and a DestinationRule: 200 objects.
const ROUTED: usize = 100;
/// The one whose weights change.
const SHIFTED: usize = 7;

/// How large it is, and how it is seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mesh {
    pub(crate) services: usize,
    /// Workloads know the services of their namespace only.
    pub(crate) sidecars: bool,
}

fn namespace(service: usize) -> String {
    format!("ns-{}", service % NAMESPACES)
}

fn port(service: usize) -> u16 {
    PORTS[service % PORTS.len()]
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
        also_at: Vec::new(),
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

impl Mesh {
    /// How many services have rules.
    fn routed(&self) -> usize {
        ROUTED.min(self.services / 2)
    }

    /// A service without rules, whose endpoints change.
    fn plain(&self) -> usize {
        self.services * 4 / 5
    }

    /// Applies what is written.
    pub(crate) fn apply(&self, server: &Server) {
        for from in (0..self.services).step_by(250) {
            let mut text = String::new();
            for service in from..self.services.min(from + 250) {
                let (namespace, port) = (namespace(service), port(service));
                write!(
                    text,
                    "---\napiVersion: v1\nkind: Service\nmetadata: {{name: svc-{service}, namespace: {namespace}}}\nspec: {{selector: {{app: svc-{service}}}, ports: [{{name: http, port: {port}, targetPort: 8080}}]}}\n"
                )
                .unwrap();
            }
            server.apply(&text);
        }
        let mut text = String::new();
        for service in 0..self.routed() {
            let namespace = namespace(service);
            write!(
                text,
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: svc-{service}, namespace: {namespace}}}\nspec: {{host: svc-{service}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}\n{}",
                route(service, 90)
            )
            .unwrap();
        }
        for number in (0..NAMESPACES).filter(|_| self.sidecars) {
            write!(
                text,
                "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default, namespace: {}}}\nspec: {{egress: [{{hosts: ['./*', 'istio-system/*']}}]}}\n",
                namespace(number)
            )
            .unwrap();
        }
        server.apply(&text);
    }

    /// Whether the proxy `which` knows of `service`.
    fn knows(&self, which: usize, service: usize) -> bool {
        !self.sidecars || namespace(which % self.services) == namespace(service)
    }
}

fn route(service: usize, weight: u32) -> String {
    let namespace = namespace(service);
    let rest = 100 - weight;
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: svc-{service}, namespace: {namespace}}}\nspec: {{hosts: [svc-{service}], http: [{{route: [{{destination: {{host: svc-{service}, subset: v1}}, weight: {weight}}}, {{destination: {{host: svc-{service}, subset: v2}}, weight: {rest}}}]}}]}}\n"
    )
}

/// Something that becomes so, and otherwise again.
pub(crate) struct Change {
    pub(crate) what: &'static str,
    /// What of the mesh it is about.
    service: fn(&Mesh) -> usize,
    /// The one resource that proxies have of it.
    resource: fn(usize) -> (Kind, String),
    ask: fn(&Server, usize, bool),
    /// Whether the resource is as it becomes.
    is: fn(&[u8], usize) -> bool,
}

pub(crate) const CHANGES: [Change; 2] = [
    Change {
        what: "an endpoint comes or goes",
        service: Mesh::plain,
        resource: |service| (Kind::Endpoint, cluster(service, "")),
        ask: change_endpoint,
        is: has_one_more,
    },
    Change {
        what: "the weights of a route",
        service: |_| SHIFTED,
        resource: |service| (Kind::Route, port(service).to_string()),
        ask: |server, service, first| {
            server.apply(&route(service, if first { FIRST_WEIGHT } else { 70 }));
        },
        is: has_first_weight,
    },
];
const FIRST_WEIGHT: u32 = 80;

impl Change {
    /// Makes it, one way or the other; gives how long it took until the last proxy that it concerns
    /// had acknowledged it. Everybody must have what it should, and nothing else may have come.
    pub(crate) fn make(
        &self,
        mesh: &Mesh,
        server: &Server,
        fleet: &Fleet,
        first: bool,
    ) -> Duration {
        let service = (self.service)(mesh);
        let concerned = |which: usize| mesh.knows(which, service);
        fleet.watch((self.resource)(service));
        let lost = fleet.lost();
        let (before, begun) = (fleet.counted().resources, now());
        (self.ask)(server, service, first);
        fleet.wait_told(&concerned);
        let took = fleet.last().duration_since(begun);
        fleet.wait_quiet(QUIET);
        let told = fleet.told();
        let all: usize = told.values().map(Vec::len).sum();
        for (bytes, proxies) in told {
            assert_eq!((self.is)(&bytes, service), first, "{}", self.what);
            assert!(proxies.iter().all(|which| concerned(*which)));
        }
        assert_eq!(fleet.lost(), lost, "the machine is too busy to measure");
        let came = fleet.counted().resources - before;
        assert_eq!(came, u64::try_from(all).unwrap(), "{}", self.what);
        took
    }
}

fn cluster(service: usize, subset: &str) -> String {
    let (port, namespace) = (port(service), namespace(service));
    format!("outbound|{port}|{subset}|svc-{service}.{namespace}.svc.cluster.local")
}

/// One more endpoint of a service, or one less.
fn change_endpoint(server: &Server, service: usize, more: bool) {
    let instance = instance(service, ENDPOINTS);
    let path = "/registry/instances";
    if more {
        let body = serde_json::json!({"instance": instance, "ttlSeconds": 0});
        server.ask("POST", path, &body.to_string());
    } else {
        let one = format!("{path}/{}/{}", instance.namespace, instance.name);
        server.ask("DELETE", &one, "");
    }
}

fn has_one_more(bytes: &[u8], service: usize) -> bool {
    let all = ClusterLoadAssignment::decode(bytes).unwrap();
    let endpoints = all
        .endpoints
        .into_iter()
        .flat_map(|group| group.lb_endpoints);
    let addresses: Vec<String> = endpoints
        .map(|endpoint| {
            let Some(HostIdentifier::Endpoint(endpoint)) = endpoint.host_identifier else {
                panic!("no endpoint")
            };
            match endpoint.address.and_then(|address| address.address) {
                Some(Address::SocketAddress(socket)) => socket.address,
                other => panic!("{other:?}"),
            }
        })
        .collect();
    let more = instance(service, ENDPOINTS).address.to_string();
    let there = addresses.contains(&more);
    assert_eq!(addresses.len(), ENDPOINTS + usize::from(there));
    there
}

fn has_first_weight(bytes: &[u8], service: usize) -> bool {
    let table = RouteConfiguration::decode(bytes).unwrap();
    let mut routes = table.virtual_hosts.into_iter().flat_map(|host| host.routes);
    let weight = routes.find_map(|route| {
        let Some(Action::Route(to)) = route.action else {
            return None;
        };
        let Some(ClusterSpecifier::WeightedClusters(weighted)) = to.cluster_specifier else {
            return None;
        };
        let own = cluster(service, "v1");
        let target = weighted.clusters.into_iter().find(|to| to.name == own)?;
        Some(target.weight?.value)
    });
    weight.unwrap() == FIRST_WEIGHT
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
