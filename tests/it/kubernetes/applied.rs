//! The example of the documentation, applied by the real `kubectl`: through the webhook of a control plane as it is
//! installed, and written into the file beforehand. The pods are the same.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cluster::Cluster;
use cluster::controllers::Settings;
use serde_json::{Value, json};

use super::installed::{Replica, Stand};

/// `kubectl` as it comes with the interop tests' environments; nothing, said aloud, where those are not made.
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
fn kubectl() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("interop/kubernetes/bin/kubectl");
    if path.exists() {
        return Some(path);
    }
    let missing = format!("{} is missing: run tests/interop/venvs.sh", path.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("SKIPPED: {missing}");
    None
}

/// The container that is put in.
const SIDECAR: &str = "meshctl-proxy";

/// A person at the cluster.
struct Person<'a> {
    stand: &'a Stand,
    kubectl: PathBuf,
}

impl Person<'_> {
    fn run(&self, args: &[&str], input: &str) -> Output {
        let home = self.stand.dir.path().join("person");
        let mut child = Command::new(&self.kubectl)
            .args(args)
            .env_clear()
            .env("KUBECONFIG", &self.stand.admin)
            .env("HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    fn does(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        assert!(output.status.success(), "{args:?}: {output:?}");
        // Nothing to warn of either.
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The pods of a namespace once all its Deployments are rolled out, without what no two pods have in common.
    fn pods(&self, namespace: &str) -> Vec<Value> {
        self.does(
            &[
                "-n",
                namespace,
                "rollout",
                "status",
                "deployment",
                "--timeout=60s",
            ],
            "",
        );
        self.does(
            &[
                "-n",
                namespace,
                "wait",
                "pod",
                "--all",
                "--for=condition=Ready",
                "--timeout=60s",
            ],
            "",
        );
        let listed = self.does(&["-n", namespace, "get", "pods", "-o", "json"], "");
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let pods = listed["items"].as_array().unwrap().iter();
        let mut pods: Vec<Value> = pods.map(|pod| plain(pod, namespace)).collect();
        pods.sort_by_key(|pod| pod["metadata"]["labels"].to_string());
        pods
    }
}

/// A pod without its name, its identity, its place and its namespace.
fn plain(pod: &Value, namespace: &str) -> Value {
    let spec = pod["spec"].clone();
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let mut names = volumes.filter_map(|volume| volume["name"].as_str());
    let access = names.find(|name| name.starts_with("kube-api-access-"));
    let access = access.map(str::to_owned);
    let mut kept = json!({
        "metadata": {"labels": pod["metadata"]["labels"], "annotations": pod["metadata"]["annotations"]},
        "spec": spec,
    });
    // The token of the account is put in before a webhook's volumes, and after a file's.
    let volumes = kept["spec"]["volumes"].as_array_mut().unwrap();
    volumes.sort_by_key(|volume| volume["name"].to_string());
    // Probes that are carried along are spelled as they came: by now with defaults, in the file without.
    let status = &mut kept["metadata"]["annotations"]["sidecar.istio.io/status"];
    spelled(status);
    // For the same reason a webhook finds a list of volumes, and a file need not have one.
    if let Some(created) = status.get_mut("created").and_then(Value::as_array_mut) {
        created.retain(|list| list != "volumes");
    }
    for container in kept["spec"]["initContainers"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        let env = container["env"].as_array_mut().into_iter().flatten();
        for variable in env.filter(|variable| {
            variable["value"]
                .as_str()
                .is_some_and(|value| value.starts_with("{\"/app-health/"))
        }) {
            spelled(&mut variable["value"]);
        }
    }
    let labels = kept["metadata"]["labels"].as_object_mut().unwrap();
    // Of the template, which has a sidecar only if it was in the file.
    assert!(labels.remove("pod-template-hash").is_some());
    kept["spec"].as_object_mut().unwrap().remove("nodeName");
    let mut text = kept.to_string().replace(namespace, "NAMESPACE");
    if let Some(access) = access {
        text = text.replace(&access, "ACCESS");
    }
    serde_json::from_str(&text).unwrap()
}

/// JSON in a text, without what an API server fills into probes.
fn spelled(text: &mut Value) {
    fn strip(value: &mut Value) {
        let defaults = [
            ("scheme", json!("HTTP")),
            ("timeoutSeconds", json!(1)),
            ("periodSeconds", json!(10)),
            ("successThreshold", json!(1)),
            ("failureThreshold", json!(3)),
        ];
        match value {
            Value::Object(fields) => {
                fields.retain(|name, value| !defaults.iter().any(|(n, v)| n == name && v == value));
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let Some(content) = text.as_str() else {
        return;
    };
    let mut content: Value = serde_json::from_str(content).unwrap();
    strip(&mut content);
    *text = content;
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let all = pod["spec"][list].as_array().into_iter().flatten();
    all.map(|container| container["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_gets_its_sidecars_from_the_webhook_and_from_the_file() {
    let Some(kubectl) = kubectl() else {
        return;
    };
    let cluster = Cluster::start_with(Settings::default()).await.unwrap();
    let stand = Stand::of(cluster);
    let person = Person {
        stand: &stand,
        kubectl,
    };
    stand.install(&["--wait"]);
    let plane = Replica::start(&stand, "plane");
    plane.serve_webhooks(&stand).await;

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bookinfo/bookinfo.yaml");
    let example = std::fs::read_to_string(&file).unwrap();
    for namespace in ["by-webhook", "by-file", "by-none"] {
        person.does(&["create", "namespace", namespace], "");
    }
    person.does(
        &[
            "label",
            "namespace",
            "by-webhook",
            "istio-injection=enabled",
        ],
        "",
    );
    person.does(&["-n", "by-webhook", "apply", "-f", "-"], &example);
    let by_webhook = person.pods("by-webhook");
    assert_eq!(by_webhook.len(), 6);
    for pod in &by_webhook {
        let containers = [names(pod, "initContainers"), names(pod, "containers")].concat();
        assert!(
            containers.iter().any(|name| name == SIDECAR),
            "{containers:?}"
        );
    }

    let injected = stand.run(&[
        "-n",
        "by-file",
        "inject",
        "--kubernetes",
        "1.36",
        "-f",
        file.to_str().unwrap(),
    ]);
    assert!(injected.status.success(), "{injected:?}");
    let injected = String::from_utf8(injected.stdout).unwrap();
    person.does(&["-n", "by-file", "apply", "-f", "-"], &injected);
    let by_file = person.pods("by-file");
    assert_eq!(by_file.len(), by_webhook.len());
    for (one, other) in by_webhook.iter().zip(&by_file) {
        the_same(one, other);
    }

    // What is taken out again leaves pods as if nothing had ever been put in.
    let meshed = stand.dir.path().join("meshed.yaml");
    std::fs::write(&meshed, &injected).unwrap();
    let restored = stand.run(&["inject", "--uninject", "-f", meshed.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    let restored = String::from_utf8(restored.stdout).unwrap();
    person.does(&["-n", "by-file", "apply", "-f", "-"], &restored);
    person.does(&["-n", "by-none", "apply", "-f", "-"], &example);
    assert_eq!(person.pods("by-file"), person.pods("by-none"));

    // Both ways a person takes it away again.
    person.does(
        &["-n", "by-webhook", "delete", "--wait", "-f", "-"],
        &example,
    );
    let left = person.run(&["-n", "by-webhook", "get", "pods", "-o", "name"], "");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    let log = std::fs::read_to_string(&plane.log).unwrap();
    assert!(!log.contains("forbidden"), "{log}");
}

/// Compares field by field, so that a difference is named and not two pages long.
fn the_same(one: &Value, other: &Value) {
    fn walk(path: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
        match (one, other) {
            (Value::Object(left), Value::Object(right)) => {
                let names: std::collections::BTreeSet<_> =
                    left.keys().chain(right.keys()).collect();
                for name in names {
                    walk(&format!("{path}.{name}"), &one[name], &other[name], found);
                }
            }
            (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
                for (i, (one, other)) in left.iter().zip(right).enumerate() {
                    walk(&format!("{path}[{i}]"), one, other, found);
                }
            }
            _ if one == other => {}
            _ => found.push(format!("{path}: {one} and {other}")),
        }
    }
    let mut found = Vec::new();
    walk("", one, other, &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));
}
