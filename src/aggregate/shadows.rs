//! What proxies count of answers to copies, by minute, within a fixed bound.

use std::collections::BTreeMap;

use crate::api::shadow::{ShadowReport, ShadowRow};
use crate::telemetry::names::{SHADOW_COMPARED, SHADOW_DIFFERENCES};
use crate::telemetry::shadow::{AT, FOLDED, OUTCOME, PART, SERVICE};

use super::sample::{Sample, Value};

/// Length of a slot, in milliseconds.
const SLOT_MS: u64 = 60_000;
/// Slots that are kept: an hour.
const SLOTS: u64 = 60;
/// How far back can be asked, in milliseconds.
pub const MOST_MS: u64 = SLOTS * SLOT_MS;
/// Counts of one slot; more are not told.
const MAX_COUNTS: usize = 2_000;
/// Counters of one proxy that are followed.
const MAX_OF_NODE: usize = 1_000;
/// Proxies whose counters are followed.
const MAX_NODES: usize = 20_000;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Outcome(String),
    /// Part, and place.
    Difference(String, String),
}

/// Counts of the last hour.
#[derive(Debug, Default)]
pub struct Shadows {
    nodes: BTreeMap<String, Cursor>,
    slots: BTreeMap<u64, BTreeMap<(String, What), u64>>,
}

#[derive(Debug, Default)]
struct Cursor {
    seen_unix_ms: u64,
    counts: BTreeMap<(String, What), u64>,
}

impl Shadows {
    /// Adds what `node` counted since its last push; one that was never heard of began at zero.
    pub fn push(&mut self, node: &str, samples: &[Sample<'_>], now_unix_ms: u64) {
        let ours = samples
            .iter()
            .filter_map(|sample| Some((key(sample)?, total(sample)?)));
        let mut ours = ours.peekable();
        if ours.peek().is_none() {
            return;
        }
        self.turn(now_unix_ms);
        if self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(node) {
            return;
        }
        let cursor = self.nodes.entry(node.to_owned()).or_default();
        cursor.seen_unix_ms = now_unix_ms;
        let slot = self.slots.entry(now_unix_ms / SLOT_MS).or_default();
        for (key, total) in ours {
            if cursor.counts.len() >= MAX_OF_NODE && !cursor.counts.contains_key(&key) {
                continue;
            }
            let last = cursor.counts.insert(key.clone(), total).unwrap_or(0);
            // A proxy that counts from the beginning has restarted.
            let more = total.checked_sub(last).unwrap_or(total);
            if more == 0 {
                continue;
            }
            let full = slot.len() >= MAX_COUNTS && !slot.contains_key(&key);
            let key = match key {
                (service, What::Difference(part, _)) if full => {
                    (service, What::Difference(part, FOLDED.to_owned()))
                }
                key => key,
            };
            *slot.entry(key).or_default() += more;
        }
    }

    fn turn(&mut self, now_unix_ms: u64) {
        let oldest = (now_unix_ms / SLOT_MS).saturating_sub(SLOTS);
        self.slots = self.slots.split_off(&oldest);
        let silent = now_unix_ms.saturating_sub(24 * MOST_MS);
        self.nodes.retain(|_, cursor| cursor.seen_unix_ms >= silent);
    }

    /// What was counted in the window that ends at `now`, of one service or of all.
    pub fn report(&self, service: Option<&str>, window_ms: u64, now_unix_ms: u64) -> ShadowReport {
        let from = now_unix_ms.saturating_sub(window_ms.min(MOST_MS)) / SLOT_MS;
        let mut rows: BTreeMap<&str, ShadowRow> = BTreeMap::new();
        let slots = self.slots.range(from..=now_unix_ms / SLOT_MS);
        for ((of, what), count) in slots.flat_map(|(_, slot)| slot) {
            if service.is_some_and(|service| service != of) {
                continue;
            }
            let row = rows.entry(of).or_default();
            match what {
                What::Difference(part, at) => row.count(part, at, *count),
                What::Outcome(outcome) => {
                    let (compared, apart) = match outcome.as_str() {
                        "different" => (true, Some(&mut row.different)),
                        "partly" => (true, Some(&mut row.partly)),
                        "unanswered" => (false, Some(&mut row.unanswered)),
                        "skipped" => (false, Some(&mut row.skipped)),
                        _ => (true, None),
                    };
                    if let Some(apart) = apart {
                        *apart += count;
                    }
                    if compared {
                        row.compared += count;
                    }
                }
            }
        }
        let rows = rows.into_iter().map(|(service, mut row)| {
            service.clone_into(&mut row.service);
            row.finish();
            row
        });
        ShadowReport {
            window_seconds: window_ms / 1_000,
            at_unix_ms: now_unix_ms,
            services: rows.collect(),
        }
    }
}

fn key(sample: &Sample<'_>) -> Option<(String, What)> {
    let label = |name: &str| {
        let mut labels = sample.labels.iter();
        let found = labels.find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let what = if sample.name == SHADOW_COMPARED.name {
        What::Outcome(label(OUTCOME)?)
    } else if sample.name == SHADOW_DIFFERENCES.name {
        What::Difference(label(PART)?, label(AT)?)
    } else {
        return None;
    };
    Some((label(SERVICE)?, what))
}

fn total(sample: &Sample<'_>) -> Option<u64> {
    match sample.value {
        Value::Counter(total) => Some(total),
        Value::Histogram(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::shadow::{Example, Outcome, Shadows as Counted};
    use crate::telemetry::{Family, Value as Told};

    /// The families as they are pushed.
    fn pushed(families: &[Family]) -> Vec<Sample<'_>> {
        let mut all = Vec::new();
        for family in families {
            for sample in &family.samples {
                let Told::Counter(total) = sample.value else {
                    panic!("counters only")
                };
                let labels = sample.labels.iter();
                all.push(Sample {
                    name: family.metric.name,
                    labels: labels
                        .map(|(name, value)| (*name, value.as_str()))
                        .collect(),
                    value: Value::Counter(total),
                });
            }
        }
        all
    }

    fn counted(same: u64, different: u64) -> Vec<Family> {
        let mut counted = Counted::default();
        for _ in 0..same {
            counted.compared("a.b", Outcome::Same);
        }
        for _ in 0..different {
            counted.compared("a.b", Outcome::Different);
            counted.differs(Example {
                service: "a.b".to_owned(),
                part: "body",
                at: "$.price".to_owned(),
                primary: String::new(),
                shadow: String::new(),
                at_unix_ms: 0,
            });
        }
        counted.compared("a.b", Outcome::Unanswered);
        counted.families()
    }

    #[test]
    fn what_was_counted_is_told_once_by_window() {
        let mut shadows = Shadows::default();
        shadows.push("one", &pushed(&counted(10, 1)), 60_000);
        shadows.push("one", &pushed(&counted(10, 1)), 65_000);
        shadows.push("two", &pushed(&counted(9, 0)), 65_000);
        shadows.push("one", &pushed(&counted(12, 2)), 185_000);
        // It has restarted.
        shadows.push("one", &pushed(&counted(1, 0)), 190_000);
        let row = |window: u64| {
            shadows
                .report(Some("a.b"), window, 200_000)
                .services
                .pop()
                .unwrap()
        };
        let all = row(MOST_MS);
        assert_eq!((all.compared, all.different, all.unanswered), (24, 2, 2));
        assert_eq!(
            (all.differences[0].at.as_str(), all.differences[0].count),
            ("$.price", 2)
        );
        let last = row(10_000);
        assert_eq!((last.compared, last.different), (4, 1));
        assert!(
            shadows
                .report(Some("c.d"), MOST_MS, 200_000)
                .services
                .is_empty()
        );
    }

    #[test]
    fn an_hour_is_kept() {
        let mut shadows = Shadows::default();
        for minute in 0..200 {
            shadows.push("one", &pushed(&counted(minute + 1, 0)), minute * SLOT_MS);
        }
        assert!(shadows.slots.len() <= 61, "{}", shadows.slots.len());
    }
}
