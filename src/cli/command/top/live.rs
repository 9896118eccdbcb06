//! Paints live calls: rows of calls that are alike, and the last calls of a row.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use crate::api::tap::Call;
use crate::cli::render::{Tone, number, stats};

use super::calls::By;
use super::draw::{cut, paint};
use super::state::State;

/// Width of the columns with figures: method, count, three times, success; each has room for its head and an arrow.
const FIGURES: [u16; 6] = [7, 6, 6, 6, 6, 8];

/// Rows of calls.
pub(super) fn table(frame: &mut Frame<'_>, area: Rect, state: &State, colours: bool) {
    let rows = state.shown_calls();
    // Eight gaps of one column; names and paths share what is left.
    let left = area.width.saturating_sub(FIGURES.iter().sum::<u16>() + 8);
    let longest = |of: fn(&super::calls::Row) -> &str| {
        let all = rows.iter().map(|row| of(row).chars().count()).max();
        u16::try_from(all.unwrap_or(0).max(6)).unwrap_or(u16::MAX)
    };
    let path = longest(|row| &row.key.path)
        .min(left.saturating_sub(2 * 12))
        .max(left / 4);
    let both = left.saturating_sub(path);
    let source = longest(|row| &row.key.source).max(11).min(both / 2);
    let destination = longest(|row| &row.key.destination)
        .max(12)
        .min(both.saturating_sub(source));
    let path = left.saturating_sub(source + destination);
    let [method, figures @ ..] = FIGURES;
    let widths = [source, destination, method, path]
        .into_iter()
        .chain(figures);
    let heads = By::ALL.map(|by| {
        let arrow = match (by == state.by, state.reverse) {
            (false, _) => "",
            (true, false) => "▼",
            (true, true) => "▲",
        };
        let line = Line::from(format!("{}{arrow}", by.header()));
        match by {
            By::Source | By::Destination | By::Method | By::Path => Cell::from(line),
            _ => Cell::from(line.right_aligned()),
        }
    });
    let figure = |text: String, tone: Tone| {
        Cell::from(Line::from(text).right_aligned()).style(paint(tone, colours))
    };
    let time = |ms: f64| figure(number::latency(ms), Tone::Plain);
    let lines: Vec<Row<'_>> = rows
        .iter()
        .map(|row| {
            Row::new([
                Cell::from(cut(&safe(&row.key.source), source)),
                Cell::from(cut(&safe(&row.key.destination), destination)),
                Cell::from(cut(&safe(&row.key.method), method)),
                Cell::from(cut(&safe(&row.key.path), path)),
                figure(row.count.to_string(), Tone::Plain),
                time(row.best),
                time(row.worst),
                time(row.last),
                figure(
                    number::success(row.success_percent),
                    stats::success_tone(row.success_percent),
                ),
            ])
        })
        .collect();
    let widget = Table::new(lines, widths.map(Constraint::Length))
        .header(Row::new(heads).style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut position = TableState::default();
    position.select((!rows.is_empty()).then_some(state.selected));
    frame.render_stateful_widget(widget, area, &mut position);
    if rows.is_empty() {
        nothing(frame, area, state);
    }
}

/// The last calls of a row, newest first.
pub(super) fn recent(frame: &mut Frame<'_>, area: Rect, state: &State, colours: bool) {
    let calls = state.recent();
    let heads = ["TIME", "STATUS", "FLAGS", "TOOK", "SIZE", "TLS", "ID"];
    let line = |call: &&Call| {
        let status = match call.status {
            0 => ("-".to_owned(), Tone::Bad),
            status @ 500.. => (status.to_string(), Tone::Bad),
            status @ 400.. => (status.to_string(), Tone::Warn),
            status => (status.to_string(), Tone::Good),
        };
        let id = call.trace_id.as_ref().filter(|_| state.wide);
        Row::new([
            Cell::from(number::moment_of_day(call.at_unix_ms).unwrap_or_default()),
            Cell::from(status.0).style(paint(status.1, colours)),
            Cell::from(call.flags.clone()),
            Cell::from(number::latency(call.duration_ms)),
            Cell::from(number::bytes(call.response_bytes)),
            Cell::from(if call.mtls { "mtls" } else { "-" }),
            Cell::from(safe(id.unwrap_or(&call.request_id))),
        ])
    };
    let lines: Vec<Row<'_>> = calls.iter().map(line).collect();
    let widths = [12, 6, 6, 7, 8, 4].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    let widget = Table::new(lines, widths)
        .header(Row::new(heads).style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut position = TableState::default();
    position.select((!calls.is_empty()).then_some(state.selected));
    frame.render_stateful_widget(widget, area, &mut position);
}

fn nothing(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let words = if state.filter.is_empty() {
        "no calls yet"
    } else {
        "nothing matches the filter"
    };
    let middle = Rect {
        y: area.y + area.height / 2,
        height: area.height.min(1),
        ..area
    };
    frame.render_widget(Paragraph::new(words).centered(), middle);
}

/// What callers sent must not move the cursor.
fn safe(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '·' } else { letter })
        .collect()
}
