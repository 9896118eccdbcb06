//! Where requests go while a rollout runs.

use serde::{Deserialize, Serialize};

use super::spec::Spec;

/// What is wanted of the routes of a service. Setting it twice is as setting it once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Routing {
    /// Version and weight for requests that no condition sends elsewhere.
    pub weights: Vec<(String, u32)>,
    /// Requests that meet all of these go to the canary: `header:NAME=VALUE`, `cookie:NAME=VALUE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<String>,
    /// Who gets copies of requests, whose answers are only judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Of how many requests, in percent; none is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_percent: Option<u32>,
    /// Whether answers to copies are compared, as the specification says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub compare: bool,
    /// The cookie that keeps a caller with the version it got first, and what its values end with in this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<(String, String)>,
}

impl Routing {
    /// What a step asks for.
    pub(super) fn during(spec: &Spec, weight: u32, mirror: bool, run: u64) -> Self {
        Self {
            weights: vec![
                (spec.stable.clone(), 100_u32.saturating_sub(weight)),
                (spec.canary.clone(), weight),
            ],
            matches: spec.matches.clone(),
            mirror: mirror.then(|| spec.canary.clone()),
            mirror_percent: spec.mirror_percent.filter(|_| mirror),
            compare: mirror && spec.shadow.is_some(),
            affinity: spec
                .affinity
                .as_ref()
                .map(|name| (name.clone(), format!("{run:x}"))),
        }
    }

    /// All requests for one of the two: how every run ends.
    pub(super) fn only(spec: &Spec, canary: bool) -> Self {
        let share = |is: bool| if is { 100 } else { 0 };
        Self {
            weights: vec![
                (spec.stable.clone(), share(!canary)),
                (spec.canary.clone(), share(canary)),
            ],
            ..Self::default()
        }
    }

    /// Whether a split that was found is this one. Versions that get nothing need not be there.
    pub fn is(&self, found: &[(String, u32)]) -> bool {
        let sum = |all: &[(String, u32)]| all.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let (ours, theirs): (u64, u64) = (sum(&self.weights), sum(found));
        let of = |all: &[(String, u32)], version: &str| {
            all.iter()
                .filter(|(name, _)| name == version)
                .map(|(_, weight)| u64::from(*weight))
                .sum::<u64>()
        };
        theirs > 0
            && self.weights.iter().chain(found).all(|(version, _)| {
                of(&self.weights, version) * theirs == of(found, version) * ours
            })
    }
}
