//! FaultInjection: calls of a service that go wrong on purpose, until a time.

use std::sync::Arc;
use std::time::Duration;

use super::FaultInjection;
use crate::mesh::filter::{Abort, AbortWith, Delay, Fault};
use crate::mesh::route::{HeaderMatch, Share};
use crate::resource::istio::{header_name, text_match};
use crate::resource::reader::{Fields, Value};

/// Names of gRPC's statuses, in the order of their numbers.
const STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The number of a gRPC status, by its name or as a number.
pub fn grpc_status(text: &str) -> Option<u8> {
    let named = STATUSES
        .iter()
        .position(|name| name.eq_ignore_ascii_case(text));
    let number = named.and_then(|at| u8::try_from(at).ok());
    number.or_else(|| {
        text.parse()
            .ok()
            .filter(|number| usize::from(*number) < STATUSES.len())
    })
}

/// The name of a gRPC status.
pub fn grpc_name(number: u8) -> Option<&'static str> {
    STATUSES.get(usize::from(number)).copied()
}

pub(in crate::resource) fn fault_injection(fields: &Fields<'_>) -> FaultInjection {
    let mut injection = FaultInjection::default();
    let Some(value) = fields.require("spec") else {
        return injection;
    };
    let spec = value.fields();
    if let Some(service) = spec.get("service") {
        injection.service = service.text().unwrap_or_default();
    } else {
        value.error_hint("field \"service\" is missing", "service: reviews");
    }
    if let Some(value) = spec.get("until") {
        injection.until_unix_ms = time(&value).unwrap_or_default();
    } else {
        value.error_hint(
            "field \"until\" is missing: a fault has an end",
            "until: \"2030-01-31T12:00:00Z\", or `meshctl fault inject … --for 5m`",
        );
    }
    let share = match spec.get("percent") {
        Some(value) => value.percent().unwrap_or_default(),
        None => Share::default(),
    };
    let mut fault = Fault {
        delay: spec
            .get("delay")
            .and_then(|value| delay(&value))
            .map(|time| Delay { time, share }),
        abort: spec
            .get("abort")
            .and_then(|value| abort(&value))
            .map(|with| Abort { with, share }),
        ..Fault::default()
    };
    if let Some(written) = spec.get("headers") {
        for (name, value) in written.entries() {
            if let (Some(name), Some(text)) = (header_name(&value, name), text_match(&value)) {
                fault.headers.push(HeaderMatch {
                    name,
                    value: text,
                    invert: false,
                });
            }
        }
    }
    if value.tree.get("delay").is_none() && value.tree.get("abort").is_none() {
        value.error_hint(
            "the fault does nothing",
            "delay: 2s, or abort: {httpStatus: 503}",
        );
    }
    spec.finish();
    injection.fault = Arc::new(fault);
    injection
}

fn time(value: &Value<'_>) -> Option<u64> {
    let text = value.text()?;
    let read = text.parse::<jiff::Timestamp>().ok();
    let millis = read.and_then(|at| u64::try_from(at.as_millisecond()).ok());
    if millis.is_none() {
        value.error_hint(
            format!("{text:?} is not a time"),
            "write it as RFC 3339 does, such as 2030-01-31T12:00:00Z",
        );
    }
    millis
}

fn delay(value: &Value<'_>) -> Option<Duration> {
    let time = value.duration()?;
    if time.is_zero() {
        value.error_hint("a delay takes time", "delay: 500ms");
        return None;
    }
    Some(time)
}

fn abort(value: &Value<'_>) -> Option<AbortWith> {
    let fields = value.fields();
    let (http, grpc) = (fields.get("httpStatus"), fields.get("grpcStatus"));
    fields.finish();
    match (http, grpc) {
        (Some(http), None) => {
            let status = http.integer(200, 599)?;
            u16::try_from(status).ok().map(AbortWith::Http)
        }
        (None, Some(grpc)) => {
            let text = grpc.text()?;
            let status = grpc_status(&text);
            if status.is_none() {
                grpc.error_hint(
                    format!("{text:?} is not a status of gRPC"),
                    "grpcStatus: UNAVAILABLE",
                );
            }
            status.map(AbortWith::Grpc)
        }
        _ => {
            value.error_hint(
                "an abort has one status, of HTTP or of gRPC",
                "{httpStatus: 503} or {grpcStatus: UNAVAILABLE}",
            );
            None
        }
    }
}
