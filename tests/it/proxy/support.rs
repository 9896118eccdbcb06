//! A proxy in this process, views to run it by, and peers that say what they are told.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshctl::mesh::cluster::{Cluster, ServiceRef};
use meshctl::mesh::listener::{ChainLimits, ChainMatch, Direction, HttpCodec, ListenerOptions};
use meshctl::mesh::route::{
    Action, Forward, HeaderEdits, Match, Route, RouteTable, VirtualHost, WeightedCluster,
};
use meshctl::mesh::{
    Assignment, Chain, ChainAction, Endpoint, Hostname, HttpOptions, Listener, LoadBalancer,
    Origin, View, WorkloadRef,
};
use meshctl::net::{self, BindOptions, ConnectOptions};
use meshctl::proxy::handover::Restart;
use meshctl::proxy::{self, Options, ProxyError};
use meshctl::rt::{Drain, Published, Tasks};
use meshctl::telemetry::Registry;
use meshctl::tls::Material;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Everything must happen within this.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A listener on a free port.
pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let socket = net::bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// An address that nobody listens on just now.
pub(crate) fn free() -> SocketAddr {
    cluster::ports::free_address()
}

pub(crate) async fn connect(to: SocketAddr) -> TcpStream {
    net::connect(to, ConnectOptions::default()).await.unwrap()
}

/// Whether anybody listens there.
pub(crate) async fn reachable(address: SocketAddr) -> bool {
    net::connect(address, ConnectOptions::default())
        .await
        .is_ok()
}

/// Sends `request` and reads until the other side ends.
pub(crate) async fn exchange(to: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut stream = connect(to).await;
    stream.write_all(request.as_ref()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    // A reset after the answer is an end too.
    let _ended = read.expect("the connection did not end in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A GET that ends the connection.
pub(crate) async fn get(to: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
    exchange(to, request).await
}

/// Asks one of the proxy's own endpoints, which answer to addresses and `localhost` only.
pub(crate) async fn own_page(to: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    exchange(to, request).await
}

pub(crate) fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status: {answer:?}"))
}

/// Reads until `until` has come.
pub(crate) async fn read_until(stream: &mut TcpStream, until: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&text).contains(until) {
        let count = tokio::time::timeout(DEADLINE, stream.read(&mut buffer))
            .await
            .unwrap_or_else(|_| panic!("only {:?}", String::from_utf8_lossy(&text)))
            .unwrap();
        assert!(
            count > 0,
            "ended after {:?}",
            String::from_utf8_lossy(&text)
        );
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(text).unwrap()
}

/// An application that answers `NAME METHOD PATH`, each request header as `name: value`, an empty
/// line and the request's body. Speaks HTTP/1 and HTTP/2.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) hits: Arc<AtomicUsize>,
    pub(crate) connections: Arc<AtomicUsize>,
    _tasks: Tasks,
}

impl App {
    pub(crate) fn start(name: &str) -> Self {
        Self::answering(name, 200)
    }

    pub(crate) fn answering(name: &str, status: u16) -> Self {
        Self::on(name, status, listen().0)
    }

    pub(crate) fn on(name: &str, status: u16, socket: TcpListener) -> Self {
        let address = socket.local_addr().unwrap();
        let hits = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::clone(&connections);
        let tasks = Tasks::new();
        let (name, counted, group) = (name.to_owned(), Arc::clone(&hits), tasks.clone());
        tasks.spawn("app", async move {
            loop {
                let (tcp, _) = socket.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::Relaxed);
                let (name, counted) = (name.clone(), Arc::clone(&counted));
                group.spawn("app connection", async move {
                    let service = service_fn(move |request| {
                        counted.fetch_add(1, Ordering::Relaxed);
                        echo(name.clone(), status, request)
                    });
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // Callers may leave whenever they like.
                    let _ended = builder.serve_connection(TokioIo::new(tcp), service).await;
                });
            }
        });
        Self {
            address,
            hits,
            connections,
            _tasks: tasks,
        }
    }

    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::Relaxed)
    }
}

async fn echo(
    name: String,
    status: u16,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut text = format!("{name} {} {}\n", head.method, head.uri);
    for (key, value) in &head.headers {
        writeln!(text, "{key}: {}", value.to_str().unwrap()).unwrap();
    }
    text.push('\n');
    let mut answer = text.into_bytes();
    if let Ok(body) = body.collect().await {
        answer.extend_from_slice(&body.to_bytes());
    }
    let response = Response::builder().status(status).header("x-app", name);
    Ok(response.body(Full::new(answer.into())).unwrap())
}

/// A server that reads a head (up to the empty line) and then answers with the next of `answers`,
/// for each request on each connection; an empty answer closes. Heads are kept.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    pub(crate) heads: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Scripted {
    pub(crate) fn start(tasks: &Tasks, answers: &[&'static str]) -> Self {
        let (socket, address) = listen();
        let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (kept, group) = (Arc::clone(&heads), tasks.clone());
        let answers: Vec<&'static str> = answers.to_vec();
        let next = Arc::new(AtomicUsize::new(0));
        tasks.spawn("scripted", async move {
            loop {
                let (mut tcp, _) = socket.accept().await.unwrap();
                let (kept, answers, next) = (Arc::clone(&kept), answers.clone(), Arc::clone(&next));
                group.spawn("scripted connection", async move {
                    let mut text = Vec::new();
                    let mut buffer = [0; 4096];
                    loop {
                        let Ok(count @ 1..) = tcp.read(&mut buffer).await else {
                            return;
                        };
                        text.extend_from_slice(&buffer[..count]);
                        let so_far = String::from_utf8_lossy(&text).into_owned();
                        if !so_far.contains("\r\n\r\n") {
                            continue;
                        }
                        text.clear();
                        kept.lock().unwrap().push(so_far);
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let answer = answers[at.min(answers.len() - 1)];
                        if answer.is_empty() || tcp.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, heads }
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) views: Published<View>,
    pub(crate) identities: Published<Option<Arc<Material>>>,
    drain: Option<Drain>,
    tasks: Tasks,
    ended: tokio::sync::oneshot::Receiver<Result<(), ProxyError>>,
}

impl Proxy {
    pub(crate) async fn start(view: View) -> Self {
        Self::with(
            Options {
                workers: 2,
                ..Options::default()
            },
            view,
            None,
        )
        .await
    }

    pub(crate) async fn with(
        options: Options,
        view: View,
        material: Option<Arc<Material>>,
    ) -> Self {
        Self::after(options, view, material, None).await
    }

    /// One in a row of hot restarts.
    pub(crate) async fn after(
        options: Options,
        view: View,
        material: Option<Arc<Material>>,
        restart: Option<Restart>,
    ) -> Self {
        let addresses: Vec<_> = view.listeners.values().map(|l| l.bind).collect();
        let views = Published::new(view);
        let identities = Published::new(material);
        let (drain, signal) = Drain::new();
        let tasks = Tasks::new();
        let (done, ended) = tokio::sync::oneshot::channel();
        let (view, identity) = (views.reader(), identities.reader());
        let registry = Arc::new(Registry::new("Kubernetes"));
        tasks.spawn("proxy", async move {
            let ran = proxy::run_after(options, registry, (view, identity), signal, restart).await;
            let _sent = done.send(ran);
        });
        for address in addresses {
            eventually(|| reachable(address)).await;
        }
        Self {
            views,
            identities,
            drain: Some(drain),
            tasks,
            ended,
        }
    }

    /// Tells it to end and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<(), ProxyError> {
        self.begin_drain();
        tokio::time::timeout(DEADLINE, self.ended)
            .await
            .expect("the proxy did not end")
            .unwrap()
    }

    pub(crate) fn begin_drain(&mut self) {
        self.drain.as_ref().unwrap().start();
    }

    /// Waits for an end that something else caused.
    pub(crate) async fn ended(self) -> Result<(), ProxyError> {
        let _keep = self.tasks;
        tokio::time::timeout(DEADLINE, self.ended)
            .await
            .expect("the proxy did not end")
            .unwrap()
    }
}

/// Looks again until `holds`.
pub(crate) async fn eventually<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    let deadline = meshctl::rt::now() + DEADLINE;
    while !holds().await {
        assert!(meshctl::rt::now() < deadline, "did not happen in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A view in the making.
#[derive(Default)]
pub(crate) struct Views(pub(crate) View);

pub(crate) fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        service: Some(ServiceRef {
            host: Hostname::service(name, "default"),
            name: name.to_owned(),
            namespace: "default".to_owned(),
            port: 80,
            subset: String::new(),
        }),
        load_balancer: LoadBalancer::RoundRobin,
        connect_timeout: Duration::from_secs(5),
        ..Cluster::default()
    }
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        workload: WorkloadRef {
            workload: "app-v1".to_owned(),
            namespace: "default".to_owned(),
            service: "app".to_owned(),
            version: "v1".to_owned(),
            instance: "app-v1-0".to_owned(),
        },
        ..Endpoint::at(address)
    }
}

pub(crate) fn forward(clusters: &[(&str, u32)]) -> Forward {
    Forward {
        clusters: clusters
            .iter()
            .map(|(name, weight)| WeightedCluster {
                cluster: (*name).to_owned(),
                weight: *weight,
                headers: HeaderEdits::default(),
            })
            .collect(),
        ..Forward::default()
    }
}

pub(crate) fn route(action: Action) -> Route {
    Route {
        name: "r".to_owned(),
        matches: Match::default(),
        action,
        headers: HeaderEdits::default(),
        origin: Origin::default(),
    }
}

impl Views {
    pub(crate) fn listener(
        mut self,
        name: &str,
        bind: SocketAddr,
        direction: Direction,
        action: ChainAction,
    ) -> Self {
        let chain = Chain {
            name: name.to_owned(),
            matches: ChainMatch::default(),
            tls: None,
            action,
            filters: Vec::new(),
            guards: Vec::new(),
            limits: ChainLimits::default(),
        };
        self.0.listeners.insert(
            name.to_owned(),
            Arc::new(Listener {
                name: name.to_owned(),
                bind,
                direction,
                transparent: false,
                chains: vec![chain],
                default_chain: None,
                detect_timeout: Duration::ZERO,
                options: ListenerOptions::default(),
            }),
        );
        self
    }

    /// HTTP on `bind` by the route table `name`.
    pub(crate) fn http(self, name: &str, bind: SocketAddr) -> Self {
        self.http_with(name, bind, HttpOptions::default())
    }

    /// The same, not as usual.
    pub(crate) fn http_with(self, name: &str, bind: SocketAddr, options: HttpOptions) -> Self {
        let action = ChainAction::Http {
            routes: name.to_owned(),
            codec: HttpCodec::Auto,
            options: Arc::new(options),
        };
        self.listener(name, bind, Direction::Outbound, action)
    }

    /// One table with one host `*`.
    pub(crate) fn routes(mut self, name: &str, routes: Vec<Route>) -> Self {
        self.0.routes.insert(
            name.to_owned(),
            Arc::new(RouteTable {
                name: name.to_owned(),
                ignore_port: true,
                hosts: vec![VirtualHost {
                    name: "any".to_owned(),
                    domains: vec!["*".to_owned()],
                    routes,
                    ..VirtualHost::default()
                }],
            }),
        );
        self
    }

    pub(crate) fn cluster(mut self, cluster: Cluster, endpoints: Vec<Endpoint>) -> Self {
        let name = cluster.name.clone();
        self.0.clusters.insert(name.clone(), Arc::new(cluster));
        self.0
            .endpoints
            .insert(name, Arc::new(Assignment::new(endpoints)));
        self
    }
}

/// A view that carries HTTP from `bind` to `app`, with a hook to change the route.
pub(crate) fn simple(bind: SocketAddr, app: SocketAddr, change: impl FnOnce(&mut Forward)) -> View {
    let mut action = forward(&[("app", 1)]);
    change(&mut action);
    Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(action))])
        .cluster(cluster("app"), vec![endpoint(app)])
        .0
}

/// A keep-alive HTTP/1 caller.
pub(crate) struct Caller(hyper::client::conn::http1::SendRequest<Full<Bytes>>);

impl Caller {
    pub(crate) async fn new(tasks: &Tasks, to: SocketAddr) -> Self {
        let io = TokioIo::new(connect(to).await);
        let (send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tasks.spawn("caller", async move {
            let _ended = connection.await;
        });
        Self(send)
    }

    pub(crate) async fn call(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<(u16, String)> {
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    pub(crate) async fn get(&mut self, path: &str) -> hyper::Result<(u16, String)> {
        let request = Request::get(path)
            .header("host", "app")
            .body(Full::default())
            .unwrap();
        self.call(request).await
    }

    /// Whether its connection takes another request.
    pub(crate) async fn usable(&mut self) -> bool {
        self.0.ready().await.is_ok()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}
