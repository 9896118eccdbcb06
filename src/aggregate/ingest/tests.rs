use super::super::sample::Value;
use super::*;

fn sample(name: &'static str, code: &'static str, value: Value) -> Sample<'static> {
    let mut labels = vec![
        ("reporter", "source"),
        ("source_workload", "productpage-v1"),
        ("source_workload_namespace", "default"),
        ("destination_service_name", "reviews"),
        ("destination_service_namespace", "default"),
        ("destination_canonical_revision", "v1"),
        ("response_code", code),
    ];
    labels.sort_unstable();
    Sample {
        name,
        labels,
        value,
    }
}

fn requests(total: u64, code: &'static str) -> Sample<'static> {
    sample("istio_requests_total", code, Value::Counter(total))
}

fn process(started_unix_ms: u64) -> Process {
    Process {
        node: "sidecar~a".to_owned(),
        started_unix_ms,
    }
}

fn totals(series: &Series) -> (u64, u64) {
    let mut sum = (0, 0);
    series.each(0, u64::MAX, |_, _, cell| {
        sum.0 += cell.requests;
        sum.1 += cell.failures;
    });
    sum
}

#[test]
fn increments_are_counted_once_and_restarts_are_seen() {
    let (mut ingest, mut series) = (Ingest::default(), Series::default());
    let mut push = |samples: &[Sample<'_>], now| {
        ingest.push((&process(0), false), true, samples, now, &mut series);
        totals(&series)
    };
    push(&[requests(10, "200")], 1_000);
    push(&[requests(10, "200")], 2_000);
    assert_eq!(
        push(&[requests(15, "200"), requests(2, "503")], 3_000),
        (17, 2)
    );
    assert_eq!(push(&[requests(4, "200")], 4_000), (21, 2));
}

#[test]
fn a_process_that_has_soon_counted_more_than_the_one_before_is_another() {
    let (mut ingest, mut series) = (Ingest::default(), Series::default());
    let mut push = |started, total| {
        ingest.push(
            (&process(started), false),
            true,
            &[requests(total, "200")],
            1_000,
            &mut series,
        );
        totals(&series).0
    };
    assert_eq!(push(100, 10), 10);
    // It had 12 before it was first heard; the old one drains beside it.
    assert_eq!(push(200, 12), 22);
    assert_eq!(push(100, 11), 23);
    assert_eq!(push(200, 13), 24);
}

#[test]
fn what_is_written_down_goes_on() {
    let (mut ingest, mut series) = (Ingest::default(), Series::default());
    ingest.push(
        (&process(7), false),
        true,
        &[requests(10, "200")],
        1_000,
        &mut series,
    );
    let mut again = Ingest::default();
    for (process, bytes) in ingest.changes() {
        let process = Process::parse(&process.name()).unwrap();
        assert!(again.restore(process, &bytes.unwrap()));
    }
    assert_eq!(again.followed(), ingest.followed());
    again.push(
        (&process(7), true),
        true,
        &[requests(12, "200")],
        2_000,
        &mut series,
    );
    assert_eq!(totals(&series), (12, 0));
    assert!(!again.restore(process(8), b""));
}

#[test]
fn who_comes_from_another_control_plane_begins_with_what_it_says() {
    let (mut ingest, mut series) = (Ingest::default(), Series::default());
    let mut push = |started, told, total| {
        ingest.push(
            (&process(started), told),
            false,
            &[requests(total, "200")],
            1_000,
            &mut series,
        );
        totals(&series).0
    };
    assert_eq!(push(1, true, 1_000), 0);
    assert_eq!(push(1, true, 1_003), 3);
    // One that has told nobody.
    assert_eq!(push(2, false, 5), 8);
}

#[test]
fn the_silent_make_room_and_are_not_counted_again() {
    let mut ingest = Ingest::new(16 * PROCESS_BYTES);
    let mut series = Series::default();
    for number in 0..100_u64 {
        let process = Process {
            node: number.to_string(),
            started_unix_ms: 1,
        };
        let now = number * 60_000;
        ingest.push(
            (&process, false),
            true,
            &[requests(1, "200")],
            now,
            &mut series,
        );
        assert!(ingest.followed().bytes <= 16 * PROCESS_BYTES);
    }
    assert_eq!(totals(&series).0, 100);
    let back = Process {
        node: "0".to_owned(),
        started_unix_ms: 1,
    };
    ingest.push(
        (&back, true),
        true,
        &[requests(1, "200")],
        6_000_000,
        &mut series,
    );
    assert_eq!(totals(&series).0, 100);
}

#[test]
fn one_process_does_not_take_the_room_of_all() {
    let (mut ingest, mut series) = (Ingest::new(8 << 10), Series::default());
    let names: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
    let many: Vec<Sample<'_>> = names
        .iter()
        .map(|name| {
            let mut sample = requests(1, "200");
            sample.labels.push(("z", name));
            sample
        })
        .collect();
    ingest.push((&process(1), false), true, &many, 1_000, &mut series);
    let followed = ingest.followed();
    assert!(
        followed.bytes <= (8 << 10) / 4 + PROCESS_BYTES,
        "{followed:?}"
    );
    assert_eq!(followed.unfollowed + totals(&series).0, 2_000);
    assert!(totals(&series).0 > 100);
}

#[test]
fn only_durations_are_latencies() {
    let (mut ingest, mut series) = (Ingest::default(), Series::default());
    for (name, bound) in [
        ("istio_request_duration_milliseconds", 5_000),
        ("istio_request_bytes", 500_000),
        ("istio_response_bytes", 2_500_000),
    ] {
        let buckets = vec![(bound - 500, 0), (bound, 10), (u64::MAX, 10)];
        let sample = sample(name, "200", Value::Histogram(buckets));
        ingest.push((&process(1), false), true, &[sample], 1_000, &mut series);
    }
    let mut seen = Vec::new();
    series.each(0, u64::MAX, |_, _, cell| seen.push(cell.latency.clone()));
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].buckets(), [(5_000, 10)]);
}

#[test]
fn coarse_buckets_of_others_are_spread_evenly() {
    let mut latency = Histogram::default();
    spread(
        &mut latency,
        Bucket {
            lower: 5_000,
            upper: 10_000,
            count: 1_000,
        },
    );
    assert_eq!(latency.count(), 1_000);
    let p50 = latency.quantile(0.5, &LATENCY_MICROS).unwrap();
    assert!((p50 - 7.5).abs() < 0.01, "{p50}");
}

#[test]
fn processes_that_ended_are_forgotten() {
    let (mut ingest, mut series) = (Ingest::default(), Series::default());
    for started in 1..=20 {
        let now = started * 1_000;
        ingest.push(
            (&process(started), false),
            true,
            &[requests(1, "200")],
            now,
            &mut series,
        );
    }
    assert_eq!(ingest.followed().processes, MOST_OF_NODE);
    ingest.forget(0, SUPERSEDED_MS + 30_000);
    assert_eq!(ingest.followed().processes, 1);
    ingest.forget(30_000, SUPERSEDED_MS);
    assert_eq!(ingest.followed(), Ingest::default().followed());
}
