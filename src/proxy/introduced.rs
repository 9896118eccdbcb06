//! PROXY headers: read from those who are configured to send one, and sent to those who want one.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::mesh::listener::{ProxyProtocol, ProxyVersion};
use crate::net::proxy_protocol::{self as header, Addresses, Parsed, Version};
use crate::rt;

use super::buffer::Buffer;
use super::stream::Stream;
use super::timer::Alarm;

/// A header must be whole within this where the listener has no timeout of its own (Envoy's
/// default for listener filters).
const LONGEST: Duration = Duration::from_secs(15);

/// Takes the header off the front of `stream`, within a time; whether a connection that is late may
/// go on without one is `close_late`. `Ok(None)` leaves the connection its own addresses; an error
/// closes it. What was read behind the header is in `buffer`.
pub(crate) async fn read(
    stream: &mut Stream,
    buffer: &mut Buffer,
    rules: ProxyProtocol,
    (timeout, close_late): (Duration, bool),
) -> Result<Option<Addresses>, &'static str> {
    let wait = if timeout.is_zero() { LONGEST } else { timeout };
    let deadline = Some(rt::now() + wait);
    let mut alarm = Alarm::default();
    let refused = |version| match version {
        Version::V1 => rules.refuse_v1,
        Version::V2 => rules.refuse_v2,
    };
    // Where a header is optional, what is none belongs to the connection.
    let without = |reason| {
        if rules.optional {
            Ok(None)
        } else {
            Err(reason)
        }
    };
    let found = loop {
        match header::parse(buffer.data()) {
            Parsed::Header(found) if refused(found.version) => {
                return without("a PROXY header of a version that is not accepted");
            }
            Parsed::Header(found) => break found,
            Parsed::Absent => return without("no PROXY header"),
            Parsed::Bad(version) if rules.optional && refused(version) => return Ok(None),
            Parsed::Bad(_) => return Err("a PROXY header that cannot be read"),
            Parsed::Partial => {}
        }
        match alarm
            .within(deadline, poll_fn(|cx| stream.poll_fill(cx, buffer)))
            .await
        {
            Some(Ok(1..)) => {}
            Some(Ok(0)) => return without("ended before its PROXY header did"),
            Some(Err(_)) => return Err("broke before its PROXY header ended"),
            None if close_late => return Err("no PROXY header in time"),
            None => return without("no PROXY header in time"),
        }
    };
    let mut left = found.length;
    loop {
        let here = buffer.data().len().min(left);
        buffer.consume(here);
        left -= here;
        if left == 0 {
            return Ok(found.addresses);
        }
        match alarm
            .within(deadline, poll_fn(|cx| stream.poll_fill(cx, buffer)))
            .await
        {
            Some(Ok(1..)) => {}
            _ => return Err("no whole PROXY header"),
        }
    }
}

/// Says on a new connection whom it is for.
pub(crate) async fn write(
    tcp: &mut TcpStream,
    version: ProxyVersion,
    between: Option<(SocketAddr, SocketAddr)>,
) -> std::io::Result<()> {
    let version = match version {
        ProxyVersion::V1 => Version::V1,
        ProxyVersion::V2 => Version::V2,
    };
    let addresses = between.map(|(source, destination)| Addresses {
        source,
        destination,
    });
    tcp.write_all(&header::write(version, addresses)).await
}
