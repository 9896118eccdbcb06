//! Telling every part that the end has come, and waiting until each has finished.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// The side that starts a drain and waits for it.
#[derive(Debug)]
pub struct Drain {
    signal: watch::Sender<bool>,
    done: mpsc::Receiver<()>,
}

/// The side that is drained. Clones count: a drain ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct DrainSignal {
    signal: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

impl Drain {
    /// A drain and its first signal.
    pub fn new() -> (Self, DrainSignal) {
        let (signal, watched) = watch::channel(false);
        let (alive, done) = mpsc::channel(1);
        (
            Self { signal, done },
            DrainSignal {
                signal: watched,
                _alive: alive,
            },
        )
    }

    /// Announces the end without waiting.
    pub fn start(&self) {
        self.signal.send_replace(true);
    }

    /// Announces the end and waits until every signal is dropped, at most `deadline`.
    /// Returns whether everyone finished in time.
    pub async fn finish(mut self, deadline: Duration) -> bool {
        self.start();
        tokio::time::timeout(deadline, self.done.recv())
            .await
            .is_ok()
    }
}

impl DrainSignal {
    /// Whether the end has been announced.
    pub fn draining(&self) -> bool {
        *self.signal.borrow()
    }

    /// Resolves when the end is announced (or the drain was dropped).
    pub async fn wait(&mut self) {
        // An error means that the drain itself is gone, which is an end too.
        let _ended = self.signal.wait_for(|draining| *draining).await.is_ok();
    }
}
