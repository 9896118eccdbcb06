//! Traces: a table of them, and one as a tree with bars.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::traces::{SpanReport, TraceReport, TracesReport};

use super::{Cell, Column, Grid, Page, Render, Tone, number};

/// Width of the bars.
const BAR: u64 = 24;
/// Deeper trees are drawn no further to the right.
const DEEPEST: usize = 16;

impl Render for TracesReport {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::text("TRACE"),
            Column::text("AGE"),
            Column::number("DURATION"),
            Column::number("SPANS"),
            Column::number("ERRORS"),
            Column::long("ROOT"),
            Column::long("CALL"),
            Column::long("SERVICES").when(page.wide),
        ]);
        for row in &self.traces {
            let tone = if row.errors > 0 {
                Tone::Bad
            } else {
                Tone::Plain
            };
            grid.row([
                row.trace_id.as_str().into(),
                number::age(row.started_unix_ms, page.now_unix_ms).into(),
                number::latency(row.duration_ms).into(),
                row.spans.to_string().into(),
                Cell::new(row.errors.to_string(), tone),
                row.root_service.as_str().into(),
                row.name.as_str().into(),
                row.services.join(", ").into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        let rows = self.traces.iter();
        rows.map(|row| row.trace_id.clone()).collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.traces.is_empty().then_some(
            "No such traces: one call in a hundred is sampled, and every call with a sampled traceparent",
        )
    }
}

impl Render for TraceReport {
    fn text(&self, page: &Page) -> String {
        let begun = self.spans.iter().map(|span| span.start_unix_us).min();
        let begun = begun.unwrap_or_default();
        let ends = |span: &SpanReport| span.start_unix_us.saturating_add(span.duration_us);
        let whole = self.spans.iter().map(ends).max().unwrap_or(begun) - begun;
        let mut grid = Grid::new([
            Column::long("SPAN"),
            Column::text("SIDE"),
            Column::text("STATUS"),
            Column::number("AT"),
            Column::number("DURATION"),
            Column::text("TIME"),
            Column::long("CALL"),
            Column::text("ID").when(page.wide),
            Column::text("WORKLOAD").when(page.wide),
        ]);
        for (lead, span) in tree(&self.spans) {
            let (status, tone) = status(span);
            let at = span.start_unix_us - begun;
            let call = match (span.tags.get("http.method"), span.tags.get("http.url")) {
                (Some(method), Some(url)) => format!("{method} {url}"),
                _ => span.name.clone(),
            };
            grid.row([
                format!("{lead}{}", span.service).into(),
                span.kind.as_str().into(),
                Cell::new(status, tone),
                number::latency(millis(at)).into(),
                number::latency(millis(span.duration_us)).into(),
                Cell::new(bar(at, span.duration_us, whole), tone),
                call.into(),
                span.span_id.as_str().into(),
                span.workload.as_str().into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        vec![self.trace_id.clone()]
    }
}

fn millis(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64() * 1_000.0
}

/// How it ended, in a word.
fn status(span: &SpanReport) -> (String, Tone) {
    let tag = |name: &str| span.tags.get(name).map(String::as_str);
    let tone = if span.error { Tone::Bad } else { Tone::Plain };
    let flags = tag("response_flags").filter(|flags| *flags != "-");
    let code = match (tag("grpc.status_code"), tag("http.status_code")) {
        (Some(code), _) => format!("grpc {code}"),
        (None, Some("0") | None) => "-".to_owned(),
        (None, Some(code)) => code.to_owned(),
    };
    (
        match flags {
            Some(flags) => format!("{code} {flags}"),
            None => code,
        },
        tone,
    )
}

/// Where in the whole a span stands.
fn bar(at: u64, long: u64, whole: u64) -> String {
    let place = |us: u64| {
        us.saturating_mul(BAR)
            .checked_div(whole)
            .unwrap_or(0)
            .min(BAR)
    };
    let from = place(at).min(BAR - 1);
    // What is too short to be seen is drawn as one.
    let to = place(at.saturating_add(long)).max(from + 1);
    let mut text = String::new();
    for column in 0..BAR {
        text.push(if (from..to).contains(&column) {
            '█'
        } else {
            '·'
        });
    }
    text
}

/// Each span behind its parent, and what is drawn before it. A parent that is not known makes a root.
fn tree(spans: &[SpanReport]) -> Vec<(String, &SpanReport)> {
    let known: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut children: BTreeMap<&str, Vec<&SpanReport>> = BTreeMap::new();
    let mut roots = Vec::new();
    for span in spans {
        match span.parent_id.as_deref().filter(|id| known.contains(id)) {
            Some(parent) => children.entry(parent).or_default().push(span),
            None => roots.push(span),
        }
    }
    let mut drawn = Vec::new();
    let mut seen = BTreeSet::new();
    // Last first, as a stack; each with what stands before it and before its children.
    let mut waiting = Vec::new();
    branch(&mut waiting, &roots, "", 0);
    while let Some(Branch {
        span,
        own,
        below,
        depth,
    }) = waiting.pop()
    {
        // Numbers are a stranger's word: a circle is drawn once.
        if !seen.insert(span.span_id.as_str()) {
            continue;
        }
        drawn.push((own, span));
        if let Some(all) = children.get(span.span_id.as_str()) {
            let before = if depth < DEEPEST { below.as_str() } else { "" };
            branch(&mut waiting, all, before, depth + 1);
        }
    }
    drawn
}

/// A span that waits to be drawn.
struct Branch<'s> {
    span: &'s SpanReport,
    /// What stands before it.
    own: String,
    /// What stands before what is below it.
    below: String,
    depth: usize,
}

fn branch<'s>(waiting: &mut Vec<Branch<'s>>, all: &[&'s SpanReport], before: &str, depth: usize) {
    for (from_end, span) in all.iter().rev().enumerate() {
        let (own, below) = match (depth, from_end) {
            (0, _) => (String::new(), String::new()),
            (_, 0) => (format!("{before}└─ "), format!("{before}   ")),
            _ => (format!("{before}├─ "), format!("{before}│  ")),
        };
        waiting.push(Branch {
            span,
            own,
            below,
            depth,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::Paint;
    use super::*;

    fn span(id: &str, parent: Option<&str>, (start, long): (u64, u64), error: bool) -> SpanReport {
        let code = if error { "503" } else { "200" };
        let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        SpanReport {
            span_id: id.to_owned(),
            parent_id: parent.map(str::to_owned),
            service: format!("{id}.default"),
            workload: format!("{id}-v1"),
            name: "reviews.default.svc.cluster.local:9080/*".to_owned(),
            kind: "server".to_owned(),
            start_unix_us: start,
            duration_us: long,
            error,
            tags: [
                tag("http.method", "GET"),
                tag("http.url", &format!("http://{id}/")),
                tag("http.status_code", code),
                tag("response_flags", if error { "UF" } else { "-" }),
            ]
            .into(),
        }
    }

    #[test]
    fn a_trace_is_a_tree_with_bars() {
        let report = TraceReport {
            trace_id: "7".to_owned(),
            spans: vec![
                span("gate", Some("unknown"), (1_000, 24_000), true),
                span("page", Some("gate"), (2_000, 22_000), true),
                span("details", Some("page"), (3_000, 1_000), false),
                span("reviews", Some("page"), (5_000, 18_000), true),
                span("ratings", Some("reviews"), (6_000, 10), true),
            ],
        };
        let page = Page {
            width: None,
            wide: false,
            paint: Paint::new(false),
            now_unix_ms: 0,
        };
        insta::assert_snapshot!(report.text(&page));
    }

    #[test]
    fn spans_in_a_circle_are_drawn_all_the_same() {
        let spans = [
            span("a", Some("b"), (0, 1), false),
            span("b", Some("a"), (0, 1), false),
            span("c", None, (0, 1), false),
        ];
        assert_eq!(tree(&spans).len(), 1);
    }
}
