//! OpenMetrics text, version 1.0.0: as Prometheus' own, with exemplars and an end that says that nothing is missing.

use super::names::Kind;
use super::recorder::Exemplar;
use super::registry::to_float;
use super::text::{line, write_labels};
use super::{Family, Sample, Value};

/// The content type of [`render`]'s result.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All families as OpenMetrics text.
pub fn render(families: &[Family]) -> String {
    let mut out = String::with_capacity(4096);
    for family in families {
        let (name, kind) = match family.metric.kind {
            // The family of a counter has no suffix, its samples have.
            Kind::Counter => (
                family
                    .metric
                    .name
                    .strip_suffix("_total")
                    .unwrap_or(family.metric.name),
                "counter",
            ),
            Kind::Gauge => (family.metric.name, "gauge"),
            Kind::Histogram => (family.metric.name, "histogram"),
        };
        let help = family.metric.help;
        line(&mut out, format_args!("# HELP {name} {help}"));
        line(&mut out, format_args!("# TYPE {name} {kind}"));
        for sample in &family.samples {
            let suffix = match family.metric.kind {
                Kind::Counter => "_total",
                Kind::Gauge | Kind::Histogram => "",
            };
            write_sample(&mut out, (name, suffix), sample);
        }
    }
    out.push_str("# EOF\n");
    out
}

fn write_sample(out: &mut String, (name, suffix): (&str, &str), sample: &Sample) {
    match &sample.value {
        Value::Counter(value) | Value::Gauge(value) => {
            out.push_str(name);
            out.push_str(suffix);
            write_labels(out, sample, None);
            line(out, format_args!(" {value}"));
        }
        Value::Histogram {
            bounds,
            cumulative,
            count,
            sum,
            exemplars,
        } => {
            let bounds = bounds.iter().map(|bound| to_float(*bound) / 1000.0);
            let buckets = bounds.zip(cumulative.iter());
            let buckets = buckets.chain([(f64::INFINITY, count)]);
            for (at, (bound, value)) in buckets.enumerate() {
                // Whole numbers have a point here.
                let bound = if bound.is_finite() {
                    format!("{bound:?}")
                } else {
                    "+Inf".to_owned()
                };
                out.push_str(name);
                out.push_str("_bucket");
                write_labels(out, sample, Some(&bound));
                let exemplar = exemplars.iter().find(|(bucket, _)| *bucket == at);
                match exemplar {
                    None => line(out, format_args!(" {value}")),
                    Some((_, exemplar)) => line(out, format_args!(" {value}{}", told(exemplar))),
                }
            }
            out.push_str(name);
            out.push_str("_sum");
            write_labels(out, sample, None);
            line(out, format_args!(" {sum:?}"));
            out.push_str(name);
            out.push_str("_count");
            write_labels(out, sample, None);
            line(out, format_args!(" {count}"));
        }
    }
}

/// An exemplar behind its bucket: the trace, how long it took in milliseconds, when that was in seconds.
fn told(exemplar: &Exemplar) -> String {
    let Exemplar {
        trace,
        micros,
        at_unix_ms,
    } = exemplar;
    let (value, at) = (to_float(*micros) / 1000.0, to_float(*at_unix_ms) / 1000.0);
    format!(" # {{trace_id=\"{trace:032x}\"}} {value:?} {at:?}")
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::super::{Sample, names};
    use super::*;

    #[test]
    fn counters_keep_one_suffix_and_histograms_end_at_infinity() {
        let text = render(&[
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
                        exemplars: vec![(
                            19,
                            Exemplar {
                                trace: 0x0af7_6519,
                                micros: 4_000_001,
                                at_unix_ms: 1_520_879_607_789,
                            },
                        )],
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
        let slow = "le=\"+Inf\"} 2 # {trace_id=\"0000000000000000000000000af76519\"} 4000.001 1520879607.789\n";
        assert!(text.contains(slow), "{text}");
        assert!(text.contains("le=\"5.0\"} 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
