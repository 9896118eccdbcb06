//! What endpoints may answer: what passes, how it is framed, and what is refused for the caller.

use meshctl::mesh::HttpOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::strict::{Stand, statuses};
use super::support::*;

async fn stand() -> Stand {
    Stand::start(HttpOptions::default()).await
}

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn answers_with_two_readings_are_refused() {
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(62 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
    let endless = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000);
    let stand = stand().await;
    for answer in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 2000 Long\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        // Response splitting: what an application wrote into a value would be a field.
        "HTTP/1.1 200 OK\r\nX: y\nSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\rSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n evil\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: y\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        // Framing.
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nxx",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        // Nobody asked for it.
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        &large,
        &many,
        &endless,
    ] {
        stand.app.push(answer.as_bytes());
        let got = stand.send(GET).await;
        // Early hints that came before it had passed are answers too.
        let last = *statuses(&got).last().unwrap();
        assert_eq!(last, 502, "{:?}: {got:?}", answer.get(..99));
        assert!(!got.contains("evil"), "{got}");
        let line = &stand.lines(1).await[0];
        let details = "upstream_reset_before_response_started{protocol_error}";
        assert_eq!(line["response_code_details"], details, "{answer:?}");
        assert_eq!(line["response_flags"], "UPE", "{answer:?}");
        stand.app.take();
    }
}

#[tokio::test]
async fn answers_that_break_off_are_never_taken_for_whole() {
    let stand = stand().await;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n5\nevil\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nevil\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nContent-Length: 1\r\n\r\n",
    ] {
        stand.app.push(answer.as_bytes());
        stand.app.hang_up_after(1);
        let mut stream = connect(stand.bind).await;
        let one = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(&one.repeat(2)).await.unwrap();
        let mut got = Vec::new();
        let ended = stream.read_to_end(&mut got);
        let _reset = tokio::time::timeout(DEADLINE, ended).await.unwrap();
        let got = String::from_utf8(got).unwrap();
        assert!(got.matches("HTTP/1.1 ").count() <= 1, "{got}");
        assert!(
            !got.ends_with("0\r\n\r\n") && !got.contains("evil"),
            "{got}"
        );
        let details = stand.details(1).await;
        assert!(
            details.starts_with("upstream_reset_after_response_started"),
            "{details}"
        );
        stand.app.take();
    }
}

#[tokio::test]
async fn what_follows_an_answer_is_nobodys_answer() {
    let stand = stand().await;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 70\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ] {
        stand.app.push(answer.as_bytes());
        stand
            .app
            .push(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright");
        let mut stream = connect(stand.bind).await;
        stream
            .write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(GET).await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        let got = String::from_utf8(got).unwrap();
        assert!(
            got.ends_with("right") && !got.contains("evil"),
            "{answer}: {got}"
        );
    }
}

#[tokio::test]
async fn bodies_are_where_answers_have_them() {
    let stand = stand().await;
    for (method, answer, with, without) in [
        (
            "HEAD",
            "200 OK\r\nContent-Length: 4",
            "Content-Length: 4\r\n",
            "\r\n\r\nbody",
        ),
        (
            "HEAD",
            "200 OK\r\nTransfer-Encoding: chunked",
            "200 OK",
            "ransfer-",
        ),
        (
            "GET",
            "204 No Content\r\nContent-Length: 4",
            "204 No Content",
            "ontent-",
        ),
        (
            "GET",
            "204 No Content\r\nTransfer-Encoding: chunked",
            "204 No Content",
            "ransfer-",
        ),
        (
            "GET",
            "304 Not Modified\r\nContent-Length: 4",
            "Content-Length: 4\r\n",
            "body",
        ),
        (
            "GET",
            "205 Reset Content\r\nContent-Length: 0",
            "content-length: 0\r\n",
            "body",
        ),
    ] {
        stand
            .app
            .push(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes());
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let got = stand.send(request.as_bytes()).await;
        assert!(
            got.to_lowercase().contains(&with.to_lowercase()),
            "{answer}: {got}"
        );
        assert!(!got.contains(without), "{answer}: {got}");
        assert!(got.ends_with("\r\n\r\n"), "{answer}: {got}");
    }
    // Without a length it ends with the connection, and the caller is told by chunks.
    stand.app.push(b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
    stand.app.hang_up_after(1);
    let got = stand.send(GET).await;
    assert!(got.contains("transfer-encoding: chunked\r\n"), "{got}");
    assert!(got.ends_with("d\r\nuntil the end\r\n0\r\n\r\n"), "{got}");
}

#[tokio::test]
async fn informational_answers_pass_to_those_who_know_them() {
    let stand = stand().await;
    let answer = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
        HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    stand.app.push(answer);
    assert_eq!(statuses(&stand.send(GET).await), [102, 103, 103, 200]);
    stand.app.push(answer);
    let got = stand.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!(statuses(&got), [200], "{got}");
}

/// An application may answer before it has read: what the caller still sends is no request.
#[tokio::test]
async fn an_early_answer_ends_the_connection() {
    let (socket, address) = listen();
    let bind = free();
    let _proxy = Proxy::start(simple(bind, address, |_| {})).await;
    let mut caller = connect(bind).await;
    caller
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\npart")
        .await
        .unwrap();
    let (mut app, _) = socket.accept().await.unwrap();
    read_until(&mut app, "part").await;
    app.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        .await
        .unwrap();
    let head = read_until(&mut caller, "\r\n\r\nno").await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    // The rest of the body, which looks like a request.
    let rest = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10);
    let _refused = caller.write_all(&rest).await;
    let mut got = Vec::new();
    let ended = caller.read_to_end(&mut got);
    let _reset = tokio::time::timeout(DEADLINE, ended).await.unwrap();
    assert!(got.is_empty(), "{}", String::from_utf8_lossy(&got));
}

/// An answer's head and what breaks its body may come in one read.
#[tokio::test]
async fn a_head_before_a_break_is_passed_on() {
    let stand = stand().await;
    for broken in [
        "HTTP/1.1 200 OK\r\nX: hello\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nX: hello\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ] {
        stand.app.push(broken.as_bytes());
        let got = stand.send(GET).await;
        assert_eq!(statuses(&got), [200], "{got}");
        assert!(
            got.contains("hello") && !got.ends_with("0\r\n\r\n"),
            "{got}"
        );
        let line = &stand.lines(1).await[0];
        assert_eq!(line["response_flags"], "UPE");
    }
}
