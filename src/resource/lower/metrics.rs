//! What proxies tell of metrics: Telemetries.

use std::sync::Arc;

use super::of_kind;
use super::policies::Around;
use crate::mesh::Severity;
use crate::mesh::metrics::{Change, Rule, Rules, Told};
use crate::resource::codes;
use crate::resource::istio::MetricsOverride;
use crate::resource::object::Kind;

pub(super) fn lower(around: &mut Around<'_>) -> Rules {
    let mut rules = Rules::new();
    let written = of_kind(around.objects, |kind| match kind {
        Kind::Telemetry(telemetry) if !telemetry.metrics.is_empty() => Some(telemetry),
        _ => None,
    });
    for (object, telemetry) in written {
        let entries = telemetry.metrics.iter();
        let entries = entries.flat_map(|entry| &entry.overrides).map(rule);
        let entries: Vec<Rule> = entries.collect();
        let whom = around.whom(object, &telemetry.targets, false);
        let namespace = &object.metadata.namespace;
        let mut before = rules.iter();
        let same = before.find(|told| told.namespace == *namespace && told.whom == whom);
        if let Some(older) = same {
            let message = format!(
                "Telemetry {namespace}/{} is for the same and older, so metrics are as that one says",
                older.origin.name
            );
            let code = codes::POLICY_WITHOUT_EFFECT;
            let finding = object.finding(Severity::Warning, code, "spec", message);
            around.findings.push(
                finding.hint("put both into one Telemetry, or choose workloads by other labels"),
            );
        }
        rules.push(Arc::new(Told {
            namespace: namespace.clone(),
            whom,
            rules: entries,
            origin: object.origin.clone(),
        }));
    }
    rules
}

fn rule(from: &MetricsOverride) -> Rule {
    let removed = from.tags.iter().filter(|(_, value)| value.is_none());
    Rule {
        client: from.mode.holds(true),
        server: from.mode.holds(false),
        change: Change {
            metric: (!from.metric.is_empty()).then(|| from.metric.clone()),
            disabled: from.disabled,
            without: removed.map(|(name, _)| name.clone()).collect(),
        },
    }
}
