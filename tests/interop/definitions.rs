//! Definitions of kinds, as `kubernetes-validate` judges them by the schemas of many releases.

use std::process::Command;

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
