//! The trees as plain maps: what tests use, what repair rebuilds from, and what a full disk serves.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::engine::Change;
use super::manifest::Sums;
use super::{Record, Tree};

/// All trees in memory.
#[derive(Clone, Default)]
pub(super) struct Trees(BTreeMap<Tree, BTreeMap<Vec<u8>, Vec<u8>>>);

impl Trees {
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(&tree)?.get(key).cloned()
    }

    pub(super) fn set(&mut self, tree: Tree, key: Vec<u8>, value: Option<Vec<u8>>) {
        let records = self.0.entry(tree).or_default();
        match value {
            Some(value) => records.insert(key, value),
            None => records.remove(&key),
        };
    }

    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.set(change.tree, change.key, change.value);
        }
    }

    pub(super) fn page(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<Record> {
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        self.0.get(&tree).map_or_else(Vec::new, |records| {
            records
                .range::<[u8], _>((from, Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(prefix))
                .take(limit)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        })
    }

    /// Every record of the durable trees.
    pub(super) fn durable(&self) -> impl Iterator<Item = (Tree, &[u8], &[u8])> {
        self.0
            .iter()
            .filter(|(tree, _)| **tree != Tree::Series)
            .flat_map(|(tree, records)| {
                records
                    .iter()
                    .map(|(key, value)| (*tree, key.as_slice(), value.as_slice()))
            })
    }

    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for (tree, key, value) in self.durable() {
            sums.add(tree, key, value);
        }
        sums
    }
}
