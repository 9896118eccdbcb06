//! How long a request may take, and what those further on are told about it.

use std::net::SocketAddr;
use std::time::Duration;

use meshctl::mesh::route::{Forward, GrpcTimeout, Retry, RetryOn};
use meshctl::rt::Tasks;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The head that the application is sent.
async fn sent(head: &str, change: impl FnOnce(&mut Forward)) -> String {
    let tasks = Tasks::new();
    let app = Scripted::start(&tasks, &[OK]);
    let bind = free();
    let _proxy = Proxy::start(simple(bind, app.address, change)).await;
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{head}Connection: close\r\n\r\n");
    let answer = exchange(bind, request).await;
    assert_eq!(status(&answer), 200, "{answer}");
    app.heads().remove(0)
}

fn field(head: &str, name: &str) -> Option<String> {
    head.lines()
        .find_map(|line| line.strip_prefix(&format!("{name}: ")))
        .map(str::to_owned)
}

const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

#[tokio::test]
async fn those_further_on_are_told_how_long_is_waited() {
    assert_eq!(field(&sent("", |_| {}).await, EXPECTED), None);
    let number = |head: &str| field(head, EXPECTED).unwrap().parse::<u64>().unwrap();
    let whole = sent("", |forward| forward.timeout = Some(millis(5000))).await;
    assert!((4000..=5000).contains(&number(&whole)), "{whole}");
    let try_ = sent("", |forward| {
        forward.timeout = Some(millis(5000));
        forward.retry = Some(Retry {
            per_try_timeout: Some(millis(700)),
            ..Retry::default()
        });
    })
    .await;
    assert_eq!(number(&try_), 700);
    // The application's own wish comes before the route's, and is not passed on.
    let own = "x-envoy-upstream-rq-timeout-ms: 3000\r\n";
    let own = sent(own, |forward| forward.timeout = Some(millis(60_000))).await;
    assert!((2000..=3000).contains(&number(&own)), "{own}");
    assert!(!own.contains("upstream-rq-timeout-ms"), "{own}");
    // What others say is nothing.
    let outside = "X-Forwarded-For: 203.0.113.7\r\nx-envoy-upstream-rq-timeout-ms: 3000\r\n\
                   x-envoy-expected-rq-timeout-ms: 1\r\n";
    assert_eq!(field(&sent(outside, |_| {}).await, EXPECTED), None);
    let inside = "x-envoy-expected-rq-timeout-ms: 1234\r\n";
    assert_eq!(number(&sent(inside, |_| {}).await), 1234);
}

#[tokio::test]
async fn grpc_deadlines_are_bounded_and_passed_on() {
    let grpc = "Content-Type: application/grpc\r\ngrpc-timeout: 20S\r\n";
    let told = |head: &str| {
        let text = field(head, "grpc-timeout").unwrap();
        text.strip_suffix('m')
            .map(|digits| digits.parse::<u64>().unwrap())
    };
    // Nobody asked for it to be read.
    let plain = sent(grpc, |_| {}).await;
    assert!(plain.contains("grpc-timeout: 20S\r\n"), "{plain}");
    let policy = |max, offset| {
        Some(GrpcTimeout {
            max,
            offset: Some(offset),
        })
    };
    let read = sent(grpc, |forward| {
        forward.timeout = Some(millis(100));
        forward.deadlines.grpc = policy(Duration::ZERO, millis(5000));
    })
    .await;
    assert!((14_000..=15_000).contains(&told(&read).unwrap()), "{read}");
    assert_eq!(read.matches("grpc-timeout").count(), 1);
    let bounded = sent(grpc, |forward| {
        forward.deadlines.grpc = policy(millis(3000), Duration::ZERO);
    })
    .await;
    assert!(
        (2000..=3000).contains(&told(&bounded).unwrap()),
        "{bounded}"
    );
}

#[tokio::test]
async fn a_grpc_deadline_ends_the_call() {
    let (socket, address) = listen();
    for stream in [false, true] {
        let bind = free();
        let view = simple(bind, address, |forward| {
            let policy = Some(GrpcTimeout::default());
            if stream {
                forward.deadlines.grpc_stream = policy;
            } else {
                forward.deadlines.grpc = policy;
            }
        });
        let _proxy = Proxy::start(view).await;
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\n\
                       grpc-timeout: 50m\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let answer = exchange(bind, request).await;
        assert!(answer.contains("grpc-status: 14\r\n"), "{answer}");
    }
    drop(socket);
}

/// A connection of the proxy's to a server that the test plays.
async fn accepted(socket: &TcpListener) -> tokio::net::TcpStream {
    let accepted = tokio::time::timeout(DEADLINE, socket.accept()).await;
    accepted.unwrap().unwrap().0
}

async fn proxied(change: impl FnOnce(&mut Forward)) -> (Proxy, SocketAddr, TcpListener) {
    let (socket, address) = listen();
    let bind = free();
    let proxy = Proxy::start(simple(bind, address, change)).await;
    (proxy, bind, socket)
}

/// The time that a caller needs to send is not the endpoint's.
#[tokio::test]
async fn a_slow_upload_is_not_timed() {
    let (_proxy, bind, socket) = proxied(|forward| forward.timeout = Some(millis(200))).await;
    let mut caller = connect(bind).await;
    caller
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nab",
        )
        .await
        .unwrap();
    let mut app = accepted(&socket).await;
    read_until(&mut app, "ab").await;
    tokio::time::sleep(millis(400)).await;
    caller.write_all(b"cd").await.unwrap();
    read_until(&mut app, "cd").await;
    app.write_all(OK.as_bytes()).await.unwrap();
    read_until(&mut caller, "ok").await;
}

/// A try has a limit until its answer begins; the route's holds to the end.
#[tokio::test]
async fn a_begun_answer_has_the_whole_time() {
    let (_proxy, bind, socket) = proxied(|forward| {
        forward.timeout = Some(millis(600));
        forward.retry = Some(Retry {
            per_try_timeout: Some(millis(100)),
            ..Retry::default()
        });
    })
    .await;
    let call = get(bind, "/");
    let app = async {
        let mut app = accepted(&socket).await;
        read_until(&mut app, "\r\n\r\n").await;
        app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun")
            .await
            .unwrap();
        tokio::time::sleep(millis(250)).await;
        app.write_all(b"more").await.unwrap();
        app
    };
    let (answer, app) = tokio::join!(call, app);
    assert!(answer.ends_with("begunmore"), "{answer}");
    // Kept connections would take the next request.
    drop(app);
    let call = get(bind, "/");
    let app = async {
        let mut app = accepted(&socket).await;
        read_until(&mut app, "\r\n\r\n").await;
        app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun")
            .await
            .unwrap();
        let mut end = [0; 8];
        tokio::io::AsyncReadExt::read(&mut app, &mut end).await
    };
    let (answer, _end) = tokio::join!(call, app);
    assert!(answer.ends_with("begun"), "{answer}");
}

#[tokio::test]
async fn what_does_not_move_ends() {
    let (_proxy, bind, socket) =
        proxied(|forward| forward.deadlines.idle = Some(millis(150))).await;
    // The answer trickles: never idle.
    let call = get(bind, "/");
    let app = async {
        let mut app = accepted(&socket).await;
        read_until(&mut app, "\r\n\r\n").await;
        app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
            .await
            .unwrap();
        for byte in b"slow" {
            tokio::time::sleep(millis(60)).await;
            app.write_all(&[*byte]).await.unwrap();
        }
        app
    };
    let (answer, _app) = tokio::join!(call, app);
    assert!(answer.ends_with("slow"), "{answer}");
    // Nothing comes.
    let answer = get(bind, "/").await;
    assert!(
        status(&answer) == 504 && answer.ends_with("stream timeout"),
        "{answer}"
    );
    // Nothing more of the request comes.
    let answer = exchange(
        bind,
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab",
    )
    .await;
    assert_eq!(status(&answer), 408, "{answer}");
}

#[tokio::test]
async fn the_longest_life_counts_from_the_first_byte() {
    let (_proxy, bind, _socket) =
        proxied(|forward| forward.deadlines.max_stream = Some(millis(150))).await;
    let answer = get(bind, "/").await;
    assert!(
        status(&answer) == 504 && answer.ends_with("downstream duration timeout"),
        "{answer}"
    );
    let answer = exchange(
        bind,
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab",
    )
    .await;
    assert_eq!(status(&answer), 408, "{answer}");
}

#[tokio::test]
async fn a_silent_try_is_given_up() {
    let (slow, slow_address) = listen();
    let app = App::start("a");
    let bind = free();
    let mut action = forward(&[("app", 1)]);
    action.retry = Some(Retry {
        attempts: 1,
        per_try_idle_timeout: Some(millis(50)),
        on: vec![RetryOn::Reset],
        ..Retry::default()
    });
    let view = Views::default()
        .http("t", bind)
        .routes(
            "t",
            vec![route(meshctl::mesh::route::Action::Forward(action))],
        )
        .cluster(
            cluster("app"),
            vec![endpoint(slow_address), endpoint(app.address)],
        )
        .0;
    let _proxy = Proxy::start(view).await;
    for _ in 0..4 {
        assert_eq!(status(&get(bind, "/").await), 200);
    }
    drop(slow);
}
