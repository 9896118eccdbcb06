//! Callers from outside the mesh: plaintext, a foreign certificate, and a member's own for comparison.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::api::identity::IdentityReport;
use crate::mesh::SpiffeId;
use crate::net::{ConnectOptions, connect};
use crate::rt::Wall;
use crate::tls::material::Pems;
use crate::tls::{self, Authority, Material};

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a plain HTTP request to `address` is answered.
pub(super) async fn plaintext_answered(address: SocketAddr, path: &str) -> bool {
    let ask = async {
        let mut stream = connect(address, ConnectOptions::default()).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = [0_u8; 12];
        stream.read_exact(&mut head).await.ok()?;
        head.starts_with(b"HTTP/1.1 ").then_some(())
    };
    tokio::time::timeout(PATIENCE, ask)
        .await
        .is_ok_and(|answer| answer.is_some())
}

/// What a TLS caller learned.
#[derive(Debug, Clone)]
pub(super) struct Handshake {
    /// Who answered.
    pub(super) peer: String,
    /// Protocol version and key exchange.
    pub(super) protocol: String,
}

/// Calls `address` with `material`, reads one answer, and says with whom it spoke. TLS 1.3 tells a
/// client late that its certificate is refused, so that a handshake alone proves nothing.
pub(super) async fn tls_call(
    address: SocketAddr,
    material: &Material,
    path: &str,
) -> Result<Handshake, String> {
    let config = tls::client_config(material, Vec::new(), &["istio-http/1.1", "istio"])
        .map_err(|error| error.to_string())?;
    let ask = async {
        let stream = connect(address, ConnectOptions::default())
            .await
            .map_err(|error| error.to_string())?;
        let name = ServerName::try_from("mesh").map_err(|error| error.to_string())?;
        let mut stream = TlsConnector::from(Arc::clone(&config))
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|error| error.to_string())?;
        let mut head = [0_u8; 12];
        stream
            .read_exact(&mut head)
            .await
            .map_err(|error| error.to_string())?;
        let session = stream.get_ref().1;
        let peer = session
            .peer_certificates()
            .and_then(tls::peer_id)
            .map(|id| id.to_string())
            .unwrap_or_default();
        let version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS",
        };
        let exchange = session
            .negotiated_key_exchange_group()
            .map(|group| format!(", {:?}", group.name()))
            .unwrap_or_default();
        Ok(Handshake {
            peer,
            protocol: format!("{version}{exchange}"),
        })
    };
    tokio::time::timeout(PATIENCE, ask)
        .await
        .unwrap_or_else(|_| Err("no answer in 5 s".to_owned()))
}

/// A member's certificate as the control plane issued it.
pub(super) fn member(report: &IdentityReport) -> Result<Material, String> {
    Material::from_pems(&Pems {
        chain: report.chain_pem.clone(),
        key: report.key_pem.clone(),
        roots: report.roots_pem.clone(),
    })
    .map_err(|error| error.to_string())
}

/// The same name, from an authority of somebody else; it even trusts the mesh's root.
pub(super) fn forger(report: &IdentityReport, wall: &Wall) -> Result<Material, String> {
    let words = |error: tls::Error| error.to_string();
    let id: SpiffeId = report
        .spiffe_id
        .parse()
        .map_err(|error: crate::mesh::name::NameError| error.to_string())?;
    let now = wall.millis();
    let foreign = Authority::generate(&id.trust_domain, now).map_err(words)?;
    let mut material = foreign
        .issue_pair(&id, Duration::from_hours(1), now)
        .map_err(words)?;
    material.roots = member(report)?.roots;
    Ok(material)
}
