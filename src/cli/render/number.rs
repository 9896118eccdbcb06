//! Numbers as people read them.

use std::time::Duration;

use crate::rt::UnixMillis;

/// As a float, for division and drawing.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "counts above 2^53 are drawn to three digits anyway"
)]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

/// `1 pod`, `3 pods`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Requests a second: `0.0`, `12.3`, `1234`.
pub(crate) fn rate(value: f64) -> String {
    // The sum of nothing is -0.0, which nobody wants to read.
    let value = value + 0.0;
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

/// `90.0%`.
pub(crate) fn share(percent: f64) -> String {
    format!("{percent:.1}%")
}

/// `99.98%`; never says 100 when one request in a million failed.
pub(crate) fn success(percent: f64) -> String {
    if percent < 100.0 && percent > 99.99 {
        return "99.99%".to_owned();
    }
    format!("{percent:.2}%")
}

/// `0.42ms`, `4.2ms`, `42ms`, `4.2s`.
pub(crate) fn latency(ms: f64) -> String {
    if ms < 1.0 {
        format!("{ms:.2}ms")
    } else if ms < 10.0 {
        format!("{ms:.1}ms")
    } else if ms < 10_000.0 {
        format!("{ms:.0}ms")
    } else {
        format!("{:.1}s", ms / 1_000.0)
    }
}

/// `512B`, `1.5KiB`, `3.0GiB`.
pub(crate) fn bytes(count: u64) -> String {
    if count < 1_024 {
        return format!("{count}B");
    }
    let mut value = float(count);
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1_024.0 {
            break;
        }
        value /= 1_024.0;
        unit = larger;
    }
    format!("{value:.1}{unit}")
}

/// How long, in the two largest units: `0s`, `250ms`, `45s`, `5m30s`, `3h5m`, `5d3h`, `2y40d`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return match duration.subsec_millis() {
            0 => "0s".to_owned(),
            ms => format!("{ms}ms"),
        };
    }
    let units = [
        (31_536_000, "y"),
        (86_400, "d"),
        (3_600, "h"),
        (60, "m"),
        (1, "s"),
    ];
    let mut parts = units.windows(2).find_map(|pair| match pair {
        [(large, large_name), (small, small_name)] if seconds >= *large => {
            let rest = (seconds % large) / small;
            Some(if rest == 0 {
                format!("{}{large_name}", seconds / large)
            } else {
                format!("{}{large_name}{rest}{small_name}", seconds / large)
            })
        }
        _ => None,
    });
    parts.take().unwrap_or_else(|| format!("{seconds}s"))
}

/// How long ago: `5m30s`; `-` when it never was.
pub(crate) fn age(then: UnixMillis, now: UnixMillis) -> String {
    if then == 0 {
        return "-".to_owned();
    }
    match now.saturating_sub(then) {
        0..1_000 => "0s".to_owned(),
        millis => duration(Duration::from_secs(millis / 1_000)),
    }
}

/// How long from now: `23h59m`; `expired` when past.
pub(crate) fn until(then: UnixMillis, now: UnixMillis) -> String {
    match then.checked_sub(now) {
        None | Some(0) => "expired".to_owned(),
        // What was just made for an hour is good for an hour.
        Some(millis) => duration(Duration::from_millis(match millis {
            0..1_000 => millis,
            _ => millis.saturating_add(500) / 1_000 * 1_000,
        })),
    }
}

/// `08:00:00.123`, in UTC.
pub(crate) fn moment_of_day(then: UnixMillis) -> Option<String> {
    let moment = jiff::Timestamp::from_millisecond(i64::try_from(then).ok()?).ok()?;
    Some(moment.strftime("%H:%M:%S%.3f").to_string())
}

/// A moment in UTC: `2026-01-31T12:00:00Z`.
pub(crate) fn moment(then: UnixMillis) -> String {
    i64::try_from(then)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .map_or_else(
            || "-".to_owned(),
            |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_two_units() {
        let show = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(show(0), "0s");
        assert_eq!(show(59), "59s");
        assert_eq!(show(90), "1m30s");
        assert_eq!(show(3_600), "1h");
        assert_eq!(show(5 * 86_400 + 3 * 3_600 + 59), "5d3h");
        assert_eq!(show(400 * 86_400), "1y35d");
        assert_eq!(duration(Duration::from_millis(250)), "250ms");
    }

    #[test]
    fn a_lost_request_shows() {
        assert_eq!(success(100.0), "100.00%");
        assert_eq!(success(99.999_9), "99.99%");
        assert_eq!(success(99.5), "99.50%");
    }

    #[test]
    fn no_rate_is_less_than_none() {
        assert_eq!(rate([0.0_f64; 0].iter().sum()), "0.0");
        assert_eq!(rate(12.34), "12.3");
    }

    #[test]
    fn latencies_and_bytes() {
        assert_eq!(latency(0.418), "0.42ms");
        assert_eq!(latency(4.24), "4.2ms");
        assert_eq!(latency(1_234.0), "1234ms");
        assert_eq!(latency(12_340.0), "12.3s");
        assert_eq!(bytes(512), "512B");
        assert_eq!(bytes(1_536), "1.5KiB");
        assert_eq!(age(0, 10), "-");
        assert_eq!(until(5, 10), "expired");
        assert_eq!(moment(1_769_860_800_000), "2026-01-31T12:00:00Z");
    }
}
