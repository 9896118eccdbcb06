//! Clocks, private durable files, memory given back and used, back-off, drain, supervised tasks, published snapshots,
//! and errors in a line.
//!
//! Owns what every long-running part needs and knows nothing about meshes. Time comes in through
//! [`Wall`] (calendar time, for certificates and logs) and through [`now`] (monotonic, pausable in
//! tests because it is tokio's), so that nothing above reads a clock of its own.

pub mod backoff;
pub mod chain;
pub mod disk;
pub mod drain;
pub mod memory;
pub mod published;
pub mod tasks;
pub mod usage;
pub mod wall;

pub use backoff::Backoff;
pub use chain::chain;
pub use drain::{Drain, DrainSignal};
pub use published::{Published, Reader};
pub use tasks::Tasks;
pub use wall::{UnixMillis, Wall};

/// Monotonic time; tokio's, so that a test can pause it.
pub fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// A map for measured hot paths, where nothing iterates over it. The standard one's hash is a tenth of a
/// request; this one is seeded too, so that callers cannot choose what collides.
#[expect(clippy::disallowed_types, reason = "the one place that names it")]
pub type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// As [`HashMap`], for sets.
pub type HashSet<T> = std::collections::HashSet<T, foldhash::fast::RandomState>;
