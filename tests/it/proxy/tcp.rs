//! Bytes, each direction on its own.

use std::sync::Arc;
use std::time::Duration;

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
