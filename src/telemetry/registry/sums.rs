//! Histograms of several workers as one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::super::names::{BOUNDS_MILLI, LATENCY_MICROS};
use super::super::recorder::{DurationCells, Exemplar, HistogramCells};
use super::{Value, to_float};

/// By bounds of Istio's.
pub(super) fn merged<'a>(parts: impl Iterator<Item = &'a HistogramCells>) -> Value {
    let mut counts = [0_u64; BOUNDS_MILLI.len() + 1];
    let mut sum = 0_u64;
    for part in parts {
        for (total, cell) in counts.iter_mut().zip(&part.buckets) {
            *total += cell.get();
        }
        sum = sum.wrapping_add(part.sum_milli.get());
    }
    let mut running = 0;
    let mut cumulative: Vec<u64> = counts
        .iter()
        .map(|count| {
            running += count;
            running
        })
        .collect();
    let count = cumulative.pop().unwrap_or(0);
    Value::Histogram {
        bounds: Cow::Borrowed(&BOUNDS_MILLI),
        cumulative,
        count,
        sum: to_float(sum) / 1000.0,
        exemplars: Vec::new(),
    }
}

/// Durations of several workers by bucket, and their sum.
fn added<'a>(
    parts: impl Iterator<Item = &'a DurationCells>,
) -> ([u64; LATENCY_MICROS.len() + 1], u64) {
    let mut counts = [0_u64; LATENCY_MICROS.len() + 1];
    let mut sum = 0_u64;
    for part in parts {
        sum = sum.wrapping_add(part.sum_micros.get());
        for (total, cell) in counts.iter_mut().zip(&part.buckets) {
            *total += cell.get();
        }
    }
    (counts, sum)
}

/// Durations by Istio's buckets.
pub(super) fn standard<'a>(
    parts: impl Iterator<Item = &'a DurationCells>,
    exemplars: impl Iterator<Item = (usize, Exemplar)>,
) -> Value {
    // Of several workers the latest.
    let mut latest: BTreeMap<usize, Exemplar> = BTreeMap::new();
    for (at, exemplar) in exemplars {
        let known = latest.entry(at).or_insert(exemplar);
        if known.at_unix_ms < exemplar.at_unix_ms {
            *known = exemplar;
        }
    }
    let (counts, sum) = added(parts);
    let mut cumulative = Vec::with_capacity(BOUNDS_MILLI.len());
    let (mut running, mut next) = (0, BOUNDS_MILLI.iter().peekable());
    for (bound, count) in LATENCY_MICROS.iter().zip(&counts) {
        running += count;
        // All of Istio's are among ours.
        if next.next_if(|standard| *standard == bound).is_some() {
            cumulative.push(running);
        }
    }
    Value::Histogram {
        bounds: Cow::Borrowed(&BOUNDS_MILLI),
        cumulative,
        count: counts.iter().sum(),
        sum: to_float(sum) / 1000.0,
        exemplars: latest.into_iter().collect(),
    }
}

/// Durations by buckets in which there are some, each with the bound below it.
pub(super) fn fine<'a>(parts: impl Iterator<Item = &'a DurationCells>) -> Value {
    let (counts, sum) = added(parts);
    let (mut bounds, mut cumulative) = (Vec::new(), Vec::new());
    let (mut running, mut below) = (0, None);
    for (bound, count) in LATENCY_MICROS.iter().zip(&counts) {
        if *count > 0 {
            if let Some(below) = below.filter(|below| bounds.last() != Some(below)) {
                bounds.push(below);
                cumulative.push(running);
            }
            running += count;
            bounds.push(*bound);
            cumulative.push(running);
        }
        below = Some(*bound);
    }
    Value::Histogram {
        bounds: Cow::Owned(bounds),
        cumulative,
        count: counts.iter().sum(),
        sum: to_float(sum) / 1000.0,
        exemplars: Vec::new(),
    }
}
