//! Paints the state of `top`.

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState};

use crate::api::stats::StatsRow;
use crate::cli::render::{Tone, number, stats};

use super::live;
use super::state::{Level, Sort, State};

/// Width of the columns with figures; the names and the sparkline share the rest.
const FIGURES: u16 = 6 + 8 + 6 + 6 + 6 + 5;
/// Width of each column more of a wide table.
const MORE: u16 = 8;

/// Paints all of it. `colours` off uses only bold, dim and reverse.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, colours: bool) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    header(frame, head, state, colours);
    match state.level() {
        Level::Services | Level::Sources(_) => table(frame, body, state, colours),
        Level::Calls(_) => live::table(frame, body, state, colours),
        Level::Recent(..) => live::recent(frame, body, state, colours),
    }
    state.page = usize::from(body.height.saturating_sub(1)).max(1);
    footer(frame, foot, state);
    if state.help {
        help(frame, state);
    }
}

pub(super) fn paint(tone: Tone, colours: bool) -> Style {
    let style = Style::new();
    match tone {
        Tone::Plain => style,
        Tone::Strong => style.add_modifier(Modifier::BOLD),
        Tone::Faint => style.add_modifier(Modifier::DIM),
        Tone::Good | Tone::Hint if !colours => style,
        Tone::Warn | Tone::Bad if !colours => style.add_modifier(Modifier::BOLD),
        Tone::Good => style.fg(Color::Green),
        Tone::Warn => style.fg(Color::Yellow),
        Tone::Bad => style.fg(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Hint => style.fg(Color::Cyan),
    }
}

fn header(frame: &mut Frame<'_>, area: Rect, state: &State, colours: bool) {
    let mut parts = vec![
        Span::styled("meshctl top", paint(Tone::Strong, colours)),
        Span::raw(format!("  {}", state.context)),
    ];
    if let Some(server) = &state.server {
        parts.push(Span::raw(format!("  {}", server.version)));
        parts.push(Span::raw(format!("  revision {}", server.revision)));
    }
    if let Some(proxies) = state.proxies {
        parts.push(Span::raw(format!("  {proxies} proxies")));
    }
    parts.push(Span::styled(
        format!("  {} rps", number::rate(state.total())),
        paint(Tone::Strong, colours),
    ));
    let shown = match state.level() {
        Level::Services => format!("window {}", number::duration(state.window)),
        Level::Sources(service) => {
            format!(
                "callers of {service}  window {}",
                number::duration(state.window)
            )
        }
        Level::Calls(None) => "live calls".to_owned(),
        Level::Calls(Some(service)) => format!("live calls of {service}"),
        Level::Recent(_, key) => format!("{} {} {}", key.source, key.method, key.path),
    };
    let mut second = vec![Span::styled(
        format!("{shown}  every {}", number::duration(state.interval)),
        paint(Tone::Faint, colours),
    )];
    if state.all_namespaces {
        second.push(Span::raw("  all namespaces"));
    }
    if state.paused {
        second.push(Span::styled("  PAUSED", paint(Tone::Warn, colours)));
    }
    if let Some(trouble) = &state.trouble {
        second.push(Span::styled(
            format!("  {trouble}"),
            paint(Tone::Bad, colours),
        ));
    }
    frame.render_widget(
        Paragraph::new(vec![Line::from(parts), Line::from(second)]),
        area,
    );
}

fn table(frame: &mut Frame<'_>, area: Rect, state: &mut State, colours: bool) {
    let shown = state.shown();
    let count = shown.len();
    let widest = |of: fn(&StatsRow) -> &str, least: usize| {
        let longest = shown.iter().map(|row| of(row).chars().count()).max();
        u16::try_from(longest.unwrap_or(0).max(least)).unwrap_or(u16::MAX)
    };
    // Seven gaps of one column each and at least six for the sparkline.
    let more = columns_more(area.width, state.wide);
    let spark = if more > 0 { 0 } else { 6 };
    let names = area
        .width
        .saturating_sub(FIGURES + 8 + spark + more * (MORE + 1));
    let parts = shown
        .iter()
        .map(|row| state.part(row).chars().count())
        .max();
    let version = u16::try_from(parts.unwrap_or(0).max(8)).unwrap_or(u16::MAX);
    let service = widest(|row| &row.service, 8);
    // A third, or what services leave.
    let version = version.min((names / 3).max(names.saturating_sub(service)).max(8));
    let service = service.min(names.saturating_sub(version).max(8));
    let spark = area.width.saturating_sub(FIGURES + 8 + version + service);
    let spark = spark.saturating_sub(more * (MORE + 1));
    let mut widths = vec![service, version, 6, 8, 6, 6, 6, 5];
    widths.extend((0..more).map(|_| MORE));
    widths.push(spark);
    let widths = widths.into_iter().map(Constraint::Length);

    let heads = Sort::ALL.map(|sort| {
        let arrow = match (sort == state.sort, state.reverse) {
            (false, _) => "",
            (true, false) => "▼",
            (true, true) => "▲",
        };
        let text = format!("{}{arrow}", state.head(sort));
        let line = Line::from(text);
        match sort {
            Sort::Service | Sort::Version => Cell::from(line),
            _ => Cell::from(line.right_aligned()),
        }
    });
    let wide = ["REQUESTS", "RETRIES", "TIMEOUTS"]
        .into_iter()
        .take(usize::from(more));
    let wide = wide.map(|head| Cell::from(Line::from(head).right_aligned()));
    let heads = Row::new(heads.into_iter().chain(wide).chain([Cell::from("")]))
        .style(Style::new().add_modifier(Modifier::BOLD));
    let rows: Vec<Row<'_>> = shown
        .iter()
        .map(|row| line(row, state, (service, version), (spark, more), colours))
        .collect();
    let selected = Style::new().add_modifier(Modifier::REVERSED);
    let widget = Table::new(rows, widths)
        .header(heads)
        .column_spacing(1)
        .row_highlight_style(selected);
    let mut position = TableState::default();
    position.select((count > 0).then_some(state.selected));
    if count == 0 {
        let words = if state.filter.is_empty() {
            "no traffic in this window"
        } else {
            "nothing matches the filter"
        };
        let [_, middle, _] = Layout::vertical([
            Constraint::Fill(1),
            Constraint::Length(1),
            Constraint::Fill(1),
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(words).centered(), middle);
    }
    frame.render_stateful_widget(widget, area, &mut position);
}

/// How many columns more there is room for.
fn columns_more(width: u16, wide: bool) -> u16 {
    if wide {
        (width.saturating_sub(60) / (MORE + 1)).clamp(1, 3)
    } else {
        0
    }
}

fn line<'a>(
    row: &StatsRow,
    state: &State,
    (service, version): (u16, u16),
    (spark, more): (u16, u16),
    colours: bool,
) -> Row<'a> {
    let figure = |text: String, tone: Tone| {
        Cell::from(Line::from(text).right_aligned()).style(paint(tone, colours))
    };
    let maybe = |value: Option<f64>| match value {
        Some(value) => figure(number::latency(value), Tone::Plain),
        None => figure("-".to_owned(), Tone::Faint),
    };
    let success = match row.success_percent {
        Some(percent) => figure(number::success(percent), stats::success_tone(percent)),
        None => figure("-".to_owned(), Tone::Faint),
    };
    let mtls = match row.mtls_percent {
        Some(percent) if percent >= 100.0 => figure("100%".to_owned(), Tone::Good),
        Some(percent) => figure(format!("{:.0}%", percent.min(99.0)), Tone::Warn),
        None => figure("-".to_owned(), Tone::Faint),
    };
    let wide = [row.requests, row.retries, row.timeouts].into_iter();
    let wide = wide.take(usize::from(more));
    let cells = vec![
        Cell::from(cut(&row.service, service)),
        Cell::from(cut(state.part(row), version)),
        figure(number::rate(row.requests_per_second), Tone::Plain),
        success,
        maybe(row.latency_p50_ms),
        maybe(row.latency_p95_ms),
        maybe(row.latency_p99_ms),
        mtls,
    ];
    let bars =
        Cell::from(state.sparkline(row, usize::from(spark))).style(paint(Tone::Hint, colours));
    let wide = wide.map(|count| figure(count.to_string(), Tone::Plain));
    Row::new(cells.into_iter().chain(wide).chain([bars]))
}

/// A text that is too long ends in an ellipsis.
pub(super) fn cut(text: &str, width: u16) -> String {
    let width = usize::from(width);
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let text = if state.typing {
        format!("/{}█", state.filter)
    } else if state.filter.is_empty() {
        match state.level() {
            Level::Services => {
                "q leave  ? help  Enter callers  t live calls  / filter  s sort  p pause  0 all"
            }
            Level::Sources(_) => {
                "q back  ? help  Enter, t live calls  / filter  s sort  p pause  +/- interval"
            }
            Level::Calls(_) => {
                "q back  ? help  Enter last calls  / filter  s sort  r reverse  p pause"
            }
            Level::Recent(..) => "q back  ? help  j/k move  w wide  p pause",
        }
        .to_owned()
    } else {
        format!("filter /{}  (Esc clears)", state.filter)
    };
    let style = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Paragraph::new(text).style(style), area);
}

fn help(frame: &mut Frame<'_>, state: &State) {
    let mut lines = vec![
        Line::from("j k ↓ ↑ g G PgDn PgUp   move"),
        Line::from("Enter                   look closer: callers, live calls, last calls"),
        Line::from("t                       live calls of what is selected"),
        Line::from("/                       filter, a regular expression; ! inverts it"),
        Line::from("s, r                    sort by the next column, turn the order"),
        Line::from("w                       more columns"),
        Line::from("0                       all namespaces, or as -n says"),
        Line::from("p, space                pause"),
        Line::from("+ -                     look more, less often"),
        Line::from("q, Esc                  back, and leave; Ctrl-C leaves"),
        Line::from(""),
    ];
    let columns = state.columns();
    for pair in columns.chunks(2) {
        let words = pair
            .iter()
            .map(|(letter, head)| format!("{:<24}", format!("{letter}   sort by {head}")));
        lines.push(Line::from(words.collect::<String>()));
    }
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX);
    let [area] = Layout::vertical([Constraint::Length(height)])
        .flex(Flex::Center)
        .areas(frame.area());
    let [area] = Layout::horizontal([Constraint::Length(70)])
        .flex(Flex::Center)
        .areas(area);
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" keys, any of which closes this ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use crossterm::event::KeyCode;

    use super::super::calls::tests::call;
    use super::super::state::tests::state;
    use super::*;

    fn painted(state: &mut State, width: u16, height: u16, colours: bool) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state, colours)).unwrap();
        terminal
    }

    #[test]
    fn eighty_columns_hold_everything() {
        let mut state = state();
        state.proxies = Some(6);
        let terminal = painted(&mut state, 80, 12, false);
        insta::assert_snapshot!(terminal.backend());
    }

    #[test]
    fn help_lies_over_the_table_on_a_small_terminal() {
        let mut state = state();
        state.help = true;
        let terminal = painted(&mut state, 80, 24, false);
        insta::assert_snapshot!(terminal.backend());
    }

    #[test]
    fn without_colours_there_are_none() {
        let mut state = state();
        let colours = |on, state: &mut State| {
            painted(state, 80, 12, on)
                .backend()
                .buffer()
                .content()
                .iter()
                .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
        };
        assert!(colours(true, &mut state));
        assert!(!colours(false, &mut state));
    }

    #[test]
    fn no_size_is_too_small() {
        let mut state = state();
        for (width, height) in [(1, 1), (10, 3), (40, 4), (300, 100)] {
            state.help = !state.help;
            painted(&mut state, width, height, true);
        }
    }

    #[test]
    fn live_calls_fit_into_eighty_columns() {
        let mut state = calling();
        let terminal = painted(&mut state, 80, 12, false);
        insta::assert_snapshot!(terminal.backend());
    }

    #[test]
    fn the_last_calls_of_a_row_are_lines() {
        let mut state = calling();
        state.key(KeyCode::Enter.into());
        let terminal = painted(&mut state, 80, 12, false);
        insta::assert_snapshot!(terminal.backend());
    }

    #[test]
    fn a_wide_screen_shows_more() {
        let mut state = state();
        state.key(KeyCode::Char('w').into());
        let terminal = painted(&mut state, 200, 12, false);
        insta::assert_snapshot!(terminal.backend());
    }

    fn calling() -> State {
        let mut state = state();
        state.begin(Level::Calls(Some("reviews.default".to_owned())));
        for (path, status, ms) in [
            ("/reviews/1", 200, 3.0),
            ("/reviews/1", 503, 120.0),
            ("/", 404, 0.5),
        ] {
            state.call(call(path, status, ms));
        }
        state
    }
}
