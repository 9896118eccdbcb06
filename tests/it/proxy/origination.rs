//! TLS that the proxy begins, towards servers that are no peers of the mesh.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::origination::{
    Asks, KeyPair, NameMatch, Named, Origination, Pem, Roots, Shown, Verify,
};
use meshctl::mesh::route::Action;
use meshctl::mesh::{Secret, View};
use meshctl::proxy::{AccessLog, Options};
use meshctl::rt::Tasks;
use meshctl::telemetry::LogFormat;
use meshctl::tls::provider;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::support::*;

/// An authority that is not the mesh's, and a directory for its files.
struct Ca {
    issuer: Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
    dir: tempfile::TempDir,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), cert.pem()).unwrap();
        Self {
            root: cert.der().clone(),
            issuer: Issuer::new(params, key),
            dir,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate and its key, as PEM.
    fn issue(&self, names: Vec<SanType>, serial: u64) -> (rcgen::Certificate, rcgen::KeyPair) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.serial_number = Some(SerialNumber::from(serial));
        let key = rcgen::KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A list of revocations that holds `serial`.
    fn revoke(&self, serial: u64) -> String {
        let day = |day| rcgen::date_time_ymd(day, 1, 1);
        let list = CertificateRevocationListParams {
            this_update: day(2020),
            next_update: day(2120),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: day(2020),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// What a server saw of a connection: the name that was asked for, what it agreed to speak, and how
/// many certificates it was shown.
type Seen = (Option<String>, Option<String>, usize);

/// Answers each request with `ok`.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: Tasks,
}

impl Server {
    /// With a certificate of `ca` for `names`; `clients` must be shown one of that authority.
    fn start(ca: &Ca, names: Vec<SanType>, clients: Option<&Ca>) -> Self {
        let (cert, key) = ca.issue(names, 7);
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.root.clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => config.with_no_client_auth(),
        };
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = config
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (socket, address) = listen();
        let (seen, tasks) = (Arc::<Mutex<Vec<Seen>>>::default(), Tasks::new());
        let (told, group) = (Arc::clone(&seen), tasks.clone());
        tasks.spawn("server", async move {
            loop {
                let (tcp, _) = socket.accept().await.unwrap();
                let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
                group.spawn("connection", async move {
                    let Ok(mut stream) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let (_, session) = stream.get_ref();
                    let agreed = session.alpn_protocol();
                    told.lock().unwrap().push((
                        session.server_name().map(str::to_owned),
                        agreed.map(|name| String::from_utf8_lossy(name).into_owned()),
                        session.peer_certificates().map_or(0, <[_]>::len),
                    ));
                    let mut buffer = [0; 4096];
                    while let Ok(1..) = stream.read(&mut buffer).await {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            seen,
            _tasks: tasks,
        }
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn believing(roots: &Path, names: Named) -> Origination {
    Origination {
        asks: Asks::Requested,
        verify: Some(Verify {
            roots: Roots::Given(file(roots)),
            revoked: None,
            names,
        }),
        certificate: None,
    }
}

fn file(path: &Path) -> Pem {
    Pem::File(path.to_str().unwrap().to_owned())
}

fn view(bind: SocketAddr, to: SocketAddr, how: Origination) -> View {
    let mut remote = cluster("app");
    remote.protocol = UpstreamProtocol::Http1;
    remote.origination = Some(Box::new(how));
    Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(remote, vec![endpoint(to)])
        .0
}

/// A proxy that calls `to` as `how` says, and its log.
struct Stand {
    bind: SocketAddr,
    log: PathBuf,
    proxy: Proxy,
    _dir: tempfile::TempDir,
}

impl Stand {
    async fn start(to: SocketAddr, how: Origination) -> Self {
        let (bind, dir) = (free(), tempfile::tempdir().unwrap());
        let log = dir.path().join("log");
        let options = Options {
            workers: 1,
            access_log: Some(AccessLog {
                format: LogFormat::Json,
                path: Some(log.clone()),
            }),
            ..Options::default()
        };
        let proxy = Proxy::with(options, view(bind, to, how), None).await;
        Self {
            bind,
            log,
            proxy,
            _dir: dir,
        }
    }

    async fn ask(&self, host: &str) -> u16 {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        status(&exchange(self.bind, request).await)
    }

    /// Why the last request was not answered.
    async fn reason(self) -> String {
        self.proxy.stop().await.unwrap();
        let log = std::fs::read_to_string(&self.log).unwrap();
        let line: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        line["upstream_transport_failure_reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

#[tokio::test]
async fn a_server_is_asked_for_by_the_requests_host_and_must_be_it() {
    let ca = Ca::new("outside");
    let server = Server::start(&ca, vec![dns("a.example.com"), dns("*.example.org")], None);
    let stand = Stand::start(server.address, believing(&ca.file("ca.pem"), Named::Asked)).await;
    // Connections for one name are never used for another.
    for host in ["a.example.com", "x.example.org:8443", "a.example.com"] {
        assert_eq!(stand.ask(host).await, 200, "{host}");
    }
    let agreed = Some("http/1.1".to_owned());
    let named = |name: &str| (Some(name.to_owned()), agreed.clone(), 0);
    assert_eq!(
        server.seen(),
        [named("a.example.com"), named("x.example.org")]
    );
    assert_eq!(stand.ask("b.example.com").await, 503);
    let reason = stand.reason().await;
    assert!(reason.contains("not for b.example.com"), "{reason}");
}

#[tokio::test]
async fn a_name_that_is_always_sent_and_names_that_are_believed() {
    let ca = Ca::new("outside");
    let uri = SanType::URI("spiffe://other/ns/a/sa/b".try_into().unwrap());
    let server = Server::start(&ca, vec![dns("a.example.com"), uri], None);
    let named = |names: &[NameMatch]| Origination {
        asks: Asks::Name("sent.example.com".to_owned()),
        ..believing(&ca.file("ca.pem"), Named::Any(names.to_vec()))
    };
    let exact = |name: &str| NameMatch::Exact(name.to_owned());
    for names in [
        vec![],
        vec![exact("x"), exact("a.example.com")],
        vec![exact("spiffe://other/ns/a/sa/b")],
        vec![NameMatch::Prefix("spiffe://other/".to_owned())],
    ] {
        let stand = Stand::start(server.address, named(&names)).await;
        assert_eq!(stand.ask("whatever").await, 200, "{names:?}");
        assert_eq!(server.seen()[0].0.as_deref(), Some("sent.example.com"));
    }
    let stand = Stand::start(server.address, named(&[exact("b"), exact("spiffe://x")])).await;
    assert_eq!(stand.ask("a.example.com").await, 503);
    assert!(stand.reason().await.contains("not for b or spiffe://x"));
}

#[tokio::test]
async fn who_is_not_believed_gets_no_request() {
    let (ca, other) = (Ca::new("outside"), Ca::new("stranger"));
    let server = Server::start(&ca, vec![dns("app")], None);
    let stand = Stand::start(
        server.address,
        believing(&other.file("ca.pem"), Named::Asked),
    )
    .await;
    assert_eq!(stand.ask("app").await, 503);
    let reason = stand.reason().await;
    assert!(
        reason.contains("not issued by a root that is trusted"),
        "{reason}"
    );
    // Nor by what the machine trusts.
    let mut how = believing(&other.file("ca.pem"), Named::Asked);
    how.verify.as_mut().unwrap().roots = Roots::System;
    let stand = Stand::start(server.address, how).await;
    assert_eq!(stand.ask("app").await, 503);
    assert!(server.seen().is_empty());
    // Unless anybody is.
    let anybody = Origination {
        asks: Asks::Requested,
        verify: None,
        certificate: None,
    };
    let stand = Stand::start(server.address, anybody).await;
    assert_eq!(stand.ask("app").await, 200);
}

#[tokio::test]
async fn certificates_that_were_revoked_count_no_more() {
    let ca = Ca::new("outside");
    let server = Server::start(&ca, vec![dns("app")], None);
    for (serial, answer, told) in [(8, 200, ""), (7, 503, "has been revoked")] {
        std::fs::write(ca.file("crl.pem"), ca.revoke(serial)).unwrap();
        let mut how = believing(&ca.file("ca.pem"), Named::Asked);
        how.verify.as_mut().unwrap().revoked = Some(file(&ca.file("crl.pem")));
        let stand = Stand::start(server.address, how).await;
        assert_eq!(stand.ask("app").await, answer);
        let reason = stand.reason().await;
        assert!(reason.contains(told), "{reason}");
    }
}

#[tokio::test]
async fn files_may_come_late_and_change_and_until_then_nobody_is_called() {
    let ca = Ca::new("outside");
    let server = Server::start(&ca, vec![dns("*.example.com")], Some(&ca));
    let mut how = believing(&ca.file("ca.pem"), Named::Asked);
    how.certificate = Some(Shown::Pair(KeyPair {
        chain: file(&ca.file("client.pem")),
        key: file(&ca.file("client.key")),
    }));
    let stand = Stand::start(server.address, how.clone()).await;
    assert_eq!(stand.ask("a.example.com").await, 503);
    let reason = stand.reason().await;
    assert!(reason.contains("client.pem: No such file"), "{reason}");
    let stand = Stand::start(server.address, how).await;
    assert_eq!(stand.ask("a.example.com").await, 503);
    let write = |issuer: &Ca| {
        let (cert, key) = issuer.issue(vec![dns("client")], 9);
        std::fs::write(ca.file("client.pem"), cert.pem()).unwrap();
        std::fs::write(ca.file("client.key"), key.serialize_pem()).unwrap();
    };
    write(&ca);
    eventually(|| async { stand.ask("a.example.com").await == 200 }).await;
    assert!(server.seen().iter().all(|seen| seen.2 == 1));
    // What is there next is shown next: on new connections, so each is for another name.
    write(&Ca::new("stranger"));
    let number = std::cell::Cell::new(0);
    eventually(|| async {
        number.set(number.get() + 1);
        stand.ask(&format!("n{}.example.com", number.get())).await == 503
    })
    .await;
}

#[tokio::test]
async fn secrets_of_the_view_may_come_late_and_change() {
    let (ca, stranger) = (Ca::new("outside"), Ca::new("stranger"));
    let names = vec![dns("*.example.com")];
    let server = Server::start(&ca, names, Some(&ca));
    let how = Origination {
        asks: Asks::Requested,
        verify: Some(Verify {
            roots: Roots::Secret("kubernetes://pair-cacert".to_owned()),
            revoked: None,
            names: Named::Asked,
        }),
        certificate: Some(Shown::Secret("kubernetes://pair".to_owned())),
    };
    let stand = Stand::start(server.address, how.clone()).await;
    assert_eq!(stand.ask("a.example.com").await, 503);
    let reason = stand.reason().await;
    assert!(
        reason.contains("there is no credential kubernetes://pair"),
        "{reason}"
    );
    let stand = Stand::start(server.address, how.clone()).await;
    let publish = |shown: &Ca, believed: &Ca, crl: String| {
        let (cert, key) = shown.issue(vec![dns("client")], 9);
        let pair = Secret::Certificate {
            chain: cert.pem(),
            key: key.serialize_pem(),
            staple: Vec::new(),
        };
        let roots = Secret::Roots {
            certificates: std::fs::read_to_string(believed.file("ca.pem")).unwrap(),
            crl,
        };
        let mut view = view(stand.bind, server.address, how.clone());
        let texts = [
            ("kubernetes://pair", pair),
            ("kubernetes://pair-cacert", roots),
        ];
        let texts = texts.map(|(name, text)| (name.to_owned(), Arc::new(text)));
        view.secrets.extend(texts);
        stand.proxy.views.publish(view);
    };
    // On new connections, so each is for another name.
    let number = std::cell::Cell::new(0);
    let answers = async |wanted: u16| {
        eventually(|| async {
            number.set(number.get() + 1);
            stand.ask(&format!("n{}.example.com", number.get())).await == wanted
        })
        .await;
    };
    publish(&ca, &ca, String::new());
    answers(200).await;
    assert!(server.seen().iter().all(|seen| seen.2 == 1));
    for (shown, believed, crl) in [
        (&stranger, &ca, String::new()),
        (&ca, &stranger, String::new()),
        (&ca, &ca, ca.revoke(7)),
    ] {
        publish(shown, believed, crl);
        answers(503).await;
        publish(&ca, &ca, ca.revoke(8));
        answers(200).await;
    }
}
