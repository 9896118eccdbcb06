use envoy_types::pb::io::prometheus::client as pb;

use super::*;
use crate::source::store::Options;

const START: u64 = 1_800_000_000_000;

/// One push in which `requests` of `code` were answered since the process began.
fn pushed(requests: u32, code: &str) -> StreamMetricsMessage {
    let label = |(name, value): (&str, &str)| pb::LabelPair {
        name: Some(name.to_owned()),
        value: Some(value.to_owned()),
    };
    let labels = [
        ("reporter", "source"),
        ("source_workload", "page"),
        ("source_workload_namespace", "default"),
        ("destination_service_name", "reviews"),
        ("destination_service_namespace", "default"),
        ("response_code", code),
    ];
    StreamMetricsMessage {
        identifier: None,
        envoy_metrics: vec![pb::MetricFamily {
            name: Some("istio_requests_total".to_owned()),
            r#type: Some(pb::MetricType::Counter.into()),
            metric: vec![pb::Metric {
                label: labels.into_iter().map(label).collect(),
                counter: Some(pb::Counter {
                    value: Some(f64::from(requests)),
                    ..pb::Counter::default()
                }),
                ..pb::Metric::default()
            }],
            ..pb::MetricFamily::default()
        }],
    }
}

fn of(started_unix_ms: u64, told: bool) -> Teller {
    Teller {
        node: "sidecar~127.0.0.1~page-1.default~default.svc.cluster.local".to_owned(),
        started_unix_ms,
        told,
    }
}

fn page() -> SpiffeId {
    "spiffe://cluster.local/ns/default/sa/page".parse().unwrap()
}

fn total(numbers: &Numbers) -> u64 {
    let query = Query {
        window_ms: 3_600_000,
        ..Query::default()
    };
    numbers
        .report(&query)
        .rows
        .iter()
        .map(|row| row.requests)
        .sum()
}

#[test]
fn whenever_the_control_plane_is_killed_nothing_is_lost_or_counted_twice() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::fixed(START);
    let (world, id) = (World::default(), page());
    let mut counted = 0;
    // Each round: a control plane that reads what is there, writes or does not, and is gone without warning.
    for round in 0..6_u32 {
        let (store, _) = Store::open(dir.path(), &Options::default()).unwrap();
        let numbers = Numbers::open(store.clone(), wall.clone(), BYTES, true).unwrap();
        for _ in 0..20 {
            wall.advance(Duration::from_millis(700));
            counted += 3;
            numbers.push(&of(START, round > 0), &pushed(counted, "200"), &id, &world);
            if round % 2 == 0 {
                numbers.write().unwrap();
            }
        }
        // A push that comes twice, and one that came late and says less than is known.
        numbers.push(&of(START, true), &pushed(counted, "200"), &id, &world);
        assert_eq!(total(&numbers), u64::from(counted), "round {round}");
        drop((numbers, store));
    }
}

#[test]
fn a_proxy_that_starts_anew_counts_from_nothing() {
    let numbers = Numbers::open(Store::memory(), Wall::fixed(START), BYTES, true).unwrap();
    let (world, id) = (World::default(), page());
    numbers.push(&of(1, false), &pushed(5, "200"), &id, &world);
    numbers.push(&of(2, false), &pushed(7, "200"), &id, &world);
    assert_eq!(total(&numbers), 12);
}

#[test]
fn a_proxy_of_another_replica_is_not_counted_again() {
    let numbers = Numbers::open(Store::memory(), Wall::fixed(START), BYTES, false).unwrap();
    let (world, id) = (World::default(), page());
    numbers.push(&of(1, true), &pushed(1_000, "200"), &id, &world);
    numbers.push(&of(1, true), &pushed(1_004, "200"), &id, &world);
    assert_eq!(total(&numbers), 4);
}

#[test]
fn what_was_written_as_json_goes_on() {
    let store = Store::memory();
    let slot = r#"[[{"bySource":true,"source":"page.default","service":"reviews.default"},{"requests":7}]]"#;
    let key = format!("slot/5s/{:016x}", START / 5_000);
    store.put_soon(key.clone(), slot).unwrap();
    let node = of(0, false).node;
    let labels = "destination_service_name=reviews\\u0001destination_service_namespace=default\\u0001reporter=source\\u0001response_code=200\\u0001source_workload=page\\u0001source_workload_namespace=default";
    let cursors = format!(
        r#"{{"nodes":{{"{node}":{{"seen_unix_ms":{START},"counters":{{"istio_requests_total\u0001{labels}":7}},"histograms":{{}}}}}}}}"#
    );
    store.put_soon("cursors", cursors).unwrap();
    let wall = Wall::fixed(START + 60_000);
    let numbers = Numbers::open(store.clone(), wall, BYTES, true).unwrap();
    numbers.push(&of(0, false), &pushed(9, "200"), &page(), &World::default());
    assert_eq!(total(&numbers), 9);
    assert_eq!(store.get(Tree::Series, key.as_bytes()).unwrap(), None);
    assert_eq!(store.get(Tree::Series, b"cursors").unwrap(), None);
}

#[test]
fn what_is_damaged_is_left_out_and_the_rest_goes_on() {
    let store = Store::memory();
    let wall = Wall::fixed(START);
    let numbers = Numbers::open(store.clone(), wall.clone(), BYTES, true).unwrap();
    let (world, id) = (World::default(), page());
    numbers.push(&of(1, false), &pushed(5, "200"), &id, &world);
    numbers.write().unwrap();
    store
        .put_soon("n2/slot/0/00000000ffff", b"\xff".to_vec())
        .unwrap();
    store.put_soon("n2/nonsense", b"\xff".to_vec()).unwrap();
    let again = Numbers::open(store.clone(), wall, BYTES, true).unwrap();
    assert_eq!(total(&again), 5);
    assert_eq!(
        store.get(Tree::Series, b"n2/slot/0/00000000ffff").unwrap(),
        None
    );
}
