//! Spans of all proxies, put together by trace, within a fixed number of bytes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::api::traces::{SpanReport, TraceReport, TraceRow, TracesReport};

/// What all traces may take; the oldest go first.
pub const MAX_BYTES: usize = 16 << 20;
/// Spans of one trace; what is more is dropped.
const MOST_SPANS: usize = 1_000;
/// Tags of one span.
const MOST_TAGS: usize = 64;
/// Bytes of one text.
const MOST_TEXT: usize = 512;
/// What a span takes beside its texts, about.
const SPAN_BYTES: usize = 256;
/// What a tag takes beside its texts, about.
const TAG_BYTES: usize = 64;

/// A span, as whoever made it tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spanned {
    /// Its trace.
    pub trace: u128,
    /// Itself.
    pub id: u64,
    /// The span that it is part of.
    pub parent: Option<u64>,
    /// Whose it is, `name.namespace`.
    pub service: Arc<str>,
    /// The workload.
    pub workload: Arc<str>,
    /// What was called.
    pub name: String,
    /// Of the called side.
    pub server: bool,
    /// When it began.
    pub start_unix_us: u64,
    /// How long it took.
    pub duration_us: u64,
    /// Whether it failed.
    pub error: bool,
    /// What else is told of it.
    pub tags: Vec<(String, String)>,
}

impl Spanned {
    /// As much of it as is kept.
    fn bounded(mut self) -> Self {
        cut(&mut self.name);
        self.tags.truncate(MOST_TAGS);
        for (name, value) in &mut self.tags {
            cut(name);
            cut(value);
        }
        self
    }

    fn bytes(&self) -> usize {
        let tags = self.tags.iter();
        let texts = tags.map(|(name, value)| name.len() + value.len() + TAG_BYTES);
        SPAN_BYTES + self.name.len() + texts.sum::<usize>()
    }

    fn end_us(&self) -> u64 {
        self.start_unix_us.saturating_add(self.duration_us)
    }
}

/// Leaves at most [`MOST_TEXT`] bytes of `text`.
fn cut(text: &mut String) {
    if text.len() > MOST_TEXT {
        let end = (0..=MOST_TEXT).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text.shrink_to_fit();
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// `name.namespace` of a service that has a part in it.
    pub service: Option<String>,
    /// It took this long at least.
    pub min_duration_us: u64,
    /// Something in it failed.
    pub errors: bool,
    /// So many, at most.
    pub limit: usize,
}

/// The traces that are kept.
#[derive(Debug)]
pub struct Traces {
    by_id: BTreeMap<u128, Trace>,
    /// In the order in which they were first heard of.
    order: VecDeque<u128>,
    bytes: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Trace {
    spans: Vec<Spanned>,
    bytes: usize,
}

impl Default for Traces {
    fn default() -> Self {
        Self::new(MAX_BYTES)
    }
}

impl Traces {
    /// None yet, and room for `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            by_id: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            max_bytes,
        }
    }

    /// Adds a span. False where its trace is full, or it is there already.
    pub fn add(&mut self, span: Spanned) -> bool {
        let id = span.trace;
        let trace = self.by_id.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            Trace::default()
        });
        let twice = || trace.spans.iter().any(|known| known.id == span.id);
        if trace.spans.len() >= MOST_SPANS || twice() {
            return false;
        }
        let span = span.bounded();
        let bytes = span.bytes();
        trace.spans.push(span);
        trace.bytes += bytes;
        self.bytes += bytes;
        while self.bytes > self.max_bytes
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.by_id.remove(&oldest);
            self.bytes -= gone.map_or(0, |gone| gone.bytes);
        }
        true
    }

    /// Memory that they take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Those that `wanted` holds for, the newest first.
    pub fn list(&self, wanted: &Wanted) -> TracesReport {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let known = self.order.iter().rev();
        let rows = known.filter_map(|id| self.by_id.get(id)?.row(*id, wanted));
        TracesReport {
            traces: rows.take(wanted.limit).collect(),
            kept_traces: number(self.by_id.len()),
            kept_bytes: number(self.bytes),
            max_bytes: number(self.max_bytes),
        }
    }

    /// The trace of this number.
    pub fn get(&self, id: u128) -> Option<TraceReport> {
        let trace = self.by_id.get(&id)?;
        let mut spans: Vec<&Spanned> = trace.spans.iter().collect();
        // What begins at one time is told from the outside in.
        spans.sort_by_key(|span| (span.start_unix_us, u64::MAX - span.duration_us, span.id));
        Some(TraceReport {
            trace_id: format!("{id:032x}"),
            spans: spans.into_iter().map(report).collect(),
        })
    }
}

impl Trace {
    /// Where it begins: the first span that is part of none that is known.
    fn root(&self) -> Option<&Spanned> {
        let known: BTreeSet<u64> = self.spans.iter().map(|span| span.id).collect();
        let is_root = |span: &&Spanned| span.parent.is_none_or(|parent| !known.contains(&parent));
        let roots = self.spans.iter().filter(is_root);
        roots.min_by_key(|span| (span.start_unix_us, span.id))
    }

    fn row(&self, id: u128, wanted: &Wanted) -> Option<TraceRow> {
        let spans = &self.spans;
        let begun = spans.iter().map(|span| span.start_unix_us).min()?;
        let ended = spans.iter().map(Spanned::end_us).max()?;
        let duration = ended.saturating_sub(begun);
        let errors = spans.iter().filter(|span| span.error).count();
        let has = |service: &String| spans.iter().any(|span| *span.service == **service);
        let wants = duration >= wanted.min_duration_us
            && (!wanted.errors || errors > 0)
            && wanted.service.as_ref().is_none_or(has);
        let root = self.root()?;
        let services: BTreeSet<&str> = spans.iter().map(|span| &*span.service).collect();
        wants.then(|| TraceRow {
            trace_id: format!("{id:032x}"),
            root_service: root.service.to_string(),
            name: root.name.clone(),
            started_unix_ms: begun / 1_000,
            duration_ms: millis(duration),
            spans: u64::try_from(spans.len()).unwrap_or(0),
            errors: u64::try_from(errors).unwrap_or(0),
            services: services.into_iter().map(str::to_owned).collect(),
        })
    }
}

/// What several say that have each a part of the traces: their rows, the newest first.
pub fn sum(reports: Vec<TracesReport>) -> TracesReport {
    let mut all = TracesReport::default();
    let mut rows: BTreeMap<String, TraceRow> = BTreeMap::new();
    for report in reports {
        all.kept_traces = all.kept_traces.max(report.kept_traces);
        all.kept_bytes += report.kept_bytes;
        all.max_bytes += report.max_bytes;
        for row in report.traces {
            match rows.entry(row.trace_id.clone()) {
                Entry::Vacant(place) => {
                    place.insert(row);
                }
                Entry::Occupied(mut place) => join(place.get_mut(), row),
            }
        }
    }
    all.traces = rows.into_values().collect();
    all.traces
        .sort_by_key(|row| std::cmp::Reverse(row.started_unix_ms));
    all
}

fn join(one: &mut TraceRow, mut other: TraceRow) {
    if other.started_unix_ms < one.started_unix_ms {
        std::mem::swap(one, &mut other);
    }
    let later = other.started_unix_ms - one.started_unix_ms;
    let later = std::time::Duration::from_millis(later).as_secs_f64() * 1_000.0;
    one.duration_ms = one.duration_ms.max(later + other.duration_ms);
    one.spans += other.spans;
    one.errors += other.errors;
    one.services.append(&mut other.services);
    one.services.sort_unstable();
    one.services.dedup();
}

/// One trace of the parts that several have.
pub fn whole(parts: Vec<TraceReport>) -> TraceReport {
    let mut parts = parts.into_iter();
    let mut whole = parts.next().unwrap_or_default();
    whole.spans.extend(parts.flat_map(|part| part.spans));
    whole
        .spans
        .sort_by_key(|span| (span.start_unix_us, u64::MAX - span.duration_us));
    whole
        .spans
        .dedup_by(|one, other| one.span_id == other.span_id);
    whole
}

/// Microseconds as milliseconds.
fn millis(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64() * 1_000.0
}

fn report(span: &Spanned) -> SpanReport {
    SpanReport {
        span_id: format!("{:016x}", span.id),
        parent_id: span.parent.map(|parent| format!("{parent:016x}")),
        service: span.service.to_string(),
        workload: span.workload.to_string(),
        name: span.name.clone(),
        kind: if span.server { "server" } else { "client" }.to_owned(),
        start_unix_us: span.start_unix_us,
        duration_us: span.duration_us,
        error: span.error,
        tags: span.tags.iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(trace: u128, id: u64, parent: Option<u64>, (start, long): (u64, u64)) -> Spanned {
        Spanned {
            trace,
            id,
            parent,
            service: format!("s{id}.default").into(),
            name: format!("call {id}"),
            start_unix_us: start,
            duration_us: long,
            ..Spanned::default()
        }
    }

    fn all() -> Wanted {
        Wanted {
            limit: 100,
            ..Wanted::default()
        }
    }

    #[test]
    fn spans_come_in_any_order_and_make_one_trace() {
        let mut traces = Traces::default();
        for one in [
            span(7, 3, Some(2), (1_200, 300)),
            span(7, 1, Some(99), (1_000, 1_000)),
            Spanned {
                error: true,
                ..span(7, 2, Some(1), (1_100, 500))
            },
        ] {
            assert!(traces.add(one));
        }
        assert!(!traces.add(span(7, 3, Some(2), (1_200, 300))), "told twice");
        let rows = traces.list(&all()).traces;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].root_service, "s1.default");
        assert_eq!((rows[0].spans, rows[0].errors), (3, 1));
        assert!((rows[0].duration_ms - 1.0).abs() < 1e-9);
        let whole = traces.get(7).unwrap();
        let order: Vec<&str> = whole.spans.iter().map(|span| &*span.service).collect();
        assert_eq!(order, ["s1.default", "s2.default", "s3.default"]);
        assert_eq!(
            whole.spans[2].parent_id.as_deref(),
            Some("0000000000000002")
        );
    }

    #[test]
    fn only_what_is_wanted_is_listed_the_newest_first() {
        let mut traces = Traces::default();
        traces.add(span(1, 1, None, (0, 10)));
        traces.add(span(2, 2, None, (0, 5_000)));
        traces.add(Spanned {
            error: true,
            ..span(3, 1, None, (0, 5_000))
        });
        let ids = |wanted: Wanted| -> Vec<u128> {
            let rows = traces.list(&wanted).traces;
            rows.iter()
                .map(|row| u128::from_str_radix(&row.trace_id, 16).unwrap())
                .collect()
        };
        assert_eq!(ids(all()), [3, 2, 1]);
        assert_eq!(ids(Wanted { limit: 1, ..all() }), [3]);
        assert_eq!(
            ids(Wanted {
                errors: true,
                ..all()
            }),
            [3]
        );
        let long = Wanted {
            min_duration_us: 1_000,
            ..all()
        };
        assert_eq!(ids(long), [3, 2]);
        let one = Wanted {
            service: Some("s1.default".to_owned()),
            ..all()
        };
        assert_eq!(ids(one), [3, 1]);
    }

    #[test]
    fn what_two_have_of_a_trace_is_one() {
        let (mut one, mut other) = (Traces::default(), Traces::default());
        one.add(span(7, 1, None, (1_000_000, 9_000)));
        other.add(Spanned {
            error: true,
            ..span(7, 2, Some(1), (1_004_000, 7_000))
        });
        other.add(span(8, 3, None, (2_000_000, 1_000)));
        let both = sum(vec![other.list(&all()), one.list(&all())]);
        let [newest, joined] = both.traces.as_slice() else {
            panic!("{both:?}")
        };
        assert_eq!(newest.root_service, "s3.default");
        assert_eq!(
            (joined.root_service.as_str(), joined.spans, joined.errors),
            ("s1.default", 2, 1)
        );
        assert_eq!(joined.services, ["s1.default", "s2.default"]);
        assert!((joined.duration_ms - 11.0).abs() < 1e-9, "{joined:?}");
        let trace = whole(vec![other.get(7).unwrap(), one.get(7).unwrap()]);
        let ids: Vec<&str> = trace.spans.iter().map(|span| &*span.service).collect();
        assert_eq!(ids, ["s1.default", "s2.default"]);
    }

    proptest! {
        #[test]
        fn whatever_comes_takes_no_more_than_it_may(
            spans in proptest::collection::vec((0..50_u128, any::<u64>(), 0..5_000_usize), 1..300),
        ) {
            let mut traces = Traces::new(20_000);
            for (trace, id, length) in spans {
                let text = "ä".repeat(length);
                traces.add(Spanned {
                    name: text.clone(),
                    tags: vec![("tag".to_owned(), text)],
                    ..span(trace, id, None, (0, 1))
                });
                let real: usize = traces.by_id.values().map(|trace| trace.bytes).sum();
                prop_assert_eq!(real, traces.bytes());
                prop_assert!(traces.bytes() <= 20_000);
                prop_assert_eq!(traces.order.len(), traces.by_id.len());
            }
        }
    }
}
