//! Certificates of a listener's own: which one a caller is shown, and which callers are let in.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use meshctl::mesh::credential::{CertificateSource, ClientTrust, RootsSource, TlsVersion};
use meshctl::mesh::{OwnTls, Secret};
use meshctl::rt::Wall;
use meshctl::tls::{fingerprint, own_server_config, provider, sha256};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, PublicKeyData as _, RevokedCertParams, SanType, SerialNumber,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An authority that nobody in the mesh has heard of.
struct Ca {
    issuer: Issuer<'static, rcgen::KeyPair>,
    root: rcgen::Certificate,
}

/// A certificate and its key.
struct Pair {
    cert: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "outside");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = rcgen::KeyPair::generate().unwrap();
        Self {
            root: params.self_signed(&key).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, names: &[&str], serial: u64) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| {
                if name.contains("://") {
                    SanType::URI((*name).try_into().unwrap())
                } else {
                    SanType::DnsName((*name).try_into().unwrap())
                }
            })
            .collect();
        params.serial_number = Some(SerialNumber::from(serial));
        let key = rcgen::KeyPair::generate().unwrap();
        Pair {
            cert: params.signed_by(&key, &self.issuer).unwrap(),
            key,
        }
    }

    fn revoke(&self, serial: u64) -> String {
        let year = |year| rcgen::date_time_ymd(year, 1, 1);
        let list = CertificateRevocationListParams {
            this_update: year(2020),
            next_update: year(2120),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: year(2020),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Pair {
    fn secret(&self) -> Secret {
        Secret::Certificate {
            chain: self.cert.pem(),
            key: self.key.serialize_pem(),
            staple: Vec::new(),
        }
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

type Secrets = BTreeMap<String, Arc<Secret>>;

/// What a caller gets: the certificate that it is shown, once both sides have spoken.
async fn call(
    own: &OwnTls,
    secrets: &Secrets,
    (client, name): (ClientConfig, &str),
) -> Result<CertificateDer<'static>, String> {
    let server = own_server_config(own, &[], |name| secrets.get(name).cloned())
        .map_err(|error| format!("configuration: {error}"))?;
    let (near, far) = tokio::io::duplex(64 << 10);
    let serving = async move {
        let mut stream = TlsAcceptor::from(server.config).accept(far).await?;
        let mut word = [0; 4];
        stream.read_exact(&mut word).await?;
        stream.write_all(&word).await?;
        stream.shutdown().await
    };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let calling = async {
        let mut stream = TlsConnector::from(Arc::new(client))
            .connect(name, near)
            .await?;
        stream.write_all(b"ping").await?;
        let mut word = [0; 4];
        stream.read_exact(&mut word).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        Ok::<_, std::io::Error>(shown.into_owned())
    };
    let (served, shown) = tokio::join!(serving, calling);
    served.map_err(|error| error.to_string())?;
    shown.map_err(|error| error.to_string())
}

/// Where callers with bad certificates are let in, what such a certificate says is not believed.
#[test]
fn who_is_let_in_with_a_bad_certificate_is_nobody() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let server = ca.issue(&["a.example.com"], 1);
    let good = ca.issue(&["good.example.com"], 2);
    let bad = ca.issue(&["bad.example.com"], 3);
    let stranger = foreign.issue(&["good.example.com"], 4);
    let roots = Secret::Roots {
        certificates: ca.root.pem(),
        crl: ca.revoke(3),
    };
    let secrets = Secrets::from([
        ("server".to_owned(), Arc::new(server.secret())),
        ("roots".to_owned(), Arc::new(roots)),
    ]);
    let known = |unverified: bool, names: &[&str]| {
        let own = OwnTls {
            clients: Some(ClientTrust {
                roots: RootsSource::Secret("roots".to_owned()),
                optional: true,
                unverified,
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                certificate_hashes: Vec::new(),
                key_hashes: Vec::new(),
            }),
            ..shows(&["server"])
        };
        let server = own_server_config(&own, &[], |name| secrets.get(name).cloned()).unwrap();
        [&good, &bad, &stranger].map(|pair| {
            let chain = [pair.cert.der().clone()];
            !server.verified(&chain, &Wall::System).is_empty()
        })
    };
    // One that was believed must be so still.
    let own = OwnTls {
        clients: Some(ClientTrust {
            roots: RootsSource::Secret("roots".to_owned()),
            optional: true,
            unverified: true,
            names: Vec::new(),
            certificate_hashes: Vec::new(),
            key_hashes: Vec::new(),
        }),
        ..shows(&["server"])
    };
    let now = own_server_config(&own, &[], |name| secrets.get(name).cloned()).unwrap();
    let stays = |pair: &Pair, was_good| {
        let shown = [pair.cert.der().clone()];
        now.admits((&shown, was_good), &Wall::System)
    };
    assert!(stays(&good, true) && stays(&good, false) && stays(&bad, false));
    assert!(!stays(&bad, true));
    assert_eq!(known(true, &[]), [true, false, false]);
    assert_eq!(known(true, &["other.example.com"]), [false; 3]);
    // Where bad ones are refused, a handshake has said so already.
    assert_eq!(known(false, &[]), [true; 3]);
}

/// A caller that believes `ca` and shows `pair`.
fn client(ca: &Ca, pair: Option<&Pair>) -> ClientConfig {
    versioned(ca, pair, rustls::ALL_VERSIONS)
}

fn versioned(
    ca: &Ca,
    pair: Option<&Pair>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.root.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => builder
            .with_client_auth_cert(vec![pair.cert.der().clone()], pair.key())
            .unwrap(),
    }
}

fn shows(names: &[&str]) -> OwnTls {
    OwnTls {
        certificates: names
            .iter()
            .map(|name| CertificateSource::Secret((*name).to_owned()))
            .collect(),
        ..OwnTls::default()
    }
}

#[tokio::test]
async fn a_caller_is_shown_the_certificate_for_the_name_that_it_asks_for() {
    let ca = Ca::new();
    let (first, second) = (
        ca.issue(&["a.example.com"], 1),
        ca.issue(&["*.example.org"], 2),
    );
    let secrets = Secrets::from([
        ("first".to_owned(), Arc::new(first.secret())),
        ("second".to_owned(), Arc::new(second.secret())),
    ]);
    let own = shows(&["first", "second"]);
    let shown = |name| call(&own, &secrets, (client(&ca, None), name));
    assert_eq!(shown("a.example.com").await.unwrap(), *first.cert.der());
    assert_eq!(shown("B.Example.Org").await.unwrap(), *second.cert.der());
    // One label only; and who asks for another name is shown the first, which it then refuses.
    for name in ["a.b.example.org", "other.example.net"] {
        assert!(shown(name).await.is_err(), "{name}");
    }
    // Without its text nothing is shown at all.
    let none = call(
        &shows(&["third"]),
        &secrets,
        (client(&ca, None), "a.example.com"),
    )
    .await;
    assert!(none.unwrap_err().contains("third"));
}

#[tokio::test]
async fn versions_are_those_that_are_asked_for() {
    let ca = Ca::new();
    let pair = ca.issue(&["a.example.com"], 1);
    let secrets = Secrets::from([("first".to_owned(), Arc::new(pair.secret()))]);
    let old = || versioned(&ca, None, &[&rustls::version::TLS12]);
    let new = || versioned(&ca, None, &[&rustls::version::TLS13]);
    let mut own = shows(&["first"]);
    for caller in [old(), new()] {
        call(&own, &secrets, (caller, "a.example.com"))
            .await
            .unwrap();
    }
    own.min_version = TlsVersion::V13;
    assert!(
        call(&own, &secrets, (old(), "a.example.com"))
            .await
            .is_err()
    );
    call(&own, &secrets, (new(), "a.example.com"))
        .await
        .unwrap();
    own.min_version = TlsVersion::V12;
    own.max_version = Some(TlsVersion::V12);
    assert!(
        call(&own, &secrets, (new(), "a.example.com"))
            .await
            .is_err()
    );
    // A suite for keys that the server does not have.
    own.cipher_suites = vec!["ECDHE-RSA-AES128-GCM-SHA256".to_owned()];
    assert!(
        call(&own, &secrets, (old(), "a.example.com"))
            .await
            .is_err()
    );
    own.cipher_suites = vec!["ECDHE-ECDSA-AES256-GCM-SHA384".to_owned()];
    call(&own, &secrets, (old(), "a.example.com"))
        .await
        .unwrap();
    // What was agreed on before, by its numbers on the wire.
    let speaks = |own: &OwnTls, version, suite| {
        let server = own_server_config(own, &[], |name| secrets.get(name).cloned());
        server.unwrap().speaks(version, suite)
    };
    let (v12, v13) = (0x0303, 0x0304);
    let (aes128, aes256, of_13) = (0xc02b, 0xc02c, 0x1302);
    assert!(speaks(&own, v12, aes256));
    assert!(!speaks(&own, v12, aes128) && !speaks(&own, v13, of_13));
    own = shows(&["first"]);
    assert!(speaks(&own, v12, aes128) && speaks(&own, v13, of_13));
    own.min_version = TlsVersion::V13;
    assert!(!speaks(&own, v12, aes128) && speaks(&own, v13, of_13));
}

#[tokio::test]
async fn callers_are_let_in_by_root_name_hash_and_list() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let server = ca.issue(&["a.example.com"], 1);
    let good = ca.issue(&["good.example.com", "spiffe://example.com/good"], 2);
    let bad = ca.issue(&["bad.example.com"], 3);
    let stranger = foreign.issue(&["good.example.com"], 4);
    let roots = |crl: String| {
        let certificates = ca.root.pem();
        Arc::new(Secret::Roots { certificates, crl })
    };
    let secrets = Secrets::from([
        ("server".to_owned(), Arc::new(server.secret())),
        ("roots".to_owned(), roots(String::new())),
        ("revoking".to_owned(), roots(ca.revoke(3))),
    ]);
    let trust = ClientTrust {
        roots: RootsSource::Secret("roots".to_owned()),
        optional: false,
        unverified: false,
        names: Vec::new(),
        certificate_hashes: Vec::new(),
        key_hashes: Vec::new(),
    };
    let all = [None, Some(&good), Some(&bad), Some(&stranger)];
    let let_in = async |clients: &ClientTrust| {
        let own = OwnTls {
            clients: Some(clients.clone()),
            ..shows(&["server"])
        };
        let server = own_server_config(&own, &[], |name| secrets.get(name).cloned()).unwrap();
        let mut found = Vec::new();
        for pair in all {
            let caller = (client(&ca, pair), "a.example.com");
            let now = call(&own, &secrets, caller).await.is_ok();
            // Who came before is judged as whoever comes now.
            let shown: Vec<_> = pair.iter().map(|pair| pair.cert.der().clone()).collect();
            let good = !server.verified(&shown, &Wall::System).is_empty();
            assert_eq!(server.admits((&shown, good), &Wall::System), now, "{own:?}");
            found.push(now);
        }
        found
    };
    let changed = |change: &dyn Fn(&mut ClientTrust)| {
        let mut trust = trust.clone();
        change(&mut trust);
        trust
    };
    assert_eq!(let_in(&trust).await, [false, true, true, false]);
    let optional = changed(&|trust| trust.optional = true);
    assert_eq!(let_in(&optional).await, [true, true, true, false]);
    let anybody = changed(&|trust| {
        (trust.optional, trust.unverified) = (true, true);
    });
    assert_eq!(let_in(&anybody).await, [true; 4]);
    let showing = changed(&|trust| trust.unverified = true);
    assert_eq!(let_in(&showing).await, [false, true, true, true]);
    let only_good = [false, true, false, false];
    let spki = sha256(&good.key.subject_public_key_info());
    let colons = |hex: &str| {
        let pairs: Vec<String> = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8_lossy(pair).to_uppercase())
            .collect();
        pairs.join(":")
    };
    for rule in [
        changed(&|trust| trust.names = vec!["Good.example.com".to_owned()]),
        changed(&|trust| trust.names = vec!["spiffe://example.com/good".to_owned()]),
        changed(&|trust| trust.certificate_hashes = vec![fingerprint(good.cert.der())]),
        changed(&|trust| trust.certificate_hashes = vec![colons(&fingerprint(good.cert.der()))]),
        changed(&|trust| {
            trust.key_hashes = vec![base64::engine::general_purpose::STANDARD.encode(spki)];
        }),
        changed(&|trust| trust.roots = RootsSource::Secret("revoking".to_owned())),
    ] {
        assert_eq!(let_in(&rule).await, only_good, "{rule:?}");
    }
    // Names count by their kind.
    let other_kind = changed(&|trust| trust.names = vec!["good@example.com".to_owned()]);
    assert_eq!(let_in(&other_kind).await, [false; 4]);
}
