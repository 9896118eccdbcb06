//! Pods in, meshed pods out, and back.

use meshctl::inject::{InjectConfig, inject, uninject};
use meshctl::resource::document::split;
use meshctl::resource::json::read;
use serde_json::Value;

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
        native_sidecar,
        ..InjectConfig::default()
    }
}

#[test]
fn pods_get_their_sidecar() {
    for (name, text) in cases("inject") {
        let native = name.contains("native");
        let mut config = config(native);
        config.proxies = meshctl::inject::proxy_configs(&text, "x").unwrap();
        let injected = inject(&text, &format!("{name}.yaml"), &config).unwrap();
        let mut shown = String::new();
        for finding in &injected.findings {
            shown += &format!("# {finding}\n");
        }
        shown += &format!("# changed: {}\n{}", injected.changed, injected.text);
        snapshots("inject", || insta::assert_snapshot!(name.as_str(), shown));
    }
}

#[test]
fn injecting_twice_is_injecting_once_and_uninjecting_gives_the_pod_back() {
    let mut changed = 0;
    for dir in ["inject", "inputs", ""] {
        for (name, text) in cases(dir) {
            for native in [false, true] {
                let once = inject(&text, "x", &config(native)).unwrap();
                let twice = inject(&once.text, "x", &config(native)).unwrap();
                assert_eq!(twice.text, once.text, "{name}");
                assert_eq!(twice.changed, 0, "{name}");
                // From one way of running the proxy to the other, as if it had never been there.
                let other = inject(&once.text, "x", &config(!native)).unwrap();
                let fresh = inject(&text, "x", &config(!native)).unwrap();
                assert_eq!(values(&other.text), values(&fresh.text), "{name}");
                let back = uninject(&once.text, "x").unwrap();
                assert_eq!(values(&back.text), values(&text), "{name}");
                assert_eq!(back.changed, once.changed, "{name}");
                changed += once.changed;
            }
        }
    }
    assert!(changed >= 18, "{changed}");
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
        ("hostNetwork: true, containers: [{name: a}]", "network"),
        (
            "containers: [{name: meshctl-proxy}]",
            "name that the sidecar needs",
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
