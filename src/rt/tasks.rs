//! Background tasks that are named, watched and ended together.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks. A task that panics is reported and the others go on; ending the group cancels
/// all of them and waits.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts `work` on the current runtime. It is dropped at its next await when the group ends.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = watched(name, work) => {}
            }
        });
    }

    /// As [`Tasks::spawn`] for futures that stay on this thread; needs a `LocalSet` or a
    /// current-thread local runtime around it.
    pub fn spawn_local(&self, name: &'static str, work: impl Future<Output = ()> + 'static) {
        let cancel = self.cancel.clone();
        self.tracker.spawn_local(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = watched(name, work) => {}
            }
        });
    }

    /// Runs blocking `work` off the runtime's threads and gives its result; `None` when it panicked.
    pub async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        tokio::task::spawn_blocking(work).await.ok()
    }

    /// A token that is cancelled when the group ends.
    pub fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Cancels every task and waits until all have stopped.
    pub async fn end(&self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

async fn watched(name: &'static str, work: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
        let reason = panic
            .downcast_ref::<&str>()
            .map(|text| Arc::<str>::from(*text))
            .or_else(|| {
                panic
                    .downcast_ref::<String>()
                    .map(|text| Arc::from(text.as_str()))
            })
            .unwrap_or_else(|| Arc::from("unknown"));
        tracing::error!(task = name, %reason, "task panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_task_only() {
        let tasks = Tasks::new();
        let (done, mut ended) = tokio::sync::mpsc::channel(1);
        tasks.spawn("bad", async { panic!("expected in this test") });
        tasks.spawn("good", async move {
            done.send(()).await.unwrap();
        });
        assert_eq!(ended.recv().await, Some(()));
        tasks.end().await;
    }
}
