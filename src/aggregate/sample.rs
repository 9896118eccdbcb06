//! What a proxy pushed, as plain values.

use envoy_types::pb::io::prometheus::client::{MetricFamily, MetricType};

use super::histogram::bound;

/// One cumulative value with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'m> {
    /// Metric name, such as `istio_requests_total`.
    pub name: &'m str,
    /// Names and values of labels, by name.
    pub labels: Vec<(&'m str, &'m str)>,
    /// The value since the proxy started.
    pub value: Value,
}

/// A cumulative value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A counter.
    Counter(u64),
    /// A histogram: observations up to each bound, cumulative over bounds, ascending.
    Histogram(Vec<(u64, u64)>),
}

impl Sample<'_> {
    /// A label, or `unknown` as Istio writes it.
    pub fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(known, _)| *known == name);
        found.map_or("unknown", |(_, value)| value)
    }
}

/// Counters and histograms of those families that `wanted` names; gauges and summaries are not series here.
pub fn samples(families: &[MetricFamily], wanted: impl Fn(&str) -> bool) -> Vec<Sample<'_>> {
    let mut out = Vec::new();
    for family in families.iter().filter(|family| wanted(family.name())) {
        let kind = family.r#type();
        for metric in &family.metric {
            let value = match kind {
                MetricType::Counter => metric
                    .counter
                    .as_ref()
                    .map(|counter| Value::Counter(whole(counter.value()))),
                MetricType::Histogram => metric.histogram.as_ref().map(|histogram| {
                    let mut buckets: Vec<(u64, u64)> = histogram
                        .bucket
                        .iter()
                        .map(|bucket| (bound(bucket.upper_bound()), bucket.cumulative_count()))
                        .collect();
                    if buckets.last().is_none_or(|(last, _)| *last != u64::MAX) {
                        buckets.push((u64::MAX, histogram.sample_count()));
                    }
                    Value::Histogram(buckets)
                }),
                _ => None,
            };
            if let Some(value) = value {
                let mut labels: Vec<(&str, &str)> = metric
                    .label
                    .iter()
                    .map(|pair| (pair.name(), pair.value()))
                    .collect();
                labels.sort_unstable();
                out.push(Sample {
                    name: family.name(),
                    labels,
                    value,
                });
            }
        }
    }
    out
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::as_conversions,
    reason = "counters are whole numbers in a float; it saturates"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}
