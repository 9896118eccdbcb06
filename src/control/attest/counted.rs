//! Who runs in the cluster, counted: a pod that comes or goes is one more or one less.
//!
//! Pods of one Deployment say the same of themselves, so most that come and go change nothing of what is
//! published.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::{Pair, Workload};
use crate::mesh::Instance;
use crate::mesh::shared_map::SharedMap;

/// What runs in the cluster, by a label of it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::control) struct Running {
    by_label: SharedMap<Arc<Pair>, SharedMap<Arc<Workload>, ()>>,
}

/// The same, with how many instances say so of themselves.
#[derive(Debug, Default)]
pub(in crate::control) struct Counted {
    running: Running,
    /// By namespace.
    counts: BTreeMap<(String, Arc<Workload>), usize>,
}

impl Running {
    /// Workloads that carry the label.
    pub(super) fn with(&self, pair: &Pair) -> impl Iterator<Item = &Arc<Workload>> {
        let found = self.by_label.get(pair);
        found.into_iter().flat_map(SharedMap::keys)
    }
}

impl Counted {
    /// What runs now.
    pub(in crate::control) fn running(&self) -> &Running {
        &self.running
    }

    /// Notes that an instance which was `before` is `after` now; gives whether that says anything new.
    pub(in crate::control) fn moved(
        &mut self,
        before: Option<&Instance>,
        after: Option<&Instance>,
    ) -> bool {
        if let (Some(before), Some(after)) = (before, after)
            && (&before.namespace, &before.labels, &before.service_account)
                == (&after.namespace, &after.labels, &after.service_account)
        {
            return false;
        }
        let came = after.is_some_and(|after| self.add(after));
        let went = before.is_some_and(|before| self.remove(before));
        came || went
    }

    fn add(&mut self, instance: &Instance) -> bool {
        let (namespace, workload) = said(instance);
        match self.counts.entry((namespace, workload)) {
            Entry::Occupied(mut count) => {
                *count.get_mut() += 1;
                false
            }
            Entry::Vacant(free) => {
                let (namespace, workload) = free.key();
                for pair in workload.pairs(namespace) {
                    let known = self.running.by_label.get(&pair);
                    let mut known = known.cloned().unwrap_or_default();
                    known.insert(Arc::clone(workload), ());
                    self.running.by_label.insert(Arc::new(pair), known);
                }
                free.insert(1);
                true
            }
        }
    }

    fn remove(&mut self, instance: &Instance) -> bool {
        let Entry::Occupied(mut count) = self.counts.entry(said(instance)) else {
            return false;
        };
        if *count.get() > 1 {
            *count.get_mut() -= 1;
            return false;
        }
        let ((namespace, workload), _) = count.remove_entry();
        for pair in workload.pairs(&namespace) {
            let Some(mut known) = self.running.by_label.get(&pair).cloned() else {
                continue;
            };
            known.remove(&workload);
            if known.is_empty() {
                self.running.by_label.remove(&pair);
            } else {
                self.running.by_label.insert(Arc::new(pair), known);
            }
        }
        true
    }
}

fn said(instance: &Instance) -> (String, Arc<Workload>) {
    let workload = Workload {
        account: instance.service_account.clone(),
        labels: instance.labels.clone(),
    };
    (instance.namespace.clone(), Arc::new(workload))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn instance(namespace: u8, app: u8, account: u8) -> Instance {
        let json = serde_json::json!({
            "name": "x", "namespace": format!("ns-{namespace}"), "workload": "w",
            "serviceAccount": format!("a-{account}"), "address": "192.0.2.1", "health": "healthy",
            "labels": {"app": format!("app-{app}"), "tier": "t"},
        });
        serde_json::from_value(json).unwrap()
    }

    /// What is said, in plain words.
    fn told(running: &Running) -> Vec<(Pair, Vec<Workload>)> {
        let all = running.by_label.iter();
        all.map(|(pair, known)| {
            let workloads = known.keys().map(|own| Workload::clone(own));
            (Pair::clone(pair), workloads.collect())
        })
        .collect()
    }

    proptest! {
        #[test]
        fn what_was_counted_is_what_is_there(
            moves in proptest::collection::vec(
                (0..6_usize, proptest::option::of((0..2_u8, 0..3_u8, 0..2_u8))), 0..60,
            ),
        ) {
            let mut there: [Option<Instance>; 6] = Default::default();
            let mut counted = Counted::default();
            for (which, to) in moves {
                let after = to.map(|(namespace, app, account)| instance(namespace, app, account));
                let was = told(counted.running());
                let new = counted.moved(there[which].as_ref(), after.as_ref());
                there[which] = after;
                let mut anew = Counted::default();
                for own in there.iter().flatten() {
                    anew.moved(None, Some(own));
                }
                let now = told(counted.running());
                prop_assert_eq!(&now, &told(anew.running()));
                prop_assert!(new || was == now, "it says that nothing is new");
            }
        }
    }
}
