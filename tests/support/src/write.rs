//! Writing: create, update, and the four kinds of patches, with subresources.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::patch::{self, apply, lists::Place};
use crate::path::Ask;
use crate::read::shown;
use crate::server::{Server, key_of};
use crate::status::{Answer, Refusal};
use crate::store::Key;
use crate::{prepare, table};

/// A body with what the headers say of it.
#[derive(Debug)]
pub struct Body {
    /// Parsed.
    pub value: Value,
    /// `Content-Type`, without parameters.
    pub media: String,
    /// The start of the `User-Agent`.
    pub agent: String,
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
    pub fn create(&self, kind: &Kind, ask: &Ask, body: &Body) -> Answer<Value> {
        let mut object = body.value.clone();
        prepare::create(kind, &mut object, &ask.namespace, &self.timestamp())?;
        let place = Place::top(kind.custom.as_ref());
        apply::track(
            &json!({}),
            &mut object,
            &self.writer(kind, ask, body),
            place,
        );
        if ask.query("dryRun").is_some() {
            return Ok(object);
        }
        self.insert(kind, object).map(|o| shown(kind, &o))
    }

    /// PUT.
    pub fn update(&self, kind: &Kind, ask: &Ask, body: &Body) -> Answer<Value> {
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
    }

    /// PATCH; the media type says which.
    pub fn patch(&self, kind: &Kind, ask: &Ask, body: &Body) -> Answer<(Value, bool)> {
        if body.media == "application/apply-patch+yaml" {
            return self.apply(kind, ask, body);
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
                    patch::strategic::merge(&mut target, &body.value, Place::top(None)).map_err(Refusal::bad)?;
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
        })?;
        Ok((changed, false))
    }

    fn apply(&self, kind: &Kind, ask: &Ask, body: &Body) -> Answer<(Value, bool)> {
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
        let place = Place::top(kind.custom.as_ref());
        let key = key(kind, ask);
        if self.state().store.get(&key).is_none() {
            if !ask.subresource.is_empty() {
                return Err(Refusal::not_found(&kind.plural, &kind.group, &ask.name));
            }
            let mut object = body.value.clone();
            object["metadata"]["name"] = ask.name.clone().into();
            let mut made = apply::apply(&json!({"metadata": {}}), &object, &writer, true, place)?;
            prepare::create(kind, &mut made, &ask.namespace, &self.timestamp())?;
            if ask.query("dryRun").is_some() {
                return Ok((made, true));
            }
            return self.insert(kind, made).map(|o| (shown(kind, &o), true));
        }
        let force = ask.flag("force");
        let changed = self.write(kind, ask, |old| {
            let live = shown(kind, old);
            let mut new = apply::apply(&live, &body.value, &writer, force, place)?;
            prepare::update(kind, old, &mut new, &ask.subresource)?;
            Ok(new)
        })?;
        Ok((changed, false))
    }

    /// Any change but apply: prepared, and its fields tracked.
    fn change(
        &self,
        kind: &Kind,
        ask: &Ask,
        body: &Body,
        make: impl Fn(&Value) -> Answer<Value>,
    ) -> Answer<Value> {
        let writer = self.writer(kind, ask, body);
        let place = Place::top(kind.custom.as_ref());
        let stored = self.write(kind, ask, |old| {
            let mut new = make(old)?;
            let sub = if ask.subresource == "status" {
                "status"
            } else {
                ""
            };
            prepare::update(kind, old, &mut new, sub)?;
            apply::track(old, &mut new, &writer, place);
            Ok(new)
        })?;
        Ok(if ask.subresource == "scale" {
            scale_of(kind, &stored)
        } else {
            stored
        })
    }

    fn write(
        &self,
        kind: &Kind,
        ask: &Ask,
        make: impl Fn(&Value) -> Answer<Value>,
    ) -> Answer<Value> {
        let key = key(kind, ask);
        for _ in 0..TRIES {
            let Some(old) = self.state().store.get(&key) else {
                return Err(Refusal::not_found(&kind.plural, &kind.group, &ask.name));
            };
            let new = make(&old)?;
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
