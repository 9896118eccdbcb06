//! Rules beside a split while a rollout runs: who goes to the canary by a header or a cookie, who stays with the
//! version that he got first, and who gets copies.
//!
//! All that is added has a name that begins with [`OURS`], so it is found again and goes when the rollout ends.
//!
//! Affinity holds for a whole run: who got the canary keeps it while its share grows, and who got the stable version
//! keeps that. Only callers without the cookie are shared out by the weights of the moment. At the end, where there
//! is one version left, everybody goes there.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::edit::{self, Shift, edit_list, text};
use crate::api::canary::CanarySet;
use crate::api::{Problem, Reason};
use crate::mesh::Service;
use crate::mesh::rollout::Routing;

/// What names of our rules begin with.
const OURS: &str = "meshctl-canary-";
/// How long the cookie lives (Flagger's default).
const MAX_AGE_SECONDS: u32 = 86_400;

/// What to write so that requests to `service` go as `routing` says.
pub fn route(
    service: &Service,
    virtual_services: &[Value],
    destination_rules: &[Value],
    versions: &BTreeMap<String, usize>,
    routing: &Routing,
) -> Result<Shift, Problem> {
    let request = CanarySet {
        weights: routing.weights.clone(),
        matches: Vec::new(),
        who: String::new(),
    };
    let mut shift = edit::shift(
        service,
        virtual_services,
        destination_rules,
        versions,
        &request,
    )?;
    let Some(route) = shift
        .objects
        .iter_mut()
        .find(|object| text(object, "/kind") == "VirtualService")
    else {
        return Ok(shift);
    };
    edit_list(route, "http", |rules| beside(rules, service, routing))?;
    Ok(shift)
}

/// Whether routes of the Gateway API can say what `routing` says.
pub fn is_plain(routing: &Routing) -> bool {
    routing.matches.is_empty() && routing.mirror.is_none() && routing.affinity.is_none()
}

fn beside(rules: &mut Vec<Value>, service: &Service, routing: &Routing) -> Result<(), Problem> {
    rules.retain(|rule| !text(rule, "/name").starts_with(OURS));
    let Some(at) = edit::position(rules, &[]) else {
        return Ok(());
    };
    let Some(split) = rules.get_mut(at).and_then(Value::as_object_mut) else {
        return Ok(());
    };
    copies(split, service, routing)?;
    cookies(split, routing)?;
    let model = split.clone();
    let mut added = Vec::new();
    let canary = routing.weights.last().map(|(version, _)| version.as_str());
    if let (Some(canary), false) = (canary, routing.matches.is_empty()) {
        let conditions = conditions(&routing.matches)?;
        added.push(for_one(&model, "chosen", &conditions, canary));
    }
    if let Some((name, run)) = &routing.affinity {
        for (version, _) in &routing.weights {
            let value = format!("{version}.{run}");
            let conditions = json!({ "cookie": { "regex": cookie(name, &value) } });
            added.push(for_one(
                &model,
                &format!("stays-{version}"),
                &conditions,
                version,
            ));
        }
    }
    // A narrower rule stands before the one that takes everything.
    rules.splice(at..at, added);
    Ok(())
}

/// The rule of the split with all requests for one version, for those that meet `headers`.
fn for_one(model: &Map<String, Value>, name: &str, headers: &Value, version: &str) -> Value {
    let mut rule = model.clone();
    for field in ["mirror", "mirrors", "mirrorPercentage", "mirror_percentage"] {
        rule.remove(field);
    }
    let targets = model.get("route").and_then(Value::as_array);
    let mut target = targets
        .into_iter()
        .flatten()
        .find(|target| text(target, "/destination/subset") == version)
        .cloned()
        .unwrap_or_else(|| json!({}));
    if let Some(fields) = target.as_object_mut() {
        fields.remove("weight");
        drop_cookie(fields);
    }
    rule.insert("name".to_owned(), json!(format!("{OURS}{name}")));
    rule.insert("match".to_owned(), json!([{ "headers": headers }]));
    rule.insert("route".to_owned(), json!([target]));
    Value::Object(rule)
}

/// Puts copies to `mirror` into the rule, or takes out those that a rollout put there.
fn copies(
    rule: &mut Map<String, Value>,
    service: &Service,
    routing: &Routing,
) -> Result<(), Problem> {
    let ours = text_of(rule, "name").ends_with(COPIED);
    match &routing.mirror {
        Some(_) if !ours && (rule.contains_key("mirror") || rule.contains_key("mirrors")) => {
            return Err(Problem::new(
                Reason::Invalid,
                "the route mirrors requests already, and that would be lost",
            )
            .hint("take mirror out of the VirtualService, or start without --mirror"));
        }
        Some(version) => {
            rule.insert(
                "mirrors".to_owned(),
                json!([{
                    "destination": { "host": service.host.as_str(), "subset": version },
                    "percentage": { "value": routing.mirror_percent.unwrap_or(100) },
                }]),
            );
            rule.insert("name".to_owned(), json!(named(rule, true)));
        }
        None if ours => {
            rule.remove("mirrors");
            let name = named(rule, false);
            if name.is_empty() {
                rule.remove("name");
            } else {
                rule.insert("name".to_owned(), json!(name));
            }
        }
        None => {}
    }
    Ok(())
}

/// What the name of a rule ends with whose copies are a rollout's.
const COPIED: &str = "+meshctl-copies";

fn named(rule: &Map<String, Value>, copied: bool) -> String {
    let plain = text_of(rule, "name");
    let plain = plain.strip_suffix(COPIED).unwrap_or(plain);
    if copied {
        format!("{plain}{COPIED}")
    } else {
        plain.to_owned()
    }
}

fn text_of<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Has each target of the split give its cookie, or none.
fn cookies(rule: &mut Map<String, Value>, routing: &Routing) -> Result<(), Problem> {
    let targets = rule.get_mut("route").and_then(Value::as_array_mut);
    for target in targets.into_iter().flatten() {
        let version = text(target, "/destination/subset").to_owned();
        let Some(fields) = target.as_object_mut() else {
            continue;
        };
        drop_cookie(fields);
        let Some((name, run)) = &routing.affinity else {
            continue;
        };
        let headers = fields.entry("headers").or_insert_with(|| json!({}));
        let response = entry(headers, "response");
        let add = response.map(|response| entry(response, "add"));
        let Some(Some(Value::Object(add))) = add else {
            return Err(unreadable());
        };
        if add.contains_key("set-cookie") {
            return Err(Problem::new(
                Reason::Invalid,
                "the route gives callers a cookie already, and two cannot be written beside each other",
            )
            .hint("take set-cookie out of the VirtualService, or start without an affinity cookie"));
        }
        add.insert(
            "set-cookie".to_owned(),
            json!(format!(
                "{name}={version}.{run}; {MARK}; Max-Age={MAX_AGE_SECONDS}"
            )),
        );
    }
    Ok(())
}

/// What stands in every cookie of a rollout, after its value.
const MARK: &str = "Path=/; SameSite=Lax; HttpOnly";

fn entry<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let fields = value.as_object_mut()?;
    Some(fields.entry(name).or_insert_with(|| json!({})))
}

fn unreadable() -> Problem {
    Problem::new(Reason::Invalid, "the headers of the route cannot be read")
        .hint("`meshctl analyze` says what is wrong with it")
}

/// Takes out the cookie that a rollout put there, and what is empty without it.
fn drop_cookie(target: &mut Map<String, Value>) {
    let Some(headers) = target.get_mut("headers").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(response) = headers.get_mut("response").and_then(Value::as_object_mut) {
        if let Some(add) = response.get_mut("add").and_then(Value::as_object_mut) {
            if text_of(add, "set-cookie").contains(MARK) {
                add.remove("set-cookie");
            }
            if add.is_empty() {
                response.remove("add");
            }
        }
        if response.is_empty() {
            headers.remove("response");
        }
    }
    if headers.is_empty() {
        target.remove("headers");
    }
}

/// `header:NAME=VALUE` and `cookie:NAME=VALUE`, all of which must hold.
fn conditions(matches: &[String]) -> Result<Value, Problem> {
    let mut headers = Map::new();
    for condition in matches {
        let pair = |kind: &str| condition.strip_prefix(kind)?.split_once('=');
        let (name, value) = match (pair("header:"), pair("cookie:")) {
            (Some((name, value)), _) if !name.is_empty() => {
                (name.to_ascii_lowercase(), json!({ "exact": value }))
            }
            (_, Some((name, value))) if !name.is_empty() => {
                ("cookie".to_owned(), json!({ "regex": cookie(name, value) }))
            }
            _ => {
                return Err(Problem::new(
                    Reason::Invalid,
                    format!("{condition:?} is not a condition"),
                )
                .hint("write header:NAME=VALUE or cookie:NAME=VALUE"));
            }
        };
        if headers.insert(name.clone(), value).is_some() {
            return Err(Problem::new(
                Reason::Invalid,
                format!("{name} is asked for twice, which no request fulfils"),
            )
            .hint("name each header once; of cookies, one"));
        }
    }
    Ok(Value::Object(headers))
}

/// Matches a cookie header with this cookie among others.
fn cookie(name: &str, value: &str) -> String {
    format!("(.*; ?)?{}={}(;.*)?", literal(name), literal(value))
}

/// `text` as an expression that matches nothing else.
fn literal(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if !letter.is_ascii_alphanumeric() && letter.is_ascii() && letter != '_' && letter != '-' {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{Hostname, Origin};

    fn shop() -> Service {
        Service {
            host: Hostname::service("shop", "default"),
            name: "shop".to_owned(),
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

    /// What stands there once requests go as `routing` says.
    fn after(before: &Value, routing: &Routing) -> Value {
        let versions = [("v1".to_owned(), 1), ("v2".to_owned(), 1)].into();
        let all = std::slice::from_ref(before);
        let shift = route(&shop(), all, &[], &versions, routing).unwrap();
        shift.objects.last().unwrap().clone()
    }

    fn during(weight: u32) -> Routing {
        Routing {
            weights: vec![("v1".to_owned(), 100 - weight), ("v2".to_owned(), weight)],
            matches: vec![
                "header:x-tester=yes".to_owned(),
                "cookie:group=b.c".to_owned(),
            ],
            mirror: Some("v2".to_owned()),
            mirror_percent: Some(20),
            compare: false,
            affinity: Some(("side".to_owned(), "7f".to_owned())),
        }
    }

    fn only(weight: u32) -> Routing {
        Routing {
            matches: Vec::new(),
            mirror: None,
            mirror_percent: None,
            affinity: None,
            ..during(weight)
        }
    }

    fn written() -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": { "name": "shop", "namespace": "default" },
            "spec": { "hosts": ["shop"], "http": [
                { "match": [{ "uri": { "prefix": "/admin" } }],
                  "route": [{ "destination": { "host": "shop", "subset": "v1" } }] },
                { "name": "all", "timeout": "3s", "route": [
                    { "destination": { "host": "shop", "subset": "v1" }, "weight": 100,
                      "headers": { "response": { "add": { "x-by": "shop" } } } },
                ] },
            ] },
        })
    }

    #[test]
    fn what_a_rollout_added_goes_with_it_and_all_else_stays() {
        let plain = after(&written(), &only(30));
        let busy = after(&plain, &during(30));
        assert_eq!(after(&busy, &only(30)), plain);
        // Done twice it is as done once.
        assert_eq!(after(&busy, &during(30)), busy);
        let rules = busy["spec"]["http"].as_array().unwrap();
        let names: Vec<&str> = rules.iter().map(|rule| text(rule, "/name")).collect();
        assert_eq!(
            names,
            [
                "",
                "meshctl-canary-chosen",
                "meshctl-canary-stays-v1",
                "meshctl-canary-stays-v2",
                "all+meshctl-copies",
            ]
        );
        assert!(
            rules.iter().skip(1).all(|rule| rule["timeout"] == "3s"),
            "{busy}"
        );
        let cookie = &rules[4]["route"][1]["headers"]["response"]["add"]["set-cookie"];
        assert!(
            cookie.as_str().unwrap().starts_with("side=v2.7f; "),
            "{cookie}"
        );
        assert_eq!(
            rules[4]["route"][0]["headers"]["response"]["add"]["x-by"],
            "shop"
        );
        assert_eq!(rules[4]["mirrors"][0]["percentage"]["value"], 20);
        // Who stays is not given the cookie again, and is not mirrored.
        assert_eq!(
            rules[3]["route"],
            json!([{ "destination": {
            "host": "shop.default.svc.cluster.local", "subset": "v2" } }])
        );
        assert!(rules[3].get("mirrors").is_none());
        let chosen = &rules[1]["match"][0]["headers"];
        assert_eq!(chosen["x-tester"]["exact"], "yes");
        assert_eq!(chosen["cookie"]["regex"], "(.*; ?)?group=b\\.c(;.*)?");
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        let versions: BTreeMap<String, usize> = [("v1".to_owned(), 1), ("v2".to_owned(), 1)].into();
        let refused = |change: fn(&mut Value), routing: &Routing| {
            let mut route_there = written();
            change(&mut route_there["spec"]["http"][1]);
            let all = [route_there];
            route(&shop(), &all, &[], &versions, routing)
                .unwrap_err()
                .hint
                .is_some()
        };
        assert!(refused(
            |rule| rule["mirror"] = json!({ "host": "audit" }),
            &during(10)
        ));
        assert!(refused(
            |rule| rule["route"][0]["headers"]["response"]["add"]["set-cookie"] = json!("a=b"),
            &during(10)
        ));
        let twice = Routing {
            matches: vec!["header:a=1".to_owned(), "header:a=2".to_owned()],
            ..only(10)
        };
        assert!(refused(|_| {}, &twice));
        let strange = Routing {
            matches: vec!["path:/x".to_owned()],
            ..only(10)
        };
        assert!(refused(|_| {}, &strange));
    }
}
