//! What was changed, by whom, and the way back.
//!
//! A change is kept with what stood there before it, so that what it did can be told from what the
//! next change of the same object found, and going back is putting the oldest of these in place.
//! How much is kept is bounded; the oldest changes go first.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::diff::RevisionReport;
use crate::api::resources::{ApplyReport, HistoryEntry, ObjectOutcome};
use crate::api::{Problem, Reason};
use crate::resource::{self, Key, Objects};
use crate::source::store::{Store, Tree};

use super::index::{Edit, Index, Tolerance, problem, refuse_errors};
use super::known::State;
use super::report::diff;

/// Most changes that are kept.
const MOST_CHANGES: usize = 1_000;
/// Most bytes that they take.
const MOST_BYTES: usize = 64 << 20;

/// A change as it is kept: what was done, and what stood there before, object by object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Change {
    #[serde(flatten)]
    pub(super) entry: HistoryEntry,
    pub(super) before: Vec<Option<Value>>,
}

impl Change {
    /// Each object that it changed, with what stood there before.
    fn objects(&self) -> impl Iterator<Item = (Key, &Option<Value>)> {
        let keys = self.entry.objects.iter().map(key_of);
        keys.zip(&self.before)
    }
}

fn key_of(object: &ObjectOutcome) -> Key {
    Key {
        kind: object.kind.clone(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
    }
}

/// How much is kept.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Number and bytes of each change, the oldest first.
    kept: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Ledger {
    /// Counts a change that is kept.
    pub(super) fn add(&mut self, revision: u64, bytes: usize) {
        self.kept.push_back((revision, bytes));
        self.bytes += bytes;
    }

    /// The oldest changes that must go when one of `bytes` comes.
    pub(super) fn surplus(&self, bytes: usize) -> Vec<u64> {
        let mut count = self.kept.len() + 1;
        let mut sum = self.bytes + bytes;
        self.kept
            .iter()
            .take_while(|(_, bytes)| {
                let too_much = count > MOST_CHANGES || sum > MOST_BYTES;
                count -= 1;
                sum -= bytes;
                too_much
            })
            .map(|(revision, _)| *revision)
            .collect()
    }

    /// Forgets the `count` oldest.
    pub(super) fn forget(&mut self, count: usize) {
        for (_, bytes) in self.kept.drain(..count.min(self.kept.len())) {
            self.bytes -= bytes;
        }
    }
}

/// Which changes are asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only this one.
    pub revision: Option<u64>,
    /// Only of this kind of object.
    pub kind: Option<&'static str>,
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only of an object of this name.
    pub name: Option<String>,
    /// At most so many; none is all.
    pub limit: Option<usize>,
}

impl Wanted {
    fn has(&self, object: &ObjectOutcome) -> bool {
        self.kind.is_none_or(|kind| object.kind == kind)
            && self.name.as_ref().is_none_or(|name| object.name == *name)
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| object.namespace == *namespace)
    }

    fn takes(&self, entry: &HistoryEntry) -> bool {
        self.revision.is_none_or(|number| entry.revision == number)
            && entry.objects.iter().any(|object| self.has(object))
    }
}

impl Index {
    /// The newest changes first.
    pub fn history(&self, wanted: &Wanted) -> Result<Vec<HistoryEntry>, Problem> {
        let changes = changes(&self.store)?.into_iter().rev();
        Ok(changes
            .map(|change| change.entry)
            .filter(|entry| wanted.takes(entry))
            .take(wanted.limit.unwrap_or(usize::MAX))
            .collect())
    }

    /// The same with what each did to the objects that are asked for.
    pub async fn revisions(&self, wanted: &Wanted) -> Result<Vec<RevisionReport>, Problem> {
        let state = self.state.lock().await;
        let changes = changes(&self.store)?;
        let mut found = told(&changes, &state.objects, wanted);
        drop(state);
        found.reverse();
        found.truncate(wanted.limit.unwrap_or(usize::MAX));
        Ok(found)
    }

    /// Goes back to what `revision` left, in one change: refused whole when it brings an error with
    /// what else there is today.
    pub async fn rollback(
        &self,
        revision: u64,
        who: String,
    ) -> Result<(ApplyReport, u64), Problem> {
        let mut state = self.state.lock().await;
        let edit = Edit {
            who,
            ..self.way_back(&state, revision)?
        };
        self.change_in(&mut state, edit).await
    }

    /// What must be changed to go back to what `revision` left.
    pub(super) fn way_back(&self, state: &State, revision: u64) -> Result<Edit, Problem> {
        let changes = changes(&self.store)?;
        let then = target(&changes, revision, state.revision)?;
        let mut edit = Edit {
            what: format!("rollback {revision}"),
            tolerance: Tolerance::Nothing,
            ..Edit::default()
        };
        let mut findings = Vec::new();
        for (key, value) in then {
            match value {
                Some(value) => {
                    let (object, found) =
                        resource::from_value(value, &format!("revision {revision}"));
                    findings.extend(found);
                    edit.put.extend(object);
                }
                None if state.objects.contains_key(&key) => edit.remove.push(key),
                None => {}
            }
        }
        refuse_errors(&findings, Tolerance::Nothing)?;
        Ok(edit)
    }
}

/// Every change that is kept, the oldest first.
fn changes(store: &Store) -> Result<Vec<Change>, Problem> {
    let records = store
        .iter(Tree::History)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| problem(&error))?;
    let read = records
        .iter()
        .filter_map(|(_, bytes)| serde_json::from_slice::<Change>(bytes).ok());
    Ok(read.collect())
}

/// What the changes that are `wanted` did. What an object became is what the next change of it found,
/// else what it is `now`.
fn told(changes: &[Change], now: &Objects, wanted: &Wanted) -> Vec<RevisionReport> {
    let mut after: BTreeMap<Key, Option<Value>> = BTreeMap::new();
    let mut found = Vec::new();
    // From the newest, so that what came later is known.
    for change in changes.iter().rev() {
        let mut report = RevisionReport {
            entry: change.entry.clone(),
            changes: Vec::new(),
        };
        for ((key, before), object) in change.objects().zip(&change.entry.objects) {
            let current = || now.get(&key).map(|object| object.raw.clone());
            let then = after.entry(key.clone()).or_insert_with(current);
            if wanted.takes(&change.entry) && wanted.has(object) {
                report
                    .changes
                    .extend(diff::object(&key, before.as_ref(), then.as_ref()));
            }
            then.clone_from(before);
        }
        if wanted.takes(&change.entry) {
            found.push(report);
        }
    }
    found.reverse();
    found
}

/// Each object that was changed after `revision`, as that left it; `newest` is the newest revision.
fn target(
    changes: &[Change],
    revision: u64,
    newest: u64,
) -> Result<BTreeMap<Key, Option<&Value>>, Problem> {
    let absent = |words: String| Problem::new(Reason::NotFound, words);
    if revision > newest {
        return Err(absent(format!(
            "there is no revision {revision}; the newest is {newest}"
        )));
    }
    let later = changes
        .iter()
        .filter(|change| change.entry.revision > revision);
    let known = later.clone().count();
    let needed = usize::try_from(newest - revision).unwrap_or(usize::MAX);
    if known < needed {
        let oldest = changes.first().map_or(newest, |c| c.entry.revision - 1);
        return Err(absent(format!(
            "what revision {revision} left is not known any more"
        ))
        .hint(format!("the oldest revision to go back to is {oldest}")));
    }
    let mut then = BTreeMap::new();
    for change in later.rev() {
        for (key, before) in change.objects() {
            then.insert(key, before.as_ref());
        }
    }
    Ok(then)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::resources::Outcome;

    fn change(revision: u64, objects: &[(&str, Outcome, Option<Value>)]) -> Change {
        Change {
            entry: HistoryEntry {
                revision,
                at_unix_ms: 0,
                who: "anna".to_owned(),
                what: "apply".to_owned(),
                objects: objects
                    .iter()
                    .map(|(name, outcome, _)| ObjectOutcome {
                        kind: "VirtualService".to_owned(),
                        namespace: "default".to_owned(),
                        name: (*name).to_owned(),
                        outcome: *outcome,
                    })
                    .collect(),
            },
            before: objects
                .iter()
                .map(|(_, _, before)| before.clone())
                .collect(),
        }
    }

    /// `a` is made, changed, and deleted; `b` is made between.
    fn past() -> Vec<Change> {
        vec![
            change(1, &[("a", Outcome::Created, None)]),
            change(
                2,
                &[
                    ("a", Outcome::Configured, Some(json!({"v": 1}))),
                    ("b", Outcome::Created, None),
                ],
            ),
            change(3, &[("a", Outcome::Deleted, Some(json!({"v": 2})))]),
        ]
    }

    fn back(revision: u64) -> Vec<(String, Option<Value>)> {
        let past = past();
        let then = target(&past, revision, 3).unwrap();
        then.into_iter()
            .map(|(key, value)| (key.name, value.cloned()))
            .collect()
    }

    #[test]
    fn the_way_back_is_what_each_later_change_found_first() {
        let (one, two) = (Some(json!({"v": 1})), Some(json!({"v": 2})));
        assert_eq!(back(3), []);
        assert_eq!(back(2), [("a".to_owned(), two)]);
        assert_eq!(back(1), [("a".to_owned(), one), ("b".to_owned(), None)]);
        assert_eq!(back(0), [("a".to_owned(), None), ("b".to_owned(), None)]);
        assert!(target(&past(), 4, 3).is_err());
        // The first change is forgotten: before it nothing is known.
        let short = past().split_off(1);
        assert!(target(&short, 1, 3).is_ok());
        let lost = target(&short, 0, 3).unwrap_err();
        assert_eq!(
            lost.hint.as_deref(),
            Some("the oldest revision to go back to is 1")
        );
    }

    #[test]
    fn each_change_is_told_by_what_the_next_one_found() {
        let told = told(&past(), &Objects::new(), &Wanted::default());
        let fields: Vec<Vec<(String, usize)>> = told
            .iter()
            .map(|report| {
                let changes = report.changes.iter();
                changes
                    .map(|change| (change.name.clone(), change.fields.len()))
                    .collect()
            })
            .collect();
        let a = |count| ("a".to_owned(), count);
        // `b` is not there any more by other means than a change, so nothing tells what it was.
        assert_eq!(fields, [vec![a(1)], vec![a(1)], vec![a(1)]]);
        assert_eq!(told[1].changes[0].fields[0].after, Some(json!(2)));
    }

    #[test]
    fn the_oldest_changes_go_first() {
        let mut ledger = Ledger::default();
        for revision in 1..=1_000 {
            assert_eq!(ledger.surplus(10), [0; 0]);
            ledger.add(revision, 10);
        }
        assert_eq!(ledger.surplus(10), [1]);
        ledger.forget(1);
        ledger.add(1_001, MOST_BYTES - 10_000);
        assert_eq!(ledger.surplus(1_000), (2..=100).collect::<Vec<_>>());
        ledger.forget(ledger.kept.len());
        assert_eq!(ledger.bytes, 0);
    }
}
