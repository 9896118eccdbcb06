//! Reading: one object, a page of a list, and a watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::faults::Interrupt;
use crate::kinds::Kind;
use crate::path::Ask;
use crate::select::Select;
use crate::server::{Server, key_of};
use crate::status::{Answer, Refusal};
use crate::store::{Change, Key};

/// An object in the version that was asked for.
pub fn shown(kind: &Kind, object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = kind.api_version().into();
    object
}

fn select(kind: &Kind, ask: &Ask) -> Answer<Select> {
    let select = Select::parse(
        ask.query("labelSelector").unwrap_or_default(),
        ask.query("fieldSelector").unwrap_or_default(),
    )?;
    if kind.custom.is_none() {
        select.check(&kind.kind)?;
    }
    Ok(select)
}

/// The name under which a kind's objects are kept.
fn resource(kind: &Kind) -> String {
    key_of(kind, &Value::Null).resource
}

impl Server {
    /// One object.
    pub fn get(&self, kind: &Kind, ask: &Ask) -> Answer<Value> {
        let key = Key {
            resource: resource(kind),
            namespace: if kind.namespaced {
                ask.namespace.clone()
            } else {
                String::new()
            },
            name: ask.name.clone(),
        };
        let object = self.state().store.get(&key);
        object
            .map(|o| shown(kind, &o))
            .ok_or_else(|| Refusal::not_found(&kind.plural, &kind.group, &ask.name))
    }

    /// A page: the items, and the list's metadata.
    pub fn list(&self, kind: &Kind, ask: &Ask) -> Answer<(Vec<Value>, Value)> {
        let select = select(kind, ask)?;
        let resource = resource(kind);
        let limit: usize = ask.query("limit").and_then(|l| l.parse().ok()).unwrap_or(0);
        let state = self.state();
        let store = &state.store;
        let mut revision = store.revision();
        let mut after = None;
        if let Some(token) = ask.query("continue") {
            let read = URL_SAFE_NO_PAD.decode(token).ok();
            let read: Option<Value> = read.and_then(|b| serde_json::from_slice(&b).ok());
            let read = read.ok_or_else(|| Refusal::bad("continue key is not valid"))?;
            revision = read["rv"].as_u64().unwrap_or_default();
            after = Some((read["ns"].clone(), read["name"].clone()));
            if revision < store.compacted() {
                return Err(Refusal::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
                ));
            }
        } else if let Some(wanted) = ask.query("resourceVersion").filter(|v| *v != "0") {
            let wanted = number(wanted)?;
            if wanted > revision {
                let mut refusal = Refusal::new(
                    504,
                    "Timeout",
                    format!("Too large resource version: {wanted}, current: {revision}"),
                );
                refusal.retry_after = Some(1);
                refusal.details["causes"] = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
                return Err(refusal);
            }
            if ask.query("resourceVersionMatch") == Some("Exact") {
                if wanted < store.compacted() {
                    return Err(Refusal::expired(format!(
                        "The resourceVersion for the provided list is too old: {wanted} ({})",
                        store.compacted()
                    )));
                }
                revision = wanted;
            }
        }
        let mut all: Vec<(Key, Arc<Value>)> = store.list_at(&resource, &ask.namespace, revision);
        all.retain(|(key, object)| {
            let past = after.as_ref().is_none_or(|(ns, name)| {
                (key.namespace.as_str(), key.name.as_str())
                    > (
                        ns.as_str().unwrap_or_default(),
                        name.as_str().unwrap_or_default(),
                    )
            });
            past && select.takes(object)
        });
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if limit > 0 && all.len() > limit {
            let rest = all.len() - limit;
            all.truncate(limit);
            if let Some((last, _)) = all.last() {
                let token = json!({"rv": revision, "ns": last.namespace, "name": last.name});
                metadata["continue"] = URL_SAFE_NO_PAD.encode(token.to_string()).into();
                metadata["remainingItemCount"] = rest.into();
            }
        }
        let items = all.iter().map(|(_, o)| shown(kind, o)).collect();
        Ok((items, metadata))
    }
}

/// A resource version as a number.
pub fn number(text: &str) -> Answer<u64> {
    text.parse().map_err(|_| {
        Refusal::bad(format!(
            "Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        ))
    })
}

/// A watch: lines to send, then more as changes come.
#[derive(Debug)]
pub struct Watch {
    server: Arc<Server>,
    kind: Arc<Kind>,
    namespace: String,
    select: Select,
    bookmarks: bool,
    revision: u64,
    ready: VecDeque<Value>,
    news: tokio::sync::watch::Receiver<u64>,
    interrupts: tokio::sync::watch::Receiver<Option<Interrupt>>,
    end: tokio::time::Instant,
    over: bool,
}

impl Watch {
    /// Begins; an old revision is refused as in lists.
    pub fn start(server: &Arc<Server>, kind: &Arc<Kind>, ask: &Ask) -> Answer<Self> {
        let mut select = select(kind, ask)?;
        if !ask.name.is_empty() {
            let field = format!("metadata.name={}", ask.name);
            select = Select::parse(ask.query("labelSelector").unwrap_or_default(), &field)?;
        }
        let seconds = ask
            .query("timeoutSeconds")
            .and_then(|t| t.parse().ok())
            .unwrap_or(1800);
        let state = server.state();
        let now = state.store.revision();
        let initial = ask.flag("sendInitialEvents");
        let from = match ask.query("resourceVersion") {
            Some("0") | None => None,
            Some(text) => Some(number(text)?),
        };
        let mut watch = Self {
            server: server.clone(),
            kind: kind.clone(),
            namespace: ask.namespace.clone(),
            select,
            bookmarks: ask.flag("allowWatchBookmarks"),
            revision: from.unwrap_or(now),
            ready: VecDeque::new(),
            news: state.store.news(),
            interrupts: server.interrupts(),
            end: tokio::time::Instant::now() + Duration::from_secs(seconds),
            over: false,
        };
        if initial || from.is_none() {
            let resource = resource(kind);
            for (_, object) in state.store.list(&resource, &ask.namespace) {
                if watch.select.takes(object) {
                    watch
                        .ready
                        .push_back(json!({"type": "ADDED", "object": shown(kind, object)}));
                }
            }
            watch.revision = now;
            if initial {
                let bookmark = watch.bookmark(true);
                watch.ready.push_back(bookmark);
            }
        } else if watch.revision < state.store.compacted() {
            let gone = Refusal::expired(format!(
                "too old resource version: {} ({})",
                watch.revision,
                state.store.compacted()
            ));
            watch
                .ready
                .push_back(json!({"type": "ERROR", "object": gone.body()}));
            watch.over = true;
        }
        drop(state);
        Ok(watch)
    }

    fn bookmark(&self, initial: bool) -> Value {
        let mut object = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": self.revision.to_string(), "creationTimestamp": null},
        });
        if initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        json!({"type": "BOOKMARK", "object": object})
    }

    /// What a change is to this watch: an object may come into or leave what is selected.
    fn event(&self, change: &Change) -> Option<Value> {
        let takes = |o: &Option<Arc<Value>>| o.as_ref().filter(|o| self.select.takes(o)).cloned();
        let (word, object) = match (takes(&change.before), takes(&change.after)) {
            (None, Some(new)) => ("ADDED", new),
            (Some(_), Some(new)) => ("MODIFIED", new),
            (Some(old), None) => ("DELETED", old),
            (None, None) => return None,
        };
        let mut object = shown(&self.kind, &object);
        if word == "DELETED" {
            object["metadata"]["resourceVersion"] = change.revision.to_string().into();
        }
        Some(json!({"type": word, "object": object}))
    }

    /// The next line, or nothing when the watch ends.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if self.over {
                return None;
            }
            let changes = {
                let state = self.server.state();
                let changes =
                    state
                        .store
                        .since(&resource(&self.kind), &self.namespace, self.revision);
                if changes.is_some() {
                    self.revision = state.store.revision();
                }
                changes
            };
            let Some(changes) = changes else {
                self.over = true;
                let gone = Refusal::expired(format!("too old resource version: {}", self.revision));
                return Some(json!({"type": "ERROR", "object": gone.body()}));
            };
            let events: Vec<Value> = changes.iter().filter_map(|c| self.event(c)).collect();
            if !events.is_empty() {
                self.ready.extend(events);
                continue;
            }
            let bell = tokio::time::Instant::now() + Duration::from_secs(10);
            tokio::select! {
                changed = self.news.changed() => changed.ok()?,
                changed = self.interrupts.changed() => {
                    changed.ok()?;
                    self.over = true;
                    let what = *self.interrupts.borrow_and_update();
                    match what {
                        Some(Interrupt::Gone) => {
                            let gone = Refusal::expired("too old resource version: 1 (2)");
                            self.ready.push_back(json!({"type": "ERROR", "object": gone.body()}));
                        }
                        Some(Interrupt::Mute) => std::future::pending().await,
                        Some(Interrupt::End) | None => {}
                    }
                }
                () = tokio::time::sleep_until(self.end) => { self.over = true; }
                () = tokio::time::sleep_until(bell), if self.bookmarks => {
                    return Some(self.bookmark(false));
                }
            }
        }
    }
}

/// A line of a watch.
pub fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}
