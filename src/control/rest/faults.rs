//! Faults: injecting them, clearing them, and what there are.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Path, Query, State};

use super::peer::Peer;
use super::{Answer, Shared, converge, known};
use crate::api::faults::{FaultSet, FaultStatus, InjectionReport};
use crate::api::{Problem, Reason};
use crate::control::cluster::Changed;
use crate::control::faults;
use crate::control::index::{Edit, Tolerance};
use crate::control::report::short;
use crate::resource;
use crate::rt::now;

pub(super) async fn inject(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<FaultSet>,
) -> Answer<InjectionReport> {
    let world = control.index.world();
    let service = known(&world, &name, &namespace)?;
    if !service
        .ports
        .iter()
        .any(|port| port.protocol.is_http() || port.protocol == crate::mesh::Protocol::Auto)
    {
        let message = format!(
            "no port of {} speaks HTTP, so no fault can be injected",
            short(service)
        );
        return Err(Problem::new(Reason::Invalid, message)
            .hint("name the port of the Service http, http2 or grpc")
            .into());
    }
    let object = faults::object(service, &request, control.wall.millis())?;
    let (object, findings) = resource::from_value(&object, "fault inject");
    let Some(object) = object else {
        let mut problem = Problem::new(Reason::Invalid, "the fault cannot be injected");
        problem.findings = findings;
        return Err(problem.into());
    };
    let fault = faults::status(&object);
    let since = now();
    let edit = Edit {
        put: vec![object],
        who: peer.for_whom(&request.who),
        what: format!("fault inject {name}"),
        ..Edit::default()
    };
    let changed = control.change(edit).await?;
    let generation = changed.generation;
    let mut report = told(changed, fault);
    report.convergence = converge(&control, generation, since).await;
    Ok(Json(report))
}

pub(super) async fn clear(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
    Query(parameters): Query<BTreeMap<String, String>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Answer<InjectionReport> {
    let key = resource::Key {
        kind: faults::KIND.to_owned(),
        namespace: namespace.clone(),
        name: name.clone(),
    };
    let there = control.index.faults().await;
    if !there
        .iter()
        .any(|fault| fault.service == format!("{name}.{namespace}"))
    {
        let message = format!("no fault is injected into {name}.{namespace}");
        let problem = Problem::new(Reason::NotFound, message);
        return Err(problem.hint("see `meshctl fault list`").into());
    }
    let since = now();
    let edit = Edit {
        remove: vec![key],
        who: peer.for_whom(parameters.get("who").map_or("", String::as_str)),
        what: format!("fault clear {name}"),
        tolerance: Tolerance::Everything,
        ..Edit::default()
    };
    let changed = control.change(edit).await?;
    let generation = changed.generation;
    let mut report = told(changed, None);
    report.convergence = converge(&control, generation, since).await;
    Ok(Json(report))
}

pub(super) async fn list(State(control): Shared) -> Json<Vec<FaultStatus>> {
    Json(control.index.faults().await)
}

fn told(changed: Changed, fault: Option<FaultStatus>) -> InjectionReport {
    let Changed {
        report, written, ..
    } = changed;
    InjectionReport {
        fault,
        objects: report.objects,
        revision: report.revision,
        convergence: report.convergence,
        written,
    }
}
