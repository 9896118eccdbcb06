//! TLS that is passed on by its server name, without being opened.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshctl::api::routes::ExplainRequest;
use meshctl::control::report::explain::explain_request;
use meshctl::control::report::routes::Measured;
use meshctl::mesh::listener::{
    Chain, ChainAction, ChainLimits, ChainMatch, Direction, Listener, ListenerOptions, TcpOptions,
};
use meshctl::mesh::node::Application;
use meshctl::mesh::{Client, Locality, Node, NodeKind, Protocol, View};
use meshctl::resource::{Instances, collect, lower, parse};
use meshctl::rt::Tasks;
use meshctl::xds::{decode, encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

/// A client hello for `name`, in records of at most `fragment` bytes.
fn hello(name: Option<&str>, fragment: usize) -> Vec<u8> {
    let provider = meshctl::tls::provider();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.enable_sni = name.is_some();
    config.max_fragment_size = Some(fragment);
    let name = name.unwrap_or("nobody.example").to_owned();
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    wire
}

/// Says `name` and then everything that it was sent.
fn backend(tasks: &Tasks, name: &'static str) -> SocketAddr {
    let (socket, address) = listen();
    let group = tasks.clone();
    tasks.spawn("backend", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            group.spawn("connection", async move {
                let mut all = Vec::new();
                let _read = tcp.read_to_end(&mut all).await;
                let _sent = tcp.write_all(name.as_bytes()).await;
                let _sent = tcp.write_all(&all).await;
            });
        }
    });
    address
}

fn by_name(bind: SocketAddr, routes: &[(&[&str], &str, SocketAddr)]) -> View {
    let mut views = Views::default();
    let mut chains = Vec::new();
    for (names, cluster_name, address) in routes {
        views = views.cluster(cluster(cluster_name), vec![endpoint(*address)]);
        chains.push(Chain {
            name: (*cluster_name).to_owned(),
            matches: ChainMatch {
                server_names: names.iter().map(|name| (*name).to_owned()).collect(),
                ..ChainMatch::default()
            },
            tls: None,
            action: ChainAction::Tcp {
                clusters: vec![((*cluster_name).to_owned(), 1)],
                options: TcpOptions::default(),
            },
            guards: Vec::new(),
            limits: ChainLimits::default(),
            filters: Vec::new(),
        });
    }
    let listener = Listener {
        name: "l".to_owned(),
        bind,
        direction: Direction::Outbound,
        transparent: false,
        chains,
        default_chain: None,
        detect_timeout: Duration::from_millis(500),
        options: ListenerOptions::default(),
    };
    let mut view = views.0;
    view.listeners.insert("l".to_owned(), Arc::new(listener));
    view
}

/// Who answers to `sent`, having got all of it; nobody when the connection is closed.
async fn who(bind: SocketAddr, sent: &[u8], part: usize) -> String {
    let mut stream = connect(bind).await;
    for part in sent.chunks(part) {
        if stream.write_all(part).await.is_err() {
            break;
        }
        if sent.len() / part.len().max(1) < 3000 {
            tokio::task::yield_now().await;
        }
    }
    let _ended = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let _reset = read.expect("did not end");
    let Some(name) = answer.strip_suffix(sent).filter(|_| !answer.is_empty()) else {
        return if answer.is_empty() {
            "nobody".to_owned()
        } else {
            format!("{} of {} bytes came", answer.len(), sent.len())
        };
    };
    String::from_utf8_lossy(name).into_owned()
}

#[tokio::test]
async fn the_most_specific_name_takes_the_connection_and_its_bytes_stay_as_they_are() {
    let tasks = Tasks::new();
    let bind = free();
    let (exact, wild, deep) = (
        backend(&tasks, "exact"),
        backend(&tasks, "wild"),
        backend(&tasks, "deep"),
    );
    let routes: [(&[&str], &str, SocketAddr); 3] = [
        (&["*.example.com"], "wild", wild),
        (&["a.example.com", "b.example.org"], "exact", exact),
        (&["*.deep.example.com"], "deep", deep),
    ];
    let _proxy = Proxy::start(by_name(bind, &routes)).await;
    for (name, expected) in [
        (Some("a.example.com"), "exact"),
        (Some("A.Example.COM"), "exact"),
        (Some("b.example.org"), "exact"),
        (Some("c.example.com"), "wild"),
        (Some("x.deep.example.com"), "deep"),
        (Some("y.x.deep.example.com"), "deep"),
        (Some("deep.example.com"), "wild"),
        (Some("example.com"), "nobody"),
        (Some("a.example.org"), "nobody"),
        (None, "nobody"),
    ] {
        assert_eq!(
            who(bind, &hello(name, 16_000), 100_000).await,
            expected,
            "{name:?}"
        );
    }
    // In many records, and in many segments.
    let small = hello(Some("c.example.com"), 32);
    assert_eq!(who(bind, &small, 100_000).await, "wild");
    assert_eq!(
        who(bind, &hello(Some("a.example.com"), 16_000), 1).await,
        "exact"
    );
    assert_eq!(who(bind, &small, 3).await, "wild");
    // What is no hello has no name.
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n"[..],
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03",
        b"\x80\x2e\x01\x00\x02",
        b"\x00",
        b"",
    ] {
        assert_eq!(who(bind, garbage, 100_000).await, "nobody", "{garbage:?}");
    }
}

#[tokio::test]
async fn a_hello_without_end_is_bounded_in_memory_and_in_time() {
    let tasks = Tasks::new();
    let bind = free();
    let routes: [(&[&str], &str, SocketAddr); 1] =
        [(&["a.example.com"], "exact", backend(&tasks, "exact"))];
    let _proxy = Proxy::start(by_name(bind, &routes)).await;
    // 64 KiB of one handshake message, then more than anybody keeps.
    let mut endless = Vec::new();
    let mut body = vec![1, 0, 0xff, 0xff];
    body.resize(0xffff, 0);
    for part in body.chunks(1024) {
        endless.extend([0x16, 3, 1]);
        endless.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        endless.extend(part);
    }
    assert_eq!(who(bind, &endless, 1400).await, "nobody");
    // Half a hello that is never finished: closed when the time for it is over.
    let begun = meshctl::rt::now();
    let mut slow = connect(bind).await;
    let wire = hello(Some("a.example.com"), 16_000);
    slow.write_all(&wire[..wire.len() / 2]).await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, slow.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

/// Gateways that pass random names on, each name walked by `explain` and dialled.
#[tokio::test]
async fn a_gateway_takes_server_names_as_it_is_explained() {
    let tasks = Tasks::new();
    let backends = [("a", backend(&tasks, "a")), ("b", backend(&tasks, "b"))];
    let entry = |(name, at): &(&str, SocketAddr)| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  \
             hosts: [{name}.backend.test]\n  resolution: STATIC\n  ports: [{{number: 443, name: tls, protocol: TLS}}]\n  \
             endpoints: [{{address: 127.0.0.1, ports: {{tls: {}}}}}]\n",
            at.port()
        )
    };
    let entries: String = backends.iter().map(entry).collect();
    let names = [
        "a.test",
        "b.test",
        "c.test",
        "x.a.test",
        "y.a.test",
        "q.x.a.test",
        "other.example",
    ];
    let (mut passed, mut closed) = (0, 0);
    for seed in 0..8 {
        // The proxy before may not have let go of its own yet.
        let bind = free();
        let node = Node {
            kind: NodeKind::Gateway,
            labels: [("istio".to_owned(), "edge".to_owned())].into(),
            applications: vec![Application {
                port: 443,
                name: String::new(),
                bind,
                address: bind,
                protocol: Protocol::Tls,
            }],
            ..node()
        };
        let mut dice = fastrand::Rng::with_seed(seed);
        let (mut servers, mut rules) = (String::new(), entries.clone());
        for pattern in ["a.test", "*.test", "b.test", "x.a.test", "*.a.test"] {
            if dice.bool() {
                continue;
            }
            let (number, to) = (rules.len(), ["a", "b"][usize::from(dice.bool())]);
            writeln!(
                servers,
                "  - {{port: {{number: 443, name: s{number}, protocol: TLS}}, hosts: ['{pattern}'], tls: {{mode: PASSTHROUGH}}}}"
            )
            .unwrap();
            writeln!(
                rules,
                "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{number}}}\nspec:\n  \
                 hosts: ['{pattern}']\n  gateways: [edge]\n  \
                 tls: [{{match: [{{sniHosts: ['{pattern}']}}], route: [{{destination: {{host: {to}.backend.test}}}}]}}]"
            )
            .unwrap();
        }
        if servers.is_empty() {
            continue;
        }
        let text = format!(
            "{rules}---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  \
             selector: {{istio: edge}}\n  servers:\n{servers}"
        );
        let (objects, findings) = parse(&text, "x.yaml", "default");
        assert_eq!(findings, [], "{text}");
        let (world, _) = lower(&collect(objects).0, Instances::default());
        let decoded = decode(&encode(&world.view(&node), &node));
        assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        let _proxy = Proxy::start(decoded.view).await;
        for name in names {
            let request = ExplainRequest {
                method: "GET".to_owned(),
                url: format!("https://{name}/"),
                headers: Vec::new(),
                from: String::new(),
                gateway: "edge".to_owned(),
                namespace: "default".to_owned(),
            };
            let report = explain_request(&world, &node, &request, &Measured::new()).unwrap();
            let answer = report.answer.unwrap();
            let said = backends
                .iter()
                .find(|(name, _)| answer.contains(&format!("{name}.backend.test")));
            let came = who(bind, &hello(Some(name), 16_384), 16_384).await;
            if let Some((backend, _)) = said {
                passed += 1;
                assert_eq!(came, *backend, "{name}: {answer}\n{text}");
            } else {
                closed += 1;
                assert!(answer.starts_with("the connection is closed"), "{answer}");
                assert_eq!(came, "nobody", "{name}: {answer}\n{text}");
            }
        }
    }
    assert!(passed > 5 && closed > 5, "{passed} passed, {closed} closed");
}

fn node() -> Node {
    Node {
        id: "router~127.0.0.1~edge.default~default.svc.cluster.local".to_owned(),
        client: Client::Meshctl,
        kind: NodeKind::Gateway,
        name: "edge".to_owned(),
        namespace: "default".to_owned(),
        service_account: "edge".to_owned(),
        workload: "edge".to_owned(),
        labels: [].into(),
        locality: Locality::default(),
        address: [127, 0, 0, 1].into(),
        outbound: free(),
        inbound: free(),
        transparent: false,
        applications: Vec::new(),
    }
}
