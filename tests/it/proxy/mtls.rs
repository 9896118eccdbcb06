//! Two sidecars and what is between them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use meshctl::mesh::cluster::{ClientTls, ClusterKind, UpstreamProtocol};
use meshctl::mesh::http::{ClientCertDetails, ClientCertOptions, ForwardClientCert};
use meshctl::mesh::listener::{
    ChainAction, ChainLimits, ChainMatch, Direction, HttpCodec, ListenerOptions, ServerTls,
    TcpOptions, Transport,
};
use meshctl::mesh::route::{Action, Retry};
use meshctl::mesh::{Assignment, Chain, HttpOptions, Listener, SpiffeId, View, WorkloadRef};
use meshctl::proxy::Options;
use meshctl::rt::{Tasks, Wall};
use meshctl::tls::{Authority, Material};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

const ALPN: [&str; 5] = ["istio-h2", "istio-http/1.1", "istio", "h2", "http/1.1"];

pub(super) struct Mesh {
    authority: Authority,
}

impl Mesh {
    pub(super) fn new() -> Self {
        let authority = Authority::generate("cluster.local", Wall::System.millis()).unwrap();
        Self { authority }
    }

    pub(super) fn identity(&self, account: &str) -> Arc<Material> {
        self.identity_for(account, Duration::from_hours(1))
    }

    fn identity_for(&self, account: &str, life: Duration) -> Arc<Material> {
        let now = Wall::System.millis();
        Arc::new(self.authority.issue_pair(&id(account), life, now).unwrap())
    }
}

pub(super) fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "default", account)
}

fn workload(name: &str) -> WorkloadRef {
    WorkloadRef {
        instance: format!("{name}-v1-0"),
        workload: format!("{name}-v1"),
        namespace: "default".to_owned(),
        service: name.to_owned(),
        version: "v1".to_owned(),
    }
}

pub(super) fn options(name: &str) -> Options {
    Options {
        workers: 1,
        workload: workload(name),
        ..Options::default()
    }
}

/// Takes mTLS only, and carries it to `app`.
pub(super) fn strict(bind: SocketAddr, app: SocketAddr, action: ChainAction) -> View {
    let mut local = cluster("inbound|80||");
    local.kind = ClusterKind::Static(vec![app]);
    local.protocol = UpstreamProtocol::Downstream;
    let mut views = Views::default()
        .routes(
            "in",
            vec![route(Action::Forward(forward(&[("inbound|80||", 1)])))],
        )
        .cluster(local, Vec::new());
    let chain = Chain {
        name: "mtls".to_owned(),
        matches: ChainMatch {
            transport: Some(Transport::Tls),
            ..ChainMatch::default()
        },
        tls: Some(ServerTls {
            alpn: ALPN.map(str::to_owned).to_vec(),
            own: None,
        }),
        action,
        filters: Vec::new(),
        guards: Vec::new(),
        limits: ChainLimits::default(),
    };
    views.0.listeners.insert(
        "in".to_owned(),
        Arc::new(Listener {
            name: "in".to_owned(),
            bind,
            direction: Direction::Inbound,
            transparent: false,
            chains: vec![chain],
            default_chain: None,
            detect_timeout: Duration::ZERO,
            options: ListenerOptions::default(),
        }),
    );
    views.0
}

pub(super) fn http() -> ChainAction {
    ChainAction::Http {
        routes: "in".to_owned(),
        codec: HttpCodec::Auto,
        options: Arc::default(),
    }
}

/// Carries plaintext from `bind` to the peer at `to`, which must be `principal`.
pub(super) fn outward(
    bind: SocketAddr,
    to: SocketAddr,
    principal: &str,
    protocol: UpstreamProtocol,
) -> Views {
    let mut remote = cluster("app");
    remote.protocol = protocol;
    remote.tls = Some(ClientTls {
        sni: "outbound_.80_._.app.default.svc.cluster.local".to_owned(),
        principals: vec![id(principal)],
        required: true,
    });
    let mut peer = endpoint(to);
    peer.mtls = true;
    Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(remote, vec![peer])
}

#[tokio::test]
async fn callers_are_known_by_their_certificates() {
    let mesh = Mesh::new();
    let app = App::start("a");
    for protocol in [
        UpstreamProtocol::Http1,
        UpstreamProtocol::Http2,
        UpstreamProtocol::Negotiated,
    ] {
        let (inbound, outbound, admin) = (free(), free(), free());
        let server = Options {
            admin: Some(admin),
            ..options("server")
        };
        let view = strict(inbound, app.address, http());
        let _server = Proxy::with(server, view, Some(mesh.identity("server"))).await;
        let view = outward(outbound, inbound, "server", protocol).0;
        let _client = Proxy::with(options("client"), view, Some(mesh.identity("client"))).await;
        let answer = exchange(
            outbound,
            "GET /x HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\
             X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/default/sa/root\r\n\
             X-Meshctl-Peer: evil;evil;evil;evil;evil\r\n\r\n",
        )
        .await;
        assert_eq!(status(&answer), 200, "{answer}");
        let certificate =
            "x-forwarded-client-cert: By=spiffe://cluster.local/ns/default/sa/server;Hash=";
        assert!(answer.contains(certificate), "{answer}");
        assert!(
            answer.contains(";URI=spiffe://cluster.local/ns/default/sa/client\n"),
            "{answer}"
        );
        assert!(
            !answer.contains("sa/root") && !answer.contains("x-meshctl-peer"),
            "{answer}"
        );
        let counted = "istio_requests_total{";
        // The caller has its answer before the request is counted.
        eventually(|| async { own_page(admin, "/stats/prometheus").await.contains(counted) }).await;
        let metrics = own_page(admin, "/stats/prometheus").await;
        let line = metrics
            .lines()
            .find(|line| line.starts_with(counted))
            .unwrap_or_else(|| panic!("{metrics}"));
        for label in [
            "reporter=\"destination\"",
            "source_workload=\"client-v1\"",
            "source_principal=\"spiffe://cluster.local/ns/default/sa/client\"",
            "destination_workload=\"server-v1\"",
            "connection_security_policy=\"mutual_tls\"",
            "response_code=\"200\"",
        ] {
            assert!(line.contains(label), "{label} in {line}");
        }
    }
}

/// A peer says in its handshake which HTTP it likes; bodies and upgrades arrive either way.
#[tokio::test]
async fn the_version_between_sidecars_is_the_peers_choice() {
    let mesh = Mesh::new();
    let app = App::start("a");
    for (offered, target) in [
        (&["istio-h2", "istio-http/1.1"][..], "http://app/x"),
        (&["h2"], "http://app/x"),
        (&["istio-http/1.1"], "/x"),
        (&["http/1.1"], "/x"),
        (&["istio"], "/x"),
    ] {
        let (inbound, outbound) = (free(), free());
        let mut view = strict(inbound, app.address, http());
        let listener = Arc::make_mut(view.listeners.get_mut("in").unwrap());
        let alpn = offered.iter().map(|name| (*name).to_owned()).collect();
        listener.chains[0].tls = Some(ServerTls { alpn, own: None });
        let _server = Proxy::with(options("server"), view, Some(mesh.identity("server"))).await;
        let view = outward(outbound, inbound, "server", UpstreamProtocol::Negotiated).0;
        let _client = Proxy::with(options("client"), view, Some(mesh.identity("client"))).await;
        let post = "POST /x HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\
                    Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let asks = (0..8).map(|_| exchange(outbound, post));
        for answer in futures_util::future::join_all(asks).await {
            assert!(
                answer.contains(&format!("a POST {target}\n")),
                "{offered:?}: {answer}"
            );
            assert!(answer.contains("\n\nabc"), "{answer}");
        }
        let answer = get(outbound, "/x").await;
        assert!(
            answer.contains(&format!("a GET {target}\n")),
            "{offered:?}: {answer}"
        );
        assert!(!answer.contains("transfer-encoding: chunked\n"), "{answer}");
    }
}

#[tokio::test]
async fn strangers_are_refused() {
    let (mesh, foreign) = (Mesh::new(), Mesh::new());
    let app = App::start("a");
    let inbound = free();
    let view = strict(inbound, app.address, http());
    let _server = Proxy::with(options("server"), view, Some(mesh.identity("server"))).await;
    // Plaintext is closed without an answer.
    assert_eq!(get(inbound, "/").await, "");
    for (caller, expects, mesh) in [
        ("client", "server", &foreign),
        ("client", "somebody-else", &mesh),
    ] {
        let outbound = free();
        let view = outward(outbound, inbound, expects, UpstreamProtocol::Http1).0;
        let _client = Proxy::with(options(caller), view, Some(mesh.identity(caller))).await;
        let answer = get(outbound, "/").await;
        assert_eq!(status(&answer), 503, "{answer}");
    }
    // Without an identity of its own a sidecar calls nobody.
    let outbound = free();
    let view = outward(outbound, inbound, "server", UpstreamProtocol::Http1).0;
    let _client = Proxy::with(options("client"), view, None).await;
    assert_eq!(status(&get(outbound, "/").await), 503);
    assert_eq!(app.hits(), 0);
}

#[tokio::test]
async fn bytes_pass_over_mtls() {
    let mesh = Mesh::new();
    let (socket, address) = listen();
    let tasks = Tasks::new();
    tasks.spawn("server", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            let mut all = Vec::new();
            tcp.read_to_end(&mut all).await.unwrap();
            let _sent = tcp.write_all(&all).await;
        }
    });
    let bytes = |cluster: &str| ChainAction::Tcp {
        clusters: vec![(cluster.to_owned(), 1)],
        options: TcpOptions::idle(Duration::from_mins(1)),
    };
    let (inbound, outbound) = (free(), free());
    let view = strict(inbound, address, bytes("inbound|80||"));
    let _server = Proxy::with(options("server"), view, Some(mesh.identity("server"))).await;
    let view = outward(outbound, inbound, "server", UpstreamProtocol::Http1)
        .listener("t", outbound, Direction::Outbound, bytes("app"))
        .0;
    let _client = Proxy::with(options("client"), view, Some(mesh.identity("client"))).await;
    let mut stream = connect(outbound).await;
    let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert!(got == sent, "{} bytes came back", got.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_fails_no_request() {
    let mesh = Mesh::new();
    let app = App::start("a");
    let (inbound, outbound) = (free(), free());
    let view = strict(inbound, app.address, http());
    let server = Proxy::with(options("server"), view, Some(mesh.identity("server"))).await;
    let view = outward(outbound, inbound, "server", UpstreamProtocol::Http1).0;
    let client = Proxy::with(options("client"), view, Some(mesh.identity("client"))).await;
    let tasks = Tasks::new();
    let go_on = Arc::new(AtomicBool::new(true));
    let done = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (go_on, done, tasks) = (Arc::clone(&go_on), Arc::clone(&done), tasks.clone());
            async move {
                let mut caller = Caller::new(&tasks, outbound).await;
                while go_on.load(Ordering::Relaxed) {
                    let (status, body) = caller.get("/").await.expect("a request failed");
                    assert_eq!(status, 200, "{body}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
        .collect();
    let renew = async {
        for n in 0..10 {
            let before = done.load(Ordering::Relaxed);
            let next = if n % 2 == 0 { &server } else { &client };
            let account = if n % 2 == 0 { "server" } else { "client" };
            next.identities.publish(Some(mesh.identity(account)));
            eventually(|| async { done.load(Ordering::Relaxed) > before + 10 }).await;
        }
        go_on.store(false, Ordering::Relaxed);
    };
    futures_util::future::join(renew, futures_util::future::join_all(callers)).await;
}

/// A sidecar that cannot reach its application says so to the caller's sidecar, which may then send
/// even a POST elsewhere. An application cannot say it.
#[tokio::test]
async fn what_an_application_never_got_is_sent_elsewhere() {
    let mesh = Mesh::new();
    let tasks = Tasks::new();
    let post = "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
    let liar = "HTTP/1.1 503 No\r\nx-meshctl-undelivered: true\r\nContent-Length: 0\r\n\r\n";
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let app = App::start("a");
        let (dead, alive, outbound) = (free(), free(), free());
        let serve = async |bind, app| {
            let view = strict(bind, app, http());
            Proxy::with(options("server"), view, Some(mesh.identity("server"))).await
        };
        let (_dead, _alive) = (serve(dead, free()).await, serve(alive, app.address).await);
        let call = async |outbound, peers: &[SocketAddr]| {
            let mut action = forward(&[("app", 1)]);
            action.retry = Some(Retry {
                base_interval: Duration::from_millis(1),
                ..Retry::default()
            });
            let mut view = outward(outbound, peers[0], "server", protocol)
                .routes("t", vec![route(Action::Forward(action))])
                .0;
            let peers = peers.iter().map(|address| {
                let mut peer = endpoint(*address);
                peer.mtls = true;
                peer
            });
            let assignment = Arc::new(Assignment::new(peers.collect()));
            view.endpoints.insert("app".to_owned(), assignment);
            Proxy::with(options("client"), view, Some(mesh.identity("client"))).await
        };
        let _client = call(outbound, &[dead, alive]).await;
        for _ in 0..6 {
            let answer = exchange(outbound, post).await;
            assert!(
                status(&answer) == 200 && answer.ends_with("body"),
                "{answer}"
            );
        }
        assert_eq!(app.hits(), 6);

        let (lying, outbound) = (free(), free());
        let liar = Scripted::start(&tasks, &[liar]);
        let _lying = serve(lying, liar.address).await;
        let _client = call(outbound, &[lying]).await;
        if protocol == UpstreamProtocol::Http1 {
            let answer = exchange(outbound, post).await;
            assert_eq!(status(&answer), 503);
            assert!(!answer.contains("undelivered"), "{answer}");
            assert_eq!(liar.heads().len(), 1);
        }
    }
}

/// A certificate is told of as the listener says; without one nothing is believed unless it must be.
#[tokio::test]
async fn certificates_are_told_of_as_asked() {
    let mesh = Mesh::new();
    let app = App::start("a");
    let with = |forward, subject| {
        Arc::new(HttpOptions {
            client_cert: ClientCertOptions {
                forward,
                details: ClientCertDetails {
                    subject,
                    uri: true,
                    ..ClientCertDetails::default()
                },
            },
            ..HttpOptions::default()
        })
    };
    let action = |routes: &str, options| ChainAction::Http {
        routes: routes.to_owned(),
        codec: HttpCodec::Auto,
        options,
    };
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                   X-Forwarded-Client-Cert: theirs\r\n\r\n";
    let own = "By=spiffe://cluster.local/ns/default/sa/server;Hash=";
    let uri = ";URI=spiffe://cluster.local/ns/default/sa/client\n";
    for (forward, subject, begin, end) in [
        (ForwardClientCert::Sanitize, true, String::new(), ""),
        (
            ForwardClientCert::ForwardOnly,
            true,
            "theirs".to_owned(),
            "theirs\n",
        ),
        (
            ForwardClientCert::AppendForward,
            false,
            format!("theirs,{own}"),
            uri,
        ),
        (ForwardClientCert::SanitizeSet, true, own.to_owned(), uri),
        (
            ForwardClientCert::AlwaysForwardOnly,
            true,
            "theirs".to_owned(),
            "theirs\n",
        ),
    ] {
        let (inbound, outbound) = (free(), free());
        let view = strict(inbound, app.address, action("in", with(forward, subject)));
        let _server = Proxy::with(options("server"), view, Some(mesh.identity("server"))).await;
        let mut view = outward(outbound, inbound, "server", UpstreamProtocol::Http1).0;
        // What this caller says gets as far as the other sidecar.
        let mut listener = Listener::clone(&view.listeners["t"]);
        listener.chains[0].action = action("t", with(ForwardClientCert::AlwaysForwardOnly, false));
        view.listeners.insert("t".to_owned(), Arc::new(listener));
        let _client = Proxy::with(options("client"), view, Some(mesh.identity("client"))).await;
        let answer = exchange(outbound, request).await;
        let told = answer
            .split_once("x-forwarded-client-cert: ")
            .map_or("", |(_, rest)| rest.split_inclusive('\n').next().unwrap());
        assert!(
            told.starts_with(&begin) && told.ends_with(end) && told.is_empty() == begin.is_empty(),
            "{forward:?}: {answer}"
        );
        let named = told.contains(";Subject=\"");
        assert_eq!(named, subject && begin.ends_with(own), "{told}");
    }
    // Plaintext proves nothing.
    for (forward, passes) in [
        (ForwardClientCert::ForwardOnly, false),
        (ForwardClientCert::AppendForward, false),
        (ForwardClientCert::AlwaysForwardOnly, true),
    ] {
        let bind = free();
        let to_app = route(Action::Forward(super::support::forward(&[("app", 1)])));
        let view = Views::default()
            .http_with("t", bind, HttpOptions::clone(&with(forward, false)))
            .routes("t", vec![to_app])
            .cluster(cluster("app"), vec![endpoint(app.address)])
            .0;
        let _proxy = Proxy::start(view).await;
        let answer = exchange(bind, request).await;
        assert_eq!(answer.contains("theirs"), passes, "{forward:?}: {answer}");
    }
}
