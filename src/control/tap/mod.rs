//! Who looks at calls while they happen, and the calls that proxies tell of.
//!
//! [`Taps`] holds what is asked; [`ask`] says what of it concerns a proxy, as a condition that the proxy judges by;
//! [`serve`] hands conditions out and takes calls in, from each proxy for itself alone. A tap is gone as soon as whoever
//! reads it is: nothing is stored, and a control plane that starts again has none. A call between two sidecars is told by
//! the caller's, which alone knows of calls that reached nobody; one from outside the mesh by the sidecar that took it.

pub mod ask;
mod call;
pub mod serve;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::api::tap::Call;
use crate::api::{Problem, Reason};
use crate::rt;

pub use ask::{Asked, End};

/// Taps at once; each costs every proxy that it concerns.
pub const MOST: usize = 32;
/// Calls that wait to be read, at most.
const QUEUE: usize = 1024;

/// What is tapped now.
#[derive(Debug, Clone)]
pub struct Taps {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
    listening: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: BTreeMap<String, Arc<Open>>,
}

/// A tap that somebody reads.
#[derive(Debug)]
struct Open {
    asked: Asked,
    calls: mpsc::Sender<Call>,
    began: Instant,
    /// The second that is counted, and how many calls it had.
    counted: Mutex<(u64, u32)>,
}

/// The reading end. The tap ends with it.
#[derive(Debug)]
pub struct Reading {
    taps: Taps,
    name: String,
    calls: mpsc::Receiver<Call>,
}

impl Reading {
    /// The next call; none ever again once the control plane stops.
    pub async fn next(&mut self) -> Option<Call> {
        self.calls.recv().await
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.taps.lock().open.remove(&self.name);
        self.taps.tell();
    }
}

impl Default for Taps {
    fn default() -> Self {
        Self {
            inner: Arc::default(),
            changed: watch::Sender::new(0),
            listening: Arc::default(),
        }
    }
}

impl Taps {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; if something did, what is open is still right.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Opens a tap.
    pub fn open(&self, asked: Asked) -> Result<Reading, Problem> {
        let (calls, told) = mpsc::channel(QUEUE);
        let name = {
            let mut inner = self.lock();
            if inner.open.len() >= MOST {
                let message = format!("{MOST} taps are open already, which is the most");
                return Err(
                    Problem::new(Reason::RateLimited, message).hint("end one of them first")
                );
            }
            inner.next += 1;
            // A proxy must not take one of an earlier run for this one.
            let name = format!("tap/{}-{:08x}", inner.next, fastrand::u32(..));
            let open = Open {
                asked,
                calls,
                began: rt::now(),
                counted: Mutex::default(),
            };
            inner.open.insert(name.clone(), Arc::new(open));
            name
        };
        self.tell();
        Ok(Reading {
            taps: self.clone(),
            name,
            calls: told,
        })
    }

    fn get(&self, name: &str) -> Option<Arc<Open>> {
        self.lock().open.get(name).cloned()
    }

    fn all(&self) -> Vec<(String, Arc<Open>)> {
        let inner = self.lock();
        let open = inner.open.iter();
        open.map(|(name, open)| (name.clone(), Arc::clone(open)))
            .collect()
    }

    /// Taps that are open.
    pub fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// Proxies that would be told of a tap.
    pub fn listening(&self) -> usize {
        self.listening.load(Ordering::Relaxed)
    }
}

impl Open {
    /// Passes a call on, unless there were too many in this second or too many wait.
    fn take(&self, call: Call, now: Instant) {
        let second = now.saturating_duration_since(self.began).as_secs();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != second {
            *counted = (second, 0);
        }
        if counted.1 < self.asked.rate && self.calls.try_send(call).is_ok() {
            counted.1 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_tap_ends_with_its_reader_and_keeps_to_its_rate() {
        let taps = Taps::default();
        let mut changes = taps.changed.subscribe();
        let mut reading = taps
            .open(Asked {
                rate: 3,
                ..Asked::default()
            })
            .unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let open = taps.get(&reading.name).unwrap();
        for _ in 0..5 {
            open.take(Call::default(), open.began);
        }
        open.take(Call::default(), open.began + Duration::from_secs(1));
        for _ in 0..4 {
            assert!(reading.next().await.is_some());
        }
        assert!(reading.calls.try_recv().is_err());
        drop(reading);
        assert_eq!(taps.count(), 0);
        assert!(changes.has_changed().unwrap());
    }

    #[tokio::test]
    async fn there_are_so_many_taps_and_no_more() {
        let taps = Taps::default();
        let mut open: Vec<Reading> = (0..MOST)
            .map(|_| taps.open(Asked::default()).unwrap())
            .collect();
        assert_eq!(
            taps.open(Asked::default()).unwrap_err().reason,
            Reason::RateLimited
        );
        open.pop();
        taps.open(Asked::default()).unwrap();
    }
}
