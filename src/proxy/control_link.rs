//! Connections to the control plane, for certificates and for ADS.
//!
//! Owns how the control plane is recognised. What is said over the connection, and when it is made
//! again, is decided by whoever asked for it.

use std::io;
use std::net::SocketAddr;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::mesh::SpiffeId;
use crate::net::{ConnectOptions, connect};
use crate::tls::{self, Material, Pin};

/// The name in the TLS hello towards the control plane; servers are verified by SPIFFE id.
const SERVER_NAME: &str = "meshctl.meshctl-system.svc";

/// A TLS connection to the control plane.
pub type ControlStream = TlsStream<TcpStream>;

/// Who calls the control plane, and how it is known.
#[derive(Debug, Clone, Copy)]
pub enum Caller<'a> {
    /// Shows this certificate and believes its roots.
    Member(&'a Material),
    /// Has no certificate yet; the control plane is known by its root.
    Newcomer(&'a Pin),
}

/// Connects to the control plane at `to`, which must prove to be `server`. Speaks HTTP/2.
pub async fn connect_control(
    to: SocketAddr,
    server: &SpiffeId,
    caller: Caller<'_>,
) -> io::Result<ControlStream> {
    let config = match caller {
        Caller::Member(material) => tls::client_config(material, vec![server.clone()], &["h2"]),
        Caller::Newcomer(pin) => tls::bootstrap_config(pin, server.clone(), &["h2"]),
    }
    .map_err(io::Error::other)?;
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    let tcp = connect(to, ConnectOptions::default()).await?;
    TlsConnector::from(config).connect(name, tcp).await
}
