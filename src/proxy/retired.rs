//! Earlier tables, until no request uses them any more.
//!
//! The last to let go of them frees them, which for large ones takes milliseconds: on a worker every
//! caller would wait for that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::tables::Tables;

/// How often it is looked whether some are out of use.
const LOOK: Duration = Duration::from_secs(1);

/// Tables that have been replaced.
#[derive(Debug, Default)]
pub(crate) struct Retired(Mutex<Vec<Arc<Tables>>>);

impl Retired {
    /// Keeps `tables` until nobody else does.
    pub(crate) fn push(&self, tables: Arc<Tables>) {
        self.bury();
        self.held().push(tables);
    }

    /// Frees what is out of use after a while; never ready while there is nothing.
    pub(crate) async fn look(&self) {
        if self.held().is_empty() {
            return std::future::pending().await;
        }
        tokio::time::sleep(LOOK).await;
        self.bury();
    }

    fn held(&self) -> MutexGuard<'_, Vec<Arc<Tables>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bury(&self) {
        self.held().retain(|tables| Arc::strong_count(tables) > 1);
    }
}
