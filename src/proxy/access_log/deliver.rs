//! Telling services of calls, beside the data path: entries are gathered by bytes and time as Envoy does it, and go by
//! a stream that is replaced when it dies (Envoy's service), or in messages that are answered (OpenTelemetry's).

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::mesh::access_log::service::{FLUSH, LogService, Says};
use crate::mesh::tracing::TIMEOUT;
use crate::rt::{self, Backoff, Reader, Tasks, Wall};
use crate::telemetry::Place;
use crate::tls::Material;

use super::super::context::Shared;
use super::super::options::Options;
use super::super::tables::Tables;
use super::super::unary::{Outcome, Ways};
use super::batch::{Batch, Writes};
use super::services::{Counts, Opened, Queue};
use super::talk::Talk;

/// Entries are looked for this often while some wait for others, so that workers need not wake anybody.
const PAUSE: Duration = Duration::from_millis(25);
/// Bytes in one message at most, whatever the configuration says: servers take 4 MiB where nobody says.
const MOST_BYTES: usize = 1024 * 1024;
/// A batch that cannot be delivered is given up after so many tries, so that newer calls have their turn.
const TRIES: u32 = 5;
/// Between tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// What is under way at the end has this long.
const LAST: Duration = Duration::from_secs(1);

/// Has everything delivered that is there.
#[derive(Debug)]
pub(crate) struct Desk {
    ending: CancellationToken,
    fed: mpsc::Receiver<()>,
}

/// Starts telling, until `tasks` end.
pub(crate) fn start(
    shared: &Arc<Shared>,
    tables: Reader<Tables>,
    identities: Reader<Option<Arc<Material>>>,
    tasks: &Tasks,
) -> Desk {
    let (desk, mut opened) = mpsc::unbounded_channel();
    let (feeding, fed) = mpsc::channel(1);
    let ending = CancellationToken::new();
    let options = &shared.options;
    options.logs.services.served_by(desk);
    let ways = Ways {
        tables,
        identities,
        from: options.address,
    };
    let node = node(options);
    let (shared, token, group) = (Arc::clone(shared), ending.clone(), tasks.clone());
    tasks.spawn("log-services", async move {
        loop {
            let opened: Opened = tokio::select! {
                Some(opened) = opened.recv() => opened,
                () = token.cancelled() => return,
            };
            let logs = &shared.options.logs;
            let feeder = Feeder {
                writes: Writes::new(&opened.service, &node),
                service: opened.service,
                queue: opened.queue,
                ways: ways.clone(),
                place: logs.place(),
                wall: shared.wall.clone(),
                counts: Arc::clone(&logs.services.counts),
                tasks: group.clone(),
                ending: token.clone(),
                talk: None,
                backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
                _feeding: feeding.clone(),
            };
            group.spawn("log-service", feeder.run());
        }
    });
    Desk { ending, fed }
}

impl Desk {
    /// Waits until what workers have put down is delivered, for a moment at most.
    pub(crate) async fn flush(mut self) {
        self.ending.cancel();
        // Answers nothing but that nobody feeds any more.
        let _done = tokio::time::timeout(LAST, self.fed.recv()).await;
    }
}

/// Who tells.
fn node(options: &Options) -> Node {
    let workload = &options.workload;
    let locality = &options.locality;
    Node {
        id: options.node.clone(),
        cluster: format!("{}.{}", workload.workload, workload.namespace),
        locality: Some(Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.subzone.clone(),
        }),
        user_agent_name: "meshctl".to_owned(),
        ..Node::default()
    }
}

/// What tells one service.
struct Feeder {
    service: Arc<LogService>,
    queue: Queue,
    writes: Writes,
    ways: Ways,
    place: Arc<Place>,
    wall: Wall,
    counts: Arc<Counts>,
    tasks: Tasks,
    ending: CancellationToken,
    talk: Option<Talk>,
    backoff: Backoff,
    _feeding: mpsc::Sender<()>,
}

impl Feeder {
    async fn run(mut self) {
        loop {
            let batch = self.gather().await;
            if batch.count == 0 {
                break;
            }
            self.deliver(batch).await;
        }
        if let Some(talk) = self.talk {
            // Whoever is told may have gone; what it was told is told.
            let _ended = tokio::time::timeout(LAST, talk.end()).await;
        }
    }

    /// The next entries; none when nobody logs to it any more.
    async fn gather(&mut self) -> Batch {
        let mut batch = Batch::new(&self.writes);
        let first = tokio::select! {
            first = self.queue.next() => first,
            () = self.ending.cancelled() => {
                self.queue.close();
                self.queue.now()
            }
        };
        let Some(first) = first else { return batch };
        let most = usize::try_from(self.service.buffer_bytes).unwrap_or(MOST_BYTES);
        let most = most.min(MOST_BYTES);
        let flush = match self.service.flush {
            Duration::ZERO => FLUSH,
            flush => flush,
        };
        let until = rt::now() + flush;
        let mut next = Some(first);
        loop {
            while let Some(record) = next.take() {
                let about = (&*self.place, self.wall.millis());
                batch.add(&self.writes, &record, about);
                if batch.bytes >= most {
                    return batch;
                }
                next = self.queue.now();
            }
            let left = until.saturating_duration_since(rt::now());
            if left.is_zero() || self.ending.is_cancelled() {
                return batch;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE.min(left)) => {}
                () = self.ending.cancelled() => self.queue.close(),
            }
            next = self.queue.now();
        }
    }

    async fn deliver(&mut self, batch: Batch) {
        let message = self.writes.message(batch.entries);
        let counts = Arc::clone(&self.counts);
        let (name, to) = (self.service.name.clone(), self.service.cluster.clone());
        for _ in 0..TRIES {
            match self.once(&message).await {
                Outcome::Taken(refused) => {
                    if self.talk.as_ref().is_some_and(Talk::holds) {
                        if self.backoff.attempts() > 0 {
                            tracing::info!(log = name, to, "calls are told again");
                        }
                        self.backoff.reset();
                    }
                    Counts::add(&counts.sent, batch.count.saturating_sub(refused));
                    Counts::add(&counts.failed, refused);
                    return;
                }
                Outcome::Refused(error) => {
                    tracing::warn!(log = name, to, error, "calls are refused");
                    Counts::add(&counts.failed, batch.count);
                    return;
                }
                Outcome::Later(error) => {
                    if self.backoff.attempts() == 0 {
                        tracing::warn!(log = name, to, error, "calls are not told; will try again");
                    } else {
                        tracing::debug!(
                            log = name,
                            to,
                            error,
                            "calls are not told; will try again"
                        );
                    }
                    tokio::time::sleep(self.backoff.next(fastrand::f64())).await;
                }
            }
        }
        Counts::add(&counts.failed, batch.count);
    }

    async fn once(&mut self, message: &[u8]) -> Outcome {
        let patience = match self.service.timeout {
            Duration::ZERO => TIMEOUT,
            timeout => timeout,
        };
        let mut talk = if let Some(talk) = self.talk.take() {
            talk
        } else {
            let opening = Talk::open(&self.service, &self.ways, &self.tasks);
            match tokio::time::timeout(patience, opening).await {
                Ok(Ok(talk)) => talk,
                Ok(Err(error)) => return Outcome::Later(error),
                Err(_) => return Outcome::Later("it is not reached in time".to_owned()),
            }
        };
        let telling = talk.tell(&self.service, (self.writes.introduction(), message));
        let outcome = match self.service.says {
            Says::Otlp(_) => tokio::time::timeout(patience, telling)
                .await
                .unwrap_or_else(|_| Outcome::Later("no answer in time".to_owned())),
            // One that reads slowly is waited for; one that is dead is found out by the connection.
            Says::Http { .. } | Says::Tcp => telling.await,
        };
        if !matches!(outcome, Outcome::Later(_)) {
            self.talk = Some(talk);
        }
        outcome
    }
}
