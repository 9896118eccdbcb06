//! What callers are told, how often endpoints are asked, and who is ejected, for each way in which a
//! backend can go wrong.
//!
//! Statuses, flags, details and retries are those that a real Envoy gave for the same bytes, but for
//! what a case says of itself.

mod backend;
mod cases;
mod random;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use meshctl::mesh::cluster::{Cluster, UpstreamProtocol};
use meshctl::mesh::outlier::OutlierDetection;
use meshctl::mesh::route::{Action, Match, PathMatch, Retry, RetryOn, Route};
use meshctl::proxy::{AccessLog, Options};
use meshctl::rt::Tasks;
use meshctl::telemetry::LogFormat;

use super::support::*;
use backend::{Backend, Deaf, Speaks};
use cases::{Case, Told};

/// The time that a request may take: long enough for a hundred at once on a busy machine.
const TIMEOUT: Duration = Duration::from_millis(1_500);
/// What a policy may be.
const POLICIES: [Option<RetryOn>; 7] = [
    None,
    Some(RetryOn::ConnectFailure),
    Some(RetryOn::Reset),
    Some(RetryOn::ResetBeforeRequest),
    Some(RetryOn::RefusedStream),
    Some(RetryOn::GatewayError),
    Some(RetryOn::ServerError),
];

fn name(case: &Case, policy: Option<RetryOn>) -> String {
    let speaks = match case.speaks {
        Speaks::Http1 => "h1",
        Speaks::Http2 => "h2",
    };
    let policy = policy.map_or_else(|| "never".to_owned(), |on| format!("{on:?}"));
    format!("/{speaks}/{}/{policy}", case.name).replace(' ', "-")
}

/// A cluster that uses each connection once, so that no request meets what another left behind.
fn once(name: &str, speaks: Speaks) -> Cluster {
    let mut config = cluster(name);
    config.protocol = match speaks {
        Speaks::Http1 => UpstreamProtocol::Http1,
        Speaks::Http2 => UpstreamProtocol::Http2,
    };
    config.limits.max_requests_per_connection = 1;
    config
}

fn route_to(name: &str, policy: Option<RetryOn>) -> Route {
    let mut action = forward(&[(name, 1)]);
    action.timeout = Some(TIMEOUT);
    action.retry = policy.map(|on| Retry {
        attempts: 1,
        on: vec![on],
        base_interval: Duration::from_millis(1),
        ..Retry::default()
    });
    Route {
        matches: Match {
            path: PathMatch::Exact(name.to_owned()),
            ..Match::default()
        },
        ..route(Action::Forward(action))
    }
}

/// What was told and logged of a request.
#[derive(Debug)]
struct Seen {
    status: u16,
    answer: String,
    flag: String,
    details: String,
}

/// Log lines by path and method.
fn logged(path: &Path) -> BTreeMap<(String, String), (String, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let of = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        (
            (of("path"), of("method")),
            (of("response_flags"), of("response_code_details")),
        )
    };
    text.lines().map(line).collect()
}

/// The status behind informational answers.
fn last_status(answer: &str) -> u16 {
    let mut rest = answer;
    while let (100..200, Some((_, next))) = (status(rest), rest.split_once("\r\n\r\n")) {
        rest = next;
    }
    status(rest)
}

async fn call(bind: SocketAddr, path: &str, method: &str, body: usize) -> String {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {body}\r\n\r\n{}",
        "x".repeat(body)
    );
    exchange_broken(bind, request).await
}

/// As [`exchange`]; the other side may stop reading.
async fn exchange_broken(to: SocketAddr, request: String) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut reader, mut writer) = connect(to).await.into_split();
    let mut answer = Vec::new();
    let write = async {
        // Whoever answers early may not read on.
        let _written = writer.write_all(request.as_bytes()).await;
    };
    let read = async {
        // A reset after the answer is an end too.
        let _ended = reader.read_to_end(&mut answer).await;
    };
    let both = futures_util::future::join(write, read);
    tokio::time::timeout(DEADLINE, both)
        .await
        .expect("the connection did not end in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Runs every case of `speaks` with every policy, and says what is not as it should be.
async fn matrix(speaks: Speaks) {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let deaf = Deaf::new();
    let cases: Vec<&Case> = cases::ALL
        .iter()
        .filter(|case| case.speaks == speaks)
        .collect();
    let mut views = Views::default();
    let mut routes = Vec::new();
    let mut backends = Vec::new();
    for case in &cases {
        for policy in POLICIES {
            let name = name(case, policy);
            let mut config = once(&name, speaks);
            // Retries would only meet the ejection.
            config.outlier = policy.is_none().then(|| OutlierDetection {
                consecutive_5xx: 2,
                ..OutlierDetection::default()
            });
            let backend = case
                .script
                .map(|script| Backend::start(&tasks, speaks, script));
            let address = match &backend {
                Some(backend) => backend.address,
                None => deaf.address(),
            };
            views = views.cluster(config, vec![endpoint(address)]);
            routes.push(route_to(&name, policy));
            backends.push((*case, policy, backend));
        }
    }
    // Last, so that nobody else is given them meanwhile.
    let (bind, admin) = (free(), free());
    views = views.http("t", bind);
    let options = Options {
        workers: 1,
        admin: Some(admin),
        access_log: Some(AccessLog {
            format: LogFormat::Json,
            path: Some(log.clone()),
        }),
        ..Options::default()
    };
    let proxy = Proxy::with(options, views.routes("t", routes).0, None).await;
    // One after the other for a backend, all backends at once.
    let answers = backends.iter().map(|(case, policy, backend)| async move {
        let path = name(case, *policy);
        let mut seen = Vec::new();
        for method in ["GET", "POST"] {
            let before = backend.as_ref().map_or(0, Backend::deliveries);
            let body = if method == "POST" { case.body } else { 0 };
            let answer = call(bind, &path, method, body).await;
            let after = backend.as_ref().map_or(0, Backend::deliveries);
            seen.push((method, answer, after - before));
        }
        seen
    });
    let answers = futures_util::future::join_all(answers).await;
    let clusters = own_page(admin, "/clusters").await;
    proxy.stop().await.unwrap();
    let log = logged(&log);

    let mut faults = String::new();
    let mut check = |what: String, found: String, expected: String| {
        if found != expected {
            use std::fmt::Write as _;
            writeln!(faults, "{what}: {found}\n    expected {expected}").unwrap();
        }
    };
    for ((case, policy, _), answers) in backends.iter().zip(answers) {
        let path = name(case, *policy);
        for (method, answer, deliveries) in answers {
            let (flag, details) = log[&(path.clone(), method.to_owned())].clone();
            let seen = Seen {
                // An answer may break off before anything of it came.
                status: if answer.is_empty() {
                    0
                } else {
                    last_status(&answer)
                },
                flag,
                details,
                answer,
            };
            // Safer than Envoy: what may have been processed and is not harmless is not sent again.
            let again = policy.is_some_and(|on| case.retried_on.contains(&on))
                && (method == "GET" || case.is_unprocessed());
            let expected = case.told(method);
            let spent = again && expected.flag != "-";
            check(
                format!("{method} {path}"),
                format!(
                    "{} {} {} x{deliveries}",
                    seen.status, seen.flag, seen.details
                ),
                format!(
                    "{} {} {} x{}",
                    expected.status,
                    if spent { "URX" } else { expected.flag },
                    expected.details,
                    case.deliveries * if again { 2 } else { 1 }
                ),
            );
            if !seen.answer.contains(expected.body) {
                check(
                    format!("{method} {path}"),
                    seen.answer,
                    expected.body.to_owned(),
                );
            }
        }
        if policy.is_none() {
            let line = format!("{path}::");
            let out = clusters
                .lines()
                .any(|l| l.starts_with(&line) && l.ends_with("/failed_outlier_check"));
            check(
                format!("{path} ejected"),
                out.to_string(),
                case.ejected.to_string(),
            );
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[tokio::test]
async fn what_http1_backends_do_wrong_is_told_as_documented() {
    matrix(Speaks::Http1).await;
}

#[tokio::test]
async fn what_http2_backends_do_wrong_is_told_as_documented() {
    matrix(Speaks::Http2).await;
}

impl Case {
    /// Whether it proves that nothing was processed.
    fn is_unprocessed(&self) -> bool {
        self.retried_on.contains(&RetryOn::ResetBeforeRequest)
    }

    fn told(&self, method: &str) -> &Told {
        match (&self.post, method) {
            (Some(post), "POST") => post,
            _ => &self.told,
        }
    }
}
