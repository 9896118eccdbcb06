//! Load beside a test: callers that go on until they are told to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::Caller;
use crate::mesh::add;

/// Callers at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    callers: tokio::task::JoinSet<BTreeMap<String, usize>>,
}

impl Load {
    /// `callers` at once, each with connections of its own, call `host` through `to`.
    pub(crate) fn start(to: SocketAddr, host: &'static str, callers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut set = tokio::task::JoinSet::new();
        for _ in 0..callers {
            let stop = Arc::clone(&stop);
            set.spawn(async move {
                let caller = Caller::new(to);
                let mut counts = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    add(&mut counts, caller.count(host, 20).await);
                }
                counts
            });
        }
        Self { stop, callers: set }
    }

    /// How often which backend answered since the start; what failed is there by its status.
    pub(crate) async fn stop(self) -> BTreeMap<String, usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = BTreeMap::new();
        for counts in self.callers.join_all().await {
            add(&mut sum, counts);
        }
        sum
    }
}

/// `count` requests by 8 callers.
pub(crate) async fn burst(
    to: SocketAddr,
    host: &'static str,
    count: usize,
) -> BTreeMap<String, usize> {
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..8 {
        set.spawn(async move { Caller::new(to).count(host, count / 8).await });
    }
    let mut sum = BTreeMap::new();
    for counts in set.join_all().await {
        add(&mut sum, counts);
    }
    sum
}
