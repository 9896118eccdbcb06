//! What holds for every text, world and request.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use meshctl::mesh::route::explain::explain;
use meshctl::mesh::route::{Action, Request};
use meshctl::mesh::{ChainAction, Node, NodeKind, Router, View, World};
use meshctl::resource::{Instances, Objects, collect, lower, parse};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::mesh::{instances, node};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_makes_reading_panic(text in any::<String>()) {
        parse(&text, "x", "default");
    }

    #[test]
    fn no_manifest_makes_reading_panic(
        kind in select(vec!["Service", "Pod", "Deployment", "VirtualService", "DestinationRule", "PeerAuthentication", "ServiceEntry", "Sidecar", "WorkloadEntry", "WorkloadGroup", "Gateway", "RateLimitPolicy", "CompressionPolicy", "FaultInjection", "HeaderPolicy", "Canary", "Ingress", "IngressClass", "TrafficSplit", "HTTPRouteGroup", "ServiceProfile", "ProxyConfig", "EnvoyFilter", "GatewayClass", "HTTPRoute", "GRPCRoute", "ReferenceGrant", "List", "Policy"]),
        body in "([a-z]{1,8}: ?|- |\n {0,6}|[0-9]{1,3}|\\{|\\}|\\[|\\]|, |spec: |http: |ports: |hosts: |limits: |rules: |routes: |condition: |\"|x){0,40}",
    ) {
        for version in ["v1", "apps/v1", "networking.istio.io/v1", "security.istio.io/v1", "gateway.networking.k8s.io/v1", "policy.meshctl.dev/v1alpha1", "networking.k8s.io/v1", "split.smi-spec.io/v1alpha1", "specs.smi-spec.io/v1alpha4", "linkerd.io/v1alpha2"] {
            let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n{body}");
            let (objects, findings) = parse(&text, "x", "default");
            let (objects, _) = collect(objects);
            lower(&objects, Instances::default());
            for finding in findings {
                prop_assert!(finding.origin.line >= 1, "{finding}");
            }
        }
    }
}

const PORTS: [(&str, u16); 6] = [
    ("http", 80),
    ("http-alt", 9080),
    ("grpc", 7000),
    ("tcp-db", 5432),
    ("raw", 9080),
    ("udp", 53),
];

/// A few services, pods, rules and policies, some of them broken.
fn manifests() -> impl Strategy<Value = String> {
    let names = || select(vec!["a", "b", "c", "ghost"]);
    let spaces = || select(vec!["one", "two"]);
    let service = (names(), spaces(), subsequence(&PORTS[..], 1..3), any::<bool>()).prop_map(
        |(name, space, ports, headless)| {
            let ip = if headless { "clusterIP: None, " } else { "" };
            let ports: Vec<String> = ports
                .iter()
                .map(|(name, port)| {
                    let transport = if *name == "udp" { "UDP" } else { "TCP" };
                    format!("{{name: {name}, port: {port}, protocol: {transport}, targetPort: 8080}}")
                })
                .collect();
            format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {space}}}\nspec: {{{ip}selector: {{app: {name}}}, ports: [{}]}}", ports.join(", "))
        },
    );
    let pod = (names(), spaces(), select(vec!["v1", "v2"])).prop_map(|(name, space, version)| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-{version}, namespace: {space}, labels: {{app: {name}, version: {version}}}}}\nspec: {{containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}")
    });
    let rule = (names(), spaces(), names(), select(vec!["", "subset: v1, ", "subset: v9, "]), select(vec!["", ", port: {number: 80}", ", port: {number: 1}"]), 0..3_u32, select(vec!["", "match: [{uri: {prefix: /a}}, {headers: {x: {exact: y}}}], ", "match: [{port: 80}], ", "match: [{sourceLabels: {app: a}}], "]))
        .prop_map(|(name, space, to, subset, port, weight, matches)| {
            // Older than others, or not, so that merging has an order.
            let made = format!("creationTimestamp: \"2026-01-0{}T00:00:00Z\"", weight + 1);
            format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}-{weight}, namespace: {space}, {made}}}\nspec: {{hosts: [{name}, {name}.example.com, \"*\"], http: [{{mirror: {{host: {to}}}, fault: {{abort: {{httpStatus: 500, percentage: {{value: 1}}}}}}, {matches}route: [{{destination: {{{subset}host: {to}{port}}}, weight: {weight}}}, {{destination: {{host: {name}}}, weight: 1}}]}}]}}")
        });
    let streams = (names(), spaces(), names(), 0..3_u32).prop_map(|(name, space, to, weight)| {
        format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}-streams, namespace: {space}}}\nspec: {{hosts: [{name}], tcp: [{{match: [{{port: 5432, destinationSubnets: [10.0.0.0/8]}}, {{port: 9080}}], route: [{{destination: {{host: {to}}}, weight: {weight}}}, {{destination: {{host: {name}}}, weight: 1}}]}}], tls: [{{match: [{{sniHosts: [{name}]}}], route: [{{destination: {{host: {to}}}}}]}}]}}")
    });
    let delegate = (names(), spaces(), select(vec!["", "match: [{uri: {prefix: /a/b}}], "])).prop_map(|(name, space, matches)| {
        let root = format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}-root, namespace: {space}}}\nspec: {{hosts: [{name}], http: [{{match: [{{uri: {{prefix: /a}}}}], delegate: {{name: {name}-team}}}}]}}");
        format!("{root}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}-team, namespace: {space}}}\nspec: {{http: [{{{matches}route: [{{destination: {{host: {name}}}}}]}}]}}")
    });
    let scope = select(vec![
        "",
        "exportTo: [.], ",
        "exportTo: [one], ",
        "workloadSelector: {matchLabels: {version: v1}}, ",
    ]);
    let to = select(vec![
        "a",
        "b.one.svc.cluster.local",
        "*.two.svc.cluster.local",
    ]);
    let destination = (names(), spaces(), select(vec!["DISABLE", "ISTIO_MUTUAL"]), scope, to).prop_map(|(name, space, mode, scope, to)| {
        format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {space}}}\nspec: {{{scope}host: \"{to}\", trafficPolicy: {{tls: {{mode: {mode}}}}}, subsets: [{{name: v1, labels: {{version: v1}}}}]}}")
    });
    let peer = (names(), spaces(), select(vec!["STRICT", "PERMISSIVE", "DISABLE"])).prop_map(|(name, space, mode)| {
        format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {space}}}\nspec: {{selector: {{matchLabels: {{app: {name}}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {{9999: {{mode: STRICT}}}}}}")
    });
    let hosts = select(vec![
        "./*",
        "*/*",
        "one/*",
        "*/a.one.svc.cluster.local",
        "~/*",
        "*/*.example.com",
    ]);
    let sidecar = (names(), spaces(), hosts, select(vec!["", "workloadSelector: {labels: {version: v1}}, "])).prop_map(|(name, space, hosts, selector)| {
        format!("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {space}}}\nspec: {{{selector}egress: [{{hosts: [\"{hosts}\"]}}], ingress: [{{port: {{number: 8080, protocol: HTTP}}}}]}}")
    });
    let policy = (names(), spaces(), names()).prop_map(|(name, space, app)| {
        format!("apiVersion: policy.meshctl.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: {name}, namespace: {space}}}\nspec: {{targetRefs: [{{kind: Service, name: {app}}}], limits: [{{requests: 9, unit: Minute}}]}}\n---\napiVersion: policy.meshctl.dev/v1alpha1\nkind: CompressionPolicy\nmetadata: {{name: {name}, namespace: {space}}}\nspec: {{selector: {{matchLabels: {{app: {app}}}}}}}\n---\napiVersion: policy.meshctl.dev/v1alpha1\nkind: FaultInjection\nmetadata: {{name: {name}, namespace: {space}}}\nspec: {{service: {app}, delay: 1s, until: \"2100-01-01T00:00:00Z\"}}")
    });
    let split = (names(), spaces(), names(), select(vec!["900m", "1", "0"])).prop_map(|(name, space, to, weight)| {
        format!("apiVersion: split.smi-spec.io/v1alpha1\nkind: TrafficSplit\nmetadata: {{name: {name}-{to}, namespace: {space}}}\nspec: {{service: {name}, backends: [{{service: {to}, weight: {weight}}}, {{service: {name}, weight: 1}}]}}")
    });
    let profile = (names(), spaces(), spaces(), names(), any::<bool>()).prop_map(|(name, of, space, to, retry)| {
        format!("apiVersion: linkerd.io/v1alpha2\nkind: ServiceProfile\nmetadata: {{name: {name}.{of}.svc.cluster.local, namespace: {space}}}\nspec: {{dstOverrides: [{{authority: \"{to}.{of}.svc.cluster.local:80\", weight: 1}}], opaquePorts: [\"9080\"], routes: [{{name: r, isRetryable: {retry}, condition: {{any: [{{method: GET}}, {{not: {{pathRegex: /a}}}}]}}}}]}}")
    });
    let paths = select(vec![
        "/, pathType: Prefix",
        "/a, pathType: Exact",
        "/a/b, pathType: Prefix",
        "/a/*, pathType: ImplementationSpecific",
    ]);
    let outside = select(vec![
        "host: a.example.com, ",
        "host: \"*.example.com\", ",
        "",
    ]);
    let ingress = (names(), spaces(), outside, paths, any::<bool>()).prop_map(|(name, space, host, path, default)| {
        let default = if default { format!("defaultBackend: {{service: {{name: {name}, port: {{number: 80}}}}}}, ") } else { String::new() };
        format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: {space}}}\nspec: {{{default}tls: [{{hosts: [a.example.com], secretName: s}}], rules: [{{{host}http: {{paths: [{{path: {path}, backend: {{service: {{name: {name}, port: {{name: http}}}}}}}}]}}}}]}}")
    });
    let any = prop_oneof![1 => policy, 4 => service, 4 => pod, 3 => rule, 1 => streams, 1 => delegate, 2 => destination, 1 => peer, 1 => sidecar, 1 => split, 1 => profile, 1 => ingress];
    proptest::collection::vec(any, 1..16).prop_map(|documents| documents.join("\n---\n"))
}

fn world(text: &str) -> (Objects, World) {
    let (objects, _) = parse(text, "x", "default");
    let (objects, _) = collect(objects);
    let (world, _) = lower(&objects, instances(&objects));
    (objects, world)
}

struct Asked<'a>(&'a str, &'a str, bool);

impl Request for Asked<'_> {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn authority(&self) -> &[u8] {
        self.0.as_bytes()
    }
    fn scheme(&self) -> &[u8] {
        b"http"
    }
    fn path_and_query(&self) -> &[u8] {
        self.1.as_bytes()
    }
    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        if self.2 && name == "x" {
            visit(b"y");
        }
    }
}

/// The hosts of clusters that a broken reference may name.
fn invalid(world: &World) -> BTreeSet<(String, String)> {
    let rules = world
        .config
        .routes
        .values()
        .flat_map(|routes| &routes.rules);
    let bound = world.config.bound.values().flatten();
    let rules = rules.chain(bound.flat_map(|bound| &bound.rules));
    let streams = world
        .config
        .routes
        .values()
        .flat_map(|routes| &routes.streams);
    rules
        .flat_map(|rule| &rule.targets)
        .chain(streams.flat_map(|rule| &rule.targets))
        .filter(|target| target.invalid.is_some() || target.port.is_none())
        .map(|target| (target.host.to_string(), target.subset.clone()))
        .collect()
}

/// Host and subset of a cluster.
fn named(cluster: &str) -> (String, String) {
    let mut parts = cluster.split('|').skip(2);
    let (subset, host) = (parts.next(), parts.next());
    let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
    (text(host), text(subset))
}

/// A subset is there for those who have the rule that says it.
fn missing((host, subset): &(String, String), world: &World, node: &Node) -> bool {
    host.parse().is_ok_and(|host| {
        let rule = world.config.destination(&host, node.into());
        !subset.is_empty() && rule.is_none_or(|rule| !rule.subsets.contains_key(subset))
    })
}

/// Nothing in a view dangles but what the world calls invalid.
fn whole(view: &View, world: &World, node: &Node) -> Result<(), TestCaseError> {
    let broken = invalid(world);
    for listener in view.listeners.values() {
        let mut names = BTreeSet::new();
        for chain in listener.chains.iter().chain(&listener.default_chain) {
            prop_assert!(names.insert(&chain.name), "two chains {}", chain.name);
            let (routes, clusters) = match &chain.action {
                ChainAction::Http { routes, .. } => (Some(routes), vec![]),
                ChainAction::Detect {
                    routes, cluster, ..
                } => (Some(routes), vec![cluster]),
                ChainAction::Tcp { clusters, .. } => {
                    (None, clusters.iter().map(|(cluster, _)| cluster).collect())
                }
            };
            prop_assert!(routes.is_none_or(|name| view.routes.contains_key(name)));
            for cluster in clusters {
                let known = view.clusters.contains_key(cluster);
                let named = named(cluster);
                prop_assert!(
                    known || missing(&named, world, node) || broken.contains(&named),
                    "{cluster}"
                );
            }
        }
        let mut matches: Vec<_> = listener.chains.iter().map(|c| &c.matches).collect();
        while let Some(one) = matches.pop() {
            prop_assert!(
                !matches.contains(&one),
                "two chains match the same: {one:?}"
            );
        }
    }
    for table in view.routes.values() {
        let mut domains = BTreeSet::new();
        for host in &table.hosts {
            prop_assert!(!host.routes.is_empty());
            for domain in &host.domains {
                prop_assert!(
                    domains.insert(domain),
                    "two hosts for {domain} in {}",
                    table.name
                );
            }
            for route in &host.routes {
                let Action::Forward(forward) = &route.action else {
                    continue;
                };
                prop_assert!(!forward.clusters.is_empty());
                for target in &forward.clusters {
                    let named = named(&target.cluster);
                    let known = view.clusters.contains_key(&target.cluster);
                    prop_assert!(
                        known || missing(&named, world, node) || broken.contains(&named),
                        "{}",
                        target.cluster
                    );
                }
            }
        }
    }
    for name in view.endpoints.keys() {
        prop_assert!(view.clusters.contains_key(name));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn views_are_whole_and_do_not_depend_on_order(text in manifests()) {
        let (objects, world) = world(&text);
        for instance in world.instances.values() {
            for transparent in [false, true] {
                let node = node(&objects, instance, transparent);
                let view = world.view(&node);
                whole(&view, &world, &node)?;
                prop_assert_eq!(&world.view_with(&world.common(), &node), &view);
            }
            let gateway = Node {
                kind: NodeKind::Gateway,
                labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
                applications: Vec::new(),
                ..node(&objects, instance, false)
            };
            whole(&world.view(&gateway), &world, &gateway)?;
        }
    }

    #[test]
    fn explaining_walks_to_the_route_that_is_taken(
        text in manifests(),
        host in select(vec!["a", "b.two", "c.one.svc.cluster.local:80", "ghost", "a.example.com", "x.y", "a:9080"]),
        path in select(vec!["/", "/a", "/a/b?x=1"]),
        header in any::<bool>(),
    ) {
        let (objects, world) = world(&text);
        let Some(instance) = world.instances.values().next() else { return Ok(()) };
        for transparent in [false, true] {
            let view = world.view(&node(&objects, instance, transparent));
            for table in view.routes.values() {
                let router = Router::new(table);
                let request = Asked(host, path, header);
                let trace = explain(&router, &request);
                let found = router.find(&request);
                prop_assert_eq!(trace.host.as_deref(), router.host(host.as_bytes()).map(|at| table.hosts[at].name.as_str()));
                match found {
                    Some(found) => {
                        prop_assert_eq!(trace.taken().unwrap().index, found.route_index);
                    }
                    None => prop_assert!(trace.routes.iter().all(|route| !route.matched)),
                }
            }
        }
    }

    /// A finding that says "unreachable" is never wrong.
    #[test]
    fn no_request_takes_a_rule_that_is_called_unreachable(
        rules in proptest::collection::vec(select(vec![
            "uri: {prefix: /a}", "uri: {exact: /a/b}", "uri: {prefix: /a/}, headers: {x: {prefix: y}}",
            "headers: {x: {exact: y}}", "headers: {x: {}}", "withoutHeaders: {x: {}}", "uri: {regex: /a.*}",
            "uri: {prefix: /A}, ignoreUriCase: true", "queryParams: {x: {exact: \"1\"}}", "method: {exact: GET}",
        ]), 1..6),
        path in select(vec!["/", "/a", "/a/b", "/a/b?x=1", "/A/b"]),
        header in any::<bool>(),
    ) {
        let mut text = String::from("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: {app: a}, ports: [{name: http, port: 80}]}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: a}}\nspec: {containers: [{name: c}]}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  http:\n");
        for (index, rule) in rules.iter().enumerate() {
            writeln!(text, "  - {{name: r{index}, match: [{{{rule}}}], route: [{{destination: {{host: a}}}}]}}").unwrap();
        }
        let (objects, world) = world(&text);
        let instance = world.instances.values().next().unwrap();
        let view = world.view(&node(&objects, instance, true));
        let router = Router::new(&view.routes["80"]);
        let taken = router.find(&Asked("a", path, header)).map(|found| found.route.name.clone());
        for finding in meshctl::mesh::check::run(&world) {
            if let (Some(taken), "IST0130") = (&taken, finding.code.as_str()) {
                let told = format!("no request reaches rule {taken:?}:");
                prop_assert!(!finding.message.starts_with(&told), "{finding}\n{text}");
            }
        }
    }
}
