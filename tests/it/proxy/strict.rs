//! What can be read in two ways is refused: raw bytes in, the answer, its details, and what the
//! application saw of it.

use std::path::PathBuf;

use meshctl::mesh::HttpOptions;
use meshctl::mesh::route::Action;
use meshctl::proxy::{AccessLog, Options};
use meshctl::rt::Tasks;
use meshctl::telemetry::LogFormat;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::corpus::{Case, cases};
use super::reader::{Record, Recorder};
use super::support::*;

/// A proxy with an access log before a server that remembers.
pub(crate) struct Stand {
    pub(crate) app: Recorder,
    pub(crate) bind: std::net::SocketAddr,
    log: PathBuf,
    logged: std::cell::Cell<usize>,
    _proxy: Proxy,
    _tasks: Tasks,
    _dir: tempfile::TempDir,
}

impl Stand {
    pub(crate) async fn start(options: HttpOptions) -> Self {
        let tasks = Tasks::new();
        let app = Recorder::start(&tasks);
        let bind = free();
        let view = Views::default()
            .http_with("t", bind, options)
            .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
            .cluster(cluster("app"), vec![endpoint(app.address)])
            .0;
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("access.log");
        let options = Options {
            workers: 1,
            access_log: Some(AccessLog {
                format: LogFormat::Json,
                path: Some(log.clone()),
            }),
            ..Options::default()
        };
        let proxy = Proxy::with(options, view, None).await;
        Self {
            app,
            bind,
            log,
            logged: std::cell::Cell::new(0),
            _proxy: proxy,
            _tasks: tasks,
            _dir: dir,
        }
    }

    /// Sends `bytes`, says that no more will come, and reads until the proxy ends.
    pub(crate) async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = connect(self.bind).await;
        // The proxy may have refused and gone before everything is written.
        let _sent = stream.write_all(bytes).await;
        let _ended = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        let _reset = read.expect("the connection did not end");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The next lines of the access log.
    pub(crate) async fn lines(&self, count: usize) -> Vec<serde_json::Value> {
        let before = self.logged.get();
        let read = || {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            text.get(..whole)
                .unwrap()
                .lines()
                .skip(before)
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<serde_json::Value>>()
        };
        eventually(|| async { read().len() >= count }).await;
        self.logged.set(before + count);
        read().into_iter().take(count).collect()
    }

    /// `response_code_details` and flags of the next `count` requests' last.
    pub(crate) async fn details(&self, count: usize) -> String {
        let lines = self.lines(count).await;
        lines.last().unwrap()["response_code_details"]
            .as_str()
            .unwrap_or("-")
            .to_owned()
    }
}

/// The statuses of all answers in `text`, each of which has a length.
pub(crate) fn statuses(text: &str) -> Vec<u16> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((head, behind)) = rest.split_once("\r\n\r\n") {
        let status: u16 = status(head);
        found.push(status);
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.parse().unwrap());
        rest = behind.get(length..).unwrap_or_default();
    }
    found
}

fn check(case: &Case, answer: &str, record: &Record) -> Result<(), String> {
    if statuses(answer) != case.statuses {
        return Err(format!("answered {answer:?}"));
    }
    let last = *case.statuses.last().unwrap();
    if last >= 400 && last != 403 && !answer.contains("connection: close\r\n") {
        return Err("the connection goes on".to_owned());
    }
    let targets: Vec<_> = record
        .requests
        .iter()
        .map(|seen| seen.target.as_str())
        .collect();
    if targets != case.targets {
        return Err(format!("the application saw {record:?}"));
    }
    // What is refused in its body was begun; that its end never comes is what matters.
    let cut = |error: &String| error.starts_with("cut off: ") && last >= 400;
    match record.errors.iter().find(|error| !cut(error)) {
        Some(error) => Err(format!("what was forwarded is ambiguous: {error}")),
        None => Ok(()),
    }
}

#[tokio::test]
async fn ambiguous_bytes_are_refused_and_others_pass_as_one_reading() {
    let stand = Stand::start(HttpOptions::default()).await;
    let mut wrong = Vec::new();
    let mut ends = Vec::new();
    let mut count = 0;
    let all = cases();
    assert!(all.len() > 100);
    for case in &all {
        let answer = stand.send(&case.bytes).await;
        if let Err(reason) = check(case, &answer, &stand.app.take()) {
            wrong.push(format!("{}: {reason}", case.name));
        }
        count += statuses(&answer).len();
        ends.push(count - 1);
    }
    let lines = stand.lines(count).await;
    for (case, end) in all.iter().zip(ends) {
        let details = &lines[end]["response_code_details"];
        if *details != case.details {
            wrong.push(format!("{}: details {details}", case.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The same bytes in small pieces: where a read ends must not matter.
#[tokio::test]
async fn pieces_are_read_as_the_whole() {
    let stand = Stand::start(HttpOptions::default()).await;
    let mut wrong = Vec::new();
    for case in cases().into_iter().filter(|case| case.bytes.len() < 300) {
        let mut stream = connect(stand.bind).await;
        for piece in case.bytes.chunks(7) {
            // The proxy may have refused already.
            let _sent = stream.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        let _ended = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        let _reset = read.expect("the connection did not end");
        let answer = String::from_utf8_lossy(&answer);
        // An answer may be lost to a reset when bytes come behind a refusal; nothing else may differ.
        if answer.is_empty() && case.statuses.last().is_some_and(|status| *status >= 400) {
            stand.app.take();
            continue;
        }
        if let Err(reason) = check(&case, &answer, &stand.app.take()) {
            wrong.push(format!("{}: {reason}", case.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn requests_are_passed_on_in_one_form() {
    let stand = Stand::start(HttpOptions::default()).await;
    stand
        .send(
            b"POST /a HTTP/1.1\r\nHoSt: App\r\nContent-Length: 0003\r\nX-One: 1\r\nx-one:  2 \r\n\
              Connection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers, gzip\r\n\
              Upgrade: h2c\r\nX-Envoy-Internal: true\r\nX-Forwarded-Client-Cert: forged\r\n\r\nabc",
        )
        .await;
    let record = stand.app.take();
    let [seen] = &record.requests[..] else {
        panic!("{record:?}");
    };
    assert_eq!(seen.body, b"abc");
    assert_eq!(seen.all("host"), ["App"]);
    assert_eq!(seen.all("content-length"), ["3"]);
    assert_eq!(seen.all("x-one"), ["1", "2"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-request-id").len(), 1);
    for gone in [
        "connection",
        "x-mine",
        "keep-alive",
        "te",
        "upgrade",
        "x-envoy-internal",
        "x-forwarded-client-cert",
        "transfer-encoding",
    ] {
        assert!(seen.all(gone).is_empty(), "{gone}: {seen:?}");
    }
    stand
        .send(
            b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
              3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
        )
        .await;
    let record = stand.app.take();
    assert_eq!(record.requests[0].body, b"abcde");
    assert_eq!(
        record.requests[0].trailers,
        [("x-t".to_owned(), "1".to_owned())]
    );
    assert_eq!(record.requests[0].all("trailer"), ["X-T"]);
    let old =
        "GET /c HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nConnection: keep-alive\r\n\r\n";
    let answer = stand.send(old.as_bytes()).await;
    assert!(answer.contains("connection: keep-alive\r\n"), "{answer}");
    assert!(stand.app.take().requests[0].all("expect").is_empty());
}
