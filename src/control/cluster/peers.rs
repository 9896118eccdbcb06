//! Numbers of every replica: proxies tell theirs to the one that they are connected to, and who judges by them asks
//! the others.
//!
//! Replicas prove to each other that they are the control plane, by certificates of the authority that they share. What
//! cannot be had whole is not had: a sum of some replicas would be a judgement of some callers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::Membership;
use crate::api::PREFIX;
use crate::control::Control;
use crate::control::canary::observe::Observed;
use crate::install::{NAME, REVISION};
use crate::mesh::{Health, World};
use crate::net::{ConnectOptions, connect};
use crate::rt::{Tasks, UnixMillis};
use crate::tls;

/// How long a replica may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Most that one answers, in bytes: a service has a few versions.
const MOST: usize = 4 << 20;
/// Life of the certificate that is shown.
const LIFETIME: Duration = Duration::from_hours(1);

/// What was counted, by whom, or why not all of it is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::control) struct Counted {
    pub(in crate::control) observed: Observed,
    /// Replicas that this is the sum of; empty where there is one control plane.
    pub(in crate::control) by: Vec<String>,
    pub(in crate::control) missing: Option<String>,
}

/// How others are asked.
#[derive(Default)]
pub(in crate::control) struct Peers {
    config: Mutex<Option<Shown>>,
}

/// What is shown to others, for these versions of the authority and until then.
#[derive(Clone)]
struct Shown {
    config: Arc<ClientConfig>,
    version: u64,
    until: UnixMillis,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(in crate::control) struct Question<'a> {
    /// `name.namespace`.
    pub(in crate::control) service: &'a str,
    pub(in crate::control) since_unix_ms: UnixMillis,
    /// Also where answers to copies differ.
    pub(in crate::control) places: bool,
}

/// What all replicas together counted. `needed` are those that must answer while they are there, ready or not.
pub(in crate::control) async fn counted(
    control: &Control,
    question: Question<'_>,
    needed: &[String],
) -> Counted {
    let own = control.observed(question);
    let Some(membership) = &control.membership else {
        return Counted {
            observed: own,
            ..Counted::default()
        };
    };
    let world = control.index.world();
    let port = control.tls_address.port();
    let mut all = replicas(&world, membership, needed, port);
    if all.remove(&membership.replica).is_none() {
        let missing = format!(
            "{} does not see its own pod in {}, so the other replicas are not known",
            membership.replica, membership.namespace
        );
        return Counted {
            missing: Some(missing),
            ..Counted::default()
        };
    }
    let asking = all
        .iter()
        .map(|(name, at)| async move { (name, ask(control, *at, question).await) });
    let mut sum = Counted {
        observed: own,
        by: vec![membership.replica.clone()],
        missing: None,
    };
    for (name, answer) in join_all(asking).await {
        match answer {
            Ok(theirs) => {
                sum.observed.add(&theirs);
                sum.by.push(name.clone());
            }
            Err(why) => {
                sum.missing = Some(format!(
                    "replica {name} of the control plane did not tell its numbers: {why}"
                ));
            }
        }
    }
    sum.by.sort();
    sum
}

/// Replicas of an installation with where each is asked. One that never was ready has nothing to tell.
fn replicas(
    world: &World,
    membership: &Membership,
    needed: &[String],
    port: u16,
) -> BTreeMap<String, SocketAddr> {
    let is = |labels: &BTreeMap<String, String>, name: &str, value: &str| {
        labels.get(name).is_some_and(|found| found == value)
    };
    let all = world.instances.values().filter(|one| {
        one.namespace == membership.namespace
            && is(&one.labels, "app", NAME)
            && is(&one.labels, REVISION, &membership.revision)
            && (one.health == Health::Healthy
                || one.name == membership.replica
                || needed.contains(&one.name))
    });
    all.map(|one| (one.name.clone(), SocketAddr::new(one.address, port)))
        .collect()
}

/// Asks one of them.
async fn ask(
    control: &Control,
    at: SocketAddr,
    question: Question<'_>,
) -> Result<Observed, String> {
    let asked = tokio::time::timeout(ANSWER, exchange(control, at, question)).await;
    asked.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER.as_secs())))
}

async fn exchange(
    control: &Control,
    at: SocketAddr,
    question: Question<'_>,
) -> Result<Observed, String> {
    let config = shown(control).await?;
    let tcp = connect(at, ConnectOptions::default())
        .await
        .map_err(|error| format!("cannot connect to {at}: {error}"))?;
    // The name is not looked at: who it is stands in the certificate.
    let name = ServerName::from(at.ip());
    let stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|error| format!("{at}: {}", tls::explain(&error)))?;
    let broken = |error: hyper::Error| format!("{at}: {error}");
    let io = TokioIo::new(stream);
    let (mut calls, connection) = http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(broken)?;
    let tasks = Tasks::new();
    tasks.spawn("replica-connection", async move {
        // The one who waits for the answer hears why there is none.
        let _ended = connection.await.is_ok();
    });
    let Question {
        service,
        since_unix_ms,
        places,
    } = question;
    let path = format!(
        "{PREFIX}/replica/observed?service={service}&since={since_unix_ms}&places={places}"
    );
    let request = Request::get(format!("https://meshctl{path}"))
        .body(Full::<Bytes>::default())
        .map_err(|error| error.to_string())?;
    let answer = calls.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MOST).collect().await;
    let body = body.map_err(|error| format!("{at}: {error}"))?.to_bytes();
    if !status.is_success() {
        return Err(format!("{at} answered {status}"));
    }
    serde_json::from_slice(&body)
        .map_err(|error| format!("{at} answered what makes no sense: {error}"))
}

/// Our certificate, and whom we believe.
async fn shown(control: &Control) -> Result<Arc<ClientConfig>, String> {
    let version = *control.trust.current().versions().borrow();
    let now = control.wall.millis();
    let known = |peers: &Peers| {
        let shown = peers.config.lock().unwrap_or_else(PoisonError::into_inner);
        shown
            .clone()
            .filter(|shown| shown.version == version && now < shown.until)
    };
    if let Some(shown) = known(&control.peers) {
        return Ok(shown.config);
    }
    let failed =
        |error: &dyn fmt::Display| format!("there is no certificate to ask it with: {error}");
    let issuer = control.trust.issuer();
    let material = issuer.server((&[], &[]), LIFETIME).await;
    let material = material.map_err(|error| failed(&error))?;
    let ours = material.id.clone();
    let config = tls::client_config(&material, vec![ours], &["h2"]);
    let config = config.map_err(|error| failed(&error))?;
    let shown = Shown {
        config: Arc::clone(&config),
        version,
        until: now + material.not_after.saturating_sub(now) / 2,
    };
    let mut kept = control
        .peers
        .config
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    *kept = Some(shown);
    Ok(config)
}
