//! Who calls whom.

use crate::api::edges::{EdgeRow, EdgeSecurity, EdgesReport, ReportedBy};

use super::{Cell, Column, Grid, Page, Render, Tone, number};

impl Render for EdgesReport {
    fn text(&self, page: &Page) -> String {
        let any = |has: fn(&EdgeRow) -> bool| self.edges.iter().any(has);
        let differing = any(|row| !row.differences.is_empty());
        // Two versions of a service would look like the same edge twice.
        let mut ends: Vec<_> = self.edges.iter().map(ends).collect();
        ends.sort_unstable();
        let alike = ends.iter().zip(ends.iter().skip(1)).any(|(a, b)| a == b);
        let mut grid = Grid::new([
            Column::long("SOURCE"),
            Column::long("DESTINATION"),
            Column::long("WORKLOAD").when(page.wide || alike),
            Column::text("SECURED"),
            Column::text("TLS").when(page.wide),
            Column::text("CIPHER").when(page.wide),
            Column::text("KEY EXCHANGE").when(page.wide),
            Column::long("CLIENT ID").when(page.wide),
            Column::long("SERVER ID").when(page.wide),
            Column::text("TOLD BY").when(page.wide),
            Column::number("RPS"),
            Column::number("CONNS"),
            Column::number("SENT").when(page.wide),
            Column::number("RECEIVED").when(page.wide),
            Column::long("DIFFERENCES").when(page.wide && differing),
        ]);
        for row in &self.edges {
            let tcp = row.protocol == "tcp";
            let bytes = |count: u64| match count {
                0 if !tcp => Cell::or_dash(""),
                count => number::bytes(count).into(),
            };
            grid.row([
                source(row),
                row.destination.as_str().into(),
                Cell::or_dash(&row.destination_workload),
                secured(row),
                Cell::or_dash(&row.tls_version),
                Cell::or_dash(&row.cipher),
                Cell::or_dash(&row.key_exchange),
                Cell::or_dash(&row.client_id),
                Cell::or_dash(&row.server_id),
                match row.reported_by {
                    ReportedBy::Both => "both",
                    ReportedBy::Source => "source",
                    ReportedBy::Destination => "destination",
                }
                .into(),
                if tcp {
                    Cell::or_dash("")
                } else {
                    number::rate(row.requests_per_second).into()
                },
                row.connections_open.to_string().into(),
                bytes(row.tcp_sent_bytes),
                bytes(row.tcp_received_bytes),
                Cell::or_dash(&differences(row)),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        let names = self.edges.iter().map(|row| {
            let source = match row.source.as_str() {
                "" => "outside",
                known => known,
            };
            format!("{source}->{}", row.destination)
        });
        let mut names: Vec<String> = names.collect();
        names.dedup();
        names
    }

    fn empty(&self) -> Option<&'static str> {
        self.edges
            .is_empty()
            .then_some("No such connections in this window")
    }
}

fn ends(row: &EdgeRow) -> (&str, &str, &str) {
    (&row.source, &row.client_id, &row.destination)
}

/// The workload, else the account that was proven, else nobody that the mesh knows.
fn source(row: &EdgeRow) -> Cell {
    if !row.source.is_empty() {
        return row.source.as_str().into();
    }
    match row.client_id.rsplit_once("/ns/") {
        Some((_, account)) => format!("ns/{account}").into(),
        None => Cell::new("(outside)", Tone::Faint),
    }
}

/// What the ends say differently, in words.
fn differences(row: &EdgeRow) -> String {
    let told = row.differences.iter().map(|different| {
        let or_none = |text: &str| match text {
            "" => "none".to_owned(),
            text => text.to_owned(),
        };
        let (source, destination) = (or_none(&different.source), or_none(&different.destination));
        format!(
            "{}: source says {source}, destination {destination}",
            different.key
        )
    });
    let told: Vec<String> = told.collect();
    told.join("; ")
}

fn secured(row: &EdgeRow) -> Cell {
    if !row.differences.is_empty() {
        return Cell::new("ends differ", Tone::Bad);
    }
    let tone = match row.security {
        EdgeSecurity::MutualTls => Tone::Good,
        EdgeSecurity::Tls | EdgeSecurity::ApplicationTls => Tone::Plain,
        EdgeSecurity::Plaintext => Tone::Bad,
    };
    Cell::new(in_words(row), tone)
}

fn in_words(row: &EdgeRow) -> &'static str {
    match (row.security, row.reason.as_str()) {
        (EdgeSecurity::MutualTls, _) => "mTLS",
        (EdgeSecurity::Tls, "gatewayTls") => "TLS (gateway)",
        (EdgeSecurity::Tls, _) => "TLS (external)",
        (EdgeSecurity::ApplicationTls, _) => "application TLS",
        (EdgeSecurity::Plaintext, reason) => match reason {
            "permissive" => "no: PERMISSIVE",
            "disabled" => "no: DISABLE",
            "disabledByCaller" => "no: caller's rule",
            "noMtlsAtEndpoint" => "no: no mTLS there",
            "external" => "no: external",
            "passthrough" => "no: passthrough",
            "gateway" => "no: gateway port",
            _ => "no",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Paint;
    use super::*;

    #[test]
    fn versions_of_a_service_are_told_apart() {
        let page = Page {
            width: None,
            wide: false,
            paint: Paint::new(false),
            now_unix_ms: 0,
        };
        let row = |workload: &str| EdgeRow {
            source: "web.default".to_owned(),
            destination: "shop.default".to_owned(),
            destination_workload: workload.to_owned(),
            ..EdgeRow::default()
        };
        let text = |edges| {
            let report = EdgesReport {
                window_seconds: 60,
                at_unix_ms: 0,
                edges,
            };
            report.text(&page)
        };
        let both = text(vec![row("shop-v1.default"), row("shop-v2.default")]);
        assert!(both.contains("shop-v1.default") && both.contains("shop-v2.default"));
        assert!(!text(vec![row("shop-v1.default")]).contains("shop-v1"));
    }
}
