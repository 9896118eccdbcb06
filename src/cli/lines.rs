//! Answers of the API that go on as lines, until whoever reads them has enough.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, select_all, unfold};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::api::{PREFIX, Problem};

use super::client::Wire;
use super::error::CliError;
use super::remote;

/// Longest line that is read.
const MAX_LINE: usize = 1 << 20;
/// The control plane says in shorter times that it is still there.
const SILENCE: Duration = Duration::from_secs(30);

/// One answer.
pub(crate) struct Lines {
    body: Incoming,
    read: Vec<u8>,
    /// Drives the connection; done when the other end has closed it.
    connection: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

/// Asks for `path` over `stream`; an answer that is none is an error.
pub(crate) async fn open(
    stream: Pin<Box<dyn Wire>>,
    (host, bearer): (&str, Option<&HeaderValue>),
    path: &str,
    unreachable: &(dyn Fn(io::Error) -> CliError + Sync),
) -> Result<Lines, CliError> {
    let broken = |error: hyper::Error| unreachable(io::Error::other(remote::explain(&error)));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let whole = format!("{PREFIX}{path}");
    let mut request = Request::get(&whole).header(header::HOST, host);
    if let Some(bearer) = bearer {
        request = request.header(header::AUTHORIZATION, bearer.clone());
    }
    let request = request
        .body(Full::new(Bytes::new()))
        .map_err(|error| CliError::usage(format!("{path:?} cannot be asked for: {error}")))?;
    let mut connection: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        // Why it ended is told by the body.
        let _ended = connection.await.is_ok();
    });
    let answered = sender.send_request(request);
    tokio::pin!(answered);
    let response = tokio::select! {
        biased;
        response = &mut answered => response,
        () = &mut connection => answered.await,
    };
    let response = response.map_err(broken)?;
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(Lines {
            body: response.into_body(),
            read: Vec::new(),
            connection: Some(connection),
        });
    }
    let body = Limited::new(response.into_body(), MAX_LINE).collect();
    tokio::pin!(body);
    let body = tokio::select! {
        biased;
        body = &mut body => body,
        () = &mut connection => body.await,
    };
    let problem = body
        .ok()
        .and_then(|body| serde_json::from_slice::<Problem>(&body.to_bytes()).ok());
    Err(problem.map_or_else(
        || CliError::Answer {
            request: whole,
            reason: format!("status {status}"),
        },
        CliError::Problem,
    ))
}

impl Lines {
    /// The next line without its end; nothing at the end of the answer.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, CliError> {
        let broken =
            |reason: String| CliError::failed(format!("the control plane broke off: {reason}"));
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.read, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.read.len() > MAX_LINE {
                return Err(broken("a line is too long".to_owned()));
            }
            let Some(connection) = &mut self.connection else {
                // Nothing comes any more; what is here already is still read.
                match self.body.frame().await {
                    Some(Ok(frame)) => self
                        .read
                        .extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                    Some(Err(error)) => return Err(broken(error.to_string())),
                    None => return Ok(None),
                }
                continue;
            };
            tokio::select! {
                biased;
                frame = self.body.frame() => match frame {
                    Some(Ok(frame)) => self.read.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                    Some(Err(error)) => return Err(broken(error.to_string())),
                    None => return Ok(None),
                },
                () = connection => self.connection = None,
                () = tokio::time::sleep(SILENCE) => return Err(broken("it says nothing any more".to_owned())),
            }
        }
    }
}

/// The lines of all answers as they come. It ends when one does.
pub(crate) fn joined(all: Vec<Lines>) -> BoxStream<'static, Result<Vec<u8>, CliError>> {
    let each = all.into_iter().map(|lines| {
        let lines = unfold(Some(lines), |lines| async move {
            let mut lines = lines?;
            match lines.next().await {
                Ok(Some(line)) => Some((Ok(line), Some(lines))),
                Ok(None) => Some((
                    Err(CliError::failed("the control plane has ended it")),
                    None,
                )),
                Err(error) => Some((Err(error), None)),
            }
        });
        lines.boxed()
    });
    select_all(each).boxed()
}
