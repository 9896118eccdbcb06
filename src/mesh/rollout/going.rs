//! From step to step: what must be said or ready before each, and the last one.

use super::counts::Counts;
use super::hooks::{Said, ask, forget};
use super::machine::Machine;
use super::routing::Routing;
use super::spec::HookKind;
use super::state::{For, Phase, StepState};

impl Machine<'_> {
    pub(super) fn wait(&mut self) {
        match self.state.waits_for {
            Some(For::Start) => self.begin(),
            Some(For::Increase(at)) => self.increase(at),
            Some(For::Promotion) => self.confirm(),
            // Only a person, or the deadline, ends these.
            Some(For::Gate(_) | For::LastGate) | None => {}
        }
    }

    /// Until the first step may be done.
    pub(super) fn begin(&mut self) {
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
        match ask(
            self.spec,
            &mut self.state,
            HookKind::ConfirmRollout,
            self.now,
        ) {
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
    pub(super) fn hold(&mut self, what: For, reason: String) {
        if self.state.phase != Phase::Waiting || self.state.waits_for != Some(what) {
            self.state.window.undecided_since_unix_ms = self.now;
        }
        self.state.phase = Phase::Waiting;
        self.state.waits_for = Some(what);
        self.explain(reason);
    }

    /// The gate before a step.
    pub(super) fn enter(&mut self, at: usize) {
        if self.spec.steps.get(at).is_some_and(|stage| stage.gate) {
            return self.hold(
                For::Gate(at),
                format!("step {} waits until somebody says `resume`", at + 1),
            );
        }
        self.increase(at);
    }

    /// What webhooks say before a step, and then the step.
    pub(super) fn increase(&mut self, at: usize) {
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
        let copied = self.spec.steps.get(self.state.step);
        if copied.is_some_and(|before| before.mirror) && !stage.mirror {
            // What answers copies well may serve callers badly: it does not vouch for that.
            self.state.pooled.stable = Counts::default();
            self.state.pooled.canary = Counts::default();
        }
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
            let share = match self.spec.mirror_percent {
                None | Some(100) => "all requests".to_owned(),
                Some(percent) => format!("{percent} % of all requests"),
            };
            let canary = &self.spec.canary;
            if self.spec.shadow.is_some() {
                format!("{canary} gets copies of {share}, whose answers are compared")
            } else {
                format!("{canary} gets copies of {share}")
            }
        } else {
            format!("{} gets {} %", self.spec.canary, stage.weight)
        };
        self.say(format!(
            "step {} of {}: {words}",
            at + 1,
            self.spec.steps.len()
        ));
        self.reopen();
        self.state.window.undecided_since_unix_ms = 0;
    }

    pub(super) fn last_gate(&mut self) {
        // Windows that failed were allowed for, but with them the whole may be beyond a bound.
        for metric in &self.spec.metrics {
            let Some(bound) = metric.bound else { continue };
            let of = &metric.metric;
            let value = super::judge::value(of, &self.state.pooled.canary);
            let beyond = value.is_some_and(|value| {
                if of.is_floor() {
                    value < bound
                } else {
                    value > bound
                }
            });
            if let (true, Some(value)) = (beyond, value) {
                let (value, unit) = (super::judge::figure(value), of.unit());
                return self.give_up(format!(
                    "over all steps {of} is {value} {unit}, beyond {bound} {unit}"
                ));
            }
        }
        if let Some(shadow) = &self.spec.shadow
            && let Some(value) = super::judge::different_percent(&self.state.pooled.copies)
            && value > shadow.max_different_percent
        {
            let (value, bound) = (
                super::judge::figure(value),
                super::judge::figure(shadow.max_different_percent),
            );
            return self.give_up(format!(
                "over all steps {value} % of the answers to copies differ, above {bound} %"
            ));
        }
        if self.spec.gate_promotion {
            let reason = "all steps passed; promotion waits until somebody says `resume`";
            return self.hold(For::LastGate, reason.to_owned());
        }
        self.confirm();
    }

    pub(super) fn confirm(&mut self) {
        let kind = HookKind::ConfirmPromotion;
        match ask(self.spec, &mut self.state, kind, self.now) {
            Said::Yes => self.promote("every step passed".to_owned()),
            Said::Pending => self.hold(For::Promotion, "confirm-promotion is asked".to_owned()),
            Said::No(why) => self.hold(For::Promotion, why),
        }
    }

    pub(super) fn promote(&mut self, reason: String) {
        self.state.phase = Phase::Promoting;
        self.state.waits_for = None;
        self.state.calls.clear();
        self.route(Routing::only(self.spec, true));
        self.say(reason);
    }
}
