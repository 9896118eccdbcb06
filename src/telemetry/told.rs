//! What of the counts somebody was told already, so that they are told only what is new.

use std::collections::BTreeMap;

use super::{HttpKey, LinkKey, TcpKey};

/// The counts that somebody was told; new for each stream.
#[derive(Debug, Default)]
pub struct Told {
    pub(super) http: Marks<HttpKey>,
    pub(super) tcp: Marks<TcpKey>,
    pub(super) links: Marks<LinkKey>,
}

/// By label set: its counts when they were last told, and whether that was for the second time.
#[derive(Debug)]
pub(super) struct Marks<K>(BTreeMap<K, ([u64; 5], bool)>);

impl<K> Default for Marks<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Marks<K> {
    /// Whether `counts` are to be told. They are twice: a worker may have been between two of them when they were
    /// read first, and may not count there again for long.
    pub(super) fn is_news(&mut self, key: K, counts: [u64; 5]) -> bool {
        let (last, twice) = self.0.entry(key).or_insert(([0; 5], true));
        if *last != counts {
            (*last, *twice) = (counts, false);
            return true;
        }
        !std::mem::replace(twice, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_twice_and_then_no_more() {
        let mut marks = Marks::default();
        let mut news = |count| marks.is_news("a", [count, 0, 0, 0, 0]);
        let told = [0, 1, 1, 1, 2, 2, 2].map(&mut news);
        assert_eq!(told, [false, true, true, false, true, true, false]);
    }
}
