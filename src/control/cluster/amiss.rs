//! Objects of the cluster that are wrong although the API server has them: written before the webhook was
//! there, or while it was away. What is said of them on themselves: a condition here, an event in `events`.
//!
//! Istio's kinds say nothing of themselves while they are well, as under Istio: what was said goes once the
//! object is mended. Our own say whether they are accepted. The Gateway API's say so in their own statuses.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::status::Told;
use super::webhook::words;
use crate::control::index::Index;
use crate::mesh::{Finding, Severity};
use crate::resource::json::set;
use crate::resource::{Key, Object, codes};

/// Condition of Istio's kinds (its name): false while what is written is not what is done.
const RECONCILED: &str = "Reconciled";
/// Condition of our own kinds, as the Gateway API has it.
const ACCEPTED: &str = "Accepted";
/// Findings that a condition tells one by one; `meshctl check` and `analyze` have all.
const MOST: usize = 16;
/// Longer messages are cut, in bytes: conditions may have 32 KiB.
const LONGEST: usize = 8_192;

/// Why an object is not done as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It cannot be read.
    Invalid,
    /// It names what is not there.
    Unresolved,
    /// It is read, and something of it cannot be honoured.
    NotHonored,
}

impl Why {
    /// The reason, as conditions and events have it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::Unresolved => "RefNotResolved",
            Self::NotHonored => "NotHonored",
        }
    }
}

/// An object that is wrong, and how.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Amiss {
    pub(super) key: Key,
    /// As the cluster has it.
    pub(super) api_version: String,
    /// Of which object of that name.
    pub(super) uid: String,
    pub(super) generation: u64,
    pub(super) why: Why,
    /// What that means for the mesh.
    pub(super) effect: String,
    /// Errors, the first first.
    pub(super) findings: Vec<Finding>,
    /// Its namespace takes nothing new any more.
    pub(super) leaving: bool,
}

impl Amiss {
    /// What is wrong and what that means, in at most `most` bytes.
    pub(super) fn message(&self, most: usize) -> String {
        let told = self.findings.iter().take(MOST).map(words);
        let mut parts = vec![self.effect.clone()];
        parts.extend(told);
        let more = self.findings.len().saturating_sub(MOST);
        if more > 0 {
            parts.push(format!("and {more} more"));
        }
        cut(&parts.join("; "), most)
    }

    /// The status of it, where it has one of ours.
    fn status(&self, since: &str) -> Option<Value> {
        let kind = said_by(&self.api_version)?;
        let condition = json!({
            "type": kind,
            "status": "False",
            "reason": self.why.reason(),
            "message": self.message(LONGEST),
            "lastTransitionTime": since,
            "observedGeneration": self.generation,
        });
        let mut status = json!({
            "conditions": [condition],
            "observedGeneration": self.generation,
        });
        if kind == RECONCILED {
            let messages = self.findings.iter().take(MOST).map(validation);
            set(
                &mut status,
                "validationMessages",
                messages.collect::<Vec<_>>(),
            );
        }
        Some(status)
    }
}

/// `text`, or as much of it as fits.
fn cut(text: &str, most: usize) -> String {
    const MARK: &str = " …";
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MARK}", text.get(..end).unwrap_or_default())
}

/// The condition by which a kind says that it is well, if it is one that has a status of this sort.
fn said_by(api_version: &str) -> Option<&'static str> {
    match api_version.split_once('/')?.0 {
        "policy.meshctl.dev" => Some(ACCEPTED),
        group if group.ends_with(".istio.io") => Some(RECONCILED),
        _ => None,
    }
}

/// A finding as Istio's analysis writes it.
fn validation(finding: &Finding) -> Value {
    let code = finding.code.as_str();
    let name = codes::find(code).map_or("Invalid", |known| known.name);
    let mut message = json!({"type": {"name": name, "code": code}, "level": "ERROR"});
    if code.starts_with("IST") {
        let page = code.to_lowercase();
        let page = format!("https://istio.io/latest/docs/reference/config/analysis/{page}/");
        set(&mut message, "documentationUrl", page);
    }
    message
}

/// Whether a status still says of an object that it is wrong, in our words.
fn still_says(object: &Value) -> bool {
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let reasons = [Why::Invalid, Why::Unresolved, Why::NotHonored].map(Why::reason);
    conditions.into_iter().flatten().any(|one| {
        let reason = one.get("reason").and_then(Value::as_str);
        one["type"] == RECONCILED
            && one["status"] == "False"
            && reason.is_some_and(|reason| reasons.contains(&reason))
    })
}

/// A status that says nothing of ours any more.
fn nothing() -> Value {
    json!({
        "conditions": [{"type": RECONCILED, "status": null}],
        "observedGeneration": null,
        "validationMessages": null,
    })
}

fn accepted(generation: u64, since: &str) -> Value {
    json!({
        "conditions": [{
            "type": ACCEPTED,
            "status": "True",
            "reason": "Accepted",
            "message": "it is in force",
            "lastTransitionTime": since,
            "observedGeneration": generation,
        }],
        "observedGeneration": generation,
    })
}

fn text(object: &Value, pointer: &str) -> String {
    let text = object.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

fn generation(object: &Value) -> u64 {
    let generation = object.pointer("/metadata/generation");
    generation.and_then(Value::as_u64).unwrap_or_default()
}

/// Whether a namespace is being deleted: it takes nothing new.
pub(super) fn is_leaving(namespace: &Value) -> bool {
    namespace.pointer("/metadata/deletionTimestamp").is_some()
        || namespace.pointer("/status/phase") == Some(&json!("Terminating"))
}

impl Index {
    /// Every object of the cluster that is wrong, by name.
    pub(super) async fn amiss(&self) -> Vec<Amiss> {
        let state = self.state.lock().await;
        let held = &state.followed.objects;
        let leaving: BTreeSet<&str> = held
            .iter()
            .filter(|(key, object)| key.kind == "Namespace" && is_leaving(&object.raw))
            .map(|(key, _)| key.name.as_str())
            .collect();
        let errors = |findings: &[Finding]| -> Vec<Finding> {
            let errors = findings
                .iter()
                .filter(|one| one.severity == Severity::Error);
            errors.cloned().collect()
        };
        let mut all: BTreeMap<&Key, Amiss> = BTreeMap::new();
        for (key, unread, findings) in state.followed.unread() {
            let findings = errors(findings);
            // What a catalogue made is nobody's object.
            if findings.is_empty() || unread.uid.is_empty() {
                continue;
            }
            let effect = match held.get(key) {
                Some(last) => format!(
                    "it cannot be read, and generation {} stays in force",
                    generation(&last.raw)
                ),
                None => "it cannot be read, and is left out".to_owned(),
            };
            let amiss = Amiss {
                key: key.clone(),
                api_version: unread.api_version.clone(),
                uid: unread.uid.clone(),
                generation: unread.generation,
                why: Why::Invalid,
                effect,
                findings,
                leaving: leaving.contains(key.namespace.as_str()),
            };
            all.insert(key, amiss);
        }
        for finding in errors(&state.findings) {
            let named = Key {
                kind: finding.origin.kind.clone(),
                namespace: finding.origin.namespace.clone(),
                name: finding.origin.name.clone(),
            };
            let Some((key, object)) = held.get_key_value(&named) else {
                continue;
            };
            let uid = text(&object.raw, "/metadata/uid");
            if uid.is_empty() {
                continue;
            }
            let amiss = all.entry(key).or_insert_with(|| {
                read(key, object, uid, leaving.contains(key.namespace.as_str()))
            });
            // Of one that cannot be read, an earlier one is in force: what is wrong with that is past.
            if amiss.why == Why::Invalid {
                continue;
            }
            if !codes::find(&finding.code).is_some_and(|code| code.forced) {
                amiss.why = Why::NotHonored;
                "not all of it can be honoured".clone_into(&mut amiss.effect);
            }
            amiss.findings.push(finding);
        }
        all.into_values().collect()
    }

    /// What is to be said of the objects that are wrong, those that were, and our own, as of `since` (RFC 3339).
    pub(super) async fn said_of(&self, amiss: &[Amiss], since: &str) -> Vec<Told> {
        let mut told: Vec<Told> = amiss
            .iter()
            .filter_map(|amiss| {
                Some(Told {
                    api_version: amiss.api_version.clone(),
                    key: amiss.key.clone(),
                    uid: amiss.uid.clone(),
                    status: amiss.status(since)?,
                })
            })
            .collect();
        let wrong: BTreeSet<&Key> = amiss.iter().map(|amiss| &amiss.key).collect();
        let state = self.state.lock().await;
        for (key, object) in &state.followed.objects {
            let status = match said_by(&object.api_version) {
                Some(ACCEPTED) => accepted(generation(&object.raw), since),
                Some(_) if still_says(&object.raw) => nothing(),
                _ => continue,
            };
            let uid = text(&object.raw, "/metadata/uid");
            if wrong.contains(key) || uid.is_empty() {
                continue;
            }
            told.push(Told {
                api_version: object.api_version.clone(),
                key: key.clone(),
                uid,
                status,
            });
        }
        told
    }
}

/// One that is read, before it is known what is wrong with it.
fn read(key: &Key, object: &Object, uid: String, leaving: bool) -> Amiss {
    Amiss {
        key: key.clone(),
        api_version: object.api_version.clone(),
        uid,
        generation: generation(&object.raw),
        why: Why::Unresolved,
        effect: "it is in force, and what it names is not there".to_owned(),
        findings: Vec::new(),
        leaving,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Origin;

    fn amiss(findings: usize) -> Amiss {
        let one = |n| {
            Finding::new(
                Severity::Error,
                "IST0106",
                &Origin::default(),
                format!("é{n}"),
            )
        };
        Amiss {
            key: Key {
                kind: "VirtualService".to_owned(),
                namespace: "shop".to_owned(),
                name: "cart".to_owned(),
            },
            api_version: "networking.istio.io/v1".to_owned(),
            uid: "1".to_owned(),
            generation: 2,
            why: Why::Invalid,
            effect: "é".repeat(20),
            findings: (0..findings).map(one).collect(),
            leaving: false,
        }
    }

    #[test]
    fn a_message_has_its_length_and_says_what_it_leaves_out() {
        for most in 10..60 {
            let message = amiss(3).message(most);
            assert!(message.len() <= most, "{message}");
            assert!(message.ends_with('…'), "{message}");
        }
        let message = amiss(MOST + 3).message(LONGEST);
        assert!(message.ends_with("and 3 more"), "{message}");
    }

    #[test]
    fn what_was_said_in_our_words_is_recognised_and_what_others_say_is_not() {
        let status = amiss(1).status("now").unwrap();
        assert!(still_says(&json!({"status": status})));
        let others = json!({"status": {"conditions": [
            {"type": "Reconciled", "status": "False", "message": "1/2 proxies up to date."},
            {"type": "Other", "status": "False", "reason": "Invalid"},
        ]}});
        assert!(!still_says(&others));
    }
}
