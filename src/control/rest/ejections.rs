//! Endpoints that proxies have ejected.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};

use super::{Answer, Parameters, Refused, Shared, is_of, named};
use crate::api::ejections::EjectionReport;
use crate::control::Control;

pub(super) async fn ejections(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<Vec<EjectionReport>> {
    Ok(Json(asked(&control, &parameters)?))
}

/// Those of the service or the namespace that is asked for.
pub(super) fn asked(
    control: &Control,
    parameters: &BTreeMap<String, String>,
) -> Result<Vec<EjectionReport>, Refused> {
    let world = control.index.world();
    let only = named(&world, parameters)?;
    let mut rows = control.numbers.ejected(&world, only);
    if let (None, Some(namespace)) = (only, parameters.get("namespace")) {
        rows.retain(|row| is_of(&world, &row.service, namespace));
    }
    Ok(rows)
}
