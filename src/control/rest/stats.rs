//! Golden signals, over a window and over time.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};

use super::{Answer, Parameters, Shared, encode, in_parts, is_of, named, short, space};
use crate::aggregate::{self, Class, GroupBy};
use crate::api::ejections::count;
use crate::api::{Problem, Reason};
use crate::control::Control;

pub(super) async fn stats(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<serde_json::Value> {
    let query = query(&control, &parameters)?;
    let parts = parts(&control, &query, &parameters);
    // Who asks several replicas adds up what each counted.
    let answer = if in_parts(&parameters) {
        encode(&parts)
    } else {
        let mut report = parts.report();
        let world = control.index.world();
        let by_source = query.by.contains(&GroupBy::Source);
        count(
            &mut report.rows,
            by_source,
            &control.numbers.ejected(&world, None),
        );
        encode(&report)
    };
    Ok(Json(answer?))
}

pub(super) async fn series(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<serde_json::Value> {
    let mut query = query(&control, &parameters)?;
    query.step_ms = number(&parameters, "step", 1)?.saturating_mul(1_000);
    let parts = parts(&control, &query, &parameters);
    let answer = if in_parts(&parameters) {
        encode(&parts)
    } else {
        encode(&parts.points())
    };
    Ok(Json(answer?))
}

fn parts(
    control: &Control,
    query: &aggregate::Query,
    parameters: &BTreeMap<String, String>,
) -> aggregate::query::Parts {
    let mut parts = control.numbers.parts(query);
    if let (None, Some(namespace)) = (&query.service, parameters.get("namespace")) {
        let world = control.index.world();
        parts.retain(|service| is_of(&world, service, namespace));
    }
    parts
}

/// What is asked for.
fn query(
    control: &Control,
    parameters: &BTreeMap<String, String>,
) -> Result<aggregate::Query, Problem> {
    let world = control.index.world();
    let service = named(&world, parameters)?.map(short);
    let given = |key: &str| parameters.get(key).filter(|value| !value.is_empty());
    let qualified = |name: &String| {
        if name.contains('.') {
            name.clone()
        } else {
            format!("{name}.{}", space(parameters))
        }
    };
    // The end is a moment or, as it is for `edges`, what is called.
    let moment = given("to").and_then(|to| to.parse().ok());
    let to = given("to").filter(|_| moment.is_none()).map(qualified);
    let class = given("code").map(|code| {
        Class::parse(code).ok_or_else(|| {
            Problem::new(Reason::Invalid, format!("{code:?} is no class of answers"))
                .hint("one of 1xx, 2xx, 3xx, 4xx, 5xx, none")
        })
    });
    Ok(aggregate::Query {
        window_ms: seconds(parameters)?.saturating_mul(1_000),
        to_unix_ms: moment,
        step_ms: 0,
        service: service.or(to),
        from: given("from").map(qualified),
        version: given("version").cloned(),
        route: given("route").cloned(),
        class: class.transpose()?,
        by: groups(given("by").map_or("", String::as_str))?,
    })
}

/// What rows are told apart by, from a list with commas between.
fn groups(by: &str) -> Result<Vec<GroupBy>, Problem> {
    let mut groups = Vec::new();
    for name in by.split(',').map(str::trim) {
        let group: &[GroupBy] = match name {
            "" | "service" => &[],
            "version" => &[GroupBy::Version],
            "source" => &[GroupBy::Source],
            "route" => &[GroupBy::Route],
            "code" => &[GroupBy::Class],
            // What answers a route: a version of a service.
            "backend" => &[GroupBy::Route, GroupBy::Version],
            other => {
                return Err(Problem::new(
                    Reason::Invalid,
                    format!("rows cannot be told apart by {other:?}"),
                )
                .hint(
                    "some of service, version, source, route, backend, code, with commas between",
                ));
            }
        };
        groups.extend_from_slice(group);
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}

/// Length of the window.
pub(super) fn seconds(parameters: &BTreeMap<String, String>) -> Result<u64, Problem> {
    number(parameters, "window", 60)
}

/// A number of seconds.
fn number(parameters: &BTreeMap<String, String>, key: &str, default: u64) -> Result<u64, Problem> {
    let Some(text) = parameters.get(key) else {
        return Ok(default);
    };
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| {
        Problem::new(
            Reason::Invalid,
            format!("{text:?} is not a number of seconds"),
        )
    })
}
