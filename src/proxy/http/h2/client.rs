//! HTTP/2 connections to endpoints.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use crate::rt;
use crate::telemetry::Registry;

use super::super::super::limit::ConnectionSlot;
use super::super::super::stream::Stream;
use super::carry::Carrier;
use super::config::Config;
use super::handle::{Handle, Shared};
use super::send::HeadWriter;
use super::session::{Role, Session};
use super::stream::StreamError;

/// Streams on one connection; more open another.
pub(crate) const MAX_STREAMS: u32 = 512;

/// A connection to an endpoint. When it is dropped, what has begun goes on and then it ends.
#[derive(Debug)]
pub(crate) struct Client {
    session: Shared,
    max_streams: usize,
}

impl Client {
    /// Begins HTTP/2 on `stream` and starts the task that carries it, which holds the slot.
    pub(crate) fn start(
        (stream, slot): (Stream, ConnectionSlot),
        config: Config,
        registry: &Arc<Registry>,
    ) -> Self {
        let registry = Arc::clone(registry);
        let session = Session::new(Role::Client, config, rt::now());
        let session = Rc::new(RefCell::new(session));
        let own = Rc::clone(&session);
        tokio::task::spawn_local(async move {
            let mut carrier = Carrier::new(stream);
            poll_fn(|cx| carrier.poll(cx, &own, || true)).await;
            if let Some(fault) = own.borrow().fault() {
                registry.http2_ended("upstream", fault.detail);
                tracing::debug!(%fault, "HTTP/2 connection to an endpoint ended");
            }
            drop(slot);
            // What never got an end does now.
            own.borrow_mut().close();
            carrier.finish().await;
        });
        let max_streams = usize::try_from(config.max_streams).unwrap_or(usize::MAX);
        Self {
            session,
            max_streams,
        }
    }

    /// Whether another stream can be opened, now or when one ends.
    pub(crate) fn is_open(&self) -> bool {
        self.session.borrow().is_open()
    }

    /// Whether another stream can be opened now.
    pub(crate) fn has_room(&self) -> bool {
        self.session.borrow().has_room(self.max_streams)
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.session.borrow().len() == 0
    }

    /// Whether extended CONNECT may be sent, once the endpoint has said so or not.
    pub(crate) async fn takes_connect(&self) -> bool {
        poll_fn(|cx| self.session.borrow_mut().poll_takes_connect(cx)).await
    }

    /// See [`Session::open`].
    pub(crate) fn open(
        &self,
        (end, bodiless): (bool, bool),
        write: impl FnOnce(&mut HeadWriter<'_>),
    ) -> Result<Handle, StreamError> {
        let at = self.session.borrow_mut().open((end, bodiless), write)?;
        Ok(Handle::new(Rc::clone(&self.session), at))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.session.borrow_mut().leave(rt::now());
    }
}
