//! What a listener may be told about HTTP: each option, and that it does what it says.

use std::time::Duration;

use meshctl::mesh::HttpOptions;
use meshctl::mesh::http::{
    EscapedSlashes, HostOptions, PathOptions, RemoteOptions, ServerHeader, StripPort, Underscores,
};
use meshctl::mesh::route::Action;
use meshctl::rt::Tasks;
use tokio::io::AsyncWriteExt as _;

use super::strict::{Stand, statuses};
use super::support::*;

async fn stand(change: impl FnOnce(&mut HttpOptions)) -> Stand {
    let mut options = HttpOptions::default();
    change(&mut options);
    Stand::start(options).await
}

/// A GET with these further lines.
fn ask(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n{lines}\r\n")
}

#[tokio::test]
async fn paths_are_spelled_as_asked() {
    let path = |normalize, merge_slashes, escaped_slashes| PathOptions {
        normalize,
        merge_slashes,
        escaped_slashes,
    };
    let keep = EscapedSlashes::KeepUnchanged;
    let redirect = EscapedSlashes::UnescapeAndRedirect;
    for (options, target, status, expected) in [
        (path(true, false, keep), "/a//b/../%2F", 200, "/a//%2F"),
        (
            path(false, false, keep),
            "/a//b/../%2F",
            200,
            "/a//b/../%2F",
        ),
        (path(true, true, keep), "//a//b/../%2F", 200, "/a/%2F"),
        (
            path(true, false, EscapedSlashes::RejectRequest),
            "/a%2fb",
            400,
            "",
        ),
        (
            path(true, false, EscapedSlashes::RejectRequest),
            "/a%5Cb",
            400,
            "",
        ),
        (
            path(true, false, EscapedSlashes::UnescapeAndForward),
            "/a%2F..%5cb",
            200,
            "/b",
        ),
        (path(true, true, redirect), "/a%2F%2Fb?q", 307, "/a/b?q"),
        // Another host's name must not come out of it.
        (
            path(true, false, redirect),
            "/%2Fevil.example",
            307,
            "/.//evil.example",
        ),
        (path(true, false, redirect), "/a/../b", 200, "/b"),
    ] {
        let stand = stand(|all| all.path = options).await;
        let answer = stand.send(ask(target, "").as_bytes()).await;
        assert_eq!(statuses(&answer), [status], "{target}: {answer}");
        let seen = stand.app.take().requests;
        match status {
            200 => assert_eq!(seen[0].target, expected, "{options:?}"),
            307 => {
                assert!(
                    answer.contains(&format!("location: {expected}\r\n")),
                    "{answer}"
                );
                assert!(seen.is_empty());
            }
            _ => assert!(seen.is_empty()),
        }
        if status != 200 {
            assert_eq!(stand.details(1).await, "path_normalization_failed");
        }
    }
    // A gRPC client does not follow.
    let stand = stand(|all| all.path = path(true, false, redirect)).await;
    let answer = stand
        .send(ask("/a%2Fb", "Content-Type: application/grpc\r\n").as_bytes())
        .await;
    assert!(answer.contains("HTTP/1.1 400 "), "{answer}");
    assert!(stand.app.take().requests.is_empty());
}

#[tokio::test]
async fn hosts_are_spelled_as_asked() {
    for (strip_port, dot, sent, expected) in [
        (StripPort::Keep, false, "app.:1", "app.:1"),
        (StripPort::Any, true, "app.:1", "app"),
        (StripPort::Any, false, "[::1]:1", "[::1]"),
        (StripPort::Matching, false, "app:1", "app:1"),
        (StripPort::Matching, false, "app:OWN", "app"),
    ] {
        let stand = stand(|all| {
            all.host = HostOptions {
                strip_port,
                strip_trailing_dot: dot,
            };
        })
        .await;
        let sent = sent.replace("OWN", &stand.bind.port().to_string());
        stand
            .send(format!("GET / HTTP/1.1\r\nHost: {sent}\r\n\r\n").as_bytes())
            .await;
        assert_eq!(
            stand.app.take().requests[0].all("host"),
            [expected],
            "{sent}"
        );
    }
}

#[tokio::test]
async fn heads_are_as_large_as_asked() {
    let stand = stand(|all| {
        all.limits.max_request_headers_kb = 200;
        all.limits.max_headers_count = 300;
    })
    .await;
    let large = format!("X: {}\r\n", "y".repeat(150 * 1024));
    let many = "a: b\r\n".repeat(298);
    let larger = format!("X: {}\r\n", "y".repeat(201 * 1024));
    let more = "a: b\r\n".repeat(299);
    for (lines, status) in [(large, 200), (many, 200), (larger, 431), (more, 431)] {
        let answer = stand.send(ask("/", &lines).as_bytes()).await;
        assert_eq!(statuses(&answer), [status], "{}", lines.len());
        let seen = stand.app.take().requests;
        assert_eq!(seen.len(), usize::from(status == 200));
    }
    assert_eq!(stand.details(3).await, "http1.headers_too_large");
    assert_eq!(stand.details(1).await, "http1.too_many_headers");
}

#[tokio::test]
async fn underscores_are_refused_or_left_out() {
    let text = ask("/", "Content_Length: 5\r\nX_Y: 1\r\nx-z: 2\r\n");
    let stand_of = |action| stand(move |all: &mut HttpOptions| all.limits.underscores = action);
    let refusing = stand_of(Underscores::RejectRequest).await;
    assert_eq!(statuses(&refusing.send(text.as_bytes()).await), [400]);
    assert_eq!(refusing.details(1).await, "http1.unexpected_underscore");
    assert!(refusing.app.take().requests.is_empty());
    let dropping = stand_of(Underscores::DropHeader).await;
    assert_eq!(statuses(&dropping.send(text.as_bytes()).await), [200]);
    let seen = &dropping.app.take().requests[0];
    assert!(seen.all("x_y").is_empty() && seen.all("content_length").is_empty());
    assert_eq!(seen.all("x-z"), ["2"]);
}

#[tokio::test]
async fn bodies_are_as_large_as_asked() {
    let stand = stand(|all| all.limits.max_request_bytes = Some(10)).await;
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (request, status) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789".to_owned(),
            200,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n0123456789x".to_owned(),
            413,
        ),
        (format!("{chunked}a\r\n0123456789\r\n0\r\n\r\n"), 200),
        (format!("{chunked}b\r\n0123456789x\r\n0\r\n\r\n"), 413),
        (
            format!("{chunked}5\r\n01234\r\n6\r\n56789x\r\n0\r\n\r\n"),
            413,
        ),
    ] {
        let answer = stand.send(request.as_bytes()).await;
        assert_eq!(statuses(&answer), [status], "{request}: {answer}");
        let expected = if status == 200 {
            "via_upstream"
        } else {
            "request_payload_too_large"
        };
        assert_eq!(stand.details(1).await, expected, "{request}");
        // What was begun is never completed.
        assert_eq!(
            stand.app.take().requests.len(),
            usize::from(status == 200),
            "{request}"
        );
    }
}

#[tokio::test]
async fn connections_end_after_so_many_requests() {
    let stand = stand(|all| all.limits.max_requests_per_connection = 2).await;
    let one = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = stand.send(one.repeat(3).as_bytes()).await;
    assert_eq!(statuses(&answer), [200, 200]);
    assert_eq!(answer.matches("connection: close\r\n").count(), 1);
    assert_eq!(stand.app.take().requests.len(), 2);
}

#[tokio::test]
async fn connections_end_when_they_are_idle_or_old() {
    let brief = Some(Duration::from_millis(100));
    let idle = stand(|all| all.timeouts.idle = brief).await;
    let old = stand(|all| all.timeouts.max_connection = brief).await;
    for stand in [idle, old] {
        let mut stream = connect(stand.bind).await;
        stream
            .write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        read_until(&mut stream, "\r\n\r\nok").await;
        let mut rest = Vec::new();
        let ended = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
        tokio::time::timeout(DEADLINE, ended)
            .await
            .unwrap()
            .unwrap();
        assert!(rest.is_empty());
    }
}

/// A caller that sends `begun` and then nothing.
async fn stalled(stand: &Stand, begun: &str) -> String {
    let mut stream = connect(stand.bind).await;
    stream.write_all(begun.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
    let _reset = tokio::time::timeout(DEADLINE, ended)
        .await
        .expect("the proxy waits on");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn callers_that_are_late_are_told_so() {
    let brief = Some(Duration::from_millis(100));
    let head = "GET / HTTP/1.1\r\nHost:";
    let body = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab";
    let headers = stand(|all| all.timeouts.request_headers = brief).await;
    let whole = stand(|all| all.timeouts.request = brief).await;
    let idle = stand(|all| all.timeouts.stream_idle = brief).await;
    for (stand, begun, details, flag) in [
        (&headers, head, "request_header_timeout", "-"),
        (&whole, head, "request_overall_timeout", "-"),
        (&whole, body, "request_overall_timeout", "-"),
        (&idle, head, "stream_idle_timeout", "SI"),
        (&idle, body, "stream_idle_timeout", "SI"),
    ] {
        let answer = stalled(stand, begun).await;
        assert_eq!(statuses(&answer), [408], "{details}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        let line = &stand.lines(1).await[0];
        assert_eq!(line["response_code_details"], details);
        assert_eq!(line["response_flags"], flag, "{details}");
        assert!(stand.app.take().requests.is_empty());
    }
}

#[tokio::test]
async fn applications_that_are_idle_are_given_up() {
    let stand = stand(|all| all.timeouts.stream_idle = Some(Duration::from_millis(100))).await;
    // Half an answer, and then nothing.
    stand
        .app
        .push(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
    let answer = stalled(&stand, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\nhalf"), "{answer}");
    // Nothing at all: the request had arrived, so it is not the caller who is late.
    stand.app.push(b"HTTP/1.1 1");
    let answer = stalled(
        &stand,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(statuses(&answer), [504], "{answer}");
    let lines = stand.lines(2).await;
    assert_eq!(lines[1]["response_code_details"], "stream_idle_timeout");
    assert_eq!(lines[1]["response_flags"], "SI");
}

#[tokio::test]
async fn who_called_is_told_by_the_rules_of_the_listener() {
    let said = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Request-Id: theirs\r\n\
                X-Envoy-Internal: true\r\nX-Envoy-Retry-On: 5xx\r\n";
    // Behind another proxy everything passes, but for the proxy's own judgement.
    let inner = stand(|_| {}).await;
    inner.send(ask("/", said).as_bytes()).await;
    let seen = &inner.app.take().requests[0];
    assert_eq!(seen.all("x-forwarded-for"), ["203.0.113.7"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.all("x-request-id"), ["theirs"]);
    assert!(seen.all("x-envoy-internal").is_empty());

    // At an edge nothing is believed.
    let edge = stand(|all| all.remote.use_remote_address = true).await;
    edge.send(ask("/", said).as_bytes()).await;
    let seen = &edge.app.take().requests[0];
    assert_eq!(seen.all("x-forwarded-for"), ["203.0.113.7,127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-envoy-external-address"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-request-id").len(), 1);
    assert_ne!(seen.all("x-request-id"), ["theirs"]);
    assert!(seen.all("x-envoy-internal").is_empty());
    assert!(seen.all("x-envoy-retry-on").is_empty());

    // Behind a trusted proxy the address before it is the caller's.
    let behind = stand(|all| {
        all.remote.use_remote_address = true;
        all.remote.xff_num_trusted_hops = 1;
        all.remote.skip_xff_append = true;
        all.request_id.preserve_external = true;
    })
    .await;
    behind.send(ask("/", said).as_bytes()).await;
    let seen = &behind.app.take().requests[0];
    assert_eq!(seen.all("x-forwarded-for"), ["203.0.113.7"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.all("x-envoy-external-address"), ["203.0.113.7"]);
    assert_eq!(seen.all("x-request-id"), ["theirs"]);

    // From inside.
    let inside = stand(|all| {
        all.remote = RemoteOptions {
            use_remote_address: true,
            internal: vec!["127.0.0.0/8".parse().unwrap()],
            ..RemoteOptions::default()
        };
    })
    .await;
    inside
        .send(ask("/", "X-Request-Id: theirs\r\n").as_bytes())
        .await;
    let seen = &inside.app.take().requests[0];
    assert_eq!(seen.all("x-envoy-internal"), ["true"]);
    assert_eq!(seen.all("x-request-id"), ["theirs"]);
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert!(seen.all("x-envoy-external-address").is_empty());
}

#[tokio::test]
async fn requests_are_numbered_as_asked() {
    let off = stand(|all| all.request_id.generate = false).await;
    off.send(ask("/", "").as_bytes()).await;
    assert!(off.app.take().requests[0].all("x-request-id").is_empty());
    let told = stand(|all| all.request_id.in_response = true).await;
    let answer = told.send(ask("/", "").as_bytes()).await;
    let id = told.app.take().requests[0].all("x-request-id")[0].to_owned();
    assert!(
        answer.contains(&format!("x-request-id: {id}\r\n")),
        "{answer}"
    );
    let answer = told
        .send(ask("/", "X-Request-Id: theirs\r\n").as_bytes())
        .await;
    assert!(answer.contains("x-request-id: theirs\r\n"), "{answer}");
}

#[tokio::test]
async fn the_proxy_is_named_as_asked() {
    const OWN: &[u8] =
        b"HTTP/1.1 200 OK\r\nServer: app\r\nVia: 1.0 app\r\nContent-Length: 2\r\n\r\nok";
    for (transformation, with, without) in [
        (ServerHeader::PassThrough, "Server: app\r\n", ""),
        (
            ServerHeader::AppendIfAbsent,
            "Server: app\r\n",
            "server: edge\r\n",
        ),
        (
            ServerHeader::Overwrite,
            "server: edge\r\n",
            "server: edge\r\n",
        ),
    ] {
        let stand = stand(|all| {
            all.server.name = "edge".to_owned();
            all.server.transformation = transformation;
        })
        .await;
        stand.app.push(OWN);
        for expected in [with, without] {
            let answer = stand.send(ask("/", "").as_bytes()).await;
            let servers = answer.to_lowercase().matches("server: ").count();
            assert_eq!(servers, usize::from(!expected.is_empty()), "{answer}");
            assert!(answer.contains(expected), "{expected} in {answer}");
        }
        let refused = stand.send(ask("nowhere", "").as_bytes()).await;
        let own = if transformation == ServerHeader::PassThrough {
            "meshctl"
        } else {
            "edge"
        };
        assert!(refused.contains(&format!("server: {own}\r\n")), "{refused}");
    }
    let stand = stand(|all| all.server.via = "1.1 edge".to_owned()).await;
    stand.app.push(OWN);
    let answer = stand.send(ask("/", "Via: 1.0 caller\r\n").as_bytes()).await;
    assert!(answer.contains("via: 1.0 app,1.1 edge\r\n"), "{answer}");
    assert_eq!(
        stand.app.take().requests[0].all("via"),
        ["1.0 caller,1.1 edge"]
    );
    let refused = stand.send(ask("nowhere", "").as_bytes()).await;
    assert!(refused.contains("via: 1.1 edge\r\n"), "{refused}");
}

#[tokio::test]
async fn the_proxy_has_one_name_over_http2_too() {
    let tasks = Tasks::new();
    let bind = free();
    let mut options = HttpOptions::default();
    options.server.name = "edge".to_owned();
    options.server.transformation = ServerHeader::Overwrite;
    options.server.via = "2 edge".to_owned();
    let nobody = forward(&[("gone", 1)]);
    let view = Views::default()
        .http_with("t", bind, options)
        .routes("t", vec![route(Action::Forward(nobody))])
        .0;
    let _proxy = Proxy::start(view).await;
    let (send, connection) = h2::client::handshake(connect(bind).await).await.unwrap();
    tasks.spawn("h2 caller", async move {
        let _ended = connection.await;
    });
    let mut send = send.ready().await.unwrap();
    // One that the data path refuses, and one that cannot be read as a request at all.
    for (host, status) in [("app", 503), ("a b", 400)] {
        let mut request = http::Request::get("http://app/").body(()).unwrap();
        if status == 400 {
            request.headers_mut().insert("host", host.parse().unwrap());
        }
        let (answer, _) = send.send_request(request, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["server"], "edge", "{status}");
        assert_eq!(answer.headers()["via"], "2 edge", "{status}");
    }
}

#[tokio::test]
async fn old_and_absolute_requests_are_served_as_asked() {
    let old = b"GET / HTTP/1.0\r\n\r\n";
    let refusing = stand(|all| all.http1.accept_http_10 = false).await;
    let answer = refusing.send(old).await;
    assert!(
        answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"),
        "{answer}"
    );
    assert_eq!(refusing.details(1).await, "low_version");
    let naming = stand(|all| all.http1.default_host_for_http_10 = "usual".to_owned()).await;
    naming.send(old).await;
    assert_eq!(naming.app.take().requests[0].all("host"), ["usual"]);
    let strict = stand(|all| all.http1.allow_absolute_url = false).await;
    let answer = strict.send(ask("http://app/", "").as_bytes()).await;
    assert_eq!(statuses(&answer), [400]);
    assert_eq!(strict.details(1).await, "http1.invalid_url");
    assert!(strict.app.take().requests.is_empty());
}

#[tokio::test]
async fn a_refusal_ends_the_connection_unless_asked_otherwise() {
    let keeping = stand(|all| all.http1.keep_after_error = true).await;
    let two = "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\nGET /ok HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = keeping.send(two.as_bytes()).await;
    assert_eq!(statuses(&answer), [400, 200], "{answer}");
    assert_eq!(keeping.app.take().requests.len(), 1);
    // Where the end of a request is not known, there is nothing to go on with.
    let two = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(statuses(&keeping.send(two.as_bytes()).await), [400]);
    assert!(keeping.app.take().requests.is_empty());
}

#[tokio::test]
async fn only_protocols_that_are_allowed_are_switched_to() {
    let stand = stand(|all| all.upgrades.0 = vec!["tell".to_owned()]).await;
    let wish = |name: &str| {
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {name}\r\n\r\n")
    };
    let answer = stand.send(wish("websocket").as_bytes()).await;
    assert_eq!(statuses(&answer), [403]);
    assert_eq!(stand.details(1).await, "upgrade_failed");
    assert!(stand.app.take().requests.is_empty());
    stand.app.push(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tell\r\n\r\nhello",
    );
    let mut stream = connect(stand.bind).await;
    stream.write_all(wish("Tell").as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\nhello").await;
}
