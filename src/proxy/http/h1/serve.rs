//! Serving an HTTP/1 connection: one request after the other.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::rt;

use super::super::super::buffer::{Buffer, give_text, take_text};
use super::super::super::context::{Conn, Live, Worker};
use super::super::super::stream::Stream;
use super::super::super::timer::Alarm;
use super::super::leg::{H1Leg, Leg};
use super::lane::Lane;
use super::request::{After, Request, earlier};

/// Lanes that wait for work, of each thread at most.
const LANES: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<Lane<Box<Serving>>>> = const { RefCell::new(Vec::new()) };
}

/// A connection that is served.
struct Serving {
    worker: Rc<Worker>,
    conn: Box<Conn>,
    leg: Leg,
    alarm: Alarm,
    /// For the head of a request to be sent on.
    text: Vec<u8>,
    routes: Routes,
    /// Requests so far.
    served: u32,
    /// When the connection has lasted long enough.
    last: Option<Instant>,
    after: After,
}

/// Serves the connection of `leg` by the route table named `table`.
pub(crate) async fn serve(worker: Rc<Worker>, conn: Box<Conn>, table: Rc<str>, leg: Box<H1Leg>) {
    let limit = conn.http().options.timeouts.max_connection;
    let mut serving = Box::new(Serving {
        worker,
        conn,
        leg: Leg::H1(leg),
        alarm: Alarm::default(),
        text: Vec::new(),
        routes: Routes::new(table),
        served: 0,
        last: limit.map(|limit| rt::now() + limit),
        after: After::Next,
    });
    while serving.wait_for_request().await {
        let mut lane = take_lane();
        serving = lane.carry(serving).await;
        give_lane(lane);
        let Leg::H1(own) = &mut serving.leg else {
            return;
        };
        match serving.after {
            After::Next if !own.ended || !own.input.is_empty() => {}
            // Closing over what it sends all the same would reset the connection, and lose the answer.
            After::Over if own.input.is_empty() && own.io.is_quiet() => {
                // A caller that is gone already is not told.
                let _told = poll_fn(|cx| own.io.poll_goodbye(cx)).await;
                return;
            }
            After::Next | After::Over | After::End => {
                Box::pin(close(&mut own.io, &mut own.input)).await;
                return;
            }
        }
        if own.input.is_empty() {
            give_text(std::mem::take(&mut serving.text));
        }
    }
}

fn take_lane() -> Lane<Box<Serving>> {
    let free = FREE.try_with(|free| free.borrow_mut().pop());
    free.ok()
        .flatten()
        .unwrap_or_else(|| Lane::new(async |serving: Box<Serving>| serving.one().await))
}

fn give_lane(lane: Lane<Box<Serving>>) {
    // While the thread ends there is nobody to keep it for.
    let _kept = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.len() < LANES {
            free.push(lane);
        }
    });
}

/// Frees what an idle thread keeps beyond a little.
pub(crate) fn trim() {
    // While the thread ends there is nothing to trim.
    let _trimmed = FREE.try_with(|free| free.borrow_mut().truncate(4));
}

impl Drop for Serving {
    fn drop(&mut self) {
        give_text(std::mem::take(&mut self.text));
    }
}

impl Serving {
    /// Serves the request that has begun to come.
    async fn one(mut self: Box<Self>) -> Box<Self> {
        self.served = self.served.saturating_add(1);
        let live = self.worker.live();
        let routes = self.routes.index(&live);
        if self.text.capacity() == 0 {
            self.text = take_text();
        }
        let begun = rt::now();
        let most = self.conn.http().options.limits.max_requests_per_connection;
        let last = self.served == most || self.last.is_some_and(|last| begun >= last);
        let request = Request {
            worker: &self.worker,
            live: &live,
            conn: &self.conn,
            routes,
            begun,
            last,
            span: Cell::default(),
        };
        let running = request.run(&mut self.leg, &mut self.alarm, &mut self.text);
        self.after = running.await;
        self
    }

    /// Waits for the first bytes of a request, without memory while there are none. False when the
    /// connection is to end.
    async fn wait_for_request(&mut self) -> bool {
        let Self {
            conn, alarm, last, ..
        } = self;
        let Leg::H1(leg) = &mut self.leg else {
            return false;
        };
        if !leg.input.is_empty() {
            return true;
        }
        conn.state.idle.set(true);
        let idle = conn.http().options.timeouts.idle;
        let mut deadline = None;
        let filled = poll_fn(|cx| match leg.poll_fill(cx) {
            Poll::Ready(filled) => Poll::Ready(filled.unwrap_or(0)),
            Poll::Pending => {
                leg.rest();
                let deadline = *deadline.get_or_insert_with(|| {
                    let idle = idle.map(|idle| rt::now() + idle);
                    earlier(idle, *last)
                });
                match deadline {
                    Some(deadline) => alarm.poll(cx, deadline).map(|()| 0),
                    None => Poll::Pending,
                }
            }
        })
        .await;
        conn.state.idle.set(false);
        filled > 0
    }
}

/// A route table by name, and its index in the version of the tables that was last seen.
#[derive(Debug)]
pub(crate) struct Routes {
    name: Rc<str>,
    /// Does not keep that version: a connection may be idle for long.
    seen: Weak<Live>,
    index: Option<usize>,
}

impl Routes {
    pub(crate) fn new(name: Rc<str>) -> Self {
        Self {
            name,
            seen: Weak::new(),
            index: None,
        }
    }

    /// The index in `live`.
    pub(crate) fn index(&mut self, live: &Rc<Live>) -> Option<usize> {
        if !std::ptr::eq(self.seen.as_ptr(), Rc::as_ptr(live)) {
            self.seen = Rc::downgrade(live);
            self.index = live.tables.route_index(&self.name);
        }
        self.index
    }
}

/// Ends a connection so that the caller gets the last answer: what it still sends is read and
/// thrown away for a moment, as closing over unread bytes resets the connection.
async fn close(io: &mut Stream, input: &mut Buffer) {
    if io.shutdown().await.is_err() {
        return;
    }
    let linger = async {
        for _ in 0..64 {
            input.consume(usize::MAX / 2);
            match poll_fn(|cx| io.poll_fill(cx, input)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    // Whether the caller ended too or time ran out makes no difference any more.
    let _lingered = tokio::time::timeout(Duration::from_millis(500), linger).await;
}
