//! Prometheus' text format, version 0.0.4.

use std::fmt::Write as _;

use super::names::Kind;
use super::registry::to_float;
use super::{Family, Sample, Value};

/// The content type of [`render`]'s result.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All families as text.
pub fn render(families: &[Family]) -> String {
    let mut out = String::with_capacity(4096);
    for family in families {
        let name = family.metric.name;
        let kind = match family.metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        line(
            &mut out,
            format_args!("# HELP {name} {}", family.metric.help),
        );
        line(&mut out, format_args!("# TYPE {name} {kind}"));
        for sample in &family.samples {
            write_sample(&mut out, name, sample);
        }
    }
    out
}

pub(super) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    if out.write_fmt(text).is_ok() {
        out.push('\n');
    }
}

fn write_sample(out: &mut String, name: &str, sample: &Sample) {
    match &sample.value {
        Value::Counter(value) | Value::Gauge(value) => {
            out.push_str(name);
            write_labels(out, sample, None);
            line(out, format_args!(" {value}"));
        }
        Value::Histogram {
            bounds,
            cumulative,
            count,
            sum,
            ..
        } => {
            let bounds = bounds.iter().map(|bound| to_float(*bound) / 1000.0);
            let bounds = bounds.zip(cumulative.iter());
            for (bound, value) in bounds.chain([(f64::INFINITY, count)]) {
                let bound = if bound.is_finite() {
                    bound.to_string()
                } else {
                    "+Inf".to_owned()
                };
                out.push_str(name);
                out.push_str("_bucket");
                write_labels(out, sample, Some(&bound));
                line(out, format_args!(" {value}"));
            }
            out.push_str(name);
            out.push_str("_sum");
            write_labels(out, sample, None);
            line(out, format_args!(" {sum}"));
            out.push_str(name);
            out.push_str("_count");
            write_labels(out, sample, None);
            line(out, format_args!(" {count}"));
        }
    }
}

pub(super) fn write_labels(out: &mut String, sample: &Sample, bound: Option<&str>) {
    if sample.labels.is_empty() && bound.is_none() {
        return;
    }
    out.push('{');
    let labels = sample
        .labels
        .iter()
        .map(|(name, value)| (*name, value.as_str()));
    for (at, (name, value)) in labels.chain(bound.map(|bound| ("le", bound))).enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let text = render(&[Family {
            metric: names::REQUESTS,
            samples: vec![Sample {
                labels: vec![("source_app", "a\"b\\c\nd".to_owned())],
                value: Value::Counter(7),
            }],
        }]);
        assert_eq!(
            text,
            "# HELP istio_requests_total Requests handled.\n# TYPE istio_requests_total counter\n\
             istio_requests_total{source_app=\"a\\\"b\\\\c\\nd\"} 7\n"
        );
    }
}
