//! Choosing one endpoint of a cluster.
//!
//! What can be worked out before a request comes is in [`choices`]: shares of priorities and
//! localities, rounds, rings. A request draws from these. An endpoint that went out since they were
//! worked out, or that the request was refused at before, is passed over by drawing again, which keeps
//! the shares of the others.

pub(crate) mod choices;
pub(crate) mod hash;
pub(crate) mod latency;
pub(crate) mod locality;
pub(crate) mod outlier;
pub(crate) mod priority;
pub(crate) mod ring;
pub(crate) mod slow;
pub(crate) mod smooth;

use std::sync::atomic::Ordering;

use crate::mesh::LoadBalancer;

use super::tables::{EndpointEntry, EndpointSet};
use choices::{Order, Pool, Tier};

/// What a request wants of the choice.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish<'r> {
    /// Endpoints that it was refused at, by id.
    pub(crate) refused: &'r [u64],
    /// Of what its route says; at random where it says nothing.
    pub(crate) hash: Option<u64>,
    /// In milliseconds since the process began.
    pub(crate) now: u64,
    /// Requests in flight to the whole cluster.
    pub(crate) active: u32,
}

/// Draws an endpoint.
pub(crate) fn pick<'s>(set: &'s EndpointSet, wish: Wish<'_>) -> Option<&'s EndpointEntry> {
    let choices = set.choices();
    let tier = choices.tier(wish.hash)?;
    let drawn = tier.pool().and_then(|pool| draw(set, tier, pool, wish));
    drawn.or_else(|| {
        // Nobody there who can be called: any other pool is better than none. Who was refused
        // somewhere is not sent to a priority that gets no requests.
        let any = |tier: &Tier| {
            let mut pools = tier.pools.iter();
            pools.find_map(|pool| draw(set, tier, pool, wish))
        };
        let fresh = wish.refused.is_empty();
        choices
            .tiers()
            .find_map(any)
            .or_else(|| choices.spare().filter(|_| fresh).find_map(any))
    })
}

/// A pool as one request sees it.
struct Draw<'d, 's> {
    set: &'s EndpointSet,
    pool: &'d Pool,
    panic: bool,
    wish: Wish<'d>,
}

fn draw<'s>(
    set: &'s EndpointSet,
    tier: &Tier,
    pool: &Pool,
    wish: Wish<'_>,
) -> Option<&'s EndpointEntry> {
    let draw = Draw {
        set,
        pool,
        panic: tier.panic,
        wish,
    };
    match &pool.order {
        Order::Round(round) => {
            (0..round.len().max(1)).find_map(|_| draw.usable(draw.entry(round.next()?)?))
        }
        Order::Even | Order::Sums(_) => match set.config.load_balancer {
            LoadBalancer::LeastRequest => draw.least(Draw::requests),
            LoadBalancer::PeakEwma => draw.least(Draw::cost),
            _ => draw.random(),
        },
        Order::Ring(ring, shares) => draw.hashed(shares, |hash, attempt| ring.find(hash, attempt)),
        Order::Maglev(table, shares) => {
            draw.hashed(shares, |hash, attempt| table.find(hash, attempt))
        }
    }
}

impl<'s> Draw<'_, 's> {
    /// The endpoint at `place` among the pool's members.
    fn entry(&self, place: usize) -> Option<&'s EndpointEntry> {
        let index = *self.pool.members.get(place)?;
        self.set.entries.get(usize::try_from(index).ok()?)
    }

    fn usable(&self, entry: &'s EndpointEntry) -> Option<&'s EndpointEntry> {
        let state = &entry.state;
        let healthy = self.panic || !state.health.is_out();
        (healthy && !self.wish.refused.contains(&state.id)).then_some(entry)
    }

    /// By weight, at random; the next ones in order when the drawn one is out.
    fn random(&self) -> Option<&'s EndpointEntry> {
        let members = self.pool.members.len();
        let at = match &self.pool.order {
            Order::Sums(sums) => {
                let drawn = fastrand::u64(0..(*sums.last()?).max(1));
                sums.partition_point(|sum| *sum <= drawn)
            }
            _ if members == 0 => return None,
            _ => fastrand::usize(0..members),
        };
        (at..members)
            .chain(0..at)
            .find_map(|place| self.usable(self.entry(place)?))
    }

    /// The cheapest of a few drawn ones, or of all.
    fn least(&self, cost: impl Fn(&Self, &EndpointEntry) -> f64) -> Option<&'s EndpointEntry> {
        if self.pool.members.len() == 1 {
            return self.usable(self.entry(0)?);
        }
        let balancing = &self.set.config.balancing;
        let cheaper = |best: Option<(&'s EndpointEntry, f64)>, next: &'s EndpointEntry| {
            let price = cost(self, next);
            match best {
                Some((best, least)) if least <= price => Some((best, least)),
                _ => Some((next, price)),
            }
        };
        let best = if balancing.full_scan {
            let members = self.pool.members.len();
            let at = fastrand::usize(0..members.max(1));
            (at..members)
                .chain(0..at)
                .filter_map(|place| self.usable(self.entry(place)?))
                .fold(None, cheaper)
        } else {
            (0..balancing.choices.max(1))
                .try_fold(None, |best, _| Some(cheaper(best, self.random()?)))?
        };
        best.map(|(entry, _)| entry)
    }

    /// Requests in flight, to the power of the bias, by weight. The idle are all alike: the draw has
    /// given each its share already.
    fn requests(&self, entry: &EndpointEntry) -> f64 {
        let active = f64::from(entry.state.active.load(Ordering::Relaxed));
        let bias = self.set.config.balancing.request_bias;
        let active = if bias == 1000 {
            active
        } else {
            active.powf(f64::from(bias) / 1000.0)
        };
        active / f64::from(entry.weight.max(1))
    }

    fn cost(&self, entry: &EndpointEntry) -> f64 {
        let latency = entry
            .state
            .latency
            .read(self.wish.now, self.set.config.balancing.decay);
        let active = entry.state.active.load(Ordering::Relaxed);
        latency::cost(latency, active, entry.weight)
    }

    /// By hash; further along when the one that is found is out or has more than its share.
    fn hashed(
        &self,
        shares: &[f64],
        find: impl Fn(u64, usize) -> Option<u32>,
    ) -> Option<&'s EndpointEntry> {
        let hash = self.wish.hash.unwrap_or_else(|| fastrand::u64(..));
        let members = self.pool.members.len();
        let place = |attempt: usize| usize::try_from(find(hash, attempt)?).ok();
        let mut first = None;
        for attempt in 0..members.saturating_mul(2).clamp(4, 64) {
            let at = place(attempt)?;
            if let Some(entry) = self.entry(at).and_then(|entry| self.usable(entry)) {
                first = Some((at, entry));
                break;
            }
        }
        let Some((at, entry)) = first else {
            // Hardly anybody is left: look at all.
            return (0..members).find_map(|place| self.usable(self.entry(place)?));
        };
        if shares.is_empty() {
            return Some(entry);
        }
        let load = |at: usize, entry: &EndpointEntry| {
            let share = shares.get(at).copied().unwrap_or(0.0);
            self.overload(entry, share)
        };
        let mut best = (load(at, entry), entry);
        if best.0 <= 1.0 {
            return Some(entry);
        }
        // Others in an order of the hash's own, so that what overflows is spread.
        let mut order = fastrand::Rng::with_seed(hash);
        for _ in 0..members.saturating_mul(2).min(64) {
            let other = order.usize(0..members.max(1));
            if let Some(entry) = self.entry(other).and_then(|entry| self.usable(entry)) {
                let load = load(other, entry);
                if load <= 1.0 {
                    return Some(entry);
                }
                if load < best.0 {
                    best = (load, entry);
                }
            }
        }
        Some(best.1)
    }

    /// Requests in flight by those that are its part of the bound (Envoy's).
    fn overload(&self, entry: &EndpointEntry, share: f64) -> f64 {
        let factor = u64::from(self.set.config.balancing.balance_factor);
        let slots = ((u64::from(self.wish.active) + 1) * factor).div_ceil(100);
        let own = (float(slots) * share).ceil().max(1.0);
        f64::from(entry.state.active.load(Ordering::Relaxed)) / own
    }
}

pub(crate) use crate::telemetry::registry::to_float as float;

/// The whole part of a number; 0 for negative ones.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates; the standard library has no other way"
)]
pub(crate) fn floor(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests;
