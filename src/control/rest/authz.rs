//! Who may call whom.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Query, State};

use super::{Answer, Shared, named, short, space};
use crate::aggregate::{GroupBy, Query as Asked};
use crate::api::authz::{AuthzCheck, AuthzMatrix, AuthzReport, AuthzSuggestion};
use crate::api::routes::{ExplainReport, ExplainRequest, Fact};
use crate::api::{Problem, Reason};
use crate::control::report::authz::{self, CheckError};
use crate::control::report::matrix;
use crate::mesh::World;
use crate::rt::Tasks;

pub(super) async fn check(
    State(control): Shared,
    Json(request): Json<AuthzCheck>,
) -> Answer<AuthzReport> {
    let world = control.index.world();
    let report = authz::check(&world, &request).map_err(|error| {
        let reason = match &error {
            CheckError::NoTarget(_)
            | CheckError::NoCaller(_)
            | CheckError::NoInstance(_)
            | CheckError::NoPort { .. } => Reason::NotFound,
            CheckError::Invalid(_) => Reason::Invalid,
        };
        Problem::new(reason, error.to_string()).hint(
            "`meshctl services` and `meshctl endpoints` list what there is; NAME.NAMESPACE for another namespace",
        )
    })?;
    Ok(Json(report))
}

/// Says of each backend of an explained request what its proxy would say to the caller.
pub(super) fn judge(world: &World, request: &ExplainRequest, report: &mut ExplainReport) {
    let (Some(outcome), Some(sent)) = (&report.outcome, &report.sent) else {
        return;
    };
    if !request.gateway.is_empty() {
        return;
    }
    for (backend, facts) in outcome.backends.iter().zip(&mut report.backends) {
        // outbound|PORT|SUBSET|HOST
        let mut parts = backend.cluster.split('|').skip(1);
        let Some(port) = parts.next().and_then(|port| port.parse().ok()) else {
            continue;
        };
        let asked = AuthzCheck {
            from: request.from.clone(),
            to: backend.service.clone(),
            port,
            method: request.method.clone(),
            path: sent.path.clone(),
            host: sent.authority.clone(),
            headers: request.headers.clone(),
            namespace: request.namespace.clone(),
            ..AuthzCheck::default()
        };
        let Ok(judged) = authz::check(world, &asked) else {
            continue;
        };
        if judged.trace.policies.is_empty() && judged.trace.allowed {
            continue;
        }
        let verdict = if judged.trace.allowed {
            "allowed"
        } else {
            "refused"
        };
        let because = &judged.trace.because;
        facts.push(Fact::new(
            "caller",
            format!("{verdict} there: {because}"),
            None,
        ));
    }
}

pub(super) async fn matrix(
    State(control): Shared,
    Query(parameters): Query<BTreeMap<String, String>>,
) -> Answer<AuthzMatrix> {
    let parameter = |key: &str, usual: &str| {
        let given = parameters.get(key).filter(|value| !value.is_empty());
        given.map_or_else(|| usual.to_owned(), Clone::clone)
    };
    let (method, path) = (parameter("method", "GET"), parameter("path", "/"));
    let world = control.index.world();
    // Thousands of judgements, which others need not wait for.
    let judged = Tasks::blocking(move || matrix::matrix(&world, &method, &path)).await;
    let judged =
        judged.ok_or_else(|| Problem::new(Reason::Internal, "judging all calls failed"))?;
    let judged = judged.map_err(|error| Problem::new(Reason::Invalid, error.to_string()))?;
    Ok(Json(judged))
}

pub(super) async fn suggest(
    State(control): Shared,
    Query(parameters): Query<BTreeMap<String, String>>,
) -> Answer<AuthzSuggestion> {
    let world = control.index.world();
    let service = named(&world, &parameters)?.map(short);
    let window = parameters
        .get("window")
        .map_or(Ok(3_600), |text| text.parse());
    let window: u64 = window.map_err(|_| Problem::new(Reason::Invalid, "window is in seconds"))?;
    let report = control.numbers.report(&Asked {
        window_ms: window.saturating_mul(1_000),
        service,
        by: vec![GroupBy::Source],
        ..Asked::default()
    });
    let only = parameters
        .contains_key("namespace")
        .then(|| space(&parameters));
    let calls: BTreeSet<(String, String)> = report
        .rows
        .into_iter()
        .filter(|row| only.is_none_or(|only| row.service.ends_with(&format!(".{only}"))))
        .map(|row| (row.service, row.source))
        .collect();
    Ok(Json(authz::suggest(&world, &calls)))
}
