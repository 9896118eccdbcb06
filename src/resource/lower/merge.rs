//! Several VirtualServices for one host: the rules of all are in force, those of the oldest first.
//!
//! Istio merges only at gateways, and in the mesh the oldest alone counts, whatever the others say.
//! A rule that takes everything comes behind the narrower ones of all, as at Istio's gateways.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::mesh::check::covers;
use crate::mesh::route::Match;
use crate::mesh::world::{HostRoutes, Rule, SourceMatch, StreamRule};
use crate::mesh::{Finding, Hostname, Severity};
use crate::resource::codes;
use crate::resource::object::Object;

/// What one VirtualService says of a host.
pub(super) struct Part<'a> {
    pub(super) object: &'a Object,
    /// Place of the host in it.
    pub(super) index: usize,
    pub(super) routes: Arc<HostRoutes>,
}

/// The routes of `host`, of `parts`, the oldest first; there is one at least.
pub(super) fn merge(
    host: &Hostname,
    parts: &[Part<'_>],
    findings: &mut Vec<Finding>,
) -> Option<Arc<HostRoutes>> {
    let (first, later) = parts.split_first()?;
    if later.is_empty() {
        return Some(Arc::clone(&first.routes));
    }
    for (at, part) in later.iter().enumerate() {
        let before = parts.get(..=at).unwrap_or_default();
        let met: Vec<String> = before
            .iter()
            .filter(|other| meet(&other.routes.export, &part.routes.export))
            .map(|other| other.routes.origin.to_string())
            .collect();
        if met.is_empty() {
            continue;
        }
        let message = format!(
            "{host} has routes already, of {}; these come behind them, and rules for everything behind all others",
            met.join(" and ")
        );
        let path = format!("spec.hosts[{}]", part.index);
        findings.push(
            part.object
                .finding(Severity::Warning, codes::DUPLICATE_HOST, &path, message)
                .hint("put all routes of a host into one VirtualService"),
        );
    }
    let apart = later
        .iter()
        .any(|part| part.routes.export != first.routes.export);
    let mut all = HostRoutes {
        rules: Vec::new(),
        streams: Vec::new(),
        export: BTreeSet::new(),
        origin: first.routes.origin.clone(),
    };
    let (mut last_rules, mut last_streams) = (Vec::new(), Vec::new());
    for part in parts {
        let mut rules = part.routes.rules.clone();
        let mut streams = part.routes.streams.clone();
        if apart {
            let sources = rules.iter_mut().map(|rule| &mut rule.source);
            for source in sources.chain(streams.iter_mut().map(|rule| &mut rule.source)) {
                source.namespaces.clone_from(&part.routes.export);
            }
        }
        // What stands behind a rule for everything stays behind it.
        let takes_all = |rule: &Rule| {
            let own = SourceMatch {
                namespaces: BTreeSet::new(),
                ..rule.source.clone()
            };
            rule.port.is_none()
                && own == SourceMatch::default()
                && covers(&rule.route.matches, &Match::default())
        };
        let at = rules.iter().position(takes_all).unwrap_or(rules.len());
        last_rules.extend(rules.split_off(at));
        all.rules.extend(rules);
        let at = streams.iter().position(takes_any);
        last_streams.extend(streams.split_off(at.unwrap_or(streams.len())));
        all.streams.extend(streams);
    }
    all.rules.extend(last_rules);
    all.streams.extend(last_streams);
    if parts.iter().all(|part| !part.routes.export.is_empty()) {
        let exports = parts.iter().flat_map(|part| part.routes.export.iter());
        all.export = exports.cloned().collect();
    }
    Some(Arc::new(all))
}

/// Whether some namespace sees both.
fn meet(one: &BTreeSet<String>, other: &BTreeSet<String>) -> bool {
    one.is_empty() || other.is_empty() || !one.is_disjoint(other)
}

/// Whether a rule is for all bytes to the host.
fn takes_any(rule: &StreamRule) -> bool {
    rule.port.is_none()
        && rule.server_names.is_empty()
        && rule.destinations.is_empty()
        && rule.source.labels.is_empty()
        && rule.source.namespace.is_none()
}
