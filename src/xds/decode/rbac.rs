//! Who may do what.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::pb::{is, matcher, rbac as pb, route, uri_template};
use super::super::structs::ANY;
use super::fields::Fields;
use super::jwt_authn::claim_match;
use super::listener::range;
use super::route::{header_match, text, unsupported};
use super::{Fault, unpack};
use crate::mesh::rbac::{Action, Entry, PathTemplate, Rbac, Rules, Term};
use crate::mesh::route::{HeaderMatch, Pattern, TextMatch};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&HTTP, &NETWORK, &RBAC, &POLICY, &PERMISSION, &PRINCIPAL];

const HTTP: Fields = Fields {
    message: "RBAC (http)",
    understood: &[
        (1, "rules"),
        (2, "shadow_rules"),
        (3, "shadow_rules_stat_prefix"),
        (6, "rules_stat_prefix"),
    ],
    tuning: &[(7, "track_per_rule_stats")],
    refused: &[(4, "matcher"), (5, "shadow_matcher")],
};
const NETWORK: Fields = Fields {
    message: "RBAC (network)",
    understood: &[
        (1, "rules"),
        (2, "shadow_rules"),
        (3, "stat_prefix"),
        (5, "shadow_rules_stat_prefix"),
    ],
    // Connections are judged when they begin, and when rules change.
    tuning: &[(4, "enforcement_type"), (8, "delay_deny")],
    refused: &[(6, "matcher"), (7, "shadow_matcher")],
};
const RBAC: Fields = Fields {
    message: "RBAC",
    understood: &[(1, "action"), (2, "policies")],
    tuning: &[(3, "audit_logging_options")],
    refused: &[],
};
const POLICY: Fields = Fields {
    message: "RBAC.Policy",
    understood: &[(1, "permissions"), (2, "principals")],
    tuning: &[],
    refused: &[
        (3, "condition"),
        (4, "checked_condition"),
        (5, "cel_config"),
    ],
};
const PERMISSION: Fields = Fields {
    message: "RBAC.Permission",
    understood: &[
        (1, "and_rules"),
        (2, "or_rules"),
        (3, "any"),
        (4, "header"),
        (5, "destination_ip"),
        (6, "destination_port"),
        (7, "metadata"),
        (8, "not_rule"),
        (9, "requested_server_name"),
        (10, "url_path"),
        (11, "destination_port_range"),
        (13, "uri_template"),
        (14, "sourced_metadata"),
    ],
    tuning: &[],
    refused: &[(12, "matcher")],
};
const PRINCIPAL: Fields = Fields {
    message: "RBAC.Principal",
    understood: &[
        (1, "and_ids"),
        (2, "or_ids"),
        (3, "any"),
        (4, "authenticated"),
        (6, "header"),
        (7, "metadata"),
        (8, "not_id"),
        (9, "url_path"),
        (10, "direct_remote_ip"),
        (11, "remote_ip"),
        (13, "sourced_metadata"),
    ],
    tuning: &[],
    refused: &[(5, "source_ip"), (12, "filter_state"), (14, "custom")],
};

/// Terms in one another, at most.
const MAX_DEPTH: usize = 32;

pub(super) fn http(from: &pb::http::Rbac, ignored: &mut Vec<String>) -> Result<Rbac, Fault> {
    HTTP.audit(from, ignored)?;
    Ok(Rbac {
        rules: rules(from.rules.as_ref(), ignored)?,
        shadow: rules(from.shadow_rules.as_ref(), ignored)?,
        stat_prefix: from.rules_stat_prefix.clone(),
        shadow_prefix: from.shadow_rules_stat_prefix.clone(),
    })
}

pub(super) fn network(from: &pb::network::Rbac, ignored: &mut Vec<String>) -> Result<Rbac, Fault> {
    NETWORK.audit(from, ignored)?;
    Ok(Rbac {
        rules: rules(from.rules.as_ref(), ignored)?,
        shadow: rules(from.shadow_rules.as_ref(), ignored)?,
        stat_prefix: from.stat_prefix.clone(),
        shadow_prefix: from.shadow_rules_stat_prefix.clone(),
    })
}

fn rules(from: Option<&pb::Rbac>, ignored: &mut Vec<String>) -> Result<Option<Arc<Rules>>, Fault> {
    let Some(from) = from else {
        return Ok(None);
    };
    RBAC.audit(from, ignored)?;
    let action = match pb::rbac::Action::try_from(from.action) {
        Ok(pb::rbac::Action::Allow) => Action::Allow,
        Ok(pb::rbac::Action::Deny) => Action::Deny,
        Ok(pb::rbac::Action::Log) => Action::Log,
        Err(_) => return unsupported("RBAC", "action"),
    };
    let mut policies = BTreeMap::new();
    for (name, policy) in &from.policies {
        POLICY.audit(policy, ignored)?;
        let mut permissions = Vec::with_capacity(policy.permissions.len());
        for of in &policy.permissions {
            permissions.push(permission(of, MAX_DEPTH, ignored)?);
        }
        let mut principals = Vec::with_capacity(policy.principals.len());
        for of in &policy.principals {
            principals.push(principal(of, MAX_DEPTH, ignored)?);
        }
        let entry = Entry {
            permissions,
            principals,
        };
        policies.insert(name.clone(), entry);
    }
    Ok(Some(Arc::new(Rules { action, policies })))
}

fn deeper(depth: usize) -> Result<usize, Fault> {
    depth
        .checked_sub(1)
        .ok_or_else(|| Fault::Invalid("terms of a policy are nested too deep".to_owned()))
}

/// A text; case that does not matter becomes part of a pattern.
pub(super) fn words(
    from: &matcher::StringMatcher,
    ignored: &mut Vec<String>,
) -> Result<TextMatch, Fault> {
    let plain = matcher::StringMatcher {
        ignore_case: false,
        ..from.clone()
    };
    let value = text(&plain, ignored)?;
    let any_case = |pattern: String| {
        Pattern::new(&pattern)
            .map(TextMatch::Regex)
            .map_err(|error| Fault::Invalid(error.to_string()))
    };
    match value {
        TextMatch::Regex(pattern) if pattern.as_str() == ANY => Ok(TextMatch::Present),
        TextMatch::Exact(text) if from.ignore_case => {
            any_case(format!("(?i){}", regex::escape(&text)))
        }
        TextMatch::Prefix(text) if from.ignore_case => {
            any_case(format!("(?is){}.*", regex::escape(&text)))
        }
        TextMatch::Suffix(text) if from.ignore_case => {
            any_case(format!("(?is).*{}", regex::escape(&text)))
        }
        value => Ok(value),
    }
}

fn path(from: &matcher::PathMatcher, ignored: &mut Vec<String>) -> Result<TextMatch, Fault> {
    match &from.rule {
        Some(matcher::path_matcher::Rule::Path(value)) => words(value, ignored),
        None => unsupported("PathMatcher", "rule"),
    }
}

/// A header, or the host.
fn header(from: &route::HeaderMatcher, ignored: &mut Vec<String>) -> Result<Term, Fault> {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    let named = from.name.eq_ignore_ascii_case(":authority") && !from.invert_match;
    match &from.header_match_specifier {
        None | Some(Specifier::PresentMatch(true)) if named => {
            return Ok(Term::Host(TextMatch::Present));
        }
        Some(Specifier::StringMatch(value)) if named && value.ignore_case => {
            let plain = matcher::StringMatcher {
                ignore_case: false,
                ..value.clone()
            };
            return Ok(Term::Host(text(&plain, ignored)?));
        }
        _ => {}
    }
    let mut plain = from.clone();
    let mut value = None;
    if let Some(Specifier::StringMatch(of)) = &mut plain.header_match_specifier
        && of.ignore_case
    {
        value = Some(words(of, ignored)?);
        of.ignore_case = false;
    }
    let mut all: Vec<HeaderMatch> = Vec::new();
    header_match(&plain, &mut all, ignored)?;
    if let (Some(value), Some(last)) = (value, all.last_mut()) {
        last.value = value;
    }
    let mut terms: Vec<Term> = all.into_iter().map(Term::Header).collect();
    Ok(match (terms.pop(), terms.is_empty()) {
        (Some(only), true) => only,
        (last, _) => Term::All(terms.into_iter().chain(last).collect()),
    })
}

fn sourced(from: &pb::SourcedMetadata, ignored: &mut Vec<String>) -> Result<Term, Fault> {
    match (&from.metadata_matcher, from.metadata_source) {
        (Some(of), 0) => Ok(Term::Claim(claim_match(of, ignored)?)),
        _ => unsupported("SourcedMetadata", "metadata_source"),
    }
}

fn port(from: i64) -> Result<u16, Fault> {
    u16::try_from(from).map_err(|_| Fault::Invalid(format!("{from} is not a port")))
}

fn net(from: &super::super::pb::core::CidrRange) -> Result<ipnet::IpNet, Fault> {
    range(from).ok_or_else(|| Fault::Invalid("a policy has no IP network".to_owned()))
}

/// `any: false` holds never, as in Envoy's checks it cannot stand.
fn any(of: bool) -> Result<Term, Fault> {
    if of {
        Ok(Term::Any)
    } else {
        Err(Fault::Invalid("any of a policy is not true".to_owned()))
    }
}

#[expect(deprecated, reason = "older control planes still send them")]
fn permission(
    from: &pb::Permission,
    depth: usize,
    ignored: &mut Vec<String>,
) -> Result<Term, Fault> {
    use pb::permission::{Rule, Set};
    PERMISSION.audit(from, ignored)?;
    let depth = deeper(depth)?;
    let mut all = |set: &Set| -> Result<Vec<Term>, Fault> {
        let terms = set.rules.iter();
        terms.map(|of| permission(of, depth, ignored)).collect()
    };
    Ok(match &from.rule {
        None => return Err(Fault::Invalid("a permission is empty".to_owned())),
        Some(Rule::Any(of)) => any(*of)?,
        Some(Rule::AndRules(set)) => Term::All(all(set)?),
        Some(Rule::OrRules(set)) => Term::OneOf(all(set)?),
        Some(Rule::NotRule(of)) => Term::Not(Box::new(permission(of, depth, ignored)?)),
        Some(Rule::Header(of)) => header(of, ignored)?,
        Some(Rule::UrlPath(of)) => Term::Path(path(of, ignored)?),
        Some(Rule::DestinationIp(of)) => Term::To(net(of)?),
        Some(Rule::DestinationPort(of)) => {
            let of = port(i64::from(*of))?;
            Term::ToPorts(of, of)
        }
        Some(Rule::DestinationPortRange(of)) => {
            Term::ToPorts(port(of.start.into())?, port(i64::from(of.end) - 1)?)
        }
        Some(Rule::Metadata(of)) => Term::Claim(claim_match(of, ignored)?),
        Some(Rule::SourcedMetadata(of)) => sourced(of, ignored)?,
        Some(Rule::RequestedServerName(of)) => Term::ServerName(words(of, ignored)?),
        Some(Rule::UriTemplate(of)) => {
            let config = of.typed_config.as_ref();
            let config = config.filter(|any| is::<uri_template::UriTemplateMatchConfig>(any));
            let Some(config) = config else {
                return unsupported("RBAC.Permission", "uri_template");
            };
            let config: uri_template::UriTemplateMatchConfig = unpack(config)?;
            let template = PathTemplate::new(&config.path_template);
            Term::Template(template.map_err(|error| Fault::Invalid(error.to_string()))?)
        }
        Some(Rule::Matcher(_)) => return unsupported("RBAC.Permission", "matcher"),
    })
}

#[expect(deprecated, reason = "older control planes still send them")]
fn principal(from: &pb::Principal, depth: usize, ignored: &mut Vec<String>) -> Result<Term, Fault> {
    use pb::principal::{Identifier, Set};
    PRINCIPAL.audit(from, ignored)?;
    let depth = deeper(depth)?;
    let mut all = |set: &Set| -> Result<Vec<Term>, Fault> {
        let terms = set.ids.iter();
        terms.map(|of| principal(of, depth, ignored)).collect()
    };
    Ok(match &from.identifier {
        None => return Err(Fault::Invalid("a principal is empty".to_owned())),
        Some(Identifier::Any(of)) => any(*of)?,
        Some(Identifier::AndIds(set)) => Term::All(all(set)?),
        Some(Identifier::OrIds(set)) => Term::OneOf(all(set)?),
        Some(Identifier::NotId(of)) => Term::Not(Box::new(principal(of, depth, ignored)?)),
        Some(Identifier::Header(of)) => header(of, ignored)?,
        Some(Identifier::UrlPath(of)) => Term::Path(path(of, ignored)?),
        Some(Identifier::Metadata(of)) => Term::Claim(claim_match(of, ignored)?),
        Some(Identifier::SourcedMetadata(of)) => sourced(of, ignored)?,
        Some(Identifier::Authenticated(of)) => Term::Caller(match &of.principal_name {
            None => TextMatch::Present,
            Some(name) => words(name, ignored)?,
        }),
        Some(Identifier::DirectRemoteIp(of)) => Term::From(net(of)?),
        Some(Identifier::SourceIp(_)) => return unsupported("RBAC.Principal", "source_ip"),
        Some(Identifier::RemoteIp(of)) => Term::Behind(net(of)?),
        Some(Identifier::FilterState(_)) => return unsupported("RBAC.Principal", "filter_state"),
        Some(Identifier::Custom(_)) => return unsupported("RBAC.Principal", "custom"),
    })
}
