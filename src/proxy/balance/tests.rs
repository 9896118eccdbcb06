//! Choices among endpoints of one cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::mesh::balancing::{Balancing, LocalityBalancing, SlowStart};
use crate::mesh::{Assignment, Cluster, Endpoint, Health, Locality, LocalityWeight};

use super::super::health::flags::Why;
use super::super::tables::testing::{cluster, endpoint, endpoints, set};
use super::*;

fn of(load_balancer: LoadBalancer, balancing: Balancing) -> Cluster {
    Cluster {
        load_balancer,
        balancing,
        ..cluster("c")
    }
}

/// How often each port is drawn.
fn counts(set: &EndpointSet, times: usize, wish: Wish<'_>) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        if let Some(entry) = pick(set, wish) {
            *counts.entry(entry.address.port()).or_default() += 1;
        }
    }
    counts
}

fn at(port: u16, change: impl FnOnce(&mut Endpoint)) -> Endpoint {
    let mut endpoint = endpoint(port, 1);
    change(&mut endpoint);
    endpoint
}

fn zone(name: &str) -> Locality {
    Locality {
        region: "r".to_owned(),
        zone: name.to_owned(),
        subzone: String::new(),
    }
}

#[test]
fn round_robin_is_exact_in_a_round_and_fair_without_the_refused() {
    let set = endpoints(&[1, 1, 2]);
    let drawn = counts(&set, 400, Wish::default());
    assert_eq!(drawn, BTreeMap::from([(0, 100), (1, 100), (2, 200)]));
    let refused = [set.entries[2].state.id];
    let wish = Wish {
        refused: &refused,
        ..Wish::default()
    };
    assert_eq!(
        counts(&set, 400, wish),
        BTreeMap::from([(0, 200), (1, 200)])
    );
}

#[test]
fn least_request_prefers_the_idle_one() {
    let members = || Assignment::new(vec![endpoint(0, 1), endpoint(1, 1)]);
    for (choices, full_scan, expected) in [
        (2, false, 650..850),
        (5, false, 930..1000),
        (2, true, 1000..1001),
    ] {
        let balancing = Balancing {
            choices,
            full_scan,
            ..Balancing::default()
        };
        let set = set(of(LoadBalancer::LeastRequest, balancing), members());
        set.entries[0].state.active.store(10, Ordering::Relaxed);
        let idle = counts(&set, 1000, Wish::default())[&1];
        assert!(expected.contains(&idle), "{choices}: {idle}");
    }
}

#[test]
fn idle_endpoints_get_their_weight() {
    for balancer in [
        LoadBalancer::LeastRequest,
        LoadBalancer::Random,
        LoadBalancer::PeakEwma,
    ] {
        let members = Assignment::new(vec![endpoint(0, 1), endpoint(1, 3)]);
        let set = set(of(balancer, Balancing::default()), members);
        let heavy = counts(&set, 4000, Wish::default())[&1];
        assert!((2800..3200).contains(&heavy), "{balancer:?}: {heavy}");
    }
}

#[test]
fn peak_ewma_avoids_the_slow_and_comes_back_to_it() {
    let members = Assignment::new(vec![endpoint(0, 1), endpoint(1, 1)]);
    let set = set(of(LoadBalancer::PeakEwma, Balancing::default()), members);
    let decay = Duration::from_secs(10);
    for (entry, took) in set.entries.iter().zip([200, 2]) {
        let took = Duration::from_millis(took);
        entry.state.latency.observe(took, 1_000, decay);
    }
    let wish = |now| Wish {
        now,
        ..Wish::default()
    };
    // Only two draws of the slow one give it the request.
    let slow = counts(&set, 1000, wish(1_000))[&0];
    assert!((180..320).contains(&slow), "{slow}");
    // With a hundred requests at the fast one, the slow one is as good.
    set.entries[1].state.active.store(150, Ordering::Relaxed);
    let slow = counts(&set, 1000, wish(1_000))[&0];
    assert!((680..820).contains(&slow), "{slow}");
}

#[test]
fn equal_hashes_meet_the_same_endpoint_and_others_when_it_is_out() {
    for balancer in [LoadBalancer::RingHash, LoadBalancer::Maglev] {
        let members = Assignment::new((0..5).map(|port| endpoint(port, 1)).collect());
        let set = set(of(balancer, Balancing::default()), members);
        let mut seen = BTreeMap::new();
        for hash in (0..200_u64).map(|n| hash::xx64(&n.to_le_bytes(), 0)) {
            let wish = Wish {
                hash: Some(hash),
                ..Wish::default()
            };
            let drawn = counts(&set, 5, wish);
            assert_eq!(drawn.len(), 1, "{balancer:?}");
            *seen.entry(*drawn.keys().next().unwrap()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 5);
        let wish = Wish {
            hash: Some(42),
            ..Wish::default()
        };
        let first = pick(&set, wish).unwrap();
        first.state.health.set(Why::Outlier, true);
        let second = pick(&set, wish).unwrap();
        assert_ne!(first.address, second.address);
        let refused = [second.state.id];
        let third = pick(
            &set,
            Wish {
                refused: &refused,
                ..wish
            },
        )
        .unwrap();
        assert!(![first.address, second.address].contains(&third.address));
    }
}

#[test]
fn what_is_more_than_an_endpoints_share_goes_elsewhere() {
    let balancing = Balancing {
        balance_factor: 150,
        ..Balancing::default()
    };
    for balancer in [LoadBalancer::RingHash, LoadBalancer::Maglev] {
        let members = Assignment::new((0..4).map(|port| endpoint(port, 1)).collect());
        let set = set(of(balancer, balancing.clone()), members);
        // Forty requests of one hash that all stay: nobody gets more than 1.5 times its quarter.
        for active in 0..40 {
            let wish = Wish {
                hash: Some(7),
                active,
                ..Wish::default()
            };
            let entry = pick(&set, wish).unwrap();
            entry.state.active.fetch_add(1, Ordering::Relaxed);
        }
        let most = set
            .entries
            .iter()
            .map(|entry| entry.state.active.load(Ordering::Relaxed))
            .max();
        assert!(most.unwrap() <= 17, "{balancer:?}: {most:?}");
    }
}

#[test]
fn load_spills_over_to_the_next_priority_by_health() {
    // Half of the first priority: 70 % stay.
    let mut members: Vec<Endpoint> = (0..4).map(|port| endpoint(port, 1)).collect();
    members[0].health = Health::Unhealthy;
    members[1].health = Health::Draining;
    members.extend((4..8).map(|port| at(port, |e| e.priority = 1)));
    let set = set(cluster("c"), Assignment::new(members));
    let drawn = counts(&set, 10_000, Wish::default());
    let first: usize = drawn.range(..4).map(|(_, count)| count).sum();
    assert!((6_700..7_300).contains(&first), "{first}");
    assert!(!drawn.contains_key(&0) && !drawn.contains_key(&1));
}

#[test]
fn degraded_endpoints_are_called_when_too_few_others_are_there() {
    let members = (0..4).map(|port| {
        at(port, |e| {
            e.health = [
                Health::Healthy,
                Health::Healthy,
                Health::Degraded,
                Health::Unhealthy,
            ][usize::from(port)];
        })
    });
    let set = set(cluster("c"), Assignment::new(members.collect()));
    let drawn = counts(&set, 10_000, Wish::default());
    assert!((2_700..3_300).contains(&drawn[&2]), "{drawn:?}");
    assert!(!drawn.contains_key(&3));
}

#[test]
fn in_panic_everybody_is_called_but_who_goes_away() {
    let members = || {
        let health = [
            Health::Healthy,
            Health::Unhealthy,
            Health::Unhealthy,
            Health::Draining,
        ];
        let of = |port| at(port, |e| e.health = health[usize::from(port)]);
        Assignment::new((0..4).map(of).collect())
    };
    let balancing = Balancing {
        panic_threshold: 50,
        ..Balancing::default()
    };
    let panicking = set(of(LoadBalancer::RoundRobin, balancing), members());
    let drawn = counts(&panicking, 300, Wish::default());
    assert_eq!(drawn, BTreeMap::from([(0, 100), (1, 100), (2, 100)]));
    let calm = set(cluster("c"), members());
    assert_eq!(
        counts(&calm, 300, Wish::default()),
        BTreeMap::from([(0, 300)])
    );
}

#[test]
fn a_locality_gets_its_weight_by_health() {
    let members = (0..5).map(|port| {
        at(port, |e| {
            e.locality = zone(if port < 2 { "a" } else { "b" });
            e.health = if port == 0 {
                Health::Unhealthy
            } else {
                Health::Healthy
            };
        })
    });
    let mut assignment = Assignment::new(members.collect());
    assignment.locality_weights = [("a", 1), ("b", 1)]
        .map(|(name, weight)| LocalityWeight {
            priority: 0,
            locality: zone(name),
            weight,
        })
        .into();
    let balancing = Balancing {
        locality: LocalityBalancing::Weighted,
        ..Balancing::default()
    };
    let set = set(of(LoadBalancer::RoundRobin, balancing), assignment);
    // Zone a has half of its endpoints: 0.7 against 1.
    let drawn = counts(&set, 1_700, Wish::default());
    assert_eq!(drawn[&1], 700, "{drawn:?}");
    assert_eq!([drawn[&2] + drawn[&3] + drawn[&4]], [1_000]);
}

#[test]
fn a_slow_start_is_a_smaller_share() {
    let balancing = Balancing {
        slow_start: Some(SlowStart {
            window: Duration::from_mins(1),
            aggression: 1000,
            min_weight_percent: 10,
        }),
        ..Balancing::default()
    };
    let members = Assignment::new(vec![endpoint(0, 1), endpoint(1, 1)]);
    let set = set(of(LoadBalancer::RoundRobin, balancing), members);
    assert!(set.choices().again.is_some());
    set.entries[1].state.begin(60_000);
    set.changed();
    set.refresh(66_000);
    let drawn = counts(&set, 1_100, Wish::default());
    assert_eq!(drawn, BTreeMap::from([(0, 1_000), (1, 100)]));
    set.refresh(120_001);
    let drawn = counts(&set, 100, Wish::default());
    assert_eq!(drawn, BTreeMap::from([(0, 50), (1, 50)]));
    assert!(set.choices().again.is_none());
}

#[test]
fn nothing_left_is_nothing() {
    for balancer in LoadBalancer::ALL {
        let config = || of(balancer, Balancing::default());
        let set_of = |members| set(config(), Assignment::new(members));
        let two = set_of(vec![endpoint(0, 1), endpoint(1, 1)]);
        let all = [two.entries[0].state.id, two.entries[1].state.id];
        let wish = Wish {
            refused: &all,
            ..Wish::default()
        };
        assert!(pick(&two, wish).is_none(), "{balancer:?}");
        assert!(pick(&set_of(vec![]), Wish::default()).is_none());
        // Out since the choices were worked out: passed over at once.
        two.entries[0].state.health.set(Why::FailedCheck, true);
        let drawn = counts(&two, 50, Wish::default());
        assert_eq!(drawn, BTreeMap::from([(1, 50)]), "{balancer:?}");
    }
}
