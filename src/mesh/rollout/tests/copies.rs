//! Answers to copies, and bounds of single series.

use super::super::Strategy;
use super::*;

fn shadowed(most: f64, least: u64) -> Spec {
    let mut spec = spec(&[100]);
    spec.strategy = Strategy::Shadow;
    spec.steps.insert(
        0,
        Stage {
            mirror: true,
            ..Stage::default()
        },
    );
    spec.shadow = Some(Shadow {
        max_different_percent: most,
        min_compared: least,
        ..Shadow::default()
    });
    spec
}

/// Lets copies be answered, so many a second, of which so many differ.
fn copied(run: &mut Run, seconds: u64, compared: u64, different: u64) {
    for _ in 0..seconds {
        let answered = counts(compared, 0, 10);
        run.arrived.stable.add(&answered);
        run.arrived.canary.add(&answered);
        run.arrived.copies.add(&Copies {
            compared,
            different,
            unanswered: 0,
            places: BTreeMap::from([
                ("body $.price".to_owned(), different),
                ("status".to_owned(), different / 2),
            ]),
        });
        run.good(1);
    }
}

#[test]
fn answers_that_differ_roll_back_and_say_where() {
    let mut run = Run::new(shadowed(1.0, 100));
    run.turn(None);
    copied(&mut run, 21, 50, 2);
    assert_eq!(run.state.phase, Phase::RolledBack, "{}", run.state.reason);
    let measure = run.state.steps[0].measures.last().unwrap();
    assert_eq!(
        (measure.metric.as_str(), measure.verdict, measure.value),
        ("shadow-diff", Verdict::Fail, Some(4.0))
    );
    assert_eq!(measure.places[0].at, "body $.price");
    assert!(
        run.state.reason.contains("answers to copies differ, 4 %")
            && run.state.reason.contains("body $.price ("),
        "{}",
        run.state.reason
    );
    // Nobody ever got an answer of it.
    assert_eq!(run.weight(), 0);
}

#[test]
fn the_same_answers_promote_and_copies_end_with_their_step() {
    let mut run = Run::new(shadowed(1.0, 100));
    run.turn(None);
    assert!(run.state.routing.compare && run.state.routing.mirror.is_some());
    copied(&mut run, 14, 50, 0);
    assert_eq!(run.state.step, 1, "{}", run.state.reason);
    assert!(!run.state.routing.compare && run.state.routing.mirror.is_none());
    // They say nothing of how callers fare; that nothing differed stays.
    assert_eq!(run.state.pooled.canary.requests, 0);
    assert!(run.state.pooled.copies.compared > 300);
    run.good(30);
    assert_eq!(run.state.phase, Phase::Succeeded, "{}", run.state.reason);
    let measure = run.state.steps[0].measures.last().unwrap();
    assert_eq!((measure.requests > 300, measure.different), (true, Some(0)));
}

#[test]
fn copies_end_only_once_enough_of_them_were_compared() {
    // A look finds nothing in 20 answers each, and of 3 % that differ 20 show none every second time.
    let mut run = Run::new(shadowed(1.0, 20));
    run.turn(None);
    copied(&mut run, 12, 2, 0);
    assert_eq!(run.state.step, 0, "{}", run.state.reason);
    copied(&mut run, 12, 30, 0);
    assert_eq!(run.state.step, 1, "{}", run.state.reason);
    // And where none comes, nothing can be said.
    let mut run = Run::new(shadowed(1.0, 20));
    run.turn(None);
    for _ in 0..130 {
        run.arrived.canary.add(&counts(50, 0, 10));
        run.arrived.stable.add(&counts(50, 0, 10));
        run.good(1);
    }
    assert_eq!(run.state.phase, Phase::Inconclusive, "{}", run.state.reason);
    assert!(
        run.state.reason.contains("0 answers to copies"),
        "{}",
        run.state.reason
    );
}

#[test]
fn copies_without_an_answer_differ() {
    let copies = Copies {
        compared: 300,
        different: 0,
        unanswered: 40,
        places: BTreeMap::new(),
    };
    let window = Sides {
        copies,
        ..Sides::default()
    };
    let measures = judge(&shadowed(1.0, 100), (&window, 10_000), true);
    let measure = measures.last().unwrap();
    assert_eq!(measure.verdict, Verdict::Fail);
    assert!(measure.why.contains("40 got no answer"), "{}", measure.why);
    // Where nothing is copied it is not asked about.
    let measures = judge(&shadowed(1.0, 100), (&window, 10_000), false);
    assert!(measures.iter().all(|one| one.metric != "shadow-diff"));
}

#[test]
fn what_makes_no_sense_of_copies_is_refused() {
    let refused = |change: fn(&mut Spec)| {
        let mut spec = shadowed(1.0, 100);
        change(&mut spec);
        spec.check().unwrap_err().0
    };
    let no_copies = |spec: &mut Spec| {
        spec.strategy = Strategy::Weight;
        spec.steps.remove(0);
    };
    assert!(refused(no_copies).contains("no step gets copies"));
    assert!(refused(|spec| spec.shadow = None).contains("not said"));
    let most = |spec: &mut Spec| spec.shadow.as_mut().unwrap().max_different_percent = 101.0;
    assert!(refused(most).contains("101"));
    assert!(refused(|spec| spec.mirror_percent = Some(0)).contains("0 %"));
}

fn bounded(name: &str, bound: f64) -> Spec {
    let mut spec = spec(&[50]);
    spec.metrics = vec![Metric {
        metric: Of::parse(name).unwrap(),
        bound: Some(bound),
        compare: false,
    }];
    spec.check().unwrap();
    spec
}

#[test]
fn single_series_are_bounded() {
    let mut canary = counts(1_000, 0, 10);
    canary.named = BTreeMap::from([
        ("4xx".to_owned(), 60),
        ("404".to_owned(), 50),
        ("429".to_owned(), 10),
        ("grpc-14".to_owned(), 40),
    ]);
    let window = Sides {
        stable: counts(1_000, 0, 10),
        canary,
        ..Sides::default()
    };
    let verdict = |name: &str, bound: f64| {
        let measures = judge(&bounded(name, bound), (&window, 10_000), false);
        (measures[0].value, measures[0].verdict)
    };
    assert_eq!(verdict("rate:4xx", 2.0), (Some(6.0), Verdict::Fail));
    assert_eq!(verdict("rate:404", 2.0), (Some(5.0), Verdict::Fail));
    assert_eq!(verdict("rate:429", 2.0), (Some(1.0), Verdict::Pass));
    assert_eq!(verdict("rate:grpc-14", 1.0), (Some(4.0), Verdict::Fail));
    assert_eq!(verdict("rate:5xx", 1.0), (Some(0.0), Verdict::Pass));
    // 100 requests a second came.
    let paced = verdict("requests-per-second", 50.0);
    assert_eq!(paced, (Some(100.0), Verdict::Pass));
    let paced = verdict("requests-per-second", 103.0);
    assert_eq!(paced, (Some(100.0), Verdict::Unproven));
    let paced = verdict("requests-per-second", 150.0);
    assert_eq!(paced, (Some(100.0), Verdict::Fail));
    for wrong in [
        "rate:200",
        "rate:20x",
        "rate:grpc-0",
        "rate:grpc-17",
        "rate:",
        "rate:0404",
    ] {
        assert_eq!(Of::parse(wrong), None, "{wrong}");
    }
}
