//! From one state of a rollout to the next: what is heard and ordered, and how a run ends. How it goes from step to
//! step is in `going`, how a step is judged in `looking`.

use super::counts::Sides;
use super::hooks::ask;
use super::routing::Routing;
use super::spec::{HookKind, Spec};
use super::state::{For, Phase, State, StepState};

/// What is to be done. Each may be done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make requests go so, and say [`Answer::Routed`].
    Route(Routing),
    /// Ask the webhook of the call with this number, and say [`Answer::Hook`].
    Call(u64),
    /// Tell people.
    Tell(String),
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Routes are written and proxies have them, or why not.
    Routed(Result<(), String>),
    /// A webhook answered.
    Hook {
        /// Number of the call.
        number: u64,
        /// A status of 2xx.
        yes: bool,
        /// What it said otherwise.
        message: String,
    },
}

/// What somebody wants of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Stay as it is.
    Pause,
    /// Go on, or pass a gate.
    Resume,
    /// The canary gets everything now, unmeasured.
    Promote,
    /// The stable version gets everything now.
    Abort,
    /// After it succeeded: the version before gets everything again.
    Undo,
}

/// Instances of a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// That may be chosen.
    pub ready: usize,
    /// That there are.
    pub all: usize,
}

/// What is seen of the mesh at a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// Counts since [`State::counted_since_unix_ms`], as callers saw them.
    pub called: Sides,
    /// The same as the called ones saw it, with copies that are mirrored.
    pub arrived: Sides,
    /// Whether counts were asked for: [`State::counts_at`] says when they are needed.
    pub counted: bool,
    /// Who counted that, where several may.
    pub counted_by: Vec<String>,
    /// Why not all of it is known; nothing is judged then.
    pub uncounted: Option<String>,
    /// Instances of the stable version.
    pub stable: Ready,
    /// Instances of the canary.
    pub canary: Ready,
    /// The split that is in force; none where there is none.
    pub weights: Option<Vec<(String, u32)>>,
    /// What came of actions.
    pub answers: Vec<Answer>,
    /// What somebody wants, and who.
    pub command: Option<(Command, String)>,
}

/// The next state, and what is to be done once it is kept.
pub fn step(spec: &Spec, state: State, seen: &Observation, now: u64) -> (State, Vec<Action>) {
    let before = state.clone();
    let mut machine = Machine {
        spec,
        state,
        seen,
        now,
        told: Vec::new(),
    };
    machine.run();
    let Machine {
        mut state, told, ..
    } = machine;
    let mut actions: Vec<Action> = told.into_iter().map(Action::Tell).collect();
    if !state.applied && state.phase != Phase::Paused {
        actions.push(Action::Route(state.routing.clone()));
    }
    let open = state.calls.iter().filter(|call| call.answer.is_none());
    actions.extend(open.map(|call| Action::Call(call.number)));
    if state != before {
        state.updated_unix_ms = now;
    }
    (state, actions)
}

pub(super) struct Machine<'a> {
    pub(super) spec: &'a Spec,
    pub(super) state: State,
    pub(super) seen: &'a Observation,
    pub(super) now: u64,
    told: Vec<String>,
}

impl Machine<'_> {
    pub(super) fn run(&mut self) {
        self.hear();
        if let Some((command, who)) = &self.seen.command {
            self.obey(*command, who);
        }
        if self.state.phase.is_end() {
            return self.part();
        }
        if let Some(deadline) = self.spec.deadline_ms
            && self.now >= self.state.started_unix_ms.saturating_add(deadline)
            && self.state.phase != Phase::Promoting
        {
            return self.roll_back(format!("it was not over after {}", seconds(deadline)));
        }
        if self.changed_by_others() {
            return;
        }
        match self.state.phase {
            Phase::Initialized => {
                self.state.waits_for = Some(For::Start);
                self.wait();
            }
            Phase::Waiting => self.wait(),
            Phase::Progressing => self.progress(),
            Phase::Promoting if self.state.applied => {
                let reason = format!("{} has all requests", self.spec.canary);
                self.end(Phase::Succeeded, reason);
            }
            _ => {}
        }
    }

    /// What came of actions.
    pub(super) fn hear(&mut self) {
        for answer in &self.seen.answers {
            match answer {
                Answer::Routed(Ok(())) => {
                    self.state.applied = true;
                    self.state.before = None;
                    self.state.stuck_since_unix_ms = None;
                    self.state.message.clear();
                }
                Answer::Routed(Err(why)) => {
                    let since = *self.state.stuck_since_unix_ms.get_or_insert(self.now);
                    self.state.message.clone_from(why);
                    if self.now.saturating_sub(since) >= self.spec.patience()
                        && !self.state.phase.is_end()
                    {
                        let reason = format!("requests cannot be routed: {why}");
                        self.give_up(reason);
                    }
                }
                Answer::Hook {
                    number,
                    yes,
                    message,
                } => {
                    let call = self.state.calls.iter_mut();
                    if let Some(call) = call.into_iter().find(|call| call.number == *number) {
                        call.answer = Some((*yes, message.clone()));
                    }
                }
            }
        }
    }

    pub(super) fn obey(&mut self, command: Command, who: &str) {
        let phase = self.state.phase;
        match command {
            Command::Pause if !phase.is_end() && phase != Phase::Paused => {
                self.pause(format!("{who} paused it"));
            }
            Command::Resume if phase == Phase::Paused => {
                self.state.phase = self.state.paused_in.take().unwrap_or(Phase::Progressing);
                self.say(format!("{who} let it go on"));
                // What was counted meanwhile was under weights that may not have been ours.
                if !self.state.routing.weights.is_empty() {
                    self.state.applied = false;
                    self.state.before = None;
                }
                self.state.window.undecided_since_unix_ms = self.now;
                self.reopen();
            }
            Command::Resume if phase == Phase::Waiting => {
                let waits_for = self.state.waits_for;
                self.say(format!("{who} let it go on"));
                match waits_for {
                    Some(For::Gate(at)) => self.increase(at),
                    Some(For::LastGate) => self.confirm(),
                    _ => {}
                }
            }
            Command::Promote if !phase.is_end() => {
                self.close_step(StepState::Skipped);
                for step in &mut self.state.steps {
                    if step.state == StepState::Pending {
                        step.state = StepState::Skipped;
                    }
                }
                self.promote(format!("{who} promoted it"));
            }
            Command::Abort if !phase.is_end() => {
                self.close_step(StepState::Stopped);
                self.end(Phase::RolledBack, format!("{who} aborted it"));
            }
            Command::Undo if phase == Phase::Succeeded => {
                self.state.parted = true;
                self.state.calls.clear();
                self.route(Routing::only(self.spec, false));
                self.state.phase = Phase::RolledBack;
                self.state.ended_unix_ms = Some(self.now);
                self.say(format!("{who} undid it: back to {}", self.spec.stable));
            }
            _ => {}
        }
    }

    /// Somebody else set other weights: theirs stay, and a person decides.
    pub(super) fn changed_by_others(&mut self) -> bool {
        if self.state.phase == Phase::Paused || self.state.routing.weights.is_empty() {
            return false;
        }
        let found = self.seen.weights.as_deref().unwrap_or_default();
        let ours = self.state.routing.is(found);
        let earlier = !self.state.applied
            && match &self.state.before {
                Some(before) => before.is(found) || (before.weights.is_empty() && found.is_empty()),
                None => true,
            };
        if ours || earlier {
            return false;
        }
        let words: Vec<String> = found
            .iter()
            .map(|(version, weight)| format!("{version}={weight}"))
            .collect();
        let now = if words.is_empty() {
            "there is no split any more".to_owned()
        } else {
            format!("they are {}", words.join(" "))
        };
        self.pause(format!(
            "somebody else changed the weights: {now}. `resume` sets {} % again, `abort` ends it",
            self.state.weight(self.spec)
        ));
        true
    }

    pub(super) fn roll_back(&mut self, why: String) {
        self.close_step(StepState::Failed);
        self.end(Phase::RolledBack, why);
    }

    pub(super) fn give_up(&mut self, why: String) {
        self.close_step(StepState::Failed);
        self.end(Phase::Inconclusive, why);
    }

    /// The end; a run that did not succeed goes back first.
    pub(super) fn end(&mut self, phase: Phase, why: String) {
        self.state.phase = phase;
        self.state.waits_for = None;
        self.state.paused_in = None;
        self.state.calls.clear();
        self.state.ended_unix_ms = Some(self.now);
        // What never was routed need not be routed back.
        if phase != Phase::Succeeded && !self.state.routing.weights.is_empty() {
            self.route(Routing::only(self.spec, false));
        }
        self.say(why);
        self.part();
    }

    /// `post-rollout`, once all is where it belongs. Its answers change nothing.
    pub(super) fn part(&mut self) {
        if !self.state.applied || self.state.is_done() {
            return;
        }
        if !self.state.parted {
            self.state.parted = true;
            let _asked = ask(self.spec, &mut self.state, HookKind::PostRollout, self.now);
        }
        self.state.calls.retain(|call| call.answer.is_none());
    }

    pub(super) fn pause(&mut self, why: String) {
        self.state.paused_in = Some(self.state.phase);
        self.state.phase = Phase::Paused;
        self.say(why);
    }

    pub(super) fn route(&mut self, routing: Routing) {
        if self.state.routing == routing && self.state.applied {
            return;
        }
        let before = std::mem::replace(&mut self.state.routing, routing);
        if self.state.applied {
            // The first split stands where there was none, or another's.
            if !before.weights.is_empty() {
                self.state.before = Some(before);
            } else if self.state.before.is_none() {
                self.state.before = Some(Routing::default());
            }
        } else {
            // Which of the two is in force is not known.
            self.state.before = None;
        }
        self.state.applied = false;
        self.state.stuck_since_unix_ms = None;
    }

    pub(super) fn close_step(&mut self, state: StepState) {
        if let Some(step) = self.state.steps.get_mut(self.state.step)
            && step.state == StepState::Running
        {
            step.state = state;
            step.ended_unix_ms = Some(self.now);
        }
    }

    /// Why it stands as it stands.
    pub(super) fn explain(&mut self, reason: String) {
        self.state.reason = reason;
    }

    /// The same, and people are told.
    pub(super) fn say(&mut self, reason: String) {
        self.told.push(reason.clone());
        self.explain(reason);
    }
}

/// A time in words.
fn seconds(ms: u64) -> String {
    format!("{} s", ms / 1_000)
}
