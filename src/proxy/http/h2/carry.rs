//! Carrying a connection's bytes between its socket and its session.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::rt;

use super::super::super::buffer::{Buffer, SMALL};
use super::super::super::stream::Stream;
use super::super::super::timer::Alarm;
use super::handle::Shared;

/// Reads in a row before others get their turn.
const READS: u32 = 4;

/// A connection's socket.
#[derive(Debug)]
pub(crate) struct Carrier {
    io: Stream,
    input: Buffer,
    /// TLS may hold something back.
    unpushed: bool,
    alarm: Alarm,
    /// Nothing can be read or written any more.
    over: bool,
    /// Output was held back once.
    held: bool,
}

impl Carrier {
    pub(crate) fn new(io: Stream) -> Self {
        Self {
            io,
            input: Buffer::default(),
            unpushed: false,
            alarm: Alarm::default(),
            over: false,
            held: false,
        }
    }

    /// Moves bytes both ways. `after_read` is called when frames came in, and says whether it gave
    /// others something to do; their output then goes out together with what there is already.
    /// Ready when the connection is over and its last words are written.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        session: &Shared,
        mut after_read: impl FnMut() -> bool,
    ) -> Poll<()> {
        session.borrow_mut().awaken();
        for turn in 1.. {
            let read = !self.over && self.poll_read(cx, session).is_ready();
            if read && after_read() && !self.held && !session.borrow().output().is_empty() {
                self.held = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.held = false;
            let written = self.poll_write(cx, session);
            let mut session = session.borrow_mut();
            // A peer that breaks the rules and does not read either is not waited for.
            if session.is_done() && (written.is_ready() || session.ended().is_some()) {
                return Poll::Ready(());
            }
            if read && turn < READS {
                continue;
            }
            if read {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(deadline) = session.deadline()
                && self.alarm.poll(cx, deadline).is_ready()
            {
                session.expire(rt::now());
                continue;
            }
            self.input.release();
            if session.len() == 0 {
                session.rest();
            }
            session.sleep(cx);
            return Poll::Pending;
        }
        Poll::Pending
    }

    /// Ready when something was read, or the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, session: &Shared) -> Poll<()> {
        let filled = ready!(self.io.poll_fill(cx, &mut self.input));
        let mut session = session.borrow_mut();
        if let Ok(count @ 1..) = filled {
            let used = session.receive(self.input.data(), rt::now());
            self.input.consume(used);
            if count >= SMALL {
                self.input.enlarge();
            }
        } else {
            self.over = true;
            session.close();
        }
        Poll::Ready(())
    }

    /// Ready when all is written, or nothing can be any more.
    fn poll_write(&mut self, cx: &mut Context<'_>, session: &Shared) -> Poll<()> {
        let mut session = session.borrow_mut();
        if self.over {
            return Poll::Ready(());
        }
        while !session.output().is_empty() {
            if let Ok(count @ 1..) = ready!(self.io.poll_send(cx, session.output())) {
                session.wrote(count);
                self.unpushed = true;
            } else {
                self.over = true;
                session.close();
                return Poll::Ready(());
            }
        }
        if self.unpushed {
            if ready!(self.io.poll_push(cx)).is_err() {
                self.over = true;
                session.close();
            }
            self.unpushed = false;
        }
        Poll::Ready(())
    }

    /// Closes so that the peer gets what was said last: what it still sends is read and thrown away
    /// for a moment, as closing over unread bytes resets the connection.
    pub(crate) async fn finish(mut self) {
        if self.over || self.io.shutdown().await.is_err() {
            return;
        }
        let linger = async {
            for _ in 0..64 {
                self.input.consume(usize::MAX / 2);
                match poll_fn(|cx| self.io.poll_fill(cx, &mut self.input)).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        // Whether the peer ended too or time ran out makes no difference any more.
        let _lingered = tokio::time::timeout(Duration::from_millis(500), linger).await;
    }
}
