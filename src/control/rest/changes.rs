//! Changes of configuration before they are made, and after.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::peer::Peer;
use super::{Answer, Shared, converge, encode, kept_here, kind_of};
use crate::api::analysis::{AnalysisReport, AnalyzeRequest};
use crate::api::diff::{DiffReport, DiffRequest, RollbackRequest};
use crate::api::resources::{ApplyReport, Convergence, ConvergenceRequest};
use crate::api::{Problem, Reason};
use crate::control::history::Wanted;
use crate::rt::{Tasks, now};

pub(super) async fn analyze(
    State(control): Shared,
    Json(request): Json<AnalyzeRequest>,
) -> Json<AnalysisReport> {
    Json(control.index.analyze(&request).await)
}

pub(super) async fn diff(
    State(control): Shared,
    Json(request): Json<DiffRequest>,
) -> Answer<DiffReport> {
    let preview = control.index.preview(&request).await?;
    let control = Arc::clone(&control);
    // Two views of every proxy are worked out, which others need not wait for.
    let told = Tasks::blocking(move || preview.report(&control.hub.nodes())).await;
    let failed = || Problem::new(Reason::Internal, "comparing the two worlds failed");
    Ok(Json(told.ok_or_else(failed)?))
}

/// How long a change may take from the API server to here.
const ECHO: Duration = Duration::from_secs(5);

/// What of the past is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Past {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    revision: Option<u64>,
    /// 0 is all; 50 when it is left out.
    limit: Option<usize>,
    /// Also what each change did to its objects.
    diff: bool,
}

pub(super) async fn history(
    State(control): Shared,
    Query(past): Query<Past>,
) -> Answer<serde_json::Value> {
    kept_here(&control)?;
    let wanted = Wanted {
        revision: past.revision,
        kind: past.kind.as_deref().map(kind_of).transpose()?,
        namespace: past.namespace,
        name: past.name,
        limit: Some(past.limit.unwrap_or(50)).filter(|limit| *limit > 0),
    };
    let index = &control.index;
    Ok(Json(if past.diff {
        encode(&index.revisions(&wanted).await?)?
    } else {
        encode(&index.history(&wanted)?)?
    }))
}

/// Waits until the proxies that are connected here have what was written to the API server.
pub(super) async fn convergence(
    State(control): Shared,
    Json(request): Json<ConvergenceRequest>,
) -> Answer<Convergence> {
    let since = now();
    let followed = control.index.until_followed(&request.written, ECHO).await;
    let generation = followed.ok_or_else(|| {
        Problem::new(
            Reason::Unknown,
            "this replica has not heard of the change from the API server",
        )
    })?;
    Ok(Json(converge(&control, generation, since).await))
}

pub(super) async fn rollback(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<RollbackRequest>,
) -> Answer<ApplyReport> {
    kept_here(&control)?;
    let since = now();
    let (mut report, generation) = control
        .index
        .rollback(request.revision, peer.for_whom(&request.who))
        .await?;
    report.convergence = converge(&control, generation, since).await;
    Ok(Json(report))
}
