//! The detector against examples, and against a plain model of Envoy's documentation.

use proptest::prelude::*;

use super::super::super::tables::testing::{cluster, table};
use super::sweep::sweep;
use super::*;
use crate::mesh::outlier::{FailurePercentage, ResponseTime, SuccessRate};

fn watched(policy: OutlierDetection, count: u16) -> Arc<ClusterTable> {
    let mut config = cluster("c");
    config.outlier = Some(policy);
    table(config, count)
}

fn send(cluster: &ClusterTable, at: usize, outcome: Outcome, now: u64) {
    record(
        cluster,
        &cluster.endpoints.entries[at],
        (outcome, None),
        || now,
    );
}

fn out(cluster: &ClusterTable) -> Vec<usize> {
    (0..cluster.endpoints.entries.len())
        .filter(|at| cluster.endpoints.entries[*at].state.health.is_out())
        .collect()
}

fn review(cluster: &ClusterTable, now: u64) {
    sweep(cluster, now, &mut |_| 0);
}

fn stats(cluster: &ClusterTable, kind: Kind) -> (u64, u64) {
    let detector = cluster.outlier.as_ref().unwrap();
    let (_, detected, enforced) = detector
        .stats
        .kinds()
        .find(|(other, ..)| *other == kind)
        .unwrap();
    (detected, enforced)
}

#[test]
fn five_errors_in_a_row_eject_and_a_success_starts_over() {
    let cluster = watched(
        OutlierDetection {
            base_ejection: Duration::from_secs(1),
            ..OutlierDetection::default()
        },
        2,
    );
    let answer = |status| send(&cluster, 0, Outcome::Status(status), 100);
    (0..4).for_each(|_| answer(503));
    answer(200);
    (0..4).for_each(|_| answer(500));
    assert_eq!(out(&cluster), [0; 0]);
    let ejection = || {
        let monitor = cluster.endpoints.entries[0].state.monitor().unwrap();
        monitor
            .ejection()
            .map(|one| (one.kind, one.since, one.until))
    };
    assert_eq!(ejection(), None);
    answer(500);
    assert_eq!(out(&cluster), [0]);
    assert_eq!(ejection(), Some((Kind::Consecutive5xx, 100, 1_100)));
    review(&cluster, 1_099);
    assert_eq!(out(&cluster), [0]);
    review(&cluster, 1_100);
    assert_eq!(ejection(), None);
    assert_eq!(out(&cluster), [0; 0]);
    assert_eq!(stats(&cluster, Kind::Consecutive5xx), (1, 1));
}

#[test]
fn only_gateway_errors_fill_the_gateway_row() {
    let cluster = watched(
        OutlierDetection {
            consecutive_5xx: 0,
            consecutive_gateway: 2,
            ..OutlierDetection::default()
        },
        2,
    );
    for (status, is_out) in [(503, false), (500, false), (502, false), (504, true)] {
        send(&cluster, 1, Outcome::Status(status), 0);
        assert_eq!(out(&cluster) == [1], is_out, "{status}");
    }
    assert_eq!(stats(&cluster, Kind::ConsecutiveGatewayFailure), (1, 1));
}

#[test]
fn one_may_always_be_out_unless_told_otherwise() {
    for (always_eject_one_host, expected) in [(true, 1), (false, 0)] {
        let cluster = watched(
            OutlierDetection {
                consecutive_5xx: 1,
                always_eject_one_host,
                ..OutlierDetection::default()
            },
            3,
        );
        (0..3).for_each(|at| send(&cluster, at, Outcome::Failed, 0));
        assert_eq!(out(&cluster).len(), expected);
        let detector = cluster.outlier.as_ref().unwrap();
        assert_eq!(
            detector.stats.overflow(),
            3 - u64::try_from(expected).unwrap()
        );
    }
}

#[test]
fn failures_of_our_own_are_counted_apart_when_split() {
    let cluster = watched(
        OutlierDetection {
            consecutive_5xx: 3,
            split_external_local_origin_errors: true,
            consecutive_local_origin: 2,
            ..OutlierDetection::default()
        },
        2,
    );
    let steps = [
        Outcome::Status(500),
        Outcome::Failed,
        // The connection was there, so the row of failures to connect starts over.
        Outcome::Status(500),
        Outcome::TooLate,
    ];
    for outcome in steps {
        send(&cluster, 0, outcome, 0);
    }
    assert_eq!(out(&cluster), [0; 0]);
    send(&cluster, 0, Outcome::Failed, 0);
    assert_eq!(out(&cluster), [0]);
    assert_eq!(stats(&cluster, Kind::ConsecutiveLocalOriginFailure), (1, 1));
    assert_eq!(stats(&cluster, Kind::Consecutive5xx), (0, 0));
}

#[test]
fn the_time_out_grows_to_its_limit_and_shrinks_again() {
    let second = Duration::from_secs(1);
    let cluster = watched(
        OutlierDetection {
            consecutive_5xx: 1,
            interval: second,
            base_ejection: second * 10,
            max_ejection: Some(second * 25),
            ..OutlierDetection::default()
        },
        1,
    );
    let mut now = 0;
    let eject_for = |now: &mut u64| {
        send(&cluster, 0, Outcome::Failed, *now);
        let begun = *now;
        while !out(&cluster).is_empty() {
            *now += 1_000;
            review(&cluster, *now);
        }
        (*now - begun) / 1_000
    };
    let spans: Vec<u64> = (0..4).map(|_| eject_for(&mut now)).collect();
    assert_eq!(spans, [10, 20, 25, 25]);
    // Each quiet interval takes one step back; the first ends an interval after the return.
    for _ in 0..2 {
        now += 1_000;
        review(&cluster, now);
    }
    assert_eq!(eject_for(&mut now), 25);
    for _ in 0..3 {
        now += 1_000;
        review(&cluster, now);
    }
    assert_eq!(eject_for(&mut now), 10);
}

#[test]
fn jitter_and_enforcement_go_by_chance() {
    let cluster = watched(
        OutlierDetection {
            consecutive_5xx: 1,
            enforcing_consecutive_5xx: 30,
            max_ejection_jitter: Duration::from_millis(500),
            ..OutlierDetection::default()
        },
        1,
    );
    let entry = &cluster.endpoints.entries[0];
    let watched = Watched {
        cluster: &cluster,
        entry,
        detector: cluster.outlier.as_deref().unwrap(),
        monitor: entry.state.monitor().unwrap(),
    };
    watched.found(Kind::Consecutive5xx, 0, &mut |_| 30);
    assert_eq!(out(&cluster), [0; 0]);
    let mut drawn = vec![400, 29];
    watched.found(Kind::Consecutive5xx, 0, &mut |below| {
        let next = drawn.pop().unwrap();
        assert!(next < below && (below == 100 || below == 501));
        next
    });
    assert_eq!(stats(&cluster, Kind::Consecutive5xx), (2, 1));
    review(&cluster, 30_399);
    assert_eq!(out(&cluster), [0]);
    review(&cluster, 30_400);
    assert_eq!(out(&cluster), [0; 0]);
}

#[test]
fn the_slow_one_is_ejected_by_its_mean_over_the_window() {
    let second = Duration::from_secs(1);
    let cluster = watched(
        OutlierDetection {
            interval: second,
            response_time: Some(ResponseTime {
                threshold: Duration::from_millis(100),
                window: second * 3,
                request_volume: 10,
                enforcing: 100,
            }),
            ..OutlierDetection::default()
        },
        2,
    );
    let answers = |at: usize, count: usize, millis: u64| {
        for _ in 0..count {
            let took = Some(Duration::from_millis(millis));
            let entry = &cluster.endpoints.entries[at];
            record(&cluster, entry, (Outcome::Status(200), took), || 0);
        }
    };
    // Fast ones in the window keep the mean down until they leave it.
    answers(0, 9, 10);
    review(&cluster, 1_000);
    answers(0, 9, 150);
    answers(1, 9, 150);
    review(&cluster, 2_000);
    assert_eq!(out(&cluster), [0; 0]);
    review(&cluster, 3_000);
    answers(0, 1, 150);
    answers(1, 20, 50);
    review(&cluster, 4_000);
    assert_eq!(out(&cluster), [0]);
    assert_eq!(stats(&cluster, Kind::ResponseTime), (1, 1));
}

#[test]
fn what_outlived_its_policy_is_let_in_again() {
    let cluster = watched(
        OutlierDetection {
            consecutive_5xx: 1,
            ..OutlierDetection::default()
        },
        2,
    );
    send(&cluster, 0, Outcome::Failed, 0);
    assert_eq!(out(&cluster), [0]);
    let assignment = Arc::clone(&cluster.endpoints.assignment);
    let registry = crate::telemetry::Registry::new("");
    let rebuild = |config, before: &Arc<ClusterTable>| {
        ClusterTable::build(
            (&Arc::new(config), None),
            Some(&assignment),
            Some(before),
            (&registry, &Arc::default(), None),
        )
    };
    let mut changed = cluster.config.as_ref().clone();
    changed.connect_timeout *= 2;
    let stays = rebuild(changed.clone(), &cluster);
    assert_eq!(out(&stays), [0]);
    assert_eq!(stays.outlier.as_ref().unwrap().stats.active(), 1);
    changed.outlier = None;
    assert_eq!(out(&rebuild(changed, &stays)), [0; 0]);
}

/// What the documentation says of an endpoint, with nothing shared and nothing clever.
#[derive(Debug, Clone, Default)]
struct Modelled {
    row: u32,
    gateway: u32,
    local: u32,
    total: u64,
    success: u64,
    multiplier: u64,
    out_until: Option<u64>,
    returned: Option<u64>,
}

struct Model {
    policy: OutlierDetection,
    endpoints: Vec<Modelled>,
}

impl Model {
    fn eject(&mut self, at: usize, now: u64) {
        let active = self
            .endpoints
            .iter()
            .filter(|e| e.out_until.is_some())
            .count();
        let share = 100.0 * f64::from(u32::try_from(active + 1).unwrap())
            / f64::from(u32::try_from(self.endpoints.len()).unwrap());
        let room = share <= f64::from(self.policy.max_ejection_percent);
        if !(room || (self.policy.always_eject_one_host && active == 0)) {
            return;
        }
        let base = millis(self.policy.base_ejection);
        let longest = millis(self.policy.longest_ejection());
        let endpoint = &mut self.endpoints[at];
        if endpoint.multiplier * base < longest + base {
            endpoint.multiplier += 1;
        }
        endpoint.out_until = Some(now + (base * endpoint.multiplier).min(longest));
    }

    fn result(&mut self, at: usize, outcome: Outcome, now: u64) {
        let split = self.policy.split_external_local_origin_errors;
        let status = match outcome {
            Outcome::Status(status) => Some(status),
            Outcome::Connected => (!split).then_some(200),
            Outcome::Failed => (!split).then_some(503),
            Outcome::TooLate => (!split).then_some(504),
        };
        let endpoint = &mut self.endpoints[at];
        let mut full = Vec::new();
        if split {
            if matches!(outcome, Outcome::Failed | Outcome::TooLate) {
                endpoint.local += 1;
                full.push(endpoint.local == self.policy.consecutive_local_origin);
            } else {
                endpoint.local = 0;
            }
        }
        if let Some(status) = status {
            endpoint.total += 1;
            if status < 500 {
                endpoint.success += 1;
                (endpoint.row, endpoint.gateway) = (0, 0);
            } else {
                if (502..=504).contains(&status) {
                    endpoint.gateway += 1;
                    full.push(endpoint.gateway == self.policy.consecutive_gateway);
                } else {
                    endpoint.gateway = 0;
                }
                endpoint.row += 1;
                full.push(endpoint.row == self.policy.consecutive_5xx);
            }
        }
        // A row that is full starts over, whether or not it could eject; while the endpoint is out,
        // rows only grow.
        let rows = |e: &mut Modelled, policy: &OutlierDetection| {
            if e.local == policy.consecutive_local_origin && split {
                e.local = 0;
            }
            if e.gateway == policy.consecutive_gateway {
                e.gateway = 0;
            }
            if e.row == policy.consecutive_5xx {
                e.row = 0;
            }
        };
        if full.contains(&true) && endpoint.out_until.is_none() {
            let both = (
                endpoint.gateway == self.policy.consecutive_gateway && endpoint.gateway > 0,
                endpoint.row == self.policy.consecutive_5xx && endpoint.row > 0,
            );
            self.eject(at, now);
            let policy = self.policy.clone();
            let endpoint = &mut self.endpoints[at];
            if both == (true, true) && endpoint.out_until.is_some() {
                // The first of two has ejected; the second finds it out and leaves its row alone.
                endpoint.gateway = 0;
            } else {
                rows(endpoint, &policy);
            }
        }
    }

    fn review(&mut self, now: u64) {
        for endpoint in &mut self.endpoints {
            if endpoint.out_until.is_some_and(|until| until <= now) {
                endpoint.out_until = None;
                (endpoint.row, endpoint.gateway, endpoint.local) = (0, 0, 0);
                endpoint.returned = Some(now);
            }
        }
        let rule = self.policy.failure_percentage.clone();
        let rates: Vec<(u64, u64)> = self
            .endpoints
            .iter_mut()
            .map(|e| (std::mem::take(&mut e.total), std::mem::take(&mut e.success)))
            .collect();
        let busy: Vec<usize> = (0..rates.len())
            .filter(|at| self.endpoints[*at].out_until.is_none())
            .filter(|at| rates[*at].0 >= u64::from(rule.request_volume) && rates[*at].0 > 0)
            .collect();
        if rule.enforcing > 0
            && !busy.is_empty()
            && busy.len() >= usize::try_from(rule.minimum_hosts).unwrap()
        {
            for at in busy {
                let (total, success) = rates[at];
                if (total - success) * 100 >= u64::from(rule.threshold) * total {
                    self.eject(at, now);
                }
            }
        }
        let interval = millis(self.policy.interval);
        for endpoint in &mut self.endpoints {
            let quiet = endpoint.returned.is_some_and(|at| now - at >= interval);
            if endpoint.out_until.is_none() && quiet {
                endpoint.multiplier = endpoint.multiplier.saturating_sub(1);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Result(usize, Outcome),
    Review,
}

fn policy() -> impl Strategy<Value = OutlierDetection> {
    (
        (0_u32..4, 0_u32..4, 1_u32..4, any::<bool>()),
        (1_u64..20, 0_u64..40, prop_oneof![Just(0_u32), Just(100)]),
        (0_u32..=100, any::<bool>(), 0_u32..4, 0_u32..4),
    )
        .prop_map(
            |(
                (consecutive_5xx, consecutive_gateway, consecutive_local_origin, split),
                (base, more, enforcing),
                (max_ejection_percent, always_eject_one_host, minimum_hosts, request_volume),
            )| OutlierDetection {
                consecutive_5xx,
                consecutive_gateway,
                consecutive_local_origin,
                split_external_local_origin_errors: split,
                failure_percentage: FailurePercentage {
                    enforcing,
                    threshold: 60,
                    minimum_hosts,
                    request_volume,
                    ..FailurePercentage::default()
                },
                success_rate: SuccessRate::default(),
                interval: Duration::from_secs(1),
                base_ejection: Duration::from_secs(base),
                max_ejection: Some(Duration::from_secs(base + more)),
                max_ejection_percent,
                always_eject_one_host,
                ..OutlierDetection::default()
            },
        )
}

proptest! {
    #[test]
    fn ejections_are_those_of_the_documentation(
        policy in policy(),
        steps in proptest::collection::vec(
            prop_oneof![
                8 => (0_usize..4, prop_oneof![
                    2 => Just(Outcome::Status(200)),
                    2 => Just(Outcome::Status(500)),
                    2 => Just(Outcome::Status(503)),
                    1 => Just(Outcome::Failed),
                    1 => Just(Outcome::TooLate),
                    1 => Just(Outcome::Connected),
                ]).prop_map(|(at, outcome)| Step::Result(at, outcome)),
                1 => Just(Step::Review),
            ],
            0..200,
        ),
    ) {
        let cluster = watched(policy.clone(), 4);
        let mut model = Model { policy, endpoints: vec![Modelled::default(); 4] };
        let mut now = 5;
        for step in steps {
            match step.clone() {
                Step::Result(at, outcome) => {
                    send(&cluster, at, outcome, now);
                    model.result(at, outcome, now);
                }
                Step::Review => {
                    now += 1_000;
                    review(&cluster, now);
                    model.review(now);
                }
            }
            let expected: Vec<usize> =
                (0..4).filter(|at| model.endpoints[*at].out_until.is_some()).collect();
            prop_assert_eq!(out(&cluster), expected, "after {:?}", step);
            let active = cluster.outlier.as_ref().unwrap().stats.active();
            prop_assert_eq!(usize::try_from(active).unwrap(), out(&cluster).len());
        }
    }
}
