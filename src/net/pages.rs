//! Our own HTTP endpoints: bounded, and of no use to the pages that a browser has open.
//!
//! A browser on this machine reaches loopback, and so does whatever page it shows. Such a page can send
//! requests that change something (it cannot read the answer), or can have a name of its own resolve
//! to loopback and read everything. The first always says `Origin` or `Sec-Fetch-Site`, the second always
//! says its name in `Host`; nothing of ours sends either.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse as _;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use crate::rt::Tasks;

/// Connections at once to one address; others wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 128;
/// A caller that has not said what it wants in this time is dropped.
const HEAD: Duration = Duration::from_secs(5);
/// The whole life of a connection, which is one request: a caller that does not read is dropped, too.
const LIFE: Duration = Duration::from_secs(30);
/// The largest head, in bytes.
const MOST_HEAD: usize = 16 << 10;

/// Which names an endpoint answers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Addresses and `localhost`: for what is on loopback.
    Local,
    /// Any: for what is asked from other machines, and tells nothing that they may not know.
    Any,
}

/// Serves `router` on `listener` for as long as the returned future is polled; ends only when accepting does.
/// Every connection has one request, and 30 s for it.
pub async fn serve(listener: TcpListener, router: Router, names: Names) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // Of their own: who asks us to end is still to be answered when the listener is gone.
    let connections = Tasks::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                // Mostly out of file descriptors; a tight loop would not help anybody.
                tracing::warn!(%error, "cannot accept on an endpoint of our own");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let router = router.clone();
        connections.spawn("page", async move {
            let _place = place;
            // Whoever is late or leaves is no error of ours.
            let _ended = tokio::time::timeout(LIFE, answer(tcp, router, names)).await;
        });
    }
}

async fn answer(tcp: TcpStream, router: Router, names: Names) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(respond(request, router, names).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MOST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service)
        .await
}

async fn respond(request: Request<Incoming>, router: Router, names: Names) -> Response<Body> {
    let refused = refusal(request.method(), request.uri(), request.headers(), names);
    let mut response = match refused {
        Some((status, why)) => (status, format!("{why}\n")).into_response(),
        None => match router.oneshot(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
    };
    close_to_pages(response.headers_mut());
    response
}

/// Adds what every answer says, so that no page can show, run or keep it.
pub fn close_to_pages(said: &mut HeaderMap) {
    for (name, value) in SAID {
        said.insert(name, HeaderValue::from_static(value));
    }
}

/// What every answer says, so that no page can show, run or keep it.
const SAID: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (header::CACHE_CONTROL, "no-store"),
];

fn refusal(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    names: Names,
) -> Option<(StatusCode, &'static str)> {
    refusal_of(method, uri, headers, |_| names == Names::Any)
}

/// Why a request is not let in that a browser's page may have sent; `named` says which names beside addresses and
/// `localhost` the endpoint goes by.
pub fn refusal_of(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    named: impl Fn(&str) -> bool,
) -> Option<(StatusCode, &'static str)> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Some((StatusCode::BAD_REQUEST, "a request has one Host"));
    }
    // Who says none is no browser.
    let host = host.map(HeaderValue::as_bytes);
    let target = uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let known = |host: &[u8]| {
        let text = std::str::from_utf8(host).unwrap_or_default();
        is_local(host) || named(text.rsplit_once(':').map_or(text, |(name, _)| name))
    };
    if [host, target]
        .into_iter()
        .flatten()
        .any(|name| !known(name))
    {
        let why =
            "this endpoint answers to addresses and to localhost only; ask for it by its address";
        return Some((StatusCode::FORBIDDEN, why));
    }
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    let of_page = headers.contains_key(header::ORIGIN)
        || headers
            .get("sec-fetch-site")
            .is_some_and(|site| site.as_bytes() != b"none");
    if changes && of_page {
        let why = "web pages may change nothing here; use curl or meshctl";
        return Some((StatusCode::FORBIDDEN, why));
    }
    None
}

/// Whether `host` is an address or `localhost`, each with or without a port: what no name server can
/// give another meaning to.
fn is_local(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        });
    }
    let name = match host.split_once(':') {
        Some((_, port)) if !is_port(port) => return false,
        Some((name, _)) => name,
        None => host,
    };
    name.eq_ignore_ascii_case("localhost") || matches!(name.parse(), Ok(IpAddr::V4(_)))
}

/// A Unix socket that is served to its own user and to root, whatever the mode of its file has become.
#[derive(Debug)]
pub struct OwnersOnly(pub UnixListener);

impl axum::serve::Listener for OwnersOnly {
    type Io = UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let own = nix::unistd::geteuid().as_raw();
        loop {
            match self.0.accept().await {
                Ok((stream, from)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == own || peer.uid() == 0 => return (stream, from),
                    Ok(peer) => tracing::warn!(
                        uid = peer.uid(),
                        "turned away another user from a socket that is for its owner; look at its mode"
                    ),
                    Err(error) => {
                        tracing::warn!(%error, "a caller without credentials was turned away");
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on a Unix socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_name_server_decides_is_local() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:15000",
            "10.1.2.3:80",
            "localhost",
            "LocalHost:1",
            "[::1]",
            "[::1]:15000",
        ] {
            assert!(is_local(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:x",
            "127.0.0.1:1:2",
            "localhost:",
            "evil.example:15000",
            "[::1",
            "[::1]x",
            "[evil]:1",
            "::1",
            "a@127.0.0.1",
            "127.1",
            "0x7f.0.0.1",
        ] {
            assert!(!is_local(host.as_bytes()), "{host}");
        }
        assert!(!is_local(b"\xff"));
    }
}
