//! The chart, rendered by Helm itself, against what `meshctl install --dry-run` prints.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::processes::installed;

type Objects = BTreeMap<String, Value>;

fn by_name(objects: Vec<Value>) -> Objects {
    let mut all = Objects::new();
    for object in objects {
        let text = |pointer: &str| {
            let text = object.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let name = format!(
            "{} {}/{}",
            text("/kind"),
            text("/metadata/namespace"),
            text("/metadata/name")
        );
        // Helm makes the namespace that its release is in.
        if !name.starts_with("Namespace ") {
            assert!(all.insert(name.clone(), object).is_none(), "{name} twice");
        }
    }
    all
}

fn printed(namespace: &str, revision: &str, set: &[&str]) -> Objects {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.args([
        "install",
        "--target",
        "kubernetes",
        "--dry-run",
        "-o",
        "json",
    ]);
    command.args(["--system-namespace", namespace, "--revision", revision]);
    for pair in set {
        match pair.strip_prefix("profile=") {
            Some(profile) => command.args(["--profile", profile]),
            None => command.args(["--set", pair]),
        };
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{set:?}: {output:?}");
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    by_name(list["items"].as_array().unwrap().clone())
}

fn helm(helm: &Path, args: &[&str], set: &[&str]) -> std::process::Output {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/helm/meshctl");
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(helm);
    command.args(args).arg(chart).env_clear();
    for variable in [
        "HOME",
        "HELM_CACHE_HOME",
        "HELM_CONFIG_HOME",
        "HELM_DATA_HOME",
    ] {
        command.env(variable, home.path());
    }
    for pair in set {
        command.args(["--set", &pair.replace(',', "\\,")]);
    }
    command.output().unwrap()
}

fn rendered(program: &Path, namespace: &str, revision: &str, set: &[&str]) -> Objects {
    let revision = format!("revision={revision}");
    let set = [&[revision.as_str()], set].concat();
    let args = [
        "template",
        "mesh",
        "--include-crds",
        "--namespace",
        namespace,
    ];
    let output = helm(program, &args, &set);
    assert!(output.status.success(), "{set:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = text
        .split("\n---\n")
        .map(|text| text.trim_start_matches("---\n"));
    let read = documents.filter_map(|text| {
        let value = meshctl::resource::json::read(text, "helm", 1).unwrap();
        (!value.is_null()).then_some(value)
    });
    by_name(read.collect())
}

#[test]
fn the_chart_renders_what_an_installation_applies() {
    let Some(program) = installed("helm", "helm") else {
        return;
    };
    let linted = helm(&program, &["lint", "--strict"], &[]);
    assert!(linted.status.success(), "{linted:?}");
    let cases: &[(&str, &str, &[&str])] = &[
        ("meshctl-system", "default", &[]),
        ("meshctl-system", "default", &["profile=demo"]),
        ("meshctl-system", "blue", &["profile=minimal"]),
        (
            "mesh",
            "green",
            &["tags=prod,canary", "replicas=3", "gatewayReplicas=1"],
        ),
        ("meshctl-system", "blue", &["tags=default"]),
        (
            "meshctl-system",
            "default",
            &[
                "caSigner=ca.corp:443",
                "caSignerRoots=corp",
                "caSignerName=ca",
            ],
        ),
        ("meshctl-system", "green", &["caSigner=ca.corp:443"]),
        ("meshctl-system", "17", &[]),
        (
            "meshctl-system",
            "default",
            &[
                "image=registry.example/mesh@sha256:0f",
                "imagePullPolicy=Always",
                "ingressType=NodePort",
                "failurePolicy=Ignore",
                "cpu=2",
                "memory=1Gi",
                "memoryLimit=1.5Gi",
            ],
        ),
        (
            "meshctl-system",
            "default",
            &[
                "trustDomain=corp.example",
                "mtls=strict",
                "logLevel=trace",
                "caKeyType=rsa4096",
            ],
        ),
        (
            "meshctl-system",
            "default",
            &[
                "ingress=false",
                "egress=true",
                "injector=false",
                "validator=false",
                "replicas=1",
            ],
        ),
    ];
    for (namespace, revision, set) in cases {
        let (one, other) = (
            printed(namespace, revision, set),
            rendered(&program, namespace, revision, set),
        );
        let names = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&one), names(&other), "{revision} {set:?}");
        for (name, object) in &one {
            assert_eq!(object, &other[name], "{revision} {set:?}: {name}");
        }
        assert!(one.len() > 20);
    }
    // What is mistyped is refused, as by `install --set`.
    for bad in [
        "replica=2",
        "mtls=maybe",
        "replicas=0",
        "memory=lots",
        "revision=A",
    ] {
        let refused = helm(&program, &["template", "mesh"], &[bad]);
        assert!(!refused.status.success(), "{bad}");
    }
}
