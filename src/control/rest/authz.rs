//! Who may call whom.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Query, State};

use super::{Answer, Shared, named, short, space};
use crate::aggregate::{GroupBy, Query as Asked};
use crate::api::authz::{AuthzCheck, AuthzReport, AuthzSuggestion};
use crate::api::{Problem, Reason};
use crate::control::report::authz::{self, CheckError};

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
        from: None,
        by: GroupBy::Source,
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
