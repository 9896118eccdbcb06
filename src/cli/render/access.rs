//! Who may use the API.

use crate::api::access::{AccessEntry, AccessKind, AccessReport, WhoAmI};

use super::grid::{Cell, Column, Grid};
use super::{Page, Render, Tone, number};

impl Render for AccessReport {
    /// The secret alone: it goes into a variable or a file; the facts are told beside it.
    fn text(&self, _: &Page) -> String {
        format!("{}\n", self.token)
    }

    fn names(&self) -> Vec<String> {
        vec![self.id.clone()]
    }
}

impl Render for WhoAmI {
    fn text(&self, _: &Page) -> String {
        format!("{}, {}\n", self.name, self.role)
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl Render for Vec<AccessEntry> {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::long("ID"),
            Column::text("ROLE"),
            Column::text("FOR"),
            Column::text("STATE"),
            Column::text("EXPIRES"),
            Column::long("BY").when(page.wide),
        ]);
        for row in self {
            let (state, tone) = match (row.expired, row.kind) {
                (true, _) => ("expired", Tone::Faint),
                (false, AccessKind::Token) => ("token", Tone::Good),
                (false, AccessKind::Certificate) => ("certificate", Tone::Good),
            };
            let expires = match row.expires_unix_ms {
                0 => "never".to_owned(),
                at => number::moment(at),
            };
            grid.row([
                row.id.as_str().into(),
                row.role.to_string().into(),
                Cell::or_dash(&row.name),
                Cell::new(state, tone),
                expires.into(),
                row.created_by.as_str().into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|row| row.id.clone()).collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some(
            "Nobody is let in; make a token with `meshctl access create NAME --role viewer`.",
        )
    }
}
