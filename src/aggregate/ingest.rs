//! Cumulative values in, increments out.

use std::collections::{BTreeMap, BTreeSet};

use crate::telemetry::names::{
    EDGE_CLOSED, EDGE_OPENED, EDGE_RECEIVED, EDGE_REQUESTS, EDGE_SENT, LATENCY_MICROS,
    REQUEST_DURATION, REQUESTS, RETRIES, SHADOW_COMPARED, SHADOW_DIFFERENCES, TCP_OPENED,
    TCP_RECEIVED, TCP_SENT,
};
use crate::telemetry::shadow::OUTCOME;

use super::cell::Cell;
use super::codes::Code;
use super::coding::{put, take};
use super::cursors::{Bucket, More, Told, Totals, hash};
use super::edge::Edge;
use super::histogram::Histogram;
use super::links::{Counted, Link};
use super::sample::Sample;
use super::series::Series;

/// Processes of one name that are remembered: the one that serves, and those that drain or have just ended.
const MOST_OF_NODE: usize = 8;
/// A process that has said nothing for so long, while a newer one of its name has, is gone: a quarter of an hour.
const SUPERSEDED_MS: u64 = 15 * 60_000;
/// A process that has said nothing for so long may be forgotten to make room: five minutes.
const SILENT_MS: u64 = 5 * 60_000;
/// What a process takes beside its totals, in bytes.
const PROCESS_BYTES: usize = 256;

/// Which process tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its node's id.
    pub node: String,
    /// When it started, in milliseconds since the epoch; 0 when it does not say. Two processes of one node count
    /// from 0 each, also when the second has counted more than the first had when it is heard.
    pub started_unix_ms: u64,
}

impl Process {
    /// As text, which is also how it is written down.
    pub fn name(&self) -> String {
        format!("{}@{:x}", self.node, self.started_unix_ms)
    }

    /// Reads [`Self::name`].
    pub fn parse(name: &str) -> Option<Self> {
        let (node, started) = name.rsplit_once('@')?;
        Some(Self {
            node: node.to_owned(),
            started_unix_ms: u64::from_str_radix(started, 16).ok()?,
        })
    }
}

/// Where each process's counters stood when they were last told. One that was never heard starts at zero, so
/// nothing that it did is lost; see [`Ingest::push`] for the exceptions.
#[derive(Debug, Clone, PartialEq)]
pub struct Ingest {
    processes: BTreeMap<Process, Cursor>,
    /// Totals of all, in bytes.
    bytes: usize,
    most_bytes: usize,
    /// What changed since it was written down.
    dirty: BTreeSet<Process>,
    /// The last moment in which one was heard that had to be forgotten though it may be alive.
    forgot_unix_ms: u64,
    /// Of what label sets nothing is counted, as often as they were told.
    unfollowed: u64,
}

/// The last values of one process.
#[derive(Debug, Clone, Default, PartialEq)]
struct Cursor {
    seen_unix_ms: u64,
    totals: Totals,
}

/// What is remembered of processes, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// Processes.
    pub processes: usize,
    /// Label sets.
    pub label_sets: usize,
    /// Bytes now.
    pub bytes: usize,
    /// At most.
    pub most_bytes: usize,
    /// Times that a label set was told for which there was no room: nothing of it is counted.
    pub unfollowed: u64,
}

impl Default for Ingest {
    fn default() -> Self {
        Self::new(32 << 20)
    }
}

/// Metrics that are looked at.
pub fn is_wanted(name: &str) -> bool {
    const WANTED: [&str; 13] = [
        SHADOW_COMPARED.name,
        SHADOW_DIFFERENCES.name,
        REQUESTS.name,
        RETRIES.name,
        TCP_OPENED.name,
        TCP_RECEIVED.name,
        TCP_SENT.name,
        REQUEST_DURATION.name,
        EDGE_OPENED.name,
        EDGE_CLOSED.name,
        EDGE_REQUESTS.name,
        EDGE_RECEIVED.name,
        EDGE_SENT.name,
    ];
    WANTED.contains(&name)
}

impl Ingest {
    /// Remembers processes in at most `most_bytes`.
    pub fn new(most_bytes: usize) -> Self {
        Self {
            processes: BTreeMap::new(),
            bytes: 0,
            most_bytes,
            dirty: BTreeSet::new(),
            forgot_unix_ms: 0,
            unfollowed: 0,
        }
    }

    /// Adds to `series` at `now` what `process` did since its last push. `told` says that it has told its counts to
    /// somebody before, and `alone` that this can only have been here: where there are several control planes, a
    /// process that comes from another begins with what it says first. So does one that was forgotten for lack of
    /// room.
    pub fn push(
        &mut self,
        (process, told): (&Process, bool),
        alone: bool,
        samples: &[Sample<'_>],
        now_unix_ms: u64,
        series: &mut Series,
    ) {
        let known = self.processes.contains_key(process);
        let forgotten = process.started_unix_ms <= self.forgot_unix_ms && self.forgot_unix_ms > 0;
        let baseline = !known && told && (!alone || forgotten);
        if !known {
            self.make_room(process, now_unix_ms);
            self.bytes += PROCESS_BYTES;
        }
        let cursor = self.processes.entry(process.clone()).or_default();
        cursor.seen_unix_ms = now_unix_ms;
        let name = process.name();
        series.links.hear(&name, now_unix_ms);
        let mut all: Told = samples
            .iter()
            .enumerate()
            .filter(|(_, sample)| is_wanted(sample.name))
            .map(|(at, sample)| (hash(sample), at))
            .collect();
        if all.is_empty() {
            return;
        }
        let before = cursor.totals.bytes();
        // One that tells without end leaves room for others.
        let room = self
            .most_bytes
            .saturating_sub(self.bytes)
            .min((self.most_bytes / 4).saturating_sub(before));
        let unfollowed = cursor
            .totals
            .update(samples, &mut all, room, |sample, more| {
                if baseline {
                    return;
                }
                let copies = sample.name == SHADOW_COMPARED.name;
                let edge = if copies {
                    Edge::of_copies(sample)
                } else {
                    Edge::of(sample)
                };
                let Some(edge) = edge else {
                    return;
                };
                match more {
                    More::Count(more) => {
                        if let Some(what) = Counted::of(sample.name) {
                            let total = match sample.value {
                                super::sample::Value::Counter(total) => total,
                                super::sample::Value::Histogram(_) => more,
                            };
                            let link = Link::of(sample, edge);
                            series
                                .links
                                .add((&name, now_unix_ms), link, what, (total, more));
                        } else if more > 0 {
                            count(series.cell(now_unix_ms, edge), sample, more);
                        }
                    }
                    More::Buckets(buckets) if !buckets.is_empty() => {
                        let latency = &mut series.cell(now_unix_ms, edge).latency;
                        for bucket in buckets {
                            spread(latency, bucket);
                        }
                    }
                    More::Buckets(_) => {}
                }
            });
        self.bytes = (self.bytes + cursor.totals.bytes()).saturating_sub(before);
        self.unfollowed += unfollowed;
        self.dirty.insert(process.clone());
    }

    /// Forgets processes that have not pushed since `before_unix_ms`, and those that a newer one of their name has
    /// taken the place of.
    pub fn forget(&mut self, before_unix_ms: u64, now_unix_ms: u64) {
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        for process in self.processes.keys() {
            let newest = newest.entry(&process.node).or_default();
            *newest = (*newest).max(process.started_unix_ms);
        }
        let gone: Vec<Process> = self
            .processes
            .iter()
            .filter(|(process, cursor)| {
                let superseded = newest
                    .get(process.node.as_str())
                    .is_some_and(|newest| process.started_unix_ms < *newest);
                cursor.seen_unix_ms < before_unix_ms
                    || (superseded && cursor.seen_unix_ms + SUPERSEDED_MS < now_unix_ms)
            })
            .map(|(process, _)| process.clone())
            .collect();
        for process in gone {
            self.remove(&process);
        }
    }

    fn remove(&mut self, process: &Process) {
        if let Some(cursor) = self.processes.remove(process) {
            let bytes = cursor.totals.bytes() + PROCESS_BYTES;
            self.bytes = self.bytes.saturating_sub(bytes);
            self.dirty.insert(process.clone());
        }
    }

    /// Makes room for a process that is new.
    fn make_room(&mut self, new: &Process, now: u64) {
        let of_node = |process: &&Process| process.node == new.node;
        if self.processes.keys().filter(of_node).count() >= MOST_OF_NODE {
            let own = self
                .processes
                .iter()
                .filter(|(process, _)| of_node(process));
            let silent = own.min_by_key(|(_, cursor)| cursor.seen_unix_ms);
            if let Some(silent) = silent.map(|(process, _)| process.clone()) {
                self.remove(&silent);
            }
        }
        while self.bytes + PROCESS_BYTES > self.most_bytes / 16 * 15 {
            let silent = self
                .processes
                .iter()
                .min_by_key(|(_, cursor)| cursor.seen_unix_ms)
                .filter(|(_, cursor)| cursor.seen_unix_ms + SILENT_MS < now);
            let Some((silent, seen)) = silent.map(|(p, cursor)| (p.clone(), cursor.seen_unix_ms))
            else {
                break;
            };
            self.forgot_unix_ms = self.forgot_unix_ms.max(seen);
            self.remove(&silent);
        }
    }

    /// What is remembered, and what it takes.
    pub fn followed(&self) -> Followed {
        let totals = self.processes.values().map(|cursor| cursor.totals.len());
        Followed {
            processes: self.processes.len(),
            label_sets: totals.sum(),
            bytes: self.bytes,
            most_bytes: self.most_bytes,
            unfollowed: self.unfollowed,
        }
    }

    /// What is to be written down or, where there is nothing any more, removed.
    pub fn changes(&mut self) -> Vec<(Process, Option<Vec<u8>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        let bytes = |process: &Process| {
            let cursor = self.processes.get(process)?;
            let mut out = Vec::with_capacity(cursor.totals.bytes() + 8);
            put(&mut out, cursor.seen_unix_ms);
            out.extend_from_slice(cursor.totals.packed());
            Some(out)
        };
        dirty
            .into_iter()
            .map(|process| {
                let bytes = bytes(&process);
                (process, bytes)
            })
            .collect()
    }

    /// Takes back changes that could not be written.
    pub fn unwritten(&mut self, processes: impl Iterator<Item = Process>) {
        self.dirty.extend(processes);
    }

    /// Puts back what was written down. Gives whether it made sense.
    pub fn restore(&mut self, process: Process, mut bytes: &[u8]) -> bool {
        let Some(seen_unix_ms) = take(&mut bytes) else {
            return false;
        };
        let Some(totals) = Totals::unpack(bytes) else {
            return false;
        };
        self.bytes += totals.bytes() + PROCESS_BYTES;
        let cursor = Cursor {
            seen_unix_ms,
            totals,
        };
        self.processes.insert(process, cursor);
        true
    }
}

impl Ingest {
    /// Puts back a process as it was written down at first: totals by name and labels, counters as `Err`.
    pub(super) fn restore_old(
        &mut self,
        process: Process,
        seen_unix_ms: u64,
        old: impl Iterator<Item = (String, Result<Vec<(u64, u64)>, u64>)>,
    ) {
        let old = old.filter(|(key, _)| key.split('\u{1}').next().is_some_and(is_wanted));
        let totals = Totals::from_old(old);
        self.bytes += totals.bytes() + PROCESS_BYTES;
        self.dirty.insert(process.clone());
        let cursor = Cursor {
            seen_unix_ms,
            totals,
        };
        self.processes.insert(process, cursor);
    }
}

/// Adds what lies between two bounds. A proxy of somebody else has coarser ones than we: its observations are taken
/// to lie evenly between, as they are for a percentile.
fn spread(latency: &mut Histogram, bucket: Bucket) {
    let Bucket {
        lower,
        upper,
        count,
    } = bucket;
    let from = LATENCY_MICROS.partition_point(|bound| *bound <= lower);
    let to = LATENCY_MICROS.partition_point(|bound| *bound < upper);
    let between = LATENCY_MICROS.get(from..to).unwrap_or_default();
    if between.is_empty() || upper == u64::MAX {
        latency.add(upper, count);
        return;
    }
    let width = u128::from(upper - lower);
    let mut given = 0;
    for bound in between.iter().chain([&upper]) {
        let below = u128::from(count) * u128::from(bound - lower) / width;
        let below = u64::try_from(below).unwrap_or(count);
        latency.add(*bound, below - given);
        given = below;
    }
}

/// Which counters matter to the golden signals, and how.
fn count(cell: &mut Cell, sample: &Sample<'_>, more: u64) {
    let add = |to: &mut u64| *to = to.saturating_add(more);
    match sample.name {
        name if name == REQUESTS.name => {
            add(&mut cell.requests);
            let grpc = sample.label("grpc_response_status");
            let failed = sample.label("response_code").starts_with('5')
                || sample.label("response_code") == "0"
                || (sample.label("request_protocol") == "grpc"
                    && !matches!(grpc, "0" | "" | "unknown"));
            if failed {
                add(&mut cell.failures);
            }
            if sample.label("connection_security_policy") == "mutual_tls" {
                add(&mut cell.mtls);
            }
            if let Ok(status) = sample.label("response_code").parse() {
                cell.codes.add(Code::Http(status), more);
            }
            if let ("grpc", Ok(status)) = (sample.label("request_protocol"), grpc.parse()) {
                cell.codes.add(Code::Grpc(status), more);
            }
            match sample.label("response_flags") {
                "UT" => add(&mut cell.timeouts),
                "UO" => add(&mut cell.overflows),
                _ => {}
            }
        }
        name if name == RETRIES.name => add(&mut cell.retries),
        name if name == TCP_OPENED.name => {
            add(&mut cell.tcp_opened);
            if sample.label("connection_security_policy") == "mutual_tls" {
                add(&mut cell.tcp_mtls);
            }
        }
        // Istio names these from the destination's side: it receives what callers send.
        name if name == TCP_RECEIVED.name => add(&mut cell.tcp_to),
        name if name == TCP_SENT.name => add(&mut cell.tcp_from),
        name if name == SHADOW_COMPARED.name => match sample.label(OUTCOME) {
            "unanswered" => add(&mut cell.unanswered),
            "skipped" => {}
            outcome => {
                add(&mut cell.compared);
                if outcome == "different" {
                    add(&mut cell.different);
                }
            }
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests;
