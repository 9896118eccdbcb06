//! Istio's metrics as somebody wants them told: without some series, and without some labels. Nothing is counted
//! otherwise, so it costs whoever reads, and no call; what the control plane is told of is not changed.

use std::collections::BTreeMap;

use super::registry::{Family, Sample, Value};
use crate::mesh::metrics::Change;

/// The label that says which side tells.
const REPORTER: &str = "reporter";

/// Changes of what each side tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes<'c> {
    /// Of the side of callers.
    pub source: &'c [Change],
    /// Of the side of applications.
    pub destination: &'c [Change],
}

impl Changes<'_> {
    /// `families` with these changes; without those of which nothing is left to tell.
    pub fn apply(&self, families: Vec<Family>) -> Vec<Family> {
        if self.source.is_empty() && self.destination.is_empty() {
            return families;
        }
        let families = families.into_iter().filter_map(|family| {
            let told = !family.samples.is_empty();
            let left = self.family(family);
            (!told || !left.samples.is_empty()).then_some(left)
        });
        families.collect()
    }

    fn family(&self, family: Family) -> Family {
        let name = family.metric.name;
        let (source, destination) = (outcome(self.source, name), outcome(self.destination, name));
        if source.is_none() && destination.is_none() {
            return family;
        }
        let mut samples: Vec<Sample> = Vec::with_capacity(family.samples.len());
        let mut known: BTreeMap<Vec<(&'static str, String)>, usize> = BTreeMap::new();
        for mut sample in family.samples {
            let reporter = sample.labels.iter().find(|(name, _)| *name == REPORTER);
            let outcome = match reporter.map(|(_, value)| value.as_str()) {
                Some("source") => &source,
                Some("destination") => &destination,
                // No metric of a call.
                _ => &None,
            };
            if let Some(outcome) = outcome {
                if outcome.disabled {
                    continue;
                }
                sample
                    .labels
                    .retain(|(name, _)| !outcome.without.contains(name));
            }
            let same = known.get(&sample.labels).copied();
            if let Some(before) = same.and_then(|at| samples.get_mut(at)) {
                add(&mut before.value, sample.value);
            } else {
                known.insert(sample.labels.clone(), samples.len());
                samples.push(sample);
            }
        }
        Family { samples, ..family }
    }
}

/// What becomes of a metric.
struct Outcome<'c> {
    disabled: bool,
    without: Vec<&'c str>,
}

/// None where nothing does.
fn outcome<'c>(changes: &'c [Change], name: &str) -> Option<Outcome<'c>> {
    let of = |change: &&Change| change.metric.as_deref().is_none_or(|of| of == name);
    let mut changes = changes.iter().filter(of).peekable();
    changes.peek()?;
    let mut outcome = Outcome {
        disabled: false,
        without: Vec::new(),
    };
    for change in changes {
        outcome.disabled = change.disabled.unwrap_or(outcome.disabled);
        outcome
            .without
            .extend(change.without.iter().map(String::as_str));
    }
    Some(outcome)
}

/// Two series as one; of one metric they are of one kind, and have the same bounds.
fn add(to: &mut Value, from: Value) {
    match (to, from) {
        (Value::Counter(to), Value::Counter(from)) | (Value::Gauge(to), Value::Gauge(from)) => {
            *to = to.saturating_add(from);
        }
        (
            Value::Histogram {
                cumulative,
                count,
                sum,
                exemplars,
                ..
            },
            Value::Histogram {
                cumulative: more,
                count: others,
                sum: rest,
                exemplars: examples,
                ..
            },
        ) => {
            for (to, from) in cumulative.iter_mut().zip(more) {
                *to = to.saturating_add(from);
            }
            *count = count.saturating_add(others);
            *sum += rest;
            // One for each bucket is as many as there may be.
            for (at, example) in examples {
                if exemplars.iter().all(|(known, _)| *known != at) {
                    exemplars.push((at, example));
                }
            }
            exemplars.sort_by_key(|(at, _)| *at);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::telemetry::names;

    fn labels(reporter: &str, code: &str, version: &str) -> Vec<(&'static str, String)> {
        vec![
            ("reporter", reporter.to_owned()),
            ("response_code", code.to_owned()),
            ("destination_version", version.to_owned()),
        ]
    }

    fn requests(samples: &[(&str, &str, &str, u64)]) -> Family {
        let samples = samples.iter();
        Family {
            metric: names::REQUESTS,
            samples: samples
                .map(|(reporter, code, version, count)| Sample {
                    labels: labels(reporter, code, version),
                    value: Value::Counter(*count),
                })
                .collect(),
        }
    }

    fn without(metric: Option<&str>, labels: &[&str]) -> Change {
        Change {
            metric: metric.map(str::to_owned),
            without: labels.iter().map(|name| (*name).to_owned()).collect(),
            ..Change::default()
        }
    }

    #[test]
    fn series_that_differ_in_a_removed_label_alone_are_one() {
        let family = requests(&[
            ("source", "200", "v1", 3),
            ("source", "200", "v2", 4),
            ("source", "503", "v2", 1),
            ("destination", "200", "v1", 9),
        ]);
        let source = [without(
            Some("istio_requests_total"),
            &["destination_version"],
        )];
        let changes = Changes {
            source: &source,
            ..Changes::default()
        };
        let changed = changes.apply(vec![family]);
        let told: Vec<(usize, Value)> = changed[0]
            .samples
            .iter()
            .map(|sample| (sample.labels.len(), sample.value.clone()))
            .collect();
        assert_eq!(
            told,
            [
                (2, Value::Counter(7)),
                (2, Value::Counter(1)),
                (3, Value::Counter(9))
            ]
        );
    }

    #[test]
    fn the_last_that_says_whether_a_metric_is_told_counts() {
        let off = |metric: Option<&str>, disabled| Change {
            metric: metric.map(str::to_owned),
            disabled: Some(disabled),
            ..Change::default()
        };
        let family = || requests(&[("source", "200", "v1", 3), ("destination", "200", "v1", 9)]);
        let count = |source: &[Change], destination: &[Change]| {
            let changes = Changes {
                source,
                destination,
            };
            let told = changes.apply(vec![family()]);
            told.first().map_or(0, |family| family.samples.len())
        };
        assert_eq!(count(&[], &[]), 2);
        assert_eq!(count(&[off(None, true)], &[]), 1);
        assert_eq!(count(&[off(None, true)], &[off(None, true)]), 0);
        let all = [off(None, true)];
        let changes = Changes {
            source: &all,
            destination: &all,
        };
        assert!(changes.apply(vec![family()]).is_empty(), "not even a name");
        let again = [off(None, true), off(Some("istio_requests_total"), false)];
        assert_eq!(count(&again, &[]), 2);
        assert_eq!(count(&[off(Some("istio_request_bytes"), true)], &[]), 2);
    }

    #[test]
    fn histograms_add_up() {
        let histogram = |version: &str, cumulative: [u64; 2], count, sum| Sample {
            labels: labels("source", "200", version),
            value: Value::Histogram {
                bounds: Cow::Borrowed(&[1, 2]),
                cumulative: cumulative.to_vec(),
                count,
                sum,
                exemplars: Vec::new(),
            },
        };
        let family = Family {
            metric: names::REQUEST_DURATION,
            samples: vec![
                histogram("v1", [1, 2], 3, 0.5),
                histogram("v2", [0, 4], 4, 1.5),
            ],
        };
        let source = [without(None, &["destination_version"])];
        let changes = Changes {
            source: &source,
            ..Changes::default()
        };
        let changed = changes.apply(vec![family]);
        assert_eq!(changed[0].samples.len(), 1);
        let Value::Histogram {
            cumulative,
            count,
            sum,
            ..
        } = &changed[0].samples[0].value
        else {
            panic!("another kind");
        };
        assert_eq!((cumulative.as_slice(), *count), (&[1, 6][..], 7));
        assert!((sum - 2.0).abs() < f64::EPSILON);
    }
}
