//! The REST API: JSON over HTTP, on a Unix socket of mode 0600.
//!
//! Owns paths, parameters and statuses; what is answered is computed by the index, the hub, the
//! series and `report`. Instances elsewhere reach [`registry_routes`] over mutual TLS, where each
//! may speak for itself only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Json, Router};
use serde::Serialize;
use tokio::time::Instant;

use crate::aggregate::{self, GroupBy};
use crate::api::canary::{CanaryReport, CanarySet, CanaryStatus, VersionStatus, VersionWeight};
use crate::api::identity::{IdentityRequest, TokenRequest};
use crate::api::registry::Registration;
use crate::api::resources::{ApplyReport, ApplyRequest, Convergence};
use crate::api::routes::ExplainRequest;
use crate::api::{PREFIX, Problem, Reason, Version, proxies};
use crate::mesh::{Health, Service, World};
use crate::resource::{self, Key};
use crate::rt::now;

use super::Control;
use super::index::Edit;
use super::report::services::instances;
use super::report::{caller, find_service, routes, services, short};
use super::serve_tls::PeerIdentity;
use super::{canary, check};

/// How long an answer waits for proxies to acknowledge a change.
const CONVERGENCE: Duration = Duration::from_secs(5);
/// Requests larger than this are refused.
const MAX_BODY: usize = 16 << 20;

type Shared = State<Arc<Control>>;
type Parameters = Query<BTreeMap<String, String>>;
type Answer<T> = Result<Json<T>, Refused>;

/// A problem as a response.
#[derive(Debug)]
struct Refused(Problem);

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// Everything, for the owner of the Unix socket.
pub fn router(control: Arc<Control>) -> Router {
    let api = Router::new()
        .route("/ready", get(ready))
        .route("/version", get(version))
        .route("/resources", post(apply))
        .route("/resources/{kind}", get(list))
        .route("/resources/{kind}/{namespace}/{name}", delete(remove))
        .route("/history", get(history))
        .route("/findings", get(findings))
        .route("/services", get(list_services))
        .route("/endpoints", get(list_endpoints))
        .route("/proxies", get(list_proxies))
        .route("/proxies/{name}/config/{what}", get(config))
        .route("/routes", get(list_routes))
        .route("/routes/explain", post(explain))
        .route("/canaries", get(canaries))
        .route(
            "/canaries/{namespace}/{service}",
            get(canary_status).post(canary_set),
        )
        .route("/stats", get(stats))
        .route("/tokens", post(token))
        .route("/identities", post(identity))
        .route("/check", get(run_check))
        .route("/registry/instances", get(list_instances).post(register))
        .route("/registry/instances/{namespace}/{name}", delete(deregister))
        .route(
            "/registry/instances/{namespace}/{name}/heartbeat",
            put(heartbeat),
        );
    Router::new()
        .route("/ready", get(ready))
        .nest(PREFIX, api)
        .fallback(missing)
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .with_state(control)
}

/// The registry, for instances that show a certificate of the mesh.
pub fn registry_routes(control: Arc<Control>) -> Router {
    let api = Router::new()
        .route("/registry/instances", post(register_self))
        .route(
            "/registry/instances/{namespace}/{name}",
            delete(deregister_self),
        )
        .route(
            "/registry/instances/{namespace}/{name}/heartbeat",
            put(heartbeat_self),
        );
    Router::new()
        .nest(PREFIX, api)
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
        .with_state(control)
}

/// Only whether we serve, for whoever can reach loopback.
pub fn health_routes() -> Router {
    Router::new().route("/ready", get(ready))
}

async fn missing() -> Refused {
    Refused(Problem::new(Reason::NotFound, "there is no such path"))
}

async fn ready() -> &'static str {
    "ready\n"
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
    })
}

async fn apply(State(control): Shared, Json(request): Json<ApplyRequest>) -> Answer<ApplyReport> {
    let since = now();
    let (mut report, generation) = control.index.apply(request).await?;
    report.convergence = converge(&control, generation, since).await;
    Ok(Json(report))
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

async fn list(
    State(control): Shared,
    Path(kind): Path<String>,
    Query(parameters): Parameters,
) -> Answer<Vec<crate::api::resources::ResourceReport>> {
    let kind = kind_of(&kind)?;
    let parameter = |name: &str| {
        parameters
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    };
    Ok(Json(
        control
            .index
            .objects(kind, parameter("namespace"), parameter("name"))
            .await,
    ))
}

async fn remove(
    State(control): Shared,
    Path((kind, namespace, name)): Path<(String, String, String)>,
    Query(parameters): Parameters,
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
    let edit = Edit {
        remove: vec![key],
        who: parameters.get("who").cloned().unwrap_or_default(),
        what: "delete".to_owned(),
        ..Edit::default()
    };
    let since = now();
    let (mut report, generation) = control.index.change(edit).await?;
    report.convergence = converge(&control, generation, since).await;
    Ok(Json(report))
}

async fn history(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<Vec<crate::api::resources::HistoryEntry>> {
    let limit = parameters
        .get("limit")
        .and_then(|limit| limit.parse().ok())
        .unwrap_or(50);
    Ok(Json(control.index.history(limit)?))
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
        rows.retain(|row| row.service.ends_with(&format!(".{namespace}")));
    }
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
            "roots": [control.trust.authority().root_fingerprint()],
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
    let only = named(&world, &parameters)?;
    let node = from(&world, &parameters)?;
    let measured = control.measured(&world);
    Ok(Json(routes::routes(&world, &node, only, &measured)))
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
    let node = calling(&world, &request.from, &request.namespace)?;
    let measured = control.measured(&world);
    let report = routes::explain_request(&world, &node, &request, &measured)
        .map_err(|reason| Problem::new(Reason::Invalid, reason))?;
    Ok(Json(report))
}

async fn canary_set(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
    Json(request): Json<CanarySet>,
) -> Answer<CanaryReport> {
    let world = control.index.world();
    let service = known(&world, &name, &namespace)?;
    let versions = services::versions(&world, service);
    let (routes, rules) = (
        control.raw("VirtualService").await,
        control.raw("DestinationRule").await,
    );
    let shift = canary::shift(service, &routes, &rules, &versions, &request)?;
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
    let (report, generation) = control
        .index
        .change(Edit {
            put,
            who: request.who.clone(),
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

async fn canaries(State(control): Shared) -> Answer<Vec<CanaryStatus>> {
    let world = control.index.world();
    let mut out = Vec::new();
    for service in world.config.services.values() {
        if let Some(status) = control.split_of(&world, service).await {
            out.push(status);
        }
    }
    Ok(Json(out))
}

async fn canary_status(
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
    async fn raw(&self, kind: &str) -> Vec<serde_json::Value> {
        let objects = self.index.objects(kind, None, None).await;
        objects.into_iter().map(|report| report.object).collect()
    }

    fn measured(&self, world: &World) -> routes::Measured {
        self.numbers
            .measured(world.config.services.values().map(|service| short(service)))
    }

    async fn split_of(&self, world: &World, service: &Service) -> Option<CanaryStatus> {
        let objects = self.index.objects("VirtualService", None, None).await;
        let raw: Vec<serde_json::Value> =
            objects.iter().map(|report| report.object.clone()).collect();
        let (split, origin) = canary::current(service, &raw)?;
        let changed_unix_ms = objects
            .iter()
            .find(|report| format!("{}/{}", report.namespace, report.name) == origin)
            .map_or(0, |report| report.changed_unix_ms);
        let query = aggregate::Query {
            window_ms: 60_000,
            service: Some(short(service)),
            from: None,
            by: GroupBy::Version,
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
            origin: format!("VirtualService {origin}"),
            changed_unix_ms,
        })
    }
}

async fn stats(
    State(control): Shared,
    Query(parameters): Parameters,
) -> Answer<crate::api::stats::StatsReport> {
    let world = control.index.world();
    let service = named(&world, &parameters)?.map(short);
    let seconds: u64 = match parameters.get("window") {
        None => 60,
        Some(text) => text
            .parse()
            .ok()
            .filter(|seconds| *seconds > 0)
            .ok_or_else(|| {
                Problem::new(
                    Reason::Invalid,
                    format!("{text:?} is not a number of seconds"),
                )
            })?,
    };
    let by = match parameters.get("by").map(String::as_str) {
        None | Some("" | "service") => GroupBy::Service,
        Some("version") => GroupBy::Version,
        Some("source") => GroupBy::Source,
        Some(other) => {
            return Err(Problem::new(
                Reason::Invalid,
                format!("rows cannot be told apart by {other:?}"),
            )
            .hint("one of service, version, source")
            .into());
        }
    };
    let qualified = |name: &String| {
        if name.contains('.') {
            name.clone()
        } else {
            format!("{name}.{}", space(&parameters))
        }
    };
    let to = parameters
        .get("to")
        .filter(|to| !to.is_empty())
        .map(qualified);
    let query = aggregate::Query {
        window_ms: seconds.saturating_mul(1_000),
        service: service.or(to),
        from: parameters
            .get("from")
            .filter(|from| !from.is_empty())
            .map(qualified),
        by,
    };
    let mut report = control.numbers.report(&query);
    if let (None, Some(namespace)) = (&query.service, parameters.get("namespace")) {
        report
            .rows
            .retain(|row| row.service.ends_with(&format!(".{namespace}")));
    }
    Ok(Json(report))
}

async fn token(
    State(control): Shared,
    Json(request): Json<TokenRequest>,
) -> Answer<crate::api::identity::TokenReport> {
    Ok(Json(control.trust.create_token(request).await?))
}

async fn identity(
    State(control): Shared,
    Json(request): Json<IdentityRequest>,
) -> Answer<crate::api::identity::IdentityReport> {
    Ok(Json(control.trust.issue(&request)?))
}

async fn run_check(State(control): Shared) -> Json<crate::api::check::CheckReport> {
    Json(check::run(&control).await)
}

async fn list_instances(State(control): Shared) -> Json<Vec<crate::api::registry::InstanceReport>> {
    Json(control.index.instances().await)
}

async fn register(
    State(control): Shared,
    Json(registration): Json<Registration>,
) -> Answer<crate::api::registry::Lease> {
    Ok(Json(control.index.register(registration).await?))
}

async fn deregister(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
) -> Answer<serde_json::Value> {
    control.index.deregister(&namespace, &name).await?;
    Ok(Json(serde_json::json!({})))
}

async fn heartbeat(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
    Query(parameters): Parameters,
) -> Answer<crate::api::registry::Lease> {
    let health = match parameters.get("health").map(String::as_str) {
        None => None,
        Some("healthy") => Some(Health::Healthy),
        Some("unhealthy") => Some(Health::Unhealthy),
        Some("draining") => Some(Health::Draining),
        Some(other) => {
            return Err(
                Problem::new(Reason::Invalid, format!("{other:?} is not a health"))
                    .hint("one of healthy, unhealthy, draining")
                    .into(),
            );
        }
    };
    Ok(Json(
        control.index.heartbeat(&namespace, &name, health).await?,
    ))
}

/// Who may speak for instances of `namespace` (and of `account`, when that is known).
fn may(peer: Option<&PeerIdentity>, namespace: &str, account: Option<&str>) -> Result<(), Problem> {
    let Some(proven) = peer.and_then(|peer| peer.0.as_ref()) else {
        return Err(
            Problem::new(Reason::Denied, "a certificate of the mesh is needed")
                .hint("join with a token from `meshctl token create`"),
        );
    };
    if proven.namespace != namespace
        || account.is_some_and(|account| account != proven.service_account)
    {
        return Err(Problem::new(
            Reason::Denied,
            format!(
                "the certificate is for {}/{}, not for {namespace}/{}",
                proven.namespace,
                proven.service_account,
                account.unwrap_or("*")
            ),
        ));
    }
    Ok(())
}

async fn register_self(
    control: Shared,
    peer: Option<Extension<PeerIdentity>>,
    Json(registration): Json<Registration>,
) -> Answer<crate::api::registry::Lease> {
    let instance = &registration.instance;
    may(
        peer.as_deref(),
        &instance.namespace,
        Some(&instance.service_account),
    )?;
    may_replace(
        &control,
        peer.as_deref(),
        &instance.namespace,
        &instance.name,
    )
    .await?;
    register(control, Json(registration)).await
}

/// An instance that is there may only be touched by its own account.
async fn may_replace(
    control: &Control,
    peer: Option<&PeerIdentity>,
    namespace: &str,
    name: &str,
) -> Result<(), Problem> {
    match control.index.account_of(namespace, name).await {
        Some(account) => may(peer, namespace, Some(&account)),
        None => may(peer, namespace, None),
    }
}

async fn deregister_self(
    control: Shared,
    peer: Option<Extension<PeerIdentity>>,
    path: Path<(String, String)>,
) -> Answer<serde_json::Value> {
    may_replace(&control, peer.as_deref(), &path.0.0, &path.0.1).await?;
    deregister(control, path).await
}

async fn heartbeat_self(
    control: Shared,
    peer: Option<Extension<PeerIdentity>>,
    path: Path<(String, String)>,
    parameters: Parameters,
) -> Answer<crate::api::registry::Lease> {
    may_replace(&control, peer.as_deref(), &path.0.0, &path.0.1).await?;
    heartbeat(control, path, parameters).await
}
