//! Endpoints that proxies have ejected: outlier detection leaves them out for a while.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::registry::EndpointReport;
use super::stats::StatsRow;

/// `GET /ejections?service=&namespace=`: one endpoint that one proxy leaves out now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EjectionReport {
    /// `name.namespace`.
    pub service: String,
    /// Service port.
    pub port: u16,
    /// The subset to which it is not called; empty where rules know none.
    pub subset: String,
    /// Where peers connect.
    pub address: String,
    /// Instance; empty when none is known there any more.
    pub instance: String,
    /// Version (canonical revision); likewise.
    pub version: String,
    /// Who has ejected it, and for how long.
    #[serde(flatten)]
    pub by: EjectedBy,
}

/// Who leaves an endpoint out, why, since when and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EjectedBy {
    /// The proxy, `name.namespace`.
    pub proxy: String,
    /// Its workload, `name.namespace`; empty when it is not known.
    pub workload: String,
    /// Envoy's name for this kind of ejection, such as `consecutive_5xx`.
    pub reason: String,
    /// When it began.
    pub since_unix_ms: u64,
    /// When it ends, unless a health check that is passed ends it before.
    pub until_unix_ms: u64,
}

/// Says of each endpoint who has ejected it.
pub fn mark(endpoints: &mut [EndpointReport], ejections: &[EjectionReport]) {
    for row in endpoints {
        let of = ejections.iter().filter(|one| {
            one.address == row.address && one.port == row.port && one.service == row.service
        });
        // The whole of a service and its subsets are judged apart; of one proxy the longest counts.
        let mut by: Vec<EjectedBy> = Vec::new();
        for one in of {
            match by.iter_mut().find(|known| known.proxy == one.by.proxy) {
                Some(known) if known.until_unix_ms < one.by.until_unix_ms => {
                    known.clone_from(&one.by);
                }
                Some(_) => {}
                None => by.push(one.by.clone()),
            }
        }
        by.sort();
        row.ejected_by = by;
    }
}

/// Counts for each row the endpoints that somebody has ejected: of its service and version and, where rows are `by_source`,
/// those that its caller has. Rows of a route have none, since routes share what they lead to.
pub fn count(rows: &mut [StatsRow], by_source: bool, ejections: &[EjectionReport]) {
    for row in rows.iter_mut().filter(|row| row.route.is_empty()) {
        let of = ejections.iter().filter(|one| {
            one.service == row.service
                && (row.version.is_empty() || row.version == one.version)
                && (!by_source || row.source == one.by.workload)
        });
        let addresses: BTreeSet<&str> = of.map(|one| one.address.as_str()).collect();
        row.ejected = u64::try_from(addresses.len()).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ejection(address: &str, proxy: &str, until_unix_ms: u64) -> EjectionReport {
        EjectionReport {
            service: "reviews.default".to_owned(),
            port: 9080,
            address: address.to_owned(),
            version: "v1".to_owned(),
            by: EjectedBy {
                proxy: format!("{proxy}-1.default"),
                workload: format!("{proxy}.default"),
                until_unix_ms,
                ..EjectedBy::default()
            },
            ..EjectionReport::default()
        }
    }

    #[test]
    fn endpoints_are_counted_once_however_many_proxies_leave_them_out() {
        let all = [
            ejection("10.0.0.1:80", "page", 1),
            ejection("10.0.0.1:80", "admin", 1),
            ejection("10.0.0.2:80", "page", 1),
        ];
        let row = |source: &str, version: &str, route: &str| StatsRow {
            service: "reviews.default".to_owned(),
            source: source.to_owned(),
            version: version.to_owned(),
            route: route.to_owned(),
            ..StatsRow::default()
        };
        let counts = |by_source, rows: [StatsRow; 3]| {
            let mut rows = rows;
            count(&mut rows, by_source, &all);
            rows.map(|row| row.ejected)
        };
        let by_version = [row("", "", ""), row("", "v1", ""), row("", "v2", "")];
        assert_eq!(counts(false, by_version), [2, 2, 0]);
        let by_source = [
            row("page.default", "", ""),
            row("admin.default", "", ""),
            // Callers without a proxy eject nothing.
            row("", "", ""),
        ];
        assert_eq!(counts(true, by_source), [2, 1, 0]);
        assert_eq!(
            counts(
                false,
                [row("", "", "a"), row("", "v1", "a"), row("", "", "")]
            ),
            [0, 0, 2]
        );
    }
}
