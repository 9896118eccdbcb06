//! Splits: before and after a shift, and how they stand.

use crate::api::canary::{CanaryReport, CanaryStatus, VersionStatus, VersionWeight};

use super::rollouts::{Listed, sign};
use super::{Cell, Column, Grid, Page, Render, Tone, number};

impl Render for CanaryReport {
    fn text(&self, page: &Page) -> String {
        let find = |list: &[VersionWeight], version: &str| {
            list.iter()
                .find(|weight| weight.version == version)
                .cloned()
        };
        let mut versions: Vec<&str> = self
            .before
            .iter()
            .chain(&self.after)
            .map(|weight| weight.version.as_str())
            .collect();
        versions.sort_unstable();
        versions.dedup();
        let mut grid = Grid::new([
            Column::long("VERSION"),
            Column::number("BEFORE"),
            Column::text(""),
            Column::number("AFTER"),
            Column::number("SHARE"),
            Column::number("READY"),
        ]);
        for version in versions {
            let before = find(&self.before, version);
            let after = find(&self.after, version);
            let ready = after
                .as_ref()
                .or(before.as_ref())
                .map(|weight| weight.ready);
            let weight = after.as_ref().map_or(0, |weight| weight.weight);
            let empty = weight > 0 && ready == Some(0);
            grid.row([
                version.into(),
                Cell::maybe(before, |weight| weight.weight.to_string()),
                "→".into(),
                weight.to_string().into(),
                number::share(after.map_or(0.0, |weight| weight.share_percent)).into(),
                Cell::new(
                    ready.map_or_else(|| "-".to_owned(), |ready| ready.to_string()),
                    if empty { Tone::Bad } else { Tone::Plain },
                ),
            ]);
        }
        format!("{}\n{}", page.paint.strong(&self.service), grid.draw(page))
    }

    fn names(&self) -> Vec<String> {
        self.after
            .iter()
            .map(|weight| format!("{}={}", weight.version, weight.weight))
            .collect()
    }
}

/// What each version got.
pub(super) fn versions(all: &[VersionStatus], page: &Page) -> String {
    let mut grid = Grid::new([
        Column::long("VERSION"),
        Column::number("WEIGHT"),
        Column::number("SHARE"),
        Column::number("MEASURED"),
        Column::number("READY"),
        Column::number("RPS"),
        Column::number("SUCCESS"),
        Column::number("P99"),
    ]);
    for version in all {
        let weight = &version.weight;
        grid.row([
            weight.version.as_str().into(),
            weight.weight.to_string().into(),
            number::share(weight.share_percent).into(),
            Cell::maybe(version.measured_percent, number::share),
            weight.ready.to_string().into(),
            number::rate(version.requests_per_second).into(),
            super::stats::success(version.success_percent),
            Cell::maybe(version.latency_p99_ms, number::latency),
        ]);
    }
    grid.draw(page)
}

impl Render for CanaryStatus {
    fn text(&self, page: &Page) -> String {
        let origin = if self.origin.is_empty() {
            "no split"
        } else {
            &self.origin
        };
        let changed = match self.changed_unix_ms {
            0 => String::new(),
            then => format!(", changed {} ago", number::age(then, page.now_unix_ms)),
        };
        format!(
            "{}  {}\n{}",
            page.paint.strong(&self.service),
            page.paint.faint(format!("{origin}{changed}")),
            versions(&self.versions, page)
        )
    }

    fn names(&self) -> Vec<String> {
        vec![self.service.clone()]
    }
}

impl Render for Vec<Listed> {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::long("SERVICE"),
            Column::long("WEIGHTS"),
            Column::long("MEASURED"),
            Column::number("RPS"),
            Column::text("CANARY").when(self.iter().any(|row| row.rollout.is_some())),
            Column::number("CHANGED"),
            Column::long("ORIGIN").when(page.wide),
        ]);
        for Listed {
            split: row,
            rollout,
        } in self
        {
            let weights: Vec<String> = row
                .versions
                .iter()
                .map(|version| format!("{}={}", version.weight.version, version.weight.weight))
                .collect();
            let measured: Vec<String> = row
                .versions
                .iter()
                .filter_map(|version| {
                    let measured = number::share(version.measured_percent?);
                    Some(format!("{}={measured}", version.weight.version))
                })
                .collect();
            let rate: f64 = row.versions.iter().map(|v| v.requests_per_second).sum();
            grid.row([
                row.service.as_str().into(),
                weights.join(" ").into(),
                Cell::or_dash(&measured.join(" ")),
                number::rate(rate).into(),
                match rollout {
                    Some(run) => {
                        let (mark, tone) = sign(run.phase);
                        Cell::new(format!("{mark} {}", run.phase.name()), tone)
                    }
                    None => Cell::or_dash(""),
                },
                number::age(row.changed_unix_ms, page.now_unix_ms).into(),
                Cell::or_dash(&row.origin),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|row| row.split.service.clone()).collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty()
            .then_some("No service is split between versions")
    }
}
