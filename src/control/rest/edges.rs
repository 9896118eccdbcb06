//! Who calls whom, and what protects that.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};

use super::stats::seconds;
use super::{Answer, Parameters, Shared, encode, find_service, in_parts, short, space};
use crate::aggregate::Asked;
use crate::aggregate::links::MOST_MS;
use crate::api::{Problem, Reason};
use crate::control::series::Numbers;
use crate::mesh::World;

pub(super) async fn edges(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<serde_json::Value> {
    let world = control.index.world();
    let window_ms = seconds(&parameters)?.saturating_mul(1_000);
    if window_ms > MOST_MS {
        let minutes = MOST_MS / 60_000;
        return Err(Problem::new(
            Reason::Invalid,
            format!("edges are known for the last {minutes} minutes"),
        )
        .hint("a shorter window; `meshctl stats` looks further back")
        .into());
    }
    let end = |key| end(&control.numbers, &world, &parameters, key);
    let asked = Asked {
        window_ms,
        around: end("service")?,
        from: end("from")?,
        to: end("to")?,
        namespace: parameters.get("only").cloned(),
        insecure: parameters.get("insecure").is_some_and(|on| on == "true"),
    };
    let answer = if in_parts(&parameters) {
        encode(&control.numbers.linked(&asked))
    } else {
        encode(&control.numbers.edges(&asked))
    };
    Ok(Json(answer?))
}

/// A service or workload that is asked about, as edges name it.
fn end(
    numbers: &Numbers,
    world: &World,
    parameters: &BTreeMap<String, String>,
    key: &str,
) -> Result<Option<String>, Problem> {
    let Some(name) = parameters.get(key).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let namespace = space(parameters);
    if let Some(service) = find_service(world, name, namespace) {
        return Ok(Some(short(service)));
    }
    let qualified = if name.contains('.') {
        name.clone()
    } else {
        format!("{name}.{namespace}")
    };
    let runs = world
        .instances
        .values()
        .any(|instance| format!("{}.{}", instance.workload, instance.namespace) == qualified);
    if runs {
        return Ok(Some(qualified));
    }
    // Hosts outside the mesh, and what is gone by now.
    let seen = numbers.edges(&Asked {
        window_ms: MOST_MS,
        ..Asked::default()
    });
    [name.clone(), qualified]
        .into_iter()
        .find(|name| {
            let mut rows = seen.edges.iter();
            rows.any(|row| {
                [&row.source, &row.destination, &row.destination_workload].contains(&name)
            })
        })
        .map(Some)
        .ok_or_else(|| {
            Problem::new(
                Reason::NotFound,
                format!("there is no service or workload {name} in namespace {namespace}"),
            )
            .hint("`meshctl services` and `meshctl endpoints` list what there is; NAME.NAMESPACE for another namespace")
        })
}
