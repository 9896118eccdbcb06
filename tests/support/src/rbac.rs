//! Who may do what: Roles and their bindings, read from the store at every request.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::auth::User;
use crate::path::Ask;
use crate::status::Refusal;
use crate::store::{Key, Store};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Whether a user may; `system:masters` always may.
pub fn allows(store: &Store, user: &User, ask: &Ask) -> bool {
    if user.groups.iter().any(|g| g == "system:masters") || is_public(ask) {
        return true;
    }
    rules(store, user, &ask.namespace)
        .iter()
        .any(|rule| covers(rule, ask))
}

/// What everybody may, as the default bindings `system:discovery`, `system:basic-user` and
/// `system:public-info-viewer` say.
fn is_public(ask: &Ask) -> bool {
    if !ask.resource.is_empty() {
        return ask.verb == "create"
            && matches!(
                ask.resource.as_str(),
                "selfsubjectaccessreviews" | "selfsubjectrulesreviews" | "selfsubjectreviews"
            );
    }
    let path = ask.path.as_str();
    [
        "/api", "/apis", "/openapi", "/healthz", "/livez", "/readyz", "/version",
    ]
    .iter()
    .any(|p| path == *p || path.strip_prefix(p).is_some_and(|r| r.starts_with('/')))
}

/// All rules that hold for a user in a namespace; an empty one means cluster-wide only.
pub fn rules(store: &Store, user: &User, namespace: &str) -> Vec<Value> {
    let mut rules = Vec::new();
    let cluster = format!("clusterrolebindings.{GROUP}");
    let local = format!("rolebindings.{GROUP}");
    let mut bindings: Vec<Arc<Value>> = store.list(&cluster, "").map(|(_, b)| b.clone()).collect();
    if !namespace.is_empty() {
        bindings.extend(store.list(&local, namespace).map(|(_, b)| b.clone()));
    }
    for binding in bindings {
        let subjects = binding["subjects"].as_array();
        if !subjects.into_iter().flatten().any(|s| is_subject(s, user)) {
            continue;
        }
        let role = &binding["roleRef"];
        let name = role["name"].as_str().unwrap_or_default();
        let key = if role["kind"] == "ClusterRole" {
            key("clusterroles", "", name)
        } else {
            key("roles", namespace, name)
        };
        if let Some(role) = store.get(&key) {
            rules.extend(role["rules"].as_array().cloned().unwrap_or_default());
            rules.extend(aggregated(store, &role));
        }
    }
    rules
}

fn key(plural: &str, namespace: &str, name: &str) -> Key {
    Key {
        resource: format!("{plural}.{GROUP}"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// Rules of the roles that an aggregating role selects.
fn aggregated(store: &Store, role: &Value) -> Vec<Value> {
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array();
    let resource = format!("clusterroles.{GROUP}");
    let mut rules = Vec::new();
    for selector in selectors.into_iter().flatten() {
        let select = crate::select::Select::of_object(selector);
        for (_, other) in store.list(&resource, "").filter(|(_, r)| select.takes(r)) {
            rules.extend(other["rules"].as_array().cloned().unwrap_or_default());
        }
    }
    rules
}

fn is_subject(subject: &Value, user: &User) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str().unwrap_or_default() {
        "User" => name == user.name,
        "Group" => user.groups.iter().any(|g| g == name),
        "ServiceAccount" => {
            let namespace = subject["namespace"].as_str().unwrap_or_default();
            user.name == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

fn has(list: &Value, wanted: &str) -> bool {
    list.as_array()
        .into_iter()
        .flatten()
        .any(|v| v == "*" || v == wanted)
}

fn covers(rule: &Value, ask: &Ask) -> bool {
    if !has(&rule["verbs"], &ask.verb) {
        return false;
    }
    if ask.resource.is_empty() {
        return rule["nonResourceURLs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|url| match url.strip_suffix('*') {
                Some(prefix) => ask.path.starts_with(prefix),
                None => ask.path == url,
            });
    }
    if !has(&rule["apiGroups"], &ask.group) {
        return false;
    }
    let full = full_resource(ask);
    let resource = has(&rule["resources"], &full)
        || (!ask.subresource.is_empty()
            && rule["resources"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|r| r.as_str() == Some(&format!("*/{}", ask.subresource))));
    let names = rule["resourceNames"].as_array().filter(|n| !n.is_empty());
    resource && names.is_none_or(|n| n.iter().any(|n| n == ask.name.as_str()))
}

fn full_resource(ask: &Ask) -> String {
    if ask.subresource.is_empty() {
        ask.resource.clone()
    } else {
        format!("{}/{}", ask.resource, ask.subresource)
    }
}

/// The 403, in kube-apiserver's words.
pub fn refusal(user: &User, ask: &Ask) -> Refusal {
    if ask.resource.is_empty() {
        return Refusal::new(
            403,
            "Forbidden",
            format!(
                "forbidden: User \"{}\" cannot {} path \"{}\"",
                user.name, ask.verb, ask.path
            ),
        );
    }
    let object = if ask.name.is_empty() {
        crate::kinds::key(&ask.resource, &ask.group)
    } else {
        format!(
            "{} \"{}\"",
            crate::kinds::key(&ask.resource, &ask.group),
            ask.name
        )
    };
    let place = if ask.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", ask.namespace)
    };
    Refusal::new(
        403,
        "Forbidden",
        format!(
            "{object} is forbidden: User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
            user.name,
            ask.verb,
            full_resource(ask),
            ask.group
        ),
    )
    .of(&ask.resource, &ask.group, &ask.name)
}

/// Answers the reviews about access: fills the status of the review that was asked.
pub fn review(store: &Store, user: &User, ask: &Ask, review: &Value) -> Value {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let spec = &review["spec"];
    let mut answer = review.clone();
    if ask.resource == "selfsubjectrulesreviews" {
        let all = rules(store, user, &text(&spec["namespace"]));
        let (paths, mut resources): (Vec<Value>, Vec<Value>) = all
            .into_iter()
            .partition(|r| r["nonResourceURLs"].is_array());
        if user.groups.iter().any(|g| g == "system:masters") {
            resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        }
        answer["status"] =
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
        return answer;
    }
    let of = &spec["resourceAttributes"];
    let wanted = if of.is_object() {
        Ask {
            verb: text(&of["verb"]),
            group: text(&of["group"]),
            version: text(&of["version"]),
            resource: text(&of["resource"]),
            subresource: text(&of["subresource"]),
            namespace: text(&of["namespace"]),
            name: text(&of["name"]),
            ..Ask::default()
        }
    } else {
        let of = &spec["nonResourceAttributes"];
        Ask {
            verb: text(&of["verb"]),
            path: text(&of["path"]),
            ..Ask::default()
        }
    };
    let subject = if ask.resource == "selfsubjectaccessreviews" {
        user.clone()
    } else {
        let groups: Vec<&str> = spec["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut subject = User::new(&text(&spec["user"]), &[]);
        subject.groups = groups.iter().map(|g| (*g).to_owned()).collect();
        subject
    };
    answer["status"] = if allows(store, &subject, &wanted) {
        json!({"allowed": true, "reason": "RBAC: allowed by its bindings"})
    } else {
        json!({"allowed": false})
    };
    answer
}
