//! PROXY headers, in and out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshctl::mesh::View;
use meshctl::mesh::listener::{
    ChainAction, Direction, Listener, ListenerOptions, ProxyProtocol, ProxyVersion, TcpOptions,
};
use meshctl::mesh::route::Action;
use meshctl::net::proxy_protocol::{Addresses, SIGNATURE, Version, write};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::*;

const TEXT: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
/// What is sent on for it.
const TEXT_ON: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";

fn binary() -> Vec<u8> {
    write(
        Version::V2,
        Some(Addresses {
            source: "[2001:db8::7]:4711".parse().unwrap(),
            destination: "[2001:db8::1]:443".parse().unwrap(),
        }),
    )
}

/// Takes headers by `rules` and says in version 1 who called.
fn bytes(bind: SocketAddr, app: SocketAddr, rules: Option<ProxyProtocol>) -> View {
    let action = ChainAction::Tcp {
        clusters: vec![("app".to_owned(), 1)],
        options: TcpOptions::default(),
    };
    let mut told = cluster("app");
    told.proxy_protocol = Some(ProxyVersion::V1);
    let views = Views::default()
        .listener("l", bind, Direction::Outbound, action)
        .cluster(told, vec![endpoint(app)]);
    ruled(views.0, rules, Duration::from_millis(300))
}

fn ruled(mut view: View, rules: Option<ProxyProtocol>, timeout: Duration) -> View {
    for listener in view.listeners.values_mut() {
        *listener = Arc::new(Listener {
            detect_timeout: timeout,
            options: ListenerOptions {
                proxy_protocol: rules,
                ..ListenerOptions::default()
            },
            ..Listener::clone(listener)
        });
    }
    view
}

/// Sends everything back.
fn mirror(tasks: &Tasks) -> SocketAddr {
    let (socket, address) = listen();
    let group = tasks.clone();
    tasks.spawn("mirror", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            group.spawn("mirrored", async move {
                let mut all = Vec::new();
                // Callers may break off.
                let _read = tcp.read_to_end(&mut all).await;
                let _sent = tcp.write_all(&all).await;
            });
        }
    });
    address
}

/// What comes back for `sent`, whose parts are sent apart; nothing when the connection is closed.
async fn back(to: SocketAddr, parts: &[&[u8]]) -> String {
    let mut stream = connect(to).await;
    for part in parts {
        if stream.write_all(part).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // It may be closed by now.
    let _ended = stream.shutdown().await;
    whole(&mut stream).await
}

async fn whole(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut all)).await;
    // A reset is an end too.
    let _ended = read.expect("the connection did not end");
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn a_header_says_who_calls_however_it_is_cut() {
    let tasks = Tasks::new();
    let bind = free();
    let rules = Some(ProxyProtocol::default());
    let _proxy = Proxy::start(bytes(bind, mirror(&tasks), rules)).await;
    let on = format!("{TEXT_ON}hello");
    assert_eq!(back(bind, &[TEXT, b"hello"]).await, on);
    assert_eq!(back(bind, &[&[TEXT, b"hello"].concat()]).await, on);
    let bytewise: Vec<&[u8]> = TEXT.chunks(1).chain([&b"hello"[..]]).collect();
    assert_eq!(back(bind, &bytewise).await, on);
    let binary = binary();
    let on = "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\nhello";
    let bytewise: Vec<&[u8]> = binary.chunks(1).chain([&b"hello"[..]]).collect();
    assert_eq!(back(bind, &bytewise).await, on);
    // Values are passed over, as many as there can be, and what follows them is not touched.
    let mut long = SIGNATURE.to_vec();
    long.extend([0x21, 0x11, 0xff, 0xff]);
    long.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2]);
    long.extend(std::iter::repeat_n(b'P', 0xffff - 12));
    let on = "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nPROXY not a header";
    assert_eq!(back(bind, &[&long, b"PROXY not a header"]).await, on);
    // One that speaks for itself keeps its own address.
    for own in [Version::V1, Version::V2] {
        let said = back(bind, &[&write(own, None), b"x"]).await;
        assert!(
            said.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "),
            "{said}"
        );
        assert!(said.ends_with(&format!(" {}\r\nx", bind.port())), "{said}");
    }
}

#[tokio::test]
async fn without_a_header_or_with_a_bad_one_nothing_passes() {
    let tasks = Tasks::new();
    let bind = free();
    let rules = Some(ProxyProtocol::default());
    let _proxy = Proxy::start(bytes(bind, mirror(&tasks), rules)).await;
    let binary = |rest: &[u8]| [&SIGNATURE[..], rest].concat();
    for refused in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\nx".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\nx".to_vec(),
        b"PRO".to_vec(),
        Vec::new(),
        binary(&[0x21, 0x11, 0, 4, 1, 2, 3, 4]),
        binary(&[0x31]),
        // Fewer values than said.
        binary(&[0x20, 0, 0, 9, 1]),
    ] {
        let said = back(bind, &[&refused]).await;
        assert_eq!(said, "", "{}", refused.escape_ascii());
    }
    // Nothing at all, and no end: closed in time.
    let mut silent = connect(bind).await;
    assert_eq!(whole(&mut silent).await, "");
    let mut half = connect(bind).await;
    half.write_all(b"PROXY TCP4").await.unwrap();
    assert_eq!(whole(&mut half).await, "");
}

#[tokio::test]
async fn a_header_counts_only_where_it_is_configured() {
    let tasks = Tasks::new();
    let bind = free();
    let _proxy = Proxy::start(bytes(bind, mirror(&tasks), None)).await;
    // Bytes like any others: the caller does not become who it says.
    let said = back(bind, &[TEXT, b"hello"]).await;
    let (own, rest) = said.split_once("\r\n").unwrap();
    assert!(own.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{said}");
    assert_eq!(rest, format!("{TEXT_ON}hello"));
}

#[tokio::test]
async fn an_optional_header_and_a_refused_version() {
    let tasks = Tasks::new();
    let (one, other, app) = (free(), free(), mirror(&tasks));
    let optional = ProxyProtocol {
        optional: true,
        refuse_v2: true,
        ..ProxyProtocol::default()
    };
    let _proxy = Proxy::start(bytes(one, app, Some(optional))).await;
    assert_eq!(back(one, &[TEXT, b"x"]).await, format!("{TEXT_ON}x"));
    assert!(back(one, &[b"hello"]).await.ends_with("\r\nhello"));
    assert!(back(one, &[b"PROXY"]).await.ends_with("\r\nPROXY"));
    // Envoy's rule: one that is not accepted is not looked at, and belongs to the connection.
    let said = back(one, &[&binary(), b"x"]).await;
    assert!(
        said.contains(" 127.0.0.1 ") && said.contains("QUIT"),
        "{said}"
    );
    // But a broken one of a version that is accepted is an attack or a fault.
    assert_eq!(back(one, &[b"PROXY TCP4 x\r\n"]).await, "");
    // A server that speaks first is heard once the header has not come in time.
    let strict = ProxyProtocol {
        refuse_v1: true,
        ..ProxyProtocol::default()
    };
    let _second = Proxy::start(bytes(other, app, Some(strict))).await;
    assert_eq!(back(other, &[TEXT, b"x"]).await, "");
    assert!(back(other, &[&binary(), b"x"]).await.ends_with("\r\nx"));
}

#[tokio::test]
async fn requests_of_two_callers_never_share_a_connection_that_names_one() {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]);
    let bind = free();
    let mut told = cluster("app");
    told.proxy_protocol = Some(ProxyVersion::V1);
    let view = Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(told, vec![endpoint(app.address)])
        .0;
    let view = ruled(view, Some(ProxyProtocol::default()), Duration::ZERO);
    let _proxy = Proxy::with(
        meshctl::proxy::Options {
            workers: 1,
            ..Default::default()
        },
        view,
        None,
    )
    .await;
    for host in 1..=2 {
        let mut stream = connect(bind).await;
        let header = format!("PROXY TCP4 192.0.2.{host} 198.51.100.1 4711 443\r\n");
        stream.write_all(header.as_bytes()).await.unwrap();
        for path in ["one", "two"] {
            let request = format!("GET /{host}/{path} HTTP/1.1\r\nHost: a\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            read_until(&mut stream, "ok").await;
        }
    }
    let heads = app.heads();
    let said: Vec<(bool, &str)> = heads
        .iter()
        .map(|head| {
            let named = head.starts_with("PROXY TCP4 192.0.2.");
            let line = head.lines().nth(usize::from(named)).unwrap();
            (named, line.split(' ').nth(1).unwrap())
        })
        .collect();
    // One connection a caller, each with its header once.
    assert_eq!(
        said,
        [
            (true, "/1/one"),
            (false, "/1/two"),
            (true, "/2/one"),
            (false, "/2/two")
        ],
        "{heads:?}"
    );
}
