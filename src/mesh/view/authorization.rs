//! Whose calls a chain takes.

use std::sync::Arc;

use crate::mesh::Hostname;
use crate::mesh::authorization::ask::{Asked, asked};
use crate::mesh::authorization::{At, Authorization, compile};
use crate::mesh::ext_authz::ExtAuthz;
use crate::mesh::filter::{HttpFilter, NetworkFilter};
use crate::mesh::policy::InForce;
use crate::mesh::rbac::{Action, Entry, Rbac, Rules, Term};
use crate::mesh::route::TextMatch;

/// The policies in force at one place.
fn policies(force: &InForce) -> Vec<&Authorization> {
    force.authorization.iter().map(|policy| &**policy).collect()
}

/// What requests go through where `force` is in force.
pub(super) fn filters(force: &InForce, trust_domain: &str, port: Option<u16>) -> Vec<HttpFilter> {
    let at = At {
        trust_domain,
        port,
        bytes: false,
    };
    let policies = policies(force);
    let asked = asked(&policies, at).map(|asked| asked.into_steps(true, false));
    of_requests(&in_order(compile(&policies, at), asked))
}

/// Filters, in their order: what notes everybody goes before who is asked, and that before who decides here.
fn in_order(
    rules: Vec<Rbac>,
    asked: impl IntoIterator<Item = (Rbac, Option<ExtAuthz>)>,
) -> Vec<NetworkFilter> {
    let notes = |rbac: &Rbac| {
        let mut all = rbac.rules.iter().chain(&rbac.shadow);
        all.all(|rules| rules.action == Action::Log)
    };
    let (first, last): (Vec<Rbac>, Vec<Rbac>) = rules.into_iter().partition(notes);
    let rbac = |rbac: Rbac| NetworkFilter::Rbac(Arc::new(rbac));
    let mut made: Vec<NetworkFilter> = first.into_iter().map(rbac).collect();
    for (rules, asks) in asked {
        made.push(rbac(rules));
        made.extend(asks.map(|asks| NetworkFilter::ExtAuthz(Arc::new(asks))));
    }
    made.extend(last.into_iter().map(rbac));
    made
}

fn of_requests(filters: &[NetworkFilter]) -> Vec<HttpFilter> {
    filters.iter().map(NetworkFilter::of_requests).collect()
}

/// What connections of bytes go through there.
pub(super) fn guards(force: &InForce, trust_domain: &str, port: Option<u16>) -> Vec<NetworkFilter> {
    let at = At {
        trust_domain,
        port,
        bytes: true,
    };
    let policies = policies(force);
    let asked = asked(&policies, at).map(|asked| asked.into_steps(true, true));
    in_order(compile(&policies, at), asked)
}

/// As [`filters`] for a chain of several servers, each with its hosts: what is in force at one of them is
/// for requests to its hosts only.
pub(super) fn filters_of_hosts(
    servers: &[(Vec<Hostname>, InForce)],
    trust_domain: &str,
    port: Option<u16>,
) -> Vec<HttpFilter> {
    let Some((_, first)) = servers.first() else {
        return Vec::new();
    };
    let same = |(_, force): &(Vec<Hostname>, InForce)| force.authorization == first.authorization;
    if servers.iter().all(same) {
        return filters(first, trust_domain, port);
    }
    let at = At {
        trust_domain,
        port,
        bytes: false,
    };
    let own: Vec<(&[Hostname], Vec<Rbac>)> = servers
        .iter()
        .map(|(hosts, force)| (hosts.as_slice(), compile(&policies(force), at)))
        .collect();
    let every = || servers.iter().flat_map(|(hosts, _)| hosts);
    // A request is for the server whose host is the narrowest that takes it.
    let place = |hosts: &[Hostname]| {
        let mut terms = Vec::new();
        for host in hosts {
            let narrower = every()
                .filter(|other| *other != host && !hosts.contains(other) && covers(host, other));
            let others: Vec<Term> = narrower.map(to).collect();
            terms.push(if others.is_empty() {
                to(host)
            } else {
                let not = Term::Not(Box::new(Term::OneOf(others)));
                Term::All(vec![to(host), not])
            });
        }
        Term::OneOf(terms)
    };
    // Who is asked, by whether somebody can be: each about requests to the hosts of its servers.
    let mut askers: Vec<Asked> = Vec::new();
    for (at_server, (hosts, force)) in servers.iter().enumerate() {
        let Some(own) = asked(&policies(force), at) else {
            continue;
        };
        let policies = own.policies.into_iter().map(|(name, entry)| {
            let permissions = Term::OneOf(entry.permissions);
            let entry = Entry {
                permissions: vec![Term::All(vec![place(hosts), permissions])],
                principals: entry.principals,
            };
            (format!("{name}-server[{at_server}]"), entry)
        });
        match askers.iter_mut().find(|other| other.whom == own.whom) {
            Some(other) => other.policies.extend(policies),
            None => askers.push(Asked {
                policies: policies.collect(),
                whom: own.whom,
            }),
        }
    }
    let alone = askers.iter().filter(|asks| asks.whom.is_some()).count() < 2;
    let askers: Vec<_> = askers
        .into_iter()
        .map(|asked| asked.into_steps(alone, false))
        .collect();
    let mut made = Vec::new();
    for action in [Action::Log, Action::Deny, Action::Allow] {
        let merged = |pick: fn(&Rbac) -> Option<&Arc<Rules>>| {
            let mut rules = Rules {
                action,
                ..Rules::default()
            };
            let mut some = false;
            for (at, (hosts, all)) in own.iter().enumerate() {
                let mut here = all.iter().filter_map(pick);
                let Some(found) = here.find(|rules| rules.action == action) else {
                    if action == Action::Allow {
                        // Where nothing is said, everything passes.
                        let open = Entry {
                            permissions: vec![place(hosts)],
                            principals: vec![Term::Any],
                        };
                        rules.policies.insert(format!("server[{at}]-open"), open);
                    }
                    continue;
                };
                some = true;
                for (name, entry) in &found.policies {
                    let permissions = Term::OneOf(entry.permissions.clone());
                    let entry = Entry {
                        permissions: vec![Term::All(vec![place(hosts), permissions])],
                        principals: entry.principals.clone(),
                    };
                    // The same policy may be in force at several.
                    rules.policies.insert(format!("{name}-server[{at}]"), entry);
                }
            }
            some.then(|| Arc::new(rules))
        };
        let (rules, shadow) = (
            merged(|rbac| rbac.rules.as_ref()),
            merged(|rbac| rbac.shadow.as_ref()),
        );
        if rules.is_some() || shadow.is_some() {
            made.push(Rbac {
                rules,
                shadow,
                ..Rbac::default()
            });
        }
    }
    of_requests(&in_order(made, askers))
}

/// Whether each name of `narrow` is one of `wide`.
fn covers(wide: &Hostname, narrow: &Hostname) -> bool {
    match wide.as_str().strip_prefix('*') {
        Some(suffix) => narrow.as_str().ends_with(suffix),
        None => wide == narrow,
    }
}

fn to(host: &Hostname) -> Term {
    Term::Host(match host.as_str().strip_prefix('*') {
        Some("") => TextMatch::Present,
        Some(suffix) => TextMatch::Suffix(suffix.to_owned()),
        None => TextMatch::Exact(host.as_str().to_owned()),
    })
}
