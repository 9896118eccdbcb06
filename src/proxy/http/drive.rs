//! One try at one endpoint: the request going up and the answer coming down, in one poll function.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::rt;
use crate::telemetry::Flag;

use super::call::again::{Again, Chance, No};
use super::call::compare::Kept;
use super::edits::Edits;
use super::fields::{self, BadFields, Fields, Scan};
use super::h1::body::BodyReader;
use super::h1::parse;
use super::h2::stream::StreamError;
use super::head::{ResponseOut, Switch};
use super::leg::{Broken, H1Leg, Leg, LegError, Recoding, Writer, pump, pump_recoded};
use super::marks::AnswerMarks;
use super::plan::{Facts, Telling};
use super::recode::{Answering, Coded};
use super::replay::Replay;
use super::respond::{Failure, reason};
use super::upgrade::Upgrade;
use super::{Framing, Version};

/// Informational answers before an answer at most; they wait in memory.
const MAX_INFORMATIONAL: u8 = 16;

/// One try.
pub(crate) struct Drive<'d, 't> {
    pub(crate) down: &'d mut Leg,
    pub(crate) up: &'d mut Leg,
    pub(crate) replay: &'d mut Replay,
    pub(crate) relay: &'d Relay<'t>,
    /// The request has gone up, as far as it will.
    pub(crate) uploaded: bool,
    /// The endpoint stopped reading before the end.
    pub(crate) upload_broke: bool,
    /// The answer began to go down.
    pub(crate) seen: Option<SeenHead>,
    /// Informational answers so far.
    pub(crate) informed: u8,
    /// What the request's body goes through.
    pub(crate) asking: &'d mut Option<Box<Recoding>>,
    /// What the answer's body goes through.
    pub(crate) answering: Option<Box<Recoding>>,
    /// What is kept of the answer, where it is compared with another.
    pub(crate) keeping: Option<Box<Kept>>,
    /// Body bytes up.
    pub(crate) received: u64,
    /// Body bytes down.
    pub(crate) sent: u64,
}

/// How an answer is passed on.
#[derive(Clone, Copy)]
pub(crate) struct Relay<'t> {
    pub(crate) edits: Edits<'t>,
    pub(crate) facts: Facts,
    pub(crate) begun: Instant,
    /// The caller's connection ends with this answer.
    pub(crate) close: bool,
    /// The endpoint is a peer of the mesh, which says when its application got nothing.
    pub(crate) peer: bool,
    /// Another protocol that the request asks for.
    pub(crate) upgrade: Option<&'t Upgrade>,
    /// What the answer tells the caller about the proxy, where that is not the usual.
    pub(crate) marks: Option<&'t AnswerMarks>,
    /// Answers that are not passed on but tried again.
    pub(crate) chance: Option<Chance<'t>>,
    /// The try that this is, where callers are told.
    pub(crate) attempts: Option<u32>,
    /// What may become of the answer's body.
    pub(crate) answering: Option<Answering<'t>>,
    /// Fields of the answer that are to be noted.
    pub(crate) telling: Option<&'t Telling>,
}

/// What is known of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeenHead {
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) at: Instant,
    /// The endpoint's connection can be used again.
    pub(crate) reusable: bool,
    /// The end of the caller's connection is the end of the answer.
    pub(crate) close: bool,
    /// Why it was not tried again, where that was meant.
    pub(crate) flag: Flag,
}

/// How a try ended.
#[derive(Debug)]
pub(crate) enum End<'t> {
    /// Request and answer went through.
    Done,
    /// The answer, of this status, is one that is to be tried again; without leave, another try is
    /// on its way already.
    Retry(u16, Option<Again<'t>>),
    /// Nothing was answered.
    Failed(Failure),
    /// The answer broke off.
    Cut(Failure),
    /// Both sides speak another protocol from here on.
    Switched,
    /// There is nobody to answer to.
    CallerGone,
}

enum Head<'t> {
    Informational,
    Retry(u16, Option<Again<'t>>),
    Switched,
    Relayed(SeenHead, Body),
}

/// How the body behind an answer's head is read.
struct Body {
    framing: Framing,
    raw: bool,
    recoding: Option<Box<Recoding>>,
}

impl<'t> Drive<'_, 't> {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End<'t>> {
        if !self.uploaded
            && let Some(end) = self.upload(cx)
        {
            return Poll::Ready(end);
        }
        if self.seen.is_none() {
            match self.poll_head(cx) {
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(end))) => return Poll::Ready(end),
                Poll::Ready(Err(failure)) => return Poll::Ready(End::Failed(failure)),
                Poll::Pending => return self.poll_caller_gone(cx),
            }
        }
        let moved = match &mut self.answering {
            None => {
                let keeping = self.keeping.as_mut().map(|kept| kept.body());
                pump(cx, self.up, self.down, &mut self.sent, keeping)
            }
            Some(recoding) => {
                let legs = (&mut *self.up, &mut *self.down);
                pump_recoded(cx, legs, recoding, &mut self.sent, None)
            }
        };
        match moved {
            Poll::Ready(Ok(())) => Poll::Ready(End::Done),
            Poll::Ready(Err(Broken::From(error))) => {
                tracing::debug!(%error, "answer cut off");
                Poll::Ready(End::Cut(cut_failure(self.up, error)))
            }
            Poll::Ready(Err(Broken::To(error))) => {
                tracing::debug!(%error, "answer not delivered");
                Poll::Ready(End::CallerGone)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn upload(&mut self, cx: &mut Context<'_>) -> Option<End<'t>> {
        let gone_up = if self.relay.upgrade.is_some() {
            // Behind a request for another protocol nothing goes up before it is granted.
            self.up.poll_flush(cx).map_err(Broken::To)
        } else {
            let replay = Some(&mut *self.replay);
            match &mut *self.asking {
                None => pump(cx, self.down, self.up, &mut self.received, replay),
                Some(recoding) => {
                    let legs = (&mut *self.down, &mut *self.up);
                    pump_recoded(cx, legs, recoding, &mut self.received, replay)
                }
            }
        };
        match gone_up {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => {
                self.uploaded = true;
                None
            }
            // An answer may still come: servers refuse large bodies without reading them.
            Poll::Ready(Err(Broken::To(error))) => {
                tracing::debug!(%error, "request not delivered whole");
                self.uploaded = true;
                self.upload_broke = true;
                None
            }
            Poll::Ready(Err(Broken::From(LegError::Malformed))) if self.seen.is_none() => {
                Some(End::Failed(Failure::BadBody))
            }
            Poll::Ready(Err(Broken::From(LegError::TooLarge))) if self.seen.is_none() => {
                Some(End::Failed(Failure::BodyTooLarge))
            }
            Poll::Ready(Err(Broken::From(_))) => Some(End::CallerGone),
        }
    }

    /// While the endpoint thinks, the caller may go away.
    fn poll_caller_gone(&mut self, cx: &mut Context<'_>) -> Poll<End<'t>> {
        match self.down {
            Leg::H2(leg) => leg.poll_reset(cx).map(|_| End::CallerGone),
            Leg::Nobody => Poll::Pending,
            Leg::H1(leg) => {
                if self.uploaded && leg.poll_gone(cx).is_ready() {
                    return Poll::Ready(End::CallerGone);
                }
                // Informational answers wait here to be written.
                match leg.poll_flush(cx) {
                    Poll::Ready(Err(_)) => Poll::Ready(End::CallerGone),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<End<'t>>, Failure>> {
        loop {
            let head = match self.up {
                Leg::H1(_) => ready!(self.poll_text_head(cx))?,
                Leg::H2(_) | Leg::Nobody => ready!(self.poll_h2_head(cx))?,
            };
            match head {
                Head::Informational => {
                    self.informed += 1;
                    if self.informed > MAX_INFORMATIONAL {
                        return Poll::Ready(Err(Failure::BadResponse));
                    }
                }
                Head::Retry(status, again) => {
                    return Poll::Ready(Ok(Some(End::Retry(status, again))));
                }
                Head::Switched => return Poll::Ready(Ok(Some(End::Switched))),
                Head::Relayed(seen, body) => {
                    self.seen = Some(seen);
                    self.answering = body.recoding;
                    if let Leg::H1(up) = &mut *self.up {
                        up.reader = BodyReader::new(body.framing, body.raw);
                    }
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    fn poll_text_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head<'t>, Failure>> {
        let Self {
            down,
            up,
            relay,
            replay,
            keeping,
            ..
        } = self;
        let whole = replay.is_whole();
        let Leg::H1(up) = &mut **up else {
            return Poll::Ready(Err(Failure::BadResponse));
        };
        loop {
            if !up.input.is_empty() {
                let read = parse::response(up.input.data(), |head| {
                    let scan = fields::scan(head.fields)?;
                    if scan.chunked && !head.http11 {
                        // RFC 9112, 6.1: who speaks HTTP/1.0 does not know it.
                        return Err(BadFields::TransferEncoding);
                    }
                    let reusable = head.http11 && !scan.connection.close;
                    let parts = Parts {
                        status: head.status,
                        reason: head.reason,
                        fields: head.fields,
                        scan: &scan,
                        framing: scan.response_framing(head.status, relay.facts.head),
                        text: true,
                        reusable,
                    };
                    Ok::<_, BadFields>((
                        relay.pass(down, &parts, whole, keeping.as_deref_mut()),
                        head.length,
                    ))
                })?;
                if let Some(read) = read {
                    let (head, length) = read.map_err(|_| Failure::BadResponse)?;
                    up.input.consume(length);
                    return Poll::Ready(head);
                }
            }
            match ready!(up.poll_fill(cx)) {
                Ok(0) if up.input.is_empty() => return Poll::Ready(Err(Failure::Broken)),
                Ok(0) => return Poll::Ready(Err(Failure::BadResponse)),
                Ok(_) => {}
                Err(_) => return Poll::Ready(Err(Failure::Broken)),
            }
        }
    }

    fn poll_h2_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head<'t>, Failure>> {
        let Leg::H2(up) = &mut *self.up else {
            return Poll::Ready(Err(Failure::BadResponse));
        };
        let (head, end) = ready!(up.poll_head(cx)).map_err(h2_failure)?;
        let fields = Fields::Block(&head);
        let scan = fields::scan(fields).map_err(|_| Failure::BadResponse)?;
        let status = head.status;
        let bodiless = self.relay.facts.head || status < 200 || matches!(status, 204 | 304);
        let framing = match scan.length {
            _ if bodiless => Framing::None,
            _ if end => Framing::Length(0),
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let parts = Parts {
            status,
            reason: reason(status),
            fields,
            scan: &scan,
            framing,
            text: false,
            reusable: true,
        };
        let whole = self.replay.is_whole();
        let keeping = self.keeping.as_deref_mut();
        Poll::Ready(self.relay.pass(self.down, &parts, whole, keeping))
    }
}

/// What an answer that broke off means. Where it ends is part of HTTP/1, so that there it is the
/// protocol that was broken (Envoy's word too).
fn cut_failure(up: &Leg, error: LegError) -> Failure {
    match (up, error) {
        (_, LegError::H2(error)) => h2_failure(error),
        (Leg::H2(_), LegError::Io(_)) => Failure::Broken,
        _ => Failure::BadResponse,
    }
}

/// What the end of a stream means.
pub(crate) fn h2_failure(error: StreamError) -> Failure {
    match error {
        StreamError::Refused => Failure::RefusedStream,
        StreamError::Reset(_) => Failure::Reset,
        StreamError::Malformed(_) => Failure::BadResponse,
        StreamError::Broken | StreamError::Stalled => Failure::Broken,
    }
}

/// An answer's head, from either version.
struct Parts<'p> {
    status: u16,
    reason: &'p str,
    fields: Fields<'p>,
    scan: &'p Scan<'p>,
    framing: Framing,
    text: bool,
    reusable: bool,
}

impl<'t> Relay<'t> {
    /// Passes a head on to the caller, or says that it is not for the caller. `whole` says that
    /// the request could be sent again.
    fn pass(
        &self,
        down: &mut Leg,
        parts: &Parts<'_>,
        whole: bool,
        keeping: Option<&mut Kept>,
    ) -> Result<Head<'t>, Failure> {
        let now = rt::now();
        let status = parts.status;
        let switch = self.switch(parts);
        if status < 200 && switch.is_none() {
            if status == 101 {
                return Err(Failure::BadResponse);
            }
            self.inform(down, parts);
            return Ok(Head::Informational);
        }
        let mut flag = Flag::None;
        if parts.scan.undelivered && self.peer && whole && self.chance.is_some() {
            return Err(Failure::Undelivered);
        }
        if let Some(chance) = &self.chance {
            match chance.answer(status, parts.scan, parts.fields, whole) {
                Ok(again) => return Ok(Head::Retry(status, Some(again))),
                Err(No::UnderWay) => return Ok(Head::Retry(status, None)),
                Err(No::NotMeant) => {}
                Err(No::Spent) => flag = Flag::Urx,
                Err(No::Overflow) => flag = Flag::Uo,
            }
        }
        if let Some(telling) = self.telling {
            telling.note(parts.fields);
        }
        let coded = match (&self.answering, switch) {
            (Some(answering), None) => answering.of(status, parts.fields, parts.framing),
            _ => None,
        };
        let recoding = coded
            .filter(|_| !matches!(parts.framing, Framing::None | Framing::Length(0)))
            .and_then(Coded::recoder)
            .map(|how| Box::new(Recoding::new(how)));
        // A body that is kept is read, not only passed.
        let (framing, writer) = self.framing(down, parts, recoding.is_some(), keeping.is_some());
        let close = self.close || framing == Framing::Close;
        let out = ResponseOut {
            // To a caller by HTTP/1.1, whatever the endpoint called its success.
            status: if switch.is_some() { 101 } else { status },
            reason: if switch.is_some() {
                reason(101)
            } else {
                parts.reason
            },
            fields: parts.fields,
            scan: parts.scan,
            edits: self.edits,
            framing,
            service_time: u64::try_from(now.duration_since(self.begun).as_millis()).unwrap_or(0),
            close,
            version: self.facts.version,
            switch,
            marks: self.marks,
            attempts: self.attempts,
            coded,
        };
        match down {
            Leg::H1(leg) => {
                leg.begin(writer);
                out.write_text(&mut leg.out);
            }
            Leg::H2(leg) => {
                let bodiless = matches!(framing, Framing::None | Framing::Length(0));
                let end = bodiless && switch.is_none();
                leg.answer(end, |head| out.write_h2(head));
            }
            Leg::Nobody => {}
        }
        if switch.is_some() {
            return Ok(Head::Switched);
        }
        let seen = SeenHead {
            status,
            grpc_status: parts.scan.grpc_status,
            at: now,
            reusable: parts.reusable && parts.framing != Framing::Close,
            close: framing == Framing::Close,
            flag,
        };
        let raw = parts.text
            && recoding.is_none()
            && keeping.is_none()
            && matches!(down, Leg::H1(_))
            && writer == Writer::Plain
            && parts.framing == Framing::Chunked
            && framing == Framing::Chunked;
        if let Some(kept) = keeping {
            kept.head(status, parts.fields, recoding.is_some());
        }
        let body = Body {
            framing: parts.framing,
            raw,
            recoding,
        };
        Ok(Head::Relayed(seen, body))
    }

    /// The protocol that the endpoint switches to with this answer.
    fn switch<'p>(&self, parts: &Parts<'p>) -> Option<Switch<'p>>
    where
        Self: 'p,
    {
        let asked = self.upgrade?;
        match (parts.status, parts.text) {
            (101, true) => Some(Switch {
                protocol: parts.scan.upgrade.unwrap_or_default(),
                accept: None,
            }),
            (200..=299, false) => Some(Switch {
                protocol: &asked.protocol,
                accept: asked.accept.as_deref(),
            }),
            _ => None,
        }
    }

    /// How the caller gets the body, and how it is written.
    fn framing(
        &self,
        down: &Leg,
        parts: &Parts<'_>,
        recodes: bool,
        keeps: bool,
    ) -> (Framing, Writer) {
        match (parts.framing, down, self.facts.version) {
            (framing @ (Framing::None | Framing::Length(_)), ..) if !recodes => {
                (framing, Writer::Plain)
            }
            (_, Leg::H2(_) | Leg::Nobody, _) => (Framing::Chunked, Writer::Plain),
            (_, Leg::H1(_), Version::Http10) => (Framing::Close, Writer::Plain),
            (Framing::Chunked, Leg::H1(_), _) if parts.text && !recodes && !keeps => {
                (Framing::Chunked, Writer::Plain)
            }
            (_, Leg::H1(_), _) => (Framing::Chunked, Writer::Chunked),
        }
    }

    fn inform(&self, down: &mut Leg, parts: &Parts<'_>) {
        if self.facts.version == Version::Http10 {
            return;
        }
        let out = ResponseOut {
            status: parts.status,
            reason: parts.reason,
            fields: parts.fields,
            scan: parts.scan,
            edits: Edits::default(),
            framing: Framing::None,
            service_time: 0,
            close: false,
            version: self.facts.version,
            switch: None,
            marks: None,
            attempts: None,
            coded: None,
        };
        match down {
            Leg::H1(leg) => out.write_text(&mut leg.out),
            Leg::H2(leg) => leg.inform(|head| out.write_h2(head)),
            Leg::Nobody => {}
        }
    }
}

/// Whether nothing of a request can have reached the endpoint.
pub(crate) fn nothing_written(up: &Leg) -> bool {
    match up {
        Leg::H1(leg) => !H1Leg::wrote_something(leg),
        Leg::H2(_) | Leg::Nobody => false,
    }
}
