//! Calls as they happen, a line each.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::peer::Peer;
use super::{Parameters, Refused, Shared, space};
use crate::api::access::Role;
use crate::api::identity::AuditEvent;
use crate::api::{Problem, Reason};
use crate::control::tap::ask::{MOST_RATE, RATE, status};
use crate::control::tap::{Asked, End, Reading};
use crate::mesh::World;

/// An empty line in this time shows whether anybody reads.
const ALIVE: Duration = Duration::from_secs(5);

pub(super) async fn tap(
    State(control): Shared,
    Query(parameters): Parameters,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Response, Refused> {
    let asked = asked(&control.index.world(), &parameters)?;
    if !asked.show.is_empty() || asked.query || asked.header.is_some() {
        private(&control, &peer, &asked).await?;
    }
    let most = number(&parameters, "max")?;
    let reading = control.taps.open(asked)?;
    let lines = futures_util::stream::unfold((reading, most), line);
    let kind = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// Fields and queries may hold what lets somebody in: who looks at them may change the mesh, and it is noted.
async fn private(control: &super::Control, peer: &Peer, asked: &Asked) -> Result<(), Problem> {
    let by = peer.for_whom("");
    if peer.role() < Role::Operator {
        let message = format!(
            "{by} is a {}, and fields and queries of requests are for an {}",
            peer.role(),
            Role::Operator
        );
        return Err(Problem::new(Reason::Denied, message)
            .hint("leave out header, headers and query, or use a token with the role operator"));
    }
    let mut detail = "GET /tap with".to_owned();
    if asked.query {
        detail.push_str(" queries");
    }
    for name in asked
        .show
        .iter()
        .chain(asked.header.iter().map(|(name, _)| name))
    {
        detail.push(' ');
        detail.push_str(name);
    }
    control.trust.note(AuditEvent::ApiRead, &by, detail).await
}

async fn line(
    (mut reading, most): (Reading, Option<u64>),
) -> Option<(Result<Vec<u8>, Infallible>, (Reading, Option<u64>))> {
    if most == Some(0) {
        return None;
    }
    let mut left = most;
    let mut text = match tokio::time::timeout(ALIVE, reading.next()).await {
        Ok(Some(call)) => {
            left = left.map(|left| left - 1);
            serde_json::to_vec(&call).ok()?
        }
        Ok(None) => return None,
        Err(_) => Vec::new(),
    };
    text.push(b'\n');
    Some((Ok(text), (reading, left)))
}

fn given<'p>(parameters: &'p BTreeMap<String, String>, name: &str) -> Option<&'p str> {
    let value = parameters.get(name).map(String::as_str);
    value.filter(|value| !value.is_empty())
}

fn number(parameters: &BTreeMap<String, String>, name: &str) -> Result<Option<u64>, Problem> {
    let Some(text) = given(parameters, name) else {
        return Ok(None);
    };
    let number = text.parse().ok().filter(|number| *number > 0);
    let wrong = || {
        Problem::new(
            Reason::Invalid,
            format!("{name} is a number above 0, not {text:?}"),
        )
    };
    number.map(Some).ok_or_else(wrong)
}

fn asked(world: &World, parameters: &BTreeMap<String, String>) -> Result<Asked, Problem> {
    let namespace = space(parameters);
    let end = |name: &str| {
        match given(parameters, name) {
        None => Ok(None),
        Some(named) => End::named(world, named, namespace).map(Some).ok_or_else(|| {
            Problem::new(
                Reason::NotFound,
                format!("there is no service or workload {named} in namespace {namespace}"),
            )
            .hint("`meshctl services` and `meshctl endpoints` list what there is; NAME.NAMESPACE for another namespace")
        }),
    }
    };
    let rate = number(parameters, "rate")?.map_or(Ok(RATE), |rate| {
        let rate = u32::try_from(rate).ok().filter(|rate| *rate <= MOST_RATE);
        rate.ok_or_else(|| {
            Problem::new(
                Reason::Invalid,
                format!("rate is at most {MOST_RATE} a second"),
            )
        })
    })?;
    let status = given(parameters, "status").map_or(Ok(None), |text| {
        let read = status(text).map(Some);
        read.ok_or_else(|| {
            Problem::new(Reason::Invalid, format!("{text:?} is not a status"))
                .hint("one such as 503, 5xx or 200-299")
        })
    })?;
    let header = given(parameters, "header").map_or(Ok(None), |text| {
        let parts = text
            .split_once(':')
            .filter(|(name, _)| is_name(name.trim()));
        let parts =
            parts.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        parts
            .map(Some)
            .ok_or_else(|| Problem::new(Reason::Invalid, format!("{text:?} is not NAME:VALUE")))
    })?;
    let mut show = Vec::new();
    for name in given(parameters, "headers")
        .into_iter()
        .flat_map(|names| names.split(','))
    {
        let name = name.trim().to_ascii_lowercase();
        if !is_name(&name) {
            return Err(Problem::new(
                Reason::Invalid,
                format!("{name:?} is not the name of a field"),
            ));
        }
        show.push(name);
    }
    let asked = Asked {
        around: end("service")?,
        from: end("from")?,
        to: end("to")?,
        path: given(parameters, "path").map(str::to_owned),
        method: given(parameters, "method").map(str::to_ascii_uppercase),
        status,
        header,
        min_latency: number(parameters, "minLatencyMs")?.map(Duration::from_millis),
        show,
        query: given(parameters, "query") == Some("true"),
        rate,
    };
    if asked.fits() {
        Ok(asked)
    } else {
        Err(Problem::new(
            Reason::Invalid,
            "what is asked for is too long",
        ))
    }
}

fn is_name(name: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(of_name)
}
