//! Workloads that two Sidecars claim by their labels.

use std::collections::BTreeSet;

use crate::mesh::world::selects;
use crate::mesh::{Finding, Severity, World};

/// Istio's ConflictingSidecarWorkloadSelectors.
const CONFLICT: &str = "IST0110";

pub(super) fn check(world: &World, findings: &mut Vec<Finding>) {
    let mut told = BTreeSet::new();
    for instance in world.instances.values() {
        let all = world.config.sidecars.iter().enumerate();
        let mut claims = all.filter(|(_, sidecar)| {
            !sidecar.selector.is_empty()
                && sidecar.namespace == instance.namespace
                && selects(&sidecar.selector, &instance.labels)
        });
        let Some((_, first)) = claims.next() else {
            continue;
        };
        for (at, later) in claims {
            if !told.insert(at) {
                continue;
            }
            findings.push(
                Finding::new(
                    Severity::Warning,
                    CONFLICT,
                    &later.origin,
                    format!(
                        "another Sidecar is for {} already ({}), so this one has no effect on it",
                        instance.name, first.origin
                    ),
                )
                .at("spec.workloadSelector")
                .hint("choose labels that no other Sidecar of the namespace chooses"),
            );
        }
    }
}
