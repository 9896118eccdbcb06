//! Configurations for both ends of a mesh connection. Make one per [`Material`] and keep it.

use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;

use super::tickets::ShortTickets;
use super::verify::{Pinned, Trust};
use super::{Error, Material, provider};
use crate::mesh::SpiffeId;
use crate::rt::Wall;

/// How a joiner knows the mesh's root before it has a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// These certificates are the roots.
    Roots(Vec<CertificateDer<'static>>),
    /// The root has this SHA-256; the server sends the root along.
    Fingerprint([u8; 32]),
}

/// For a server whose callers must prove an identity of the same mesh, by TLS 1.3 or 1.2.
pub fn server_config(material: &Material, alpn: &[&str]) -> Result<Arc<ServerConfig>, Error> {
    server(material, alpn, trust_of(material)?)
}

/// As [`server_config`], and callers without a certificate are let in as nobody; one that presents
/// a bad certificate is refused all the same. For the CA's port, where newcomers have only a token.
pub fn server_config_optional_client(
    material: &Material,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, Error> {
    server(material, alpn, trust_of(material)?.with_optional_client())
}

fn trust_of(material: &Material) -> Result<Trust, Error> {
    Trust::new(&material.roots, &material.id.trust_domain, Vec::new())?.revoking(&material.revoked)
}

fn server(material: &Material, alpn: &[&str], trust: Trust) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(trust))
        .with_single_cert(material.chain.clone(), material.key.clone_key())?;
    config.alpn_protocols = wire_names(alpn);
    config.require_ems = true;
    // OpenSSL's would be AES with 256 bits.
    config.ignore_client_order = true;
    let life = material.not_after.saturating_sub(material.not_before);
    config.ticketer = Arc::new(ShortTickets::new(
        Duration::from_millis(life / 10),
        Wall::System,
    )?);
    // One ticket a handshake: a mesh client keeps its connections, so two are mostly waste.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// For a client that proves `material.id` and accepts only `principals` (empty: anyone of the trust
/// domain). The server's DNS name is not checked, so any name may be given to rustls; it is the SNI.
pub fn client_config(
    material: &Material,
    principals: Vec<SpiffeId>,
    alpn: &[&str],
) -> Result<Arc<ClientConfig>, Error> {
    let trust = Trust::new(&material.roots, &material.id.trust_domain, principals)?;
    let trust = trust.revoking(&material.revoked)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_client_auth_cert(material.chain.clone(), material.key.clone_key())?;
    config.alpn_protocols = wire_names(alpn);
    config.require_ems = true;
    Ok(Arc::new(config))
}

/// For a joiner's first contact: no certificate to show yet, the server must be `principal` under
/// the pinned root.
pub fn bootstrap_config(
    pin: &Pin,
    principal: SpiffeId,
    alpn: &[&str],
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::new(pin.clone(), principal)))
        .with_no_client_auth();
    config.alpn_protocols = wire_names(alpn);
    config.require_ems = true;
    // Nothing to gain from resuming a connection that is made once.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// For whoever asks the control plane's API: the server must be a control plane under the pinned root.
/// `material` is shown where there is one.
pub fn api_client_config(pin: &Pin, material: Option<&Material>) -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::control_plane(pin.clone())));
    let mut config = match material {
        Some(material) => {
            config.with_client_auth_cert(material.chain.clone(), material.key.clone_key())?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = wire_names(&["http/1.1"]);
    config.require_ems = true;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn wire_names(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}
