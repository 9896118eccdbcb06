//! Linkerd's annotations of Services: retries, timeouts, and when an endpoint is left out.

use std::time::Duration;

use super::{ByHost, Care};
use crate::mesh::outlier::{FailurePercentage, OutlierDetection};
use crate::mesh::route::{Retry, RetryOn};
use crate::mesh::world::Config;
use crate::mesh::{Finding, Hostname, Severity};
use crate::resource::codes;
use crate::resource::duration;
use crate::resource::lower::of_kind;
use crate::resource::object::{Kind, Object, Objects};

const RETRY: &str = "retry.linkerd.io/";
const TIMEOUT: &str = "timeout.linkerd.io/";
const BALANCER: &str = "balancer.linkerd.io/";
const BALANCER_ALPHA: &str = "balancer.alpha.linkerd.io/";

/// How requests to a service are tried, by its annotations.
pub(super) struct Annotated<'a> {
    pub(super) object: &'a Object,
    pub(super) care: Care,
}

pub(super) fn read<'a>(
    objects: &'a Objects,
    config: &mut Config,
    findings: &mut Vec<Finding>,
) -> ByHost<Annotated<'a>> {
    let written = of_kind(objects, |kind| match kind {
        Kind::Service(service) => Some(service),
        _ => None,
    });
    let mut by_host = ByHost::new();
    for (object, _) in written {
        let mut reading = Reading { object, findings };
        let metadata = &object.metadata;
        let host = Hostname::service(&metadata.name, &metadata.namespace);
        if let Some(outlier) = reading.accrual() {
            let own = config.baseline.services.entry(host.clone()).or_default();
            own.outlier = Some(outlier);
        }
        if let Some(care) = reading.care(config.baseline.retry.as_ref()) {
            by_host.insert(host, Annotated { object, care });
        }
    }
    by_host
}

/// The annotations of one Service.
struct Reading<'a, 'f> {
    object: &'a Object,
    findings: &'f mut Vec<Finding>,
}

impl Reading<'_, '_> {
    fn say(&mut self, severity: Severity, code: &str, name: &str, message: String, hint: &str) {
        let path = format!("metadata.annotations[{name:?}]");
        let finding = self.object.finding(severity, code, &path, message);
        self.findings.push(finding.hint(hint));
    }

    /// The value of `name`, which `parse` understands, or it is an error.
    fn get<T>(&mut self, name: &str, hint: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.object.metadata.annotations.get(name)?;
        let value = parse(text.trim());
        if value.is_none() {
            let message = format!("{text:?} is not what annotation {name:?} can be");
            self.say(Severity::Error, codes::SCHEMA, name, message, hint);
        }
        value
    }

    fn care(&mut self, usual: Option<&Retry>) -> Option<Care> {
        let annotations = &self.object.metadata.annotations;
        let said = |name: &String| name.starts_with(RETRY) || name.starts_with(TIMEOUT);
        if !annotations.keys().any(said) {
            return None;
        }
        let known = ["http", "grpc", "limit", "timeout"].map(|name| format!("{RETRY}{name}"));
        let times = ["request", "response", "idle"].map(|name| format!("{TIMEOUT}{name}"));
        for name in annotations.keys().filter(|name| said(name)) {
            if !known.contains(name) && !times.contains(name) {
                let message = format!("annotation {name:?} is not known and has no effect");
                let hint = [&known[..], &times[..]].concat().join(", ");
                let hint = format!("known: {hint}");
                self.say(Severity::Warning, codes::IGNORED, name, message, &hint);
            }
        }
        let time = "a duration such as 300ms or 5s";
        let [request, response, idle] = times;
        let request = self.get(&request, time, positive);
        let response = self.get(&response, time, positive);
        let idle = self.get(&idle, time, positive);
        let [http, grpc, limit, per_try] = known;
        let statuses = self.get(
            &http,
            "5xx, gateway-error, a status such as 503, or a range such as 500-504, with commas between",
            statuses,
        );
        let codes = self.get(
            &grpc,
            "cancelled, deadline-exceeded, internal, resource-exhausted, unavailable, with commas between",
            grpc_codes,
        );
        let limit = self.get(&limit, "a number", |text| {
            text.parse::<u32>().ok().filter(|n| *n <= 100)
        });
        let per_try = self.get(&per_try, time, positive);
        let retry = if statuses.is_some() || codes.is_some() {
            let mut retry = usual.cloned().unwrap_or_default();
            retry.attempts = limit.unwrap_or(1);
            retry.per_try_timeout = per_try;
            if let Some(statuses) = statuses {
                retry.status_codes = statuses;
                retry.on.push(RetryOn::RetriableStatusCodes);
            }
            retry.on.extend(codes.into_iter().flatten());
            // What takes too long is tried again too.
            if per_try.is_some() {
                retry.on.push(RetryOn::Reset);
            }
            retry.on.sort_unstable();
            retry.on.dedup();
            Some(retry).filter(|retry| retry.attempts > 0)
        } else {
            usual.cloned()
        };
        Some(Care {
            name: "default".to_owned(),
            // Both end in the same answer, and requests are short.
            timeout: request.into_iter().chain(response).min(),
            idle,
            retry,
            origin: self.object.origin.clone(),
        })
    }

    /// When an endpoint is left out.
    fn accrual(&mut self) -> Option<OutlierDetection> {
        let annotations = &self.object.metadata.annotations;
        let own = |name: &&String| name.starts_with(BALANCER) || name.starts_with(BALANCER_ALPHA);
        let names: Vec<String> = annotations.keys().filter(own).cloned().collect();
        if names.is_empty() {
            return None;
        }
        let main = format!("{BALANCER}failure-accrual");
        let consecutive = |name: &str| format!("{main}-consecutive-{name}");
        let unified = |name: &str| format!("{BALANCER_ALPHA}failure-accrual-success-rate-{name}");
        let known = [
            consecutive("max-failures"),
            consecutive("min-penalty"),
            consecutive("max-penalty"),
            consecutive("jitter-ratio"),
            unified("threshold"),
            unified("window"),
            unified("min-requests"),
        ];
        for name in names.iter().filter(|name| **name != main) {
            if !known.contains(name) {
                let message =
                    format!("annotation {name:?} is not honoured by meshctl and has no effect");
                let hint = "an endpoint that fails is left out by failure-accrual; which of the others is chosen is loadBalancer of a DestinationRule";
                self.say(Severity::Warning, codes::IGNORED, name, message, hint);
            }
        }
        let mode = self.get(&main, "consecutive or unified", |text| match text {
            "consecutive" => Some(false),
            "unified" => Some(true),
            _ => None,
        });
        let time = "a duration such as 1s";
        let [failures, least, most, jitter, rate, window, volume] = known;
        let failures = self.get(&failures, "a number above 0", |text| {
            text.parse::<u32>().ok().filter(|n| *n > 0)
        });
        let least = self.get(&least, time, positive);
        let most = self.get(&most, time, positive);
        let jitter = self.get(&jitter, "a number from 0 to 100", |text| {
            text.parse::<f64>()
                .ok()
                .filter(|n| (0.0..=100.0).contains(n))
        });
        let rate = self.get(&rate, "a share such as 0.8", |text| {
            let rate = text.parse::<f64>().ok()?;
            let failing = (0.0..=1.0)
                .contains(&rate)
                .then_some((1.0 - rate) * 100.0)?;
            format!("{failing:.0}").parse::<u32>().ok()
        });
        let window = self.get(&window, time, positive);
        let volume = self.get(&volume, "a number above 0", |text| {
            text.parse::<u32>().ok().filter(|n| *n > 0)
        });
        let Some(rates) = mode else {
            if !names.contains(&main) {
                for name in names {
                    let message = format!(
                        "without {main} endpoints are not left out, so {name:?} has no effect"
                    );
                    let hint = "balancer.linkerd.io/failure-accrual: consecutive";
                    self.say(Severity::Warning, codes::IGNORED, &name, message, hint);
                }
            }
            return None;
        };
        // Linkerd's defaults.
        let base = least.unwrap_or(Duration::from_secs(1));
        let mut outlier = OutlierDetection {
            consecutive_5xx: failures.unwrap_or(7),
            base_ejection: base,
            max_ejection: Some(most.unwrap_or(Duration::from_mins(1)).max(base)),
            max_ejection_jitter: base.mul_f64(jitter.unwrap_or(0.5)),
            max_ejection_percent: 100,
            // How soon one is let in again.
            interval: base.clamp(Duration::from_millis(100), Duration::from_secs(1)),
            ..OutlierDetection::default()
        };
        if rates {
            outlier.interval = window.unwrap_or(Duration::from_secs(10));
            outlier.failure_percentage = FailurePercentage {
                enforcing: 100,
                threshold: rate.unwrap_or(20),
                minimum_hosts: 1,
                request_volume: volume.unwrap_or(5),
                ..FailurePercentage::default()
            };
        }
        Some(outlier)
    }
}

fn positive(text: &str) -> Option<Duration> {
    duration::parse(text).filter(|time| !time.is_zero())
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// The statuses of a list.
fn statuses(text: &str) -> Option<Vec<u16>> {
    let mut found = Vec::new();
    for part in parts(text) {
        let (first, last) = match part {
            "5xx" => (500, 599),
            "gateway-error" => (502, 504),
            _ => {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                (first.trim().parse().ok()?, last.trim().parse().ok()?)
            }
        };
        if first < 100 || last > 599 || first > last {
            return None;
        }
        found.extend(first..=last);
    }
    found.sort_unstable();
    found.dedup();
    (!found.is_empty()).then_some(found)
}

fn grpc_codes(text: &str) -> Option<Vec<RetryOn>> {
    let found: Option<Vec<RetryOn>> = parts(text)
        .map(|part| match part {
            "cancelled" => Some(RetryOn::Cancelled),
            "deadline-exceeded" => Some(RetryOn::DeadlineExceeded),
            "internal" => Some(RetryOn::Internal),
            "resource-exhausted" => Some(RetryOn::ResourceExhausted),
            "unavailable" => Some(RetryOn::Unavailable),
            _ => None,
        })
        .collect();
    found.filter(|found| !found.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_classes_numbers_and_ranges() {
        assert_eq!(
            statuses("gateway-error, 429"),
            Some(vec![429, 502, 503, 504])
        );
        assert_eq!(statuses("500-501,500"), Some(vec![500, 501]));
        assert_eq!(statuses("5xx").map(|all| all.len()), Some(100));
        for bad in ["", "4xx", "99", "600", "504-500", "a-b"] {
            assert_eq!(statuses(bad), None, "{bad}");
        }
        assert_eq!(grpc_codes("internal,nothing"), None);
    }
}
