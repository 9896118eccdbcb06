//! From an accepted connection to the code that serves it.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::mesh::listener::{HttpCodec, ServerTls, TcpOptions};
use crate::net;
use crate::rt::{self, Wall};
use crate::telemetry::{Link, PeerId, PeerLabels, Protection, Why};

use super::buffer::Buffer;
use super::client_cert;
use super::context::{Admitted, Conn, ConnState, Live, Registered, Worker};
use super::detect::{First, detect};
use super::first_word::{Word, first_word};
use super::http::leg::H1Leg;
use super::http::{ask, h1, h2};
use super::overload::Counted;
use super::rbac::{Denied, Known};
use super::stream::{Raw, Stream};
use super::tables::chain::{ChainTable, Place};
use super::tables::{ChainAction, ListenerTable};
use super::taken::Taken;
use super::tcp::Reached;
use super::worker::renew;
use super::{ext_authz, introduced, tcp, tls};

/// What there is on the connection, once that is known.
enum Speaks {
    Http1(Stream, Buffer, Rc<str>),
    Http2(Stream, Rc<str>),
    /// Bytes, for a cluster of these tables.
    Bytes((Stream, Buffer), Rc<Live>, (Option<usize>, TcpOptions)),
    /// Bytes, whose first the server has said.
    Heard((Stream, Buffer), Rc<Live>, Box<Reached>),
}

/// A connection that is to be served.
struct Opened {
    conn: Box<Conn>,
    speaks: Speaks,
    place: Place,
}

/// Serves one connection to its end. What is only needed until it is clear how is not kept: most
/// connections are idle for most of their life.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    listener: Arc<ListenerTable>,
    registered: (Registered, Counted),
    tcp: TcpStream,
    remote: SocketAddr,
) {
    let state = Rc::clone(&registered.0.state);
    let opening = open(Rc::clone(&worker), listener, state, tcp, remote);
    let Some(opened) = Box::pin(opening).await else {
        return;
    };
    let Opened {
        conn,
        speaks,
        place,
    } = *opened;
    match speaks {
        Speaks::Http1(stream, first, table) => {
            h1::serve::serve(worker, conn, table, H1Leg::new(stream, first)).await;
        }
        Speaks::Http2(stream, table) => {
            Box::pin(h2::serve::serve(worker, conn, table, stream)).await;
        }
        Speaks::Bytes(from, live, to) => {
            Box::pin(tcp::serve(&worker, live, &conn, from, to)).await;
        }
        Speaks::Heard(from, live, reached) => {
            Box::pin(tcp::carry(&worker, live, &conn, from, *reached)).await;
        }
    }
    drop(place);
}

/// Finds out what a connection speaks and which chain takes it. `None` when it is not served.
async fn open(
    worker: Rc<Worker>,
    listener: Arc<ListenerTable>,
    state: Rc<ConnState>,
    tcp: TcpStream,
    remote: SocketAddr,
) -> Option<Box<Opened>> {
    // A listener that is bound to one address need not ask for it.
    let local = match listener.config.bind {
        bind if !bind.ip().is_unspecified() && bind.port() != 0 => bind,
        // Where there is none, the socket is dead already.
        _ => net::canonical(tcp.local_addr().ok()?),
    };
    let live = worker.live();
    let meant = listener
        .config
        .transparent
        .then(|| net::original_destination(&tcp))
        .flatten();
    let mut conn = Box::new(Conn {
        remote,
        direct: remote.ip(),
        local,
        meant,
        direction: listener.config.direction,
        tls: false,
        link: None,
        linked: OnceCell::new(),
        principal: None,
        client_cert: None,
        peer: Cell::new(PeerId::default()),
        server_name: None,
        filters: None,
        own: super::filter::Own::default(),
        http: None,
        log: None,
        shown: None,
        state,
    });
    let mut stream = Stream::from(tcp);
    let mut first_bytes = Buffer::default();
    let patience = (
        listener.config.detect_timeout,
        listener.config.options.close_undetected,
    );
    let mut first = None;
    // Until it has said something, nothing is lost by closing it.
    conn.state.idle.set(true);
    if let Some(rules) = listener.config.options.proxy_protocol {
        let header = introduced::read(&mut stream, &mut first_bytes, rules, patience);
        match Box::pin(header).await {
            Ok(Some(told)) => {
                conn.remote = told.source;
                conn.local = told.destination;
                // What is meant counts only where connections may be meant for others.
                if listener.config.transparent {
                    conn.meant = Some(told.destination);
                }
            }
            Ok(None) => {}
            Err(reason) => {
                tracing::debug!(listener = listener.config.name, %remote, reason, "closed");
                return None;
            }
        }
    }
    let candidates = listener.narrow(conn.meant.unwrap_or(conn.local));
    if candidates.need_hello() {
        match detect(&mut stream, &mut first_bytes, patience).await {
            Ok(told) => first = Some(told),
            Err(_) => return None,
        }
    }
    conn.state.idle.set(false);
    let hello = first.as_ref().map(First::hello).unwrap_or_default();
    let either = candidates.take_tls();
    let Some(chain) = candidates.choose(&hello) else {
        tracing::debug!(listener = listener.config.name, %remote, "no chain takes the connection");
        return None;
    };
    conn.link = bare(&worker, &conn, (chain, hello.tls), either);
    conn.server_name.clone_from(&hello.server_name);
    conn.state.chain_name.replace(Some(Arc::clone(&chain.name)));
    conn.filters.clone_from(&chain.filters);
    conn.http = chain.action.http().cloned();
    conn.log = chain.action.log().cloned();
    let Some(place) = chain.enter() else {
        tracing::debug!(listener = listener.config.name, %remote, "too many connections");
        return None;
    };
    if let Some(config) = &chain.tls {
        let accepting = handshake(&live, (config, chain), (stream, first_bytes), &conn);
        stream = Box::pin(accepting).await?;
        first_bytes = Buffer::default();
        first = None;
        trust(&worker, &live, &stream, &mut conn, chain);
        // The handshake may have begun before it was.
        if worker.live().revokes(conn.state.certificate.get()) {
            return None;
        }
    }
    let called = conn.inbound() || worker.shared.gateway;
    if called {
        let meant = conn.meant.unwrap_or(conn.local);
        let taken = Taken::new(meant, &hello, (chain, &stream));
        conn.state.taken.replace(Some(Box::new(taken)));
    }
    // What requests may do is asked of each of them.
    let at_once = match &chain.action {
        ChainAction::Tcp { .. } => true,
        ChainAction::Http { .. } => chain.guards.is_some(),
        ChainAction::Detect { .. } => false,
    };
    if at_once {
        let told = (&mut stream, &mut first_bytes);
        let admitted = admitted(&worker, &live, &conn, chain, told);
        Box::pin(admitted).await?;
    }
    let from = (stream, first_bytes, first);
    let speaks = tell(&worker, live, &conn, chain, from, patience).await?;
    if matches!(speaks, Speaks::Http1(..) | Speaks::Http2(..)) {
        conn.state.chain.set(chain.version);
        // Nobody looked at it when the chain changed meanwhile.
        if !worker.live().still_sorts(&conn.state) {
            let until = rt::now() + worker.shared.options.drain;
            worker.live().sort_again(&conn.state, until);
            let worker = Rc::clone(&worker);
            tokio::task::spawn_local(async move { renew(&worker).await });
        }
    }
    Some(Box::new(Opened {
        conn,
        speaks,
        place,
    }))
}

async fn handshake(
    live: &Live,
    (config, chain): (&ServerTls, &ChainTable),
    (stream, first): (Stream, Buffer),
    conn: &Conn,
) -> Option<Stream> {
    let Stream::Plain(raw) = stream else {
        return None;
    };
    let server = if config.own.is_some() {
        let Some(server) = &chain.own else {
            tracing::debug!(remote = %conn.remote, "TLS caller refused: no certificate");
            return None;
        };
        Arc::clone(&server.config)
    } else {
        let Some(identity) = &live.identity else {
            tracing::debug!(remote = %conn.remote, "mTLS caller refused: no identity yet");
            return None;
        };
        match identity.server(&config.alpn) {
            Ok(server) => server,
            Err(error) => {
                tracing::warn!(%error, "identity cannot be used");
                return None;
            }
        }
    };
    let timeout = chain.handshake_timeout;
    let raw = Raw::new(raw.into_tcp(), first);
    let accepted = tokio::time::timeout(timeout, TlsAcceptor::from(server).accept(raw)).await;
    match accepted {
        Ok(Ok(stream)) => Some(Stream::Server(Box::new(stream))),
        Ok(Err(error)) => {
            let reason = crate::tls::explain(&error);
            tracing::debug!(remote = %conn.remote, reason, "TLS caller refused");
            None
        }
        Err(_) => None,
    }
}

/// What is known of how a connection is protected before any handshake. Only callers from elsewhere are
/// looked at.
fn bare(
    worker: &Worker,
    conn: &Conn,
    (chain, hello): (&ChainTable, bool),
    either: bool,
) -> Option<Link> {
    let protection = if hello && chain.tls.is_none() {
        // Also of what the application sends: its TLS is carried on.
        Protection::Carried
    } else if conn.inbound() {
        Protection::Plain(if either {
            Why::Permissive
        } else {
            Why::Disabled
        })
    } else if worker.shared.gateway {
        Protection::Plain(Why::Gateway)
    } else {
        return None;
    };
    Some(Link::bare(protection))
}

/// Takes the caller's identity from a finished handshake. Of a caller from outside the mesh only what its
/// certificate says is told on, where it stands the test: it is no principal, whatever names are in it.
fn trust(worker: &Worker, live: &Live, stream: &Stream, conn: &mut Conn, by_chain: &ChainTable) {
    let Stream::Server(tls) = stream else { return };
    conn.tls = true;
    let session = tls.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    let protection = match by_chain.own {
        Some(_) => Protection::Tls,
        None => Protection::MutualTls,
    };
    conn.link = Some(tls::agreed(session, protection));
    if conn.log.as_ref().is_some_and(|log| log.certificates) {
        let of_mesh = live.identity.as_ref().filter(|_| by_chain.own.is_none());
        let own = of_mesh.and_then(|identity| client_cert::shown(&identity.material.chain));
        let shown = client_cert::shown(chain);
        conn.shown = Some(Box::new([shown.map(Arc::new), own.map(Arc::new)]));
    }
    if let Some(own) = &by_chain.own {
        let chain = own.verified(chain, &Wall::System);
        conn.client_cert = tls::stranger(chain, conn.http().options.client_cert.details);
        return;
    }
    let leaf = chain.first();
    let mut filters = by_chain.filters.iter().chain(&by_chain.guards);
    if let (Some(leaf), true) = (leaf, filters.any(|own| own.tells_certificate)) {
        conn.own.known.show(client_cert::text(leaf));
    }
    conn.state
        .certificate
        .set(leaf.map_or(0, crate::tls::key_of));
    let by = live.identity.as_ref().map_or("", |identity| &identity.id);
    if let Some((principal, header)) =
        tls::caller(chain, by, conn.http().options.client_cert.details)
    {
        let labels = PeerLabels {
            principal: principal.clone(),
            ..PeerLabels::default()
        };
        conn.peer.set(worker.shared.registry.peer(labels));
        conn.principal = Some(principal);
        conn.client_cert = Some(header);
    }
}

/// Whether the caller may connect though nobody is asked, without noting it.
fn may(conn: &Conn, chain: &ChainTable) -> bool {
    chain.lets_in(&conn.connection(conn.remote.ip()), &[])
}

/// Lets the caller connect, if it may. One who may not is noted, and one who may is judged again when
/// rules change. What it says while somebody is asked about it is kept for later.
async fn admitted(
    worker: &Rc<Worker>,
    live: &Rc<Live>,
    conn: &Conn,
    chain: &ChainTable,
    (stream, first): (&mut Stream, &mut Buffer),
) -> Option<()> {
    let of = conn.connection(conn.remote.ip());
    let mut asked = Vec::new();
    if let Some(guards) = chain.guards.as_deref() {
        let known = Known::default();
        loop {
            let denied = match ext_authz::walk(guards, &of.facts(), &known, asked.last()) {
                Ok(None) => break,
                Ok(Some(provider)) => {
                    let answer = ask::about_bytes((worker, live, conn), &provider);
                    if tcp::while_there(stream, first, answer).await? {
                        asked.push(provider);
                        continue;
                    }
                    Denied::by_provider()
                }
                Err(denied) => denied,
            };
            tcp::denied(worker, live, conn, denied);
            return None;
        }
    }
    if conn.inbound() || worker.shared.gateway || chain.guards.is_some() {
        conn.state.admitted.replace(Some(Box::new(Admitted {
            principal: conn.principal.clone(),
            direct: of.direct,
            remote: of.remote,
            local: of.local,
            server_name: conn.server_name.clone(),
            asked,
        })));
        // Nobody looked at it when rules changed meanwhile.
        return (!worker.live().shuts_out(&conn.state)).then_some(());
    }
    Some(())
}

/// What the chain makes of a connection.
async fn tell(
    worker: &Rc<Worker>,
    live: Rc<Live>,
    conn: &Conn,
    chain: &ChainTable,
    (mut stream, mut first_bytes, mut first): (Stream, Buffer, Option<First>),
    (timeout, close_late): (Duration, bool),
) -> Option<Speaks> {
    let (routes, codec, bytes) = match &chain.action {
        ChainAction::Tcp {
            targets,
            split,
            options,
            ..
        } => {
            let cluster = split
                .next()
                .and_then(|at| targets.get(at).copied())
                .flatten();
            let to = (cluster, options.clone());
            return Some(Speaks::Bytes((stream, first_bytes), live, to));
        }
        ChainAction::Http { routes, codec, .. } => (routes, *codec, None),
        ChainAction::Detect {
            routes,
            bytes,
            options,
            ..
        } => (routes, HttpCodec::Auto, Some((*bytes, options))),
    };
    let codec = match codec {
        HttpCodec::Auto => {
            let agreed = negotiated(&stream);
            if agreed.is_none() && first.is_none() {
                conn.state.idle.set(true);
                // An endpoint of which the caller may have nothing is not asked for its first word.
                let heard = match bytes.filter(|_| may(conn, chain)) {
                    Some(bytes) => {
                        let (who, patience) = ((worker, &*live, conn), (timeout, close_late));
                        let word = first_word(who, &mut stream, &mut first_bytes, bytes, patience);
                        Box::pin(word).await
                    }
                    None => detect(&mut stream, &mut first_bytes, (timeout, false))
                        .await
                        .map(Word::Caller),
                };
                match heard {
                    Ok(Word::Caller(told)) => first = Some(told),
                    Ok(Word::Server(reached)) => {
                        conn.state.idle.set(false);
                        let told = (&mut stream, &mut first_bytes);
                        Box::pin(admitted(worker, &live, conn, chain, told)).await?;
                        return Some(Speaks::Heard((stream, first_bytes), live, reached));
                    }
                    Err(_) => return None,
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
    // Requests look at the tables of their time; those of the connection's begin are not kept.
    Some(match codec {
        Some(HttpCodec::Http2) => Speaks::Http2(stream.with_first(first_bytes), table),
        Some(_) => Speaks::Http1(stream, first_bytes, table),
        None => {
            let told = (&mut stream, &mut first_bytes);
            Box::pin(admitted(worker, &live, conn, chain, told)).await?;
            // Only where bytes are carried is it ever none.
            let (cluster, options) = bytes.map_or_else(
                || (None, TcpOptions::default()),
                |(cluster, options)| (cluster, options.clone()),
            );
            Speaks::Bytes((stream, first_bytes), live, (cluster, options))
        }
    })
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

#[cfg(test)]
mod tests {
    /// Every idle connection keeps its future, so its size is memory that a sidecar needs.
    #[test]
    fn a_connection_needs_few_bytes() {
        fn of_five<A, B, C, D, E, F>(_: fn(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        fn of_four<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let (own, opening) = (of_five(super::serve), of_five(super::open));
        let http = of_four(super::h1::serve::serve);
        assert!(own <= 800 && http <= 640, "{own} and {http} bytes");
        // Only until it is clear what is spoken.
        assert!(opening <= 2048, "{opening} bytes");
        // Bytes: what is carried, without what is only needed to connect.
        let bytes = of_five(super::tcp::serve);
        assert!(bytes <= 2048, "{bytes} bytes");
    }
}
