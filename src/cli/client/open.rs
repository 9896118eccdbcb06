//! Answers that are handed on as they come, for who shows them elsewhere.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::rt::TokioIo;

use super::{Asked, Client, PATIENCE, Place, Wire};
use crate::cli::error::CliError;
use crate::cli::remote;
use crate::rt::Tasks;

use std::io;
use std::pin::Pin;

impl Client {
    /// Asks, and gives the answer when its head is there; its body comes as the control plane sends it. Dropping the
    /// body ends the request.
    pub(crate) async fn open(&self, asked: &Asked<'_>) -> Result<Response<Body>, CliError> {
        let opened = tokio::time::timeout(PATIENCE, self.open_patiently(asked)).await;
        opened.map_err(|_| CliError::Timeout {
            what: format!("{} {}", asked.method, asked.path),
            after: Duration::from_secs(PATIENCE.as_secs()),
        })?
    }

    async fn open_patiently(&self, asked: &Asked<'_>) -> Result<Response<Body>, CliError> {
        let broken = |error| self.unreachable(error);
        match &self.place {
            Place::Socket(socket) => {
                let stream = tokio::net::UnixStream::connect(socket).await;
                let stream = stream.map_err(|source| self.no_connection(socket, source))?;
                begin(Box::pin(stream), ("meshctl", None), asked, &broken).await
            }
            Place::Remote(remote) => {
                let stream = remote.connect().await.map_err(broken)?;
                let who = (remote.address(), remote.bearer());
                begin(Box::pin(stream), (who.0, who.1.as_ref()), asked, &broken).await
            }
            // Answers of several replicas are put together, so they come whole.
            Place::Cluster(mesh) => {
                let (status, body) = mesh.ask(asked).await?;
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = status;
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                Ok(response)
            }
        }
    }
}

/// Asks over `stream`, by the name of `host` and with what proves who asks.
async fn begin(
    stream: Pin<Box<dyn Wire>>,
    (host, bearer): (&str, Option<&HeaderValue>),
    asked: &Asked<'_>,
    unreachable: &(dyn Fn(io::Error) -> CliError + Sync),
) -> Result<Response<Body>, CliError> {
    let broken = |error: hyper::Error| unreachable(io::Error::other(remote::explain(&error)));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let mut request = Request::builder()
        .method(&asked.method)
        .uri(&*asked.path)
        .header(header::HOST, host);
    if let Some(bearer) = bearer {
        request = request.header(header::AUTHORIZATION, bearer.clone());
    }
    if asked.body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = Bytes::from(asked.body.clone().unwrap_or_default());
    let request = request.body(Full::new(body)).map_err(|error| {
        CliError::usage(format!("{:?} cannot be asked for: {error}", asked.path))
    })?;
    // Ends with the body that it brings: who drops that closes the connection.
    Tasks::new().spawn("answer", async move {
        let _ended = connection.await.is_ok();
    });
    let answer = sender.send_request(request).await.map_err(broken)?;
    let (head, body) = answer.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = head.status;
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        let kind = kind.clone();
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(response)
}
