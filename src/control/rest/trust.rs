//! The mesh's roots, and replacing them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;

use crate::api::identity::{
    RevocationReport, RevocationRequest, RotationPhase, RotationRequest, RotationStep, TrustReport,
};
use crate::api::{Problem, Reason};
use crate::control::Control;
use crate::rt;
use crate::tls;

use super::{Answer, Shared};

/// How long the answer to a revocation waits for proxies.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

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

/// Takes a step of a rotation, when nobody who is connected would be left behind.
pub(super) async fn rotate(
    State(control): Shared,
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
    control.trust.rotate(request.step).await?;
    control.hub.refresh();
    Ok(Json(report_of(&control)))
}

/// Believes certificates no more, and waits a little for the proxies to say so too.
pub(super) async fn revoke(
    State(control): Shared,
    Json(request): Json<RevocationRequest>,
) -> Answer<RevocationReport> {
    let revoked = control.trust.revoke(request.serials).await?;
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
