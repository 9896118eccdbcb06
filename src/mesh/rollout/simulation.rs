//! Thousands of rollouts by chance: versions of all kinds, traffic of all kinds, and everything that goes wrong
//! between. The seed is printed; `ROLLOUTS=10000 ROLLOUT_SEED=1` runs more of them.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::tests::spec as plain;
use super::*;

/// What the new version really is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Truth {
    /// As good as the stable one.
    Healthy,
    /// Five percent more errors.
    Failing,
    /// 80 ms slower.
    Slow,
    /// Failing after its first requests.
    Degrading,
    /// Nobody calls the service.
    Silent,
    /// Ready at the start, and gone before the first look.
    Crashing,
    /// Answers fast and without errors, and one in twenty is another one.
    Differing,
}

const TRUTHS: [Truth; 9] = [
    Truth::Healthy,
    Truth::Healthy,
    Truth::Healthy,
    Truth::Failing,
    Truth::Slow,
    Truth::Degrading,
    Truth::Silent,
    Truth::Crashing,
    Truth::Differing,
];

/// Upper bounds of buckets in milliseconds, with the share of requests in each, for a service as they are.
const SHAPE: [(u64, f64); 6] = [
    (5, 0.30),
    (10, 0.40),
    (25, 0.20),
    (50, 0.08),
    (100, 0.015),
    (250, 0.005),
];
/// The same, 80 ms later.
const SLOWER: [(u64, f64); 3] = [(100, 0.85), (250, 0.145), (500, 0.005)];

/// A count around `mean`, as independent events are distributed.
fn poisson(rng: &mut Rng, mean: f64) -> u64 {
    if mean <= 0.0 {
        return 0;
    }
    if mean > 60.0 {
        // Close enough to a normal distribution; two uniform numbers make one of those (Box and Muller).
        let (u, v) = (rng.f64().max(1e-300), rng.f64());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        return whole(mean + mean.sqrt() * normal);
    }
    let (mut count, mut product, limit) = (0, rng.f64(), (-mean).exp());
    while product > limit {
        count += 1;
        product *= rng.f64();
    }
    count
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::as_conversions,
    reason = "a count; saturates"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

/// What came of `mean` requests, more or less.
fn traffic(rng: &mut Rng, mean: f64, failing: f64, shape: &[(u64, f64)]) -> Counts {
    let mut counts = Counts::default();
    for (bound, share) in shape {
        let count = poisson(rng, mean * share);
        counts.requests += count;
        *counts.durations.entry(bound * 1_000).or_default() += count;
    }
    let failures = poisson(rng, super::counts::float(counts.requests) * failing);
    counts.failures = failures.min(counts.requests);
    counts.named = BTreeMap::from([("failures".to_owned(), counts.failures)]);
    counts
}

/// What comes of comparing the answers to `mean` copies, more or less. Of good versions nothing differs once what may
/// is ignored.
fn compared(rng: &mut Rng, mean: f64, truth: Truth) -> Copies {
    let compared = poisson(rng, mean);
    let differing = if truth == Truth::Differing { 0.05 } else { 0.0 };
    let different = poisson(rng, super::counts::float(compared) * differing).min(compared);
    Copies {
        compared,
        different,
        unanswered: 0,
        places: BTreeMap::from([("body $.price".to_owned(), different)]),
    }
}

/// How one rollout ended.
#[derive(Debug, Clone)]
struct Ended {
    truth: Truth,
    phase: Phase,
    reason: String,
    /// Somebody promoted it whatever it was, or aborted it.
    forced: bool,
    /// Something went wrong that is not the version's fault.
    disturbed: bool,
    max_failures: u32,
    seconds: u64,
}

fn rollout(seed: u64) -> Ended {
    let mut rng = Rng::with_seed(seed);
    let truth = TRUTHS[rng.usize(..TRUTHS.len())];
    let lists: [&[u32]; 5] = [
        &[1, 5, 25, 50, 100],
        &[10, 20, 30, 40, 50, 60, 70, 80, 90, 100],
        &[50, 100],
        &[5, 20, 50],
        &[100],
    ];
    let mut spec = plain(lists[rng.usize(..lists.len())]);
    spec.interval_ms = [1_000, 5_000, 30_000][rng.usize(..3)];
    spec.bake_ms = spec.interval_ms * rng.u64(0..4);
    spec.min_requests = rng.u64(20..200);
    spec.max_failures = rng.u32(1..4);
    spec.metrics.push(Metric {
        metric: Of::Quantile(990),
        bound: Some(150.0),
        compare: false,
    });
    spec.metrics.swap(1, 2);
    if rng.u8(..4) == 0 {
        spec.steps.insert(
            0,
            Stage {
                mirror: true,
                ..Stage::default()
            },
        );
    }
    if truth == Truth::Differing || rng.u8(..4) == 0 {
        spec.shadow = Some(Shadow {
            max_different_percent: [0.0, 0.5, 1.0][rng.usize(..3)],
            min_compared: rng.u64(20..200),
            ..Shadow::default()
        });
        if !spec.steps[0].mirror {
            spec.steps.insert(
                0,
                Stage {
                    mirror: true,
                    ..Stage::default()
                },
            );
        }
        spec.mirror_percent = [None, Some(20)][rng.usize(..2)];
    }
    let chaos = rng.u8(..4) == 0;
    if chaos {
        spec.deadline_ms = Some(spec.interval_ms * 400);
        spec.gate_promotion = rng.bool();
        spec.on_no_data = [NoData::Wait, NoData::Pause, NoData::Fail][rng.usize(..3)];
    }
    spec.check().unwrap();
    let rate = [3.0, 30.0, 300.0, 2_000.0][rng.usize(..4)] * (0.5 + rng.f64());
    let failing = [0.0, 0.000_5, 0.002][rng.usize(..3)];
    run(&mut rng, &spec, truth, (rate, failing, chaos))
}

fn run(
    rng: &mut Rng,
    spec: &Spec,
    truth: Truth,
    (rate, failing, chaos): (f64, f64, bool),
) -> Ended {
    let start = 1_800_000_000_000;
    let tick = spec.interval_ms / 5;
    let (mut state, mut now) = (State::new(spec, None, start), start);
    let (mut called, mut arrived) = (Sides::default(), Sides::default());
    let mut weights: Option<Vec<(String, u32)>> = None;
    let (mut forced, mut disturbed, mut served) = (false, false, 0);
    let mut answers = Vec::new();
    let limit = spec.steps.len() + 4;
    // Every wait is bounded by ten intervals or a minute, and each step may wait once.
    let most = u64::try_from(limit).unwrap() * 4 * (spec.patience() + spec.bake()) / tick + 4_000;
    for turn in 0..most {
        if state.is_done() {
            return Ended {
                truth,
                phase: state.phase,
                reason: state.reason,
                forced,
                disturbed,
                max_failures: spec.max_failures,
                seconds: (now - start) / 1_000,
            };
        }
        now += tick;
        let seconds = super::counts::float(tick) / 1_000.0;
        let weight = |version: &str| {
            let all = weights.as_deref().unwrap_or_default();
            let found = all.iter().find(|(name, _)| name == version);
            f64::from(found.map_or(50, |(_, weight)| *weight)) / 100.0
        };
        let mean = if truth == Truth::Silent {
            0.0
        } else {
            rate * seconds
        };
        let bad = match truth {
            Truth::Failing => failing + 0.05,
            Truth::Degrading if served > 50 || state.step > 0 => failing + 0.05,
            _ => failing,
        };
        let shape: &[(u64, f64)] = if truth == Truth::Slow {
            &SLOWER
        } else {
            &SHAPE
        };
        called
            .stable
            .add(&traffic(rng, mean * weight("v1"), failing, &SHAPE));
        let to_canary = traffic(rng, mean * weight("v2"), bad, shape);
        served += to_canary.requests;
        called.canary.add(&to_canary);
        arrived
            .stable
            .add(&traffic(rng, mean * weight("v1"), failing, &SHAPE));
        let copies = match (&state.routing.mirror, state.routing.mirror_percent) {
            (None, _) => 0.0,
            (Some(_), percent) => f64::from(percent.unwrap_or(100)) / 100.0,
        };
        arrived
            .canary
            .add(&traffic(rng, mean * (weight("v2") + copies), bad, shape));
        if state.routing.compare {
            arrived.copies.add(&compared(rng, mean * copies, truth));
        }
        let mut command = None;
        if chaos && rng.u16(..400) == 0 {
            disturbed = true;
            match rng.u8(..4) {
                0 => weights = Some(vec![("v1".to_owned(), 60), ("v2".to_owned(), 40)]),
                1 => command = Some(Command::Pause),
                2 if !state.phase.is_end() => {
                    command = Some(Command::Abort);
                    forced = true;
                }
                _ => weights = None,
            }
        }
        // Whoever is asked answers at last.
        if matches!(state.phase, Phase::Paused | Phase::Waiting) && rng.u8(..20) == 0 {
            command = Some(Command::Resume);
        }
        let gone = truth == Truth::Crashing && turn > 3;
        let seen = Observation {
            called: called.clone(),
            arrived: arrived.clone(),
            counted: state.counts_at(now),
            counted_by: Vec::new(),
            uncounted: None,
            stable: Ready { ready: 2, all: 2 },
            canary: Ready {
                ready: if gone { 0 } else { 2 },
                all: 2,
            },
            weights: weights.clone(),
            answers: std::mem::take(&mut answers),
            command: command.map(|command| (command, "anna".to_owned())),
        };
        // A control plane that is killed has what it kept, and nothing else.
        if chaos && rng.u8(..10) == 0 {
            let kept = serde_json::to_string(&state).unwrap();
            state = serde_json::from_str(&kept).unwrap();
        }
        let (next, actions) = step(spec, state, &seen, now);
        state = next;
        for action in actions {
            if let Action::Route(routing) = action {
                // Killed between keeping and doing, or between doing and hearing that it was done.
                let (done, heard) = (!chaos || rng.u8(..5) > 0, !chaos || rng.u8(..5) > 0);
                if done {
                    weights = Some(routing.weights);
                    if heard {
                        answers.push(Answer::Routed(Ok(())));
                    }
                }
            }
        }
    }
    panic!("no end: {truth:?} {spec:?} {state:?}");
}

#[expect(clippy::disallowed_methods, reason = "how many, for the test alone")]
fn wanted(name: &str, usual: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
#[expect(clippy::print_stderr, reason = "the rates are what it is for")]
fn rollouts_by_chance_end_and_are_right() {
    let (count, first) = (wanted("ROLLOUTS", 400), wanted("ROLLOUT_SEED", 1));
    let mut by: BTreeMap<(Truth, &str), u64> = BTreeMap::new();
    let (mut healthy, mut wronged, mut strict, mut wronged_strict) = (0_u64, 0_u64, 0_u64, 0_u64);
    for seed in first..first + count {
        let ended = rollout(seed);
        *by.entry((ended.truth, ended.phase.name())).or_default() += 1;
        let promoted = ended.phase == Phase::Succeeded && !ended.forced;
        let good = matches!(ended.truth, Truth::Healthy);
        assert!(
            good || !promoted,
            "seed {seed}: {:?} was promoted after {} s: {}",
            ended.truth,
            ended.seconds,
            ended.reason
        );
        if good && !ended.forced && !ended.disturbed {
            // A deadline, or checks without requests, roll back whatever the version is.
            let asked_for = ["do not come", "not over after"];
            let wrong = ended.phase == Phase::RolledBack
                && !asked_for.iter().any(|words| ended.reason.contains(words));
            if wrong {
                eprintln!("  seed {seed}: {}", ended.reason);
            }
            healthy += 1;
            wronged += u64::from(wrong);
            if ended.max_failures == 1 {
                strict += 1;
                wronged_strict += u64::from(wrong);
            }
        }
    }
    eprintln!("{count} rollouts, seeds from {first}:");
    for ((truth, phase), count) in &by {
        eprintln!("  {truth:?}: {phase} {count}");
    }
    eprintln!(
        "  good versions that were rolled back: {wronged} of {healthy}; where one failed check is enough: {wronged_strict} of {strict}"
    );
    assert!(
        wronged * 100 <= healthy,
        "{wronged} of {healthy} good versions were rolled back"
    );
    let promoted = by.get(&(Truth::Healthy, "Succeeded")).copied().unwrap_or(0);
    assert!(
        promoted * 2 > healthy,
        "{promoted} of {healthy} good versions were promoted"
    );
}
