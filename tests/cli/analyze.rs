//! `analyze` on files alone: what it prints, in each form, and how it ends.

use serde_json::Value;

use super::run::{Home, Outcome};

/// One service, and a rule with an error, a warning and a note around it.
const FILES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
  - route: [{destination: {host: web}}]
  - match: [{uri: {prefix: /late}}]
    route: [{destination: {host: web, subset: v9}}]
---
apiVersion: v1
kind: Event
metadata: {name: one}
";

fn alone(home: &Home, more: &[&str]) -> Outcome {
    let mut args = vec!["analyze", "web.yaml", "--use-control-plane=false"];
    args.extend(more);
    home.write("web.yaml", FILES);
    home.run(&args)
}

#[test]
fn files_are_analyzed_without_a_control_plane() {
    let home = Home::new();
    insta::assert_snapshot!(alone(&home, &[]).exits(1));
    let report = alone(&home, &["-o", "json"]).exits(1).json();
    let places: Vec<(&str, u64, u64)> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| {
            let origin = &finding["origin"];
            (
                finding["code"].as_str().unwrap(),
                origin["line"].as_u64().unwrap(),
                origin["column"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        places,
        [("IST0130", 13, 5), ("IST0101", 14, 47), ("MSH0004", 17, 7)]
    );
    assert_eq!(report["objects"], 2);
    let stdin = ["analyze", "-", "--use-control-plane=false"];
    let outcome = home.feed(&stdin, FILES).exits(1);
    assert!(outcome.stdout.contains("<stdin>:14:47"), "{outcome}");
    let good = FILES.split("---").next().unwrap();
    let outcome = home.feed(&stdin, good).exits(0);
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("No problems found"), "{outcome}");
}

#[test]
fn thresholds_and_suppressions_decide_what_is_told_and_how_it_ends() {
    let home = Home::new();
    let told = |more: &[&str], code: i32| {
        let outcome = alone(&home, more).exits(code);
        ["IST0101", "IST0130", "MSH0004"].map(|code| outcome.stdout.contains(code))
    };
    assert_eq!(
        told(&["--output-threshold", "error"], 1),
        [true, false, false]
    );
    assert_eq!(
        told(&["--output-threshold", "Warning"], 1),
        [true, true, false]
    );
    let broken = "IST0101=VirtualService web.default";
    let late = "IST0130=VirtualService *.default";
    assert_eq!(told(&["-S", broken], 0), [false, true, true]);
    assert_eq!(
        told(&["-S", broken, "--failure-threshold", "warning"], 1),
        [false, true, true]
    );
    let both = ["-S", broken, "-S", late];
    assert_eq!(
        told(
            &[&both[..], &["--failure-threshold", "Warning"]].concat(),
            0
        ),
        [false, false, true]
    );
    assert_eq!(
        told(&[&both[..], &["--failure-threshold", "info"]].concat(), 1),
        [false, false, true]
    );
    // Another namespace's are not asked for.
    assert_eq!(
        told(&["-S", "*=*", "--failure-threshold", "info"], 0),
        [false; 3]
    );
    let wrong = alone(&home, &["-S", "IST9999=x"]).exits(2);
    assert!(wrong.stderr.contains("--list-analyzers"), "{wrong}");
}

#[test]
fn what_cannot_be_analyzed_is_said() {
    let home = Home::new();
    let none = home.run(&["analyze", "--use-control-plane=false"]).exits(2);
    assert!(none.stderr.contains("nothing to analyze"), "{none}");
    let alone_hint = alone(&home, &["--use-control-plane"]).exits(2);
    assert!(alone_hint.stderr.contains("cannot be used"), "{alone_hint}");
    home.write("web.yaml", FILES);
    let unreachable = home.run(&["analyze", "web.yaml"]).exits(4);
    assert!(
        unreachable.stderr.contains("--use-control-plane=false"),
        "{unreachable}"
    );
    let sarif = home.run(&["history", "-o", "sarif"]).exits(2);
    assert!(sarif.stderr.contains("meshctl analyze"), "{sarif}");
}

#[test]
fn codes_are_listed_with_what_they_mean() {
    let home = Home::new();
    insta::assert_snapshot!(home.run(&["analyze", "-L"]).exits(0).fits());
    let codes = home.run(&["analyze", "-L", "-o", "json"]).exits(0).json();
    let codes = codes.as_array().unwrap();
    let missing = codes.iter().find(|code| code["code"] == "IST0101").unwrap();
    assert_eq!(missing["name"], "ReferencedResourceNotFound");
    assert_eq!(missing["forced"], true);
}

/// What SARIF 2.1.0 requires of a document (its sections 3.13 to 3.52), and what scanners use.
fn is_sarif(document: &Value) {
    assert_eq!(document["version"], "2.1.0");
    assert!(
        document["$schema"]
            .as_str()
            .unwrap()
            .contains("sarif-2.1.0")
    );
    let levels = ["none", "note", "warning", "error"];
    let runs = document["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 1);
    for run in runs {
        let driver = &run["tool"]["driver"];
        assert_eq!(driver["name"], "meshctl");
        assert_eq!(driver["semanticVersion"], env!("CARGO_PKG_VERSION"));
        let rules = driver["rules"].as_array().unwrap();
        let mut ids = std::collections::BTreeSet::new();
        for rule in rules {
            assert!(ids.insert(rule["id"].as_str().unwrap()), "{rule}");
            for text in ["shortDescription", "fullDescription", "help"] {
                assert!(!rule[text]["text"].as_str().unwrap().is_empty(), "{rule}");
            }
            let level = rule["defaultConfiguration"]["level"].as_str().unwrap();
            assert!(levels.contains(&level), "{rule}");
        }
        for invocation in run["invocations"].as_array().unwrap() {
            assert!(invocation["executionSuccessful"].is_boolean());
        }
        let kinds = ["utf16CodeUnits", "unicodeCodePoints"];
        assert!(kinds.contains(&run["columnKind"].as_str().unwrap()));
        for result in run["results"].as_array().unwrap() {
            let rule = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(rules[rule]["id"], result["ruleId"], "{result}");
            assert!(levels.contains(&result["level"].as_str().unwrap()));
            let text = result["message"]["text"].as_str().unwrap();
            assert!(text.ends_with('.'), "{text}");
            for location in result["locations"].as_array().unwrap() {
                let physical = &location["physicalLocation"];
                let uri = physical["artifactLocation"]["uri"].as_str().unwrap();
                assert!(!uri.is_empty() && !uri.contains([' ', '<', '\\']), "{uri}");
                for number in ["startLine", "startColumn"] {
                    assert!(
                        physical["region"][number].as_u64().unwrap() >= 1,
                        "{result}"
                    );
                }
                for logical in location["logicalLocations"].as_array().unwrap() {
                    assert!(logical["fullyQualifiedName"].is_string());
                }
            }
        }
    }
}

#[test]
fn scanners_get_sarif() {
    let home = Home::new();
    let document = alone(&home, &["-o", "sarif"]).exits(1).json();
    is_sarif(&document);
    let run = &document["runs"][0];
    let results = run["results"].as_array().unwrap();
    let told: Vec<(&str, &str)> = results
        .iter()
        .map(|result| {
            (
                result["ruleId"].as_str().unwrap(),
                result["level"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("IST0130", "warning"),
            ("IST0101", "error"),
            ("MSH0004", "note")
        ]
    );
    let place = &results[1]["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "web.yaml");
    assert_eq!(place["region"]["startLine"], 14);
    assert_eq!(run["tool"]["driver"]["rules"].as_array().unwrap().len(), 3);
    // A document without results is one, too.
    let empty = home.feed(
        &["analyze", "-", "--use-control-plane=false", "-o", "sarif"],
        FILES.split("---").next().unwrap(),
    );
    let empty = empty.exits(0).json();
    is_sarif(&empty);
    assert_eq!(empty["runs"][0]["results"], serde_json::json!([]));
}
