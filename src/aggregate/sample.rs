//! What a proxy pushed, as plain values.

use std::collections::BTreeMap;

use envoy_types::pb::io::prometheus::client::{MetricFamily, MetricType};

use super::histogram::bound;

/// One cumulative value with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Metric name, such as `istio_requests_total`.
    pub name: String,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
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

impl Sample {
    /// A label, or `unknown` as Istio writes it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("unknown", String::as_str)
    }
}

/// Counters and histograms of `families`; gauges and summaries are not series here.
pub fn samples(families: &[MetricFamily]) -> Vec<Sample> {
    let mut out = Vec::new();
    for family in families {
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
                out.push(Sample {
                    name: family.name().to_owned(),
                    labels: metric
                        .label
                        .iter()
                        .map(|pair| (pair.name().to_owned(), pair.value().to_owned()))
                        .collect(),
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
