//! What people see: every command's table on 80 columns.

use meshctl::api::canary::CanaryReport;
use meshctl::api::check::CheckStatus;
use meshctl::api::registry::EndpointReport;
use meshctl::api::resources::Convergence;
use meshctl::api::{Problem, Reason};
use serde_json::json;

use super::canned;
use super::fake::{Answers, Fake};
use super::run::Home;

pub(crate) fn everything(home: &Home) -> Fake {
    Answers::new()
        .on("GET /version", &canned::version())
        .on("GET /services", &canned::services())
        .on("GET /endpoints", &canned::endpoints())
        .on("GET /registry/instances", &canned::instances())
        .on("POST /registry/instances", &canned::lease())
        .on("DELETE /registry/instances/default/db-1", &json!(null))
        .on("GET /routes", &canned::routes())
        .on("POST /routes/explain", &canned::explained())
        .on("GET /canaries", &[canned::canary()])
        .on("GET /canaries/default/reviews", &canned::canary())
        .on("POST /canaries/default/reviews", &canned::shifted())
        .on("GET /canaries/default/ratings", &canned::canary())
        .status("GET /rollouts/default/ratings", 404, &canned::no_rollout())
        .on("GET /rollouts", &canned::rollouts())
        .on("GET /rollouts/default/reviews", &canned::rollout())
        .on("GET /rollouts/default/reviews/history", &canned::rollouts())
        .on("POST /rollouts/default/reviews", &canned::rollout())
        .on("POST /rollouts/default/reviews/abort", &canned::rollout())
        .on("GET /faults", &[canned::fault()])
        .on(
            "POST /faults/default/reviews",
            &canned::injected(Some(canned::fault())),
        )
        .on("DELETE /faults/default/reviews", &canned::injected(None))
        .on("POST /resources", &canned::applied())
        .on("GET /resources/vs", &canned::resources())
        .on("GET /resources/dr", &json!([]))
        .on("DELETE /resources/vs/default/reviews", &canned::deleted())
        .status(
            "DELETE /resources/vs/default/nobody",
            404,
            &Problem::new(
                Reason::NotFound,
                "there is no VirtualService default/nobody",
            ),
        )
        .on("GET /history", &canned::history())
        .on("GET /stats", &canned::stats())
        .on("GET /edges", &canned::edges())
        .on("GET /check", &canned::check(CheckStatus::Ok))
        .on("GET /proxies", &canned::proxies())
        .on(
            "GET /proxies/reviews-v1/config/clusters",
            &canned::clusters(),
        )
        .on("POST /tokens", &canned::token())
        .on("GET /tokens", &canned::tokens())
        .on("DELETE /tokens/t1", &serde_json::json!({}))
        .on("GET /audit", &canned::audit())
        .on("POST /identities", &canned::identity())
        .serve(home)
}

macro_rules! snapshots {
    ($($name:ident: $args:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let home = Home::new();
                let _fake = everything(&home);
                let args: &[&str] = &$args;
                let outcome = home.run(args).exits(0).fits();
                // What is left of a life depends on today.
                let today = vec![(r"\d+y\d+d", "[YEARS]")];
                insta::with_settings!({ description => format!("meshctl {}", args.join(" ")), omit_expression => true, filters => today }, {
                    insta::assert_snapshot!(stringify!($name), outcome);
                });
            }
        )*
    };
}

snapshots! {
    version: ["version"];
    services: ["services"];
    endpoints: ["endpoints", "reviews"];
    registered: ["register", "--list"];
    register: ["register", "db-1", "--service", "db", "--address", "10.0.0.7"];
    deregister: ["deregister", "db-1"];
    routes: ["routes"];
    explain: ["routes", "--explain", "GET", "reviews:9080/reviews/1"];
    canary_list: ["canary", "list"];
    canary_status: ["canary", "status", "ratings"];
    canary_status_rollout: ["canary", "status", "reviews"];
    canary_history: ["canary", "history", "reviews"];
    canary_abort: ["canary", "abort", "reviews"];
    canary_start: ["canary", "start", "reviews", "--to", "v3", "--steps", "10,100"];
    canary_set: ["canary", "set", "reviews", "v1=50", "v3=50"];
    fault_inject: ["fault", "inject", "reviews", "--delay", "2s", "--abort", "503", "--percent", "10", "--for", "5m"];
    fault_list: ["fault", "list"];
    fault_clear: ["fault", "clear", "--all"];
    get: ["get", "vs"];
    get_empty: ["get", "dr"];
    get_yaml: ["get", "vs", "reviews", "-o", "yaml"];
    delete: ["delete", "vs", "reviews"];
    history: ["history"];
    stats: ["stats"];
    edges: ["edges"];
    edge_names: ["edges", "-o", "name"];
    top_without_a_terminal: ["top"];
    proxies: ["proxies"];
    config: ["config", "clusters", "reviews-v1"];
    token: ["token", "create", "--service-account", "reviews"];
    token_list: ["token", "list"];
    token_revoke: ["token", "revoke", "t1"];
    identity: ["identity", "issue", "--service-account", "ops"];
    identity_audit: ["identity", "audit"];
}

#[test]
fn wide_tables_show_more() {
    let home = Home::new();
    let _fake = everything(&home);
    let mut all = String::new();
    for args in [
        &["services"][..],
        &["endpoints"],
        &["routes"],
        &["stats"],
        &["edges"],
        &["history"],
    ] {
        let mut command = home.command(args);
        command.args(["-o", "wide"]).env("COLUMNS", "200");
        let outcome = home.finish(command, "").exits(0);
        // The time of day of a canned age differs from run to run.
        let text: String = outcome
            .stdout
            .lines()
            .map(|line| {
                line.split(' ')
                    .map(|word| {
                        if word.ends_with('Z') && word.contains('T') {
                            "[TIME]"
                        } else {
                            word
                        }
                    })
                    .collect::<Vec<_>>()
                    .join(" ")
                    + "\n"
            })
            .collect();
        all.push_str(&format!("$ meshctl {} -o wide\n{text}\n", args.join(" ")));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn names_are_one_a_line() {
    let home = Home::new();
    let _fake = everything(&home);
    let names = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["-o", "name"]);
        home.run(&all).exits(0).stdout
    };
    assert_eq!(
        names(&["services"]),
        "details.default\nratings.default\nreviews.default\n"
    );
    assert_eq!(names(&["get", "vs"]), "virtualservice/reviews\n");
    assert_eq!(
        names(&["apply", "-f", "-"]),
        "virtualservice/reviews\ndestinationrule/reviews\nservice/reviews\n"
    );
    assert_eq!(names(&["canary", "list"]), "reviews.default\n");
    assert_eq!(names(&["get", "dr"]), "");
}

#[test]
fn check_shows_both_sides_and_fails_when_one_does() {
    let home = Home::new();
    home.run(&["install"]).exits(0);
    let _fake = everything(&home);
    insta::assert_snapshot!(home.run(&["check"]).exits(0).fits());

    let sick = Home::new();
    sick.run(&["install"]).exits(0);
    let _fake = Answers::new()
        .on("GET /version", &canned::version())
        .on("GET /check", &canned::check(CheckStatus::Failed))
        .serve(&sick);
    insta::assert_snapshot!(sick.run(&["check"]).exits(1).fits());
    assert_eq!(
        sick.run(&["check", "-o", "json"]).exits(1).json()["sections"][2]["checks"][0]["status"],
        "failed"
    );
}

#[test]
fn apply_sends_files_as_they_are_and_says_what_happened() {
    let home = Home::new();
    let fake = everything(&home);
    home.write("dir/b.yaml", "b: 1\n");
    home.write("dir/a.json", "{}");
    home.write("dir/sub/c.yml", "c: 1\n");
    home.write("dir/notes.txt", "no");
    let outcome = home
        .run(&["apply", "-f", "dir", "-R", "-n", "shop"])
        .exits(0);
    insta::assert_snapshot!(outcome);
    let asked = fake.asked().pop().unwrap();
    assert_eq!(asked.line, "POST /api/v1/resources");
    assert_eq!(asked.body["namespace"], "shop");
    assert_eq!(asked.body["dryRun"], false);
    assert_eq!(
        asked.body["sources"],
        json!([
            { "name": "dir/a.json", "text": "{}" },
            { "name": "dir/b.yaml", "text": "b: 1\n" },
            { "name": "dir/sub/c.yml", "text": "c: 1\n" },
        ])
    );
    home.feed(&["apply", "-f", "-", "--dry-run", "-q"], "kind: X\n")
        .exits(0);
    let asked = fake.asked().pop().unwrap();
    assert_eq!(
        asked.body["sources"],
        json!([{ "name": "<stdin>", "text": "kind: X\n" }])
    );
    assert_eq!(asked.body["dryRun"], true);
    let missing = home.run(&["apply", "-f", "missing.yaml"]).exits(1);
    assert_eq!(
        missing.stderr,
        "error: cannot read missing.yaml: No such file or directory\n"
    );
    assert_eq!(
        fake.asked().len(),
        2,
        "nothing is sent when a file is missing"
    );
}

#[test]
fn a_proxy_that_does_not_follow_makes_it_partly_done() {
    let home = Home::new();
    let report = CanaryReport {
        convergence: Convergence {
            rejected: vec!["ratings-v1: unknown cluster".to_owned()],
            ..canned::convergence(5)
        },
        ..canned::shifted()
    };
    let _fake = Answers::new()
        .on("POST /canaries/shop/reviews", &report)
        .serve(&home);
    insta::assert_snapshot!(
        home.run(&["canary", "set", "reviews.shop", "v1=1"])
            .exits(5)
    );
}

#[test]
fn deleting_some_of_several_is_partly_done() {
    let home = Home::new();
    let _fake = everything(&home);
    insta::assert_snapshot!(home.run(&["delete", "vs", "reviews", "nobody"]).exits(5));
    home.run(&["delete", "vs/nobody"]).exits(1);
    home.run(&["delete", "vs", "reviews", "nobody", "--ignore-not-found"])
        .exits(0);
}

#[test]
fn arguments_become_questions() {
    let home = Home::new();
    let fake = everything(&home);
    for args in [
        &["get", "vs", "reviews", "-n", "default"][..],
        &["get", "vs"],
        &["endpoints", "reviews.shop"],
        &["routes", "reviews", "--from", "productpage-v1"],
        &[
            "stats", "reviews", "--window", "5m", "--from", "a b", "--by", "version",
        ],
        &["stats", "--to", "reviews"],
        &[
            "stats",
            "--by",
            "source,code",
            "--version",
            "v1",
            "--route",
            "jason",
            "--code",
            "5xx",
        ],
        &["edges", "reviews", "--from", "a b", "-n", "shop"],
        &[
            "canary",
            "set",
            "reviews",
            "v1=50%",
            "v3=50",
            "--match",
            "header:end-user=jason",
        ],
        &[
            "routes",
            "--explain",
            "get",
            "reviews:9080/x",
            "-H",
            "End-User: jason",
            "--from",
            "p",
        ],
        &["token", "create", "--ttl", "1h30m", "--uses", "3"],
        &[
            "register",
            "db-1",
            "--service",
            "db",
            "--version",
            "v2",
            "--address",
            "10.0.0.7",
            "--port",
            "5432=10.0.0.7:15432",
            "--ttl",
            "30s",
        ],
    ] {
        home.run(args).exits(0);
    }
    let lines: Vec<String> = fake
        .asked()
        .into_iter()
        .map(|asked| {
            let mut body = asked.body;
            // Whoever runs the tests.
            if let Some(body) = body.as_object_mut() {
                body.remove("who");
            }
            if body.is_null() {
                asked.line
            } else {
                format!("{} {body}", asked.line)
            }
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn long_names_wrap_rather_than_break_the_page() {
    let home = Home::new();
    let long = EndpointReport {
        service: format!(
            "{}.a-namespace-that-is-long",
            "service-with-a-name-".repeat(3)
        ),
        ..canned::endpoints().remove(0)
    };
    let _fake = Answers::new().on("GET /endpoints", &[long]).serve(&home);
    insta::assert_snapshot!(home.run(&["endpoints"]).exits(0).fits());
}

#[test]
fn explain_says_when_nobody_serves() {
    let home = Home::new();
    let _fake = Answers::new()
        .on("POST /routes/explain", &canned::unexplained())
        .serve(&home);
    insta::assert_snapshot!(
        home.run(&["routes", "--explain", "GET", "http://nobody/"])
            .exits(0)
            .fits()
    );
}

#[test]
fn what_is_not_there_is_said() {
    let home = Home::new();
    let _fake = everything(&home);
    insta::assert_snapshot!(home.run(&["get", "dr", "nobody"]).exits(1));
    insta::assert_snapshot!(home.run(&["proxies", "nobody"]).exits(1));
}
