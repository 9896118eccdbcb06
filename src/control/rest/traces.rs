//! Traces that are kept.

use axum::Json;
use axum::extract::{Path, Query, State};

use super::{Answer, Parameters, Shared, space};
use crate::aggregate::traces::Wanted;
use crate::api::traces::{TraceReport, TracesReport};
use crate::api::{Problem, Reason};

/// As many as are listed where nobody says, and at most.
const USUAL: usize = 50;
const MOST: usize = 1_000;

pub(super) async fn list(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<TracesReport> {
    let number = |key: &str| -> Result<Option<u64>, Problem> {
        let Some(text) = parameters.get(key).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let read = text.parse().map_err(|_| {
            let message = format!("{key} is a whole number, and {text:?} is none");
            Problem::new(Reason::Invalid, message)
        });
        read.map(Some)
    };
    let least = number("minDurationMs")?.unwrap_or(0);
    let limit = number("limit")?.map_or(USUAL, |limit| usize::try_from(limit).unwrap_or(MOST));
    let service = parameters.get("service").filter(|name| !name.is_empty());
    let wanted = Wanted {
        service: service.map(|name| {
            if name.contains('.') {
                name.clone()
            } else {
                format!("{name}.{}", space(&parameters))
            }
        }),
        min_duration_us: least.saturating_mul(1_000),
        errors: parameters.get("errors").is_some_and(|on| on == "true"),
        limit: limit.min(MOST),
    };
    Ok(Json(control.traces.list(&wanted)))
}

pub(super) async fn one(State(control): Shared, Path(id): Path<String>) -> Answer<TraceReport> {
    let digits = id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(&id, 16).ok().filter(|_| digits);
    let number = number.ok_or_else(|| {
        Problem::new(
            Reason::Invalid,
            format!("{id:?} is not the number of a trace"),
        )
        .hint("32 hexadecimal digits, as `meshctl traces` lists them")
    })?;
    let found = control.traces.get(number).ok_or_else(|| {
        Problem::new(Reason::NotFound, format!("there is no trace {id}")).hint(
            "one of about a hundred calls is sampled, and the oldest traces go first; `meshctl traces` lists those that are kept",
        )
    })?;
    Ok(Json(found))
}
