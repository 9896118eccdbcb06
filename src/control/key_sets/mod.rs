//! The keys of token issuers, fetched here for all proxies (as istiod does), so that a proxy needs no way
//! to any issuer and no request waits for one.
//!
//! A set is fetched when a rule names it, again every twenty minutes, and soon after it could not be had.
//! A rule that is applied waits for the sets it is the first to name, five seconds at most, before it is in
//! force, so that nobody is refused for keys that are on their way. Until a set was had for the first time
//! no token of its issuer is good; afterwards the last good one stays for a grace, also over a restart, and
//! then none is good until there is another. When is a state without a clock ([`Schedule`]); how, [`fetch`]
//! knows.

pub mod fetch;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};

use crate::api::Problem;
use crate::jwt;
use crate::mesh::jwt_authn::{KeySets, KeySource};
use crate::resource::Object;
use crate::rt::{self, Backoff};
use crate::source::store::{Batch, Store, StoreError, Tree};
use crate::tls::sha256;

use super::index::{Index, encode, problem};
use super::known::State;
use schedule::Schedule;

/// Sets that are fetched at once.
const AT_ONCE: usize = 8;
/// How long a set stays in force that cannot be fetched any more, unless told otherwise.
pub const GRACE: Duration = Duration::from_hours(24);
/// A rule waits for keys that it is the first to name no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// Begins the name of what is kept of a set.
const KEPT: &str = "jwks/";

/// A set as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    source: Source,
    keys: String,
    /// When it was fetched last; 0 in what older versions kept.
    #[serde(default)]
    had_unix_ms: u64,
}

/// How sets are fetched.
#[derive(Debug, Default)]
pub struct Fetching {
    /// A file of certificates that are believed beside the machine's; none while nothing is fetched.
    roots: OnceLock<PathBuf>,
    /// Sets that were fetched.
    pub good: AtomicU64,
    /// Sets that could not be.
    pub failed: AtomicU64,
}

/// Where it was fetched from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Source {
    Url(String),
    Issuer(String),
}

impl Source {
    fn of(source: &KeySource) -> Option<Self> {
        match source {
            KeySource::Inline => None,
            KeySource::Url(url) => Some(Self::Url(url.clone())),
            KeySource::Discovery(issuer) => Some(Self::Issuer(issuer.clone())),
        }
    }
}

/// The sets that were had before, and when.
pub(super) fn kept(
    store: &Store,
    now_unix_ms: u64,
) -> Result<(KeySets, BTreeMap<KeySource, u64>), StoreError> {
    let mut sets = KeySets::new();
    let mut had = BTreeMap::new();
    for (key, value) in store.iter(Tree::Meta).collect::<Result<Vec<_>, _>>()? {
        if !key.starts_with(KEPT.as_bytes()) {
            continue;
        }
        if let Ok(kept) = serde_json::from_slice::<Kept>(&value) {
            let source = match kept.source {
                Source::Url(url) => KeySource::Url(url),
                Source::Issuer(issuer) => KeySource::Discovery(issuer),
            };
            let at = match kept.had_unix_ms {
                0 => now_unix_ms,
                at => at.min(now_unix_ms),
            };
            had.insert(source.clone(), at);
            sets.insert(source, kept.keys.into());
        }
    }
    Ok((sets, had))
}

/// Under what a set is kept; addresses may be longer than keys of a store.
fn store_key(source: &KeySource) -> String {
    use std::fmt::Write as _;
    let mut key = KEPT.to_owned();
    for byte in sha256(format!("{source:?}").as_bytes()) {
        let _written = write!(key, "{byte:02x}");
    }
    key
}

impl Index {
    /// Takes in a set that was fetched; proxies get it if it is new. Gives whether it is.
    pub async fn learn_keys(&self, source: &KeySource, keys: &str) -> Result<bool, Problem> {
        let mut state = self.state.lock().await;
        let now = self.wall.millis();
        if let Some(from) = Source::of(source) {
            let mut batch = Batch::new();
            let kept = encode(&Kept {
                source: from,
                keys: keys.to_owned(),
                had_unix_ms: now,
            })?;
            batch.put(Tree::Meta, store_key(source), kept);
            self.store
                .commit_async(batch)
                .await
                .map_err(|error| problem(&error))?;
        }
        state.keys_had.insert(source.clone(), now);
        if state.keys.get(source).is_some_and(|known| **known == *keys) {
            return Ok(false);
        }
        state.keys.insert(source.clone(), keys.into());
        let (world, _) = self.lower(&state, &state.objects);
        self.publish(&mut state, world);
        Ok(true)
    }

    /// Forgets the sets that no rule names any more.
    async fn forget_keys(&self) -> Result<(), Problem> {
        let world = self.world();
        let named = world.config.key_sources();
        let mut state = self.state.lock().await;
        state
            .missing_keys
            .retain(|known, _| named.contains_key(known));
        let wanted =
            |known: &KeySource| named.contains_key(known) || state.keys_wanted.contains(known);
        let gone = state.keys.keys().filter(|known| !wanted(known));
        let gone: Vec<KeySource> = gone.cloned().collect();
        self.drop_keys(&mut state, &gone).await
    }

    async fn drop_keys(&self, state: &mut State, gone: &[KeySource]) -> Result<(), Problem> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for source in gone {
            batch.remove(Tree::Meta, store_key(source));
            state.keys.remove(source);
            state.keys_had.remove(source);
        }
        self.store
            .commit_async(batch)
            .await
            .map_err(|error| problem(&error))?;
        Ok(())
    }

    /// Takes sets out of force that could not be had for the whole of `grace`, and says in how long the next
    /// one's time is over.
    async fn retire_keys(&self, grace: Duration) -> Option<Duration> {
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let mut state = self.state.lock().await;
        let now = self.wall.millis();
        let over = state.keys_had.iter();
        let over = over.filter(|(_, had)| now.saturating_sub(**had) >= grace);
        let over: Vec<KeySource> = over.map(|(source, _)| source.clone()).collect();
        if !over.is_empty() {
            // Even where that cannot be written down: what is kept has the time with it.
            if let Err(problem) = self.drop_keys(&mut state, &over).await {
                tracing::error!(error = %problem.message, "old key sets are still kept");
            }
            let (world, _) = self.lower(&state, &state.objects);
            self.publish(&mut state, world);
            for source in over {
                tracing::error!(%source, "the keys of a token issuer were not to be had for too long; none of its tokens is good now");
            }
        }
        let had = state.keys_had.values().min()?;
        let left = had.saturating_add(grace).saturating_sub(now).max(1);
        Some(Duration::from_millis(left))
    }

    /// Fetches the sets that objects which are to be applied are the first to name, before they are in force.
    /// [`Self::warmed`] says that they are.
    pub(super) async fn warm_keys(&self, put: &[Object]) -> Option<Vec<KeySource>> {
        let roots = self.fetching.roots.get()?;
        let rules = |object: &Object| object.key().kind == "RequestAuthentication";
        if !put.iter().any(rules) {
            return None;
        }
        let unknown: Vec<(KeySource, Duration)> = {
            let mut state = self.state.lock().await;
            let mut objects = state.objects.clone();
            for object in put {
                objects.insert(object.key(), Arc::new(object.clone()));
            }
            let (world, _) = self.lower(&state, &objects);
            let named = world.config.key_sources();
            let unknown = named
                .into_iter()
                .filter(|(source, _)| !state.keys.contains_key(source))
                .map(|(source, time)| (source.clone(), time.min(PATIENCE)))
                .collect::<Vec<_>>();
            let wanted = unknown.iter().map(|(source, _)| source.clone());
            state.keys_wanted.extend(wanted);
            unknown
        };
        let all = async {
            let mut fetches = futures_util::stream::iter(unknown.clone())
                .map(|(source, time)| async move {
                    let fetched = fetch::fetch(&source, roots, time).await;
                    (source, fetched)
                })
                .buffer_unordered(AT_ONCE);
            while let Some((source, fetched)) = fetches.next().await {
                self.took(&source, fetched).await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::warn!("a rule is in force before all keys of its issuers are there");
        }
        Some(unknown.into_iter().map(|(source, _)| source).collect())
    }

    /// What [`Self::warm_keys`] fetched for is in force, or refused.
    pub(super) async fn warmed(&self, warmed: Option<Vec<KeySource>>) {
        let Some(warmed) = warmed else { return };
        let wanted = &mut self.state.lock().await.keys_wanted;
        for source in warmed {
            if let Some(at) = wanted.iter().position(|one| *one == source) {
                wanted.swap_remove(at);
            }
        }
    }

    /// The sets that could not be had last time: why, and whether they were had before.
    pub async fn missing_keys(&self) -> Vec<(KeySource, String, bool)> {
        let world = self.world();
        let named = world.config.key_sources();
        let state = self.state.lock().await;
        let missing = state.missing_keys.iter();
        missing
            .filter(|(source, _)| named.contains_key(source))
            .map(|(source, reason)| {
                let had = state.keys.contains_key(source);
                (source.clone(), reason.clone(), had)
            })
            .collect()
    }

    async fn note_keys(&self, source: &KeySource, failure: Option<String>) {
        let missing = &mut self.state.lock().await.missing_keys;
        match failure {
            Some(reason) => missing.insert(source.clone(), reason),
            None => missing.remove(source),
        };
    }

    /// Fetches what rules name, for ever. `roots` is a file of certificates that are believed beside the
    /// machine's; what cannot be had for `grace` is in force no more.
    pub(super) async fn watch_keys(&self, roots: PathBuf, grace: Duration) {
        let roots = self.fetching.roots.get_or_init(|| roots);
        let refresh = schedule::REFRESH.min(grace / 3);
        let mut reader = self.reader();
        let mut schedule = Schedule::default();
        let mut complaint = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        // At first a source may still be saying what there is.
        let settled = rt::now() + schedule::REFRESH;
        loop {
            let world = Arc::clone(&reader.load().world);
            let named = world.config.key_sources();
            schedule.name(named.keys().copied());
            let due = schedule.due(rt::now());
            let mut due = due.into_iter();
            let one = |source: KeySource| {
                let time = named
                    .get(&source)
                    .copied()
                    .unwrap_or(Duration::from_secs(5));
                async move {
                    let fetched = fetch::fetch(&source, roots, time).await;
                    (source, fetched)
                }
            };
            let mut under_way: FuturesUnordered<_> = due.by_ref().take(AT_ONCE).map(one).collect();
            while let Some((source, fetched)) = under_way.next().await {
                under_way.extend(due.next().map(one));
                let result = self.took(&source, fetched).await;
                schedule.tried(&source, result, (rt::now(), refresh), fastrand::f64());
            }
            drop(under_way);
            let forgotten = if rt::now() < settled {
                Ok(())
            } else {
                self.forget_keys().await
            };
            match forgotten {
                Ok(()) => complaint.reset(),
                Err(problem) if complaint.attempts() == 0 => {
                    complaint.next(0.0);
                    tracing::error!(error = %problem.message, "old key sets are still kept");
                }
                Err(_) => {}
            }
            let over = self.retire_keys(grace).await;
            let over = over.map(|left| rt::now() + left);
            let next = schedule.next().into_iter().chain(over).min();
            tokio::select! {
                _changed = reader.changed() => {}
                () = async {
                    match next {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// Deals with what a fetch gave; whether it was good.
    async fn took(&self, source: &KeySource, fetched: Result<String, fetch::FetchError>) -> bool {
        let minimal = fetched
            .map_err(|error| rt::chain(&error))
            .and_then(|text| jwt::minimal(&text).map_err(|error| error.to_string()))
            .and_then(|keys| keys.ok_or_else(|| "no key of the set verifies tokens".to_owned()));
        let result = match minimal {
            Ok(keys) => self.learn_keys(source, &keys).await.map_err(|e| e.message),
            Err(reason) => Err(reason),
        };
        let counted = match &result {
            Ok(_) => &self.fetching.good,
            Err(_) => &self.fetching.failed,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(new) => {
                if new {
                    tracing::info!(%source, "keys of a token issuer");
                }
                self.note_keys(source, None).await;
                true
            }
            Err(reason) => {
                tracing::warn!(%source, %reason, "the keys of a token issuer cannot be had; the last good ones stay for their grace");
                self.note_keys(source, Some(reason)).await;
                false
            }
        }
    }
}
