//! `inject`, `up` and their company: commands that read manifests on this machine.

use super::run::Home;

const POD: &str = "\
# The shop.
apiVersion: v1
kind: Pod
metadata:
  name: shop
  labels: {app: shop}
spec:
  containers:
  - name: shop
    image: shop:1
    ports: [{containerPort: 8080}]
";

const SERVICE: &str = "\
# Left as it is,   byte by byte.
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 80, targetPort: 8080}]}
";

#[test]
fn injection_is_a_filter_and_taking_out_gives_back() {
    let home = Home::new();
    let both = format!("{SERVICE}---\n{POD}");
    let injected = home.feed(&["inject"], &both).exits(0);
    assert!(injected.stdout.starts_with(SERVICE), "{injected}");
    assert!(
        injected.stdout.contains("name: meshctl-proxy")
            || injected.stdout.contains("image: meshctl:"),
        "{injected}"
    );
    assert!(
        injected.stderr.contains("1 pod now with a sidecar"),
        "{injected}"
    );
    let again = home.feed(&["inject", "-q"], &injected.stdout).exits(0);
    assert_eq!(again.stdout, injected.stdout, "twice is once");
    assert_eq!(again.stderr, "");
    let plain = home
        .feed(&["inject", "--uninject", "-q"], &injected.stdout)
        .exits(0);
    let object = |text: &str| -> serde_json::Value {
        serde_saphyr::from_str(text.split("---\n").nth(1).unwrap()).unwrap()
    };
    assert_eq!(object(&plain.stdout), object(&both));
    let other = home
        .feed(&["inject", "--image", "registry/mesh:2"], POD)
        .exits(0);
    assert!(other.stdout.contains("registry/mesh:2"), "{other}");
}

#[test]
fn several_files_become_one_stream_or_nothing() {
    let home = Home::new();
    home.write("a/1.yaml", SERVICE);
    home.write("a/2.yaml", POD);
    let stream = home.run(&["inject", "-f", "a", "-q"]).exits(0).stdout;
    assert_eq!(stream.matches("\n---\n").count(), 1, "{stream}");
    home.write("a/3.yaml", "kind: [\n");
    let broken = home.run(&["inject", "-f", "a"]).exits(1);
    assert_eq!(broken.stdout, "");
    assert!(broken.stderr.contains("a/3.yaml:"), "{broken}");
}

#[test]
fn without_pods_their_commands_say_so() {
    let home = Home::new();
    home.run(&["install"]).exits(0);
    let mut all = String::new();
    for (args, code) in [(&["ps"][..], 1), (&["logs"], 1), (&["down"], 0)] {
        let outcome = home.run(args).exits(code);
        all.push_str(&format!("$ meshctl {}\n{outcome}", args.join(" ")));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn up_reads_everything_before_it_starts_anything() {
    let home = Home::new();
    home.write("pod.yaml", POD);
    let mut all = String::new();
    home.write("service.yaml", SERVICE);
    home.write(
        "broken.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: 3}\n",
    );
    home.write(
        "secret.yaml",
        &POD.replace(
            "image: shop:1",
            "image: shop:1\n    env: [{name: KEY, valueFrom: {secretKeyRef: {name: keys, key: k}}}]",
        ),
    );
    for (args, code) in [
        (&["up", "missing.yaml"][..], 1),
        (&["up", "service.yaml"], 1),
        (&["up", "broken.yaml"], 1),
        (&["up", "secret.yaml"], 1),
        (&["up", "-d", "-"], 2),
        (&["up", "pod.yaml"], 1),
    ] {
        let outcome = home.run(args).exits(code);
        assert_eq!(outcome.stdout, "");
        all.push_str(&format!("$ meshctl {}\n{}", args.join(" "), outcome.stderr));
    }
    insta::assert_snapshot!(all);
    assert!(!home.path().join("local/state.json").exists());
}

#[test]
fn what_cannot_run_here_is_said_before_anything_is_made() {
    let home = Home::new();
    let pod = |first: &str, second: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: shop}}\nspec:\n  containers:\n  - {first}\n  - {second}\n"
        )
    };
    let container = |name: &str, port: u16| {
        format!(
            "{{name: {name}, image: x, command: [sleep, '9'], ports: [{{containerPort: {port}}}]}}"
        )
    };
    let mut all = String::new();
    for (name, text) in [
        ("twice", pod(&container("a", 8_080), &container("b", 8_080))),
        (
            "sidecars",
            pod(&container("a", 15_001), &container("b", 8_080)),
        ),
        (
            "image",
            pod(&container("a", 8_080), "{name: b, image: nginx}"),
        ),
    ] {
        let file = format!("{name}.yaml");
        home.write(&file, &text);
        let outcome = home
            .run(&["up", "-d", "--isolation", "process", &file])
            .exits(1);
        assert_eq!(outcome.stdout, "");
        all.push_str(&format!("$ meshctl up -d {file}\n{}", outcome.stderr));
        assert!(!home.path().exists(), "{outcome}");
    }
    insta::assert_snapshot!(all);
}

#[test]
fn the_sample_application_is_inside() {
    let home = Home::new();
    let outcome = home.run(&["sample-app"]).exits(2);
    assert!(
        outcome.stderr.contains("usage: meshctl sample-app"),
        "{outcome}"
    );
    let help = home.run(&["--help"]).exits(0);
    assert!(!help.stdout.contains("sample-app"));
}
