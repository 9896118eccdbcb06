//! Spans on their way out, beside the data path: gathered from the workers, and sent in batches to all who get
//! them. Whoever is slow or away costs a bounded queue; what finds it full is dropped and counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::mesh::tracing::SpanSink;
use crate::rt::{self, Backoff, Reader, Tasks};
use crate::tls::Material;

use super::super::context::Shared;
use super::super::tables::Tables;
use super::super::unary::{Line, Outcome, Ways};
use super::Counts;
use super::send::Way;
use super::span::Span;
use super::tags::Maker;

/// How often the workers' spans are gathered.
const GATHER: Duration = Duration::from_millis(500);
/// Spans that wait for one who gets them, at most.
const QUEUE: usize = 2_048;
/// Spans in one message.
const BATCH: usize = 512;
/// A batch that cannot be delivered is given up after so many tries, so that newer spans have their turn.
const TRIES: u32 = 5;
/// The control plane's answer is waited for this long.
const ANSWER: Duration = Duration::from_secs(5);
/// Whoever got no span for this long is forgotten, with the connection.
const IDLE: Duration = Duration::from_mins(5);
/// Different ones at once; configuration that changes often leaves no more behind.
const MOST_SINKS: usize = 16;
/// What is under way at the end has this long.
const LAST: Duration = Duration::from_secs(1);

/// Has everything delivered that is there, and says when.
pub(crate) type Flush = mpsc::Sender<oneshot::Sender<()>>;

/// What deliveries are made with.
struct Desk {
    shared: Arc<Shared>,
    tables: Reader<Tables>,
    identities: Reader<Option<Arc<Material>>>,
    tasks: Tasks,
    maker: Arc<Maker>,
    own: Option<mpsc::Sender<Arc<Span>>>,
    sinks: Vec<(SpanSink, mpsc::Sender<Arc<Span>>, Instant)>,
    /// Dropped by the last feeder that ends.
    feeding: mpsc::Sender<()>,
    fed: mpsc::Receiver<()>,
}

/// Starts delivering, until `tasks` end.
pub(crate) fn start(
    shared: &Arc<Shared>,
    tables: Reader<Tables>,
    identities: Reader<Option<Arc<Material>>>,
    tasks: &Tasks,
) -> Flush {
    let (flush, flushes) = mpsc::channel(1);
    let (feeding, fed) = mpsc::channel(1);
    let mut desk = Desk {
        maker: Arc::new(Maker::new(&shared.options)),
        shared: Arc::clone(shared),
        tables,
        identities,
        tasks: tasks.clone(),
        own: None,
        sinks: Vec::new(),
        feeding,
        fed,
    };
    if let Some(collector) = shared.options.tracing.control_plane.clone() {
        let way = Way::Own(collector, desk.identities.clone());
        desk.own = Some(desk.feed(way, ANSWER));
    }
    tasks.spawn("spans", run(desk, flushes));
    flush
}

/// Waits until what workers have put down is delivered, for a moment at most.
pub(crate) async fn flush(flush: &Flush) {
    let (done, wait) = oneshot::channel();
    if flush.send(done).await.is_ok() {
        // An error means that nobody delivers any more.
        let _done = tokio::time::timeout(LAST, wait).await;
    }
}

async fn run(mut desk: Desk, mut flushes: mpsc::Receiver<oneshot::Sender<()>>) {
    let mut tick = tokio::time::interval(GATHER);
    loop {
        let flushed = tokio::select! {
            _ = tick.tick() => None,
            Some(flush) = flushes.recv() => Some(flush),
        };
        desk.gather();
        if let Some(done) = flushed {
            desk.end().await;
            // Whoever asked may have stopped waiting.
            let _told = done.send(());
            return;
        }
    }
}

impl Desk {
    fn gather(&mut self) {
        let now = rt::now();
        for span in self.shared.spans.take() {
            let span: Arc<Span> = Arc::from(span);
            let own = self.own.clone();
            let to = span.how.to.as_ref().map(|sink| self.queue(sink, now));
            for queue in [own, to.flatten()].into_iter().flatten() {
                if queue.try_send(Arc::clone(&span)).is_err() {
                    Counts::add(&self.shared.spans.counts.dropped, 1);
                }
            }
        }
        self.sinks
            .retain(|(_, _, used)| now.duration_since(*used) < IDLE);
    }

    /// Where spans for `sink` wait; none when there are too many like it.
    fn queue(&mut self, sink: &SpanSink, now: Instant) -> Option<mpsc::Sender<Arc<Span>>> {
        if let Some((_, queue, used)) = self.sinks.iter_mut().find(|(known, ..)| known == sink) {
            *used = now;
            return Some(queue.clone());
        }
        if self.sinks.len() >= MOST_SINKS {
            Counts::add(&self.shared.spans.counts.dropped, 1);
            return None;
        }
        let ways = Ways {
            tables: self.tables.clone(),
            identities: self.identities.clone(),
            from: self.shared.options.address,
        };
        let way = Way::Service(sink.clone(), ways);
        let queue = self.feed(way, sink.timeout);
        self.sinks.push((sink.clone(), queue.clone(), now));
        Some(queue)
    }

    fn feed(&self, way: Way, timeout: Duration) -> mpsc::Sender<Arc<Span>> {
        let (queue, spans) = mpsc::channel(QUEUE);
        let feeder = Feeder {
            way,
            timeout: if timeout.is_zero() { ANSWER } else { timeout },
            shared: Arc::clone(&self.shared),
            maker: Arc::clone(&self.maker),
            tasks: self.tasks.clone(),
            line: None,
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
            _feeding: self.feeding.clone(),
        };
        self.tasks.spawn("span-delivery", feeder.run(spans));
        queue
    }

    /// Waits for all feeders to deliver what they have.
    async fn end(mut self) {
        self.own = None;
        self.sinks.clear();
        let Self {
            feeding, mut fed, ..
        } = self;
        drop(feeding);
        // Answers nothing but that nobody feeds any more.
        let _none = fed.recv().await;
    }
}

/// What delivers to one who gets spans.
struct Feeder {
    way: Way,
    timeout: Duration,
    shared: Arc<Shared>,
    maker: Arc<Maker>,
    tasks: Tasks,
    line: Option<Line>,
    backoff: Backoff,
    _feeding: mpsc::Sender<()>,
}

impl Feeder {
    async fn run(mut self, mut spans: mpsc::Receiver<Arc<Span>>) {
        while let Some(first) = spans.recv().await {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = spans.try_recv()
            {
                batch.push(next);
            }
            self.deliver(&batch).await;
        }
    }

    async fn deliver(&mut self, batch: &[Arc<Span>]) {
        let counts = &Arc::clone(&self.shared).spans.counts;
        let spans: Vec<&Span> = batch.iter().map(|span| &**span).collect();
        for _ in 0..TRIES {
            let trying = tokio::time::timeout(self.timeout, self.once(&spans)).await;
            let outcome = trying.unwrap_or_else(|_| Outcome::Later("no answer in time".to_owned()));
            let to = self.way.name();
            match outcome {
                Outcome::Taken(refused) => {
                    if self.backoff.attempts() > 0 {
                        tracing::info!(to, "spans are delivered again");
                    }
                    self.backoff.reset();
                    Counts::add(&counts.sent, spans.len().saturating_sub(refused));
                    Counts::add(&counts.failed, refused);
                    return;
                }
                Outcome::Refused(error) => {
                    tracing::warn!(to, error, spans = spans.len(), "spans are refused");
                    Counts::add(&counts.failed, spans.len());
                    return;
                }
                Outcome::Later(error) => {
                    if self.backoff.attempts() == 0 {
                        tracing::warn!(to, error, "spans are not delivered; will try again");
                    } else {
                        tracing::debug!(to, error, "spans are not delivered; will try again");
                    }
                    self.line = None;
                    tokio::time::sleep(self.backoff.next(fastrand::f64())).await;
                }
            }
        }
        Counts::add(&counts.failed, spans.len());
    }

    async fn once(&mut self, spans: &[&Span]) -> Outcome {
        let mut line = match self.line.take() {
            Some(line) => line,
            None => match self.way.open(&self.tasks).await {
                Ok(line) => line,
                Err(error) => return Outcome::Later(error),
            },
        };
        let outcome = self.way.send(&mut line, spans, &self.maker).await;
        if !matches!(outcome, Outcome::Later(_)) {
            self.line = Some(line);
        }
        outcome
    }
}
