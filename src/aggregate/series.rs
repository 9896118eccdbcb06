//! Counts by edge and time: each in exactly one slot, fine ones of what is recent and coarse ones of what is older,
//! within a bound of bytes.
//!
//! A level keeps slots of one length for as long as [`LEVELS`] says. What grows older than that is added to the slot
//! of the next level that it lies in, and the last level forgets. Where one level ends and the next begins is a
//! multiple of the coarser step, so no moment is in two of them, and a window is the sum over its slots whatever
//! their lengths. When there are too many bytes, the finest level gives up its oldest part first, then the next.

use std::collections::{BTreeMap, BTreeSet};

use super::cell::Cell;
use super::coding::{self, Cells};
use super::edge::Edge;
use super::links::Links;
use super::table::{Folded, Table};

/// Length of a slot and how long it is kept at least while there is room, in milliseconds: 1 s for an hour, 10 s for
/// six hours, 1 min for a day, 1 h for a week.
pub const LEVELS: [(u64, u64); 4] = [
    (1_000, 3_600_000),
    (10_000, 21_600_000),
    (60_000, 86_400_000),
    (3_600_000, 604_800_000),
];
/// What each level keeps however little room there is, as long as that alone is not too much: in milliseconds.
const LEAST: [u64; 4] = [120_000, 600_000, 3_600_000, 0];
/// A slot is packed when it has been over for this long, in milliseconds.
const SETTLED: u64 = 2_000;
/// Bytes that a slot costs beside its cells: a place in a map, and what the allocator keeps.
const SLOT_BYTES: usize = 96;

/// How much may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of slots and edges.
    pub bytes: usize,
    /// Edges that are told apart.
    pub edges: usize,
}

impl Limits {
    /// As many edges as can be told apart in `bytes`: one for each 4 KiB.
    pub fn of(bytes: usize) -> Self {
        Self {
            bytes,
            edges: (bytes / 4_096).clamp(64, 65_536),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(64 << 20)
    }
}

/// What was counted in one slot: what is packed and, beside it, what came since.
#[derive(Debug, Clone, Default, PartialEq)]
struct Slot {
    packed: Box<[u8]>,
    open: Cells,
}

impl Slot {
    /// Bytes of what is not packed.
    fn open_bytes(&self) -> usize {
        self.open.values().map(Cell::bytes).sum()
    }

    /// Every cell; those of one edge are to be added up.
    fn each(&self, mut each: impl FnMut(u32, &Cell)) {
        // Only what was packed here is in memory: what is read from disk is looked at first.
        let _whole = coding::each_cell(&self.packed, |edge, cell| each(edge, &cell));
        for (edge, cell) in &self.open {
            each(*edge, cell);
        }
    }

    fn cells(&self) -> Cells {
        let mut cells = coding::decode_slot(&self.packed).unwrap_or_default();
        for (edge, cell) in &self.open {
            cells.entry(*edge).or_default().merge(cell);
        }
        cells
    }

    fn pack(&mut self) {
        if !self.open.is_empty() {
            self.packed = coding::encode_slot(&self.cells());
            self.open = Cells::new();
        }
    }
}

/// Slots of one length.
#[derive(Debug, Clone, Default, PartialEq)]
struct Level {
    slots: BTreeMap<u64, Slot>,
    /// Slots in which something is not packed.
    open: BTreeSet<u64>,
    /// Bytes that are packed.
    packed: usize,
    /// What was before this moment is in the next level, in milliseconds since the epoch.
    from: u64,
}

impl Level {
    /// Replaces what is in a slot, and packs it.
    fn set(&mut self, number: u64, cells: Cells) {
        let slot = self.slots.entry(number).or_default();
        self.packed -= slot.packed.len();
        *slot = Slot {
            packed: Box::default(),
            open: cells,
        };
        slot.pack();
        self.packed += slot.packed.len();
        self.open.remove(&number);
    }

    /// Packs slots that ended before `until`.
    fn settle(&mut self, step: u64, until: u64) {
        let over: Vec<u64> = self
            .open
            .iter()
            .copied()
            .filter(|number| (number + 1) * step <= until)
            .collect();
        for number in over {
            let cells = self.slots.get(&number).map(Slot::cells);
            self.set(number, cells.unwrap_or_default());
        }
    }

    fn bytes(&self) -> usize {
        let open = self.open.iter().filter_map(|number| self.slots.get(number));
        let open: usize = open.map(Slot::open_bytes).sum();
        self.packed + open + self.slots.len() * SLOT_BYTES
    }
}

/// What is written down under a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A slot: level and number.
    Slot(u8, u64),
    /// An edge.
    Edge(u32),
}

impl Key {
    /// As text.
    pub fn name(self) -> String {
        match self {
            Self::Slot(level, number) => format!("slot/{level}/{number:012x}"),
            Self::Edge(id) => format!("edge/{id:08x}"),
        }
    }

    /// Reads [`Self::name`].
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('/');
        let key = match (parts.next()?, parts.next()?, parts.next()) {
            ("slot", level, Some(number)) => Self::Slot(
                level.parse().ok().filter(|level| *level < 4)?,
                u64::from_str_radix(number, 16).ok()?,
            ),
            ("edge", id, None) => Self::Edge(u32::from_str_radix(id, 16).ok()?),
            _ => return None,
        };
        parts.next().is_none().then_some(key)
    }
}

/// The last hour to the second and the last week by the hour, and what protects connections now.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    levels: [Level; 4],
    table: Table,
    limits: Limits,
    /// What changed since it was written down.
    dirty: BTreeSet<Key>,
    /// What protected the connections.
    pub links: Links,
}

impl Default for Series {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

/// What is kept, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Bytes of slots and edges now.
    pub bytes: usize,
    /// At most.
    pub most_bytes: usize,
    /// Edges that are told apart.
    pub edges: usize,
    /// At most.
    pub most_edges: usize,
    /// For each level: length of its slots, and since when it has them; both in milliseconds.
    pub levels: [(u64, u64); 4],
    /// What was not told apart.
    pub folded: Folded,
}

/// Start and length of a slot, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// When it began, since the epoch.
    pub from: u64,
    /// How long it is.
    pub length: u64,
}

impl Series {
    /// Series within `limits`.
    pub fn new(limits: Limits) -> Self {
        Self {
            levels: Default::default(),
            table: Table::new(limits.edges),
            limits,
            dirty: BTreeSet::new(),
            links: Links::default(),
        }
    }

    /// The level in which a moment is.
    fn level_of(&self, at: u64) -> usize {
        let found = self.levels.iter().position(|level| level.from <= at);
        found.unwrap_or(LEVELS.len() - 1)
    }

    /// The cell of `edge` in the slot of `now`, or of what stands for it when there are too many edges.
    pub fn cell(&mut self, now_unix_ms: u64, edge: Edge) -> &mut Cell {
        let at = self.level_of(now_unix_ms);
        let step = LEVELS.get(at).map_or(1, |(step, _)| *step);
        let number = now_unix_ms / step;
        let (id, new) = self.table.id(edge, now_unix_ms / 1_000);
        if new {
            self.dirty.insert(Key::Edge(id));
        }
        self.dirty.insert(Key::Slot(small(at), number));
        let [first, second, third, last] = &mut self.levels;
        let level = match at {
            0 => first,
            1 => second,
            2 => third,
            _ => last,
        };
        level.open.insert(number);
        let slot = level.slots.entry(number).or_default();
        slot.open.entry(id).or_default()
    }

    /// Moves what has grown old into coarser slots, drops what is too old for all, and keeps to the bound.
    pub fn turn(&mut self, now_unix_ms: u64) {
        self.links.turn(now_unix_ms);
        for (at, (_, keep)) in LEVELS.iter().enumerate() {
            self.advance(at, now_unix_ms.saturating_sub(*keep));
        }
        for (level, (step, _)) in self.levels.iter_mut().zip(LEVELS) {
            level.settle(step, now_unix_ms.saturating_sub(SETTLED));
        }
        self.retire(now_unix_ms / 1_000);
        self.squeeze(now_unix_ms);
        let oldest = self
            .levels
            .iter()
            .zip(LEVELS)
            .filter_map(|(level, (step, _))| Some(level.slots.keys().next()? * step))
            .min()
            .unwrap_or(now_unix_ms);
        for id in self.table.sweep(oldest / 1_000) {
            self.dirty.insert(Key::Edge(id));
        }
    }

    /// Has a level begin no earlier than `from`.
    fn advance(&mut self, at: usize, from: u64) {
        let next = LEVELS.get(at + 1);
        let Some((step, _)) = LEVELS.get(at).copied() else {
            return;
        };
        // So that no slot of the next level begins before and ends after.
        let coarser = next.map_or(step, |(step, _)| *step);
        let from = from / coarser * coarser;
        let Some(level) = self.levels.get_mut(at).filter(|level| level.from < from) else {
            return;
        };
        level.from = from;
        let young = level.slots.split_off(&from.div_ceil(step));
        let old = std::mem::replace(&mut level.slots, young);
        level.open = level.open.split_off(&from.div_ceil(step));
        level.packed -= old.values().map(|slot| slot.packed.len()).sum::<usize>();
        let mut moved: BTreeMap<u64, Cells> = BTreeMap::new();
        for (number, slot) in old {
            self.dirty.insert(Key::Slot(small(at), number));
            let into = moved.entry(number * step / coarser).or_default();
            slot.each(|edge, cell| into.entry(edge).or_default().merge(cell));
        }
        let Some(next) = self.levels.get_mut(at + 1) else {
            // Nothing remembers it.
            return;
        };
        for (number, cells) in moved {
            let mut all = next.slots.get(&number).map(Slot::cells).unwrap_or_default();
            for (edge, cell) in cells {
                all.entry(edge).or_default().merge(&cell);
            }
            next.set(number, all);
            self.dirty.insert(Key::Slot(small(at + 1), number));
        }
    }

    /// Counts edges that nobody has used for long under what stands for them, when others want their place.
    fn retire(&mut self, now: u64) {
        let into = self.table.retire(now);
        if into.is_empty() {
            return;
        }
        for (at, level) in self.levels.iter_mut().enumerate() {
            let mut new = Vec::new();
            for (number, slot) in &level.slots {
                let mut cells = Cells::new();
                let mut changed = false;
                slot.each(|edge, cell| {
                    let to = into.get(&edge).copied();
                    changed |= to.is_some();
                    cells.entry(to.unwrap_or(edge)).or_default().merge(cell);
                });
                if changed {
                    new.push((*number, cells));
                }
            }
            for (number, cells) in new {
                level.set(number, cells);
                self.dirty.insert(Key::Slot(small(at), number));
            }
        }
        for (from, to) in &into {
            self.dirty.insert(Key::Edge(*from));
            self.dirty.insert(Key::Edge(*to));
        }
        self.table.retired(into.into_keys());
    }

    /// Bytes of slots and edges.
    fn bytes(&self) -> usize {
        let slots: usize = self.levels.iter().map(Level::bytes).sum();
        slots + self.table.bytes()
    }

    /// Gives up the oldest of the finest until the rest fits.
    fn squeeze(&mut self, now: u64) {
        for spared in [LEAST, [0; 4]] {
            for (at, spared) in spared.into_iter().enumerate() {
                while self.bytes() > self.limits.bytes {
                    let Some(from) = self.first(at) else { break };
                    let until = now.saturating_sub(spared);
                    // A sixteenth of what it has at a time, as each time costs the same.
                    let coarser = LEVELS.get(at + 1).or(LEVELS.get(at)).map_or(1, |l| l.0);
                    let more = (until.saturating_sub(from) / 16).max(coarser);
                    let to = (from / coarser * coarser).saturating_add(more);
                    if to > until {
                        break;
                    }
                    self.advance(at, to);
                }
            }
        }
    }

    /// When the first slot of a level begins.
    fn first(&self, at: usize) -> Option<u64> {
        let (step, _) = LEVELS.get(at)?;
        Some(self.levels.get(at)?.slots.keys().next()? * step)
    }

    /// Every cell whose slot overlaps `from..to` (milliseconds since the epoch), with its edge's number.
    pub fn each(&self, from: u64, to: u64, mut each: impl FnMut(Span, u32, &Cell)) {
        for (level, (length, _)) in self.levels.iter().zip(LEVELS) {
            let first = from / length;
            let end = to.div_ceil(length);
            if first >= end {
                continue;
            }
            for (number, slot) in level.slots.range(first..end) {
                let span = Span {
                    from: number * length,
                    length,
                };
                slot.each(|edge, cell| each(span, edge, cell));
            }
        }
    }

    /// The edge of a number.
    pub fn edge(&self, id: u32) -> Option<&Edge> {
        self.table.get(id).map(AsRef::as_ref)
    }

    /// Length of the slots that a moment is in, in milliseconds.
    pub fn step_at(&self, at_unix_ms: u64) -> u64 {
        LEVELS
            .get(self.level_of(at_unix_ms))
            .map_or(1, |(step, _)| *step)
    }

    /// What is kept, and what it takes.
    pub fn kept(&self) -> Kept {
        let mut levels = [(0, 0); 4];
        for ((to, level), (step, _)) in levels.iter_mut().zip(&self.levels).zip(LEVELS) {
            let first = level
                .slots
                .keys()
                .next()
                .map_or(level.from, |first| first * step);
            *to = (step, first.max(level.from));
        }
        Kept {
            bytes: self.bytes(),
            most_bytes: self.limits.bytes,
            edges: self.table.len(),
            most_edges: self.table.most(),
            levels,
            folded: self.table.folded().clone(),
        }
    }

    /// What is to be written down or, where there is nothing any more, removed.
    pub fn changes(&mut self) -> Vec<(Key, Option<Vec<u8>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .map(|key| (key, self.bytes_of(key)))
            .collect()
    }

    fn bytes_of(&self, key: Key) -> Option<Vec<u8>> {
        match key {
            Key::Slot(level, number) => {
                let slot = self.levels.get(usize::from(level))?.slots.get(&number)?;
                if slot.open.is_empty() {
                    return Some(slot.packed.to_vec());
                }
                Some(coding::encode_slot(&slot.cells()).into_vec())
            }
            Key::Edge(id) => {
                let edge = self.table.get(id)?;
                Some(coding::encode_edge(edge, self.table.seen(id)?))
            }
        }
    }

    /// Takes back changes that could not be written.
    pub fn unwritten(&mut self, keys: impl Iterator<Item = Key>) {
        self.dirty.extend(keys);
    }

    /// Where levels begin, to be written down beside them.
    pub fn floors(&self) -> [u64; 4] {
        let mut floors = [0; 4];
        for (floor, level) in floors.iter_mut().zip(&self.levels) {
            *floor = level.from;
        }
        floors
    }

    /// Puts back where levels begin; before everything else.
    pub fn restore_floors(&mut self, floors: [u64; 4]) {
        for (level, floor) in self.levels.iter_mut().zip(floors) {
            level.from = floor;
        }
    }

    /// Puts back what was written down: edges first, then [`Self::restored`], then slots. Gives whether it made
    /// sense.
    pub fn restore(&mut self, key: Key, bytes: &[u8]) -> bool {
        match key {
            Key::Edge(id) => {
                let Some((edge, seen)) = coding::decode_edge(bytes) else {
                    return false;
                };
                self.table.restore(id, edge, seen);
                true
            }
            Key::Slot(level, number) => {
                let mut whole = true;
                let read = coding::each_cell(bytes, |edge, _| {
                    whole &= self.table.get(edge).is_some();
                });
                let at = usize::from(level);
                let (Some((step, _)), Some(level)) = (LEVELS.get(at), self.levels.get_mut(at))
                else {
                    return false;
                };
                // What is older than its level is counted in the next.
                let young = number
                    .checked_mul(*step)
                    .is_some_and(|from| from >= level.from);
                if read.is_none() || !whole || !young {
                    return false;
                }
                let slot = Slot {
                    packed: bytes.into(),
                    open: Cells::new(),
                };
                level.packed += bytes.len();
                level.slots.insert(number, slot);
                true
            }
        }
    }

    /// Every edge is back.
    pub fn restored(&mut self) {
        self.table.restored();
    }
}

/// A level as one byte.
fn small(level: usize) -> u8 {
    u8::try_from(level).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;
