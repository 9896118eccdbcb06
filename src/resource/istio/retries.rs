//! Retries of routes.

use crate::mesh::route::{Retry, RetryOn};
use crate::resource::codes;
use crate::resource::reader::Value;
use crate::resource::suggest::nearest;

pub(super) fn retries(value: &Value<'_>) -> Option<Retry> {
    let fields = value.fields();
    let mut retry = Retry {
        attempts: fields.count("attempts", 100).unwrap_or(0),
        per_try_timeout: fields
            .duration("perTryTimeout")
            .filter(|timeout| !timeout.is_zero()),
        ..Retry::default()
    };
    if let Some(backoff) = fields.duration("backoff").filter(|wait| !wait.is_zero()) {
        retry.base_interval = backoff;
    }
    if let Some(value) = fields.get("retryOn") {
        conditions(&value, &mut retry);
    }
    fields.ignore(
        "retryRemoteLocalities",
        "another try may go to any endpoint",
    );
    fields.ignore(
        "retryIgnorePreviousHosts",
        "another try avoids the endpoint that failed",
    );
    fields.finish();
    (retry.attempts > 0).then_some(retry)
}

fn conditions(value: &Value<'_>, retry: &mut Retry) {
    let Some(text) = value.text() else { return };
    let mut on = Vec::new();
    for name in text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        if let Ok(status) = name.parse::<u16>() {
            if (100..600).contains(&status) {
                retry.status_codes.push(status);
                on.push(RetryOn::RetriableStatusCodes);
            } else {
                value.error(format!("{status} is not a status"));
            }
        } else if let Some(condition) = RetryOn::parse(name) {
            on.push(condition);
        } else if name == "http3-post-connect-failure" {
            value.warn(
                codes::IGNORED,
                format!(
                    "retry condition {name:?} is not honoured by meshctl yet and has no effect"
                ),
                "remove it, or use retriable status codes",
            );
        } else {
            let message = format!("unknown retry condition {name:?}");
            let names = RetryOn::ALL.iter().map(|condition| condition.name());
            match nearest(name, names.clone()) {
                Some(name) => value.error_hint(message, format!("did you mean {name}?")),
                None => value.error_hint(
                    message,
                    format!("known: {}", names.collect::<Vec<_>>().join(", ")),
                ),
            }
        }
    }
    on.sort_unstable();
    on.dedup();
    if !on.is_empty() {
        retry.on = on;
    }
}
