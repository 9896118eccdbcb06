//! What differs between callers of one world: rules for some of them, and places.

use meshctl::mesh::{LoadBalancer, View, World};
use meshctl::resource::{Objects, collect, lower, parse};

use crate::mesh::{instances, node};

fn world(text: &str) -> (Objects, World) {
    let (objects, findings) = parse(text, "x", "default");
    assert!(findings.is_empty(), "{findings:?}");
    let (objects, _) = collect(objects);
    let (world, findings) = lower(&objects, instances(&objects));
    assert!(findings.is_empty(), "{findings:?}");
    (objects, world)
}

fn pod(name: &str, namespace: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\nspec: {{containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}\n---\n"
    )
}

fn service(name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n---\n"
    )
}

fn rule(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n---\n"
    )
}

/// The views of every pod, made with what they share.
fn views(objects: &Objects, world: &World) -> Vec<(String, View)> {
    let common = world.common();
    let all = world.instances.values();
    all.map(|instance| {
        let node = node(objects, instance, true);
        let view = world.view_with(&common, &node);
        assert_eq!(view, world.view(&node));
        (format!("{}/{}", instance.namespace, instance.name), view)
    })
    .collect()
}

fn policy_of<'a>(
    views: &'a [(String, View)],
    caller: &str,
    cluster: &str,
) -> Option<&'a LoadBalancer> {
    let (_, view) = views.iter().find(|(name, _)| name == caller).unwrap();
    view.clusters
        .get(cluster)
        .map(|cluster| &cluster.load_balancer)
}

#[test]
fn callers_have_the_rules_of_their_namespace_then_the_services_then_the_roots() {
    let simple = |policy: &str| {
        format!(
            "host: a.two.svc.cluster.local, trafficPolicy: {{loadBalancer: {{simple: {policy}}}}}"
        )
    };
    let mut text =
        pod("x", "one", "app: x") + &pod("w", "one", "app: w") + &pod("a", "two", "app: a");
    text += &(pod("z", "three", "app: z") + &service("a", "two") + &service("b", "two"));
    text += &rule("own", "one", &simple("RANDOM"));
    text += &rule(
        "x",
        "one",
        &format!(
            "workloadSelector: {{matchLabels: {{app: x}}}}, subsets: [{{name: v1, labels: {{v: v1}}}}], {}",
            simple("LEAST_REQUEST")
        ),
    );
    text += &rule(
        "theirs",
        "two",
        &format!("exportTo: [., one], {}", simple("ROUND_ROBIN")),
    );
    text += &rule(
        "root",
        "istio-system",
        "host: \"*.two.svc.cluster.local\", trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}",
    );
    let (objects, world) = world(&text);
    let views = views(&objects, &world);
    let (a, b) = (
        "outbound|80||a.two.svc.cluster.local",
        "outbound|80||b.two.svc.cluster.local",
    );
    let of = |caller| policy_of(&views, caller, a).copied();
    assert_eq!(of("one/x"), Some(LoadBalancer::LeastRequest));
    assert_eq!(of("one/w"), Some(LoadBalancer::Random));
    assert_eq!(of("two/a"), Some(LoadBalancer::RoundRobin));
    assert_eq!(of("three/z"), Some(LoadBalancer::RingHash));
    for caller in ["one/x", "one/w", "two/a", "three/z"] {
        assert_eq!(policy_of(&views, caller, b), Some(&LoadBalancer::RingHash));
    }
    // A subset is there for those only who have the rule that says it.
    let subset = "outbound|80|v1|a.two.svc.cluster.local";
    assert!(policy_of(&views, "one/x", subset).is_some());
    assert!(policy_of(&views, "one/w", subset).is_none());
    // What nobody has a word on is one for all.
    let shared = |caller: &str| {
        let (_, view) = views.iter().find(|(name, _)| name == caller).unwrap();
        std::sync::Arc::as_ptr(&view.clusters[b])
    };
    assert_eq!(shared("one/x"), shared("three/z"));
}

#[test]
fn endpoints_are_ranked_by_where_the_caller_is() {
    let place = |region: &str, zone: &str| {
        format!(
            "app: a, topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}"
        )
    };
    let mut text = pod("a1", "one", &place("r1", "z1")) + &pod("a2", "one", &place("r1", "z2"));
    text += &(pod("a3", "one", &place("r2", "z3")) + &pod("b1", "one", &place("r2", "z3")));
    text += &service("a", "one");
    let priorities = |text: &str, caller: &str| -> Vec<(String, u32)> {
        let (objects, world) = world(text);
        let views = views(&objects, &world);
        let (_, view) = views.iter().find(|(name, _)| name == caller).unwrap();
        let all = &view.endpoints["outbound|80||a.one.svc.cluster.local"].endpoints;
        let zones = all
            .iter()
            .filter(|endpoint| endpoint.workload.instance != "b1");
        zones
            .map(|endpoint| (endpoint.locality.zone.clone(), endpoint.priority))
            .collect()
    };
    let ranked = |ranks: &[(&str, u32)]| -> Vec<(String, u32)> {
        let owned = ranks.iter();
        owned
            .map(|(zone, rank)| ((*zone).to_owned(), *rank))
            .collect()
    };
    let alike = ranked(&[("z1", 0), ("z2", 0), ("z3", 0)]);
    assert_eq!(priorities(&text, "one/a1"), alike);
    let ejecting =
        text.clone() + &rule("a", "one", "host: a, trafficPolicy: {outlierDetection: {}}");
    assert_eq!(
        priorities(&ejecting, "one/a1"),
        ranked(&[("z1", 0), ("z2", 1), ("z3", 2)])
    );
    assert_eq!(
        priorities(&ejecting, "one/b1"),
        ranked(&[("z3", 0), ("z1", 1), ("z2", 1)])
    );
    let shares = text.clone()
        + &rule(
            "a",
            "one",
            "host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: r1/*, to: {r1/z1: 30, r2: 70}}]}}}",
        );
    let (objects, world) = world(&shares);
    let views = views(&objects, &world);
    let (_, view) = views.iter().find(|(name, _)| name == "one/a1").unwrap();
    let name = "outbound|80||a.one.svc.cluster.local";
    let weights = view.endpoints[name].locality_weights.iter();
    let weights: Vec<(&str, u32)> = weights
        .map(|weight| (weight.locality.zone.as_str(), weight.weight))
        .collect();
    assert_eq!(weights, [("z1", 30), ("z3", 70)]);
    assert_eq!(view.endpoints[name].endpoints.len(), 3, "z2 gets nothing");
}
