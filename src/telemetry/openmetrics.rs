//! OpenMetrics text, written by `prometheus-client`.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry as Collectors;

use super::names::Kind;
use super::registry::to_float;
use super::{Family, Value};

/// The content type of [`render`]'s result.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug)]
struct Gathered(Vec<Family>);

/// All families as OpenMetrics text.
pub fn render(families: Vec<Family>) -> String {
    let mut collectors = Collectors::default();
    collectors.register_collector(Box::new(Gathered(families)));
    let mut out = String::new();
    // Writing to a String cannot fail.
    if prometheus_client::encoding::text::encode(&mut out, &collectors).is_err() {
        out.clear();
    }
    out
}

impl Collector for Gathered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in &self.0 {
            let kind = match family.metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let name = family.metric.name;
            let mut metric = encoder.encode_descriptor(
                name.strip_suffix("_total").unwrap_or(name),
                family.metric.help.trim_end_matches('.'),
                None,
                kind,
            )?;
            for sample in &family.samples {
                let labelled = metric.encode_family(&sample.labels)?;
                match &sample.value {
                    Value::Counter(value) => ConstCounter::new(*value).encode(labelled)?,
                    Value::Gauge(value) => {
                        ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX))
                            .encode(labelled)?;
                    }
                    Value::Histogram {
                        bounds,
                        cumulative,
                        count,
                        sum,
                    } => {
                        let mut labelled = labelled;
                        let mut before = 0;
                        let buckets: Vec<(f64, u64)> = bounds
                            .iter()
                            .map(|bound| to_float(*bound) / 1000.0)
                            .chain([f64::INFINITY])
                            .zip(cumulative.iter().chain([count]))
                            .map(|(bound, total)| {
                                let own = total.saturating_sub(before);
                                before = *total;
                                (bound, own)
                            })
                            .collect();
                        labelled.encode_histogram::<NoLabelSet>(*sum, *count, &buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::super::{Sample, names};
    use super::*;

    #[test]
    fn counters_keep_one_suffix_and_histograms_end_at_infinity() {
        let text = render(vec![
            Family {
                metric: names::REQUESTS,
                samples: vec![Sample {
                    labels: vec![("reporter", "source".to_owned())],
                    value: Value::Counter(3),
                }],
            },
            Family {
                metric: names::REQUEST_DURATION,
                samples: vec![Sample {
                    labels: vec![("reporter", "source".to_owned())],
                    value: Value::Histogram {
                        bounds: Cow::Borrowed(&names::BOUNDS_MILLI),
                        cumulative: vec![1; 19],
                        count: 2,
                        sum: 1.5,
                    },
                }],
            },
        ]);
        assert!(
            text.contains("istio_requests_total{reporter=\"source\"} 3"),
            "{text}"
        );
        assert!(
            text.contains("le=\"+Inf\"") && text.contains("_count{reporter=\"source\"} 2"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
