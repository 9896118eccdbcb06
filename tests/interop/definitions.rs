//! Definitions of kinds, and what a control plane applies for a Gateway, as `kubernetes-validate` judges them by the schemas of many releases.

use std::process::Command;

use meshctl::install::deployed::{Asked, deployed};

use crate::processes::installed;

#[test]
fn definitions_are_as_each_release_of_kubernetes_has_them() {
    let Some(validate) = installed("kubernetes", "bin/kubernetes-validate") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crds.yaml");
    let judge = |definitions: &[serde_json::Value], release: u32| {
        let texts: Vec<String> = definitions.iter().map(ToString::to_string).collect();
        std::fs::write(&path, texts.join("\n---\n")).unwrap();
        let mut command = Command::new(&validate);
        command.args(["--strict", "--kubernetes-version"]);
        command.arg(format!("1.{release}")).arg(&path);
        command.output().unwrap()
    };
    let definitions = meshctl::install::crd::crds();
    for release in 30..=37 {
        let output = judge(&definitions, release);
        assert!(output.status.success(), "1.{release}: {output:?}");
    }
    // And it does look: a definition that says its scope wrongly typed is refused.
    let mut wrong = definitions;
    wrong[0]["spec"]["scope"] = serde_json::json!(1);
    assert!(!judge(&wrong, 37).status.success());
}

#[test]
fn what_a_gateway_is_given_is_as_each_release_of_kubernetes_has_it() {
    let Some(validate) = installed("kubernetes", "bin/kubernetes-validate") else {
        return;
    };
    let settings = meshctl::install::Settings::new(meshctl::install::Profile::Default);
    let asked = Asked {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        class: "meshctl".to_owned(),
        uid: "7".to_owned(),
        api_version: "gateway.networking.k8s.io/v1".to_owned(),
        labels: [("team".to_owned(), "edge".to_owned())].into(),
        annotations: [("cost".to_owned(), "7".to_owned())].into(),
        ports: [(80, "http"), (443, "https")].into(),
        service: "LoadBalancer".to_owned(),
        addresses: vec![[192, 0, 2, 7].into()],
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.yaml");
    let judge = |objects: &[serde_json::Value], release: u32| {
        let texts: Vec<String> = objects.iter().map(ToString::to_string).collect();
        std::fs::write(&path, texts.join("\n---\n")).unwrap();
        let mut command = Command::new(&validate);
        command.args(["--strict", "--kubernetes-version"]);
        command.arg(format!("1.{release}")).arg(&path);
        command.output().unwrap()
    };
    let mut objects = deployed(&settings, &asked, 2);
    assert_eq!(objects.len(), 4);
    for release in 30..=37 {
        let output = judge(&objects, release);
        assert!(output.status.success(), "1.{release}: {output:?}");
    }
    objects[3]["spec"]["replicas"] = serde_json::json!("two");
    assert!(!judge(&objects, 37).status.success());
}
