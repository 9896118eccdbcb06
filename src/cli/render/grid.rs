//! Tables without borders, as kubectl draws them.

use std::borrow::Cow;

use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement, Table, presets};

use super::{Page, Tone, wrap::wrap};

/// Spaces between two columns.
const GAP: usize = 2;

/// Narrowest that a column which may wrap becomes; a page without that much room is overflown.
const NARROWEST: usize = 10;

/// A column and how it behaves.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    header: Cow<'static, str>,
    number: bool,
    wraps: bool,
    shown: bool,
}

impl Column {
    /// Text of a known small length; never wrapped.
    pub(crate) fn text(header: impl Into<Cow<'static, str>>) -> Self {
        Self {
            header: header.into(),
            number: false,
            wraps: false,
            shown: true,
        }
    }

    /// Text that may be long: it wraps when the page is narrow.
    pub(crate) fn long(header: impl Into<Cow<'static, str>>) -> Self {
        Self {
            wraps: true,
            ..Self::text(header)
        }
    }

    /// A number, aligned to the right.
    pub(crate) fn number(header: impl Into<Cow<'static, str>>) -> Self {
        Self {
            number: true,
            ..Self::text(header)
        }
    }

    /// Shown only when `condition` holds; the rows keep a cell for it.
    pub(crate) fn when(mut self, condition: bool) -> Self {
        self.shown = condition;
        self
    }
}

/// Text and what it means.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }

    /// The text, or `-` where there is none.
    pub(crate) fn or_dash(text: &str) -> Self {
        if text.is_empty() {
            Self::new("-", Tone::Faint)
        } else {
            text.into()
        }
    }

    /// The value as `show` writes it, or `-` when absent.
    pub(crate) fn maybe<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> Self {
        value.map_or_else(|| Self::new("-", Tone::Faint), |value| show(value).into())
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Rows below headers.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Grid {
    pub(crate) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self {
            columns: columns.into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a cell for each column, also for those that are not shown.
    pub(crate) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    /// The table, a line end after each line.
    pub(crate) fn draw(&self, page: &Page) -> String {
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|at| self.columns.get(*at).is_some_and(|column| column.shown))
            .collect();
        let columns: Vec<Column> = shown
            .iter()
            .filter_map(|at| self.columns.get(*at).cloned())
            .collect();
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if page.paint.on() {
            table.enforce_styling();
            table.style_text_only();
        } else {
            table.force_no_tty();
        }
        table.set_header(columns.iter().map(|column| {
            let mut cell = comfy_table::Cell::new(&column.header);
            if page.paint.on() {
                cell = cell.add_attribute(Attribute::Bold);
            }
            if column.number {
                cell = cell.set_alignment(CellAlignment::Right);
            }
            cell
        }));
        table.set_content_arrangement(ContentArrangement::Disabled);
        let widths = self.widths(&shown, &columns, page);
        for row in &self.rows {
            table.add_row(
                shown
                    .iter()
                    .zip(&columns)
                    .zip(&widths)
                    .map(|((at, column), width)| {
                        let empty = Cell::default();
                        let cell = row.get(*at).unwrap_or(&empty);
                        let text = if column.wraps {
                            wrap(&cell.text, *width)
                        } else {
                            cell.text.clone()
                        };
                        let drawn = styled(comfy_table::Cell::new(text), cell.tone);
                        if column.number {
                            drawn.set_alignment(CellAlignment::Right)
                        } else {
                            drawn
                        }
                    }),
            );
        }
        let last = columns.len().saturating_sub(1);
        for (at, column) in table.column_iter_mut().enumerate() {
            let gap = if at == last { 0 } else { GAP };
            column.set_padding((0, u16::try_from(gap).unwrap_or(0)));
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// What each shown column gets: the long ones give way when the page is too narrow.
    fn widths(&self, shown: &[usize], columns: &[Column], page: &Page) -> Vec<usize> {
        let mut widths: Vec<usize> = shown
            .iter()
            .zip(columns)
            .map(|(at, column)| {
                let cells = self.rows.iter().filter_map(|row| row.get(*at));
                let widest = cells.map(|cell| cell.text.chars().count()).max();
                widest.unwrap_or(0).max(column.header.chars().count())
            })
            .collect();
        // Whoever asks for everything gets it, as wide as it is.
        let Some(page_width) = page.width.filter(|_| !page.wide) else {
            return widths;
        };
        let gaps = GAP * columns.len().saturating_sub(1);
        let mut over =
            (gaps + widths.iter().sum::<usize>()).saturating_sub(usize::from(page_width));
        while over > 0 {
            let long = widths.iter_mut().zip(columns);
            // One off the widest each time: they end up alike, and the short ones keep theirs.
            let widest = long
                .filter(|(width, column)| column.wraps && **width > NARROWEST)
                .map(|(width, _)| width)
                .max_by_key(|width| **width);
            match widest {
                Some(width) => *width -= 1,
                None => break,
            }
            over -= 1;
        }
        widths
    }
}

fn styled(cell: comfy_table::Cell, tone: Tone) -> comfy_table::Cell {
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Warn => cell.fg(Color::DarkYellow),
        Tone::Bad => cell.fg(Color::DarkRed).add_attribute(Attribute::Bold),
        Tone::Faint => cell.add_attribute(Attribute::Dim),
        Tone::Strong => cell.add_attribute(Attribute::Bold),
        Tone::Hint => cell.fg(Color::DarkCyan),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Paint;
    use super::*;

    fn page(width: Option<u16>) -> Page {
        Page {
            width,
            wide: false,
            paint: Paint::new(false),
            now_unix_ms: 0,
        }
    }

    fn grid() -> Grid {
        let mut grid = Grid::new([
            Column::text("NAME"),
            Column::long("WHAT"),
            Column::text("GONE").when(false),
            Column::number("RPS"),
        ]);
        grid.row([
            "a".into(),
            "one two three four five six".into(),
            "x".into(),
            "1.0".into(),
        ]);
        grid.row(["bb".into(), "short".into(), "x".into(), "200".into()]);
        grid
    }

    #[test]
    fn columns_are_aligned_without_borders_or_trailing_space() {
        assert_eq!(
            grid().draw(&page(None)),
            "NAME  WHAT                         RPS\n\
             a     one two three four five six  1.0\n\
             bb    short                        200\n"
        );
    }

    #[test]
    fn a_narrow_page_wraps_the_long_column_only() {
        let text = grid().draw(&page(Some(26)));
        assert!(
            text.lines().all(|line| line.chars().count() <= 26),
            "{text}"
        );
        assert!(text.starts_with("NAME  WHAT"), "{text}");
        assert!(text.contains("a     one two"), "{text}");
        assert!(text.contains("bb    short"), "{text}");
    }
}
