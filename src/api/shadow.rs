//! Answers to copies of calls, compared with those that callers got.

use serde::{Deserialize, Serialize};

/// `GET /shadows?window=3600&service=&namespace=`, at most the last hour.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShadowReport {
    /// Length of the window.
    pub window_seconds: u64,
    /// End of the window.
    pub at_unix_ms: u64,
    /// One for each service whose calls are copied and compared.
    pub services: Vec<ShadowRow>,
}

/// What came of it for one service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShadowRow {
    /// `name.namespace`.
    pub service: String,
    /// Pairs of answers that were compared, whole or partly.
    pub compared: u64,
    /// Those in which something differed.
    pub different: u64,
    /// Those whose bodies were too large or coded in a way that is not read; the rest was the same.
    pub partly: u64,
    /// Copies that got no answer where the caller got one.
    pub unanswered: u64,
    /// Pairs that were left out, as there was too much else to do.
    pub skipped: u64,
    /// Share of `different` in `compared`, in percent; absent when nothing was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub different_percent: Option<f64>,
    /// Where, the most frequent first.
    pub differences: Vec<ShadowDifference>,
}

/// One place in which answers differed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShadowDifference {
    /// `status`, `header` or `body`.
    pub part: String,
    /// Name of the field, or place in JSON; empty for a status, and for a body that is no JSON.
    pub at: String,
    /// Pairs in which it differed.
    pub count: u64,
}

impl ShadowReport {
    /// Several control planes' reports of the same window as one.
    pub fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        let mut sum = Self::default();
        for report in all {
            sum.window_seconds = sum.window_seconds.max(report.window_seconds);
            sum.at_unix_ms = sum.at_unix_ms.max(report.at_unix_ms);
            for row in report.services {
                match sum
                    .services
                    .iter_mut()
                    .find(|known| known.service == row.service)
                {
                    Some(known) => known.add(row),
                    None => sum.services.push(row),
                }
            }
        }
        sum.services.sort_by(|a, b| a.service.cmp(&b.service));
        sum.services.iter_mut().for_each(ShadowRow::finish);
        sum
    }
}

impl ShadowRow {
    fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.different += other.different;
        self.partly += other.partly;
        self.unanswered += other.unanswered;
        self.skipped += other.skipped;
        for one in other.differences {
            self.count(&one.part, &one.at, one.count);
        }
    }

    /// Adds `count` pairs that differed at a place.
    pub fn count(&mut self, part: &str, at: &str, count: u64) {
        let mut known = self.differences.iter_mut();
        match known.find(|known| known.part == part && known.at == at) {
            Some(known) => known.count += count,
            None => self.differences.push(ShadowDifference {
                part: part.to_owned(),
                at: at.to_owned(),
                count,
            }),
        }
    }

    /// Orders the places, and works out the share.
    pub fn finish(&mut self) {
        let key = |one: &ShadowDifference| (u64::MAX - one.count, one.part.clone(), one.at.clone());
        self.differences.sort_by_key(key);
        self.different_percent = percent(self.different, self.compared);
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a share is an estimate"
)]
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(compared: u64, different: u64, at: &str) -> ShadowReport {
        let mut row = ShadowRow {
            service: "reviews.default".to_owned(),
            compared,
            different,
            ..ShadowRow::default()
        };
        row.count("body", at, different);
        row.finish();
        ShadowReport {
            window_seconds: 60,
            at_unix_ms: 5,
            services: vec![row],
        }
    }

    #[test]
    fn reports_of_replicas_are_added() {
        let sum = ShadowReport::sum([
            report(100, 1, "$.a"),
            report(300, 3, "$.b"),
            report(0, 0, "$.a"),
        ]);
        let row = &sum.services[0];
        assert_eq!(
            (row.compared, row.different, row.different_percent),
            (400, 4, Some(1.0))
        );
        let places: Vec<(&str, u64)> = row
            .differences
            .iter()
            .map(|one| (one.at.as_str(), one.count))
            .collect();
        assert_eq!(places, [("$.b", 3), ("$.a", 1)]);
    }
}
