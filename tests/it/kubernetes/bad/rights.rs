//! Rights that are missing when the control plane starts, and that are taken away while it runs.

use cluster::faults::Interrupt;

use super::super::seen;
use super::*;

const RIGHTS: &str = "the control plane may do what it does";
const OWN: &str = "its account may do what this release does";
const WIDE: &str = "meshctl-meshctl-system";

/// All that gives its account rights, that of its own namespace first.
fn bindings() -> [ObjectRef; 5] {
    let wide = |name: &str| which("ClusterRoleBinding", None, name);
    [
        which("RoleBinding", Some(SYSTEM), "meshctl"),
        which("RoleBinding", Some(SYSTEM), "meshctl-gateway-secrets"),
        wide(WIDE),
        wide("meshctl-gateway-secrets-meshctl-system"),
        wide("meshctl-gateway-deployments-meshctl-system"),
    ]
}

async fn check(stand: &Stand, text: &str, status: &str, words: &[&str]) {
    until(&format!("{text}: {status}"), 60, async || {
        let (found, detail) = line(stand, text)?;
        let all = words.iter().all(|word| detail.contains(word));
        (found == status && all).then_some(())
    })
    .await;
}

/// Services that a replica knows.
async fn services(stand: &Stand, replica: &str) -> usize {
    let (_, services) = ask(&stand.dir.path().join(replica), "/services").await;
    services.as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_is_named_and_what_is_known_is_served() {
    let (stand, replicas) = seen::start().await;
    let api = admin(&stand).await;
    for name in ["one", "two"] {
        check(&stand, RIGHTS, "ok", &[]).await;
        assert!(services(&stand, name).await > 0);
    }
    check(&stand, OWN, "ok", &[]).await;
    let role = which("ClusterRole", None, WIDE);
    let full = api.get(&role).await.unwrap().unwrap();
    let rules = full["rules"].as_array().unwrap();
    let without = |unwanted: &str| -> Vec<Value> {
        let has = |rule: &&Value| {
            rule["resources"]
                .as_array()
                .unwrap()
                .contains(&json!(unwanted))
        };
        rules.iter().filter(|rule| !has(rule)).cloned().collect()
    };
    let (known, before) = (services(&stand, "one").await, rules.len());
    let lesser = without("services");
    assert_eq!(lesser.len(), before - 1);
    api.patch(&role, &json!({"rules": lesser})).await.unwrap();
    // A server ends watches after a while, and only then asks again who may.
    stand.cluster.server().interrupt(Interrupt::End);
    stand
        .until("the log to say it", || {
            let says = replicas.iter().all(|one| {
                let text = log(one);
                text.contains("may not list and watch this kind")
                    && text.contains("resource \"services\"")
            });
            says.then_some(())
        })
        .await;
    check(
        &stand,
        RIGHTS,
        "failed",
        &["services", "pods", "get/list/watch"],
    )
    .await;
    check(&stand, OWN, "failed", &["watch services"]).await;
    assert_eq!(services(&stand, "one").await, known);
    let said = |kind: &str| {
        let text = log(&replicas[0]);
        let lines = text.lines().filter(|line| {
            line.contains("may not list and watch") && line.contains(&format!("kind=\"{kind}\""))
        });
        lines.count()
    };
    assert_eq!(said("Service"), 1, "{}", log(&replicas[0]));

    api.patch(&role, &json!({"rules": rules})).await.unwrap();
    check(&stand, RIGHTS, "ok", &[]).await;
    stand
        .until("the watches to go on", || {
            log(&replicas[0])
                .contains("Kubernetes answers again")
                .then_some(())
        })
        .await;

    // No binding, no rights, and nobody writes.
    for binding in &bindings() {
        assert!(api.delete(binding).await.unwrap());
    }
    stand.cluster.server().interrupt(Interrupt::End);
    check(&stand, RIGHTS, "failed", &["no role is bound"]).await;
    stand
        .until("the log to say that of the Lease", || {
            let said = |one: &Replica| {
                log(one)
                    .matches("the Lease of the replica that writes")
                    .count()
            };
            replicas.iter().all(|one| said(one) == 1).then_some(())
        })
        .await;
    assert_eq!(services(&stand, "two").await, known);
    let account = which("ServiceAccount", Some(SYSTEM), "meshctl");
    assert!(api.delete(&account).await.unwrap());
    check(&stand, RIGHTS, "failed", &["there is no ServiceAccount"]).await;
    assert_eq!(services(&stand, "two").await, known);
    // As `check` says: installing again mends it.
    stand.install(&[]);
    check(&stand, RIGHTS, "ok", &[]).await;
    for replica in &replicas {
        assert!(!log(replica).contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_without_rights_waits_for_them() {
    let (stand, api) = unguarded().await;
    let mut kept = Vec::new();
    for binding in &bindings() {
        let mut found = api.get(binding).await.unwrap().unwrap();
        let metadata = found["metadata"].clone();
        found["metadata"] = json!({"name": metadata["name"], "namespace": metadata["namespace"], "labels": metadata["labels"]});
        kept.push(found);
        assert!(api.delete(binding).await.unwrap());
    }
    let one = Replica::start(&stand, "one");
    let secret = "read the Secret with the authority";
    stand
        .until("the log to say it", || {
            let text = log(&one);
            (text.contains(secret) && text.contains("cannot get resource")).then_some(())
        })
        .await;
    check(&stand, RIGHTS, "failed", &["no role is bound"]).await;
    // Its own namespace first: then it has an authority, and may not look at anything.
    let own = kept.remove(0);
    api.create(&own).await.unwrap();
    stand
        .until("the first list to be refused", || {
            log(&one)
                .contains("may not list and watch this kind")
                .then_some(())
        })
        .await;
    assert_eq!(log(&one).matches(secret).count(), 1, "{}", log(&one));
    assert!(!log(&one).contains("proxies are served"));
    for binding in &kept {
        api.create(binding).await.unwrap();
    }
    until("it to serve", 60, async || {
        log(&one).contains("proxies are served").then_some(())
    })
    .await;
}
