//! Answers to copies of calls, compared with those that callers got.

use axum::Json;
use axum::extract::{Query, State};

use super::stats::seconds;
use super::{Answer, Parameters, Shared, named, short};
use crate::aggregate::shadows::MOST_MS;
use crate::api::shadow::ShadowReport;
use crate::api::{Problem, Reason};

pub(super) async fn shadows(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<ShadowReport> {
    let world = control.index.world();
    let service = named(&world, &parameters)?.map(short);
    let window_ms = seconds(&parameters)?.saturating_mul(1_000);
    if window_ms > MOST_MS {
        let minutes = MOST_MS / 60_000;
        return Err(Problem::new(
            Reason::Invalid,
            format!("comparisons are known for the last {minutes} minutes"),
        )
        .hint("a shorter window")
        .into());
    }
    Ok(Json(control.numbers.shadows(service.as_deref(), window_ms)))
}
