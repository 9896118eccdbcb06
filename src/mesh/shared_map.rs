//! A sorted map whose copies share what did not change.
//!
//! A mesh has hundreds of thousands of entries and changes one of them. Entries stand in runs behind
//! pointers: a copy copies pointers to runs, a change copies one run, and what differs between two
//! copies is found in the runs that they do not share. So none of it costs more in a larger mesh, but
//! for a pointer a run.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Longest run; a longer one is cut in two.
const LONGEST: usize = 128;

type Run<K, V> = Arc<Vec<(K, V)>>;

/// A sorted map; cheap to clone.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// None is empty; in order, as are their entries.
    runs: Arc<Vec<Run<K, V>>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            runs: Arc::default(),
            len: 0,
        }
    }
}

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let all = self.runs.iter().flat_map(|run| run.iter());
        all.map(|(key, value)| (key, value))
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Whether both are one, so that nothing can differ.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.runs, &other.runs)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value of `key`.
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let run = self.runs.get(self.run_of(key))?;
        let at = run
            .binary_search_by(|(own, _)| own.borrow().cmp(key))
            .ok()?;
        run.get(at).map(|(_, value)| value)
    }

    /// The key as it stands in the map.
    pub fn key<Q>(&self, key: &Q) -> Option<&K>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let run = self.runs.get(self.run_of(key))?;
        let at = run
            .binary_search_by(|(own, _)| own.borrow().cmp(key))
            .ok()?;
        run.get(at).map(|(own, _)| own)
    }

    /// Whether there is `key`.
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.get(key).is_some()
    }

    /// The entries from `key` on, in order.
    pub fn iter_from<'a, Q>(
        &'a self,
        key: &Q,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V, Q>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let at = self.run_of(key);
        let before = self
            .runs
            .get(at)
            .map_or(0, |run| run.partition_point(|(own, _)| own.borrow() < key));
        let runs = self.runs.iter().skip(at);
        let all = runs.flat_map(|run| run.iter()).skip(before);
        all.map(|(key, value)| (key, value))
    }

    /// The run that holds `key` if any does: the last that does not begin behind it.
    fn run_of<Q>(&self, key: &Q) -> usize
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let begins_before =
            |run: &Run<K, V>| run.first().is_some_and(|(own, _)| own.borrow() <= key);
        self.runs.partition_point(begins_before).saturating_sub(1)
    }

    /// The keys whose value is not the same in `before`, as `same` judges, in order. Only runs that
    /// are not shared are looked at.
    pub fn changed<'a>(&'a self, before: &'a Self, same: impl Fn(&V, &V) -> bool) -> Vec<&'a K> {
        if self.is(before) {
            return Vec::new();
        }
        let (new, old) = unshared(&self.runs, &before.runs);
        let mut changed = Vec::new();
        let (mut new, mut old) = (new.into_iter().peekable(), old.into_iter().peekable());
        loop {
            match (new.peek(), old.peek()) {
                (Some((ours, value)), Some((theirs, was))) => match ours.cmp(theirs) {
                    std::cmp::Ordering::Less => {
                        changed.push(*ours);
                        new.next();
                    }
                    std::cmp::Ordering::Greater => {
                        changed.push(*theirs);
                        old.next();
                    }
                    std::cmp::Ordering::Equal => {
                        if !same(value, was) {
                            changed.push(*ours);
                        }
                        new.next();
                        old.next();
                    }
                },
                (Some((key, _)), None) => {
                    changed.push(*key);
                    new.next();
                }
                (None, Some((key, _))) => {
                    changed.push(*key);
                    old.next();
                }
                (None, None) => return changed,
            }
        }
    }
}

type Entries<'a, K, V> = Vec<(&'a K, &'a V)>;

/// The entries of runs that are not in both.
fn unshared<'a, K, V>(
    new: &'a [Run<K, V>],
    old: &'a [Run<K, V>],
) -> (Entries<'a, K, V>, Entries<'a, K, V>) {
    let shared = |(a, b): &(&Run<K, V>, &Run<K, V>)| Arc::ptr_eq(a, b);
    let head = new.iter().zip(old).take_while(shared).count();
    let (new, old) = (new.get(head..), old.get(head..));
    let (new, old) = (new.unwrap_or_default(), old.unwrap_or_default());
    let tail = new.iter().rev().zip(old.iter().rev());
    let tail = tail.take_while(shared).count();
    let (new, old) = (
        new.get(..new.len() - tail).unwrap_or_default(),
        old.get(..old.len() - tail).unwrap_or_default(),
    );
    // A key stands once, so what is in a run of both is nowhere else in either.
    let places = |runs: &[Run<K, V>]| runs.iter().map(Arc::as_ptr).collect::<BTreeSet<_>>();
    let (in_new, in_old) = (places(new), places(old));
    let entries = |runs: &'a [Run<K, V>], others: &BTreeSet<_>| {
        let own = runs
            .iter()
            .filter(|run| !others.contains(&Arc::as_ptr(run)));
        own.flat_map(|run| run.iter().map(|(key, value)| (key, value)))
            .collect()
    };
    (entries(new, &in_old), entries(old, &in_new))
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// The same, sharing with `before` what is the same in both as `same` judges.
    #[must_use]
    pub fn sharing(&self, before: &Self, same: impl Fn(&V, &V) -> bool) -> Self {
        let mut shared = before.clone();
        for key in self.changed(before, same) {
            match self.get(key) {
                Some(value) => shared.insert(key.clone(), value.clone()),
                None => shared.remove(key),
            };
        }
        shared
    }

    /// Sets the value of `key`; gives the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.run_of(&key);
        let runs = Arc::make_mut(&mut self.runs);
        let Some(run) = runs.get_mut(at) else {
            runs.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let run = Arc::make_mut(run);
        match run.binary_search_by(|(own, _)| own.cmp(&key)) {
            Ok(found) => {
                let (_, own) = run.get_mut(found)?;
                return Some(std::mem::replace(own, value));
            }
            Err(place) => run.insert(place, (key, value)),
        }
        if run.len() > LONGEST {
            let rest = run.split_off(run.len() / 2);
            runs.insert(at + 1, Arc::new(rest));
        }
        self.len += 1;
        None
    }

    /// Takes `key` out; gives its value.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let at = self.run_of(key);
        let run = self.runs.get(at)?;
        let found = run
            .binary_search_by(|(own, _)| own.borrow().cmp(key))
            .ok()?;
        let runs = Arc::make_mut(&mut self.runs);
        let run = Arc::make_mut(runs.get_mut(at)?);
        let (_, value) = run.remove(found);
        if run.is_empty() {
            runs.remove(at);
        }
        self.len -= 1;
        Some(value)
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || (self.len == other.len && self.iter().eq(other.iter()))
    }
}

impl<K: Eq, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_map_and_knows_what_differs_between_its_copies(
            first in proptest::collection::vec((0..600_u16, 0..3_u8), 0..900),
            then in proptest::collection::vec((0..600_u16, proptest::option::of(0..3_u8)), 0..40),
        ) {
            let mut map: SharedMap<u16, u8> = first.iter().copied().collect();
            let mut model: BTreeMap<u16, u8> = first.into_iter().collect();
            let (before, was) = (map.clone(), model.clone());
            for (key, value) in then {
                let (had, knew) = match value {
                    Some(value) => (map.insert(key, value), model.insert(key, value)),
                    None => (map.remove(&key), model.remove(&key)),
                };
                prop_assert_eq!(had, knew);
            }
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert!(before.iter().eq(was.iter()));
            prop_assert_eq!(map.len(), model.len());
            for key in 0..600 {
                prop_assert_eq!(map.get(&key), model.get(&key));
            }
            for key in (0..600).step_by(7) {
                prop_assert!(map.iter_from(&key).eq(model.range(key..)));
            }
            let differ: Vec<u16> = (0..600).filter(|key| model.get(key) != was.get(key)).collect();
            let found: Vec<u16> = map.changed(&before, |a, b| a == b).into_iter().copied().collect();
            prop_assert_eq!(found, differ);
            prop_assert_eq!(map == before, model == was);
            prop_assert_eq!(&map.sharing(&before, |a, b| a == b), &map);
            let anew: SharedMap<u16, u8> = model.into_iter().collect();
            prop_assert_eq!(anew.sharing(&before, |a, b| a == b), anew);
        }
    }

    #[test]
    fn a_change_copies_one_run() {
        let before: SharedMap<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
        let mut after = before.clone();
        after.insert(5000, 1);
        let shared = after.runs.iter().filter(|run| {
            let same = |other: &&Run<u32, u32>| Arc::ptr_eq(run, other);
            before.runs.iter().any(|other| same(&other))
        });
        assert_eq!(shared.count(), before.runs.len() - 1);
        assert!(before.runs.iter().all(|run| run.len() <= LONGEST));
    }
}
