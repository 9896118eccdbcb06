//! Bytes, each direction on its own.

use std::sync::Arc;
use std::time::Duration;

use meshctl::mesh::View;
use meshctl::mesh::listener::{ChainAction, Direction, Listener, TcpOptions};
use meshctl::mesh::route::Action;
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

fn bytes() -> ChainAction {
    ChainAction::Tcp {
        clusters: vec![("app".to_owned(), 1)],
        options: TcpOptions::default(),
    }
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let (socket, address) = listen();
    let tasks = Tasks::new();
    tasks.spawn("server", async move {
        let (mut tcp, _) = socket.accept().await.unwrap();
        // Speaks first, reads to the end, and only then answers.
        tcp.write_all(b"220 ready\r\n").await.unwrap();
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await.unwrap();
        tcp.write_all(format!("got {}", all.len()).as_bytes())
            .await
            .unwrap();
    });
    let bind = free();
    let view = Views::default()
        .listener("l", bind, Direction::Outbound, bytes())
        .cluster(cluster("app"), vec![endpoint(address)])
        .0;
    // The readiness probe of the test would take the server's only accept.
    let (view, bind_probe) = (view, bind);
    let proxy = Proxy::with(
        meshctl::proxy::Options {
            workers: 1,
            ..Default::default()
        },
        meshctl::mesh::View::default(),
        None,
    )
    .await;
    proxy.views.publish(view);
    let mut stream = None;
    for _ in 0..1000 {
        match meshctl::net::connect(bind_probe, meshctl::net::ConnectOptions::default()).await {
            Ok(tcp) => {
                stream = Some(tcp);
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    let mut stream = stream.unwrap();
    read_until(&mut stream, "220 ready\r\n").await;
    stream.write_all(&vec![7; 1_000_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "got 1000000");
}

#[tokio::test]
async fn first_bytes_tell_http_from_others() {
    let app = App::start("a");
    let tasks = Tasks::new();
    let other = Scripted::start(&tasks, &["pong\r\n"]);
    let bind = free();
    let detect = ChainAction::Detect {
        routes: "t".to_owned(),
        cluster: "bytes".to_owned(),
        tunnel: None,
        options: Arc::default(),
    };
    let mut view = Views::default()
        .listener("l", bind, Direction::Outbound, detect)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(cluster("app"), vec![endpoint(app.address)])
        .cluster(cluster("bytes"), vec![endpoint(other.address)])
        .0;
    let mut listener = Listener::clone(&view.listeners["l"]);
    listener.detect_timeout = Duration::from_millis(200);
    view.listeners.insert("l".to_owned(), Arc::new(listener));
    let _proxy = Proxy::start(view).await;
    assert!(get(bind, "/x").await.contains("a GET /x\n"));
    let mut stream = connect(bind).await;
    stream.write_all(b"PING\r\n\r\n").await.unwrap();
    read_until(&mut stream, "pong").await;
    // Half a request line, and then nothing: bytes, after a while.
    let mut stream = connect(bind).await;
    stream.write_all(b"GET").await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    stream.write_all(b"\r\n\r\n").await.unwrap();
    read_until(&mut stream, "pong").await;
    assert_eq!(app.hits(), 1);
}

fn carry(bind: std::net::SocketAddr, options: TcpOptions, to: &[std::net::SocketAddr]) -> View {
    let action = ChainAction::Tcp {
        clusters: vec![("app".to_owned(), 1)],
        options,
    };
    let endpoints = to.iter().map(|address| endpoint(*address)).collect();
    Views::default()
        .listener("l", bind, Direction::Outbound, action)
        .cluster(cluster("app"), endpoints)
        .0
}

/// Whether a connection through the proxy is answered.
async fn answered(bind: std::net::SocketAddr) -> bool {
    // A connection that has nowhere to go may be reset as soon as it is there.
    let to = meshctl::net::connect(bind, meshctl::net::ConnectOptions::default());
    let Ok(mut stream) = to.await else {
        return false;
    };
    let sent = stream.write_all(b"ping\r\n\r\n").await.is_ok();
    let mut answer = [0; 4];
    sent && stream.read_exact(&mut answer).await.is_ok() && answer == *b"pong"
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_cannot_be_connected_to() {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &["pong"]);
    let (once, twice, dead) = (free(), free(), free());
    let attempts = |max_connect_attempts| TcpOptions {
        max_connect_attempts,
        ..TcpOptions::default()
    };
    let both = [app.address, dead];
    // Turns are exact for a worker.
    let options = || meshctl::proxy::Options {
        workers: 1,
        ..Default::default()
    };
    let _one = Proxy::with(options(), carry(once, attempts(1), &both), None).await;
    let _other = Proxy::with(options(), carry(twice, attempts(2), &both), None).await;
    let (mut with_one, mut with_two) = (0, 0);
    for _ in 0..20 {
        with_one += usize::from(answered(once).await);
        with_two += usize::from(answered(twice).await);
    }
    assert_eq!((with_one, with_two), (10, 20));
}

#[tokio::test]
async fn still_and_old_connections_are_closed() {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &["pong"]);
    let (idle, old) = (free(), free());
    let second = Duration::from_millis(600);
    let options = TcpOptions::idle(second);
    let _idle = Proxy::start(carry(idle, options, &[app.address])).await;
    let options = TcpOptions {
        max_duration: Some(second),
        ..TcpOptions::default()
    };
    let _old = Proxy::start(carry(old, options, &[app.address])).await;
    let (mut still, mut busy, mut aged) =
        (connect(idle).await, connect(idle).await, connect(old).await);
    let begun = meshctl::rt::now();
    let lasts = async |stream: &mut tokio::net::TcpStream| {
        let mut answers = 0;
        // As long as something moves every now and then.
        while begun.elapsed() < second * 3 {
            let sent = stream.write_all(b"ping\r\n\r\n").await;
            let mut answer = [0; 4];
            if sent.is_err() || stream.read_exact(&mut answer).await.is_err() {
                break;
            }
            answers += 1;
            tokio::time::sleep(second / 10).await;
        }
        answers
    };
    let silent = async {
        assert_eq!(still.read(&mut [0; 1]).await.unwrap(), 0);
        begun.elapsed()
    };
    let (closed, busy, aged) = tokio::join!(silent, lasts(&mut busy), lasts(&mut aged));
    assert!(closed >= second / 2 && closed < second * 3, "{closed:?}");
    assert!(busy > aged && aged > 0, "{busy} and {aged} answers");
    assert!(begun.elapsed() >= second * 3);
}

#[tokio::test]
async fn what_one_side_breaks_off_does_not_look_whole_to_the_other() {
    let (socket, address) = listen();
    let bind = free();
    let _proxy = {
        let tasks = Tasks::new();
        let view = carry(bind, TcpOptions::default(), &[address]);
        let proxy = Proxy::start(view).await;
        // The one that looked whether the proxy listens.
        let _probe = socket.accept().await.unwrap();
        drop(tasks);
        proxy
    };
    let mut caller = connect(bind).await;
    caller.write_all(b"hello").await.unwrap();
    let (mut app, _) = socket.accept().await.unwrap();
    app.read_exact(&mut [0; 5]).await.unwrap();
    app.write_all(b"half an ans").await.unwrap();
    let mut answer = [0; 11];
    caller.read_exact(&mut answer).await.unwrap();
    app.set_zero_linger().unwrap();
    drop(app);
    let error = caller.read(&mut answer).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // And the other way.
    let caller = connect(bind).await;
    let (mut app, _) = socket.accept().await.unwrap();
    caller.set_zero_linger().unwrap();
    drop(caller);
    let error = app.read(&mut answer).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_chain_takes_as_many_connections_as_it_says() {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &["pong"]);
    let bind = free();
    let mut view = carry(bind, TcpOptions::default(), &[app.address]);
    let mut listener = Listener::clone(&view.listeners["l"]);
    listener.chains[0].limits.max_connections = Some(2);
    view.listeners.insert("l".to_owned(), Arc::new(listener));
    let proxy = Proxy::start(view.clone()).await;
    eventually(|| answered(bind)).await;
    let hold = async || {
        let mut stream = connect(bind).await;
        stream.write_all(b"ping\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.ok().map(|_| stream)
    };
    // Those that looked whether it is there may still be counted.
    let first = loop {
        if let (Some(one), Some(other)) = (hold().await, hold().await) {
            break [one, other];
        }
    };
    assert!(hold().await.is_none());
    // Another version of the listener knows of them.
    let mut listener = Listener::clone(&view.listeners["l"]);
    listener.detect_timeout = Duration::from_secs(1);
    view.listeners.insert("l".to_owned(), Arc::new(listener));
    proxy.views.publish(view);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(hold().await.is_none());
    drop(first);
    eventually(|| async { hold().await.is_some() }).await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once_where_the_port_is_declared() {
    let (socket, address) = listen();
    let tasks = Tasks::new();
    tasks.spawn("server", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            let _sent = tcp.write_all(b"220 ready\r\n").await;
        }
    });
    let bind = free();
    let mut view = carry(bind, TcpOptions::default(), &[address]);
    let mut listener = Listener::clone(&view.listeners["l"]);
    // Nothing asks about first bytes, so nobody waits for them.
    listener.detect_timeout = Duration::from_hours(1);
    view.listeners.insert("l".to_owned(), Arc::new(listener));
    let _proxy = Proxy::start(view).await;
    read_until(&mut connect(bind).await, "220 ready\r\n").await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_where_nobody_said_what_is_spoken() {
    let tasks = Tasks::new();
    let (socket, address) = listen();
    let group = tasks.clone();
    tasks.spawn("server", async move {
        loop {
            let (mut tcp, _) = socket.accept().await.unwrap();
            group.spawn("connection", async move {
                let _sent = tcp.write_all(b"220 ready\r\n").await;
                let mut all = Vec::new();
                let _read = tcp.read_to_end(&mut all).await;
                let _sent = tcp.write_all(&all).await;
            });
        }
    });
    let app = App::start("a");
    let bind = free();
    let detect = ChainAction::Detect {
        routes: "t".to_owned(),
        cluster: "bytes".to_owned(),
        tunnel: None,
        options: Arc::default(),
    };
    // For ever: nothing but the server's word ends the waiting.
    let view = Views::default()
        .listener("l", bind, Direction::Outbound, detect)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(cluster("app"), vec![endpoint(app.address)])
        .cluster(cluster("bytes"), vec![endpoint(address)])
        .0;
    let mut silent = view.clone();
    let _proxy = Proxy::start(view).await;
    let mut stream = connect(bind).await;
    read_until(&mut stream, "220 ready\r\n").await;
    stream.write_all(b"QUIT\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    read_until(&mut stream, "QUIT\r\n").await;
    // A caller that is slow with its request, where the server says nothing, still speaks HTTP.
    let (_listens, quiet) = listen();
    let other = free();
    silent.endpoints.insert(
        "bytes".to_owned(),
        Arc::new(meshctl::mesh::Assignment::new(vec![endpoint(quiet)])),
    );
    let mut listener = Listener::clone(&silent.listeners["l"]);
    listener.bind = other;
    silent.listeners.insert("l".to_owned(), Arc::new(listener));
    let _second = Proxy::start(silent).await;
    let mut stream = connect(other).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stream
        .write_all(b"GET /late HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "a GET /late").await;
}
