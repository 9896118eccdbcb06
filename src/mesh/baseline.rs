//! What holds for calls where no rule says otherwise: of the whole mesh, and of single services.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{OutlierDetection, RetryBudget};
use super::http::PathOptions;
use super::listener::{ChainAction, Listener};
use super::locality::LocalitySetting;
use super::route::Retry;
use super::world::{ConnectionPool, H2Upgrade, TlsPolicy, TrafficPolicy};
use super::{Hostname, Service};

/// What lies under every rule of how services are called.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// For connections to endpoints; `None` is Istio's 10 s.
    pub connect_timeout: Option<Duration>,
    /// Whether HTTP/1 requests are carried as HTTP/2.
    pub h2_upgrade: H2Upgrade,
    /// Endpoints of the mesh are called with its certificates where no rule says how.
    pub auto_mtls: bool,
    /// Limits on connections and requests.
    pub connection_pool: Option<ConnectionPool>,
    /// Ejection, and the percentage of endpoints below which health no longer counts.
    pub outlier: Option<(OutlierDetection, Option<u32>)>,
    /// Which endpoints are preferred by where they and the caller are.
    pub locality: Option<LocalitySetting>,
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
            connection_pool: None,
            outlier: None,
            locality: None,
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

    /// Whether it may matter to callers of `host`, because of this, where endpoints are.
    pub fn ranks(&self, host: &Hostname) -> bool {
        let own = self.services.get(host).and_then(|own| own.outlier.as_ref());
        self.locality.is_some() || self.outlier.is_some() || own.is_some()
    }

    /// `policy` of calls to `service`, with what it leaves open.
    pub fn under(&self, service: &Service, mut policy: TrafficPolicy) -> TrafficPolicy {
        if let Some(own) = self.services.get(&service.host) {
            policy.outlier = policy.outlier.or_else(|| own.outlier.clone());
            policy.retry_budget = policy.retry_budget.or(own.retry_budget);
        }
        if let (None, Some((outlier, panic_threshold))) = (&policy.outlier, &self.outlier) {
            policy.outlier = Some(outlier.clone());
            policy.panic_threshold = policy.panic_threshold.or(*panic_threshold);
        }
        // The service's own word goes before the mesh's (Istio).
        if let (None, Some(locality)) = (service.distribution, &self.locality) {
            let balancer = policy.load_balancer.get_or_insert_default();
            balancer.locality.get_or_insert_with(|| locality.clone());
        }
        if let (None, Some(pool)) = (&policy.connection_pool, &self.connection_pool) {
            policy.connection_pool = Some(pool.clone());
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
