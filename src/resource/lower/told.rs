//! What Telemetries say of one thing, whichever it is: each for its workloads, the oldest first.

use std::sync::Arc;

use super::policies::Around;
use crate::mesh::Severity;
use crate::mesh::told::Told;
use crate::resource::codes;
use crate::resource::istio::Telemetry;
use crate::resource::object::Object;

/// Adds `rules` of `object`, a Telemetry, to `all`. Of two for the same workloads the older counts, which is said of the
/// other with `so`: what that means for what is told.
pub(super) fn add<R>(
    around: &mut Around<'_>,
    (object, telemetry): (&Object, &Telemetry),
    rules: Vec<R>,
    (all, so): (&mut Vec<Arc<Told<R>>>, &str),
) {
    let whom = around.whom(object, &telemetry.targets, false);
    let namespace = &object.metadata.namespace;
    let mut before = all.iter();
    let same = before.find(|told| told.namespace == *namespace && told.whom == whom);
    if let Some(older) = same {
        let message = format!(
            "Telemetry {namespace}/{} is for the same and older, so {so} as that one says",
            older.origin.name
        );
        let code = codes::POLICY_WITHOUT_EFFECT;
        let finding = object.finding(Severity::Warning, code, "spec", message);
        around
            .findings
            .push(finding.hint("put both into one Telemetry, or choose workloads by other labels"));
    }
    all.push(Arc::new(Told {
        namespace: namespace.clone(),
        whom,
        rules,
        origin: object.origin.clone(),
    }));
}
