//! Faults that a route injects.

use std::sync::Arc;

use super::percent::percentage;
use crate::mesh::filter::{Abort, AbortWith, Delay, Fault};
use crate::mesh::route::Share;
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};

/// gRPC's names of its statuses, in their order.
const GRPC: [(&str, u8); 17] = [
    ("OK", 0),
    ("CANCELLED", 1),
    ("UNKNOWN", 2),
    ("INVALID_ARGUMENT", 3),
    ("DEADLINE_EXCEEDED", 4),
    ("NOT_FOUND", 5),
    ("ALREADY_EXISTS", 6),
    ("PERMISSION_DENIED", 7),
    ("RESOURCE_EXHAUSTED", 8),
    ("FAILED_PRECONDITION", 9),
    ("ABORTED", 10),
    ("OUT_OF_RANGE", 11),
    ("UNIMPLEMENTED", 12),
    ("INTERNAL", 13),
    ("UNAVAILABLE", 14),
    ("DATA_LOSS", 15),
    ("UNAUTHENTICATED", 16),
];

/// One that says nothing is for no request.
pub(super) fn fault(value: &Value<'_>) -> Arc<Fault> {
    let fields = value.fields();
    let (delay_at, abort_at) = (fields.get("delay"), fields.get("abort"));
    fields.finish();
    if delay_at.is_none() && abort_at.is_none() {
        value.error_hint(
            "a fault needs a delay or an abort",
            "delay: {fixedDelay: 5s, percentage: {value: 10}}",
        );
    }
    Arc::new(Fault {
        delay: delay_at.and_then(|value| delay(&value)),
        abort: abort_at.and_then(|value| abort(&value)),
        ..Fault::default()
    })
}

/// Of how many requests; without a word of none, as in Istio.
fn share(fields: &Fields<'_>, what: &str) -> Option<Share> {
    let written = fields
        .value
        .tree
        .get("percentage")
        .or(fields.value.tree.get("percent"));
    let share = percentage(fields, "percentage", Some("percent")).map(|(_, share)| share);
    if written.is_none() {
        fields.value.warn(
            codes::SCHEMA_WARNING,
            format!("without a percentage no request is {what}"),
            "percentage: {value: 100} is all of them",
        );
    }
    share.filter(|share| share.parts > 0)
}

fn delay(value: &Value<'_>) -> Option<Delay> {
    let fields = value.fields();
    let share = share(&fields, "delayed");
    let fixed = fields.get("fixedDelay");
    let exponential = fields.get("exponentialDelay");
    if let Some(value) = &exponential {
        value.refuse(
            "\"exponentialDelay\" is not honoured by meshctl, nor by Istio",
            "write fixedDelay",
        );
    }
    if fixed.is_none() && exponential.is_none() {
        value.error_hint("a delay needs its time", "fixedDelay: 5s");
    }
    let time = fixed.and_then(|value| {
        let time = value.duration()?;
        if time.is_zero() {
            value.error("a delay of nothing is none");
        }
        Some(time)
    });
    fields.finish();
    Some(Delay {
        time: time?,
        share: share?,
    })
}

fn abort(value: &Value<'_>) -> Option<Abort> {
    let fields = value.fields();
    let share = share(&fields, "aborted");
    let http = fields.get("httpStatus").map(|value| {
        value
            .integer(200, 599)
            .and_then(|status| u16::try_from(status).ok())
            .map(AbortWith::Http)
    });
    let grpc = fields
        .get("grpcStatus")
        .map(|value| value.choice(&GRPC).map(AbortWith::Grpc));
    let http2 = fields.get("http2Error");
    if let Some(value) = &http2 {
        value.refuse(
            "\"http2Error\" is not honoured by meshctl, nor by Istio",
            "write httpStatus or grpcStatus",
        );
    }
    match (&http, &grpc) {
        (Some(_), Some(_)) => value.error_hint(
            "an abort has one status",
            "callers of the other kind are told what it stands for",
        ),
        (None, None) if http2.is_none() => {
            value.error_hint("an abort needs its status", "httpStatus: 503");
        }
        _ => {}
    }
    fields.finish();
    Some(Abort {
        with: http.or(grpc).flatten()?,
        share: share?,
    })
}
