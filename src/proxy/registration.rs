//! Keeps this proxy's instance in the registry.
//!
//! Owns the calls: register, a heartbeat three times a term with the health of the application,
//! deregister when a drain begins, so that peers stop choosing us before we stop serving. Losing the
//! control plane is no reason to stop anything; it is called again until it answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use tokio::sync::mpsc;

use crate::api::registry::{Lease, Registration};
use crate::api::{PREFIX, Problem};
use crate::mesh::{Health, Instance, SpiffeId};
use crate::net::capture::own_source;
use crate::net::{ConnectOptions, connect};
use crate::rt::{Backoff, DrainSignal, Reader, Tasks};
use crate::tls::Material;

use super::control_link::Caller;
use super::replicas::Replicas;

/// How long an instance stays without a heartbeat.
pub const TERM: Duration = Duration::from_secs(15);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// How long the application has to take a connection before it counts as unhealthy.
const PROBE: Duration = Duration::from_secs(1);
/// How often the application is tried.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What is registered, and where.
#[derive(Debug, Clone)]
pub struct RegistrationOptions {
    /// The control plane's TLS port.
    pub control_plane: Replicas,
    /// The control plane's own identity.
    pub server: SpiffeId,
    /// The instance.
    pub instance: Instance,
    /// Calls to its own address are redirected to it.
    pub captured: bool,
    /// It is a pod of a cluster, which says itself whether it may be called.
    pub pod: bool,
    /// Where the application listens; all must take connections for the instance to be healthy.
    pub applications: Vec<SocketAddr>,
    /// Told when the registry will not have the instance at all: that does not change by itself.
    pub refused: mpsc::Sender<Problem>,
}

/// Runs until `drain` begins; then deregisters and returns.
pub async fn run(
    options: RegistrationOptions,
    mut material: Reader<Option<Arc<Material>>>,
    mut drain: DrainSignal,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut instance = options.instance.clone();
    let mut known = false;
    loop {
        let current = material.load();
        let Some(identity) = current.as_ref() else {
            tokio::select! {
                more = material.changed() => if !more { return },
                () = drain.wait() => return,
            }
            continue;
        };
        let kept = tokio::select! {
            kept = keep(&options, (&mut instance, &mut known), identity, &drain) => kept,
            () = tokio::time::sleep(Duration::from_hours(1)) => Ok(()),
        };
        match kept {
            // The certificate that the connection was made with ends some day.
            Ok(()) if !drain.draining() => backoff.reset(),
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "not registered; trying again");
                let wait = backoff.next(fastrand::f64());
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = drain.wait() => return,
                }
            }
        }
    }
}

/// One connection: registers, then heartbeats until it breaks or the drain begins.
async fn keep(
    options: &RegistrationOptions,
    (instance, ever): (&mut Instance, &mut bool),
    identity: &Material,
    drain: &DrainSignal,
) -> io::Result<()> {
    let mut drain = drain.clone();
    let tasks = Tasks::new();
    let mut calls = open(options, identity, &tasks).await?;
    let path = format!(
        "{PREFIX}/registry/instances/{}/{}",
        instance.namespace, instance.name
    );
    let mut known = false;
    // Who keeps it has another who says how it is.
    let mut kept = true;
    let mut due = tokio::time::interval(TERM / 3);
    let mut probe = tokio::time::interval(PROBE_EVERY);
    let result = loop {
        let mut call = false;
        tokio::select! {
            () = drain.wait() => {
                // Peers are told by a new view at once; an answer would change nothing.
                break send(&mut calls, Method::DELETE, &path, Vec::new()).await.map(|_| ());
            }
            _ = due.tick(), if kept => call = true,
            _ = probe.tick(), if kept => {
                let health = health((&options.applications, options.captured)).await;
                if health != instance.health {
                    tracing::info!(?health, "the application's health changed");
                    instance.health = health;
                    call = true;
                }
            }
        }
        if !call {
            continue;
        }
        let status = if known {
            let health = match instance.health {
                Health::Healthy => "healthy",
                Health::Unhealthy => "unhealthy",
                Health::Degraded => "degraded",
                Health::Draining => "draining",
            };
            let path = format!("{path}/heartbeat?health={health}");
            send(&mut calls, Method::PUT, &path, Vec::new()).await
        } else {
            instance.health = health((&options.applications, options.captured)).await;
            let registration = Registration {
                instance: instance.clone(),
                pod: options.pod,
                ttl_seconds: u32::try_from(TERM.as_secs()).unwrap_or(15),
            };
            let body = serde_json::to_vec(&registration)?;
            let path = format!("{PREFIX}/registry/instances");
            send(&mut calls, Method::POST, &path, body).await
        };
        match status {
            Ok(Answer { status, never, .. }) if status == StatusCode::OK => {
                kept = !never;
                known = true;
                *ever = true;
            }
            // Evicted, or the control plane has a new store.
            Ok(Answer { status, .. }) if status == StatusCode::NOT_FOUND && known => {
                known = false;
                due.reset_immediately();
            }
            Ok(answer) => {
                if answer.status == StatusCode::FORBIDDEN
                    && !*ever
                    && let Some(problem) = &answer.problem
                {
                    // Full or closed: it was told already, or the proxy ends anyway.
                    let _told = options.refused.try_send(problem.clone()).is_ok();
                }
                break Err(io::Error::other(answer.words()));
            }
            Err(error) => break Err(error),
        }
    };
    tasks.end().await;
    result
}

/// What the registry said.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    /// No heartbeat is waited for.
    never: bool,
    /// What is wrong, where something is.
    problem: Option<Problem>,
}

impl Answer {
    fn words(&self) -> String {
        match &self.problem {
            Some(problem) => format!("the registry refuses us: {}", problem.message),
            None => format!("the registry answered {}", self.status),
        }
    }
}

/// Every application port takes connections. Nothing is sent.
async fn health((applications, captured): (&[SocketAddr], bool)) -> Health {
    for address in applications {
        let options = ConnectOptions {
            timeout: PROBE,
            // At the pod's own address nobody else is to be taken for the application.
            from: (!address.ip().is_loopback() && captured).then(|| own_source(address.ip())),
        };
        if connect(*address, options).await.is_err() {
            return Health::Unhealthy;
        }
    }
    Health::Healthy
}

async fn open(
    options: &RegistrationOptions,
    identity: &Material,
    tasks: &Tasks,
) -> io::Result<SendRequest<Full<Bytes>>> {
    let to = &options.control_plane;
    let stream = to
        .connect(&options.server, Caller::Member(identity))
        .await?;
    let (calls, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tasks.spawn("registry-connection", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the registry's connection ended");
        }
    });
    Ok(calls)
}

async fn send(
    calls: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> io::Result<Answer> {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://meshctl{path}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let exchange = async {
        calls.ready().await.map_err(io::Error::other)?;
        let response = calls
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(io::Error::other)?;
        let body = body.to_bytes();
        let lease: Option<Lease> = serde_json::from_slice(&body).ok();
        Ok(Answer {
            status,
            never: lease.is_some_and(|lease| lease.expires_unix_ms == 0),
            problem: serde_json::from_slice(&body).ok(),
        })
    };
    tokio::time::timeout(CALL, exchange)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
