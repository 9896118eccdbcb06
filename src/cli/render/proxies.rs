//! Connected proxies, and whether each has what it should have.

use crate::api::proxies::{ProxySync, TypeSync};

use super::{Cell, Column, Grid, Page, Render, Tone, mixed, number};

/// The types of resources, in the order in which they are sent.
const TYPES: [&str; 4] = ["CDS", "EDS", "LDS", "RDS"];

impl Render for Vec<ProxySync> {
    fn text(&self, page: &Page) -> String {
        let namespaces = page.wide || mixed(self.iter().map(|row| row.namespace.as_str()));
        let clients = page.wide || self.iter().any(|row| row.client != "meshctl");
        let mut columns = vec![
            Column::text("NAMESPACE").when(namespaces),
            Column::long("NAME"),
            Column::text("CLIENT").when(clients),
            Column::text("SYNCED"),
        ];
        columns.extend(TYPES.map(Column::text));
        columns.extend([
            Column::number("WORLD"),
            Column::number("SINCE"),
            Column::text("PROTOCOL").when(page.wide),
            Column::long("IDENTITY").when(page.wide),
        ]);
        let mut grid = Grid::new(columns);
        for row in self {
            let mut cells = vec![
                row.namespace.as_str().into(),
                row.name.as_str().into(),
                row.client.as_str().into(),
                if row.synced {
                    Cell::new("yes", Tone::Good)
                } else {
                    Cell::new("no", Tone::Bad)
                },
            ];
            cells.extend(TYPES.map(|kind| state(row.types.iter().find(|sync| sync.kind == kind))));
            cells.extend([
                row.revision_acked.to_string().into(),
                number::age(row.connected_since_unix_ms, page.now_unix_ms).into(),
                row.protocol.as_str().into(),
                Cell::or_dash(row.identity.as_deref().unwrap_or_default()),
            ]);
            grid.row(cells);
        }
        let mut text = grid.draw(page);
        for row in self {
            for sync in &row.types {
                if let Some(rejected) = &sync.rejected {
                    let label = page.paint.bad("refused:");
                    text.push_str(&format!(
                        "{label} {} of world {} by {}\n  {}\n",
                        sync.kind, rejected.revision, row.name, rejected.reason
                    ));
                }
            }
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.iter()
            .map(|row| format!("{}.{}", row.name, row.namespace))
            .collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some("No proxy is connected")
    }
}

/// How many resources of a type it has, or why not.
fn state(sync: Option<&TypeSync>) -> Cell {
    match sync {
        None => Cell::or_dash(""),
        Some(sync) if sync.rejected.is_some() => Cell::new("refused", Tone::Bad),
        Some(sync) if sync.waiting => Cell::new("waiting", Tone::Warn),
        Some(sync) => sync.resources.to_string().into(),
    }
}
