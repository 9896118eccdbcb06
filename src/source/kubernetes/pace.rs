//! Watches that end as soon as they begin are not begun again at once.
//!
//! kube's watcher begins the next watch when one has ended in good order, and has no wait there that could be set.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Request;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::rt::now;

/// When the last watch of each path was begun.
type Begun = Arc<Mutex<BTreeMap<String, Instant>>>;

/// Adds waits before watches.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    least: Duration,
    begun: Begun,
}

impl Pace {
    /// Between the beginnings of two watches of a path there is at least this.
    pub(super) fn new(least: Duration) -> Self {
        Self {
            least,
            begun: Begun::default(),
        }
    }

    /// When a watch of `path` may begin, which is noted as if it did.
    fn next(&self, path: &str) -> Instant {
        let now = now();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match begun.get(path) {
            Some(last) => now.max(*last + self.least),
            None => now,
        };
        begun.insert(path.to_owned(), at);
        at
    }
}

impl<S> Layer<S> for Pace {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced {
            inner,
            pace: self.clone(),
        }
    }
}

/// A service whose watches wait.
#[derive(Debug, Clone)]
pub(super) struct Paced<S> {
    inner: S,
    pace: Pace,
}

impl<S, B> Service<Request<B>> for Paced<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let uri = request.uri();
        let watch = uri
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        let at = watch.then(|| self.pace.next(uri.path()));
        // Nothing is sent before it is polled.
        let answer = self.inner.call(request);
        Box::pin(async move {
            if let Some(at) = at {
                tokio::time::sleep_until(at).await;
            }
            answer.await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn watches_of_one_path_keep_their_distance_and_nothing_else_waits() {
        let pace = Pace::new(Duration::from_secs(1));
        let service = tower::service_fn(|_: Request<()>| async { Ok::<_, ()>(now()) });
        let mut paced = pace.layer(service);
        let mut ask = async |uri: &str| {
            let request = Request::get(uri).body(()).unwrap();
            paced.call(request).await.unwrap()
        };
        let first = ask("/api/v1/pods?watch=true&resourceVersion=1").await;
        assert_eq!(ask("/api/v1/services?watch=true").await, first);
        assert_eq!(ask("/api/v1/pods?limit=500").await, first);
        let second = ask("/api/v1/pods?watch=true&resourceVersion=2").await;
        assert_eq!(second - first, Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(9)).await;
        let late = now();
        assert_eq!(ask("/api/v1/pods?watch=true").await, late);
    }
}
