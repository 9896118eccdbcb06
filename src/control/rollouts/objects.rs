//! Canaries that are written as objects: begun when they come or change, ended when they go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::start::{Other, busy, complete, order, start};
use super::{Name, Run};
use crate::api::rollouts::{Rollout, Start};
use crate::api::{Problem, Reason};
use crate::control::Control;
use crate::control::index::{Edit, Tolerance};
use crate::control::report::services::instances;
use crate::control::report::{find_service, short};
use crate::mesh::rollout::{Command, Spec};
use crate::mesh::{Service, World};
use crate::resource::policy::canary_object;
use crate::resource::{self, Key, Kind, Object};

/// What is asked for by an object, as of when it was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    origin: String,
    name: Name,
    suspended: bool,
    workload: String,
    spec: Spec,
}

fn asked(object: &Object) -> Option<Asked> {
    let Kind::Canary(canary) = &object.body else {
        return None;
    };
    Some(Asked {
        origin: origin_of(&object.key()),
        name: (object.metadata.namespace.clone(), canary.service.clone()),
        suspended: canary.suspended,
        workload: canary.workload.clone(),
        spec: canary.spec.clone(),
    })
}

/// How a run names the object that asked for it.
pub(in crate::control) fn origin_of(key: &Key) -> String {
    format!("{} {}/{}", key.kind, key.namespace, key.name)
}

/// Begins a run by an object, where configuration is the API server's, and waits until it has begun.
pub(in crate::control) async fn write(
    control: &Control,
    (world, service): (&World, &Service),
    begin: &Start,
) -> Result<Rollout, Problem> {
    let name: Name = (service.namespace.clone(), service.name.clone());
    if let Some(there) = control.rollouts.get(&name).await
        && !there.phase.is_end()
    {
        return Err(busy(&there));
    }
    let mut spec = begin.spec.clone();
    complete(control, world, service, &mut spec).await?;
    let object = canary_object(&service.namespace, &service.name, &spec);
    let (object, findings) = resource::from_value(&object, "canary start");
    let Some(object) = object else {
        let mut problem = Problem::new(Reason::Invalid, "the canary cannot be written");
        problem.findings = findings;
        return Err(problem);
    };
    let origin = origin_of(&object.key());
    // One that asks for the same again is no change, so the run before is forgotten with its object.
    let same = control
        .rollouts
        .get(&name)
        .await
        .is_some_and(|run| run.origin.as_ref() == Some(&origin));
    if same {
        let edit = Edit {
            remove: vec![object.key()],
            who: begin.who.clone(),
            what: format!("canary {} begins anew", service.name),
            tolerance: Tolerance::Everything,
            ..Edit::default()
        };
        control.change(edit).await?;
        control.rollouts.runs.lock().await.remove(&name);
    }
    let changed = control
        .change(Edit {
            put: vec![object],
            who: begin.who.clone(),
            what: format!("canary start {}", service.name),
            ..Edit::default()
        })
        .await?;
    for _ in 0..BEGUN_TRIES {
        if let Some(run) = control.rollouts.get(&name).await
            && run.origin.as_ref() == Some(&origin)
        {
            return Ok(Rollout {
                written: changed.written,
                ..run
            });
        }
        tokio::time::sleep(BEGUN_PAUSE).await;
    }
    Err(Problem::new(
        Reason::Unknown,
        format!(
            "the canary of {} was written, and has not begun",
            short(service)
        ),
    )
    .hint(format!(
        "`meshctl canary status {}` says how it stands",
        service.name
    )))
}

/// How long is waited for a run to begin: five seconds.
const BEGUN_TRIES: u32 = 50;
const BEGUN_PAUSE: Duration = Duration::from_millis(100);

/// Has runs follow the objects.
pub(super) async fn follow(control: &Control) {
    let wanted: Vec<Asked> = {
        let state = control.index.state.lock().await;
        state.written().filter_map(asked).collect()
    };
    let runs = known(control).await;
    let world = control.index.world();
    for one in &wanted {
        if one.suspended {
            continue;
        }
        let Some(service) = find_service(&world, &one.name.1, &one.name.0) else {
            continue;
        };
        let Some(spec) = resolved(&world, service, one) else {
            continue;
        };
        let run = runs.get(&one.name);
        let done = run.is_some_and(|run| {
            run.origin.as_ref() == Some(&one.origin) && run.asked.as_deref() == Some(&spec)
        });
        if done {
            continue;
        }
        // One of a person is theirs, and goes first.
        if run.is_some_and(|run| run.origin.is_none() && !run.state.phase.is_end()) {
            continue;
        }
        let request = Start {
            spec,
            who: one.origin.clone(),
        };
        let begun = start(
            control,
            (&world, service),
            request,
            Some(one.origin.clone()),
            Other::Ends,
        )
        .await;
        if let Err(problem) = begun {
            control.rollouts.held_up(&one.origin, &problem.message);
        }
    }
    for (name, run) in &runs {
        let Some(origin) = &run.origin else { continue };
        if !run.state.phase.is_end() && !wanted.iter().any(|one| one.origin == *origin) {
            let who = format!("{origin} was deleted, which");
            if let Err(problem) = order(control, name, Command::Abort, who).await {
                tracing::warn!(%origin, error = %problem.message, "a canary whose object is gone does not end");
            }
        }
    }
}

async fn known(control: &Control) -> BTreeMap<Name, Run> {
    let all: Vec<_> = {
        let runs = control.rollouts.runs.lock().await;
        runs.iter()
            .map(|(name, run)| (name.clone(), Arc::clone(run)))
            .collect()
    };
    let mut found = BTreeMap::new();
    for (name, run) in all {
        found.insert(name, run.lock().await.run.clone());
    }
    found
}

/// The specification with the version that the workload runs; none while that is not known, or serves already.
fn resolved(world: &World, service: &Service, asked: &Asked) -> Option<Spec> {
    if asked.workload.is_empty() {
        return Some(asked.spec.clone());
    }
    let mut of_workload = instances(world, service).filter(|one| one.workload == asked.workload);
    let version = of_workload.next()?.canonical_revision().to_owned();
    Some(Spec {
        canary: version,
        ..asked.spec.clone()
    })
}
