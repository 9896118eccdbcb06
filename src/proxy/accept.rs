//! From an accepted connection to the code that serves it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::mesh::listener::HttpCodec;
use crate::net;
use crate::telemetry::{PeerId, PeerLabels};

use super::buffer::Buffer;
use super::context::{Conn, Live, Registered, Worker};
use super::detect::{First, detect};
use super::http::{h1, h2};
use super::stream::{Raw, Stream};
use super::tables::chain::ChainTable;
use super::tables::{ChainAction, ListenerTable};
use super::{tcp, tls};

/// A caller must complete its handshake within this (Istio's default at gateways).
const HANDSHAKE: Duration = Duration::from_secs(15);

/// Serves one connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    listener: Arc<ListenerTable>,
    registered: Registered,
    tcp: TcpStream,
    remote: SocketAddr,
) {
    // Fails only on a socket that is dead already.
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let Ok(local) = tcp.local_addr() else { return };
    let live = worker.live();
    let meant = listener
        .config
        .transparent
        .then(|| net::original_destination(&tcp))
        .flatten();
    let mut conn = Conn {
        remote,
        local,
        meant,
        direction: listener.config.direction,
        tls: false,
        principal: None,
        client_cert: None,
        peer: Cell::new(PeerId::default()),
        server_name: None,
        state: Rc::clone(&registered.state),
    };
    let mut stream = Stream::from(tcp);
    let mut first_bytes = Buffer::default();
    let candidates = listener.narrow(meant.unwrap_or(local));
    let timeout = listener.config.detect_timeout;
    let mut first = None;
    // Until it has said something, nothing is lost by closing it.
    conn.state.idle.set(true);
    if candidates.need_hello() {
        match detect(&mut stream, &mut first_bytes, timeout).await {
            Ok(told) => first = Some(told),
            Err(_) => return,
        }
    }
    conn.state.idle.set(false);
    let hello = first.as_ref().map(First::hello).unwrap_or_default();
    let Some(chain) = candidates.choose(&hello) else {
        tracing::debug!(listener = listener.config.name, %remote, "no chain takes the connection");
        return;
    };
    conn.server_name = hello.server_name;
    if let Some(config) = &chain.tls {
        let Some(accepted) = handshake(&live, config, stream, first_bytes, &conn).await else {
            return;
        };
        stream = accepted;
        first_bytes = Buffer::default();
        first = None;
        trust(&worker, &live, &stream, &mut conn);
    }
    let from = (stream, first_bytes, first);
    dispatch(worker, live, conn, chain, from, timeout).await;
    drop(registered);
}

async fn handshake(
    live: &Live,
    config: &crate::mesh::listener::ServerTls,
    stream: Stream,
    first: Buffer,
    conn: &Conn,
) -> Option<Stream> {
    let Stream::Plain(raw) = stream else {
        return None;
    };
    let Some(identity) = &live.identity else {
        tracing::debug!(remote = %conn.remote, "mTLS caller refused: no identity yet");
        return None;
    };
    let server = match identity.server(&config.alpn) {
        Ok(server) => server,
        Err(error) => {
            tracing::warn!(%error, "identity cannot be used");
            return None;
        }
    };
    let raw = Raw::new(raw.into_tcp(), first);
    let accepted = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(server).accept(raw)).await;
    match accepted {
        Ok(Ok(stream)) => Some(Stream::Server(Box::new(stream))),
        Ok(Err(error)) => {
            let reason = crate::tls::explain(&error);
            tracing::debug!(remote = %conn.remote, reason, "mTLS caller refused");
            None
        }
        Err(_) => None,
    }
}

/// Takes the caller's identity from a finished handshake.
fn trust(worker: &Worker, live: &Live, stream: &Stream, conn: &mut Conn) {
    let Stream::Server(tls) = stream else { return };
    conn.tls = true;
    let by = live.identity.as_ref().map_or("", |identity| &identity.id);
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    if let Some((principal, header)) = tls::caller(chain, by) {
        let labels = PeerLabels {
            principal: principal.clone(),
            ..PeerLabels::default()
        };
        conn.peer.set(worker.shared.registry.peer(labels));
        conn.principal = Some(principal);
        conn.client_cert = Some(header);
    }
}

async fn dispatch(
    worker: Rc<Worker>,
    live: Rc<Live>,
    conn: Conn,
    chain: &ChainTable,
    (mut stream, mut first_bytes, mut first): (Stream, Buffer, Option<First>),
    timeout: Duration,
) {
    let (routes, codec, bytes) = match &chain.action {
        ChainAction::Tcp {
            targets,
            split,
            idle,
        } => {
            let cluster = split
                .next()
                .and_then(|at| targets.get(at).copied())
                .flatten();
            let to = (cluster, *idle);
            return tcp::serve(&worker, live, &conn, (stream, first_bytes), to).await;
        }
        ChainAction::Http { routes, codec } => (routes, *codec, None),
        ChainAction::Detect { routes, bytes } => (routes, HttpCodec::Auto, Some(*bytes)),
    };
    let codec = match codec {
        HttpCodec::Auto => {
            let agreed = negotiated(&stream);
            if agreed.is_none() && first.is_none() {
                conn.state.idle.set(true);
                match detect(&mut stream, &mut first_bytes, timeout).await {
                    Ok(told) => first = Some(told),
                    Err(_) => return,
                }
                conn.state.idle.set(false);
            }
            agreed.or(match first {
                Some(First::Http2) => Some(HttpCodec::Http2),
                Some(First::Http1) => Some(HttpCodec::Http1),
                // Not HTTP where only HTTP is served: the parser says so to the caller.
                _ if bytes.is_none() => Some(HttpCodec::Http1),
                _ => None,
            })
        }
        codec => Some(codec),
    };
    let table: Rc<str> = routes.as_str().into();
    if codec.is_some() {
        // Requests look at the tables of their time; those of the connection's begin are not kept.
        drop(live);
        return match codec {
            Some(HttpCodec::Http2) => {
                h2::serve::serve(worker, conn, table, stream.with_first(first_bytes)).await;
            }
            _ => h1::serve::serve(worker, conn, table, (stream, first_bytes)).await,
        };
    }
    let to = (bytes.flatten(), Duration::from_hours(1));
    tcp::serve(&worker, live, &conn, (stream, first_bytes), to).await;
}

/// What ALPN agreed on, where it says which HTTP.
fn negotiated(stream: &Stream) -> Option<HttpCodec> {
    let Stream::Server(tls) = stream else {
        return None;
    };
    match tls.get_ref().1.alpn_protocol()? {
        b"h2" | b"istio-h2" => Some(HttpCodec::Http2),
        b"http/1.1" | b"http/1.0" | b"istio-http/1.1" | b"istio-http/1.0" => Some(HttpCodec::Http1),
        _ => None,
    }
}
