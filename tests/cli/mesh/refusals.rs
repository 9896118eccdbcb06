//! Configuration that cannot be honoured: said where it is wrong, and nothing is changed.

use serde_json::Value;

use super::{Mesh, project};

const ROUTE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
";

/// A name, a manifest, and what must be said of it.
fn bad() -> Vec<(&'static str, String, &'static [&'static str])> {
    vec![
        (
            "syntax",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x\nspec: {}\n".to_owned(),
            &["syntax.yaml:4:5: error [MSH0001]", "expected ',' or '}'"],
        ),
        (
            "kind",
            ROUTE.replace("VirtualService", "VirtualServise"),
            &[
                "kind.yaml:2:7 VirtualServise default/reviews: error [MSH0002]",
                "hint: did you mean VirtualService",
            ],
        ),
        (
            "field",
            format!("{ROUTE}    - destination: {{host: reviews, subset: v1}}\n      wieght: 100\n"),
            &[
                "field.yaml:9:7 VirtualService default/reviews: error [IST0106]",
                "spec.http[0].route[0].wieght: unknown field \"wieght\"",
                "hint: did you mean \"weight\"?",
            ],
        ),
        (
            "weights",
            format!(
                "{ROUTE}    - {{destination: {{host: reviews, subset: v1}}, weight: 0}}\n\
                 \x20   - {{destination: {{host: reviews, subset: v2}}, weight: 0}}\n"
            ),
            &["weights.yaml:8:", "no destination has a weight"],
        ),
        (
            "subset",
            format!("{ROUTE}    - destination: {{host: reviews, subset: v9}}\n"),
            &[
                "subset.yaml:8:44 VirtualService default/reviews: error [IST0101]",
                "has no subset \"v9\"",
                "its subsets: v1, v2, v3",
            ],
        ),
        (
            "delegate",
            ROUTE.replace("  - route:\n", "  - delegate: {name: nowhere}\n"),
            &[
                "delegate.yaml:7:15",
                "default/nowhere does not exist",
                "[IST0101]",
            ],
        ),
        // The first document is good, and yet it is not applied.
        (
            "half",
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: good}}\nspec: {{ports: [{{port: 80}}]}}\n\
                 ---\n{ROUTE}    - destination: {{host: good, subset: v9}}\n"
            ),
            &["half.yaml:13:41", "nothing was applied"],
        ),
        (
            "address",
            "apiVersion: v1\nkind: Service\nmetadata: {name: one}\n\
             spec: {clusterIP: 10.9.9.9, ports: [{port: 80}]}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: two}\n\
             spec: {clusterIP: 10.9.9.9, ports: [{port: 80}]}\n"
                .to_owned(),
            &[
                "address.yaml:9:19 Service default/two: error [MSH0006]",
                "10.9.9.9",
            ],
        ),
        (
            "twice",
            "apiVersion: v1\nkind: Service\nmetadata: {name: one}\n\
             spec: {ports: [{name: a, port: 80}, {name: b, port: 80}]}\n"
                .to_owned(),
            &["twice.yaml:4:37", "port 80 is written twice"],
        ),
    ]
}

/// Everything that an apply could change.
fn state(mesh: &Mesh) -> Vec<Value> {
    let kinds = ["svc", "vs", "dr", "deploy", "pa"];
    let mut all: Vec<Value> = kinds.iter().map(|kind| mesh.json(&["get", kind])).collect();
    all.push(mesh.json(&["version"])["controlPlane"]["revision"].clone());
    all.push(mesh.json(&["history", "--limit", "1"]));
    all
}

pub(super) fn nothing_is_half_applied(mesh: &Mesh) {
    let before = state(mesh);
    for (name, text, words) in bad() {
        mesh.home.write(&format!("{name}.yaml"), &text);
        let file = format!("{name}.yaml");
        let outcome = mesh.run(&["apply", "-f", &file]).exits(1);
        assert_eq!(outcome.stdout, "");
        assert!(outcome.stderr.starts_with("error: "), "{outcome}");
        for word in words {
            assert!(
                outcome.stderr.contains(word),
                "{name}: no {word:?} in {outcome}"
            );
        }
        assert_eq!(state(mesh), before, "{name} changed something");
        let programs = mesh.run(&["apply", "-f", &file, "-o", "json"]).exits(1);
        assert_eq!(programs.stdout, "");
    }
    assert_eq!(mesh.page().0, 200);

    // Weights are shares; that they are not of a hundred is said, and it is taken.
    let split = format!(
        "{ROUTE}    - {{destination: {{host: reviews, subset: v1}}, weight: 90}}\n\
         \x20   - {{destination: {{host: reviews, subset: v2}}, weight: 20}}\n"
    );
    mesh.home.write("shares.yaml", &split);
    let outcome = mesh.run(&["apply", "-f", "shares.yaml"]).exits(0);
    assert!(
        outcome.stderr.contains("shares.yaml:8:7")
            && outcome.stderr.contains("sum to 110, not to 100"),
        "{outcome}"
    );

    // Two services in front of one port that disagree about what is spoken there.
    let other = "apiVersion: v1\nkind: Service\nmetadata: {name: raw}\n\
                 spec: {selector: {app: ratings}, ports: [{name: tcp, port: 9080}]}\n";
    mesh.home.write("other.yaml", other);
    let outcome = mesh.run(&["apply", "-f", "other.yaml"]).exits(0);
    assert!(
        outcome
            .stderr
            .contains("other.yaml:1:1 Service default/raw: warning [IST0116]")
            && outcome
                .stderr
                .contains("lead to port 9080 of workload ratings-v1"),
        "{outcome}"
    );
    // It goes on being said where people look for what is wrong.
    let checked = mesh.run(&["check"]).exits(0);
    assert!(checked.stdout.contains("works, with"), "{checked}");
    mesh.run(&["delete", "svc", "raw"]).exits(0);

    // What `up` cannot run does not take a running mesh with it.
    let second = mesh
        .run(&["up", "-d", &project("examples/bookinfo/bookinfo.yaml")])
        .exits(1);
    assert!(
        second.stderr.contains("pods are already up in [DIR]/home"),
        "{second}"
    );
    let another = mesh.run(&["control-plane", "--xds-port", "0"]).exits(1);
    assert!(another.stderr.contains("is in use by process"), "{another}");
    assert_eq!(mesh.page().0, 200);
}

/// Manifests as people paste them.
pub(super) fn brought_manifests_are_read_or_explained(mesh: &Mesh) {
    let apply = |files: &[&str], namespace: &str, code: i32| {
        let mut args = vec!["apply", "--dry-run", "-n", namespace];
        for file in files {
            args.extend(["-f", file]);
        }
        mesh.run(&args).exits(code)
    };
    let input = |name: &str| project(&format!("tests/golden/inputs/{name}.yaml"));
    let old = apply(&[&input("helloworld")], "default", 0);
    assert!(
        old.stderr.contains("hint: write apiVersion: apps/v1"),
        "{old}"
    );
    assert!(
        old.stdout.contains("deployment/helloworld-v1 created"),
        "{old}"
    );
    apply(&[&input("nginx-pod-service-deployment")], "default", 0);
    let policy = apply(&[&input("nginx-virtualservice-policy")], "default", 1);
    for words in [
        "write uriRegexRewrite: {match: \"(.*)\", rewrite: \"\\\\1\"}",
        "Policy (security.istio.io/v1beta1) is gone from Istio since 1.6",
        "kind: PeerAuthentication",
    ] {
        assert!(policy.stderr.contains(words), "no {words:?} in {policy}");
    }
    // What it says to write today is taken.
    let text = std::fs::read_to_string(input("nginx-virtualservice-policy")).unwrap();
    let (kept, _) = text.rsplit_once("---\n").unwrap();
    let (_, today) = policy.stderr.split_once("write it today as\n").unwrap();
    let today: String = today
        .lines()
        .take_while(|line| line.starts_with("  "))
        .map(|line| format!("{}\n", line.strip_prefix("  ").unwrap()))
        .collect();
    mesh.home
        .write("today.yaml", &format!("{kept}---\n{today}"));
    apply(&["today.yaml"], "default", 0);

    let route = input("reviews-route");
    let missing = apply(&[&route], "default", 1);
    assert!(
        missing
            .stderr
            .contains("service reviews.prod.svc.cluster.local does not exist"),
        "{missing}"
    );
    let all = apply(
        &[
            &project("examples/bookinfo/bookinfo.yaml"),
            &project("examples/bookinfo/destination-rule-reviews.yaml"),
            &route,
        ],
        "prod",
        0,
    );
    assert!(
        all.stdout.contains("virtualservice/reviews-route created"),
        "{all}"
    );
}

/// A certificate for one account is no way into a service that others run.
pub(super) fn nobody_stands_behind_a_service_of_others(mesh: &Mesh) {
    let control = mesh.json(&["version"])["controlPlane"]["tlsAddress"].clone();
    let token = mesh.json(&[
        "token",
        "create",
        "--service-account",
        "cart",
        "--uses",
        "2",
    ]);
    let details = mesh.pod("details")["name"].as_str().unwrap().to_owned();
    for (name, service, words) in [
        (
            "cart-1",
            "reviews",
            "service reviews.default is run by account bookinfo-reviews, not by cart",
        ),
        (
            details.as_str(),
            "cart",
            "the certificate is for default/cart, not for default/bookinfo-details",
        ),
    ] {
        let outcome = mesh
            .run(&[
                "proxy",
                "--service",
                service,
                "--service-account",
                "cart",
                "--name",
                name,
                "--app",
                "9080=127.0.0.1:1",
                "--address",
                "127.94.0.77",
                "--control-plane",
                control.as_str().unwrap(),
                "--join",
                token["token"].as_str().unwrap(),
            ])
            .exits(1);
        assert!(outcome.stderr.contains(words), "{outcome}");
        assert!(outcome.stderr.contains("hint: "), "{outcome}");
    }
    let endpoints = mesh.json(&["endpoints", "reviews"]);
    assert_eq!(endpoints.as_array().unwrap().len(), 3, "{endpoints}");
}
