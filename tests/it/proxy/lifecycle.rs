//! What changes and ends of a proxy do to those who are connected.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use meshctl::mesh::listener::{ChainAction, Direction, Keepalive, Listener, TcpOptions};
use meshctl::mesh::{RouteTable, View};
use meshctl::proxy::Options;
use meshctl::proxy::handover::{self, Restart};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::support::*;

/// Whether a connection still carries bytes there and back.
async fn alive(stream: &mut TcpStream) -> bool {
    let sent = stream.write_all(b"ping\r\n\r\n").await.is_ok();
    let mut answer = [0; 4];
    sent && stream.read_exact(&mut answer).await.is_ok() && answer == *b"pong"
}

fn bytes(cluster: &str) -> ChainAction {
    ChainAction::Tcp {
        clusters: vec![(cluster.to_owned(), 1)],
        options: TcpOptions::default(),
    }
}

#[tokio::test]
async fn a_connection_lives_through_every_change_but_the_end_of_its_listener() {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &["pong"]);
    let (bind, other) = (free(), free());
    let mut view = Views::default()
        .listener("l", bind, Direction::Outbound, bytes("app"))
        .listener("other", other, Direction::Outbound, bytes("app"))
        .cluster(cluster("app"), vec![endpoint(app.address)])
        .0;
    let options = Options {
        workers: 1,
        drain: Duration::from_millis(100),
        ..Options::default()
    };
    let proxy = Proxy::with(options, view.clone(), None).await;
    let mut stream = connect(bind).await;
    assert!(alive(&mut stream).await);
    let change = |view: &mut View, change: &dyn Fn(&mut Listener)| {
        let mut listener = Listener::clone(&view.listeners["l"]);
        change(&mut listener);
        view.listeners.insert("l".to_owned(), Arc::new(listener));
    };
    // Its own chain goes elsewhere; the socket is tuned; another listener goes.
    let mut steps: Vec<View> = Vec::new();
    change(&mut view, &|listener| {
        listener.chains[0].action = bytes("elsewhere");
    });
    steps.push(view.clone());
    change(&mut view, &|listener| {
        listener.options.backlog = Some(16);
        listener.options.keepalive = Some(Keepalive {
            time: Some(7),
            ..Keepalive::default()
        });
    });
    steps.push(view.clone());
    view.listeners.remove("other");
    steps.push(view.clone());
    // Its endpoint goes, then its cluster.
    view.endpoints.clear();
    steps.push(view.clone());
    view.clusters.clear();
    steps.push(view.clone());
    for step in steps {
        let closed = step.listeners.len() == 1;
        proxy.views.publish(step);
        if closed {
            eventually(|| async { !reachable(other).await }).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(alive(&mut stream).await);
    }
    // New ones have nowhere to go.
    let new = meshctl::net::connect(bind, meshctl::net::ConnectOptions::default()).await;
    if let Ok(mut new) = new {
        assert!(!alive(&mut new).await);
    }
    assert!(alive(&mut stream).await);
    view.listeners.clear();
    proxy.views.publish(view);
    let end = tokio::time::timeout(DEADLINE, stream.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
}

#[tokio::test]
async fn requests_meet_the_rules_of_their_chain_as_they_are_now() {
    let app = App::start("a");
    let bind = free();
    let mut view = simple(bind, app.address, |_| {});
    let proxy = Proxy::start(view.clone()).await;
    let ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut busy, mut idle) = (connect(bind).await, connect(bind).await);
    for stream in [&mut busy, &mut idle] {
        stream.write_all(ask).await.unwrap();
        read_until(stream, "\n\n").await;
    }
    // Where calls go is no rule of the chain.
    let mut routes = RouteTable::clone(&view.routes["t"]);
    routes.hosts[0].name = "another".to_owned();
    view.routes.insert("t".to_owned(), Arc::new(routes));
    proxy.views.publish(view.clone());
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        busy.write_all(ask).await.unwrap();
        let answer = read_until(&mut busy, "\n\n").await;
        let answer = answer.to_ascii_lowercase();
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    idle.write_all(ask).await.unwrap();
    read_until(&mut idle, "\n\n").await;

    let mut listener = Listener::clone(&view.listeners["t"]);
    let ChainAction::Http { options, .. } = &mut listener.chains[0].action else {
        panic!("{listener:?}");
    };
    Arc::make_mut(options).server.via = "here".to_owned();
    view.listeners.insert("t".to_owned(), Arc::new(listener));
    proxy.views.publish(view);
    // One that is used is answered, and told; one that is not is closed.
    let last = async {
        loop {
            busy.write_all(ask).await.unwrap();
            let answer = read_until(&mut busy, "\n\n").await;
            assert_eq!(status(&answer), 200, "{answer}");
            if answer.to_ascii_lowercase().contains("connection: close") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, last).await.unwrap();
    for stream in [&mut busy, &mut idle] {
        let end = tokio::time::timeout(DEADLINE, stream.read(&mut [0; 1])).await;
        assert!(matches!(end, Ok(Ok(0))), "{end:?}");
    }
    let mut new = connect(bind).await;
    new.write_all(ask).await.unwrap();
    let answer = read_until(&mut new, "\n\n").await;
    assert!(answer.contains("via: here"), "{answer}");
}

#[tokio::test]
async fn in_a_drain_answers_say_that_the_connection_ends() {
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let options = Options {
        workers: 1,
        admin: Some(admin),
        drain_delay: Duration::from_secs(2),
        ..Options::default()
    };
    let mut proxy = Proxy::with(options, simple(bind, app.address, |_| {}), None).await;
    eventually(|| async { status(&own_page(admin, "/ready").await) == 200 }).await;
    let mut stream = connect(bind).await;
    let ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let answer = read_until(&mut stream, "\n\n").await;
    assert!(
        !answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    proxy.begin_drain();
    eventually(|| async { status(&own_page(admin, "/ready").await) == 503 }).await;
    // Both the old connection and one that comes now are served, and told.
    for mut stream in [stream, connect(bind).await] {
        stream.write_all(ask).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(
            answer.to_ascii_lowercase().contains("connection: close"),
            "{answer}"
        );
    }
    eventually(|| async { !reachable(bind).await }).await;
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn listeners_are_drained_by_request() {
    let tasks = Tasks::new();
    let app = App::start("a");
    let pong = Scripted::start(&tasks, &["pong"]);
    let (outbound, inbound, admin) = (free(), free(), free());
    let options = Options {
        workers: 1,
        admin: Some(admin),
        drain: Duration::from_millis(600),
        ..Options::default()
    };
    let mut view = simple(outbound, app.address, |_| {});
    let more = Views::default()
        .listener("in", inbound, Direction::Inbound, bytes("pong"))
        .cluster(cluster("pong"), vec![endpoint(pong.address)]);
    view.listeners.extend(more.0.listeners);
    view.clusters.extend(more.0.clusters);
    view.endpoints.extend(more.0.endpoints);
    let proxy = Proxy::with(options, view, None).await;
    let post = async |path: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        status(&exchange(admin, request).await)
    };
    assert_eq!(post("/healthcheck/fail").await, 200);
    assert_eq!(status(&own_page(admin, "/ready").await), 503);
    assert_eq!(post("/healthcheck/ok").await, 200);
    assert_eq!(status(&own_page(admin, "/ready").await), 200);
    assert_eq!(post("/drain_listeners?graceful&inboundonly").await, 200);
    // Still open, and closed when the time is over; the other one is left alone.
    assert!(reachable(inbound).await);
    eventually(|| async { !reachable(inbound).await }).await;
    assert!(get(outbound, "/").await.contains("a GET /"));
    assert_eq!(post("/drain_listeners").await, 200);
    eventually(|| async { !reachable(outbound).await }).await;
    drop(proxy);
}

async fn restart(dir: &Path, take: bool) -> Restart {
    let socket = dir.join("restart.sock");
    let taken = if take {
        Some(handover::take(&socket).await.unwrap().unwrap())
    } else {
        None
    };
    Restart {
        socket,
        taken,
        more: Vec::new(),
        replaced: CancellationToken::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_takes_over_without_a_failed_call() {
    let app = App::start("a");
    let tasks = Tasks::new();
    let pong = Scripted::start(&tasks, &["pong"]);
    let (bind, tcp, admin) = (free(), free(), free());
    let dir = tempfile::tempdir().unwrap();
    let mut view = simple(bind, app.address, |_| {});
    let more = Views::default()
        .listener("tcp", tcp, Direction::Outbound, bytes("pong"))
        .cluster(cluster("pong"), vec![endpoint(pong.address)]);
    view.listeners.extend(more.0.listeners);
    view.clusters.extend(more.0.clusters);
    view.endpoints.extend(more.0.endpoints);
    let options = |workers| Options {
        workers,
        admin: Some(admin),
        drain: Duration::from_secs(3),
        ..Options::default()
    };
    let first = restart(dir.path(), false).await;
    let mut proxy = Proxy::after(options(2), view.clone(), None, Some(first)).await;

    let go_on = Arc::new(AtomicBool::new(true));
    let done = Arc::new(AtomicUsize::new(0));
    let callers = (0..4).map(|number| {
        let (go_on, done, tasks) = (Arc::clone(&go_on), Arc::clone(&done), tasks.clone());
        async move {
            let mut caller = Caller::new(&tasks, bind).await;
            while go_on.load(Ordering::Relaxed) {
                if number == 0 {
                    // A connection for each request: none may be refused.
                    assert_eq!(status(&get(bind, "/new").await), 200);
                } else {
                    if !caller.usable().await {
                        caller = Caller::new(&tasks, bind).await;
                    }
                    let answered = caller.get("/").await;
                    let (status, body) = answered.expect("a request failed");
                    assert_eq!(status, 200, "{body}");
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut long = connect(tcp).await;
    assert!(alive(&mut long).await);
    let succession = async {
        // More workers, as many, fewer.
        for workers in [3, 3, 1] {
            let before = done.load(Ordering::Relaxed);
            // One that asks and then ends changes nothing.
            drop(restart(dir.path(), true).await);
            eventually(|| async { done.load(Ordering::Relaxed) > before + 20 }).await;
            let taken = restart(dir.path(), true).await;
            let next = Proxy::after(options(workers), view.clone(), None, Some(taken)).await;
            assert!(alive(&mut long).await, "carried by the one that drains");
            let old = std::mem::replace(&mut proxy, next);
            let before = done.load(Ordering::Relaxed);
            eventually(|| async { done.load(Ordering::Relaxed) > before + 20 }).await;
            let info = own_page(admin, "/server_info").await;
            assert!(info.contains(&format!("\"workers\": {workers}")), "{info}");
            long.shutdown().await.unwrap();
            old.ended().await.unwrap();
            long = connect(tcp).await;
            assert!(alive(&mut long).await);
        }
        go_on.store(false, Ordering::Relaxed);
    };
    tokio::join!(succession, futures_util::future::join_all(callers));
    drop(long);
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn only_its_own_user_is_given_sockets() {
    use std::os::unix::fs::PermissionsExt as _;
    let app = App::start("a");
    let bind = free();
    let dir = tempfile::tempdir().unwrap();
    let first = restart(dir.path(), false).await;
    let socket = first.socket.clone();
    let view = simple(bind, app.address, |_| {});
    let options = Options {
        workers: 1,
        ..Options::default()
    };
    let _proxy = Proxy::after(options.clone(), view.clone(), None, Some(first)).await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A second proxy with the same directory that does not take over says what would help.
    let second = Restart {
        socket,
        taken: None,
        more: Vec::new(),
        replaced: CancellationToken::new(),
    };
    let refused = Proxy::after(options, view, None, Some(second)).await;
    let error = refused.ended().await.unwrap_err();
    assert!(error.hint().unwrap().contains("--hot-restart"), "{error}");
}
