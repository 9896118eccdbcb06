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
