//! The keys of token issuers, fetched here for all proxies (as istiod does), so that a proxy needs no way
//! to any issuer and no request waits for one.
//!
//! A set is fetched when a rule names it, again every twenty minutes, and soon after it could not be had.
//! Until it was had for the first time no token of its issuer is good; afterwards the last good one
//! stays, also over a restart. When is a state without a clock ([`Schedule`]); how, [`fetch`] knows.

pub mod fetch;
mod schedule;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};

use crate::api::Problem;
use crate::jwt;
use crate::mesh::jwt_authn::{KeySets, KeySource};
use crate::rt::{self, Backoff};
use crate::source::store::{Batch, Store, StoreError, Tree};
use crate::tls::sha256;

use super::index::{Index, encode, problem};
use schedule::Schedule;

/// Sets that are fetched at once.
const AT_ONCE: usize = 8;
/// Begins the name of what is kept of a set.
const KEPT: &str = "jwks/";

/// A set as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    source: Source,
    keys: String,
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

/// The sets that were had before.
pub(super) fn kept(store: &Store) -> Result<KeySets, StoreError> {
    let mut sets = KeySets::new();
    for (key, value) in store.iter(Tree::Meta).collect::<Result<Vec<_>, _>>()? {
        if !key.starts_with(KEPT.as_bytes()) {
            continue;
        }
        if let Ok(kept) = serde_json::from_slice::<Kept>(&value) {
            let source = match kept.source {
                Source::Url(url) => KeySource::Url(url),
                Source::Issuer(issuer) => KeySource::Discovery(issuer),
            };
            sets.insert(source, kept.keys.into());
        }
    }
    Ok(sets)
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
        if state.keys.get(source).is_some_and(|known| **known == *keys) {
            return Ok(false);
        }
        if let Some(from) = Source::of(source) {
            let mut batch = Batch::new();
            let kept = encode(&Kept {
                source: from,
                keys: keys.to_owned(),
            })?;
            batch.put(Tree::Meta, store_key(source), kept);
            self.store
                .commit_async(batch)
                .await
                .map_err(|error| problem(&error))?;
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
        let gone = state.keys.keys().filter(|known| !named.contains_key(known));
        let gone: Vec<KeySource> = gone.cloned().collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for source in gone {
            batch.remove(Tree::Meta, store_key(&source));
            state.keys.remove(&source);
        }
        self.store
            .commit_async(batch)
            .await
            .map_err(|error| problem(&error))?;
        Ok(())
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
    /// machine's.
    pub(super) async fn watch_keys(&self, roots: PathBuf) {
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
                let roots = &roots;
                async move {
                    let fetched = fetch::fetch(&source, roots, time).await;
                    (source, fetched)
                }
            };
            let mut under_way: FuturesUnordered<_> = due.by_ref().take(AT_ONCE).map(one).collect();
            while let Some((source, fetched)) = under_way.next().await {
                under_way.extend(due.next().map(one));
                let result = self.took(&source, fetched).await;
                schedule.tried(&source, result, rt::now(), fastrand::f64());
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
            let next = schedule.next();
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
        match result {
            Ok(new) => {
                if new {
                    tracing::info!(%source, "keys of a token issuer");
                }
                self.note_keys(source, None).await;
                true
            }
            Err(reason) => {
                tracing::warn!(%source, %reason, "the keys of a token issuer cannot be had; the last good ones stay");
                self.note_keys(source, Some(reason)).await;
                false
            }
        }
    }
}
