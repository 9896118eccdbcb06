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
    // What holds for the whole mesh lies under rules, and under a service's own word.
    let mesh = |config: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{config}'}}\n"
        )
    };
    let watched = "defaultTrafficPolicy: {outlierDetection: {}}";
    let everywhere = text.clone() + &mesh(&format!("{{{watched}}}"));
    assert_eq!(
        priorities(&everywhere, "one/b1"),
        ranked(&[("z3", 0), ("z1", 1), ("z2", 1)])
    );
    let by_zone = format!(
        "{{{watched}, localityLbSetting: {{failoverPriority: [topology.kubernetes.io/region]}}}}"
    );
    assert_eq!(
        priorities(&(text.clone() + &mesh(&by_zone)), "one/a2"),
        ranked(&[("z1", 0), ("z2", 0), ("z3", 1)])
    );
    let nowhere = mesh("{localityLbSetting: {enabled: false}}");
    assert_eq!(priorities(&(ejecting.clone() + &nowhere), "one/a1"), alike);
    // A service's own word needs nobody who watches, and is no word against a rule.
    let close = text.replace(
        "spec: {selector: {app: a}",
        "spec: {trafficDistribution: PreferClose, selector: {app: a}",
    );
    assert_ne!(close, text);
    assert_eq!(
        priorities(&close, "one/a2"),
        ranked(&[("z2", 0), ("z1", 1), ("z3", 2)])
    );
    assert_eq!(
        priorities(&(close.clone() + &nowhere), "one/a2"),
        ranked(&[("z2", 0), ("z1", 1), ("z3", 2)])
    );
    let off = "host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {enabled: false}}}";
    assert_eq!(
        priorities(&(close + &rule("a", "one", off)), "one/a2"),
        alike
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

fn sidecar(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n---\n"
    )
}

/// The services that `caller` can call by name, and those of its clusters.
fn known(views: &[(String, View)], caller: &str) -> (Vec<String>, Vec<String>) {
    let (_, view) = views.iter().find(|(name, _)| name == caller).unwrap();
    let hosts = view.routes.get("80").unwrap().hosts.iter();
    let named = hosts.filter_map(|host| host.name.strip_suffix(".svc.cluster.local:80"));
    let clusters = view.clusters.values();
    let services = clusters.filter_map(|cluster| cluster.service.as_ref());
    let outward = services.filter(|service| service.subset.is_empty() && service.port == 80);
    let outward: std::collections::BTreeSet<String> = outward
        .map(|service| format!("{}.{}", service.name, service.namespace))
        .collect();
    for name in view.endpoints.keys() {
        assert!(view.clusters.contains_key(name), "{name}");
    }
    (
        named.map(str::to_owned).collect(),
        outward.into_iter().collect(),
    )
}

#[test]
fn a_sidecar_says_what_its_workloads_know() {
    let mut text =
        pod("a", "one", "app: a") + &pod("b", "one", "app: b") + &pod("c", "two", "app: c");
    text += &(pod("d", "three", "app: d") + &service("a", "one") + &service("b", "one"));
    text += &(service("c", "two") + &service("d", "three"));
    text += "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: one}\nspec: {hosts: [a.one.svc.cluster.local], http: [{route: [{destination: {host: c.two.svc.cluster.local}}]}]}\n---\n";
    text += &sidecar("root", "istio-system", "egress: [{hosts: [\"./*\"]}]");
    text += &sidecar(
        "one",
        "one",
        "egress: [{hosts: [\"./a.one.svc.cluster.local\", \"~two/*\", \"two/*\"]}]",
    );
    text += &sidecar(
        "b",
        "one",
        "workloadSelector: {labels: {app: b}}, egress: [{hosts: [\"*/*\", \"~three/*\"]}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
    );
    text += &sidecar("nothing", "three", "egress: [{hosts: [\"~/*\"]}]");
    let (objects, world) = world(&text);
    let views = views(&objects, &world);
    let list = |of: &[&str]| -> Vec<String> { of.iter().map(|name| (*name).to_owned()).collect() };
    // Where a route that is known leads to is called, though nobody knows it by name.
    let inbound = "a.one";
    assert_eq!(
        known(&views, "one/a"),
        (list(&["a.one"]), list(&[inbound, "c.two"]))
    );
    let (named, called) = known(&views, "one/b");
    assert_eq!(named, list(&["a.one", "b.one", "c.two"]));
    assert_eq!(called, list(&["a.one", "b.one", "c.two"]));
    assert_eq!(known(&views, "two/c").0, list(&["c.two"]));
    let (_, three) = views.iter().find(|(name, _)| name == "three/d").unwrap();
    assert!(!three.routes.contains_key("80"));
    let last = |caller: &str| {
        let (_, view) = views.iter().find(|(name, _)| name == caller).unwrap();
        view.routes["80"].hosts.last().unwrap().name.clone()
    };
    assert_eq!(
        (last("one/a"), last("one/b")),
        ("allow_any".to_owned(), "block_all".to_owned())
    );
}

#[test]
fn a_sidecar_says_where_calls_are_taken() {
    let mut text = pod("a", "one", "app: a") + &service("a", "one");
    text += &sidecar(
        "a",
        "one",
        "ingress: [{port: {number: 8080, protocol: TCP, name: tcp}, defaultEndpoint: \"127.0.0.1:9000\"}, {port: {number: 8081, protocol: HTTP, name: http}, defaultEndpoint: \"0.0.0.0:8081\"}]",
    );
    let (objects, world) = world(&text);
    let views = views(&objects, &world);
    let clusters = &views[0].1.clusters;
    let to = |name: &str| format!("{:?}", clusters[name].kind);
    assert_eq!(to("inbound|8080||"), "Static([127.0.0.1:9000])");
    assert_eq!(to("inbound|8081||"), "Static([10.0.0.1:8081])");
    let chains = &views[0].1.listeners["virtualInbound"].chains;
    let action = |name: &str| {
        let chain = chains.iter().find(|chain| chain.name == name).unwrap();
        format!("{:?}", chain.action)
    };
    // What it declares goes before what the service says.
    assert!(
        action("8080_plaintext").starts_with("Tcp"),
        "{}",
        action("8080_plaintext")
    );
    assert!(action("8081_plaintext").starts_with("Http"));
}

#[test]
fn workloads_that_are_written_down_stand_behind_services_and_entries() {
    let entry = |name: &str, spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: one, labels: {{from: metadata}}}}\nspec: {{{spec}}}\n---\n"
        )
    };
    let mut text = pod("caller", "one", "app: caller")
        + &pod("vm-2", "one", "app: vm")
        + &service("vm", "one");
    text += &entry(
        "vm-1",
        "address: 192.0.2.1, labels: {app: vm, from: spec}, ports: {http: 9000}, weight: 3, locality: r1/z1, serviceAccount: vm",
    );
    // A pod of that name runs, so what somebody wrote down is not believed.
    text += &entry("vm-2", "address: 192.0.2.2, labels: {app: vm}");
    text += &entry(
        "other",
        "address: 192.0.2.3, labels: {app: other, security.istio.io/tlsMode: disabled}, serviceAccount: x",
    );
    text += "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: chosen, namespace: one}\nspec: {hosts: [chosen.internal], location: MESH_INTERNAL, resolution: STATIC, workloadSelector: {labels: {from: metadata}}, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 81}]}\n---\n";
    let (objects, world) = world(&text);
    let views = views(&objects, &world);
    let (_, view) = views.iter().find(|(name, _)| name == "one/caller").unwrap();
    let found = |name: &str| -> Vec<(String, u32, bool, String)> {
        let all = view.endpoints[name].endpoints.iter();
        let mut found: Vec<_> = all
            .map(|e| {
                (
                    e.address.to_string(),
                    e.weight,
                    e.mtls,
                    e.locality.region.clone(),
                )
            })
            .collect();
        found.sort();
        found
    };
    let entry = |address: &str, weight, mtls, region: &str| {
        (address.to_owned(), weight, mtls, region.to_owned())
    };
    let vm = entry("192.0.2.1:9000", 3, true, "r1");
    assert_eq!(
        found("outbound|80||vm.one.svc.cluster.local"),
        [entry("10.0.0.2:8080", 1, true, ""), vm.clone()]
    );
    assert_eq!(
        found("outbound|80||chosen.internal"),
        [vm, entry("192.0.2.3:81", 1, false, "")]
    );
    let cluster = &view.clusters["outbound|80||vm.one.svc.cluster.local"];
    let principals = &cluster.tls.as_ref().unwrap().principals;
    let names: Vec<String> = principals.iter().map(ToString::to_string).collect();
    assert!(
        names.contains(&"spiffe://cluster.local/ns/one/sa/vm".to_owned()),
        "{names:?}"
    );
}
