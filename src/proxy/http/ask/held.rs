//! The body of a request, as far as it is part of a question.

use std::future::poll_fn;
use std::task::Poll;

use crate::mesh::ext_authz::CheckedBody;
use crate::rt;

use super::super::super::context::Conn;
use super::super::super::timer::Alarm;
use super::super::Version;
use super::super::h1::body::BodyReader;
use super::super::h1::request::earlier;
use super::super::leg::{Leg, LegError, Piece, Writer};
use super::super::plan::{Chosen, Facts};
use super::super::respond::Failure;

/// Reads until there is as much as is asked for. Whether that is all. `expects` says that the caller waits to be
/// told that it may send.
pub(super) async fn read(
    conn: &Conn,
    down: &mut Leg,
    alarm: &mut Alarm,
    (facts, held): (&mut Facts, &mut Vec<u8>),
    (wanted, expects): (CheckedBody, bool),
) -> Result<bool, Failure> {
    if !facts.held {
        facts.held = true;
        if let Leg::H1(leg) = down {
            let most = conn.http().options.limits.max_request_bytes;
            leg.reader = BodyReader::new(facts.framing, false).up_to(most);
        }
        if expects {
            may_send(down, facts).await?;
        }
    }
    let most = usize::try_from(wanted.max_bytes).unwrap_or(usize::MAX);
    let timeouts = &conn.http().options.timeouts;
    let begun = rt::now();
    let until = timeouts.request.map(|limit| begun + limit);
    loop {
        if wanted.partial && held.len() >= most {
            return Ok(false);
        }
        if held.len() > most {
            return Err(Failure::BodyTooLarge);
        }
        let idle = timeouts.stream_idle.map(|limit| rt::now() + limit);
        let piece = poll_fn(|cx| {
            // A caller may go away in the middle.
            match down.poll_piece(cx) {
                Poll::Pending => match down {
                    Leg::H2(leg) => leg.poll_reset(cx).map(|_| Err(Failure::CallerGone)),
                    Leg::H1(_) | Leg::Nobody => Poll::Pending,
                },
                Poll::Ready(piece) => Poll::Ready(piece.map_err(|error| match error {
                    LegError::Malformed => Failure::BadBody,
                    LegError::TooLarge => Failure::BodyTooLarge,
                    LegError::Io(_) | LegError::H2(_) | LegError::Truncated => Failure::CallerGone,
                })),
            }
        });
        let piece = match alarm.within(earlier(until, idle), piece).await {
            Some(piece) => piece?,
            None if until.is_some_and(|until| rt::now() >= until) => {
                return Err(Failure::RequestTimeout);
            }
            None => return Err(Failure::StreamIdle { complete: false }),
        };
        match piece {
            Piece::End => return Ok(true),
            Piece::Data => {
                let data = down.data();
                held.extend_from_slice(data);
                let count = data.len();
                down.consume(count);
            }
        }
    }
}

/// Tells the caller that the body may come: whoever is asked is to see it.
async fn may_send(down: &mut Leg, facts: &Facts) -> Result<(), Failure> {
    match down {
        Leg::H1(leg) if facts.version == Version::Http11 => {
            leg.begin(Writer::Plain);
            leg.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            let told = poll_fn(|cx| leg.poll_flush(cx)).await;
            told.map_err(|_| Failure::CallerGone)
        }
        Leg::H2(leg) => {
            leg.inform(|head| head.status(100));
            Ok(())
        }
        Leg::H1(_) | Leg::Nobody => Ok(()),
    }
}

impl Chosen {
    /// Of the body, what was read already, the first time that this is asked.
    pub(crate) fn held(&self) -> Vec<u8> {
        self.rare
            .as_ref()
            .map_or_else(Vec::new, |rare| rare.held.take())
    }
}
