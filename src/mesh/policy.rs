//! Policies of the mesh's own kinds: whom each is for, and what is in force at one place.
//!
//! A policy acts where requests arrive: at the sidecar of the workloads that it is for, or at the
//! gateways. Of rate limits and of compression the narrowest policy is in force, of two as narrow the
//! oldest, as for PeerAuthentication; edits of headers add up, the narrowest last. Istio's
//! RequestAuthentications and AuthorizationPolicies are of this kind too, and add up: the
//! tokens of each are taken, the callers are judged by each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::authorization::Authorization;
use super::destinations::ROOTS;
use super::filter::{Compressor, Fault, LocalRateLimit};
use super::gateway::GatewayName;
use super::jwt_authn::TokenRule;
use super::route::{HeaderEdits, HeaderOperations};
use super::world::selects;
use super::{Hostname, Node, Origin, Route};

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
    /// The ports that these services lead to, the servers of these gateways, and these of the Gateway
    /// API.
    Targets {
        /// By host.
        services: BTreeSet<Hostname>,
        /// By name.
        gateways: BTreeSet<GatewayName>,
        /// Its Gateways and routes, or parts of them.
        attached: BTreeSet<Attached>,
    },
}

/// Something of the Gateway API that policies are attached to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attached {
    /// What it is.
    pub kind: AttachedTo,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// One of its listeners or rules; all without it.
    pub section: Option<String>,
}

/// A kind of the Gateway API that policies are attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttachedTo {
    /// A Gateway, whose sections are listeners.
    Gateway,
    /// An HTTPRoute, whose sections are rules.
    HttpRoute,
    /// A GRPCRoute, whose sections are rules.
    GrpcRoute,
}

impl AttachedTo {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
        }
    }
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
            section,
        } = self;
        write!(f, "{} {namespace}/{name}", kind.as_str())?;
        match section {
            Some(section) => write!(f, " ({section})"),
            None => Ok(()),
        }
    }
}

impl Attached {
    /// How narrow it is for what arrives at a listener and, where that is known, has a route; more is
    /// narrower. `None` where it is for others.
    fn reach(
        &self,
        (gateway, listener): (&GatewayName, &str),
        route: Option<&Route>,
    ) -> Option<u8> {
        let is_whole = |section: &str| match &self.section {
            None => Some(true),
            Some(own) => (own == section).then_some(false),
        };
        match self.kind {
            AttachedTo::Gateway => {
                let same = self.namespace == gateway.0 && self.name == gateway.1;
                let whole = same.then(|| is_whole(listener))?;
                whole.map(|whole| if whole { 4 } else { 5 })
            }
            AttachedTo::HttpRoute | AttachedTo::GrpcRoute => {
                let route = route?;
                let origin = &route.origin;
                let same = origin.kind == self.kind.as_str()
                    && origin.namespace == self.namespace
                    && origin.name == self.name;
                let whole = same.then(|| is_whole(&route.name))?;
                whole.map(|whole| if whole { 6 } else { 7 })
            }
        }
    }
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
    /// Whose tokens are taken.
    Tokens(Arc<Vec<TokenRule>>),
    /// Who may call.
    Authorization(Arc<Authorization>),
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
    /// At a server of this gateway of Istio's.
    Gateway(&'a GatewayName),
    /// At a listener of a gateway of the Gateway API.
    Listener {
        /// The gateway.
        gateway: &'a GatewayName,
        /// The listener's name.
        listener: &'a str,
        /// The route of what arrives, where that is known already.
        route: Option<&'a Route>,
    },
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
    /// Tokens are taken by these.
    pub tokens: Vec<Arc<Vec<TokenRule>>>,
    /// Callers are judged by these.
    pub authorization: Vec<Arc<Authorization>>,
}

impl Policy {
    /// How narrow it is for what arrives at `place` of `workload`; more is narrower. `None` where it
    /// says nothing to that.
    fn reach(&self, workload: Workload<'_>, place: Place<'_>) -> Option<u8> {
        let root = ROOTS.contains(&self.namespace.as_str());
        let space = root || self.namespace == workload.namespace;
        match (&self.whom, place) {
            (Whom::All, _) => space.then_some(u8::from(!root)),
            (Whom::Workloads(labels), _) => {
                (space && selects(labels, workload.labels)).then_some(if root { 2 } else { 3 })
            }
            (Whom::Targets { services, .. }, Place::Port(of)) => {
                of.iter().any(|host| services.contains(host)).then_some(4)
            }
            (Whom::Targets { gateways, .. }, Place::Gateway(of)) => {
                gateways.contains(of).then_some(4)
            }
            (
                Whom::Targets { attached, .. },
                Place::Listener {
                    gateway,
                    listener,
                    route,
                },
            ) => attached
                .iter()
                .filter_map(|to| to.reach((gateway, listener), route))
                .max(),
        }
    }
}

/// What of `policies`, the oldest first, is in force for what arrives at `place` of `workload`.
pub fn in_force(policies: &[Arc<Policy>], workload: Workload<'_>, place: Place<'_>) -> InForce {
    let mut found: Vec<(u8, &Arc<Policy>)> = policies
        .iter()
        .filter_map(|policy| Some((policy.reach(workload, place)?, policy)))
        .collect();
    let limits = found
        .iter()
        .filter_map(|(reach, policy)| match &policy.says {
            Says::RateLimit(limit) => Some((*reach, limit)),
            Says::Compression(_) | Says::Headers(_) | Says::Tokens(_) | Says::Authorization(_) => {
                None
            }
        });
    let codings = found
        .iter()
        .filter_map(|(reach, policy)| match &policy.says {
            Says::Compression(how) => Some((*reach, how)),
            Says::RateLimit(_) | Says::Headers(_) | Says::Tokens(_) | Says::Authorization(_) => {
                None
            }
        });
    let mut force = InForce {
        rate_limit: narrowest(limits),
        compression: narrowest(codings).filter(|how| how.enabled),
        ..InForce::default()
    };
    // Of two as narrow the oldest has the last word, too.
    found.reverse();
    found.sort_by_key(|(reach, _)| *reach);
    for (_, policy) in found {
        match &policy.says {
            Says::Headers(edits) => edit(&mut force.headers, edits),
            Says::Tokens(rules) => force.tokens.push(Arc::clone(rules)),
            Says::Authorization(policy) => force.authorization.push(Arc::clone(policy)),
            Says::RateLimit(_) | Says::Compression(_) => {}
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
            attached: BTreeSet::new(),
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
    fn a_rule_is_narrower_than_its_route_and_a_listener_than_its_gateway() {
        let to = |kind, name: &str, section: Option<&str>| Whom::Targets {
            services: BTreeSet::new(),
            gateways: BTreeSet::new(),
            attached: BTreeSet::from([Attached {
                kind,
                namespace: "shop".to_owned(),
                name: name.to_owned(),
                section: section.map(str::to_owned),
            }]),
        };
        let route = |kind: &str, rule: &str| Route {
            name: rule.to_owned(),
            matches: crate::mesh::route::Match::default(),
            action: crate::mesh::route::Action::Respond(crate::mesh::route::Respond::default()),
            headers: HeaderEdits::default(),
            origin: Origin {
                kind: kind.to_owned(),
                namespace: "shop".to_owned(),
                name: "cart".to_owned(),
                ..Origin::default()
            },
        };
        let all = [
            policy(
                "shop",
                to(AttachedTo::HttpRoute, "cart", Some("pay")),
                limit(7),
            ),
            policy("shop", to(AttachedTo::HttpRoute, "cart", None), limit(6)),
            policy(
                "shop",
                to(AttachedTo::Gateway, "edge", Some("https")),
                limit(5),
            ),
            policy("shop", to(AttachedTo::Gateway, "edge", None), limit(4)),
            policy("shop", Whom::All, limit(1)),
        ];
        let edge = ("shop".to_owned(), "edge".to_owned());
        let other = ("shop".to_owned(), "other".to_owned());
        let at = |gateway, listener, route: Option<&Route>| {
            let place = Place::Listener {
                gateway,
                listener,
                route,
            };
            tokens(&all, place)
        };
        assert_eq!(
            at(&edge, "https", Some(&route("HTTPRoute", "pay"))),
            Some(7)
        );
        assert_eq!(
            at(&other, "http", Some(&route("HTTPRoute", "list"))),
            Some(6)
        );
        assert_eq!(
            at(&edge, "https", Some(&route("GRPCRoute", "pay"))),
            Some(5)
        );
        assert_eq!(at(&edge, "http", None), Some(4));
        assert_eq!(at(&other, "http", None), Some(1));
        // Istio's gateway of that name is another.
        assert_eq!(tokens(&all, Place::Gateway(&edge)), Some(1));
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
