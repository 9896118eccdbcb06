//! Rules that no request can reach, because an earlier one takes everything they would match.

use crate::mesh::route::{ClaimMatch, HeaderMatch, Match, PathMatch, QueryMatch, TextMatch};
use crate::mesh::world::{Rule, World, selects};
use crate::mesh::{Finding, Severity};

/// Istio's VirtualServiceUnreachableRule.
const UNREACHABLE: &str = "IST0130";

pub(super) fn check(world: &World, findings: &mut Vec<Finding>) {
    for routes in world.config.routes.values() {
        for (index, rule) in routes.rules.iter().enumerate() {
            let before = routes.rules.get(..index).unwrap_or_default();
            let Some(earlier) = before.iter().find(|earlier| takes(earlier, rule)) else {
                continue;
            };
            let at = &earlier.route.origin;
            let name = |rule: &Rule| match rule.route.name.as_str() {
                "" => "the rule".to_owned(),
                name => format!("rule {name:?}"),
            };
            let own = &rule.route.origin;
            // Several objects may have rules for one host.
            let place = if (&at.namespace, &at.name) == (&own.namespace, &own.name) {
                format!("at line {}", at.line)
            } else {
                format!("of {at}")
            };
            findings.push(
                Finding::new(
                    Severity::Warning,
                    UNREACHABLE,
                    &rule.route.origin,
                    format!(
                        "no request reaches {}: {} {place} takes all of them",
                        name(rule),
                        name(earlier),
                    ),
                )
                .at(if own.kind == "ServiceProfile" {
                    "spec.routes"
                } else {
                    "spec.http"
                })
                .hint("the first match wins; put the narrower rule first, or remove this one"),
            );
        }
    }
}

/// Whether every request that `later` is for is taken by `earlier`. Never true by mistake; a case that
/// cannot be decided counts as reachable.
fn takes(earlier: &Rule, later: &Rule) -> bool {
    let port = earlier.port.is_none() || earlier.port == later.port;
    let namespace =
        earlier.source.namespace.is_none() || earlier.source.namespace == later.source.namespace;
    let (seen, needed) = (&earlier.source.namespaces, &later.source.namespaces);
    let everywhere = seen.is_empty() || (!needed.is_empty() && needed.is_subset(seen));
    port && namespace
        && everywhere
        && selects(&earlier.source.labels, &later.source.labels)
        && covers(&earlier.route.matches, &later.route.matches)
}

/// Whether every request that `narrow` matches is matched by `wide`.
pub(crate) fn covers(wide: &Match, narrow: &Match) -> bool {
    path(wide, narrow)
        && wide
            .headers
            .iter()
            .all(|condition| narrow.headers.iter().any(|other| header(condition, other)))
        && wide
            .query
            .iter()
            .all(|condition| narrow.query.iter().any(|other| query(condition, other)))
        && wide
            .claims
            .iter()
            .all(|condition| narrow.claims.iter().any(|other| claim(condition, other)))
}

fn path(wide: &Match, narrow: &Match) -> bool {
    if matches!(&wide.path, PathMatch::Prefix(prefix) if prefix.is_empty() || prefix == "/") {
        return true;
    }
    if wide.path == narrow.path && (wide.ignore_case || !narrow.ignore_case) {
        return true;
    }
    // A narrow match without case holds for texts that a wide one with case does not.
    let ignore = wide.ignore_case;
    if narrow.ignore_case && !ignore {
        return false;
    }
    match &narrow.path {
        // All that it matches is this text, but for its case.
        PathMatch::Exact(text) => wide.path.holds(text.as_bytes(), ignore),
        PathMatch::Prefix(text) => match &wide.path {
            PathMatch::Prefix(_) => wide.path.holds(text.as_bytes(), ignore),
            // `/a` as whole segments does not hold for `/ab`, which the prefix `/a` does.
            PathMatch::Segments(segments) => {
                let inside = format!("{}/", segments.trim_end_matches('/'));
                PathMatch::Prefix(inside).holds(text.as_bytes(), ignore)
            }
            PathMatch::Exact(_) | PathMatch::Regex(_) => false,
        },
        PathMatch::Segments(text) => match &wide.path {
            PathMatch::Prefix(_) | PathMatch::Segments(_) => wide
                .path
                .holds(text.trim_end_matches('/').as_bytes(), ignore),
            PathMatch::Exact(_) | PathMatch::Regex(_) => false,
        },
        PathMatch::Regex(_) => false,
    }
}

fn header(wide: &HeaderMatch, narrow: &HeaderMatch) -> bool {
    wide.name == narrow.name
        && (wide == narrow || (!wide.invert && !narrow.invert && text(&wide.value, &narrow.value)))
}

fn claim(wide: &ClaimMatch, narrow: &ClaimMatch) -> bool {
    wide.path == narrow.path
        && (wide == narrow || (!wide.invert && !narrow.invert && text(&wide.value, &narrow.value)))
}

fn query(wide: &QueryMatch, narrow: &QueryMatch) -> bool {
    wide.name == narrow.name && text(&wide.value, &narrow.value)
}

fn text(wide: &TextMatch, narrow: &TextMatch) -> bool {
    if wide == narrow || *wide == TextMatch::Present {
        return true;
    }
    match (wide, narrow) {
        (_, TextMatch::Exact(exact)) => wide.holds(exact.as_bytes()),
        (TextMatch::Prefix(wide), TextMatch::Prefix(narrow)) => narrow.starts_with(wide.as_str()),
        (TextMatch::Suffix(wide), TextMatch::Suffix(narrow)) => narrow.ends_with(wide.as_str()),
        _ => false,
    }
}
