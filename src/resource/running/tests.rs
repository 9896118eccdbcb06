use serde_json::json;

use super::*;
use crate::resource::{collect, parse};

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
        running.set(key, Some(value)).unwrap();
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
    running.set(&key("Node", "n1"), None).unwrap();
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
        let running = running(&[
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
        .set(&key("Pod", "a"), Some(&pod("a", "10.0.0.2")))
        .unwrap();
    assert!(running.instances(&Objects::new()).is_empty());
    running.set(&key("Pod", "a"), None).unwrap();
    assert!(running.instances(&Objects::new()).is_empty());
    running
        .set(&key("Pod", "a"), Some(&pod("a", "10.0.0.1")))
        .unwrap();
    assert_eq!(running.instances(&Objects::new()).len(), 1);
    // An empty slice is written with nulls.
    let mut empty = slice("reviews", &Value::Null);
    empty["ports"] = Value::Null;
    running
        .set(&key("EndpointSlice", "reviews-x"), Some(&empty))
        .unwrap();
    assert!(running.instances(&Objects::new()).is_empty());
}

#[test]
fn two_families_are_one_instance_with_the_pods_first_address() {
    let mut both = pod("a", "10.0.0.1");
    both["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    let running = running(&[
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
    let running = running(&[(key("EndpointSlice", "kubernetes"), endpoints)]);
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
        .set(
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
