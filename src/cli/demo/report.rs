//! What the demo found, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::render::{Page, Render};

/// Everything that was measured.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DemoReport {
    /// In order.
    pub(super) steps: Vec<Figure>,
    /// How long all of it took.
    pub(super) seconds: f64,
    /// Whether every figure is as it should be.
    pub(super) passed: bool,
}

/// One figure and what it should be.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figure {
    /// A stable word for programs.
    pub(super) name: &'static str,
    /// What was looked at, in a sentence.
    pub(super) what: String,
    /// What was found.
    pub(super) found: String,
    /// The number behind it, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<f64>,
    /// Whether it is as it should be.
    pub(super) good: bool,
}

impl Render for DemoReport {
    fn text(&self, page: &Page) -> String {
        let mut text = String::new();
        for figure in &self.steps {
            let mark = if figure.good {
                page.paint.good("✓")
            } else {
                page.paint.bad("×")
            };
            // Writing into a String cannot fail.
            let _infallible =
                write!(text, "{mark} {}\n    {}\n", figure.what, figure.found).is_ok();
        }
        let end = if self.passed {
            "every figure is as it should be"
        } else {
            "some figures are off"
        };
        let _infallible = write!(text, "\n{:.0} s; {end}\n", self.seconds).is_ok();
        text
    }

    fn names(&self) -> Vec<String> {
        self.steps
            .iter()
            .map(|figure| figure.name.to_owned())
            .collect()
    }
}

/// The 95 % Wilson interval of `part` in `whole`, in percent.
#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "an interval is an estimate"
)]
pub(super) fn interval(part: u64, whole: u64) -> (f64, f64) {
    const Z: f64 = 1.959_964;
    if whole == 0 {
        return (0.0, 100.0);
    }
    let (n, p) = (whole as f64, part as f64 / whole as f64);
    let middle = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (
        100.0 * (middle - spread) / scale,
        100.0 * (middle + spread) / scale,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_narrows_with_more_requests() {
        let (low, high) = interval(9_000, 10_000);
        assert!((89.0..90.0).contains(&low) && (90.0..91.0).contains(&high));
        let (low, high) = interval(9, 10);
        assert!(low < 60.0 && high > 98.0);
        assert_eq!(interval(0, 0), (0.0, 100.0));
    }
}
