//! Traces: which calls leave a span, what their heads say of it, and where spans go.
//!
//! A worker only reads and writes contexts ([`context`]), decides ([`begin`]) and, for the few calls that are
//! sampled, hands a [`Span`] over at the end, by a queue of its own that never blocks. What a span says in
//! whose words (`tags`, `otlp`, `zipkin`) and the sending (`deliver`) are the control thread's. A proxy makes
//! one span for each call that passes it: of the application that is called, or of the caller.

pub(crate) mod context;
pub(crate) mod deliver;
mod otlp;
mod send;
mod span;
mod tags;
mod zipkin;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tokio::time::Instant;

use crate::mesh::SpiffeId;
use crate::mesh::route::Share;
use crate::mesh::tracing::{SpanFormat, SpanSink, Tracing};

use super::context::{Conn, Worker};
use super::http::control::is_trusted;
use super::http::fields::Name;
use super::http::marks::request_id;
use super::http::plan::Ask;
use super::replicas::Replicas;
use context::{Came, Forms, Goes, Ids};
pub(crate) use span::Span;

/// Spans of a worker that wait for the control thread.
const WAITING: usize = 512;
/// Spans that a worker makes in a second, at most: what is more is passed on without one.
const MOST_A_SECOND: u32 = 500;

/// How a proxy traces.
#[derive(Clone, Default)]
pub struct TraceOptions {
    /// Who gets all spans, whatever the configuration says of others.
    pub control_plane: Option<Collector>,
    /// Of traces that begin here, whatever the configuration says.
    pub sampling: Option<Share>,
    /// The environment, for tags that come from it.
    pub variables: Arc<BTreeMap<String, String>>,
}

/// A control plane that keeps spans.
#[derive(Debug, Clone)]
pub struct Collector {
    /// Where it is.
    pub at: Replicas,
    /// Who it must prove to be.
    pub server: SpiffeId,
}

impl fmt::Debug for TraceOptions {
    // Variables may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceOptions")
            .field("control_plane", &self.control_plane)
            .field("sampling", &self.sampling)
            .finish_non_exhaustive()
    }
}

/// The spans of all workers.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    /// The control plane gets them.
    own: bool,
    sampling: Option<Share>,
    lanes: Mutex<Vec<Receiver<Box<Span>>>>,
    pub(crate) counts: Counts,
}

/// What became of spans.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Taken by those who get them, each for itself.
    pub(crate) sent: AtomicU64,
    /// Found a queue full.
    pub(crate) dropped: AtomicU64,
    /// Refused, or given up after several tries.
    pub(crate) failed: AtomicU64,
    /// Calls of sampled traces without a span, as there were too many in a second.
    pub(crate) limited: AtomicU64,
}

impl Counts {
    pub(crate) fn add(to: &AtomicU64, count: usize) {
        to.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }
}

impl Spans {
    pub(crate) fn new(options: &TraceOptions) -> Self {
        Self {
            own: options.control_plane.is_some(),
            sampling: options.sampling,
            ..Self::default()
        }
    }

    /// The place where a new worker puts its spans.
    pub(crate) fn lane(&self) -> Lane {
        let (queue, spans) = sync_channel(WAITING);
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.push(spans);
        Lane {
            queue,
            second: Cell::new(u64::MAX),
            made: Cell::new(0),
        }
    }

    /// What workers have put there.
    #[expect(
        clippy::vec_box,
        reason = "each is in a box since its request began, and is handed on in it"
    )]
    fn take(&self) -> Vec<Box<Span>> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().flat_map(Receiver::try_iter).collect()
    }
}

/// Where one worker puts spans. It never waits, and takes no lock while nobody waits at the other end.
#[derive(Debug)]
pub(crate) struct Lane {
    queue: SyncSender<Box<Span>>,
    /// The second that is counted.
    second: Cell<u64>,
    /// Spans in it.
    made: Cell<u32>,
}

impl Lane {
    /// Whether another span may be made in this second of the proxy's life.
    fn may(&self, second: u64) -> bool {
        if self.second.replace(second) != second {
            self.made.set(0);
        }
        let made = self.made.get();
        self.made.set(made.saturating_add(1));
        made < MOST_A_SECOND
    }

    fn put(&self, span: Box<Span>, counts: &Counts) {
        if self.queue.try_send(span).is_err() {
            Counts::add(&counts.dropped, 1);
        }
    }
}

/// What a request says of its trace on its way, where that is not what came.
#[derive(Debug)]
pub(crate) struct Passing {
    goes: Goes,
    /// Its id, where it comes without one.
    id: [u8; 36],
    /// That was asked for.
    named: Cell<bool>,
    pub(crate) span: Option<Box<Span>>,
}

impl Passing {
    /// Whether a field of the caller does not pass.
    pub(crate) fn replaces(&self, known: Name) -> bool {
        self.goes.replaces(known)
    }

    /// Trace and span of a call that leaves one.
    pub(crate) fn sampled(&self) -> Option<(u128, u64)> {
        let ids = self.span.as_ref()?.ids;
        Some((ids.trace, ids.span))
    }

    /// Each field that is added.
    pub(crate) fn each(&self, put: impl FnMut(&'static str, &[u8])) {
        self.goes.each(put);
    }

    /// The id of a request that comes without one, or with one that is not believed.
    pub(crate) fn request_id(&self) -> [u8; 36] {
        self.named.set(true);
        self.id
    }

    /// The span of a request whose head was sent on.
    pub(crate) fn into_span(self) -> Option<Box<Span>> {
        let mut span = self.span?;
        if self.named.get() {
            span.request_id = String::from_utf8_lossy(&self.id).into_owned();
        }
        Some(span)
    }
}

/// How calls are traced where nobody says.
fn usual() -> &'static Arc<Tracing> {
    static USUAL: LazyLock<Arc<Tracing>> = LazyLock::new(Arc::default);
    &USUAL
}

/// Decides whether `ask` leaves a span. None: its context passes as it came.
#[inline]
pub(crate) fn begin(
    worker: &Worker,
    conn: &Conn,
    ask: &Ask<'_>,
    authority: &[u8],
) -> Option<Passing> {
    let spans = &worker.shared.spans;
    let how = match &conn.http().options.tracing {
        Some(how) => how,
        None if spans.own => usual(),
        None => return None,
    };
    if how.off || !(spans.own || how.to.is_some()) {
        return None;
    }
    let scan = ask.scan;
    let came = if scan.traced {
        context::read(ask.fields)
    } else {
        Came::default()
    };
    let forced = scan.forces_trace && is_trusted(conn, ask.fields);
    let sampled = forced
        || came.sampled.unwrap_or_else(|| {
            let share = spans.sampling.unwrap_or(how.sampling);
            share.takes(fastrand::u32(..))
        });
    if sampled {
        let now = crate::rt::now();
        if worker.spans.may(worker.shared.millis(now) / 1_000) {
            return Some(sampling(worker, conn, ask, (authority, how, came)));
        }
        Counts::add(&spans.counts.limited, 1);
    }
    // What was decided before stands; what is decided here holds for everybody after.
    if came.sampled.is_some() {
        return None;
    }
    let goes = Goes {
        ids: came.ids.unwrap_or_else(|| fresh(how.to.as_ref())),
        parent: None,
        sampled: false,
        forms: forms(came, how.to.as_ref()),
        fresh: came.ids.is_none(),
    };
    Some(Passing {
        goes,
        id: [0; 36],
        named: Cell::new(false),
        span: None,
    })
}

#[cold]
fn sampling(
    worker: &Worker,
    conn: &Conn,
    ask: &Ask<'_>,
    (authority, how, came): (&[u8], &Arc<Tracing>, Came),
) -> Passing {
    let first = fresh(how.to.as_ref());
    let ids = came.ids.map_or(first, |ids| Ids {
        span: first.span,
        ..ids
    });
    let parent = came.ids.map(|ids| ids.span);
    let goes = Goes {
        ids,
        parent,
        sampled: true,
        forms: forms(came, how.to.as_ref()),
        fresh: came.ids.is_none(),
    };
    Passing {
        goes,
        id: request_id(),
        named: Cell::new(false),
        span: Some(Span::begin(
            worker,
            conn,
            ask,
            (authority, how),
            (ids, parent),
        )),
    }
}

/// New numbers, of the width that `sink` wants.
pub(crate) fn fresh(sink: Option<&SpanSink>) -> Ids {
    let narrow =
        sink.is_some_and(|sink| matches!(sink.speaks, SpanFormat::Zipkin { wide: false, .. }));
    let mask = if narrow {
        u128::from(u64::MAX)
    } else {
        u128::MAX
    };
    Ids {
        // Never 0, which is no number of a trace.
        trace: (fastrand::u128(..) & mask).max(1),
        span: fastrand::u64(1..),
        narrow,
    }
}

/// The forms that a context leaves in: those that it came in, and those of whoever gets the spans.
fn forms(came: Came, sink: Option<&SpanSink>) -> Forms {
    let own = match sink.map(|sink| sink.speaks) {
        Some(SpanFormat::Zipkin { w3c, .. }) => Forms {
            w3c,
            several: !came.forms.single,
            single: false,
        },
        Some(SpanFormat::OtlpGrpc | SpanFormat::OtlpHttp) => Forms {
            w3c: true,
            ..Forms::default()
        },
        None => Forms::default(),
    };
    Forms {
        w3c: came.forms.w3c || own.w3c,
        single: came.forms.single,
        several: came.forms.several || own.several,
    }
}

/// Hands the span of a request that began at `begun` over.
pub(crate) fn end(
    worker: &Worker,
    span: Option<Box<Span>>,
    begun: Instant,
    ended: &super::http::call::Ended,
) {
    let Some(mut span) = span else { return };
    span.end(begun.elapsed(), ended);
    worker.spans.put(span, &worker.shared.spans.counts);
}
