//! Command lines that make no sense: exit 2, and a way out.

use super::canned;
use super::fake::Answers;
use super::run::Home;

#[test]
fn each_mistake_is_named() {
    let home = Home::new();
    let mut all = String::new();
    for args in [
        &["routs"][..],
        &["canary", "sett", "reviews"],
        &["routes", "--fron", "x"],
        &["apply"],
        &["apply", "-f", "-", "-"],
        &["get"],
        &["get", "vs/reviews", "ratings"],
        &["get", "vs/"],
        &["delete", "vs"],
        &["canary", "set", "reviews"],
        &["fault", "inject", "reviews", "--for", "5m"],
        &["fault", "inject", "reviews", "--delay", "1s"],
        &[
            "fault",
            "inject",
            "reviews",
            "--delay",
            "1s",
            "--percent",
            "101",
            "--for",
            "1m",
        ],
        &["fault", "clear"],
        &["canary", "set", "reviews", "v1"],
        &["canary", "set", "reviews", "v1=x"],
        &["canary", "set", "reviews", "v1=0", "v2=0"],
        &["canary", "set", "reviews", "v1=1", "v1=2"],
        &["canary", "set", "reviews", "v1=1", "--match", "cookie:a=b"],
        &["stats", "--window", "10"],
        &["stats", "--window", "10ms"],
        &["stats", "--by", "colour"],
        &["edges", "--window", "10ms"],
        &["routes", "-H", "a: b"],
        &["routes", "--explain", "GET"],
        &["routes", "--explain", "GET", "/reviews"],
        &["register", "db-1", "--service", "db"],
        &[
            "register",
            "db-1",
            "--service",
            "db",
            "--address",
            "10.0.0.7",
            "--keep-alive",
        ],
        &["register", "DB", "--service", "db", "--address", "10.0.0.7"],
        &["proxy", "--service", "reviews"],
        &["proxy", "--service", "reviews", "--app", "9080"],
        &[
            "proxy",
            "--service",
            "reviews",
            "--app",
            "127.0.0.1:9080",
            "--control-plane",
            "here",
        ],
        &["control-plane", "--source", "consul=x"],
        &["control-plane", "--xds-port", "70000"],
        &["install", "--set", "nonsense=1"],
        &["install", "--set", "xdsPort=0"],
        &["install", "--set", "mtls"],
        &["install", "--wait"],
        &["token", "create", "--uses", "0"],
        &["token", "create", "--ttl", "0"],
        &["services", "-o", "xml"],
        &["services", "-q", "-v"],
        &["services", "-n", "Not_A_Name"],
        &["services", "--context", "../x"],
        &["check", "--pre", "--wait", "1s"],
    ] {
        let outcome = home.run(args).exits(2);
        assert_eq!(outcome.stdout, "", "{args:?}");
        let first: String = outcome
            .stderr
            .lines()
            .filter(|line| {
                !line.is_empty() && !line.starts_with("For more") && !line.starts_with("Usage")
            })
            .map(|line| format!("    {}\n", line.trim()))
            .collect();
        all.push_str(&format!("$ meshctl {}\n{first}", args.join(" ")));
    }
    insta::assert_snapshot!(all);
    assert!(!home.path().exists(), "a mistake makes nothing");
}

#[test]
fn standard_input_is_read_once() {
    let home = Home::new();
    let _fake = Answers::new()
        .on("POST /resources", &canned::applied())
        .serve(&home);
    let outcome = home
        .feed(&["apply", "-f", "-", "-f", "-"], "kind: X")
        .exits(2);
    assert!(outcome.stderr.contains("only once"), "{outcome}");
}

#[test]
fn a_cluster_that_is_not_configured_is_asked_for_and_flags_of_one_are_for_one() {
    let home = Home::new();
    for command in ["install", "uninstall"] {
        let outcome = home.run(&[command, "--target", "kubernetes"]).exits(1);
        assert!(outcome.stderr.contains("set KUBECONFIG"), "{outcome}");
        let outcome = home.run(&[command, "--revision", "next"]).exits(2);
        assert!(outcome.stderr.contains("--target kubernetes"), "{outcome}");
    }
}
