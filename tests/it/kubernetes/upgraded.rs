//! Revisions side by side, names by which namespaces choose them, and upgrades in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::installed::{Replica, Stand};

const INJECTORS: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";

/// Names of the webhooks that ask a revision about pods, and where.
fn hooks(stand: &Stand, name: &str) -> Vec<(String, String)> {
    let found = stand.object(INJECTORS, "", name).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let hooks = found["webhooks"].as_array().unwrap().iter();
    hooks
        .map(|hook| {
            let service = &hook["clientConfig"]["service"];
            let at = format!("{}{}", text(&service["name"]), text(&service["path"]));
            (text(&hook["name"]), at)
        })
        .collect()
}

/// The services that are asked about pods of namespaces that choose `revision`.
fn asked(stand: &Stand, names: &[&str], revision: &str) -> Vec<String> {
    let chosen = |name: &&str| {
        let found = stand.object(INJECTORS, "", name)?;
        let hooks = found["webhooks"].as_array()?.clone();
        let hook = hooks.into_iter().find(|hook| {
            let wants = &hook["namespaceSelector"]["matchExpressions"][0];
            wants["key"] == "istio.io/rev" && wants["values"] == json!([revision])
        })?;
        let service = &hook["clientConfig"]["service"];
        let believed = hook["clientConfig"]["caBundle"].is_string();
        Some(format!(
            "{}{} {believed}",
            service["name"].as_str()?,
            service["path"].as_str()?
        ))
    };
    names.iter().filter_map(chosen).collect()
}

fn run(stand: &Stand, args: &[&str], code: i32) -> String {
    let output = stand.run(args);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

/// What the control plane of a revision writes as soon as it leads.
fn tell_authority(stand: &Stand, name: &str) {
    edit(stand, INJECTORS, ("", name), |found| {
        for hook in found["webhooks"].as_array_mut().unwrap() {
            hook["clientConfig"]["caBundle"] = "QQ==".into();
        }
    });
}

/// Installs a revision again, which leaves everything as it is. Who wrote which webhook, and when, is noted
/// anew by the server in memory.
fn changes_nothing(stand: &Stand, revision: &str) {
    let injector = format!("meshctl-injector-{revision}");
    let before = stand.object(INJECTORS, "", &injector).unwrap();
    let mut done = stand.install(&["--revision", revision]);
    done.retain(|(name, what)| what != "unchanged" && !name.ends_with(&injector));
    assert_eq!(done, []);
    let after = stand.object(INJECTORS, "", &injector).unwrap();
    assert_eq!(after["webhooks"], before["webhooks"]);
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
}

/// Changes an object past all rules, as controllers of the cluster do with what is theirs.
fn edit(
    stand: &Stand,
    resource: &str,
    (namespace, name): (&str, &str),
    change: impl FnOnce(&mut Value),
) {
    let mut state = stand.cluster.server().state();
    let kind = state.kind_of(resource).unwrap();
    let key = json!({"metadata": {"namespace": namespace, "name": name}});
    let key = cluster::server::key_of(&kind, &key);
    let found = state.store.get(&key).unwrap();
    let mut object = (*found).clone();
    change(&mut object);
    if object != *found {
        state.store.put(key, object);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_are_side_by_side_and_namespaces_move_by_a_name() {
    let stand = Stand::start().await;
    stand.install(&["--revision", "a"]);
    stand.install(&["--revision", "b"]);
    let injectors = ["meshctl-injector-a", "meshctl-injector-b"];
    tell_authority(&stand, injectors[0]);

    let said = run(&stand, &["tag", "set", "prod", "--revision", "c"], 1);
    assert!(said.contains("there is no revision \"c\""), "{said}");
    let said = run(&stand, &["tag", "set", "a", "--revision", "b"], 1);
    assert!(said.contains("the name of a revision itself"), "{said}");
    run(&stand, &["tag", "set", "prod", "--revision", "a"], 0);
    assert_eq!(
        asked(&stand, &injectors, "prod"),
        ["meshctl-a/inject/prod true"]
    );
    assert_eq!(asked(&stand, &injectors, "a"), ["meshctl-a/inject true"]);
    // Installing again keeps it.
    changes_nothing(&stand, "a");

    // Somebody must want it, and the other must be there: else all stays where it is.
    let said = run(&stand, &["tag", "set", "prod", "--revision", "b"], 1);
    assert!(said.contains("--overwrite"), "{said}");
    tell_authority(&stand, injectors[1]);
    run(
        &stand,
        &["tag", "set", "prod", "--revision", "b", "--overwrite"],
        0,
    );
    assert_eq!(
        asked(&stand, &injectors, "prod"),
        ["meshctl-b/inject/prod true"]
    );
    let listed = stand.run(&["tag", "list", "-o", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        listed,
        json!([
            {"revision": "a", "version": version, "tags": []},
            {"revision": "b", "version": version, "tags": ["prod"]},
        ])
    );

    // Nor does an installation take it by the way.
    let taken = [
        "install",
        "--target",
        "kubernetes",
        "--revision",
        "a",
        "--set",
        "tags=prod",
    ];
    let said = run(&stand, &taken, 1);
    assert!(
        said.contains("meshctl-injector-b injects the namespaces"),
        "{said}"
    );

    // One that is in use stays.
    let shop = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"istio.io/rev": "prod"}}});
    stand
        .cluster
        .server()
        .create_now("namespaces", "", shop)
        .unwrap();
    let said = run(&stand, &["tag", "remove", "prod"], 1);
    assert!(said.contains("namespaces choose \"prod\": shop"), "{said}");

    // The old revision goes, and takes nothing of the other's along.
    let before = hooks(&stand, injectors[1]);
    run(
        &stand,
        &["uninstall", "--target", "kubernetes", "--revision", "a"],
        0,
    );
    assert_eq!(stand.object(INJECTORS, "", injectors[0]), None);
    assert_eq!(
        stand.object("deployments.apps", "meshctl-system", "meshctl-a"),
        None
    );
    assert_eq!(hooks(&stand, injectors[1]), before);
    changes_nothing(&stand, "b");

    edit(&stand, "namespaces", ("", "shop"), |found| {
        found["metadata"]["labels"] = json!({});
    });
    run(&stand, &["tag", "remove", "prod"], 0);
    assert_eq!(asked(&stand, &injectors, "prod"), [""; 0]);
    // A name may be that of the usual revision, where there is none of that name.
    run(&stand, &["tag", "set", "default", "--revision", "b"], 0);
    let enabled = hooks(&stand, injectors[1]);
    let name = "namespace.default.injector.meshctl.dev".to_owned();
    assert!(
        enabled.contains(&(name, "meshctl-b/inject/default".to_owned())),
        "{enabled:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_choose_a_name_get_the_sidecar_of_its_revision() {
    let stand = Stand::start().await;
    stand.install(&[]);
    let one = Replica::start(&stand, "one");
    let namespace = |name: &str, revision: &str| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"istio.io/rev": revision}}});
        stand
            .cluster
            .server()
            .create_now("namespaces", "", object)
            .unwrap();
    };
    namespace("shop", "prod");
    let roots = stand
        .until("the roots in a namespace", || {
            let found = stand.object("configmaps", "shop", "meshctl-ca-root-cert")?;
            Some(found["data"]["root-cert.pem"].as_str()?.to_owned())
        })
        .await;
    // The control plane tells its authority, which the name's own webhooks have, too.
    let set = stand.run(&["tag", "set", "prod"]);
    assert!(set.status.success(), "{set:?}");
    assert_eq!(
        asked(&stand, &["meshctl-injector"], "prod"),
        ["meshctl/inject/prod true"]
    );
    let believed = stand.dir.path().join("roots.pem");
    std::fs::write(&believed, &roots).unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web"}]},
    });
    let patched = one.ask(&believed, "/inject/prod", &pod);
    assert_eq!(patched["patchType"], "JSONPatch", "{patched}");
    // The same namespace is nobody's under another name.
    let left = one.ask(&believed, "/inject/canary", &pod);
    assert_eq!(
        (&left["allowed"], &left["patchType"]),
        (&json!(true), &Value::Null)
    );
    one.end();
}

/// What the controller of Deployments says once their pods run.
fn roll_out(stand: &Stand) {
    for name in ["meshctl", "istio-ingressgateway"] {
        edit(
            stand,
            "deployments.apps",
            ("meshctl-system", name),
            |found| {
                found["status"] = json!({
                    "observedGeneration": found["metadata"]["generation"],
                    "replicas": found["spec"]["replicas"],
                    "updatedReplicas": found["spec"]["replicas"],
                    "availableReplicas": found["spec"]["replicas"],
                });
            },
        );
    }
}

/// Makes what is installed one of another release.
fn pretend(stand: &Stand, version: &str) {
    edit(
        stand,
        "configmaps",
        ("meshctl-system", "meshctl"),
        |found| {
            let text = found["data"]["settings.json"].as_str().unwrap();
            let mut note: Value = serde_json::from_str(text).unwrap();
            note["version"] = version.into();
            found["data"]["settings.json"] = note.to_string().into();
        },
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_whole_or_not_at_all() {
    let stand = Arc::new(Stand::start().await);
    let upgrade = ["upgrade", "--target", "kubernetes"];
    let said = run(&stand, &upgrade, 1);
    assert!(said.contains("there is no revision \"default\""), "{said}");
    run(&stand, &["upgrade"], 2);
    stand.install(&["--set", "logLevel=warn"]);

    let mut parts = env!("CARGO_PKG_VERSION").split('.');
    let major: u64 = parts.next().unwrap().parse().unwrap();
    let minor: u64 = parts.next().unwrap().parse().unwrap();
    pretend(&stand, &format!("{major}.{}.0", minor + 2));
    let said = run(&stand, &upgrade, 1);
    assert!(said.contains("more than one minor release"), "{said}");
    pretend(&stand, &format!("{major}.{}.0", minor + 1));
    let said = run(&stand, &upgrade, 1);
    assert!(said.contains("--allow-downgrade"), "{said}");
    let deployment = || {
        stand
            .object("deployments.apps", "meshctl-system", "meshctl")
            .unwrap()
    };
    let settings = || {
        let found = stand
            .object("configmaps", "meshctl-system", "meshctl")
            .unwrap();
        found["data"]["settings.json"].as_str().unwrap().to_owned()
    };
    let (spec, note) = (deployment()["spec"].clone(), settings());

    // Nobody runs the new one: all is as it was.
    let next = [
        &upgrade[..],
        &[
            "--allow-downgrade",
            "--set",
            "replicas=3",
            "--timeout",
            "1s",
        ],
    ]
    .concat();
    let said = run(&stand, &next, 1);
    assert!(said.contains("the upgrade was taken back"), "{said}");
    assert_eq!(
        (deployment()["spec"].clone(), settings()),
        (spec.clone(), note)
    );

    // It runs: what was set stays set, and what is said now is changed.
    let ended = Arc::new(AtomicBool::new(false));
    let (end, seen) = (Arc::clone(&ended), Arc::clone(&stand));
    let controller = std::thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            roll_out(&seen);
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let more = [
        "--allow-downgrade",
        "--set",
        "replicas=3",
        "--timeout",
        "30s",
    ];
    let output = stand.run(&[&upgrade[..], &more].concat());
    ended.store(true, Ordering::Relaxed);
    controller.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(deployment()["spec"]["replicas"], 3);
    let note: Value = serde_json::from_str(&settings()).unwrap();
    assert_eq!(note["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(note["chosen"], json!({"logLevel": "warn", "replicas": "3"}));
    let same = stand.install(&[]);
    assert!(same.iter().all(|(_, what)| what == "unchanged"), "{same:?}");
}
