//! The workload that a pod belongs to, by name.

use serde_json::Value;

/// The name of the workload around `template`, or that of the pod's controller: of a Deployment rather
/// than of its ReplicaSet, of a CronJob rather than of its Job.
pub(super) fn workload(template: &Value, given: &str) -> String {
    if !given.is_empty() {
        return given.to_owned();
    }
    let text = |value: &Value, field: &str| {
        let text = value.get(field).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let metadata = template.get("metadata").unwrap_or(&Value::Null);
    let owners = metadata.get("ownerReferences").and_then(Value::as_array);
    let owner = owners
        .into_iter()
        .flatten()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    if let Some(owner) = owner {
        let (kind, name) = (text(owner, "kind"), text(owner, "name"));
        return match kind.as_str() {
            "ReplicaSet" => without_hash(metadata, &name),
            "Job" => without_time(&name),
            _ => name,
        };
    }
    match text(metadata, "name") {
        name if name.is_empty() => {
            let name = text(metadata, "generateName");
            name.trim_end_matches('-').to_owned()
        }
        name => name,
    }
}

/// `web-5d4f8c` is of Deployment (or Rollout) `web`, where the pod carries that hash.
fn without_hash(metadata: &Value, name: &str) -> String {
    let labels = metadata.get("labels").unwrap_or(&Value::Null);
    let hash = ["pod-template-hash", "rollouts-pod-template-hash"]
        .iter()
        .find_map(|label| labels.get(*label)?.as_str());
    let bare = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    bare.unwrap_or(name).to_owned()
}

/// `sum-29012345` is of CronJob `sum`: the minute it was due.
fn without_time(name: &str) -> String {
    match name.rsplit_once('-') {
        Some((bare, time))
            if !bare.is_empty()
                && (8..=10).contains(&time.len())
                && time.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            bare.to_owned()
        }
        _ => name.to_owned(),
    }
}
