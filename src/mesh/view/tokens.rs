//! Whose tokens a chain takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mesh::Hostname;
use crate::mesh::filter::HttpFilter;
use crate::mesh::jwt_authn::{self, JwtAuthn, JwtRequirement, JwtRule, TokenRule};
use crate::mesh::policy::InForce;
use crate::mesh::route::{HeaderMatch, Match, Pattern, TextMatch};

/// The rules in force at one place, in Istio's order.
fn rules(force: &InForce) -> Vec<&TokenRule> {
    let mut all: Vec<&TokenRule> = force.tokens.iter().flat_map(|rules| rules.iter()).collect();
    all.sort_by(|a, b| a.provider.issuer.cmp(&b.provider.issuer));
    all
}

/// What stands first in a chain where `force` is in force.
pub(super) fn guard(force: &InForce) -> Option<HttpFilter> {
    let filter = jwt_authn::filter(&rules(force))?;
    Some(HttpFilter::JwtAuthn(Arc::new(filter)))
}

/// The same for a chain of several servers, each with its hosts: what is in force at one of them is for
/// requests to its hosts only.
pub(super) fn guard_of_hosts(servers: &[(Vec<Hostname>, InForce)]) -> Option<HttpFilter> {
    let (_, first) = servers.first()?;
    if servers
        .iter()
        .all(|(_, force)| rules(force) == rules(first))
    {
        return guard(first);
    }
    let mut hosts: BTreeMap<&Hostname, Vec<&TokenRule>> = BTreeMap::new();
    for (of, force) in servers {
        for host in of {
            let all = hosts.entry(host).or_default();
            for rule in rules(force) {
                if !all.contains(&rule) {
                    all.push(rule);
                }
            }
        }
    }
    // As hosts are looked for: exact names, then the longest suffix, then everything.
    let mut hosts: Vec<_> = hosts.into_iter().collect();
    hosts.sort_by_key(|(host, _)| {
        let wild = host.as_str().starts_with('*');
        (wild, std::cmp::Reverse(host.as_str().len()))
    });
    let mut all = JwtAuthn::default();
    for (at, (host, rules)) in hosts.into_iter().enumerate() {
        let own = jwt_authn::filter(&rules).unwrap_or_default();
        all.bypass_cors_preflight |= own.bypass_cors_preflight;
        let name = |name: &str| format!("{at}.{name}");
        let providers = own.providers.into_iter();
        all.providers
            .extend(providers.map(|(of, provider)| (name(&of), provider)));
        let requires = own.rules.into_iter().next().map(|rule| rule.requires);
        all.rules.push(JwtRule {
            matches: to(host),
            requires: renamed(requires.unwrap_or_default(), &name),
        });
    }
    Some(HttpFilter::JwtAuthn(Arc::new(all)))
}

fn renamed(from: JwtRequirement, name: &dyn Fn(&str) -> String) -> JwtRequirement {
    let all = |list: Vec<JwtRequirement>| list.into_iter().map(|of| renamed(of, name)).collect();
    match from {
        JwtRequirement::Provider {
            name: of,
            audiences,
        } => JwtRequirement::Provider {
            name: name(&of),
            audiences,
        },
        JwtRequirement::Any(list) => JwtRequirement::Any(all(list)),
        JwtRequirement::All(list) => JwtRequirement::All(all(list)),
        other => other,
    }
}

/// Requests to a host, whatever the port.
fn to(host: &Hostname) -> Match {
    let name = host.as_str();
    let pattern = match name.strip_prefix('*') {
        Some("") => return Match::default(),
        Some(suffix) => format!("(?i).+{}(:[0-9]+)?", regex::escape(suffix)),
        None => format!("(?i){}(:[0-9]+)?", regex::escape(name)),
    };
    let value = match Pattern::new(&pattern) {
        Ok(pattern) => TextMatch::Regex(pattern),
        // A name that is too long for a pattern is still one.
        Err(_) => TextMatch::Exact(name.to_owned()),
    };
    Match {
        headers: vec![HeaderMatch {
            name: ":authority".to_owned(),
            value,
            invert: false,
        }],
        ..Match::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::jwt_authn::{JwtProvider, KeySource};

    fn force(issuers: &[&str]) -> InForce {
        let rules = issuers.iter().map(|issuer| TokenRule {
            provider: JwtProvider {
                issuer: (*issuer).to_owned(),
                ..JwtProvider::default()
            },
            source: KeySource::Inline,
            timeout: std::time::Duration::from_secs(5),
        });
        InForce {
            tokens: vec![Arc::new(rules.collect())],
            ..InForce::default()
        }
    }

    fn filter(of: Option<HttpFilter>) -> Arc<JwtAuthn> {
        match of {
            Some(HttpFilter::JwtAuthn(filter)) => filter,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn servers_that_ask_for_the_same_have_one_rule() {
        let host = |name: &str| name.parse().unwrap();
        let same = [
            (vec![host("a.example")], force(&["x"])),
            (vec![host("b.example")], force(&["x"])),
        ];
        let found = filter(guard_of_hosts(&same));
        assert_eq!(found.rules.len(), 1);
        assert_eq!(found.rules[0].matches, Match::default());
        assert_eq!(guard_of_hosts(&[(vec![host("*")], force(&[]))]), None);
    }

    #[test]
    fn tokens_of_one_server_say_nothing_at_another() {
        let host = |name: &str| name.parse().unwrap();
        let servers = [
            (vec![host("*"), host("a.example")], force(&["x"])),
            (vec![host("*.example")], force(&["y"])),
            (vec![host("b.example")], force(&[])),
        ];
        let found = filter(guard_of_hosts(&servers));
        let issuers = |rule: &JwtRule| match &rule.requires {
            JwtRequirement::Nothing => String::new(),
            JwtRequirement::Any(list) => match &list[0] {
                JwtRequirement::Provider { name, .. } => found.providers[name].issuer.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let told: Vec<(String, String)> = found
            .rules
            .iter()
            .map(|rule| {
                let host = rule.matches.headers.first();
                let host = host.map_or("*".to_owned(), |of| of.value.to_string());
                (host, issuers(rule))
            })
            .collect();
        let told: Vec<(&str, &str)> = told.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(
            told,
            [
                ("matches /(?i)a\\.example(:[0-9]+)?/", "x"),
                ("matches /(?i)b\\.example(:[0-9]+)?/", ""),
                ("matches /(?i).+\\.example(:[0-9]+)?/", "y"),
                ("*", "x"),
            ]
        );
    }
}
