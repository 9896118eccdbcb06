//! What proxies tell of metrics: Telemetries.

use super::of_kind;
use super::policies::Around;
use super::told;
use crate::mesh::metrics::{Change, Rule, Rules};
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
        told::add(
            around,
            (object, telemetry),
            entries,
            (&mut rules, "metrics are"),
        );
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
