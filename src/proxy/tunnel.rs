//! Bytes through a forward proxy: an endpoint that is asked to connect to somebody else.
//!
//! It is asked by CONNECT of HTTP/1.1 (RFC 9110, section 9.3.6) on a connection of its own, before a byte
//! of the caller is sent. What follows the head of its consent is of the tunnel, whatever that head says of
//! a body. Where it does not consent the endpoint counts as one that could not be connected to.

use std::future::poll_fn;
use std::time::Duration;

use super::buffer::Buffer;
use super::http::h1::parse;
use super::stream::Stream;

/// Interim answers that are heard out before a final one.
const MOST_INTERIM: usize = 16;
/// So much is told of a reason phrase.
const MOST_REASON: usize = 80;

/// Asks the proxy at the other end of `stream` for `to`, a host and a port. What it has said of the
/// tunnel's bytes already, or why there is no tunnel.
pub(crate) async fn ask(
    stream: &mut Stream,
    to: &str,
    timeout: Duration,
) -> Result<Buffer, String> {
    tokio::time::timeout(timeout, agree(stream, to))
        .await
        .map_err(|_| format!("no answer to CONNECT {to} in time"))?
}

async fn agree(stream: &mut Stream, to: &str) -> Result<Buffer, String> {
    let broke = |error: std::io::Error| format!("CONNECT {to}: {error}");
    let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    let mut unsent = request.as_bytes();
    while !unsent.is_empty() {
        let sent = poll_fn(|cx| stream.poll_send(cx, unsent)).await;
        let sent = sent.map_err(broke)?;
        if sent == 0 {
            return Err(broke(std::io::ErrorKind::WriteZero.into()));
        }
        unsent = unsent.get(sent..).unwrap_or_default();
    }
    poll_fn(|cx| stream.poll_push(cx)).await.map_err(broke)?;
    let mut answer = Buffer::default();
    let mut interim = 0;
    loop {
        let head = parse::response(answer.data(), |head| {
            (head.status, told(head.reason), head.length)
        });
        match head {
            Ok(Some((200..=299, _, length))) => {
                answer.consume(length);
                return Ok(answer);
            }
            // Nothing was offered that could be switched to.
            Ok(Some((100 | 102..=199, _, length))) if interim < MOST_INTERIM => {
                answer.consume(length);
                interim += 1;
                continue;
            }
            Ok(Some((status, reason, _))) => {
                return Err(format!(
                    "the proxy answered {status}{reason} to CONNECT {to}"
                ));
            }
            Ok(None) => {}
            Err(_) => return Err(format!("the answer to CONNECT {to} is not HTTP")),
        }
        let read = poll_fn(|cx| stream.poll_fill(cx, &mut answer)).await;
        if read.map_err(broke)? == 0 {
            return Err(format!("the proxy closed the connection upon CONNECT {to}"));
        }
    }
}

/// A reason phrase behind its status, as far as it can stand in a line of a log.
fn told(reason: &str) -> String {
    let plain = |c: &char| c.is_ascii_graphic() || *c == ' ';
    let reason: String = reason.chars().filter(plain).take(MOST_REASON).collect();
    if reason.is_empty() {
        reason
    } else {
        format!(" {reason}")
    }
}
