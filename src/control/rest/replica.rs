//! What replicas of a control plane tell each other, and nobody else.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Extension, Json, Router};

use super::{Answer, Parameters, Shared};
use crate::api::{PREFIX, Problem, Reason};
use crate::control::Control;
use crate::control::canary::observe::Observed;
use crate::control::cluster::peers::Question;
use crate::control::serve_tls::PeerIdentity;
use crate::tls::control_plane_id;

/// For those that show the control plane's own certificate.
pub fn replica_routes(control: Arc<Control>) -> Router {
    let api = Router::new().route("/replica/observed", get(observed));
    Router::new().nest(PREFIX, api).with_state(control)
}

async fn observed(
    State(control): Shared,
    peer: Option<Extension<PeerIdentity>>,
    Query(parameters): Parameters,
) -> Answer<Observed> {
    let id = peer.and_then(|Extension(peer)| peer.id);
    let ours = control_plane_id(control.trust.authority().trust_domain());
    if id.as_ref() != Some(&ours) {
        let message = "only replicas of the control plane are told this";
        return Err(Problem::new(Reason::Denied, message).into());
    }
    let given = |name: &str| parameters.get(name).map(String::as_str);
    let since = given("since").and_then(|text| text.parse().ok());
    let (Some(service), Some(since_unix_ms)) = (given("service"), since) else {
        let message = "of which service, and since when?";
        return Err(Problem::new(Reason::Invalid, message).into());
    };
    Ok(Json(control.observed(Question {
        service,
        since_unix_ms,
        places: given("places") == Some("true"),
    })))
}
