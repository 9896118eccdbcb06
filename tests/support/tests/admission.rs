//! Webhooks: whom the server asks, in which order, and what becomes of the answer.

#![allow(clippy::unwrap_used, reason = "a failed step should fail the test")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cluster::Cluster;
use cluster::auth::User;
use cluster::path::Ask;
use cluster::status::{Answer, Refusal};
use cluster::write::Body;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A webhook that notes what it is asked.
struct Hook {
    address: SocketAddr,
    bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
    _tasks: JoinSet<()>,
}

impl Hook {
    /// `say` makes the response of a request; nothing hangs up.
    async fn start(say: impl Fn(&Value) -> Option<Value> + Send + Sync + 'static) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["hook.tools.svc".to_owned()];
        let certificate = rcgen::CertificateParams::new(names)
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let noted = asked.clone();
        let say = Arc::new(say);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = tls.accept(stream).await else {
                    continue;
                };
                let (say, noted) = (say.clone(), noted.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (say, noted) = (say.clone(), noted.clone());
                    async move {
                        let path = request.uri().to_string();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let review: Value = serde_json::from_slice(&body).unwrap();
                        let mut seen = review["request"].clone();
                        seen["path"] = path.into();
                        noted.lock().unwrap().push(seen);
                        let Some(mut response) = say(&review["request"]) else {
                            return Ok::<_, Infallible>(
                                http::Response::builder()
                                    .status(500)
                                    .body(Full::new(Bytes::from("broken")))
                                    .unwrap(),
                            );
                        };
                        if response["uid"].is_null() {
                            response["uid"] = review["request"]["uid"].clone();
                        }
                        let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
                        Ok(http::Response::new(Full::new(Bytes::from(
                            answer.to_string(),
                        ))))
                    }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                drop(served);
            }
        });
        Self {
            address,
            bundle: STANDARD.encode(certificate.pem()),
            asked,
            _tasks: tasks,
        }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

fn patch(changes: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(changes.to_string())})
}

/// A cluster with a Service that leads to the webhook.
async fn stand(hook: &Hook) -> Cluster {
    let cluster = Cluster::start().await.unwrap();
    let namespace = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    create(&cluster, "namespaces", "", namespace("tools", json!({})))
        .await
        .unwrap();
    create(
        &cluster,
        "namespaces",
        "",
        namespace("shop", json!({"mesh": "on"})),
    )
    .await
    .unwrap();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}});
    create(&cluster, "services", "tools", service)
        .await
        .unwrap();
    cluster.route("tools", "hook", 443, hook.address);
    cluster
}

async fn ask(
    cluster: &Cluster,
    verb: &str,
    resource: &str,
    namespace: &str,
    object: Value,
    dry: bool,
) -> Answer<(Value, Vec<String>)> {
    let server = cluster.server();
    let kind = server.state().kind_of(resource).unwrap();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let mut ask = Ask {
        verb: verb.into(),
        group: kind.group.clone(),
        version: kind.version.clone(),
        resource: kind.plural.clone(),
        namespace: namespace.into(),
        name: if verb == "create" { "" } else { name }.into(),
        ..Ask::default()
    };
    if dry {
        ask.query.insert("dryRun".into(), "All".into());
    }
    let body = Body::json(object, "test", User::admin());
    let answer = match verb {
        "create" => server.create(&kind, &ask, &body).await?,
        "update" => server.update(&kind, &ask, &body).await?,
        _ => {
            let key = cluster::server::key_of(&kind, &body.value);
            let key = cluster::store::Key {
                namespace: namespace.into(),
                ..key
            };
            let gone = server.dismiss(&kind, &key, &body, &json!({}), dry).await?;
            Value::clone(&gone.0)
        }
    };
    Ok((answer, body.warnings.into_inner().unwrap()))
}

async fn create(
    cluster: &Cluster,
    resource: &str,
    namespace: &str,
    object: Value,
) -> Answer<Value> {
    ask(cluster, "create", resource, namespace, object, false)
        .await
        .map(|(object, _)| object)
}

/// A configuration of one webhook, with `more` laid over it.
async fn configure(cluster: &Cluster, hook: &Hook, kind: &str, name: &str, more: Value) {
    let mut webhook = json!({
        "name": format!("{name}.tools.test"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"caBundle": hook.bundle, "service": {"name": "hook", "namespace": "tools", "path": format!("/{name}")}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    for (field, value) in more.as_object().unwrap() {
        webhook[field] = value.clone();
    }
    let resource = format!(
        "{}webhookconfigurations.admissionregistration.k8s.io",
        kind.to_lowercase()
    );
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
        "metadata": {"name": name}, "webhooks": [webhook],
    });
    create(cluster, &resource, "", configuration).await.unwrap();
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {}})
}

#[tokio::test]
async fn what_a_webhook_patches_is_stored_and_then_validated() {
    let hook = Hook::start(|request| {
        Some(if request["object"]["data"]["by"].is_null() {
            patch(&json!([{"op": "add", "path": "/data/by", "value": "hook"}]))
        } else {
            json!({"allowed": true, "warnings": ["seen"]})
        })
    })
    .await;
    let cluster = stand(&hook).await;
    configure(&cluster, &hook, "Mutating", "a", json!({})).await;
    configure(&cluster, &hook, "Validating", "b", json!({})).await;
    let mut object = map("");
    object["metadata"] = json!({"generateName": "x-"});
    let (made, warnings) = ask(&cluster, "create", "configmaps", "shop", object, false)
        .await
        .unwrap();
    assert_eq!(made["data"]["by"], "hook");
    assert_eq!(warnings, ["seen"]);
    let asked = hook.asked();
    assert_eq!(asked.len(), 2);
    let (first, second) = (&asked[0], &asked[1]);
    assert_eq!(first["path"], "/a?timeout=10s");
    assert_eq!(first["operation"], "CREATE");
    assert_eq!(first["namespace"], "shop");
    assert_eq!(first["userInfo"]["username"], "kubernetes-admin");
    assert_eq!(
        first["kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    // It has no name yet, and no identity, when it is changed; it has both when it is judged.
    assert!(first["name"].is_null() && first["object"]["metadata"]["uid"].is_null());
    assert_eq!(second["name"], made["metadata"]["name"]);
    assert_eq!(second["object"]["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(second["object"]["data"]["by"], "hook");
}

#[tokio::test]
async fn a_denial_is_told_in_the_words_of_the_webhook() {
    let hook = Hook::start(|_| {
        Some(json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "not today"}}))
    })
    .await;
    let cluster = stand(&hook).await;
    // A denial counts whatever is said of failures.
    let more = json!({"failurePolicy": "Ignore"});
    configure(&cluster, &hook, "Validating", "no", more).await;
    let refusal = create(&cluster, "configmaps", "shop", map("x"))
        .await
        .unwrap_err();
    assert_eq!(refusal.code, 403);
    assert_eq!(
        refusal.message,
        "admission webhook \"no.tools.test\" denied the request: not today"
    );
    assert_eq!(cluster.get("configmaps", "shop", "x"), None);
}

#[tokio::test]
async fn a_webhook_that_cannot_be_asked_fails_as_its_policy_says() {
    let hook = Hook::start(|_| None).await;
    let other = Hook::start(|_| Some(json!({"allowed": true}))).await;
    let cluster = stand(&hook).await;
    let configurations = "validatingwebhookconfigurations.admissionregistration.k8s.io".to_owned();
    for (name, more, wanted) in [
        ("status", json!({}), "500 Internal Server Error"),
        // The certificate is another authority's.
        (
            "stranger",
            json!({"clientConfig": {"caBundle": other.bundle, "service": {"name": "hook", "namespace": "tools"}}}),
            "invalid peer certificate",
        ),
        (
            "nobody",
            json!({"clientConfig": {"caBundle": hook.bundle, "service": {"name": "none", "namespace": "tools"}}}),
            "service \"none\" not found",
        ),
        (
            "port",
            json!({"clientConfig": {"caBundle": hook.bundle, "service": {"name": "hook", "namespace": "tools", "port": 444}}}),
            "no service port 444",
        ),
    ] {
        configure(&cluster, &hook, "Validating", name, more.clone()).await;
        let refusal = create(&cluster, "configmaps", "shop", map(name))
            .await
            .unwrap_err();
        assert_eq!(
            (refusal.code.as_u16(), refusal.reason),
            (500, "InternalError")
        );
        assert!(
            refusal
                .message
                .contains(&format!("failed calling webhook \"{name}.tools.test\""))
                && refusal.message.contains(wanted),
            "{}",
            refusal.message
        );
        let gone = json!({"metadata": {"name": name}});
        ask(&cluster, "delete", &configurations, "", gone, false)
            .await
            .unwrap();
        let mut ignored = more;
        ignored["failurePolicy"] = "Ignore".into();
        configure(&cluster, &hook, "Validating", name, ignored).await;
        create(&cluster, "configmaps", "shop", map(name))
            .await
            .unwrap();
        let gone = json!({"metadata": {"name": name}});
        ask(&cluster, "delete", &configurations, "", gone, false)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn only_who_is_selected_is_asked_about() {
    let hook = Hook::start(|_| Some(json!({"allowed": true}))).await;
    let cluster = stand(&hook).await;
    let more = json!({
        "namespaceSelector": {"matchLabels": {"mesh": "on"}},
        "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
        "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"]}],
    });
    configure(&cluster, &hook, "Validating", "some", more).await;
    let mut skipped = map("skipped");
    skipped["metadata"]["labels"] = json!({"skip": "yes"});
    create(&cluster, "configmaps", "shop", skipped.clone())
        .await
        .unwrap();
    create(&cluster, "configmaps", "default", map("elsewhere"))
        .await
        .unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}});
    create(&cluster, "secrets", "shop", secret).await.unwrap();
    assert_eq!(hook.asked(), Vec::<Value>::new());

    // The old object counts as well as the new.
    skipped["metadata"]["labels"] = json!({});
    ask(
        &cluster,
        "update",
        "configmaps",
        "shop",
        skipped.clone(),
        false,
    )
    .await
    .unwrap();
    ask(&cluster, "delete", "configmaps", "shop", skipped, false)
        .await
        .unwrap();
    let asked = hook.asked();
    let operations: Vec<&str> = asked
        .iter()
        .filter_map(|a| a["operation"].as_str())
        .collect();
    assert_eq!(operations, ["UPDATE", "DELETE"]);
    assert_eq!(asked[0]["oldObject"]["metadata"]["labels"]["skip"], "yes");
    assert!(asked[1]["object"].is_null() && asked[1]["oldObject"].is_object());
}

#[tokio::test]
async fn who_wants_to_look_again_is_asked_again_once() {
    let hook = Hook::start(|request| {
        let path = request["object"]["data"]
            .as_object()
            .map_or(0, serde_json::Map::len);
        Some(patch(
            &json!([{"op": "add", "path": format!("/data/n{path}"), "value": "x"}]),
        ))
    })
    .await;
    let cluster = stand(&hook).await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    configure(&cluster, &hook, "Mutating", "a", again).await;
    configure(&cluster, &hook, "Mutating", "b", json!({})).await;
    create(&cluster, "configmaps", "shop", map("x"))
        .await
        .unwrap();
    let paths: Vec<Value> = hook.asked().iter().map(|a| a["path"].clone()).collect();
    assert_eq!(
        paths,
        ["/a?timeout=10s", "/b?timeout=10s", "/a?timeout=10s"]
    );
}

#[tokio::test]
async fn a_dry_run_is_told_and_stores_nothing() {
    let hook = Hook::start(|_| Some(json!({"allowed": true}))).await;
    let cluster = stand(&hook).await;
    configure(&cluster, &hook, "Validating", "dry", json!({})).await;
    ask(&cluster, "create", "configmaps", "shop", map("x"), true)
        .await
        .unwrap();
    assert_eq!(hook.asked()[0]["dryRun"], true);
    assert_eq!(cluster.get("configmaps", "shop", "x"), None);
}

#[tokio::test]
async fn other_versions_of_a_kind_are_converted_for_the_rules() {
    let hook = Hook::start(|request| {
        assert_eq!(request["object"]["apiVersion"], "tools.test/v1");
        Some(patch(
            &json!([{"op": "add", "path": "/spec/by", "value": "hook"}]),
        ))
    })
    .await;
    let cluster = stand(&hook).await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"by": {"type": "string"}}}}}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.tools.test"},
        "spec": {"group": "tools.test", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [version("v1", true), version("v1beta1", false)]},
    });
    create(&cluster, cluster::server::DEFINITIONS, "", definition)
        .await
        .unwrap();
    let more = json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["tools.test"], "apiVersions": ["v1"], "resources": ["things"]}]});
    configure(&cluster, &hook, "Mutating", "v", more.clone()).await;
    let server = cluster.server();
    let kind = server
        .state()
        .find("tools.test", "v1beta1", "things")
        .unwrap();
    let asked = Ask {
        verb: "create".into(),
        group: "tools.test".into(),
        version: "v1beta1".into(),
        resource: "things".into(),
        namespace: "shop".into(),
        ..Ask::default()
    };
    let thing = json!({"apiVersion": "tools.test/v1beta1", "kind": "Thing", "metadata": {"name": "x"}, "spec": {}, "gone": 1});
    let body = Body::json(thing, "test", User::admin());
    let made = server.create(&kind, &asked, &body).await.unwrap();
    assert_eq!(made["apiVersion"], "tools.test/v1beta1");
    assert_eq!(made["spec"]["by"], "hook");
    assert!(made["gone"].is_null());
    let request = &hook.asked()[0];
    assert_eq!(
        (
            &request["kind"]["version"],
            &request["requestKind"]["version"]
        ),
        (&json!("v1"), &json!("v1beta1"))
    );
}

#[tokio::test]
async fn a_configuration_that_a_server_would_not_take_is_refused() {
    let cluster = Cluster::start().await.unwrap();
    let resource = "validatingwebhookconfigurations.admissionregistration.k8s.io";
    let good = json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://x"}});
    for (field, value, place) in [
        ("name", json!("short"), "webhooks[0].name"),
        ("sideEffects", json!("Some"), "webhooks[0].sideEffects"),
        (
            "admissionReviewVersions",
            json!([]),
            "webhooks[0].admissionReviewVersions",
        ),
        ("clientConfig", json!({}), "webhooks[0].clientConfig"),
        ("timeoutSeconds", json!(31), "webhooks[0].timeoutSeconds"),
    ] {
        let mut hook = good.clone();
        hook[field] = value;
        let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "x"}, "webhooks": [hook]});
        let refusal: Refusal = create(&cluster, resource, "", object).await.unwrap_err();
        assert_eq!(refusal.reason, "Invalid");
        assert!(refusal.message.contains(place), "{}", refusal.message);
    }
}
