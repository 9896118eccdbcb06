//! What holds for calls where no rule says otherwise: of the whole mesh, and of single services.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Hostname;
use super::cluster::{OutlierDetection, RetryBudget};
use super::http::PathOptions;
use super::listener::{ChainAction, Listener};
use super::route::Retry;
use super::world::{H2Upgrade, TlsPolicy, TrafficPolicy};

/// What lies under every rule of how services are called.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// For connections to endpoints; `None` is Istio's 10 s.
    pub connect_timeout: Option<Duration>,
    /// Whether HTTP/1 requests are carried as HTTP/2.
    pub h2_upgrade: H2Upgrade,
    /// Endpoints of the mesh are called with its certificates where no rule says how.
    pub auto_mtls: bool,
    /// Of requests whose route says nothing; `None` never retries.
    pub retry: Option<Retry>,
    /// How long the first bytes of a connection are awaited before it is taken as plain bytes; zero
    /// waits for ever.
    pub detect_timeout: Duration,
    /// The spelling of paths.
    pub path: PathOptions,
    /// Of single services.
    pub services: BTreeMap<Hostname, ServiceBaseline>,
}

/// What lies under the rules for one service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceBaseline {
    /// Ejection.
    pub outlier: Option<OutlierDetection>,
    /// Retries at once, as a share of the requests.
    pub retry_budget: Option<RetryBudget>,
}

impl Default for Baseline {
    /// Istio's.
    fn default() -> Self {
        Self {
            connect_timeout: None,
            h2_upgrade: H2Upgrade::default(),
            auto_mtls: true,
            retry: Some(Retry::default()),
            detect_timeout: Duration::ZERO,
            path: PathOptions::default(),
            services: BTreeMap::new(),
        }
    }
}

impl Baseline {
    /// Shapes a listener that was made as Istio's defaults are.
    pub fn shape(&self, listener: &mut Arc<Listener>) {
        let spelt = self.path != PathOptions::default();
        if self.detect_timeout.is_zero() && !spelt {
            return;
        }
        let listener = Arc::make_mut(listener);
        listener.detect_timeout = self.detect_timeout;
        let chains = listener
            .chains
            .iter_mut()
            .chain(&mut listener.default_chain);
        for chain in chains {
            if let ChainAction::Http { options, .. } | ChainAction::Detect { options, .. } =
                &mut chain.action
            {
                Arc::make_mut(options).path = self.path;
            }
        }
    }

    /// `policy` of calls to `host`, with what it leaves open.
    pub fn under(&self, host: &Hostname, mut policy: TrafficPolicy) -> TrafficPolicy {
        if let Some(own) = self.services.get(host) {
            policy.outlier = policy.outlier.or_else(|| own.outlier.clone());
            policy.retry_budget = policy.retry_budget.or(own.retry_budget);
        }
        if self.connect_timeout.is_some() || self.h2_upgrade != H2Upgrade::Default {
            let pool = policy.connection_pool.get_or_insert_default();
            pool.connect_timeout = pool.connect_timeout.or(self.connect_timeout);
            if pool.h2_upgrade == H2Upgrade::Default {
                pool.h2_upgrade = self.h2_upgrade;
            }
        }
        if !self.auto_mtls {
            policy.tls = policy.tls.or(Some(TlsPolicy::Disable));
        }
        policy
    }
}
