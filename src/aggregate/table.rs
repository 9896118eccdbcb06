//! Edges by number: each is in memory once, however many slots count it, and there are only so many.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::edge::Edge;

/// An edge that nobody has used for this long may give way to a new one: an hour, in seconds.
const IDLE: u64 = 3_600;
/// Services of which is said how much was folded.
const MOST_SERVICES: usize = 64;
/// How much later than written down an edge may have been seen: ten minutes, in seconds.
const LAZY: u64 = 600;

/// Edges, each with a number.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    ids: BTreeMap<Arc<Edge>, u32>,
    rows: Vec<Option<Row>>,
    free: Vec<u32>,
    most: usize,
    bytes: usize,
    folded: Folded,
}

#[derive(Debug, Clone, PartialEq)]
struct Row {
    edge: Arc<Edge>,
    /// Second in which it was last used.
    seen: u64,
    /// The same, as it was last written down.
    written: u64,
}

/// What was counted under `(other)` since the control plane started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folded {
    /// Increments of edges that there was no room for.
    pub increments: u64,
    /// Edges that were put together because nobody used them.
    pub idle: u64,
    /// Increments by service, for as many as there is room for.
    pub by_service: BTreeMap<String, u64>,
}

impl Table {
    pub(super) fn new(most: usize) -> Self {
        Self {
            ids: BTreeMap::new(),
            rows: Vec::new(),
            free: Vec::new(),
            most,
            bytes: 0,
            folded: Folded::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.rows.capacity() * size_of::<Option<Row>>() + self.free.capacity() * 4
    }

    pub(super) fn folded(&self) -> &Folded {
        &self.folded
    }

    pub(super) fn get(&self, id: u32) -> Option<&Arc<Edge>> {
        let row = self.rows.get(usize::try_from(id).ok()?)?.as_ref()?;
        Some(&row.edge)
    }

    /// The second in which an edge was last used.
    pub(super) fn seen(&self, id: u32) -> Option<u64> {
        let row = self.rows.get(usize::try_from(id).ok()?)?.as_ref()?;
        Some(row.seen)
    }

    /// The number of `edge`, or of what stands for it, and whether that must be written down.
    pub(super) fn id(&mut self, edge: Edge, second: u64) -> (u32, bool) {
        if let Some(id) = self.ids.get(&edge).copied() {
            return (id, self.use_again(id, second));
        }
        if self.ids.len() < self.most {
            return (self.insert(edge, second), true);
        }
        self.folded.increments += 1;
        let services = &mut self.folded.by_service;
        if let Some(count) = services.get_mut(&edge.service) {
            *count += 1;
        } else if services.len() < MOST_SERVICES {
            services.insert(edge.service.clone(), 1);
        }
        self.stand_in(&edge, second)
    }

    /// What stands for an edge that has no number of its own.
    fn stand_in(&mut self, edge: &Edge, second: u64) -> (u32, bool) {
        // An eighth more for services of their own; then all of them are one.
        let room = self.ids.len() < self.most + self.most / 8;
        let own = edge.folded(true);
        let edge = if room || self.ids.contains_key(&own) {
            own
        } else {
            edge.folded(false)
        };
        if let Some(id) = self.ids.get(&edge).copied() {
            return (id, self.use_again(id, second));
        }
        (self.insert(edge, second), true)
    }

    fn use_again(&mut self, id: u32, second: u64) -> bool {
        let Some(row) = usize::try_from(id)
            .ok()
            .and_then(|at| self.rows.get_mut(at)?.as_mut())
        else {
            return false;
        };
        row.seen = row.seen.max(second);
        let late = row.seen > row.written + LAZY;
        if late {
            row.written = row.seen;
        }
        late
    }

    fn insert(&mut self, edge: Edge, second: u64) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.rows.push(None);
            // More than 2^32 edges do not fit into any bound.
            u32::try_from(self.rows.len() - 1).unwrap_or(u32::MAX)
        });
        self.put(id, edge, second);
        id
    }

    fn put(&mut self, id: u32, edge: Edge, second: u64) {
        let edge = Arc::new(edge);
        let Some(row) = usize::try_from(id)
            .ok()
            .and_then(|at| self.rows.get_mut(at))
        else {
            return;
        };
        self.bytes += edge.bytes();
        self.ids.insert(Arc::clone(&edge), id);
        *row = Some(Row {
            edge,
            seen: second,
            written: second,
        });
    }

    /// Puts back an edge that was written down.
    pub(super) fn restore(&mut self, id: u32, edge: Edge, seen: u64) {
        let Ok(at) = usize::try_from(id) else { return };
        // A number that is far beyond the bound was not written by us.
        if at > self.most.saturating_mul(4).saturating_add(4_096) || self.ids.contains_key(&edge) {
            return;
        }
        while self.rows.len() <= at {
            self.rows.push(None);
        }
        self.put(id, edge, seen + LAZY);
    }

    /// Once every edge that was written down is back.
    pub(super) fn restored(&mut self) {
        let rows = self.rows.iter().enumerate();
        self.free = rows
            .filter(|(_, row)| row.is_none())
            .filter_map(|(at, _)| u32::try_from(at).ok())
            .collect();
    }

    fn remove(&mut self, id: u32) {
        let Some(row) = usize::try_from(id)
            .ok()
            .and_then(|at| self.rows.get_mut(at)?.take())
        else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(row.edge.bytes());
        self.ids.remove(&row.edge);
        self.free.push(id);
    }

    /// Drops edges that no slot can count any more, as the oldest begins in `oldest` (seconds). Gives their numbers.
    pub(super) fn sweep(&mut self, oldest: u64) -> Vec<u32> {
        let gone: Vec<u32> = self
            .ids
            .values()
            .copied()
            .filter(|id| self.seen(*id).is_some_and(|seen| seen < oldest))
            .collect();
        for id in &gone {
            self.remove(*id);
        }
        gone
    }

    /// When it is nearly full: the quarter that was idle for longest, by number, and what stands for each from
    /// now on. Whoever counts by number must put them together before [`Self::retired`].
    pub(super) fn retire(&mut self, now: u64) -> BTreeMap<u32, u32> {
        if self.ids.len() * 16 < self.most * 15 {
            return BTreeMap::new();
        }
        let mut idle: Vec<(u64, u32)> = self
            .ids
            .iter()
            .filter(|(edge, _)| !edge.is_folded())
            .filter_map(|(_, id)| Some((self.seen(*id)?, *id)))
            .filter(|(seen, _)| seen + IDLE < now)
            .collect();
        idle.sort_unstable();
        idle.truncate((self.most / 4).max(1));
        let mut into = BTreeMap::new();
        for (seen, id) in idle {
            let Some(edge) = self.get(id).cloned() else {
                continue;
            };
            let (other, _) = self.stand_in(&edge, seen);
            into.insert(id, other);
        }
        into
    }

    /// They are counted under others now.
    pub(super) fn retired(&mut self, ids: impl Iterator<Item = u32>) {
        for id in ids {
            self.folded.idle += 1;
            self.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::edge::OTHER;
    use super::*;

    fn edge(source: &str) -> Edge {
        Edge {
            by_source: true,
            source: source.to_owned(),
            service: "reviews.default".to_owned(),
            ..Edge::default()
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_by_service_and_told() {
        let mut table = Table::new(8);
        for number in 0..100 {
            table.id(edge(&number.to_string()), 1);
        }
        let (id, _) = table.id(edge("1000"), 1);
        let stands_in = table.get(id).unwrap();
        assert_eq!(stands_in.source, OTHER);
        assert_eq!(stands_in.service, "reviews.default");
        assert!(stands_in.by_source);
        assert_eq!(table.len(), 9);
        assert_eq!(table.folded().increments, 93);
        assert_eq!(table.folded().by_service["reviews.default"], 93);
    }

    #[test]
    fn the_idle_give_way_and_the_busy_stay() {
        let mut table = Table::new(16);
        for number in 0..16 {
            table.id(edge(&number.to_string()), number);
        }
        table.id(edge("0"), 10_000);
        assert!(table.retire(15).is_empty());
        let into = table.retire(10_000);
        assert_eq!(into.len(), 4);
        let gone: Vec<&str> = into
            .keys()
            .map(|id| table.get(*id).unwrap().source.as_str())
            .collect();
        assert_eq!(gone, ["1", "2", "3", "4"]);
        table.retired(into.into_keys());
        assert_eq!(table.folded().idle, 4);
        // There is room again.
        table.id(edge("new"), 10_000);
        assert!(table.ids.contains_key(&edge("new")));
    }
}
