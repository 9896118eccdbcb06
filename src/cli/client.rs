//! The control plane's API: JSON over HTTP/1.1 on a Unix socket, or over TLS.
//!
//! One connection a request: the socket is local mostly, and a control plane that was restarted between
//! two questions is then no special case.

mod open;

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::api::access::Role;
use crate::api::{PREFIX, Problem, Reason};

use super::cluster::{Answered, Mesh};
use super::error::{CliError, Way};
use super::lines;
use super::remote::{self, Remote};

/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// How long an answer may take: longer than the control plane waits for acknowledgements.
const PATIENCE: Duration = Duration::from_secs(30);

/// The API of one control plane.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    place: Place,
}

/// Where it is.
#[derive(Debug, Clone)]
enum Place {
    Socket(PathBuf),
    Remote(Arc<Remote>),
    Cluster(Arc<Mesh>),
}

impl Client {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            place: Place::Socket(socket),
        }
    }

    pub(crate) fn remote(remote: Remote) -> Self {
        Self {
            place: Place::Remote(Arc::new(remote)),
        }
    }

    pub(crate) fn cluster(mesh: Arc<Mesh>) -> Self {
        Self {
            place: Place::Cluster(mesh),
        }
    }

    /// The mesh in a cluster that is asked, if it is one.
    pub(crate) fn mesh(&self) -> Option<&Arc<Mesh>> {
        match &self.place {
            Place::Cluster(mesh) => Some(mesh),
            _ => None,
        }
    }

    /// Where it is, in words.
    pub(crate) fn name(&self) -> String {
        match &self.place {
            Place::Socket(path) => path.display().to_string(),
            Place::Remote(remote) => remote.address().to_owned(),
            Place::Cluster(mesh) => mesh.place(),
        }
    }

    fn unreachable(&self, source: io::Error) -> CliError {
        CliError::Unreachable {
            place: self.name(),
            way: match &self.place {
                Place::Socket(_) => Way::Home,
                Place::Remote(_) => Way::Api,
                Place::Cluster(_) => Way::Cluster,
            },
            source,
        }
    }

    /// Asks for `path` below the API's prefix, as made by [`path`].
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    /// Sends `body` and reads the answer.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CliError> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Renews what `path` names.
    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.ask(Method::PUT, path, None::<&()>).await
    }

    /// Removes what `path` names.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.ask(Method::DELETE, path, None::<&()>).await
    }

    /// What it answers as text.
    pub(crate) async fn text(&self, method: Method, path: &str) -> Result<String, CliError> {
        let whole = format!("{PREFIX}{path}");
        let (status, answer) = self.exchange(method, &whole, None).await?;
        if !status.is_success() {
            return Err(CliError::Answer {
                request: whole,
                reason: format!("status {status}"),
            });
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// What it answers line by line, for as long as it goes on; several replicas at once. `role` is the least that may
    /// ask for it.
    pub(crate) async fn lines(
        &self,
        path: &str,
        role: Role,
    ) -> Result<BoxStream<'static, Result<Vec<u8>, CliError>>, CliError> {
        if let Place::Cluster(mesh) = &self.place {
            return Ok(lines::joined(mesh.lines(path, role).await?));
        }
        let (stream, host, bearer) = self.connected().await?;
        let broken = |error| self.unreachable(error);
        let lines = lines::open(stream, (host, bearer.as_ref()), path, &broken).await?;
        Ok(lines::joined(vec![lines]))
    }

    /// A connection, the name of its other end, and what proves who asks; not in a cluster.
    async fn connected(&self) -> Result<(Pin<Box<dyn Wire>>, &str, Option<HeaderValue>), CliError> {
        match &self.place {
            Place::Socket(socket) => {
                let stream = UnixStream::connect(socket).await;
                let stream = stream.map_err(|source| self.no_connection(socket, source))?;
                Ok((Box::pin(stream), "meshctl", None))
            }
            Place::Remote(remote) => {
                let stream = remote.connect().await;
                let stream = stream.map_err(|source| self.unreachable(source))?;
                Ok((Box::pin(stream), remote.address(), remote.bearer()))
            }
            Place::Cluster(_) => Err(CliError::failed("a cluster has several")),
        }
    }

    /// Whether the control plane is ready to serve; unreachable is an error.
    pub(crate) async fn ready(&self) -> Result<bool, CliError> {
        let (status, _) = self.exchange(Method::GET, "/ready", None).await?;
        Ok(status.is_success())
    }

    async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, CliError> {
        let request = format!("{method} {path}");
        let wrong = |reason: String| CliError::Answer {
            request: request.clone(),
            reason,
        };
        let body = body
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|error| wrong(error.to_string()))?;
        let (status, answer) = self
            .exchange(method, &format!("{PREFIX}{path}"), body)
            .await?;
        if !status.is_success() {
            return Err(match serde_json::from_slice::<Problem>(&answer) {
                Ok(problem) => CliError::Problem(problem),
                Err(_) if status == StatusCode::NOT_FOUND => CliError::Problem(Problem::new(
                    Reason::NotFound,
                    format!("the control plane does not know {request}"),
                )),
                Err(_) => wrong(format!("status {status}")),
            });
        }
        // Deleting may answer without a body; that is `null` to serde.
        let answer = if answer.is_empty() {
            Bytes::from_static(b"null")
        } else {
            answer
        };
        serde_json::from_slice(&answer).map_err(|error| wrong(error.to_string()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), CliError> {
        let what = format!("{method} {path}");
        tracing::debug!(
            request = what,
            place = self.name(),
            "asking the control plane"
        );
        tokio::time::timeout(PATIENCE, self.once(method, path, body))
            .await
            .map_err(|_| CliError::Timeout {
                what,
                after: PATIENCE,
            })?
    }

    async fn once(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answered, CliError> {
        let asked = Asked {
            method,
            path: path.into(),
            body,
        };
        if let Place::Cluster(mesh) = &self.place {
            return mesh.ask(&asked).await;
        }
        let (stream, host, bearer) = self.connected().await?;
        let broken = |error| self.unreachable(error);
        speak(stream, (host, bearer.as_ref()), &asked, &broken).await
    }

    fn no_connection(&self, socket: &Path, source: io::Error) -> CliError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => CliError::file("open", socket)(source),
            io::ErrorKind::InvalidInput => CliError::usage(format!(
                "the path of the socket is too long: {}",
                socket.display()
            ))
            .hint("use a shorter --home; Unix sockets allow 107 bytes"),
            _ => self.unreachable(source),
        }
    }
}

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Asked<'a> {
    pub(crate) method: Method,
    /// With the API's prefix.
    pub(crate) path: Cow<'a, str>,
    pub(crate) body: Option<Vec<u8>>,
}

impl<'a> Asked<'a> {
    /// One without a body.
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: None,
        }
    }
}

/// Asks over `stream`, by the name of `host` and with what proves who asks.
pub(crate) async fn speak(
    stream: Pin<Box<dyn Wire>>,
    (host, bearer): (&str, Option<&HeaderValue>),
    asked: &Asked<'_>,
    unreachable: &(dyn Fn(io::Error) -> CliError + Sync),
) -> Result<Answered, CliError> {
    let Asked { method, path, body } = asked;
    // TLS 1.3 tells of a certificate that it does not take by the first answer.
    let broken = |error: hyper::Error| unreachable(io::Error::other(remote::explain(&error)));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let mut request = Request::builder()
        .method(method)
        .uri(&**path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json");
    if let Some(bearer) = bearer {
        request = request.header(header::AUTHORIZATION, bearer.clone());
    }
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request
        .body(Full::new(Bytes::from(body.clone().unwrap_or_default())))
        .map_err(|error| CliError::usage(format!("{path:?} cannot be asked for: {error}")))?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| CliError::Answer {
                request: path.to_string(),
                reason: error.to_string(),
            })?;
        Ok((status, answer.to_bytes()))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The server may close as soon as it has answered; the answer is then already here.
        _closed = &mut connection => exchange.await,
    }
}

/// What requests are spoken over.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Wire for T {}

/// A path below the API's prefix from raw segments and those parameters that have a value.
pub(crate) fn path(segments: &[&str], query: &[(&str, Option<&str>)]) -> String {
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        escape(segment, &mut path);
    }
    let mut separator = '?';
    for (name, value) in query {
        if let Some(value) = value {
            path.push(separator);
            path.push_str(name);
            path.push('=');
            escape(value, &mut path);
            separator = '&';
        }
    }
    path
}

fn escape(text: &str, into: &mut String) {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push('%');
            into.extend(
                [byte >> 4, byte & 15].map(|half| HEX.get(usize::from(half)).unwrap_or(&'0')),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_and_empty_parameters_left_out() {
        assert_eq!(
            path(
                &["resources", "a/b ü"],
                &[
                    ("namespace", None),
                    ("name", Some("x&y=1")),
                    ("who", Some("me"))
                ]
            ),
            "/resources/a%2Fb%20%C3%BC?name=x%26y%3D1&who=me"
        );
    }
}
