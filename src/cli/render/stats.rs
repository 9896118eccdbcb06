//! Golden signals.

use crate::api::stats::{StatsReport, StatsRow};

use super::{Cell, Column, Grid, Page, Render, Tone, number};

impl Render for StatsReport {
    fn text(&self, page: &Page) -> String {
        let any = |has: fn(&StatsRow) -> bool| self.rows.iter().any(has);
        let tcp = any(|row| row.tcp_opened > 0);
        let mut grid = Grid::new([
            Column::long("SOURCE").when(any(|row| !row.source.is_empty())),
            Column::long("SERVICE"),
            Column::long("VERSION").when(any(|row| !row.version.is_empty())),
            Column::long("ROUTE").when(any(|row| !row.route.is_empty())),
            Column::text("CODE").when(any(|row| !row.code_class.is_empty())),
            Column::number("RPS"),
            Column::number("SUCCESS"),
            Column::number("TRIES").when(page.wide),
            Column::number("P50"),
            Column::number("P95"),
            Column::number("P99"),
            Column::number("MTLS"),
            Column::number("REQUESTS").when(page.wide),
            Column::number("RETRIES").when(page.wide),
            Column::number("TIMEOUTS").when(page.wide),
            Column::number("OVERFLOWS").when(page.wide),
            Column::number("EJECTED").when(page.wide || any(|row| row.ejected > 0)),
            Column::number("2XX").when(page.wide),
            Column::number("3XX").when(page.wide),
            Column::number("4XX").when(page.wide),
            Column::number("5XX").when(page.wide),
            Column::number("NONE").when(page.wide),
            Column::number("TCP").when(page.wide || tcp),
            Column::number("SENT").when(page.wide),
            Column::number("RECEIVED").when(page.wide),
        ]);
        for row in &self.rows {
            let class = |name: &str| -> Cell {
                let count = row.codes.iter().find(|count| count.class == name);
                count.map_or(0, |count| count.requests).to_string().into()
            };
            grid.row([
                Cell::or_dash(&row.source),
                row.service.as_str().into(),
                Cell::or_dash(&row.version),
                Cell::or_dash(&row.route),
                Cell::or_dash(&row.code_class),
                number::rate(row.requests_per_second).into(),
                success(row.success_percent),
                success(row.try_success_percent),
                Cell::maybe(row.latency_p50_ms, number::latency),
                Cell::maybe(row.latency_p95_ms, number::latency),
                Cell::maybe(row.latency_p99_ms, number::latency),
                mtls(row.mtls_percent),
                row.requests.to_string().into(),
                row.retries.to_string().into(),
                row.timeouts.to_string().into(),
                row.overflows.to_string().into(),
                match row.ejected {
                    0 => "0".into(),
                    some => Cell::new(some.to_string(), Tone::Bad),
                },
                class("2xx"),
                class("3xx"),
                class("4xx"),
                class("5xx"),
                class("none"),
                row.tcp_opened.to_string().into(),
                number::bytes(row.tcp_sent_bytes).into(),
                number::bytes(row.tcp_received_bytes).into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.rows.iter().map(|row| row.service.clone()).collect();
        names.dedup();
        names
    }

    fn empty(&self) -> Option<&'static str> {
        self.rows.is_empty().then_some("No traffic in this window")
    }
}

/// The success rate, in the colour of how good that is.
pub(crate) fn success(percent: Option<f64>) -> Cell {
    match percent {
        None => Cell::or_dash(""),
        Some(percent) => Cell::new(number::success(percent), success_tone(percent)),
    }
}

/// At least 99 % is good, at least 95 % worth a look.
pub(crate) fn success_tone(percent: f64) -> Tone {
    if percent >= 99.0 {
        Tone::Good
    } else if percent >= 95.0 {
        Tone::Warn
    } else {
        Tone::Bad
    }
}

fn mtls(percent: Option<f64>) -> Cell {
    match percent {
        None => Cell::or_dash(""),
        Some(percent) if percent >= 100.0 => "100%".into(),
        Some(percent) => Cell::new(format!("{:.0}%", percent.min(99.0)), Tone::Warn),
    }
}
