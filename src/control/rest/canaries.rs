//! Splits: what they are, and shifting them.

use axum::Json;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Path, State};

use super::peer::Peer;
use super::{Answer, Shared, converge, known};
use crate::aggregate::{self, GroupBy};
use crate::api::canary::{CanaryReport, CanarySet, CanaryStatus, VersionStatus, VersionWeight};
use crate::api::{Problem, Reason};
use crate::control::Control;
use crate::control::canary;
use crate::control::cluster::Changed;
use crate::control::index::Edit;
use crate::control::report::services::{self, instances};
use crate::control::report::{routes, short};
use crate::mesh::{Health, Service, World};
use crate::resource;
use crate::rt::now;

pub(super) async fn canary_set(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<CanarySet>,
) -> Answer<CanaryReport> {
    let world = control.index.world();
    let service = known(&world, &name, &namespace)?;
    let versions = services::versions(&world, service);
    let (routes, rules) = (
        control.raw("VirtualService").await,
        control.raw("DestinationRule").await,
    );
    // Routes of the Gateway API go before, as they do for callers.
    let apart = canary::versions(service, world.config.services.values().map(AsRef::as_ref));
    let splitting = control.splitting().await;
    let shift = match canary::shift_routes(service, &apart, &splitting, &request)? {
        Some(shift) => shift,
        None => canary::shift(service, &routes, &rules, &versions, &request)?,
    };
    let mut put = Vec::new();
    for object in &shift.objects {
        let (object, findings) = resource::from_value(object, "canary set");
        let Some(object) = object else {
            let mut problem = Problem::new(Reason::Internal, "the split cannot be written");
            problem.findings = findings;
            return Err(problem.into());
        };
        put.push(object);
    }
    let words: Vec<String> = request
        .weights
        .iter()
        .map(|(version, weight)| format!("{version}={weight}"))
        .collect();
    let since = now();
    let Changed {
        report,
        generation,
        written,
    } = control
        .change(Edit {
            put,
            who: peer.for_whom(&request.who),
            what: format!("canary set {name} {}", words.join(" ")),
            ..Edit::default()
        })
        .await?;
    let convergence = converge(&control, generation, since).await;
    Ok(Json(CanaryReport {
        service: short(service),
        before: weights(&world, service, &shift.before),
        after: weights(&world, service, &shift.after),
        objects: report.objects,
        revision: report.revision,
        convergence,
        written,
    }))
}

fn weights(world: &World, service: &Service, split: &[(String, u32)]) -> Vec<VersionWeight> {
    let sum = split.iter().map(|(_, weight)| u64::from(*weight)).sum();
    split
        .iter()
        .map(|(version, weight)| VersionWeight {
            version: version.clone(),
            weight: *weight,
            share_percent: aggregate::report::percent(u64::from(*weight), sum).unwrap_or(0.0),
            ready: instances(world, service)
                .filter(|instance| {
                    instance.canonical_revision() == version && instance.health == Health::Healthy
                })
                .count(),
        })
        .collect()
}

pub(super) async fn canaries(State(control): Shared) -> Answer<Vec<CanaryStatus>> {
    let world = control.index.world();
    let mut out = Vec::new();
    for service in world.config.services.values() {
        if let Some(status) = control.split_of(&world, service).await {
            out.push(status);
        }
    }
    Ok(Json(out))
}

pub(super) async fn canary_status(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
) -> Answer<CanaryStatus> {
    let world = control.index.world();
    let service = known(&world, &name, &namespace)?;
    let status = control.split_of(&world, service).await.ok_or_else(|| {
        Problem::new(
            Reason::NotFound,
            format!("the requests to {} are not split", short(service)),
        )
        .hint(format!(
            "split them with `meshctl canary set {name} v1=90 v2=10`"
        ))
    })?;
    Ok(Json(status))
}

impl Control {
    /// Routes of the Gateway API for requests.
    pub(in crate::control) async fn splitting(&self) -> Vec<serde_json::Value> {
        let mut routes = self.raw("HTTPRoute").await;
        routes.extend(self.raw("GRPCRoute").await);
        routes
    }

    /// Objects of `kind`, as they were written.
    pub(in crate::control) async fn raw(&self, kind: &str) -> Vec<serde_json::Value> {
        let objects = self.index.objects(kind, None, None).await;
        objects.into_iter().map(|report| report.object).collect()
    }

    pub(super) fn measured(&self, world: &World) -> routes::Measured {
        self.numbers
            .measured(world.config.services.values().map(|service| short(service)))
    }

    async fn split_of(&self, world: &World, service: &Service) -> Option<CanaryStatus> {
        let apart = canary::versions(service, world.config.services.values().map(AsRef::as_ref));
        let routes = self.splitting().await;
        let found = canary::current_of_routes(service, &apart, &routes);
        let (split, origin) = if let Some(found) = found {
            found
        } else {
            let rules = self.raw("VirtualService").await;
            let (split, name) = canary::current(service, &rules)?;
            (split, format!("VirtualService {name}"))
        };
        let kind = origin.split(' ').next().unwrap_or_default();
        let changed_unix_ms = self
            .index
            .objects(kind, None, None)
            .await
            .iter()
            .find(|report| origin == format!("{kind} {}/{}", report.namespace, report.name))
            .map_or(0, |report| report.changed_unix_ms);
        let query = aggregate::Query {
            window_ms: 60_000,
            service: Some(short(service)),
            by: vec![GroupBy::Version],
            ..aggregate::Query::default()
        };
        let rows = self.numbers.report(&query).rows;
        let total: u64 = rows.iter().map(|row| row.requests).sum();
        let versions = weights(world, service, &split)
            .into_iter()
            .map(|weight| {
                let row = rows.iter().find(|row| row.version == weight.version);
                VersionStatus {
                    measured_percent: aggregate::report::percent(
                        row.map_or(0, |row| row.requests),
                        total,
                    ),
                    requests_per_second: row.map_or(0.0, |row| row.requests_per_second),
                    success_percent: row.and_then(|row| row.success_percent),
                    latency_p99_ms: row.and_then(|row| row.latency_p99_ms),
                    weight,
                }
            })
            .collect();
        Some(CanaryStatus {
            service: short(service),
            versions,
            origin,
            changed_unix_ms,
        })
    }
}
