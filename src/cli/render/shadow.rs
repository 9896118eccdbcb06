//! Answers to copies of calls.

use crate::api::shadow::{ShadowReport, ShadowRow};

use super::{Cell, Column, Grid, Page, Render, Tone, number};

impl Render for ShadowReport {
    fn text(&self, page: &Page) -> String {
        let any = |has: fn(&ShadowRow) -> bool| self.services.iter().any(has);
        let mut grid = Grid::new([
            Column::long("SERVICE"),
            Column::number("COMPARED"),
            Column::number("DIFFERENT"),
            Column::number("SHARE"),
            Column::number("UNANSWERED"),
            Column::number("PARTLY").when(page.wide || any(|row| row.partly > 0)),
            Column::number("SKIPPED").when(page.wide || any(|row| row.skipped > 0)),
        ]);
        for row in &self.services {
            let tone = if row.different > 0 {
                Tone::Bad
            } else {
                Tone::Good
            };
            grid.row([
                row.service.as_str().into(),
                row.compared.to_string().into(),
                Cell::new(row.different.to_string(), tone),
                Cell::maybe(row.different_percent, number::share),
                row.unanswered.to_string().into(),
                row.partly.to_string().into(),
                row.skipped.to_string().into(),
            ]);
        }
        let mut text = grid.draw(page);
        let mut places = Grid::new([
            Column::long("SERVICE"),
            Column::text("DIFFERS IN"),
            Column::long("AT"),
            Column::number("COUNT"),
        ]);
        let mut found = false;
        for row in &self.services {
            for one in &row.differences {
                found = true;
                places.row([
                    row.service.as_str().into(),
                    one.part.as_str().into(),
                    Cell::or_dash(&one.at),
                    one.count.to_string().into(),
                ]);
            }
        }
        if found {
            text.push('\n');
            text.push_str(&places.draw(page));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.services
            .iter()
            .map(|row| row.service.clone())
            .collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.services
            .is_empty()
            .then_some("No answers were compared in this window")
    }
}
