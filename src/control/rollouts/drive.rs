//! One turn of one run: seeing, deciding, keeping, doing.

use std::sync::{Arc, PoisonError};

use super::{Driven, keep};
use crate::aggregate::Series;
use crate::aggregate::shadows::MOST_MS;
use crate::api::Problem;
use crate::control::Control;
use crate::control::canary::observe::{Observed, Seen, observe};
use crate::control::cluster::peers::{Counted, Question, counted};
use crate::control::report::services::instances;
use crate::control::report::{find_service, short};
use crate::mesh::rollout::{Action, Answer, Command, Observation, Ready, Sides, step};
use crate::mesh::{Health, Service, World};

/// Turns at once: an action whose answer is there at once is followed by what it allows.
const TURNS: usize = 4;
/// Routes that were refused are tried again after so many milliseconds.
const AGAIN_MS: u64 = 1_000;

/// Goes as far as there is something to do now.
pub(super) async fn drive(
    control: &Control,
    driven: &mut Driven,
    mut command: Option<(Command, String)>,
) -> Option<Problem> {
    let mut answers = driven.heard();
    for _ in 0..TURNS {
        let now = control.wall.millis();
        let seen = Observation {
            answers: std::mem::take(&mut answers),
            command: command.take(),
            ..look(control, driven).await
        };
        let (state, actions) = step(&driven.run.spec, driven.run.state.clone(), &seen, now);
        let changed = state != driven.run.state;
        driven.run.state = state;
        let mut told = Vec::new();
        for action in &actions {
            if let Action::Tell(what) = action {
                driven.run.tell(now, what.clone());
                told.push(what.clone());
            }
        }
        if changed || driven.unkept {
            driven.unkept = true;
            let kept = keep::keep(control, &driven.run, None).await;
            if let Err(problem) = kept {
                // Nothing is done that would be forgotten; it is tried again with the next turn.
                tracing::error!(error = %problem.message, "the state of a canary cannot be kept");
                return Some(problem);
            }
            driven.unkept = false;
        }
        for what in told {
            super::call::event(control, driven, &what);
        }
        for action in actions {
            match action {
                Action::Tell(_) => {}
                Action::Call(number) => super::call::ask(control, driven, number),
                Action::Route(_) if now < driven.routed_again_at => {}
                Action::Route(routing) => {
                    let routed = super::route::route(control, &driven.run, &routing).await;
                    driven.routed_again_at = 0;
                    let routed = routed.map_err(|problem| {
                        tracing::warn!(service = %driven.run.service, error = %problem.message, "a canary cannot route");
                        driven.routed_again_at = now + AGAIN_MS;
                        problem.message
                    });
                    answers.push(Answer::Routed(routed));
                }
            }
        }
        if answers.is_empty() {
            break;
        }
    }
    if !answers.is_empty() {
        let mut inbox = driven.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.append(&mut answers);
    }
    None
}

/// What is seen of the mesh for a run.
async fn look(control: &Control, driven: &mut Driven) -> Observation {
    let revised = control.index.reader().load();
    let (revision, world) = (revised.revision, Arc::clone(&revised.world));
    let run = &driven.run;
    let Some(service) = find_service(&world, &run.service, &run.namespace) else {
        return Observation::default();
    };
    // All routes are read for it, so it is asked for with each world, not with each turn.
    let weights = match &driven.split {
        Some((known, split)) if *known == revision => split.clone(),
        _ => {
            let split = super::route::current(control, &world, service).await;
            driven.split = Some((revision, split.clone()));
            split
        }
    };
    let run = &driven.run;
    // Others are asked for theirs only where something is made of it.
    let due = run.state.counts_at(control.wall.millis());
    let counted = if due {
        let question = Question {
            service: &short(service),
            since_unix_ms: run.state.counted_since_unix_ms,
            places: run.state.routing.compare,
        };
        counted(control, question, run.state.counted_by()).await
    } else {
        Counted::default()
    };
    let Observed {
        mut versions,
        copies,
    } = counted.observed;
    let mut side = |version: &str| versions.remove(version).unwrap_or_default();
    let (stable, canary): (Seen, Seen) = (side(&run.spec.stable), side(&run.spec.canary));
    Observation {
        called: Sides {
            stable: stable.called,
            canary: canary.called,
            ..Sides::default()
        },
        arrived: Sides {
            stable: stable.arrived,
            canary: canary.arrived,
            copies,
        },
        stable: ready(&world, service, &run.spec.stable),
        canary: ready(&world, service, &run.spec.canary),
        weights,
        counted: due,
        counted_by: counted.by,
        uncounted: counted.missing,
        ..Observation::default()
    }
}

impl Control {
    /// What this control plane's proxies told of a service since the hour of a moment.
    pub(in crate::control) fn observed(&self, question: Question<'_>) -> Observed {
        let Question {
            service,
            since_unix_ms,
            places,
        } = question;
        let read = |series: &Series, now| observe(series, service, since_unix_ms, now);
        let seen = self.numbers.read(read);
        if !places {
            return seen;
        }
        seen.with_places(&self.numbers.shadows(Some(service), MOST_MS))
    }
}

/// Instances of a version.
fn ready(world: &Arc<World>, service: &Service, version: &str) -> Ready {
    let mut found = Ready::default();
    for instance in instances(world, service) {
        if instance.canonical_revision() == version {
            found.all += 1;
            found.ready += usize::from(instance.health == Health::Healthy);
        }
    }
    found
}
