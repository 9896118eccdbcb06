//! Kinds that are newer than we are, and an installation of a newer release.

use super::super::seen;
use super::*;

const DEFINITION: &str = "virtualservices.networking.istio.io";

/// The definition of VirtualService with these versions served; the first is stored.
async fn serve(api: &Cluster, versions: &[&str], change: impl Fn(&mut Value)) {
    let at = which("CustomResourceDefinition", None, DEFINITION);
    let mut found = api.get(&at).await.unwrap().unwrap();
    let model = found["spec"]["versions"][0].clone();
    let all = versions.iter().enumerate().map(|(index, version)| {
        let mut one = model.clone();
        one["name"] = json!(version);
        one["served"] = json!(true);
        one["storage"] = json!(index == 0);
        change(&mut one);
        one
    });
    found["spec"]["versions"] = all.collect();
    api.replace(&found).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_served_in_newer_versions_alone_is_named_and_what_was_known_stays() {
    let (stand, [one, two]) = seen::start().await;
    let api = admin(&stand).await;
    seen::apply(
        &stand,
        "shop.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
    );
    for name in ["cart", "other"] {
        api.create(&service(name)).await.unwrap();
    }
    api.create_custom(&rule("cart", "/a.*")).await.unwrap();
    let split = async || (weights(&stand, "one").await == [75, 25]).then_some(());
    until("the split", 30, split).await;
    // What is still served is followed.
    serve(&api, &["v2", "v1"], |_| ()).await;
    let mut changed = rule("cart", "/b.*");
    changed["spec"]["http"][0]["route"] = json!([{"destination": {"host": "cart"}, "weight": 100}]);
    change(&api, &changed).await;
    until("the change", 30, async || {
        (weights(&stand, "one").await == [100]).then_some(())
    })
    .await;
    change(&api, &rule("cart", "/a.*")).await;
    until("the split", 30, split).await;

    serve(&api, &["v2"], |_| ()).await;
    let server = stand.cluster.server();
    server.interrupt(cluster::faults::Interrupt::End);
    let said = "VirtualService is served as v2, and this release reads v1, v1beta1, v1alpha3";
    for replica in [&one, &two] {
        stand
            .until("the log to say it", || {
                log(replica).contains(said).then_some(())
            })
            .await;
    }
    assert_eq!(weights(&stand, "one").await, [75, 25]);
    let text = "every kind is served in a version that is read here";
    let (status, detail) = line(&stand, text).unwrap();
    assert_eq!(status, "warning");
    assert!(detail.contains(said), "{detail}");
    assert_eq!(weights(&stand, "one").await, [75, 25]);

    serve(&api, &["v1"], |_| ()).await;
    until("the line to go", 60, async || {
        line(&stand, text).is_none().then_some(())
    })
    .await;
    for replica in [&one, &two] {
        assert_eq!(log(replica).matches(said).count(), 1);
        assert!(!log(replica).contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_a_newer_definition_is_named_on_the_object() {
    let (stand, api) = unguarded().await;
    let _one = Replica::start(&stand, "one");
    serve(&api, &["v1"], |version| {
        let spec = "/schema/openAPIV3Schema/properties/spec/properties";
        let fields = version.pointer_mut(spec).unwrap();
        fields["novelty"] = json!({"type": "string"});
    })
    .await;
    let mut object = rule("cart", "/a.*");
    object["spec"]["novelty"] = json!("x");
    api.create_custom(&object).await.unwrap();
    let told = stand
        .until("the condition", || {
            condition(&stand.object(RULES, "shop", "cart")?, "Reconciled")
        })
        .await;
    assert!(
        told["message"].as_str().unwrap().contains("novelty"),
        "{told}"
    );
    stand
        .until("the event", || events(&stand, "cart").pop())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_release_is_not_installed_over_a_newer_one() {
    let stand = Stand::start().await;
    stand.install(&[]);
    let api = admin(&stand).await;
    let settings = which("ConfigMap", Some(SYSTEM), "meshctl");
    let found = api.get(&settings).await.unwrap().unwrap();
    let text = found["data"]["settings.json"].as_str().unwrap();
    let mut note: Value = serde_json::from_str(text).unwrap();
    note["version"] = json!("99.0.0");
    let patch = json!({"data": {"settings.json": note.to_string()}});
    api.patch(&settings, &patch).await.unwrap();
    let at = which("CustomResourceDefinition", None, DEFINITION);
    let label = json!({"metadata": {"labels": {"app.kubernetes.io/version": "99.0.0"}}});
    api.patch(&at, &label).await.unwrap();

    let refused = stand.run(&["install", "--target", "kubernetes"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("99.0.0") && said.contains("--allow-downgrade"),
        "{said}"
    );
    // Beside it, definitions stay the newer release's.
    let beside = stand.install(&["--revision", "old"]);
    let kept: Vec<&str> = beside
        .iter()
        .filter(|(_, outcome)| outcome == "kept")
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(kept, [format!("CustomResourceDefinition {DEFINITION}")]);
    let (status, detail) = line(&stand, "kinds are defined as this release has them").unwrap();
    assert_eq!(status, "warning");
    assert!(detail.contains("99.0.0"), "{detail}");
    stand.install(&["--allow-downgrade"]);
    let found = api.get(&at).await.unwrap().unwrap();
    let release = &found["metadata"]["labels"]["app.kubernetes.io/version"];
    assert_eq!(*release, env!("CARGO_PKG_VERSION"));
}
