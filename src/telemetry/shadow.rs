//! What came of comparing answers to copies with those that callers got.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::names::{self, Metric};
use super::registry::{Family, Sample, Value};

/// Places that are told apart in all; what comes after is counted as [`FOLDED`].
const MOST: usize = 500;
/// Pairs that differed of which the values are kept, in all.
const SAMPLES: usize = 64;
/// The place of differences that there was no room for.
pub const FOLDED: &str = "(other)";

/// Label: the service whose calls are copied, `name.namespace`.
pub const SERVICE: &str = "shadowed_service";
/// Label: what came of a comparison.
pub const OUTCOME: &str = "outcome";
/// Label: what of the answers differs.
pub const PART: &str = "part";
/// Label: where in it.
pub const AT: &str = "at";

/// What came of one comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// All that is compared was the same.
    Same,
    /// Something was not.
    Different,
    /// The copy was not answered.
    Unanswered,
    /// A body was too large, or coded in a way that is not read: the rest was the same.
    Partly,
    /// There was too much else to do.
    Skipped,
}

impl Outcome {
    /// As the label has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::Unanswered => "unanswered",
            Self::Partly => "partly",
            Self::Skipped => "skipped",
        }
    }
}

/// Two values that differed, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// The service whose call was copied.
    pub service: String,
    /// `status`, `header` or `body`.
    pub part: &'static str,
    /// Where in it.
    pub at: String,
    /// What the caller got.
    pub primary: String,
    /// What the copy got.
    pub shadow: String,
    /// When.
    pub at_unix_ms: u64,
}

/// Counts of a process; not on the path of a request.
#[derive(Debug, Default)]
pub struct Shadows {
    outcomes: BTreeMap<(String, Outcome), u64>,
    differences: BTreeMap<(String, &'static str, String), u64>,
    examples: VecDeque<Example>,
}

impl Shadows {
    /// Counts a comparison for `service`.
    pub fn compared(&mut self, service: &str, outcome: Outcome) {
        *self
            .outcomes
            .entry((service.to_owned(), outcome))
            .or_default() += 1;
    }

    /// Counts a difference, and keeps its values in place of the oldest ones.
    pub fn differs(&mut self, example: Example) {
        let key = |at: &str| (example.service.clone(), example.part, at.to_owned());
        let mut place = key(&example.at);
        if self.differences.len() >= MOST && !self.differences.contains_key(&place) {
            place = key(FOLDED);
        }
        *self.differences.entry(place).or_default() += 1;
        if self.examples.len() >= SAMPLES {
            self.examples.pop_front();
        }
        self.examples.push_back(example);
    }

    /// Values that differed, the oldest first.
    pub fn examples(&self) -> Vec<Example> {
        self.examples.iter().cloned().collect()
    }

    /// As metrics; nothing where nothing was compared.
    pub fn families(&self) -> Vec<Family> {
        let family = |metric: Metric, samples: Vec<Sample>| Family { metric, samples };
        let compared = self
            .outcomes
            .iter()
            .map(|((service, outcome), count)| Sample {
                labels: vec![
                    (SERVICE, service.clone()),
                    (OUTCOME, outcome.name().to_owned()),
                ],
                value: Value::Counter(*count),
            });
        let differences = self
            .differences
            .iter()
            .map(|((service, part, at), count)| Sample {
                labels: vec![
                    (SERVICE, service.clone()),
                    (PART, (*part).to_owned()),
                    (AT, at.clone()),
                ],
                value: Value::Counter(*count),
            });
        [
            family(names::SHADOW_COMPARED, compared.collect()),
            family(names::SHADOW_DIFFERENCES, differences.collect()),
        ]
        .into_iter()
        .filter(|family| !family.samples.is_empty())
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(at: &str) -> Example {
        Example {
            service: "reviews.default".to_owned(),
            part: "body",
            at: at.to_owned(),
            primary: "1".to_owned(),
            shadow: "2".to_owned(),
            at_unix_ms: 0,
        }
    }

    #[test]
    fn places_and_examples_are_bounded() {
        let mut shadows = Shadows::default();
        for number in 0..MOST + 10 {
            shadows.differs(example(&format!("$.f{number}")));
        }
        shadows.differs(example("$.f1"));
        assert_eq!(shadows.differences.len(), MOST + 1);
        let count =
            |at: &str| shadows.differences[&("reviews.default".to_owned(), "body", at.to_owned())];
        assert_eq!((count(FOLDED), count("$.f1")), (10, 2));
        assert_eq!(shadows.examples().len(), SAMPLES);
        assert_eq!(shadows.examples().last().unwrap().at, "$.f1");
    }
}
