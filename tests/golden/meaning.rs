//! Text → objects → world → view.

use std::collections::BTreeMap;

use meshctl::mesh::{Finding, World};
use meshctl::mesh::{Node, NodeKind};
use meshctl::resource::{Objects, Statuses, collect, lower, parse};

use crate::mesh::{instances, node};
use crate::{cases, snapshots};

fn read(name: &str, text: &str) -> (Objects, World, Vec<Finding>) {
    let (objects, mut findings) = parse(text, &format!("{name}.yaml"), "default");
    let (objects, twice) = collect(objects);
    findings.extend(twice);
    let (world, meant) = lower(&objects, instances(&objects));
    findings.extend(meant);
    findings.extend(meshctl::mesh::check::run(&world));
    (objects, world, findings)
}

/// What each object of the Gateway API says of itself.
fn statuses(objects: &Objects) -> BTreeMap<String, serde_json::Value> {
    let told = Statuses::of(objects, &instances(objects));
    let keys = objects.keys();
    keys.filter_map(|key| Some((key.to_string(), told.get(key, 1, "1970-01-01T00:00:00Z")?)))
        .collect()
}

fn told(objects: &Objects, findings: &[Finding]) -> String {
    let mut out = String::from("read:\n");
    for key in objects.keys() {
        out += &format!("  {key}\n");
    }
    out += "findings:\n";
    for finding in findings {
        out += &format!("  {finding}\n");
    }
    out
}

/// What is written in `inputs/` is pasted by users; every object is read, or refused with a reason.
#[test]
fn inputs_of_users_are_read_or_refused_with_a_reason() {
    for (name, text) in cases("inputs") {
        let (objects, _, findings) = read(&name, &text);
        snapshots("inputs", || {
            insta::assert_snapshot!(name.as_str(), told(&objects, &findings));
        });
    }
}

#[test]
fn mistakes_are_told_with_their_place_and_remedy() {
    for (name, text) in cases("bad") {
        let (objects, _, findings) = read(&name, &text);
        snapshots("bad", || {
            insta::assert_snapshot!(name.as_str(), told(&objects, &findings));
            let statuses = statuses(&objects);
            if !statuses.is_empty() {
                insta::assert_yaml_snapshot!(format!("{name}.status"), statuses);
            }
        });
    }
}

#[test]
fn manifests_become_worlds_and_views() {
    for (name, text) in cases("") {
        let (objects, world, findings) = read(&name, &text);
        snapshots("worlds", || {
            insta::assert_snapshot!(format!("{name}.findings"), told(&objects, &findings));
            insta::assert_debug_snapshot!(format!("{name}.world"), world.config);
            let statuses = statuses(&objects);
            if !statuses.is_empty() {
                insta::assert_yaml_snapshot!(format!("{name}.status"), statuses);
            }
            let first = world.instances.values().next().unwrap();
            for (how, transparent) in [("transparent", true), ("explicit", false)] {
                let view = world.view(&node(&objects, first, transparent));
                insta::assert_yaml_snapshot!(format!("{name}.{how}"), view);
            }
            if !world.config.gateways.is_empty() || !world.config.listening.is_empty() {
                let view = world.view(&gateway(&node(&objects, first, false)));
                insta::assert_yaml_snapshot!(format!("{name}.gateway"), view);
            }
        });
    }
}

/// A gateway proxy where `node` is.
fn gateway(node: &Node) -> Node {
    Node {
        kind: NodeKind::Gateway,
        labels: [
            ("istio", "ingressgateway"),
            ("gateway.networking.k8s.io/gateway-name", "edge"),
        ]
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .into(),
        applications: Vec::new(),
        ..node.clone()
    }
}

/// The store keeps the raw form, and where each field stood.
#[test]
fn raw_forms_read_again_as_the_same_objects() {
    let mut seen = 0;
    for (_, text) in ["", "inputs"].iter().flat_map(|dir| cases(dir)) {
        for object in parse(&text, "file.yaml", "default").0 {
            let (again, _) = meshctl::resource::from_value(&object.raw, "file.yaml");
            let again = again.unwrap();
            let places = object.places();
            let (same, _) = meshctl::resource::from_store(&object.raw, "file.yaml", &places);
            assert_eq!(same.unwrap(), object);
            assert_eq!(again.body, object.body);
            assert_eq!(again.metadata, object.metadata);
            assert_eq!(again.raw, object.raw);
            // And through text, as JSON.
            let (texted, findings) = parse(&object.raw.to_string(), "file.json", "other");
            assert_eq!(texted.len(), 1, "{findings:?}");
            assert_eq!(texted[0].body, object.body);
            seen += 1;
        }
    }
    assert!(seen > 10);
}

/// `derivePort: FROM_REQUEST_PORT` means another port in each table.
#[test]
fn a_redirect_to_the_port_of_the_request_has_that_of_its_table() {
    let text = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}, {name: http-alt, port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: c}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http: [{redirect: {authority: other, derivePort: FROM_REQUEST_PORT}}]
";
    let (objects, world, findings) = read("redirect", text);
    assert_eq!(findings, []);
    let instance = world.instances.values().next().unwrap();
    for transparent in [true, false] {
        let view = world.view(&node(&objects, instance, transparent));
        for table in view.routes.values() {
            for host in &table.hosts {
                for route in &host.routes {
                    let meshctl::mesh::route::Action::Redirect(redirect) = &route.action else {
                        continue;
                    };
                    let port = host.name.rsplit(':').next().unwrap();
                    assert_eq!(redirect.port.unwrap().to_string(), port, "{}", table.name);
                }
            }
        }
        assert!(view.routes.len() > 1);
    }
}
