//! The server around the pages: HTTP/1.1 and HTTP/2 in clear on one port, drained on SIGTERM.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::call::Caller;
use super::{AppError, Body, Kind, Options, books, echo, text};
use crate::net::{BindOptions, bind};
use crate::rt::Tasks;

/// How long requests that are under way may take once the end has come.
const DRAIN: Duration = Duration::from_secs(5);

/// The longest wait that `/slow` grants.
const MAX_SLOW: Duration = Duration::from_mins(1);

/// Runs one instance until SIGTERM or SIGINT, then finishes what is under way.
pub async fn run(options: Options) -> Result<(), AppError> {
    let failed = |source| AppError::Bind {
        address: options.listen,
        source,
    };
    let listener = bind(options.listen, BindOptions::default()).map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let listen = options.listen;
    tracing::info!(name = ?options.kind, version = options.version, %listen, "sample application is up");
    serve(listener, options, async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
    .await;
    Ok(())
}

/// Serves on `listener` until `end` resolves, then drains for at most 5 s.
pub async fn serve(listener: TcpListener, options: Options, end: impl Future<Output = ()>) {
    let caller = Caller::new(options.proxy.clone());
    let state = Arc::new((options, caller, AtomicU64::new(0)));
    let tasks = Tasks::new();
    let graceful = GracefulShutdown::new();
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new());
    server.http2().timer(TokioTimer::new());
    tokio::pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: wait, or this loop would spin.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection closed before it was served");
            continue;
        }
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(answer(&state.0, (&state.1, &state.2), request).await) }
        });
        let connection = server
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let watched = graceful.watch(connection);
        tasks.spawn("sample connection", async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some requests were still under way at the end");
    }
    tasks.end().await;
}

async fn answer(
    options: &Options,
    (caller, asked): (&Caller, &AtomicU64),
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path();
    if path == "/health" {
        return text(StatusCode::OK, "ok\n");
    }
    if options.fail_each > 0 {
        let asked = asked.fetch_add(1, Ordering::Relaxed) + 1;
        if asked.is_multiple_of(options.fail_each) {
            let words = format!("{} fails as FAIL_EACH asks\n", options.pod);
            return text(StatusCode::INTERNAL_SERVER_ERROR, words);
        }
    }
    if path == "/slow" {
        let wait = match millis(request.uri().query()) {
            Ok(wait) => wait.min(MAX_SLOW),
            Err(words) => return text(StatusCode::BAD_REQUEST, words),
        };
        tokio::time::sleep(wait).await;
        return text(StatusCode::OK, format!("waited {} ms\n", wait.as_millis()));
    }
    if let Some(code) = path.strip_prefix("/status/") {
        return match code.parse::<u16>().ok().filter(|code| *code >= 200) {
            Some(code) => match StatusCode::from_u16(code) {
                Ok(status) => text(status, format!("{status} by {}\n", options.pod)),
                Err(_) => text(StatusCode::BAD_REQUEST, "not a status code\n"),
            },
            None => text(StatusCode::BAD_REQUEST, "not a status code from 200\n"),
        };
    }
    match options.kind {
        Kind::Echo => echo::echo(options, request).await,
        _ => books::answer_books(options, caller, &request).await,
    }
}

/// The wait in `?ms=250`.
fn millis(query: Option<&str>) -> Result<Duration, &'static str> {
    query
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| pair.strip_prefix("ms="))
        .unwrap_or("1000")
        .parse()
        .map(Duration::from_millis)
        .map_err(|_| "ms is the wait in milliseconds, a whole number\n")
}
