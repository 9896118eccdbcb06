use proptest::prelude::*;

use super::super::edge::{Class, OTHER};
use super::*;

fn edge(version: &str) -> Edge {
    Edge {
        by_source: true,
        service: "reviews.default".to_owned(),
        version: version.to_owned(),
        ..Edge::default()
    }
}

/// Requests by version, of all time.
fn totals(series: &Series, from: u64, to: u64) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    series.each(from, to, |_, id, cell| {
        let version = series.edge(id).unwrap().version.clone();
        *sum.entry(version).or_default() += cell.requests;
    });
    sum
}

/// What a store would hold, and a series made of it.
fn reopened(disk: &BTreeMap<String, Vec<u8>>, floors: [u64; 4], limits: Limits) -> Series {
    let mut series = Series::new(limits);
    series.restore_floors(floors);
    let keys: Vec<Key> = disk.keys().map(|name| Key::parse(name).unwrap()).collect();
    for edges in [true, false] {
        for key in &keys {
            if matches!(key, Key::Edge(_)) == edges {
                assert!(series.restore(*key, &disk[&key.name()]), "{key:?}");
            }
        }
        series.restored();
    }
    series
}

fn write(series: &mut Series, disk: &mut BTreeMap<String, Vec<u8>>) {
    for (key, bytes) in series.changes() {
        match bytes {
            Some(bytes) => disk.insert(key.name(), bytes),
            None => disk.remove(&key.name()),
        };
    }
}

#[test]
fn a_week_of_seconds_is_counted_once_each_and_fits() {
    let mut series = Series::default();
    let seconds = 8 * 24 * 3_600_u64;
    for second in (0..seconds).step_by(7) {
        series.cell(second * 1_000, edge("v1")).requests += 1;
        if second % 5 == 0 {
            series.turn(second * 1_000);
        }
    }
    series.turn(seconds * 1_000);
    let kept = totals(&series, 0, u64::MAX)["v1"];
    let week = 7 * 24 * 3_600 / 7;
    assert!((week..week + 600).contains(&kept), "{kept}");
    let all: usize = series.levels.iter().map(|level| level.slots.len()).sum();
    assert!(all < 3_600 + 2_160 + 1_440 + 168, "{all}");
    assert!(series.bytes() < 1 << 20, "{}", series.bytes());
    // No moment is in two levels.
    let ends = series.levels.iter().zip(LEVELS);
    let spans: Vec<(u64, u64)> = ends
        .map(|(level, (step, _))| {
            let first = level.slots.keys().next().unwrap() * step;
            (first, (level.slots.keys().last().unwrap() + 1) * step)
        })
        .collect();
    for pair in spans.windows(2) {
        assert!(pair[1].1 <= pair[0].0, "{spans:?}");
    }
}

#[test]
fn the_finest_and_oldest_goes_first_when_there_is_no_room() {
    let mut series = Series::new(Limits {
        bytes: 60_000,
        edges: 64,
    });
    let mut all = 0;
    for second in 0..3_000_u64 {
        for version in ["v1", "v2", "v3"] {
            let cell = series.cell(second * 1_000, edge(version));
            cell.requests += 1;
            cell.latency.add(5_000, 1);
            all += 1;
        }
        if second % 5 == 0 {
            series.turn(second * 1_000);
            assert!(series.bytes() <= 60_000, "{}", series.bytes());
        }
    }
    series.turn(3_000_000);
    let kept = series.kept();
    assert!(kept.levels[0].1 > 2_000_000, "{kept:?}");
    // The last two minutes are still there to the second.
    assert!(kept.levels[0].1 <= 2_880_000, "{kept:?}");
    assert_eq!(totals(&series, 0, u64::MAX).values().sum::<u64>(), all);
}

#[test]
fn what_has_no_room_keeps_its_side_its_service_and_its_class() {
    let mut series = Series::new(Limits {
        bytes: 1 << 20,
        edges: 4,
    });
    for number in 0..50 {
        let failed = Edge {
            class: Class::of(503),
            ..edge(&number.to_string())
        };
        series.cell(1_000, failed).requests += 1;
    }
    let mut folded = 0;
    series.each(0, 2_000, |_, id, cell| {
        let edge = series.edge(id).unwrap();
        if edge.version == OTHER {
            assert!(edge.by_source);
            assert_eq!(edge.class.name(), "5xx");
            folded += cell.requests;
        }
    });
    assert_eq!(folded, 46);
    assert_eq!(series.kept().folded.increments, 46);
}

#[test]
fn edges_that_rest_give_way_without_losing_a_count() {
    let mut series = Series::new(Limits {
        bytes: 1 << 20,
        edges: 16,
    });
    for number in 0..16_u64 {
        series
            .cell(number * 1_000, edge(&number.to_string()))
            .requests += 10;
    }
    let later = 3 * 3_600_000;
    series.turn(later);
    series.cell(later, edge("new")).requests += 1;
    let sums = totals(&series, 0, u64::MAX);
    assert_eq!(sums["new"], 1);
    assert_eq!(sums[OTHER], 40);
    assert_eq!(sums.values().sum::<u64>(), 161);
}

#[test]
fn an_hour_is_over_and_the_edges_of_last_week_are_forgotten() {
    let mut series = Series::default();
    series.cell(1_000, edge("old")).requests += 1;
    series.turn(9 * 24 * 3_600_000);
    assert_eq!(series.kept().edges, 0);
    let removed = series.changes();
    assert!(
        removed.iter().all(|(_, bytes)| bytes.is_none()),
        "{removed:?}"
    );
}

#[test]
fn what_is_damaged_on_disk_is_left_out() {
    let mut series = Series::default();
    assert!(!series.restore(Key::Edge(1), b"\x01"));
    assert!(!series.restore(Key::Slot(0, 7), b"\xff"));
    // A slot of edges that nobody knows.
    let cells: Cells = [(
        9,
        Cell {
            requests: 1,
            ..Cell::default()
        },
    )]
    .into();
    assert!(!series.restore(Key::Slot(0, 7), &coding::encode_slot(&cells)));
    assert_eq!(Key::parse("slot/9/0"), None);
    assert_eq!(Key::parse(&Key::Slot(3, 77).name()), Some(Key::Slot(3, 77)));
    assert_eq!(Key::parse(&Key::Edge(77).name()), Some(Key::Edge(77)));
}

/// What happens to a series, one after the other.
#[derive(Debug, Clone)]
enum Step {
    Count(u8, u64),
    Wait(u64),
    Turn,
    Write,
    /// The control plane is killed: what was not written is gone.
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..12_u8, 1..50_u64).prop_map(|(edge, count)| Step::Count(edge, count)),
        3 => prop_oneof![0..3_000_u64, 0..4_000_000_u64].prop_map(Step::Wait),
        2 => Just(Step::Turn),
        2 => Just(Step::Write),
        1 => Just(Step::Kill),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    /// Whatever the order of counting, turning, writing and being killed, the sum over all time is what was
    /// counted and written, and any cut of time into windows at the ends of slots gives the same sum.
    #[test]
    fn nothing_is_lost_or_counted_twice(steps in steps(), tight: bool) {
        let limits = Limits { bytes: if tight { 3_000 } else { 1 << 20 }, edges: if tight { 5 } else { 64 } };
        let (mut series, mut disk) = (Series::new(limits), BTreeMap::new());
        let (mut floors, mut now) = ([0; 4], 50_000_000_u64);
        let (mut counted, mut safe) = (0_u64, 0_u64);
        for step in steps {
            match step {
                Step::Count(number, count) => {
                    series.cell(now, edge(&number.to_string())).requests += count;
                    counted += count;
                }
                Step::Wait(millis) => now += millis,
                Step::Turn => series.turn(now),
                Step::Write => {
                    write(&mut series, &mut disk);
                    floors = series.floors();
                    safe = counted;
                }
                Step::Kill => {
                    series = reopened(&disk, floors, limits);
                    counted = safe;
                }
            }
        }
        // The week is not over and the bound may only fold, unless it is so tight that the last level gives up.
        let sum: u64 = totals(&series, 0, u64::MAX).values().sum();
        let short = now - 50_000_000 > 604_000_000;
        prop_assert!(sum == counted || (sum < counted && (tight || short)), "{sum} of {counted}");
        let hour = 3_600_000;
        let cut: u64 = (0..(now / hour + 2))
            .map(|number| totals(&series, number * hour, (number + 1) * hour).values().sum::<u64>())
            .sum();
        prop_assert_eq!(cut, sum);
    }

    /// Merging is addition: any order and any grouping gives the same cells.
    #[test]
    fn merges_are_exact(parts in proptest::collection::vec((0..4_usize, 0..90_u64, 1..99_u64), 0..40), seed: u64) {
        let cell = |bound: u64, count: u64| {
            let mut cell = Cell { requests: count, retries: bound, ..Cell::default() };
            cell.latency.add(bound * 1_000, count);
            cell
        };
        let mut one = Cell::default();
        for (_, bound, count) in &parts {
            one.merge(&cell(*bound, *count));
        }
        let mut groups = [(); 4].map(|()| Cell::default());
        let mut order: Vec<_> = parts.iter().enumerate().collect();
        order.sort_by_key(|(at, _)| (u64::try_from(*at).unwrap() ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for (_, (group, bound, count)) in order {
            groups[*group].merge(&cell(*bound, *count));
        }
        let mut sum = Cell::default();
        for group in groups.iter().rev() {
            sum.merge(group);
        }
        prop_assert_eq!(sum, one);
    }
}
