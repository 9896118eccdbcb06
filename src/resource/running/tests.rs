use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::resource::{collect, parse};

impl Running {
    fn put(&mut self, key: &Key, object: Option<&Value>) -> Result<(), String> {
        self.set(key, object.map(Value::to_string).as_deref())
    }

    fn instances(&mut self, objects: &Objects) -> BTreeMap<Name, Arc<Instance>> {
        self.settle(objects);
        self.instances.clone()
    }
}

fn key(kind: &str, name: &str) -> Key {
    let namespace = if kind == "Node" { "" } else { "default" };
    Key {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn pod(name: &str, address: &str) -> Value {
    json!({
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app": "reviews", "version": "v1", "pod-template-hash": "6b7c"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "reviews-v1-6b7c", "controller": true}],
        },
        "spec": {
            "serviceAccountName": "bookinfo-reviews",
            "nodeName": "n1",
            "containers": [{"name": "reviews", "ports": [
                {"name": "http", "containerPort": 9080},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            ]}],
        },
        "status": {"podIP": address, "podIPs": [{"ip": address}]},
    })
}

fn slice(service: &str, endpoints: &Value) -> Value {
    json!({
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}],
    })
}

fn endpoint(pod: &str, address: &str) -> Value {
    json!({
        "addresses": [address],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "name": pod, "namespace": "default"},
        "zone": "z9",
    })
}

fn running(objects: &[(Key, Value)]) -> Running {
    let mut running = Running::default();
    for (key, value) in objects {
        running.put(key, Some(value)).unwrap();
    }
    running
}

fn only(instances: &BTreeMap<Name, Arc<Instance>>) -> Instance {
    assert_eq!(instances.len(), 1, "{instances:#?}");
    (**instances.values().next().unwrap()).clone()
}

fn services(text: &str) -> Objects {
    let (objects, findings) = parse(text, "test", "default");
    assert_eq!(findings, []);
    collect(objects).0
}

#[test]
fn an_instance_is_an_endpoint_with_the_words_of_its_pod_and_node() {
    let node = json!({"metadata": {"labels": {
        "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "r-a", "topology.istio.io/subzone": "rack-7",
    }}});
    let mut running = running(&[
        (key("Node", "n1"), node),
        (key("Pod", "a"), pod("a", "10.0.0.1")),
        (
            key("EndpointSlice", "reviews-x"),
            slice("reviews", &json!([endpoint("a", "10.0.0.1")])),
        ),
    ]);
    let made = only(&running.instances(&Objects::new()));
    assert_eq!(
        (made.name.as_str(), made.workload.as_str()),
        ("a", "reviews-v1")
    );
    assert_eq!(made.service_account, "bookinfo-reviews");
    assert_eq!(made.canonical_revision(), "v1");
    assert_eq!(made.reach(9080).to_string(), "10.0.0.1:9080");
    assert_eq!(made.port_names, BTreeMap::from([("http".to_owned(), 9080)]));
    assert_eq!(
        (
            made.locality.region.as_str(),
            made.locality.zone.as_str(),
            made.locality.subzone.as_str()
        ),
        ("r", "r-a", "rack-7")
    );
    assert_eq!(
        (made.health, made.mtls, made.weight),
        (Health::Healthy, false, 1)
    );
    // Without the node there is still the zone that the slice names.
    running.put(&key("Node", "n1"), None).unwrap();
    let made = only(&running.instances(&Objects::new()));
    assert_eq!(
        (made.locality.region.as_str(), made.locality.zone.as_str()),
        ("", "z9")
    );
}

#[test]
fn conditions_become_health_and_the_worse_of_two_services_counts() {
    let with = |conditions: Value| {
        let mut one = endpoint("a", "10.0.0.1");
        one["conditions"] = conditions;
        one
    };
    let cases = [
        (json!({"ready": true}), Health::Healthy),
        // Unknown counts as ready, and an old server says nothing of serving.
        (Value::Null, Health::Healthy),
        (json!({"ready": false}), Health::Unhealthy),
        (
            json!({"ready": false, "serving": true, "terminating": true}),
            Health::Draining,
        ),
        (
            json!({"ready": false, "serving": false, "terminating": true}),
            Health::Unhealthy,
        ),
    ];
    for (conditions, expected) in cases {
        let mut running = running(&[
            (key("Pod", "a"), pod("a", "10.0.0.1")),
            (
                key("EndpointSlice", "reviews-x"),
                slice("reviews", &json!([with(conditions.clone())])),
            ),
            (
                key("EndpointSlice", "headless-x"),
                slice("headless", &json!([endpoint("a", "10.0.0.1")])),
            ),
        ]);
        let made = only(&running.instances(&Objects::new()));
        assert_eq!(made.health, expected, "{conditions}");
    }
}

#[test]
fn a_pod_that_is_gone_or_was_replaced_is_no_instance() {
    let mut running = running(&[
        (key("Pod", "a"), pod("a", "10.0.0.1")),
        (
            key("EndpointSlice", "reviews-x"),
            slice("reviews", &json!([endpoint("a", "10.0.0.1")])),
        ),
    ]);
    // The same name at another address: the slice still speaks of the one before.
    running
        .put(&key("Pod", "a"), Some(&pod("a", "10.0.0.2")))
        .unwrap();
    assert!(running.instances(&Objects::new()).is_empty());
    running.put(&key("Pod", "a"), None).unwrap();
    assert!(running.instances(&Objects::new()).is_empty());
    running
        .put(&key("Pod", "a"), Some(&pod("a", "10.0.0.1")))
        .unwrap();
    assert_eq!(running.instances(&Objects::new()).len(), 1);
    // An empty slice is written with nulls.
    let mut empty = slice("reviews", &Value::Null);
    empty["ports"] = Value::Null;
    running
        .put(&key("EndpointSlice", "reviews-x"), Some(&empty))
        .unwrap();
    assert!(running.instances(&Objects::new()).is_empty());
}

#[test]
fn two_families_are_one_instance_with_the_pods_first_address() {
    let mut both = pod("a", "10.0.0.1");
    both["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    let mut running = running(&[
        (key("Pod", "a"), both),
        (
            key("EndpointSlice", "reviews-4"),
            slice("reviews", &json!([endpoint("a", "10.0.0.1")])),
        ),
        (
            key("EndpointSlice", "reviews-6"),
            slice("reviews", &json!([endpoint("a", "fd00::1")])),
        ),
    ]);
    let made = only(&running.instances(&Objects::new()));
    assert_eq!(made.address.to_string(), "10.0.0.1");
}

#[test]
fn a_service_without_selector_has_the_endpoints_that_were_written_for_it() {
    let objects = services(
        "apiVersion: v1\nkind: Service\nmetadata: {name: kubernetes}\n\
         spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 8443}, {name: web, port: 80, targetPort: web}]}\n",
    );
    let mut endpoints = slice(
        "kubernetes",
        &json!([{"addresses": ["172.18.0.2"], "conditions": {"ready": true}}]),
    );
    endpoints["ports"] = json!([{"name": "https", "port": 6443}, {"name": "web", "port": 8080}]);
    let mut running = running(&[(key("EndpointSlice", "kubernetes"), endpoints)]);
    let made = only(&running.instances(&objects));
    assert_eq!(made.name, "kubernetes-172-18-0-2");
    assert_eq!(made.reach(8443).to_string(), "172.18.0.2:6443");
    assert_eq!(made.port_names["web"], 8080);
    // And the service chooses it.
    let key = ("default".to_owned(), made.name.clone());
    let instances = [(key, Arc::new(made))].into();
    let (world, findings) = crate::resource::lower(&objects, instances);
    assert_eq!(findings, []);
    let service = world.config.services.values().next().unwrap();
    let chosen = world.instances.values().next().unwrap();
    assert!(
        !service.selector.is_empty()
            && crate::mesh::world::selects(&service.selector, &chosen.labels)
    );
}

#[test]
fn what_cannot_be_read_leaves_what_was_there() {
    let mut running = running(&[
        (key("Pod", "a"), pod("a", "10.0.0.1")),
        (
            key("EndpointSlice", "reviews-x"),
            slice("reviews", &json!([endpoint("a", "10.0.0.1")])),
        ),
    ]);
    let reason = running
        .put(
            &key("EndpointSlice", "reviews-x"),
            Some(&json!({"endpoints": "none"})),
        )
        .unwrap_err();
    assert!(
        reason.starts_with("EndpointSlice default/reviews-x cannot be read"),
        "{reason}"
    );
    assert_eq!(running.instances(&Objects::new()).len(), 1);
}

#[test]
fn a_pod_of_both_families_is_one_instance() {
    let mut both = pod("a", "10.0.0.1");
    both["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    let (v4, v6): (std::net::IpAddr, std::net::IpAddr) =
        ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
    let six = |service: &str| {
        let mut slice = slice(service, &json!([endpoint("a", "fd00::1")]));
        slice["addressType"] = json!("IPv6");
        slice
    };
    let four = slice("reviews", &json!([endpoint("a", "10.0.0.1")]));
    let found = |slices: &[(Key, Value)]| {
        let all = [&[(key("Pod", "a"), both.clone())], slices].concat();
        only(&running(&all).instances(&Objects::new()))
    };
    for slices in [
        vec![
            (key("EndpointSlice", "reviews-4"), four),
            (key("EndpointSlice", "reviews-6"), six("reviews")),
        ],
        // A service of one family: it is the same pod, which is reached at the address that it goes by.
        vec![(key("EndpointSlice", "reviews-6"), six("reviews"))],
    ] {
        let instance = found(&slices);
        assert_eq!(
            (instance.address, instance.also_at.as_slice()),
            (v4, &[v6][..])
        );
        assert_eq!(instance.also_reach(9080), [(v6, 9080).into()]);
    }
    // Where only IPv6 is there it is what the pod goes by.
    both["status"] = json!({"podIP": "fd00::1", "podIPs": [{"ip": "fd00::1"}]});
    let all = [
        (key("Pod", "a"), both),
        (key("EndpointSlice", "reviews-6"), six("reviews")),
    ];
    let instance = only(&running(&all).instances(&Objects::new()));
    assert_eq!(instance.reach(9080), (v6, 9080).into());
    assert!(instance.also_at.is_empty());
}

/// Something that happens in a cluster.
#[derive(Debug, Clone)]
enum Event {
    Pod(usize, usize, Option<(u8, u8, u8)>),
    /// Service, port, endpoints.
    Slice(usize, usize, Option<(u8, u16, Vec<Spoken>)>),
    Node(u8, Option<u8>),
    /// Whether it has a selector, and the port that it leads to.
    Service(usize, u8, Option<(bool, u16)>),
    Listed(usize, usize, Option<u8>),
    /// Everything of a namespace is deleted.
    Namespace(usize),
}

/// Address, pod, node, state.
type Spoken = (u8, Option<usize>, u8, u8);

const NAMESPACES: [&str; 2] = ["default", "other"];
/// One of them is what an endpoint of service `s0` is called that was written by hand.
const PODS: [&str; 4] = ["a", "b", "c", "s0-10-0-0-1"];

fn events() -> impl Strategy<Value = Vec<(Event, bool)>> {
    let of = || 0..NAMESPACES.len();
    let endpoint = (
        0..3_u8,
        proptest::option::of(0..PODS.len()),
        0..3_u8,
        0..4_u8,
    );
    let slice = (
        0..3_u8,
        80..82_u16,
        proptest::collection::vec(endpoint, 0..5),
    );
    let pod = (0..3_u8, 0..2_u8, 0..3_u8);
    let event = prop_oneof![
        4 => (of(), 0..PODS.len(), proptest::option::weighted(0.8, pod)).prop_map(|(of, name, to)| Event::Pod(of, name, to)),
        6 => (of(), 0..4_usize, proptest::option::weighted(0.8, slice)).prop_map(|(of, name, to)| Event::Slice(of, name, to)),
        1 => (0..3_u8, proptest::option::weighted(0.8, 0..3_u8)).prop_map(|(name, to)| Event::Node(name, to)),
        2 => (of(), 0..3_u8, proptest::option::weighted(0.8, (any::<bool>(), 80..82_u16))).prop_map(|(of, name, to)| Event::Service(of, name, to)),
        1 => (of(), 0..PODS.len(), proptest::option::weighted(0.6, 1..4_u8)).prop_map(|(of, name, to)| Event::Listed(of, name, to)),
        1 => of().prop_map(Event::Namespace),
    ];
    proptest::collection::vec((event, proptest::bool::weighted(0.5)), 1..50)
}

/// What there is, as an API server holds it.
#[derive(Default)]
struct Held {
    objects: BTreeMap<Key, Value>,
    services: Objects,
}

fn named(kind: &str, namespace: &str, name: &str) -> Key {
    Key {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn address(number: u8) -> String {
    format!("10.0.0.{number}")
}

impl Held {
    /// Has the event happen, and passes on what it changes.
    fn happen(&mut self, event: Event, running: &mut Running) {
        match event {
            Event::Pod(of, name, to) => {
                let key = named("Pod", NAMESPACES[of], PODS[name]);
                let made = to.map(|(at, label, node)| {
                    let mut made = pod(PODS[name], &address(at));
                    made["metadata"]["labels"]["version"] = format!("v{label}").into();
                    made["spec"]["nodeName"] = format!("n{node}").into();
                    made
                });
                self.put(key, made, running);
            }
            Event::Slice(of, name, to) => {
                let key = named("EndpointSlice", NAMESPACES[of], &format!("slice-{name}"));
                let made = to.map(|(service, port, endpoints)| {
                    let endpoints = endpoints.into_iter().map(|(at, pod, node, state)| {
                        let mut made = json!({
                            "addresses": [address(at)],
                            "nodeName": format!("n{node}"),
                            "zone": format!("z{}", node % 2),
                            "conditions": {"ready": state == 0, "serving": state != 3, "terminating": state == 2},
                        });
                        if let Some(pod) = pod {
                            made["targetRef"] = json!({"kind": "Pod", "name": PODS[pod]});
                        }
                        made
                    });
                    let mut made = slice(&format!("s{service}"), &endpoints.collect());
                    made["ports"][0]["port"] = port.into();
                    made
                });
                self.put(key, made, running);
            }
            Event::Node(name, to) => {
                let made = to.map(|zone| {
                    let zone = format!("zone-{zone}");
                    json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}})
                });
                self.put(named("Node", "", &format!("n{name}")), made, running);
            }
            Event::Listed(of, name, to) => {
                let made = to.map(|weight| {
                    json!({
                        "name": PODS[name], "namespace": NAMESPACES[of], "workload": "w", "weight": weight,
                        "serviceAccount": "default", "labels": {}, "address": "192.0.2.1", "health": "healthy",
                    })
                });
                self.put(named(INSTANCE, NAMESPACES[of], PODS[name]), made, running);
            }
            Event::Service(of, name, to) => {
                let (namespace, name) = (NAMESPACES[of], format!("s{name}"));
                let key = named("Service", namespace, &name);
                self.services.remove(&key);
                if let Some((chooses, target)) = to {
                    let selector = if chooses {
                        "selector: {app: reviews}, "
                    } else {
                        ""
                    };
                    let text = format!(
                        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
                         spec: {{{selector}ports: [{{name: http, port: 80, targetPort: {target}}}]}}\n"
                    );
                    self.services.extend(services(&text));
                }
                running.service(namespace, &name);
            }
            Event::Namespace(of) => {
                let namespace = NAMESPACES[of];
                let keys = self.objects.keys().filter(|key| key.namespace == namespace);
                for key in keys.cloned().collect::<Vec<_>>() {
                    self.put(key, None, running);
                }
                let services = self
                    .services
                    .keys()
                    .filter(|key| key.namespace == namespace);
                for key in services.cloned().collect::<Vec<_>>() {
                    self.services.remove(&key);
                    running.service(namespace, &key.name);
                }
            }
        }
    }

    fn put(&mut self, key: Key, object: Option<Value>, running: &mut Running) {
        running.put(&key, object.as_ref()).unwrap();
        match object {
            Some(object) => self.objects.insert(key, object),
            None => self.objects.remove(&key),
        };
    }

    /// The instances, by going over all slices one after the other.
    fn joined(&self) -> BTreeMap<Name, Arc<Instance>> {
        let mut running = Running::default();
        for (key, object) in &self.objects {
            running.put(key, Some(object)).unwrap();
        }
        let mut instances: BTreeMap<Name, Instance> = BTreeMap::new();
        for ((namespace, _), slice) in std::mem::take(&mut running.news.slices) {
            let slice = slice.unwrap();
            let by_hand = without_selector(&self.services, &namespace, &slice.service);
            for endpoint in &slice.endpoints {
                let made = match by_hand {
                    Some(service) => Some(running.written(&namespace, &slice, endpoint, service)),
                    None => running.pod(&namespace, endpoint),
                };
                let Some(made) = made else { continue };
                let key = (made.namespace.clone(), made.name.clone());
                match instances.get_mut(&key) {
                    None => {
                        instances.insert(key, made);
                    }
                    Some(known) => merge(known, made),
                }
            }
        }
        let mut all = running.listed;
        all.extend(
            instances
                .into_iter()
                .map(|(key, made)| (key, Arc::new(made))),
        );
        all
    }
}

proptest! {
    #[test]
    fn what_is_joined_of_what_changed_is_what_all_of_it_makes(events in events()) {
        let (mut held, mut running) = (Held::default(), Running::default());
        let mut was = BTreeMap::new();
        for (event, settles) in events {
            held.happen(event, &mut running);
            if !settles {
                continue;
            }
            let moved = running.settle(&held.services);
            let is = held.joined();
            prop_assert_eq!(&running.instances, &is);
            let keys: BTreeSet<&Name> = was.keys().chain(is.keys()).collect();
            let other: Vec<Moved> = keys
                .into_iter()
                .filter(|key| was.get(*key) != is.get(*key))
                .map(|key| Moved { key: key.clone(), before: was.get(key).cloned() })
                .collect();
            prop_assert_eq!(moved, other);
            for (key, instance) in &is {
                prop_assert_eq!(running.instance(key), Some(instance));
            }
            was = is;
        }
        // And nothing of what is gone is kept.
        for namespace in 0..NAMESPACES.len() {
            held.happen(Event::Namespace(namespace), &mut running);
        }
        running.settle(&held.services);
        prop_assert!(running.instances.is_empty() && running.places.is_empty());
        prop_assert!(running.templates.is_empty(), "{:?}", running.templates);
    }
}

#[test]
fn what_did_not_change_stays_the_same_instance() {
    let both = json!([endpoint("a", "10.0.0.1"), endpoint("b", "10.0.0.2")]);
    let mut running = running(&[
        (key("Pod", "a"), pod("a", "10.0.0.1")),
        (key("Pod", "b"), pod("b", "10.0.0.2")),
        (key("EndpointSlice", "reviews-x"), slice("reviews", &both)),
    ]);
    let before = running.instances(&Objects::new());
    let mut after = both.clone();
    after[0]["conditions"]["ready"] = false.into();
    let slice = slice("reviews", &after);
    running
        .put(&key("EndpointSlice", "reviews-x"), Some(&slice))
        .unwrap();
    let moved = running.settle(&Objects::new());
    let names: Vec<&str> = moved.iter().map(|moved| moved.key.1.as_str()).collect();
    assert_eq!(names, ["a"]);
    let name = ("default".to_owned(), "b".to_owned());
    assert!(Arc::ptr_eq(
        &before[&name],
        running.instance(&name).unwrap()
    ));
}
