//! Policies by which somebody outside decides (`action: CUSTOM`).
//!
//! What their rules hold for is noted, by rules that are only counted, and asked about where it was noted:
//! that is how Istio says it to Envoy. Where nobody can be asked, it is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{At, Authorization, PolicyAction, Provider, entry, name_of};
use crate::mesh::ext_authz::{Asks, ExtAuthz, WhenNoted};
use crate::mesh::rbac::{Action, Entry, Rbac, Rules};
use crate::mesh::route::TextMatch;

/// Before the names of policies by which somebody is asked (Istio's).
const NOTED: &str = "istio-ext-authz-";
/// Before what is noted (Istio's).
const PREFIX: &str = "istio_ext_authz_";
/// Behind the names of policies by which nobody can be asked (Istio's).
const BAD: &str = "-deny-due-to-bad-CUSTOM-action";

/// About what somebody is asked at one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Who, and how; none where nobody can be, and then it is refused.
    pub whom: Option<(String, Arc<ExtAuthz>)>,
    /// What is asked about, by name.
    pub policies: BTreeMap<String, Entry>,
}

/// Whether a provider can be asked about what arrives at `at`: about bytes by gRPC only (Istio's).
fn can_be_asked(how: &ExtAuthz, at: At<'_>) -> bool {
    !at.bytes || matches!(how.asks, Asks::Grpc { .. })
}

/// The provider that `policies` ask; none where they ask several, or one that cannot be asked.
pub fn provider<'p>(policies: &[&'p Authorization], at: At<'_>) -> Option<&'p Provider> {
    let mut all = policies.iter().filter_map(|policy| policy.asks());
    let first = all.next()?;
    let usable = first.how.as_ref().is_some_and(|how| can_be_asked(how, at));
    (usable && all.all(|other| other.name == first.name)).then_some(first)
}

/// What of `policies` asks somebody. None of them does where that is `None`.
pub fn asked(policies: &[&Authorization], at: At<'_>) -> Option<Asked> {
    let custom = || {
        policies
            .iter()
            .filter(|policy| policy.action == PolicyAction::Custom)
    };
    custom().next()?;
    let whom = provider(policies, at)
        .and_then(|provider| Some((provider.name.clone(), provider.how.clone()?)));
    let bad = if whom.is_some() { "" } else { BAD };
    let mut all = BTreeMap::new();
    for policy in custom() {
        let name = policy.asks().map_or("", |provider| &provider.name);
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Some(entry) = entry(policy, rule, at) {
                let rule = name_of(policy, index);
                all.insert(format!("{NOTED}{name}-{rule}{bad}"), entry);
            }
        }
    }
    Some(Asked {
        whom,
        policies: all,
    })
}

impl Asked {
    /// The rules that note what is asked about, and who is asked then; or those that refuse it. `alone` says
    /// that nobody else is asked there.
    pub fn into_steps(self, alone: bool, bytes: bool) -> (Rbac, Option<ExtAuthz>) {
        let rules = Some(Arc::new(Rules {
            action: Action::Deny,
            policies: self.policies,
        }));
        // Envoy wants one for bytes.
        let stat_prefix = if bytes { "tcp." } else { "" }.to_owned();
        let Some((name, how)) = self.whom else {
            let refuses = Rbac {
                rules,
                stat_prefix,
                ..Rbac::default()
            };
            return (refuses, None);
        };
        let prefix = if alone {
            PREFIX.to_owned()
        } else {
            format!("{PREFIX}{name}_")
        };
        let notes = Rbac {
            shadow: rules,
            shadow_prefix: prefix.clone(),
            stat_prefix: stat_prefix.clone(),
            ..Rbac::default()
        };
        let when = WhenNoted {
            prefix,
            policy: TextMatch::Prefix(format!("{NOTED}{name}-")),
        };
        let asks = if bytes {
            // Of bytes there is no head, no body and no answer.
            ExtAuthz {
                stat_prefix,
                asks: how.asks.clone(),
                timeout: how.timeout,
                fail_open: how.fail_open,
                peer_certificate: how.peer_certificate,
                tls_session: how.tls_session,
                when: Some(when),
                ..ExtAuthz::default()
            }
        } else {
            ExtAuthz {
                when: Some(when),
                ..ExtAuthz::clone(&how)
            }
        };
        (notes, Some(asks))
    }
}

impl Authorization {
    /// Whom it asks.
    pub fn asks(&self) -> Option<&Provider> {
        let asks = self.action == PolicyAction::Custom;
        self.provider.as_ref().filter(|_| asks)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Condition, On, Rule};
    use super::*;

    fn policy(name: &str, provider: &str, known: bool) -> Authorization {
        Authorization {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            action: PolicyAction::Custom,
            dry_run: false,
            provider: Some(Provider {
                name: provider.to_owned(),
                at: String::new(),
                how: known.then(Arc::default),
            }),
            rules: vec![Rule {
                to: vec![vec![Condition {
                    on: On::Path,
                    values: vec!["/admin".to_owned()],
                    not: Vec::new(),
                }]],
                ..Rule::default()
            }],
        }
    }

    fn at(bytes: bool) -> At<'static> {
        At {
            trust_domain: "cluster.local",
            port: Some(80),
            bytes,
        }
    }

    #[test]
    fn what_is_noted_is_asked_about() {
        let one = policy("a", "opa", true);
        let (notes, asks) = asked(&[&one], at(false)).unwrap().into_steps(true, false);
        assert!(notes.rules.is_none());
        let shadow = notes.shadow.unwrap();
        let name = "istio-ext-authz-opa-ns[shop]-policy[a]-rule[0]";
        assert_eq!(shadow.policies.keys().collect::<Vec<_>>(), [name]);
        let when = asks.unwrap().when.unwrap();
        assert_eq!(when.prefix, notes.shadow_prefix);
        assert!(when.policy.holds(name.as_bytes()));
        // One provider's name may begin another's.
        assert!(
            !when
                .policy
                .holds(b"istio-ext-authz-opal-ns[shop]-policy[a]-rule[0]")
        );
    }

    fn by_http(mut policy: Authorization) -> Authorization {
        let asks = Asks::Http(Box::default());
        policy.provider.as_mut().unwrap().how = Some(Arc::new(ExtAuthz {
            asks,
            ..ExtAuthz::default()
        }));
        policy
    }

    #[test]
    fn of_bytes_only_who_calls_is_asked_about() {
        let mut one = policy("a", "opa", true);
        one.provider.as_mut().unwrap().how = Some(Arc::new(ExtAuthz {
            fail_open: true,
            tells_fail_open: true,
            status_on_error: 503,
            body: Some(crate::mesh::ext_authz::CheckedBody {
                max_bytes: 1,
                partial: false,
                as_bytes: false,
            }),
            peer_certificate: true,
            ..ExtAuthz::default()
        }));
        let (notes, asks) = asked(&[&one], at(true)).unwrap().into_steps(true, true);
        // The rule names a path, of which nothing is known: who may be meant is asked about.
        let entries = &notes.shadow.unwrap().policies;
        let entry = entries.values().next().unwrap();
        assert_eq!(entry.permissions, [crate::mesh::rbac::Term::Any]);
        let asks = asks.unwrap();
        assert_eq!(asks.when.unwrap().prefix, notes.shadow_prefix);
        assert!(asks.fail_open && asks.peer_certificate);
        assert_eq!(asks.body, None);
        assert!(!asks.tells_fail_open);
        assert_eq!(asks.stat_prefix, "tcp.");
    }

    #[test]
    fn where_nobody_can_be_asked_it_is_refused() {
        let (one, two) = (policy("a", "opa", true), policy("b", "other", true));
        let unknown = policy("c", "opa", false);
        // Nobody can be asked about bytes by a request like the one in question.
        let by_http = by_http(policy("d", "opa", true));
        for (policies, bytes) in [
            (vec![&one, &two], false),
            (vec![&one, &two], true),
            (vec![&unknown], false),
            (vec![&by_http], true),
        ] {
            let count = policies.len();
            let (refuses, asks) = asked(&policies, at(bytes)).unwrap().into_steps(true, bytes);
            assert_eq!(asks, None);
            assert_eq!(refuses.rules.unwrap().policies.len(), count);
        }
        assert_eq!(asked(&[], at(false)), None);
    }
}
