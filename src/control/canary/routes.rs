//! The edit of an HTTPRoute or a GRPCRoute, where that is what splits a service: there versions are
//! Services of their own, and weights stand at them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::edit::{Shift, check, conditions, edit_list, text};
use crate::api::canary::CanarySet;
use crate::api::{Problem, Reason};
use crate::mesh::Service;

/// Labels by which pods say what version they are (Istio's canonical revision).
const VERSION: [&str; 3] = [
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];

/// The Services that stand for single versions of `service`: they choose by the same labels, and by the
/// version.
pub fn versions<'a>(
    service: &Service,
    all: impl Iterator<Item = &'a Service>,
) -> BTreeMap<String, &'a Service> {
    let others = all.filter(|other| {
        other.namespace == service.namespace
            && other.host != service.host
            && !service.selector.is_empty()
            && service
                .selector
                .iter()
                .all(|(label, value)| other.selector.get(label) == Some(value))
    });
    let mut found = BTreeMap::new();
    for other in others {
        let version = VERSION.iter().find_map(|label| other.selector.get(*label));
        if let Some(version) = version.filter(|_| {
            !VERSION
                .iter()
                .any(|label| service.selector.contains_key(*label))
        }) {
            found.entry(version.clone()).or_insert(other);
        }
    }
    found
}

/// A route with the rule that splits.
struct Splitting<'a> {
    route: &'a Value,
    /// None where one is to be added.
    rule: Option<usize>,
}

/// The weights of the split that takes requests without special headers, and the kind and the name of the
/// route that holds it. None where routes do not split `service`.
pub fn current_of_routes(
    service: &Service,
    versions: &BTreeMap<String, &Service>,
    routes: &[Value],
) -> Option<(Vec<(String, u32)>, String)> {
    let found = splitting(service, versions, routes, &[]);
    let [only] = found.as_slice() else {
        return None;
    };
    let rule = rules(only.route).get(only.rule?)?;
    let weights = weights(rule, only.route, versions);
    (!weights.is_empty()).then(|| (weights, name(only.route)))
}

/// What to write so that `service` gets the weights of `request`. None where no route is for it, so that
/// rules of other kinds are.
pub fn shift_routes(
    service: &Service,
    versions: &BTreeMap<String, &Service>,
    routes: &[Value],
    request: &CanarySet,
) -> Result<Option<Shift>, Problem> {
    let matches = conditions(&request.matches)?;
    let found = splitting(service, versions, routes, &matches);
    let only = match found.as_slice() {
        [] => return Ok(None),
        [only] => only,
        several => {
            let names: Vec<String> = several.iter().map(|one| name(one.route)).collect();
            return Err(refused(
                format!(
                    "{} are all for service {}",
                    names.join(" and "),
                    short(service)
                ),
                "let one of them have the rule, or edit them",
            ));
        }
    };
    check(&request.weights)?;
    let mut route = only.route.clone();
    let own = text(&route, "/metadata/namespace").to_owned();
    let name = name(only.route);
    let model = only.rule.or_else(|| position(rules(only.route), &[]));
    let model = model.and_then(|at| rules(only.route).get(at)).cloned();
    let old: Vec<Value> = model
        .as_ref()
        .map(|rule| backends(rule).to_vec())
        .unwrap_or_default();
    if let Some(other) = old
        .iter()
        .find(|to| version_of(to, &own, versions).is_none() && !is(to, &own, service))
    {
        return Err(refused(
            format!(
                "{name} sends requests to {} too, which is no version of {}",
                text(other, "/name"),
                short(service)
            ),
            &format!("change the weights in {name}"),
        ));
    }
    let mut targets = Vec::new();
    for (version, weight) in &request.weights {
        let known = old
            .iter()
            .find(|to| version_of(to, &own, versions) == Some(version));
        let mut target = match known {
            Some(known) => known.clone(),
            None => new_backend(service, version, versions, (&old, &own), &name)?,
        };
        if let Some(fields) = target.as_object_mut() {
            fields.insert("weight".to_owned(), json!(weight));
        }
        targets.push(target);
    }
    let before = only.rule.and_then(|at| rules(only.route).get(at));
    let before = before
        .map(|rule| weights(rule, only.route, versions))
        .unwrap_or_default();
    edit_list(&mut route, "rules", |rules| {
        let at = only.rule.unwrap_or_else(|| {
            // What is done with requests is as in the rule for all of them.
            let mut rule = model.unwrap_or_else(|| json!({}));
            if let Some(fields) = rule.as_object_mut() {
                fields.remove("name");
                fields.insert(
                    "matches".to_owned(),
                    json!([{ "headers": headers(&matches) }]),
                );
            }
            rules.push(rule);
            rules.len() - 1
        });
        if let Some(Value::Object(rule)) = rules.get_mut(at) {
            rule.insert("backendRefs".to_owned(), Value::Array(targets));
        }
    });
    Ok(Some(Shift {
        before,
        after: request.weights.clone(),
        objects: vec![route],
    }))
}

/// The routes that `service` is split by: those for its callers; or else those at Gateways that lead to
/// its versions. Of several those that have a rule for `matches` already.
fn splitting<'a>(
    service: &Service,
    versions: &BTreeMap<String, &Service>,
    routes: &'a [Value],
    matches: &[(String, String)],
) -> Vec<Splitting<'a>> {
    let inside: Vec<&Value> = routes
        .iter()
        .filter(|route| is_for(route, service))
        .collect();
    let meant = if inside.is_empty() {
        let splits = |route: &&Value| {
            let own = text(route, "/metadata/namespace");
            rules(route).iter().any(|rule| {
                let all = backends(rule);
                all.len() > 1 && all.iter().all(|to| version_of(to, own, versions).is_some())
            })
        };
        routes.iter().filter(splits).collect()
    } else {
        inside
    };
    let all = meant.into_iter().map(|route| Splitting {
        route,
        rule: position(rules(route), matches),
    });
    let all: Vec<Splitting<'a>> = all.collect();
    if all.iter().any(|one| one.rule.is_some()) {
        all.into_iter().filter(|one| one.rule.is_some()).collect()
    } else {
        all
    }
}

/// Whether `route` is for every caller of `service`.
fn is_for(route: &Value, service: &Service) -> bool {
    let own = text(route, "/metadata/namespace");
    let parents = route.pointer("/spec/parentRefs").and_then(Value::as_array);
    own == service.namespace
        && parents.into_iter().flatten().any(|parent| {
            text(parent, "/kind") == "Service"
                && text(parent, "/name") == service.name
                && [own, ""].contains(&text(parent, "/namespace"))
        })
}

fn rules(route: &Value) -> &[Value] {
    let rules = route.pointer("/spec/rules").and_then(Value::as_array);
    rules.map_or(&[], Vec::as_slice)
}

fn backends(rule: &Value) -> &[Value] {
    let all = rule.get("backendRefs").and_then(Value::as_array);
    all.map_or(&[], Vec::as_slice)
}

/// The rule for requests that meet exactly `matches`; without any, the first that takes all.
fn position(rules: &[Value], matches: &[(String, String)]) -> Option<usize> {
    rules.iter().position(|rule| {
        let written = rule.get("matches").and_then(Value::as_array);
        match written.map(Vec::as_slice) {
            None | Some([]) => matches.is_empty(),
            Some([only]) if matches.is_empty() => takes_all(only),
            Some([only]) => {
                let fields = only.as_object();
                let others = fields
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| *name != "headers");
                let mut others =
                    others.filter(|(name, value)| !(*name == "path" && is_root(value)));
                others.next().is_none() && same(only.get("headers"), matches)
            }
            Some(_) => false,
        }
    })
}

fn takes_all(condition: &Value) -> bool {
    let fields = condition.as_object();
    fields.is_some_and(|fields| {
        let mut all = fields.iter();
        all.all(|(name, value)| name == "path" && is_root(value))
    })
}

/// Every path begins so.
fn is_root(path: &Value) -> bool {
    ["", "PathPrefix"].contains(&text(path, "/type")) && ["", "/"].contains(&text(path, "/value"))
}

fn headers(matches: &[(String, String)]) -> Value {
    let all = matches
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value }));
    all.collect()
}

/// Whether `written` asks for exactly these headers.
fn same(written: Option<&Value>, matches: &[(String, String)]) -> bool {
    let written = written.and_then(Value::as_array);
    let written = written.map_or(&[][..], Vec::as_slice);
    written.len() == matches.len()
        && written.iter().all(|header| {
            let exact = ["", "Exact"].contains(&text(header, "/type"));
            let (own, value) = (text(header, "/name"), text(header, "/value"));
            let mut wanted = matches.iter();
            exact && wanted.any(|(name, wanted)| own.eq_ignore_ascii_case(name) && value == wanted)
        })
}

/// Whether a backend of a route of namespace `own` is `service`.
fn is(backend: &Value, own: &str, service: &Service) -> bool {
    let namespace = match text(backend, "/namespace") {
        "" => own,
        other => other,
    };
    ["", "Service"].contains(&text(backend, "/kind"))
        && text(backend, "/group").is_empty()
        && (text(backend, "/name"), namespace) == (&*service.name, &*service.namespace)
}

fn version_of<'v>(
    backend: &Value,
    own: &str,
    versions: &'v BTreeMap<String, &Service>,
) -> Option<&'v String> {
    let mut all = versions.iter();
    let (version, _) = all.find(|(_, service)| is(backend, own, service))?;
    Some(version)
}

fn weights(
    rule: &Value,
    route: &Value,
    versions: &BTreeMap<String, &Service>,
) -> Vec<(String, u32)> {
    let own = text(route, "/metadata/namespace");
    let all = backends(rule).iter().filter_map(|backend| {
        let version = version_of(backend, own, versions)?;
        // The API's default.
        let weight = backend.get("weight").map_or(Some(1), Value::as_u64)?;
        Some((version.clone(), u32::try_from(weight).ok()?))
    });
    all.collect()
}

/// A backend for a version that had none.
fn new_backend(
    service: &Service,
    version: &str,
    versions: &BTreeMap<String, &Service>,
    (old, own): (&[Value], &str),
    route: &str,
) -> Result<Value, Problem> {
    let Some(to) = versions.get(version) else {
        let labels = service
            .selector
            .iter()
            .map(|(label, value)| format!("{label}: {value}, "));
        let labels: String = labels.collect();
        return Err(refused(
            format!(
                "no Service stands for version {version} of {}, and {route} splits by Services",
                short(service)
            ),
            &format!("apply one with selector {{{labels}version: {version}}}"),
        ));
    };
    let used = old
        .iter()
        .find_map(|to| u16::try_from(to.get("port")?.as_u64()?).ok());
    let known = |port: u16| to.ports.iter().any(|own| own.port == port);
    let port = match (used.filter(|port| known(*port)), to.ports.as_slice()) {
        (Some(port), _) => port,
        (None, [only]) => only.port,
        (None, _) => {
            return Err(refused(
                format!("Service {} has several ports", short(to)),
                &format!("write it among backendRefs of {route} with the port that is meant"),
            ));
        }
    };
    let mut backend = json!({ "name": to.name, "port": port });
    if let (true, Some(fields)) = (to.namespace != own, backend.as_object_mut()) {
        fields.insert("namespace".to_owned(), json!(to.namespace));
    }
    Ok(backend)
}

fn refused(message: String, hint: &str) -> Problem {
    Problem::new(Reason::Invalid, message).hint(hint.to_owned())
}

fn short(service: &Service) -> String {
    format!("{}.{}", service.name, service.namespace)
}

/// `HTTPRoute NAMESPACE/NAME`.
fn name(route: &Value) -> String {
    let part = |at: &str| text(route, at).to_owned();
    format!(
        "{} {}/{}",
        part("/kind"),
        part("/metadata/namespace"),
        part("/metadata/name")
    )
}
