use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::mesh::world::Instances;
use crate::mesh::{Health, Locality, NodeKind, check};
use crate::resource::{self, Objects};
use crate::xds::{Kind, generate};

/// Objects that come and go, each with what makes proxies differ.
const OBJECTS: &[&str] = &[
    "apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{name: http, port: 80, targetPort: web}, {name: tcp-db, port: 3306}]}",
    "apiVersion: v1
kind: Service
metadata: {name: b}
spec: {selector: {app: b}, ports: [{port: 80, targetPort: 8080}]}",
    "apiVersion: v1
kind: Service
metadata: {name: c, namespace: two}
spec: {selector: {app: a}, ports: [{name: grpc, port: 80}]}",
    "apiVersion: v1
kind: Service
metadata: {name: a-v1}
spec: {selector: {app: a, version: v1}, ports: [{name: http, port: 81, targetPort: 8080}]}",
    "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]",
    "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b, namespace: two}
spec: {host: b.default.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}}",
    "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b}
spec:
  host: b
  trafficPolicy:
    loadBalancer: {localityLbSetting: {enabled: true, failover: [{from: r1, to: r2}]}}
    outlierDetection: {consecutive5xxErrors: 3}",
    "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a]
  http:
  - match: [{sourceLabels: {version: v1}}]
    route: [{destination: {host: b}}]
  - route: [{destination: {host: a, subset: v1}}]",
    "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec: {hosts: [a], tcp: [{match: [{port: 3306}], route: [{destination: {host: b, port: {number: 80}}}]}]}",
    "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: two}
spec: {egress: [{hosts: ['./*', default/b.default.svc.cluster.local]}]}",
    "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: v1}
spec: {workloadSelector: {labels: {version: v1}}, egress: [{port: {number: 80, protocol: HTTP}, hosts: ['*/*']}]}",
    "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: i-1}
spec: {address: 192.0.2.9, labels: {app: a, version: v2}, serviceAccount: written}",
    "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out}
spec:
  hosts: [out.example]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.77, locality: r1/z1}, {address: 192.0.2.78, locality: r2/z1}]",
    "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: plaintext}
spec: {selector: {matchLabels: {version: v2}}, mtls: {mode: DISABLE}}",
    "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {app: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}",
    "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec: {hosts: [edge.example], gateways: [edge], http: [{route: [{destination: {host: a}}]}]}",
    "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b}
spec:
  hosts: [b]
  http: [{route: [{destination: {host: a, subset: v1}, weight: 90}, {destination: {host: c.two.svc.cluster.local}, weight: 10}]}]",
    // These take the place of others of their names.
    "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b}
spec:
  hosts: [b]
  http: [{route: [{destination: {host: a, subset: v1}, weight: 80}, {destination: {host: b}, weight: 20}]}]",
    "apiVersion: v1
kind: Service
metadata: {name: b}
spec: {selector: {app: a}, ports: [{name: tcp, port: 80, targetPort: 8080}, {name: http, port: 81}]}",
    "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}
  subsets: [{name: v1, labels: {version: v2}}]",
    "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside}
spec: {hosts: ['*.wide.example', far.example], http: [{route: [{destination: {host: a}}]}]}",
    "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: wide, namespace: istio-system}
spec: {host: '*.svc.cluster.local', trafficPolicy: {connectionPool: {http: {maxRetries: 3}}}}",
    "apiVersion: policy.meshctl.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: a}
spec: {targetRefs: [{kind: Service, name: a}], limits: [{requests: 10, unit: Second}]}",
    "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: meshctl
  listeners:
  - {name: http, port: 8080, protocol: HTTP}
  - {name: tls, port: 443, protocol: TLS, hostname: '*.example.com', tls: {mode: Passthrough}}",
    "apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: passed}
spec:
  parentRefs: [{name: edge, sectionName: tls}]
  hostnames: [shop.example.com]
  rules: [{backendRefs: [{name: b, port: 80}, {name: a, port: 80}]}]",
    "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: b}
spec:
  targetRefs: [{group: '', kind: Service, name: b}]
  validation: {wellKnownCACertificates: System, hostname: b.internal}",
    "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: a}
spec:
  targetRefs: [{group: '', kind: Service, name: a}]
  validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: not-there}], hostname: a.internal}",
    "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: relay}
spec:
  selector: {app: edge}
  servers: [{port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}]",
    "apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'connectTimeout: 3s'}",
    "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: secured}
spec:
  host: out.example
  workloadSelector: {matchLabels: {app: a}}
  trafficPolicy: {tls: {mode: MUTUAL, credentialName: pair}}",
    "apiVersion: v1
kind: Secret
metadata: {name: pair}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    -----BEGIN CERTIFICATE-----
    AAAA
    -----END CERTIFICATE-----
  tls.key: |
    -----BEGIN PRIVATE KEY-----
    AAAA
    -----END PRIVATE KEY-----",
    // The same, renewed.
    "apiVersion: v1
kind: Secret
metadata: {name: pair}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    -----BEGIN CERTIFICATE-----
    BBBB
    -----END CERTIFICATE-----
  tls.key: |
    -----BEGIN PRIVATE KEY-----
    BBBB
    -----END PRIVATE KEY-----",
];

#[derive(Debug, Clone)]
enum Op {
    /// An object comes or goes, and the world shares with the last what is equal, or not.
    Toggle(usize, bool),
    /// An instance is so from now on.
    Put(u8, u8),
    Remove(u8),
    /// Proxies whose bits are set are served.
    Serve(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..OBJECTS.len(), any::<bool>()).prop_map(|(at, share)| Op::Toggle(at, share)),
        4 => (0..6_u8, any::<u8>()).prop_map(|(which, how)| Op::Put(which, how)),
        1 => (0..6_u8).prop_map(Op::Remove),
        4 => any::<u16>().prop_map(Op::Serve),
    ]
}

fn namespace(which: u8) -> &'static str {
    if which.is_multiple_of(3) {
        "two"
    } else {
        "default"
    }
}

fn instance(which: u8, how: u8) -> Instance {
    let bit = |place: u8| how >> place & 1 == 1;
    let pick = |place, no: &str, yes: &str| if bit(place) { yes } else { no }.to_owned();
    Instance {
        name: format!("i-{which}"),
        namespace: namespace(which).to_owned(),
        workload: "w".to_owned(),
        service_account: pick(0, "one", "two"),
        labels: [
            ("app".to_owned(), pick(1, "a", "b")),
            ("version".to_owned(), pick(2, "v1", "v2")),
        ]
        .into(),
        locality: Locality {
            region: pick(3, "r1", "r2"),
            ..Locality::default()
        },
        address: Ipv4Addr::new(192, 0, 2, which).into(),
        also_at: Vec::new(),
        ports: BTreeMap::new(),
        port_names: [("web".to_owned(), if bit(4) { 8080 } else { 9090 })].into(),
        service_ports: BTreeMap::new(),
        weight: 1,
        health: if bit(5) {
            Health::Unhealthy
        } else {
            Health::Healthy
        },
        mtls: bit(6),
    }
}

/// Proxies of all kinds.
fn nodes() -> Vec<Node> {
    let mut nodes = Vec::new();
    for (which, client) in [
        (0, Client::Meshctl),
        (1, Client::Meshctl),
        (2, Client::Envoy),
        (3, Client::Envoy),
        (4, Client::Meshctl),
        (5, Client::Grpc),
        (7, Client::Meshctl),
    ] {
        for transparent in [true, false] {
            let mut node = generate::node(client);
            node.name = format!("i-{which}");
            node.namespace = namespace(which).to_owned();
            node.labels = [
                (
                    "app".to_owned(),
                    ["edge", "a"][usize::from(which > 0)].to_owned(),
                ),
                (
                    "version".to_owned(),
                    ["v1", "v2"][usize::from(which % 2)].to_owned(),
                ),
            ]
            .into();
            if which == 7 {
                node.labels.remove("version");
            }
            node.locality.region = ["r1", "r2"][usize::from(which % 2)].to_owned();
            node.transparent = transparent;
            node.applications.clear();
            if which == 4 {
                node.kind = NodeKind::Gateway;
                node.labels.insert("app".to_owned(), "edge".to_owned());
                let label = "gateway.networking.k8s.io/gateway-name";
                node.labels.insert(label.to_owned(), "edge".to_owned());
            }
            nodes.push(node);
        }
    }
    nodes
}

fn world(on: &BTreeSet<usize>, instances: &Instances) -> World {
    let texts = on.iter().filter_map(|at| OBJECTS.get(*at));
    let mut objects = Objects::new();
    for text in texts {
        let (read, findings) = resource::parse(text, "x", "default");
        assert!(findings.is_empty(), "{findings:?}");
        objects.extend(
            read.into_iter()
                .map(|object| (object.key(), Arc::new(object))),
        );
    }
    resource::lower(&objects, instances.clone()).0
}

fn sharing(mut world: World, before: &World) -> World {
    let anew = World::clone(&world);
    let config = Arc::unwrap_or_clone(world.config);
    world.config = config.sharing(&before.config);
    assert_eq!(world, anew);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

    #[test]
    fn what_is_made_of_the_last_world_is_what_is_made_anew(
        first in proptest::collection::btree_set(0..OBJECTS.len(), 0..OBJECTS.len()),
        ops in proptest::collection::vec(op(), 0..40),
    ) {
        let (views, nodes) = (Views::default(), nodes());
        let mut last: Vec<Option<Served>> = vec![None; nodes.len()];
        let (mut on, mut instances) = (first, Instances::default());
        let mut now = world(&on, &instances);
        for op in ops.into_iter().chain([Op::Serve(u16::MAX)]) {
            match op {
                Op::Toggle(at, share) => {
                    if !on.remove(&at) {
                        on.insert(at);
                    }
                    let mut made = world(&on, &instances);
                    if share {
                        made = sharing(made, &now);
                    }
                    let all = |world: &World| check::run(world).into_iter().collect::<BTreeSet<_>>();
                    prop_assert_eq!(check::brought(&now, &made), &all(&made) - &all(&now));
                    now = made;
                }
                Op::Put(which, how) => {
                    let made = instance(which, how);
                    instances.insert((made.namespace.clone(), made.name.clone()), Arc::new(made));
                    now.instances = instances.clone();
                }
                Op::Remove(which) => {
                    instances.remove(&(namespace(which).to_owned(), format!("i-{which}")));
                    now.instances = instances.clone();
                }
                Op::Serve(mask) => {
                    for (at, node) in nodes.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1) {
                        let served = views.serve(&now, node, true, &mut last[at]);
                        prop_assert_eq!(served, encode(&now.view(node), node), "{}", node.name);
                    }
                }
            }
        }
    }
}

/// Two proxies, and what each has of two worlds that differ by one instance.
#[test]
fn one_endpoint_is_one_resource_and_one_encoding_for_all() {
    let on = (0..16).filter(|at| *at != 9 && *at != 10).collect();
    let mut instances = Instances::default();
    for which in [1, 2, 4, 5] {
        let made = instance(which, 0);
        instances.insert((made.namespace.clone(), made.name.clone()), Arc::new(made));
    }
    let before = world(&on, &instances);
    let mut ill = instance(2, 0);
    ill.health = Health::Unhealthy;
    instances.insert((ill.namespace.clone(), ill.name.clone()), Arc::new(ill));
    let after = World {
        instances,
        ..before.clone()
    };
    let views = Views::default();
    let mut nodes = nodes();
    nodes.truncate(2);
    nodes[1] = Node {
        name: "other".to_owned(),
        ..nodes[0].clone()
    };
    let mut last = vec![None; 2];
    let mut serve = |world: &World| -> Vec<Snapshot> {
        let each = nodes.iter().zip(&mut last);
        each.map(|(node, last)| views.serve(world, node, false, last))
            .collect()
    };
    let (old, new) = (serve(&before), serve(&after));
    // The service, its subset, and the service that chooses some of the same, each by port.
    let changed = new[0].changed(&old[0], Kind::Endpoint);
    let names: Vec<&str> = changed.iter().map(|name| &**name).collect();
    assert_eq!(
        names,
        [
            "outbound|3306|v1|a.default.svc.cluster.local",
            "outbound|3306||a.default.svc.cluster.local",
            "outbound|80|v1|a.default.svc.cluster.local",
            "outbound|80||a.default.svc.cluster.local",
            "outbound|81||a-v1.default.svc.cluster.local",
        ]
    );
    for kind in [Kind::Cluster, Kind::Listener, Kind::Route] {
        assert!(new[0].changed(&old[0], kind).is_empty(), "{kind:?}");
    }
    for name in &names {
        let bytes = |at: usize| new[at].get(Kind::Endpoint, name).unwrap().bytes.as_ptr();
        assert_eq!(bytes(0), bytes(1), "{name} was encoded twice");
    }
}

/// What two proxies of namespaces without Sidecars have of two configurations that differ by weights.
#[test]
fn other_weights_are_one_host_of_one_table() {
    let mut on: BTreeSet<usize> = (0..16).filter(|at| *at != 9 && *at != 10).collect();
    let instances = Instances::default();
    on.insert(16);
    let before = world(&on, &instances);
    on.insert(17);
    let after = sharing(world(&on, &instances), &before);
    let touched = after.config.touched(&before.config).unwrap();
    assert!(touched.is_empty(), "{touched:?}");
    let (views, node) = (Views::default(), &nodes()[0]);
    let mut last = None;
    let old = views.serve(&before, node, false, &mut last);
    let had = last.clone().unwrap();
    let new = views.serve(&after, node, false, &mut last);
    let has = last.unwrap();
    let changed = new.changed(&old, Kind::Route);
    assert!(changed.iter().map(|name| &**name).eq(["80"]), "{changed:?}");
    for kind in [Kind::Cluster, Kind::Endpoint, Kind::Listener] {
        assert!(new.changed(&old, kind).is_empty(), "{kind:?}");
    }
    // Nothing else was encoded, nor looked at.
    for (one, other) in had.scopes.iter().zip(&has.scopes) {
        assert!(Arc::ptr_eq(one, other));
    }
    for (name, table) in &has.routed.tables {
        let same = Arc::ptr_eq(table, &had.routed.tables[name]);
        assert_eq!(same, name != "80", "{name}");
    }
}

/// A gateway to whose calls a policy applies is served piece by piece too.
#[test]
fn an_endpoint_is_one_resource_where_a_policy_secures_its_service() {
    let on = [0, 1, 23, 24, 25].into();
    let mut instances = Instances::default();
    for which in [1, 2] {
        let made = instance(which, 2);
        instances.insert((made.namespace.clone(), made.name.clone()), Arc::new(made));
    }
    let before = world(&on, &instances);
    let made = instance(5, 2);
    instances.insert((made.namespace.clone(), made.name.clone()), Arc::new(made));
    let after = World {
        instances,
        ..before.clone()
    };
    let (views, mut node) = (Views::default(), nodes()[8].clone());
    node.namespace = "default".to_owned();
    let mut last = None;
    let old = views.serve(&before, &node, false, &mut last);
    let new = views.serve(&after, &node, false, &mut last);
    assert_eq!(new, encode(&after.view(&node), &node));
    let changed = new.changed(&old, Kind::Endpoint);
    let names: Vec<&str> = changed.iter().map(|name| &**name).collect();
    assert_eq!(
        names,
        [
            "outbound|80||b.default.svc.cluster.local",
            "outbound|80||b.default.svc.cluster.local|passthrough",
        ]
    );
    for kind in [Kind::Cluster, Kind::Listener, Kind::Route] {
        assert!(new.changed(&old, kind).is_empty(), "{kind:?}");
    }
}

/// A workload that shows a certificate of its own to some services is told of the next one.
#[test]
fn a_credential_that_is_renewed_is_served() {
    let renewed = OBJECTS.len() - 1;
    let mut on: BTreeSet<usize> = [0, 12, renewed - 2, renewed - 1].into();
    let instances = Instances::default();
    let before = world(&on, &instances);
    on.insert(renewed);
    let after = sharing(world(&on, &instances), &before);
    let (views, node) = (Views::default(), &nodes()[2]);
    let mut last = None;
    let old = views.serve(&before, node, true, &mut last);
    assert_eq!(old.of(Kind::Secret).count(), 1);
    let new = views.serve(&after, node, true, &mut last);
    assert_eq!(new, encode(&after.view(node), node));
    assert_eq!(new.changed(&old, Kind::Secret).len(), 1);
}
