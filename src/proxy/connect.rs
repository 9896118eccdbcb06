//! Connecting to an endpoint, with mTLS where it speaks it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, ServerName};
use smallvec::SmallVec;
use tokio_rustls::TlsConnector;

use crate::mesh::Cluster;
use crate::mesh::origination::Asks;
use crate::net::{self, ConnectOptions};
use crate::rt;
use crate::telemetry::{Link, PeerId, PeerLabels, Protection, Why};
use crate::tls;

use super::buffer::Buffer;
use super::context::{Conn, Live, Worker};
use super::http::respond::Failure;
use super::introduced;
use super::limit::ConnectionSlot;
use super::origination;
use super::pool::Key;
use super::stream::{Raw, Stream};
use super::tables::{ClusterTable, EndpointEntry};
use super::tls::Speak;

/// Where to connect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'t> {
    pub(crate) address: SocketAddr,
    /// An address of the other family, of a name that has both; at the same port.
    pub(crate) other: Option<IpAddr>,
    /// None when the caller chose the address.
    pub(crate) entry: Option<&'t EndpointEntry>,
    /// Whom the endpoint is told of, where it wants to know.
    pub(crate) caller: Option<&'t Conn>,
    /// The authority of the request, where its connection is made for that.
    pub(crate) name: Option<&'t [u8]>,
}

impl<'t> Target<'t> {
    /// Every address, raced when connecting.
    fn addresses(&self, cluster: &ClusterTable) -> SmallVec<[SocketAddr; 1]> {
        let endpoint = self
            .entry
            .and_then(|entry| cluster.endpoints.endpoint(entry));
        let additional = endpoint.map_or(&[][..], |endpoint| &endpoint.additional);

        std::iter::once(self.address)
            .chain(
                self.other
                    .map(|other| SocketAddr::new(other, self.address.port())),
            )
            .chain(additional.iter().copied())
            .collect()
    }

    /// A connection that the cluster allows, if the endpoint does, too.
    pub(crate) fn slot(
        &self,
        cluster: &ClusterTable,
        slot: Option<ConnectionSlot>,
    ) -> Option<ConnectionSlot> {
        match self.entry {
            Some(entry) => {
                let most = cluster.config.limits.max_connections_per_endpoint;
                slot?.at(&entry.state, most)
            }
            None => slot,
        }
    }

    /// An address that the caller chose.
    pub(crate) fn chosen(address: SocketAddr) -> Self {
        Self {
            address,
            other: None,
            entry: None,
            caller: None,
            name: None,
        }
    }

    /// An endpoint of a cluster.
    pub(crate) fn endpoint(entry: &'t EndpointEntry) -> Self {
        Self {
            address: entry.address,
            other: None,
            entry: Some(entry),
            caller: None,
            name: None,
        }
    }

    /// For `conn`, which matters to clusters whose endpoints are told who calls.
    pub(crate) fn on_behalf(mut self, cluster: &ClusterTable, conn: &'t Conn) -> Self {
        self.caller = cluster.config.proxy_protocol.map(|_| conn);
        self
    }

    /// For a request to `name`, which matters where the server is asked for by that.
    pub(crate) fn asked_for(
        mut self,
        cluster: &ClusterTable,
        name: impl FnOnce() -> Option<&'t [u8]>,
    ) -> Self {
        let asks = cluster.config.origination.as_ref().map(|how| &how.asks);
        if asks == Some(&Asks::Requested) {
            self.name = name();
        }
        self
    }

    /// What its pool is found by.
    pub(crate) fn key(&self) -> Key {
        if let Some(name) = self.name {
            let told = origination::fingerprint(name, self.caller.map(|conn| conn.state.id.get()));
            return match self.entry {
                Some(entry) => Key::Told(entry.state.id, told),
                None => Key::ToldAddress(self.address, told),
            };
        }
        match (self.entry, self.caller) {
            (Some(entry), None) => Key::Endpoint(entry.state.id),
            (None, None) => Key::Address(self.address),
            (Some(entry), Some(conn)) => Key::Told(entry.state.id, conn.state.id.get()),
            (None, Some(conn)) => Key::ToldAddress(self.address, conn.state.id.get()),
        }
    }
}

/// A new connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: Stream,
    pub(crate) mtls: bool,
    /// HTTP/2 was agreed on.
    pub(crate) http2: bool,
    /// The identity that it was made with; 0 is none.
    pub(crate) generation: u64,
    pub(crate) local: Option<SocketAddr>,
    /// What protects it.
    pub(crate) link: Link,
    /// Who is at the other end, with the identity that was proven.
    pub(crate) peer: PeerId,
}

impl Dialed {
    /// Why it is in plaintext.
    fn why(cluster: &ClusterTable, target: &Target<'_>) -> Why {
        let named = target
            .entry
            .and_then(|entry| cluster.endpoints.endpoint(entry))
            .is_some_and(|endpoint| !endpoint.workload.workload.is_empty());
        if cluster.config.name == Cluster::PASSTHROUGH {
            Why::Passthrough
        } else if !named {
            Why::External
        } else if cluster.config.tls.is_some() {
            Why::NoPeer
        } else {
            Why::Disabled
        }
    }
}

/// The address that the caller meant, for clusters that go where the caller wanted: what the
/// connection was redirected from, else the authority of the request.
pub(crate) async fn meant(
    worker: &Worker,
    live: &Live,
    meant: Option<SocketAddr>,
    authority: &[u8],
) -> Result<Target<'static>, Failure> {
    let found = match meant {
        Some(address) => vec![address],
        None => resolve(authority).await?,
    };
    let own = |address: &SocketAddr| {
        live.tables.listeners.values().any(|listener| {
            let bind = listener.config.bind;
            bind.port() == address.port()
                && (bind.ip() == address.ip()
                    || (bind.ip().is_unspecified()
                        && (address.ip().is_loopback()
                            || worker.shared.options.is_own(address.ip()))))
        })
    };
    if found.iter().any(own) {
        return Err(Failure::Loop);
    }
    let Some(address) = found.first().copied() else {
        let name = String::from_utf8_lossy(authority);
        return Err(Failure::Connect(format!("{name}: no address")));
    };
    Ok(Target {
        other: found
            .into_iter()
            .find(|other| other.is_ipv4() != address.is_ipv4())
            .map(|other| other.ip()),
        ..Target::chosen(address)
    })
}

async fn resolve(authority: &[u8]) -> Result<Vec<SocketAddr>, Failure> {
    let text =
        std::str::from_utf8(authority).map_err(|_| Failure::Malformed("http1.invalid_host"))?;
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse() {
        return Ok(vec![SocketAddr::new(address, 80)]);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (
            host,
            port.parse()
                .map_err(|_| Failure::Malformed("http1.invalid_host"))?,
        ),
        None => (text, 80),
    };
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| Failure::Connect(format!("{host}: {error}")))?;
    Ok(found.collect())
}

/// Connects to `target` of `cluster`.
pub(crate) async fn dial(
    worker: &Worker,
    live: &Live,
    cluster: &ClusterTable,
    target: &Target<'_>,
    speak: Speak,
) -> Result<Dialed, Failure> {
    let config = &cluster.config;
    let speaks_mtls = target.entry.is_some_and(|entry| entry.mtls);
    let tls = config.tls.as_ref().filter(|_| speaks_mtls);
    if tls.is_none() && config.tls.as_ref().is_some_and(|tls| tls.required) {
        return Err(Failure::Tls("the endpoint does not speak mTLS".to_owned()));
    }
    let outside = cluster.originator.as_ref().map(|originator| {
        let asked = (target.name, target.address.ip());
        originator.secure(config, asked, speak, rt::now())
    });
    let outside = outside.transpose().map_err(Failure::Tls)?;
    let from = if config.kind.is_outward() {
        worker.shared.options.address
    } else if worker.shared.options.captured
        && config.is_inward()
        && !target.address.ip().is_loopback()
    {
        // At the pod's own address it would be taken for a caller, and come here again.
        Some(net::capture::own_source(target.address.ip()))
    } else {
        None
    };
    let options = ConnectOptions {
        timeout: config.connect_timeout,
        from,
    };
    let failed = |error: std::io::Error| Failure::Connect(format!("{}: {error}", target.address));
    let mut tcp = net::connect_any(&target.addresses(cluster), options)
        .await
        .map_err(failed)?;
    if let Some(version) = config.proxy_protocol {
        let between = target.caller.map(|conn| (conn.remote, conn.local));
        let header = introduced::write(&mut tcp, version, between);
        Box::pin(header).await.map_err(failed)?;
    }
    let local = tcp.local_addr().ok();
    let peer = target
        .entry
        .map_or_else(PeerId::default, |entry| entry.peer);
    if let Some((client, name)) = outside {
        let handshake = TlsConnector::from(client).connect(name, Raw::new(tcp, Buffer::default()));
        let stream = tokio::time::timeout(config.connect_timeout, handshake)
            .await
            .map_err(|_| Failure::Tls("no handshake in time".to_owned()))?
            .map_err(|error| Failure::Tls(tls::outside::explain_outside(&error)))?;
        let link = super::tls::agreed(stream.get_ref().1, Protection::Tls);
        return Ok(Dialed {
            http2: stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            stream: Stream::Client(Box::new(stream)),
            mtls: false,
            generation: 0,
            local,
            link,
            peer,
        });
    }
    let Some(tls) = tls else {
        return Ok(Dialed {
            stream: tcp.into(),
            mtls: false,
            http2: false,
            generation: 0,
            local,
            link: Link::bare(Protection::Plain(Dialed::why(cluster, target))),
            peer,
        });
    };
    let identity = live.identity.as_ref().ok_or(Failure::NoIdentity)?;
    let client = identity
        .client(&tls.principals, speak)
        .map_err(|error| Failure::Tls(error.to_string()))?;
    let name = ServerName::try_from(tls.sni.clone())
        .unwrap_or_else(|_| ServerName::IpAddress(target.address.ip().into()));
    let handshake =
        TlsConnector::from(Arc::clone(&client)).connect(name, Raw::new(tcp, Buffer::default()));
    let stream = tokio::time::timeout(config.connect_timeout, handshake)
        .await
        .map_err(|_| Failure::Tls("no handshake in time".to_owned()))?
        .map_err(|error| Failure::Tls(tls::explain(&error)))?;
    let session = stream.get_ref().1;
    let agreed = session.alpn_protocol();
    Ok(Dialed {
        http2: matches!(agreed, Some(b"h2" | b"istio-h2")),
        link: super::tls::agreed(session, Protection::MutualTls),
        peer: proven(worker, cluster, target, session.peer_certificates()),
        stream: Stream::Client(Box::new(stream)),
        mtls: true,
        generation: identity.generation,
        local,
    })
}

/// The endpoint's workload, with the identity that it has shown.
fn proven(
    worker: &Worker,
    cluster: &ClusterTable,
    target: &Target<'_>,
    chain: Option<&[CertificateDer<'_>]>,
) -> PeerId {
    let id = chain.and_then(tls::peer_id).map(|id| id.to_string());
    let endpoint = target
        .entry
        .and_then(|entry| cluster.endpoints.endpoint(entry));
    let labels = match endpoint {
        Some(endpoint) => PeerLabels::new(&endpoint.workload, id.as_deref().unwrap_or_default()),
        None => PeerLabels {
            principal: id.unwrap_or_default(),
            ..PeerLabels::default()
        },
    };
    worker.shared.registry.peer(labels)
}
