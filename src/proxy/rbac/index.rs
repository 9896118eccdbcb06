//! Policies by what they ask for, so that a request looks at few of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::mesh::rbac::{Action, Entry, Facts, Reading, Rules, Term, holds};
use crate::mesh::route::TextMatch;
use crate::mesh::route::matching::split_query;
use crate::rt::HashMap;

/// Policies of one action.
#[derive(Debug)]
pub(crate) struct Index {
    rules: Arc<Rules>,
    /// In the order of their names, with how often each held.
    entries: Vec<(String, Entry, AtomicU64)>,
    /// Those that hold for some paths only, by one of these.
    exact: HashMap<Box<[u8]>, Vec<u32>>,
    /// The same by how the path begins, by length.
    prefixes: BTreeMap<usize, HashMap<Box<[u8]>, Vec<u32>>>,
    /// All others.
    rest: Vec<u32>,
    looks_behind: bool,
}

/// Policies that can hold for a connection.
#[derive(Debug)]
pub(crate) struct Reached {
    /// By place, one bit each.
    alive: Vec<u64>,
    /// Of [`Index::rest`].
    rest: Vec<u32>,
}

impl Reached {
    fn has(&self, at: u32) -> bool {
        let word = self
            .alive
            .get(usize::try_from(at / 64).unwrap_or(usize::MAX));
        word.is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}

/// A path that a policy asks for.
enum Key<'t> {
    Exact(&'t str),
    Prefix(&'t str),
}

impl Index {
    pub(crate) fn new(rules: &Arc<Rules>) -> Self {
        let any_case = Reading::of(rules.action) == Reading::Some;
        let bytes = |text: &str| -> Box<[u8]> {
            let text = text.as_bytes();
            if any_case {
                text.to_ascii_lowercase()
            } else {
                text.to_vec()
            }
            .into()
        };
        let mut index = Self {
            entries: Vec::with_capacity(rules.policies.len()),
            exact: HashMap::default(),
            prefixes: BTreeMap::new(),
            rest: Vec::new(),
            looks_behind: false,
            rules: Arc::clone(rules),
        };
        for (at, (name, entry)) in (0_u32..).zip(&rules.policies) {
            index.looks_behind |= entry.principals.iter().any(looks_behind);
            match alternatives(&entry.permissions).or_else(|| alternatives(&entry.principals)) {
                None => index.rest.push(at),
                Some(keys) => {
                    for key in keys {
                        let list = match key {
                            Key::Exact(text) => index.exact.entry(bytes(text)),
                            Key::Prefix(text) => {
                                let length = index.prefixes.entry(text.len());
                                length.or_default().entry(bytes(text))
                            }
                        };
                        let list = list.or_default();
                        if list.last() != Some(&at) {
                            list.push(at);
                        }
                    }
                }
            }
            index
                .entries
                .push((name.clone(), entry.clone(), AtomicU64::new(0)));
        }
        index
    }

    pub(crate) fn action(&self) -> Action {
        self.rules.action
    }

    /// Whether a term looks at whoever began.
    pub(crate) fn looks_behind(&self) -> bool {
        self.looks_behind
    }

    /// The name of a policy.
    pub(crate) fn name(&self, at: u32) -> &str {
        self.entry(at).map_or("", |(name, ..)| name.as_str())
    }

    fn entry(&self, at: u32) -> Option<&(String, Entry, AtomicU64)> {
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// Counts that a policy held.
    pub(crate) fn note(&self, policy: Option<u32>) {
        if let Some((.., count)) = policy.and_then(|at| self.entry(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often each policy held, for those that did.
    pub(crate) fn held(&self) -> Vec<(&str, u64)> {
        let counts = self.entries.iter();
        counts
            .map(|(name, _, count)| (name.as_str(), count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// The policies that can hold for the connection of `facts`, whatever is asked on it.
    pub(crate) fn reached(&self, facts: &Facts<'_>) -> Reached {
        let mut alive = vec![0_u64; self.entries.len().div_ceil(64)];
        for (at, (_, entry, _)) in self.entries.iter().enumerate() {
            let can = |terms: &[Term]| terms.iter().any(|term| fixed(term, facts) != Some(false));
            if can(&entry.principals)
                && can(&entry.permissions)
                && let Some(word) = alive.get_mut(at / 64)
            {
                *word |= 1 << (at % 64);
            }
        }
        let mut reached = Reached {
            alive,
            rest: Vec::new(),
        };
        let rest = self.rest.iter().copied();
        reached.rest = rest.filter(|at| reached.has(*at)).collect();
        reached
    }

    /// Whether it passes, and the first policy that holds.
    pub(crate) fn judge(
        &self,
        facts: &Facts<'_>,
        reached: Option<&Reached>,
    ) -> (bool, Option<u32>) {
        let reading = Reading::of(self.rules.action);
        let held = |at: &u32| {
            let entry = self.entry(*at);
            entry.is_some_and(|(_, entry, _)| entry.holds(facts, reading))
        };
        // In another reading of the path others may hold, too.
        let every = reading == Reading::Some && facts.loose_path.is_some();
        let first = match reached.filter(|_| !every) {
            None => (0_u32..).take(self.entries.len()).find(held),
            Some(reached) => {
                let mut candidates: SmallVec<[u32; 16]> = SmallVec::new();
                if let Some(request) = facts.request {
                    let (path, _) = split_query(request.path_and_query());
                    self.at(path, reading, &mut |at| {
                        if reached.has(at) {
                            candidates.push(at);
                        }
                    });
                }
                if candidates.is_empty() {
                    reached.rest.iter().copied().find(held)
                } else {
                    // The first by name, as it is told to whoever reads logs.
                    candidates.extend(reached.rest.iter().copied());
                    candidates.sort_unstable();
                    candidates.into_iter().find(held)
                }
            }
        };
        let passes = match self.rules.action {
            Action::Allow => first.is_some(),
            Action::Deny => first.is_none(),
            Action::Log => true,
        };
        (passes, first)
    }

    /// Those that ask for `path`.
    fn at(&self, path: &[u8], reading: Reading, visit: &mut dyn FnMut(u32)) {
        if self.exact.is_empty() && self.prefixes.is_empty() {
            return;
        }
        let lower;
        let path = if reading == Reading::Some {
            lower = path.to_ascii_lowercase();
            lower.as_slice()
        } else {
            path
        };
        for at in self.exact.get(path).into_iter().flatten() {
            visit(*at);
        }
        for (length, all) in &self.prefixes {
            let Some(start) = path.get(..*length) else {
                break;
            };
            for at in all.get(start).into_iter().flatten() {
                visit(*at);
            }
        }
    }
}

fn looks_behind(term: &Term) -> bool {
    match term {
        Term::Behind(_) => true,
        Term::All(terms) | Term::OneOf(terms) => terms.iter().any(looks_behind),
        Term::Not(term) => looks_behind(term),
        _ => false,
    }
}

/// Paths of which one must be asked for when one of `terms` holds; `None` where that may be any.
fn alternatives(terms: &[Term]) -> Option<Vec<Key<'_>>> {
    let mut all = Vec::new();
    for term in terms {
        all.extend(paths(term)?);
    }
    Some(all)
}

fn paths(term: &Term) -> Option<Vec<Key<'_>>> {
    match term {
        Term::Path(TextMatch::Exact(text)) => Some(vec![Key::Exact(text)]),
        Term::Path(TextMatch::Prefix(text)) => Some(vec![Key::Prefix(text)]),
        Term::All(terms) => terms.iter().find_map(paths),
        Term::OneOf(terms) => alternatives(terms),
        _ => None,
    }
}

/// Whether a term holds, where the connection says that already.
fn fixed(term: &Term, facts: &Facts<'_>) -> Option<bool> {
    match term {
        Term::Any => Some(true),
        Term::All(terms) => {
            let mut all = Some(true);
            for term in terms {
                match fixed(term, facts) {
                    Some(true) => {}
                    Some(false) => return Some(false),
                    None => all = None,
                }
            }
            all
        }
        Term::OneOf(terms) => {
            let mut all = Some(false);
            for term in terms {
                match fixed(term, facts) {
                    Some(false) => {}
                    Some(true) => return Some(true),
                    None => all = None,
                }
            }
            all
        }
        Term::Not(term) => fixed(term, facts).map(|held| !held),
        // How it is read does not matter for these.
        Term::Caller(_) | Term::From(_) | Term::To(_) | Term::ToPorts(..) | Term::ServerName(_) => {
            Some(holds(term, facts, Reading::All))
        }
        Term::Header(_)
        | Term::Host(_)
        | Term::Path(_)
        | Term::Template(_)
        | Term::Claim(_)
        | Term::Behind(_) => None,
    }
}
