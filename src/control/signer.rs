//! Who signs: the authority whose key this control plane keeps, or a signer elsewhere that speaks Istio's CA API.
//!
//! Owns how the signer is asked. Callers are attested here; the signer is told whom a certificate is for
//! (`ImpersonatedIdentity`, as Istio's agents tell their CA), and [`tls::answer`] holds its answer against that. A
//! signer that does not answer is left alone for a while that grows ([`standing`]), and callers are told at once
//! meanwhile.

mod standing;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use envoy_types::pb::google::protobuf::{Struct, Value, value};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use self::standing::Standing;
use super::serve_tls::{AuthorityFn, ServerNames};
use crate::mesh::SpiffeId;
use crate::mesh::origination::{NameMatch, Named};
use crate::net::{ConnectOptions, connect_any};
use crate::rt::{self, Tasks, Wall};
use crate::tls::answer::{self, Answer, Asked, Unfit};
use crate::tls::ca_api::{
    CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, IMPERSONATED_IDENTITY,
};
use crate::tls::outside::{Anchors, Believes, outside_config};
use crate::tls::{self, Issued, Material, Request};

/// One request, from waiting for a place to the answer. Proxies wait 10 s for theirs.
const CALL: Duration = Duration::from_secs(8);
/// Requests at once, and those that wait besides.
const MOST_AT_ONCE: usize = 16;
const MOST_WAITING: usize = 256;
/// An answer is a few certificates; more is not read.
const MOST_ANSWER_BYTES: usize = 64 << 10;
/// What of a token is long enough to be told from other words.
const SHORTEST_SECRET: usize = 8;
/// Longer words of the signer are cut.
const MOST_WORDS: usize = 200;

/// Where the signer is, and how the two know each other. Files are read for each request, so they may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerOptions {
    /// Its host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// PEM of the mesh's roots: what it signs and what it shows lead to one of them. The first is whose it is now.
    pub roots: PathBuf,
    /// PEM of its lists of what is revoked.
    pub lists: Option<PathBuf>,
    /// A token that it is shown.
    pub token: Option<PathBuf>,
    /// The certificate that it is shown, and its key.
    pub shows: Option<(PathBuf, PathBuf)>,
    /// What its certificate names, when that is not the host: a DNS name or a SPIFFE id.
    pub name: Option<String>,
}

impl fmt::Display for SignerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = self.host.contains(':');
        if colon {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum SignError {
    /// The authority here cannot make it.
    #[error(transparent)]
    Own(#[from] tls::Error),
    /// The signer does not answer, or was left alone as it did not a moment ago.
    #[error("the signer {signer} does not answer: {reason}")]
    Away {
        /// Which.
        signer: String,
        /// Why.
        reason: String,
    },
    /// It answered that it will not.
    #[error("the signer {signer} refused: {reason}")]
    Refused {
        /// Which.
        signer: String,
        /// Its words, cut.
        reason: String,
    },
    /// Its answer is not handed out.
    #[error("the answer of the signer {signer} is refused: {reason}")]
    Unfit {
        /// Which.
        signer: String,
        /// Why.
        reason: Unfit,
    },
}

impl SignError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Own(error) => error.hint(),
            Self::Refused { .. } => Some(
                "let this control plane ask for others: `meshctl control-plane --ca-trusted-account NAMESPACE/ACCOUNT` at the signer, CA_TRUSTED_NODE_ACCOUNTS at istiod",
            ),
            Self::Away { .. } => Some(
                "see whether the signer runs, and whether --ca-signer-root, --ca-signer-name and what it is shown are right",
            ),
            Self::Unfit { .. } => {
                Some("nothing of it was handed out; look at how the signer is set up")
            }
        }
    }

    /// What a caller of the certificate service is told: nothing of the signer, whose words are in the audit log.
    pub fn status(&self) -> Status {
        match self {
            Self::Own(error @ tls::Error::Request { .. }) => {
                Status::invalid_argument(error.to_string())
            }
            Self::Own(error) => Status::internal(error.to_string()),
            Self::Away { .. } => Status::unavailable(
                "the mesh's signer does not answer; try again, the present certificate stays good",
            ),
            Self::Refused { .. } | Self::Unfit { .. } => Status::internal(
                "the mesh's signer gave no certificate that can be handed out; `meshctl identity audit` says why",
            ),
        }
    }
}

/// A signer elsewhere.
pub struct Signer {
    options: SignerOptions,
    waiting: Semaphore,
    places: Semaphore,
    standing: Mutex<Standing>,
    /// Requests by their end.
    requests: Family<Vec<(&'static str, &'static str)>, Counter>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer")
            .field(&self.options.to_string())
            .finish()
    }
}

type Stream = TlsStream<TcpStream>;

impl Signer {
    /// Asks nothing yet.
    pub fn new(options: SignerOptions) -> Self {
        Self {
            options,
            waiting: Semaphore::new(MOST_WAITING),
            places: Semaphore::new(MOST_AT_ONCE),
            standing: Mutex::new(Standing::new()),
            requests: Family::default(),
        }
    }

    /// Its address, as it was given.
    pub fn name(&self) -> String {
        self.options.to_string()
    }

    /// The counter, for the page of metrics.
    pub(super) fn requests(&self) -> Family<Vec<(&'static str, &'static str)>, Counter> {
        self.requests.clone()
    }

    /// When what it is shown, and what it is believed by, was last written: a change is a reason to ask again. Blocks on
    /// the disk.
    pub fn stamps(&self) -> Vec<Option<SystemTime>> {
        let options = &self.options;
        let shows = options.shows.iter().flat_map(|(chain, key)| [chain, key]);
        let files = shows.chain(&options.token).chain([&options.roots]);
        let written = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified());
        files.map(|path| written(path).ok()).collect()
    }

    /// Whether it can be reached and proves who it is; why not.
    pub async fn reach(&self) -> Result<(), String> {
        match tokio::time::timeout(CALL, self.connect()).await {
            Ok(reached) => reached.map(drop),
            Err(_) => Err("no answer in 8 s".to_owned()),
        }
    }

    /// Has the key of `asked` certified, and judges what comes.
    async fn sign(
        &self,
        asked: &Asked<'_>,
        authority: &tls::Authority,
        wall: &Wall,
    ) -> Result<Answer, SignError> {
        let result = self.answer(asked, authority, wall).await;
        let end = match &result {
            Ok(_) => "issued",
            Err(SignError::Away { .. }) => "away",
            Err(SignError::Refused { .. }) => "refused",
            Err(_) => "unfit",
        };
        self.requests.get_or_create(&vec![("result", end)]).inc();
        if let Err(error) = &result {
            tracing::warn!(%error, id = %asked.id, "no certificate from the signer");
        }
        result
    }

    async fn answer(
        &self,
        asked: &Asked<'_>,
        authority: &tls::Authority,
        wall: &Wall,
    ) -> Result<Answer, SignError> {
        let asking = self.standing().ask(rt::now(), CALL);
        let asking = asking.map_err(|reason| self.away(reason))?;
        let _waiting = self
            .waiting
            .try_acquire()
            .map_err(|_| self.away("too many requests wait for it".to_owned()))?;
        let call = async {
            // Never closed.
            let _place = self.places.acquire().await;
            self.standing().still(asking).map_err(Status::unavailable)?;
            let stream = self.connect().await.map_err(Status::unavailable)?;
            self.call(stream, asked).await
        };
        let called = tokio::time::timeout(CALL, call).await;
        let called = called.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in 8 s")));
        let texts = match called {
            Ok(texts) => texts,
            Err(status) => {
                let reason = words(&rt::chain(&status));
                return Err(match status.code() {
                    Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Unknown
                    | Code::Cancelled
                    // It asks to be left alone for a while.
                    | Code::ResourceExhausted => {
                        let (now, chance) = (rt::now(), fastrand::f64());
                        self.standing().failed(asking, &reason, now, chance);
                        self.away(reason)
                    }
                    code => {
                        self.standing().answered();
                        let reason = format!("{code:?}: {}", words(status.message()));
                        SignError::Refused {
                            signer: self.name(),
                            reason,
                        }
                    }
                });
            }
        };
        self.standing().answered();
        let roots = authority.roots();
        let judged = Answer::judge(&texts, asked, (&roots, authority.revoked()), wall.millis());
        judged.map_err(|reason| SignError::Unfit {
            signer: self.name(),
            reason,
        })
    }

    async fn connect(&self) -> Result<Stream, String> {
        let text = |path: &PathBuf| {
            let path = path.clone();
            async move {
                let read = path.clone();
                let read = Tasks::blocking(move || std::fs::read_to_string(read)).await;
                let read =
                    read.unwrap_or_else(|| Err(io::Error::other("the control plane is stopping")));
                read.map(Zeroizing::new)
                    .map_err(|error| format!("{}: {error}", path.display()))
            }
        };
        let options = &self.options;
        let anchors =
            Anchors::read(&text(&options.roots).await?).map_err(|error| error.to_string())?;
        let shows = match &options.shows {
            Some((chain, key)) => Some((text(chain).await?, text(key).await?)),
            None => None,
        };
        let host = options.host.as_str();
        let name = options.name.as_deref().unwrap_or(host).to_owned();
        let believes = Believes {
            anchors,
            revoked: None,
            names: Named::Any(vec![NameMatch::Exact(name.clone())]),
        };
        let shows = shows
            .as_ref()
            .map(|(chain, key)| (chain.as_str(), key.as_str()));
        let config =
            outside_config(Some(believes), shows, &["h2"]).map_err(|error| rt::chain(&error))?;
        let asked = ServerName::try_from(name)
            .or_else(|_| ServerName::try_from(host.to_owned()))
            .map_err(|error| error.to_string())?;
        let found = tokio::net::lookup_host((host, options.port)).await;
        let found: Vec<_> = found.map_err(|error| error.to_string())?.collect();
        let tcp = connect_any(&found, ConnectOptions::default()).await;
        let tcp = tcp.map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(config).connect(asked, tcp).await;
        stream.map_err(|error| tls::outside::explain_outside(&error))
    }

    async fn call(&self, stream: Stream, asked: &Asked<'_>) -> Result<Vec<String>, Status> {
        let away =
            |error: &(dyn std::error::Error + 'static)| Status::unavailable(rt::chain(error));
        // The connection is made and verified already: the channel gets this one and no other.
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        });
        let channel = Endpoint::from_static("http://signer")
            .connect_with_connector(connector)
            .await
            .map_err(|error| away(&error))?;
        let id = Value {
            kind: Some(value::Kind::StringValue(asked.id.to_string())),
        };
        let mut message = tonic::Request::new(CertificateRequest {
            csr: asked.csr.to_owned(),
            validity_duration: i64::try_from(asked.lifetime.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(Struct {
                fields: std::iter::once((IMPERSONATED_IDENTITY.to_owned(), id)).collect(),
            }),
        });
        let mut token = Zeroizing::new(String::new());
        if let Some(path) = self.options.token.clone() {
            let read =
                Tasks::blocking(move || std::fs::read_to_string(path).map(Zeroizing::new)).await;
            token = read
                .and_then(Result::ok)
                .ok_or_else(|| Status::unavailable("the token for the signer cannot be read"))?;
            let bearer = Zeroizing::new(format!("Bearer {}", token.trim()));
            let mut bearer = AsciiMetadataValue::try_from(bearer.as_str())
                .map_err(|_| Status::unavailable("the token for the signer is not ASCII"))?;
            bearer.set_sensitive(true);
            message.metadata_mut().insert("authorization", bearer);
        }
        let mut grpc =
            tonic::client::Grpc::new(channel).max_decoding_message_size(MOST_ANSWER_BYTES);
        grpc.ready().await.map_err(|error| away(&error))?;
        let codec = tonic_prost::ProstCodec::default();
        let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
        let answer: Result<tonic::Response<CertificateResponse>, _> =
            grpc.unary(message, path, codec).await;
        let answer = answer.map_err(|status| without(&status, &token))?;
        Ok(answer.into_inner().cert_chain)
    }

    fn away(&self, reason: String) -> SignError {
        SignError::Away {
            signer: self.name(),
            reason,
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        // Fields are replaced whole, so a panic in between leaves nothing half made.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the signer says of a request, but for the token that it was shown: some say it back.
fn without(status: &Status, token: &str) -> Status {
    let mut message = match std::error::Error::source(status) {
        Some(_) => rt::chain(status),
        None => status.message().to_owned(),
    };
    let parts = token.trim().split('.');
    for part in parts.filter(|part| part.len() >= SHORTEST_SECRET) {
        message = message.replace(part, "…");
    }
    Status::new(status.code(), message)
}

/// Words of others, for the log: short and of one line.
fn words(text: &str) -> String {
    let plain = text.chars().filter(|one| !one.is_control());
    plain.take(MOST_WORDS).collect()
}

/// Who signs now, with all roots that are believed.
#[derive(Clone)]
pub struct Issuer {
    authority: AuthorityFn,
    signer: Option<Arc<Signer>>,
    wall: Wall,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("signer", &self.signer)
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// `signer` signs where there is one, else the authority.
    pub fn new(authority: AuthorityFn, signer: Option<Arc<Signer>>, wall: Wall) -> Self {
        Self {
            authority,
            signer,
            wall,
        }
    }

    /// Who is believed, and who signs where there is no signer.
    pub fn authority(&self) -> Arc<tls::Authority> {
        (self.authority)()
    }

    /// The signer, where there is one.
    pub fn signer(&self) -> Option<&Arc<Signer>> {
        self.signer.as_ref()
    }

    /// Certifies the key of `csr` as `id`, with these names besides.
    pub async fn sign(
        &self,
        csr: &str,
        id: &SpiffeId,
        names: &ServerNames,
        lifetime: Duration,
    ) -> Result<Issued, SignError> {
        let authority = self.authority();
        let (dns, ips) = (names.dns.as_slice(), names.ips.as_slice());
        let Some(signer) = &self.signer else {
            let now = self.wall.millis();
            return Ok(authority.sign_named(csr, id, (dns, ips), lifetime, now)?);
        };
        let lifetime = answer::lifetime(lifetime);
        let asked = Asked {
            csr,
            id,
            dns,
            ips,
            lifetime,
        };
        Ok(signer.sign(&asked, &authority, &self.wall).await?.issued())
    }

    /// A key and certificate for `id`, made here.
    pub async fn pair(&self, id: &SpiffeId, lifetime: Duration) -> Result<Material, SignError> {
        let authority = self.authority();
        match &self.signer {
            None => Ok(authority.issue_pair(id, lifetime, self.wall.millis())?),
            Some(signer) => self.made(signer, id, (&[], &[]), lifetime).await,
        }
    }

    /// The control plane's own identity, with names for clients that check those; the root is the chain's last.
    pub async fn server(
        &self,
        (dns, ips): (&[String], &[IpAddr]),
        lifetime: Duration,
    ) -> Result<Material, SignError> {
        let authority = self.authority();
        let Some(signer) = &self.signer else {
            let dns: Vec<&str> = dns.iter().map(String::as_str).collect();
            return Ok(authority.issue_server(&dns, ips, lifetime, self.wall.millis())?);
        };
        let id = tls::control_plane_id(authority.trust_domain());
        self.made(signer, &id, (dns, ips), lifetime).await
    }

    async fn made(
        &self,
        signer: &Signer,
        id: &SpiffeId,
        (dns, ips): (&[String], &[IpAddr]),
        lifetime: Duration,
    ) -> Result<Material, SignError> {
        let authority = self.authority();
        let request = Request::named(id, dns, ips)?;
        let lifetime = answer::lifetime(lifetime);
        let asked = Asked {
            csr: request.pem(),
            id,
            dns,
            ips,
            lifetime,
        };
        let answer = signer.sign(&asked, &authority, &self.wall).await?;
        let missing: Vec<_> = dns
            .iter()
            .filter(|name| !answer.names.contains(name))
            .collect();
        if !missing.is_empty() {
            tracing::warn!(
                ?missing,
                "the signer left names out: who goes by them refuses this control plane, as the API server does at webhooks"
            );
        }
        let mut chain = answer.chain;
        if !dns.is_empty() {
            // A joiner who knows the root's fingerprint verifies the rest by it.
            chain.push(answer.root);
        }
        let mut material = request.with(chain, authority.roots())?;
        material.revoked = authority.revoked().clone();
        Ok(material)
    }
}
