//! `-o json` and `-o yaml`: the API's structs as they are.

use serde_json::{Value, json};

use super::canned;
use super::run::Home;
use super::tables::everything;

fn value(report: &impl serde::Serialize) -> Value {
    serde_json::to_value(report).unwrap()
}

#[test]
fn json_is_what_the_api_answered() {
    let home = Home::new();
    let _fake = everything(&home);
    let mut wrong = Vec::new();
    for (args, expected) in [
        (&["services"][..], value(&canned::services())),
        (&["endpoints"], value(&canned::endpoints())),
        (&["routes"], value(&canned::routes())),
        (
            &["routes", "--explain", "GET", "http://a/"],
            value(&canned::explained()),
        ),
        (
            &["canary", "set", "reviews", "v1=50", "v3=50"],
            value(&canned::shifted()),
        ),
        (
            &["canary", "history", "reviews"],
            value(&canned::rollouts()),
        ),
        (&["canary", "abort", "reviews"], value(&canned::rollout())),
        (&["apply", "-f", "-"], value(&canned::applied())),
        (&["delete", "vs", "reviews"], value(&canned::deleted())),
        (&["proxies"], value(&canned::proxies())),
        (&["config", "clusters", "reviews-v1"], canned::clusters()),
        (&["token", "create"], value(&canned::token())),
        (&["token", "list"], value(&canned::tokens())),
        (&["token", "revoke", "t1"], json!({ "revoked": ["t1"] })),
        (&["identity", "audit"], value(&canned::audit())),
        (
            &["identity", "issue", "--service-account", "a"],
            value(&canned::identity()),
        ),
        (
            &["deregister", "db-1"],
            json!({ "instance": "db-1", "namespace": "default" }),
        ),
        (
            &[
                "register",
                "db-1",
                "--service",
                "db",
                "--address",
                "10.0.0.7",
            ],
            json!({ "instance": "db-1", "namespace": "default", "expiresUnixMs": 0 }),
        ),
    ] {
        for format in ["json", "yaml"] {
            let mut all = args.to_vec();
            all.extend(["-o", format]);
            let outcome = home.run(&all).exits(0);
            let found: Value = if format == "json" {
                outcome.json()
            } else {
                serde_saphyr::from_str(&outcome.stdout).unwrap()
            };
            if found != expected {
                wrong.push(format!("{args:?} -o {format}\n{found}\n{expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Reports with ages in them differ from run to run in those only.
#[test]
fn keys_of_reports_with_times_are_stable() {
    let home = Home::new();
    let _fake = everything(&home);
    home.run(&["install"]).exits(0);
    let mut all = String::new();
    for args in [
        &["version"][..],
        &["stats"],
        &["edges"],
        &["top"],
        &["history", "--limit", "1"],
        &["get", "vs"],
        &["canary", "status", "ratings"],
        &["canary", "status", "reviews"],
        &["canary", "history", "reviews"],
        &["canary", "list"],
        &["fault", "list"],
        &["register", "--list"],
        &["check"],
        &["check", "--pre"],
        &["install"],
        &["install", "--dry-run"],
        &["uninstall", "--dry-run"],
    ] {
        let mut asked = args.to_vec();
        asked.extend(["-o", "json"]);
        let mut keys = Vec::new();
        shape("", &home.run(&asked).json(), &mut keys);
        keys.dedup();
        all.push_str(&format!(
            "$ meshctl {}\n  {}\n",
            args.join(" "),
            keys.join("\n  ")
        ));
    }
    insta::assert_snapshot!(all);
}

/// Each path to a plain value once, with what it is.
fn shape(path: &str, value: &Value, keys: &mut Vec<String>) {
    let mut add = |what: &str| {
        let line = format!("{path}: {what}");
        if !keys.contains(&line) {
            keys.push(line);
        }
    };
    match value {
        Value::Null => add("null"),
        Value::Bool(_) => add("bool"),
        Value::Number(_) => add("number"),
        Value::String(_) => add("string"),
        Value::Array(list) => {
            for item in list {
                shape(&format!("{path}[]"), item, keys);
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                assert!(
                    key.starts_with(|c: char| c.is_ascii_lowercase()) && !key.contains(['_', '-'])
                        || path.ends_with("labels"),
                    "{path}.{key} is not lowerCamelCase"
                );
                shape(&format!("{path}.{key}"), item, keys);
            }
        }
    }
}

#[test]
fn yaml_of_get_can_be_applied() {
    let home = Home::new();
    let fake = everything(&home);
    let yaml = home.run(&["get", "vs", "-o", "yaml"]).exits(0).stdout;
    let object: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(object, canned::resources()[0].object);
    home.feed(&["apply", "-f", "-"], &yaml).exits(0);
    assert_eq!(fake.asked().pop().unwrap().body["sources"][0]["text"], yaml);
    assert!(
        fake.lines()
            .iter()
            .any(|line| line == "GET /api/v1/resources/vs")
    );
}
