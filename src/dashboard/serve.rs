//! The listener of the page, on loopback: files, and requests that are handed on to the API.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::bundle;
use super::guard::{self, Secret};
use crate::api::{PREFIX, Problem, Reason};
use crate::rt::Tasks;

/// What the listener says of itself.
pub const SESSION: &str = "/session";
/// Parts of the API that control planes of other versions lack, with a question that costs nothing: what is answered
/// otherwise than by 404 is there.
const PARTS: &[(&str, &str)] = &[
    ("series", "/series?window=none"),
    ("tap", "/tap?rate=none"),
    ("traces", "/traces?limit=1"),
    ("rollouts", "/rollouts"),
    ("matrix", "/authz/matrix?path=none"),
    ("resources", "/resources"),
];
/// Connections at once: a browser keeps six a window, and each stream has one.
const MOST_CONNECTIONS: usize = 64;
/// A connection that says nothing for so long is closed; browsers open another.
const IDLE: Duration = Duration::from_mins(2);
/// The largest head, in bytes.
const MOST_HEAD: usize = 16 << 10;
/// The largest body, in bytes: that of the API.
const MOST_BODY: usize = 16 << 20;

/// A request that is handed on.
#[derive(Debug, Clone)]
pub struct Question {
    /// Its method.
    pub method: Method,
    /// Path with the API's prefix, and query.
    pub path: String,
    /// Empty: none.
    pub body: Bytes,
}

/// What the page is told of the mesh that it shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// The context's name.
    pub context: String,
    /// Where the control plane is, in words.
    pub place: String,
    /// Flags by which a command reaches the same mesh; empty where none is needed.
    pub flags: String,
    /// Version of the program that serves the page.
    pub version: String,
    /// Nothing may be changed by this page, whoever opened it.
    pub read_only: bool,
    /// Configuration is kept by the API server of a cluster, so that it is changed there.
    pub in_cluster: bool,
}

/// The answer to [`SESSION`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Session<'a> {
    #[serde(flatten)]
    about: &'a About,
    /// Of [`PARTS`].
    has: BTreeMap<&'a str, bool>,
}

/// Hands requests on to the API.
pub trait Relay: Send + Sync + 'static {
    /// The API's answer; what went wrong on the way as a problem with its status.
    fn ask(&self, question: Question) -> Pin<Box<dyn Future<Output = Response<Body>> + Send + '_>>;
    /// Whether a request changes nothing.
    fn looks(&self, method: &Method, path: &str) -> bool;
}

/// What every connection is served with.
struct Server<R> {
    relay: R,
    about: About,
    secret: Secret,
    port: u16,
}

/// Serves the page on `listener`, which is on loopback, to who shows `secret`, for as long as the future is polled.
pub async fn serve<R: Relay>(
    listener: TcpListener,
    relay: R,
    about: About,
    secret: Secret,
) -> io::Result<()> {
    let server = Arc::new(Server {
        port: listener.local_addr()?.port(),
        relay,
        about,
        secret,
    });
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let connections = Tasks::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                // Mostly out of file descriptors; a tight loop would not help anybody.
                tracing::warn!(%error, "cannot accept on the dashboard's port");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let server = Arc::clone(&server);
        connections.spawn("dashboard", async move {
            let _place = place;
            // Whoever leaves is no error of ours.
            let _ended = answer(tcp, server).await.is_ok();
        });
    }
}

async fn answer<R: Relay>(tcp: TcpStream, server: Arc<Server<R>>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(respond(&server, request).await) }
    });
    // A browser that leaves closes, and with the connection goes the answer that was under way.
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(tcp), service)
        .await
}

async fn respond<R: Relay>(server: &Server<R>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let refused = guard::refusal(
        &head.method,
        &head.uri,
        &head.headers,
        server.port,
        &server.secret,
    );
    let path = head.uri.path();
    let mut response = match refused {
        Some((status, why)) => (status, Json(Problem::new(Reason::Denied, why))).into_response(),
        None if path == SESSION => session(server).await,
        None if guard::is_relayed(path) => hand_on(server, &head, body).await,
        None => bundle::answer(&head.method, path, &head.headers),
    };
    guard::close(response.headers_mut());
    response
}

/// What the page is told of itself, and what there is to be shown.
async fn session<R: Relay>(server: &Server<R>) -> Response<Body> {
    let asking = PARTS.iter().map(|(part, path)| async move {
        let question = Question {
            method: Method::GET,
            path: format!("{PREFIX}{path}"),
            body: Bytes::new(),
        };
        // The body is dropped unread, which ends a stream that began.
        let status = server.relay.ask(question).await.status();
        (
            *part,
            status != StatusCode::NOT_FOUND && status != StatusCode::BAD_GATEWAY,
        )
    });
    let has: BTreeMap<&str, bool> = join_all(asking).await.into_iter().collect();
    Json(Session {
        about: &server.about,
        has,
    })
    .into_response()
}

async fn hand_on<R: Relay>(
    server: &Server<R>,
    head: &http::request::Parts,
    body: Incoming,
) -> Response<Body> {
    let path = head.uri.path();
    if server.about.read_only && !server.relay.looks(&head.method, path) {
        let problem = Problem::new(Reason::Denied, "this dashboard is read-only")
            .hint("start it without --read-only to change something");
        return (StatusCode::FORBIDDEN, Json(problem)).into_response();
    }
    let Ok(body) = Limited::new(body, MOST_BODY).collect().await else {
        let problem = Problem::new(Reason::Invalid, "the body is too large, or did not come");
        return (StatusCode::PAYLOAD_TOO_LARGE, Json(problem)).into_response();
    };
    let whole = head.uri.path_and_query();
    let question = Question {
        method: head.method.clone(),
        path: whole.map_or_else(|| path.to_owned(), |whole| whole.as_str().to_owned()),
        body: body.to_bytes(),
    };
    server.relay.ask(question).await
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::StreamExt as _;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;

    use super::*;
    use crate::net::{BindOptions, bind};

    /// Tells when it is dropped.
    struct Told(mpsc::UnboundedSender<()>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _told = self.0.send(()).is_ok();
        }
    }

    /// Answers `/api/v1/tap` with a line and no end, and knows nothing else.
    struct Endless(mpsc::UnboundedSender<()>);

    impl Relay for Endless {
        fn ask(
            &self,
            question: Question,
        ) -> Pin<Box<dyn Future<Output = Response<Body>> + Send + '_>> {
            let told = Told(self.0.clone());
            Box::pin(async move {
                if question.path != "/api/v1/tap?service=a" {
                    return StatusCode::NOT_FOUND.into_response();
                }
                let first = stream::once(async { Ok::<_, Infallible>("{\"n\":1}\n") });
                let rest = stream::pending().map(move |line| {
                    let _kept = &told;
                    line
                });
                Body::from_stream(first.chain(rest)).into_response()
            })
        }

        fn looks(&self, method: &Method, _path: &str) -> bool {
            *method == Method::GET
        }
    }

    fn stage(read_only: bool) -> (u16, mpsc::UnboundedReceiver<()>, Tasks) {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), BindOptions::default()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, ended) = mpsc::unbounded_channel();
        let about = About {
            context: "default".to_owned(),
            place: String::new(),
            flags: String::new(),
            version: String::new(),
            read_only,
            in_cluster: false,
        };
        let tasks = Tasks::new();
        tasks.spawn("page", async move {
            let secret = Secret::new([7; 32]);
            let _ended = serve(listener, Endless(told), about, secret).await.is_ok();
        });
        (port, ended, tasks)
    }

    async fn send(port: u16, method: &str, path: &str) -> TcpStream {
        let mut tcp = crate::net::connect(
            (Ipv4Addr::LOCALHOST, port).into(),
            crate::net::ConnectOptions::default(),
        )
        .await
        .unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{}: {}\r\ncontent-length: 0\r\n\r\n",
            guard::SHOWN,
            "07".repeat(32)
        );
        tcp.write_all(head.as_bytes()).await.unwrap();
        tcp
    }

    async fn until(tcp: &mut TcpStream, words: &str) -> String {
        let mut said = String::new();
        while !said.contains(words) {
            let mut part = [0; 1024];
            let length = tcp.read(&mut part).await.unwrap();
            assert_ne!(length, 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&part[..length]));
        }
        said
    }

    #[tokio::test]
    async fn a_stream_passes_at_once_and_ends_with_who_reads_it() {
        let (port, mut ended, tasks) = stage(false);
        let mut tcp = send(port, "GET", "/api/v1/tap?service=a").await;
        until(&mut tcp, "{\"n\":1}").await;
        assert!(ended.try_recv().is_err());
        drop(tcp);
        let late = Duration::from_secs(20);
        tokio::time::timeout(late, ended.recv()).await.unwrap();
        tasks.end().await;
    }

    #[tokio::test]
    async fn the_page_is_told_what_the_control_plane_has() {
        let (port, _ended, tasks) = stage(true);
        let mut tcp = send(port, "GET", SESSION).await;
        let said = until(&mut tcp, "\"readOnly\":true").await;
        assert!(said.contains("\"tap\":false"), "{said}");
        let mut tcp = send(port, "POST", "/api/v1/tap").await;
        until(&mut tcp, "403 Forbidden").await;
        tasks.end().await;
    }
}
