//! Tokens, certificates, the log of both, and the mesh's roots.

use std::time::Duration;

use axum::Json;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Path, Query, State};

use crate::api::access::Role;
use crate::api::identity::{
    AuditEntry, IdentityReport, IdentityRequest, RevocationReport, RevocationRequest,
    RotationPhase, RotationRequest, RotationStep, TokenEntry, TokenReport, TokenRequest,
    TrustReport,
};
use crate::api::{Problem, Reason};
use crate::control::Control;
use crate::rt;
use crate::tls;

use super::peer::Peer;
use super::{Answer, Parameters, Shared};

/// How long the answer to a revocation waits for proxies.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
/// Entries of the audit log in an answer.
const ENTRIES: u64 = 1_000;
const MOST_ENTRIES: u64 = 100_000;

fn report_of(control: &Control) -> TrustReport {
    let reader = control.trust.current();
    let current = reader.load();
    let clients = control.hub.believers(&current.version);
    let those = |lags: &dyn Fn(bool, &[_]) -> bool| {
        let lagging = clients
            .iter()
            .filter(|(_, (told, chain))| lags(*told, chain));
        lagging.map(|(name, _)| name.clone()).collect()
    };
    TrustReport {
        phase: current.phase,
        roots: current
            .authority
            .roots()
            .iter()
            .map(tls::fingerprint)
            .collect(),
        connected: clients.len(),
        not_believing: those(&|told, _| !told),
        not_renewed: those(&|_, chain| !current.authority.is_above(chain)),
    }
}

pub(super) async fn report(State(control): Shared) -> Json<TrustReport> {
    Json(report_of(&control))
}

pub(super) async fn token(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<TokenRequest>,
) -> Answer<TokenReport> {
    let by = peer.for_whom("");
    if peer.role() < Role::Owner {
        let (namespace, account) = (&request.namespace, &request.service_account);
        control.trust.not_of_access(namespace, account)?;
    }
    Ok(Json(control.trust.create_token(request, &by).await?))
}

pub(super) async fn tokens(State(control): Shared) -> Json<Vec<TokenEntry>> {
    Json(control.trust.tokens().await)
}

pub(super) async fn revoke_token(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
) -> Answer<serde_json::Value> {
    control.trust.revoke_token(&id, &peer.for_whom("")).await?;
    // Whoever went by it is judged again.
    control.hub.refresh();
    Ok(Json(serde_json::json!({})))
}

pub(super) async fn identity(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<IdentityRequest>,
) -> Answer<IdentityReport> {
    let by = peer.for_whom("");
    if peer.role() < Role::Owner {
        let (namespace, account) = (&request.namespace, &request.service_account);
        control.trust.not_of_access(namespace, account)?;
    }
    Ok(Json(control.trust.issue(&request, &by).await?))
}

/// The audit log: `since` in milliseconds since the epoch, `limit` entries at most.
pub(super) async fn audit(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<Vec<AuditEntry>> {
    let number = |name: &str| match parameters.get(name) {
        None => Ok(None),
        Some(text) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| Problem::new(Reason::Invalid, format!("{name}={text} is not a number"))),
    };
    let since = number("since")?.unwrap_or(0);
    let most = number("limit")?.unwrap_or(ENTRIES).min(MOST_ENTRIES);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    Ok(Json(control.trust.audit(since, most).await?))
}

/// Takes a step of a rotation, when nobody who is connected would be left behind.
pub(super) async fn rotate(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<RotationRequest>,
) -> Answer<TrustReport> {
    let report = report_of(&control);
    let (lagging, what) = match (request.step, report.phase) {
        (RotationStep::Replace, RotationPhase::Introduced) => {
            (&report.not_believing, "does not believe the next root yet")
        }
        (RotationStep::Finish, RotationPhase::Replaced) => (
            &report.not_renewed,
            "still has a certificate of the old root",
        ),
        _ => (&Vec::new(), ""),
    };
    if let (Some(first), false) = (lagging.first(), request.force) {
        let others = match lagging.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        return Err(Problem::new(
            Reason::Conflict,
            format!("{first}{others} {what}"),
        )
        .hint("wait, or leave it behind with --force: it cannot reach others until it joins again").into());
    }
    let by = peer.for_whom("");
    control.trust.rotate(request.step, &by).await?;
    control.hub.refresh();
    Ok(Json(report_of(&control)))
}

/// Believes certificates no more, and waits a little for the proxies to say so too.
pub(super) async fn revoke(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<RevocationRequest>,
) -> Answer<RevocationReport> {
    let revoked = control
        .trust
        .revoke(request.serials, &peer.for_whom(""))
        .await?;
    control.hub.refresh();
    let begun = rt::now();
    loop {
        let report = report_of(&control);
        if report.not_believing.is_empty() || begun.elapsed() > PATIENCE {
            return Ok(Json(RevocationReport {
                revoked,
                believing: report.connected - report.not_believing.len(),
                not_believing: report.not_believing,
            }));
        }
        tokio::time::sleep(LOOK).await;
    }
}
