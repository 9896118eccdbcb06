//! A real Envoy: mTLS by SDS, detection, and whatever else we encode passes its validation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshctl::mesh::balancing::{Balancing, LocalityBalancing, SlowStart};
use meshctl::mesh::cluster::{ClientTls, Limits, UpstreamProtocol};
use meshctl::mesh::health_check::{
    Check, CheckPolicy, EndpointCheck, HealthCheck, HttpCheck, Method, StatusRange,
};
use meshctl::mesh::http::{
    ClientCertDetails, ClientCertOptions, EscapedSlashes, ForwardClientCert, HostOptions,
    Http1Options, HttpLimits, HttpTimeouts, PathOptions, RemoteOptions, RequestIdOptions,
    ServerHeader, ServerOptions, StripPort, Underscores, Upgrades,
};
use meshctl::mesh::http2::Http2Options;
use meshctl::mesh::listener::{
    Chain, ChainAction, ChainLimits, ChainMatch, Direction, HttpCodec, ListenerOptions, ServerTls,
    TcpOptions, Transport,
};
use meshctl::mesh::outlier::{FailurePercentage, OutlierDetection, ResponseTime, SuccessRate};
use meshctl::mesh::route::{
    Action, Forward, HashCookie, HashOf, HashPolicy, HeaderEdits, HeaderMatch, HeaderOperations,
    Match, PathMatch, PathRewrite, Pattern, QueryMatch, Redirect, Respond, Retry, Rewrite, Route,
    TextMatch, WeightedCluster,
};
use meshctl::mesh::{
    Assignment, Cluster, ClusterKind, Endpoint, Health, HttpOptions, Listener, LoadBalancer,
    Locality, Origin, RouteTable, SpiffeId, View, VirtualHost,
};
use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::{Tasks, Wall};
use meshctl::tls::Authority;
use meshctl::xds::encode::secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::{Caller, backend};
use crate::envoy::{any_port, changed, envoy, synced};
use crate::processes::free;
use crate::stand::{Stand, cluster, endpoints, until, view};

const HOST: &str = "reviews:9080";
const SERVICE: &str = "outbound|9080||reviews.default.svc.cluster.local";
const LOCAL: &str = "inbound|9080||";

fn reviews() -> SpiffeId {
    SpiffeId::new("cluster.local", "default", "reviews")
}

fn chain(name: &str, matches: ChainMatch, tls: bool, action: ChainAction) -> Chain {
    Chain {
        name: name.to_owned(),
        matches,
        tls: tls.then(|| ServerTls {
            alpn: ["istio-http/1.1", "istio-h2", "istio"]
                .map(str::to_owned)
                .to_vec(),
            own: None,
        }),
        action,
        filters: Vec::new(),
        guards: Vec::new(),
        limits: ChainLimits::default(),
    }
}

fn listener(name: &str, bind: SocketAddr, direction: Direction, chains: Vec<Chain>) -> Listener {
    Listener {
        name: name.to_owned(),
        bind,
        direction,
        transparent: false,
        chains,
        default_chain: None,
        detect_timeout: Duration::from_secs(1),
        options: ListenerOptions::default(),
    }
}

fn http(routes: &str) -> ChainAction {
    ChainAction::Http {
        routes: routes.to_owned(),
        codec: HttpCodec::Auto,
        options: Arc::default(),
    }
}

fn route(path: PathMatch, action: Action) -> Route {
    Route {
        name: String::new(),
        matches: Match {
            path,
            ..Match::default()
        },
        action,
        headers: HeaderEdits::default(),
        origin: Origin::default(),
    }
}

fn to(cluster: &str) -> Forward {
    Forward {
        clusters: vec![WeightedCluster {
            cluster: cluster.to_owned(),
            weight: 1,
            ..WeightedCluster::default()
        }],
        ..Forward::default()
    }
}

fn everything(name: &str, routes: Vec<Route>) -> Arc<RouteTable> {
    Arc::new(RouteTable {
        name: name.to_owned(),
        ignore_port: true,
        hosts: vec![VirtualHost {
            name: "any".to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..VirtualHost::default()
        }],
    })
}

fn mutual(principals: Vec<SpiffeId>, required: bool) -> ClientTls {
    ClientTls {
        sni: "outbound_.9080_._.reviews.default.svc.cluster.local".to_owned(),
        principals,
        required,
    }
}

fn local(address: SocketAddr) -> Arc<Cluster> {
    Arc::new(Cluster {
        kind: ClusterKind::Static(vec![address]),
        ..Cluster::clone(&cluster(LOCAL))
    })
}

/// The outbound side calls its own inbound side over mTLS.
fn both_ways(out: SocketAddr, inside: SocketAddr, app: SocketAddr) -> View {
    let mut view = view(out, &[(SERVICE, 1, &[inside])]);
    let mut protected = Assignment::clone(&endpoints(&[inside]));
    protected.endpoints[0].mtls = true;
    view.endpoints
        .insert(SERVICE.to_owned(), Arc::new(protected));
    view.clusters.insert(
        SERVICE.to_owned(),
        Arc::new(Cluster {
            tls: Some(mutual(vec![reviews()], false)),
            ..Cluster::clone(&cluster(SERVICE))
        }),
    );
    let strict = chain("strict", ChainMatch::default(), true, http(LOCAL));
    view.listeners.insert(
        "virtualInbound".to_owned(),
        Arc::new(listener(
            "virtualInbound",
            inside,
            Direction::Inbound,
            vec![strict],
        )),
    );
    view.routes.insert(
        LOCAL.to_owned(),
        everything(
            LOCAL,
            vec![route(PathMatch::default(), Action::Forward(to(LOCAL)))],
        ),
    );
    view.clusters.insert(LOCAL.to_owned(), local(app));
    view
}

fn secrets(authority: &Authority) -> Vec<(String, Vec<u8>)> {
    let pems = authority
        .issue_pair(&reviews(), Duration::from_hours(1), Wall::System.millis())
        .unwrap()
        .to_pems();
    vec![
        secret::certificate(&pems.chain, &pems.key),
        secret::roots(&pems.roots, ""),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn mtls_between_envoys_by_our_secrets() {
    let tasks = Tasks::new();
    let app = backend("app", &tasks);
    let (out, inside) = (free(), free());
    let authority = Authority::generate("cluster.local", Wall::System.millis()).unwrap();
    let issued = Arc::new(std::sync::Mutex::new(secrets(&authority)));
    let served = Arc::clone(&issued);
    let stand = Stand::with_secrets(
        both_ways(out, inside, app),
        any_port(),
        None,
        Arc::new(move |_, _| served.lock().unwrap().clone()),
    );
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    let caller = Caller::new(out);
    let (status, body) = caller.get(HOST, "/x").await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(
        body.starts_with("app /x ") && body.contains(&reviews().to_string()),
        "{body}"
    );

    // Plaintext is not let in.
    let refused = Caller::new(inside).get(HOST, "/").await;
    assert!(refused.is_err(), "{refused:?}");

    // New certificates of a new root on both sides, in one push, for new connections.
    let before = issued.lock().unwrap().clone();
    *issued.lock().unwrap() =
        secrets(&Authority::generate("cluster.local", Wall::System.millis()).unwrap());
    assert_ne!(before, *issued.lock().unwrap());
    stand.hub.refresh();
    synced(&stand).await;
    let counts = caller.count(HOST, 20).await;
    assert_eq!(counts, BTreeMap::from([("app".to_owned(), 20)]));

    // A peer that is someone else is not believed.
    changed(&stand, |view| {
        let other = SpiffeId::new("cluster.local", "default", "details");
        view.clusters.insert(
            SERVICE.to_owned(),
            Arc::new(Cluster {
                tls: Some(mutual(vec![other], false)),
                ..Cluster::clone(&cluster(SERVICE))
            }),
        );
    })
    .await;
    let (status, body) = caller.get(HOST, "/").await.unwrap();
    assert_eq!(status, 503, "{body}");
    stand.stop().await;
    tasks.end().await;
}

/// A server that speaks no HTTP: sends back what it gets.
fn echo(tasks: &Tasks) -> SocketAddr {
    let listener = bind(any_port(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn("echo", async move {
        while let Ok((mut io, _)) = listener.accept().await {
            connections.spawn("connection", async move {
                let (mut read, mut write) = io.split();
                let _copied = tokio::io::copy(&mut read, &mut write).await.is_ok();
            });
        }
    });
    address
}

fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = "example.com".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn one_port_takes_http_and_bytes_by_looking() {
    let tasks = Tasks::new();
    let (app, bytes) = (backend("app", &tasks), echo(&tasks));
    let out = free();
    let mut world = view(out, &[(SERVICE, 1, &[app]), ("bytes", 1, &[bytes])]);
    let action = ChainAction::Detect {
        routes: "9080".to_owned(),
        cluster: "bytes".to_owned(),
        tunnel: None,
        options: Arc::default(),
    };
    let detect = chain("detect", ChainMatch::default(), false, action);
    world.listeners = BTreeMap::from([(
        "out".to_owned(),
        Arc::new(listener("out", out, Direction::Outbound, vec![detect])),
    )]);
    world
        .routes
        .insert("9080".to_owned(), crate::stand::table(&[(SERVICE, 1)]));
    let stand = Stand::start(world, any_port(), None);
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    assert_eq!(Caller::new(out).get(HOST, "/").await.unwrap().0, 200);
    // A client hello is bytes too, though its ALPN may say http/1.1.
    for text in [b"\x00\x01 not http at all\r\n".to_vec(), client_hello()] {
        let mut io = connect(out, ConnectOptions::default()).await.unwrap();
        io.write_all(&text).await.unwrap();
        // The end is not announced before the answer: Envoy may reset a caller that is gone before it
        // has connected, and this is about detection.
        let mut back = vec![0; text.len()];
        io.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text);
    }
    stand.stop().await;
    tasks.end().await;
}

/// A forward proxy that consents, and then sends back what it gets; and what it was asked.
fn forward_proxy(tasks: &Tasks) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = bind(any_port(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, connections) = (Arc::<Mutex<Vec<String>>>::default(), tasks.clone());
    let told = Arc::clone(&asked);
    tasks.spawn("forward proxy", async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let told = Arc::clone(&told);
            connections.spawn("asked", async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match io.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                told.lock().unwrap().push(head);
                let consent = b"HTTP/1.1 200 OK\r\n\r\nhello ";
                let (mut read, mut write) = io.split();
                if write.write_all(consent).await.is_ok() {
                    let _copied = tokio::io::copy(&mut read, &mut write).await.is_ok();
                }
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_through_a_forward_proxy() {
    let tasks = Tasks::new();
    let (address, asked) = forward_proxy(&tasks);
    let (told, looked) = (free(), free());
    let mut world = view(told, &[(SERVICE, 1, &[address])]);
    let tunnel = Some(Arc::from("www.example.com:443"));
    let tcp = ChainAction::Tcp {
        clusters: vec![(SERVICE.to_owned(), 1)],
        options: TcpOptions {
            tunnel: tunnel.clone(),
            ..TcpOptions::default()
        },
    };
    let detect = ChainAction::Detect {
        routes: "9080".to_owned(),
        cluster: SERVICE.to_owned(),
        tunnel,
        options: Arc::default(),
    };
    let listeners = [("told", told, tcp), ("looked", looked, detect)];
    world.listeners = BTreeMap::from(listeners.map(|(name, at, action)| {
        let chain = chain(name, ChainMatch::default(), false, action);
        let made = listener(name, at, Direction::Outbound, vec![chain]);
        (name.to_owned(), Arc::new(made))
    }));
    let table = crate::stand::table(&[(SERVICE, 1)]);
    world.routes.insert("9080".to_owned(), table);
    let stand = Stand::start(world, any_port(), None);
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    for at in [told, looked] {
        let mut io = connect(at, ConnectOptions::default()).await.unwrap();
        io.write_all(b"\x00\x01 not http\r\n").await.unwrap();
        let mut back = [0; 19];
        io.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello \x00\x01 not http\r\n");
    }
    let asked = asked.lock().unwrap().clone();
    let begin = "connect www.example.com:443 http/1.1\r\nhost: www.example.com:443\r\n";
    assert!(
        asked.len() == 2 && asked.iter().all(|head| head.starts_with(begin)),
        "{asked:?}"
    );
    stand.stop().await;
    tasks.end().await;
}

/// HTTP with nothing as usual.
fn every_option() -> ChainAction {
    let second = Some(Duration::from_secs(1));
    ChainAction::Http {
        routes: "9080".to_owned(),
        codec: HttpCodec::Http1,
        options: Arc::new(HttpOptions {
            path: PathOptions {
                normalize: true,
                merge_slashes: true,
                escaped_slashes: EscapedSlashes::UnescapeAndRedirect,
            },
            host: HostOptions {
                strip_port: StripPort::Any,
                strip_trailing_dot: true,
            },
            limits: HttpLimits {
                max_request_headers_kb: 8192,
                max_headers_count: 1000,
                max_requests_per_connection: 9,
                max_request_bytes: Some(1 << 20),
                underscores: Underscores::DropHeader,
            },
            timeouts: HttpTimeouts {
                idle: None,
                request_headers: second,
                request: second,
                stream_idle: second,
                max_connection: second,
                max_stream: second,
                drain: Duration::from_secs(1),
            },
            remote: RemoteOptions {
                use_remote_address: true,
                xff_num_trusted_hops: 2,
                skip_xff_append: true,
                internal: vec!["10.0.0.0/8".parse().unwrap()],
            },
            client_cert: ClientCertOptions {
                forward: ForwardClientCert::AppendForward,
                details: ClientCertDetails {
                    subject: true,
                    cert: true,
                    chain: true,
                    dns: true,
                    uri: true,
                },
            },
            request_id: RequestIdOptions {
                generate: false,
                preserve_external: true,
                in_response: true,
            },
            server: ServerOptions {
                name: "edge".to_owned(),
                transformation: ServerHeader::AppendIfAbsent,
                via: "1.1 edge".to_owned(),
            },
            http1: Http1Options {
                accept_http_10: true,
                default_host_for_http_10: "usual".to_owned(),
                allow_absolute_url: false,
                keep_after_error: true,
            },
            http2: Http2Options::default(),
            upgrades: Upgrades(vec!["websocket".to_owned(), "connect".to_owned()]),
            tracing: None,
            access_log: None,
        }),
    }
}

/// Everything that the model has, in the corners of what Envoy takes.
fn kitchen_sink() -> View {
    let text = |text: &str| text.to_owned();
    let out = free();
    let mut view = view(free(), &[(SERVICE, 90, &[]), ("other", 10, &[])]);
    let port = |port, transport, protocols: &[&str]| ChainMatch {
        port: Some(port),
        destinations: vec![
            "10.0.0.7/32".parse().unwrap(),
            "10.1.2.3/16".parse().unwrap(),
        ],
        server_names: Vec::new(),
        transport,
        application_protocols: protocols.iter().map(|p| text(p)).collect(),
    };
    let detect = || ChainAction::Detect {
        routes: text("9080"),
        cluster: text("PassthroughCluster"),
        tunnel: None,
        options: Arc::default(),
    };
    let tcp = |clusters: &[(&str, u32)]| ChainAction::Tcp {
        clusters: clusters
            .iter()
            .map(|(name, weight)| (text(name), *weight))
            .collect(),
        options: TcpOptions::default(),
    };
    let mut chains = vec![
        chain(
            "mtls",
            port(80, Some(Transport::Tls), &["istio-http/1.1"]),
            true,
            http("9080"),
        ),
        chain(
            "mtls-any",
            port(80, Some(Transport::Tls), &[]),
            true,
            detect(),
        ),
        chain("plain", port(80, None, &[]), false, detect()),
        chain(
            "weighted",
            port(81, None, &[]),
            false,
            tcp(&[(SERVICE, 1), ("other", 0)]),
        ),
        chain(
            "two",
            port(82, None, &[]),
            false,
            tcp(&[(SERVICE, 1), ("other", 2)]),
        ),
        chain("none", port(83, None, &[]), false, tcp(&[])),
        chain("options", port(84, None, &[]), false, every_option()),
    ];
    let sni = ChainMatch {
        server_names: vec![text("a.example.com"), text("*.example.org")],
        transport: Some(Transport::Tls),
        ..ChainMatch::default()
    };
    chains.push(chain("sni", sni, false, tcp(&[(SERVICE, 1)])));
    let mut all = listener("virtualOutbound", out, Direction::Outbound, chains);
    all.transparent = true;
    all.detect_timeout = Duration::ZERO;
    all.default_chain = Some(chain("rest", ChainMatch::default(), false, detect()));
    view.listeners.insert(all.name.clone(), Arc::new(all));

    let pattern = || Pattern::new("/v[0-9]+(/.*)?").unwrap();
    let edits = HeaderEdits {
        request: HeaderOperations {
            set: BTreeMap::from([(text("host"), text("other")), (text("x-a"), text("100%"))]),
            add: BTreeMap::from([(text("x-b"), text("%DOWNSTREAM_REMOTE_ADDRESS%"))]),
            remove: vec![text("x-c"), text(":path")],
            ..HeaderOperations::default()
        },
        response: HeaderOperations {
            set: BTreeMap::from([(text("x-d"), String::new())]),
            ..HeaderOperations::default()
        },
    };
    let forward = |path| {
        Action::Forward(Forward {
            clusters: vec![
                WeightedCluster {
                    cluster: text(SERVICE),
                    weight: 3,
                    headers: edits.clone(),
                },
                WeightedCluster {
                    cluster: text("missing"),
                    weight: 0,
                    ..WeightedCluster::default()
                },
            ],
            timeout: Some(Duration::from_millis(1500)),
            retry: Some(Retry {
                base_interval: Duration::ZERO,
                status_codes: vec![503],
                per_try_timeout: Some(Duration::from_millis(200)),
                on: meshctl::mesh::route::RetryOn::ALL.to_vec(),
                ..Retry::default()
            }),
            rewrite: Rewrite {
                path,
                authority: Some(text("elsewhere")),
            },
            hash: vec![
                HashPolicy::of(HashOf::SourceIp),
                HashPolicy::of(HashOf::Query(text("user"))),
                HashPolicy::of(HashOf::Cookie(HashCookie {
                    name: text("session"),
                    ttl: Some(Duration::from_secs(9)),
                    ..HashCookie::default()
                })),
            ],
            ..Forward::default()
        })
    };
    let mut routes = vec![
        route(
            PathMatch::Segments(text("/a")),
            forward(Some(PathRewrite::Prefix(text("/b")))),
        ),
        route(
            PathMatch::Segments(text("/a/")),
            forward(Some(PathRewrite::Prefix(String::new()))),
        ),
        route(
            PathMatch::Segments(text("/")),
            forward(Some(PathRewrite::Full(text("/x\\1")))),
        ),
        route(
            PathMatch::Regex(pattern()),
            forward(Some(PathRewrite::Regex {
                pattern: Pattern::new("^/v([0-9]+)").unwrap(),
                substitution: text("/\\1"),
            })),
        ),
        route(
            PathMatch::Exact(text("/e")),
            Action::Forward(Forward::default()),
        ),
        route(
            PathMatch::Prefix(text("/r")),
            Action::Redirect(Redirect {
                status: 308,
                scheme: Some(text("https")),
                authority: Some(text("a.example")),
                port: Some(8443),
                path: Some(text("/new")),
                prefix: None,
            }),
        ),
        route(
            PathMatch::Prefix(text("/d")),
            Action::Respond(Respond {
                status: 0,
                body: text("body"),
            }),
        ),
    ];
    let values = || {
        [
            TextMatch::Exact(String::new()),
            TextMatch::Prefix(String::new()),
            TextMatch::Suffix(text("z")),
            TextMatch::Regex(pattern()),
            TextMatch::Present,
        ]
    };
    for invert in [false, true] {
        let mut asking = route(PathMatch::Prefix(text("/")), forward(None));
        asking.matches.ignore_case = invert;
        asking.headers = edits.clone();
        asking.origin.kind = text("VirtualService");
        asking.matches.headers = values()
            .into_iter()
            .zip(["x-a", "host", ":method", "x-b", ":authority"])
            .map(|(value, name)| HeaderMatch {
                name: text(name),
                value,
                invert,
            })
            .collect();
        asking.matches.query = values()
            .into_iter()
            .map(|value| QueryMatch {
                name: text("q"),
                value,
            })
            .collect();
        routes.push(asking);
    }
    let host = |name: &str, domains: &[&str]| VirtualHost {
        name: text(name),
        domains: domains.iter().map(|domain| text(domain)).collect(),
        routes: routes.clone(),
        ..VirtualHost::default()
    };
    view.routes.insert(
        text("9080"),
        Arc::new(RouteTable {
            name: text("9080"),
            ignore_port: true,
            hosts: vec![
                host("one", &["reviews", "REVIEWS", "*.wild.example"]),
                host("one-again", &["reviews"]),
                host("", &["*"]),
            ],
        }),
    );

    let full = |name: &str, kind, protocol| Cluster {
        name: text(name),
        kind,
        protocol,
        tls: Some(mutual(vec![reviews()], true)),
        load_balancer: LoadBalancer::Random,
        connect_timeout: Duration::ZERO,
        limits: Limits {
            max_requests_per_connection: 7,
            ..Limits::default()
        },
        outlier: Some(OutlierDetection {
            consecutive_5xx: 0,
            interval: Duration::ZERO,
            max_ejection_percent: 200,
            enforcing_consecutive_gateway: 200,
            split_external_local_origin_errors: true,
            success_rate: SuccessRate {
                enforcing: 200,
                ..SuccessRate::default()
            },
            failure_percentage: FailurePercentage {
                enforcing_local_origin: 200,
                threshold: 200,
                ..FailurePercentage::default()
            },
            response_time: Some(ResponseTime::default()),
            max_ejection: Some(Duration::ZERO),
            max_ejection_jitter: Duration::from_secs(1),
            ..OutlierDetection::default()
        }),
        health_check: Some(HealthCheck {
            no_traffic_interval: Duration::ZERO,
            healthy_edge_interval: Some(Duration::ZERO),
            alt_port: Some(80),
            reuse_connection: false,
            policy: CheckPolicy {
                ignore_health_on_host_removal: true,
                ignore_new_hosts_until_first_hc: true,
                close_connections_on_failure: true,
                always_log_failures: true,
                always_log_success: true,
            },
            ..HealthCheck::new(
                Check::Http(Box::new(HttpCheck {
                    method: Method::Post,
                    send: vec![0, 1],
                    receive: vec![vec![2], vec![3]],
                    response_buffer_size: Some(0),
                    headers: HeaderOperations {
                        set: [(text("host"), text("a")), (text("x-a"), text("50%"))].into(),
                        ..HeaderOperations::default()
                    },
                    expected_statuses: vec![StatusRange {
                        start: 100,
                        end: 600,
                    }],
                    http2: true,
                    service_name: Some(TextMatch::Prefix(String::new())),
                    ..HttpCheck::default()
                })),
                Duration::ZERO,
                Duration::ZERO,
            )
        }),
        ..Cluster::clone(&cluster(name))
    };
    let address = free();
    for cluster in [
        full("other", ClusterKind::Discovered, UpstreamProtocol::Http2),
        full(
            "PassthroughCluster",
            ClusterKind::OriginalDestination,
            UpstreamProtocol::Downstream,
        ),
        full(
            LOCAL,
            ClusterKind::Static(vec![address, address]),
            UpstreamProtocol::Http1,
        ),
    ] {
        view.clusters
            .insert(cluster.name.clone(), Arc::new(cluster));
    }
    for load_balancer in LoadBalancer::ALL {
        let balancing = Balancing {
            choices: 3,
            full_scan: true,
            request_bias: 500,
            balance_factor: 150,
            slow_start: Some(SlowStart {
                window: Duration::from_secs(9),
                aggression: 1500,
                min_weight_percent: 5,
            }),
            locality: LocalityBalancing::Weighted,
            panic_threshold: 30,
            ..Balancing::default()
        };
        let name = format!("{load_balancer:?}");
        let cluster = Cluster {
            load_balancer,
            balancing,
            ..full(
                &name,
                ClusterKind::Static(vec![address]),
                UpstreamProtocol::Http1,
            )
        };
        view.clusters.insert(name, Arc::new(cluster));
    }
    let endpoint = |priority, zone: &str, health| Endpoint {
        priority,
        locality: Locality {
            zone: text(zone),
            ..Locality::default()
        },
        health,
        address: free(),
        health_check: Some(Box::new(EndpointCheck {
            disabled: priority == 5,
            address: Some(address),
            hostname: text("own"),
        })),
        ..endpoints(&[address]).endpoints[0].clone()
    };
    view.endpoints.insert(
        text("other"),
        Arc::new(Assignment::new(vec![
            endpoint(2, "a", Health::Healthy),
            endpoint(2, "b", Health::Unhealthy),
            endpoint(5, "a", Health::Draining),
        ])),
    );
    view
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_model_can_say_passes_envoys_validation() {
    let authority = Authority::generate("cluster.local", Wall::System.millis()).unwrap();
    let issued = secrets(&authority);
    let stand = Stand::with_secrets(
        kitchen_sink(),
        any_port(),
        None,
        Arc::new(move |_, _| issued.clone()),
    );
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    until("all types", 10, || {
        (stand.hub.status()[0].types.len() == 5).then_some(())
    })
    .await;
    synced(&stand).await;
    stand.stop().await;
}
