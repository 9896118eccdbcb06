//! The review at the end of each interval: ejections end, rates and times are judged.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::super::super::health::flags::Why;
use super::super::super::tables::ClusterTable;
use super::rates::{Origin, Rate, outliers};
use super::{Kind, Monitor, Watched, millis};

/// Past intervals kept at most, whatever the window.
const MOST_INTERVALS: usize = 3_600;

/// Reviews the endpoints of `cluster`. `now` is in milliseconds since the proxy began; `chance` draws
/// a number below its argument.
pub(crate) fn sweep(cluster: &ClusterTable, now: u64, chance: &mut impl FnMut(u64) -> u64) {
    let Some(detector) = cluster.outlier.as_deref() else {
        return;
    };
    let policy = &detector.policy;
    let watched: Vec<Watched<'_>> = cluster
        .endpoints
        .entries
        .iter()
        .filter_map(|entry| {
            Some(Watched {
                cluster,
                entry,
                detector,
                monitor: entry.state.monitor()?,
            })
        })
        .collect();
    let is_out = |one: &Watched<'_>| one.entry.state.health.holds(Why::Outlier);

    for one in &watched {
        let until = one.monitor.ejected_until.load(Ordering::Relaxed);
        if is_out(one) && until != 0 && until <= now {
            one.uneject(now);
        }
    }
    for origin in [Origin::External, Origin::Local] {
        let rates: Vec<Option<Rate>> = watched
            .iter()
            .map(|one| {
                let rate = match origin {
                    Origin::External => one.monitor.external.take(),
                    Origin::Local => one.monitor.local.take(),
                };
                (!is_out(one)).then_some(rate)
            })
            .collect();
        if origin == Origin::External {
            let least =
                (policy.success_rate.request_volume).min(policy.failure_percentage.request_volume);
            for (one, rate) in watched.iter().zip(&rates) {
                note_rate(one.monitor, rate.filter(|rate| rate.total >= least));
            }
        }
        if origin == Origin::Local && !policy.split_external_local_origin_errors {
            continue;
        }
        for (at, kind) in outliers(policy, origin, &rates) {
            if let Some(one) = watched.get(at).filter(|one| !is_out(one)) {
                one.found(kind, now, chance);
            }
        }
    }
    if policy.response_time.is_some() {
        for one in &watched {
            if slow(one) && !is_out(one) {
                one.found(Kind::ResponseTime, now, chance);
            }
        }
    }
    // An ejection by a request that began with older tables is told to those.
    if watched.iter().any(is_out) {
        cluster.endpoints.changed();
    }
    let interval = millis(policy.interval);
    for one in watched.iter().filter(|one| !is_out(one)) {
        let returned = one.monitor.returned.load(Ordering::Relaxed).checked_sub(1);
        if returned.is_some_and(|returned| now.saturating_sub(returned) >= interval) {
            let times = one.monitor.backoff.load(Ordering::Relaxed);
            let fewer = times.saturating_sub(1);
            one.monitor.backoff.store(fewer, Ordering::Relaxed);
        }
    }
}

fn note_rate(monitor: &Monitor, rate: Option<Rate>) {
    let hundredths = rate.filter(|rate| rate.total > 0).map_or(0, |rate| {
        let share = u64::from(rate.success) * 10_000 / u64::from(rate.total);
        u32::try_from(share).unwrap_or(0) + 1
    });
    monitor.success_rate.store(hundredths, Ordering::Relaxed);
}

/// Moves the window on by an interval, and says whether its mean is above the threshold. What is
/// ejected for it starts over when it returns.
fn slow(one: &Watched<'_>) -> bool {
    let policy = &one.detector.policy;
    let Some(limit) = &policy.response_time else {
        return false;
    };
    let sum = one.monitor.time.swap(0, Ordering::Relaxed);
    let count = one.monitor.timed.swap(0, Ordering::Relaxed);
    // Nothing panics while it is held; if something did, the numbers are still usable.
    let mut window = one
        .monitor
        .window
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if one.entry.state.health.holds(Why::Outlier) {
        window.clear();
        return false;
    }
    window.push_back((sum, count));
    let intervals = millis(limit.window).div_ceil(millis(policy.interval).max(1));
    let most = usize::try_from(intervals).unwrap_or(MOST_INTERVALS);
    while window.len() > most.clamp(1, MOST_INTERVALS) {
        window.pop_front();
    }
    let (sum, count) = window.iter().fold((0_u64, 0_u64), |(sum, count), one| {
        (sum.saturating_add(one.0), count + u64::from(one.1))
    });
    let threshold = u64::try_from(limit.threshold.as_micros()).unwrap_or(u64::MAX);
    count > 0 && count >= u64::from(limit.request_volume) && sum > threshold.saturating_mul(count)
}
