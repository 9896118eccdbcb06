//! Connections on loopback from our own user and from root; others are turned away before they have said anything.

use std::io;

use futures_util::StreamExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;

use crate::net::local_user::user_of;
use crate::rt::Tasks;

/// Those that come in on `listener`.
pub(super) fn only(
    listener: TcpListener,
) -> impl Stream<Item = io::Result<TcpStream>> + Send + 'static {
    let own = nix::unistd::geteuid().as_raw();
    TcpListenerStream::new(listener).filter_map(move |accepted| async move {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => return Some(Err(error)),
        };
        let (Ok(peer), Ok(here)) = (stream.peer_addr(), stream.local_addr()) else {
            // It has left.
            return None;
        };
        match Tasks::blocking(move || user_of(peer, here)).await {
            Some(Ok(Some(uid))) if uid == own || uid == 0 => return Some(Ok(stream)),
            Some(Ok(Some(uid))) => tracing::warn!(
                uid,
                "turned away another user from xDS without TLS; it can join on the port with TLS"
            ),
            Some(Ok(None)) => tracing::debug!(%peer, "a caller of xDS without TLS was gone"),
            Some(Err(error)) => tracing::warn!(%error, "cannot see who calls xDS without TLS"),
            None => {}
        }
        None
    })
}
