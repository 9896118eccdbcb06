//! Durations as Istio writes them: Go's form (`1h30m`, `1.5s`, `100ms`), at most a year.

use std::time::Duration;

const YEAR: f64 = 366.0 * 24.0 * 3600.0;

/// Reads `text`; negative and longer than a year are refused.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|at| *at > 0)?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit)?;
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    if seconds > YEAR {
        return None;
    }
    // Through nanoseconds, so that 0.1 s is 100 ms and not a nanosecond less.
    Duration::try_from_secs_f64(seconds)
        .ok()
        .map(|exact| Duration::from_nanos(u64::try_from(exact.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_forms_are_read_and_others_are_not() {
        for (text, millis) in [
            ("5s", 5000),
            ("0.5s", 500),
            ("1h1m", 3_660_000),
            ("250ms", 250),
            ("0s", 0),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1d", "1..5s", "9999999h", "1s ", "é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
