//! What the server makes of an object before it stores it: stamps, defaults, and what a writer may not touch.

use serde_json::{Map, Value, json};

use crate::check;
use crate::defaults::default;
use crate::kinds::Kind;
use crate::server::uuid;
use crate::status::{Answer, Cause, Refusal};

/// A new object as it was received: of the right type, in the right place, without what only the server says, and
/// with its defaults. It may have no name yet.
pub fn receive(kind: &Kind, object: &mut Value, namespace: &str) -> Answer<()> {
    check_type(kind, object)?;
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    place(kind, object, namespace)?;
    for name in [
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
    ] {
        set(&mut object["metadata"], name, None);
    }
    default(kind, object, "");
    Ok(())
}

/// A received object, made whole after admission: its name, its stamps, no status of others.
pub fn complete(kind: &Kind, object: &mut Value, now: &str) -> Answer<()> {
    let generate = text(&object["metadata"]["generateName"]).to_owned();
    let mut name = text(&object["metadata"]["name"]).to_owned();
    if name.is_empty() && !generate.is_empty() {
        let letters: Vec<char> = "bcdfghjklmnpqrstvwxz2456789".chars().collect();
        let end: String = (0..5).filter_map(|_| fastrand::choice(&letters)).collect();
        let start: String = generate.chars().take(58).collect();
        name = format!("{start}{end}");
    }
    if name.is_empty() {
        let cause = Cause {
            message: "Required value: name or generateName is required".into(),
            ..Cause::required("metadata.name")
        };
        return Err(Refusal::invalid(&kind.kind, &kind.group, "", &[cause]));
    }
    check_name(kind, &name)?;
    let Some(metadata) = object["metadata"].as_object_mut() else {
        return Err(Refusal::bad("metadata is no object"));
    };
    metadata.insert("name".into(), name.into());
    metadata.insert("uid".into(), uuid().into());
    metadata.insert("creationTimestamp".into(), now.into());
    if has_generation(kind) {
        metadata.insert("generation".into(), 1.into());
    }
    if kind.status
        && let Some(object) = object.as_object_mut()
    {
        object.shift_remove("status");
    }
    default(kind, object, now);
    check::create(kind, object)
}

/// A new object of the cluster itself.
pub fn create(kind: &Kind, object: &mut Value, namespace: &str, now: &str) -> Answer<()> {
    receive(kind, object, namespace)?;
    complete(kind, object, now)
}

/// Written over `old`; `sub` is the subresource.
pub fn update(kind: &Kind, old: &Value, new: &mut Value, sub: &str) -> Answer<()> {
    check_type(kind, new)?;
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    if !new["metadata"].is_object() {
        new["metadata"] = json!({});
    }
    let wanted = &new["metadata"]["resourceVersion"];
    if wanted.as_str().is_some_and(|v| !v.is_empty())
        && *wanted != old["metadata"]["resourceVersion"]
    {
        return Err(Refusal::conflict(&kind.plural, &kind.group, name));
    }
    let uid = &new["metadata"]["uid"];
    if uid.as_str().is_some_and(|u| !u.is_empty()) && *uid != old["metadata"]["uid"] {
        return Err(Refusal::new(409, "Conflict", format!(
            "Operation cannot be fulfilled on {} \"{name}\": StorageError: invalid object, Code: 4, Key: {name}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {}, UID in object meta: {}",
            kind.key(), text(uid), text(&old["metadata"]["uid"])))
            .of(&kind.plural, &kind.group, name));
    }
    if sub == "status" {
        // Of the metadata only what concerns ownership is taken from a write of the status.
        let status = new.get("status").cloned();
        let fields = new["metadata"]["managedFields"].clone();
        let mut kept = old.clone();
        set(&mut kept, "status", status);
        if fields.is_array() {
            kept["metadata"]["managedFields"] = fields;
        }
        kept["apiVersion"] = new["apiVersion"].clone();
        *new = kept;
        default(kind, new, "");
        return check::create(kind, new);
    }
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "generation",
        "name",
        "namespace",
        "generateName",
    ] {
        let value = old["metadata"].get(field).cloned();
        set(&mut new["metadata"], field, value);
    }
    if kind.status {
        set(new, "status", old.get("status").cloned());
    }
    if kind.key() == "services" {
        // What was allocated stays.
        for field in ["clusterIP", "clusterIPs", "ipFamilies"] {
            if new["spec"][field].is_null() && new["spec"]["type"] != "ExternalName" {
                let value = old["spec"].get(field).cloned();
                set(&mut new["spec"], field, value);
            }
        }
    }
    default(kind, new, "");
    immutable(kind, old, new)?;
    check::create(kind, new)?;
    if has_generation(kind) && content(old) != content(new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
        new["metadata"]["generation"] = (generation + 1).into();
    }
    Ok(())
}

fn set(object: &mut Value, field: &str, value: Option<Value>) {
    if let Some(object) = object.as_object_mut() {
        match value {
            Some(value) => {
                object.insert(field.into(), value);
            }
            None => {
                object.shift_remove(field);
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// All but metadata and status.
fn content(object: &Value) -> Map<String, Value> {
    let mut content = object.as_object().cloned().unwrap_or_default();
    for field in ["metadata", "status", "apiVersion", "kind"] {
        content.shift_remove(field);
    }
    content
}

/// Whether two objects differ in anything but the stamps of a write.
pub fn is_same(old: &Value, new: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        set(&mut object["metadata"], "resourceVersion", None);
        if let Some(entries) = object["metadata"]
            .get_mut("managedFields")
            .and_then(Value::as_array_mut)
        {
            for entry in entries {
                set(entry, "time", None);
            }
        }
        object
    };
    bare(old) == bare(new)
}

fn has_generation(kind: &Kind) -> bool {
    kind.custom.is_some()
        || matches!(
            kind.group.as_str(),
            "apps"
                | "batch"
                | "policy"
                | "networking.k8s.io"
                | "admissionregistration.k8s.io"
                | "apiextensions.k8s.io"
                | "autoscaling"
        )
        || kind.plural == "pods"
}

fn check_type(kind: &Kind, object: &Value) -> Answer<()> {
    if !object.is_object() {
        return Err(Refusal::bad("the body of the request is no object"));
    }
    if object["kind"] != kind.kind.as_str() || object["apiVersion"] != kind.api_version() {
        return Err(Refusal::bad(format!(
            "the API version in the data ({}, Kind={}) does not match the expected API version ({}, Kind={})",
            text(&object["apiVersion"]),
            text(&object["kind"]),
            kind.api_version(),
            kind.kind
        )));
    }
    Ok(())
}

fn place(kind: &Kind, object: &mut Value, namespace: &str) -> Answer<()> {
    if !kind.namespaced {
        set(&mut object["metadata"], "namespace", None);
        return Ok(());
    }
    match object["metadata"]["namespace"].as_str() {
        Some(own) if !own.is_empty() && own != namespace => Err(Refusal::bad(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({own} != {namespace})"
        ))),
        _ => {
            object["metadata"]["namespace"] = namespace.into();
            Ok(())
        }
    }
}

/// DNS-1123 subdomains; services and namespaces are labels; roles may be paths' segments.
fn check_name(kind: &Kind, name: &str) -> Answer<()> {
    let (ok, why) = match (kind.group.as_str(), kind.plural.as_str()) {
        ("rbac.authorization.k8s.io", _) => (
            !name.contains(['/', '%']) && name != "." && name != "..",
            "may not be '.', '..', or contain '/' or '%'",
        ),
        ("", "namespaces" | "services") => (
            name.len() <= 63 && is_label(name),
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
        ),
        _ => (
            name.len() <= 253 && name.split('.').all(is_label),
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        ),
    };
    if ok {
        return Ok(());
    }
    let cause = Cause::invalid("metadata.name", &name.into(), why);
    Err(Refusal::invalid(&kind.kind, &kind.group, name, &[cause]))
}

fn is_label(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('-')
        && !part.ends_with('-')
        && part
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn immutable(kind: &Kind, old: &Value, new: &Value) -> Answer<()> {
    let paths: &[&str] = match kind.key().as_str() {
        "deployments.apps" | "replicasets.apps" | "daemonsets.apps" | "statefulsets.apps" => {
            &["/spec/selector"]
        }
        "rolebindings.rbac.authorization.k8s.io"
        | "clusterrolebindings.rbac.authorization.k8s.io" => &["/roleRef"],
        "secrets" => &["/type"],
        "jobs.batch" => &["/spec/selector", "/spec/template", "/spec/completions"],
        _ => &[],
    };
    for path in paths {
        if old.pointer(path) != new.pointer(path) {
            let value = new.pointer(path).unwrap_or(&Value::Null);
            let field = path.trim_start_matches('/').replace('/', ".");
            let cause = Cause::invalid(field, value, "field is immutable");
            return Err(Refusal::invalid(
                &kind.kind,
                &kind.group,
                text(&old["metadata"]["name"]),
                &[cause],
            ));
        }
    }
    if kind.key() == "pods" && fixed(old) != fixed(new) {
        let cause = Cause {
            field: "spec".into(),
            reason: "FieldValueForbidden",
            message: "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)".into(),
        };
        return Err(Refusal::invalid(
            &kind.kind,
            &kind.group,
            text(&old["metadata"]["name"]),
            &[cause],
        ));
    }
    if matches!(kind.plural.as_str(), "secrets" | "configmaps")
        && old["immutable"] == true
        && content(old) != content(new)
    {
        let cause = Cause {
            field: "data".into(),
            reason: "FieldValueForbidden",
            message: "Forbidden: field is immutable when `immutable` is set".into(),
        };
        return Err(Refusal::invalid(
            &kind.kind,
            &kind.group,
            text(&old["metadata"]["name"]),
            &[cause],
        ));
    }
    Ok(())
}

/// What of a pod may not change.
fn fixed(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        set(&mut spec, field, None);
    }
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            set(container, "image", None);
        }
    }
    spec
}
