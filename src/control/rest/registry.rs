//! Instances: for the owner of the socket, and for each instance itself over mutual TLS.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::routing::{delete, post, put};
use axum::{Extension, Json, Router};

use super::{Answer, Parameters, Shared};
use crate::api::registry::Registration;
use crate::api::{PREFIX, Problem, Reason};
use crate::control::Control;
use crate::control::serve_tls::PeerIdentity;
use crate::mesh::Health;

/// The registry, for instances that show a certificate of the mesh.
pub fn registry_routes(control: Arc<Control>) -> Router {
    let api = Router::new()
        .route("/registry/instances", post(register_self))
        .route(
            "/registry/instances/{namespace}/{name}",
            delete(deregister_self),
        )
        .route(
            "/registry/instances/{namespace}/{name}/heartbeat",
            put(heartbeat_self),
        );
    Router::new()
        .nest(PREFIX, api)
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
        .with_state(control)
}

pub(super) async fn list_instances(
    State(control): Shared,
) -> Json<Vec<crate::api::registry::InstanceReport>> {
    Json(control.index.instances().await)
}

pub(super) async fn register(
    State(control): Shared,
    Json(registration): Json<Registration>,
) -> Answer<crate::api::registry::Lease> {
    Ok(Json(control.index.register(registration).await?))
}

pub(super) async fn deregister(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
) -> Answer<serde_json::Value> {
    control.index.deregister(&namespace, &name).await?;
    Ok(Json(serde_json::json!({})))
}

pub(super) async fn heartbeat(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
    Query(parameters): Parameters,
) -> Answer<crate::api::registry::Lease> {
    let health = match parameters.get("health").map(String::as_str) {
        None => None,
        Some("healthy") => Some(Health::Healthy),
        Some("unhealthy") => Some(Health::Unhealthy),
        Some("degraded") => Some(Health::Degraded),
        Some("draining") => Some(Health::Draining),
        Some(other) => {
            return Err(
                Problem::new(Reason::Invalid, format!("{other:?} is not a health"))
                    .hint("one of healthy, degraded, unhealthy, draining")
                    .into(),
            );
        }
    };
    Ok(Json(
        control.index.heartbeat(&namespace, &name, health).await?,
    ))
}

/// Who may speak for instances of `namespace` (and of `account`, when that is known).
fn may(peer: Option<&PeerIdentity>, namespace: &str, account: Option<&str>) -> Result<(), Problem> {
    let Some(proven) = peer.and_then(|peer| peer.id.as_ref()) else {
        return Err(
            Problem::new(Reason::Denied, "a certificate of the mesh is needed")
                .hint("join with a token from `meshctl token create`"),
        );
    };
    if proven.namespace != namespace
        || account.is_some_and(|account| account != proven.service_account)
    {
        return Err(Problem::new(
            Reason::Denied,
            format!(
                "the certificate is for {}/{}, not for {namespace}/{}",
                proven.namespace,
                proven.service_account,
                account.unwrap_or("*")
            ),
        )
        .hint("give the proxy another --name, or the account that the name belongs to"));
    }
    Ok(())
}

pub(super) async fn register_self(
    control: Shared,
    peer: Option<Extension<PeerIdentity>>,
    Json(registration): Json<Registration>,
) -> Answer<crate::api::registry::Lease> {
    let instance = &registration.instance;
    may(
        peer.as_deref(),
        &instance.namespace,
        Some(&instance.service_account),
    )?;
    may_replace(
        &control,
        peer.as_deref(),
        &instance.namespace,
        &instance.name,
    )
    .await?;
    let completed = control.index.completed(instance).await?;
    if let Some(problem) = control.index.impostor(&completed) {
        return Err(problem.into());
    }
    register(control, Json(registration)).await
}

/// An instance that is there may only be touched by its own account.
pub(super) async fn may_replace(
    control: &Control,
    peer: Option<&PeerIdentity>,
    namespace: &str,
    name: &str,
) -> Result<(), Problem> {
    match control.index.account_of(namespace, name).await {
        Some(account) => may(peer, namespace, Some(&account)),
        None => may(peer, namespace, None),
    }
}

pub(super) async fn deregister_self(
    control: Shared,
    peer: Option<Extension<PeerIdentity>>,
    path: Path<(String, String)>,
) -> Answer<serde_json::Value> {
    may_replace(&control, peer.as_deref(), &path.0.0, &path.0.1).await?;
    deregister(control, path).await
}

pub(super) async fn heartbeat_self(
    control: Shared,
    peer: Option<Extension<PeerIdentity>>,
    path: Path<(String, String)>,
    parameters: Parameters,
) -> Answer<crate::api::registry::Lease> {
    may_replace(&control, peer.as_deref(), &path.0.0, &path.0.1).await?;
    heartbeat(control, path, parameters).await
}
