//! What a configuration has in common with the one before it.
//!
//! What people write is lowered all together, so nearly everything that comes out is equal to what was
//! there, but is not the same in memory. Here it becomes so, and whoever works from one configuration to
//! the next looks at what is not.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Hostname;
use super::destinations::Destinations;
use super::world::Config;

impl Config {
    /// The same configuration, sharing with `before` what is equal: `before` itself, where everything is.
    pub fn sharing(mut self, before: &Arc<Self>) -> Arc<Self> {
        values(&mut self.services, &before.services);
        values(&mut self.routes, &before.routes);
        values(&mut self.gateways, &before.gateways);
        values(&mut self.listening, &before.listening);
        values(&mut self.credentials, &before.credentials);
        values(&mut self.faults, &before.faults);
        values(&mut self.workloads, &before.workloads);
        list(&mut self.policies, &before.policies);
        list(&mut self.sidecars, &before.sidecars);
        for (gateway, bound) in &mut self.bound {
            list(bound, before.bound.get(gateway).map_or(&[], Vec::as_slice));
        }
        self.destinations.share(&before.destinations);
        if self == **before {
            Arc::clone(before)
        } else {
            Arc::new(self)
        }
    }

    /// The services that are not what they were in `before`, or are called in another way; `None`
    /// where anything may be, as something has changed that is not of single services.
    pub fn touched(&self, before: &Self) -> Option<BTreeSet<Hostname>> {
        if self.trust_domain != before.trust_domain
            || self.authentication != before.authentication
            || self.baseline != before.baseline
            || self.grpc != before.grpc
            || self.workloads != before.workloads
        {
            return None;
        }
        let services = differing(&self.services, &before.services);
        let mut touched: BTreeSet<Hostname> = services.into_iter().cloned().collect();
        for host in self.destinations.changed(&before.destinations) {
            if host.as_str().starts_with('*') {
                let all = self.services.keys();
                touched.extend(all.filter(|service| host.covers(service)).cloned());
            }
            // A wildcard may be the name of a service itself.
            touched.insert(host.clone());
        }
        Some(touched)
    }
}

impl Destinations {
    fn share(&mut self, before: &Self) {
        for (host, rules) in &mut self.by_host {
            list(rules, before.of(host));
        }
    }

    /// Hosts whose rules are not those of `before`.
    pub(super) fn changed<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Hostname> {
        let all = self.by_host.keys();
        let gone = before.by_host.keys();
        let gone = gone.filter(|host| !self.by_host.contains_key(*host));
        all.chain(gone)
            .filter(|host| !same_list(self.of(host), before.of(host)))
    }
}

/// The keys that do not have the same value in both, in order.
pub(super) fn differing<'a, K: Ord, V: PartialEq>(
    of: &'a BTreeMap<K, Arc<V>>,
    before: &'a BTreeMap<K, Arc<V>>,
) -> Vec<&'a K> {
    let mut differ = Vec::new();
    let (mut new, mut old) = (of.iter().peekable(), before.iter().peekable());
    loop {
        let order = match (new.peek(), old.peek()) {
            (Some((ours, _)), Some((theirs, _))) => ours.cmp(theirs),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return differ,
        };
        let ours = if order == Ordering::Greater {
            None
        } else {
            new.next()
        };
        let theirs = if order == Ordering::Less {
            None
        } else {
            old.next()
        };
        match (ours, theirs) {
            (Some((_, value)), Some((_, had))) if same(value, had) => {}
            (Some((key, _)), _) | (None, Some((key, _))) => differ.push(key),
            (None, None) => {}
        }
    }
}

fn same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

fn same_list<T: PartialEq>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
}

fn values<K: Ord, V: PartialEq>(own: &mut BTreeMap<K, Arc<V>>, before: &BTreeMap<K, Arc<V>>) {
    for (key, value) in own {
        if let Some(had) = before.get(key) {
            take(value, had);
        }
    }
}

fn list<T: PartialEq>(own: &mut [Arc<T>], before: &[Arc<T>]) {
    for (value, had) in own.iter_mut().zip(before) {
        take(value, had);
    }
}

fn take<T: PartialEq>(value: &mut Arc<T>, had: &Arc<T>) {
    if same(value, had) {
        *value = Arc::clone(had);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(of: &[(u8, u8)]) -> BTreeMap<u8, Arc<u8>> {
        of.iter()
            .map(|(key, value)| (*key, Arc::new(*value)))
            .collect()
    }

    #[test]
    fn what_is_equal_becomes_the_same_and_the_rest_is_told() {
        let before = map(&[(1, 1), (2, 2), (4, 4)]);
        let mut after = map(&[(2, 2), (3, 3), (4, 5)]);
        assert_eq!(differing(&after, &before), [&1, &3, &4]);
        assert_eq!(differing(&before, &after), [&1, &3, &4]);
        values(&mut after, &before);
        assert!(Arc::ptr_eq(&after[&2], &before[&2]));
        assert_eq!(after, map(&[(2, 2), (3, 3), (4, 5)]));
    }

    #[test]
    fn a_configuration_that_says_the_same_is_the_same() {
        let before = Arc::new(Config::default());
        assert!(Arc::ptr_eq(&Config::default().sharing(&before), &before));
        let other = Config {
            trust_domain: "other".to_owned(),
            ..Config::default()
        };
        assert_eq!(other.touched(&before), None);
        assert_eq!(before.touched(&before), Some(BTreeSet::new()));
        assert_eq!(other.sharing(&before).trust_domain, "other");
    }
}
