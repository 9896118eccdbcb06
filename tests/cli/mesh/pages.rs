//! Tables for people: eighty columns hold each, with every heading whole.

use super::Mesh;

/// A command, the headings or words that must be there, and whether every line must fit.
const PAGES: &[(&[&str], &[&str])] = &[
    (
        &["ps"],
        &[
            "NAME",
            "READY",
            "STATUS",
            "RESTARTS",
            "AGE",
            "ADDRESS",
            "control-plane",
        ],
    ),
    (
        &["check"],
        &["home", "control plane", "everything is as it should be"],
    ),
    (&["check", "--pre"], &["machine", "metrics"]),
    (&["version"], &["Client", "Control plane", "revision"]),
    (
        &["get", "svc"],
        &["NAME", "ABOUT", "REVISION", "AGE", "productpage"],
    ),
    (&["get", "vs"], &["reviews", "hosts"]),
    (
        &["history"],
        &["REVISION", "WHO", "WHAT", "OBJECTS", "canary set reviews"],
    ),
    (
        &["services"],
        &[
            "NAME",
            "PORTS",
            "READY",
            "VERSIONS",
            "MTLS",
            "productpage",
            "v1×1",
        ],
    ),
    (
        &["endpoints"],
        &["SERVICE", "PORT", "ADDRESS", "VERSION", "HEALTH", "MTLS"],
    ),
    (
        &["register", "--list"],
        &["NAME", "WORKLOAD", "ADDRESS", "HEALTH", "EXPIRES"],
    ),
    (
        &["proxies"],
        &[
            "NAME", "SYNCED", "CDS", "EDS", "LDS", "RDS", "WORLD", "SINCE",
        ],
    ),
    (
        &["routes"],
        &[
            "SERVICE", "MATCH", "BACKEND", "WEIGHT", "SHARE", "MEASURED", "READY",
        ],
    ),
    (&["routes", "reviews"], &["everything", "v1", "50.0%"]),
    (
        &[
            "routes",
            "--explain",
            "GET",
            "http://reviews:9080/x",
            "--from",
            "productpage-v1",
        ],
        &["From", "Rule 0 (", "BACKEND", "ENDPOINT"],
    ),
    (
        &["canary", "status", "reviews"],
        &["VERSION", "WEIGHT", "MEASURED", "READY", "P99"],
    ),
    (
        &["canary", "list"],
        &["SERVICE", "WEIGHTS", "MEASURED", "reviews.default"],
    ),
    (
        &["stats"],
        &["SERVICE", "RPS", "SUCCESS", "P50", "P95", "P99", "MTLS"],
    ),
    (&["stats", "--by", "version"], &["VERSION", "v3"]),
    (
        &["stats", "--by", "source"],
        &["SOURCE", "SERVICE", "RPS", "MTLS"],
    ),
    (
        &["stats", "--by", "route"],
        &["ROUTE", "everything", "RPS", "MTLS"],
    ),
    (&["top"], &["SERVICE", "VERSION", "RPS", "SUCCESS", "MTLS"]),
    (&["token", "create", "--ttl", "1h"], &[]),
];

pub(super) fn fit_eighty_columns(mesh: &Mesh) {
    for (args, words) in PAGES {
        let outcome = mesh.run(args);
        // The ports that `check --pre` wants may be another mesh's.
        if !args.contains(&"--pre") {
            assert_eq!(outcome.code, Some(0), "{args:?} {outcome}");
        }
        for word in *words {
            assert!(
                outcome.stdout.contains(word),
                "{args:?}: no {word:?} in {outcome}"
            );
        }
        // A secret is one word, to be copied whole.
        if args[0] != "token" {
            narrow(args, &outcome.stdout);
        }
    }
    let proxy = mesh.pod("productpage")["name"].as_str().unwrap().to_owned();
    for (part, words) in [
        (
            "listeners",
            &[
                "NAME",
                "ADDRESS",
                "DIRECTION",
                "CHAIN",
                "LEADS TO",
                "virtualOutbound",
            ][..],
        ),
        (
            "routes",
            &["TABLE", "HOST", "MATCH", "LEADS TO", "http_proxy"],
        ),
        (
            "clusters",
            &[
                "SERVICE",
                "PORT",
                "SUBSET",
                "KIND",
                "BALANCER",
                "TLS",
                "where mTLS",
            ],
        ),
        ("endpoints", &["ADDRESS", "HEALTH", "MTLS", "CLUSTER"]),
        ("secrets", &["Identity", "Root"]),
    ] {
        let outcome = mesh.run(&["config", part, &proxy]).exits(0);
        for word in words {
            assert!(
                outcome.stdout.contains(word),
                "{part}: no {word:?} in {outcome}"
            );
        }
        narrow(&["config", part], &outcome.stdout);
    }
    // More columns than a terminal has are as wide as they are, like kubectl's, rather than shreds.
    let wide = mesh.run(&["proxies", "-o", "wide"]).exits(0).stdout;
    assert!(
        wide.contains("spiffe://cluster.local/ns/default/sa/bookinfo-details"),
        "{wide}"
    );
    assert_eq!(wide.lines().count(), 7, "{wide}");
    // A name breaks behind a mark.
    let routes = mesh.run(&["routes"]).exits(0).stdout;
    assert!(
        routes.contains("productpage.\n") || routes.contains("productpage.  "),
        "{routes}"
    );
    // What was just made for an hour is good for an hour.
    let token = mesh.run(&["token", "create", "--ttl", "1h"]).exits(0);
    assert!(token.stderr.contains("good for 1h,"), "{token}");
}

#[track_caller]
fn narrow(args: &[&str], text: &str) {
    for line in text.lines() {
        assert!(
            line.chars().count() <= 80,
            "{args:?} is too wide: {line:?}\n{text}"
        );
    }
}
