//! From a join token to a certificate that renews itself, over the control plane's TLS port.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Mutex;

use meshctl::control::ca::{Ca, CaServer, Caller, Outcome, Record};
use meshctl::control::serve_tls::{self, PeerIdentity, TlsOptions};
use meshctl::control::signer::Issuer;
use meshctl::control::token::{TokenBook, TokenSpec};
use meshctl::net::{BindOptions, bind};
use meshctl::proxy::control_link::{Caller as Calling, connect_control};
use meshctl::proxy::identity::{IdentityClient, IdentityError, IdentityOptions, TokenSource};
use meshctl::rt::Tasks;
use meshctl::tls::ca_api::CertificateRequest;
use meshctl::tls::{self, Pin, Request, client_config, peer_id, server_config};
use tonic::Code;

use super::*;

/// A control plane that only issues certificates.
struct Control {
    address: SocketAddr,
    ca: Ca,
    authority: Arc<Authority>,
    book: Arc<Mutex<TokenBook>>,
    audit: Arc<Mutex<Vec<Record>>>,
    tasks: Tasks,
}

async fn control() -> Control {
    let authority = Arc::new(authority());
    let book = Arc::new(Mutex::new(TokenBook::default()));
    let audit = Arc::new(Mutex::new(Vec::new()));
    let (signing, tokens, records) = (authority.clone(), book.clone(), audit.clone());
    let ca = Ca {
        issuer: Issuer::new(Arc::new(move || signing.clone()), None, Wall::System),
        trusted: Arc::new([]),
        redeem: Arc::new(move |presented| {
            let claim = tokens.lock().unwrap().redeem_for(&presented, now());
            Box::pin(async move { Ok(claim?.id("cluster.local")) })
        }),
        reviewer: None,
        audit: Arc::new(move |record| {
            records.lock().unwrap().push(record);
            Box::pin(async { Ok(()) })
        }),
        wall: Wall::System,
    };
    let mut control = Control {
        address: ([127, 0, 0, 1], 0).into(),
        ca,
        authority,
        book,
        audit,
        tasks: Tasks::new(),
    };
    control.serve(HOUR).await;
    control
}

impl Control {
    async fn serve(&mut self, lifetime: Duration) {
        self.serve_for(lifetime, serve_tls::STRANGERS).await;
    }

    async fn serve_for(&mut self, lifetime: Duration, strangers: Duration) {
        let listener = bind(self.address, BindOptions::default()).unwrap();
        self.address = listener.local_addr().unwrap();
        let options = TlsOptions {
            issuer: self.ca.issuer.clone(),
            keep: None,
            revoked: Arc::new(|_| false),
            changed: tokio::sync::watch::channel(0).1,
            lifetime,
            names: serve_tls::ServerNames::default(),
            alpn: &["h2"],
            strangers,
            wall: Wall::System,
        };
        let incoming = serve_tls::incoming(listener, options, &self.tasks)
            .await
            .unwrap();
        let service = CaServer::new(self.ca.clone());
        self.tasks.spawn("ca", async move {
            tonic::transport::Server::builder()
                .serve_with_incoming(service, incoming)
                .await
                .unwrap();
        });
    }

    async fn stop(&mut self) {
        self.tasks.end().await;
        self.tasks = Tasks::new();
    }

    fn token(&self, account: &str) -> String {
        let spec = TokenSpec {
            namespace: "shop".to_owned(),
            service_account: account.to_owned(),
            workload: None,
            gateway: None,
            uses: 1,
            lifetime: HOUR,
            created_by: "test".to_owned(),
        };
        let root = tls::sha256(self.authority.root());
        let mut book = self.book.lock().unwrap();
        book.create(spec, Some(root), now()).unwrap().to_string()
    }

    fn options(&self, account: &str, token: Option<String>, dir: &Path) -> IdentityOptions {
        let mut options = IdentityOptions::new(self.address, id(account), dir);
        options.token = token.map(TokenSource::Value);
        options
    }
}

#[tokio::test]
async fn a_token_becomes_a_certificate_once() {
    let control = control().await;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("cart");
    let token = control.token("cart");
    let mut client = IdentityClient::new(control.options("cart", Some(token.clone()), &home));
    let material = client.start().await.unwrap();
    assert_eq!(peer_id(&material.chain), Some(id("cart")));
    let file = std::fs::metadata(home.join(tls::material::IDENTITY_FILE)).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);

    // The token is spent for everybody else.
    let thief = dir.path().join("thief");
    let error = IdentityClient::new(control.options("cart", Some(token.clone()), &thief))
        .start()
        .await
        .unwrap_err();
    assert!(!error.is_transient());
    assert!(error.to_string().contains("already been used"), "{error}");
    assert!(!thief.exists());

    // A restart needs neither token nor control plane.
    control.tasks.end().await;
    let again = IdentityClient::new(control.options("cart", Some(token), &home))
        .start()
        .await
        .unwrap();
    assert_eq!(again.chain, material.chain);

    let audit = control.audit.lock().unwrap();
    assert!(
        matches!(&audit[0].outcome, Outcome::Issued { id: issued, .. } if *issued == id("cart"))
    );
    assert!(matches!(&audit[1].outcome, Outcome::Refused { reason } if reason.contains("used")));
    assert!(matches!(audit[1].caller, Caller::Token(_)));
}

#[tokio::test]
async fn a_token_for_someone_else_is_refused_and_stays_good() {
    let control = control().await;
    let dir = tempfile::tempdir().unwrap();
    let token = control.token("cart");
    let error = IdentityClient::new(control.options("admin", Some(token.clone()), dir.path()))
        .start()
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is for shop/cart, not for shop/admin"),
        "{error}"
    );
    IdentityClient::new(control.options("cart", Some(token), dir.path()))
        .start()
        .await
        .unwrap();
    // And a stored identity is not worn by another proxy.
    let error = IdentityClient::new(control.options("admin", None, dir.path()))
        .start()
        .await
        .unwrap_err();
    assert!(
        matches!(error, IdentityError::OtherIdentity { .. }),
        "{error}"
    );
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn without_token_or_pin_the_message_says_what_to_do() {
    let control = control().await;
    let dir = tempfile::tempdir().unwrap();
    let error = IdentityClient::new(control.options("cart", None, dir.path()))
        .start()
        .await
        .unwrap_err();
    assert!(error.hint().unwrap().contains("token create"), "{error}");
    let token = control.token("cart");
    let (bare, _) = token.rsplit_once('_').unwrap();
    let mut options = control.options("cart", Some(bare.to_owned()), dir.path());
    let error = IdentityClient::new(options.clone())
        .start()
        .await
        .unwrap_err();
    assert!(matches!(error, IdentityError::NoPin), "{error}");
    // A control plane under another root is not believed, and learns no token.
    options.pin = Some(Pin::Roots(vec![super::authority().root().clone()]));
    let error = IdentityClient::new(options.clone())
        .start()
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("not issued by the mesh's root"),
        "{error}"
    );
    assert!(control.audit.lock().unwrap().is_empty());
    options.pin = Some(Pin::Roots(vec![control.authority.root().clone()]));
    IdentityClient::new(options).start().await.unwrap();
}

#[tokio::test]
async fn a_stored_identity_of_another_mesh_gives_way_to_a_token() {
    let (old, new) = (control().await, control().await);
    let dir = tempfile::tempdir().unwrap();
    let join = |control: &Control| control.options("cart", Some(control.token("cart")), dir.path());
    IdentityClient::new(join(&old)).start().await.unwrap();
    let material = IdentityClient::new(join(&new)).start().await.unwrap();
    assert_eq!(material.roots, [new.authority.root().clone()]);
}

#[tokio::test]
async fn the_ca_answers_only_to_proof() {
    let control = control().await;
    let csr = || CertificateRequest {
        csr: Request::new(&id("cart")).unwrap().pem().to_owned(),
        ..CertificateRequest::default()
    };
    let proven = |message, peer| {
        let mut request = tonic::Request::new(message);
        let chain = Arc::default();
        request
            .extensions_mut()
            .insert(PeerIdentity { id: peer, chain });
        request
    };
    let code = async |request| control.ca.create(request).await.unwrap_err().code();
    assert_eq!(
        code(tonic::Request::new(csr())).await,
        Code::Unauthenticated
    );
    assert_eq!(code(proven(csr(), None)).await, Code::Unauthenticated);
    let mut bearer = proven(csr(), Some(id("cart")));
    bearer
        .metadata_mut()
        .insert("authorization", "Basic abc".parse().unwrap());
    assert_eq!(code(bearer).await, Code::Unauthenticated);
    let mut late = csr();
    late.validity_duration = -1;
    assert_eq!(
        code(proven(late, Some(id("cart")))).await,
        Code::InvalidArgument
    );
    let mut broken = csr();
    broken.csr.truncate(100);
    assert_eq!(
        code(proven(broken, Some(id("cart")))).await,
        Code::InvalidArgument
    );
    let system = tls::control_plane_id("cluster.local");
    assert_eq!(
        code(proven(csr(), Some(system))).await,
        Code::PermissionDenied
    );
    let mut other = proven(csr(), Some(id("cart")));
    let wanted = id("admin").to_string().parse().unwrap();
    other.metadata_mut().insert("meshctl-identity", wanted);
    assert_eq!(code(other).await, Code::PermissionDenied);
    let mut wish = csr();
    let fields = [(
        "ImpersonatedIdentity".to_owned(),
        envoy_types::pb::google::protobuf::Value::default(),
    )];
    wish.metadata = Some(envoy_types::pb::google::protobuf::Struct {
        fields: fields.into_iter().collect(),
    });
    assert_eq!(
        code(proven(wish, Some(id("cart")))).await,
        Code::PermissionDenied
    );
    // The certificate's name wins over what the request asks for.
    let mut admin = csr();
    admin.csr = Request::new(&id("admin")).unwrap().pem().to_owned();
    let answer = control
        .ca
        .create(proven(admin, Some(id("cart"))))
        .await
        .unwrap();
    let leaf = tls::material::certificates(&answer.into_inner().cert_chain[0]).unwrap();
    assert_eq!(peer_id(&leaf), Some(id("cart")));
    assert!(!control.audit.lock().unwrap().is_empty());
}

#[tokio::test]
async fn short_certificates_are_renewed_under_load_without_a_failed_handshake() {
    let control = control().await;
    let dir = tempfile::tempdir().unwrap();
    let mut readers = Vec::new();
    let tasks = Tasks::new();
    for account in ["cart", "reviews"] {
        let token = control.token(account);
        let mut options = control.options(account, Some(token), &dir.path().join(account));
        options.lifetime = Duration::from_secs(4);
        let mut client = IdentityClient::new(options);
        client.start().await.unwrap();
        readers.push(client.reader());
        tasks.spawn("identity", client.run());
    }
    let current = |at: usize| readers[at].load().as_ref().clone().unwrap();
    let first = current(0);
    let mut handshakes = 0;
    // Past the end of the second certificate, so that at least two renewals were needed.
    while now() < first.not_after + 4_000 {
        let (cart, reviews) = (current(0), current(1));
        let client = client_config(&cart, vec![id("reviews")], &["h2"]).unwrap();
        let shaken = shake(server_config(&reviews, &["h2"]).unwrap(), client).await;
        shaken.server.unwrap();
        shaken.client.unwrap();
        handshakes += 1;
        tokio::task::yield_now().await;
    }
    assert!(handshakes > 100, "{handshakes}");
    let renewed = control
        .audit
        .lock()
        .unwrap()
        .iter()
        .filter(
            |record| matches!(&record.caller, Caller::Certificate(caller) if *caller == id("cart")),
        )
        .count();
    assert!((2..=5).contains(&renewed), "renewed {renewed} times");
    // It is on the disk before it is used, so a renewal may be between the two just now.
    let same = async || {
        let stored = Material::load(&dir.path().join("cart"), now()).unwrap();
        while stored.chain != current(0).chain {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let used = tokio::time::timeout(Duration::from_secs(1), same()).await;
    assert!(used.is_ok(), "what is stored is not used");
    tasks.end().await;
}

#[tokio::test]
async fn renewal_outlasts_an_absent_control_plane() {
    let mut control = control().await;
    let dir = tempfile::tempdir().unwrap();
    let mut options = control.options("cart", Some(control.token("cart")), dir.path());
    options.lifetime = Duration::from_secs(8);
    let mut client = IdentityClient::new(options);
    let first = client.start().await.unwrap();
    let mut reader = client.reader();
    control.stop().await;
    let tasks = Tasks::new();
    // Stands where the control plane stood and hangs up on everybody.
    let absent = bind(control.address, BindOptions::default()).unwrap();
    tasks.spawn("identity", client.run());
    for _ in 0..3 {
        drop(absent.accept().await.unwrap());
    }
    assert_eq!(reader.load().as_ref().as_ref().unwrap().chain, first.chain);
    drop(absent);
    control.serve(HOUR).await;
    let renewed = tokio::time::timeout(Duration::from_secs(8), reader.changed()).await;
    assert!(renewed.unwrap());
    let next = reader.load().as_ref().clone().unwrap();
    assert!(now() < first.not_after, "renewed too late");
    assert!(next.not_after > first.not_after);
    tasks.end().await;
}

#[tokio::test]
async fn the_control_planes_own_certificate_is_renewed() {
    let mut control = control().await;
    control.stop().await;
    control.serve(Duration::from_secs(3)).await;
    let pin = Pin::Roots(vec![control.authority.root().clone()]);
    let server = tls::control_plane_id("cluster.local");
    let leaf = async || {
        let io = connect_control(control.address, &server, Calling::Newcomer(&pin))
            .await
            .unwrap();
        io.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = leaf().await;
    let (_, end) = tls::material::validity(&first).unwrap();
    // Every connection must verify, also after the first certificate has ended.
    while now() < end + 500 {
        leaf().await;
    }
    assert_ne!(leaf().await, first);
}

#[tokio::test]
async fn a_member_is_known_to_the_services_by_its_certificate() {
    let control = control().await;
    let member = control
        .authority
        .issue_pair(&id("cart"), HOUR, now())
        .unwrap();
    let server = tls::control_plane_id("cluster.local");
    let io = connect_control(control.address, &server, Calling::Member(&member))
        .await
        .unwrap();
    assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    // Another workload on that address is not the control plane.
    let error = connect_control(control.address, &id("reviews"), Calling::Member(&member))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("expected"), "{error}");
}

/// Somebody who has nothing to show takes a place at the port, with or without a first word.
#[tokio::test]
async fn who_shows_no_certificate_may_not_stay() {
    let mut control = control().await;
    control.stop().await;
    control.serve_for(HOUR, Duration::from_millis(300)).await;
    let pin = Pin::Roots(vec![control.authority.root().clone()]);
    let member = control
        .authority
        .issue_pair(&id("cart"), HOUR, now())
        .unwrap();
    let server = tls::control_plane_id("cluster.local");
    let open = |who| connect_control(control.address, &server, who);
    let mut stays = open(Calling::Member(&member)).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for word in [&b""[..], preface] {
        let mut leaves = open(Calling::Newcomer(&pin)).await.unwrap();
        leaves.write_all(word).await.unwrap();
        let mut said = Vec::new();
        // However it is closed, it is closed.
        let ended = leaves.read_to_end(&mut said);
        let _closed = tokio::time::timeout(Duration::from_secs(10), ended)
            .await
            .expect("it is still open");
    }
    // Longer than theirs by now, and answered.
    stays.write_all(preface).await.unwrap();
    let mut settings = [0; 9];
    stays.read_exact(&mut settings).await.unwrap();
    assert_eq!(settings[3], 4, "{settings:?}");
}
