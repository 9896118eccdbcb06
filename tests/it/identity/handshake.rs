//! The handshake matrix: every kind of certificate on either side.

use std::time::Duration;

use meshctl::tls::{self, Pin, client_config, server_config};
use rcgen::ExtendedKeyUsagePurpose;

use super::*;

const H2: &[&str] = &["istio", "h2"];

#[tokio::test]
async fn two_workloads_of_one_mesh_agree_and_resume() {
    let ca = authority();
    let reviews = ca.issue_pair(&id("reviews"), HOUR, now()).unwrap();
    let cart = ca.issue_pair(&id("cart"), HOUR, now()).unwrap();
    let server = server_config(&reviews, H2).unwrap();
    let client = client_config(&cart, vec![id("reviews")], H2).unwrap();
    let first = shake(Arc::clone(&server), Arc::clone(&client)).await;
    assert_eq!(first.client.unwrap(), rustls::HandshakeKind::Full);
    let second = shake(server, Arc::clone(&client)).await;
    assert_eq!(second.client.unwrap(), rustls::HandshakeKind::Resumed);
    // A new configuration, as after any change of certificate or roots, resumes nothing.
    let rotated = server_config(&reviews, H2).unwrap();
    let third = shake(rotated, client).await;
    assert_eq!(third.server.unwrap(), rustls::HandshakeKind::Full);
}

#[tokio::test]
async fn any_server_of_the_trust_domain_will_do_when_none_is_named() {
    let ca = authority();
    let server = server_config(&ca.issue_pair(&id("reviews"), HOUR, now()).unwrap(), H2).unwrap();
    let cart = ca.issue_pair(&id("cart"), HOUR, now()).unwrap();
    let shaken = shake(server, client_config(&cart, Vec::new(), H2).unwrap()).await;
    shaken.client.unwrap();
    shaken.server.unwrap();
}

/// Certificates that no end accepts, with a word of the reason.
fn unacceptable(ca: &tls::Authority) -> Vec<(&'static str, Material)> {
    let stranger = authority().issue_pair(&id("cart"), HOUR, now()).unwrap();
    let expired = ca
        .issue_pair(&id("cart"), Duration::from_mins(1), now() - 600_000)
        .unwrap();
    let early = ca.issue_pair(&id("cart"), HOUR, now() + 600_000).unwrap();
    let name = |name: &str| {
        let name = uri(name);
        odd(ca, |params| params.subject_alt_names = vec![name])
    };
    vec![
        // Roots of its own mesh are replaced below, so that only the chain is foreign.
        ("not issued by the mesh's root", stranger),
        ("has expired", expired),
        ("NotValidYet", early),
        (
            "0 URI names",
            odd(ca, |params| {
                params.subject_alt_names =
                    vec![rcgen::SanType::DnsName("reviews".try_into().unwrap())];
            }),
        ),
        (
            "2 URI names",
            odd(ca, |params| {
                params
                    .subject_alt_names
                    .push(uri("spiffe://cluster.local/ns/shop/sa/reviews"));
            }),
        ),
        ("1 URI names", name("https://cluster.local/ns/shop/sa/cart")),
        ("trust domain", name("spiffe://other.mesh/ns/shop/sa/cart")),
        (
            "InvalidPurpose",
            odd(ca, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            }),
        ),
    ]
}

#[tokio::test]
async fn a_server_refuses_clients_without_a_good_certificate() {
    let ca = authority();
    let reviews = ca.issue_pair(&id("reviews"), HOUR, now()).unwrap();
    let mut cases = unacceptable(&ca);
    cases.push((
        "InvalidPurpose",
        odd(&ca, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
    ));
    for (reason, mut material) in cases {
        material.roots = vec![ca.root().clone()];
        let server = server_config(&reviews, H2).unwrap();
        let client = client_config(&material, Vec::new(), H2).unwrap();
        let refusal = shake(server, client).await.server.unwrap_err();
        assert!(refusal.contains(reason), "{reason}: {refusal}");
    }
}

#[tokio::test]
async fn a_client_refuses_servers_without_a_good_certificate() {
    let ca = authority();
    let cart = ca.issue_pair(&id("cart"), HOUR, now()).unwrap();
    let mut cases = unacceptable(&ca);
    cases.push((
        "InvalidPurpose",
        odd(&ca, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }),
    ));
    for (reason, mut material) in cases {
        material.roots = vec![ca.root().clone()];
        let server = server_config(&material, H2).unwrap();
        let client = client_config(&cart, Vec::new(), H2).unwrap();
        let refusal = shake(server, client).await.client.unwrap_err();
        assert!(refusal.contains(reason), "{reason}: {refusal}");
    }
}

#[tokio::test]
async fn a_client_refuses_a_valid_server_that_it_did_not_ask_for() {
    let ca = authority();
    let server = server_config(&ca.issue_pair(&id("ratings"), HOUR, now()).unwrap(), H2).unwrap();
    let cart = ca.issue_pair(&id("cart"), HOUR, now()).unwrap();
    let client = client_config(&cart, vec![id("reviews")], H2).unwrap();
    let refusal = shake(server, client).await.client.unwrap_err();
    assert!(
        refusal.contains("peer is spiffe://cluster.local/ns/shop/sa/ratings")
            && refusal.contains("expected spiffe://cluster.local/ns/shop/sa/reviews"),
        "{refusal}"
    );
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate() {
    let ca = authority();
    let mut reviews = ca.issue_pair(&id("reviews"), HOUR, now()).unwrap();
    reviews.chain.push(ca.root().clone());
    let pin = Pin::Roots(vec![ca.root().clone()]);
    let newcomer = || tls::bootstrap_config(&pin, id("reviews"), H2).unwrap();
    let strict = server_config(&reviews, H2).unwrap();
    let refusal = shake(strict, newcomer()).await.refusal();
    assert!(refusal.contains("no certificates"), "{refusal}");
    // The CA's port lets newcomers in, and still refuses bad certificates.
    let optional = tls::server_config_optional_client(&reviews, H2).unwrap();
    shake(Arc::clone(&optional), newcomer())
        .await
        .server
        .unwrap();
    let mut stranger = authority().issue_pair(&id("cart"), HOUR, now()).unwrap();
    stranger.roots = vec![ca.root().clone()];
    let client = client_config(&stranger, Vec::new(), H2).unwrap();
    let refusal = shake(optional, client).await.server.unwrap_err();
    assert!(
        refusal.contains("not issued by the mesh's root"),
        "{refusal}"
    );
}

#[tokio::test]
async fn first_contact_needs_the_pinned_root_and_the_control_planes_name() {
    let ca = authority();
    let control = ca.issue_server(&["localhost"], &[], HOUR, now()).unwrap();
    let mut workload = ca.issue_pair(&id("reviews"), HOUR, now()).unwrap();
    workload.chain.push(ca.root().clone());
    let serve = |material| tls::server_config_optional_client(material, H2).unwrap();
    let call =
        |pin: &Pin| tls::bootstrap_config(pin, tls::control_plane_id("cluster.local"), H2).unwrap();
    let pin = Pin::Fingerprint(tls::sha256(ca.root()));
    shake(serve(&control), call(&pin)).await.client.unwrap();
    let other = Pin::Fingerprint(tls::sha256(authority().root()));
    let refusal = shake(serve(&control), call(&other))
        .await
        .client
        .unwrap_err();
    assert!(refusal.contains("pinned root"), "{refusal}");
    let refusal = shake(serve(&workload), call(&pin))
        .await
        .client
        .unwrap_err();
    assert!(
        refusal.contains("expected spiffe://cluster.local/ns/meshctl-system"),
        "{refusal}"
    );
    // The leaf itself is not a root, whatever its fingerprint.
    let leaf = Pin::Fingerprint(tls::sha256(&control.chain[0]));
    shake(serve(&control), call(&leaf))
        .await
        .client
        .unwrap_err();
}

#[tokio::test]
async fn both_roots_are_good_while_they_are_rotated() {
    let (old, new) = (authority(), authority());
    let mut reviews = new.issue_pair(&id("reviews"), HOUR, now()).unwrap();
    reviews.roots.push(old.root().clone());
    let mut cart = old.issue_pair(&id("cart"), HOUR, now()).unwrap();
    cart.roots.push(new.root().clone());
    let server = server_config(&reviews, H2).unwrap();
    let shaken = shake(
        server,
        client_config(&cart, vec![id("reviews")], H2).unwrap(),
    )
    .await;
    shaken.server.unwrap();
    shaken.client.unwrap();
}

#[tokio::test]
async fn an_intermediate_authority_under_an_offline_root_issues() {
    let root = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(1));
    let root = rcgen::CertifiedIssuer::self_signed(params, root).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "intermediate");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let middle = params.signed_by(&key, &root).unwrap();
    let pems = [middle.pem(), root.pem()].concat();
    let ca = tls::Authority::from_pem("cluster.local", &pems, &key.serialize_pem()).unwrap();
    assert_eq!(ca.root(), root.der());
    let reviews = ca.issue_pair(&id("reviews"), HOUR, now()).unwrap();
    let cart = ca.issue_pair(&id("cart"), HOUR, now()).unwrap();
    assert_eq!(cart.chain.len(), 2);
    let server = server_config(&reviews, H2).unwrap();
    let client = client_config(&cart, vec![id("reviews")], H2).unwrap();
    let shaken = shake(server, client).await;
    shaken.server.unwrap();
    shaken.client.unwrap();
    // First contact by the root's fingerprint works through the intermediate too.
    let control = ca.issue_server(&["localhost"], &[], HOUR, now()).unwrap();
    let pin = Pin::Fingerprint(tls::sha256(ca.root()));
    let server = tls::server_config_optional_client(&control, H2).unwrap();
    let control = tls::control_plane_id("cluster.local");
    let client = tls::bootstrap_config(&pin, control, H2).unwrap();
    shake(server, client).await.client.unwrap();
}
