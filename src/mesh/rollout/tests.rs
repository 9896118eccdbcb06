//! What decides: examples, and properties of the tests that it decides by.

use std::collections::BTreeMap;

use proptest::prelude::*;

mod copies;
mod replicas;

use super::judge::{ALPHA, CERTAIN, binomial_tail, fisher_tail, judge};
use super::*;

const NOW: u64 = 1_800_000_000_000;

pub(super) fn spec(steps: &[u32]) -> Spec {
    Spec {
        stable: "v1".to_owned(),
        canary: "v2".to_owned(),
        steps: steps
            .iter()
            .map(|weight| Stage {
                weight: *weight,
                ..Stage::default()
            })
            .collect(),
        interval_ms: 10_000,
        ..Spec::default()
    }
}

fn counts(requests: u64, failures: u64, ms: u64) -> Counts {
    Counts {
        requests,
        failures,
        named: BTreeMap::new(),
        durations: BTreeMap::from([(ms * 1_000, requests)]),
    }
}

/// A run with a mesh that does as it is told.
struct Run {
    spec: Spec,
    state: State,
    now: u64,
    weights: Option<Vec<(String, u32)>>,
    sides: Sides,
    arrived: Sides,
    replicas: Vec<String>,
    silent: Option<String>,
    ready: usize,
    obedient: bool,
    told: Vec<String>,
    /// What each webhook answers.
    hooks: BTreeMap<HookKind, bool>,
}

impl Run {
    fn new(spec: Spec) -> Self {
        spec.check().unwrap();
        Self {
            state: State::new(&spec, None, NOW),
            spec,
            now: NOW,
            weights: None,
            sides: Sides::default(),
            arrived: Sides::default(),
            replicas: Vec::new(),
            silent: None,
            ready: 2,
            obedient: true,
            told: Vec::new(),
            hooks: BTreeMap::new(),
        }
    }

    fn turn(&mut self, command: Option<Command>) {
        let mut answers = Vec::new();
        let mut command = command.map(|command| (command, "anna".to_owned()));
        for _ in 0..4 {
            let ready = Ready {
                ready: self.ready,
                all: 2,
            };
            let seen = Observation {
                called: self.sides.clone(),
                arrived: self.arrived.clone(),
                counted: self.state.counts_at(self.now),
                counted_by: self.replicas.clone(),
                uncounted: self.silent.clone(),
                stable: Ready { ready: 2, all: 2 },
                canary: ready,
                weights: self.weights.clone(),
                answers: std::mem::take(&mut answers),
                command: command.take(),
            };
            // Kept and read again at every turn, as after a crash at any point.
            let kept = serde_json::to_string(&self.state).unwrap();
            let state = serde_json::from_str(&kept).unwrap();
            let (state, actions) = step(&self.spec, state, &seen, self.now);
            self.state = state;
            for action in actions {
                match action {
                    Action::Tell(what) => self.told.push(what),
                    Action::Route(routing) if self.obedient => {
                        self.weights = Some(routing.weights);
                        answers.push(Answer::Routed(Ok(())));
                    }
                    Action::Route(_) => answers.push(Answer::Routed(Err("full".to_owned()))),
                    Action::Call(number) => {
                        let call = self.state.calls.iter().find(|call| call.number == number);
                        let kind = call.unwrap().kind;
                        answers.push(Answer::Hook {
                            number,
                            yes: self.hooks.get(&kind).copied().unwrap_or(true),
                            message: "403".to_owned(),
                        });
                    }
                }
            }
            if answers.is_empty() {
                break;
            }
        }
    }

    /// Lets time pass second by second, with so many requests in each to the versions.
    fn pass(&mut self, seconds: u64, stable: &Counts, canary: &Counts) {
        for _ in 0..seconds {
            self.now += 1_000;
            self.sides.stable.add(stable);
            self.sides.canary.add(canary);
            self.turn(None);
        }
    }

    fn good(&mut self, seconds: u64) {
        self.pass(seconds, &counts(100, 0, 10), &counts(100, 0, 10));
    }

    fn weight(&self) -> u32 {
        self.state.weight(&self.spec)
    }
}

#[test]
fn a_good_version_goes_step_by_step_and_gets_everything() {
    let mut run = Run::new(spec(&[1, 5, 25, 50, 100]));
    let mut seen = Vec::new();
    run.turn(None);
    for _ in 0..120 {
        if seen.last() != Some(&run.weight()) {
            seen.push(run.weight());
        }
        run.good(1);
    }
    assert_eq!(seen, [1, 5, 25, 50, 100]);
    assert_eq!(run.state.phase, Phase::Succeeded);
    assert!(run.state.is_done());
    assert!(
        run.state
            .steps
            .iter()
            .all(|step| step.state == StepState::Passed && step.measures[0].value == Some(100.0))
    );
    assert_eq!(
        run.weights.unwrap(),
        [("v1".to_owned(), 0), ("v2".to_owned(), 100)]
    );
}

#[test]
fn more_errors_roll_back_within_two_intervals() {
    let mut run = Run::new(spec(&[5, 50]));
    run.turn(None);
    run.pass(21, &counts(100, 0, 10), &counts(20, 1, 10));
    assert_eq!(run.state.phase, Phase::RolledBack, "{}", run.state.reason);
    assert!(run.state.reason.contains("95 %"), "{}", run.state.reason);
    assert_eq!(run.state.steps[0].state, StepState::Failed);
    assert_eq!(run.weights.unwrap()[0], ("v1".to_owned(), 100));
}

#[test]
fn slower_answers_roll_back_by_comparison_alone() {
    let mut run = Run::new(spec(&[50]));
    run.turn(None);
    run.pass(21, &counts(50, 0, 25), &counts(50, 0, 100));
    assert_eq!(run.state.phase, Phase::RolledBack, "{}", run.state.reason);
    assert!(
        run.state.reason.starts_with("p99 is"),
        "{}",
        run.state.reason
    );
}

#[test]
fn twenty_requests_prove_nothing() {
    let mut spec = spec(&[10]);
    spec.min_requests = 20;
    let window = Sides {
        stable: counts(180, 0, 10),
        canary: counts(20, 1, 10),
        ..Sides::default()
    };
    let measures = judge(&spec, (&window, 10_000), false);
    assert_eq!(measures[0].verdict, Verdict::Unproven, "{measures:?}");
    // And as few as there are requests are none.
    spec.min_requests = 21;
    assert_eq!(
        judge(&spec, (&window, 10_000), false)[0].verdict,
        Verdict::NoData
    );
}

#[test]
fn what_is_beyond_a_bound_without_proof_never_goes_on() {
    let mut run = Run::new(Spec {
        max_failures: 100,
        ..spec(&[10, 100])
    });
    run.turn(None);
    // 98.9 % of few: below the bound, and no proof.
    let few = counts(4, 0, 10);
    run.pass(49, &counts(40, 0, 10), &few);
    run.sides.canary.failures += 2;
    run.pass(90, &counts(40, 0, 10), &Counts::default());
    assert_eq!(
        run.state.phase,
        Phase::Inconclusive,
        "{:?}",
        run.state.reason
    );
    assert_eq!(run.weights.unwrap()[0], ("v1".to_owned(), 100));
}

#[test]
fn without_requests_it_ends_as_was_asked() {
    for (on_no_data, phase) in [
        (NoData::Wait, Phase::Inconclusive),
        (NoData::Pause, Phase::Paused),
        (NoData::Fail, Phase::RolledBack),
        (NoData::Pass, Phase::Succeeded),
    ] {
        let mut run = Run::new(Spec {
            on_no_data,
            max_failures: 1,
            ..spec(&[10, 100])
        });
        run.turn(None);
        run.pass(130, &counts(100, 0, 10), &Counts::default());
        assert_eq!(
            run.state.phase, phase,
            "{on_no_data:?}: {}",
            run.state.reason
        );
    }
}

#[test]
fn weights_of_somebody_else_stay_until_a_person_decides() {
    let mut run = Run::new(spec(&[10, 100]));
    run.turn(None);
    let theirs = vec![("v1".to_owned(), 70), ("v2".to_owned(), 30)];
    run.weights = Some(theirs.clone());
    run.good(30);
    assert_eq!(run.state.phase, Phase::Paused);
    assert!(
        run.state.reason.contains("v1=70 v2=30"),
        "{}",
        run.state.reason
    );
    assert_eq!(run.weights, Some(theirs));
    run.turn(Some(Command::Resume));
    assert_eq!(run.weights.as_ref().unwrap()[1], ("v2".to_owned(), 10));
    run.good(30);
    assert_eq!(run.state.phase, Phase::Succeeded);
}

#[test]
fn what_was_decided_is_tried_until_it_is_done() {
    let mut run = Run::new(spec(&[10]));
    run.turn(None);
    run.obedient = false;
    run.turn(Some(Command::Abort));
    run.good(200);
    assert_eq!(run.state.phase, Phase::RolledBack);
    assert!(!run.state.is_done());
    assert_eq!(run.state.message, "full");
    run.obedient = true;
    run.good(1);
    assert!(run.state.is_done());
    assert_eq!(run.weights.unwrap()[0], ("v1".to_owned(), 100));
}

#[test]
fn routes_that_cannot_be_written_end_it() {
    let mut run = Run::new(spec(&[10]));
    run.obedient = false;
    run.turn(None);
    run.good(101);
    assert_eq!(run.state.phase, Phase::Inconclusive, "{}", run.state.reason);
}

#[test]
fn gates_and_webhooks_hold_it_and_let_it_go() {
    let mut spec = spec(&[10, 50]);
    spec.steps[1].gate = true;
    spec.gate_promotion = true;
    let hook = |kind: HookKind| Hook {
        name: kind.name().to_owned(),
        kind,
        url: "http://127.0.0.1:1/".to_owned(),
        timeout_ms: 1_000,
        retries: 0,
        metadata: BTreeMap::new(),
        ca: None,
    };
    spec.hooks = HookKind::ALL.iter().map(|(_, kind)| hook(*kind)).collect();
    let mut run = Run::new(spec);
    run.hooks.insert(HookKind::Rollback, false);
    run.hooks.insert(HookKind::ConfirmRollout, false);
    run.turn(None);
    run.good(50);
    assert_eq!((run.state.phase, run.weight()), (Phase::Waiting, 0));
    run.hooks.insert(HookKind::ConfirmRollout, true);
    run.good(30);
    assert_eq!((run.state.phase, run.weight()), (Phase::Waiting, 10));
    run.hooks.insert(HookKind::ConfirmTrafficIncrease, false);
    run.turn(Some(Command::Resume));
    run.good(30);
    assert_eq!((run.state.phase, run.weight()), (Phase::Waiting, 10));
    run.hooks.insert(HookKind::ConfirmTrafficIncrease, true);
    run.good(30);
    assert_eq!((run.state.phase, run.weight()), (Phase::Waiting, 50));
    assert!(
        run.state.reason.contains("promotion"),
        "{}",
        run.state.reason
    );
    run.turn(Some(Command::Resume));
    run.good(2);
    assert_eq!(run.state.phase, Phase::Succeeded, "{}", run.state.reason);
    assert!(run.state.is_done());
}

#[test]
fn a_webhook_may_roll_back_and_a_refusal_is_a_failed_check() {
    for (kind, yes, reason) in [
        (HookKind::Rollback, true, "says so"),
        (HookKind::Rollout, false, "says no: 403"),
        (HookKind::PreRollout, false, "says no: 403"),
    ] {
        let mut spec = spec(&[10, 50, 100]);
        spec.hooks = vec![Hook {
            name: "load".to_owned(),
            kind,
            url: "http://127.0.0.1:1/".to_owned(),
            timeout_ms: 1_000,
            retries: 0,
            metadata: BTreeMap::new(),
            ca: None,
        }];
        let mut run = Run::new(spec);
        run.hooks.insert(kind, yes);
        run.turn(None);
        run.good(9);
        assert!(
            !run.state.phase.is_end(),
            "{kind:?}: each answer counts once"
        );
        run.good(30);
        assert_eq!(run.state.phase, Phase::RolledBack, "{kind:?}");
        assert!(run.state.reason.contains(reason), "{}", run.state.reason);
    }
}

#[test]
fn people_may_pause_promote_abort_and_undo() {
    let mut run = Run::new(spec(&[10, 100]));
    run.turn(None);
    run.turn(Some(Command::Pause));
    run.good(100);
    assert_eq!((run.state.phase, run.weight()), (Phase::Paused, 10));
    run.turn(Some(Command::Promote));
    assert_eq!((run.state.phase, run.weight()), (Phase::Succeeded, 100));
    assert!(
        run.state
            .steps
            .iter()
            .all(|step| step.state == StepState::Skipped)
    );
    run.turn(Some(Command::Undo));
    run.good(1);
    assert_eq!((run.state.phase, run.weight()), (Phase::RolledBack, 0));
    assert!(run.state.is_done());
}

#[test]
fn a_deadline_ends_a_pause_too() {
    let mut run = Run::new(Spec {
        deadline_ms: Some(60_000),
        ..spec(&[10])
    });
    run.turn(None);
    run.turn(Some(Command::Pause));
    run.good(61);
    assert_eq!(run.state.phase, Phase::RolledBack);
}

#[test]
fn instances_that_are_not_ready_hold_the_start_and_stop_what_runs() {
    let mut run = Run::new(spec(&[10, 100]));
    run.ready = 0;
    run.turn(None);
    assert_eq!(run.state.phase, Phase::Waiting);
    assert!(
        run.weights.is_none(),
        "nothing is sent to what is not there"
    );
    run.ready = 1;
    run.good(1);
    assert_eq!(run.weight(), 10);
    run.ready = 0;
    run.good(25);
    assert_eq!(run.state.phase, Phase::RolledBack);
}

#[test]
fn copies_are_judged_by_what_arrived() {
    let mut spec = spec(&[0, 10]);
    spec.steps[0].mirror = true;
    let mut run = Run::new(spec);
    run.turn(None);
    assert_eq!(run.state.routing.mirror.as_deref(), Some("v2"));
    // Callers count nothing for the canary, and here nothing arrives either.
    run.pass(110, &counts(100, 0, 10), &counts(100, 0, 10));
    assert_eq!(run.state.phase, Phase::Inconclusive, "{}", run.state.reason);
}

#[test]
fn specifications_that_make_no_sense_are_refused() {
    let bad: [fn(&mut Spec); 9] = [
        |spec| spec.canary.clear(),
        |spec| spec.canary = "v1".to_owned(),
        |spec| spec.steps.clear(),
        |spec| spec.steps.swap(0, 1),
        |spec| spec.steps[0].weight = 0,
        |spec| spec.interval_ms = 1,
        |spec| spec.min_requests = 0,
        |spec| spec.metrics[0].bound = Some(101.0),
        |spec| spec.metrics.clear(),
    ];
    for change in bad {
        let mut spec = spec(&[1, 50]);
        change(&mut spec);
        assert!(spec.check().is_err(), "{spec:?}");
    }
}

#[test]
fn chances_are_those_of_the_tables() {
    let near = |found: f64, expected: f64| {
        assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
    };
    // P(X >= 6), X ~ B(100, 0.01), and Fisher's tea (all four right; 3 of 4).
    near(binomial_tail(6, 100, 0.01), 5.345_345_5e-4);
    near(fisher_tail(4, 4, 0, 4), 1.0 / 70.0);
    near(fisher_tail(3, 4, 1, 4), 17.0 / 70.0);
    near(
        super::judge::binomial_below(0, 100, 0.03),
        0.97_f64.powi(100),
    );
    near(super::judge::binomial_below(1, 10, 0.5), 11.0 / 1024.0);
    assert!((binomial_tail(1, 100, 0.01) - 1.0).abs() < 1e-12);
    const { assert!(ALPHA > CERTAIN) };
}

proptest! {
    #[test]
    fn a_test_is_a_chance_and_more_bad_ones_make_it_smaller(
        all in 1_u64..5_000, bad in 0_u64..200, other in 1_u64..5_000, p in 0.0_f64..1.0,
    ) {
        let bad = bad.min(all);
        let chance = binomial_tail(bad, all, p);
        prop_assert!((0.0..=1.0).contains(&chance));
        if bad < all {
            prop_assert!(binomial_tail(bad + 1, all, p) <= chance * (1.0 + 1e-9));
        }
        let usual = (bad / 2).min(other);
        let chance = fisher_tail(bad, all, usual, other);
        prop_assert!((0.0..=1.0).contains(&chance), "{}", chance);
        if bad < all {
            prop_assert!(fisher_tail(bad + 1, all, usual, other) <= chance * (1.0 + 1e-9));
        }
    }

    #[test]
    fn a_quantile_and_the_share_above_it_agree(
        buckets in proptest::collection::btree_map(1_u64..1_000_000, 1_u64..1_000, 1..12),
        share in 0.01_f64..0.999,
    ) {
        let counts = Counts { durations: buckets, ..Counts::default() };
        let quantile = counts.quantile_ms(share).unwrap();
        let above = counts.slower_than(quantile) / super::counts::float(counts.timed());
        prop_assert!((above - (1.0 - share)).abs() < 1e-6, "{} above {}", above, quantile);
    }

    #[test]
    fn windows_add_up(a in 0_u64..100, b in 0_u64..100, c in 0_u64..100) {
        let (first, more) = (counts(a + b, a, 5), counts(b + c, c, 10));
        let mut sum = first.clone();
        sum.add(&more);
        let back = sum.since(&first);
        prop_assert_eq!(back.requests, more.requests);
        prop_assert_eq!(back.failures, more.failures);
        prop_assert_eq!(back.timed(), more.timed());
    }
}
