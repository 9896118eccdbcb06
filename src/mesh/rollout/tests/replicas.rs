//! Numbers that several control planes have parts of.

use super::*;

fn two() -> Vec<String> {
    vec!["one".to_owned(), "two".to_owned()]
}

#[test]
fn without_all_numbers_a_step_waits_and_says_why() {
    let mut run = Run::new(spec(&[10, 100]));
    run.replicas = two();
    run.turn(None);
    run.good(5);
    run.silent = Some("replica two did not tell its numbers".to_owned());
    // What the others saw would roll it back.
    run.pass(20, &counts(100, 0, 10), &counts(100, 50, 10));
    assert_eq!(run.state.phase, Phase::Progressing, "{}", run.state.reason);
    assert_eq!(run.state.failures, 0);
    assert_eq!(
        run.state.reason,
        "replica two did not tell its numbers; the step waits"
    );
    run.silent = None;
    run.good(2);
    assert_eq!(run.state.phase, Phase::RolledBack, "{}", run.state.reason);
}

#[test]
fn what_is_never_told_ends_without_a_verdict() {
    let mut run = Run::new(spec(&[10, 100]));
    run.replicas = two();
    run.turn(None);
    run.silent = Some("replica two did not tell its numbers".to_owned());
    run.good(120);
    assert_eq!(run.state.phase, Phase::Inconclusive, "{}", run.state.reason);
    assert!(run.state.reason.contains("replica two"));
}

#[test]
fn where_another_counts_a_window_begins_anew() {
    let mut run = Run::new(spec(&[10, 100]));
    run.replicas = two();
    run.turn(None);
    run.good(5);
    // With the replica that goes its counts go: what is left looks as if nearly all had failed.
    run.replicas = vec!["one".to_owned()];
    run.sides.stable = counts(10, 0, 10);
    run.sides.canary = counts(1_000, 400, 10);
    run.good(6);
    assert_eq!(run.state.phase, Phase::Progressing, "{}", run.state.reason);
    assert!(
        run.told.iter().any(|what| what.starts_with("counted anew")),
        "{:?}",
        run.told
    );
    run.good(60);
    assert_eq!(run.state.phase, Phase::Succeeded, "{}", run.state.reason);
}
