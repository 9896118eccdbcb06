use super::super::calls::tests::call;
use super::*;

pub(in super::super) fn row(service: &str, version: &str, rate: f64, p99: Option<f64>) -> StatsRow {
    StatsRow {
        service: service.to_owned(),
        version: version.to_owned(),
        requests_per_second: rate,
        requests: 10,
        success_percent: p99.map(|_| 100.0),
        latency_p50_ms: p99.map(|p99| p99 / 4.0),
        latency_p95_ms: p99.map(|p99| p99 / 2.0),
        latency_p99_ms: p99,
        mtls_percent: p99.map(|_| 100.0),
        ..StatsRow::default()
    }
}

pub(in super::super) fn state() -> State {
    let mut state = State::new("default", Duration::from_secs(10), Duration::from_secs(1));
    for step in 1..=8 {
        state.update(StatsReport {
            window_seconds: 10,
            at_unix_ms: 0,
            rows: vec![
                row("reviews.default", "v1", 10.0 * f64::from(step), Some(12.0)),
                row("reviews.default", "v3", 5.0, Some(40.0)),
                row("details.default", "v1", 0.0, None),
            ],
        });
    }
    state
}

fn press(state: &mut State, keys: &str) -> Effect {
    let mut effect = Effect::Redraw;
    for letter in keys.chars() {
        let code = match letter {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            letter => KeyCode::Char(letter),
        };
        effect = state.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    effect
}

fn names(state: &State) -> Vec<String> {
    state
        .shown()
        .iter()
        .map(|row| format!("{}/{}", row.service.split('.').next().unwrap(), row.version))
        .collect()
}

#[test]
fn rows_are_sorted_as_asked_and_without_a_figure_last() {
    let mut state = state();
    assert_eq!(names(&state), ["reviews/v1", "reviews/v3", "details/v1"]);
    press(&mut state, "H");
    assert_eq!(names(&state), ["reviews/v3", "reviews/v1", "details/v1"]);
    press(&mut state, "H");
    assert_eq!(names(&state), ["reviews/v1", "reviews/v3", "details/v1"]);
    press(&mut state, "N");
    assert_eq!(names(&state), ["details/v1", "reviews/v1", "reviews/v3"]);
    press(&mut state, "s");
    assert_eq!(state.sort, Sort::Version);
}

#[test]
fn a_filter_is_typed_kept_and_cleared() {
    let mut state = state();
    press(&mut state, "/v3q\n");
    assert!(names(&state).is_empty());
    press(&mut state, "\u{1b}/v3\n");
    assert_eq!(names(&state), ["reviews/v3"]);
    press(&mut state, "\u{1b}/!v3\n");
    assert_eq!(names(&state), ["reviews/v1", "details/v1"]);
    assert_eq!(press(&mut state, "\u{1b}"), Effect::Redraw);
    assert_eq!(press(&mut state, "\u{1b}"), Effect::Quit);
}

#[test]
fn moving_stays_inside_and_pausing_keeps_the_figures() {
    let mut state = state();
    press(&mut state, "jjjjj");
    assert_eq!(state.selected, 2);
    press(&mut state, "kkkkk");
    assert_eq!(state.selected, 0);
    press(&mut state, "Gp");
    assert_eq!(state.selected, 2);
    state.update(StatsReport {
        window_seconds: 1,
        at_unix_ms: 0,
        rows: vec![],
    });
    assert_eq!(names(&state).len(), 3);
    press(&mut state, "++");
    assert_eq!(state.interval, Duration::from_millis(250));
    press(&mut state, "-----");
    assert_eq!(state.interval, Duration::from_secs(10));
    assert_eq!(press(&mut state, "q"), Effect::Quit);
}

#[test]
fn a_sparkline_shows_the_last_rates() {
    let state = state();
    let shown = state.shown();
    assert_eq!(state.sparkline(shown[0], 8), "▁▂▃▄▅▆▇█");
    assert_eq!(state.sparkline(shown[0], 3), "▆▇█");
    assert_eq!(state.sparkline(shown[2], 3), "▁▁▁");
}

fn around(service: &str) -> Around {
    Around(Some(service.to_owned()))
}

fn rows(state: &mut State, rows: Vec<StatsRow>) {
    state.update(StatsReport {
        window_seconds: 10,
        at_unix_ms: 0,
        rows,
    });
}

#[test]
fn one_looks_closer_and_comes_back() {
    let first = Query::default();
    let mut state = state();
    press(&mut state, "N");
    press(&mut state, "j");
    assert_eq!(press(&mut state, "\n"), Effect::Ask);
    assert_eq!(state.level(), &Level::Sources("reviews.default".to_owned()));
    let asked = state.asked(&first).unwrap();
    assert_eq!(
        asked.service,
        Some(("reviews".to_owned(), "default".to_owned()))
    );
    assert!(matches!(asked.by.as_slice(), [stats::By::Source]));
    // Figures of the level before are not shown as those of this one.
    assert!(state.shown().is_empty());
    let from = |source: &str| StatsRow {
        source: source.to_owned(),
        ..row("reviews.default", "", 3.0, Some(4.0))
    };
    rows(
        &mut state,
        vec![from("productpage-v1.default"), from("ratings-v1.default")],
    );
    press(&mut state, "/PRODUCT\n");
    assert_eq!(state.shown().len(), 1);
    press(&mut state, "\u{1b}");
    assert_eq!(press(&mut state, "\n"), Effect::Ask);
    assert_eq!(state.tapped(), Some(around("reviews.default")));
    assert_eq!(state.asked(&first).map(|_| ()), None);
    state.call(call("/a", 200, 1.0));
    state.call(call("/b", 503, 9.0));
    press(&mut state, "W");
    assert_eq!(press(&mut state, "\n"), Effect::Ask);
    assert_eq!(state.recent().len(), 1);
    assert_eq!(state.recent()[0].path, "/b");
    assert_eq!(press(&mut state, "q"), Effect::Ask);
    // What was counted is still there.
    assert_eq!(state.shown_calls().len(), 2);
    assert_eq!(press(&mut state, "\u{1b}"), Effect::Ask);
    assert_eq!(press(&mut state, "q"), Effect::Ask);
    assert_eq!((state.level(), state.selected), (&Level::Services, 1));
    assert_eq!(press(&mut state, "q"), Effect::Quit);
}

#[test]
fn live_calls_are_of_what_is_selected() {
    let mut state = state();
    assert_eq!(press(&mut state, "t"), Effect::Ask);
    assert_eq!(state.tapped(), Some(around("reviews.default")));
    state.call(call("/a", 200, 1.0));
    press(&mut state, "p");
    state.call(call("/a", 200, 1.0));
    assert_eq!(state.shown_calls()[0].count, 1);
    // Of another service nothing is kept.
    press(&mut state, "pq");
    rows(&mut state, vec![row("details.default", "v1", 1.0, None)]);
    press(&mut state, "t");
    assert_eq!(state.tapped(), Some(around("details.default")));
    assert!(state.shown_calls().is_empty());
}

#[test]
fn filters_are_expressions_and_never_fail() {
    let mut state = state();
    for (filter, expected) in [
        ("^reviews.* v[12]$", 1),
        ("!^reviews", 1),
        ("REVIEWS", 2),
        ("v1|v3", 3),
        // No expression: what it says, and nothing says that.
        ("v1(", 0),
        ("[", 0),
    ] {
        press(&mut state, &format!("/{filter}\n"));
        assert_eq!(state.shown().len(), expected, "{filter}");
        press(&mut state, "\u{1b}");
    }
}

#[test]
fn every_column_has_a_letter_of_its_own_that_sorts_by_it() {
    let mut state = state();
    for level in [Level::Services, Level::Calls(None)] {
        state.begin(level);
        let columns = state.columns();
        for (letter, head) in &columns {
            assert_eq!(
                columns.iter().filter(|(other, _)| other == letter).count(),
                1,
                "{head}"
            );
            press(&mut state, &letter.to_string());
            let now = match state.level() {
                Level::Calls(_) => state.by.letter(),
                _ => state.sort.letter(),
            };
            assert_eq!(now, *letter, "{head}");
        }
        for _ in 0..columns.len() {
            press(&mut state, "s");
        }
        let now = match state.level() {
            Level::Calls(_) => state.by.letter(),
            _ => state.sort.letter(),
        };
        assert_eq!(now, columns.last().unwrap().0, "round once");
    }
}

#[test]
fn all_namespaces_are_asked_for_and_no_longer() {
    let first = Query::default();
    let mut state = state();
    assert!(!state.asked(&first).unwrap().everywhere);
    assert_eq!(press(&mut state, "0"), Effect::Ask);
    assert!(state.asked(&first).unwrap().everywhere);
    press(&mut state, "0");
    assert!(!state.asked(&first).unwrap().everywhere);
}
