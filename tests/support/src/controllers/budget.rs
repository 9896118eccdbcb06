//! PodDisruptionBudgets: how many pods may go now.

use serde_json::{Value, json};

use super::pods::is_ready;
use super::{Work, count, is_going, text};
use crate::select::Select;
use crate::store::{Key, Store};

/// Its kind.
pub(super) const BUDGETS: &str = "poddisruptionbudgets.policy";

/// Whether a budget is about a pod.
fn takes(budget: &Value, pod: &Value) -> bool {
    Select::of_object(&budget["spec"]["selector"]).takes(pod)
}

/// A number or a share, of which a part counts as a whole pod.
fn share(value: &Value, all: i64) -> Option<i64> {
    match value {
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().ok()?;
            Some((all * percent + 99) / 100)
        }
        other => other.as_i64(),
    }
}

/// Takes one from every budget that is about a pod; false if one of them has none left.
pub fn spend(store: &mut Store, pod: &Value) -> bool {
    let namespace = text(&pod["metadata"]["namespace"]);
    let budgets: Vec<(Key, Value)> = store
        .list(BUDGETS, namespace)
        .filter(|(_, budget)| takes(budget, pod))
        .map(|(key, budget)| (key.clone(), Value::clone(budget)))
        .collect();
    // Who is not ready is no loss.
    if !is_ready(pod) {
        return true;
    }
    if budgets
        .iter()
        .any(|(_, b)| count(&b["status"]["disruptionsAllowed"]) <= 0)
    {
        return false;
    }
    for (key, mut budget) in budgets {
        let left = count(&budget["status"]["disruptionsAllowed"]) - 1;
        budget["status"]["disruptionsAllowed"] = left.into();
        store.put(key, budget);
    }
    true
}

impl Work {
    pub(super) fn budget(&self, at: &Key, budget: &Value) {
        if is_going(budget) {
            return;
        }
        let (all, healthy) = {
            let state = self.server.state();
            let pods = state.store.list("pods", &at.namespace);
            let pods: Vec<_> = pods
                .filter(|(_, p)| takes(budget, p) && !is_going(p))
                .map(|(_, p)| p.clone())
                .collect();
            let ready = pods.iter().filter(|p| is_ready(p)).count();
            (number(pods.len()), number(ready))
        };
        let spec = &budget["spec"];
        let wanted = match share(&spec["maxUnavailable"], all) {
            Some(most) => all - most,
            None => share(&spec["minAvailable"], all).unwrap_or(all),
        };
        let allowed = (healthy - wanted).max(0);
        let enough = allowed > 0;
        let now = self.server.timestamp();
        self.edit(at, |budget| {
            let mut status = json!({
                "observedGeneration": budget["metadata"]["generation"], "expectedPods": all,
                "currentHealthy": healthy, "desiredHealthy": wanted.max(0), "disruptionsAllowed": allowed,
                "conditions": budget["status"]["conditions"],
            });
            let reason = if enough { "SufficientPods" } else { "InsufficientPods" };
            super::condition(&mut status, "DisruptionAllowed", enough, reason, "", &now);
            budget["status"] = status;
        });
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
