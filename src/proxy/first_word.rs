//! Who speaks first, where nobody has said what is spoken.
//!
//! Most protocols begin with a word of the caller, and that word tells HTTP from others. Some begin
//! with one of the server (MySQL, SMTP, FTP): a proxy that only waits for the caller then stalls both.
//! So when a caller has said nothing for a moment, the endpoint that bytes would go to is connected
//! to, and whoever speaks next decides. A caller that was only slow with its request loses nothing.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::mesh::listener::TcpOptions;
use crate::rt;

use super::buffer::Buffer;
use super::context::{Conn, Live, Worker};
use super::detect::{First, detect};
use super::stream::Stream;
use super::tcp::{self, Reached};
use super::timer::Alarm;

/// A caller that has said nothing for this long may be waiting for the server.
const QUIET: Duration = Duration::from_millis(100);

/// Who spoke, and what is known from it.
pub(crate) enum Word {
    /// The caller.
    Caller(First),
    /// The server: it is bytes, and here is where they go.
    Server(Box<Reached>),
}

/// Waits for a first word, for `timeout` at most (zero waits for ever); then it is bytes. What the
/// caller said is in `buffer`.
pub(crate) async fn first_word(
    (worker, live, conn): (&Rc<Worker>, &Live, &Conn),
    stream: &mut Stream,
    buffer: &mut Buffer,
    bytes: (Option<usize>, &TcpOptions),
    (timeout, close_late): (Duration, bool),
) -> io::Result<Word> {
    let begun = rt::now();
    let quiet = if timeout.is_zero() {
        QUIET
    } else {
        QUIET.min(timeout / 2)
    };
    let mut alarm = Alarm::default();
    if buffer.is_empty() {
        let heard = alarm
            .within(
                Some(begun + quiet),
                poll_fn(|cx| stream.poll_fill(cx, buffer)),
            )
            .await;
        match heard {
            Some(Ok(0)) => return Ok(Word::Caller(First::Bytes)),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => {
                buffer.release();
                // Where nothing can be reached, only the caller can speak.
                if let Ok(mut reached) = tcp::open(worker, live, conn, bytes).await {
                    let deadline = (!timeout.is_zero()).then(|| begun + timeout);
                    let next = next(stream, buffer, &mut reached);
                    match alarm.within(deadline, next).await {
                        Some(Next::Caller(Ok(0))) => return Ok(Word::Caller(First::Bytes)),
                        Some(Next::Caller(Err(error))) => return Err(error),
                        Some(Next::Caller(Ok(_)) | Next::ServerGone) => {}
                        None if close_late => return Err(io::ErrorKind::TimedOut.into()),
                        Some(Next::Server) | None => return Ok(Word::Server(Box::new(reached))),
                    }
                }
            }
        }
    }
    let left = if timeout.is_zero() {
        timeout
    } else {
        // Zero would be for ever.
        let left = timeout.saturating_sub(begun.elapsed());
        left.max(Duration::from_millis(1))
    };
    detect(stream, buffer, (left, close_late))
        .await
        .map(Word::Caller)
}

enum Next {
    Caller(io::Result<usize>),
    Server,
    ServerGone,
}

async fn next(stream: &mut Stream, buffer: &mut Buffer, reached: &mut Reached) -> Next {
    poll_fn(|cx| {
        if let Poll::Ready(filled) = stream.poll_fill(cx, buffer) {
            return Poll::Ready(Next::Caller(filled));
        }
        buffer.release();
        let Reached { dialed, answer, .. } = &mut *reached;
        // Behind a tunnel it may have spoken together with the consent.
        if !answer.is_empty() {
            return Poll::Ready(Next::Server);
        }
        match dialed.stream.poll_fill(cx, answer) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Next::ServerGone),
            Poll::Ready(Ok(_)) => Poll::Ready(Next::Server),
            Poll::Pending => {
                answer.release();
                Poll::Pending
            }
        }
    })
    .await
}
