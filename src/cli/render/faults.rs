//! Faults: what there are, and how one was taken.

use crate::api::faults::{FaultStatus, InjectionReport};

use super::{Cell, Column, Grid, Page, Render, number};

fn grid(rows: &[FaultStatus], page: &Page) -> String {
    let mut grid = Grid::new([
        Column::long("SERVICE"),
        Column::number("DELAY"),
        Column::text("ABORT"),
        Column::number("SHARE"),
        Column::number("ENDS IN"),
        Column::long("ONLY"),
    ]);
    for row in rows {
        let delay = row.delay_ms.map(std::time::Duration::from_millis);
        grid.row([
            row.service.as_str().into(),
            Cell::maybe(delay, number::duration),
            Cell::or_dash(row.abort.as_deref().unwrap_or_default()),
            number::share(row.percent).into(),
            number::until(row.until_unix_ms, page.now_unix_ms).into(),
            Cell::or_dash(&row.matches.join(" ")),
        ]);
    }
    grid.draw(page)
}

impl Render for Vec<FaultStatus> {
    fn text(&self, page: &Page) -> String {
        grid(self, page)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|row| row.service.clone()).collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some("No fault is injected")
    }
}

impl Render for InjectionReport {
    fn text(&self, page: &Page) -> String {
        if let Some(fault) = &self.fault {
            grid(std::slice::from_ref(fault), page)
        } else {
            let names = self.names().join(", ");
            format!("{names} cleared\n")
        }
    }

    fn names(&self) -> Vec<String> {
        self.objects
            .iter()
            .map(|object| format!("{}.{}", object.name, object.namespace))
            .collect()
    }
}
