//! What the proxy does before it runs out of memory, files or connections (Envoy's overload
//! manager): first it ends kept connections, then it refuses requests, then it accepts no more.
//!
//! Nothing here resets single large streams: a stream keeps at most its buffers, and a slow reader
//! stops the reading from its writer, so there are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::rt::usage;
use crate::telemetry::names::{Kind, Metric};
use crate::telemetry::{Family, Sample, Value};

use super::context::Shared;

/// How often usage is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked at whether connections may be accepted again.
const PAUSE: Duration = Duration::from_millis(50);

/// When to protect the proxy. Shares are of the scarcest of memory and files, in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverloadOptions {
    /// Memory that the process may use, in bytes; without it the limit of its control group counts,
    /// where there is one (Envoy: `fixed_heap` and `cgroup_memory`).
    pub max_memory: Option<u64>,
    /// Connections of callers at once; more are closed at once (Envoy:
    /// `global_downstream_max_connections`). Unlimited when absent.
    pub max_connections: Option<u64>,
    /// From here on, HTTP/1 connections end with their request (`disable_http_keepalive`).
    /// Default 920.
    pub disable_keepalive: u64,
    /// From here on, requests are answered with 503 (`stop_accepting_requests`). Default 950.
    pub stop_requests: u64,
    /// From here on, connections wait to be accepted (`stop_accepting_connections`). Default 970.
    pub stop_connections: u64,
}

impl Default for OverloadOptions {
    fn default() -> Self {
        Self {
            max_memory: None,
            max_connections: None,
            disable_keepalive: 920,
            stop_requests: 950,
            stop_connections: 970,
        }
    }
}

const NO_KEEPALIVE: u8 = 1;
const NO_REQUESTS: u8 = 2;
const NO_CONNECTIONS: u8 = 4;

/// What is in force, for all workers.
#[derive(Debug, Default)]
pub(crate) struct Overload {
    actions: AtomicU8,
    /// Pressure when it was last looked at, in thousandths.
    pressure: AtomicU64,
    connections: AtomicU64,
    /// Connections that were closed because there were too many.
    pub(crate) rejected: AtomicU64,
    /// Requests that were refused.
    pub(crate) refused: AtomicU64,
}

/// A connection that counts.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        let overload = &self.0.overload;
        overload.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Overload {
    /// Whether requests are to be refused.
    pub(crate) fn refuses(&self) -> bool {
        self.actions.load(Ordering::Relaxed) & NO_REQUESTS != 0
    }

    /// Whether HTTP/1 connections are to end with their request.
    pub(crate) fn ends_connections(&self) -> bool {
        self.actions.load(Ordering::Relaxed) & NO_KEEPALIVE != 0
    }

    /// Pressure in thousandths.
    pub(crate) fn pressure(&self) -> u64 {
        self.pressure.load(Ordering::Relaxed)
    }

    /// Waits until connections may be accepted.
    pub(crate) async fn may_accept(&self) {
        while self.actions.load(Ordering::Relaxed) & NO_CONNECTIONS != 0 {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What happened so far, for whoever asks.
    pub(crate) fn families(&self) -> Vec<Family> {
        let family = |name, help, kind, value| Family {
            metric: Metric { name, help, kind },
            samples: vec![Sample {
                labels: Vec::new(),
                value,
            }],
        };
        let counter = |counter: &AtomicU64| Value::Counter(counter.load(Ordering::Relaxed));
        vec![
            family(
                "meshctl_overload_pressure",
                "Use of the scarcest of memory and files, in thousandths.",
                Kind::Gauge,
                Value::Gauge(self.pressure()),
            ),
            family(
                "envoy_listener_downstream_global_cx_overflow",
                "Connections closed because there were too many.",
                Kind::Counter,
                counter(&self.rejected),
            ),
            family(
                "envoy_http_downstream_rq_overload_close",
                "Requests refused to protect the proxy.",
                Kind::Counter,
                counter(&self.refused),
            ),
        ]
    }

    fn set(&self, pressure: u64, options: &OverloadOptions) {
        self.pressure.store(pressure, Ordering::Relaxed);
        let before = self
            .actions
            .swap(actions(pressure, options), Ordering::Relaxed);
        let now = self.actions.load(Ordering::Relaxed);
        if now != before {
            tracing::warn!(
                pressure,
                keepalive = now & NO_KEEPALIVE == 0,
                requests = now & NO_REQUESTS == 0,
                connections = now & NO_CONNECTIONS == 0,
                "overload actions changed"
            );
        }
    }
}

/// Counts a connection of a caller; `None` when there are too many.
pub(crate) fn count(shared: &Arc<Shared>) -> Option<Counted> {
    let overload = &shared.overload;
    let most = shared.options.overload.max_connections.unwrap_or(u64::MAX);
    if overload.connections.fetch_add(1, Ordering::Relaxed) < most {
        return Some(Counted(Arc::clone(shared)));
    }
    overload.connections.fetch_sub(1, Ordering::Relaxed);
    overload.rejected.fetch_add(1, Ordering::Relaxed);
    None
}

fn actions(pressure: u64, options: &OverloadOptions) -> u8 {
    let action = |from: u64, action: u8| if pressure >= from { action } else { 0 };
    action(options.disable_keepalive, NO_KEEPALIVE)
        | action(options.stop_requests, NO_REQUESTS)
        | action(options.stop_connections, NO_CONNECTIONS)
}

/// Looks at memory and files for as long as the proxy runs.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let options = &shared.options.overload;
    let most_files = usage::most_files();
    loop {
        let memory = match options.max_memory {
            Some(most) => usage::resident().map(|used| (used, most)),
            None => usage::group_memory(),
        };
        let files = most_files.and_then(|most| usage::open_files().map(|used| (used, most)));
        let pressure = memory
            .into_iter()
            .chain(files)
            .map(|(used, most)| used.saturating_mul(1000) / most.max(1))
            .max();
        shared.overload.set(pressure.unwrap_or(0), options);
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_come_one_after_the_other() {
        let options = OverloadOptions::default();
        for (pressure, expected) in [
            (0, 0),
            (919, 0),
            (920, NO_KEEPALIVE),
            (950, NO_KEEPALIVE | NO_REQUESTS),
            (999, NO_KEEPALIVE | NO_REQUESTS | NO_CONNECTIONS),
            (2000, NO_KEEPALIVE | NO_REQUESTS | NO_CONNECTIONS),
        ] {
            assert_eq!(actions(pressure, &options), expected, "{pressure}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn accepting_goes_on_when_the_pressure_is_over() {
        let overload = Overload::default();
        let options = OverloadOptions::default();
        overload.may_accept().await;
        overload.set(990, &options);
        assert!(overload.refuses() && overload.ends_connections());
        let wait = tokio::time::timeout(Duration::from_secs(1), overload.may_accept()).await;
        assert!(wait.is_err());
        overload.set(100, &options);
        overload.may_accept().await;
        assert!(!overload.refuses() && overload.pressure() == 100);
    }
}
