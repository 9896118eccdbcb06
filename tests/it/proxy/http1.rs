//! HTTP/1: what passes, how, and what is refused.

use std::sync::Arc;

use meshctl::mesh::cluster::{Cluster, ClusterKind};
use meshctl::mesh::route::{Action, HeaderOperations, PathRewrite, Redirect, Respond};
use meshctl::mesh::{HttpOptions, RouteTable, VirtualHost};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

#[tokio::test]
async fn requests_pass_and_connections_are_kept() {
    let app = App::start("a");
    let bind = free();
    let _proxy = Proxy::start(simple(bind, app.address, |_| {})).await;
    let tasks = Tasks::new();
    let mut caller = Caller::new(&tasks, bind).await;
    for n in 0..5 {
        let (status, body) = caller.get(&format!("/x?{n}")).await.unwrap();
        assert_eq!(status, 200);
        assert!(body.starts_with(&format!("a GET /x?{n}\n")), "{body}");
        assert!(body.contains("x-forwarded-proto: http\n") && body.contains("x-request-id: "));
    }
    assert!(!caller.is_closed());
}

#[tokio::test]
async fn malformed_requests_are_refused_and_reach_nobody() {
    let app = App::start("a");
    let bind = free();
    let _proxy = Proxy::start(simple(bind, app.address, |_| {})).await;
    for (request, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("GET / HTTP/4.2\r\nHost: a\r\n\r\n", 505),
    ] {
        let answer = exchange(bind, request).await;
        assert_eq!(status(&answer), expected, "{request:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "x: y\r\n".repeat(101)
    );
    assert_eq!(status(&exchange(bind, many).await), 431);
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "y".repeat(61 * 1024)
    );
    assert_eq!(status(&exchange(bind, large).await), 431);
    assert_eq!(app.hits(), 0);
    // A body that breaks its coding ends the request; the application never sees its end.
    let answer = exchange(
        bind,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello",
    )
    .await;
    assert_eq!(status(&answer), 400, "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let app = App::start("a");
    let bind = free();
    let _proxy = Proxy::start(simple(bind, app.address, |_| {})).await;
    let answer = exchange(
        bind,
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\
         POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyou\r\n0\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    let places: Vec<_> = ["a POST /1", "\n\nhi", "a POST /2", "\n\nyou", "a GET /3"]
        .iter()
        .map(|text| {
            answer
                .find(text)
                .unwrap_or_else(|| panic!("{text}: {answer}"))
        })
        .collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[tokio::test]
async fn paths_are_normalised_before_routing_and_forwarding() {
    let app = App::start("a");
    let bind = free();
    let mut view = simple(bind, app.address, |_| {});
    let mut table = RouteTable::clone(&view.routes["t"]);
    let mut refuse = route(Action::Respond(Respond {
        status: 403,
        body: "no".to_owned(),
    }));
    refuse.matches.path = meshctl::mesh::route::PathMatch::Prefix("/admin".to_owned());
    table.hosts[0].routes.insert(0, refuse);
    view.routes.insert("t".to_owned(), Arc::new(table));
    let _proxy = Proxy::start(view).await;
    for path in [
        "/admin",
        "/x/../admin",
        "/%61dmin",
        "/x/%2e%2e/admin",
        "/x\\..\\admin",
        "/./admin",
    ] {
        assert_eq!(status(&get(bind, path).await), 403, "{path}");
    }
    assert!(
        get(bind, "/a/./b/../c?x=/../y")
            .await
            .contains("a GET /a/c?x=/../y\n")
    );
}

#[tokio::test]
async fn fields_are_edited_and_paths_rewritten() {
    let app = App::start("a");
    let bind = free();
    let mut view = simple(bind, app.address, |forward| {
        forward.rewrite.path = Some(PathRewrite::Prefix("/v2/".to_owned()));
        forward.rewrite.authority = Some("other".to_owned());
        forward.clusters[0].headers.request.add = [("x-to".to_owned(), "app".to_owned())].into();
    });
    let mut table = RouteTable::clone(&view.routes["t"]);
    table.hosts[0].routes[0].headers.request = HeaderOperations {
        set: [("user-agent".to_owned(), "mesh".to_owned())].into(),
        remove: vec!["x-secret".to_owned()],
        ..HeaderOperations::default()
    };
    table.hosts[0].routes[0].headers.response.remove = vec!["x-app".to_owned()];
    view.routes.insert("t".to_owned(), Arc::new(table));
    let _proxy = Proxy::start(view).await;
    let answer = exchange(
        bind,
        "GET /a?q HTTP/1.1\r\nHost: app\r\nUser-Agent: curl\r\nX-Secret: 1\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.contains("a GET /v2/a?q\n"), "{answer}");
    for expected in ["host: other\n", "user-agent: mesh\n", "x-to: app\n"] {
        assert!(answer.contains(expected), "{expected} in {answer}");
    }
    assert!(
        !answer.contains("x-secret") && !answer.contains("x-app"),
        "{answer}"
    );
    assert!(
        answer.contains("x-envoy-upstream-service-time: "),
        "{answer}"
    );
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let app = App::start("a");
    let bind = free();
    let _proxy = Proxy::start(simple(bind, app.address, |_| {})).await;
    let tasks = Tasks::new();
    let mut caller = Caller::new(&tasks, bind).await;
    let body = vec![b'z'; 5_000_000];
    let request = hyper::Request::post("/")
        .header("host", "app")
        .body(http_body_util::Full::new(body.into()))
        .unwrap();
    let (status, answer) = caller.call(request).await.unwrap();
    assert_eq!(status, 200);
    assert!(answer.len() > 5_000_000 && answer.ends_with("zzz"));
    assert_eq!(caller.get("/").await.unwrap().0, 200);
}

#[tokio::test]
async fn framings_of_answers_are_kept_or_translated() {
    let tasks = Tasks::new();
    for (answer, request, expected) in [
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "transfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "connection: close\r\n\r\nhello",
        ),
        (
            "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nX: y\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
            "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "Content-Length: 500\r\n",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n",
        ),
    ] {
        let app = Scripted::start(&tasks, &[answer]);
        let bind = free();
        let _proxy = Proxy::start(simple(bind, app.address, |_| {})).await;
        let got = exchange(bind, request).await;
        assert!(got.contains(expected), "{expected:?} in {got:?}");
    }
}

#[tokio::test]
async fn a_connection_ends_at_once_where_the_caller_asked_for_that() {
    let app = App::start("a");
    let bind = free();
    let _proxy = Proxy::start(simple(bind, app.address, |_| {})).await;
    let asked = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (request, ends_at_once) in [
        (asked.to_owned(), true),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n".to_owned(), true),
        // Closing over what came behind would reset the connection, and could lose the answer.
        (format!("{asked}more"), false),
    ] {
        let mut io = connect(bind).await;
        io.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(" 200 OK\r\n"), "{answer}");
        // The first byte behind a closed connection is answered by a reset, so the second has nowhere to go.
        io.write_all(b"x").await.unwrap();
        assert_eq!(
            io.write_all(b"x").await.is_err(),
            ends_at_once,
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn bad_answers_are_refused() {
    let tasks = Tasks::new();
    for answer in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let app = Scripted::start(&tasks, &[answer]);
        let bind = free();
        let _proxy = Proxy::start(simple(bind, app.address, |_| {})).await;
        assert_eq!(status(&get(bind, "/").await), 502, "{answer:?}");
    }
}

#[tokio::test]
async fn expect_continue_passes() {
    let tasks = Tasks::new();
    let app = Scripted::start(
        &tasks,
        &[
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ],
    );
    let bind = free();
    let _proxy = Proxy::start(simple(bind, app.address, |_| {})).await;
    let mut stream = connect(bind).await;
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
        )
        .await
        .unwrap();
    read_until(&mut stream, "100 Continue\r\n\r\n").await;
    // The body looks like the end of a head, which is what the script waits for.
    stream.write_all(b"\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\nok").await;
}

#[tokio::test]
async fn upgrades_switch_and_nothing_passes_before() {
    let tasks = Tasks::new();
    let app = Scripted::start(
        &tasks,
        &[
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "answer",
        ],
    );
    let bind = free();
    let _proxy = Proxy::start(simple(bind, app.address, |_| {})).await;
    let mut stream = connect(bind).await;
    stream
        .write_all(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket\r\n"),
        "{head}"
    );
    stream.write_all(b"frame\r\n\r\n").await.unwrap();
    read_until(&mut stream, "answer").await;
    let heads = app.heads();
    assert!(heads[0].contains("upgrade: websocket\r\n") && !heads[0].contains("frame"));
    assert_eq!(heads[1], "frame\r\n\r\n");
}

#[tokio::test]
async fn an_explicit_proxy_takes_absolute_uris_and_tunnels() {
    let app = App::start("a");
    let bind = free();
    let passthrough = Cluster {
        kind: ClusterKind::OriginalDestination,
        ..cluster("PassthroughCluster")
    };
    let host = |name: &str, domain: &str, cluster: &str| VirtualHost {
        name: name.to_owned(),
        domains: vec![domain.to_owned()],
        routes: vec![route(Action::Forward(forward(&[(cluster, 1)])))],
        ..VirtualHost::default()
    };
    let mut options = HttpOptions::default();
    options.upgrades.0.push("connect".to_owned());
    let mut view = Views::default()
        .http_with("http_proxy", bind, options)
        .cluster(cluster("details"), vec![endpoint(app.address)])
        .cluster(passthrough, Vec::new())
        .0;
    view.routes.insert(
        "http_proxy".to_owned(),
        Arc::new(RouteTable {
            name: "http_proxy".to_owned(),
            ignore_port: true,
            hosts: vec![
                host("details", "details:9080", "details"),
                host("any", "*", "PassthroughCluster"),
            ],
        }),
    );
    let _proxy = Proxy::start(view).await;
    let answer = exchange(
        bind,
        "GET http://details:9080/x HTTP/1.1\r\nHost: ignored\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer.contains("a GET /x\n") && answer.contains("host: details:9080\n"),
        "{answer}"
    );
    let answer = exchange(
        bind,
        format!(
            "GET http://{}/y HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            app.address
        ),
    )
    .await;
    assert!(answer.contains("a GET /y\n"), "{answer}");
    for to in ["details:9080".to_owned(), app.address.to_string()] {
        let mut stream = connect(bind).await;
        stream
            .write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        stream
            .write_all(b"GET /tunnel HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("a GET /tunnel\n"), "{answer}");
    }
    // Calling the proxy through itself would never end.
    let answer = exchange(
        bind,
        format!("GET http://{bind}/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
    )
    .await;
    assert_eq!(status(&answer), 502, "{answer}");
}

#[tokio::test]
async fn answers_of_the_proxy_itself() {
    let bind = free();
    let mut redirect = route(Action::Redirect(Redirect {
        status: 301,
        authority: Some("new.example".to_owned()),
        ..Redirect::default()
    }));
    redirect.matches.path = meshctl::mesh::route::PathMatch::Exact("/old".to_owned());
    let mut missing = route(Action::Forward(forward(&[("nowhere", 1)])));
    missing.matches.path = meshctl::mesh::route::PathMatch::Exact("/missing".to_owned());
    let mut empty = route(Action::Forward(forward(&[("empty", 1)])));
    empty.matches.path = meshctl::mesh::route::PathMatch::Exact("/empty".to_owned());
    let mut dead = route(Action::Forward(forward(&[("dead", 1)])));
    dead.matches.path = meshctl::mesh::route::PathMatch::Exact("/dead".to_owned());
    let view = Views::default()
        .http("t", bind)
        .routes("t", vec![redirect, missing, empty, dead])
        .cluster(cluster("empty"), Vec::new())
        .cluster(cluster("dead"), vec![endpoint(free())])
        .0;
    let _proxy = Proxy::start(view).await;
    let answer = get(bind, "/old").await;
    assert!(
        answer.contains("location: http://new.example/old\r\n"),
        "{answer}"
    );
    assert_eq!(status(&answer), 301);
    for (path, expected) in [
        ("/none", 404),
        ("/missing", 503),
        ("/empty", 503),
        ("/dead", 503),
    ] {
        assert_eq!(status(&get(bind, path).await), expected, "{path}");
    }
    assert!(get(bind, "/empty").await.ends_with("no healthy upstream"));
    // The connection goes on after a failure, even when a body came with it.
    let answer = exchange(
        bind,
        "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
         GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(answer.matches("HTTP/1.1 404").count(), 2, "{answer}");
}

#[tokio::test]
async fn redirects_change_what_they_say_and_no_more() {
    let some = |text: &str| Some(text.to_owned());
    let cases = [
        (
            Redirect {
                prefix: some("/v2"),
                ..Redirect::default()
            },
            "http://app:80/v2/x?q",
        ),
        (
            Redirect {
                scheme: some("https"),
                ..Redirect::default()
            },
            "https://app/1/x?q",
        ),
        (
            Redirect {
                scheme: some("https"),
                authority: some("new:8443"),
                port: Some(443),
                path: some("/all"),
                ..Redirect::default()
            },
            "https://new/all?q",
        ),
        (
            Redirect {
                port: Some(8080),
                ..Redirect::default()
            },
            "http://app:8080/3/x?q",
        ),
    ];
    let bind = free();
    let routes = cases.iter().enumerate().map(|(at, (redirect, _))| {
        let mut redirect = redirect.clone();
        redirect.status = 302;
        let mut route = route(Action::Redirect(redirect));
        route.matches.path = meshctl::mesh::route::PathMatch::Prefix(format!("/{at}"));
        route
    });
    let view = Views::default().http("t", bind);
    let _proxy = Proxy::start(view.routes("t", routes.collect()).0).await;
    for (at, (_, expected)) in cases.iter().enumerate() {
        let request =
            format!("GET /{at}/x?q HTTP/1.1\r\nHost: app:80\r\nConnection: close\r\n\r\n");
        let answer = exchange(bind, request).await;
        let line = format!("location: {expected}\r\n");
        assert!(answer.contains(&line), "{line} {answer}");
    }
}
