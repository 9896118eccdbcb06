//! Where objects come from: files, the embedded store, Kubernetes, Consul, DNS, memory.
//!
//! Owns getting at them and keeping them; what they say is left to `resource`, and what they mean
//! to `resource::lower`. Whatever is followed elsewhere ends in the same two things: batches of
//! [`Change`]s, of which the first has everything, and how things stand.

pub mod consul;
pub mod dns;
pub mod files;
pub mod kubernetes;
mod listed;
mod outlet;
mod query_text;
pub mod store;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::resource::Key;
use crate::rt::UnixMillis;

/// Annotation of objects that nobody wrote: which source they were made from, such as `Consul`.
pub const MADE_FROM: &str = "meshctl.dev/source";

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which object.
    pub key: Key,
    /// How it is now, as JSON; none when it is gone. Text, as a tree of it takes several times the memory, and most
    /// are read into something smaller at once.
    pub object: Option<Arc<str>>,
}

/// A catalogue that is being followed.
#[derive(Debug)]
pub struct Followed {
    /// Changes that came together. The first batch has everything, and may be empty.
    pub batches: mpsc::Receiver<Vec<Change>>,
    /// How things stand.
    pub state: watch::Receiver<State>,
}

/// How things stand between us and a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Which, such as `Consul at http://127.0.0.1:8500`.
    pub name: String,
    /// Whether everything was said once, so that nothing is missing from the world.
    pub complete: bool,
    /// Services that are known.
    pub services: usize,
    /// Their instances.
    pub instances: usize,
    /// It does not answer, or not all that is asked.
    pub away: Option<Away>,
    /// What is left out, and why.
    pub warnings: Vec<String>,
}

/// A catalogue does not answer; what was known last stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// What it says, or why it says nothing.
    pub reason: String,
    /// What a person can do.
    pub hint: &'static str,
    /// Since when.
    pub since_unix_ms: UnixMillis,
}

impl State {
    fn new(name: String) -> Self {
        Self {
            name,
            complete: false,
            services: 0,
            instances: 0,
            away: None,
            warnings: Vec::new(),
        }
    }

    /// Notes that it does not answer, and says so in the log where that is news.
    fn lost(&mut self, reason: String, hint: &'static str, now_unix_ms: UnixMillis) {
        let since_unix_ms = match &self.away {
            Some(away) => away.since_unix_ms,
            None => now_unix_ms,
        };
        if self.away.as_ref().is_none_or(|away| away.reason != reason) {
            let effect = if self.complete {
                "what is known stays in force"
            } else {
                "proxies are served once it has answered"
            };
            tracing::warn!(source = %self.name, %reason, "no answer; {effect}");
        }
        self.away = Some(Away {
            reason,
            hint,
            since_unix_ms,
        });
    }

    /// Notes that it answers.
    fn back(&mut self) {
        if self.away.take().is_some() {
            tracing::info!(source = %self.name, "it answers again");
        }
    }
}
