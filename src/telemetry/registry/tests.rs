use std::time::Duration;

use super::super::recorder::HistogramCells;
use super::super::{Flag, Protection, Recorder, Security, Why, text};
use super::*;

fn key(code: u16) -> HttpKey {
    HttpKey {
        reporter: Reporter::Source,
        source: PeerId(0),
        destination: PeerId(0),
        service: ServiceId(0),
        route: RouteId(0),
        code,
        grpc_status: None,
        flag: Flag::None,
        protocol: Protocol::Http,
        security: Security::Unknown,
    }
}

#[test]
fn workers_are_added_up() {
    let registry = Arc::new(Registry::new("Kubernetes"));
    for _ in 0..2 {
        let recorder = Recorder::new(Arc::clone(&registry));
        recorder.http(key(200), (Duration::from_millis(3), 0), 10, 0);
    }
    let families = registry.gather();
    assert_eq!(families[0].samples[0].value, Value::Counter(2));
    let Value::Histogram {
        cumulative,
        count,
        sum,
        ..
    } = &families[1].samples[0].value
    else {
        panic!("not a histogram");
    };
    assert_eq!((cumulative[1], cumulative[2], *count), (0, 2, 2));
    assert!((sum - 6.0).abs() < 1e-9);
}

#[test]
fn a_route_is_a_label_where_one_was_taken() {
    let registry = Arc::new(Registry::new(""));
    let recorder = Recorder::new(Arc::clone(&registry));
    let jason = registry.route("jason");
    assert_eq!(registry.route("jason"), jason);
    assert_eq!(registry.route(""), RouteId::default());
    for route in [jason, RouteId::default()] {
        recorder.http(HttpKey { route, ..key(200) }, (Duration::ZERO, 0), 0, 0);
    }
    let text = text::render(&registry.gather());
    let totals: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("istio_requests_total"))
        .collect();
    assert_eq!(totals.len(), 2, "{totals:?}");
    let named = |line: &&&str| line.ends_with("route_name=\"jason\"} 1");
    assert_eq!(totals.iter().filter(named).count(), 1, "{totals:?}");
    let without = |line: &&str| !line.contains("route_name");
    assert!(totals.iter().any(without), "{totals:?}");
}

#[test]
fn only_retries_that_were_made_are_told() {
    let registry = Arc::new(Registry::new(""));
    let recorder = Recorder::new(Arc::clone(&registry));
    recorder.http(key(200), (Duration::ZERO, 0), 0, 0);
    recorder.http(key(503), (Duration::ZERO, 2), 0, 0);
    let families = registry.gather();
    let retries = families.iter().find(|f| f.metric == names::RETRIES);
    let samples = &retries.unwrap().samples;
    assert_eq!(samples.len(), 1);
    assert_eq!(samples[0].value, Value::Counter(2));
}

#[test]
fn how_bytes_are_protected_is_told_beside_istios_metrics() {
    let registry = Arc::new(Registry::new(""));
    let recorder = Recorder::new(Arc::clone(&registry));
    let mutual = Link {
        protection: Protection::MutualTls,
        version: 0x0304,
        cipher: 0x1302,
        group: 0x11EC,
    };
    let plain = Link::bare(Protection::Plain(Why::Permissive));
    for (link, flag) in [
        (Some(mutual), Flag::None),
        (Some(plain), Flag::None),
        (None, Flag::Uf),
    ] {
        let cells = recorder.tcp(TcpKey {
            reporter: Reporter::Destination,
            source: PeerId(0),
            destination: PeerId(0),
            service: ServiceId(0),
            flag,
            security: Security::None,
            link,
        });
        cells.opened.add(1);
        cells.received.add(7);
    }
    let text = text::render(&registry.gather());
    let lines = |name: &str| -> Vec<&str> {
        let named = |line: &&str| line.starts_with(name) && !line.starts_with('#');
        text.lines().filter(named).collect()
    };
    let istios = lines("istio_tcp_received_bytes_total");
    assert_eq!(istios.len(), 2, "{istios:?}");
    assert!(
        istios.iter().any(|line| line.ends_with("\"-\"} 14")),
        "{istios:?}"
    );
    let edges = lines("meshctl_edge_received_bytes_total");
    assert_eq!(edges.len(), 2, "{edges:?}");
    for part in [
        "tls_version=\"TLSv1.3\",tls_cipher=\"TLS_AES_256_GCM_SHA384\",tls_group=\"X25519MLKEM768\",plaintext_reason=\"\"",
        "tls_version=\"\",tls_cipher=\"\",tls_group=\"\",plaintext_reason=\"permissive\"",
    ] {
        assert!(edges.iter().any(|line| line.contains(part)), "{edges:?}");
    }
    assert!(lines("meshctl_edge_connections_closed_total").is_empty());
}

#[test]
fn connections_are_counted_while_they_last() {
    let registry = Arc::new(Registry::new(""));
    let recorder = Recorder::new(Arc::clone(&registry));
    let key = LinkKey {
        reporter: Reporter::Source,
        source: PeerId(0),
        destination: PeerId(0),
        service: ServiceId(0),
        protocol: Protocol::Http,
        link: Link::bare(Protection::Plain(Why::External)),
    };
    let (one, two) = (recorder.link(key), recorder.link(key));
    one.request();
    two.request();
    drop(one);
    let value = |metric: Metric| {
        let families = registry.gather();
        let family = families.iter().find(|family| family.metric == metric);
        family.map(|family| family.samples[0].value.clone())
    };
    assert_eq!(value(names::EDGE_OPENED), Some(Value::Counter(2)));
    assert_eq!(value(names::EDGE_CLOSED), Some(Value::Counter(1)));
    assert_eq!(value(names::EDGE_REQUESTS), Some(Value::Counter(2)));
    for peer in 0..u32::try_from(MAX_SERIES + 100).unwrap() {
        let source = PeerId(peer);
        recorder.link(LinkKey { source, ..key }).request();
    }
    let families = registry.gather();
    let family = families.iter().find(|f| f.metric == names::EDGE_REQUESTS);
    assert!(family.unwrap().samples.len() <= MAX_SERIES + 1);
}

#[test]
fn label_sets_are_bounded() {
    let registry = Arc::new(Registry::new(""));
    let recorder = Recorder::new(Arc::clone(&registry));
    for peer in 0..u32::try_from(MAX_SERIES + 100).unwrap() {
        let key = HttpKey {
            source: PeerId(peer),
            ..key(200)
        };
        recorder.http(key, (Duration::ZERO, 0), 0, 0);
    }
    let counted: u64 = registry.gather()[0]
        .samples
        .iter()
        .map(|sample| match sample.value {
            Value::Counter(count) => count,
            _ => 0,
        })
        .sum();
    assert_eq!(counted, u64::try_from(MAX_SERIES + 100).unwrap());
    assert!(registry.gather()[0].samples.len() <= MAX_SERIES + 1);
    assert!(text::render(&registry.gather()).contains("meshctl_metrics_overflow_total 100"));
}

#[test]
fn a_size_equal_to_a_bound_is_inside() {
    let cells = HistogramCells::default();
    cells.record(1_000);
    assert_eq!(cells.buckets[1].get(), 1);
}

#[test]
fn who_was_told_is_told_what_is_new_by_finer_buckets() {
    let registry = Arc::new(Registry::new(""));
    let recorder = Recorder::new(Arc::clone(&registry));
    recorder.http(key(200), (Duration::from_micros(1_700), 0), 10, 0);
    recorder.http(key(503), (Duration::from_hours(2), 1), 10, 0);
    let mut told = Told::default();
    let names = |families: &[Family]| -> Vec<&str> {
        families.iter().map(|family| family.metric.name).collect()
    };
    let codes = |families: &[Family]| -> usize { families[0].samples.len() };
    let first = registry.tell(&mut told);
    assert_eq!(codes(&first), 2);
    let sizes = names(&first).iter().any(|name| name.ends_with("_bytes"));
    assert!(!sizes, "{:?}", names(&first));
    let durations = first.iter().find(|f| f.metric == names::REQUEST_DURATION);
    let values: Vec<&Value> = durations
        .unwrap()
        .samples
        .iter()
        .map(|s| &s.value)
        .collect();
    let Value::Histogram {
        bounds,
        cumulative,
        count,
        ..
    } = values[0]
    else {
        panic!("{values:?}")
    };
    assert_eq!(
        (bounds.as_ref(), cumulative.as_slice(), *count),
        ([1_600, 1_800].as_slice(), [0, 1].as_slice(), 1)
    );
    let Value::Histogram { bounds, count, .. } = values[1] else {
        panic!("{values:?}")
    };
    assert_eq!((bounds.len(), *count), (0, 1));
    registry.tell(&mut told);
    assert_eq!(
        names(&registry.tell(&mut told)),
        ["meshctl_metrics_overflow_total"]
    );
    recorder.http(key(200), (Duration::from_millis(3), 0), 10, 0);
    let third = registry.tell(&mut told);
    assert_eq!(codes(&third), 1);
    assert_eq!(third[0].samples[0].value, Value::Counter(2));
    // Another stream begins with everything.
    assert_eq!(codes(&registry.tell(&mut Told::default())), 2);
}

#[test]
fn a_request_whose_trace_was_kept_is_an_example_of_its_bucket() {
    let registry = Arc::new(Registry::new(""));
    let recorder = Recorder::new(Arc::clone(&registry));
    let example = |trace, micros| Exemplar {
        trace,
        micros,
        at_unix_ms: 1_000 + micros,
    };
    // Of a label set that nothing was counted for there is none.
    recorder.exemplar(key(404), example(1, 3_000));
    recorder.http(key(200), (Duration::from_millis(3), 0), 0, 0);
    recorder.exemplar(key(200), example(2, 3_000));
    recorder.exemplar(key(200), example(3, 3_100));
    let families = registry.gather();
    let Value::Histogram { exemplars, .. } = &families[1].samples[0].value else {
        panic!("not a histogram");
    };
    assert_eq!(exemplars.as_slice(), [(2, example(3, 3_100))]);
}

#[test]
fn label_sets_of_a_worker_that_find_no_room_are_told() {
    let registry = Arc::new(Registry::new(""));
    let (one, other) = (
        Recorder::new(Arc::clone(&registry)),
        Recorder::new(Arc::clone(&registry)),
    );
    let of = |peer| HttpKey {
        source: PeerId(peer),
        ..key(200)
    };
    for peer in 0..u32::try_from(MAX_SERIES).unwrap() {
        one.http(of(peer), (Duration::ZERO, 0), 0, 0);
    }
    for peer in 0..10 {
        // Of these four are known.
        let peer = u32::try_from(MAX_SERIES).unwrap() - 4 + peer;
        other.http(of(peer), (Duration::ZERO, 0), 0, 0);
        other.http(of(peer), (Duration::ZERO, 0), 0, 0);
    }
    let text = text::render(&registry.gather());
    assert!(
        text.contains("meshctl_metrics_folded_label_sets_total{kind=\"http\"} 6\n"),
        "{text}"
    );
}
