//! Rollouts: canaries that go on, or back, by themselves.

use serde::{Deserialize, Serialize};

use super::resources::Written;
use crate::mesh::rollout::{Command, Measure, Phase, Spec, State, StepState};

/// `POST /rollouts/{namespace}/{service}`: begin one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Start {
    /// What is wanted. Without a stable version it is the one that serves now.
    pub spec: Spec,
    /// Who asks.
    pub who: String,
}

/// `POST /rollouts/{namespace}/{service}/{what}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Order {
    /// Who asks.
    pub who: String,
}

/// The word for a command in the path, and what it means.
pub const COMMANDS: [(&str, Command); 5] = [
    ("pause", Command::Pause),
    ("resume", Command::Resume),
    ("promote", Command::Promote),
    ("abort", Command::Abort),
    ("undo", Command::Undo),
];

/// `GET /rollouts`, and the history of one service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutList {
    /// By service; of one service the newest first.
    pub rollouts: Vec<Rollout>,
}

/// One rollout as it stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rollout {
    /// Name of the Service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// The version that serves.
    pub stable: String,
    /// The version that is tried.
    pub canary: String,
    /// `weight`, `abTest`, `blueGreen` or `shadow`.
    pub strategy: String,
    /// What it is doing.
    pub phase: Phase,
    /// Why, in one sentence with figures.
    pub reason: String,
    /// The step that is being done, from 1.
    pub step: usize,
    /// All steps.
    pub steps: Vec<RolloutStep>,
    /// Share of the canary as it is wanted now, in percent.
    pub weight: u32,
    /// Whether proxies have it.
    pub applied: bool,
    /// Checks that failed.
    pub failures: u32,
    /// How many roll back.
    pub max_failures: u32,
    /// How often is looked.
    pub interval_seconds: f64,
    /// Requests of the canary that a look needs.
    pub min_requests: u64,
    /// Requests that go to the canary from the start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<String>,
    /// The cookie that keeps callers with the version that they got first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_cookie: Option<String>,
    /// When it began.
    pub started_unix_ms: u64,
    /// When it last changed.
    pub updated_unix_ms: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<u64>,
    /// When it is looked at next, while a step is being measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_look_unix_ms: Option<u64>,
    /// What stands in the way of what is to be done; empty when nothing does.
    pub message: String,
    /// Who began it.
    pub who: String,
    /// What happened, the newest last, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<RolloutEvent>,
    /// The object that asked for it, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// What was written to the API server, where that keeps it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub written: Vec<Written>,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutStep {
    /// Share of the canary, in percent.
    pub weight: u32,
    /// The canary gets copies.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mirror: bool,
    /// Of how many requests, in percent; absent where of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_percent: Option<u32>,
    /// Somebody must say `resume` before it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gate: bool,
    /// How it stands.
    pub state: StepState,
    /// When proxies had its weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_unix_ms: Option<u64>,
    /// When it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<u64>,
    /// What the last look found.
    pub measures: Vec<Measure>,
}

/// Something that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutEvent {
    /// When.
    pub at_unix_ms: u64,
    /// What.
    pub what: String,
}

impl Rollout {
    /// What people are told of a run of `service` in `namespace`.
    pub fn of((namespace, service): (&str, &str), spec: &Spec, state: &State) -> Self {
        let steps = state.steps.iter().zip(&spec.steps);
        Self {
            service: service.to_owned(),
            namespace: namespace.to_owned(),
            stable: spec.stable.clone(),
            canary: spec.canary.clone(),
            strategy: spec.strategy.name().to_owned(),
            phase: state.phase,
            reason: state.reason.clone(),
            step: state.step + 1,
            steps: steps
                .map(|(step, stage)| RolloutStep {
                    weight: step.weight,
                    mirror: step.mirror,
                    mirror_percent: spec.mirror_percent.filter(|_| step.mirror),
                    gate: stage.gate,
                    state: step.state,
                    started_unix_ms: step.started_unix_ms,
                    ended_unix_ms: step.ended_unix_ms,
                    measures: step.measures.clone(),
                })
                .collect(),
            weight: state.weight(spec),
            applied: state.applied,
            failures: state.failures,
            max_failures: spec.max_failures,
            interval_seconds: std::time::Duration::from_millis(spec.interval_ms).as_secs_f64(),
            min_requests: spec.min_requests,
            matches: spec.matches.clone(),
            affinity_cookie: spec.affinity.clone(),
            started_unix_ms: state.started_unix_ms,
            updated_unix_ms: state.updated_unix_ms,
            ended_unix_ms: state.ended_unix_ms,
            next_look_unix_ms: state.next_look(),
            message: state.message.clone(),
            ..Self::default()
        }
    }
}
