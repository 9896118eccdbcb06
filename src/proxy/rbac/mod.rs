//! Who may do what, judged where it arrives.
//!
//! [`Guard`] is a configuration ready to be asked: of its policies, those are looked at that can hold for the
//! connection at all ([`index`]) and that ask for the path of the request. What follows is what
//! [`Rules::judge`](crate::mesh::rbac::Rules::judge) says, policy by policy; a test holds the two together.

mod index;
#[cfg(test)]
mod tests;

use std::cell::{OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mesh::rbac::{Action, Facts, Rbac};
use crate::mesh::route::TextMatch;
use crate::telemetry::Flag;
use crate::telemetry::access::DENIED;

use super::filter::Refusal;
use super::http::respond::Failure;
use index::{Index, Reached};

/// Rules, ready to be asked.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) config: Arc<Rbac>,
    rules: Option<Index>,
    shadow: Option<Index>,
    /// A term looks at whoever began, which trusted proxies tell.
    pub(crate) looks_behind: bool,
    pub(crate) stats: Stats,
}

/// It may not be.
#[derive(Debug)]
pub(crate) struct Denied {
    /// The policy that says so; `none` where none lets it pass, and empty where whoever was asked does not.
    pub(crate) policy: String,
    /// Envoy's response flag.
    pub(crate) flag: Flag,
}

impl Denied {
    /// By whoever was asked, or because there was no answer.
    pub(crate) fn by_provider() -> Self {
        Self {
            policy: String::new(),
            flag: Flag::Uaex,
        }
    }
}

impl From<Denied> for Failure {
    fn from(_: Denied) -> Self {
        Self::Filtered(Box::new(Refusal {
            status: 403,
            flag: Flag::None,
            details: DENIED,
            body: "RBAC: access denied",
            // PERMISSION_DENIED
            grpc_status: 7,
            headers: Vec::new(),
        }))
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) allowed: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) shadow_allowed: AtomicU64,
    pub(crate) shadow_denied: AtomicU64,
}

/// What is known of a connection for all of its requests.
#[derive(Debug, Default)]
pub(crate) struct Known(OnceCell<Box<RefCell<Learned>>>);

#[derive(Debug, Default)]
struct Learned {
    /// For each of its guards.
    kept: Vec<Kept>,
    /// What the caller showed, where somebody is told (PEM, escaped for a URL).
    certificate: Option<String>,
}

impl Known {
    /// Takes note of the caller's certificate.
    pub(crate) fn show(&self, certificate: String) {
        let learned = self.0.get_or_init(Box::default);
        learned.borrow_mut().certificate = Some(certificate);
    }

    /// What was taken note of.
    pub(crate) fn certificate(&self) -> Option<String> {
        self.0.get()?.borrow().certificate.clone()
    }
}

/// One guard's, told by the address of its rules, which it keeps.
#[derive(Debug)]
struct Kept {
    guard: Arc<Guard>,
    rules: Option<Reached>,
    shadow: Option<Reached>,
}

impl Guard {
    pub(crate) fn new(config: &Arc<Rbac>) -> Self {
        let index = |rules: &Option<_>| rules.as_ref().map(Index::new);
        let (rules, shadow) = (index(&config.rules), index(&config.shadow));
        Self {
            looks_behind: rules.iter().chain(&shadow).any(Index::looks_behind),
            rules,
            shadow,
            config: Arc::clone(config),
            stats: Stats::default(),
        }
    }

    /// Judges a request of a connection of which `known` is known.
    pub(crate) fn judge(self: &Arc<Self>, facts: &Facts<'_>, known: &Known) -> Result<(), Denied> {
        let mut learned = known.0.get_or_init(Box::default).borrow_mut();
        match self.kept(&mut learned.kept, facts) {
            Some(kept) => self.weigh(facts, kept.rules.as_ref(), kept.shadow.as_ref()),
            None => Ok(()),
        }
    }

    fn kept<'k>(self: &Arc<Self>, all: &'k mut Vec<Kept>, facts: &Facts<'_>) -> Option<&'k Kept> {
        let at = all
            .iter()
            .position(|kept| Arc::ptr_eq(&kept.guard, self))
            .unwrap_or_else(|| {
                let reached = |index: &Option<Index>| index.as_ref().map(|own| own.reached(facts));
                all.push(Kept {
                    rules: reached(&self.rules),
                    shadow: reached(&self.shadow),
                    guard: Arc::clone(self),
                });
                all.len() - 1
            });
        all.get(at)
    }

    /// Whether rules that are only counted hold, by a policy whose name `named` takes.
    pub(crate) fn notes(
        self: &Arc<Self>,
        facts: &Facts<'_>,
        known: &Known,
        named: &TextMatch,
    ) -> bool {
        let Some(own) = &self.shadow else {
            return false;
        };
        let mut learned = known.0.get_or_init(Box::default).borrow_mut();
        let reached = self
            .kept(&mut learned.kept, facts)
            .and_then(|kept| kept.shadow.as_ref());
        let (passes, policy) = own.judge(facts, reached);
        self.count_shadow(passes);
        own.note(policy);
        policy.is_some_and(|at| named.holds(own.name(at).as_bytes()))
    }

    /// Whether rules that are only counted would hold so, without counting anything.
    pub(crate) fn would_note(&self, facts: &Facts<'_>, named: &TextMatch) -> bool {
        let policy = self.shadow.as_ref().and_then(|own| {
            let (_, policy) = own.judge(facts, None);
            Some(own.name(policy?))
        });
        policy.is_some_and(|name| named.holds(name.as_bytes()))
    }

    fn count_shadow(&self, passes: bool) {
        let counter = if passes {
            &self.stats.shadow_allowed
        } else {
            &self.stats.shadow_denied
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it would pass, without counting anything.
    pub(crate) fn passes(&self, facts: &Facts<'_>) -> bool {
        let rules = self.rules.as_ref();
        rules.is_none_or(|rules| rules.judge(facts, None).0)
    }

    fn weigh(
        &self,
        facts: &Facts<'_>,
        rules: Option<&Reached>,
        shadow: Option<&Reached>,
    ) -> Result<(), Denied> {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        if let Some(own) = &self.shadow {
            let (passes, policy) = own.judge(facts, shadow);
            self.count_shadow(passes);
            own.note(policy);
        }
        let Some(own) = &self.rules else {
            return Ok(());
        };
        let (passes, policy) = own.judge(facts, rules);
        own.note(policy);
        if passes {
            count(&self.stats.allowed);
            if own.action() == Action::Log
                && let Some(at) = policy
            {
                audit(facts, own.name(at));
            }
            return Ok(());
        }
        count(&self.stats.denied);
        let name = policy.map_or("none", |at| own.name(at));
        Err(Denied {
            policy: name.to_owned(),
            flag: Flag::None,
        })
    }

    /// How often each policy held, for those that did.
    pub(crate) fn held(&self) -> Vec<(&str, u64)> {
        self.rules.as_ref().map(Index::held).unwrap_or_default()
    }

    /// The same for those that are only counted.
    pub(crate) fn held_in_shadow(&self) -> Vec<(&str, u64)> {
        self.shadow.as_ref().map(Index::held).unwrap_or_default()
    }

    /// What follows from its rules, and from those that are only counted.
    pub(crate) fn actions(&self) -> (Option<Action>, Option<Action>) {
        let action = |index: &Option<Index>| index.as_ref().map(Index::action);
        (action(&self.rules), action(&self.shadow))
    }
}

/// Takes down what an AUDIT holds for.
fn audit(facts: &Facts<'_>, policy: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let method = facts.request.map(|request| text(request.method()));
    let path = facts.request.map(|request| {
        let (path, _) = crate::mesh::route::matching::split_query(request.path_and_query());
        text(path)
    });
    tracing::info!(
        target: "audit",
        policy,
        principal = facts.principal.unwrap_or_default(),
        remote = %facts.remote,
        port = facts.local.port(),
        method = method.unwrap_or_default(),
        path = path.unwrap_or_default(),
        "call"
    );
}

/// A connection as guards see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection<'c> {
    pub(crate) principal: Option<&'c str>,
    pub(crate) direct: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) local: SocketAddr,
    pub(crate) server_name: Option<&'c str>,
}

impl<'c> Connection<'c> {
    pub(crate) fn facts(&self) -> Facts<'c> {
        Facts {
            request: None,
            principal: self.principal,
            direct: self.direct,
            remote: self.remote,
            local: self.local,
            server_name: self.server_name,
            loose_path: None,
        }
    }
}
