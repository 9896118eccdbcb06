//! One writer, many readers that never wait: immutable snapshots behind an atomic pointer.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// The writing side. There is one for each value.
#[derive(Debug)]
pub struct Published<T> {
    current: Arc<ArcSwap<T>>,
    version: watch::Sender<u64>,
}

/// The reading side; cheap to clone.
#[derive(Debug)]
pub struct Reader<T> {
    current: Arc<ArcSwap<T>>,
    version: watch::Receiver<u64>,
}

impl<T> Published<T> {
    /// Publishes `first` and hands out the writer.
    pub fn new(first: T) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(first)),
            version: watch::Sender::new(0),
        }
    }

    /// Replaces the value for all readers at once.
    pub fn publish(&self, next: impl Into<Arc<T>>) {
        self.current.store(next.into());
        self.version.send_modify(|version| *version += 1);
    }

    /// The value that readers see now.
    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// A reader of this value.
    pub fn reader(&self) -> Reader<T> {
        Reader {
            current: Arc::clone(&self.current),
            version: self.version.subscribe(),
        }
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self {
            current: Arc::clone(&self.current),
            version: self.version.clone(),
        }
    }
}

impl<T> Reader<T> {
    /// The current value; keep it for one unit of work, so that the work sees one version.
    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// The current value without touching its reference count, for a hot path.
    pub fn peek(&self) -> arc_swap::Guard<Arc<T>> {
        self.current.load()
    }

    /// Changes with each publication.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }

    /// Waits for the next publication. False when the writer is gone.
    pub async fn changed(&mut self) -> bool {
        self.version.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_see_the_next_value_and_are_told() {
        let published = Published::new(1);
        let mut reader = published.reader();
        published.publish(2);
        assert!(reader.changed().await);
        assert_eq!(*reader.load(), 2);
        drop(published);
        assert!(!reader.changed().await);
    }
}
