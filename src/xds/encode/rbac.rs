//! Who may do what.

use super::super::canonical;
use super::super::pb::{Any, any, core, int32_range, matcher, rbac as pb, route, uri_template};
use super::super::structs::ANY;
use super::jwt_authn::claim_match;
use super::listener::range;
use super::route::{header_match, regex, text_match};
use crate::mesh::Client;
use crate::mesh::rbac::{Action, Rbac, Rules, Term};
use crate::mesh::route::{ClaimMatch, HeaderMatch, Pattern, TextMatch};

/// For requests.
pub(super) fn http(from: &Rbac, client: Client) -> Any {
    let message = pb::http::Rbac {
        rules: from.rules.as_ref().map(|rules| self::rules(rules, client)),
        shadow_rules: from.shadow.as_ref().map(|rules| self::rules(rules, client)),
        rules_stat_prefix: from.stat_prefix.clone(),
        shadow_rules_stat_prefix: from.shadow_prefix.clone(),
        ..Default::default()
    };
    let mut to = any(&message);
    to.value = canonical::encode(&message, &canonical::HTTP_RBAC);
    to
}

/// For bytes.
pub(super) fn network(from: &Rbac, client: Client) -> Any {
    let message = pb::network::Rbac {
        rules: from.rules.as_ref().map(|rules| self::rules(rules, client)),
        shadow_rules: from.shadow.as_ref().map(|rules| self::rules(rules, client)),
        stat_prefix: prefix_of_bytes(&from.stat_prefix, client),
        shadow_rules_stat_prefix: from.shadow_prefix.clone(),
        ..Default::default()
    };
    let mut to = any(&message);
    to.value = canonical::encode(&message, &canonical::NETWORK_RBAC);
    to
}

/// What is before the names of numbers where bytes are carried. Envoy wants one that is not empty.
pub(super) fn prefix_of_bytes(own: &str, client: Client) -> String {
    match (own, client) {
        ("", Client::Envoy) => "tcp.".to_owned(),
        (prefix, _) => prefix.to_owned(),
    }
}

fn rules(from: &Rules, client: Client) -> pb::Rbac {
    let policies = from.policies.iter();
    pb::Rbac {
        action: match from.action {
            Action::Allow => pb::rbac::Action::Allow,
            Action::Deny => pb::rbac::Action::Deny,
            Action::Log => pb::rbac::Action::Log,
        }
        .into(),
        policies: policies
            .map(|(name, entry)| {
                let permissions = entry.permissions.iter();
                let principals = entry.principals.iter();
                let policy = pb::Policy {
                    permissions: permissions.map(|term| permission(term, client)).collect(),
                    principals: principals.map(|term| principal(term, client)).collect(),
                    ..Default::default()
                };
                (name.clone(), policy)
            })
            .collect(),
        ..Default::default()
    }
}

pub(super) fn words(from: &TextMatch, client: Client) -> matcher::StringMatcher {
    text_match(from, client).unwrap_or_else(|| matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(regex(ANY))),
        ..Default::default()
    })
}

fn path(from: &TextMatch, client: Client) -> matcher::PathMatcher {
    matcher::PathMatcher {
        rule: Some(matcher::path_matcher::Rule::Path(words(from, client))),
    }
}

/// A host whatever its case; for Envoy, in each of these the name with or without a port.
fn hosts(from: &TextMatch, client: Client) -> Vec<route::HeaderMatcher> {
    use route::header_matcher::HeaderMatchSpecifier::StringMatch;
    let of = |value: &TextMatch, ignore_case| {
        let mut made = header_match(
            &HeaderMatch {
                name: ":authority".to_owned(),
                value: value.clone(),
                invert: false,
            },
            client,
        );
        if let Some(StringMatch(of)) = &mut made.header_match_specifier {
            of.ignore_case = ignore_case;
        }
        made
    };
    let with_port = match from {
        _ if client == Client::Meshctl => None,
        TextMatch::Exact(text) => Some(format!("(?i){}:[0-9]+", regex::escape(text))),
        TextMatch::Suffix(text) => Some(format!("(?i).*{}:[0-9]+", regex::escape(text))),
        TextMatch::Prefix(_) | TextMatch::Regex(_) | TextMatch::Present => None,
    };
    let with_port = with_port.and_then(|pattern| Pattern::new(&pattern).ok());
    let with_port = with_port.map(|pattern| of(&TextMatch::Regex(pattern), false));
    [of(from, true)].into_iter().chain(with_port).collect()
}

/// What the filter of tokens has told of this request.
fn sourced(from: &ClaimMatch, client: Client) -> pb::SourcedMetadata {
    pb::SourcedMetadata {
        metadata_matcher: Some(claim_match(from, client)),
        metadata_source: pb::MetadataSource::Dynamic.into(),
    }
}

fn port_range(first: u16, last: u16) -> int32_range::Int32Range {
    int32_range::Int32Range {
        start: i32::from(first),
        // Envoy's ends are not in it.
        end: i32::from(last) + 1,
    }
}

fn permission(from: &Term, client: Client) -> pb::Permission {
    use pb::permission::{Rule, Set};
    let all = |terms: &[Term]| Set {
        rules: terms.iter().map(|term| permission(term, client)).collect(),
    };
    let is = |rule| pb::Permission { rule: Some(rule) };
    is(match from {
        Term::Any => Rule::Any(true),
        Term::All(terms) => Rule::AndRules(all(terms)),
        Term::OneOf(terms) => Rule::OrRules(all(terms)),
        Term::Not(term) => Rule::NotRule(Box::new(permission(term, client))),
        Term::Header(of) => Rule::Header(header_match(of, client)),
        Term::Host(value) => {
            let mut made: Vec<_> = hosts(value, client).into_iter().map(Rule::Header).collect();
            match (made.pop(), made.is_empty()) {
                (Some(only), true) => only,
                (last, _) => Rule::OrRules(Set {
                    rules: made.into_iter().chain(last).map(is).collect(),
                }),
            }
        }
        Term::Path(value) => Rule::UrlPath(path(value, client)),
        Term::Template(template) => Rule::UriTemplate(core::TypedExtensionConfig {
            name: "envoy.path.match.uri_template.uri_template_matcher".to_owned(),
            typed_config: Some(any(&uri_template::UriTemplateMatchConfig {
                // Its language has the stars without braces.
                path_template: template.as_str().replace(['{', '}'], ""),
            })),
        }),
        Term::Claim(of) => Rule::SourcedMetadata(sourced(of, client)),
        Term::To(net) => Rule::DestinationIp(range(net)),
        Term::ToPorts(first, last) if first == last => Rule::DestinationPort(u32::from(*first)),
        Term::ToPorts(first, last) => Rule::DestinationPortRange(port_range(*first, *last)),
        Term::ServerName(value) => Rule::RequestedServerName(words(value, client)),
        // Nothing is known of callers here: it holds for nobody.
        Term::Caller(_) | Term::From(_) | Term::Behind(_) => {
            Rule::NotRule(Box::new(is(Rule::Any(true))))
        }
    })
}

fn principal(from: &Term, client: Client) -> pb::Principal {
    use pb::principal::{Authenticated, Identifier, Set};
    let all = |terms: &[Term]| Set {
        ids: terms.iter().map(|term| principal(term, client)).collect(),
    };
    let is = |identifier| pb::Principal {
        identifier: Some(identifier),
    };
    is(match from {
        Term::Any => Identifier::Any(true),
        Term::All(terms) => Identifier::AndIds(all(terms)),
        Term::OneOf(terms) => Identifier::OrIds(all(terms)),
        Term::Not(term) => Identifier::NotId(Box::new(principal(term, client))),
        Term::Header(of) => Identifier::Header(header_match(of, client)),
        Term::Host(value) => {
            let made = hosts(value, client).into_iter().map(Identifier::Header);
            Identifier::OrIds(Set {
                ids: made.map(is).collect(),
            })
        }
        Term::Path(value) => Identifier::UrlPath(path(value, client)),
        Term::Claim(of) => Identifier::SourcedMetadata(sourced(of, client)),
        Term::Caller(value) => Identifier::Authenticated(Authenticated {
            principal_name: text_match(value, client),
        }),
        Term::From(net) => Identifier::DirectRemoteIp(range(net)),
        Term::Behind(net) => Identifier::RemoteIp(range(net)),
        // Nothing is known of what is done here: it holds for nothing.
        Term::Template(_) | Term::To(_) | Term::ToPorts(..) | Term::ServerName(_) => {
            Identifier::NotId(Box::new(is(Identifier::Any(true))))
        }
    })
}
