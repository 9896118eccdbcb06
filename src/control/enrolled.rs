//! Who is registered, by what is asked of it: its name, its addresses, the end of its term.
//!
//! A mesh has hundreds of thousands of instances, and one of them registers: nothing here looks at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::mesh::Instance;

use super::known::Registered;

/// Namespace and name.
type Key = (String, String);

/// Registered instances.
#[derive(Debug, Default)]
pub(super) struct Enrolled {
    by_key: BTreeMap<Key, Registered>,
    by_address: BTreeMap<IpAddr, BTreeSet<Key>>,
    /// When to look whether a term has ended; not before it has, but it may have been renewed since.
    due: BTreeSet<(u64, Key)>,
}

impl Enrolled {
    pub(super) fn get(&self, key: &Key) -> Option<&Registered> {
        self.by_key.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Registered)> {
        self.by_key.iter()
    }

    /// Adds or renews an instance.
    pub(super) fn insert(&mut self, registered: Registered) {
        let key = registered.key();
        self.remove(&key);
        for address in addresses(&registered.instance) {
            let at = self.by_address.entry(address).or_default();
            at.insert(key.clone());
        }
        if registered.ttl_seconds > 0 {
            self.due.insert((registered.expires_unix_ms(), key.clone()));
        }
        self.by_key.insert(key, registered);
    }

    /// Changes what is known of an instance, but neither where it is nor how long its term is.
    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Registered> {
        self.by_key.get_mut(key)
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(registered) = self.by_key.remove(key) else {
            return;
        };
        for address in addresses(&registered.instance) {
            if let Some(at) = self.by_address.get_mut(&address) {
                at.remove(key);
                if at.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
    }

    /// Those whose term has ended.
    pub(super) fn ended(&mut self, now_unix_ms: u64) -> BTreeSet<Key> {
        let mut ended = BTreeSet::new();
        let mut renewed = BTreeSet::new();
        while let Some((at, key)) = self.due.pop_first() {
            if at >= now_unix_ms {
                self.due.insert((at, key));
                break;
            }
            let expires = self.by_key.get(&key).map_or(0, Registered::expires_unix_ms);
            if expires >= now_unix_ms {
                renewed.insert((expires, key));
            } else if expires > 0 {
                // Until it is taken out, which can fail, it is due.
                renewed.insert((expires, key.clone()));
                ended.insert(key);
            }
        }
        self.due.extend(renewed);
        ended
    }

    /// Another instance that is reached at one of the sockets of `instance`.
    pub(super) fn at_the_same_place(&self, instance: &Instance) -> Option<&Instance> {
        let near = addresses(instance);
        let near = near
            .iter()
            .filter_map(|at| self.by_address.get(at))
            .flatten();
        let others = near.filter_map(|key| self.by_key.get(key));
        others
            .map(|registered| &*registered.instance)
            .filter(|other| {
                (&other.namespace, &other.name) != (&instance.namespace, &instance.name)
            })
            .find(|other| {
                if instance.ports.is_empty() || other.ports.is_empty() {
                    instance.address == other.address
                } else {
                    let taken = |socket| other.ports.values().any(|own| own == socket);
                    instance.ports.values().any(taken)
                }
            })
    }
}

/// Every address that peers connect to.
fn addresses(instance: &Instance) -> BTreeSet<IpAddr> {
    let sockets = instance.ports.values().map(SocketAddr::ip);
    let own = std::iter::once(&instance.address).chain(&instance.also_at);
    sockets.chain(own.copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn registered(name: &str, address: &str, ttl_seconds: u32) -> Registered {
        let json = serde_json::json!({
            "name": name, "namespace": "default", "workload": "w", "serviceAccount": "w",
            "labels": {}, "address": address, "health": "healthy",
        });
        let instance: Instance = serde_json::from_value(json).unwrap();
        Registered {
            instance: Arc::new(instance),
            ttl_seconds,
            seen_unix_ms: 0,
        }
    }

    fn key(name: &str) -> Key {
        ("default".to_owned(), name.to_owned())
    }

    #[test]
    fn a_term_ends_unless_it_was_renewed() {
        let mut all = Enrolled::default();
        all.insert(registered("a", "192.0.2.1", 1));
        all.insert(registered("b", "192.0.2.2", 1));
        all.insert(registered("for-ever", "192.0.2.3", 0));
        assert!(all.ended(1000).is_empty());
        all.get_mut(&key("b")).unwrap().seen_unix_ms = 500;
        assert!(all.ended(1001).into_iter().eq([key("a")]));
        // It is still there: taking it out did not succeed.
        assert!(all.ended(1002).into_iter().eq([key("a")]));
        all.remove(&key("a"));
        assert!(all.ended(1500).is_empty());
        assert!(all.ended(1501).into_iter().eq([key("b")]));
        all.remove(&key("b"));
        assert!(all.ended(u64::MAX).is_empty());
    }

    #[test]
    fn whoever_moves_leaves_its_address_to_others() {
        let mut all = Enrolled::default();
        all.insert(registered("a", "192.0.2.1", 0));
        let other = registered("b", "192.0.2.1", 0).instance;
        assert_eq!(all.at_the_same_place(&other).unwrap().name, "a");
        let own = registered("a", "192.0.2.1", 0).instance;
        assert!(all.at_the_same_place(&own).is_none());
        all.insert(registered("a", "192.0.2.2", 0));
        assert!(all.at_the_same_place(&other).is_none());
        assert!(all.get(&key("a")).is_some());
    }
}
