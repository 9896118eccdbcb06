//! Arbitrary certificates of a listener's own.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::word;
use crate::mesh::credential::{
    CertificateSource, ClientTrust, OwnTls, RootsSource, Secret, Stapling, TlsVersion,
};

fn path() -> impl Strategy<Value = String> {
    word().prop_map(|name| format!("/etc/certs/{name}"))
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        word(),
        word().prop_map(|name| format!("spiffe://cluster.local/ns/a/sa/{name}")),
        word().prop_map(|name| format!("{name}@example.com")),
        any::<[u8; 4]>().prop_map(|b| std::net::Ipv4Addr::from(b).to_string()),
    ]
}

fn version() -> impl Strategy<Value = TlsVersion> {
    select(vec![TlsVersion::V12, TlsVersion::V13])
}

fn stapling() -> impl Strategy<Value = Stapling> {
    select(vec![Stapling::Lenient, Stapling::Strict, Stapling::Must])
}

fn clients() -> impl Strategy<Value = ClientTrust> {
    let roots = prop_oneof![
        word().prop_map(RootsSource::Secret),
        (path(), option::of(path())).prop_map(|(path, crl)| RootsSource::File { path, crl }),
    ];
    let words = || vec(word(), 0..2);
    let lax = any::<(bool, bool)>();
    (roots, lax, vec(name(), 0..3), words(), words()).prop_map(
        |(roots, (optional, unverified), names, certificate_hashes, key_hashes)| ClientTrust {
            roots,
            optional,
            unverified,
            names,
            certificate_hashes,
            key_hashes,
        },
    )
}

pub(super) fn own() -> impl Strategy<Value = OwnTls> {
    // Envoy keeps files and secrets in two lists, files first.
    let files = vec(
        (path(), path(), option::of(path()))
            .prop_map(|(chain, key, staple)| CertificateSource::Files { chain, key, staple }),
        0..2,
    );
    // "default" would be the certificate of the mesh.
    let secrets = vec(
        word().prop_map(|name| CertificateSource::Secret(format!("kubernetes://{name}"))),
        1..3,
    );
    (
        (files, secrets),
        option::of(clients()),
        version(),
        option::of(version()),
        (vec(word(), 0..2), stapling()),
    )
        .prop_map(
            |((files, secrets), clients, min_version, max_version, (cipher_suites, stapling))| {
                OwnTls {
                    certificates: files.into_iter().chain(secrets).collect(),
                    clients,
                    min_version,
                    max_version,
                    cipher_suites,
                    stapling,
                }
            },
        )
}

pub(super) fn secret() -> impl Strategy<Value = Secret> {
    prop_oneof![
        (word(), word(), vec(any::<u8>(), 0..4))
            .prop_map(|(chain, key, staple)| Secret::Certificate { chain, key, staple }),
        (word(), prop_oneof![Just(String::new()), word()])
            .prop_map(|(certificates, crl)| Secret::Roots { certificates, crl }),
    ]
}
