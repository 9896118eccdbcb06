//! Memory for requests under way, which connections have in turn.
//!
//! What a request needs while it is carried is some KiB. In its connection's task that would be there
//! while the connection is idle, and made anew for each request it is 4 % of one. So a thread keeps
//! futures that carry one request after the other, of whatever connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

/// A future that does one piece of work after the other.
pub(crate) struct Lane<T> {
    future: Pin<Box<dyn Future<Output = Infallible>>>,
    place: Rc<Place<T>>,
}

/// Where work is put, and found again when it is done.
struct Place<T> {
    work: Cell<Option<T>>,
    done: Cell<Option<T>>,
}

impl<T: 'static> Lane<T> {
    /// A lane whose work is `run`.
    pub(crate) fn new(run: impl AsyncFn(T) -> T + 'static) -> Self {
        let place = Rc::new(Place {
            work: Cell::new(None),
            done: Cell::new(None),
        });
        Self {
            future: Box::pin(run_all(Rc::clone(&place), run)),
            place,
        }
    }

    /// Does `work`. When this is dropped before its end, the lane is of no use any more.
    pub(crate) async fn carry(&mut self, work: T) -> T {
        self.place.work.set(Some(work));
        poll_fn(|cx| match self.future.as_mut().poll(cx) {
            Poll::Ready(never) => match never {},
            Poll::Pending => self.place.done.take().map_or(Poll::Pending, Poll::Ready),
        })
        .await
    }
}

async fn run_all<T>(place: Rc<Place<T>>, run: impl AsyncFn(T) -> T) -> Infallible {
    loop {
        // Nobody is to be woken: who brings work looks here itself.
        let work = poll_fn(|_| place.work.take().map_or(Poll::Pending, Poll::Ready)).await;
        place.done.set(Some(run(work).await));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_one_after_the_other_whoever_brings_it() {
        let mut lane = Lane::new(async |number: u32| {
            tokio::task::yield_now().await;
            number + 1
        });
        assert_eq!(lane.carry(1).await, 2);
        let other = tokio::task::LocalSet::new();
        let moved = other.run_until(async {
            tokio::task::spawn_local(async move { (lane.carry(5).await, lane.carry(6).await) })
                .await
                .unwrap()
        });
        assert_eq!(moved.await, (6, 7));
    }
}
