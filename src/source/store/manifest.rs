//! What a store must contain at one revision: a count and a digest for each durable tree.
//!
//! The digest is a sum of hashes, so it is kept up to date by a commit without reading the rest,
//! and does not depend on the order in which records are visited.

use std::collections::BTreeMap;

use super::coding::{Cursor, Hash, sha256};
use super::{Revision, Tree};

/// Count, bytes and digest of one tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) records: u64,
    pub(super) bytes: u64,
    digest: [u64; 4],
}

impl Sum {
    pub(super) fn add(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(record_bytes(key, value));
        for (lane, part) in self.digest.iter_mut().zip(lanes(tree, key, value)) {
            *lane = lane.wrapping_add(part);
        }
    }

    pub(super) fn subtract(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        self.records = self.records.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(record_bytes(key, value));
        for (lane, part) in self.digest.iter_mut().zip(lanes(tree, key, value)) {
            *lane = lane.wrapping_sub(part);
        }
    }
}

fn record_bytes(key: &[u8], value: &[u8]) -> u64 {
    u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX)
}

fn lanes(tree: Tree, key: &[u8], value: &[u8]) -> [u64; 4] {
    let hash = sha256(&[&[tree.id()], &super::coding::length(key.len()), key, value]);
    let mut lanes = [0; 4];
    for (lane, part) in lanes.iter_mut().zip(hash.as_chunks::<8>().0) {
        *lane = u64::from_le_bytes(*part);
    }
    lanes
}

/// The sums of all durable trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sums(BTreeMap<Tree, Sum>);

impl Default for Sums {
    fn default() -> Self {
        Self(
            Tree::DURABLE
                .into_iter()
                .map(|tree| (tree, Sum::default()))
                .collect(),
        )
    }
}

impl Sums {
    pub(super) fn of(&self, tree: Tree) -> Sum {
        self.0.get(&tree).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        if let Some(sum) = self.0.get_mut(&tree) {
            sum.add(tree, key, value);
        }
    }

    pub(super) fn subtract(&mut self, tree: Tree, key: &[u8], value: &[u8]) {
        if let Some(sum) = self.0.get_mut(&tree) {
            sum.subtract(tree, key, value);
        }
    }

    /// Bytes of keys and values in all durable trees.
    pub(super) fn bytes(&self) -> u64 {
        self.0.values().map(|sum| sum.bytes).sum()
    }

    pub(super) fn records(&self) -> u64 {
        self.0.values().map(|sum| sum.records).sum()
    }

    /// Says where `found` differs, for people.
    pub(super) fn difference(&self, found: &Self) -> Option<String> {
        let differences: Vec<String> = Tree::DURABLE
            .into_iter()
            .filter(|tree| self.of(*tree) != found.of(*tree))
            .map(|tree| {
                let (want, have) = (self.of(tree).records, found.of(tree).records);
                if want == have {
                    format!("{tree}: {have} records with changed content")
                } else {
                    format!("{tree}: {have} of {want} records")
                }
            })
            .collect();
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}

/// A point in the store's life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Version of the callers' keys and values.
    pub(super) schema: u32,
    pub(super) revision: u64,
    /// Hash of the journal record that led here.
    pub(super) chain: Hash,
    pub(super) sums: Sums,
}

impl Manifest {
    pub(super) fn empty(schema: u32) -> Self {
        Self {
            schema,
            chain: sha256(&[b"meshctl store"]),
            ..Self::default()
        }
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// Whether both are the same point of the same history.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        self.revision == other.revision && self.chain == other.chain
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&self.schema.to_le_bytes());
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&self.chain);
        for (tree, sum) in &self.sums.0 {
            out.push(tree.id());
            out.extend_from_slice(&sum.records.to_le_bytes());
            out.extend_from_slice(&sum.bytes.to_le_bytes());
            for lane in sum.digest {
                out.extend_from_slice(&lane.to_le_bytes());
            }
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let mut manifest = Self {
            schema: cursor.u32()?,
            revision: cursor.u64()?,
            chain: cursor.hash()?,
            sums: Sums::default(),
        };
        while !cursor.is_empty() {
            let tree = Tree::from_id(cursor.u8()?)?;
            let mut sum = Sum {
                records: cursor.u64()?,
                bytes: cursor.u64()?,
                digest: [0; 4],
            };
            for lane in &mut sum.digest {
                *lane = cursor.u64()?;
            }
            manifest.sums.0.insert(tree, sum);
        }
        Some(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back_and_a_short_one_does_not() {
        let mut manifest = Manifest::empty(3);
        manifest.revision = 9;
        manifest.sums.add(Tree::Events, b"k", b"v");
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Some(manifest));
        assert_eq!(Manifest::decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn sums_ignore_order_and_notice_content() {
        let (mut a, mut b) = (Sums::default(), Sums::default());
        a.add(Tree::Meta, b"1", b"x");
        a.add(Tree::Meta, b"2", b"y");
        b.add(Tree::Meta, b"2", b"y");
        b.add(Tree::Meta, b"3", b"z");
        b.subtract(Tree::Meta, b"3", b"z");
        assert_eq!(
            a.difference(&b).as_deref(),
            Some("meta: 1 of 2 records"),
            "a count is said"
        );
        b.add(Tree::Meta, b"1", b"x");
        assert_eq!(a.difference(&b), None);
        b.subtract(Tree::Meta, b"1", b"x");
        b.add(Tree::Meta, b"1", b"X");
        assert_eq!(
            a.difference(&b).as_deref(),
            Some("meta: 2 records with changed content")
        );
        // Moving a byte between key and value is a change too.
        let (mut c, mut d) = (Sums::default(), Sums::default());
        c.add(Tree::Meta, b"ab", b"c");
        d.add(Tree::Meta, b"a", b"bc");
        assert_ne!(c, d);
    }
}
