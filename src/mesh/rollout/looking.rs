//! A step under way: windows of counts, what each shows, and what follows.

use super::counts::Sides;
use super::hooks::{Said, any, ask, forget};
use super::judge::{CERTAIN, Measure, Verdict, assured, assured_copies, judge};
use super::machine::Machine;
use super::spec::{HookKind, NoData};
use super::state::{StepState, Window};

/// Counts are asked for since no earlier than this before: older ones are kept in longer slots.
const RECOUNT_MS: u64 = 30 * 60_000;

impl Machine<'_> {
    /// A step under way.
    pub(super) fn progress(&mut self) {
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
        if self
            .state
            .steps
            .get(at)
            .is_some_and(|step| step.started_unix_ms.is_none())
        {
            if let Some(step) = self.state.steps.get_mut(at) {
                step.started_unix_ms = Some(self.now);
            }
            self.state.window.undecided_since_unix_ms = self.now;
            return self.reopen();
        }
        if !self.seen.counted || self.uncounted() {
            return;
        }
        let Some(base) = &self.state.window.base else {
            self.state.window.base = Some(sides.clone());
            self.state.window.since_unix_ms = self.now;
            self.state.window.by.clone_from(&self.seen.counted_by);
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
            if self
                .state
                .calls
                .iter()
                .any(|call| call.kind == HookKind::Rollback && call.answer.is_none())
            {
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

    /// Whether there is nothing to judge by, as who counts did not tell, or is another than before: what one told that is
    /// gone, or that has come since, would be a judgement of some requests.
    fn uncounted(&mut self) -> bool {
        let window = &self.state.window;
        if window.base.is_some() && self.now < window.look_unix_ms {
            return false;
        }
        if let Some(why) = self.seen.uncounted.clone() {
            if self.waited() {
                self.give_up(why);
            } else {
                self.explain(format!("{why}; the step waits"));
            }
            return true;
        }
        if window.base.is_some() && window.by != self.seen.counted_by {
            let reason = format!(
                "counted anew, as other replicas of the control plane count: {}",
                self.seen.counted_by.join(", ")
            );
            if self.waited() {
                self.give_up(reason);
            } else {
                self.say(reason);
                self.reopen();
            }
            return true;
        }
        false
    }

    /// What a window shows, and what follows.
    pub(super) fn look(&mut self, window: &Sides, refusal: Option<String>) {
        let mirrored = self.spec.steps.get(self.state.step);
        let mirrored = mirrored.is_some_and(|stage| stage.mirror);
        let since = self.state.window.since_unix_ms;
        let lasted = self.now.saturating_sub(since);
        let measures = judge(self.spec, (window, lasted), mirrored);
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
    pub(super) fn no_data(&mut self, window: &Sides, why: String) {
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

    pub(super) fn passed(&mut self, window: &Sides) {
        self.close_window(window);
        self.state.window.undecided_since_unix_ms = self.now;
        let started = self.state.steps.get(self.state.step);
        let started = started
            .and_then(|step| step.started_unix_ms)
            .unwrap_or(self.now);
        if self.now < started.saturating_add(self.spec.bake()) {
            return self.explain(format!("step {} is good so far", self.state.step + 1));
        }
        let next = self.state.step + 1;
        if self.spec.on_no_data != NoData::Pass
            && let Err(why) = self.certain(next)
        {
            let late = started
                .saturating_add(self.spec.bake())
                .saturating_add(self.spec.patience());
            if self.now >= late {
                return self.give_up(why);
            }
            return self.explain(format!("{why}: more will tell"));
        }
        self.close_step(StepState::Passed);
        if next < self.spec.steps.len() {
            self.enter(next);
        } else {
            self.last_gate();
        }
    }

    /// Whether enough was seen to leave a step behind: for the last copies, and for promotion.
    fn certain(&self, next: usize) -> Result<(), String> {
        let mirrors = |at: usize| self.spec.steps.get(at).is_some_and(|stage| stage.mirror);
        if let Some(shadow) = &self.spec.shadow
            && mirrors(self.state.step)
            && !mirrors(next)
        {
            assured_copies(shadow, &self.state.pooled.copies)?;
        }
        if next < self.spec.steps.len() {
            return Ok(());
        }
        assured(self.spec, &self.state.pooled.canary)
    }

    /// A failed check; a certain one needs no others.
    pub(super) fn failed(&mut self, why: String, certain: bool) {
        self.state.failures = self.state.failures.saturating_add(1);
        self.state.window.undecided_since_unix_ms = self.now;
        let (failures, most) = (self.state.failures, self.spec.max_failures);
        if certain || failures >= most {
            return self.roll_back(why);
        }
        self.say(format!("{why}: failed check {failures} of {most}"));
    }

    /// A new window, whose counts begin with the next observation.
    pub(super) fn reopen(&mut self) {
        self.state.counted_since_unix_ms = self.now;
        self.state.window = Window {
            base: None,
            since_unix_ms: 0,
            by: Vec::new(),
            look_unix_ms: self.now.saturating_add(self.spec.interval_ms),
            undecided_since_unix_ms: self.state.window.undecided_since_unix_ms,
        };
    }

    /// What was counted is used up; what comes from here on is the next window's.
    pub(super) fn close_window(&mut self, window: &Sides) {
        self.state.pooled.add(window);
        if self.now.saturating_sub(self.state.counted_since_unix_ms) > RECOUNT_MS {
            return self.reopen();
        }
        if let Some(base) = &mut self.state.window.base {
            base.add(window);
            self.state.window.since_unix_ms = self.now;
        }
        self.next_look();
    }

    pub(super) fn next_look(&mut self) {
        self.state.window.look_unix_ms = self.now.saturating_add(self.spec.interval_ms);
    }

    /// Whether nothing could be decided for as long as the specification bears.
    pub(super) fn waited(&mut self) -> bool {
        let since = &mut self.state.window.undecided_since_unix_ms;
        if *since == 0 {
            *since = self.now;
        }
        self.now.saturating_sub(*since) >= self.spec.patience()
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
