//! What the double promises, asked in process.

use cluster::Cluster;
use cluster::auth::{ISSUER, User};
use cluster::patch::{apply, lists::Place};
use cluster::path::Ask;
use cluster::rbac;
use cluster::select::Select;
use http::Method;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;

fn writer(manager: &str) -> apply::Writer {
    apply::Writer {
        manager: manager.into(),
        api_version: "v1".into(),
        subresource: String::new(),
        now: "2026-01-01T00:00:00Z".into(),
    }
}

#[test]
fn an_owner_is_named_in_a_conflict_and_loses_the_field_to_force() {
    let top = Place::top(None);
    let one = json!({"metadata": {"labels": {"a": "1"}}});
    let two = json!({"metadata": {"labels": {"a": "2"}}});
    let live = apply::apply(&json!({"metadata": {}}), &one, &writer("x"), false, top).unwrap();
    let refused = apply::apply(&live, &two, &writer("y"), false, top).unwrap_err();
    assert!(
        refused
            .message
            .contains("conflict with \"x\": .metadata.labels.a"),
        "{}",
        refused.message
    );
    let forced = apply::apply(&live, &two, &writer("y"), true, top).unwrap();
    assert_eq!(forced["metadata"]["labels"]["a"], "2");
    let owners = forced["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(owners.len(), 1);
    assert_eq!(owners[0]["manager"], "y");
}

#[test]
fn what_is_no_longer_applied_goes() {
    let top = Place::top(None);
    let both = json!({"metadata": {"labels": {"a": "1", "b": "1"}}});
    let one = json!({"metadata": {"labels": {"a": "1"}}});
    let live = apply::apply(&json!({"metadata": {}}), &both, &writer("x"), false, top).unwrap();
    let less = apply::apply(&live, &one, &writer("x"), false, top).unwrap();
    assert_eq!(less["metadata"]["labels"], json!({"a": "1"}));
}

#[test]
fn selectors_know_sets() {
    let select = Select::parse("a in (x,y),!b", "metadata.name=n").unwrap();
    assert!(select.takes(&json!({"metadata": {"name": "n", "labels": {"a": "y"}}})));
    assert!(!select.takes(&json!({"metadata": {"name": "n", "labels": {"a": "y", "b": ""}}})));
    assert!(!select.takes(&json!({"metadata": {"name": "m", "labels": {"a": "y"}}})));
}

#[tokio::test]
async fn a_token_holds_for_its_audience_until_it_expires() {
    let cluster = Cluster::start().await.unwrap();
    let token = cluster
        .token("default", "default", &["istio-ca"], 600)
        .unwrap();
    let server = cluster.server();
    assert!(server.user_of_token(&token, &[ISSUER.into()]).is_none());
    let (user, _) = server.user_of_token(&token, &["istio-ca".into()]).unwrap();
    assert_eq!(user.name, "system:serviceaccount:default:default");
    cluster.advance(601);
    assert!(server.user_of_token(&token, &["istio-ca".into()]).is_none());
}

#[tokio::test]
async fn nobody_may_anything_without_a_binding() {
    let cluster = Cluster::start().await.unwrap();
    let ask = Ask::read(&Method::GET, "/api/v1/namespaces/default/pods", "");
    let state = cluster.server().state();
    assert!(!rbac::allows(&state.store, &User::new("ann", &[]), &ask));
    assert!(rbac::allows(&state.store, &User::admin(), &ask));
}

#[tokio::test]
async fn each_organization_of_a_certificate_is_a_group() {
    let cluster = Cluster::start().await.unwrap();
    let pair = cluster
        .server()
        .keys
        .client("ann", &["a,b", "system:masters"])
        .unwrap();
    let pem = rustls::pki_types::CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
    let user = cluster::auth::of_certificate(&pem).unwrap();
    let mut groups = user.groups;
    groups.sort();
    assert_eq!(groups, ["a,b", "system:authenticated", "system:masters"]);
}
