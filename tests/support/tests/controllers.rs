//! What happens of its own accord.

#![allow(clippy::unwrap_used, reason = "a failed step should fail the test")]

use std::sync::Arc;
use std::time::Duration;

use cluster::Cluster;
use cluster::auth::User;
use cluster::controllers::Settings;
use cluster::path::Ask;
use cluster::write::Body;
use serde_json::{Value, json};

async fn create(cluster: &Cluster, resource: &str, object: Value) {
    let server = cluster.server();
    let kind = server.state().kind_of(resource).unwrap();
    let ask = Ask {
        verb: "create".into(),
        group: kind.group.clone(),
        version: kind.version.clone(),
        resource: kind.plural.clone(),
        namespace: if kind.namespaced { "default" } else { "" }.into(),
        ..Ask::default()
    };
    let body = Body::json(object, "test", User::admin());
    server.create(&kind, &ask, &body).await.unwrap();
}

/// All objects of a kind in `default`.
fn all(cluster: &Cluster, resource: &str) -> Vec<Arc<Value>> {
    let state = cluster.server().state();
    let listed = state.store.list(resource, "default");
    listed.map(|(_, object)| object.clone()).collect()
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let mut patience = 500;
    while !is() {
        patience -= 1;
        assert!(patience > 0, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn workload(kind: &str, more: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1", "ports": [{"name": "http", "containerPort": 80}]}]},
            },
        },
    });
    for (field, value) in more.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

#[tokio::test]
async fn pods_of_a_stateful_set_come_in_order_and_have_names() {
    let cluster = Cluster::start_with(Settings::default()).await.unwrap();
    let set = workload("StatefulSet", &json!({"replicas": 3, "serviceName": "web"}));
    create(&cluster, "statefulsets.apps", set).await;
    until("three pods", || {
        let set = cluster.get("statefulsets.apps", "default", "web").unwrap();
        set["status"]["readyReplicas"] == 3
    })
    .await;
    let pods = all(&cluster, "pods");
    let names: Vec<&str> = pods
        .iter()
        .filter_map(|p| p["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names, ["web-0", "web-1", "web-2"]);
    assert_eq!(
        pods[1]["metadata"]["labels"]["apps.kubernetes.io/pod-index"],
        "1"
    );
    assert_eq!(pods[1]["spec"]["hostname"], "web-1");
}

#[tokio::test]
async fn a_daemon_set_is_on_every_node() {
    let cluster = Cluster::start_with(Settings::default()).await.unwrap();
    create(
        &cluster,
        "daemonsets.apps",
        workload("DaemonSet", &json!({})),
    )
    .await;
    until("a pod on each node", || {
        let set = cluster.get("daemonsets.apps", "default", "web").unwrap();
        set["status"]["numberReady"] == 2
    })
    .await;
    let mut nodes: Vec<String> = all(&cluster, "pods")
        .iter()
        .map(|p| p["spec"]["nodeName"].as_str().unwrap().to_owned())
        .collect();
    nodes.sort();
    assert_eq!(nodes, ["node-1", "node-2"]);
}

#[tokio::test]
async fn pods_wait_for_who_says_that_they_are_ready() {
    let settings = Settings {
        ready: false,
        ..Settings::default()
    };
    let cluster = Cluster::start_with(settings).await.unwrap();
    create(
        &cluster,
        "deployments.apps",
        workload("Deployment", &json!({})),
    )
    .await;
    until("a scheduled pod", || {
        all(&cluster, "pods")
            .iter()
            .any(|p| p["spec"]["nodeName"].is_string())
    })
    .await;
    let deployment = cluster.get("deployments.apps", "default", "web").unwrap();
    assert_eq!(deployment["status"]["availableReplicas"], Value::Null);
    assert_eq!(all(&cluster, "pods")[0]["status"]["phase"], "Pending");
}

#[tokio::test]
async fn a_pod_without_its_account_is_refused_and_comes_when_that_is_there() {
    let cluster = Cluster::start_with(Settings::default()).await.unwrap();
    let mut deployment = workload("Deployment", &json!({}));
    deployment["spec"]["template"]["spec"]["serviceAccountName"] = "late".into();
    create(&cluster, "deployments.apps", deployment).await;
    until("the complaint", || {
        all(&cluster, "events").iter().any(|e| {
            e["reason"] == "FailedCreate"
                && e["message"]
                    .as_str()
                    .is_some_and(|m| m.contains("serviceaccount \"late\" not found"))
        })
    })
    .await;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "late"}});
    create(&cluster, "serviceaccounts", account).await;
    until("the pod", || {
        let deployment = cluster.get("deployments.apps", "default", "web").unwrap();
        deployment["status"]["availableReplicas"] == 1
    })
    .await;
    let pod = all(&cluster, "pods").remove(0);
    let mounts = &pod["spec"]["containers"][0]["volumeMounts"];
    assert_eq!(
        mounts[0]["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    let set = all(&cluster, "replicasets.apps").remove(0);
    assert!(set["status"]["conditions"].is_null());
}

#[tokio::test]
async fn endpoints_follow_pods_and_load_balancers_get_an_address() {
    let cluster = Cluster::start_with(Settings::default()).await.unwrap();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"name": "web", "port": 8080, "targetPort": "http"}]},
    });
    create(&cluster, "services", service).await;
    create(
        &cluster,
        "deployments.apps",
        workload("Deployment", &json!({"replicas": 2})),
    )
    .await;
    until("two endpoints", || {
        let slices = all(&cluster, "endpointslices.discovery.k8s.io");
        slices.first().is_some_and(|s| {
            s["ports"][0]["port"] == 80 && s["endpoints"].as_array().is_some_and(|e| e.len() == 2)
        })
    })
    .await;
    let service = cluster.get("services", "default", "web").unwrap();
    assert!(service["status"]["loadBalancer"]["ingress"][0]["ip"].is_string());
    until("the old endpoints", || {
        let endpoints = cluster.get("endpoints", "default", "web").unwrap();
        endpoints["subsets"][0]["addresses"]
            .as_array()
            .is_some_and(|a| a.len() == 2)
    })
    .await;
    let server = cluster.server();
    let kind = server.state().kind_of("services").unwrap();
    let key = cluster::server::key_of(&kind, &service);
    server.delete(&kind, &key, &json!({}), false).unwrap();
    until("the slices to go", || {
        all(&cluster, "endpointslices.discovery.k8s.io").is_empty()
            && cluster.get("endpoints", "default", "web").is_none()
    })
    .await;
}

#[tokio::test]
async fn a_finalizer_holds_an_object_and_its_namespace() {
    let cluster = Cluster::start_with(Settings::default()).await.unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    create(&cluster, "namespaces", namespace).await;
    let server = cluster.server();
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held", "finalizers": ["test/hold"]}});
    server.create_now("configmaps", "shop", held).unwrap();
    let kind = server.state().kind_of("namespaces").unwrap();
    let key = cluster::store::Key {
        resource: "namespaces".into(),
        namespace: String::new(),
        name: "shop".into(),
    };
    server.delete(&kind, &key, &json!({}), false).unwrap();
    let namespace = cluster.get("namespaces", "", "shop").unwrap();
    assert_eq!(namespace["status"]["phase"], "Terminating");
    assert_eq!(cluster.get("serviceaccounts", "shop", "default"), None);
    let map = server.state().kind_of("configmaps").unwrap();
    let ask = Ask {
        verb: "patch".into(),
        version: "v1".into(),
        resource: "configmaps".into(),
        namespace: "shop".into(),
        name: "held".into(),
        ..Ask::default()
    };
    let body = Body {
        media: "application/merge-patch+json".into(),
        ..Body::json(
            json!({"metadata": {"finalizers": null}}),
            "test",
            User::admin(),
        )
    };
    server.patch(&map, &ask, &body).await.unwrap();
    assert_eq!(cluster.get("namespaces", "", "shop"), None);
}
