//! Beginning a run, and what people want of one.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::{Driven, Name, Run, drive, keep, route};
use crate::api::rollouts::{Rollout, Start};
use crate::api::{Problem, Reason};
use crate::control::Control;
use crate::control::report::{services, short};
use crate::mesh::rollout::{Command, Phase, Spec, State};
use crate::mesh::session::is_name;
use crate::mesh::{Protocol, Service, World};
use crate::tls::outside::Anchors;

/// What happens to a run of the same service that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Other {
    /// The new one is refused.
    Stays,
    /// It is aborted.
    Ends,
}

/// Begins a run.
pub(in crate::control) async fn start(
    control: &Control,
    service: (&World, &Service),
    start: Start,
    origin: Option<String>,
    other: Other,
) -> Result<Rollout, Problem> {
    let (world, service) = service;
    let Start { mut spec, who } = start;
    let asked = origin.is_some().then(|| Box::new(spec.clone()));
    let found = complete(control, world, service, &mut spec).await?;
    let name: Name = (service.namespace.clone(), service.name.clone());
    let now = control.wall.millis();
    let mut run = Run {
        namespace: name.0.clone(),
        service: name.1.clone(),
        state: State::new(&spec, found, now),
        spec,
        who,
        events: Vec::new(),
        origin,
        asked,
    };
    run.tell(
        now,
        format!(
            "{} began it: {} to {}",
            run.who, run.spec.stable, run.spec.canary
        ),
    );
    // The map stays locked, so that of two who begin at once one is second.
    let mut runs = control.rollouts.runs.lock().await;
    let before = match runs.get(&name) {
        None => None,
        Some(there) => {
            let mut there = there.lock().await;
            if !there.run.state.phase.is_end() {
                if other == Other::Stays {
                    return Err(busy(&there.run.report()));
                }
                let superseded = Some((Command::Abort, format!("a newer canary ({})", run.who)));
                if let Some(problem) = drive::drive(control, &mut there, superseded).await {
                    return Err(problem);
                }
            }
            if !there.run.state.applied {
                return Err(Problem::new(
                    Reason::Conflict,
                    format!(
                        "the last canary of {} is still being taken back",
                        short(service)
                    ),
                )
                .hint(
                    "try again in a moment; `meshctl canary status` says what stands in its way",
                ));
            }
            Some(there.run.clone())
        }
    };
    keep::keep(control, &run, before.as_ref()).await?;
    let driven = Arc::new(Mutex::new(Driven::new(run)));
    // Whoever looks from now on finds the new one; nobody else has its lock.
    let mut locked = driven.lock().await;
    runs.insert(name, Arc::clone(&driven));
    drop(runs);
    match drive::drive(control, &mut locked, None).await {
        Some(problem) => Err(problem),
        None => Ok(locked.run.report()),
    }
}

/// Finds the version that serves, and says what makes no sense. Gives the split as it is.
pub(super) async fn complete(
    control: &Control,
    world: &World,
    service: &Service,
    spec: &mut Spec,
) -> Result<Option<Vec<(String, u32)>>, Problem> {
    let found = route::current(control, world, service).await;
    let versions = services::versions(world, service);
    if spec.stable.is_empty() {
        spec.stable = serving(service, found.as_deref(), &versions, &spec.canary)?;
    }
    check(service, spec, &versions)?;
    if spec.shadow.is_some() {
        route::comparable(control, (&service.namespace, &service.name)).await?;
    }
    Ok(found)
}

pub(super) fn busy(run: &Rollout) -> Problem {
    Problem::new(
        Reason::Conflict,
        format!(
            "a canary of {}.{} to {} is under way ({}, {} %)",
            run.service,
            run.namespace,
            run.canary,
            run.phase.name(),
            run.weight
        ),
    )
    .hint(format!(
        "end it first: `meshctl canary abort {0}` or `meshctl canary promote {0}`",
        run.service
    ))
}

/// The version that has all requests now.
fn serving(
    service: &Service,
    found: Option<&[(String, u32)]>,
    versions: &BTreeMap<String, usize>,
    canary: &str,
) -> Result<String, Problem> {
    let with_weight: Vec<&String> = found
        .unwrap_or_default()
        .iter()
        .filter(|(version, weight)| *weight > 0 && version != canary && !version.is_empty())
        .map(|(version, _)| version)
        .collect();
    let running: Vec<&String> = versions
        .keys()
        .filter(|version| *version != canary)
        .collect();
    match (with_weight.as_slice(), running.as_slice()) {
        ([only], _) | ([], [only]) => Ok((*only).clone()),
        (several, running) => {
            let all = if several.is_empty() { running } else { several };
            let names: Vec<&str> = all.iter().map(|version| version.as_str()).collect();
            let message = if names.is_empty() {
                format!("no version of {} runs beside {canary}", short(service))
            } else {
                format!(
                    "several versions of {} serve: {}",
                    short(service),
                    names.join(", ")
                )
            };
            Err(Problem::new(Reason::Invalid, message).hint("say which one serves: --from v1"))
        }
    }
}

fn check(
    service: &Service,
    spec: &Spec,
    versions: &BTreeMap<String, usize>,
) -> Result<(), Problem> {
    let invalid = |message: String| Problem::new(Reason::Invalid, message);
    spec.check()
        .map_err(|(message, hint)| invalid(message).hint(hint))?;
    let speaks = |port: &crate::mesh::ServicePort| {
        port.protocol.is_http() || port.protocol == Protocol::Auto
    };
    if !service.ports.iter().any(speaks) {
        return Err(
            invalid(format!("no port of {} speaks HTTP", short(service)))
                .hint("name the port of the Service http, http2 or grpc"),
        );
    }
    for version in [&spec.stable, &spec.canary] {
        if !versions.contains_key(version) {
            let known: Vec<&str> = versions.keys().map(String::as_str).collect();
            return Err(invalid(format!(
                "no instance of {} is of version {version}",
                short(service)
            ))
            .hint(format!("versions that run: {}", known.join(", "))));
        }
    }
    for hook in &spec.hooks {
        if let Some(Err(error)) = hook.ca.as_deref().map(Anchors::read) {
            let name = &hook.name;
            return Err(invalid(format!(
                "the authority of webhook {name} cannot be read: {error}"
            ))
            .hint("certificates as PEM, one behind the other"));
        }
    }
    if let Some(cookie) = &spec.affinity
        && !is_name(cookie)
    {
        return Err(
            invalid(format!("{cookie:?} cannot be the name of a cookie"))
                .hint("letters, digits, - and _, such as shop-version"),
        );
    }
    Ok(())
}

/// Does what somebody wants of the run of a service.
pub(in crate::control) async fn order(
    control: &Control,
    name: &Name,
    command: Command,
    who: String,
) -> Result<Rollout, Problem> {
    let none = || {
        Problem::new(
            Reason::NotFound,
            format!("there is no canary of {}.{}", name.1, name.0),
        )
        .hint(format!(
            "begin one: `meshctl canary start {} --to VERSION`",
            name.1
        ))
    };
    let driven = control.rollouts.find(name).await.ok_or_else(none)?;
    let mut driven = driven.lock().await;
    allowed(command, &driven.run)?;
    match drive::drive(control, &mut driven, Some((command, who))).await {
        Some(problem) => Err(problem),
        None => Ok(driven.run.report()),
    }
}

/// Whether a command means something where the run is.
fn allowed(command: Command, run: &Run) -> Result<(), Problem> {
    let phase = run.state.phase;
    let refused =
        |message: String, hint: String| Err(Problem::new(Reason::Conflict, message).hint(hint));
    let service = &run.service;
    match command {
        Command::Undo if phase != Phase::Succeeded => refused(
            format!(
                "the canary of {service} did not succeed ({}), so there is nothing to undo",
                phase.name()
            ),
            format!("`meshctl canary abort {service}` ends one that is under way"),
        ),
        Command::Undo => Ok(()),
        _ if phase.is_end() => refused(
            format!("the canary of {service} is over ({})", phase.name()),
            format!("begin another: `meshctl canary start {service} --to VERSION`"),
        ),
        Command::Pause if phase == Phase::Paused => refused(
            format!("the canary of {service} is paused already"),
            format!("`meshctl canary resume {service}` lets it go on"),
        ),
        Command::Resume if !matches!(phase, Phase::Paused | Phase::Waiting) => refused(
            format!(
                "the canary of {service} waits for nobody ({})",
                phase.name()
            ),
            format!("see `meshctl canary status {service}`"),
        ),
        _ => Ok(()),
    }
}
