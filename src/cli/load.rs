//! Load: keep-alive connections, every answer counted; as fast as answers come, or at a pace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::net::{ConnectOptions, connect};
use crate::rt::{Tasks, now};

/// What is called, and how hard.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where connections go: a sidecar's outbound port, or a server itself.
    pub(crate) to: SocketAddr,
    /// The request target: absolute for a sidecar, a path for a server.
    pub(crate) target: String,
    /// The `Host` header.
    pub(crate) host: String,
    /// Connections at once.
    pub(crate) connections: usize,
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Requests.
    pub(crate) requests: u64,
    /// Answers that were not of 200 to 299, or none at all.
    pub(crate) failed: u64,
    /// Why, by status or error.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// Answers by version of the service.
    pub(crate) versions: BTreeMap<String, u64>,
    /// Of each request, in microseconds.
    pub(crate) micros: Vec<u64>,
}

impl Tally {
    /// Adds all of `other`.
    pub(crate) fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        for (version, count) in other.versions {
            *self.versions.entry(version).or_default() += count;
        }
        self.micros.extend(other.micros);
    }

    /// The latency below which `percent` of the requests lie, in milliseconds.
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        let micros = sorted.get(at).copied().unwrap_or(0);
        Duration::from_micros(micros).as_secs_f64() * 1_000.0
    }

    /// The reasons in words.
    pub(crate) fn why(&self) -> String {
        let words: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count}× {reason}"))
            .collect();
        words.join(", ")
    }
}

/// Sends `count` requests in all.
pub(crate) async fn burst(plan: &Plan, count: u64) -> Tally {
    let left = Arc::new(AtomicU64::new(count));
    run(plan, move || {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    })
    .await
}

/// Sends requests until it is stopped.
#[derive(Debug)]
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    work: JoinSet<Tally>,
}

/// Sends `rate` requests a second for `length`, however long answers take: what waited behind a slow one is counted
/// from when it was due, so that a stall is not hidden.
pub(crate) async fn paced(plan: &Plan, rate: u32, length: Duration) -> Tally {
    let begun = now();
    let each = Duration::from_secs(1) / rate.max(1);
    let connections = u32::try_from(plan.connections).unwrap_or(1).max(1);
    let mut work = JoinSet::new();
    for number in 0..connections {
        let plan = plan.clone();
        work.spawn(async move {
            let pace = Pace {
                due: begun + each * number,
                each: each * connections,
                end: begun + length,
            };
            client(plan, Some(pace), || true).await
        });
    }
    sum(work).await
}

/// When requests of one connection are due.
#[derive(Debug, Clone)]
struct Pace {
    due: Instant,
    each: Duration,
    end: Instant,
}

impl Pace {
    /// Waits until the next request is due, and says since when it has been: none at the end.
    async fn next(&mut self) -> Option<Instant> {
        if self.due >= self.end {
            return None;
        }
        let due = self.due;
        self.due += self.each;
        if now() >= due {
            return Some(due);
        }
        tokio::time::sleep_until(due).await;
        // Timers are late by up to a millisecond, which is not the answer's time.
        Some(now())
    }
}

/// Starts load that goes on in the background.
pub(crate) fn start(plan: Plan) -> Running {
    let stop = Arc::new(AtomicBool::new(false));
    let go_on = Arc::clone(&stop);
    let mut work = JoinSet::new();
    work.spawn(async move { run(&plan, move || !go_on.load(Ordering::Relaxed)).await });
    Running { stop, work }
}

impl Running {
    /// Ends the load and gives what came back.
    pub(crate) async fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        match self.work.join_next().await {
            Some(Ok(tally)) => tally,
            _ => Tally::default(),
        }
    }
}

async fn run(plan: &Plan, more: impl Fn() -> bool + Clone + Send + 'static) -> Tally {
    let mut work = JoinSet::new();
    for _ in 0..plan.connections {
        work.spawn(client(plan.clone(), None, more.clone()));
    }
    sum(work).await
}

async fn sum(mut work: JoinSet<Tally>) -> Tally {
    let mut all = Tally::default();
    while let Some(one) = work.join_next().await {
        all.merge(one.unwrap_or_default());
    }
    all
}

async fn client(plan: Plan, mut pace: Option<Pace>, more: impl Fn() -> bool) -> Tally {
    let mut tally = Tally::default();
    let tasks = Tasks::new();
    let mut open: Option<SendRequest<Empty<Bytes>>> = None;
    while more() {
        let begun = match &mut pace {
            None => now(),
            Some(pace) => match pace.next().await {
                Some(since) => since,
                None => break,
            },
        };
        let outcome = tokio::time::timeout(Duration::from_secs(10), call(&plan, &mut open, &tasks));
        let outcome = outcome
            .await
            .unwrap_or_else(|_| Err("no answer in 10 s".to_owned()));
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        tally.requests += 1;
        tally.micros.push(micros);
        match outcome {
            Ok(version) => *tally.versions.entry(version).or_default() += 1,
            Err(reason) => {
                open = None;
                tally.failed += 1;
                *tally.reasons.entry(reason).or_default() += 1;
                // A refused connection fails at once; do not count thousands of the same.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    tasks.end().await;
    tally
}

/// One request; the version that answered, or why it failed.
async fn call(
    plan: &Plan,
    open: &mut Option<SendRequest<Empty<Bytes>>>,
    tasks: &Tasks,
) -> Result<String, String> {
    let words = |error: hyper::Error| error.to_string();
    let mut sender = match open.take() {
        Some(sender) if !sender.is_closed() => sender,
        _ => {
            let stream = connect(plan.to, ConnectOptions::default())
                .await
                .map_err(|error| format!("connect: {}", error.kind()))?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .map_err(words)?;
            tasks.spawn("load-connection", async move {
                // The request that was under way tells the error.
                drop(connection.await);
            });
            sender
        }
    };
    sender.ready().await.map_err(words)?;
    let request = http::Request::get(&plan.target)
        .header("host", &plan.host)
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(words)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(words)?;
    *open = Some(sender);
    if !status.is_success() {
        return Err(status.as_u16().to_string());
    }
    let version = serde_json::from_slice::<serde_json::Value>(&body.to_bytes())
        .ok()
        .and_then(|body| Some(body.get("version")?.as_str()?.to_owned()));
    Ok(version.unwrap_or_default())
}
