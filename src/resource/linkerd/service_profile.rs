//! ServiceProfile.

use std::time::Duration;

use super::condition::{Tree, request};
use super::ports::{PortRange, port_ranges};
use crate::mesh::Hostname;
use crate::mesh::cluster::RetryBudget;
use crate::mesh::route::Match;
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};
use crate::resource::smi::{in_units, quantity};
use crate::resource::tree::Node;

/// Linkerd's, for routes that say none.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(10);

/// A ServiceProfile. Its name is that of the host that it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceProfile {
    /// The first match wins.
    pub routes: Vec<ProfileRoute>,
    /// Retries at once.
    pub budget: Option<RetryBudget>,
    /// Where calls go in place of the service.
    pub overrides: Vec<DestinationOverride>,
    /// Ports whose bytes nobody reads.
    pub opaque: Vec<PortRange>,
}

/// A route of a ServiceProfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileRoute {
    /// Its name.
    pub name: String,
    /// Any of these.
    pub matches: Vec<Match>,
    /// Requests that fail are tried again.
    pub retryable: bool,
    /// For the request with its retries.
    pub timeout: Duration,
    /// Statuses that are failures.
    pub failures: Vec<u16>,
}

/// A service, with its share of the calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationOverride {
    /// The service.
    pub host: Hostname,
    /// Its port; that of the call when absent.
    pub port: Option<u16>,
    /// Share of the sum.
    pub weight: u32,
}

pub(in crate::resource) fn service_profile(fields: &Fields<'_>) -> ServiceProfile {
    let Some(spec) = fields.require("spec") else {
        return ServiceProfile::default();
    };
    let spec = spec.fields();
    let overrides = spec.get("dstOverrides");
    let profile = ServiceProfile {
        routes: spec.list("routes").iter().map(route).collect(),
        budget: spec.get("retryBudget").map(|value| budget(&value)),
        overrides: overrides
            .map(|value| destinations(&value))
            .unwrap_or_default(),
        opaque: spec.list("opaquePorts").iter().flat_map(opaque).collect(),
    };
    spec.finish();
    profile
}

fn route(value: &Value<'_>) -> ProfileRoute {
    let fields = value.fields();
    let name = fields.require("name").and_then(|value| value.text());
    let matches = fields.require("condition").map(|value| request(&value));
    let retryable = fields.boolean("isRetryable").unwrap_or(false);
    let timeout = fields.duration("timeout").filter(|time| !time.is_zero());
    let classes = fields.list("responseClasses");
    if let (Some(first), false) = (classes.first(), retryable) {
        first.warn(
            codes::IGNORED,
            "what counts as a failure decides about retries only, and this route has none",
            "write isRetryable: true beside it, or remove it",
        );
    }
    let failures = failures(&classes);
    fields.finish();
    ProfileRoute {
        name: name.unwrap_or_default(),
        matches: matches.unwrap_or_default(),
        retryable,
        timeout: timeout.unwrap_or(ROUTE_TIMEOUT),
        failures,
    }
}

/// The statuses that are failures: what the first class says that a status is of, else 500 and above.
fn failures(classes: &[Value<'_>]) -> Vec<u16> {
    let mut read: Vec<(Tree<(u16, u16)>, bool)> = Vec::new();
    for value in classes {
        let fields = value.fields();
        let condition = fields.require("condition").and_then(|value| {
            Tree::read(&value, &|fields| {
                let range = fields.get("status").map(|value| {
                    let fields = value.fields();
                    let bound = |name: &'static str| {
                        let value = fields.get(name)?.integer(100, 599)?;
                        u16::try_from(value).ok()
                    };
                    let (least, most) = (bound("min"), bound("max"));
                    fields.finish();
                    if least.is_none() && most.is_none() {
                        value.error_hint("a range needs an end", "status: {min: 500, max: 599}");
                    }
                    // One end alone is one status (Linkerd).
                    let least = least.or(most).unwrap_or(100);
                    (least, most.unwrap_or(least))
                });
                range.into_iter().collect()
            })
        });
        let failure = fields.boolean("isFailure").unwrap_or(false);
        fields.finish();
        read.extend(condition.map(|condition| (condition, failure)));
    }
    let fails = |status: &u16| {
        let of = |(condition, _): &&(Tree<(u16, u16)>, bool)| {
            condition.holds(&|(least, most): &(u16, u16)| (*least..=*most).contains(status))
        };
        let class = read.iter().find(of);
        class.map_or(*status >= 500, |(_, failure)| *failure)
    };
    (100..600).filter(fails).collect()
}

fn budget(value: &Value<'_>) -> RetryBudget {
    let fields = value.fields();
    let ratio = fields.require("retryRatio").and_then(|value| {
        let number = match &value.tree.node {
            Node::Number(number) => number.as_f64(),
            _ => None,
        };
        let share = number
            .filter(|number| (0.0..=1000.0).contains(number))
            .and_then(|number| format!("{:.0}", number * 100_000.0).parse::<u32>().ok());
        if share.is_none() {
            value.error_hint("expected a share of the requests", "retryRatio: 0.2");
        }
        share
    });
    let least = fields
        .require("minRetriesPerSecond")
        .and_then(|value| value.count(u32::MAX));
    let term = fields.require("ttl");
    if let Some(term) = term {
        term.duration();
        term.warn(
            codes::IGNORED,
            "\"ttl\" has no effect: the budget is a share of the requests that are under way, and minRetriesPerSecond a number of retries that are",
            "nothing needs to be done; Linkerd requires the field",
        );
    }
    fields.finish();
    RetryBudget {
        // Linkerd's defaults.
        percent_milli: ratio.unwrap_or(20_000),
        min_concurrency: least.unwrap_or(10),
    }
}

fn destinations(value: &Value<'_>) -> Vec<DestinationOverride> {
    let mut found = Vec::new();
    let mut sum = 0;
    let mut failed = false;
    for item in value.list() {
        let fields = item.fields();
        let authority = fields.require("authority").and_then(|value| {
            let text = value.text()?;
            let (host, port) = match text.rsplit_once(':') {
                Some((host, port)) => (host.to_owned(), port.parse::<u16>().ok()),
                None => (text.clone(), None),
            };
            let whole = text.contains(':') == port.is_some();
            match host.parse::<Hostname>() {
                Ok(host) if whole => Some((host, port)),
                _ => {
                    value.error_hint(
                        format!("{text:?} is not HOST:PORT of a service"),
                        "such as shop-v2.default.svc.cluster.local:80",
                    );
                    None
                }
            }
        });
        let weight = fields.require("weight").and_then(|value| quantity(&value));
        fields.finish();
        failed |= weight.is_none();
        sum += u64::from(weight.unwrap_or_default());
        if let (Some((host, port)), Some(weight)) = (authority, weight) {
            found.push(DestinationOverride { host, port, weight });
        }
    }
    if !failed && (sum == 0 || sum > u64::from(u32::MAX)) && !value.list().is_empty() {
        value.error_hint(
            "calls could go nowhere by these weights",
            "let the weights sum to 100",
        );
    }
    in_units(found.iter_mut().map(|to| &mut to.weight));
    found
}

fn opaque(value: &Value<'_>) -> Vec<PortRange> {
    let text = match &value.tree.node {
        Node::Number(number) => number.to_string(),
        _ => value.text().unwrap_or_default(),
    };
    let ranges = port_ranges(&text);
    if ranges.is_none() {
        value.error_hint(
            format!("{text:?} is no port, nor a range of them"),
            "such as \"3306\" or \"8000-8010\"",
        );
    }
    ranges.unwrap_or_default()
}
