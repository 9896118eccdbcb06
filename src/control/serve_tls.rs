//! The control plane's TLS port (15012): proves who calls, for the CA and for ADS.
//!
//! Owns the handshake, the control plane's own certificate and its renewal. A client certificate is
//! optional here, because a joiner has only a token; what a caller without one may do is decided by
//! each service, which finds a [`PeerIdentity`] in the extensions of every request.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

use super::signer::{Issuer, SignError};
use crate::mesh::SpiffeId;
use crate::rt::disk::private_dir;
use crate::rt::{Backoff, Published, Reader, Tasks, Wall, usage};
use crate::tls::{self, Material};

/// Names in the control plane's certificate besides its SPIFFE id, for clients that check those.
pub const SERVER_NAMES: &[&str] = &[
    "localhost",
    "meshctl.meshctl-system.svc",
    "istiod.istio-system.svc",
];
/// A caller that does not finish its handshake in this time is dropped.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once; beyond that, callers wait in the kernel's queue.
const MOST_HANDSHAKES: usize = 256;
/// Connections at once, where the process may open as many files.
const MOST_CONNECTIONS: usize = 20_000;
/// Of those, connections on which no certificate was shown.
const MOST_STRANGERS: usize = 256;
/// Finished connections that wait to be served.
const READY: usize = 64;
/// A joiner asks the CA once and comes back with its certificate; who stays without one only takes a place.
pub const STRANGERS: Duration = Duration::from_mins(1);
/// How often the certificate is looked at: also after a suspended machine wakes up.
const LOOK: Duration = Duration::from_secs(30);

/// What a connection's other end has proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who it is; `None` when it showed no certificate.
    pub id: Option<SpiffeId>,
    /// The certificates that it showed, its own first.
    pub chain: Arc<[CertificateDer<'static>]>,
}

impl PeerIdentity {
    /// Of who has shown `chain` in a handshake that verified it.
    pub fn of(chain: Option<&[CertificateDer<'static>]>) -> Self {
        let chain = chain.unwrap_or_default();
        Self {
            id: tls::peer_id(chain),
            chain: chain.into(),
        }
    }
}

/// The authority that signs now, with all roots that are believed.
pub type AuthorityFn = Arc<dyn Fn() -> Arc<tls::Authority> + Send + Sync>;

/// Whether the certificate of this [`tls::key_of`] is revoked.
pub type RevokedFn = Arc<dyn Fn(u64) -> bool + Send + Sync>;

/// How the port is served.
#[derive(Clone)]
pub struct TlsOptions {
    /// Signs the control plane's own certificate.
    pub issuer: Issuer,
    /// Where that is kept for a start while an outside signer is away.
    pub keep: Option<PathBuf>,
    /// Ends connections that are open.
    pub revoked: RevokedFn,
    /// Changes with the authority.
    pub changed: watch::Receiver<u64>,
    /// Life of that certificate.
    pub lifetime: Duration,
    /// What it names besides [`SERVER_NAMES`] and loopback, for clients that check names.
    pub names: ServerNames,
    /// Protocols that are spoken, as ALPN names.
    pub alpn: &'static [&'static str],
    /// How long a connection may last on which no certificate was shown.
    pub strangers: Duration,
    /// The clock.
    pub wall: Wall,
}

/// Names of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// By DNS.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// A connection whose handshake is done.
pub struct ControlConnection {
    io: TlsStream<TcpStream>,
    peer: PeerIdentity,
    /// What its caller's certificate is looked up by.
    key: u64,
    revoked: RevokedFn,
    /// Its place among all connections, and among those of strangers.
    _places: (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>),
    /// The end of a connection on which no certificate was shown.
    end: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl fmt::Debug for ControlConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlConnection")
            .field("peer", &self.peer.id)
            .finish_non_exhaustive()
    }
}

impl ControlConnection {
    /// What its other end has proven.
    pub(super) fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// Fails once the caller's certificate is revoked, whatever it was let in with.
    fn check(&self) -> io::Result<()> {
        if self.key != 0 && (self.revoked)(self.key) {
            let reason = "the caller's certificate has been revoked";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        Ok(())
    }
}

/// Connections of the port, for `tonic`'s `serve_with_incoming`. Ends with `tasks`.
pub type Incoming = ReceiverStream<io::Result<ControlConnection>>;

/// Starts accepting on `listener`; fails only when the first certificate cannot be made.
pub async fn incoming(
    listener: TcpListener,
    options: TlsOptions,
    tasks: &Tasks,
) -> Result<Incoming, SignError> {
    let (revoked, strangers) = (Arc::clone(&options.revoked), options.strangers);
    let reader = certificates(options, tasks).await?;
    let (ready, connections) = mpsc::channel(READY);
    tasks.spawn(
        "control-accept",
        accept(listener, (reader, revoked, strangers), ready, tasks.clone()),
    );
    Ok(ReceiverStream::new(connections))
}

/// What a port is served with, renewed until `tasks` end; fails only when the first certificate cannot be made.
pub(super) async fn certificates(
    options: TlsOptions,
    tasks: &Tasks,
) -> Result<Reader<Arc<ServerConfig>>, SignError> {
    let made = match (made(&options).await, kept(&options).await) {
        // Whatever the signer does, what was good is good until it ends.
        (Err(error), Some(kept)) if options.issuer.signer().is_some() => {
            warn!(%error, "serving with the control plane's last certificate");
            kept
        }
        (made, _) => made?,
    };
    let (first, certificate) = certify(&options, made)?;
    let published = Published::new(first);
    let reader = published.reader();
    tasks.spawn(
        "control-certificate",
        keep_fresh(options, certificate, published),
    );
    Ok(reader)
}

/// What is served now, and until when.
struct Certificate {
    material: Material,
    renew_at_ms: u64,
}

/// The control plane's certificate, of whoever signs.
async fn made(options: &TlsOptions) -> Result<Material, SignError> {
    let local = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let ips: Vec<IpAddr> = local.iter().chain(&options.names.ips).copied().collect();
    let own = SERVER_NAMES.iter().map(|name| (*name).to_owned());
    let dns: Vec<String> = own.chain(options.names.dns.iter().cloned()).collect();
    let material = options
        .issuer
        .server((&dns, &ips), options.lifetime)
        .await?;
    if let Some(dir) = options.keep.clone() {
        let copy = material.clone();
        let stored = Tasks::blocking(move || private_dir(&dir).is_ok() && copy.store(&dir).is_ok());
        if stored.await != Some(true) {
            warn!("cannot keep the control plane's certificate for a start without the signer");
        }
    }
    Ok(material)
}

/// The one of an earlier run, where it is still good for the roots that are believed now.
async fn kept(options: &TlsOptions) -> Option<Material> {
    let (dir, now) = (options.keep.clone()?, options.wall.millis());
    let kept = Tasks::blocking(move || Material::load(&dir, now))
        .await?
        .ok()?;
    let authority = options.issuer.authority();
    let kept = believing(kept, &authority);
    let own = kept.id == tls::control_plane_id(authority.trust_domain());
    (own && kept.check(now).is_ok()).then_some(kept)
}

fn believing(mut material: Material, authority: &tls::Authority) -> Material {
    material.roots = authority.roots();
    material.revoked = authority.revoked().clone();
    material
}

fn certify(
    options: &TlsOptions,
    material: Material,
) -> Result<(Arc<ServerConfig>, Certificate), tls::Error> {
    let now = options.wall.millis();
    let config = tls::server_config_optional_client(&material, options.alpn)?;
    let certificate = Certificate {
        renew_at_ms: now + material.not_after.saturating_sub(now) / 2,
        material,
    };
    Ok((config, certificate))
}

/// Replaces the certificate at half of its life, and at once when the authority changes.
async fn keep_fresh(
    mut options: TlsOptions,
    mut current: Certificate,
    published: Published<Arc<ServerConfig>>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), LOOK);
    loop {
        let left = current.renew_at_ms.saturating_sub(options.wall.millis());
        let wait = match backoff.attempts() {
            0 => Duration::from_millis(left).clamp(Duration::from_millis(100), LOOK),
            _ => backoff.next(fastrand::f64()),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = options.changed.changed() => {}
        }
        let now = options.wall.millis();
        let due = now >= current.renew_at_ms;
        let authority = options.issuer.authority();
        let material = &current.material;
        let same = authority.roots() == material.roots && *authority.revoked() == material.revoked;
        if !due && same {
            continue;
        }
        if !same && options.issuer.signer().is_some() {
            // Who is believed must not wait for a signer.
            let next = believing(material.clone(), &authority);
            let good = next.check(now).is_ok();
            match certify(&options, next) {
                Ok((config, certificate)) if good => {
                    let renew_at_ms = current.renew_at_ms;
                    published.publish(config);
                    current = Certificate {
                        renew_at_ms,
                        ..certificate
                    };
                    if !due {
                        continue;
                    }
                }
                _ => {}
            }
        }
        let next = made(&options).await;
        match next.and_then(|next| Ok(certify(&options, next)?)) {
            Ok((config, certificate)) => {
                published.publish(config);
                current = certificate;
                backoff.reset();
                info!("renewed the control plane's certificate");
            }
            Err(error) => {
                if backoff.attempts() == 0 {
                    backoff.next(1.0);
                }
                warn!(%error, "cannot renew the control plane's certificate; trying again");
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    (config, revoked, strangers): (Reader<Arc<ServerConfig>>, RevokedFn, Duration),
    ready: mpsc::Sender<io::Result<ControlConnection>>,
    tasks: Tasks,
) {
    let handshakes = Arc::new(Semaphore::new(MOST_HANDSHAKES));
    let (all, strangers_of) = places(usage::most_files());
    let all = Arc::new(Semaphore::new(all));
    let unnamed = Arc::new(Semaphore::new(strangers_of));
    loop {
        // Who comes when all places are taken waits in the kernel's queue.
        let Ok(place) = Arc::clone(&all).acquire_owned().await else {
            return;
        };
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let (tcp, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly out of file descriptors; a tight loop would not help anybody.
                warn!(%error, "cannot accept on the control port");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(Arc::<ServerConfig>::clone(&config.load()));
        let (ready, revoked) = (ready.clone(), Arc::clone(&revoked));
        let unnamed = Arc::clone(&unnamed);
        tasks.spawn("control-handshake", async move {
            let _permit = permit;
            let shaken = tokio::time::timeout(HANDSHAKE, handshake(acceptor, tcp, (revoked, strangers), Some((place, unnamed)))).await;
            match shaken {
                Ok(Ok(connection)) => {
                    if ready.send(Ok(connection)).await.is_err() {
                        debug!("the control port is closing");
                    }
                }
                Ok(Err(error)) => debug!(%from, reason = tls::explain(&error), "refused a connection to the control port"),
                Err(_) => debug!(%from, "a caller did not finish its handshake"),
            }
        });
    }
}

/// How many connections there may be, and how many without a certificate, in a process that may open so many
/// files: half of them, as the store, the API and the other ports need some.
fn places(files: Option<u64>) -> (usize, usize) {
    let half = files.and_then(|files| usize::try_from(files / 2).ok());
    let all = half.unwrap_or(MOST_CONNECTIONS).clamp(8, MOST_CONNECTIONS);
    (all, (all / 4).clamp(4, MOST_STRANGERS))
}

/// Proves who calls, or that nobody says so. `places` are its own and those of strangers, where they are counted.
pub(super) async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    (revoked, strangers): (RevokedFn, Duration),
    places: Option<(OwnedSemaphorePermit, Arc<Semaphore>)>,
) -> io::Result<ControlConnection> {
    tcp.set_nodelay(true)?;
    let io = acceptor.accept(tcp).await?;
    let peer = PeerIdentity::of(io.get_ref().1.peer_certificates());
    let stranger = match (&places, &peer.id) {
        // Members' places are not for strangers to take.
        (Some((_, unnamed)), None) => {
            let place = Arc::clone(unnamed).try_acquire_owned();
            Some(place.map_err(|_| {
                let reason = "too many connections without a certificate";
                io::Error::new(io::ErrorKind::QuotaExceeded, reason)
            })?)
        }
        _ => None,
    };
    Ok(ControlConnection {
        _places: (places.map(|(place, _)| place), stranger),
        io,
        end: peer
            .id
            .is_none()
            .then(|| Box::pin(tokio::time::sleep(strangers))),
        key: peer.chain.first().map_or(0, tls::key_of),
        peer,
        revoked,
    })
}

impl Connected for ControlConnection {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.peer.clone()
    }
}

impl AsyncRead for ControlConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            let reason = "no certificate was shown, and the time to ask for one is over";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for ControlConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_go_by_what_the_process_may_open() {
        assert_eq!(places(Some(1024)), (512, 128));
        assert_eq!(places(Some(1 << 20)), (MOST_CONNECTIONS, MOST_STRANGERS));
        assert_eq!(places(None), (MOST_CONNECTIONS, MOST_STRANGERS));
        assert_eq!(places(Some(0)), (8, 4));
    }
}
