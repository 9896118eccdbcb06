//! Where a rollout stands. All of it is kept, so that it goes on after a restart as if there had been none.

use serde::{Deserialize, Serialize};

use super::counts::Sides;
use super::judge::Measure;
use super::routing::Routing;
use super::spec::{HookKind, Spec};

/// What a rollout is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing was changed yet.
    #[default]
    Initialized,
    /// A step is being measured.
    Progressing,
    /// Something must be said or become ready before it goes on.
    Waiting,
    /// It goes on when somebody says so.
    Paused,
    /// It was good; the last shift is being made.
    Promoting,
    /// The canary has all requests.
    Succeeded,
    /// The stable version has all requests, because the canary was worse or somebody said so.
    RolledBack,
    /// The stable version has all requests, because nothing could be said of the canary.
    Inconclusive,
}

impl Phase {
    /// Whether the run is over.
    pub const fn is_end(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::RolledBack | Self::Inconclusive
        )
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initialized => "Initialized",
            Self::Progressing => "Progressing",
            Self::Waiting => "Waiting",
            Self::Paused => "Paused",
            Self::Promoting => "Promoting",
            Self::Succeeded => "Succeeded",
            Self::RolledBack => "RolledBack",
            Self::Inconclusive => "Inconclusive",
        }
    }
}

/// How a step stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepState {
    /// Not reached.
    #[default]
    Pending,
    /// Being measured.
    Running,
    /// Good.
    Passed,
    /// Not good, or nobody can tell.
    Failed,
    /// Somebody promoted without it.
    Skipped,
    /// Somebody ended it.
    Stopped,
}

/// One step of a run with what was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Step {
    /// Share of the canary, in percent.
    pub weight: u32,
    /// The canary gets copies.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mirror: bool,
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

/// A webhook that is being asked, or has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Place in [`Spec::hooks`].
    pub hook: usize,
    /// What for.
    pub kind: HookKind,
    /// Unique in the run.
    pub number: u64,
    /// When it was asked.
    pub asked_unix_ms: u64,
    /// Whether it said yes, and what it said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<(bool, String)>,
}

/// What is being counted for the next look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Window {
    /// Counts as they stood when it was opened; none until they are known.
    pub(super) base: Option<Sides>,
    /// Since when it counts; 0 until that is known.
    pub(super) since_unix_ms: u64,
    /// Who counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) by: Vec<String>,
    /// When the next look is due.
    pub(super) look_unix_ms: u64,
    /// Since when nothing could be decided.
    pub(super) undecided_since_unix_ms: u64,
}

/// What a run in [`Phase::Waiting`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum For {
    /// That the run may begin: readiness, `confirm-rollout` and `pre-rollout`.
    Start,
    /// A person, before this step.
    Gate(usize),
    /// `confirm-traffic-increase`, before this step.
    Increase(usize),
    /// A person, before promotion.
    LastGate,
    /// `confirm-promotion`.
    Promotion,
}

/// Where a run stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// What it is doing.
    pub phase: Phase,
    /// Why, in one sentence with figures.
    pub reason: String,
    /// What the driver last reported that stood in the way; empty when nothing does.
    pub message: String,
    /// The step that is being done, or was last.
    pub step: usize,
    /// All steps.
    pub steps: Vec<Step>,
    /// Checks that failed.
    pub failures: u32,
    /// Where requests are to go.
    pub routing: Routing,
    /// Where they went before that was asked for.
    pub before: Option<Routing>,
    /// Whether the proxies have it.
    pub applied: bool,
    /// Since when it could not be applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck_since_unix_ms: Option<u64>,
    /// When the run began.
    pub started_unix_ms: u64,
    /// When anything of this last changed.
    pub updated_unix_ms: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<u64>,
    /// From when on counts are to be given.
    pub counted_since_unix_ms: u64,
    pub(super) window: Window,
    /// What all windows of the run counted: of versions since callers get the canary, once they do.
    pub(super) pooled: Sides,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waits_for: Option<For>,
    /// What it was doing when it was paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) paused_in: Option<Phase>,
    /// Webhooks that are asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    pub(super) next_call: u64,
    /// [`Self::next_call`] when a no was last counted as a failed check.
    pub(super) counted_call: u64,
    /// Whether `post-rollout` was asked.
    pub(super) parted: bool,
}

impl State {
    /// The beginning of a run. `found` is the split as it is, if there is one.
    pub fn new(spec: &Spec, found: Option<Vec<(String, u32)>>, now: u64) -> Self {
        Self {
            reason: "it has not begun".to_owned(),
            steps: spec
                .steps
                .iter()
                .map(|stage| Step {
                    weight: stage.weight,
                    mirror: stage.mirror,
                    ..Step::default()
                })
                .collect(),
            before: found.map(|weights| Routing {
                weights,
                ..Routing::default()
            }),
            // Nothing is wanted yet, so nothing is to be done.
            applied: true,
            started_unix_ms: now,
            updated_unix_ms: now,
            counted_since_unix_ms: now,
            ..Self::default()
        }
    }

    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        self.phase.is_end() && self.applied && self.calls.is_empty() && self.parted
    }

    /// Whether counts would be looked at now.
    pub fn counts_at(&self, now: u64) -> bool {
        let due = self.window.base.is_none() || now >= self.window.look_unix_ms;
        self.phase == Phase::Progressing && self.applied && due
    }

    /// When it is looked at next, while a step is being measured.
    pub fn next_look(&self) -> Option<u64> {
        let measured = self.phase == Phase::Progressing && self.applied;
        measured.then_some(self.window.look_unix_ms)
    }

    /// Who has counted for the window that is open: each must tell again, if it is there.
    pub fn counted_by(&self) -> &[String] {
        &self.window.by
    }

    /// Share of the canary as it is wanted now, in percent.
    pub fn weight(&self, spec: &Spec) -> u32 {
        self.routing
            .weights
            .iter()
            .find(|(version, _)| *version == spec.canary)
            .map_or(0, |(_, weight)| *weight)
    }
}
