//! Counts by edge and time slot, within a fixed bound.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::telemetry::names::ROUTE;

use super::histogram::Histogram;
use super::links::Links;
use super::sample::Sample;

/// Length of a fine slot, in milliseconds.
pub const FINE_MS: u64 = 5_000;
/// Fine slots that are kept: one hour.
const FINE_SLOTS: usize = 720;
/// Length of a coarse slot, in milliseconds.
pub const COARSE_MS: u64 = 60_000;
/// Coarse slots that are kept: one day.
const COARSE_SLOTS: usize = 1_440;
/// Edges in one slot; more are counted under [`Edge::overflow`].
const MAX_EDGES: usize = 2_000;

/// Who called whom, as one side saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edge {
    /// Told by the caller's proxy (else by the called one's).
    pub by_source: bool,
    /// Calling workload, `name.namespace`; empty when it is not of the mesh.
    pub source: String,
    /// Called service, `name.namespace`.
    pub service: String,
    /// Called version.
    pub version: String,
    /// The caller's route, as its proxy labels it; empty where the called one tells.
    pub route: String,
}

impl Edge {
    /// The edge of a sample; none when it names no service.
    pub fn of(sample: &Sample) -> Option<Self> {
        let known = |label: &str| {
            let value = sample.label(label);
            (value != "unknown" && !value.is_empty()).then(|| value.to_owned())
        };
        let name = known("destination_service_name")?;
        let qualified = |name: String, namespace: &str| match known(namespace) {
            Some(namespace) => format!("{name}.{namespace}"),
            None => name,
        };
        Some(Self {
            by_source: sample.label("reporter") == "source",
            source: known("source_workload")
                .map(|name| qualified(name, "source_workload_namespace"))
                .unwrap_or_default(),
            service: qualified(name, "destination_service_namespace"),
            version: known("destination_canonical_revision")
                .or_else(|| known("destination_version"))
                .unwrap_or_default(),
            route: known(ROUTE).unwrap_or_default(),
        })
    }

    /// Where edges are counted that a full slot has no room for.
    pub fn overflow() -> Self {
        Self {
            service: "(other)".to_owned(),
            ..Self::default()
        }
    }
}

/// What happened on one edge in one slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cell {
    /// Requests answered.
    pub requests: u64,
    /// Those answered 5xx, not at all, or with a gRPC status other than 0.
    pub failures: u64,
    /// Those over mTLS, as the destination saw it.
    pub mtls: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Requests that ran out of time.
    pub timeouts: u64,
    /// Requests refused by a circuit breaker.
    pub overflows: u64,
    /// Duration of requests, in milliseconds.
    pub latency: Histogram,
    /// TCP connections.
    pub tcp_opened: u64,
    /// Those over mTLS.
    pub tcp_mtls: u64,
    /// Bytes to the service.
    pub tcp_to: u64,
    /// Bytes from the service.
    pub tcp_from: u64,
}

impl Cell {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.mtls += other.mtls;
        self.retries += other.retries;
        self.timeouts += other.timeouts;
        self.overflows += other.overflows;
        self.latency.merge(&other.latency);
        self.tcp_opened += other.tcp_opened;
        self.tcp_mtls += other.tcp_mtls;
        self.tcp_to += other.tcp_to;
        self.tcp_from += other.tcp_from;
    }
}

/// What happened in one slot.
pub type Slot = BTreeMap<Edge, Cell>;

/// The last hour in slots of 5 s and the last day in slots of a minute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    fine: BTreeMap<u64, Slot>,
    coarse: BTreeMap<u64, Slot>,
    /// What protected the connections.
    pub links: Links,
}

impl Series {
    /// The cell of `edge` in the slot of `now`; a slot that is full counts under [`Edge::overflow`].
    pub fn cell(&mut self, now_unix_ms: u64, edge: Edge) -> &mut Cell {
        let slot = self.fine.entry(now_unix_ms / FINE_MS).or_default();
        let edge = if slot.len() >= MAX_EDGES && !slot.contains_key(&edge) {
            Edge::overflow()
        } else {
            edge
        };
        slot.entry(edge).or_default()
    }

    /// Folds fine slots that ended before `now` into coarse ones, drops what is too old, and gives
    /// back the keys that were dropped as `(coarse, slot)`.
    pub fn turn(&mut self, now_unix_ms: u64) -> Vec<(bool, u64)> {
        self.links.turn(now_unix_ms);
        let mut dropped = Vec::new();
        let oldest = (now_unix_ms / FINE_MS).saturating_sub(u64::try_from(FINE_SLOTS).unwrap_or(0));
        while let Some(entry) = self.fine.first_entry() {
            if *entry.key() >= oldest && !entry.get().is_empty() {
                break;
            }
            let (slot, cells) = entry.remove_entry();
            dropped.push((false, slot));
            let coarse = self.coarse.entry(slot * FINE_MS / COARSE_MS).or_default();
            for (edge, cell) in cells {
                coarse.entry(edge).or_default().merge(&cell);
            }
        }
        let oldest =
            (now_unix_ms / COARSE_MS).saturating_sub(u64::try_from(COARSE_SLOTS).unwrap_or(0));
        while let Some(entry) = self.coarse.first_entry() {
            if *entry.key() >= oldest {
                break;
            }
            dropped.push((true, entry.remove_entry().0));
        }
        dropped
    }

    /// All cells whose slot overlaps `from..to` (milliseconds since the epoch).
    pub fn window(&self, from: u64, to: u64) -> impl Iterator<Item = (&Edge, &Cell)> {
        let coarse = self
            .coarse
            .range(from / COARSE_MS..=to / COARSE_MS)
            .flat_map(|(_, slot)| slot);
        let fine = self
            .fine
            .range(from / FINE_MS..=to / FINE_MS)
            .flat_map(|(_, slot)| slot);
        coarse.chain(fine)
    }

    /// Slots to write down since `since` (milliseconds since the epoch): `(coarse, number, slot)`.
    pub fn since(&self, since: u64) -> impl Iterator<Item = (bool, u64, &Slot)> {
        let fine = self
            .fine
            .range(since / FINE_MS..)
            .map(|(number, slot)| (false, *number, slot));
        let oldest_fine = self.fine.keys().next().map_or(0, |slot| slot * FINE_MS);
        let coarse = self
            .coarse
            .range(oldest_fine.saturating_sub(COARSE_MS) / COARSE_MS..)
            .map(|(number, slot)| (true, *number, slot));
        fine.chain(coarse)
    }

    /// Puts back a slot that was written down.
    pub fn restore(&mut self, coarse: bool, number: u64, slot: Slot) {
        let slots = if coarse {
            &mut self.coarse
        } else {
            &mut self.fine
        };
        slots.insert(number, slot);
    }
}

/// How a slot is written down: a list, as JSON has no maps with such keys.
pub fn encode_slot(slot: &Slot) -> Vec<u8> {
    let cells: Vec<(&Edge, &Cell)> = slot.iter().collect();
    // Serialising plain structs of numbers and strings cannot fail.
    serde_json::to_vec(&cells).unwrap_or_default()
}

/// Reads what [`encode_slot`] wrote; none when it is something else.
pub fn decode_slot(bytes: &[u8]) -> Option<Slot> {
    let cells: Vec<(Edge, Cell)> = serde_json::from_slice(bytes).ok()?;
    Some(cells.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(version: &str) -> Edge {
        Edge {
            by_source: true,
            service: "reviews.default".to_owned(),
            version: version.to_owned(),
            ..Edge::default()
        }
    }

    #[test]
    fn old_slots_are_folded_and_none_are_counted_twice() {
        let mut series = Series::default();
        for second in 0..7_200 {
            series.cell(second * 1_000, edge("v1")).requests += 1;
            series.turn(second * 1_000);
        }
        let total: u64 = series
            .window(0, u64::MAX / 2)
            .map(|(_, cell)| cell.requests)
            .sum();
        assert_eq!(total, 7_200);
        assert!(series.fine.len() <= FINE_SLOTS + 1);
    }

    #[test]
    fn a_full_slot_folds_new_edges() {
        let mut series = Series::default();
        for number in 0..MAX_EDGES + 10 {
            series.cell(0, edge(&number.to_string())).requests += 1;
        }
        assert_eq!(series.fine[&0].len(), MAX_EDGES + 1);
        assert_eq!(series.fine[&0][&Edge::overflow()].requests, 10);
    }

    #[test]
    fn slots_round_trip() {
        let mut slot = Slot::new();
        slot.entry(edge("v1")).or_default().latency.add(5_000, 3);
        assert_eq!(decode_slot(&encode_slot(&slot)), Some(slot));
        assert_eq!(decode_slot(b"{"), None);
    }
}
