//! No control plane, or one that makes no sense.

use std::os::unix::net::UnixListener;

use meshctl::api::{Problem, Reason};
use meshctl::mesh::Severity;

use super::canned;
use super::fake::Answers;
use super::run::Home;

/// Every command that asks the API.
const ASKING: &[&[&str]] = &[
    &["version"],
    &["apply", "-f", "-"],
    &["get", "vs"],
    &["delete", "vs", "reviews"],
    &["history"],
    &["services"],
    &["endpoints"],
    &["register", "--list"],
    &["register", "a", "--service", "a", "--address", "10.0.0.1"],
    &["deregister", "a"],
    &["proxies"],
    &["config", "routes", "a"],
    &["routes"],
    &["routes", "--explain", "GET", "http://reviews:9080/"],
    &["canary", "set", "reviews", "v1=1"],
    &["canary", "status", "reviews"],
    &["canary", "list"],
    &["canary", "start", "reviews", "--to", "v2"],
    &["canary", "watch", "reviews"],
    &["canary", "pause", "reviews"],
    &["canary", "resume", "reviews"],
    &["canary", "promote", "reviews"],
    &["canary", "abort", "reviews"],
    &["canary", "undo", "reviews"],
    &["canary", "history", "reviews"],
    &["fault", "inject", "reviews", "--delay", "1s", "--for", "1m"],
    &["fault", "list"],
    &["stats"],
    &["edges"],
    &["traces"],
    &["top"],
    &["dashboard", "--no-browser"],
    &["identity", "issue", "--service-account", "a"],
    &["identity", "show", "a"],
    &["identity", "audit"],
    &["token", "create"],
    &["token", "list"],
    &["token", "revoke", "t1"],
    &["check"],
];

#[test]
fn without_a_control_plane_each_command_exits_4_and_says_how_to_start_one() {
    let home = Home::new();
    for args in ASKING {
        let outcome = home.run(args).exits(4);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(
            said.contains("does not answer on [DIR]/home/control/api.sock"),
            "{args:?} {outcome}"
        );
        assert!(
            said.contains("`meshctl install && meshctl control-plane`"),
            "{args:?} {outcome}"
        );
    }
}

#[test]
fn a_socket_that_was_left_behind_is_no_control_plane() {
    let home = Home::new();
    let dir = home.path().join("control");
    std::fs::create_dir_all(&dir).unwrap();
    drop(UnixListener::bind(dir.join("api.sock")).unwrap());
    let outcome = home.run(&["services"]).exits(4);
    insta::assert_snapshot!(outcome);
}

#[test]
fn a_home_too_deep_for_a_socket_is_said() {
    let home = Home::new();
    let deep = format!("{}/{}", home.path().display(), "d".repeat(100));
    let outcome = home.run(&["services", "--home", &deep]).exits(2);
    assert!(outcome.stderr.contains("use a shorter --home"), "{outcome}");
}

#[test]
fn a_problem_is_told_with_its_places_and_its_hint() {
    let home = Home::new();
    let mut problem = Problem::new(Reason::Invalid, "1 of 3 objects cannot be honoured")
        .hint("nothing was applied");
    problem.findings.push(canned::finding(Severity::Error, 14));
    let _fake = Answers::new()
        .status("POST /resources", 422, &problem)
        .status(
            "GET /services",
            503,
            &Problem::new(Reason::ReadOnly, "the disk is full"),
        )
        .raw("GET /stats", 200, "<html>")
        .raw("GET /history", 500, "boom")
        .serve(&home);
    insta::assert_snapshot!(home.feed(&["apply", "-f", "-"], "x").exits(1));
    insta::assert_snapshot!(home.run(&["services"]).exits(1));
    insta::assert_snapshot!(home.run(&["stats"]).exits(1));
    insta::assert_snapshot!(home.run(&["history"]).exits(1));
    insta::assert_snapshot!(home.run(&["canary", "list"]).exits(1));
}

#[test]
fn waiting_in_vain_exits_3() {
    let home = Home::new();
    let outcome = home.run(&["check", "--wait", "1s"]).exits(3);
    assert!(
        outcome.stderr.contains("still failing after 1s"),
        "{outcome}"
    );
}
