//! Questions about a window, and the one function that answers them: `stats`, `top`, canaries, the dashboard and
//! whoever suggests policies differ in what they ask.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::edge::{Class, Edge};
use super::series::Series;

/// What is asked for. Names are `name.namespace`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Length of the window, in milliseconds.
    pub window_ms: u64,
    /// Its end, in milliseconds since the epoch; none is now.
    pub to_unix_ms: Option<u64>,
    /// Length of a point, in milliseconds; 0 for one over all of the window.
    pub step_ms: u64,
    /// Only calls to this service.
    pub service: Option<String>,
    /// Only calls of this workload.
    pub from: Option<String>,
    /// Only calls that this version answered.
    pub version: Option<String>,
    /// Only calls that took this route.
    pub route: Option<String>,
    /// Only what was answered so.
    pub class: Option<Class>,
    /// A row for each of these beside each service.
    pub by: Vec<GroupBy>,
}

/// How rows are told apart, besides by service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupBy {
    /// By version of the service.
    Version,
    /// By calling workload.
    Source,
    /// By the caller's route. Calls that arrive from outside the mesh have none.
    Route,
    /// By how it was answered.
    Class,
}

/// Lengths that points have, in milliseconds. Each is a multiple of the one before, so that points of several
/// control planes can be put together whatever is left of each one's fine slots.
pub const STEPS: [u64; 11] = [
    1_000,
    5_000,
    10_000,
    30_000,
    60_000,
    300_000,
    600_000,
    3_600_000,
    21_600_000,
    86_400_000,
    604_800_000,
];
/// Points of a row, at most.
pub const MOST_POINTS: u64 = 4_000;

/// Counts of a window before anything is worked out of them, so that those of several control planes can be added.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parts {
    /// Length of the window that was asked for.
    pub(super) window_ms: u64,
    /// Begin of the first slot in it.
    pub(super) from_unix_ms: u64,
    /// End of the window.
    pub(super) at_unix_ms: u64,
    /// Length of a point; 0 when there is one.
    pub(super) step_ms: u64,
    pub(super) groups: Vec<Group>,
}

/// Service, version, source, route, class; empty where rows are not told apart.
pub(super) type RowKey = [String; 5];

/// Counts of one row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Group {
    pub(super) key: RowKey,
    /// By when the point begins.
    pub(super) points: BTreeMap<u64, Signals>,
}

/// Counts of one row at one time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Signals {
    pub(super) cell: Cell,
    /// Requests and connections as the called side saw them, and those over mTLS.
    pub(super) arrived: u64,
    pub(super) secured: u64,
    /// Requests by class.
    pub(super) classes: BTreeMap<String, u64>,
}

impl Signals {
    pub(super) fn merge(&mut self, other: &Self) {
        self.cell.merge(&other.cell);
        self.arrived += other.arrived;
        self.secured += other.secured;
        for (class, count) in &other.classes {
            *self.classes.entry(class.clone()).or_default() += count;
        }
    }
}

/// The counts of the window that ends at `now` or where the query says.
///
/// Calls of the mesh's own workloads are counted as the callers saw them (with what never arrived), calls from
/// outside as the services saw them. The window is widened to whole slots, and to whole points when there are.
pub fn parts(series: &Series, query: &Query, now_unix_ms: u64) -> Parts {
    let to = query.to_unix_ms.unwrap_or(now_unix_ms);
    // What happens now is in, too.
    let end = query.to_unix_ms.unwrap_or(now_unix_ms + 1);
    let from = to.saturating_sub(query.window_ms);
    let slot = series.step_at(from);
    let step = match query.step_ms {
        0 => 0,
        step => fitting(step.max(slot).max(query.window_ms / MOST_POINTS)),
    };
    let from = from / step.max(slot) * step.max(slot);
    let mut rows: BTreeMap<RowKey, BTreeMap<u64, Signals>> = BTreeMap::new();
    // Edges are asked about once, however many slots they are in.
    let mut keys: BTreeMap<u32, Option<RowKey>> = BTreeMap::new();
    series.each(from, end, |span, id, cell| {
        if cell.is_of_copies() {
            return;
        }
        let Some(edge) = series.edge(id) else { return };
        let key = keys
            .entry(id)
            .or_insert_with(|| query.wants(edge).then(|| query.key(edge)));
        let Some(key) = key else { return };
        let begins = match step {
            0 => from,
            step => span.from / step * step,
        };
        if !rows.contains_key(key) {
            rows.insert(key.clone(), BTreeMap::new());
        }
        let Some(points) = rows.get_mut(key) else {
            return;
        };
        let signals = points.entry(begins).or_default();
        if !edge.by_source {
            signals.arrived += cell.requests + cell.tcp_opened;
            signals.secured += cell.mtls + cell.tcp_mtls;
        }
        if edge.by_source || edge.source.is_empty() {
            signals.cell.merge(cell);
            if cell.requests > 0 {
                let class = edge.class.name();
                match signals.classes.get_mut(class) {
                    Some(count) => *count += cell.requests,
                    None => {
                        signals.classes.insert(class.to_owned(), cell.requests);
                    }
                }
            }
        }
    });
    Parts {
        window_ms: query.window_ms,
        from_unix_ms: from,
        at_unix_ms: to,
        step_ms: step,
        groups: rows
            .into_iter()
            .map(|(key, points)| Group { key, points })
            .collect(),
    }
}

/// The shortest of [`STEPS`] that is not shorter.
fn fitting(step: u64) -> u64 {
    let fits = STEPS.into_iter().find(|known| *known >= step);
    fits.or(STEPS.last().copied()).unwrap_or(step)
}

impl Query {
    fn wants(&self, edge: &Edge) -> bool {
        let is = |wanted: &Option<String>, value: &String| {
            wanted.as_ref().is_none_or(|wanted| wanted == value)
        };
        // What the called side tells of a call inside the mesh would be a row without a route.
        let by_route = self.by.contains(&GroupBy::Route) || self.route.is_some();
        is(&self.service, &edge.service)
            && is(&self.from, &edge.source)
            && is(&self.version, &edge.version)
            && is(&self.route, &edge.route)
            && self.class.is_none_or(|class| class == edge.class)
            && (!by_route || edge.by_source || edge.source.is_empty())
    }

    fn key(&self, edge: &Edge) -> RowKey {
        let only =
            |by: GroupBy, name: &str| if self.by.contains(&by) { name } else { "" }.to_owned();
        [
            edge.service.clone(),
            only(GroupBy::Version, &edge.version),
            only(GroupBy::Source, &edge.source),
            only(GroupBy::Route, &edge.route),
            only(GroupBy::Class, edge.class.name()),
        ]
    }
}

impl Parts {
    /// All of them as one.
    pub fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        let all: Vec<Self> = all.into_iter().collect();
        let step = all.iter().map(|parts| parts.step_ms).max().unwrap_or(0);
        let from = all.iter().map(|parts| parts.from_unix_ms).min();
        let from = from.unwrap_or(0);
        let from = from.checked_div(step).map_or(from, |whole| whole * step);
        let mut sum = Self {
            from_unix_ms: from,
            step_ms: step,
            ..Self::default()
        };
        let mut groups: BTreeMap<RowKey, BTreeMap<u64, Signals>> = BTreeMap::new();
        for parts in all {
            sum.window_ms = sum.window_ms.max(parts.window_ms);
            sum.at_unix_ms = sum.at_unix_ms.max(parts.at_unix_ms);
            for group in parts.groups {
                let points = groups.entry(group.key).or_default();
                for (at, signals) in group.points {
                    let at = at.checked_div(step).map_or(from, |whole| whole * step);
                    points.entry(at).or_default().merge(&signals);
                }
            }
        }
        sum.groups = groups
            .into_iter()
            .map(|(key, points)| Group { key, points })
            .collect();
        sum
    }

    /// Leaves those of the services for which `keep` holds.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.groups.retain(|group| keep(&group.key[0]));
    }
}

#[cfg(test)]
mod tests;
