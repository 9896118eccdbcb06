//! What both ends of a connection say of it, held against each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::edges::{EdgeDifference, EdgeRow, EdgeSecurity, EdgesReport, ReportedBy};
use crate::telemetry::registry::to_float;

use super::links::{Link, Links, MOST_MS, Traffic};

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Asked {
    /// Length of the window, in milliseconds; at most [`MOST_MS`].
    pub window_ms: u64,
    /// Only edges from or to this service or workload, `name.namespace`.
    pub around: Option<String>,
    /// Only calls of this workload, `name.namespace`.
    pub from: Option<String>,
    /// Only calls to this service or workload, `name.namespace`.
    pub to: Option<String>,
    /// Only edges with an end in this namespace.
    pub namespace: Option<String>,
    /// Only what nothing encrypts, or of which the ends say different things.
    pub insecure: bool,
}

/// The edges of the window that ends at `now`. Numbers are those of the caller's side where it tells of the
/// edge: there a request that is tried again counts as often.
pub fn edges(links: &Links, asked: &Asked, now_unix_ms: u64) -> EdgesReport {
    parts(links, asked, now_unix_ms).report()
}

/// What each end said, before it is held against what the other did: those may have told different control planes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parts {
    asked: Asked,
    at_unix_ms: u64,
    links: Vec<(Link, Traffic)>,
}

/// What was said in the window that ends at `now`.
pub fn parts(links: &Links, asked: &Asked, now_unix_ms: u64) -> Parts {
    let window = links.window(asked.window_ms.min(MOST_MS), now_unix_ms);
    let links = window.into_iter();
    Parts {
        asked: asked.clone(),
        at_unix_ms: now_unix_ms,
        links: links
            .map(|(link, traffic)| (link.clone(), traffic))
            .collect(),
    }
}

impl Parts {
    /// All of them as one, which answers what the first was asked.
    pub fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        let mut all = all.into_iter();
        let mut sum = all.next().unwrap_or_default();
        let mut links: BTreeMap<Link, Traffic> = sum.links.drain(..).collect();
        for parts in all {
            sum.at_unix_ms = sum.at_unix_ms.max(parts.at_unix_ms);
            for (link, traffic) in parts.links {
                links.entry(link).or_default().merge(&traffic);
            }
        }
        sum.links = links.into_iter().collect();
        sum
    }

    /// What they come to.
    pub fn report(&self) -> EdgesReport {
        report(&self.asked, &self.links, self.at_unix_ms)
    }
}

fn report(asked: &Asked, links: &[(Link, Traffic)], now_unix_ms: u64) -> EdgesReport {
    let window_ms = asked.window_ms.min(MOST_MS);
    let mut said = Vec::new();
    let mut heard = Vec::new();
    for (link, traffic) in links {
        if link.by_source {
            said.push((link, row(link, traffic, window_ms)));
        } else {
            heard.push((link, row(link, traffic, window_ms)));
        }
    }
    heard.retain(|(link, _)| !agreed(link, &mut said));
    // What is left over of the same two ends must be the same connections, told differently.
    heard.retain(|(link, row)| {
        let theirs = said.iter_mut().find(|(other, row)| {
            row.reported_by == ReportedBy::Source && is_of(other, link) && !is_plain(link)
        });
        let Some((_, theirs)) = theirs else {
            return true;
        };
        theirs.reported_by = ReportedBy::Both;
        theirs.differences = differences(theirs, row);
        false
    });
    let mut edges: Vec<EdgeRow> = said
        .into_iter()
        .chain(heard)
        .map(|(_, row)| row)
        .filter(|row| asked.wants(row))
        .collect();
    edges.sort_by(|a, b| key(a).cmp(&key(b)));
    EdgesReport {
        window_seconds: window_ms / 1_000,
        at_unix_ms: now_unix_ms,
        edges,
    }
}

fn key(row: &EdgeRow) -> [&str; 6] {
    [
        &row.source,
        &row.destination,
        &row.destination_workload,
        &row.client_id,
        &row.protocol,
        &row.tls_version,
    ]
}

/// Whether some row of the callers' says the same; those that do are told by both. Who calls with bytes does
/// not say which workload it is, so there its identity must do, and several may share one.
fn agreed(link: &Link, said: &mut [(&Link, EdgeRow)]) -> bool {
    let mut found = false;
    for (other, row) in said.iter_mut() {
        if is_of(other, link) && !is_plain(link) && is_same(other, link) {
            row.reported_by = ReportedBy::Both;
            found = true;
        }
    }
    found
}

/// Whether two links have the same ends.
fn is_of(source: &Link, destination: &Link) -> bool {
    let caller = if destination.source.is_empty() {
        !destination.client.is_empty() && source.client == destination.client
    } else {
        source.source == destination.source
    };
    caller && source.destination == destination.destination && source.tcp == destination.tcp
}

/// The called side does not know who a caller in plaintext is.
fn is_plain(link: &Link) -> bool {
    link.client.is_empty()
}

fn is_same(a: &Link, b: &Link) -> bool {
    a.protection == b.protection
        && a.version == b.version
        && a.cipher == b.cipher
        && a.group == b.group
        && a.client == b.client
        && a.server == b.server
}

fn differences(source: &EdgeRow, destination: &EdgeRow) -> Vec<EdgeDifference> {
    let security = |row: &EdgeRow| match row.security {
        EdgeSecurity::MutualTls => "mutualTls",
        EdgeSecurity::Tls => "tls",
        EdgeSecurity::ApplicationTls => "applicationTls",
        EdgeSecurity::Plaintext => "plaintext",
    };
    [
        ("security", security(source), security(destination)),
        ("clientId", &source.client_id, &destination.client_id),
        ("serverId", &source.server_id, &destination.server_id),
        ("tlsVersion", &source.tls_version, &destination.tls_version),
        ("cipher", &source.cipher, &destination.cipher),
        (
            "keyExchange",
            &source.key_exchange,
            &destination.key_exchange,
        ),
    ]
    .into_iter()
    .filter(|(_, source, destination)| source != destination)
    .map(|(key, source, destination)| EdgeDifference {
        key: key.to_owned(),
        source: source.to_owned(),
        destination: destination.to_owned(),
    })
    .collect()
}

fn row(link: &Link, traffic: &Traffic, window_ms: u64) -> EdgeRow {
    let security = match link.protection.as_str() {
        "mutual_tls" => EdgeSecurity::MutualTls,
        "tls" => EdgeSecurity::Tls,
        "application_tls" => EdgeSecurity::ApplicationTls,
        _ => EdgeSecurity::Plaintext,
    };
    EdgeRow {
        source: link.source.clone(),
        destination: link.service.clone(),
        destination_workload: link.destination.clone(),
        protocol: if link.tcp { "tcp" } else { "http" }.to_owned(),
        client_id: proven(security, &link.client),
        server_id: proven(security, &link.server),
        encrypted: security != EdgeSecurity::Plaintext,
        security,
        reason: reason(security, link).to_owned(),
        tls_version: link.version.clone(),
        cipher: link.cipher.clone(),
        key_exchange: link.group.clone(),
        reported_by: if link.by_source {
            ReportedBy::Source
        } else {
            ReportedBy::Destination
        },
        differences: Vec::new(),
        requests_per_second: rate(traffic.requests, window_ms),
        requests: traffic.requests,
        connections_opened: traffic.opened,
        connections_open: traffic.open,
        tcp_sent_bytes: traffic.to,
        tcp_received_bytes: traffic.from,
    }
}

/// An identity is shown to the other side by mTLS alone: whoever reports knows its own in any case.
fn proven(security: EdgeSecurity, id: &str) -> String {
    match security {
        EdgeSecurity::MutualTls => id.to_owned(),
        _ => String::new(),
    }
}

/// Why there is no mTLS.
fn reason(security: EdgeSecurity, link: &Link) -> &'static str {
    match security {
        EdgeSecurity::MutualTls => "",
        EdgeSecurity::Tls if link.by_source => "externalTls",
        EdgeSecurity::Tls => "gatewayTls",
        EdgeSecurity::ApplicationTls => "applicationTls",
        EdgeSecurity::Plaintext => match link.reason.as_str() {
            "permissive" => "permissive",
            "disabled" if link.by_source => "disabledByCaller",
            "disabled" => "disabled",
            "no_mtls_at_endpoint" => "noMtlsAtEndpoint",
            "external" => "external",
            "passthrough" => "passthrough",
            "gateway" => "gateway",
            _ => "unknown",
        },
    }
}

fn rate(count: u64, window_ms: u64) -> f64 {
    to_float(count) * 1_000.0 / to_float(window_ms.max(1))
}

impl Asked {
    fn wants(&self, row: &EdgeRow) -> bool {
        let destination = |name: &String| {
            *name == row.destination
                || *name == row.destination_workload
                || row.destination.starts_with(&format!("{name}."))
        };
        let source = |name: &String| *name == row.source;
        let space = |namespace: &String| {
            [&row.source, &row.destination, &row.destination_workload]
                .into_iter()
                .any(|name| name.rsplit_once('.').is_some_and(|(_, of)| of == namespace))
        };
        let around = |name: &String| destination(name) || source(name);
        self.around.as_ref().is_none_or(around)
            && self.from.as_ref().is_none_or(source)
            && self.to.as_ref().is_none_or(destination)
            && self.namespace.as_ref().is_none_or(space)
            && (!self.insecure || !row.encrypted || !row.differences.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::links::Counted;
    use super::*;

    const PAGE: &str = "spiffe://cluster.local/ns/default/sa/page";
    const REVIEWS: &str = "spiffe://cluster.local/ns/default/sa/reviews";

    fn mutual(by_source: bool) -> Link {
        Link {
            by_source,
            source: "page-v1.default".to_owned(),
            destination: "reviews-v1.default".to_owned(),
            service: "reviews.default".to_owned(),
            client: PAGE.to_owned(),
            server: REVIEWS.to_owned(),
            protection: "mutual_tls".to_owned(),
            version: "TLSv1.3".to_owned(),
            cipher: "TLS_AES_256_GCM_SHA384".to_owned(),
            group: "X25519MLKEM768".to_owned(),
            ..Link::default()
        }
    }

    fn told(links: &[Link]) -> Links {
        let mut all = Links::default();
        all.hear("a", 0);
        for link in links {
            all.add(("a", 0), link.clone(), Counted::Opened, (2, 2));
            all.add(("a", 0), link.clone(), Counted::Requests, (30, 30));
        }
        all
    }

    fn asked() -> Asked {
        Asked {
            window_ms: 60_000,
            ..Asked::default()
        }
    }

    #[test]
    fn what_both_say_is_one_row() {
        let report = edges(&told(&[mutual(true), mutual(false)]), &asked(), 1_000);
        let [row] = report.edges.as_slice() else {
            panic!("{report:?}")
        };
        assert_eq!(row.reported_by, ReportedBy::Both);
        assert!(row.encrypted && row.differences.is_empty());
        assert_eq!((row.requests, row.connections_open), (30, 2));
        assert!((row.requests_per_second - 0.5).abs() < 1e-9);
        assert_eq!(row.key_exchange, "X25519MLKEM768");
    }

    #[test]
    fn what_they_say_differently_is_shown() {
        let other = Link {
            group: "X25519".to_owned(),
            server: PAGE.to_owned(),
            ..mutual(false)
        };
        let report = edges(&told(&[mutual(true), other]), &asked(), 1_000);
        let [row] = report.edges.as_slice() else {
            panic!("{report:?}")
        };
        let keys: Vec<&str> = row.differences.iter().map(|d| d.key.as_str()).collect();
        assert_eq!(keys, ["serverId", "keyExchange"]);
        let insecure = Asked {
            insecure: true,
            ..asked()
        };
        let both = told(&[mutual(true), mutual(false)]);
        assert_eq!(edges(&both, &insecure, 0).edges, []);
        assert_eq!(report.edges.len(), 1);
    }

    #[test]
    fn bytes_are_told_apart_by_identity() {
        let tcp = |by_source, source: &str| Link {
            tcp: true,
            source: source.to_owned(),
            ..mutual(by_source)
        };
        let all = told(&[tcp(true, "page-v1.default"), tcp(false, "")]);
        let report = edges(&all, &asked(), 0);
        let rows: Vec<_> = report
            .edges
            .iter()
            .map(|row| (row.source.as_str(), row.reported_by))
            .collect();
        assert_eq!(rows, [("page-v1.default", ReportedBy::Both)]);
    }

    #[test]
    fn a_caller_in_plaintext_is_nobody() {
        let plain = |by_source, reason: &str| Link {
            by_source,
            protection: "none".to_owned(),
            reason: reason.to_owned(),
            version: String::new(),
            cipher: String::new(),
            group: String::new(),
            ..mutual(by_source)
        };
        let outside = Link {
            source: String::new(),
            client: String::new(),
            ..plain(false, "permissive")
        };
        let all = told(&[
            mutual(true),
            mutual(false),
            plain(true, "disabled"),
            outside,
        ]);
        let insecure = Asked {
            insecure: true,
            ..asked()
        };
        let report = edges(&all, &insecure, 0);
        let rows: Vec<_> = report
            .edges
            .iter()
            .map(|row| {
                assert_eq!((row.client_id.as_str(), row.server_id.as_str()), ("", ""));
                (row.source.as_str(), row.reason.as_str())
            })
            .collect();
        assert_eq!(
            rows,
            [("", "permissive"), ("page-v1.default", "disabledByCaller")]
        );
    }

    #[test]
    fn ends_are_chosen_by_name_and_namespace() {
        let all = told(&[mutual(true), mutual(false)]);
        let some = |change: fn(&mut Asked)| {
            let mut asked = asked();
            change(&mut asked);
            edges(&all, &asked, 0).edges.len()
        };
        assert_eq!(some(|a| a.around = Some("reviews.default".to_owned())), 1);
        assert_eq!(some(|a| a.around = Some("page-v1.default".to_owned())), 1);
        assert_eq!(some(|a| a.around = Some("ratings.default".to_owned())), 0);
        assert_eq!(some(|a| a.to = Some("reviews-v1.default".to_owned())), 1);
        assert_eq!(some(|a| a.to = Some("page-v1.default".to_owned())), 0);
        assert_eq!(some(|a| a.from = Some("page-v1.default".to_owned())), 1);
        assert_eq!(some(|a| a.namespace = Some("other".to_owned())), 0);
    }
}
