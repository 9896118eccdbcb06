//! A pump for bodies that leave otherwise than they came.

use std::task::{Context, Poll, ready};

use super::super::recode::Recoder;
use super::super::replay::Replay;
use super::{Broken, Leg, PILE, Piece, Trailers};

/// A body on its way through a [`Recoder`].
#[derive(Debug)]
pub(crate) struct Recoding {
    how: Recoder,
    /// What it became, from this place.
    out: Vec<u8>,
    at: usize,
    /// Something is held back.
    held: bool,
    /// All of it has come.
    ended: bool,
}

impl Recoding {
    pub(crate) fn new(how: Recoder) -> Self {
        Self {
            how,
            out: Vec::new(),
            at: 0,
            held: false,
            ended: false,
        }
    }

    /// What waits to go on.
    fn rest(&self) -> &[u8] {
        self.out.get(self.at..).unwrap_or_default()
    }
}

/// As [`super::pump`], through `recoding`. `moved` counts what leaves, and that is what is kept for
/// another try.
pub(crate) fn pump(
    cx: &mut Context<'_>,
    (from, to): (&mut Leg, &mut Leg),
    recoding: &mut Recoding,
    moved: &mut u64,
    mut replay: Option<&mut Replay>,
) -> Poll<Result<(), Broken>> {
    loop {
        while !recoding.rest().is_empty() {
            let data = recoding.rest();
            let count = match to {
                Leg::H1(leg) => {
                    if leg.out.len() > PILE {
                        ready!(leg.poll_flush(cx)).map_err(|error| Broken::To(error.into()))?;
                    }
                    ready!(leg.poll_accept(cx, data)).map_err(Broken::To)?
                }
                Leg::H2(leg) => {
                    let sent = ready!(leg.poll_send(cx, data, false));
                    sent.map_err(|error| Broken::To(error.into()))?
                }
                Leg::Nobody => data.len(),
            };
            if let Some(replay) = &mut replay {
                replay.keep(data.get(..count).unwrap_or_default());
            }
            *moved += u64::try_from(count).unwrap_or(0);
            recoding.at += count;
        }
        recoding.out.clear();
        recoding.at = 0;
        if recoding.ended {
            let trailers = if recoding.how.takes_trailers() {
                Trailers::None
            } else {
                from.trailers()
            };
            match to {
                Leg::H1(leg) => leg.finish(trailers),
                Leg::H2(leg) => {
                    let finished = ready!(leg.poll_finish(cx, trailers));
                    finished.map_err(|error| Broken::To(error.into()))?;
                }
                Leg::Nobody => {}
            }
            return to.poll_flush(cx).map_err(Broken::To);
        }
        match from.poll_piece(cx) {
            Poll::Pending => {
                if std::mem::take(&mut recoding.held) {
                    recoding.how.flush(&mut recoding.out);
                    continue;
                }
                ready!(to.poll_flush(cx)).map_err(Broken::To)?;
                if let Leg::H2(leg) = to
                    && let Poll::Ready(error) = leg.poll_reset(cx)
                {
                    return Poll::Ready(Err(Broken::To(error.into())));
                }
                return Poll::Pending;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::From(error))),
            Poll::Ready(Ok(Piece::End)) => {
                recoding.ended = true;
                let finished = recoding.how.finish(from.trailers(), &mut recoding.out);
                finished.map_err(Broken::From)?;
            }
            Poll::Ready(Ok(Piece::Data)) => {
                let data = from.data();
                let count = data.len();
                let put = recoding.how.put(data, &mut recoding.out);
                from.consume(count);
                put.map_err(Broken::From)?;
                recoding.held = true;
            }
        }
    }
}
