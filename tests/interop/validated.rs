//! What the injector writes, judged by the schemas of Kubernetes in other people's program.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::processes::installed;

#[test]
fn injected_manifests_are_valid_for_every_kubernetes() {
    let Some(python) = installed("kubernetes", "bin/python") else {
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files: Vec<_> = std::fs::read_dir(root.join("golden/inject"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut injected = String::new();
    let mut count = 0;
    for file in files {
        let output = Command::new(env!("CARGO_BIN_EXE_meshctl"))
            .args(["inject", "--quiet", "-f"])
            .arg(&file)
            .output()
            .unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let refused = name.starts_with("refused-") || name == "kind-without-template.yaml";
        // What only the settings of its case refuse is valid without them.
        let by_settings = name == "refused-native-too-old.yaml";
        assert_eq!(
            output.status.success(),
            !refused || by_settings,
            "{name}: {output:?}"
        );
        if output.status.success() {
            injected.push_str("---\n");
            injected.push_str(&String::from_utf8(output.stdout).unwrap());
            injected.push('\n');
            count += 1;
        }
    }
    let mut validating = Command::new(python)
        .arg(root.join("interop/validate.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = validating.stdin.take().unwrap();
    stdin.write_all(injected.as_bytes()).unwrap();
    drop(stdin);
    let output = validating.wait_with_output().unwrap();
    let passed = String::from_utf8_lossy(&output.stdout).trim().parse();
    assert!(output.status.success(), "{output:?}");
    // Eight versions, and one case has nothing but a Rollout that names its Deployment.
    assert!(
        passed.is_ok_and(|passed: usize| passed >= 8 * (count - 1)),
        "{output:?}"
    );
}
