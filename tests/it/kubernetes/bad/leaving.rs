//! A namespace that is being deleted, and stays so for as long as a finalizer holds it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_into_a_namespace_that_is_being_deleted() {
    let (stand, api) = unguarded().await;
    let one = Replica::start(&stand, "one");
    let mut held = rule("cart", "(");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.create_custom(&held).await.unwrap();
    stand
        .until("the roots and the event", || {
            stand.object("configmaps", "shop", "meshctl-ca-root-cert")?;
            events(&stand, "cart").pop()
        })
        .await;
    let services = async || {
        let (_, services) = ask(&stand.dir.path().join("one"), "/services").await;
        let all = services.as_array()?.iter();
        Some(all.filter(|one| one["namespace"] == "shop").count())
    };
    until("the services", 30, async || {
        (services().await? == 2).then_some(())
    })
    .await;

    let faults = Faults::of(stand.cluster.server(), ACCOUNT);
    let namespace = which("Namespace", None, "shop");
    assert!(api.delete(&namespace).await.unwrap());
    let found = api.get(&namespace).await.unwrap().unwrap();
    assert_eq!(found["status"]["phase"], "Terminating");
    assert_eq!(
        stand.object("configmaps", "shop", "meshctl-ca-root-cert"),
        None
    );
    let refused = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "shop"}});
    let refused = api.create(&refused).await.unwrap_err().to_string();
    assert!(refused.contains("is being terminated"), "{refused}");
    until("the services to be gone", 30, async || {
        (services().await? == 0).then_some(())
    })
    .await;
    // Somebody changes what is left, and roots are compared every half minute.
    let mut wrong = rule("cart", "[");
    wrong["metadata"] = json!({"name": "cart", "namespace": "shop"});
    change(&api, &wrong).await;
    stand
        .until("the condition to follow", || {
            let found = stand.object(RULES, "shop", "cart")?;
            let told = condition(&found, "Reconciled")?;
            let generation = &found["metadata"]["generation"];
            (told["observedGeneration"] == *generation).then_some(())
        })
        .await;
    faults.take();
    tokio::time::sleep(Duration::from_secs(33)).await;
    let asked: Vec<_> = faults
        .take()
        .into_iter()
        .filter(|asked| asked.writes() && asked.ask.namespace == "shop")
        .map(|asked| (asked.ask.verb, asked.ask.resource))
        .collect();
    assert_eq!(asked, []);
    let text = log(&one);
    assert!(!text.contains("being terminated"), "{text}");
    assert!(
        !text.contains("WARN") && !text.contains("panicked"),
        "{text}"
    );

    let at = (ISTIO, "VirtualService", Some("shop"), "cart");
    let free = json!({"metadata": {"finalizers": null}});
    api.merge_custom(at, &free).await.unwrap();
    stand
        .until("the namespace to be gone", || {
            stand
                .object("namespaces", "", "shop")
                .is_none()
                .then_some(())
        })
        .await;
    // One of that name may come back.
    let again = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    api.create(&again).await.unwrap();
    until("its roots", 60, async || {
        stand
            .object("configmaps", "shop", "meshctl-ca-root-cert")
            .map(drop)
    })
    .await;
}
