//! Answers that are handed on as they come, for who shows them elsewhere.

use std::io;
use std::pin::Pin;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::rt::TokioIo;

use super::{Asked, Client, PATIENCE, Place, Wire};
use crate::api::PREFIX;
use crate::api::access::Role;
use crate::cli::cluster::rule_of;
use crate::cli::error::CliError;
use crate::cli::remote;
use crate::rt::Tasks;

/// The question whose answer has no end.
const TAP: &str = "/tap";

impl Client {
    /// Asks, and gives the answer when its head is there; its body comes as the control plane sends it. Dropping the
    /// body ends the request.
    pub(crate) async fn open(&self, asked: &Asked<'_>) -> Result<Response<Body>, CliError> {
        let opened = tokio::time::timeout(PATIENCE, self.open_patiently(asked)).await;
        opened.map_err(|_| CliError::Timeout {
            what: format!("{} {}", asked.method, asked.path),
            after: PATIENCE,
        })?
    }

    async fn open_patiently(&self, asked: &Asked<'_>) -> Result<Response<Body>, CliError> {
        let Place::Cluster(mesh) = &self.place else {
            let (stream, host, bearer) = self.connected().await?;
            let broken = |error| self.unreachable(error);
            return begin(stream, (host, bearer.as_ref()), asked, &broken).await;
        };
        let path = asked.path.strip_prefix(PREFIX).unwrap_or(&asked.path);
        let route = path.split('?').next().unwrap_or_default();
        let (body, kind) = if route == TAP {
            let rule = rule_of(&asked.method, route);
            let role = rule.map_or(Role::Viewer, |rule| rule.role);
            let lines = self.lines(path, role).await?.map(|line| {
                line.map(|mut line| {
                    line.push(b'\n');
                    Bytes::from(line)
                })
                .map_err(|error| io::Error::other(error.chain()))
            });
            (Body::from_stream(lines), "application/x-ndjson")
        } else {
            // Answers of several replicas are put together, so they come whole.
            let (status, body) = mesh.ask(asked).await?;
            if !status.is_success() {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = status;
                return Ok(response);
            }
            (Body::from(body), "application/json")
        };
        let mut response = Response::new(body);
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(response)
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
