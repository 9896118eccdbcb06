//! Which endpoints a caller prefers by where they and it are: Istio's locality load balancing.
//!
//! Shares (`distribute`) become weights of localities. Preference (`failover`, `failoverPriority`)
//! becomes priorities, and only where ejection is on, as nothing else would notice that an endpoint
//! is ill.

use std::collections::BTreeMap;

use super::service::Distribution;
use super::world::TrafficPolicy;
use super::{Locality, LocalityWeight};

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";

/// What is said of localities (`localityLbSetting`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalitySetting {
    /// Localities do not count at all.
    pub disabled: bool,
    /// Shares by where the caller is; the first that is for it counts.
    pub distribute: Vec<Distribute>,
    /// From which region to which.
    pub failover: Vec<(String, String)>,
    /// Labels that an endpoint should share with its caller, the most important first; with the value
    /// that it should have where it is not the caller's.
    pub priority: Vec<(String, Option<String>)>,
}

/// Shares of the calls from one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribute {
    /// Where callers are.
    pub from: LocalityPattern,
    /// Where endpoints are, and the share that these get.
    pub to: Vec<(LocalityPattern, u32)>,
}

/// `region/zone/subzone`, each of which may be `*`, as may be left out at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalityPattern {
    region: Option<String>,
    zone: Option<String>,
    subzone: Option<String>,
}

impl LocalityPattern {
    /// What `text` says; `None` where it has too many parts, or an empty one.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 || parts.contains(&"") {
            return None;
        }
        let part = |at: usize| {
            let named = parts.get(at).filter(|part| **part != "*");
            named.map(|part| (*part).to_owned())
        };
        Some(Self {
            region: part(0),
            zone: part(1),
            subzone: part(2),
        })
    }

    /// Whether `locality` is there.
    pub fn holds(&self, locality: &Locality) -> bool {
        let part = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        part(&self.region, &locality.region)
            && part(&self.zone, &locality.zone)
            && part(&self.subzone, &locality.subzone)
    }

    /// Whether some place is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let part = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
        part(&self.region, &other.region)
            && part(&self.zone, &other.zone)
            && part(&self.subzone, &other.subzone)
    }
}

/// Where a caller or an endpoint is, and what it carries.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Where it runs.
    pub locality: &'a Locality,
    /// Labels of its workload.
    pub labels: &'a BTreeMap<String, String>,
}

impl Place<'_> {
    /// The value of `label`, or that of the locality which Kubernetes and Istio name so.
    fn label(&self, label: &str) -> &str {
        let own = self.labels.get(label).map(String::as_str);
        own.unwrap_or(match label {
            REGION => &self.locality.region,
            ZONE => &self.locality.zone,
            SUBZONE => &self.locality.subzone,
            _ => "",
        })
    }
}

/// What is decided of some endpoints for one caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranks {
    /// Of each in order its priority; `None` gets nothing.
    pub priorities: Vec<Option<u32>>,
    /// As [`super::Assignment::locality_weights`].
    pub weights: Vec<LocalityWeight>,
}

/// How endpoints of a service are called, as far as localities go.
#[derive(Debug, Clone, Copy)]
pub struct Called<'a> {
    /// By rules.
    pub policy: &'a TrafficPolicy,
    /// By the service's own word, which counts where rules say nothing.
    pub distribution: Option<Distribution>,
}

impl Called<'_> {
    /// The setting in force, if localities count, and whether endpoints are preferred by it.
    fn setting(&self) -> Option<(LocalitySetting, bool)> {
        let balancer = self.policy.load_balancer.as_ref();
        let written = balancer.and_then(|balancer| balancer.locality.clone());
        let ejects = self.policy.outlier.is_some();
        match (written, self.distribution) {
            (Some(own), _) => (!own.disabled).then_some((own, ejects)),
            // Kubernetes does so whether or not somebody watches.
            (None, Some(distribution)) => Some((LocalitySetting::of(distribution), true)),
            (None, None) => Some((LocalitySetting::default(), ejects)),
        }
    }

    /// Whether endpoints have different ranks for different callers.
    pub fn counts(&self) -> bool {
        self.setting()
            .is_some_and(|(setting, prefers)| prefers || !setting.distribute.is_empty())
    }

    /// Whether a locality is chosen before an endpoint of it: not by default, as it bends the policy.
    pub fn is_weighted(&self) -> bool {
        self.setting().is_some_and(|(setting, prefers)| {
            let preferred = !setting.failover.is_empty() || !setting.priority.is_empty();
            !setting.distribute.is_empty() || (preferred && prefers)
        })
    }
}

impl LocalitySetting {
    /// Labels that Kubernetes' preference goes by, in Istio's order. Which machine an endpoint runs on is
    /// not known.
    pub const DISTRIBUTION: [&'static str; 4] =
        ["topology.istio.io/network", REGION, ZONE, SUBZONE];

    fn of(distribution: Distribution) -> Self {
        let labels = match distribution {
            Distribution::SameZone => 3,
            Distribution::SameNode => 4,
        };
        let labels = Self::DISTRIBUTION.iter().take(labels);
        Self {
            priority: labels.map(|label| ((*label).to_owned(), None)).collect(),
            ..Self::default()
        }
    }
}

/// Ranks `endpoints`, each with its weight, for calls of `caller`.
pub fn rank(called: Called<'_>, caller: Place<'_>, endpoints: &[(Place<'_>, u32)]) -> Ranks {
    let alike = Ranks {
        priorities: vec![Some(0); endpoints.len()],
        weights: Vec::new(),
    };
    let Some((setting, prefers)) = called.setting() else {
        return alike;
    };
    if !setting.distribute.is_empty() {
        let mut own = setting.distribute.iter();
        return match own.find(|shares| shares.from.holds(caller.locality)) {
            Some(shares) => distribute(shares, endpoints),
            None => alike,
        };
    }
    if !prefers {
        return alike;
    }
    let by_label = |endpoint: &Place<'_>| by_label(&setting, caller, *endpoint);
    let by_place = |endpoint: &Place<'_>| by_place(&setting, caller.locality, endpoint.locality);
    let raw: Vec<u32> = endpoints
        .iter()
        .map(
            |(endpoint, _)| match (setting.priority.as_slice(), setting.failover.as_slice()) {
                ([], _) => by_place(endpoint),
                (_, []) => by_label(endpoint),
                // There are five of the second kind.
                _ => by_label(endpoint) * 5 + by_place(endpoint),
            },
        )
        .collect();
    let mut levels = raw.clone();
    levels.sort_unstable();
    levels.dedup();
    // Priorities have no gaps.
    let level = |raw: &u32| {
        let at = levels.partition_point(|level| level < raw);
        u32::try_from(at).ok()
    };
    Ranks {
        priorities: raw.iter().map(level).collect(),
        weights: Vec::new(),
    }
}

/// The nearer the first label that differs stands to the front, the later.
fn by_label(setting: &LocalitySetting, caller: Place<'_>, endpoint: Place<'_>) -> u32 {
    let differs = setting.priority.iter().position(|(label, value)| {
        let wanted = value.as_deref().unwrap_or_else(|| caller.label(label));
        wanted != endpoint.label(label)
    });
    differs.map_or(0, |at| {
        u32::try_from(setting.priority.len().saturating_sub(at)).unwrap_or(u32::MAX / 8)
    })
}

fn by_place(setting: &LocalitySetting, caller: &Locality, endpoint: &Locality) -> u32 {
    let same = [
        caller.region == endpoint.region,
        caller.zone == endpoint.zone,
        caller.subzone == endpoint.subzone,
    ];
    match same {
        [true, true, true] => 0,
        [true, true, false] => 1,
        [true, false, _] => 2,
        [false, ..] => {
            let mut own = setting.failover.iter();
            match own.find(|(from, _)| *from == caller.region) {
                Some((_, to)) if *to != endpoint.region => 4,
                _ => 3,
            }
        }
    }
}

/// Each pattern's share goes to the localities that it holds, by the weight of their endpoints.
fn distribute(shares: &Distribute, endpoints: &[(Place<'_>, u32)]) -> Ranks {
    let mut localities: BTreeMap<&Locality, u64> = BTreeMap::new();
    for (place, weight) in endpoints {
        *localities.entry(place.locality).or_default() += u64::from(*weight);
    }
    let of = |locality: &Locality| {
        let mut to = shares.to.iter();
        to.find(|(pattern, _)| pattern.holds(locality))
    };
    let mut weights = Vec::new();
    for (locality, sum) in &localities {
        let Some((pattern, share)) = of(locality) else {
            continue;
        };
        let all = localities.iter();
        let together: u64 = all
            .filter(|(other, _)| of(other).is_some_and(|(own, _)| own == pattern))
            .map(|(_, sum)| sum)
            .sum();
        let weight = sum
            .saturating_mul(u64::from(*share))
            .div_ceil(together.max(1));
        // What is the sum of the endpoints' weights goes without saying.
        if weight != *sum {
            weights.push(LocalityWeight {
                priority: 0,
                locality: (*locality).clone(),
                weight: u32::try_from(weight).unwrap_or(u32::MAX),
            });
        }
    }
    let priorities = endpoints
        .iter()
        .map(|(place, _)| of(place.locality).map(|_| 0));
    Ranks {
        priorities: priorities.collect(),
        weights,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::cluster::OutlierDetection;
    use crate::mesh::world::LoadBalancing;

    fn at(text: &str) -> Locality {
        let mut parts = text.split('/').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        Locality {
            region: part(),
            zone: part(),
            subzone: part(),
        }
    }

    fn policy(setting: Option<LocalitySetting>, ejects: bool) -> TrafficPolicy {
        TrafficPolicy {
            load_balancer: setting.map(|locality| {
                Box::new(LoadBalancing {
                    locality: Some(locality),
                    ..LoadBalancing::default()
                })
            }),
            outlier: ejects.then(OutlierDetection::default),
            ..TrafficPolicy::default()
        }
    }

    fn ranks(policy: &TrafficPolicy, from: &str, to: &[&str]) -> Ranks {
        let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        let from = at(from);
        let places: Vec<Locality> = to.iter().map(|to| at(to)).collect();
        let endpoints: Vec<_> = places
            .iter()
            .map(|locality| {
                let labels = &labels;
                (Place { locality, labels }, 1)
            })
            .collect();
        let caller = Place {
            locality: &from,
            labels: &labels,
        };
        let called = Called {
            policy,
            distribution: None,
        };
        rank(called, caller, &endpoints)
    }

    const WHERE: [&str; 5] = ["r1/z1/s1", "r1/z1/s2", "r1/z2", "r2", "r3"];

    #[test]
    fn the_nearer_goes_first_where_ejection_is_on() {
        let some = |of: [u32; 5]| of.map(Some).to_vec();
        let near = ranks(&policy(None, true), "r1/z1/s1", &WHERE);
        assert_eq!(near.priorities, some([0, 1, 2, 3, 3]));
        assert_eq!(
            ranks(&policy(None, false), "r1/z1/s1", &WHERE).priorities,
            some([0; 5])
        );
        // Levels that nobody is on are left out.
        let far = ranks(&policy(None, true), "r1/z9", &WHERE);
        assert_eq!(far.priorities, some([0, 0, 0, 1, 1]));
        let named = LocalitySetting {
            failover: vec![("r1".to_owned(), "r3".to_owned())],
            ..LocalitySetting::default()
        };
        let named = ranks(&policy(Some(named), true), "r1/z1/s1", &WHERE);
        assert_eq!(named.priorities, some([0, 1, 2, 4, 3]));
        let off = LocalitySetting {
            disabled: true,
            ..LocalitySetting::default()
        };
        assert_eq!(
            ranks(&policy(Some(off), true), "r1/z1/s1", &WHERE).priorities,
            some([0; 5])
        );
    }

    #[test]
    fn labels_rank_by_the_first_that_differs() {
        let setting = LocalitySetting {
            priority: vec![
                ("topology.kubernetes.io/region".to_owned(), None),
                (
                    "topology.kubernetes.io/zone".to_owned(),
                    Some("z2".to_owned()),
                ),
            ],
            ..LocalitySetting::default()
        };
        let found = ranks(&policy(Some(setting), true), "r1/z1/s1", &WHERE);
        let wanted = [1, 1, 0, 2, 2].map(Some);
        assert_eq!(found.priorities, wanted);
    }

    #[test]
    fn shares_are_split_by_the_weight_of_what_is_there_and_the_rest_gets_nothing() {
        let pattern = |text: &str| LocalityPattern::parse(text).unwrap();
        let shares = |from: &str| LocalitySetting {
            distribute: vec![Distribute {
                from: pattern(from),
                to: vec![(pattern("r1/*"), 80), (pattern("r2"), 20)],
            }],
            ..LocalitySetting::default()
        };
        let found = ranks(&policy(Some(shares("r1/z1/*")), false), "r1/z1/s1", &WHERE);
        assert_eq!(found.priorities, [Some(0), Some(0), Some(0), Some(0), None]);
        let weights: Vec<u32> = found.weights.iter().map(|weight| weight.weight).collect();
        assert_eq!(weights, [27, 27, 27, 20]);
        let elsewhere = ranks(&policy(Some(shares("r9")), false), "r1/z1/s1", &WHERE);
        assert_eq!(elsewhere.priorities, [Some(0); 5]);
        assert!(elsewhere.weights.is_empty());
    }

    #[test]
    fn patterns_hold_what_they_name() {
        let holds =
            |pattern: &str, place: &str| LocalityPattern::parse(pattern).unwrap().holds(&at(place));
        assert!(holds("*", "r1/z1") && holds("r1", "r1/z1/s1") && holds("r1/*/s1", "r1/z1/s1"));
        assert!(!holds("r1/z2", "r1/z1") && !holds("r2/*", "r1/z1"));
        assert!(
            LocalityPattern::parse("a/b/c/d").is_none() && LocalityPattern::parse("a//c").is_none()
        );
    }
}
