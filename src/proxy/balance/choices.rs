//! What a choice of one endpoint is made from: priorities, localities, endpoints and their order.
//!
//! Worked out when endpoints or their health change, off the path of requests; a request then draws
//! a tier (a priority, and whether its healthy or its degraded endpoints), a locality where these
//! count, and an endpoint.

use smallvec::SmallVec;

use crate::mesh::balancing::LocalityBalancing;
use crate::mesh::{Assignment, Cluster, Endpoint, Health, LoadBalancer, Locality};

use super::super::health::flags::Why;
use super::super::tables::EndpointEntry;
use super::locality::{self, Members, Zones};
use super::priority::{Level, Load, Rules, loads};
use super::ring::{Maglev, Placed, Ring};
use super::slow::share;
use super::smooth::Smooth;
use super::{float, floor};

/// Everything a choice is made from.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    /// Up to which percentage of requests go to which of `tiers`.
    loads: SmallVec<[(u32, usize); 2]>,
    tiers: Vec<Tier>,
    /// Those that get no requests: for when the others went out a moment ago.
    spare: Vec<Tier>,
    /// When it changes by itself, in milliseconds since the process began.
    pub(crate) again: Option<u64>,
}

/// Endpoints of one priority and one kind of health.
#[derive(Debug)]
pub(crate) struct Tier {
    /// Health does not count.
    pub(crate) panic: bool,
    /// Over `pools`.
    split: Smooth,
    pub(crate) pools: Vec<Pool>,
}

/// Endpoints that are told apart by weight only.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Indexes of endpoints.
    pub(crate) members: Box<[u32]>,
    pub(crate) order: Order,
}

/// How one of a pool's members is found. Places are those in `members`.
#[derive(Debug)]
pub(crate) enum Order {
    /// In turn.
    Round(Smooth),
    /// At random, all alike.
    Even,
    /// At random, by running sums of weights.
    Sums(Box<[u64]>),
    /// By hash.
    Ring(Ring, Shares),
    /// By hash.
    Maglev(Maglev, Shares),
}

/// Each member's share, of 1, where the load is bounded.
pub(crate) type Shares = Box<[f64]>;

/// Where the caller is, and how many like it are in each locality.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) locality: Locality,
    pub(crate) callers: Vec<(Locality, u64)>,
}

/// What choices are worked out from.
#[derive(Clone, Copy)]
pub(crate) struct Given<'g> {
    pub(crate) config: &'g Cluster,
    pub(crate) assignment: &'g Assignment,
    /// As `assignment.endpoints`.
    pub(crate) entries: &'g [EndpointEntry],
    /// None where it is not known.
    pub(crate) home: Option<&'g Home>,
    /// In milliseconds since the process began.
    pub(crate) now: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fitness {
    Healthy,
    Degraded,
    Out,
    /// Not known yet: does not count at all.
    Pending,
}

/// An endpoint with what decides about it.
#[derive(Clone, Copy)]
struct Member<'g> {
    index: u32,
    endpoint: &'g Endpoint,
    fitness: Fitness,
    /// Thousandths.
    weight: u64,
}

impl Choices {
    /// The tier for a request: by its hash where it has one, else at random.
    pub(crate) fn tier(&self, hash: Option<u64>) -> Option<&Tier> {
        let at = match self.loads.as_slice() {
            [(_, only)] => *only,
            loads => {
                let drawn = hash.map_or_else(|| fastrand::u32(0..100), percent);
                loads.iter().find(|(below, _)| drawn < *below)?.1
            }
        };
        self.tiers.get(at)
    }

    /// Tiers that get no requests now, from the first priority on.
    pub(crate) fn spare(&self) -> impl Iterator<Item = &Tier> {
        self.spare.iter()
    }

    /// All tiers that get requests, from the first priority on.
    pub(crate) fn tiers(&self) -> impl Iterator<Item = &Tier> {
        self.tiers.iter()
    }

    /// Works everything out; rounds go on where those of `before` stand.
    pub(crate) fn new(given: Given<'_>, before: Option<&Self>) -> Self {
        let mut again = None;
        let members = members(given, &mut again);
        // Endpoints are sorted by priority; foreign lists of fixed ones have only one.
        let mut levels: Vec<Vec<Member<'_>>> = Vec::new();
        for member in members {
            let same = levels
                .last()
                .and_then(|level| level.last())
                .is_some_and(|last| last.endpoint.priority == member.endpoint.priority);
            match levels.last_mut().filter(|_| same) {
                Some(level) => level.push(member),
                None => levels.push(vec![member]),
            }
        }
        let weighted = given.assignment.weighted_health;
        let counts: Vec<Level> = levels.iter().map(|l| count(l, weighted)).collect();
        let rules = Rules {
            overprovisioning: given.assignment.overprovisioning,
            panic_threshold: given.config.balancing.panic_threshold,
        };
        let loads = loads(&counts, rules);
        let mut made = Making {
            given,
            before: before.map_or_else(Vec::new, |before| {
                before
                    .tiers
                    .iter()
                    .chain(&before.spare)
                    .flat_map(Tier::rounds)
                    .collect()
            }),
            begun: 0,
            choices: Self::default(),
        };
        for (at, (level, load)) in levels.iter().zip(&loads).enumerate() {
            made.healthy(level, *load, at == 0);
        }
        for (level, load) in levels.iter().zip(&loads) {
            made.degraded(level, *load);
        }
        Self {
            again,
            ..made.choices
        }
    }
}

/// A number from 0 to 99 (Envoy's priority of a hash).
fn percent(hash: u64) -> u32 {
    u32::try_from(hash % 100).unwrap_or(0)
}

/// Every endpoint, and in `again` when one changes by itself.
fn members<'g>(given: Given<'g>, again: &mut Option<u64>) -> Vec<Member<'g>> {
    let slow = given
        .config
        .balancing
        .slow_start
        .filter(|slow| !slow.window.is_zero());
    let ignores_new = given
        .config
        .health_check
        .as_ref()
        .is_some_and(|check| check.policy.ignore_new_hosts_until_first_hc);
    let mut sooner = |at: u64| *again = Some(again.map_or(at, |again: u64| again.min(at)));
    (0_u32..)
        .zip(given.assignment.endpoints.iter().zip(given.entries))
        .map(|(index, (endpoint, entry))| {
            let state = &entry.state;
            let fitness = match endpoint.health {
                _ if state.health.is_out() => {
                    if ignores_new && state.health.holds(Why::Pending) {
                        Fitness::Pending
                    } else {
                        Fitness::Out
                    }
                }
                Health::Unhealthy | Health::Draining => Fitness::Out,
                Health::Degraded => Fitness::Degraded,
                Health::Healthy => Fitness::Healthy,
            };
            let weight = u64::from(endpoint.weight.max(1));
            let weight = match slow {
                Some(slow) => {
                    let age = given.now.saturating_sub(state.since());
                    let (part, step) = share(&slow, age);
                    if let Some(step) = step {
                        sooner(given.now + step);
                    }
                    floor(float(weight) * part * 1000.0).max(1)
                }
                None => weight.saturating_mul(1000),
            };
            Member {
                index,
                endpoint,
                fitness,
                weight,
            }
        })
        .collect()
}

fn count(level: &[Member<'_>], weighted: bool) -> Level {
    let mut counts = Level::default();
    for member in level {
        let worth = if weighted {
            u64::from(member.endpoint.weight)
        } else {
            1
        };
        match member.fitness {
            Fitness::Pending => continue,
            Fitness::Healthy => counts.healthy += worth,
            Fitness::Degraded => counts.degraded += worth,
            Fitness::Out => {}
        }
        counts.hosts += 1;
        counts.total += worth;
        counts.available += u64::from(member.fitness != Fitness::Out);
    }
    counts
}

impl Tier {
    /// The pool for a request.
    pub(crate) fn pool(&self) -> Option<&Pool> {
        match self.pools.as_slice() {
            [only] => Some(only),
            pools => pools.get(self.split.next()?),
        }
    }

    fn rounds(&self) -> impl Iterator<Item = &Smooth> {
        let pools = self.pools.iter().filter_map(|pool| match &pool.order {
            Order::Round(round) => Some(round),
            _ => None,
        });
        std::iter::once(&self.split).chain(pools)
    }
}

/// Choices half-way.
struct Making<'g> {
    given: Given<'g>,
    /// Rounds of before, in the order in which they were made.
    before: Vec<&'g Smooth>,
    begun: usize,
    choices: Choices,
}

impl<'g> Making<'g> {
    fn healthy(&mut self, level: &[Member<'g>], load: Load, first: bool) {
        let chosen: Vec<Member<'g>> = level
            .iter()
            .filter(|member| {
                if load.panic {
                    // What goes away gets nothing new even now.
                    member.endpoint.health != Health::Draining
                } else {
                    member.fitness == Fitness::Healthy
                }
            })
            .copied()
            .collect();
        let refuses = matches!(
            self.given.config.balancing.locality,
            LocalityBalancing::ZoneAware(zones) if zones.fail_on_panic
        );
        let chosen = if load.panic && refuses {
            Vec::new()
        } else {
            chosen
        };
        let zones = first && !load.panic;
        self.tier(level, &chosen, (load.healthy, load.panic, zones));
    }

    fn degraded(&mut self, level: &[Member<'g>], load: Load) {
        if load.panic {
            return;
        }
        let chosen: Vec<Member<'g>> = level
            .iter()
            .filter(|member| member.fitness == Fitness::Degraded)
            .copied()
            .collect();
        self.tier(level, &chosen, (load.degraded, false, false));
    }

    fn round(&mut self, weights: &[u32]) -> Smooth {
        let before = self.before.get(self.begun).copied();
        self.begun += 1;
        Smooth::after(weights, before)
    }

    fn tier(
        &mut self,
        level: &[Member<'g>],
        chosen: &[Member<'g>],
        (load, panic, zones): (u32, bool, bool),
    ) {
        let config = self.given.config;
        let hashes = config.load_balancer.hashes();
        let parts = match config.balancing.locality {
            _ if panic => None,
            LocalityBalancing::Weighted => self.weighted(level, chosen),
            LocalityBalancing::ZoneAware(rules) if zones && !hashes => {
                self.zoned(chosen, rules.min_cluster_size)
            }
            LocalityBalancing::ZoneAware(_) | LocalityBalancing::None => None,
        };
        let tier = match parts {
            // Hashed requests find their endpoint among all localities, by share.
            Some(parts) if hashes => {
                let whole: u64 = parts.iter().map(|(weight, _)| weight).sum();
                let shares = parts.iter().flat_map(|(weight, members)| {
                    let sum: u64 = members.iter().map(|member| member.weight).sum();
                    let part = float(*weight) / float(whole.max(1));
                    members
                        .iter()
                        .map(move |m| (*m, part * float(m.weight) / float(sum.max(1))))
                });
                let shares: Vec<_> = shares.filter(|(_, share)| *share > 0.0).collect();
                self.single(vec![hashed(config, &shares)], panic)
            }
            Some(parts) => {
                let weights = small(parts.iter().map(|(weight, _)| *weight));
                let split = self.round(&weights);
                let pools = parts
                    .iter()
                    .map(|(_, members)| self.pool(members))
                    .collect();
                Tier {
                    panic,
                    split,
                    pools,
                }
            }
            None if hashes => {
                let sum: u64 = chosen.iter().map(|member| member.weight).sum();
                let shares: Vec<_> = chosen
                    .iter()
                    .map(|member| (*member, float(member.weight) / float(sum.max(1))))
                    .collect();
                self.single(vec![hashed(config, &shares)], panic)
            }
            None => {
                let split = self.round(&[]);
                let pools = vec![self.pool(chosen)];
                Tier {
                    panic,
                    split,
                    pools,
                }
            }
        };
        let choices = &mut self.choices;
        if load == 0 {
            if !chosen.is_empty() {
                choices.spare.push(tier);
            }
            return;
        }
        let below = choices.loads.last().map_or(0, |(below, _)| *below) + load;
        choices.loads.push((below, choices.tiers.len()));
        choices.tiers.push(tier);
    }

    fn single(&mut self, pools: Vec<Pool>, panic: bool) -> Tier {
        Tier {
            panic,
            split: self.round(&[]),
            pools,
        }
    }

    /// Localities with a weight and someone to call; `None` when there is no such.
    fn weighted(
        &self,
        level: &[Member<'g>],
        chosen: &[Member<'g>],
    ) -> Option<Vec<(u64, Vec<Member<'g>>)>> {
        let assignment = self.given.assignment;
        let mut parts = Vec::new();
        for of in level.chunk_by(|a, b| a.endpoint.locality == b.endpoint.locality) {
            let Some(one) = of.first().map(|member| member.endpoint) else {
                continue;
            };
            let here = |member: &&Member<'_>| member.endpoint.locality == one.locality;
            let members: Vec<Member<'g>> = chosen.iter().filter(here).copied().collect();
            let said = assignment
                .locality_weights
                .iter()
                .find(|w| w.priority == one.priority && w.locality == one.locality);
            let sum = || {
                of.iter().fold(0_u32, |sum, member| {
                    sum.saturating_add(member.endpoint.weight)
                })
            };
            let weight = said.map_or_else(sum, |said| said.weight);
            let counted = of.iter().filter(|m| m.fitness != Fitness::Pending).count();
            let numbers = Members {
                hosts: u64::try_from(counted).unwrap_or(0),
                eligible: u64::try_from(members.len()).unwrap_or(0),
            };
            // A ring is the same however many are ill, so that as few requests as can be move.
            let weight = if self.given.config.load_balancer.hashes() {
                u64::from(weight)
            } else {
                locality::effective(weight, numbers, assignment.overprovisioning)
            };
            if weight > 0 && !members.is_empty() {
                parts.push((weight, members));
            }
        }
        (!parts.is_empty()).then_some(parts)
    }

    /// The caller's locality first; `None` when localities do not count.
    fn zoned(&self, chosen: &[Member<'g>], least: u64) -> Option<Vec<(u64, Vec<Member<'g>>)>> {
        let home = self.given.home?;
        let mut by_place: Vec<(&Locality, Vec<Member<'g>>)> = vec![(&home.locality, Vec::new())];
        for member in chosen {
            let place = &member.endpoint.locality;
            match by_place.iter_mut().find(|(known, _)| *known == place) {
                Some((_, members)) => members.push(*member),
                None => by_place.push((place, vec![*member])),
            }
        }
        let upstream: Vec<u64> = by_place
            .iter()
            .map(|(_, members)| u64::try_from(members.len()).unwrap_or(0))
            .collect();
        let mut callers: Vec<u64> = by_place
            .iter()
            .map(|(place, _)| {
                let of = home.callers.iter().find(|(known, _)| known == *place);
                of.map_or(0, |(_, count)| *count)
            })
            .collect();
        // Callers of localities without endpoints count in the whole.
        let all: u64 = home.callers.iter().map(|(_, count)| count).sum();
        callers.push(all.saturating_sub(callers.iter().sum()));
        let mut upstream = upstream;
        upstream.push(0);
        let weights = match locality::zones(&callers, &upstream, least) {
            Zones::Alike => return None,
            Zones::Home => vec![1],
            Zones::Split(weights) => weights,
        };
        let parts: Vec<_> = weights
            .into_iter()
            .zip(by_place)
            .filter(|(weight, (_, members))| *weight > 0 && !members.is_empty())
            .map(|(weight, (_, members))| (weight, members))
            .collect();
        (!parts.is_empty()).then_some(parts)
    }

    fn pool(&mut self, members: &[Member<'g>]) -> Pool {
        let weights: Vec<u64> = members.iter().map(|member| member.weight).collect();
        let alike = weights.windows(2).all(|pair| pair.first() == pair.last());
        let order = match self.given.config.load_balancer {
            LoadBalancer::RoundRobin => Order::Round(self.round(&small(weights))),
            _ if alike => Order::Even,
            _ => {
                let mut sum = 0_u64;
                let sums = weights.iter().map(|weight| {
                    sum = sum.saturating_add(*weight);
                    sum
                });
                Order::Sums(sums.collect())
            }
        };
        Pool {
            members: members.iter().map(|member| member.index).collect(),
            order,
        }
    }
}

/// Weights as a round takes them: whole again where they are, and small enough.
fn small(weights: impl IntoIterator<Item = u64>) -> Vec<u32> {
    let weights: Vec<u64> = weights.into_iter().collect();
    let most = weights.iter().copied().max().unwrap_or(0);
    let whole = weights.iter().all(|weight| weight % 1000 == 0);
    let divisor = if whole { 1000 } else { 1 }.max(most / u64::from(u32::MAX) + 1);
    weights
        .iter()
        .map(|weight| {
            let least = u64::from(*weight > 0);
            u32::try_from((weight / divisor).max(least)).unwrap_or(u32::MAX)
        })
        .collect()
}

fn hashed(config: &Cluster, members: &[(Member<'_>, f64)]) -> Pool {
    let placed: Vec<Placed> = (0_u32..)
        .zip(members)
        .map(|(index, (member, share))| Placed {
            key: member.endpoint.address.to_string(),
            share: *share,
            index,
        })
        .collect();
    let bounded = config.balancing.balance_factor > 0;
    let shares = members
        .iter()
        .filter(|_| bounded)
        .map(|(_, share)| *share)
        .collect();
    Pool {
        members: members.iter().map(|(member, _)| member.index).collect(),
        order: match config.load_balancer {
            LoadBalancer::Maglev => {
                Order::Maglev(Maglev::new(&placed, config.balancing.table_size), shares)
            }
            _ => Order::Ring(Ring::new(&placed, &config.balancing.ring), shares),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stay_whole_where_they_are() {
        assert_eq!(small([2_000, 1_000, 3_000]), [2, 1, 3]);
        assert_eq!(small([1_000, 100]), [1_000, 100]);
        let large = small([u64::MAX, 0, 1]);
        assert!(large[0] > 1_000_000 && large[1] == 0 && large[2] == 1);
    }
}
