//! The identity in use, and the TLS configurations made from it.
//!
//! Configurations are made once for each set of ALPN names and peers and then kept: sessions are
//! resumed through them. A renewed certificate is a new [`Identity`] with a new generation, by
//! which pools know which connections are of yesterday.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConfig, CommonState, ServerConfig};
use rustls_pki_types::CertificateDer;

use crate::mesh::SpiffeId;
use crate::mesh::http::ClientCertDetails;
use crate::telemetry::{Link, Protection};
use crate::tls::{self, Material};

use super::client_cert;

/// What is spoken inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Speak {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Either HTTP, as the peer likes.
    Http,
    /// Bytes.
    Bytes,
}

impl Speak {
    /// ALPN names that say so to a mesh peer (Istio's), the general name last.
    fn alpn(self) -> &'static [&'static str] {
        match self {
            Self::Http1 => &["istio-http/1.1", "istio", "http/1.1"],
            Self::Http2 => &["istio-h2", "istio", "h2"],
            Self::Http => &["istio-h2", "istio-http/1.1", "istio", "h2", "http/1.1"],
            Self::Bytes => &["istio"],
        }
    }

    /// As [`Speak::alpn`], to servers outside the mesh.
    pub(crate) fn alpn_outside(self) -> &'static [&'static str] {
        match self {
            Self::Http1 => &["http/1.1"],
            Self::Http2 => &["h2"],
            Self::Http => &["h2", "http/1.1"],
            Self::Bytes => &[],
        }
    }
}

type Kept<K, V> = Mutex<BTreeMap<K, Arc<V>>>;

/// An identity and its configurations.
#[derive(Debug)]
pub(crate) struct Identity {
    /// What it was made from.
    pub(crate) material: Arc<Material>,
    /// Grows with every renewal.
    pub(crate) generation: u64,
    /// Its name.
    pub(crate) id: String,
    /// The [`tls::key_of`] certificates that are revoked.
    pub(crate) revoked: BTreeSet<u64>,
    servers: Kept<Vec<String>, ServerConfig>,
    clients: Kept<(Speak, Vec<SpiffeId>), ClientConfig>,
}

impl Identity {
    pub(crate) fn new(material: Arc<Material>, generation: u64) -> Self {
        Self {
            id: material.id.to_string(),
            revoked: material.revoked.keys(),
            material,
            generation,
            servers: Mutex::default(),
            clients: Mutex::default(),
        }
    }

    /// For callers of ours, who must show a certificate of the mesh.
    pub(crate) fn server(&self, alpn: &[String]) -> Result<Arc<ServerConfig>, tls::Error> {
        // Whoever held the lock left nothing half done: the maps only grow.
        let mut kept = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = kept.get(alpn) {
            return Ok(Arc::clone(config));
        }
        let mut names: Vec<&str> = alpn.iter().map(String::as_str).collect();
        // A peer that carries bytes offers only this, and rustls refuses a caller without any common name.
        if !names.is_empty() && !names.contains(&"istio") {
            names.push("istio");
        }
        let config = tls::server_config(&self.material, &names)?;
        kept.insert(alpn.to_vec(), Arc::clone(&config));
        Ok(config)
    }

    /// For peers that must be one of `principals` (empty: anyone of the trust domain).
    pub(crate) fn client(
        &self,
        principals: &[SpiffeId],
        speak: Speak,
    ) -> Result<Arc<ClientConfig>, tls::Error> {
        let key = (speak, principals.to_vec());
        // Whoever held the lock left nothing half done: the maps only grow.
        let mut kept = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = kept.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = tls::client_config(&self.material, principals.to_vec(), speak.alpn())?;
        kept.insert(key, Arc::clone(&config));
        Ok(config)
    }
}

/// What a finished handshake agreed on.
pub(crate) fn agreed(on: &CommonState, protection: Protection) -> Link {
    Link {
        protection,
        version: on.protocol_version().map_or(0, u16::from),
        cipher: on
            .negotiated_cipher_suite()
            .map_or(0, |suite| suite.suite().into()),
        // None where a session of TLS 1.2 is resumed.
        group: on
            .negotiated_key_exchange_group()
            .map_or(0, |group| group.name().into()),
    }
}

/// Who a verified caller is, and what `x-forwarded-client-cert` says of it.
pub(crate) fn caller(
    chain: &[CertificateDer<'_>],
    by: &str,
    details: ClientCertDetails,
) -> Option<(String, Vec<u8>)> {
    let id = tls::peer_id(chain)?.to_string();
    let element = client_cert::element(chain, (by, &id), details)?;
    Some((id, element))
}

/// What `x-forwarded-client-cert` says of a verified caller from outside the mesh; nothing when it
/// showed no certificate.
pub(crate) fn stranger(
    chain: &[CertificateDer<'_>],
    details: ClientCertDetails,
) -> Option<Vec<u8>> {
    client_cert::element(chain, ("", ""), details)
}
