//! Questions that wait: each is asked again and again with the index of its last answer, which Consul
//! answers when something is newer, or after a while.
//!
//! Consul's rules for clients: an index that goes backwards starts over, one of nothing is 1, and an
//! answer that comes at once is no leave to ask at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::client::{Answer, Client, Fault, SLOTS};
use super::{Query, Word, read};
use crate::rt::backoff::Backoff;
use crate::rt::now;

/// How long Consul may hold a question back. Its own default is five minutes and ten are allowed, but a
/// store that was restored just now holds back what is asked with an index of the old one for that long.
const WAIT: Duration = Duration::from_mins(1);
/// The same where there are more questions than may wait at a time: then they take turns.
const WAIT_IN_TURN: Duration = Duration::from_secs(1);
/// Consul adds up to a sixteenth of the wait, and needs a moment to answer.
const ANSWERS: Duration = Duration::from_secs(10);
/// Answers that may come one after the other, and how often one more may.
const BURST: f64 = 8.0;
const PACE: Duration = Duration::from_millis(500);
/// Between questions that fail.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How questions are asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) client: Arc<Client>,
    pub(super) say: mpsc::Sender<Word>,
    /// How many questions there are.
    pub(super) crowd: watch::Sender<usize>,
}

/// The index of a question.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index(u64);

impl Index {
    /// Takes that of an answer; gives whether the answer may be news.
    fn take(&mut self, answered: u64) -> bool {
        let before = self.0;
        // Zero would be answered at once, for ever.
        let answered = answered.max(1);
        // Consul was restored, or another server answers: all starts over.
        self.0 = if answered < before { 0 } else { answered };
        self.0 != before
    }
}

/// A bucket of leave to ask.
#[derive(Debug)]
struct Pace {
    leave: f64,
    at: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            leave: BURST,
            at: now(),
        }
    }

    /// How long to wait before asking now; takes the leave.
    fn take(&mut self) -> Duration {
        let now = now();
        let since = now.saturating_duration_since(self.at);
        self.at = now;
        self.leave = (self.leave + since.as_secs_f64() / PACE.as_secs_f64()).min(BURST) - 1.0;
        if self.leave >= 0.0 {
            Duration::ZERO
        } else {
            PACE.mul_f64(-self.leave)
        }
    }
}

impl Asked {
    /// Asks which services there are, for ever.
    pub(super) async fn services(self) {
        let path = "/v1/catalog/services".to_owned();
        self.repeat(Query::Services, path, |answer: &Answer| {
            let names: BTreeMap<String, Option<Vec<String>>> =
                serde_json::from_slice(&answer.body)?;
            // Consul's own servers are no service of anybody's.
            let names: BTreeSet<String> =
                names.into_keys().filter(|name| name != "consul").collect();
            let filtered = answer.filtered;
            Ok(Word::Services { names, filtered })
        })
        .await;
    }

    /// Asks who stands behind `name`, for ever.
    pub(super) async fn service(self, name: String) {
        let encoded: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        // A form writes a blank otherwise than a path.
        let path = format!("/v1/health/service/{}", encoded.replace('+', "%20"));
        let options = self.client.options().clone();
        let query = Query::Service(name.clone());
        self.repeat(query, path, move |answer| {
            let listed = read::service(&name, &answer.body, &options)?;
            Ok(Word::Service(name.clone(), listed))
        })
        .await;
    }

    async fn repeat(
        self,
        query: Query,
        path: String,
        read: impl Fn(&Answer) -> Result<Word, serde_json::Error> + Send,
    ) {
        let mut index = Index::default();
        let mut pace = Pace::new();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let delay = pace.take();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let word = match self.ask(&query, &path, &index).await {
                Ok(answer) if index.take(answer.index) => match read(&answer) {
                    Ok(word) => {
                        backoff.reset();
                        word
                    }
                    Err(error) => {
                        index = Index::default();
                        Word::Failed(query.clone(), Fault::Nonsense(error.to_string()))
                    }
                },
                Ok(_) => {
                    backoff.reset();
                    Word::Works(query.clone())
                }
                Err(fault) => {
                    // Whoever answers next may count anew, and would hold back what an old index asks for.
                    index = Index::default();
                    Word::Failed(query.clone(), fault)
                }
            };
            let failed = matches!(word, Word::Failed(..));
            if self.say.send(word).await.is_err() {
                return;
            }
            if failed {
                tokio::time::sleep(backoff.next(fastrand::f64())).await;
            }
        }
    }

    async fn ask(&self, query: &Query, path: &str, index: &Index) -> Result<Answer, Fault> {
        let crowded = *self.crowd.borrow() > SLOTS;
        let wait = if crowded { WAIT_IN_TURN } else { WAIT };
        let scope = self.client.scope();
        let mut url = format!("{path}?{scope}");
        if index.0 > 0 {
            let separator = if scope.is_empty() { "" } else { "&" };
            url = format!("{url}{separator}index={}&wait={}s", index.0, wait.as_secs());
        }
        let time = wait + wait / 16 + ANSWERS;
        let always = *query == Query::Services;
        let answer = self.client.get(&url, time, always).await?;
        if answer.leader {
            Ok(answer)
        } else {
            // Old by an unknown time, and what is known may be newer.
            Err(Fault::Leaderless)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_follows_the_rules() {
        let mut index = Index::default();
        assert!(index.take(7));
        assert_eq!(index, Index(7));
        // A wait that ended says nothing new.
        assert!(!index.take(7));
        assert!(index.take(9));
        // Backwards: everything anew, from the beginning.
        assert!(index.take(3));
        assert_eq!(index, Index(0));
        assert!(index.take(3));
        assert_eq!(index, Index(3));
        // Nothing is never asked for with zero twice.
        let mut index = Index::default();
        assert!(index.take(0));
        assert_eq!(index, Index(1));
        assert!(!index.take(0));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_come_at_once_are_no_leave_to_ask_at_once() {
        let mut pace = Pace::new();
        let started = now();
        for _ in 0..28 {
            let delay = pace.take();
            tokio::time::sleep(delay).await;
        }
        let took = started.elapsed();
        assert!(took >= PACE * 19 && took <= PACE * 21, "{took:?}");
        // Whoever waits has leave again.
        tokio::time::sleep(PACE * 20).await;
        for _ in 0..8 {
            assert_eq!(pace.take(), Duration::ZERO);
        }
    }
}
