//! What a request's own head says about its limits: `x-envoy-*` fields and `grpc-timeout`.
//!
//! Envoy believes such fields from internal callers and removes them from others. Internal here is
//! the proxy's own application: a caller of an outbound listener whose address (or whose only
//! forwarded address, where there is one) is private. A listener that is told to go by the peer's
//! address judges by `marks::Caller` instead. What is believed is used up and never passed on; what
//! is not believed is removed.

use std::net::IpAddr;
use std::time::Duration;

use crate::mesh::route::{Forward, HeaderMatch, Request, RetryOn, TextMatch};

use super::super::context::Conn;
use super::super::tables::RetryTable;
use super::super::tables::route::ForwardTable;
use super::fields::{Fields, decimal};
use super::marks::{Caller, forwarded_for};

/// What a request changes in the limits of its route.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// In place of the route's timeout; zero is no limit.
    pub(crate) timeout: Option<Duration>,
    /// In place of the policy's; zero is no limit.
    pub(crate) per_try: Option<Duration>,
    /// In place of the route's longest life; zero is no limit.
    pub(crate) max_stream: Option<Duration>,
    /// Endpoints are told what is left, as a gRPC deadline.
    pub(crate) tell_grpc: bool,
    /// Retries.
    pub(crate) retry: Policy,
    /// In place of the route's.
    pub(crate) hedge: Option<bool>,
}

/// Whose retry policy counts.
#[derive(Debug, Default)]
pub(crate) enum Policy {
    /// The route's.
    #[default]
    Route,
    /// None.
    Off,
    /// The request's own, over the route's.
    Own(Box<RetryTable>),
}

impl Policy {
    /// The policy in force on a route that has `route`.
    pub(crate) fn over<'p>(&'p self, route: Option<&'p RetryTable>) -> Option<&'p RetryTable> {
        match self {
            Self::Route => route.filter(|policy| !policy.is_off()),
            Self::Off => None,
            Self::Own(policy) => Some(policy),
        }
    }
}

/// Reads what `request` says. `grpc` says that it is a gRPC call.
pub(crate) fn read(
    request: &dyn Request,
    fields: Fields<'_>,
    (trusted, grpc): (bool, bool),
    (forward, table): (&Forward, &ForwardTable),
) -> Control {
    let mut control = Control::default();
    if grpc {
        deadline(&mut control, fields, forward);
    }
    if trusted {
        own(&mut control, fields, table);
    }
    let conditions = table.retry.iter().flat_map(|retry| &retry.request_headers);
    let mut any = false;
    let mut holds = false;
    for condition in conditions {
        any = true;
        holds |= condition.holds(request);
    }
    if any && !holds {
        control.retry = Policy::Off;
    }
    control
}

fn deadline(control: &mut Control, fields: Fields<'_>, forward: &Forward) {
    let asked = fields.first("grpc-timeout").and_then(grpc_timeout);
    let deadlines = &forward.deadlines;
    if let Some(policy) = &deadlines.grpc {
        control.timeout = Some(policy.bound(asked).unwrap_or(Duration::ZERO));
        control.tell_grpc = true;
    }
    // Only a deadline that was asked for takes the place of the route's.
    if let (Some(policy), Some(_)) = (&deadlines.grpc_stream, asked) {
        control.max_stream = policy.bound(asked);
        control.tell_grpc = true;
    }
}

fn own(control: &mut Control, fields: Fields<'_>, table: &ForwardTable) {
    let millis = |name| {
        fields
            .first(name)
            .and_then(decimal)
            .map(Duration::from_millis)
    };
    let text = |name| {
        fields
            .first(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    };
    if let Some(timeout) = millis("x-envoy-upstream-rq-timeout-ms") {
        control.timeout = Some(timeout);
    }
    control.per_try = millis("x-envoy-upstream-rq-per-try-timeout-ms");
    control.hedge = match text("x-envoy-hedge-on-per-try-timeout") {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => None,
    };
    let list = |name| text(name).unwrap_or_default().split(',').map(str::trim);
    let on: Vec<RetryOn> = list("x-envoy-retry-on")
        .chain(list("x-envoy-retry-grpc-on"))
        .filter_map(RetryOn::parse)
        .collect();
    let codes: Vec<u16> = list("x-envoy-retriable-status-codes")
        .filter_map(|code| code.parse().ok())
        .collect();
    let most = fields
        .first("x-envoy-max-retries")
        .and_then(decimal)
        .map(|most| u32::try_from(most).unwrap_or(u32::MAX));
    if on.is_empty() && codes.is_empty() && most.is_none() {
        return;
    }
    let headers = list("x-envoy-retriable-header-names")
        .filter(|name| !name.is_empty())
        .map(|name| HeaderMatch {
            name: name.to_ascii_lowercase(),
            value: TextMatch::Present,
            invert: false,
        })
        .collect();
    let mut policy = table.retry.clone().unwrap_or_else(RetryTable::bare);
    policy.extend(&on, &codes, headers);
    // Envoy heeds the number only where there is a condition.
    if policy.is_off() {
        return;
    }
    if let Some(most) = most {
        policy.attempts = most;
    }
    control.retry = Policy::Own(Box::new(policy));
}

/// Whether the caller of `conn` may say such things about its requests. A listener that judges its
/// callers by their address has judged; elsewhere it is the application that calls, or who it says.
pub(crate) fn is_trusted(conn: &Conn, fields: Fields<'_>) -> bool {
    if conn.inbound() {
        return false;
    }
    let judged = &conn.http().options.remote;
    if judged.use_remote_address {
        return Caller::of(conn.remote.ip(), fields, judged).internal;
    }
    is_private(conn.remote.ip())
        && match forwarded_for(fields).as_slice() {
            [] => true,
            [only] => std::str::from_utf8(only)
                .ok()
                .and_then(|text| text.parse().ok())
                .is_some_and(is_private),
            // Somebody stood before somebody.
            _ => false,
        }
}

/// Envoy's default for internal addresses.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_private() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_loopback(),
    }
}

/// A gRPC deadline: at most eight digits and a unit. `None` when it is not one.
pub(crate) fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let number = decimal(digits)?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// `left` as a gRPC deadline: in milliseconds where they have eight digits at most.
pub(crate) fn write_grpc_timeout(left: Duration) -> String {
    let units = [
        (left.as_millis(), 'm'),
        (u128::from(left.as_secs()), 'S'),
        (u128::from(left.as_secs() / 60), 'M'),
        (u128::from(left.as_secs() / 3600), 'H'),
    ];
    units
        .into_iter()
        .find(|(number, _)| *number < 100_000_000)
        .map_or_else(
            || "99999999H".to_owned(),
            |(number, unit)| format!("{number}{unit}"),
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grpc_deadlines_are_read() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("2H", Some(Duration::from_hours(2))),
            ("3M", Some(Duration::from_mins(3))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("9n", Some(Duration::from_nanos(9))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("999999999S", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_deadline_is_never_longer(millis in any::<u64>()) {
            let left = Duration::from_millis(millis);
            let text = write_grpc_timeout(left);
            prop_assert!(text.len() <= 9, "{}", text);
            prop_assert!(grpc_timeout(text.as_bytes()).unwrap() <= left, "{}", text);
        }
    }
}
