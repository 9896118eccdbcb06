//! Messages of the proxy's own to services of the configuration, such as spans and logs: the way there, how one is
//! asked, and what its answer means. All of it is the control thread's.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::mesh::cluster::UpstreamProtocol;
use crate::rt::{Reader, Tasks};
use crate::tls::Material;

use super::balance::{Wish, pick};
use super::client::Io;
use super::health::probe::{Sender, Target, connect, uri};
use super::tables::Tables;
use super::tls::{Identity, Speak};
use super::trace::context::{Forms, Goes};
use super::trace::fresh;

/// Most that is read of an answer.
const MOST_ANSWERED: usize = 64 * 1024;
/// gRPC puts a flag and a length in front of each message.
pub(crate) const PREFIX: usize = 5;

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of its parts but so many were taken.
    Taken(usize),
    /// It is not wanted, and will not be.
    Refused(String),
    /// It may be tried again.
    Later(String),
}

/// How services are found and called.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    pub(crate) tables: Reader<Tables>,
    pub(crate) identities: Reader<Option<Arc<Material>>>,
    /// The address to call from.
    pub(crate) from: Option<IpAddr>,
}

/// A connection to an endpoint of a service.
pub(crate) struct Reached {
    pub(crate) io: TokioIo<Box<dyn Io>>,
    pub(crate) http2: bool,
    target: Target,
}

/// An open connection for requests, and where on it.
pub(crate) struct Line {
    pub(crate) sender: Sender,
    pub(crate) to: http::Uri,
}

impl Ways {
    /// Connects to a healthy endpoint of `cluster`, which is asked as `authority`; by HTTP/2 where it is called by gRPC
    /// or speaks that.
    pub(crate) async fn reach(
        &self,
        cluster: &str,
        authority: &str,
        grpc: bool,
    ) -> Result<Reached, String> {
        let tables = self.tables.load();
        let cluster = tables.named_cluster(cluster);
        let cluster = cluster.ok_or("there is no such cluster")?;
        let entry = pick(&cluster.endpoints, Wish::default());
        let entry = entry.ok_or("no endpoint is healthy")?;
        let material = self.identities.load();
        let material = material.as_ref().clone();
        let target = Target {
            policy: Arc::clone(&cluster.config),
            address: entry.address,
            hostname: authority.to_owned(),
            from: self.from.filter(|_| cluster.config.kind.is_outward()),
            mtls: entry.mtls,
            originator: cluster.originator.clone(),
            identity: material.map(|material| Arc::new(Identity::new(material, 0))),
        };
        let http2 = grpc || cluster.config.protocol == UpstreamProtocol::Http2;
        let speak = if http2 { Speak::Http2 } else { Speak::Http1 };
        let io = connect(&target, speak).await;
        let io = io.map_err(|error| error.to_string())?;
        Ok(Reached {
            io: TokioIo::new(io),
            http2,
            target,
        })
    }
}

impl Reached {
    /// Where `path` is at `authority`.
    pub(crate) fn uri(&self, authority: &str, path: &str) -> Result<http::Uri, String> {
        uri(&self.target, authority, path).map_err(|error| error.to_string())
    }

    /// A line for requests to `path`.
    pub(crate) async fn line(
        self,
        authority: &str,
        path: &str,
        tasks: &Tasks,
    ) -> Result<Line, String> {
        let to = self.uri(authority, path)?;
        let sender = Sender::over(self.io, self.http2, tasks).await;
        Ok(Line {
            sender: sender.map_err(|error| error.to_string())?,
            to,
        })
    }
}

/// A message as gRPC sends it, in parts.
pub(crate) fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut body = Vec::with_capacity(PREFIX + length);
    body.push(0);
    body.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    for part in parts {
        body.extend_from_slice(part);
    }
    body
}

/// A request with the fields of each, and `fields` besides.
pub(crate) fn post<B>(
    to: &http::Uri,
    content: &'static str,
    fields: &[(String, String)],
    body: B,
) -> Result<Request<B>, http::Error> {
    let mut request = Request::post(to.clone())
        .header(header::CONTENT_TYPE, content)
        .header(header::USER_AGENT, "meshctl")
        .body(body)?;
    let own = request.headers_mut();
    if content == GRPC {
        own.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    unsampled(own);
    for (name, value) in fields {
        own.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    Ok(request)
}

/// Sends a request of `content` over `line`; the message of its answer, or what became of it else.
pub(crate) async fn ask(
    line: &mut Line,
    content: &'static str,
    fields: &[(String, String)],
    body: Vec<u8>,
) -> Result<Vec<u8>, Outcome> {
    let length = body.len();
    let request = post(&line.to, content, fields, Full::from(body));
    let mut request = request.map_err(|error| Outcome::Refused(error.to_string()))?;
    if content != GRPC {
        request
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !line.sender.is_ready().await {
        return Err(Outcome::Later("the connection has ended".to_owned()));
    }
    let answer = async {
        let response = line.sender.send(request).await?;
        answer(response, content == GRPC).await
    };
    let answer: hyper::Result<Result<Vec<u8>, Outcome>> = answer.await;
    answer.unwrap_or_else(|error| Err(Outcome::Later(error.to_string())))
}

/// What gRPC's requests are.
pub(crate) const GRPC: &str = "application/grpc";
/// What messages of protobuf are.
pub(crate) const PROTOBUF: &str = "application/x-protobuf";

/// Telling of calls leaves no span itself, at whomever's proxy it passes.
fn unsampled(fields: &mut HeaderMap) {
    let goes = Goes {
        ids: fresh(None),
        parent: None,
        sampled: false,
        forms: Forms::default(),
        fresh: true,
    };
    goes.each(|name, value| {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.insert(name, value);
        }
    });
}

/// Reads an answer to its end.
pub(crate) async fn answer(
    response: Response<Incoming>,
    grpc: bool,
) -> hyper::Result<Result<Vec<u8>, Outcome>> {
    let (head, mut body) = response.into_parts();
    let (mut kept, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                let room = MOST_ANSWERED.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(data.get(..room).unwrap_or_default());
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    let told = |name: &str| {
        let value = trailers.get(name).or_else(|| head.headers.get(name));
        value
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let status = told("grpc-status");
    let status = status.as_deref().filter(|_| grpc);
    if let Some(outcome) = judge(head.status, status, grpc, || {
        told("grpc-message").unwrap_or_default()
    }) {
        return Ok(Err(outcome));
    }
    Ok(Ok(if grpc {
        kept.get(PREFIX..).unwrap_or_default().to_vec()
    } else {
        kept
    }))
}

/// What an answer means that is not a success; statuses that may be tried again are those of OTLP's
/// specification.
fn judge(
    status: StatusCode,
    grpc_status: Option<&str>,
    grpc: bool,
    message: impl FnOnce() -> String,
) -> Option<Outcome> {
    match (grpc, grpc_status, status.as_u16()) {
        (true, Some("0"), 200) | (false, _, 200..=299) => None,
        // Cancelled, deadline exceeded, resource exhausted, aborted, out of range, unavailable, data loss.
        (true, Some(told @ ("1" | "4" | "8" | "10" | "11" | "14" | "15")), _) => {
            Some(Outcome::Later(format!("gRPC status {told}: {}", message())))
        }
        (true, Some(told), _) => Some(Outcome::Refused(format!(
            "gRPC status {told}: {}",
            message()
        ))),
        (true, None, 200) => Some(Outcome::Later("the answer broke off".to_owned())),
        (_, _, 429 | 502..=504) => Some(Outcome::Later(format!("status {status}"))),
        _ => Some(Outcome::Refused(format!("status {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_help_is_tried_again() {
        let of = |status: u16, grpc: Option<&str>, is_grpc: bool| {
            let status = StatusCode::from_u16(status).unwrap();
            judge(status, grpc, is_grpc, String::new)
        };
        let later = |outcome| matches!(outcome, Some(Outcome::Later(_)));
        let refused = |outcome| matches!(outcome, Some(Outcome::Refused(_)));
        assert_eq!(of(202, None, false), None);
        assert_eq!(of(200, Some("0"), true), None);
        assert!(later(of(503, None, false)) && later(of(429, None, false)));
        assert!(refused(of(400, None, false)) && refused(of(404, None, false)));
        assert!(later(of(200, Some("14"), true)) && later(of(200, Some("8"), true)));
        assert!(refused(of(200, Some("12"), true)) && refused(of(200, Some("3"), true)));
        assert!(later(of(200, None, true)) && refused(of(404, None, true)));
    }
}
