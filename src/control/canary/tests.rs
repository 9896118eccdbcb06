//! What a shift writes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::versions as versions_of;
use super::*;
use crate::api::Problem;
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

/// `reviews`, and the Services of two of its versions.
fn services() -> Vec<Service> {
    let labels = |labels: &[(&str, &str)]| {
        let all = labels.iter();
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let named = |name: &str, selector| Service {
        host: Hostname::service(name, "default"),
        name: name.to_owned(),
        ports: vec![crate::mesh::ServicePort {
            name: "http".to_owned(),
            port: 9080,
            target: crate::mesh::service::TargetPort::Number(9080),
            protocol: crate::mesh::Protocol::Http,
        }],
        selector,
        ..reviews()
    };
    vec![
        named("reviews", labels(&[("app", "reviews")])),
        named(
            "reviews-v1",
            labels(&[("app", "reviews"), ("version", "v1")]),
        ),
        named(
            "reviews-v2",
            labels(&[("app", "reviews"), ("version", "v2")]),
        ),
        named(
            "ratings-v1",
            labels(&[("app", "ratings"), ("version", "v1")]),
        ),
    ]
}

fn http_route(parents: &Value, rules: &Value) -> Value {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "split", "namespace": "default" },
        "spec": { "parentRefs": parents, "rules": rules } })
}

fn shifted(routes: &[Value], request: &CanarySet) -> Result<Option<Shift>, Problem> {
    let services = services();
    let versions = versions_of(&services[0], services.iter());
    shift_routes(&services[0], &versions, routes, request)
}

#[test]
fn the_weights_of_a_route_are_those_of_its_backends() {
    let backends = json!([
        { "name": "reviews-v1", "port": 9080, "weight": 9, "filters": [] },
        { "name": "reviews-v2", "port": 9080 }
    ]);
    let rules = json!([
        { "matches": [{ "path": { "type": "Exact", "value": "/health" } }],
          "backendRefs": [{ "name": "reviews-v1", "port": 9080 }] },
        { "matches": [{ "path": { "value": "/" } }], "timeouts": { "request": "1s" },
          "backendRefs": backends }
    ]);
    let inside = http_route(
        &json!([{ "group": "", "kind": "Service", "name": "reviews" }]),
        &rules,
    );
    // Also where requests come in at a Gateway.
    let outside = http_route(&json!([{ "name": "edge" }]), &rules);
    for route in [inside, outside] {
        let ask = ask(&[("v1", 50), ("v2", 50)], &[]);
        let shift = shifted(std::slice::from_ref(&route), &ask)
            .unwrap()
            .unwrap();
        assert_eq!(shift.before, [("v1".to_owned(), 9), ("v2".to_owned(), 1)]);
        assert_eq!(shift.objects.len(), 1);
        let mut wanted = route.clone();
        wanted["spec"]["rules"][1]["backendRefs"] = json!([
            { "name": "reviews-v1", "port": 9080, "weight": 50, "filters": [] },
            { "name": "reviews-v2", "port": 9080, "weight": 50 }
        ]);
        assert_eq!(shift.objects[0], wanted);
        let services = services();
        let versions = versions_of(&services[0], services.iter());
        let (weights, name) = current_of_routes(&services[0], &versions, &shift.objects).unwrap();
        assert_eq!(weights, [("v1".to_owned(), 50), ("v2".to_owned(), 50)]);
        assert_eq!(name, "HTTPRoute default/split");
    }
}

#[test]
fn a_route_gets_a_rule_for_requests_with_a_header() {
    let route = http_route(
        &json!([{ "group": "", "kind": "Service", "name": "reviews" }]),
        &json!([{ "name": "all", "retry": { "attempts": 1 },
            "backendRefs": [{ "name": "reviews-v1", "port": 9080 }] }]),
    );
    let ask = ask(&[("v2", 100)], &["header:x-user=tester"]);
    let shift = shifted(&[route], &ask).unwrap().unwrap();
    let rules = &shift.objects[0]["spec"]["rules"];
    assert_eq!(
        rules[0]["backendRefs"],
        json!([{ "name": "reviews-v1", "port": 9080 }])
    );
    assert_eq!(
        rules[1],
        json!({ "retry": { "attempts": 1 },
            "matches": [{ "headers": [{ "name": "x-user", "value": "tester" }] }],
            "backendRefs": [{ "name": "reviews-v2", "port": 9080, "weight": 100 }] })
    );
    // It is found again.
    let again = shifted(&shift.objects, &ask).unwrap().unwrap();
    assert_eq!(again.objects, shift.objects);
}

#[test]
fn what_a_route_cannot_say_is_refused_by_its_name() {
    let service = json!([{ "group": "", "kind": "Service", "name": "reviews" }]);
    let to = |name: &str| json!([{ "backendRefs": [{ "name": name, "port": 9080 }] }]);
    let route = |name: &str| http_route(&service, &to(name));
    let one = ask(&[("v1", 100)], &[]);
    let said = |routes: &[Value], ask: &CanarySet| {
        let problem = shifted(routes, ask).unwrap_err();
        format!("{} ({})", problem.message, problem.hint.unwrap_or_default())
    };
    let unknown = said(&[route("reviews-v1")], &ask(&[("v3", 100)], &[]));
    assert!(
        unknown.contains("version v3") && unknown.contains("HTTPRoute default/split"),
        "{unknown}"
    );
    let foreign = said(&[route("ratings-v1")], &one);
    assert!(
        foreign.contains("ratings-v1") && foreign.contains("HTTPRoute default/split"),
        "{foreign}"
    );
    let several = said(&[route("reviews-v1"), route("reviews-v2")], &one);
    assert!(
        several.contains("are all for service reviews.default"),
        "{several}"
    );
    // A route for somebody else is none.
    let other = http_route(
        &json!([{ "kind": "Service", "name": "ratings" }]),
        &to("ratings-v1"),
    );
    assert_eq!(shifted(&[other], &one).unwrap(), None);
}
