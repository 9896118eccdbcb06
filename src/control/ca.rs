//! The certificate service: `istio.v1.auth.IstioCertificateService/CreateCertificate`.
//!
//! Owns how a caller proves who it is: a join token or a cluster's service account token for the first
//! certificate, the current certificate for the next. The request's own wishes for a name are never
//! followed. Join tokens are kept by the control core, the others are judged by the cluster's API server;
//! signing is done by `tls::Authority`.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::google::protobuf::value;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tonic::codegen::{Body, Service, StdError};
use tonic::{Request, Response, Status};

use super::serve_tls::{PeerIdentity, SERVER_NAMES, ServerNames};
use super::signer::Issuer;
use super::token::{Presented, TokenError};
use crate::mesh::SpiffeId;
use crate::rt::{UnixMillis, Wall};
use crate::source::kubernetes::review::{ReviewError, Reviewer};
use crate::tls::ca_api::{
    CREATE_CERTIFICATE, CertificateRequest, CertificateResponse, IMPERSONATED_IDENTITY, SERVICE,
    WANTED_IDENTITY,
};
use crate::tls::{self, JoinToken, control_plane_id};

/// A request is one CSR; anything larger than this is not read.
const MOST_MESSAGE_BYTES: usize = 64 * 1024;

/// Why a token did not become an identity.
#[derive(Debug, Error)]
pub enum RedeemError {
    /// The token is refused.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The use could not be made durable; the joiner may try again.
    #[error("cannot record the use of a join token: {0}")]
    Store(String),
}

/// Takes one use of a token, durably, and names the identity that it proves.
pub type RedeemFn =
    Arc<dyn Fn(Presented) -> BoxFuture<'static, Result<SpiffeId, RedeemError>> + Send + Sync>;
/// Receives every decision; what was issued is not handed out before it is durable, nor when it failed.
pub type AuditFn =
    Arc<dyn Fn(Record) -> BoxFuture<'static, Result<(), std::io::Error>> + Send + Sync>;

/// The service and its seams.
#[derive(Clone)]
pub struct Ca {
    /// Who signs.
    pub issuer: Issuer,
    /// Accounts (namespace and name) that may ask for anybody: control planes whose signer this one is. None unless
    /// said (Istio: `CA_TRUSTED_NODE_ACCOUNTS`).
    pub trusted: Arc<[(String, String)]>,
    /// Takes one use of a token.
    pub redeem: RedeemFn,
    /// Judges tokens of a cluster's service accounts; without a cluster they are refused.
    pub reviewer: Option<Arc<Reviewer>>,
    /// Receives every decision.
    pub audit: AuditFn,
    /// The clock.
    pub wall: Wall,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ca { .. }")
    }
}

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Caller {
    /// Showed the join token of this id (the secret is not recorded).
    Token(String),
    /// Showed a certificate of this identity.
    Certificate(SpiffeId),
    /// Showed a token that the cluster's API server says is of this account, `NAMESPACE/NAME`, and the pod
    /// that it is bound to.
    ServiceAccount(String, Option<String>),
    /// Proved nothing.
    Nobody,
}

/// One decision of the CA, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// When, milliseconds since the epoch.
    pub at_ms: UnixMillis,
    /// Who asked.
    pub caller: Caller,
    /// What was answered.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// A certificate was issued.
    Issued {
        /// For whom.
        id: SpiffeId,
        /// Its serial number, hexadecimal.
        serial: String,
        /// Its end, milliseconds since the epoch.
        not_after_ms: UnixMillis,
        /// By which outside signer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signer: Option<String>,
    },
    /// Nothing was issued.
    Refused {
        /// Why.
        reason: String,
    },
}

impl Ca {
    /// Answers one request and records the decision.
    pub async fn create(
        &self,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let mut caller = Caller::Nobody;
        let mut why = None;
        let answer = self.decide(request, &mut caller, &mut why).await;
        let outcome = match &answer {
            Ok((id, issued)) => Outcome::Issued {
                id: id.clone(),
                serial: issued.serial.clone(),
                not_after_ms: issued.not_after,
                signer: self.issuer.signer().map(|signer| signer.name()),
            },
            Err(status) => Outcome::Refused {
                reason: why.unwrap_or_else(|| status.message().to_owned()),
            },
        };
        let record = Record {
            at_ms: self.wall.millis(),
            caller,
            outcome,
        };
        if let Err(error) = (self.audit)(record).await {
            tracing::error!(%error, "cannot write the audit log");
            if answer.is_ok() {
                return Err(Status::unavailable(
                    "the control plane cannot write its audit log, so it issues nothing",
                ));
            }
        }
        answer.map(|(_, issued)| {
            Response::new(CertificateResponse {
                cert_chain: issued.chain_pem,
            })
        })
    }

    async fn decide(
        &self,
        request: Request<CertificateRequest>,
        caller: &mut Caller,
        why: &mut Option<String>,
    ) -> Result<(SpiffeId, tls::Issued), Status> {
        let shown = bearer(&request)?;
        let wanted = wanted(&request)?;
        let peer = request
            .extensions()
            .get::<PeerIdentity>()
            .and_then(|peer| peer.id.clone());
        match (&shown, &peer) {
            (Some(Shown::Join(token)), _) => *caller = Caller::Token(token.id.clone()),
            // Not proven yet.
            (Some(Shown::Other(_)), _) | (None, None) => {}
            (None, Some(peer)) => *caller = Caller::Certificate(peer.clone()),
        }
        let message = request.into_inner();
        refuse_wishes(&message)?;
        let for_another = impersonated(&message)?;
        // Before a token is spent on it, too.
        if for_another.is_some() && self.trusted.is_empty() {
            return Err(Status::permission_denied(format!(
                "metadata {IMPERSONATED_IDENTITY} is not honoured here"
            )));
        }
        let lifetime = u64::try_from(message.validity_duration)
            .map(Duration::from_secs)
            .map_err(|_| Status::invalid_argument("validity_duration is negative"))?;
        // Before the token is spent: a broken request must not cost a use.
        let key = tls::issuer::request_key(&message.csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let id = match (shown, peer) {
            (Some(Shown::Other(token)), _) => self.review(&token, caller).await?,
            (Some(Shown::Join(token)), _) => {
                let presented = Presented {
                    token,
                    wanted: wanted.clone().filter(|_| for_another.is_none()),
                    key_sha256: Some(key),
                };
                (self.redeem)(presented)
                    .await
                    .map_err(|error| redeem_status(&error))?
            }
            (None, Some(peer)) => peer,
            (None, None) => {
                return Err(Status::unauthenticated(
                    "neither a join token nor a client certificate was shown; \
                     make a token with `meshctl token create`",
                ));
            }
        };
        let asking = id.namespace.clone();
        let (id, trusted) = match for_another {
            None => (id, false),
            Some(other) => (self.in_place_of(&id, other)?, true),
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != id) {
            return Err(Status::permission_denied(format!(
                "the caller is {id}, not {wanted}"
            )));
        }
        let authority = self.issuer.authority();
        // A control plane whose signer this is needs its own, too.
        if !trusted && id == control_plane_id(authority.trust_domain()) {
            return Err(Status::permission_denied(
                "the control plane's own identity is not given away",
            ));
        }
        let names = match (trusted, &id) {
            (true, id) if *id == control_plane_id(authority.trust_domain()) => {
                own_names(&message.csr, &asking)
            }
            _ => ServerNames::default(),
        };
        let issued = self.issuer.sign(&message.csr, &id, &names, lifetime).await;
        let issued = issued.map_err(|error| {
            *why = Some(error.to_string());
            error.status()
        })?;
        Ok((id, issued))
    }

    /// `other`, for whom a trusted account asks.
    fn in_place_of(&self, id: &SpiffeId, other: SpiffeId) -> Result<SpiffeId, Status> {
        let trusted = self.trusted.iter();
        let mut trusted = trusted.filter(|(namespace, account)| {
            id.namespace == *namespace && id.service_account == *account
        });
        if trusted.next().is_none() {
            return Err(Status::permission_denied(format!(
                "metadata {IMPERSONATED_IDENTITY} is not honoured for {id}"
            )));
        }
        let authority = self.issuer.authority();
        if other.trust_domain != authority.trust_domain() || id.trust_domain != other.trust_domain {
            return Err(Status::permission_denied(format!(
                "{other} is not of the trust domain {}",
                authority.trust_domain()
            )));
        }
        Ok(other)
    }

    /// The identity that a service account's token proves.
    async fn review(&self, token: &str, caller: &mut Caller) -> Result<SpiffeId, Status> {
        let Some(reviewer) = &self.reviewer else {
            return Err(Status::unauthenticated(
                "this is not a join token, and tokens of service accounts are judged only where the \
                 control plane runs with `--source kubernetes`",
            ));
        };
        let account = reviewer.review(token).await.map_err(|error| match &error {
            ReviewError::Refused(_) => Status::unauthenticated(error.to_string()),
            ReviewError::Away(_) | ReviewError::Forbidden(_) => {
                tracing::warn!(%error, "a service account token could not be judged");
                Status::unavailable(error.to_string())
            }
        })?;
        *caller = Caller::ServiceAccount(
            format!("{}/{}", account.namespace, account.name),
            account.pod,
        );
        let domain = self.issuer.authority();
        let id = SpiffeId::new(domain.trust_domain(), &account.namespace, &account.name);
        // Names of accounts may have what an identity may not.
        let legal = id
            .to_string()
            .parse::<SpiffeId>()
            .is_ok_and(|read| read == id);
        legal.then_some(id).ok_or_else(|| {
            Status::permission_denied("the name of the service account cannot be an identity's")
        })
    }
}

/// The names in a request for a control plane's own certificate that such a one may have, whose account is of
/// `namespace`: those by which any control plane is called, loopback, and its Service's there. Whoever may ask for the
/// control plane's identity is believed to be it already, so these let it deceive nobody more; all others would.
fn own_names(csr: &str, namespace: &str) -> ServerNames {
    let (mut dns, mut ips) = tls::issuer::request_names(csr).unwrap_or_default();
    let service = format!(".{namespace}.svc");
    dns.retain(|name| {
        let ours = name
            .strip_suffix(&service)
            .is_some_and(|name| name == "meshctl" || revision(name));
        ours || SERVER_NAMES.contains(&name.as_str())
    });
    ips.retain(IpAddr::is_loopback);
    ServerNames { dns, ips }
}

/// Whether it is the Service of an installation with a revision.
fn revision(name: &str) -> bool {
    let revision = name.strip_prefix("meshctl-");
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    revision.is_some_and(|revision| !revision.is_empty() && revision.bytes().all(plain))
}

/// What a caller shows in `authorization`.
enum Shown {
    Join(JoinToken),
    /// Not one of ours.
    Other(String),
}

/// The token, when the caller shows one.
fn bearer(request: &Request<CertificateRequest>) -> Result<Option<Shown>, Status> {
    let Some(header) = request.metadata().get("authorization") else {
        return Ok(None);
    };
    let token = header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .ok_or_else(|| Status::unauthenticated("authorization is not `Bearer TOKEN`"))?
        .1
        .trim();
    if token.contains('.') {
        return Ok(Some(Shown::Other(token.to_owned())));
    }
    token
        .parse()
        .map(|token| Some(Shown::Join(token)))
        .map_err(|error: tls::Error| Status::unauthenticated(error.to_string()))
}

fn wanted(request: &Request<CertificateRequest>) -> Result<Option<SpiffeId>, Status> {
    request
        .metadata()
        .get(WANTED_IDENTITY)
        .map(|header| {
            let text = header.to_str().unwrap_or_default();
            text.parse().map_err(|_| {
                Status::invalid_argument(format!("{WANTED_IDENTITY} is not a SPIFFE id"))
            })
        })
        .transpose()
}

/// Wishes that change whose certificate it is, or who signs, are refused by name.
fn refuse_wishes(message: &CertificateRequest) -> Result<(), Status> {
    let fields = message
        .metadata
        .iter()
        .flat_map(|wishes| wishes.fields.keys());
    match fields
        .into_iter()
        .find(|name| name.as_str() == "CertSigner")
    {
        Some(name) => Err(Status::permission_denied(format!(
            "metadata {name} is not honoured here"
        ))),
        None => Ok(()),
    }
}

/// For whom the caller asks in another's place.
fn impersonated(message: &CertificateRequest) -> Result<Option<SpiffeId>, Status> {
    let wishes = message.metadata.as_ref();
    let Some(wish) = wishes.and_then(|wishes| wishes.fields.get(IMPERSONATED_IDENTITY)) else {
        return Ok(None);
    };
    let text = match &wish.kind {
        Some(value::Kind::StringValue(text)) => text.parse().ok(),
        _ => None,
    };
    text.map(Some).ok_or_else(|| {
        Status::permission_denied(format!(
            "metadata {IMPERSONATED_IDENTITY} is not honoured: it is not a SPIFFE id"
        ))
    })
}

fn redeem_status(error: &RedeemError) -> Status {
    match error {
        RedeemError::Token(refused @ TokenError::OtherIdentity { .. }) => {
            Status::permission_denied(format!("{refused} ({})", refused.hint()))
        }
        RedeemError::Token(refused) => {
            Status::unauthenticated(format!("{refused} ({})", refused.hint()))
        }
        RedeemError::Store(_) => Status::unavailable(error.to_string()),
    }
}

/// [`Ca`] as a gRPC service.
#[derive(Debug, Clone)]
pub struct CaServer(Arc<Ca>);

impl CaServer {
    /// Serves `ca`. Connections come from `serve_tls`, which proves the caller's certificate.
    pub fn new(ca: Ca) -> Self {
        Self(Arc::new(ca))
    }
}

impl tonic::server::NamedService for CaServer {
    const NAME: &'static str = SERVICE;
}

impl<B> Service<http::Request<B>> for CaServer
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let ca = Arc::clone(&self.0);
        Box::pin(async move {
            if request.uri().path() != CREATE_CERTIFICATE {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let method = tower::service_fn(move |request| {
                let ca = Arc::clone(&ca);
                async move { ca.create(request).await }
            });
            let codec = tonic_prost::ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec)
                .max_decoding_message_size(MOST_MESSAGE_BYTES)
                .unary(method, request)
                .await)
        })
    }
}
