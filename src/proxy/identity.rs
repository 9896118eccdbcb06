//! The proxy's own identity: asked for once with a join token, kept on disk, renewed at half of its
//! life, published to whoever opens or accepts connections.
//!
//! Owns *when* certificates are fetched and which roots are believed. The key is made here and never
//! leaves the machine. While the control plane is away the current certificate stays in use.

mod error;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tracing::{error, info, warn};

pub use error::IdentityError;

use super::believed::{self, Believed};
use super::control_link::{Caller, ControlStream};
use super::replicas::Replicas;
use crate::mesh::SpiffeId;
use crate::rt::{self, Backoff, Published, Reader, Tasks, UnixMillis, Wall};
use crate::tls::ca_api::{
    CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, WANTED_IDENTITY,
};
use crate::tls::{self, JoinToken, Material, Pin, Request, control_plane_id};

/// One request to the CA, from connecting to the answer, takes no longer.
const CALL: Duration = Duration::from_secs(10);
/// The longest sleep before the clock is looked at again, so that a suspended machine catches up.
const LOOK: Duration = Duration::from_secs(30);
/// Roots believed at once; a rotation needs two.
pub(super) const MOST_ROOTS: usize = 8;
/// When a root is replaced, everybody renews within this time.
const RENEWALS: Duration = Duration::from_secs(2);
/// Renewals are spread over this part of a life, so that a fleet does not come at once.
const JITTER: f64 = 0.01;

/// Where the token to join with is: a join token, or one of a cluster's service account.
#[derive(Clone)]
pub enum TokenSource {
    /// The token itself.
    Value(String),
    /// A file that holds it, read each time that it is needed.
    File(PathBuf),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("Value(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// What a proxy joins with. Not printed.
struct Token {
    text: String,
    /// SHA-256 of the mesh's root, where the token says it.
    root: Option<[u8; 32]>,
}

/// What an identity is made from.
#[derive(Debug, Clone)]
pub struct IdentityOptions {
    /// The control plane's TLS port (15012).
    pub control_plane: Replicas,
    /// The control plane's own identity; usually [`control_plane_id`] of the trust domain.
    pub server: SpiffeId,
    /// The identity that this proxy shall have.
    pub id: SpiffeId,
    /// For the first certificate; not needed while the stored one is good.
    pub token: Option<TokenSource>,
    /// How the mesh's root is known at first; by `root_file`, else by the token's fingerprint, when absent.
    pub pin: Option<Pin>,
    /// The mesh's roots as PEM, read each time that they are needed to join.
    pub root_file: Option<PathBuf>,
    /// The directory of the stored identity.
    pub dir: PathBuf,
    /// Life to ask for; zero leaves it to the CA.
    pub lifetime: Duration,
    /// The clock.
    pub wall: Wall,
    /// The roots to believe and what of them is revoked, as PEM, once the control plane has told them; `None` where nobody tells, and the
    /// CA's answers say it alone. The first is that of who signs: the certificate is renewed when it
    /// is of another.
    pub roots: Option<watch::Receiver<Option<believed::Texts>>>,
}

impl IdentityOptions {
    /// The usual options: identity `id` from the CA at `control_plane`, stored in `dir`.
    pub fn new(control_plane: impl Into<Replicas>, id: SpiffeId, dir: impl Into<PathBuf>) -> Self {
        Self {
            control_plane: control_plane.into(),
            server: control_plane_id(&id.trust_domain),
            id,
            token: None,
            pin: None,
            root_file: None,
            dir: dir.into(),
            lifetime: Duration::ZERO,
            wall: Wall::System,
            roots: None,
        }
    }
}

/// Gets, keeps, renews and publishes one identity.
#[derive(Debug)]
pub struct IdentityClient {
    options: IdentityOptions,
    published: Published<Option<Arc<Material>>>,
    /// When the published certificate was received, if that was in this process's life.
    received_ms: Option<UnixMillis>,
    /// The join that has not been answered: repeated with the same key, it costs no second use.
    joining: Option<Request>,
    /// Counts certificates of another root than the one before.
    proofs: watch::Sender<u64>,
}

impl IdentityClient {
    /// A client that has published nothing yet.
    pub fn new(options: IdentityOptions) -> Self {
        Self {
            options,
            published: Published::new(None),
            received_ms: None,
            joining: None,
            proofs: watch::Sender::new(0),
        }
    }

    /// The current identity, `None` before the first; changes with each renewal.
    pub fn reader(&self) -> Reader<Option<Arc<Material>>> {
        self.published.reader()
    }

    /// Changes when the identity is by another root than before.
    pub fn proofs(&self) -> watch::Receiver<u64> {
        self.proofs.subscribe()
    }

    /// Publishes the stored identity, or joins with the token: one attempt.
    pub async fn start(&mut self) -> Result<Arc<Material>, IdentityError> {
        let (dir, now) = (self.options.dir.clone(), self.options.wall.millis());
        let stored = Tasks::blocking(move || Material::load(&dir, now))
            .await
            .unwrap_or_else(|| {
                Err(tls::Error::Pem {
                    what: "reading the stored identity failed".to_owned(),
                })
            });
        let unusable = match stored {
            Ok(material) if material.id != self.options.id => {
                return Err(IdentityError::OtherIdentity {
                    wanted: Box::new(self.options.id.clone()),
                    found: Box::new(material.id),
                    whence: format!("the certificate in {}", self.options.dir.display()),
                });
            }
            Ok(material) => match self.foreign_to_pin(&material) {
                None => {
                    let material = Arc::new(material);
                    self.published.publish(Some(Arc::clone(&material)));
                    return Ok(material);
                }
                Some(why) => why,
            },
            Err(why) => why,
        };
        if self.options.token.is_none() {
            return Err(IdentityError::NoToken {
                id: self.options.id.clone(),
                stored: Box::new(unusable),
            });
        }
        if !matches!(unusable, tls::Error::Missing { .. }) {
            warn!(error = %unusable, "the stored identity cannot be used; joining again");
        }
        self.join().await
    }

    /// Why a stored identity is of another mesh than the options pin, such as one from before a
    /// reinstall. A token that is gone or broken matters only once it is needed.
    fn foreign_to_pin(&self, stored: &Material) -> Option<tls::Error> {
        let from_token = || self.token().ok()?.root.map(Pin::Fingerprint);
        let pin = self.pin().ok()?.or_else(from_token)?;
        let former = believed::former(&self.options.dir);
        let mut roots = stored.roots.iter().chain(&former);
        let known = roots.any(|root| pins(&pin, root));
        (!known).then(|| tls::Error::Foreign {
            id: stored.id.clone(),
            reason: "its root is not the pinned one".to_owned(),
        })
    }

    /// Runs until dropped: gets an identity if there is none, then renews it again and again.
    pub async fn run(mut self) {
        let mut news = self.options.roots.clone();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        while self.published.load().is_none() {
            if let Err(error) = self.start().await {
                tell(&error, "no identity yet; trying again");
                tokio::time::sleep(backoff.next(fastrand::f64())).await;
            }
        }
        loop {
            let Some(current) = self.published.load().as_ref().clone() else {
                return;
            };
            let told = tokio::select! {
                () = self.wait_for_renewal(&current) => None,
                roots = believed::told(&mut news) => Some(roots),
            };
            let current = match told {
                None => current,
                Some(roots) => match self.believe(&current, roots).await {
                    Some(to_renew) => to_renew,
                    None => continue,
                },
            };
            let life = current.not_after.saturating_sub(self.begin(&current));
            let longest = Duration::from_millis(life / 20)
                .clamp(Duration::from_millis(200), Duration::from_mins(1));
            let mut backoff = Backoff::new(Duration::from_millis(200), longest);
            while let Err(error) = self.renew(&current).await {
                if self.options.wall.millis() < current.not_after {
                    tell(
                        &error,
                        "cannot renew the certificate; keeping the current one",
                    );
                } else {
                    error!(%error, id = %current.id, "the certificate has expired and cannot be renewed; join again with a new token");
                }
                tokio::time::sleep(backoff.next(fastrand::f64())).await;
            }
        }
    }

    /// Where the life of `material` begins for renewal: a certificate is dated back for clocks that
    /// are behind, which would make half of a short life lie in the past.
    fn begin(&self, material: &Material) -> UnixMillis {
        let skew = u64::try_from(tls::issuer::CLOCK_SKEW.as_millis()).unwrap_or(0);
        self.received_ms
            .unwrap_or_else(|| material.not_before.saturating_add(skew))
            .clamp(material.not_before, material.not_after)
    }

    async fn wait_for_renewal(&self, material: &Material) {
        let at = renewal_at(self.begin(material), material.not_after, fastrand::f64());
        loop {
            let left = at.saturating_sub(self.options.wall.millis());
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left).min(LOOK)).await;
        }
    }

    /// Goes by these roots and what of them is revoked from now on. Gives what to renew by, where they say that the certificate is of a root
    /// that signs no more.
    async fn believe(
        &mut self,
        current: &Arc<Material>,
        (roots, revoked): Believed,
    ) -> Option<Arc<Material>> {
        let mut next = Material::clone(current);
        next.roots = roots;
        next.revoked = revoked;
        let is_signed = next.is_of_first_root();
        if let Err(error) = next.check(self.options.wall.millis()) {
            // Such as after a long sleep. The control plane may be of either.
            warn!(%error, "the certificate is of no root that the mesh believes; renewing it");
            next.roots.extend(current.roots.iter().cloned());
            return Some(Arc::new(next));
        }
        if next.roots != current.roots || next.revoked != current.revoked {
            let next = Arc::new(next);
            info!(
                roots = next.roots.len(),
                "the mesh believes other roots, or has revoked certificates"
            );
            self.published.publish(Some(Arc::clone(&next)));
            let (before, after) = (Arc::clone(current), Arc::clone(&next));
            let dir = self.options.dir.clone();
            let kept = Tasks::blocking(move || {
                believed::remember(&dir, &before.roots, &after.roots)?;
                after.store(&dir).map(drop)
            });
            match kept.await {
                Some(Ok(())) => {}
                Some(Err(error)) => warn!(%error, "cannot store the mesh's roots"),
                None => warn!("cannot store the mesh's roots"),
            }
        }
        if is_signed {
            return None;
        }
        tokio::time::sleep(RENEWALS.mul_f64(fastrand::f64())).await;
        self.published.load().as_ref().clone()
    }

    /// The next certificate, proven by the current one; by a token when that has expired.
    async fn renew(&mut self, current: &Material) -> Result<(), IdentityError> {
        // Expired, or revoked.
        let is_over = current.check(self.options.wall.millis()).is_err();
        if is_over && self.options.token.is_some() {
            return self.join().await.map(drop);
        }
        let request = Request::new(&self.options.id)?;
        let stream = self.dial(Caller::Member(current)).await?;
        let chain = self.ask(stream, &request, None).await?;
        // The server has proven itself under a root that is believed, and so may announce another.
        let material = request.material(&chain, &self.still_valid(&current.roots))?;
        self.accept(material).await.map(drop)
    }

    async fn join(&mut self) -> Result<Arc<Material>, IdentityError> {
        let token = self.token()?;
        let pin = match (self.pin()?, token.root) {
            (Some(pin), _) => pin,
            (None, Some(root)) => Pin::Fingerprint(root),
            (None, None) => return Err(IdentityError::NoPin),
        };
        let request = match self.joining.take() {
            Some(request) => request,
            None => Request::new(&self.options.id)?,
        };
        let stream = self.dial(Caller::Newcomer(&pin)).await;
        let answer = match stream {
            Ok(stream) => self.ask(stream, &request, Some(&token.text)).await,
            Err(error) => Err(error),
        };
        let chain = match answer {
            Ok(chain) => chain,
            Err(error) => {
                if error.is_transient() {
                    self.joining = Some(request);
                }
                return Err(error);
            }
        };
        let known = match &pin {
            Pin::Roots(roots) => self.still_valid(roots),
            Pin::Fingerprint(_) => Vec::new(),
        };
        let material = request.material(&chain, &known)?;
        if let Some(root) = material.roots.first().filter(|root| !pins(&pin, root)) {
            return Err(IdentityError::Root {
                found: tls::fingerprint(root),
            });
        }
        self.accept(material).await
    }

    /// Checks what the CA gave, publishes it and writes it to disk.
    async fn accept(&mut self, mut material: Material) -> Result<Arc<Material>, IdentityError> {
        if material.id != self.options.id {
            return Err(IdentityError::OtherIdentity {
                wanted: Box::new(self.options.id.clone()),
                found: Box::new(material.id),
                whence: "the certificate from the control plane".to_owned(),
            });
        }
        if let Some((told, revoked)) = believed::latest(self.options.roots.as_ref())
            && material.roots.first().is_some_and(|own| told.contains(own))
        {
            material.roots = told;
            material.revoked = revoked;
        }
        material.roots.truncate(MOST_ROOTS);
        let now = self.options.wall.millis();
        material.check(now)?;
        let material = Arc::new(material);
        let (copy, dir) = (Arc::clone(&material), self.options.dir.clone());
        // A full disk must not stop traffic: the identity works, only a restart would miss it.
        match Tasks::blocking(move || copy.store(&dir)).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => warn!(%error, "cannot store the new certificate"),
            None => warn!("cannot store the new certificate"),
        }
        self.received_ms = Some(now);
        let before = self.published.load();
        let before = before.as_ref().as_ref().and_then(|before| before.issuer());
        if before.is_some() && before != material.issuer() {
            self.proofs.send_modify(|proofs| *proofs += 1);
        }
        self.published.publish(Some(Arc::clone(&material)));
        info!(id = %material.id, not_after_ms = material.not_after, "new certificate");
        Ok(material)
    }

    fn token(&self) -> Result<Token, IdentityError> {
        let text = match &self.options.token {
            Some(TokenSource::Value(text)) => text.clone(),
            Some(TokenSource::File(path)) => {
                std::fs::read_to_string(path).map_err(|source| IdentityError::TokenFile {
                    path: path.clone(),
                    source,
                })?
            }
            None => String::new(),
        };
        let text = text.trim().to_owned();
        // A service account's token is judged by its cluster alone.
        let root = if text.contains('.') {
            None
        } else {
            text.parse::<JoinToken>()?.root
        };
        Ok(Token { text, root })
    }

    fn pin(&self) -> Result<Option<Pin>, IdentityError> {
        let (None, Some(path)) = (&self.options.pin, &self.options.root_file) else {
            return Ok(self.options.pin.clone());
        };
        let wrong = |source| IdentityError::RootFile {
            path: path.clone(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(wrong)?;
        let roots =
            tls::material::certificates(&text).map_err(|error| wrong(io::Error::other(error)))?;
        if roots.is_empty() {
            return Err(wrong(io::Error::other("there is no certificate in it")));
        }
        Ok(Some(Pin::Roots(roots)))
    }

    fn still_valid(&self, roots: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
        let now = self.options.wall.millis();
        roots
            .iter()
            .filter(|root| tls::material::validity(root).is_ok_and(|(_, end)| now < end))
            .cloned()
            .collect()
    }

    async fn dial(&self, caller: Caller<'_>) -> Result<ControlStream, IdentityError> {
        let newcomer = matches!(caller, Caller::Newcomer(_));
        let to = &self.options.control_plane;
        let connecting = to.connect(&self.options.server, caller);
        match tokio::time::timeout(CALL, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if newcomer && tls::is_stranger(&error) => {
                Err(IdentityError::Stranger {
                    address: self.options.control_plane.to_string(),
                    reason: tls::explain(&error),
                })
            }
            Ok(Err(error)) => Err(self.unreachable(tls::explain(&error))),
            Err(_) => Err(self.unreachable("no answer in 10 s".to_owned())),
        }
    }

    /// Sends `request` over `stream` and gives the PEM chain.
    async fn ask(
        &self,
        stream: ControlStream,
        request: &Request,
        token: Option<&str>,
    ) -> Result<Vec<String>, IdentityError> {
        let call = create_certificate(stream, &self.options, request, token);
        match tokio::time::timeout(CALL, call).await {
            Err(_) => Err(self.unreachable("no answer in 10 s".to_owned())),
            Ok(Ok(chain)) => Ok(chain),
            Ok(Err(status)) => Err(match status.code() {
                Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
                    IdentityError::Refused {
                        id: self.options.id.clone(),
                        reason: status.message().to_owned(),
                    }
                }
                _ => self.unreachable(rt::chain(&status)),
            }),
        }
    }

    fn unreachable(&self, reason: String) -> IdentityError {
        IdentityError::Unreachable {
            address: self.options.control_plane.to_string(),
            reason,
        }
    }
}

async fn create_certificate(
    stream: ControlStream,
    options: &IdentityOptions,
    request: &Request,
    token: Option<&str>,
) -> Result<Vec<String>, Status> {
    let internal =
        |error: &(dyn std::error::Error + 'static)| Status::unavailable(rt::chain(error));
    // The connection is made and verified already: the channel gets this one and no other.
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = Endpoint::from_static("http://control-plane")
        .connect_with_connector(connector)
        .await
        .map_err(|error| internal(&error))?;
    let mut message = tonic::Request::new(CertificateRequest {
        csr: request.pem().to_owned(),
        validity_duration: i64::try_from(options.lifetime.as_secs()).unwrap_or(i64::MAX),
        metadata: None,
    });
    let ascii = |text: String| {
        AsciiMetadataValue::try_from(text).map_err(|_| Status::invalid_argument("not ASCII"))
    };
    message
        .metadata_mut()
        .insert(WANTED_IDENTITY, ascii(options.id.to_string())?);
    if let Some(token) = token {
        let mut bearer = ascii(format!("Bearer {token}"))?;
        bearer.set_sensitive(true);
        message.metadata_mut().insert("authorization", bearer);
    }
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| internal(&error))?;
    let codec = tonic_prost::ProstCodec::default();
    let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
    let answer: tonic::Response<CertificateResponse> = grpc.unary(message, path, codec).await?;
    Ok(answer.into_inner().cert_chain)
}

/// When to renew a certificate that lives from `begin` to `end`: at half of its life, give or take
/// one percent. `chance` is uniform in 0..1.
fn renewal_at(begin: UnixMillis, end: UnixMillis, chance: f64) -> UnixMillis {
    let life = Duration::from_millis(end.saturating_sub(begin));
    let share = 0.5 + (chance.clamp(0.0, 1.0) * 2.0 - 1.0) * JITTER;
    begin.saturating_add(u64::try_from(life.mul_f64(share).as_millis()).unwrap_or(0))
}

fn pins(pin: &Pin, root: &CertificateDer<'_>) -> bool {
    match pin {
        Pin::Roots(roots) => roots.iter().any(|known| known == root),
        Pin::Fingerprint(expected) => tls::sha256(root) == *expected,
    }
}

fn tell(error: &IdentityError, what: &'static str) {
    let error_words = rt::chain(error);
    if let Some(hint) = error.hint() {
        warn!(error = %error_words, hint, "{what}");
    } else {
        warn!(error = %error_words, "{what}");
    }
}

#[cfg(test)]
mod tests;
