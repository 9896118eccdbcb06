//! Routes of a run: as `canary set` writes them, and taken by the proxies.

use std::time::Duration;

use super::Run;
use crate::api::{Problem, Reason};
use crate::control::Control;
use crate::control::canary;
use crate::control::index::Edit;
use crate::control::report::{find_service, services, short};
use crate::mesh::rollout::Routing;
use crate::mesh::{Service, World};
use crate::resource;
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
    let mut put = Vec::new();
    for object in &shift.objects {
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
