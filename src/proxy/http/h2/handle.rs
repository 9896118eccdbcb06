//! A stream as its user holds it.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::rt;

use super::block::Block;
use super::frame::Reason;
use super::send::{Got, HeadWriter};
use super::session::Session;
use super::stream::StreamError;

/// A connection that its task and its streams share. Nobody keeps it borrowed while anything waits.
pub(crate) type Shared = Rc<RefCell<Session>>;

/// One stream; it is let go when this is dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    session: Shared,
    at: (usize, u32),
}

impl Handle {
    pub(crate) fn new(session: Shared, at: (usize, u32)) -> Self {
        Self { session, at }
    }

    /// See [`Session::send_head`].
    pub(crate) fn send_head(
        &self,
        end: bool,
        write: impl FnOnce(&mut HeadWriter<'_>),
    ) -> Result<(), StreamError> {
        self.session.borrow_mut().send_head(self.at, end, write)
    }

    /// See [`Session::poll_send`].
    pub(crate) fn poll_send(
        &self,
        cx: &Context<'_>,
        data: &[u8],
        end: bool,
    ) -> Poll<Result<usize, StreamError>> {
        let mut session = self.session.borrow_mut();
        session.poll_send(cx, self.at, (data, end), rt::now)
    }

    /// See [`Session::poll_head`].
    pub(crate) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<(Block, bool), StreamError>> {
        self.session.borrow_mut().poll_head(cx, self.at)
    }

    /// See [`Session::poll_take`].
    pub(crate) fn poll_take(
        &self,
        cx: &Context<'_>,
        into: &mut Vec<u8>,
    ) -> Poll<Result<Got, StreamError>> {
        self.session.borrow_mut().poll_take(cx, self.at, into)
    }

    /// See [`Session::is_last`].
    pub(crate) fn is_last(&self) -> bool {
        self.session.borrow_mut().is_last(self.at)
    }

    /// See [`Session::poll_gone`].
    pub(crate) fn poll_gone(&self, cx: &Context<'_>) -> Poll<StreamError> {
        self.session.borrow_mut().poll_gone(cx, self.at)
    }

    /// See [`Session::consumed`].
    pub(crate) fn consumed(&self, count: usize) {
        self.session.borrow_mut().consumed(self.at, count);
    }

    /// See [`Session::give_up`].
    pub(crate) fn give_up(&self, reason: Reason) {
        self.session.borrow_mut().give_up(self.at, reason);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.session.borrow_mut().release(self.at, rt::now);
    }
}
