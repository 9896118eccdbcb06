//! When each key set is fetched.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::mesh::jwt_authn::KeySource;
use crate::rt::Backoff;

/// A set is fetched again after this long (Istio's `PILOT_JWT_PUB_KEY_REFRESH_INTERVAL`).
pub(super) const REFRESH: Duration = Duration::from_mins(20);
/// After a first failure; doubled with each further one.
const RETRY: Duration = Duration::from_secs(1);
/// At most.
const MOST: Duration = Duration::from_mins(5);

/// When each set is to be fetched.
#[derive(Debug, Default)]
pub(super) struct Schedule(BTreeMap<KeySource, Entry>);

#[derive(Debug)]
struct Entry {
    /// At once, when there is none.
    next: Option<Instant>,
    retry: Backoff,
}

impl Schedule {
    /// These are named by rules, and no others.
    pub(super) fn name<'s>(&mut self, sources: impl Iterator<Item = &'s KeySource>) {
        let mut before = std::mem::take(&mut self.0);
        for source in sources {
            let entry = before.remove(source).unwrap_or_else(|| Entry {
                next: None,
                retry: Backoff::new(RETRY, MOST),
            });
            self.0.insert(source.clone(), entry);
        }
    }

    /// Those whose time has come.
    pub(super) fn due(&self, now: Instant) -> Vec<KeySource> {
        let due = self
            .0
            .iter()
            .filter(|(_, entry)| entry.next.is_none_or(|at| at <= now));
        due.map(|(source, _)| source.clone()).collect()
    }

    /// When the next one's time comes.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|entry| entry.next).min()
    }

    /// A set was fetched, to be so again after `refresh`, or could not be. `chance`, from 0 to 1, keeps many from going together.
    pub(super) fn tried(
        &mut self,
        source: &KeySource,
        good: bool,
        (now, refresh): (Instant, Duration),
        chance: f64,
    ) {
        let Some(entry) = self.0.get_mut(source) else {
            return;
        };
        let wait = if good {
            entry.retry.reset();
            refresh.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 10.0)
        } else {
            entry.retry.next(chance)
        };
        entry.next = Some(now + wait);
    }
}
