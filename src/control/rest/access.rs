//! Who may use the API over TCP.

use axum::Json;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Path, State};

use super::peer::Peer;
use super::{Answer, Shared};
use crate::api::access::{AccessEntry, AccessReport, AccessRequest, GrantRequest, WhoAmI};

pub(super) async fn list(State(control): Shared) -> Json<Vec<AccessEntry>> {
    Json(control.trust.accesses())
}

pub(super) async fn who(ConnectInfo(peer): ConnectInfo<Peer>) -> Json<WhoAmI> {
    Json(WhoAmI {
        name: peer.for_whom(""),
        role: peer.role(),
    })
}

pub(super) async fn create(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<AccessRequest>,
) -> Answer<AccessReport> {
    let by = peer.for_whom("");
    Ok(Json(control.trust.create_access(&request, &by).await?))
}

pub(super) async fn grant(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<GrantRequest>,
) -> Answer<serde_json::Value> {
    let by = peer.for_whom("");
    control.trust.grant_access(&request, &by).await?;
    Ok(Json(serde_json::json!({})))
}

pub(super) async fn revoke(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
) -> Answer<serde_json::Value> {
    control.trust.revoke_access(&id, &peer.for_whom("")).await?;
    Ok(Json(serde_json::json!({})))
}
