//! Route tables with cluster names resolved and weighted choices worked out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mesh::filter::HttpFilter;
use crate::mesh::route::{Action, Forward, Found, Request, RouteTable as Config, Router};
use crate::mesh::session::StatefulSession;

use super::super::balance::smooth::Smooth;
use super::super::filter::{self, Filter};
use super::retry::RetryTable;
use crate::mesh::route::explain;
use crate::telemetry::{Registry, RouteId};

/// A route table, ready to be searched.
#[derive(Debug)]
pub(crate) struct RouteTable {
    /// Finds the route. The same while the configuration stays, whatever clusters come and go.
    pub(crate) router: Arc<Router>,
    /// By host and route, as the router's indexes say.
    actions: Vec<Vec<RouteAction>>,
}

/// What a route does, beyond what its configuration says.
#[expect(clippy::large_enum_variant, reason = "nearly every route forwards")]
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
    /// Cluster indexes of the route's mirrors, in their order; `None` is not in the view.
    pub(crate) mirrors: Vec<Option<usize>>,
    /// The route's own filters.
    pub(crate) filters: Vec<Filter>,
    /// How sessions are kept, where the route says.
    pub(crate) session: Option<Arc<StatefulSession>>,
    /// The head of a request has a say in its limits, even without fields for that purpose.
    pub(crate) looks_at_heads: bool,
}

impl RouteTable {
    /// Resolves `config` against `clusters`. Splits whose weights stay go on where they stood.
    pub(crate) fn build(
        config: &Arc<Config>,
        clusters: &BTreeMap<String, usize>,
        before: Option<&Arc<Self>>,
        registry: &Registry,
    ) -> Self {
        let mut shared = Vec::new();
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
                            let old = before
                                .and_then(|before| before.actions.get(host)?.get(route))
                                .and_then(|old| match old {
                                    RouteAction::Forward(old) => Some(old),
                                    RouteAction::Answer => None,
                                });
                            // One cluster takes everything, whatever its weight says.
                            let split = match weights.as_slice() {
                                [_] => Smooth::new(&[1]),
                                weights => {
                                    let same = old.filter(|old| old.weights == weights);
                                    Smooth::after(weights, same.map(|old| &old.split))
                                }
                            };
                            let kept = old.map_or(&[][..], |old| old.filters.as_slice());
                            RouteAction::Forward(ForwardTable {
                                mirrors: forward
                                    .mirrors
                                    .iter()
                                    .map(|mirror| clusters.get(&mirror.cluster).copied())
                                    .collect(),
                                filters: filters(forward, kept, &mut shared),
                                targets: forward
                                    .clusters
                                    .iter()
                                    .map(|target| clusters.get(&target.cluster).copied())
                                    .collect(),
                                weights,
                                split,
                                label: registry.route(&explain::label(config)),
                                retry: forward.retry.as_ref().map(RetryTable::new),
                                session: forward.filters.iter().find_map(|filter| match filter {
                                    HttpFilter::StatefulSession(how) => Some(Arc::clone(how)),
                                    _ => None,
                                }),
                                looks_at_heads: looks_at_heads(forward),
                            })
                        }
                        Action::Redirect(_) | Action::Respond(_) => RouteAction::Answer,
                    })
                    .collect()
            })
            .collect();
        let router = before
            .filter(|old| old.router.table() == config)
            .map_or_else(
                || Arc::new(Router::new(config)),
                |old| Arc::clone(&old.router),
            );
        Self { router, actions }
    }

    /// The route of `request` and what it does.
    pub(crate) fn find(&self, request: &dyn Request) -> Option<(Found<'_>, &RouteAction)> {
        let found = self.router.find(request)?;
        let action = self.actions.get(found.host_index)?.get(found.route_index)?;
        Some((found, action))
    }
}

/// The route's own filters. Routes that were given one configuration together share its counts, and
/// those in `kept` go on with theirs.
fn filters(
    forward: &Forward,
    kept: &[Filter],
    shared: &mut Vec<(HttpFilter, Filter)>,
) -> Vec<Filter> {
    let mut own = Vec::new();
    for config in &forward.filters {
        let known = shared.iter().find(|(other, _)| match (other, config) {
            (HttpFilter::LocalRateLimit(other), HttpFilter::LocalRateLimit(config)) => {
                Arc::ptr_eq(other, config)
            }
            _ => false,
        });
        if let Some((_, filter)) = known {
            own.push(filter.clone());
            continue;
        }
        for filter in filter::prepare(std::slice::from_ref(config), kept) {
            shared.push((config.clone(), filter.clone()));
            own.push(filter);
        }
    }
    own
}

fn looks_at_heads(forward: &Forward) -> bool {
    let deadlines = &forward.deadlines;
    deadlines.grpc.is_some()
        || deadlines.grpc_stream.is_some()
        || forward
            .retry
            .as_ref()
            .is_some_and(|retry| !retry.request_headers.is_empty())
}

impl RouteTable {
    /// The filters of all routes.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &Filter> {
        self.actions
            .iter()
            .flatten()
            .flat_map(|action| match action {
                RouteAction::Forward(forward) => forward.filters.as_slice(),
                RouteAction::Answer => &[],
            })
    }

    /// The clusters of routes that keep sessions.
    pub(crate) fn with_sessions(&self) -> impl Iterator<Item = usize> {
        let keeps = |forward: &&ForwardTable| {
            let session = forward.session.as_ref();
            session.is_some_and(|how| how.by.is_some())
        };
        self.actions
            .iter()
            .flatten()
            .filter_map(|action| match action {
                RouteAction::Forward(forward) => Some(forward),
                RouteAction::Answer => None,
            })
            .filter(keeps)
            .flat_map(|forward| forward.targets.iter().copied().flatten())
    }

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

    /// The cluster of each target in order, when the view holds it.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Option<usize>> {
        self.targets.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use crate::mesh::route::{HeaderEdits, Route, VirtualHost, WeightedCluster};

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
                ..VirtualHost::default()
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
}
