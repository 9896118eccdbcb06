//! Where the counters of one process stood when they were last told, packed: a million label sets are some 30 MB.

use super::coding::{put, put_buckets, take, take_buckets, take_bytes};
use super::sample::{Sample, Value};

/// What a counter or histogram has more than when it was last told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum More {
    /// Of a counter.
    Count(u64),
    /// Of a histogram: by bucket, with the bound below each.
    Buckets(Vec<Bucket>),
}

/// Observations above `lower` and up to `upper`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) lower: u64,
    pub(super) upper: u64,
    pub(super) count: u64,
}

/// Totals by the hash of name and labels, ascending: hash, what it is (0 a counter, 1 a histogram), value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Totals {
    packed: Vec<u8>,
    entries: usize,
}

#[derive(Debug, Clone, PartialEq)]
enum Total {
    Count(u64),
    /// Cumulative over bounds, only where it grows.
    Buckets(Vec<(u64, u64)>),
}

/// What is told, by hash: where in the samples it is.
pub(super) type Told = Vec<(u64, usize)>;

/// The name under which a sample's total is remembered: FNV-1a with a last mixing, as it must be the same after
/// years. Among 50,000 label sets of a process two are alike once in 10^10 processes.
pub(super) fn hash(sample: &Sample<'_>) -> u64 {
    let mut hash = eat(BEGIN, sample.name, 1);
    for (name, value) in &sample.labels {
        hash = eat(hash, name, b'=');
        hash = eat(hash, value, 1);
    }
    mix(hash)
}

const BEGIN: u64 = 0xcbf2_9ce4_8422_2325;

fn eat(hash: u64, text: &str, end: u8) -> u64 {
    let bytes = text.bytes().chain([end]);
    bytes.fold(hash, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash ^ (hash >> 29)
}

impl Totals {
    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.packed.capacity()
    }

    /// Label sets that are followed.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// As it is written down.
    pub(super) fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// Reads [`Self::packed`]; none when it is something else.
    pub(super) fn unpack(packed: &[u8]) -> Option<Self> {
        let (mut rest, mut entries, mut last) = (packed, 0, None);
        while !rest.is_empty() {
            let hash = next_hash(&mut rest)?;
            if last.is_some_and(|last| last >= hash) {
                return None;
            }
            last = Some(hash);
            take_total(&mut rest)?;
            entries += 1;
        }
        Some(Self {
            packed: packed.to_vec(),
            entries,
        })
    }

    /// Of totals by name and labels, with a byte 1 between; counters are `Err`.
    pub(super) fn from_old(
        old: impl Iterator<Item = (String, Result<Vec<(u64, u64)>, u64>)>,
    ) -> Self {
        let mut all: Vec<(u64, Total)> = old
            .map(|(key, value)| {
                let total = match value {
                    Err(count) => Total::Count(count),
                    Ok(buckets) => Total::Buckets(buckets),
                };
                (mix(eat(BEGIN, &key, 1)), total)
            })
            .collect();
        all.sort_by_key(|(hash, _)| *hash);
        all.dedup_by_key(|(hash, _)| *hash);
        let mut packed = Vec::new();
        for (hash, total) in &all {
            packed.extend_from_slice(&hash.to_le_bytes());
            put_total(&mut packed, total);
        }
        Self {
            packed,
            entries: all.len(),
        }
    }

    /// Takes over what is told, and calls `each` with what is more than before. What was never told has begun at
    /// 0. At most `room` bytes are added: gives how many label sets found none, of which nothing is counted.
    pub(super) fn update(
        &mut self,
        samples: &[Sample<'_>],
        told: &mut Told,
        room: usize,
        mut each: impl FnMut(&Sample<'_>, More),
    ) -> u64 {
        told.sort_unstable();
        let most = self.packed.len().saturating_add(room);
        let mut out = Vec::with_capacity(self.packed.len() + told.len() * 4);
        let (mut unfollowed, mut entries) = (0, 0);
        let mut rest = self.packed.as_slice();
        let mut told = told.iter().copied().peekable();
        loop {
            let mut after = rest;
            // What does not make sense was written by nobody, as it is looked at when it is read.
            let kept = next_hash(&mut after);
            let next = told.peek().map(|(hash, _)| *hash);
            let hash = match (kept, next) {
                (Some(kept), Some(next)) => kept.min(next),
                (Some(hash), None) | (None, Some(hash)) => hash,
                (None, None) => break,
            };
            let mut last = None;
            if kept == Some(hash) {
                let value = after;
                last = take_total(&mut after);
                if next != Some(hash) {
                    let length = value.len() - after.len();
                    out.extend_from_slice(&hash.to_le_bytes());
                    out.extend_from_slice(value.get(..length).unwrap_or_default());
                    entries += 1;
                    rest = after;
                    continue;
                }
                rest = after;
            } else if out.len() + rest.len() + 24 > most {
                told.next();
                unfollowed += 1;
                continue;
            }
            // Twice in one message, the second goes on from the first.
            while let Some((_, at)) = told.next_if(|(next, _)| *next == hash) {
                let Some(sample) = samples.get(at) else {
                    continue;
                };
                let (total, more) = compare(last.take(), &sample.value);
                last = Some(total);
                each(sample, more);
            }
            if let Some(total) = last {
                out.extend_from_slice(&hash.to_le_bytes());
                put_total(&mut out, &total);
                entries += 1;
            }
        }
        out.shrink_to_fit();
        self.packed = out;
        self.entries = entries;
        unfollowed
    }
}

/// The hash of the next entry; none at the end, and where there is only part of one.
fn next_hash(from: &mut &[u8]) -> Option<u64> {
    let bytes = take_bytes(from, 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn put_total(out: &mut Vec<u8>, total: &Total) {
    match total {
        Total::Count(count) => {
            put(out, 0);
            put(out, *count);
        }
        Total::Buckets(buckets) => {
            put(out, 1);
            let mut last = 0;
            let own: Vec<(u64, u64)> = buckets
                .iter()
                .map(|(bound, total)| {
                    let own = total.saturating_sub(last);
                    last = *total;
                    (*bound, own)
                })
                .collect();
            put_buckets(out, &own);
        }
    }
}

fn take_total(from: &mut &[u8]) -> Option<Total> {
    Some(match take(from)? {
        0 => Total::Count(take(from)?),
        1 => {
            let (mut buckets, mut sum) = (Vec::new(), 0_u64);
            take_buckets(from, |bound, own| {
                sum = sum.saturating_add(own);
                buckets.push((bound, sum));
            })?;
            Total::Buckets(buckets)
        }
        _ => return None,
    })
}

/// What stands now, and what it has more than `last`. What fell began anew.
fn compare(last: Option<Total>, now: &Value) -> (Total, More) {
    match now {
        Value::Counter(now) => {
            let last = match last {
                Some(Total::Count(last)) => last,
                _ => 0,
            };
            let more = now.checked_sub(last).unwrap_or(*now);
            (Total::Count(*now), More::Count(more))
        }
        Value::Histogram(now) => {
            let last = match last {
                Some(Total::Buckets(last)) => last,
                _ => Vec::new(),
            };
            let more = difference(&last, now);
            let mut before = 0;
            let mut grows = now.clone();
            grows.retain(|(_, total)| {
                let more = *total > before;
                before = before.max(*total);
                more
            });
            (Total::Buckets(grows), More::Buckets(more))
        }
    }
}

/// Observations by bucket that `now` has and `last` had not; both cumulative over bounds.
fn difference(last: &[(u64, u64)], now: &[(u64, u64)]) -> Vec<Bucket> {
    let total = |buckets: &[(u64, u64)]| buckets.last().map_or(0, |(_, count)| *count);
    let restarted = total(now) < total(last);
    let mut known = last.iter().peekable();
    let (mut at, mut below, mut lower) = (0, 0, 0);
    let mut more = Vec::new();
    for (bound, count) in now {
        while let Some((_, count)) = known.next_if(|(upper, _)| upper <= bound) {
            at = *count;
        }
        let since = count.saturating_sub(if restarted { 0 } else { at });
        let own = since.saturating_sub(below);
        if own > 0 {
            more.push(Bucket {
                lower,
                upper: *bound,
                count: own,
            });
        }
        below = below.max(since);
        lower = *bound;
    }
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(total: u64, code: &'static str) -> Sample<'static> {
        Sample {
            name: "istio_requests_total",
            labels: vec![("response_code", code)],
            value: Value::Counter(total),
        }
    }

    fn tell(totals: &mut Totals, samples: &[Sample<'_>], room: usize) -> (Vec<More>, u64) {
        let mut told = samples
            .iter()
            .enumerate()
            .map(|(at, sample)| (hash(sample), at))
            .collect();
        let mut all = Vec::new();
        let unfollowed = totals.update(samples, &mut told, room, |_, more| all.push(more));
        (all, unfollowed)
    }

    #[test]
    fn what_is_told_again_is_no_more() {
        let mut totals = Totals::default();
        assert_eq!(
            tell(&mut totals, &[sample(10, "200")], 999).0,
            [More::Count(10)]
        );
        assert_eq!(
            tell(&mut totals, &[sample(2, "503")], 999).0,
            [More::Count(2)]
        );
        assert_eq!(
            tell(&mut totals, &[sample(10, "200")], 999).0,
            [More::Count(0)]
        );
        assert_eq!(
            tell(&mut totals, &[sample(4, "200")], 999).0,
            [More::Count(4)]
        );
        assert_eq!(totals.len(), 2);
        let mut again = Totals::unpack(totals.packed()).unwrap();
        assert_eq!(again, totals);
        assert_eq!(
            tell(&mut again, &[sample(5, "200")], 999).0,
            [More::Count(1)]
        );
        // Twice in one message.
        let twice = [sample(6, "200"), sample(6, "200")];
        assert_eq!(
            tell(&mut again, &twice, 999).0,
            [More::Count(1), More::Count(0)]
        );
    }

    #[test]
    fn without_room_only_what_is_known_is_followed() {
        let mut totals = Totals::default();
        tell(&mut totals, &[sample(10, "200")], 999);
        let all = [sample(11, "200"), sample(5, "404"), sample(5, "503")];
        assert_eq!(tell(&mut totals, &all, 0), (vec![More::Count(1)], 2));
        assert_eq!(totals.len(), 1);
        assert!(totals.bytes() < 16);
    }

    #[test]
    fn histograms_differ_bucket_by_bucket() {
        let bucket = |lower, upper, count| Bucket {
            lower,
            upper,
            count,
        };
        assert_eq!(
            difference(
                &[(1_000, 5), (5_000, 8), (u64::MAX, 8)],
                &[(1_000, 6), (5_000, 10), (u64::MAX, 11)],
            ),
            [
                bucket(0, 1_000, 1),
                bucket(1_000, 5_000, 1),
                bucket(5_000, u64::MAX, 1)
            ]
        );
        assert_eq!(
            difference(&[(1_000, 9)], &[(1_000, 3)]),
            [bucket(0, 1_000, 3)]
        );
        // Buckets that were left out as they were empty.
        assert_eq!(
            difference(&[(5_000, 8)], &[(1_000, 2), (5_000, 10)]),
            [bucket(0, 1_000, 2)]
        );
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let mut totals = Totals::default();
        tell(&mut totals, &[sample(10, "200"), sample(10, "404")], 999);
        let packed = totals.packed();
        assert_eq!(Totals::unpack(&packed[..packed.len() - 1]), None);
        let swapped = [&packed[10..], &packed[..10]].concat();
        assert_eq!(Totals::unpack(&swapped), None);
    }
}
