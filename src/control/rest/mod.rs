//! The REST API: JSON over HTTP, on a Unix socket of mode 0600, and over TLS where that is asked for.
//!
//! Owns paths, parameters and statuses; what is answered is computed by the index, the hub, the
//! series and `report`; who may ask what stands in [`roles`]. Instances elsewhere reach [`registry_routes`] over mutual TLS, where each
//! may speak for itself only.

mod access;
mod authz;
mod canaries;
mod changes;
mod edges;
mod ejections;
mod faults;
mod objects;
pub mod peer;
mod registry;
mod replica;
pub mod roles;
mod rollouts;
mod shadows;
mod stats;
mod tap;
mod traces;
mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router};
use serde::Serialize;
use tokio::time::Instant;

use crate::api::resources::{ApplyReport, ApplyRequest, Convergence};
use crate::api::routes::ExplainRequest;
use crate::api::{PREFIX, Problem, Reason, Version, proxies};
use crate::mesh::{Service, World};
use crate::resource::{self, Key};
use crate::rt::now;

use super::Control;
use super::check;
use super::index::{Edit, Tolerance};
use super::report::{
    caller, explain as explaining, find_service, gateway, routes, services, short,
};
use peer::Peer;
pub use registry::registry_routes;
pub use replica::replica_routes;

/// How long an answer waits for proxies to acknowledge a change.
const CONVERGENCE: Duration = Duration::from_secs(5);
/// Requests larger than this are refused.
const MAX_BODY: usize = 16 << 20;

type Shared = State<Arc<Control>>;
type Parameters = Query<BTreeMap<String, String>>;
type Answer<T> = Result<Json<T>, Refused>;

/// A problem as a response.
#[derive(Debug)]
pub(super) struct Refused(pub(super) Problem);

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let challenge = status == StatusCode::UNAUTHORIZED;
        let mut response = (status, Json(self.0)).into_response();
        if challenge {
            let bearer = HeaderValue::from_static("Bearer realm=\"meshctl\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// All routes below the prefix; `roles` says for whom each is.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<Control>>)> {
    vec![
        ("/ready", get(ready)),
        ("/version", get(version)),
        ("/metrics", get(super::metrics::metrics)),
        ("/resources", get(objects::all).post(apply)),
        ("/resources/{kind}", get(objects::of_kind)),
        ("/resources/{kind}/{namespace}/{name}", delete(remove)),
        ("/convergence", post(changes::convergence)),
        ("/history", get(changes::history)),
        ("/diff", post(changes::diff)),
        ("/rollback", post(changes::rollback)),
        ("/findings", get(findings)),
        ("/analyze", post(changes::analyze)),
        ("/services", get(list_services)),
        ("/endpoints", get(list_endpoints)),
        ("/proxies", get(list_proxies)),
        ("/proxies/{name}/config/{what}", get(config)),
        ("/routes", get(list_routes)),
        ("/routes/explain", post(explain)),
        ("/authz/check", post(authz::check)),
        ("/authz/matrix", get(authz::matrix)),
        ("/authz/suggest", get(authz::suggest)),
        ("/canaries", get(canaries::canaries)),
        (
            "/canaries/{namespace}/{service}",
            get(canaries::canary_status).post(canaries::canary_set),
        ),
        ("/rollouts", get(rollouts::list)),
        (
            "/rollouts/{namespace}/{service}",
            get(rollouts::get).post(rollouts::begin),
        ),
        (
            "/rollouts/{namespace}/{service}/history",
            get(rollouts::history),
        ),
        (
            "/rollouts/{namespace}/{service}/{what}",
            post(rollouts::tell),
        ),
        ("/faults", get(faults::list)),
        (
            "/faults/{namespace}/{service}",
            post(faults::inject).delete(faults::clear),
        ),
        ("/stats", get(stats::stats)),
        ("/series", get(stats::series)),
        ("/edges", get(edges::edges)),
        ("/ejections", get(ejections::ejections)),
        ("/shadows", get(shadows::shadows)),
        ("/tap", get(tap::tap)),
        ("/traces", get(traces::list)),
        ("/traces/{id}", get(traces::one)),
        ("/tokens", get(trust::tokens).post(trust::token)),
        ("/tokens/{id}", delete(trust::revoke_token)),
        ("/audit", get(trust::audit)),
        ("/identities", post(trust::identity)),
        ("/trust", get(trust::report)),
        ("/trust/rotation", post(trust::rotate)),
        ("/trust/revocations", post(trust::revoke)),
        ("/access", get(access::list)),
        ("/access/self", get(access::who)),
        ("/access/tokens", post(access::create)),
        ("/access/grants", post(access::grant)),
        ("/access/{id}", delete(access::revoke)),
        ("/check", get(run_check)),
        (
            "/registry/instances",
            get(registry::list_instances).post(registry::register),
        ),
        (
            "/registry/instances/{namespace}/{name}",
            delete(registry::deregister),
        ),
        (
            "/registry/instances/{namespace}/{name}/heartbeat",
            put(registry::heartbeat),
        ),
    ]
}

/// Everything, for whoever is named by a [`peer::Peer`] in each request's connection.
pub fn router(control: Arc<Control>) -> Router {
    let api = routes()
        .into_iter()
        .fold(Router::new(), |api, (path, handlers)| {
            api.route(path, handlers)
        });
    let guard = axum::middleware::from_fn_with_state(Arc::clone(&control), roles::guard);
    Router::new()
        .route("/ready", get(ready))
        .nest(PREFIX, api)
        .fallback(missing)
        .layer(guard)
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .with_state(control)
}

/// Only whether we serve, for whoever can reach loopback.
pub fn health_routes(control: Arc<Control>) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .with_state(control)
}

async fn missing() -> Refused {
    Refused(Problem::new(Reason::NotFound, "there is no such path"))
}

async fn ready(State(control): Shared) -> (StatusCode, &'static str) {
    if *control.complete.borrow() {
        (StatusCode::OK, "ready\n")
    } else {
        let waiting = "waiting for every source to say what it has; see `meshctl check`\n";
        (StatusCode::SERVICE_UNAVAILABLE, waiting)
    }
}

async fn version(State(control): Shared) -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_unix_ms: control.started_unix_ms,
        revision: control.index.revision().await,
        trust_domain: control.trust.authority().trust_domain().to_owned(),
        xds_address: control.xds_address.to_string(),
        tls_address: control.tls_address.to_string(),
        api_address: control.api_address.map(|address| address.to_string()),
    })
}

async fn apply(
    State(control): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(mut request): Json<ApplyRequest>,
) -> Answer<ApplyReport> {
    kept_here(&control)?;
    let since = now();
    request.who = peer.for_whom(&request.who);
    let (mut report, generation) = control.index.apply(request).await?;
    report.convergence = converge(&control, generation, since).await;
    Ok(Json(report))
}

/// Whether configuration is ours to keep. In a cluster it is the API server's: what one replica kept beside it
/// nobody else would know of.
fn kept_here(control: &Control) -> Result<(), Problem> {
    if control.cluster.is_none() {
        return Ok(());
    }
    let problem = Problem::new(
        Reason::Invalid,
        "configuration of this mesh is kept by the API server of its cluster",
    );
    Err(problem
        .hint("`meshctl apply` with a context of the cluster sends it there, as kubectl does"))
}

/// Waits until the connected proxies took world `generation`; latencies count from `since`.
async fn converge(control: &Control, generation: u64, since: Instant) -> Convergence {
    let answers = control.hub.wait_acked(generation, since, CONVERGENCE).await;
    let mut latencies: Vec<u64> = answers
        .iter()
        .filter_map(|answer| answer.latency_ms)
        .collect();
    latencies.sort_unstable();
    let rejected = answers
        .iter()
        .filter(|answer| answer.outcome == proxies::Outcome::Rejected)
        .map(|answer| {
            format!(
                "{}: {}",
                answer.name,
                answer.reason.as_deref().unwrap_or("refused")
            )
        })
        .collect();
    let ms = |latency: Option<&u64>| {
        latency.map_or(0.0, |ms| Duration::from_millis(*ms).as_secs_f64() * 1_000.0)
    };
    Convergence {
        // One that went away meanwhile takes the change when it comes back.
        proxies: answers
            .iter()
            .filter(|answer| answer.outcome != proxies::Outcome::Disconnected)
            .count(),
        acknowledged: latencies.len(),
        rejected,
        median_ms: ms(latencies.get(latencies.len() / 2)),
        last_ms: ms(latencies.last()),
    }
}

/// `virtualservices`, `vs` and `VirtualService` are one kind.
fn kind_of(text: &str) -> Result<&'static str, Problem> {
    resource::kind_named(text).ok_or_else(|| {
        Problem::new(
            Reason::Invalid,
            format!("{text:?} is not a kind that the mesh reads"),
        )
        .hint(format!("one of {}", resource::kinds().join(", ")))
    })
}

async fn remove(
    State(control): Shared,
    Path((kind, namespace, name)): Path<(String, String, String)>,
    Query(parameters): Parameters,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Answer<ApplyReport> {
    let key = Key {
        kind: kind_of(&kind)?.to_owned(),
        namespace: if resource::namespaced(kind_of(&kind)?) {
            namespace
        } else {
            String::new()
        },
        name,
    };
    kept_here(&control)?;
    let edit = Edit {
        remove: vec![key],
        who: peer.for_whom(parameters.get("who").map_or("", String::as_str)),
        what: "delete".to_owned(),
        tolerance: Tolerance::Everything,
        ..Edit::default()
    };
    let since = now();
    let (mut report, generation) = control.index.change(edit).await?;
    report.convergence = converge(&control, generation, since).await;
    Ok(Json(report))
}

async fn findings(State(control): Shared) -> Json<Vec<crate::mesh::Finding>> {
    Json(control.index.findings().await)
}

async fn list_services(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Json<Vec<crate::api::registry::ServiceReport>> {
    let namespace = parameters.get("namespace").map(String::as_str);
    Json(services::services(&control.index.world(), namespace))
}

async fn list_endpoints(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<Vec<crate::api::registry::EndpointReport>> {
    let world = control.index.world();
    let only = named(&world, &parameters)?;
    let mut rows = services::endpoints(&world, only);
    if let (None, Some(namespace)) = (only, parameters.get("namespace")) {
        rows.retain(|row| is_of(&world, &row.service, namespace));
    }
    crate::api::ejections::mark(&mut rows, &control.numbers.ejected(&world, only));
    Ok(Json(rows))
}

/// The service that parameter `service` names, if there is such a parameter.
fn named<'a>(
    world: &'a World,
    parameters: &BTreeMap<String, String>,
) -> Result<Option<&'a Service>, Problem> {
    match parameters.get("service").filter(|name| !name.is_empty()) {
        None => Ok(None),
        Some(name) => known(world, name, space(parameters)).map(Some),
    }
}

/// Whether the service that reports call `short` is of `namespace`; one that is gone by its name.
fn is_of(world: &World, short: &str, namespace: &str) -> bool {
    find_service(world, short, namespace).map_or_else(
        || short.ends_with(&format!(".{namespace}")),
        |service| service.namespace == namespace,
    )
}

fn space(parameters: &BTreeMap<String, String>) -> &str {
    parameters
        .get("namespace")
        .map_or("default", String::as_str)
}

fn known<'a>(world: &'a World, name: &str, namespace: &str) -> Result<&'a Service, Problem> {
    find_service(world, name, namespace).ok_or_else(|| {
        let mut names: Vec<String> = world.config.services.values().map(|s| short(s)).collect();
        names.truncate(12);
        let problem = Problem::new(
            Reason::NotFound,
            format!("there is no service {name} in namespace {namespace}"),
        );
        if names.is_empty() {
            problem.hint("apply a Service first")
        } else {
            problem.hint(format!("services: {}", names.join(", ")))
        }
    })
}

async fn list_proxies(State(control): Shared) -> Json<Vec<crate::api::proxies::ProxySync>> {
    Json(control.hub.status())
}

async fn config(
    State(control): Shared,
    Path((name, what)): Path<(String, String)>,
) -> Answer<serde_json::Value> {
    let (node, proven) = control.hub.client(&name).ok_or_else(|| {
        Problem::new(Reason::NotFound, format!("no proxy {name} is connected"))
            .hint("see `meshctl proxies`")
    })?;
    let view = control.index.world().view(&node);
    let value = match what.as_str() {
        "listeners" => encode(&view.listeners),
        "routes" => encode(&view.routes),
        "clusters" => encode(&view.clusters),
        "endpoints" => encode(&view.endpoints),
        "all" => encode(&view),
        "secrets" => Ok(serde_json::json!({
            "identity": proven.map(|id| id.to_string()),
            "roots": control.trust.authority().roots().iter().map(crate::tls::fingerprint).collect::<Vec<_>>(),
        })),
        _ => Err(
            Problem::new(Reason::NotFound, format!("a proxy has no {what}"))
                .hint("one of listeners, routes, clusters, endpoints, secrets, all"),
        ),
    }?;
    Ok(Json(value))
}

fn encode(value: &impl Serialize) -> Result<serde_json::Value, Problem> {
    serde_json::to_value(value).map_err(|error| Problem::new(Reason::Internal, error.to_string()))
}

async fn list_routes(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<Vec<crate::api::routes::RouteReport>> {
    let world = control.index.world();
    let measured = control.measured(&world);
    if let Some(named) = parameters.get("gateway") {
        let node = edge(&control, &world, named, space(&parameters))?;
        return Ok(Json(routes::gateway_routes(&world, &node, &measured)));
    }
    let only = named(&world, &parameters)?;
    let node = from(&world, &parameters)?;
    Ok(Json(routes::routes(&world, &node, only, &measured)))
}

/// The gateway that a person names.
fn edge(
    control: &Control,
    world: &World,
    named: &str,
    namespace: &str,
) -> Result<crate::mesh::Node, Problem> {
    gateway(world, control.hub.nodes(), named, namespace).ok_or_else(|| {
        let all = world.config.gateways.keys();
        let all = all.chain(world.config.listening.keys());
        let all: Vec<String> = all.map(|(of, name)| format!("{name}.{of}")).collect();
        let problem = Problem::new(Reason::NotFound, format!("there is no gateway {named}"));
        if all.is_empty() {
            problem.hint("apply a Gateway, or start a proxy with `meshctl proxy --gateway NAME`")
        } else {
            problem.hint(format!("there are {}", all.join(", ")))
        }
    })
}

fn from(
    world: &World,
    parameters: &BTreeMap<String, String>,
) -> Result<crate::mesh::Node, Problem> {
    let from = parameters.get("from").map_or("", String::as_str);
    calling(world, from, space(parameters))
}

fn calling(world: &World, from: &str, namespace: &str) -> Result<crate::mesh::Node, Problem> {
    caller(world, from, namespace).ok_or_else(|| {
        Problem::new(Reason::NotFound, format!("no workload {from} runs"))
            .hint("give the name of a workload or instance, such as productpage-v1.default")
    })
}

async fn explain(
    State(control): Shared,
    Json(request): Json<ExplainRequest>,
) -> Answer<crate::api::routes::ExplainReport> {
    let world = control.index.world();
    let node = if request.gateway.is_empty() {
        let node = calling(&world, &request.from, &request.namespace)?;
        // Whoever is connected has its own way of taking traffic; others are taken for what they would be.
        let name = format!("{}.{}", node.name, node.namespace);
        let connected = control.hub.client(&name);
        connected.map_or(node, |(connected, _)| connected)
    } else {
        edge(&control, &world, &request.gateway, &request.namespace)?
    };
    let measured = control.measured(&world);
    let mut report = explaining::explain_request(&world, &node, &request, &measured)
        .map_err(|reason| Problem::new(Reason::Invalid, reason))?;
    authz::judge(&world, &request, &mut report);
    report.sources = control.index.sources(&explaining::named(&report)).await;
    Ok(Json(report))
}

/// Whether counts are asked for, rather than what they come to.
fn in_parts(parameters: &BTreeMap<String, String>) -> bool {
    parameters.get("parts").is_some_and(|on| on == "true")
}

async fn run_check(State(control): Shared) -> Json<crate::api::check::CheckReport> {
    Json(check::run(&control).await)
}
