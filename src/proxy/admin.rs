//! Health, metrics and what the proxy runs, over HTTP. Envoy's paths, so that its tools work.
//!
//! The administration address can end the proxy and is for loopback; the status addresses answer
//! health and metrics only.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

use crate::mesh::route::Priority;
use crate::net::pages::Names;
use crate::net::{self, BindOptions};
use crate::rt::{self, Reader, Tasks};
use crate::telemetry::{Family, Gauge, Sample, Value, names, openmetrics, text};
use crate::tls::Material;

use super::ProxyError;
use super::context::Shared;
use super::handover::Taken;
use super::tables::Tables;
use super::worker::Stats;

/// What the endpoints answer from.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tables: Reader<Tables>,
    pub(crate) identities: Reader<Option<Arc<Material>>>,
    pub(crate) stats: Vec<Arc<Stats>>,
    /// Set once there is configuration, cleared by a drain.
    pub(crate) ready: Arc<AtomicBool>,
    /// Told what to do with listeners.
    pub(crate) asks: mpsc::UnboundedSender<Ask>,
    /// Told to end.
    pub(crate) quit: Notify,
    /// For connections to the application.
    pub(crate) tasks: Tasks,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Close listeners now.
    Close {
        /// Only those of calls to the application.
        inbound_only: bool,
    },
    /// Have connections end first, for the time of a drain.
    Drain {
        /// Only those of calls to the application.
        inbound_only: bool,
    },
}

type Shares = State<Arc<Admin>>;

/// Starts answering on all addresses of the options, on sockets of the process before this one where
/// it had them. Gives the sockets, for the process after this one.
pub(crate) fn start(
    admin: &Arc<Admin>,
    tasks: &Tasks,
    mut taken: Option<&mut Taken>,
) -> Result<Vec<(SocketAddr, OwnedFd)>, ProxyError> {
    let status = Router::new()
        .route("/ready", get(ready))
        .route("/healthz/ready", get(ready))
        .route("/stats/prometheus", get(metrics))
        .route("/metrics", get(metrics));
    let asked = status
        .clone()
        .route("/app-health/{container}/{probe}", get(application))
        .route("/app-lifecycle/{container}/{hook}", get(application));
    // How a job that has done its work ends the pod.
    let local = asked.clone().route("/quitquitquit", post(quit));
    let whole = status
        .clone()
        .route("/config_dump", get(config_dump))
        .route("/clusters", get(clusters))
        .route("/listeners", get(listeners))
        .route("/certs", get(certs))
        .route("/shadow", get(shadow))
        .route("/server_info", get(server_info))
        .route("/logging", get(logging).post(logging))
        .route("/drain_listeners", post(drain_listeners))
        .route("/reopen_logs", post(reopen_logs))
        .route("/healthcheck/fail", post(health_fail))
        .route("/healthcheck/ok", post(health_ok))
        .route("/quitquitquit", post(quit));
    let options = &admin.shared.options;
    let addresses = options
        .admin
        .iter()
        .map(|address| (*address, &whole, Names::Local))
        .chain(options.local.iter().map(|at| (*at, &local, Names::Local)))
        .chain(options.status.iter().map(|at| (*at, &asked, Names::Any)));
    let mut sockets = Vec::new();
    for (address, routes, names) in addresses {
        if names == Names::Local && !address.ip().is_loopback() {
            return Err(ProxyError::OpenAdmin { address });
        }
        let socket = match taken.as_mut().and_then(|taken| taken.admin(address)) {
            Some(socket) => TcpListener::from_std(socket),
            None => net::bind(address, BindOptions::default()),
        }
        .map_err(|source| ProxyError::Bind {
            name: "administration".to_owned(),
            address,
            source,
        })?;
        if let Ok(twin) = socket.as_fd().try_clone_to_owned() {
            sockets.push((address, twin));
        }
        let routes = routes.clone().with_state(Arc::clone(admin));
        tasks.spawn("admin", async move {
            if let Err(error) = net::pages::serve(socket, routes, names).await {
                tracing::error!(%error, "administration endpoint ended");
            }
        });
    }
    Ok(sockets)
}

async fn ready(State(admin): Shares) -> (StatusCode, &'static str) {
    if admin.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "LIVE\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "PRE_INITIALIZING\n")
    }
}

async fn metrics(State(admin): Shares, headers: HeaderMap) -> Response {
    let families = admin.families();
    let application = &admin.shared.options.application;
    // What the application says is of the older form, and cannot be put behind the newer.
    if application.has_metrics() {
        let text = application
            .merged(text::render(&families), &admin.tasks)
            .await;
        let content = [(header::CONTENT_TYPE, text::CONTENT_TYPE)];
        return (content, text).into_response();
    }
    let open = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/openmetrics-text"));
    if open {
        let content = [(header::CONTENT_TYPE, openmetrics::CONTENT_TYPE)];
        (content, openmetrics::render(&families)).into_response()
    } else {
        let content = [(header::CONTENT_TYPE, text::CONTENT_TYPE)];
        (content, text::render(&families)).into_response()
    }
}

impl Admin {
    fn sum(&self, read: impl Fn(&Stats) -> u64) -> u64 {
        self.stats.iter().map(|stats| read(stats)).sum()
    }

    /// Everything that is measured.
    fn families(&self) -> Vec<Family> {
        let tables = self.tables.load();
        let mut families = tables.changes().apply(self.shared.registry.gather());
        let gauge = |name, help, value| {
            Family::from(Gauge {
                metric: names::gauge(name, help),
                value,
            })
        };
        let uptime = self.shared.millis(rt::now()) / 1000;
        families.extend([
            gauge(
                "envoy_server_live",
                "Whether the proxy takes requests.",
                u64::from(self.ready.load(Ordering::Relaxed)),
            ),
            gauge(
                "envoy_server_uptime",
                "Seconds since the proxy began.",
                uptime,
            ),
            gauge(
                "meshctl_downstream_connections",
                "Connections of callers.",
                self.sum(|stats| stats.connections.load(Ordering::Relaxed)),
            ),
            gauge(
                "meshctl_upstream_idle_connections",
                "Connections to endpoints that are kept.",
                self.sum(|stats| stats.pooled.load(Ordering::Relaxed)),
            ),
            gauge(
                "meshctl_spans_sent",
                "Spans that those who get them have taken.",
                self.shared.spans.counts.sent.load(Ordering::Relaxed),
            ),
            gauge(
                "meshctl_spans_dropped",
                "Spans dropped because a queue was full.",
                self.shared.spans.counts.dropped.load(Ordering::Relaxed),
            ),
            gauge(
                "meshctl_spans_failed",
                "Spans that were refused, or given up.",
                self.shared.spans.counts.failed.load(Ordering::Relaxed),
            ),
            gauge(
                "meshctl_spans_limited",
                "Sampled calls without a span, as there were too many in a second.",
                self.shared.spans.counts.limited.load(Ordering::Relaxed),
            ),
            gauge(
                "meshctl_access_log_dropped",
                "Lines of access logs that were not written: their queue was full, or their file cannot be written.",
                self.shared.options.logs.dropped(),
            ),
            gauge(
                "meshctl_access_log_service_sent",
                "Calls that services of access logs were told of.",
                self.shared.options.logs.told().sent.load(Ordering::Relaxed),
            ),
            gauge(
                "meshctl_access_log_service_dropped",
                "Calls that services of access logs were not told of, because their queue was full.",
                self.shared.options.logs.told().dropped.load(Ordering::Relaxed),
            ),
            gauge(
                "meshctl_access_log_service_failed",
                "Calls that services of access logs refused, or that were given up.",
                self.shared.options.logs.told().failed.load(Ordering::Relaxed),
            ),
            gauge(
                "meshctl_taps",
                "Taps that this proxy tells of calls.",
                u64::try_from(self.shared.options.taps.count()).unwrap_or(u64::MAX),
            ),
            gauge(
                "meshctl_tap_dropped",
                "Calls that were not told because too many waited.",
                self.shared.options.taps.dropped(),
            ),
        ]);
        families.push(Family {
            metric: names::gauge("istio_build", "Version of this program."),
            samples: vec![Sample {
                labels: vec![
                    ("component", "proxy".to_owned()),
                    ("tag", env!("CARGO_PKG_VERSION").to_owned()),
                ],
                value: Value::Gauge(1),
            }],
        });
        families.extend(super::stats::clusters(&tables));
        families.extend(super::stats::filters(tables.filters()));
        families.extend(super::stats::guards(tables.guards()));
        families.extend(self.shared.overload.families());
        families.extend(super::health::numbers::families(&tables));
        families.extend(super::health::numbers::ejected(&tables, &self.shared));
        if let Some(material) = self.identities.load().as_ref() {
            let left = material.not_after.saturating_sub(self.shared.wall.millis()) / 1000;
            families.push(gauge(
                "istio_agent_cert_expiry_seconds",
                "Seconds until the workload's certificate ends.",
                left,
            ));
        }
        families
    }
}

fn json(value: &serde_json::Value) -> Response {
    let content = [(header::CONTENT_TYPE, "application/json")];
    (content, format!("{value:#}\n")).into_response()
}

async fn config_dump(State(admin): Shares) -> Response {
    match serde_json::to_value(&*admin.tables.load().view) {
        Ok(view) => json(&view),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Values that differed in answers to copies of requests, the newest last.
async fn shadow(State(admin): Shares) -> Response {
    let examples = admin.shared.registry.shadows(|shadows| shadows.examples());
    json(&json!({ "examples": examples }))
}

/// Envoy's text: `CLUSTER::ADDRESS::KEY::VALUE`.
async fn clusters(State(admin): Shares) -> String {
    let tables = admin.tables.load();
    let mut out = String::new();
    let mut line = |parts: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        if out.write_fmt(parts).is_ok() {
            out.push('\n');
        }
    };
    for cluster in &tables.clusters {
        let name = &cluster.config.name;
        let stats = &cluster.counters.stats;
        let count = cluster.counters.at(Priority::Default);
        let read = |counter: &std::sync::atomic::AtomicU32| counter.load(Ordering::Relaxed);
        line(format_args!(
            "{name}::cx_active::{}",
            read(&count.connections)
        ));
        line(format_args!("{name}::rq_active::{}", read(&count.requests)));
        line(format_args!("{name}::rq_pending::{}", read(&count.pending)));
        line(format_args!(
            "{name}::rq_overflow::{}",
            stats.upstream_rq_pending_overflow.load(Ordering::Relaxed)
        ));
        let set = &cluster.endpoints;
        for (endpoint, entry) in set.assignment.endpoints.iter().zip(&set.entries) {
            let health = entry.health_flags(endpoint.health);
            for (key, value) in [
                ("rq_active", u64::from(read(&entry.state.active))),
                ("rq_total", entry.state.requests.load(Ordering::Relaxed)),
                ("weight", u64::from(endpoint.weight)),
                ("priority", u64::from(endpoint.priority)),
                (
                    "ejections",
                    entry
                        .state
                        .monitor()
                        .map_or(0, |m| u64::from(m.ejections())),
                ),
            ] {
                line(format_args!("{name}::{}::{key}::{value}", endpoint.address));
            }
            line(format_args!(
                "{name}::{}::health_flags::{health}",
                endpoint.address
            ));
            if let Some(monitor) = entry.state.monitor() {
                // Envoy says -1 where too few requests came in the last interval.
                let rate = monitor.success_rate().unwrap_or(-1.0);
                line(format_args!(
                    "{name}::{}::success_rate::{rate}",
                    endpoint.address
                ));
            }
        }
    }
    out
}

async fn listeners(State(admin): Shares) -> String {
    let mut out = String::new();
    for listener in admin.tables.load().listeners.values() {
        let config = &listener.config;
        // Writing to a String cannot fail.
        let _infallible = writeln!(out, "{}::{}", config.name, config.bind);
    }
    out
}

/// The certificate in use; never its key.
async fn certs(State(admin): Shares) -> Response {
    let material = admin.identities.load();
    let Some(material) = material.as_ref() else {
        return json(&json!({ "certificates": [] }));
    };
    let chain: Vec<_> = material.chain.iter().map(crate::tls::fingerprint).collect();
    let roots: Vec<_> = material.roots.iter().map(crate::tls::fingerprint).collect();
    json(&json!({
        "certificates": [{
            "id": material.id,
            "notBeforeMs": material.not_before,
            "notAfterMs": material.not_after,
            "chainSha256": chain,
            "rootsSha256": roots,
        }]
    }))
}

async fn server_info(State(admin): Shares) -> Response {
    let options = &admin.shared.options;
    json(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": if admin.ready.load(Ordering::Relaxed) { "LIVE" } else { "PRE_INITIALIZING" },
        "uptimeMs": admin.shared.millis(rt::now()),
        "node": options.node,
        "workers": admin.stats.len(),
        "workload": options.workload,
        "connections": admin.sum(|stats| stats.connections.load(Ordering::Relaxed)),
        "accepted": admin.sum(|stats| stats.accepted.load(Ordering::Relaxed)),
    }))
}

/// What is logged is set by `-v` at the start.
async fn logging() -> String {
    format!(
        "active loggers:\n  meshctl: {}\n",
        tracing::level_filters::LevelFilter::current()
    )
}

/// Envoy's questions: `graceful` lets connections end first, `inboundonly` leaves callers of others
/// alone.
async fn drain_listeners(State(admin): Shares, RawQuery(query): RawQuery) -> &'static str {
    let query = query.unwrap_or_default();
    let said = |name: &str| {
        query
            .split('&')
            .any(|word| word.split('=').next() == Some(name))
    };
    let inbound_only = said("inboundonly");
    let ask = if said("graceful") {
        Ask::Drain { inbound_only }
    } else {
        Ask::Close { inbound_only }
    };
    // Nobody listens only while the proxy ends anyway.
    let _told = admin.asks.send(ask).is_ok();
    "OK\n"
}

/// Files of logs that were moved away are left, and opened again by their names; as SIGUSR1 does.
async fn reopen_logs(State(admin): State<Arc<Admin>>) -> &'static str {
    admin.shared.options.logs.reopen();
    "OK\n"
}

async fn health_fail(State(admin): Shares) -> &'static str {
    admin.ready.store(false, Ordering::Relaxed);
    "OK\n"
}

async fn health_ok(State(admin): Shares) -> &'static str {
    admin.ready.store(true, Ordering::Relaxed);
    "OK\n"
}

async fn application(State(admin): Shares, uri: Uri) -> Response {
    let options = &admin.shared.options;
    match options.application.ask(uri.path(), &admin.tasks).await {
        Some(answer) => answer.into_response(),
        None => (StatusCode::NOT_FOUND, "no such probe\n").into_response(),
    }
}

async fn quit(State(admin): Shares) -> &'static str {
    admin.quit.notify_one();
    "OK\n"
}
