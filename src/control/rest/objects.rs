//! Objects as they stand.

use axum::Json;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Path, Query, State};

use super::peer::Peer;
use super::{Answer, Parameters, Shared, kind_of};
use crate::api::access::Role;
use crate::api::resources::ResourceReport;
use crate::resource;

pub(super) async fn of_kind(
    State(control): Shared,
    Path(kind): Path<String>,
    Query(parameters): Parameters,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Answer<Vec<ResourceReport>> {
    let kind = kind_of(&kind)?;
    let parameter = |name: &str| {
        parameters
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    };
    // A name is looked up in a namespace also where the kind has none.
    let namespace = parameter("namespace").filter(|_| resource::namespaced(kind));
    let found = control.index.objects(kind, namespace, parameter("name"));
    let mut found = found.await;
    if peer.role() < Role::Owner {
        hide(&mut found);
    }
    Ok(Json(found))
}

/// Every object, by kind; values of Secrets are nobody's to have in a heap.
pub(super) async fn all(State(control): Shared) -> Json<Vec<ResourceReport>> {
    let mut all = Vec::new();
    for kind in resource::kinds() {
        all.extend(control.index.objects(kind, None, None).await);
    }
    hide(&mut all);
    Json(all)
}

fn hide(found: &mut [ResourceReport]) {
    let secrets = found.iter_mut().filter(|report| report.kind == "Secret");
    for report in secrets {
        without_secrets(&mut report.object);
    }
}

/// Takes the values out of a Secret: keys of gateways do not leave the machine by the API.
fn without_secrets(object: &mut serde_json::Value) {
    for part in ["data", "stringData"] {
        let values = object.get_mut(part).and_then(|part| part.as_object_mut());
        for (_, value) in values.into_iter().flatten() {
            *value = "***".into();
        }
    }
    // What kubectl notes of an object is the object again.
    let noted = object.pointer_mut("/metadata/annotations");
    if let Some(noted) = noted.and_then(|noted| noted.as_object_mut()) {
        noted.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}
