//! A connection to a service that is told of calls.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::mesh::access_log::service::{LogService, Says};
use crate::rt::Tasks;
use crate::telemetry::otlp_logs::{EXPORT, ExportLogsServiceResponse};

use super::super::unary::{GRPC, Line, Outcome, PROTOBUF, Ways, answer, ask, framed, post};

/// The path of Envoy's service.
const STREAM: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
/// One that says nothing for so long is asked whether it is there, and given up when it says nothing for as long again.
const ALIVE: Duration = Duration::from_secs(30);

/// A conversation with a service.
pub(super) enum Talk {
    /// Envoy's: messages follow each other, and nothing is answered.
    Stream(Stream),
    /// OpenTelemetry's: each message is answered.
    Line(Line),
}

/// A stream of messages.
pub(super) struct Stream {
    frames: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    /// Why it ended.
    ended: oneshot::Receiver<String>,
    /// Messages so far.
    sent: u64,
}

impl Talk {
    /// Begins one.
    pub(super) async fn open(
        service: &LogService,
        ways: &Ways,
        tasks: &Tasks,
    ) -> Result<Self, String> {
        let (cluster, authority) = (&service.cluster, &service.authority);
        if let Says::Otlp(said) = &service.says {
            let grpc = said.http_path.is_none();
            let path = said.http_path.as_deref().unwrap_or(EXPORT);
            let reached = ways.reach(cluster, authority, grpc).await?;
            return Ok(Self::Line(reached.line(authority, path, tasks).await?));
        }
        let reached = ways.reach(cluster, authority, true).await?;
        let to = reached.uri(authority, STREAM)?;
        let (frames, body) = mpsc::channel(1);
        let request = post(
            &to,
            GRPC,
            &service.headers,
            StreamBody::new(ReceiverStream::new(body)),
        );
        let request = request.map_err(|error| error.to_string())?;
        let shaken = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(ALIVE)
            .keep_alive_timeout(ALIVE)
            .handshake(reached.io)
            .await;
        let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
        tasks.spawn("own connection", async move {
            // The stream that it was for has ended too, and says so.
            let _ended = connection.await;
        });
        let (tell, ended) = oneshot::channel();
        tasks.spawn("log stream", async move {
            let read = async { answer(sender.send_request(request).await?, true).await };
            let read: hyper::Result<_> = read.await;
            let why = match read {
                Ok(Ok(_)) => "the stream was ended".to_owned(),
                Ok(Err(Outcome::Later(why) | Outcome::Refused(why))) => why,
                Ok(Err(Outcome::Taken(_))) => String::new(),
                Err(error) => error.to_string(),
            };
            // Whoever told may have ended before.
            let _told = tell.send(why).is_ok();
        });
        Ok(Self::Stream(Stream {
            frames,
            ended,
            sent: 0,
        }))
    }

    /// Whether whoever is told takes more than a first message: one that refuses each stream takes that, too.
    pub(super) fn holds(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.sent > 1,
            Self::Line(_) => true,
        }
    }

    /// Tells a `message`; the first of a stream begins with an `introduction`.
    pub(super) async fn tell(
        &mut self,
        service: &LogService,
        (introduction, message): (&[u8], &[u8]),
    ) -> Outcome {
        match self {
            Self::Stream(stream) => {
                let first: &[u8] = if stream.sent == 0 { introduction } else { &[] };
                let frame = Ok(Frame::data(Bytes::from(framed(&[first, message]))));
                tokio::select! {
                    biased;
                    why = &mut stream.ended => {
                        Outcome::Later(why.unwrap_or_else(|_| "the stream has ended".to_owned()))
                    }
                    sent = stream.frames.send(frame) => match sent {
                        Ok(()) => {
                            stream.sent += 1;
                            Outcome::Taken(0)
                        }
                        Err(_) => Outcome::Later("the stream has ended".to_owned()),
                    },
                }
            }
            Self::Line(line) => {
                let by_http = matches!(&service.says, Says::Otlp(said) if said.http_path.is_some());
                let (content, body) = if by_http {
                    (PROTOBUF, message.to_vec())
                } else {
                    (GRPC, framed(&[message]))
                };
                let answer = match ask(line, content, &service.headers, body).await {
                    Ok(answer) => answer,
                    Err(outcome) => return outcome,
                };
                let partial = ExportLogsServiceResponse::decode(answer.as_slice()).ok();
                let partial = partial.and_then(|answer| answer.partial_success);
                let refused = partial.map_or(0, |partial| partial.rejected_log_records);
                Outcome::Taken(usize::try_from(refused).unwrap_or(0))
            }
        }
    }

    /// Says that there is no more, and waits until that was heard.
    pub(super) async fn end(self) {
        if let Self::Stream(Stream { frames, ended, .. }) = self {
            drop(frames);
            let _why = ended.await;
        }
    }
}
