//! HTTP/2 connections to endpoints.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};

use super::super::super::limit::ConnectionSlot;
use super::super::super::stream::Stream;
use super::super::fields::MAX_HEAD;
use super::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW};

/// Streams on one connection; more open another.
pub(crate) const MAX_STREAMS: usize = 512;

/// Begins HTTP/2 on `stream` and starts the task that carries it. The flag is set when the
/// connection has ended; the slot is held until then.
pub(crate) async fn start(
    stream: Stream,
    slot: ConnectionSlot,
) -> Result<(SendRequest<Bytes>, Rc<Cell<bool>>), h2::Error> {
    let (send, connection) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_send_buffer_size(256 * 1024)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await?;
    let closed = Rc::new(Cell::new(false));
    let flag = Rc::clone(&closed);
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "HTTP/2 connection to an endpoint ended");
        }
        flag.set(true);
        drop(slot);
    });
    Ok((send, closed))
}
