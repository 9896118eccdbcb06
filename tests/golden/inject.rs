//! Pods in, meshed pods out, and back.

use std::collections::BTreeMap;

use meshctl::inject::{InjectConfig, inject, json_patch, uninject};
use meshctl::resource::document::split;
use meshctl::resource::json::read;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{cases, snapshots};

fn values(text: &str) -> Vec<Value> {
    split(text)
        .iter()
        .filter(|piece| !piece.is_blank())
        .map(|piece| read(piece.text, "x", piece.line).unwrap())
        .collect()
}

fn config(native_sidecar: bool) -> InjectConfig {
    InjectConfig {
        image: "meshctl:test".to_owned(),
        native_sidecar: Some(native_sidecar),
        ..InjectConfig::default()
    }
}

/// The settings of a case are its first comments, `# NAME: VALUE`.
fn settings(name: &str, text: &str) -> InjectConfig {
    let mut config = InjectConfig {
        native_sidecar: name.starts_with("native").then_some(true),
        ..config(false)
    };
    config.proxies = meshctl::inject::proxy_configs([(text, "x")]).unwrap_or_default();
    let label = |value: &str| {
        let (key, value) = value.split_once('=').unwrap();
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    };
    for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
        let Some((key, value)) = line.split_once(": ") else {
            continue;
        };
        match key {
            "kubernetes" => {
                let (major, minor) = value.split_once('.').unwrap();
                config.kubernetes = Some((major.parse().unwrap(), minor.parse().unwrap()));
            }
            "by-default" => config.by_default = value.parse().unwrap(),
            "never" => config.never.push(label(value)),
            "always" => config.always.push(label(value)),
            "tags" => config.tags.push(value.to_owned()),
            "pull-secret" => config.image_pull_secrets.push(value.to_owned()),
            "pull-policy" => config.image_pull_policy = Some(value.to_owned()),
            "merge-metrics" => config.merge_metrics = value.parse().unwrap(),
            "capture-dns" => config.capture_dns = value.parse().unwrap(),
            "hold" => config.hold_application = value.parse().unwrap(),
            _ => {}
        }
    }
    config
}

#[test]
fn pods_get_their_sidecar() {
    let all = cases("inject");
    assert!(all.len() >= 60, "{}", all.len());
    for (name, text) in all {
        let injected = inject(&text, &format!("{name}.yaml"), &settings(&name, &text));
        assert_eq!(
            injected.is_err(),
            name.starts_with("refused") || name == "kind-without-template",
            "{name}: {injected:?}"
        );
        let shown = match injected {
            Ok(injected) => {
                assert_eq!(
                    !injected.left_alone.is_empty(),
                    name.starts_with("alone") || name == "deployment",
                    "{name}"
                );
                let mut shown = String::new();
                for finding in &injected.findings {
                    shown += &format!("# {finding}\n");
                }
                for remark in &injected.left_alone {
                    shown += &format!("# {}: left alone, as {}\n", remark.origin, remark.why);
                }
                shown + &format!("# changed: {}\n{}", injected.changed, injected.text)
            }
            Err(findings) => {
                let lines = findings.iter().map(|finding| format!("# {finding}\n"));
                format!("# refused\n{}", lines.collect::<String>())
            }
        };
        snapshots("inject", || insta::assert_snapshot!(name.as_str(), shown));
    }
}

#[test]
fn injecting_twice_is_injecting_once_and_uninjecting_gives_the_pod_back() {
    let mut changed = 0;
    for dir in ["inject", "inputs", ""] {
        for (name, text) in cases(dir) {
            for native in [false, true] {
                let config = |native| InjectConfig {
                    native_sidecar: Some(native),
                    ..settings(&name, &text)
                };
                let Ok(once) = inject(&text, "x", &config(native)) else {
                    continue;
                };
                let twice = inject(&once.text, "x", &config(native)).unwrap();
                assert_eq!(twice.text, once.text, "{name}");
                assert_eq!(twice.changed, 0, "{name}");
                // From one way of running the proxy to the other, as if it had never been there.
                if let Ok(fresh) = inject(&text, "x", &config(!native)) {
                    let other = inject(&once.text, "x", &config(!native)).unwrap();
                    assert_eq!(values(&other.text), values(&fresh.text), "{name}");
                }
                let back = uninject(&once.text, "x").unwrap();
                assert_eq!(values(&back.text), values(&text), "{name}");
                assert_eq!(back.changed, once.changed, "{name}");
                changed += once.changed;
            }
        }
    }
    assert!(changed >= 100, "{changed}");
}

/// A patch is judged by somebody else's program.
fn patched(before: &Value, after: &Value) {
    let steps = json_patch(before, after);
    let patch: json_patch::Patch =
        serde_json::from_value(serde_json::to_value(&steps).unwrap()).unwrap();
    let mut done = before.clone();
    json_patch::patch(&mut done, &patch).unwrap();
    assert_eq!(&done, after, "{steps:?}");
    assert_eq!(steps.is_empty(), before == after);
}

#[test]
fn a_patch_makes_of_the_pod_what_the_stream_has() {
    for (name, text) in cases("inject") {
        let Ok(injected) = inject(&text, "x", &settings(&name, &text)) else {
            continue;
        };
        for (before, after) in values(&text).iter().zip(&values(&injected.text)) {
            patched(before, after);
            patched(after, before);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_pod_has_comes_back(
        labels in proptest::option::of(proptest::collection::btree_map("[a-z]{1,5}", "[a-z]{0,5}", 0..3)),
        annotations in proptest::option::of(proptest::collection::btree_map(
            proptest::sample::select(vec!["prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path", "a", "istio.io/rev"]),
            proptest::sample::select(vec!["true", "9090", "/x", "default"]), 0..4)),
        ports in proptest::collection::vec(1u16..9999, 0..4),
        probes in proptest::collection::vec(0usize..5, 3),
        own in proptest::option::of(0usize..3),
        inits in proptest::option::of(0usize..3),
        volumes in proptest::option::of(0usize..3),
        native: bool,
        empty: bool,
    ) {
        let probe = |which: usize, port: u16| match which {
            0 => json!({"httpGet": {"path": "/", "port": port}}),
            1 => json!({"tcpSocket": {"port": port}, "periodSeconds": 3}),
            2 => json!({"grpc": {"port": port}}),
            3 => json!({"exec": {"command": ["a"]}}),
            _ => json!({"httpGet": {"port": "named"}}),
        };
        let ports: Vec<Value> = ports.iter().map(|port| json!({"containerPort": port})).collect();
        let mut containers = vec![
            json!({"name": "a", "image": "a", "ports": ports, "readinessProbe": probe(probes[0], 80), "livenessProbe": probe(probes[1], 81)}),
            json!({"name": "b", "image": "b", "startupProbe": probe(probes[2], 82), "lifecycle": {"preStop": {"httpGet": {"port": 83}}}}),
        ];
        if let Some(at) = own {
            containers.insert(at, json!({"name": "meshctl-proxy", "image": "auto", "tty": true}));
        }
        let mut pod = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
        if let Some(labels) = labels { pod["metadata"]["labels"] = json!(labels); }
        if let Some(annotations) = annotations { pod["metadata"]["annotations"] = json!(annotations); }
        let named = |count: usize| (0..count).map(|at| json!({"name": format!("x{at}")})).collect::<Vec<_>>();
        if let Some(count) = inits { pod["spec"]["initContainers"] = json!(named(count)); }
        if let Some(count) = volumes { pod["spec"]["volumes"] = json!(named(count)); }
        if empty { pod["spec"]["imagePullSecrets"] = Value::Null; }
        let config = InjectConfig { image_pull_secrets: vec!["s".to_owned()], ..config(native) };
        let text = pod.to_string();
        match inject(&text, "x", &config) {
            Ok(once) => {
                let meshed = values(&once.text);
                patched(&pod, &meshed[0]);
                prop_assert_eq!(&inject(&once.text, "x", &config).unwrap().text, &once.text);
                prop_assert_eq!(&values(&uninject(&once.text, "x").unwrap().text)[0], &pod);
            }
            // An annotation that says nothing sensible.
            Err(findings) => prop_assert!(findings.iter().all(|finding| finding.message.contains("rev")), "{:?}", findings),
        }
    }
}

#[test]
fn documents_without_pods_pass_byte_by_byte() {
    let text = "# head\n---\nkind:   Service # odd spacing\nspec: {a: [1,2]}\n---\n\n--- # end\nkind: Pod\nmetadata: {labels: {sidecar.istio.io/inject: \"false\"}}\nspec:   {containers: []}\n";
    let injected = inject(text, "x", &config(false)).unwrap();
    assert_eq!(injected.text, text);
    assert_eq!(injected.changed, 0);
}

#[test]
fn pods_that_cannot_have_one_are_refused_and_nothing_is_written() {
    for (pod, why) in [
        (
            "containers: [{name: meshctl-proxy}]",
            "no container beside the sidecar",
        ),
        ("containers: []", "no containers"),
        (
            "volumes: x, containers: [{name: a}]",
            "spec.volumes is not a list",
        ),
    ] {
        let text = format!("kind: Pod\nmetadata: {{name: p}}\nspec: {{{pod}}}\n");
        let findings = inject(&text, "x", &config(false)).unwrap_err();
        assert!(findings[0].message.contains(why), "{findings:?}");
    }
    let findings = inject("a: b: c", "x.yaml", &config(false)).unwrap_err();
    assert_eq!(findings[0].origin.column, 5);
}
