//! Routes of a run: as `canary set` writes them, and taken by the proxies.

use std::time::Duration;

use serde_json::Value;

use super::Run;
use crate::api::{Problem, Reason};
use crate::control::Control;
use crate::control::canary;
use crate::control::index::Edit;
use crate::control::report::{find_service, services, short};
use crate::mesh::rollout::Routing;
use crate::mesh::shadow::Comparison;
use crate::mesh::{Service, World};
use crate::resource::policy::{shadow_name, shadow_object};
use crate::resource::{self, Key};
use crate::rt::now;

/// How long proxies have to take a change. One that does not is told of by `meshctl proxies`; the run goes on.
const TAKEN: Duration = Duration::from_secs(5);

/// The split of a service as it is; none where there is none.
pub(super) async fn current(
    control: &Control,
    world: &World,
    service: &Service,
) -> Option<Vec<(String, u32)>> {
    let apart = canary::versions(service, world.config.services.values().map(AsRef::as_ref));
    let routes = control.splitting().await;
    if let Some((split, _)) = canary::current_of_routes(service, &apart, &routes) {
        return Some(split);
    }
    let rules = control.raw("VirtualService").await;
    let (split, _) = canary::current(service, &rules)?;
    Some(split)
}

/// The ShadowDiff of somebody else that is for the service of a run.
async fn foreign(control: &Control, (namespace, service): (&str, &str)) -> Option<String> {
    let ours = shadow_name(service);
    let text = |object: &Value, at: &str| {
        let found = object.pointer(at).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let all = control.raw("ShadowDiff").await;
    let names = all.iter().filter(|object| {
        text(object, "/spec/service") == service && text(object, "/metadata/namespace") == namespace
    });
    let mut names = names.map(|object| text(object, "/metadata/name"));
    names.find(|name| *name != ours)
}

/// Refuses to compare where somebody compares already: of two for one service, one has no effect.
pub(super) async fn comparable(
    control: &Control,
    (namespace, service): (&str, &str),
) -> Result<(), Problem> {
    let Some(name) = foreign(control, (namespace, service)).await else {
        return Ok(());
    };
    let message = format!(
        "ShadowDiff {namespace}/{name} compares answers of {service} already, and of two one has no effect"
    );
    Err(Problem::new(Reason::Invalid, message).hint(
        "give its rules to the canary (--diff-header, --diff-ignore), and delete it meanwhile",
    ))
}

/// What is to be written, or removed, so that answers to copies are compared or are not.
async fn comparing(
    control: &Control,
    run: &Run,
    routing: &Routing,
) -> Result<(Option<Value>, Option<Key>), Problem> {
    if let (true, Some(shadow)) = (routing.compare, &run.spec.shadow) {
        comparable(control, (&run.namespace, &run.service)).await?;
        let how = Comparison {
            version: Some(run.spec.canary.clone()),
            ..shadow.compare.clone()
        };
        let object = shadow_object(&run.namespace, &run.service, &how);
        return Ok((Some(object), None));
    }
    let key = Key {
        kind: "ShadowDiff".to_owned(),
        namespace: run.namespace.clone(),
        name: shadow_name(&run.service),
    };
    let state = control.index.state.lock().await;
    let there = state.written().any(|object| object.key() == key);
    Ok((None, there.then_some(key)))
}

/// Makes requests go as `routing` says, and waits until proxies do so.
pub(super) async fn route(control: &Control, run: &Run, routing: &Routing) -> Result<(), Problem> {
    let world = control.index.world();
    let service = find_service(&world, &run.service, &run.namespace).ok_or_else(|| {
        Problem::new(
            Reason::NotFound,
            format!("service {}.{} is gone", run.service, run.namespace),
        )
    })?;
    let versions = services::versions(&world, service);
    let apart = canary::versions(service, world.config.services.values().map(AsRef::as_ref));
    let request = crate::api::canary::CanarySet {
        weights: routing.weights.clone(),
        matches: Vec::new(),
        who: String::new(),
    };
    let splitting = control.splitting().await;
    let shift = match canary::shift_routes(service, &apart, &splitting, &request)? {
        Some(shift) if canary::is_plain(routing) => shift,
        Some(_) => {
            return Err(Problem::new(
                Reason::Invalid,
                format!(
                    "routes of the Gateway API split {}, and rollouts write headers, cookies and copies into a VirtualService only",
                    short(service)
                ),
            )
            .hint("roll out by weights alone"));
        }
        None => {
            let (routes, rules) = (
                control.raw("VirtualService").await,
                control.raw("DestinationRule").await,
            );
            canary::route(service, &routes, &rules, &versions, routing)?
        }
    };
    let (compared, gone) = comparing(control, run, routing).await?;
    let mut put = Vec::new();
    for object in shift.objects.iter().chain(&compared) {
        let (object, findings) = resource::from_value(object, "canary");
        let Some(object) = object else {
            let mut problem = Problem::new(Reason::Internal, "the split cannot be written");
            problem.findings = findings;
            return Err(problem);
        };
        put.push(object);
    }
    let words: Vec<String> = routing
        .weights
        .iter()
        .map(|(version, weight)| format!("{version}={weight}"))
        .collect();
    let since = now();
    let changed = control
        .change(Edit {
            put,
            remove: gone.into_iter().collect(),
            who: run.who.clone(),
            what: format!("canary {}: {}", run.service, words.join(" ")),
            ..Edit::default()
        })
        .await?;
    let taken = control
        .hub
        .wait_acked(changed.generation, since, TAKEN)
        .await;
    let late = taken.iter().filter(|one| one.latency_ms.is_none()).count();
    if late > 0 {
        tracing::warn!(late, service = %short(service), "proxies have not taken the weights of a canary");
    }
    Ok(())
}
