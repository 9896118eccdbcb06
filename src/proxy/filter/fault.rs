//! Requests that go wrong on purpose (`envoy.filters.http.fault`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::mesh::filter::{AbortWith, Fault as Config};
use crate::telemetry::Flag;

use super::super::http::respond::{grpc_status, http_status};
use super::{Asked, Refusal};

/// A fault and what it has done.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) config: Arc<Config>,
    pub(crate) delays: AtomicU64,
    pub(crate) aborts: AtomicU64,
}

impl Fault {
    pub(crate) fn new(config: &Arc<Config>) -> Self {
        Self {
            config: Arc::clone(config),
            delays: AtomicU64::new(0),
            aborts: AtomicU64::new(0),
        }
    }

    /// Whether it does anything to any request.
    pub(super) fn acts(&self) -> bool {
        self.config.delay.is_some() || self.config.abort.is_some()
    }

    /// Adds its delay to `delay`, and refuses what it aborts. The two are drawn apart.
    pub(super) fn run(
        &self,
        asked: &Asked<'_>,
        delay: &mut Duration,
        mut random: impl FnMut() -> u32,
    ) -> Result<(), Box<Refusal>> {
        let config = &*self.config;
        let meant = (config.cluster.is_empty() || config.cluster == asked.cluster)
            && config
                .headers
                .iter()
                .all(|header| header.holds(asked.request));
        if !meant {
            return Ok(());
        }
        if let Some(own) = config.delay
            && !own.time.is_zero()
            && own.share.takes(random())
        {
            *delay += own.time;
            self.delays.fetch_add(1, Ordering::Relaxed);
        }
        let Some(abort) = config.abort.filter(|abort| abort.share.takes(random())) else {
            return Ok(());
        };
        self.aborts.fetch_add(1, Ordering::Relaxed);
        let (status, grpc_status) = match abort.with {
            AbortWith::Http(status) => (status, grpc_status(status)),
            AbortWith::Grpc(status) => (http_status(status), status),
        };
        Err(Box::new(Refusal {
            status,
            flag: Flag::Fi,
            details: "fault_filter_abort",
            body: "fault filter abort",
            grpc_status,
            headers: Vec::new(),
        }))
    }
}
