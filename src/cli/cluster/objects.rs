//! Configuration of a mesh in a cluster: its objects are the API server's, and are changed with the rights of who
//! asks, as kubectl does it. What a change means is asked of the control plane first.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::diff::{DiffReport, DiffRequest};
use crate::api::resources::{
    ApplyReport, ApplyRequest, Convergence, ObjectOutcome, Outcome, ResourceReport, Written,
};
use crate::api::{Problem, Reason};
use crate::cli::client::{Client, path};
use crate::cli::error::CliError;
use crate::mesh::{Finding, Severity};
use crate::resource::json::set;
use crate::resource::{self, Key, Object, Running};
use crate::source::kubernetes::cluster::{Cluster, ClusterError};
use crate::source::kubernetes::reach::Followed;

use super::Mesh;

/// What was done, and what stopped the rest of it.
pub(crate) struct Done {
    pub(crate) report: ApplyReport,
    pub(crate) stopped: Option<CliError>,
}

/// Where kinds are at an API server.
pub(super) struct Paths<'a> {
    cluster: &'a Cluster,
    /// By `apiVersion` and kind: the plural, and whether it lives in a namespace.
    known: BTreeMap<(String, String), (String, bool)>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        Self {
            cluster,
            known: BTreeMap::new(),
        }
    }

    fn root(api_version: &str) -> String {
        let root = if api_version.contains('/') {
            "apis"
        } else {
            "api"
        };
        format!("/{root}/{api_version}")
    }

    /// The path of an object, and whether its kind lives in a namespace.
    async fn of(
        &mut self,
        api_version: &str,
        kind: &str,
        (namespace, name): (&str, &str),
    ) -> Result<(String, bool), ClusterError> {
        let asked = (api_version.to_owned(), kind.to_owned());
        if !self.known.contains_key(&asked) {
            let found = self.cluster.get_path(&Self::root(api_version)).await?;
            let resources = found.as_ref().and_then(|list| list["resources"].as_array());
            let is_it = |one: &&Value| {
                one["kind"] == kind && one["name"].as_str().is_some_and(|n| !n.contains('/'))
            };
            let one = resources.into_iter().flatten().find(is_it);
            let plural = one.and_then(|one| one["name"].as_str());
            let (Some(one), Some(plural)) = (one, plural) else {
                return Err(ClusterError::Refused {
                    code: 404,
                    message: format!("the cluster has no kind {kind} of {api_version}"),
                });
            };
            let place = (plural.to_owned(), one["namespaced"] == true);
            self.known.insert(asked.clone(), place);
        }
        let (plural, namespaced) = self.known.get(&asked).cloned().unwrap_or_default();
        let mut path = Self::root(api_version);
        if namespaced && !namespace.is_empty() {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push_str(&format!("/{plural}"));
        if !name.is_empty() {
            path.push_str(&format!("/{name}"));
        }
        Ok((path, namespaced))
    }

    /// The `apiVersion` that the cluster prefers for a kind that is followed.
    async fn version(&self, kind: &Followed) -> Result<String, ClusterError> {
        if kind.group.is_empty() {
            return Ok("v1".to_owned());
        }
        let group = self
            .cluster
            .get_path(&format!("/apis/{}", kind.group))
            .await?;
        let preferred = group
            .as_ref()
            .and_then(|group| group.pointer("/preferredVersion/groupVersion")?.as_str());
        preferred
            .map(str::to_owned)
            .ok_or_else(|| ClusterError::Refused {
                code: 404,
                message: format!("the cluster has no kinds of {}", kind.group),
            })
    }
}

/// In words, as an answer.
pub(super) fn failed(what: &str, error: &ClusterError) -> CliError {
    let message = format!("{what}: {error}");
    CliError::Problem(match error {
        ClusterError::Forbidden(_) => Problem::new(Reason::Denied, message).hint(
            "the ClusterRoles view and edit of Kubernetes have in them what the mesh is configured by; `kubectl auth can-i` says what you may",
        ),
        ClusterError::Conflict(_) => Problem::new(Reason::Conflict, message).hint(
            "somebody else keeps these fields; change them there, or take them over with `kubectl apply --server-side --force-conflicts`",
        ),
        ClusterError::Refused { code: 404, .. } => Problem::new(Reason::NotFound, message),
        _ => Problem::new(Reason::Invalid, message),
    })
}

/// Whether fields that are in the way are those that the control plane wrote for `canary set`: what is applied
/// anew goes before that, as it does on one machine.
fn is_own_conflict(message: &str) -> bool {
    let mut named = message.split('"').skip(1).step_by(2);
    let managers: Vec<&str> = named.by_ref().collect();
    let about = message.contains("conflict");
    about && !managers.is_empty() && managers.iter().all(|name| *name == "meshctl")
}

async fn put(
    cluster: &Cluster,
    path: &str,
    object: &Value,
    only_try: bool,
) -> Result<Value, ClusterError> {
    match cluster.apply_at(path, object, only_try, false).await {
        Err(ClusterError::Conflict(message)) if is_own_conflict(&message) => {
            cluster.apply_at(path, object, only_try, true).await
        }
        result => result,
    }
}

/// What the control plane says of a change; an error when it would be refused.
pub(super) async fn judged(
    request: &ApplyRequest,
    client: &Client,
) -> Result<Vec<Finding>, CliError> {
    let asked = DiffRequest {
        sources: request.sources.clone(),
        namespace: request.namespace.clone(),
        revision: None,
    };
    let diff: DiffReport = client.post(&path(&["diff"], &[]), &asked).await?;
    let stops = |finding: &&Finding| {
        let code = resource::codes::find(&finding.code);
        let forced = request.force && code.is_some_and(|code| code.forced);
        finding.severity == Severity::Error && !forced
    };
    let errors = diff.findings.iter().filter(stops).count();
    if errors == 0 {
        return Ok(diff.findings);
    }
    let noun = if errors == 1 { "error" } else { "errors" };
    let mut problem = Problem::new(
        Reason::Invalid,
        format!("{errors} {noun}; nothing was applied"),
    );
    problem.findings = diff.findings;
    Err(CliError::Problem(problem))
}

/// Applies manifests: all are tried first, so that one that is refused stops all.
pub(crate) async fn apply(
    mesh: &Mesh,
    request: &ApplyRequest,
    client: &Client,
) -> Result<Done, CliError> {
    let findings = judged(request, client).await?;
    let cluster = mesh.connect().await?;
    let mut paths = Paths::new(&cluster);
    let mut all: Vec<(Key, String, Value, bool)> = Vec::new();
    for source in &request.sources {
        let (objects, _) = resource::parse(&source.text, &source.name, &request.namespace);
        for object in objects {
            let key = object.key();
            let (path, raw) = prepared(&mut paths, &object, &request.namespace)
                .await
                .map_err(|error| failed(&key.to_string(), &error))?;
            let followed = Followed::of(&key.kind).is_some() && !Running::keeps(&key.kind);
            all.push((key, path, raw, followed));
        }
    }
    let mut report = ApplyReport {
        revision: 0,
        objects: Vec::new(),
        findings,
        convergence: Convergence::default(),
    };
    let made: Vec<String> = all
        .iter()
        .filter(|(key, ..)| key.kind == "Namespace")
        .map(|(key, ..)| key.name.clone())
        .collect();
    let mut before = Vec::new();
    for (key, path, raw, _) in &all {
        let there = cluster.get_path(path).await;
        let there = there.map_err(|error| failed(&key.to_string(), &error))?;
        // What is in a namespace that is yet to be made cannot be tried.
        let untried = there.is_none() && made.contains(&key.namespace);
        let mut outcome = Outcome::Created;
        if !untried {
            let tried = put(&cluster, path, raw, true).await;
            let tried = tried.map_err(|error| failed(&key.to_string(), &error))?;
            outcome = match &there {
                None => Outcome::Created,
                Some(there) if same(there, &tried) => Outcome::Unchanged,
                Some(_) => Outcome::Configured,
            };
        }
        before.push(outcome);
    }
    let mut written = Vec::new();
    let mut stopped = None;
    for ((key, path, raw, followed), outcome) in all.iter().zip(before) {
        if !request.dry_run && outcome != Outcome::Unchanged {
            match put(&cluster, path, raw, false).await {
                Ok(now) if *followed => written.push(of(key, Some(&now))),
                Ok(_) => {}
                Err(error) => {
                    stopped = Some(failed(&key.to_string(), &error));
                    break;
                }
            }
        }
        report.objects.push(ObjectOutcome {
            kind: key.kind.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            outcome,
        });
    }
    let stopped = match stopped {
        Some(error) if report.objects.is_empty() => return Err(error),
        stopped => stopped,
    };
    report.convergence = taken(mesh, &written).await?;
    Ok(Done { report, stopped })
}

/// An object's path, and the object with its namespace.
pub(super) async fn prepared(
    paths: &mut Paths<'_>,
    object: &Object,
    namespace: &str,
) -> Result<(String, Value), ClusterError> {
    let key = object.key();
    let mut raw = object.raw.clone();
    let kind = raw.get("kind").and_then(Value::as_str);
    let kind = kind.unwrap_or(&key.kind).to_owned();
    let inside = if key.namespace.is_empty() {
        namespace
    } else {
        &key.namespace
    };
    let at = (inside, key.name.as_str());
    let (path, namespaced) = paths.of(&object.api_version, &kind, at).await?;
    if let Some(metadata) = raw.get_mut("metadata") {
        if namespaced {
            set(metadata, "namespace", inside);
        }
        // Server-side apply does not take what only the server says.
        for key in [
            "managedFields",
            "resourceVersion",
            "uid",
            "creationTimestamp",
            "generation",
        ] {
            if let Value::Object(fields) = metadata {
                fields.remove(key);
            }
        }
    }
    if let Value::Object(fields) = &mut raw {
        fields.remove("status");
    }
    Ok((path, raw))
}

/// Whether two states of an object differ in what people write.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            for key in ["managedFields", "resourceVersion", "generation"] {
                metadata.remove(key);
            }
        }
        object
    };
    bare(a) == bare(b)
}

pub(super) fn of(key: &Key, object: Option<&Value>) -> Written {
    let version = object.and_then(|object| object.pointer("/metadata/resourceVersion")?.as_str());
    Written {
        kind: key.kind.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        resource_version: version.map(str::to_owned),
    }
}

/// How the proxies of all replicas took it.
pub(super) async fn taken(mesh: &Mesh, written: &[Written]) -> Result<Convergence, CliError> {
    if written.is_empty() {
        return Ok(Convergence::default());
    }
    let written: Vec<Value> = written.iter().map(|one| json!(one)).collect();
    let sum = mesh.taken(&written).await?;
    serde_json::from_value(sum).map_err(|error| CliError::Answer {
        request: "POST /convergence".to_owned(),
        reason: error.to_string(),
    })
}

/// The kind as it is filed, and how it is followed.
pub(super) fn kind_of(typed: &str) -> Result<(&'static str, Followed), CliError> {
    let filed = resource::kind_named(typed).ok_or_else(|| {
        CliError::Problem(
            Problem::new(
                Reason::Invalid,
                format!("{typed:?} is not a kind that the mesh reads"),
            )
            .hint(format!("one of {}", resource::kinds().join(", "))),
        )
    })?;
    let followed = Followed::of(filed).ok_or_else(|| {
        CliError::Problem(
            Problem::new(
                Reason::Invalid,
                format!("{filed} is not followed in clusters"),
            )
            .hint("kubectl has it"),
        )
    })?;
    Ok((filed, followed))
}

/// Objects as the API server has them.
pub(crate) async fn get(
    mesh: &Mesh,
    kind: &str,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Vec<ResourceReport>, CliError> {
    let (filed, followed) = kind_of(kind)?;
    let cluster = mesh.connect().await?;
    let wrong = |error: ClusterError| failed(&format!("cannot get {filed}"), &error);
    let mut paths = Paths::new(&cluster);
    let version = paths.version(&followed).await.map_err(wrong)?;
    let namespace = namespace.filter(|_| resource::namespaced(filed));
    let at = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let (path, _) = paths.of(&version, followed.kind, at).await.map_err(wrong)?;
    let found = cluster.get_path(&path).await.map_err(wrong)?;
    let objects = match (found, name) {
        (None, _) => Vec::new(),
        (Some(one), Some(_)) => vec![one],
        (Some(mut list), None) => match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
    };
    let text = |object: &Value, pointer: &str| {
        let text = object.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let moment = |text: &str| {
        let at = text.parse::<jiff::Timestamp>().ok();
        at.and_then(|at| u64::try_from(at.as_millisecond()).ok())
            .unwrap_or_default()
    };
    Ok(objects
        .into_iter()
        .map(|mut object| {
            set(&mut object, "apiVersion", version.as_str());
            set(&mut object, "kind", followed.kind);
            let created = moment(&text(&object, "/metadata/creationTimestamp"));
            let ledger = object
                .pointer_mut("/metadata")
                .and_then(|metadata| metadata.as_object_mut()?.remove("managedFields"));
            let ledger = ledger.as_ref().and_then(Value::as_array);
            let changed = ledger.into_iter().flatten();
            let changed = changed.filter_map(|entry| Some(moment(entry.get("time")?.as_str()?)));
            ResourceReport {
                kind: filed.to_owned(),
                namespace: text(&object, "/metadata/namespace"),
                name: text(&object, "/metadata/name"),
                created_unix_ms: created,
                changed_unix_ms: changed.max().unwrap_or(created),
                revision: object
                    .pointer("/metadata/generation")
                    .and_then(Value::as_u64)
                    .unwrap_or_default(),
                object,
            }
        })
        .collect())
}

/// Removes an object.
pub(crate) async fn delete(
    mesh: &Mesh,
    kind: &str,
    namespace: &str,
    name: &str,
) -> Result<ApplyReport, CliError> {
    let (filed, followed) = kind_of(kind)?;
    let cluster = mesh.connect().await?;
    let namespace = if resource::namespaced(filed) {
        namespace
    } else {
        ""
    };
    let key = Key {
        kind: filed.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let wrong = |error: ClusterError| failed(&format!("cannot delete {key}"), &error);
    let mut paths = Paths::new(&cluster);
    let version = paths.version(&followed).await.map_err(wrong)?;
    let at = (namespace, name);
    let (path, _) = paths.of(&version, followed.kind, at).await.map_err(wrong)?;
    if !cluster.delete_at(&path).await.map_err(wrong)? {
        let problem = Problem::new(Reason::NotFound, format!("there is no {key}"));
        return Err(CliError::Problem(problem));
    }
    let written: Vec<Written> = if Running::keeps(filed) {
        Vec::new()
    } else {
        vec![of(&key, None)]
    };
    Ok(ApplyReport {
        revision: 0,
        objects: vec![ObjectOutcome {
            kind: key.kind.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            outcome: Outcome::Deleted,
        }],
        findings: Vec::new(),
        convergence: taken(mesh, &written).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_fields_are_taken_over() {
        for (message, own) in [
            (
                r#"Apply failed with 1 conflict: conflict with "meshctl" using networking.istio.io/v1: .spec.http"#,
                true,
            ),
            (
                r#"Apply failed with 1 conflict: conflict with "flux": .spec.http"#,
                false,
            ),
            (
                r#"Apply failed with 2 conflicts: conflicts with "meshctl": .spec.http conflicts with "argocd": .spec.hosts"#,
                false,
            ),
            ("the object has been modified", false),
        ] {
            assert_eq!(is_own_conflict(message), own, "{message}");
        }
    }
}
