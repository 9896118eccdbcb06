//! Which replicas a question is for, and one answer of several.
//!
//! | asked | answered by |
//! |---|---|
//! | what changes something, tokens, who may use the API | the replica that writes |
//! | `proxies`, `config`, `audit`, registered instances | every replica: each knows who is connected to it |
//! | `ejections` | every replica: each knows what its proxies leave out; `endpoints` and `stats` get it put in |
//! | `stats`, `series`, `edges`, `shadow` | every replica: proxies tell numbers to the one that they are connected to; counts are added before percentages and percentiles are made |
//! | rollouts | the writer, which drives them |
//! | `tap` | every replica: each tells what its proxies tell, for as long as all of them are there |
//! | `traces` | every replica: each keeps the spans of its own proxies, and a trace is put together from all |
//! | canaries | the writer; what was measured is put in from all, as for `stats` |
//! | everything else (services, endpoints, routes, resources, findings, …) | any: all replicas follow the same cluster |
//!
//! What `routes` measured is one replica's, so it is left out of an answer when there are several.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::aggregate::edges::Parts as Linked;
use crate::aggregate::query::Parts;
use crate::aggregate::traces;
use crate::api::PREFIX;
use crate::api::ejections::{self, EjectionReport};
use crate::api::registry::EndpointReport;
use crate::api::shadow::ShadowReport;
use crate::api::stats::StatsReport;
use crate::cli::client::Asked;
use crate::cli::error::CliError;

use super::Answered;

/// Whom a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    Any,
    Leader,
    Every(How),
}

/// How answers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Lists are put one behind the other.
    Lists,
    /// The one that knows it.
    Known,
    /// Counts are added.
    Stats,
    /// The same, point by point.
    Series,
    /// What both ends of connections say is put together first.
    Edges,
    /// Counts are added, as reports have them.
    Shadows,
    /// What each has of a trace is put together.
    Traces,
    /// The spans of one trace.
    Trace,
}

impl Whom {
    pub(super) fn of(method: &Method, path: &str) -> Self {
        let path = path.split('?').next().unwrap_or_default();
        let path = path.strip_prefix(PREFIX).unwrap_or(path);
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        if *method != Method::GET {
            return match parts.as_slice() {
                ["diff" | "analyze"] | ["routes", "explain"] | ["authz", "check"] => Self::Any,
                _ => Self::Leader,
            };
        }
        match parts.as_slice() {
            ["proxies" | "audit" | "ejections"] | ["registry", "instances"] => {
                Self::Every(How::Lists)
            }
            ["proxies", _, "config", _] => Self::Every(How::Known),
            ["stats"] => Self::Every(How::Stats),
            ["series"] => Self::Every(How::Series),
            ["edges"] => Self::Every(How::Edges),
            ["shadows"] => Self::Every(How::Shadows),
            ["tokens" | "access"] | ["rollouts", ..] => Self::Leader,
            ["traces"] => Self::Every(How::Traces),
            ["traces", _] => Self::Every(How::Trace),
            _ => Self::Any,
        }
    }
}

impl How {
    /// What each replica is asked.
    pub(super) fn question<'a>(self, asked: &Asked<'a>) -> Asked<'a> {
        let mut asked = asked.clone();
        if matches!(self, Self::Stats | Self::Series | Self::Edges) {
            let separator = if asked.path.contains('?') { '&' } else { '?' };
            asked.path = format!("{}{separator}parts=true", asked.path).into();
        }
        asked
    }

    /// One answer of `answers`, of which there is at least one.
    pub(super) fn merge(self, answers: Vec<Answered>) -> Result<Answered, CliError> {
        let (good, bad): (Vec<Answered>, Vec<Answered>) = answers
            .into_iter()
            .partition(|(status, _)| status.is_success());
        let Some(first) = good.first() else {
            // All say no, mostly for the same reason.
            let refused = bad.into_iter().next();
            return refused.ok_or_else(|| CliError::failed("no replica answered"));
        };
        if self == Self::Known {
            return Ok(first.clone());
        }
        // One that is behind the others may not know yet what is asked about; it has nothing to add.
        let bodies: Vec<Bytes> = good.iter().map(|(_, body)| body.clone()).collect();
        let merged = match self {
            Self::Lists => {
                let lists: Vec<Vec<Value>> = read(&bodies)?;
                Value::Array(lists.into_iter().flatten().collect())
            }
            Self::Stats => {
                let parts: Vec<Parts> = read(&bodies)?;
                written(&Parts::sum(parts).report())?
            }
            Self::Series => {
                let parts: Vec<Parts> = read(&bodies)?;
                written(&Parts::sum(parts).points())?
            }
            Self::Edges => {
                let parts: Vec<Linked> = read(&bodies)?;
                written(&Linked::sum(parts).report())?
            }
            Self::Shadows => written(&ShadowReport::sum(read::<ShadowReport>(&bodies)?))?,
            Self::Traces => written(&traces::sum(read(&bodies)?))?,
            Self::Trace => written(&traces::whole(read(&bodies)?))?,
            Self::Known => Value::Null,
        };
        Ok((StatusCode::OK, Bytes::from(merged.to_string())))
    }
}

fn read<T: DeserializeOwned>(bodies: &[Bytes]) -> Result<Vec<T>, CliError> {
    let read = bodies.iter().map(|body| serde_json::from_slice(body));
    read.collect::<Result<_, _>>().map_err(no_sense)
}

fn written(report: &impl Serialize) -> Result<Value, CliError> {
    serde_json::to_value(report).map_err(no_sense)
}

fn no_sense(error: serde_json::Error) -> CliError {
    CliError::Answer {
        request: "a question for every replica".to_owned(),
        reason: error.to_string(),
    }
}

/// Adds how other proxies took a change. The median of all is not known from medians, so the later one stands.
pub(super) fn add_convergence(to: &mut Value, more: &Value) {
    let count = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64).unwrap_or_default();
    let millis = |of: &Value, key: &str| of.get(key).and_then(Value::as_f64).unwrap_or_default();
    let mut rejected: Vec<Value> = Vec::new();
    for of in [&*to, more] {
        let list = of.get("rejected").and_then(Value::as_array);
        rejected.extend(list.into_iter().flatten().cloned());
    }
    *to = json!({
        "proxies": count(to, "proxies") + count(more, "proxies"),
        "acknowledged": count(to, "acknowledged") + count(more, "acknowledged"),
        "rejected": rejected,
        "medianMs": millis(to, "medianMs").max(millis(more, "medianMs")),
        "lastMs": millis(to, "lastMs").max(millis(more, "lastMs")),
    });
}

/// Whether an answer of one replica has in it what only all have measured.
pub(super) fn measures(asked: &Asked<'_>) -> Option<Measured> {
    let path = asked.path.split('?').next().unwrap_or_default();
    match path.strip_prefix(PREFIX)?.split('/').nth(1)? {
        "canaries" if asked.method == Method::GET => Some(Measured::Versions),
        "endpoints" => Some(Measured::Ejections),
        "routes" => Some(Measured::Backends),
        _ => None,
    }
}

/// What of an answer is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measured {
    /// Of canaries: by version.
    Versions,
    /// Of routes: by backend.
    Backends,
    /// Of endpoints: who leaves them out.
    Ejections,
}

/// Puts into endpoints what proxies of all replicas leave out.
pub(super) fn put_ejections(endpoints: Value, ejections: &Bytes) -> Result<Value, CliError> {
    let mut rows: Vec<EndpointReport> = serde_json::from_value(endpoints).map_err(no_sense)?;
    let ejections: Vec<EjectionReport> = serde_json::from_slice(ejections).map_err(no_sense)?;
    ejections::mark(&mut rows, &ejections);
    written(&rows)
}

/// Counts them in what `asked` for statistics.
pub(super) fn count_ejections(
    asked: &Asked<'_>,
    stats: &Bytes,
    ejections: &Bytes,
) -> Result<Bytes, CliError> {
    let mut report: StatsReport = serde_json::from_slice(stats).map_err(no_sense)?;
    let ejections: Vec<EjectionReport> = serde_json::from_slice(ejections).map_err(no_sense)?;
    let query = asked.path.split_once('?').map_or("", |(_, query)| query);
    let by = query.split('&').find_map(|part| part.strip_prefix("by="));
    let by_source = by.is_some_and(|by| by.contains("source"));
    ejections::count(&mut report.rows, by_source, &ejections);
    Ok(Bytes::from(written(&report)?.to_string()))
}

/// Takes out what one replica measured of backends.
pub(super) fn without_shares(of: &mut Value) {
    match of {
        Value::Object(fields) => {
            fields.remove("measuredPercent");
            fields.values_mut().for_each(without_shares);
        }
        Value::Array(list) => list.iter_mut().for_each(without_shares),
        _ => {}
    }
}

/// Puts into statuses of canaries what all replicas measured: rows of `stats` by version over the last minute.
pub(super) fn put_shares(of: &mut Value, rows: &[Value]) {
    let statuses = match of {
        Value::Array(list) => list.iter_mut().collect::<Vec<_>>(),
        one => vec![one],
    };
    for status in statuses {
        let service = status.get("service").cloned();
        let own: Vec<&Value> = rows
            .iter()
            .filter(|row| row.get("service") == service.as_ref())
            .collect();
        let requests = |row: &Value| row.get("requests").and_then(Value::as_u64).unwrap_or(0);
        let total: u64 = own.iter().map(|row| requests(row)).sum();
        let versions = status.get_mut("versions").and_then(Value::as_array_mut);
        for version in versions.into_iter().flatten() {
            let name = version.get("version").cloned();
            let row = own.iter().find(|row| row.get("version") == name.as_ref());
            let Value::Object(fields) = version else {
                continue;
            };
            let of_row = |key: &str| row.and_then(|row| row.get(key)).cloned();
            let share =
                crate::aggregate::report::percent(row.map_or(0, |row| requests(row)), total);
            for (key, value) in [
                ("measuredPercent", share.map(Value::from)),
                (
                    "requestsPerSecond",
                    Some(of_row("requestsPerSecond").unwrap_or_else(|| json!(0.0))),
                ),
                ("successPercent", of_row("successPercent")),
                ("latencyP99Ms", of_row("latencyP99Ms")),
            ] {
                match value {
                    Some(value) => fields.insert(key.to_owned(), value),
                    None => fields.remove(key),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_question_is_for() {
        let whom = |method: Method, path: &str| Whom::of(&method, &format!("{PREFIX}{path}"));
        assert_eq!(whom(Method::GET, "/services"), Whom::Any);
        assert_eq!(whom(Method::POST, "/diff"), Whom::Any);
        assert_eq!(whom(Method::POST, "/canaries/a/b"), Whom::Leader);
        assert_eq!(whom(Method::GET, "/proxies"), Whom::Every(How::Lists));
        assert_eq!(whom(Method::GET, "/ejections"), Whom::Every(How::Lists));
        assert_eq!(
            whom(Method::GET, "/proxies/a.b/config/all"),
            Whom::Every(How::Known)
        );
        assert_eq!(
            whom(Method::GET, "/stats?window=9"),
            Whom::Every(How::Stats)
        );
        assert_eq!(
            whom(Method::GET, "/series?window=9"),
            Whom::Every(How::Series)
        );
    }

    #[test]
    fn a_canary_is_measured_by_all() {
        let mut status = json!({"service": "a.b", "versions": [
            {"version": "v1", "requestsPerSecond": 1.0, "measuredPercent": 100.0},
            {"version": "v2", "requestsPerSecond": 0.0},
        ]});
        let rows = [
            json!({"service": "a.b", "version": "v1", "requests": 30, "requestsPerSecond": 0.5}),
            json!({"service": "a.b", "version": "v2", "requests": 10, "requestsPerSecond": 0.2, "successPercent": 50.0}),
            json!({"service": "c.d", "version": "v2", "requests": 99, "requestsPerSecond": 9.0}),
        ];
        put_shares(&mut status, &rows);
        assert_eq!(status["versions"][0]["measuredPercent"], 75.0);
        assert_eq!(status["versions"][1]["successPercent"], 50.0);
        assert_eq!(status["versions"][1]["requestsPerSecond"], 0.2);
    }

    #[test]
    fn ejections_of_all_are_put_in() {
        let ejection = |proxy: &str| {
            json!({"service": "a.b", "port": 80, "address": "10.0.0.1:80", "version": "v1", "proxy": proxy,
                "workload": "c.b", "reason": "consecutive_5xx", "sinceUnixMs": 1, "untilUnixMs": 2})
        };
        let ejections = Bytes::from(json!([ejection("c-1.b"), ejection("c-2.b")]).to_string());
        let endpoint = |address: &str| {
            json!({"service": "a.b", "port": 80, "address": address, "instance": "a-1", "version": "v1",
                "health": "healthy", "mtls": true, "weight": 1})
        };
        let rows = json!([endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80")]);
        let rows = put_ejections(rows, &ejections).unwrap();
        assert_eq!(rows[0]["ejectedBy"][1]["proxy"], "c-2.b");
        assert_eq!(rows[1].get("ejectedBy"), None);
        let stats = json!({"windowSeconds": 60, "atUnixMs": 1, "rows": [{"service": "a.b"}]});
        let stats = Bytes::from(stats.to_string());
        let counted = |path: &str| {
            let bytes = count_ejections(&Asked::get(path), &stats, &ejections).unwrap();
            let report: Value = serde_json::from_slice(&bytes).unwrap();
            report["rows"][0]["ejectedEndpoints"].clone()
        };
        assert_eq!(counted("/api/v1/stats?window=60"), 1);
        assert_eq!(counted("/api/v1/stats?by=source&window=60"), 0);
    }

    #[test]
    fn convergence_adds_up() {
        let mut sum = json!({"proxies": 1, "acknowledged": 1, "rejected": [], "medianMs": 2.0, "lastMs": 2.0});
        add_convergence(
            &mut sum,
            &json!({"proxies": 2, "acknowledged": 1, "rejected": ["x: no"], "medianMs": 1.0, "lastMs": 9.0}),
        );
        assert_eq!(
            sum,
            json!({"proxies": 3, "acknowledged": 2, "rejected": ["x: no"], "medianMs": 2.0, "lastMs": 9.0})
        );
    }
}
