//! Which of the rules for a service is in force for a caller: Istio's order of look-up.
//!
//! The caller's own namespace has the first word, then the service's, then the root of the mesh. In
//! each the nearest host wins, and of its rules one that is for the caller's workload.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::origination::Origination;
use super::world::{Destination, selects};
use super::{Hostname, Node};

/// Namespaces whose rules are for the whole mesh: ours, and Istio's default.
pub const ROOTS: [&str; 2] = ["meshctl-system", "istio-system"];

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Labels of its workload.
    pub labels: &'a BTreeMap<String, String>,
}

impl<'a> From<&'a Node> for Caller<'a> {
    fn from(node: &'a Node) -> Self {
        Self {
            namespace: &node.namespace,
            labels: &node.labels,
        }
    }
}

/// Every rule of how services are called.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Destinations {
    /// By host. Of one namespace those for some workloads come first, then the oldest.
    pub(super) by_host: BTreeMap<Hostname, Vec<Arc<Destination>>>,
    /// Those that need Secrets of callers.
    credentialed: Vec<Arc<Destination>>,
}

impl Destinations {
    /// Adds `destination` behind those that are there for `host`.
    pub fn add(&mut self, host: Hostname, destination: Destination) {
        let rules = self.by_host.entry(host).or_default();
        let destination = Arc::new(destination);
        let needs = |how: &Origination| how.secrets().next().is_some();
        if destination.originations().any(needs) {
            self.credentialed.push(Arc::clone(&destination));
        }
        rules.push(destination);
        rules.sort_by_key(|rule| rule.selector.is_empty());
    }

    /// The rules that are written for exactly `host`.
    pub fn of(&self, host: &Hostname) -> &[Arc<Destination>] {
        self.by_host
            .get(host)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Those that need Secrets of the caller's namespace: of gateways, and of workloads that they choose
    /// (Istio's rule).
    pub fn credentialed(&self) -> &[Arc<Destination>] {
        &self.credentialed
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.by_host.values().flatten()
    }

    /// Every rule that may be for `host`, the nearest host first.
    pub fn around<'a>(&'a self, host: &Hostname) -> impl Iterator<Item = &'a Arc<Destination>> {
        // `*.suffix` sorts before every letter, so only wildcards are looked at.
        let mut wildcards: Vec<(&Hostname, &Vec<Arc<Destination>>)> = self
            .by_host
            .iter()
            .take_while(|(name, _)| name.as_str().starts_with('*'))
            .filter(|(name, _)| *name != host && name.covers(host))
            .collect();
        wildcards.sort_by_key(|(name, _)| std::cmp::Reverse(name.as_str().len()));
        let wider = wildcards.into_iter().map(|(_, rules)| rules);
        self.by_host.get(host).into_iter().chain(wider).flatten()
    }

    /// How `caller` calls `host`, a service of namespace `owner`.
    pub fn find(
        &self,
        host: &Hostname,
        owner: Option<&str>,
        caller: Caller<'_>,
    ) -> Option<&Arc<Destination>> {
        if self.by_host.is_empty() {
            return None;
        }
        let rules: Vec<&Arc<Destination>> = self.around(host).collect();
        let of = |namespace: &str| {
            let from =
                |rule: &&&Arc<Destination>| rule.namespace == namespace && rule.is_for(caller);
            rules.iter().find(from).copied()
        };
        let own = if ROOTS.contains(&caller.namespace) {
            // What the root says to everybody is its last word for its own workloads too.
            let private = |rule: &&&Arc<Destination>| {
                rule.namespace == caller.namespace && !rule.export.is_empty() && rule.is_for(caller)
            };
            rules.iter().find(private).copied()
        } else {
            of(caller.namespace)
        };
        own.or_else(|| owner.and_then(of))
            .or_else(|| ROOTS.iter().find_map(|root| of(root)))
    }

    /// Whether callers of `host`, a service of namespace `owner`, have different rules.
    pub fn differ(&self, host: &Hostname, owner: &str) -> bool {
        self.around(host)
            .any(|rule| rule.is_of_some(owner) || !rule.selector.is_empty())
    }

    /// What callers are told apart by.
    pub fn distinctions(&self) -> Distinctions {
        let mut found = Distinctions::default();
        for rule in self.all() {
            found.namespaces.insert(rule.namespace.clone());
            found.namespaces.extend(rule.export.iter().cloned());
            found.labels.extend(rule.selector.keys().cloned());
        }
        found
    }
}

/// What callers are told apart by: those that agree in it are served alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distinctions {
    /// Namespaces that have rules, or are named by some.
    pub namespaces: BTreeSet<String>,
    /// Labels that rules ask for.
    pub labels: BTreeSet<String>,
}

impl Destination {
    /// Whether it may be for calls of `caller`.
    pub fn is_for(&self, caller: Caller<'_>) -> bool {
        (self.export.is_empty() || self.export.contains(caller.namespace))
            && (self.selector.is_empty() || self.namespace == caller.namespace)
            && selects(&self.selector, caller.labels)
    }

    /// Whether it is not for everybody's calls of a service in `owner`.
    fn is_of_some(&self, owner: &str) -> bool {
        let everybodys = self.namespace == owner || ROOTS.contains(&self.namespace.as_str());
        !everybodys || !self.export.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(namespace: &str, export: &[&str], selector: &[(&str, &str)]) -> Destination {
        Destination {
            namespace: namespace.to_owned(),
            export: export.iter().map(|to| (*to).to_owned()).collect(),
            selector: labels(selector),
            ..Destination::default()
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = pairs.iter();
        owned
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// Where the rule is written that a caller in `from` with `labels` has for a service in `owner`.
    fn found(of: &Destinations, owner: &str, from: &str, own: &[(&str, &str)]) -> Option<String> {
        let host = Hostname::service("a", owner);
        let own = labels(own);
        let caller = Caller {
            namespace: from,
            labels: &own,
        };
        let found = of.find(&host, Some(owner), caller)?;
        let selector: Vec<&str> = found.selector.keys().map(String::as_str).collect();
        Some(format!("{}{}", found.namespace, selector.join("")))
    }

    #[test]
    fn the_callers_namespace_goes_before_the_services_and_the_root_comes_last() {
        let host = || Hostname::service("a", "two");
        let everything = || "*.cluster.local".parse::<Hostname>().unwrap();
        let mut rules = Destinations::default();
        rules.add(everything(), rule("istio-system", &[], &[]));
        assert_eq!(found(&rules, "two", "one", &[]).unwrap(), "istio-system");
        rules.add(host(), rule("two", &[], &[]));
        assert_eq!(found(&rules, "two", "one", &[]).unwrap(), "two");
        // Of the caller's own namespace a wildcard goes before the service's exact name.
        rules.add(everything(), rule("one", &[], &[]));
        assert_eq!(found(&rules, "two", "one", &[]).unwrap(), "one");
        assert_eq!(found(&rules, "two", "three", &[]).unwrap(), "two");
        // The root's workloads are told by the service how to call it, like anybody's.
        assert_eq!(found(&rules, "two", "istio-system", &[]).unwrap(), "two");
        // Unless a rule is for them alone.
        rules.add(host(), rule("istio-system", &["istio-system"], &[]));
        assert_eq!(
            found(&rules, "two", "istio-system", &[]).unwrap(),
            "istio-system"
        );
        // A namespace in between has no say.
        assert_eq!(found(&rules, "five", "four", &[]).unwrap(), "istio-system");
    }

    #[test]
    fn what_is_not_exported_is_for_nobody_else() {
        let mut rules = Destinations::default();
        let host = || Hostname::service("a", "two");
        rules.add(host(), rule("two", &["two", "four"], &[]));
        assert_eq!(found(&rules, "two", "two", &[]).unwrap(), "two");
        assert_eq!(found(&rules, "two", "four", &[]).unwrap(), "two");
        assert_eq!(found(&rules, "two", "one", &[]), None);
    }

    #[test]
    fn a_rule_for_some_workloads_is_for_those_only() {
        let mut rules = Destinations::default();
        let host = || Hostname::service("a", "two");
        rules.add(host(), rule("two", &[], &[]));
        rules.add(host(), rule("one", &[], &[]));
        rules.add(host(), rule("one", &["one"], &[("app", "x")]));
        assert_eq!(
            found(&rules, "two", "one", &[("app", "x")]).unwrap(),
            "oneapp"
        );
        assert_eq!(found(&rules, "two", "one", &[("app", "y")]).unwrap(), "one");
        assert_eq!(found(&rules, "two", "two", &[("app", "x")]).unwrap(), "two");
    }
}
