//! The API over TCP, for people and programs on other machines. Closed unless an address is given.
//!
//! Owns who is let in: TLS with the mesh's own certificate, then a certificate of the mesh whose owner was let in,
//! or a token. Every request is judged anew, before any of its body is read, and a connection has one. Web pages
//! are kept out by what `net::pages` keeps them out of our other endpoints with.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::response::IntoResponse as _;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::Control;
use super::access::AccessError;
use super::cluster::Operators;
use super::rest::peer::Peer;
use super::rest::{self, Refused};
use super::serve_tls::{self, PeerIdentity, RevokedFn, ServerNames, TlsOptions};
use super::signer::SignError;
use super::throttle::{Throttle, whole};
use crate::api::identity::AuditEvent;
use crate::api::{Problem, Reason};
use crate::net::pages;
use crate::rt::{Reader, Tasks, now};
use crate::tls::{self, AccessToken};

/// Connections at once; others wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 256;
/// Of them, from one address.
const MOST_OF_ONE: usize = 32;
/// A caller that has not said what it wants in this time is dropped.
const HEAD: Duration = Duration::from_secs(5);
/// The whole life of a connection after its handshake, which is one request.
const LIFE: Duration = Duration::from_mins(1);
/// The largest head, in bytes.
const MOST_HEAD: usize = 16 << 10;

/// Where the API is served over TCP.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Port 0 is any free one.
    pub address: SocketAddr,
    /// Names by which callers ask for it, besides addresses and `localhost`.
    pub names: Vec<String>,
}

/// What is counted of callers who were not let in.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    throttle: Mutex<Throttle>,
    refusals: Family<Vec<(&'static str, &'static str)>, Counter>,
}

impl Gate {
    /// Counts a refusal.
    pub(super) fn count(&self, reason: Reason) {
        let reason = match reason {
            Reason::Unauthenticated => "unauthenticated",
            Reason::RateLimited => "rateLimited",
            _ => "denied",
        };
        self.refusals.get_or_create(&vec![("reason", reason)]).inc();
    }

    /// The counter, for the page of metrics.
    pub(super) fn refusals(&self) -> Family<Vec<(&'static str, &'static str)>, Counter> {
        self.refusals.clone()
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        // Entries are replaced whole, so a panic in between leaves nothing half made.
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every connection is served with.
struct Server {
    control: Arc<Control>,
    router: Router,
    config: Reader<Arc<ServerConfig>>,
    revoked: RevokedFn,
    /// In lower case.
    names: Vec<String>,
    /// Who judges callers, where that is the cluster alone.
    operators: Option<Operators>,
    seats: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// Serves the API on `listener` until `tasks` end; fails only when the first certificate cannot be made.
pub(super) async fn serve(
    control: &Arc<Control>,
    listener: TcpListener,
    options: &ApiOptions,
    tasks: &Tasks,
) -> Result<(), SignError> {
    start(control, listener, options, None, tasks).await
}

/// The same on the loopback of a pod, for who comes through the API server (port-forward): by tokens that the
/// cluster gives, and nothing else.
pub(super) async fn serve_inside(
    control: &Arc<Control>,
    listener: TcpListener,
    (address, names): (SocketAddr, Vec<String>),
    operators: Operators,
    tasks: &Tasks,
) -> Result<(), SignError> {
    let options = ApiOptions { address, names };
    start(control, listener, &options, Some(operators), tasks).await
}

async fn start(
    control: &Arc<Control>,
    listener: TcpListener,
    options: &ApiOptions,
    operators: Option<Operators>,
    tasks: &Tasks,
) -> Result<(), SignError> {
    let trust = &control.trust;
    let ip = options.address.ip();
    let tls = TlsOptions {
        issuer: trust.issuer(),
        keep: trust.kept_in(if operators.is_some() { "inside" } else { "api" }),
        changed: trust.current().versions(),
        revoked: trust.revoked_fn(),
        lifetime: tls::issuer::DEFAULT_LIFETIME,
        names: ServerNames {
            dns: options.names.clone(),
            ips: Some(ip)
                .filter(|ip| !ip.is_unspecified())
                .into_iter()
                .collect(),
        },
        alpn: &["http/1.1"],
        strangers: LIFE,
        wall: control.wall.clone(),
    };
    let server = Arc::new(Server {
        control: Arc::clone(control),
        router: rest::router(Arc::clone(control)),
        config: serve_tls::certificates(tls, tasks).await?,
        revoked: trust.revoked_fn(),
        names: options
            .names
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        seats: Arc::default(),
        operators,
    });
    tasks.spawn("api-tcp", accept(listener, server, tasks.clone()));
    Ok(())
}

async fn accept(listener: TcpListener, server: Arc<Server>, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (tcp, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly out of file descriptors; a tight loop would not help anybody.
                tracing::warn!(%error, "cannot accept on the API's port");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Who comes by port-forward comes from loopback.
        let most = match server.operators {
            Some(_) => MOST_CONNECTIONS,
            None => MOST_OF_ONE,
        };
        let Some(seat) = Seat::take(&server.seats, whole(from.ip()), most) else {
            // One address shall not take all places.
            continue;
        };
        let server = Arc::clone(&server);
        tasks.spawn("api-connection", async move {
            let (_place, _seat) = (place, seat);
            answer(&server, tcp, from).await;
        });
    }
}

/// One of the places of an address.
struct Seat(Arc<Mutex<BTreeMap<IpAddr, usize>>>, IpAddr);

impl Seat {
    fn take(seats: &Arc<Mutex<BTreeMap<IpAddr, usize>>>, of: IpAddr, most: usize) -> Option<Self> {
        let mut taken = seats.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(of).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Self(Arc::clone(seats), of))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.1);
            }
        }
    }
}

async fn answer(server: &Arc<Server>, tcp: TcpStream, from: SocketAddr) {
    let acceptor = TlsAcceptor::from(Arc::<ServerConfig>::clone(&server.config.load()));
    let revoked = (Arc::clone(&server.revoked), LIFE);
    // Its places are taken already, by address.
    let shaken = serve_tls::handshake(acceptor, tcp, revoked, None);
    let connection = match tokio::time::timeout(serve_tls::HANDSHAKE, shaken).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%from, reason = tls::explain(&error), "refused a connection to the API");
            return;
        }
        Err(_) => return,
    };
    let peer = connection.peer().clone();
    let service = service_fn(|request: Request<Incoming>| {
        let (server, peer) = (Arc::clone(server), peer.clone());
        async move { Ok::<_, Infallible>(respond(&server, request, &peer, from.ip()).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MOST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), service);
    // Whoever is late or leaves is no error of ours.
    let _ended = tokio::time::timeout(LIFE, served).await;
}

async fn respond(
    server: &Server,
    request: Request<Incoming>,
    peer: &PeerIdentity,
    from: IpAddr,
) -> Response<Body> {
    let (method, uri) = (request.method(), request.uri());
    let named = |host: &str| {
        server
            .names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(host))
    };
    let refused = pages::refusal_of(method, uri, request.headers(), named);
    let mut response = match refused {
        Some((status, why)) => {
            let mut problem = Problem::new(Reason::Denied, why);
            if status == http::StatusCode::FORBIDDEN {
                problem.hint = Some(
                    "`--api-name NAME` of the control plane lets it be asked for by that name; web pages may change nothing".to_owned(),
                );
            }
            (status, axum::Json(problem)).into_response()
        }
        None => match server.caller(request.headers(), peer, from).await {
            Err((problem, wait)) => {
                server.control.gate.count(problem.reason);
                let mut response = Refused(problem).into_response();
                if let Some(wait) = wait {
                    let seconds = HeaderValue::from(wait.as_secs().max(1));
                    response.headers_mut().insert(header::RETRY_AFTER, seconds);
                }
                response
            }
            Ok(peer) => {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                match server.router.clone().oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        },
    };
    pages::close_to_pages(response.headers_mut());
    response
}

impl Server {
    /// Who asks, by its token where it shows one, else by its certificate; why it is not let in, and when it may
    /// try again.
    async fn caller(
        &self,
        headers: &HeaderMap,
        peer: &PeerIdentity,
        from: IpAddr,
    ) -> Result<Peer, (Problem, Option<Duration>)> {
        if let Some(operators) = &self.operators {
            return self.of_cluster(operators, headers, from).await;
        }
        let reader = self.control.trust.access();
        let (book, at) = (reader.load(), self.control.wall.millis());
        let failed = match bearer(headers) {
            None => {
                let Some(id) = &peer.id else {
                    let problem = Problem::new(Reason::Unauthenticated, "the API asks who calls");
                    return Err((problem.hint("show a token (`Authorization: Bearer …`, from `meshctl access create`), or a certificate of the mesh whose identity was let in with `meshctl access grant`"), None));
                };
                match book.role_of(id, at) {
                    Ok(role) => return Ok(Peer::new(&id.to_string(), role)),
                    Err(error) => (Reason::Denied, error),
                }
            }
            Some(shown) => {
                if let Some(wait) = self.control.gate.throttle().refuses(from, now()) {
                    let message = format!("too many tokens from {from} were not good");
                    let hint = format!("wait {} s", wait.as_secs().max(1));
                    let problem = Problem::new(Reason::RateLimited, message).hint(hint);
                    return Err((problem, Some(wait)));
                }
                match shown.and_then(|token| book.bearer(&token, at)) {
                    Ok((name, role)) => return Ok(Peer::new(&name, role)),
                    Err(error) => (Reason::Unauthenticated, error),
                }
            }
        };
        let (reason, error) = failed;
        let by = peer
            .id
            .as_ref()
            .map_or_else(|| from.to_string(), |id| format!("{id} at {from}"));
        self.note_refusal(from, &by, error.to_string()).await;
        Err((
            Problem::new(reason, error.to_string()).hint(error.hint()),
            None,
        ))
    }

    /// Who asks, where the cluster says it.
    async fn of_cluster(
        &self,
        operators: &Operators,
        headers: &HeaderMap,
        from: IpAddr,
    ) -> Result<Peer, (Problem, Option<Duration>)> {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        let token = match (shown.next(), shown.next()) {
            (Some(one), None) => one.to_str().ok().and_then(|text| text.split_once(' ')),
            _ => None,
        };
        let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        else {
            let problem = Problem::new(Reason::Unauthenticated, "the API asks who calls");
            return Err((problem.hint("show one token (`Authorization: Bearer …`) of a service account that the API server gives for it"), None));
        };
        match operators.judge(token).await {
            Ok((name, role)) => Ok(Peer::new(&name, role)),
            Err(problem) => {
                if problem.reason != Reason::Unknown {
                    let by = "somebody by port-forward";
                    self.note_refusal(from, by, problem.message.clone()).await;
                }
                Err((problem, None))
            }
        }
    }

    /// Notes that somebody was not let in, unless there were many from there.
    async fn note_refusal(&self, from: IpAddr, by: &str, why: String) {
        let noted = {
            let mut throttle = self.control.gate.throttle();
            let quiet = throttle.refuses(from, now()).is_some();
            throttle.failed(from, now());
            !quiet
        };
        if noted {
            let trust = &self.control.trust;
            if let Err(problem) = trust.note(AuditEvent::AccessRefused, by, why).await {
                tracing::error!(error = %problem.message, "a refusal was not noted");
            }
        }
    }
}

/// The token that is shown, if one is.
fn bearer(headers: &HeaderMap) -> Option<Result<AccessToken, AccessError>> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let first = shown.next()?;
    let malformed = |words: &str| Some(Err(AccessError::Malformed(words.to_owned())));
    if shown.next().is_some() {
        return malformed("a request has one Authorization");
    }
    let text = first.to_str().ok().and_then(|text| text.split_once(' '));
    let Some((_, token)) = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return malformed("authorization is not `Bearer TOKEN`");
    };
    Some(
        token
            .parse()
            .map_err(|error: tls::Error| AccessError::Malformed(error.to_string())),
    )
}

/// Where the listener of the API is, when there is one.
pub(super) type Bound = Option<(TcpListener, ApiOptions)>;

/// Binds what is asked for.
pub(super) fn bind(options: Option<&ApiOptions>) -> Result<Bound, (SocketAddr, io::Error)> {
    let Some(options) = options else {
        return Ok(None);
    };
    let failed = |source| (options.address, source);
    let listener =
        crate::net::bind(options.address, crate::net::BindOptions::default()).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let options = ApiOptions {
        address,
        ..options.clone()
    };
    Ok(Some((listener, options)))
}
