//! Identities over real handshakes: who is let in, how certificates are got and renewed, and what
//! openssl thinks of them.

mod own;
mod handshake;
mod join;
mod openssl;

use std::sync::Arc;
use std::time::Duration;

use meshctl::mesh::SpiffeId;
use meshctl::rt::{UnixMillis, Wall};
use meshctl::tls::{self, Authority, Material};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const HOUR: Duration = Duration::from_hours(1);

fn now() -> UnixMillis {
    Wall::System.millis()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account)
}

fn authority() -> Authority {
    Authority::generate("cluster.local", now()).unwrap()
}

/// A certificate under `authority` that `Authority` itself would never issue.
fn odd(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Material {
    let (cert, key) = authority.to_pem();
    let issuer = Issuer::from_ca_cert_pem(&cert, KeyPair::from_pem(&key).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/cart")];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    Material {
        chain: vec![leaf.der().clone()],
        key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())).into(),
        roots: vec![authority.root().clone()],
        revoked: meshctl::tls::Revoked::default(),
        id: id("cart"),
        not_before: now(),
        not_after: now() + 3_600_000,
    }
}

fn uri(name: &str) -> rcgen::SanType {
    rcgen::SanType::URI(name.try_into().unwrap())
}

/// What each side of one handshake says, after a byte went both ways.
struct Shaken {
    server: Result<rustls::HandshakeKind, String>,
    client: Result<rustls::HandshakeKind, String>,
}

impl Shaken {
    /// The reason of whichever side refused; panics when both agreed.
    #[track_caller]
    fn refusal(self) -> String {
        match (self.server, self.client) {
            (Ok(_), Ok(_)) => panic!("the handshake went through"),
            (server, client) => format!(
                "server: {} client: {}",
                server.err().unwrap_or_default(),
                client.err().unwrap_or_default()
            ),
        }
    }
}

async fn shake(server: Arc<rustls::ServerConfig>, client: Arc<rustls::ClientConfig>) -> Shaken {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let serve = async move {
        let mut io = TlsAcceptor::from(server).accept(far).await?;
        let byte = io.read_u8().await?;
        io.write_u8(byte).await?;
        io.flush().await?;
        let kind = io.get_ref().1.handshake_kind().unwrap();
        io.shutdown().await?;
        Ok::<_, std::io::Error>(kind)
    };
    let call = async move {
        let name = "reviews.shop.svc".try_into().unwrap();
        let mut io = TlsConnector::from(client).connect(name, near).await?;
        io.write_u8(7).await?;
        io.flush().await?;
        assert_eq!(io.read_u8().await?, 7);
        Ok::<_, std::io::Error>(io.get_ref().1.handshake_kind().unwrap())
    };
    let (server, client) = tokio::join!(serve, call);
    Shaken {
        server: server.map_err(|error| tls::explain(&error)),
        client: client.map_err(|error| tls::explain(&error)),
    }
}
