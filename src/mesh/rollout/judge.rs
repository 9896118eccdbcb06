//! Whether a version is worse than it may be, or than another.
//!
//! Two exact one-sided tests, both of counts, so that nothing is assumed of how requests are distributed:
//!
//! * against a bound, the binomial test: how likely were so many failures (or requests slower than the bound) if
//!   the version just kept it? For a quantile, a request is bad when it is slower than the bound, and `1 - q` of
//!   them may be.
//! * against the stable version, Fisher's test of two proportions (R. A. Fisher, 1934). For a quantile both are
//!   counted above the stable version's own quantile, which is Mood's median test for any quantile (Mood, 1950;
//!   Westenberg, 1948). It needs nothing but the buckets that proxies count in.
//!
//! A test raises a false alarm with a probability of at most [`ALPHA`], and mostly far less as counts are whole
//! numbers. One whose chance is below [`CERTAIN`] needs no second look. What is measured beyond a bound without being proven is neither good
//! nor bad ([`Verdict::Unproven`]): the window grows. Nor is a version promoted before its requests rule out that it breaks a bound by much ([`assured`]). What is worse than the stable version by less than
//! [`SHARE_MARGIN`] or [`LATENCY_MARGIN`] is not worse, however certain.

use serde::{Deserialize, Serialize};

use super::counts::{Copies, Counts, Sides, float};
use super::spec::{Metric, Of, Shadow, Spec};

/// The most that a test may be wrong about a version that is good.
pub const ALPHA: f64 = 1e-3;
/// What is less likely than this is no accident.
pub const CERTAIN: f64 = 1e-6;
/// How much worse than the stable version a share may be, in percentage points.
pub const SHARE_MARGIN: f64 = 0.5;
/// By how much a bound must certainly not be broken for a promotion, in percentage points of requests.
pub const ASSURED_MARGIN: f64 = 2.0;
/// How much slower than the stable version a quantile may be: a part of it, and milliseconds at least. Two versions
/// on one machine differ by as much because their connections are of other ages.
pub const LATENCY_MARGIN: (f64, f64) = (0.25, 20.0);

/// What was found of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Good.
    Pass,
    /// Proven to be bad.
    Fail,
    /// Bad as measured, and it may be chance.
    Unproven,
    /// Too few requests.
    NoData,
}

/// A metric with its figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measure {
    /// Its name.
    pub metric: String,
    /// Of the canary; none without requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The least or the most that is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// `min` or `max`.
    pub bound_is: String,
    /// `%` or `ms`.
    pub unit: String,
    /// Of the stable version, where it was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// What follows.
    pub verdict: Verdict,
    /// Requests of the canary that it is made from.
    pub requests: u64,
    /// How likely this is for a version that is good; 1 where nothing was found.
    pub chance: f64,
    /// The figures in words.
    pub why: String,
    /// Of answers to copies: pairs that differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub different: Option<u64>,
    /// Of answers to copies: where they differ, the most frequent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<Place>,
}

/// Where answers differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Place {
    /// Such as `status`, `header content-type` or `body $.price`.
    pub at: String,
    /// Pairs that differ there.
    pub count: u64,
}

/// Places that are told.
const TOLD: usize = 5;
/// The measure of answers to copies.
pub const SHADOW_DIFF: &str = "shadow-diff";

/// Judges every metric of a window that lasted for `ms`; in a `mirrored` step also what was compared.
pub fn judge(spec: &Spec, (window, ms): (&Sides, u64), mirrored: bool) -> Vec<Measure> {
    let metrics = spec.metrics.iter();
    let mut all: Vec<Measure> = metrics
        .map(|metric| match (&metric.metric, metric.bound) {
            (Of::PerSecond, Some(bound)) => paced(bound, window.canary.requests, ms),
            _ => measure(metric, window, spec.min_requests),
        })
        .collect();
    let shadow = spec.shadow.as_ref().filter(|_| mirrored);
    all.extend(shadow.map(|shadow| compared_copies(shadow, &window.copies)));
    all
}

/// Whether as many requests came as are to come, if they come by chance (Poisson).
fn paced(bound: f64, requests: u64, ms: u64) -> Measure {
    let seconds = float(ms.max(1)) / 1_000.0;
    let value = float(requests) / seconds;
    let mut found = Measure {
        metric: Of::PerSecond.to_string(),
        value: Some(value),
        bound: Some(bound),
        bound_is: "min".to_owned(),
        unit: Of::PerSecond.unit().to_owned(),
        baseline: None,
        verdict: Verdict::Pass,
        requests,
        chance: 1.0,
        why: String::new(),
        different: None,
        places: Vec::new(),
    };
    if value < bound {
        let why = format!(
            "{} requests a second came, fewer than {} ({requests} in {} s)",
            figure(value),
            figure(bound),
            figure(seconds)
        );
        worsen(&mut found, poisson_below(requests, bound * seconds), why);
    }
    found
}

/// Share of the compared answers that differ, in percent; none where none was compared.
pub fn different_percent(copies: &Copies) -> Option<f64> {
    let (bad, all) = copies.bad();
    (all > 0).then(|| 100.0 * float(bad) / float(all))
}

/// Holds answers to copies against their bound.
fn compared_copies(shadow: &Shadow, copies: &Copies) -> Measure {
    let (bad, all) = copies.bad();
    let bound = shadow.max_different_percent;
    let mut found = Measure {
        metric: SHADOW_DIFF.to_owned(),
        value: different_percent(copies),
        bound: Some(bound),
        bound_is: "max".to_owned(),
        unit: "%".to_owned(),
        baseline: None,
        verdict: Verdict::Pass,
        requests: all,
        chance: 1.0,
        why: String::new(),
        different: Some(bad),
        places: places(copies),
    };
    let beyond = found.value.is_some_and(|value| value > bound);
    let chance = binomial_tail(bad, all, bound / 100.0);
    if all < shadow.min_compared && !(beyond && chance < CERTAIN) {
        found.verdict = Verdict::NoData;
        found.why = format!(
            "{all} answers to copies were compared, {} are needed",
            shadow.min_compared
        );
    } else if beyond {
        let named: Vec<String> = found
            .places
            .iter()
            .map(|place| format!("{} ({})", place.at, place.count))
            .collect();
        let mut why = format!(
            "{bad} of {all} answers to copies differ, {} %, above {} %",
            figure(found.value.unwrap_or_default()),
            figure(bound)
        );
        if copies.unanswered > 0 {
            why = format!("{why}; {} got no answer", copies.unanswered);
        }
        if !named.is_empty() {
            why = format!("{why}: {}", named.join(", "));
        }
        worsen(&mut found, chance, why);
    }
    found
}

/// The most frequent places, the first of them first.
fn places(copies: &Copies) -> Vec<Place> {
    let mut all: Vec<Place> = copies
        .places
        .iter()
        .map(|(at, count)| Place {
            at: at.clone(),
            count: *count,
        })
        .collect();
    all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.at.cmp(&b.at)));
    all.truncate(TOLD);
    all
}

/// Bad events among all, and the value that people know it by.
fn bad(of: &Of, counts: &Counts, limit: Option<f64>) -> (u64, u64) {
    match of {
        Of::Success => (counts.failures.min(counts.requests), counts.requests),
        Of::Rate(name) => {
            let events = counts.named.get(name).copied().unwrap_or(0);
            (events.min(counts.requests), counts.requests)
        }
        Of::PerSecond => (0, counts.requests),
        Of::Quantile(_) => {
            let slower = limit.map_or(0.0, |limit| counts.slower_than(limit));
            (whole(slower), counts.timed())
        }
    }
}

/// What people call the metric's value; none without requests.
pub fn value(of: &Of, counts: &Counts) -> Option<f64> {
    let share = |part: u64| {
        (counts.requests > 0)
            .then(|| 100.0 * float(part.min(counts.requests)) / float(counts.requests))
    };
    match of {
        Of::Success => share(counts.requests.saturating_sub(counts.failures)),
        Of::Rate(name) => share(counts.named.get(name).copied().unwrap_or(0)),
        Of::Quantile(thousandths) => counts.quantile_ms(f64::from(*thousandths) / 1_000.0),
        // A time is needed, too.
        Of::PerSecond => None,
    }
}

fn measure(metric: &Metric, window: &Sides, min_requests: u64) -> Measure {
    let Metric {
        metric: of,
        bound,
        compare,
    } = metric;
    let canary = &window.canary;
    let (_, requests) = bad(of, canary, *bound);
    let mut found = Measure {
        metric: of.to_string(),
        value: value(of, canary),
        bound: *bound,
        bound_is: if of.is_floor() { "min" } else { "max" }.to_owned(),
        unit: of.unit().to_owned(),
        baseline: None,
        verdict: Verdict::Pass,
        requests,
        chance: 1.0,
        why: String::new(),
        different: None,
        places: Vec::new(),
    };
    if requests < min_requests {
        found.verdict = Verdict::NoData;
        found.why = format!("{of}: {requests} requests, {min_requests} are needed");
        return found;
    }
    let words = |value: f64| format!("{} {}", figure(value), of.unit());
    if let (Some(bound), Some(value)) = (*bound, found.value) {
        let beyond = if of.is_floor() {
            value < bound
        } else {
            value > bound
        };
        if beyond {
            let (bad, all) = bad(of, canary, Some(bound));
            let chance = binomial_tail(bad, all, allowed(of, bound));
            let side = if of.is_floor() { "below" } else { "above" };
            let why = format!(
                "{of} is {}, {side} {} ({requests} requests)",
                words(value),
                words(bound)
            );
            worsen(&mut found, chance, why);
        }
    }
    if *compare {
        compared(of, window, min_requests, &mut found);
    }
    if found.verdict == Verdict::Pass {
        found.why = format!(
            "{of} is {}",
            found.value.map_or_else(|| "-".to_owned(), words)
        );
    }
    found
}

/// Whether so many requests rule out that a bound is broken by much: by more than [`ASSURED_MARGIN`], with a chance
/// below [`ALPHA`] to be wrong. Says what is missing. Looks that found nothing wrong in a few requests are no such
/// proof: of 20 requests to a version that fails one in twenty, none fails every third time.
pub fn assured(spec: &Spec, canary: &Counts) -> Result<(), String> {
    for metric in &spec.metrics {
        let of = &metric.metric;
        let Some(bound) = metric.bound.filter(|_| *of != Of::PerSecond) else {
            continue;
        };
        let (bad, all) = bad(of, canary, Some(bound));
        let worse = (allowed(of, bound) + ASSURED_MARGIN / 100.0).min(1.0);
        if binomial_below(bad, all, worse) >= ALPHA {
            return Err(format!(
                "{all} requests are too few to be certain that {of} keeps to {} {}",
                figure(bound),
                of.unit()
            ));
        }
    }
    Ok(())
}

/// The same of answers to copies, before there are no more copies.
pub fn assured_copies(shadow: &Shadow, copies: &Copies) -> Result<(), String> {
    let (bad, all) = copies.bad();
    let worse = ((shadow.max_different_percent + ASSURED_MARGIN) / 100.0).min(1.0);
    if binomial_below(bad, all, worse) < ALPHA {
        return Ok(());
    }
    Err(format!(
        "{all} compared answers are too few to be certain that at most {} % differ",
        figure(shadow.max_different_percent)
    ))
}

/// Share of requests that may be bad within a bound.
fn allowed(of: &Of, bound: f64) -> f64 {
    match of {
        Of::Success => 1.0 - bound / 100.0,
        Of::Rate(_) => bound / 100.0,
        Of::Quantile(thousandths) => 1.0 - f64::from(*thousandths) / 1_000.0,
        Of::PerSecond => 1.0,
    }
}

/// Takes the worse of what was found and a test's outcome.
fn worsen(found: &mut Measure, chance: f64, why: String) {
    let verdict = if chance < ALPHA {
        Verdict::Fail
    } else {
        Verdict::Unproven
    };
    if found.verdict == Verdict::Pass || chance < found.chance {
        found.verdict = verdict;
        found.chance = chance;
        found.why = why;
    }
}

/// Holds the canary against the stable version. Fewer requests of that than a look needs prove nothing, and are no
/// reason to wait: at 100 % there are none.
fn compared(of: &Of, window: &Sides, min_requests: u64, found: &mut Measure) {
    let Sides { stable, canary, .. } = window;
    let (Some(value), Some(baseline)) = (value(of, canary), self::value(of, stable)) else {
        return;
    };
    found.baseline = Some(baseline);
    let limit = match of {
        // The edge above the stable quantile, so that no bucket is cut.
        Of::Quantile(_) => stable
            .edge_ms(baseline)
            .or_else(|| canary.edge_ms(baseline)),
        Of::Success | Of::Rate(_) | Of::PerSecond => None,
    };
    if matches!(of, Of::Quantile(_)) && limit.is_none() {
        return;
    }
    let ((worse, of_canary), (usual, of_stable)) = (bad(of, canary, limit), bad(of, stable, limit));
    if of_stable < min_requests {
        return;
    }
    let margin = match of {
        Of::Success => baseline - value > SHARE_MARGIN,
        Of::Rate(_) => value - baseline > SHARE_MARGIN,
        Of::PerSecond => false,
        Of::Quantile(_) => value - baseline > (baseline * LATENCY_MARGIN.0).max(LATENCY_MARGIN.1),
    };
    if !margin {
        return;
    }
    let chance = fisher_tail(worse, of_canary, usual, of_stable);
    // What is not proven here is no reason to wait: nobody gave a bound.
    if chance < ALPHA {
        let why = format!(
            "{of} is {} {unit}, and {} {unit} of the stable version ({of_canary} and {of_stable} requests)",
            figure(value),
            figure(baseline),
            unit = of.unit(),
        );
        worsen(found, chance, why);
    }
}

/// Three digits that mean something.
pub(super) fn figure(value: f64) -> String {
    let decimals: usize = if value.abs() >= 100.0 { 1 } else { 2 };
    let text = format!("{value:.decimals$}");
    // There is always a point, so no zero before it is taken away.
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The chance of `bad` or more among `all` when each is bad with probability `p`; 1 where that is no more than is to be expected.
pub fn binomial_tail(bad: u64, all: u64, p: f64) -> f64 {
    if bad == 0 || float(bad) <= float(all) * p {
        return 1.0;
    }
    if p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return 1.0;
    }
    let odds = p / (1.0 - p);
    let first = choose(all, bad) + float(bad) * p.ln() + float(all - bad.min(all)) * (1.0 - p).ln();
    // Above the mean every term is smaller than the one before it.
    tail(first, bad, all, |k| float(all - k) / float(k + 1) * odds)
}

/// The chance of `bad` or fewer among `all` when each is bad with probability `p`.
pub fn binomial_below(bad: u64, all: u64, p: f64) -> f64 {
    if bad >= all || p <= 0.0 || float(bad) >= float(all) * p {
        return 1.0;
    }
    if p >= 1.0 {
        return 0.0;
    }
    let odds = (1.0 - p) / p;
    let first = choose(all, bad) + float(bad) * p.ln() + float(all - bad) * (1.0 - p).ln();
    // Downwards from below the mean, so every term is smaller again.
    tail(first, 0, bad, |k| {
        let at = bad - k;
        float(at) / float(all - at + 1) * odds
    })
}

/// The chance of `count` events or fewer where `mean` are to be expected.
pub fn poisson_below(count: u64, mean: f64) -> f64 {
    if float(count) >= mean || mean <= 0.0 {
        return 1.0;
    }
    let first = float(count) * mean.ln() - mean - ln_factorial(count);
    tail(first, 0, count, |k| float(count - k) / mean)
}

/// The chance that of all bad events so many or more fall on the first of two, if it makes no difference which;
/// 1 where the first has no more of them.
pub fn fisher_tail(bad: u64, all: u64, other_bad: u64, other_all: u64) -> f64 {
    if all == 0 || other_all == 0 || bad > all || other_bad > other_all {
        return 1.0;
    }
    if float(bad) * float(other_all) <= float(other_bad) * float(all) {
        return 1.0;
    }
    let (sum_bad, sum) = (bad + other_bad, all + other_all);
    let first = choose(sum_bad, bad) + choose(sum - sum_bad, all - bad) - choose(sum, all);
    tail(first, bad, sum_bad.min(all), |k| {
        let left = sum - sum_bad + k + 1;
        float(sum_bad - k) * float(all - k) / (float(k + 1) * float(left.saturating_sub(all)))
    })
}

/// The sum of terms from `from` to `to`; the first by its logarithm, the next by their ratio.
fn tail(first: f64, from: u64, to: u64, ratio: impl Fn(u64) -> f64) -> f64 {
    let (mut sum, mut term) = (1.0_f64, 1.0_f64);
    for k in from..to {
        term *= ratio(k);
        if !term.is_finite() {
            return 1.0;
        }
        sum += term;
        if term < sum * 1e-12 {
            break;
        }
    }
    (first + sum.ln()).exp().min(1.0)
}

/// The logarithm of the number of ways to choose `k` of `n`.
fn choose(n: u64, k: u64) -> f64 {
    let k = k.min(n);
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// The logarithm of `n!`: exact up to 15, then Stirling's series, whose error is below 1e-10 from there.
fn ln_factorial(n: u64) -> f64 {
    if n <= 15 {
        return (2..=n).map(|k| float(k).ln()).sum();
    }
    let x = float(n);
    x * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI * x).ln() + 1.0 / (12.0 * x)
        - 1.0 / (360.0 * x * x * x)
        + 1.0 / (1260.0 * x * x * x * x * x)
}

/// The whole part.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::as_conversions,
    reason = "a count that was cut in a bucket; saturates"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}
