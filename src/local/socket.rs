//! The supervisor's socket: one JSON line asks, JSON lines answer.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::logs::{Cursor, Source};
use super::supervisor::shared::Shared;
use crate::api::local::{LocalRequest, LogsQuery, Refusal};

/// Longer requests are refused.
const MAX_REQUEST: u64 = 16 << 10;

/// Whoever connects has this long to say what they want.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers until the task is ended.
pub(super) async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let of = Arc::clone(&shared);
                shared.tasks().spawn("local request", async move {
                    if let Err(error) = answer(stream, &of).await {
                        tracing::debug!(%error, "a request broke off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the local socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, shared: &Shared) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(MAX_REQUEST));
    tokio::time::timeout(PATIENCE, read.read_line(&mut line))
        .await
        .map_err(|_| std::io::ErrorKind::TimedOut)??;
    match serde_json::from_str(&line) {
        Ok(LocalRequest::Ps) => send(&mut write, &shared.status()).await,
        Ok(LocalRequest::Logs(query)) => logs(&mut write, shared, &query).await,
        Ok(LocalRequest::Down) => {
            shared.end();
            // The other end sees the close of this connection when everything has stopped.
            std::future::pending().await
        }
        Err(error) => {
            let error = format!("not a request: {error}");
            let containers = Vec::new();
            send(&mut write, &Refusal { error, containers }).await
        }
    }
}

async fn send(to: &mut OwnedWriteHalf, what: &impl Serialize) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(what)?;
    bytes.push(b'\n');
    to.write_all(&bytes).await
}

async fn logs(to: &mut OwnedWriteHalf, shared: &Shared, query: &LogsQuery) -> std::io::Result<()> {
    let sources = shared.logs(query);
    if sources.is_empty() {
        let containers = shared.containers_of(query);
        let error = match &query.container {
            Some(container) if !containers.is_empty() => container.clone(),
            _ => query.name.clone().unwrap_or_default(),
        };
        return send(to, &Refusal { error, containers }).await;
    }
    let mut followed: Vec<(Source, Cursor, watch::Receiver<u64>)> = Vec::new();
    let mut lines = Vec::new();
    for source in sources {
        let grown = source.log.grown();
        let (old, cursor) = source.log.tail(query.tail)?;
        lines.extend(old.into_iter().map(|line| source.line(line)));
        followed.push((source, cursor, grown));
    }
    // Several containers: in the order of time, each container's own order kept.
    lines.sort_by(|a, b| a.time.cmp(&b.time));
    for line in &lines {
        send(to, line).await?;
    }
    if !query.follow {
        return Ok(());
    }
    loop {
        let changes = followed
            .iter_mut()
            .map(|(_, _, grown)| Box::pin(grown.changed()));
        let (changed, at, _) = futures_util::future::select_all(changes).await;
        if changed.is_err() {
            return Ok(());
        }
        if let Some((source, cursor, _)) = followed.get_mut(at) {
            for line in source.log.since(cursor)? {
                send(to, &source.line(line)).await?;
            }
        }
    }
}
