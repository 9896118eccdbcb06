//! Route tables with cluster names resolved and weighted choices worked out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::route::{Action, Found, Request, Retry, RetryOn, RouteTable as Config, Router};

use super::super::balance::smooth::Smooth;
use crate::mesh::route::explain;
use crate::telemetry::{Registry, RouteId};

/// A route table, ready to be searched.
#[derive(Debug)]
pub(crate) struct RouteTable {
    /// Finds the route.
    pub(crate) router: Router,
    /// By host and route, as the router's indexes say.
    actions: Vec<Vec<RouteAction>>,
}

/// What a route does, beyond what its configuration says.
#[derive(Debug)]
pub(crate) enum RouteAction {
    /// Sends on to one of these.
    Forward(ForwardTable),
    /// The configuration says everything.
    Answer,
}

/// Where requests are sent on.
#[derive(Debug)]
pub(crate) struct ForwardTable {
    /// Cluster indexes, in the order of the configuration; `None` is not in the view.
    targets: Vec<Option<usize>>,
    weights: Vec<u32>,
    split: Smooth,
    /// What metrics call the route.
    pub(crate) label: RouteId,
    /// When and how often to try again.
    pub(crate) retry: Option<RetryTable>,
}

/// A retry policy as a set of conditions.
#[derive(Debug)]
pub(crate) struct RetryTable {
    conditions: u32,
    /// Tries after the first.
    pub(crate) attempts: u32,
    /// For each try.
    pub(crate) per_try: Option<Duration>,
    /// Statuses that are tried again.
    codes: Vec<u16>,
    /// First wait.
    pub(crate) base: Duration,
}

impl RetryTable {
    fn new(retry: &Retry) -> Self {
        Self {
            conditions: retry.on.iter().fold(0, |set, on| set | bit(*on)),
            attempts: retry.attempts,
            per_try: retry.per_try_timeout,
            codes: retry.status_codes.clone(),
            base: retry.base_interval,
        }
    }

    /// Whether the policy names `condition`.
    pub(crate) fn on(&self, condition: RetryOn) -> bool {
        self.conditions & bit(condition) != 0
    }

    /// Whether an answer is to be tried again.
    pub(crate) fn on_answer(&self, status: u16, grpc_status: Option<u8>) -> bool {
        let http = match status {
            502..=504 => self.on(RetryOn::ServerError) || self.on(RetryOn::GatewayError),
            500.. => self.on(RetryOn::ServerError),
            409 => self.on(RetryOn::Retriable4xx),
            _ => false,
        };
        let grpc = match grpc_status {
            Some(1) => self.on(RetryOn::Cancelled),
            Some(4) => self.on(RetryOn::DeadlineExceeded),
            Some(8) => self.on(RetryOn::ResourceExhausted),
            Some(13) => self.on(RetryOn::Internal),
            Some(14) => self.on(RetryOn::Unavailable),
            _ => false,
        };
        http || grpc || (self.on(RetryOn::RetriableStatusCodes) && self.codes.contains(&status))
    }
}

fn bit(on: RetryOn) -> u32 {
    RetryOn::ALL
        .iter()
        .position(|known| *known == on)
        .and_then(|at| u32::try_from(at).ok())
        .map_or(0, |at| 1 << at)
}

impl RouteTable {
    /// Resolves `config` against `clusters`. Splits whose weights stay go on where they stood.
    pub(crate) fn build(
        config: &Arc<Config>,
        clusters: &BTreeMap<String, usize>,
        before: Option<&Arc<Self>>,
        registry: &Registry,
    ) -> Self {
        let actions = config
            .hosts
            .iter()
            .enumerate()
            .map(|(host, virtual_host)| {
                virtual_host
                    .routes
                    .iter()
                    .enumerate()
                    .map(|(route, config)| match &config.action {
                        Action::Forward(forward) => {
                            let weights: Vec<u32> = forward
                                .clusters
                                .iter()
                                .map(|target| target.weight)
                                .collect();
                            // One cluster takes everything, whatever its weight says.
                            let split = match weights.as_slice() {
                                [_] => Smooth::new(&[1]),
                                weights => Smooth::new(weights),
                            };
                            let old =
                                before.and_then(|before| before.actions.get(host)?.get(route));
                            if let Some(RouteAction::Forward(old)) = old
                                && old.weights == weights
                            {
                                split.continue_from(&old.split);
                            }
                            RouteAction::Forward(ForwardTable {
                                targets: forward
                                    .clusters
                                    .iter()
                                    .map(|target| clusters.get(&target.cluster).copied())
                                    .collect(),
                                weights,
                                split,
                                label: registry.route(&explain::label(config)),
                                retry: forward.retry.as_ref().map(RetryTable::new),
                            })
                        }
                        Action::Redirect(_) | Action::Respond(_) => RouteAction::Answer,
                    })
                    .collect()
            })
            .collect();
        Self {
            router: Router::new(config),
            actions,
        }
    }

    /// The route of `request` and what it does.
    pub(crate) fn find(&self, request: &dyn Request) -> Option<(Found<'_>, &RouteAction)> {
        let found = self.router.find(request)?;
        let action = self.actions.get(found.host_index)?.get(found.route_index)?;
        Some((found, action))
    }
}

impl RouteTable {
    /// What the route at these indexes does.
    pub(crate) fn action(&self, host: usize, route: usize) -> Option<&RouteAction> {
        self.actions.get(host)?.get(route)
    }
}

impl ForwardTable {
    /// Draws a target: its place in the route's list, and its cluster when the view holds it.
    pub(crate) fn next(&self) -> Option<(usize, Option<usize>)> {
        let at = self.split.next()?;
        Some((at, self.targets.get(at).copied().flatten()))
    }
}

#[cfg(test)]
mod tests {
    use crate::mesh::route::{Forward, HeaderEdits, Route, VirtualHost, WeightedCluster};

    use super::*;

    fn table(weights: &[(&str, u32)]) -> Arc<Config> {
        let clusters = weights
            .iter()
            .map(|(cluster, weight)| WeightedCluster {
                cluster: (*cluster).to_owned(),
                weight: *weight,
                ..WeightedCluster::default()
            })
            .collect();
        Arc::new(Config {
            name: "t".to_owned(),
            ignore_port: false,
            hosts: vec![VirtualHost {
                name: "h".to_owned(),
                domains: vec!["*".to_owned()],
                routes: vec![Route {
                    name: String::new(),
                    matches: crate::mesh::route::Match::default(),
                    action: Action::Forward(Forward {
                        clusters,
                        ..Forward::default()
                    }),
                    headers: HeaderEdits::default(),
                    origin: crate::mesh::Origin::default(),
                }],
            }],
        })
    }

    #[test]
    fn a_missing_cluster_keeps_its_share() {
        let clusters = BTreeMap::from([("a".to_owned(), 7)]);
        let table = RouteTable::build(
            &table(&[("a", 90), ("gone", 10)]),
            &clusters,
            None,
            &Registry::new(""),
        );
        let RouteAction::Forward(forward) = &table.actions[0][0] else {
            panic!("not a forward");
        };
        let missing = (0..1000)
            .filter(|_| forward.next().unwrap().1.is_none())
            .count();
        assert_eq!(missing, 100);
    }

    #[test]
    fn conditions_are_envoys() {
        let retry = RetryTable::new(&Retry {
            on: vec![RetryOn::GatewayError, RetryOn::Unavailable],
            ..Retry::default()
        });
        assert!(retry.on_answer(503, None) && !retry.on_answer(500, None));
        assert!(retry.on_answer(200, Some(14)) && !retry.on_answer(200, Some(13)));
    }
}
