//! From one state of a rollout to the next.

use super::counts::Sides;
use super::hooks::{Said, any, ask, forget};
use super::judge::{CERTAIN, Measure, Verdict, judge};
use super::routing::Routing;
use super::spec::{HookKind, NoData, Spec};
use super::state::{For, Phase, State, StepState, Window};

/// Counts are asked for since no earlier than this before: older ones are kept in longer slots.
const RECOUNT_MS: u64 = 30 * 60_000;

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

struct Machine<'a> {
    spec: &'a Spec,
    state: State,
    seen: &'a Observation,
    now: u64,
    told: Vec<String>,
}

impl Machine<'_> {
    fn run(&mut self) {
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
    fn hear(&mut self) {
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

    fn obey(&mut self, command: Command, who: &str) {
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
            Command::Abort if !phase.is_end() => self.roll_back(format!("{who} aborted it")),
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
    fn changed_by_others(&mut self) -> bool {
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

    fn wait(&mut self) {
        match self.state.waits_for {
            Some(For::Start) => self.begin(),
            Some(For::Increase(at)) => self.increase(at),
            Some(For::Promotion) => self.confirm(),
            // Only a person, or the deadline, ends these.
            Some(For::Gate(_) | For::LastGate) | None => {}
        }
    }

    /// Until the first step may be done.
    fn begin(&mut self) {
        let canary = self.seen.canary;
        if canary.ready == 0 {
            let reason = format!(
                "{} has no instance that is ready ({} of {})",
                self.spec.canary, canary.ready, canary.all
            );
            if self.waited() {
                return self.give_up(reason);
            }
            return self.hold(For::Start, reason);
        }
        match ask(self.spec, &mut self.state, HookKind::ConfirmRollout, self.now) {
            Said::Yes => {}
            Said::Pending => return self.hold(For::Start, "confirm-rollout is asked".to_owned()),
            Said::No(why) => return self.hold(For::Start, why),
        }
        match ask(self.spec, &mut self.state, HookKind::PreRollout, self.now) {
            Said::Yes => {}
            Said::Pending => return self.hold(For::Start, "pre-rollout is asked".to_owned()),
            Said::No(why) => {
                self.hold(For::Start, why.clone());
                // Each answer counts once; the question is asked again after an interval.
                if self.state.counted_call != self.state.next_call {
                    self.state.counted_call = self.state.next_call;
                    self.failed(why, false);
                }
                return;
            }
        }
        self.state.calls.clear();
        self.say(format!(
            "{} is tried beside {}",
            self.spec.canary, self.spec.stable
        ));
        self.enter(0);
    }

    /// Waits for something, and says for what once.
    fn hold(&mut self, what: For, reason: String) {
        if self.state.phase != Phase::Waiting || self.state.waits_for != Some(what) {
            self.state.window.undecided_since_unix_ms = self.now;
        }
        self.state.phase = Phase::Waiting;
        self.state.waits_for = Some(what);
        self.explain(reason);
    }

    /// Whether nothing could be decided for as long as the specification bears.
    fn waited(&mut self) -> bool {
        let since = &mut self.state.window.undecided_since_unix_ms;
        if *since == 0 {
            *since = self.now;
        }
        self.now.saturating_sub(*since) >= self.spec.patience()
    }

    /// The gate before a step.
    fn enter(&mut self, at: usize) {
        if self.spec.steps.get(at).is_some_and(|stage| stage.gate) {
            return self.hold(
                For::Gate(at),
                format!("step {} waits until somebody says `resume`", at + 1),
            );
        }
        self.increase(at);
    }

    /// What webhooks say before a step, and then the step.
    fn increase(&mut self, at: usize) {
        if at > 0 {
            let kind = HookKind::ConfirmTrafficIncrease;
            match ask(self.spec, &mut self.state, kind, self.now) {
                Said::Yes => forget(&mut self.state, kind),
                Said::Pending => {
                    return self.hold(
                        For::Increase(at),
                        "confirm-traffic-increase is asked".to_owned(),
                    );
                }
                Said::No(why) => return self.hold(For::Increase(at), why),
            }
        }
        let Some(stage) = self.spec.steps.get(at) else {
            return self.last_gate();
        };
        self.state.step = at;
        self.state.phase = Phase::Progressing;
        self.state.waits_for = None;
        if let Some(step) = self.state.steps.get_mut(at) {
            step.state = StepState::Running;
        }
        let routing = Routing::during(
            self.spec,
            stage.weight,
            stage.mirror,
            self.state.started_unix_ms,
        );
        self.route(routing);
        let words = if stage.mirror {
            format!("{} gets copies of all requests", self.spec.canary)
        } else {
            format!("{} gets {} %", self.spec.canary, stage.weight)
        };
        self.say(format!("step {} of {}: {words}", at + 1, self.spec.steps.len()));
        self.reopen();
        self.state.window.undecided_since_unix_ms = 0;
    }

    /// A new window, whose counts begin with the next observation.
    fn reopen(&mut self) {
        self.state.counted_since_unix_ms = self.now;
        self.state.window = Window {
            base: None,
            look_unix_ms: self.now.saturating_add(self.spec.interval_ms),
            undecided_since_unix_ms: self.state.window.undecided_since_unix_ms,
        };
    }

    /// A step under way.
    fn progress(&mut self) {
        if !self.state.applied {
            return;
        }
        let at = self.state.step;
        let mirror = self.spec.steps.get(at).is_some_and(|stage| stage.mirror);
        let sides = if mirror {
            &self.seen.arrived
        } else {
            &self.seen.called
        };
        if self.state.steps.get(at).is_some_and(|step| step.started_unix_ms.is_none()) {
            if let Some(step) = self.state.steps.get_mut(at) {
                step.started_unix_ms = Some(self.now);
            }
            self.state.window.undecided_since_unix_ms = self.now;
            return self.reopen();
        }
        let Some(base) = &self.state.window.base else {
            self.state.window.base = Some(sides.clone());
            return;
        };
        if self.now < self.state.window.look_unix_ms {
            return;
        }
        let window = sides.since(base);
        if any(self.spec, HookKind::Rollback) {
            // A no is the rule, so each is asked anew with the next look.
            let _all = ask(self.spec, &mut self.state, HookKind::Rollback, self.now);
            let said = self.state.calls.iter().find(|call| {
                call.kind == HookKind::Rollback && matches!(call.answer, Some((true, _)))
            });
            if let Some(hook) = said.and_then(|call| self.spec.hooks.get(call.hook)) {
                return self.roll_back(format!("webhook {} says so", hook.name));
            }
            if self.state.calls.iter().any(|call| {
                call.kind == HookKind::Rollback && call.answer.is_none()
            }) {
                return;
            }
        }
        let refusal = match ask(self.spec, &mut self.state, HookKind::Rollout, self.now) {
            Said::Pending => return,
            Said::Yes => None,
            Said::No(why) => Some(why),
        };
        forget(&mut self.state, HookKind::Rollback);
        forget(&mut self.state, HookKind::Rollout);
        self.look(&window, refusal);
    }

    /// What a window shows, and what follows.
    fn look(&mut self, window: &Sides, refusal: Option<String>) {
        let measures = judge(self.spec, window);
        let worst = worst(&measures);
        if let Some(step) = self.state.steps.get_mut(self.state.step) {
            step.measures = measures;
        }
        if self.seen.stable.ready == 0 {
            // There is nothing to go back to, and nothing to be compared with.
            let reason = format!("{} has no instance that is ready", self.spec.stable);
            if self.waited() {
                return self.pause(reason);
            }
            self.next_look();
            return self.explain(reason);
        }
        if self.seen.canary.ready == 0 {
            self.close_window(window);
            let reason = format!("{} has no instance that is ready", self.spec.canary);
            return self.failed(reason, false);
        }
        if let Some(why) = refusal {
            self.close_window(window);
            return self.failed(why, false);
        }
        let Some(Measure {
            verdict,
            why,
            chance,
            ..
        }) = worst
        else {
            return self.passed(window);
        };
        match verdict {
            Verdict::Pass => self.passed(window),
            Verdict::Fail => {
                self.close_window(window);
                self.failed(why, chance < CERTAIN);
            }
            Verdict::Unproven => {
                if self.waited() {
                    return self.give_up(format!("{why}, which proves nothing"));
                }
                self.next_look();
                self.explain(format!("{why}: more requests will tell"));
            }
            Verdict::NoData => self.no_data(window, why),
        }
    }

    /// Too few requests.
    fn no_data(&mut self, window: &Sides, why: String) {
        if self.spec.on_no_data == NoData::Pass {
            return self.passed(window);
        }
        if !self.waited() {
            self.next_look();
            return self.explain(why);
        }
        match self.spec.on_no_data {
            NoData::Pause => {
                self.state.window.undecided_since_unix_ms = self.now;
                self.pause(format!("{why}, and they do not come"));
            }
            NoData::Fail => {
                self.state.window.undecided_since_unix_ms = self.now;
                self.close_window(window);
                self.failed(format!("{why}, and they do not come"), false);
            }
            NoData::Wait | NoData::Pass => {
                self.give_up(format!("{why}, and they do not come"));
            }
        }
    }

    fn passed(&mut self, window: &Sides) {
        self.close_window(window);
        self.state.window.undecided_since_unix_ms = self.now;
        let started = self.state.steps.get(self.state.step);
        let started = started.and_then(|step| step.started_unix_ms).unwrap_or(self.now);
        if self.now < started.saturating_add(self.spec.bake()) {
            return self.explain(format!("step {} is good so far", self.state.step + 1));
        }
        self.close_step(StepState::Passed);
        let next = self.state.step + 1;
        if next < self.spec.steps.len() {
            self.enter(next);
        } else {
            self.last_gate();
        }
    }

    fn last_gate(&mut self) {
        // Windows that failed were allowed for, but with them the whole may be beyond a bound.
        for metric in &self.spec.metrics {
            let Some(bound) = metric.bound else { continue };
            let of = &metric.metric;
            let value = super::judge::value(of, &self.state.pooled.canary);
            let beyond = value.is_some_and(|value| {
                if of.is_floor() { value < bound } else { value > bound }
            });
            if let (true, Some(value)) = (beyond, value) {
                let (value, unit) = (super::judge::figure(value), of.unit());
                return self.give_up(format!(
                    "over all steps {of} is {value} {unit}, beyond {bound} {unit}"
                ));
            }
        }
        if self.spec.gate_promotion {
            let reason = "all steps passed; promotion waits until somebody says `resume`";
            return self.hold(For::LastGate, reason.to_owned());
        }
        self.confirm();
    }

    fn confirm(&mut self) {
        let kind = HookKind::ConfirmPromotion;
        match ask(self.spec, &mut self.state, kind, self.now) {
            Said::Yes => self.promote("every step passed".to_owned()),
            Said::Pending => self.hold(For::Promotion, "confirm-promotion is asked".to_owned()),
            Said::No(why) => self.hold(For::Promotion, why),
        }
    }

    fn promote(&mut self, reason: String) {
        self.state.phase = Phase::Promoting;
        self.state.waits_for = None;
        self.state.calls.clear();
        self.route(Routing::only(self.spec, true));
        self.say(reason);
    }

    /// A failed check; a certain one needs no others.
    fn failed(&mut self, why: String, certain: bool) {
        self.state.failures = self.state.failures.saturating_add(1);
        self.state.window.undecided_since_unix_ms = self.now;
        let (failures, most) = (self.state.failures, self.spec.max_failures);
        if certain || failures >= most {
            return self.roll_back(why);
        }
        self.say(format!("{why}: failed check {failures} of {most}"));
    }

    fn roll_back(&mut self, why: String) {
        self.close_step(StepState::Failed);
        self.end(Phase::RolledBack, why);
    }

    fn give_up(&mut self, why: String) {
        self.close_step(StepState::Failed);
        self.end(Phase::Inconclusive, why);
    }

    /// The end; a run that did not succeed goes back first.
    fn end(&mut self, phase: Phase, why: String) {
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
    fn part(&mut self) {
        if !self.state.applied || self.state.is_done() {
            return;
        }
        if !self.state.parted {
            self.state.parted = true;
            let _asked = ask(self.spec, &mut self.state, HookKind::PostRollout, self.now);
        }
        self.state.calls.retain(|call| call.answer.is_none());
    }

    fn pause(&mut self, why: String) {
        self.state.paused_in = Some(self.state.phase);
        self.state.phase = Phase::Paused;
        self.say(why);
    }

    fn route(&mut self, routing: Routing) {
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

    /// What was counted is used up; what comes from here on is the next window's.
    fn close_window(&mut self, window: &Sides) {
        self.state.pooled.add(window);
        if self.now.saturating_sub(self.state.counted_since_unix_ms) > RECOUNT_MS {
            return self.reopen();
        }
        if let Some(base) = &mut self.state.window.base {
            base.add(window);
        }
        self.next_look();
    }

    fn next_look(&mut self) {
        self.state.window.look_unix_ms = self.now.saturating_add(self.spec.interval_ms);
    }

    fn close_step(&mut self, state: StepState) {
        if let Some(step) = self.state.steps.get_mut(self.state.step)
            && step.state == StepState::Running
        {
            step.state = state;
            step.ended_unix_ms = Some(self.now);
        }
    }

    /// Why it stands as it stands.
    fn explain(&mut self, reason: String) {
        self.state.reason = reason;
    }

    /// The same, and people are told.
    fn say(&mut self, reason: String) {
        self.told.push(reason.clone());
        self.explain(reason);
    }
}

/// What decides of several: proof first, then what is missing, then doubt.
fn worst(measures: &[Measure]) -> Option<Measure> {
    let rank = |verdict: Verdict| match verdict {
        Verdict::Fail => 0,
        Verdict::NoData => 1,
        Verdict::Unproven => 2,
        Verdict::Pass => 3,
    };
    measures
        .iter()
        .min_by(|a, b| {
            (rank(a.verdict), a.chance)
                .partial_cmp(&(rank(b.verdict), b.chance))
                .unwrap_or(std::cmp::Ordering::Equal)
        })
        .cloned()
}

/// A time in words.
fn seconds(ms: u64) -> String {
    format!("{} s", ms / 1_000)
}
