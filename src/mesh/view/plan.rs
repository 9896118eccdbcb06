//! What configuration alone decides of clusters and endpoints: whom services choose, and by what callers
//! are told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::mesh::destinations::{Caller, Distinctions};
use crate::mesh::locality::{Called, LocalitySetting, Place};
use crate::mesh::world::{Config, Destination, TrafficPolicy};
use crate::mesh::{Hostname, Locality, Node, Protocol, Service, ServicePort};

/// What configuration alone decides.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Services that callers are served differently of.
    pub(super) varying: BTreeSet<Hostname>,
    /// Services with ports that do not say what they speak, which gateways do not ask their callers; none
    /// where there are no gateways.
    pub(super) unnamed: BTreeSet<Hostname>,
    pub(super) told_apart: Distinctions,
    /// Labels of callers that any rule asks for.
    pub(super) asked: BTreeSet<String>,
    /// Whether it matters where callers are.
    pub(super) by_place: bool,
    /// By namespace and first label of the selector.
    pub(super) choosing: BTreeMap<(String, String, String), Vec<Hostname>>,
    /// What people want, as it is known, by the place of a Sidecar and the namespace that it is for.
    pub(super) known: Mutex<BTreeMap<(usize, String), Arc<Config>>>,
}

/// What callers are told apart by: who agrees in it is served alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standpoint {
    /// Of gateways, and of [`Plan::unnamed`] only.
    pub(super) gateway: bool,
    namespace: String,
    labels: BTreeMap<String, String>,
    locality: Locality,
}

impl Standpoint {
    pub(super) fn caller(&self) -> Caller<'_> {
        Caller {
            namespace: &self.namespace,
            labels: &self.labels,
        }
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place {
            locality: &self.locality,
            labels: &self.labels,
        }
    }

    /// The same, of gateways.
    pub(super) fn of_gateways(self) -> Self {
        Self {
            gateway: true,
            ..self
        }
    }

    pub(super) fn nobody() -> Self {
        Self {
            gateway: false,
            namespace: String::new(),
            labels: BTreeMap::new(),
            locality: Locality::default(),
        }
    }
}

impl Plan {
    pub(super) fn new(config: &Config) -> Self {
        let rules = &config.destinations;
        let gateways = !config.gateways.is_empty() || !config.listening.is_empty();
        let mut plan = Self {
            told_apart: rules.distinctions(),
            ..Self::default()
        };
        for (host, service) in &config.services {
            if let Some((label, value)) = service.selector.iter().next() {
                let first = (service.namespace.clone(), label.clone(), value.clone());
                plan.choosing.entry(first).or_default().push(host.clone());
            }
            let unnamed = |port: &ServicePort| port.protocol == Protocol::Auto;
            if gateways && service.ports.iter().any(unnamed) {
                plan.unnamed.insert(host.clone());
            }
            let placed = service.distribution.is_some() || by_place(config, service);
            plan.by_place |= placed;
            if placed && service.distribution.is_some() {
                let labels = LocalitySetting::DISTRIBUTION.map(str::to_owned);
                plan.told_apart.labels.extend(labels);
            }
            if placed || rules.differ(host, &service.namespace) {
                plan.varying.insert(host.clone());
            }
        }
        plan.asked.extend(plan.told_apart.labels.iter().cloned());
        if plan.by_place {
            let all = rules.all().flat_map(policies);
            let balancers = all.filter_map(|policy| policy.load_balancer.as_ref());
            let settings = balancers.filter_map(|balancer| balancer.locality.as_ref());
            let settings = settings.chain(&config.baseline.locality);
            let labels = settings.flat_map(|setting| &setting.priority);
            plan.told_apart
                .labels
                .extend(labels.map(|(label, _)| label.clone()));
        }
        for routes in config.routes.values() {
            let requests = routes.rules.iter().map(|rule| &rule.source);
            let bytes = routes.streams.iter().map(|rule| &rule.source);
            let labels = requests
                .chain(bytes)
                .flat_map(|source| source.labels.keys());
            plan.asked.extend(labels.cloned());
        }
        plan
    }

    /// Services that may choose what has `labels`: those that do, and some more.
    pub(super) fn choosing(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<&Hostname> {
        let hosts = labels.iter().flat_map(|(label, value)| {
            let first = (namespace.to_owned(), label.clone(), value.clone());
            self.choosing.get(&first).into_iter().flatten()
        });
        hosts.collect()
    }

    pub(super) fn standpoint(&self, node: &Node) -> Standpoint {
        let named = self.told_apart.namespaces.contains(&node.namespace);
        Standpoint {
            gateway: false,
            namespace: if named {
                node.namespace.clone()
            } else {
                String::new()
            },
            labels: only(&node.labels, &self.told_apart.labels),
            locality: if self.by_place {
                node.locality.clone()
            } else {
                Locality::default()
            },
        }
    }
}

pub(super) fn only(
    labels: &BTreeMap<String, String>,
    of: &BTreeSet<String>,
) -> BTreeMap<String, String> {
    let kept = labels.iter().filter(|(label, _)| of.contains(*label));
    kept.map(|(label, value)| (label.clone(), value.clone()))
        .collect()
}

/// Whether it matters, by rules for `service` or what lies under them, where its callers are.
fn by_place(config: &Config, service: &Service) -> bool {
    let counts = |policy: &TrafficPolicy| {
        let called = Called {
            policy,
            distribution: None,
        };
        called.counts()
    };
    let rules = config.destinations.around(&service.host);
    let mut written = rules.flat_map(policies);
    if !config.baseline.ranks(&service.host) {
        return written.any(counts);
    }
    let under = |policy: TrafficPolicy| counts(&config.baseline.under(service, policy));
    under(TrafficPolicy::default()) || written.any(|policy| under(policy.clone()))
}

/// Every policy of a rule.
fn policies(rule: &Arc<Destination>) -> impl Iterator<Item = &TrafficPolicy> {
    let subsets = rule.subsets.values();
    let own = std::iter::once(&rule.policy).chain(rule.ports.values());
    own.chain(
        subsets.flat_map(|subset| std::iter::once(&subset.policy).chain(subset.ports.values())),
    )
}
