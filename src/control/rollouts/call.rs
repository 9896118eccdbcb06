//! Webhooks: Flagger's questions, and what their answers mean.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{Driven, Run};
use crate::control::Control;
use crate::mesh::origination::{NameMatch, Named};
use crate::mesh::rollout::{Answer, Hook, HookKind, Phase};
use crate::net::{ConnectOptions, connect_any};
use crate::rt::Tasks;
use crate::tls::outside::{Anchors, Believes, SYSTEM_ROOTS, explain_outside, outside_config};

/// Of an answer that is no, as much is told.
const LONGEST_ANSWER: usize = 512;
/// Before a question is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is sent (Flagger's payload).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    name: &'a str,
    namespace: &'a str,
    phase: &'a str,
    /// The same for all questions of a run.
    checksum: String,
    failed_checks: u32,
    canary_weight: u32,
    metadata: BTreeMap<&'a str, &'a str>,
}

fn payload(run: &Run, hook: &Hook, event: Option<&str>) -> Vec<u8> {
    let at = run.state.updated_unix_ms.to_string();
    let mut metadata: BTreeMap<&str, &str> = hook
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    if let Some(event) = event {
        metadata.insert("eventMessage", event);
        let bad = matches!(run.state.phase, Phase::RolledBack | Phase::Inconclusive);
        metadata.insert("eventType", if bad { "Warning" } else { "Normal" });
        metadata.insert("timestamp", &at);
    }
    let payload = Payload {
        name: &run.service,
        namespace: &run.namespace,
        phase: phase(run.state.phase),
        checksum: format!("{:x}", run.state.started_unix_ms),
        failed_checks: run.state.failures,
        canary_weight: run.state.weight(&run.spec),
        metadata,
    };
    // A struct of strings always serialises.
    serde_json::to_vec(&payload).unwrap_or_default()
}

/// A phase by the name that receivers know from Flagger.
const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Paused => "Waiting",
        Phase::RolledBack | Phase::Inconclusive => "Failed",
        phase => phase.name(),
    }
}

/// Asks the webhook of a call, unless that is under way. The answer comes with a later turn.
pub(super) fn ask(control: &Control, driven: &Driven, number: u64) {
    let run = &driven.run;
    let call = run.state.calls.iter().find(|call| call.number == number);
    let Some(hook) = call.and_then(|call| run.spec.hooks.get(call.hook)) else {
        return;
    };
    let mut calling = driven
        .calling
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if !calling.insert(number) {
        return;
    }
    drop(calling);
    let (hook, body) = (hook.clone(), payload(run, hook, None));
    let (inbox, calling) = (driven.inbox.clone(), driven.calling.clone());
    control.rollouts.tasks.spawn("webhook", async move {
        let said = tries(&hook, &body).await;
        let answer = Answer::Hook {
            number,
            yes: said.is_ok(),
            message: said.err().unwrap_or_default(),
        };
        inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(answer);
        calling
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&number);
    });
}

/// Tells the hooks for events; nobody waits for them.
pub(super) fn event(control: &Control, driven: &Driven, what: &str) {
    let hooks = driven.run.spec.hooks.iter();
    for hook in hooks.filter(|hook| hook.kind == HookKind::Event) {
        let body = payload(&driven.run, hook, Some(what));
        let hook = hook.clone();
        control.rollouts.tasks.spawn("event", async move {
            if let Err(error) = tries(&hook, &body).await {
                tracing::warn!(hook = %hook.name, %error, "an event was not taken");
            }
        });
    }
}

/// Asks as often as the hook bears; a refusal is the last one's.
async fn tries(hook: &Hook, body: &[u8]) -> Result<(), String> {
    let timeout = Duration::from_millis(hook.timeout_ms);
    let mut refusal = String::new();
    for attempt in 0..=hook.retries {
        if attempt > 0 {
            tokio::time::sleep(AGAIN).await;
        }
        match tokio::time::timeout(timeout, post(hook, body)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => refusal = why,
            Err(_) => refusal = format!("no answer within {} ms", hook.timeout_ms),
        }
    }
    Err(refusal)
}

/// One question; nobody follows where it redirects to.
async fn post(hook: &Hook, body: &[u8]) -> Result<(), String> {
    let url = &hook.url;
    let uri: Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
    let authority = uri
        .authority()
        .ok_or_else(|| format!("{url:?} names no host"))?;
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(format!("{url:?} is no URL of HTTP")),
    };
    let port = authority
        .port_u16()
        .unwrap_or(if secure { 443 } else { 80 });
    let unreachable = |error: std::io::Error| format!("cannot connect to {authority}: {error}");
    let found = tokio::net::lookup_host((bare, port))
        .await
        .map_err(unreachable)?;
    let addresses: Vec<_> = found.collect();
    let tcp = connect_any(&addresses, ConnectOptions::default())
        .await
        .map_err(unreachable)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        // Without a user, who is nobody's business there.
        .header("host", match authority.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        })
        .header("content-type", "application/json")
        .header("user-agent", concat!("meshctl/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::copy_from_slice(body)))
        .map_err(|error| error.to_string())?;
    if !secure {
        return exchange(tcp, request, host).await;
    }
    let name = ServerName::try_from(bare.to_owned())
        .map_err(|_| format!("{host} is no name that a certificate could have"))?;
    let believes = Believes {
        anchors: anchors(hook.ca.as_deref()).await?,
        revoked: None,
        names: Named::Any(vec![NameMatch::Exact(bare.to_owned())]),
    };
    let config = outside_config(Some(believes), None, &["http/1.1"])
        .map_err(|error| format!("{host} cannot be asked by TLS: {error}"))?;
    let tls = TlsConnector::from(config).connect(name, tcp).await;
    let tls =
        tls.map_err(|error| format!("{host} is not believed: {}", explain_outside(&error)))?;
    exchange(tls, request, host).await
}

/// Whose word is taken for who a server is: the hook's authority, or else the machine's roots.
async fn anchors(ca: Option<&str>) -> Result<Anchors, String> {
    if let Some(pem) = ca {
        return Anchors::read(pem)
            .map_err(|error| format!("its authority cannot be read: {error}"));
    }
    let read = Tasks::blocking(|| {
        let mut found = SYSTEM_ROOTS.iter();
        found.find_map(|path| std::fs::read_to_string(path).ok())
    });
    let text = read.await.flatten().unwrap_or_default();
    Anchors::read_some(&text).map_err(|_| {
        "this machine has no roots, so the webhook's authority must be given (caBundle, --webhook-ca)"
            .to_owned()
    })
}

async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    host: &str,
) -> Result<(), String> {
    let broken = |error: hyper::Error| format!("{host} does not speak HTTP: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(broken)?;
    let tasks = Tasks::new();
    tasks.spawn("webhook connection", async move {
        // What goes wrong is told to the one who waits for the answer.
        let _ended = connection.await;
    });
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = Limited::new(answer.into_body(), LONGEST_ANSWER)
        .collect()
        .await;
    let text = body.map_or_else(
        |_| String::new(),
        |body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
    );
    Err(format!("{} {text}", status.as_u16()).trim().to_owned())
}
