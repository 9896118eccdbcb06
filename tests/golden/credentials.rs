//! Secrets that rules for destinations name: who gets which.

use std::collections::BTreeSet;

use meshctl::mesh::origination::{Roots, Shown};
use meshctl::mesh::{Node, NodeKind, Secret, View, World};
use meshctl::resource::{Objects, collect, lower, parse};

use crate::mesh::{instances, node};

const CLUSTER: &str = "outbound|80||api.example.com";

fn pod(name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\nspec: {{containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}\n---\n"
    )
}

/// A Secret `pair` whose texts say of which namespace it is.
fn secret(namespace: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: pair, namespace: {namespace}}}\nstringData: {{tls.crt: chain of {namespace}, tls.key: key of {namespace}, ca.crt: roots of {namespace}}}\n---\n"
    )
}

fn rule(name: &str, namespace: &str, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{host: api.example.com, {more}trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: pair}}}}}}\n---\n"
    )
}

fn world(text: &str) -> (Objects, World) {
    let (objects, findings) = parse(text, "x", "default");
    assert!(findings.is_empty(), "{findings:?}");
    let (objects, _) = collect(objects);
    let (world, _) = lower(&objects, instances(&objects));
    (objects, world)
}

/// The pod, as a sidecar or as a gateway.
fn as_node(objects: &Objects, world: &World, pod: (&str, &str), kind: NodeKind) -> Node {
    let key = (pod.1.to_owned(), pod.0.to_owned());
    Node {
        kind,
        ..node(objects, world.instances.get(&key).unwrap(), true)
    }
}

/// Whether it begins TLS with the Secret, and of which namespace what it has of it is.
fn has(view: &View) -> (bool, BTreeSet<String>) {
    let cluster = view.clusters.get(CLUSTER).unwrap();
    let how = cluster.origination.as_ref();
    let named = how.is_some_and(|how| {
        let believed = how.verify.as_ref().map(|verify| &verify.roots);
        how.certificate == Some(Shown::Secret("kubernetes://pair".to_owned()))
            && believed == Some(&Roots::Secret("kubernetes://pair-cacert".to_owned()))
    });
    assert_eq!(named, how.is_some());
    assert!(!named || cluster.tls.is_none());
    let of = view.secrets.iter().map(|(name, text)| {
        let (text, begin) = match &**text {
            Secret::Certificate { chain, .. } => (chain, "kubernetes://pair"),
            Secret::Roots { certificates, .. } => (certificates, "kubernetes://pair-cacert"),
        };
        assert_eq!(name, begin);
        text.rsplit(' ').next().unwrap().to_owned()
    });
    (named, of.collect())
}

#[test]
fn secrets_of_rules_are_for_gateways_and_chosen_workloads_of_their_own_namespace() {
    let mut text = String::from(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: api, namespace: one}\nspec: {hosts: [api.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}\n---\n",
    );
    for (name, namespace) in [("x", "one"), ("w", "one"), ("z", "two"), ("v", "three")] {
        text += &pod(name, namespace);
    }
    text += &(secret("one") + &secret("two"));
    text += &rule(
        "chosen",
        "one",
        "workloadSelector: {matchLabels: {app: x}}, ",
    );
    text += &rule("all", "istio-system", "");
    let (objects, world) = world(&text);
    let of = |pod, kind| has(&world.view(&as_node(&objects, &world, pod, kind)));
    let texts = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
    let (sidecar, gateway) = (NodeKind::Sidecar, NodeKind::Gateway);
    assert_eq!(of(("x", "one"), sidecar), (true, texts(&["one"])));
    // Neither chosen, nor a gateway.
    assert_eq!(of(("w", "one"), sidecar), (false, texts(&[])));
    assert_eq!(of(("z", "two"), sidecar), (false, texts(&[])));
    // The same rule is for gateways, each with the Secret of its own namespace.
    assert_eq!(of(("w", "one"), gateway), (true, texts(&["one"])));
    assert_eq!(of(("z", "two"), gateway), (true, texts(&["two"])));
    // Where there is none, calls fail; nobody gets another's.
    assert_eq!(of(("v", "three"), gateway), (true, texts(&[])));
}
