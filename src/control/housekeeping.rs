//! What is done again and again beside serving: files that are followed, terms that end, numbers that are
//! written down.

use std::sync::Arc;
use std::time::Duration;

use super::policies::apply;
use super::{Control, ControlOptions, registry, rollouts, series};
use crate::rt::Tasks;
use crate::source::files::{Texts, Watched};

/// How often directories are looked at.
const WATCH: Duration = Duration::from_secs(1);

/// Starts it; ends with `tasks`.
pub(super) fn start(control: &Arc<Control>, options: &ControlOptions, tasks: &Tasks) {
    // Who is believed beside the machine's roots when keys of token issuers are fetched.
    let roots = options.home.join("control").join("issuer-roots.pem");
    for directory in options.sources.clone() {
        let index = Arc::clone(&control.index);
        tasks.spawn("files", async move {
            // Once more what was read at the start, as it may have changed since.
            let mut watched = Watched::new(directory.clone(), Texts::new());
            loop {
                tokio::time::sleep(WATCH).await;
                if let Some(texts) = watched.look() {
                    apply(&index, &directory, texts).await;
                }
            }
        });
    }
    if control.trust.plugged() {
        let (trust, hub) = (Arc::clone(&control.trust), control.hub.clone());
        tasks.spawn("cacerts", async move {
            let mut seen = None;
            loop {
                if trust.follow(&mut seen).await {
                    hub.refresh();
                }
                tokio::time::sleep(WATCH).await;
            }
        });
    }
    if control.trust.signer().is_some() {
        let (trust, hub) = (Arc::clone(&control.trust), control.hub.clone());
        tasks.spawn("signer", async move {
            loop {
                if trust.sign_wanted(|| hub.proven()).await {
                    hub.refresh();
                }
                tokio::time::sleep(WATCH).await;
            }
        });
    }
    let index = Arc::clone(&control.index);
    tasks.spawn("faults", async move { index.watch_faults().await });
    let (index, grace) = (Arc::clone(&control.index), options.key_grace);
    tasks.spawn("keys", async move { index.watch_keys(roots, grace).await });
    let index = Arc::clone(&control.index);
    tasks.spawn("evict", async move {
        loop {
            tokio::time::sleep(registry::SWEEP).await;
            match index.evict().await {
                Ok(gone) if gone.is_empty() => {}
                Ok(gone) => tracing::warn!(?gone, "evicted: no heartbeat"),
                Err(problem) => tracing::error!(error = %problem.message, "cannot evict"),
            }
        }
    });
    // In a cluster the replica that writes does.
    if control.cluster.is_none() {
        tasks.spawn("rollouts", rollouts::run(Arc::clone(control)));
    }
    let numbers = control.numbers.clone();
    tasks.spawn("series", async move {
        let mut wait = series::WRITE;
        loop {
            tokio::time::sleep(wait).await;
            wait = series::WRITE;
            let numbers = numbers.clone();
            match Tasks::blocking(move || numbers.write()).await {
                Some(Ok(next)) => wait = next,
                Some(Err(error)) => tracing::warn!(%error, "numbers were not written"),
                None => tracing::error!("writing numbers panicked"),
            }
        }
    });
}
