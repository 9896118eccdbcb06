//! Writing: create, update, and the four kinds of patches, with subresources.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::admission::Asked;
use crate::auth::User;
use crate::kinds::Kind;
use crate::patch::{self, apply, lists::Place};
use crate::path::Ask;
use crate::read::shown;
use crate::server::{Server, key_of};
use crate::status::{Answer, Refusal};
use crate::store::Key;
use crate::{prepare, table, validation};

/// A body with what the headers say of it.
#[derive(Debug)]
pub struct Body {
    /// Parsed.
    pub value: Value,
    /// `Content-Type`, without parameters.
    pub media: String,
    /// The start of the `User-Agent`.
    pub agent: String,
    /// Who asks.
    pub user: User,
    /// Sent along with the answer.
    pub warnings: Mutex<Vec<String>>,
}

impl Body {
    /// A body in JSON.
    pub fn json(value: Value, agent: &str, user: User) -> Self {
        Self {
            value,
            media: "application/json".into(),
            agent: agent.to_owned(),
            user,
            warnings: Mutex::default(),
        }
    }

    /// Keeps warnings for the answer.
    pub fn warn(&self, more: impl Iterator<Item = String>) {
        let mut kept = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in more {
            if !kept.contains(&warning) {
                kept.push(warning);
            }
        }
    }
}

/// How often a patch is tried again when others write in between.
const TRIES: usize = 5;

impl Server {
    fn writer(&self, kind: &Kind, ask: &Ask, body: &Body) -> apply::Writer {
        apply::Writer {
            manager: ask.query("fieldManager").unwrap_or(&body.agent).to_owned(),
            api_version: kind.api_version(),
            subresource: ask.subresource.clone(),
            now: self.timestamp(),
        }
    }

    /// POST.
    pub async fn create(&self, kind: &Kind, ask: &Ask, body: &Body) -> Answer<Value> {
        let mut object = body.value.clone();
        prepare::receive(kind, &mut object, &ask.namespace)?;
        let place = Place::of(kind);
        apply::track(
            &json!({}),
            &mut object,
            &self.writer(kind, ask, body),
            place,
        );
        let made = self.admit_new(kind, ask, body, object).await?;
        if ask.query("dryRun").is_some() {
            return Ok(made);
        }
        self.insert(kind, made).map(|o| shown(kind, &o))
    }

    /// A received object through admission, whole.
    async fn admit_new(&self, kind: &Kind, ask: &Ask, body: &Body, object: Value) -> Answer<Value> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let name = name.to_owned();
        if kind.namespaced {
            let key = key_of(kind, &object);
            self.state().check_namespace(kind, &key)?;
        }
        let options = options("CreateOptions", ask);
        let asked = Asked {
            kind,
            operation: "CREATE",
            subresource: "",
            // A namespace is told of as if it were in itself.
            namespace: if kind.key() == "namespaces" {
                &name
            } else {
                &ask.namespace
            },
            name: &name,
            body,
            dry: ask.query("dryRun").is_some(),
            options: &options,
        };
        let object = self.mutate(&asked, Some(object), None).await?;
        let mut object = object.unwrap_or_default();
        prepare::complete(kind, &mut object, &self.timestamp())?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let asked = Asked { name, ..asked };
        self.validate(&asked, Some(&object), None).await?;
        Ok(object)
    }

    /// PUT.
    pub async fn update(&self, kind: &Kind, ask: &Ask, body: &Body) -> Answer<Value> {
        let sent = body.value["metadata"]["name"].as_str().unwrap_or_default();
        if sent != ask.name {
            return Err(Refusal::bad(format!(
                "the name of the object ({sent}) does not match the name on the URL ({})",
                ask.name
            )));
        }
        self.change(kind, ask, body, |old| {
            if ask.subresource == "scale" {
                return scaled(kind, old, &body.value);
            }
            Ok(body.value.clone())
        })
        .await
    }

    /// PATCH; the media type says which.
    pub async fn patch(&self, kind: &Kind, ask: &Ask, body: &Body) -> Answer<(Value, bool)> {
        if body.media == "application/apply-patch+yaml" {
            return self.apply(kind, ask, body).await;
        }
        let changed = self.change(kind, ask, body, |old| {
            let mut target = if ask.subresource == "scale" {
                scale_of(kind, old)
            } else {
                shown(kind, old)
            };
            match body.media.as_str() {
                "application/json-patch+json" => patch::json::apply(&mut target, &body.value)
                    .map_err(|e| Refusal::new(422, "Invalid", format!("the server rejected our request due to an error in our request: {e}")))?,
                "application/merge-patch+json" => patch::merge(&mut target, &body.value),
                "application/strategic-merge-patch+json" if kind.custom.is_none() => {
                    patch::strategic::merge(&mut target, &body.value, Place::of(kind)).map_err(Refusal::bad)?;
                }
                other => {
                    let kinds = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
                    return Err(Refusal::new(415, "UnsupportedMediaType", format!(
                        "the body of the request was in an unknown format - accepted media types include: {kinds} (got {other})")));
                }
            }
            if ask.subresource == "scale" {
                return scaled(kind, old, &target);
            }
            Ok(target)
        })
        .await?;
        Ok((changed, false))
    }

    async fn apply(&self, kind: &Kind, ask: &Ask, body: &Body) -> Answer<(Value, bool)> {
        let Some(manager) = ask.query("fieldManager") else {
            return Err(Refusal::bad(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        };
        if body.value["metadata"]["managedFields"]
            .as_array()
            .is_some_and(|m| !m.is_empty())
        {
            return Err(Refusal::bad("metadata.managedFields must be nil"));
        }
        let writer = apply::Writer {
            manager: manager.to_owned(),
            ..self.writer(kind, ask, body)
        };
        let place = Place::of(kind);
        let key = key(kind, ask);
        if self.state().store.get(&key).is_none() {
            if !ask.subresource.is_empty() {
                return Err(Refusal::not_found(&kind.plural, &kind.group, &ask.name));
            }
            let mut object = body.value.clone();
            object["metadata"]["name"] = ask.name.clone().into();
            let mut made = apply::apply(&json!({"metadata": {}}), &object, &writer, true, place)?;
            prepare::receive(kind, &mut made, &ask.namespace)?;
            let made = self.admit_new(kind, ask, body, made).await?;
            if ask.query("dryRun").is_some() {
                return Ok((made, true));
            }
            return self.insert(kind, made).map(|o| (shown(kind, &o), true));
        }
        let force = ask.flag("force");
        let changed = self
            .write(kind, ask, body, |old| {
                let live = shown(kind, old);
                let mut new = apply::apply(&live, &body.value, &writer, force, place)?;
                prepare::update(kind, old, &mut new, &ask.subresource)?;
                Ok(new)
            })
            .await?;
        Ok((changed, false))
    }

    /// Any change but apply: prepared, and its fields tracked.
    async fn change(
        &self,
        kind: &Kind,
        ask: &Ask,
        body: &Body,
        make: impl Fn(&Value) -> Answer<Value> + Send + Sync,
    ) -> Answer<Value> {
        let writer = self.writer(kind, ask, body);
        let place = Place::of(kind);
        let stored = self
            .write(kind, ask, body, |old| {
                let mut new = make(old)?;
                if ask.subresource != "scale" {
                    validation::object(kind, ask, body, &new)?;
                }
                let sub = if ask.subresource == "status" {
                    "status"
                } else {
                    ""
                };
                prepare::update(kind, old, &mut new, sub)?;
                apply::track(old, &mut new, &writer, place);
                Ok(new)
            })
            .await?;
        Ok(if ask.subresource == "scale" {
            scale_of(kind, &stored)
        } else {
            stored
        })
    }

    async fn write(
        &self,
        kind: &Kind,
        ask: &Ask,
        body: &Body,
        make: impl Fn(&Value) -> Answer<Value> + Send + Sync,
    ) -> Answer<Value> {
        let key = key(kind, ask);
        for _ in 0..TRIES {
            let Some(old) = self.state().store.get(&key) else {
                return Err(Refusal::not_found(&kind.plural, &kind.group, &ask.name));
            };
            let new = make(&old)?;
            let new = self.admit_changed(kind, ask, body, new, &old).await?;
            if ask.query("dryRun").is_some() {
                return Ok(new);
            }
            if prepare::is_same(&old, &new) {
                return Ok(shown(kind, &old));
            }
            let mut state = self.state();
            let unchanged = state.store.get(&key).is_some_and(|o| Arc::ptr_eq(&o, &old));
            if !unchanged {
                continue;
            }
            let stored = state.store.put(key, new);
            let now = self.timestamp();
            state.updated(kind, &stored, &now);
            return Ok(shown(kind, &stored));
        }
        Err(Refusal::conflict(&kind.plural, &kind.group, &ask.name))
    }

    /// A changed object through admission.
    async fn admit_changed(
        &self,
        kind: &Kind,
        ask: &Ask,
        body: &Body,
        new: Value,
        old: &Value,
    ) -> Answer<Value> {
        let options = match body.media.as_str() {
            "application/json" | "application/yaml" => options("UpdateOptions", ask),
            _ => options("PatchOptions", ask),
        };
        let asked = Asked {
            kind,
            operation: "UPDATE",
            subresource: &ask.subresource,
            namespace: &ask.namespace,
            name: &ask.name,
            body,
            dry: ask.query("dryRun").is_some(),
            options: &options,
        };
        let old = shown(kind, old);
        if ask.subresource == "scale" {
            // Whoever looks at a scale sees the scale, and may only say yes or no.
            let (new_scale, old_scale) = (scale_of(kind, &new), scale_of(kind, &old));
            self.validate(&asked, Some(&new_scale), Some(&old_scale))
                .await?;
            return Ok(new);
        }
        let before = new.clone();
        let new = self.mutate(&asked, Some(new), Some(&old)).await?;
        let mut new = new.unwrap_or_default();
        if new != before {
            let sub = if ask.subresource == "status" {
                "status"
            } else {
                ""
            };
            prepare::update(kind, &old, &mut new, sub)?;
        }
        self.validate(&asked, Some(&new), Some(&old)).await?;
        Ok(new)
    }

    /// DELETE of one object: asked about, then done.
    pub async fn dismiss(
        &self,
        kind: &Kind,
        key: &Key,
        body: &Body,
        options: &Value,
        dry: bool,
    ) -> Answer<(Arc<Value>, bool)> {
        let Some(old) = self.state().store.get(key) else {
            return Err(Refusal::not_found(&kind.plural, &kind.group, &key.name));
        };
        let old = shown(kind, &old);
        let asked = Asked {
            kind,
            operation: "DELETE",
            subresource: "",
            namespace: if kind.key() == "namespaces" {
                &key.name
            } else {
                &key.namespace
            },
            name: &key.name,
            body,
            dry,
            options,
        };
        self.mutate(&asked, None, Some(&old)).await?;
        self.validate(&asked, None, Some(&old)).await?;
        self.delete(kind, key, options, dry)
    }
}

/// What a request of this kind asked beside its body.
fn options(kind: &str, ask: &Ask) -> Value {
    let mut options = json!({"apiVersion": "meta.k8s.io/v1", "kind": kind});
    for field in ["fieldManager", "fieldValidation"] {
        if let Some(value) = ask.query(field) {
            options[field] = value.into();
        }
    }
    if let Some(dry) = ask.query("dryRun") {
        options["dryRun"] = json!([dry]);
    }
    options
}

fn key(kind: &Kind, ask: &Ask) -> Key {
    key_of(
        kind,
        &json!({"metadata": {"namespace": ask.namespace, "name": ask.name}}),
    )
}

/// `autoscaling/v1.Scale` of an object.
pub fn scale_of(kind: &Kind, object: &Value) -> Value {
    let Some(scale) = &kind.scale else {
        return Value::Null;
    };
    let count = |path: &str| {
        table::walk(object, path)
            .and_then(Value::as_i64)
            .unwrap_or(0)
    };
    let mut metadata = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        metadata[field] = object["metadata"][field].clone();
    }
    let mut status = json!({"replicas": count(&scale.status)});
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    if let Some(path) = &scale.selector {
        status["selector"] = table::walk(object, path).cloned().unwrap_or_default();
    } else if let Some(labels) = labels {
        let pairs: Vec<String> = labels
            .iter()
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect();
        status["selector"] = pairs.join(",").into();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": count(&scale.spec)}, "status": status,
    })
}

/// The object with the replicas that a scale asks for.
fn scaled(kind: &Kind, old: &Value, scale: &Value) -> Answer<Value> {
    let path = kind.scale.as_ref().map_or("", |s| s.spec.as_str());
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    let version = scale["metadata"]["resourceVersion"].as_str();
    if version.is_some_and(|v| !v.is_empty() && old["metadata"]["resourceVersion"] != v) {
        let name = old["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Refusal::conflict(&kind.plural, &kind.group, name));
    }
    let mut new = shown(kind, old);
    let mut slot = &mut new;
    for part in path.split('.').filter(|p| !p.is_empty()) {
        slot = &mut slot[part];
    }
    *slot = replicas.into();
    Ok(new)
}
