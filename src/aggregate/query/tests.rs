use super::super::report::{report, shares};
use super::*;
use crate::api::series::SeriesReport;

#[test]
fn calls_inside_the_mesh_are_counted_once_and_outside_ones_at_the_service() {
    let mut series = Series::default();
    let mut add = |by_source: bool, source: &str, requests: u64, mtls: u64| {
        let cell = series.cell(
            60_000,
            Edge {
                by_source,
                source: source.to_owned(),
                service: "reviews.default".to_owned(),
                version: "v1".to_owned(),
                ..Edge::default()
            },
        );
        cell.requests += requests;
        cell.mtls += mtls;
    };
    add(true, "productpage-v1.default", 10, 0);
    add(false, "productpage-v1.default", 9, 9);
    add(false, "", 3, 0);
    let query = Query {
        window_ms: 60_000,
        ..Query::default()
    };
    let report = report(&series, &query, 90_000);
    assert_eq!(report.rows.len(), 1);
    assert_eq!(report.rows[0].requests, 13);
    assert_eq!(report.rows[0].mtls_percent, Some(75.0));
    assert_eq!(shares(&series, 60_000, 90_000)["reviews.default"]["v1"], 13);
}

#[test]
fn routes_are_told_apart_by_the_callers_alone() {
    let mut series = Series::default();
    let mut add = |by_source: bool, source: &str, route: &str, requests: u64| {
        let edge = Edge {
            by_source,
            source: source.to_owned(),
            service: "reviews.default".to_owned(),
            route: route.to_owned(),
            ..Edge::default()
        };
        series.cell(60_000, edge).requests += requests;
    };
    add(true, "productpage-v1.default", "jason", 3);
    add(true, "productpage-v1.default", "everything", 7);
    add(false, "productpage-v1.default", "", 10);
    add(false, "", "", 2);
    let query = Query {
        window_ms: 60_000,
        by: vec![GroupBy::Route],
        ..Query::default()
    };
    let rows: Vec<(String, u64)> = report(&series, &query, 90_000)
        .rows
        .into_iter()
        .map(|row| (row.route, row.requests))
        .collect();
    let row = |route: &str, requests| (route.to_owned(), requests);
    assert_eq!(rows, [row("", 2), row("everything", 7), row("jason", 3)]);
}

fn counted(seconds: impl Iterator<Item = u64>, now: u64) -> Series {
    let mut series = Series::default();
    for second in seconds {
        let edge = Edge {
            by_source: true,
            source: "page-v1.default".to_owned(),
            service: "reviews.default".to_owned(),
            class: Class::of(if second % 10 == 0 { 503 } else { 200 }),
            ..Edge::default()
        };
        let cell = series.cell(second * 1_000, edge);
        cell.requests += 1;
        cell.failures += u64::from(second % 10 == 0);
        cell.latency.add(5_000, 1);
    }
    series.turn(now * 1_000);
    series
}

fn asked(series: &Series, seconds: u64, step: u64, now: u64) -> SeriesReport {
    let query = Query {
        window_ms: seconds * 1_000,
        step_ms: step * 1_000,
        ..Query::default()
    };
    parts(series, &query, now * 1_000).points()
}

fn sum(report: &SeriesReport) -> u64 {
    let rows = report.rows.iter().flat_map(|row| &row.points);
    rows.map(|point| point.requests).sum()
}

#[test]
fn a_window_over_several_levels_has_points_of_one_length_and_counts_once() {
    let now = 40 * 3_600;
    let series = counted(now - 30 * 3_600..now, now);
    for (seconds, step, expected) in [
        (60, 1, 1),
        (3_000, 1, 1),
        (3_000, 7, 10),
        (4 * 3_600, 1, 10),
        (23 * 3_600, 10, 60),
        (30 * 3_600, 10, 3_600),
        (23 * 3_600, 7_200, 21_600),
    ] {
        let report = asked(&series, seconds, step, now);
        assert_eq!(report.step_seconds, expected, "{seconds} {step}");
        let covered = now - report.from_unix_ms / 1_000;
        assert_eq!(sum(&report), covered.min(30 * 3_600), "{seconds} {step}");
        assert!(covered >= seconds && covered < seconds + expected);
        let [row] = report.rows.as_slice() else {
            panic!("{report:?}")
        };
        let points = row.points.iter();
        assert!(
            points
                .clone()
                .all(|point| point.at_unix_ms % (expected * 1_000) == 0)
        );
        assert!(points.clone().all(|point| point.requests <= expected));
        // No more than was asked for, and none is missing.
        assert_eq!(
            u64::try_from(points.len()).unwrap(),
            covered.min(30 * 3_600).div_ceil(expected)
        );
    }
}

#[test]
fn the_end_may_be_in_the_past_and_rows_are_filtered_and_told_apart() {
    let series = counted(1_000..2_000, 2_000);
    let query = Query {
        window_ms: 100_000,
        to_unix_ms: Some(1_500_000),
        from: Some("page-v1.default".to_owned()),
        by: vec![GroupBy::Class, GroupBy::Source],
        ..Query::default()
    };
    let report = parts(&series, &query, 2_000_000).report();
    let rows: Vec<_> = report
        .rows
        .iter()
        .map(|row| (row.source.as_str(), row.code_class.as_str(), row.requests))
        .collect();
    let page = "page-v1.default";
    assert_eq!(rows, [(page, "2xx", 90), (page, "5xx", 10)]);
    let only = Query {
        class: Class::parse("5xx"),
        by: Vec::new(),
        ..query.clone()
    };
    assert_eq!(parts(&series, &only, 0).report().rows[0].requests, 10);
    let other = Query {
        from: Some("nobody.default".to_owned()),
        ..query
    };
    assert_eq!(parts(&series, &other, 0).report().rows, []);
    let all = Query {
        window_ms: 100_000,
        to_unix_ms: Some(1_500_000),
        ..Query::default()
    };
    let row = &parts(&series, &all, 0).report().rows[0];
    assert_eq!(row.success_percent, Some(90.0));
    assert_eq!(
        row.codes
            .iter()
            .map(|count| (count.class.as_str(), count.requests))
            .collect::<Vec<_>>(),
        [("2xx", 90), ("5xx", 10)]
    );
}

#[test]
fn tries_that_failed_are_told_apart_from_requests_that_did() {
    let mut series = Series::default();
    let edge = Edge {
        by_source: true,
        service: "reviews.default".to_owned(),
        ..Edge::default()
    };
    let cell = series.cell(1_000, edge);
    (cell.requests, cell.failures, cell.retries) = (100, 4, 20);
    let query = Query {
        window_ms: 1_000,
        ..Query::default()
    };
    let report = report(&series, &query, 1_900);
    let row = &report.rows[0];
    assert_eq!(row.success_percent, Some(96.0));
    assert_eq!(row.try_success_percent, Some(80.0));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// Two control planes that heard half each answer together what one would that heard all, also when one of
    /// them has only coarse slots left.
    #[test]
    fn parts_of_replicas_add_up(split in proptest::collection::vec(proptest::bool::ANY, 400..401), step in 0..40_u64) {
        let now = 8_000;
        let seconds = |of: bool| {
            let split = split.clone();
            (0..now).step_by(7).filter(move |second| {
                split[usize::try_from(*second % 400).unwrap()] == of
            })
        };
        let query = Query {
            window_ms: 7_000_000,
            step_ms: step * 1_000,
            by: vec![GroupBy::Class],
            ..Query::default()
        };
        let whole = parts(&counted((0..now).step_by(7), now), &query, now * 1_000);
        let (one, other) = (counted(seconds(true), now), counted(seconds(false), now));
        let halves = [&one, &other].map(|half| parts(half, &query, now * 1_000));
        proptest::prop_assert_eq!(Parts::sum(halves), whole);
    }
}
