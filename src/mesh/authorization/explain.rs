//! Why a call passes or not: each policy, each rule, each condition.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ask::provider;
use super::{At, Authorization, Condition, On, PolicyAction, Rule, entry, term};
use crate::mesh::rbac::{Facts, Reading, holds};

/// What came of the policies in force at one place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationTrace {
    /// The call passes.
    pub allowed: bool,
    /// Why, in words.
    pub because: String,
    /// Who is asked outside, and where: then it passes only if that lets it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asks: String,
    /// In the order in which they are judged.
    pub policies: Vec<PolicyTrace>,
}

/// One policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTrace {
    /// `ALLOW`, `DENY`, `AUDIT` or `CUSTOM`.
    pub action: String,
    /// `name.namespace`.
    pub policy: String,
    /// Only counted.
    pub dry_run: bool,
    /// Who is asked when one of its rules holds, and where.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asks: String,
    /// One of its rules holds.
    pub holds: bool,
    /// Its rules, in order.
    pub rules: Vec<RuleTrace>,
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleTrace {
    /// It holds.
    pub holds: bool,
    /// Its conditions.
    pub conditions: Vec<ConditionTrace>,
}

/// One condition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionTrace {
    /// Where it stands: `from[0]`, `to[1]`, `when`.
    pub at: String,
    /// In words.
    pub text: String,
    /// It holds.
    pub holds: bool,
}

impl fmt::Display for PolicyAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        })
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal => f.write_str("principal"),
            Self::Namespace => f.write_str("namespace"),
            Self::ServiceAccount => f.write_str("service account"),
            Self::TrustDomain => f.write_str("trust domain"),
            Self::RequestPrincipal => f.write_str("request principal"),
            Self::SourceIp => f.write_str("source IP"),
            Self::RemoteIp => f.write_str("remote IP"),
            Self::Host => f.write_str("host"),
            Self::Method => f.write_str("method"),
            Self::Path => f.write_str("path"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Audience => f.write_str("audience"),
            Self::Presenter => f.write_str("presenter"),
            Self::Claim(path) => write!(f, "claim {}", path.join(".")),
            Self::DestinationIp => f.write_str("destination IP"),
            Self::DestinationPort => f.write_str("port"),
            Self::ServerName => f.write_str("SNI"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.on.fmt(f)?;
        if !self.values.is_empty() {
            write!(f, " is {}", self.values.join(" or "))?;
        }
        if !self.not.is_empty() {
            let and = if self.values.is_empty() { "" } else { "," };
            write!(f, "{and} is not {}", self.not.join(" nor "))?;
        }
        Ok(())
    }
}

/// What `policies` say of `facts`.
pub fn explain(policies: &[&Authorization], at: At<'_>, facts: &Facts<'_>) -> AuthorizationTrace {
    let mut trace = AuthorizationTrace::default();
    for action in [
        PolicyAction::Audit,
        PolicyAction::Custom,
        PolicyAction::Deny,
        PolicyAction::Allow,
    ] {
        for policy in policies.iter().filter(|policy| policy.action == action) {
            trace.policies.push(one(policy, at, facts));
        }
    }
    let held = |action: PolicyAction| {
        let mut of = trace.policies.iter();
        of.find(|policy| policy.action == action.to_string() && policy.holds && !policy.dry_run)
    };
    let (denied, let_in) = (held(PolicyAction::Deny), held(PolicyAction::Allow));
    let mut all = policies.iter();
    let closed = all.any(|policy| policy.action == PolicyAction::Allow && !policy.dry_run);
    let asks = held(PolicyAction::Custom);
    let (allowed, because) = match (denied, let_in) {
        _ if asks.is_some() && provider(policies, at).is_none() => {
            let policy = asks.map_or("", |policy| policy.policy.as_str());
            let why = unasked(policies, at);
            (false, format!("CUSTOM {policy} holds, and {why}"))
        }
        (Some(policy), _) => (false, format!("DENY {} holds", policy.policy)),
        (None, Some(policy)) => (true, format!("ALLOW {} holds", policy.policy)),
        (None, None) if closed => (false, "there are ALLOW policies and none holds".to_owned()),
        (None, None) => (
            true,
            "no policy is against it, and none is needed".to_owned(),
        ),
    };
    let asks = asks.map(|policy| policy.asks.clone());
    (trace.allowed, trace.because) = (allowed, because);
    if let (true, Some(asks)) = (allowed, asks) {
        trace.because = format!("asks {asks}, and if that lets it: {}", trace.because);
        trace.asks = asks;
    }
    trace
}

/// Why nobody can be asked.
fn unasked(policies: &[&Authorization], at: At<'_>) -> &'static str {
    let mut all = policies.iter().filter_map(|policy| policy.asks());
    match all.next() {
        Some(first) if all.any(|other| other.name != first.name) => {
            "the policies name several providers, of which one alone could be asked"
        }
        Some(first) if first.how.is_some() && at.bytes => "about bytes nobody is asked by HTTP",
        _ => "there is no such provider",
    }
}

fn one(policy: &Authorization, at: At<'_>, facts: &Facts<'_>) -> PolicyTrace {
    let reading = match policy.action {
        PolicyAction::Allow => Reading::All,
        PolicyAction::Deny | PolicyAction::Audit | PolicyAction::Custom => Reading::Some,
    };
    let rules: Vec<RuleTrace> = policy
        .rules
        .iter()
        .map(|rule| RuleTrace {
            holds: entry(policy, rule, at).is_some_and(|entry| entry.holds(facts, reading)),
            conditions: conditions(policy, rule, at, (facts, reading)),
        })
        .collect();
    PolicyTrace {
        action: policy.action.to_string(),
        policy: format!("{}.{}", policy.name, policy.namespace),
        dry_run: policy.dry_run,
        asks: policy
            .asks()
            .map_or_else(String::new, |provider| match provider.at.as_str() {
                "" => provider.name.clone(),
                at => format!("{} at {at}", provider.name),
            }),
        holds: rules.iter().any(|rule| rule.holds),
        rules,
    }
}

fn conditions(
    policy: &Authorization,
    rule: &Rule,
    at: At<'_>,
    (facts, reading): (&Facts<'_>, Reading),
) -> Vec<ConditionTrace> {
    let mut all = Vec::new();
    let mut add = |place: String, list: &[Condition]| {
        for condition in list {
            let absent = at.bytes && condition.on.is_of_requests();
            let held = if absent {
                // As when it did not stand there, or as one that never holds.
                matches!(policy.action, PolicyAction::Deny | PolicyAction::Custom)
            } else {
                holds(&term(condition, policy, at), facts, reading)
            };
            all.push(ConditionTrace {
                at: place.clone(),
                text: condition.to_string(),
                holds: held,
            });
        }
    };
    for (index, of) in rule.from.iter().enumerate() {
        add(format!("from[{index}]"), of);
    }
    for (index, of) in rule.to.iter().enumerate() {
        add(format!("to[{index}]"), of);
    }
    add("when".to_owned(), &rule.when);
    all
}
