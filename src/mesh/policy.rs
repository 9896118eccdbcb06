//! Policies of the mesh's own kinds: whom each is for, and what is in force at one place.
//!
//! A policy acts where requests arrive: at the sidecar of the workloads that it is for, or at the
//! gateways. Of rate limits and of compression the narrowest policy is in force, of two as narrow the
//! oldest, as for PeerAuthentication; edits of headers add up, the narrowest last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::destinations::ROOTS;
use super::filter::{Compressor, Fault, LocalRateLimit};
use super::gateway::GatewayName;
use super::route::{HeaderEdits, HeaderOperations};
use super::world::selects;
use super::{Hostname, Node, Origin};

/// One policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Where it was written.
    pub namespace: String,
    /// For whom.
    pub whom: Whom,
    /// What it says.
    pub says: Says,
    /// The object.
    pub origin: Origin,
}

/// A fault that calls of a service have for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// What goes wrong.
    pub fault: Arc<Fault>,
    /// When that ends; whoever keeps it takes it out then.
    pub until_unix_ms: u64,
    /// The object.
    pub origin: Origin,
}

/// Whom a policy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// Every proxy of its namespace; in the root of the mesh, every proxy.
    All,
    /// Proxies of its namespace with these labels; in the root of the mesh, of any namespace.
    Workloads(BTreeMap<String, String>),
    /// The ports that these services lead to, and the servers of these gateways.
    Targets {
        /// By host.
        services: BTreeSet<Hostname>,
        /// By name.
        gateways: BTreeSet<GatewayName>,
    },
}

/// What a policy says.
#[derive(Debug, Clone, PartialEq)]
pub enum Says {
    /// How many requests are taken.
    RateLimit(Arc<LocalRateLimit>),
    /// Which answers are compressed.
    Compression(Arc<Compressor>),
    /// What is changed in heads.
    Headers(HeaderEdits),
}

/// A workload, by what policies choose it by.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

impl<'a> From<&'a Node> for Workload<'a> {
    fn from(node: &'a Node) -> Self {
        Self {
            namespace: &node.namespace,
            labels: &node.labels,
        }
    }
}

/// Where requests arrive.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// At a port of an application, to which these services lead.
    Port(&'a [Hostname]),
    /// At a server of this gateway.
    Gateway(&'a GatewayName),
}

/// What is in force at one place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InForce {
    /// Requests beyond it are refused.
    pub rate_limit: Option<Arc<LocalRateLimit>>,
    /// Answers are compressed by it.
    pub compression: Option<Arc<Compressor>>,
    /// Heads are changed by it.
    pub headers: HeaderEdits,
}

impl Policy {
    /// Whether it says something to what arrives at `place` of `workload`.
    fn is_for(&self, workload: Workload<'_>, place: Place<'_>) -> bool {
        let root = ROOTS.contains(&self.namespace.as_str());
        let space = root || self.namespace == workload.namespace;
        match (&self.whom, place) {
            (Whom::All, _) => space,
            (Whom::Workloads(labels), _) => space && selects(labels, workload.labels),
            (Whom::Targets { services, .. }, Place::Port(of)) => {
                of.iter().any(|host| services.contains(host))
            }
            (Whom::Targets { gateways, .. }, Place::Gateway(of)) => gateways.contains(of),
        }
    }

    /// How wide it reaches; more is narrower.
    fn narrowness(&self) -> u8 {
        let root = ROOTS.contains(&self.namespace.as_str());
        match (&self.whom, root) {
            (Whom::All, true) => 0,
            (Whom::All, false) => 1,
            (Whom::Workloads(_), true) => 2,
            (Whom::Workloads(_), false) => 3,
            (Whom::Targets { .. }, _) => 4,
        }
    }
}

/// What of `policies`, the oldest first, is in force for what arrives at `place` of `workload`.
pub fn in_force(policies: &[Arc<Policy>], workload: Workload<'_>, place: Place<'_>) -> InForce {
    let mut found: Vec<&Arc<Policy>> = policies
        .iter()
        .filter(|policy| policy.is_for(workload, place))
        .collect();
    let limits = found.iter().filter_map(|policy| match &policy.says {
        Says::RateLimit(limit) => Some((policy.narrowness(), limit)),
        Says::Compression(_) | Says::Headers(_) => None,
    });
    let codings = found.iter().filter_map(|policy| match &policy.says {
        Says::Compression(how) => Some((policy.narrowness(), how)),
        Says::RateLimit(_) | Says::Headers(_) => None,
    });
    let mut force = InForce {
        rate_limit: narrowest(limits),
        compression: narrowest(codings).filter(|how| how.enabled),
        ..InForce::default()
    };
    // Of two as narrow the oldest has the last word, too.
    found.reverse();
    found.sort_by_key(|policy| policy.narrowness());
    for policy in found {
        if let Says::Headers(edits) = &policy.says {
            edit(&mut force.headers, edits);
        }
    }
    force
}

/// The first of those that are narrowest.
fn narrowest<'a, T: 'a>(all: impl Iterator<Item = (u8, &'a Arc<T>)>) -> Option<Arc<T>> {
    let found = all.reduce(|best, next| if next.0 > best.0 { next } else { best });
    found.map(|(_, says)| Arc::clone(says))
}

/// Adds `outer`, which acts last, to `edits`.
pub fn edit(edits: &mut HeaderEdits, outer: &HeaderEdits) {
    then(&mut edits.request, &outer.request);
    then(&mut edits.response, &outer.response);
}

fn then(inner: &mut HeaderOperations, outer: &HeaderOperations) {
    for name in &outer.remove {
        inner.set.remove(name);
        inner.add.remove(name);
        inner.add_if_absent.remove(name);
        if !inner.remove.contains(name) {
            inner.remove.push(name.clone());
        }
    }
    for (name, value) in &outer.set {
        inner.add.remove(name);
        inner.add_if_absent.remove(name);
        inner.set.insert(name.clone(), value.clone());
    }
    for (name, value) in &outer.add {
        inner
            .add
            .entry(name.clone())
            // Several values of one field are a list (RFC 9110, section 5.3).
            .and_modify(|all| *all = format!("{all}, {value}"))
            .or_insert_with(|| value.clone());
    }
    for (name, value) in &outer.add_if_absent {
        let there = inner.set.contains_key(name) || inner.add.contains_key(name);
        if !there {
            inner
                .add_if_absent
                .entry(name.clone())
                .or_insert_with(|| value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::filter::TokenBucket;

    fn policy(namespace: &str, whom: Whom, says: Says) -> Arc<Policy> {
        Arc::new(Policy {
            namespace: namespace.to_owned(),
            whom,
            says,
            origin: Origin::default(),
        })
    }

    fn limit(tokens: u32) -> Says {
        Says::RateLimit(Arc::new(LocalRateLimit {
            bucket: Some(TokenBucket {
                max_tokens: tokens,
                tokens_per_fill: 1,
                fill_interval: std::time::Duration::from_secs(1),
            }),
            ..LocalRateLimit::default()
        }))
    }

    fn set(name: &str, value: &str) -> Says {
        let mut edits = HeaderEdits::default();
        edits.response.set.insert(name.to_owned(), value.to_owned());
        Says::Headers(edits)
    }

    fn force(all: &[Arc<Policy>], place: Place<'_>) -> InForce {
        let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        let workload = Workload {
            namespace: "shop",
            labels: &labels,
        };
        in_force(all, workload, place)
    }

    fn tokens(all: &[Arc<Policy>], place: Place<'_>) -> Option<u32> {
        Some(force(all, place).rate_limit?.bucket?.max_tokens)
    }

    #[test]
    fn the_narrowest_limit_is_in_force_and_of_two_the_oldest() {
        let host = Hostname::service("a", "shop");
        let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        let target = Whom::Targets {
            services: BTreeSet::from([host.clone()]),
            gateways: BTreeSet::from([("shop".to_owned(), "edge".to_owned())]),
        };
        let mut all = vec![
            policy("meshctl-system", Whom::All, limit(1)),
            policy("other", Whom::All, limit(9)),
        ];
        let hosts = [host];
        let port = Place::Port(&hosts);
        assert_eq!(tokens(&all, port), Some(1));
        all.push(policy("shop", Whom::All, limit(2)));
        all.push(policy("shop", Whom::All, limit(3)));
        assert_eq!(tokens(&all, port), Some(2));
        all.push(policy("shop", Whom::Workloads(labels), limit(4)));
        assert_eq!(tokens(&all, port), Some(4));
        all.push(policy("shop", target, limit(5)));
        assert_eq!(tokens(&all, port), Some(5));
        assert_eq!(tokens(&all, Place::Port(&[])), Some(4));
        let edge = ("shop".to_owned(), "edge".to_owned());
        assert_eq!(tokens(&all, Place::Gateway(&edge)), Some(5));
    }

    #[test]
    fn edits_add_up_and_the_narrowest_has_the_last_word() {
        let all = [
            policy("shop", Whom::All, set("x", "namespace")),
            policy("istio-system", Whom::All, set("x", "mesh")),
            policy("istio-system", Whom::All, set("y", "mesh")),
            policy("shop", Whom::All, set("x", "younger")),
        ];
        let found = force(&all, Place::Port(&[])).headers.response;
        let both = BTreeMap::from([
            ("x".to_owned(), "namespace".to_owned()),
            ("y".to_owned(), "mesh".to_owned()),
        ]);
        assert_eq!(found.set, both);
    }

    #[test]
    fn what_is_removed_later_is_gone_and_added_values_are_a_list() {
        let of = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let mut inner = HeaderOperations {
            set: of(&[("a", "1")]),
            add: of(&[("b", "1"), ("c", "1")]),
            ..HeaderOperations::default()
        };
        then(
            &mut inner,
            &HeaderOperations {
                add: of(&[("b", "2")]),
                add_if_absent: of(&[("b", "3"), ("d", "3")]),
                remove: vec!["a".to_owned(), "c".to_owned()],
                ..HeaderOperations::default()
            },
        );
        let expected = HeaderOperations {
            add: of(&[("b", "1, 2")]),
            add_if_absent: of(&[("d", "3")]),
            remove: vec!["a".to_owned(), "c".to_owned()],
            ..HeaderOperations::default()
        };
        assert_eq!(inner, expected);
    }
}
