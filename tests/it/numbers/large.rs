//! A million label sets: what they take in memory and on disk, and what is said of those that find no room.

use std::path::Path;

use envoy_types::pb::envoy::service::metrics::v3::StreamMetricsMessage;
use envoy_types::pb::io::prometheus::client as pb;
use meshctl::aggregate::Query;
use meshctl::control::series::Numbers;
use meshctl::mesh::{SpiffeId, World};
use meshctl::rt::{Wall, usage};
use meshctl::source::store::{Options, Store};
use meshctl::xds::node::Teller;

const MIB: u64 = 1 << 20;
const PROXIES: usize = 500;
const EACH: usize = 2_000;

fn label(name: &str, value: impl Into<String>) -> pb::LabelPair {
    pb::LabelPair {
        name: Some(name.to_owned()),
        value: Some(value.into()),
    }
}

/// What proxy `number` tells when it first speaks: each label set a version of its own, with one request.
fn pushed(number: usize) -> StreamMetricsMessage {
    let labels = |set: usize| {
        vec![
            label("reporter", "source"),
            label("source_workload", format!("caller-{number}")),
            label("source_workload_namespace", "default"),
            label("destination_service_name", format!("service-{}", set % 40)),
            label("destination_service_namespace", "default"),
            label("destination_canonical_revision", format!("v{set}")),
            label("request_protocol", "http"),
            label("response_code", "200"),
        ]
    };
    let family = |name: &str, kind: pb::MetricType, metric: Vec<pb::Metric>| pb::MetricFamily {
        name: Some(name.to_owned()),
        r#type: Some(kind.into()),
        metric,
        ..pb::MetricFamily::default()
    };
    let requests = (0..EACH).map(|set| pb::Metric {
        label: labels(set),
        counter: Some(pb::Counter {
            value: Some(1.0),
            ..pb::Counter::default()
        }),
        ..pb::Metric::default()
    });
    let bucket = |upper_bound, cumulative_count| pb::Bucket {
        upper_bound: Some(upper_bound),
        cumulative_count: Some(cumulative_count),
        ..pb::Bucket::default()
    };
    let durations = (0..EACH).map(|set| pb::Metric {
        label: labels(set),
        histogram: Some(pb::Histogram {
            sample_count: Some(1),
            bucket: vec![bucket(2.0, 0), bucket(2.24, 1), bucket(f64::INFINITY, 1)],
            ..pb::Histogram::default()
        }),
        ..pb::Metric::default()
    });
    StreamMetricsMessage {
        identifier: None,
        envoy_metrics: vec![
            family(
                "istio_requests_total",
                pb::MetricType::Counter,
                requests.collect(),
            ),
            family(
                "istio_request_duration_milliseconds",
                pb::MetricType::Histogram,
                durations.collect(),
            ),
        ],
    }
}

fn on_disk(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => on_disk(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

#[expect(clippy::print_stdout, reason = "what was measured")]
#[test]
fn a_million_label_sets_keep_to_the_bound_and_what_is_folded_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), &Options::default()).unwrap();
    let wall = Wall::fixed(1_800_000_000_000);
    let limit = meshctl::control::series::BYTES;
    let (world, id): (World, SpiffeId) = (
        World::default(),
        "spiffe://cluster.local/ns/default/sa/caller"
            .parse()
            .unwrap(),
    );
    // What the process has anyway, the message that is being read among it.
    let warm = Numbers::open(Store::memory(), wall.clone(), limit, true).unwrap();
    let of = |number: usize| Teller {
        node: format!("sidecar~10.0.0.1~caller-{number}.default~default.svc.cluster.local"),
        started_unix_ms: 1,
        told: false,
    };
    warm.push(&of(0), &pushed(0), &id, &world);
    drop(warm);
    let before = usage::resident().unwrap();

    let numbers = Numbers::open(store.clone(), wall.clone(), limit, true).unwrap();
    let mut most = 0;
    for number in 0..PROXIES {
        numbers.push(&of(number), &pushed(number), &id, &world);
        wall.advance(std::time::Duration::from_secs(1));
        if number % 20 == 0 {
            numbers.write().unwrap();
            most = most.max(usage::resident().unwrap());
        }
    }
    numbers.write().unwrap();
    most = most.max(usage::resident().unwrap());
    let report = numbers.kept();
    println!("{report:?}");
    let grown = most.saturating_sub(before);
    println!(
        "a million label sets: {} MiB resident more at the most, {} MiB counted of {} MiB, {} MiB on disk",
        grown / MIB,
        report.bytes / MIB,
        report.most_bytes / MIB,
        on_disk(directory.path()) / MIB
    );
    assert!(report.bytes <= report.most_bytes, "{report:?}");
    // The store has a cache and a buffer of its own beside the numbers.
    assert!(grown < report.most_bytes + 40 * MIB, "{grown}: {report:?}");
    // What the process holds is what it says: an allocator rounds up, and frees late.
    assert!(
        on_disk(directory.path()) < 8 * report.most_bytes,
        "{report:?}"
    );
    assert!(report.folded > 500_000, "{report:?}");

    // Of requests none is lost but those that it says it did not count.
    let query = Query {
        window_ms: 3_600_000,
        ..Query::default()
    };
    let rows = numbers.report(&query).rows;
    let counted: u64 = rows.iter().map(|row| row.requests).sum();
    let all = u64::try_from(PROXIES * EACH).unwrap();
    assert!(
        counted <= all && counted + report.unfollowed >= all,
        "{counted}: {report:?}"
    );
    assert_eq!(report.unfollowed, 0, "{report:?}");
    assert_eq!(counted, all);
    // Services keep their sums, though versions and callers are put together.
    let services = rows
        .iter()
        .filter(|row| row.service.starts_with("service-"));
    let told: u64 = services.clone().map(|row| row.requests).sum();
    assert_eq!((services.count(), told), (40, all));
    let since = meshctl::rt::now();
    drop(numbers.report(&query));
    println!(
        "an hour of it is answered in {:?} without optimisation",
        since.elapsed()
    );

    // Read again, it is the same.
    drop(numbers);
    let again = Numbers::open(store, wall, limit, true).unwrap();
    let rows = again.report(&query).rows;
    assert_eq!(rows.iter().map(|row| row.requests).sum::<u64>(), all);
}
