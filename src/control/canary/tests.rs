//! What a shift writes.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::api::canary::CanarySet;
use crate::mesh::{Hostname, Origin, Service};

fn reviews() -> Service {
    Service {
        host: Hostname::service("reviews", "default"),
        name: "reviews".to_owned(),
        namespace: "default".to_owned(),
        ports: Vec::new(),
        selector: BTreeMap::new(),
        addresses: Vec::new(),
        headless: false,
        export: std::collections::BTreeSet::new(),
        distribution: None,
        session: None,
        external: None,
        origin: Origin::default(),
    }
}

fn versions() -> BTreeMap<String, usize> {
    [("v1", 1), ("v2", 1), ("v3", 1)]
        .map(|(version, count)| (version.to_owned(), count))
        .into()
}

fn ask(weights: &[(&str, u32)], matches: &[&str]) -> CanarySet {
    CanarySet {
        weights: weights
            .iter()
            .map(|(version, weight)| ((*version).to_owned(), *weight))
            .collect(),
        matches: matches.iter().map(|text| (*text).to_owned()).collect(),
        who: String::new(),
    }
}

#[test]
fn objects_are_made_where_none_serves() {
    let shift = shift(
        &reviews(),
        &[],
        &[],
        &versions(),
        &ask(&[("v1", 90), ("v2", 10)], &[]),
    )
    .unwrap();
    assert!(shift.before.is_empty());
    assert_eq!(shift.objects.len(), 2);
    assert_eq!(
        shift.objects[0]["spec"],
        json!({ "host": "reviews.default.svc.cluster.local", "subsets": [
            { "name": "v1", "labels": { "version": "v1" } },
            { "name": "v2", "labels": { "version": "v2" } },
        ] })
    );
    assert_eq!(
        shift.objects[1]["spec"]["http"][0]["route"][1]["weight"],
        10
    );
    assert_eq!(
        current(&reviews(), &shift.objects[1..]).unwrap().0,
        [("v1".to_owned(), 90), ("v2".to_owned(), 10)]
    );
}

#[test]
fn a_route_keeps_what_people_wrote() {
    let existing = json!({
        "kind": "VirtualService",
        "metadata": { "name": "mine", "namespace": "default" },
        "spec": { "hosts": ["reviews"], "http": [
            { "match": [{ "headers": { "end-user": { "exact": "jason" } } }],
              "route": [{ "destination": { "host": "reviews", "subset": "v2" } }] },
            { "timeout": "5s", "route": [
                { "destination": { "host": "reviews", "subset": "v1", "port": { "number": 9080 } }, "weight": 90 },
                { "destination": { "host": "reviews", "subset": "v2" }, "weight": 10 } ] },
        ] },
    });
    let rules = json!({
        "kind": "DestinationRule",
        "metadata": { "name": "reviews", "namespace": "default" },
        "spec": { "host": "reviews", "subsets": [
            { "name": "v1", "labels": { "version": "v1" } },
            { "name": "v3", "labels": { "release": "blue" } },
        ] },
    });
    let shift = shift(
        &reviews(),
        &[existing],
        &[rules],
        &versions(),
        &ask(&[("v1", 50), ("v3", 50)], &[]),
    )
    .unwrap();
    assert_eq!(shift.before, [("v1".to_owned(), 90), ("v2".to_owned(), 10)]);
    assert_eq!(shift.objects.len(), 1, "both subsets were there");
    let http = &shift.objects[0]["spec"]["http"];
    assert_eq!(http[0]["route"][0]["destination"]["subset"], "v2");
    assert_eq!(http[1]["timeout"], "5s");
    assert_eq!(http[1]["route"][0]["destination"]["port"]["number"], 9080);
    assert_eq!(
        http[1]["route"][1],
        json!({
            "destination": { "host": "reviews.default.svc.cluster.local", "subset": "v3", "port": { "number": 9080 } },
            "weight": 50,
        })
    );
}

#[test]
fn whoever_has_a_rule_of_his_own_has_the_versions_too() {
    let rule = |name: &str, namespace: &str, more: &str, subsets: &[&str]| {
        let subsets: Vec<_> = subsets
            .iter()
            .map(|version| json!({ "name": version, "labels": { "version": version } }))
            .collect();
        let mut rule = json!({
            "kind": "DestinationRule",
            "metadata": { "name": name, "namespace": namespace },
            "spec": { "host": "reviews.default.svc.cluster.local", "subsets": subsets },
        });
        if more == "private" {
            rule["spec"]["exportTo"] = json!(["."]);
        } else if more == "chosen" {
            rule["spec"]["workloadSelector"] = json!({ "matchLabels": { "app": "a" } });
        }
        rule
    };
    let rules = [
        rule("reviews", "default", "private", &["v1"]),
        rule("some", "default", "chosen", &["v1", "v2"]),
        rule("theirs", "other", "", &[]),
    ];
    let shift = shift(
        &reviews(),
        &[],
        &rules,
        &versions(),
        &ask(&[("v1", 50), ("v2", 50)], &[]),
    )
    .unwrap();
    let (route, rules) = shift.objects.split_last().unwrap();
    assert_eq!(route["kind"], "VirtualService");
    let names: Vec<&str> = rules
        .iter()
        .map(|rule| rule["metadata"]["name"].as_str().unwrap())
        .collect();
    // What is there already stays, and what is for some is not made everybody's.
    assert_eq!(names, ["reviews", "theirs", "reviews-versions"]);
    for rule in rules {
        assert_eq!(
            rule["spec"]["subsets"].as_array().unwrap().len(),
            2,
            "{rule}"
        );
    }
    assert_eq!(rules[0]["spec"]["exportTo"], json!(["."]));
}

#[test]
fn a_condition_gets_a_rule_of_its_own_before_the_others() {
    let first = shift(&reviews(), &[], &[], &versions(), &ask(&[("v1", 100)], &[])).unwrap();
    let second = shift(
        &reviews(),
        &first.objects[1..],
        &first.objects[..1],
        &versions(),
        &ask(&[("v2", 100)], &["header:x-user=tester"]),
    )
    .unwrap();
    let route = second.objects.last().unwrap();
    assert_eq!(
        route["spec"]["http"][0]["match"],
        json!([{ "headers": { "x-user": { "exact": "tester" } } }])
    );
    assert_eq!(route["spec"]["http"].as_array().unwrap().len(), 2);
    let third = shift(
        &reviews(),
        std::slice::from_ref(route),
        &second.objects[..1],
        &versions(),
        &ask(&[("v1", 1), ("v2", 1)], &["header:x-user=tester"]),
    )
    .unwrap();
    assert_eq!(third.before, [("v2".to_owned(), 100)]);
    assert_eq!(
        third.objects.last().unwrap()["spec"]["http"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn what_cannot_work_is_refused_with_what_can() {
    let refuse =
        |request: &CanarySet| shift(&reviews(), &[], &[], &versions(), request).unwrap_err();
    let unknown = refuse(&ask(&[("v9", 100)], &[]));
    assert!(unknown.hint.unwrap().contains("v1, v2, v3"));
    assert!(refuse(&ask(&[("v1", 0)], &[])).message.contains("sum to 0"));
    assert!(refuse(&ask(&[], &[])).message.contains("sum to 0"));
    assert!(
        refuse(&ask(&[("v1", 1), ("v1", 2)], &[]))
            .message
            .contains("twice")
    );
    assert!(
        refuse(&ask(&[("v1", 1)], &["cookie:a=b"]))
            .hint
            .unwrap()
            .contains("header:")
    );
}
