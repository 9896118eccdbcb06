//! What the watches say, gathered: changes that come close together are one batch, and how things
//! stand is one status and as few lines in the log as say it.

use std::time::Duration;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch as channel};
use tokio::time::Instant;

use super::watch::{Said, Word};
use super::{Change, Standing, Status};
use crate::resource::{Key, Running};
use crate::rt::{Wall, now};

/// A batch is handed on when nothing came for this long.
const QUIET: Duration = Duration::from_millis(50);
/// But no later than this after its first change.
const PATIENCE: Duration = Duration::from_millis(500);
/// Nor than this where only what runs changed: that costs what it changes, and callers wait for it. What people
/// wrote is lowered all together, so more of it is waited for.
const HURRY: Duration = Duration::from_millis(100);

/// Gathers `words` into batches for `out` until either end is gone.
pub(super) async fn gather(
    mut words: mpsc::Receiver<Word>,
    out: mpsc::Sender<Vec<Change>>,
    status: channel::Sender<Status>,
    wall: Wall,
) {
    let mut pending: BTreeMap<Key, Option<Arc<str>>> = BTreeMap::new();
    let mut complete = false;
    // Since when there is something to hand on.
    let mut first: Option<Instant> = None;
    let mut last = now();
    // Whether that is more than what runs.
    let mut written = false;
    loop {
        let patience = if written { PATIENCE } else { HURRY };
        let due = first.map(|first| (last + QUIET).min(first + patience));
        let word = tokio::select! {
            word = words.recv() => word,
            () = until(due) => {
                let batch = std::mem::take(&mut pending);
                let batch = batch.into_iter().map(|(key, object)| Change { key, object });
                (first, written) = (None, false);
                if out.send(batch.collect()).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let Some(word) = word else { return };
        let changes = note(&status, &wall, word);
        let changed = !changes.is_empty();
        written |= changes
            .iter()
            .any(|change| !Running::keeps(&change.key.kind));
        pending.extend(
            changes
                .into_iter()
                .map(|change| (change.key, change.object)),
        );
        // What is not complete would look as if the rest had been deleted.
        let completed = !complete && status.borrow().complete();
        complete |= completed;
        if complete && (changed || completed) {
            last = now();
            first.get_or_insert(last);
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Notes what a watch said in the status and, where it is news, in the log; gives the changes in it.
fn note(status: &channel::Sender<Status>, wall: &Wall, word: Word) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut lost, mut back, mut missing) = (None, false, None);
    let (mut unread, mut forbidden) = (None, None);
    status.send_modify(|status| {
        let was_away = status.away().is_some();
        let Some(kind) = status.kinds.get_mut(word.kind) else {
            return;
        };
        kind.objects = word.objects;
        match word.said {
            Said::Changed(changed) => {
                changes = changed;
                kind.standing = Standing::Following;
                kind.listed = true;
            }
            Said::Answers => {
                kind.standing = if kind.listed {
                    Standing::Following
                } else {
                    Standing::Listing
                };
            }
            Said::OnlyListed(changed, reason) => {
                changes = changed;
                kind.listed = true;
                let since_unix_ms = match &kind.standing {
                    Standing::Away { since_unix_ms, .. } => *since_unix_ms,
                    _ => wall.millis(),
                };
                if !was_away {
                    lost = Some((kind.kind, reason.clone()));
                }
                kind.standing = Standing::Away {
                    reason,
                    since_unix_ms,
                };
            }
            Said::Missing(changed, reason) => {
                changes = changed;
                kind.listed = true;
                let standing = Standing::Missing(reason.clone());
                if kind.standing != standing {
                    missing = Some(reason);
                }
                kind.standing = standing;
            }
            Said::Unread(reason) => {
                kind.listed = true;
                let standing = Standing::Unread(reason.clone());
                if kind.standing != standing {
                    unread = Some(reason);
                }
                kind.standing = standing;
            }
            Said::Failed(reason) => {
                let (since_unix_ms, known) = match &kind.standing {
                    Standing::Away {
                        since_unix_ms,
                        reason,
                    } => (*since_unix_ms, super::is_forbidden(reason)),
                    _ => (wall.millis(), false),
                };
                // Each kind may be forbidden by itself, so each is said, once.
                if super::is_forbidden(&reason) {
                    if !known {
                        forbidden = Some((kind.kind, reason.clone()));
                    }
                } else if !was_away {
                    lost = Some((kind.kind, reason.clone()));
                }
                kind.standing = Standing::Away {
                    reason,
                    since_unix_ms,
                };
            }
        }
        back = was_away && status.away().is_none();
    });
    if let Some(reason) = missing {
        tracing::info!("{reason}; it is looked for now and then");
    }
    if let Some(reason) = unread {
        tracing::warn!(
            "{reason}; what was known of it stays in force, and a newer meshctl reads it"
        );
    }
    if let Some((kind, reason)) = forbidden {
        let cluster = &status.borrow().cluster;
        tracing::warn!(
            %cluster, kind, %reason,
            "the control plane may not list and watch this kind; what is known stays in force. `meshctl install --target kubernetes` again restores its rights"
        );
    }
    if let Some((kind, reason)) = lost {
        let status = status.borrow();
        let cluster = &status.cluster;
        if status.complete() {
            tracing::warn!(%cluster, kind, %reason, "Kubernetes does not answer; what is known stays in force");
        } else {
            tracing::warn!(%cluster, kind, %reason, "Kubernetes does not answer; proxies are served once it has");
        }
    }
    if back {
        let cluster = &status.borrow().cluster;
        tracing::info!(%cluster, "Kubernetes answers again");
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kubernetes::KindStatus;

    fn status(kinds: &[&'static str]) -> channel::Sender<Status> {
        channel::Sender::new(Status {
            cluster: "test".to_owned(),
            kinds: kinds
                .iter()
                .map(|kind| KindStatus {
                    kind,
                    objects: 0,
                    standing: Standing::Listing,
                    listed: false,
                })
                .collect(),
        })
    }

    fn change(name: &str, value: Option<u32>) -> Change {
        Change {
            key: Key {
                kind: "Service".to_owned(),
                namespace: "default".to_owned(),
                name: name.to_owned(),
            },
            object: value.map(|value| value.to_string().into()),
        }
    }

    fn word(kind: usize, said: Said) -> Word {
        Word {
            kind,
            said,
            objects: 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_handed_on_before_all_is_listed_and_a_burst_is_one_batch() {
        let tasks = crate::rt::Tasks::new();
        let status = status(&["Service", "Pod", "VirtualService"]);
        let seen = status.subscribe();
        let (say, words) = mpsc::channel(64);
        let (out, mut batches) = mpsc::channel(1);
        tasks.spawn("gather", gather(words, out, status, Wall::fixed(7)));
        let listed = Said::Changed(vec![change("a", Some(1))]);
        say.send(word(0, listed)).await.unwrap();
        say.send(word(1, Said::Changed(Vec::new()))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(batches.try_recv().is_err(), "one kind is not listed yet");
        let reason = "not installed".to_owned();
        say.send(word(2, Said::Missing(Vec::new(), reason)))
            .await
            .unwrap();
        assert_eq!(batches.recv().await.unwrap(), [change("a", Some(1))]);
        assert!(seen.borrow().complete());

        for value in 2..9 {
            let burst = Said::Changed(vec![change("a", Some(value)), change("b", None)]);
            say.send(word(0, burst)).await.unwrap();
        }
        // The last word of each object counts.
        assert_eq!(
            batches.recv().await.unwrap(),
            [change("a", Some(8)), change("b", None)]
        );
        // A trickle that never pauses is handed on all the same.
        let started = now();
        let trickle = say.clone();
        tasks.spawn("trickle", async move {
            loop {
                let said = Said::Changed(vec![change("c", Some(1))]);
                if trickle.send(word(0, said)).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        batches.recv().await.unwrap();
        assert!(started.elapsed() <= PATIENCE + QUIET);
        tasks.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_is_waited_for_less_than_what_people_wrote() {
        let tasks = crate::rt::Tasks::new();
        let (say, words) = mpsc::channel(64);
        let (out, mut batches) = mpsc::channel(1);
        let status = status(&["Service", "EndpointSlice"]);
        tasks.spawn("gather", gather(words, out, status, Wall::fixed(7)));
        for kind in 0..2 {
            let listed = Said::Changed(Vec::new());
            say.send(word(kind, listed)).await.unwrap();
        }
        batches.recv().await.unwrap();
        for (written, at_most) in [(false, HURRY), (true, PATIENCE), (false, HURRY)] {
            let started = now();
            let mut said = 0;
            while batches.is_empty() {
                let mut one = change("a", Some(said));
                if !(written && said == 2) {
                    one.key.kind = "EndpointSlice".to_owned();
                }
                say.send(word(1, Said::Changed(vec![one]))).await.unwrap();
                said += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            batches.recv().await.unwrap();
            let took = started.elapsed();
            let step = Duration::from_millis(40);
            assert!(
                took > at_most.saturating_sub(step) && took < at_most + step,
                "{took:?}"
            );
        }
        tasks.end().await;
    }

    #[test]
    fn the_status_says_since_when_and_why_the_server_is_away() {
        let status = status(&["Service", "Pod"]);
        let wall = Wall::fixed(5);
        for kind in 0..2 {
            note(&status, &wall, word(kind, Said::Changed(Vec::new())));
        }
        assert_eq!(status.borrow().away(), None);
        note(&status, &wall, word(1, Said::Failed("refused".to_owned())));
        wall.advance(Duration::from_millis(10));
        note(&status, &wall, word(1, Said::Failed("still".to_owned())));
        assert_eq!(status.borrow().away(), Some(("Pod", "still", 5)));
        assert!(status.borrow().complete());
        note(&status, &wall, word(1, Said::Answers));
        assert_eq!(status.borrow().away(), None);
    }
}
