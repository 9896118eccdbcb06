//! What became of people's objects, written back to them: the statuses of the Gateway API, and conditions of
//! what is wrong.
//!
//! A status is shared. Conditions that others wrote, and parents that other controllers serve, stay as they
//! are, and a condition that holds as before keeps the time since when. What would say the same is not
//! written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::denied::Denied;
use super::leader::{Leads, elected};
use super::standing::Standings;
use crate::control::Control;
use crate::resource::json::set;
use crate::resource::{CONTROLLER, Key};
use crate::rt::{Backoff, Tasks};
use crate::source::kubernetes::cluster::{Cluster, ClusterError};

/// What Gateways of the Gateway API are filed under.
const GATEWAY: &str = "Gateway.gateway.networking.k8s.io";
/// Changes of the world are gathered for so long: a status is for people.
const PAUSE: Duration = Duration::from_secs(1);
/// How often everything is looked at, where somebody may have changed a status.
const COMPARE: Duration = Duration::from_mins(1);
/// Waits before what was not written is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// An object, and what is to be said of it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::control) struct Told {
    /// As the cluster has it: with the version in which it is served there.
    pub(in crate::control) api_version: String,
    /// Which.
    pub(in crate::control) key: Key,
    /// Of which object of that name.
    pub(in crate::control) uid: String,
    /// The status.
    pub(in crate::control) status: Value,
}

/// Starts it; ends with `tasks`.
pub(super) fn start(
    control: &Arc<Control>,
    cluster: &Cluster,
    about: (Leads, watch::Receiver<Standings>),
    tasks: &Tasks,
) {
    tasks.spawn("status", run(Arc::clone(control), cluster.clone(), about));
}

/// What is to be said of everything now. Of a Gateway whose proxies are not known of yet it is said later.
async fn everything(control: &Control, standings: &Standings) -> Vec<Told> {
    let since = moment(control.wall.millis());
    let mut told = control.index.statuses(&since).await;
    let amiss = control.index.amiss().await;
    told.extend(control.index.said_of(&amiss, &since).await);
    let given = control.index.gateways().await;
    told.retain_mut(|told| {
        let key = (told.key.namespace.clone(), told.key.name.clone());
        if told.key.kind != GATEWAY || !given.iter().any(|asked| asked.key() == key) {
            return true;
        }
        let Some(standings) = standings else {
            return false;
        };
        if let Some(standing) = standings.get(&key) {
            standing.tell(&mut told.status);
        }
        true
    });
    told.extend(control.index.ingress_statuses().await);
    told
}

async fn run(
    control: Arc<Control>,
    cluster: Cluster,
    (mut leads, mut standings): (Leads, watch::Receiver<Standings>),
) {
    let mut worlds = control.index.reader().versions();
    let mut wrongs = control.index.wrongs.subscribe();
    let mut denied = Denied::default();
    loop {
        elected(&mut leads).await;
        // What was written while this replica leads; another may have written otherwise before.
        let mut written: BTreeMap<Key, (String, Value)> = BTreeMap::new();
        let mut compare = tokio::time::interval(COMPARE);
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        while *leads.borrow() {
            let stand = standings.borrow_and_update().clone();
            let told = everything(&control, &stand).await;
            let mut again = None;
            written.retain(|key, _| told.iter().any(|told| told.key == *key));
            for told in told {
                let mark = (told.uid.clone(), timeless(&told.status));
                if written.get(&told.key) == Some(&mark) || !*leads.borrow() {
                    continue;
                }
                let what = format!("statuses of {}", told.key.kind);
                match write(&cluster, &told).await {
                    Ok(()) => {
                        denied.may(&what);
                        written.insert(told.key, mark);
                    }
                    // Changed meanwhile: it comes again, as it is now.
                    Err(ClusterError::Conflict(_)) => {}
                    // Nobody would answer for the others either.
                    Err(error) if error.passes() => {
                        tracing::debug!(%error, key = ?told.key, "statuses are written later");
                        again = Some(backoff.next(fastrand::f64()));
                        break;
                    }
                    // Neither would be taken a moment later; all are tried again when all are compared.
                    Err(error) => {
                        if !denied.is(&what, &error) {
                            tracing::warn!(%error, key = ?told.key, "a status was not written");
                        }
                        written.insert(told.key, mark);
                    }
                }
            }
            if again.is_none() {
                backoff.reset();
            }
            tokio::select! {
                changed = worlds.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                changed = wrongs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                // Kept by who ends together with us.
                Ok(()) = standings.changed() => {}
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
                _ = compare.tick() => written.clear(),
                _ = leads.changed() => {}
            }
        }
    }
}

fn moment(millis: u64) -> String {
    let seconds = i64::try_from(millis / 1_000).unwrap_or_default();
    jiff::Timestamp::from_second(seconds)
        .unwrap_or_default()
        .to_string()
}

async fn write(cluster: &Cluster, told: &Told) -> Result<(), ClusterError> {
    // The kind's plain name: it is filed with its group where another has that name.
    let kind = told.key.kind.split('.').next().unwrap_or_default();
    let namespace = Some(told.key.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let path = (
        told.api_version.as_str(),
        kind,
        namespace,
        told.key.name.as_str(),
    );
    let Some(mut object) = cluster.get_custom(path).await? else {
        return Ok(());
    };
    if object.pointer("/metadata/uid").and_then(Value::as_str) != Some(told.uid.as_str()) {
        return Ok(());
    }
    let now = object.get("status").cloned().unwrap_or(json!({}));
    let next = merged(&now, &told.status);
    if timeless(&next) == timeless(&now) {
        return Ok(());
    }
    set(&mut object, "status", next);
    cluster.replace_status(path, &object).await.map(drop)
}

/// `now` with everything that `ours` says.
fn merged(now: &Value, ours: &Value) -> Value {
    let mut next = now.clone();
    if !next.is_object() {
        next = json!({});
    }
    let Value::Object(fields) = ours else {
        return next;
    };
    for (name, value) in fields {
        let before = now.get(name);
        // What is said no more goes.
        if value.is_null() {
            if let Value::Object(next) = &mut next {
                next.shift_remove(name);
            }
            continue;
        }
        let value = match name.as_str() {
            "conditions" => conditions(before, value),
            "listeners" => each(before, value, |a, b| a["name"] == b["name"], false),
            "parents" => each(before, value, of_one("parentRef"), true),
            "ancestors" => each(before, value, of_one("ancestorRef"), true),
            _ => value.clone(),
        };
        set(&mut next, name, value);
    }
    next
}

/// Whether two entries are about the same parent, by the same controller.
fn of_one(reference: &'static str) -> impl Fn(&Value, &Value) -> bool {
    move |a, b| a["controllerName"] == b["controllerName"] && a[reference] == b[reference]
}

/// Entries of a list, each with its conditions merged. Those of other controllers stay, where there may be some.
fn each(
    before: Option<&Value>,
    ours: &Value,
    same: impl Fn(&Value, &Value) -> bool,
    shared: bool,
) -> Value {
    let before = before
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let ours = ours.as_array().map_or(&[][..], Vec::as_slice);
    let own = |entry: &&Value| entry["controllerName"] == CONTROLLER;
    let foreign = before.iter().filter(|entry| shared && !own(entry)).cloned();
    let mut next: Vec<Value> = foreign.collect();
    for entry in ours {
        let mut entry = entry.clone();
        let was = before.iter().find(|was| same(was, &entry));
        let now = conditions(
            was.and_then(|was| was.get("conditions")),
            entry.get("conditions").unwrap_or(&Value::Null),
        );
        set(&mut entry, "conditions", now);
        next.push(entry);
    }
    Value::Array(next)
}

/// Conditions by type: others' stay, and one that holds as before keeps its time.
fn conditions(before: Option<&Value>, ours: &Value) -> Value {
    let before = before
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let ours = ours.as_array().map_or(&[][..], Vec::as_slice);
    // One without a status is said no more.
    let said = |one: &&Value| one.get("status") != Some(&Value::Null);
    let is_ours = |was: &&Value| ours.iter().any(|one| one["type"] == was["type"]);
    let mut next: Vec<Value> = before.iter().filter(|was| !is_ours(was)).cloned().collect();
    for one in ours.iter().filter(said) {
        let mut one = one.clone();
        let was = before.iter().find(|was| was.get("type") == one.get("type"));
        if let Some(was) = was.filter(|was| was.get("status") == one.get("status"))
            && let Some(Value::String(since)) = was.get("lastTransitionTime")
        {
            set(&mut one, "lastTransitionTime", since.as_str());
        }
        next.push(one);
    }
    Value::Array(next)
}

/// A status without the times since when.
fn timeless(status: &Value) -> Value {
    match status {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| *name != "lastTransitionTime")
            .map(|(name, value)| (name.clone(), timeless(value)))
            .collect(),
        Value::Array(list) => list.iter().map(timeless).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &str, status: &str, at: &str) -> Value {
        json!({"type": kind, "status": status, "lastTransitionTime": at})
    }

    #[test]
    fn a_condition_that_holds_as_before_keeps_its_time_and_others_stay() {
        let now = json!({"conditions": [
            condition("Accepted", "True", "1"),
            condition("Programmed", "False", "1"),
            condition("Foreign", "True", "1"),
        ]});
        let ours = json!({"conditions": [
            condition("Accepted", "True", "2"),
            condition("Programmed", "True", "2"),
        ]});
        let next = merged(&now, &ours);
        assert_eq!(
            next["conditions"],
            json!([
                condition("Foreign", "True", "1"),
                condition("Accepted", "True", "1"),
                condition("Programmed", "True", "2"),
            ])
        );
        assert_eq!(merged(&next, &ours), next);
    }

    #[test]
    fn parents_of_other_controllers_stay_and_ours_that_are_gone_go() {
        let parent = |controller: &str, name: &str, at: &str| {
            json!({
                "controllerName": controller,
                "parentRef": {"name": name},
                "conditions": [condition("Accepted", "True", at)],
            })
        };
        let own = CONTROLLER;
        let now = json!({"parents": [
            parent("example.com/other", "a", "1"),
            parent(own, "a", "1"),
            parent(own, "b", "1"),
        ]});
        let ours = json!({"parents": [parent(own, "a", "2"), parent(own, "c", "2")]});
        let next = merged(&now, &ours);
        assert_eq!(
            next["parents"],
            json!([
                parent("example.com/other", "a", "1"),
                parent(own, "a", "1"),
                parent(own, "c", "2"),
            ])
        );
    }
}
