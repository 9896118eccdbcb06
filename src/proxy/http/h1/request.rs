//! One HTTP/1 request: read, answered, reported.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::mesh::route::HeaderOperations;
use crate::rt;
use crate::telemetry::{AccessRecord, ServiceId};

use super::super::super::buffer::{Buffer, LARGE};
use super::super::super::context::{Conn, Live, Worker};
use super::super::super::filter::cors::Granted;
use super::super::super::observe;
use super::super::super::timer::Alarm;
use super::super::super::trace::{self, Span};
use super::super::answer::Answer;
use super::super::ask;
use super::super::call::{self, Call, Ended};
use super::super::edits::Edits;
use super::super::fields;
use super::super::hold::hold;
use super::super::leg::{H1Leg, Leg, Writer};
use super::super::plan::{Ask, Chosen, Facts, HeadOut, Plan, RouteAt, Then, named, plan};
use super::super::recode::Web;
use super::super::respond::{Failure, grpc_status};
use super::super::{Framing, Version, tunnel};
use super::body::BodyReader;
use super::parse;

/// Empty lines before a request are passed over (RFC 9112, 2.2), up to so many bytes.
const EMPTY_LINES: usize = 16;
/// Of a body that nobody wants, this much is read so that the connection can go on.
const DISCARD: u64 = 256 * 1024;

/// What becomes of a connection behind a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Another request may come.
    Next,
    /// It ends, whatever the caller may still send.
    End,
    /// The caller has said that it sends nothing more.
    Over,
}

impl After {
    fn next_if(go_on: bool) -> Self {
        if go_on { Self::Next } else { Self::End }
    }
}

/// The earlier of two deadlines that may be none.
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A request that has begun to come.
pub(super) struct Request<'r> {
    pub(super) worker: &'r Rc<Worker>,
    pub(super) live: &'r Rc<Live>,
    pub(super) conn: &'r Conn,
    /// Index of its route table.
    pub(super) routes: Option<usize>,
    pub(super) begun: Instant,
    /// The connection takes no further request.
    pub(super) last: bool,
    /// What its trace will be told at its end.
    pub(super) span: Cell<Option<Box<Span>>>,
}

impl Request<'_> {
    /// Reads, answers and reports one request.
    pub(super) async fn run(&self, down: &mut Leg, alarm: &mut Alarm, text: &mut Vec<u8>) -> After {
        // Taken apart at once and matched in place: what is moved keeps its place in the future.
        let (
            Plan {
                mut facts,
                mut then,
                mut log,
                mut span,
                ..
            },
            length,
        ) = match self.read(down, alarm, text).await {
            Ok(Some(read)) => read,
            Ok(None) => return After::End,
            Err(failure) => {
                Box::pin(self.refuse(down, failure)).await;
                return After::End;
            }
        };
        let Leg::H1(leg) = down else {
            return After::End;
        };
        leg.input.consume(length);
        leg.input.release();
        let head_bytes = u64::try_from(length).unwrap_or(0);
        let asked = matches!(then, Then::Ask(_));
        if asked {
            let around = ask::Around {
                worker: self.worker,
                live: self.live,
                conn: self.conn,
                routes: self.routes,
            };
            let planned = ask::Planned {
                facts: &mut facts,
                then: &mut then,
                log: &mut log,
                span: &mut span,
            };
            if !Box::pin(ask::ask(&around, down, alarm, planned)).await {
                let gone = Ended::new(ServiceId::default()).fail(Failure::CallerGone);
                self.report(Some(facts), head_bytes, log, &gone.unanswered());
                return After::End;
            }
        }
        self.span.set(span);
        let delayed = matches!(then, Then::Delayed(_));
        if delayed && !Box::pin(hold(down, alarm, &mut then)).await {
            let gone = Ended::new(ServiceId::default()).fail(Failure::CallerGone);
            self.report(Some(facts), head_bytes, log, &gone.unanswered());
            return After::End;
        }
        let Leg::H1(leg) = down else {
            return After::End;
        };
        let raw = !facts.recodes()
            && !facts.held
            && matches!(&then, Then::Forward(chosen) if matches!(chosen.head, HeadOut::Text(_)));
        let most = self.conn.http().options.limits.max_request_bytes;
        if !facts.held {
            leg.reader = BodyReader::new(facts.framing, raw).up_to(most);
        }
        let close = self.conn.state.draining.get() || !facts.keep || self.last;

        let (mut ended, edits_of) = match &mut then {
            Then::Fail(failure, meant) => {
                let refused = (&*failure, meant.as_deref());
                let mut ended = Ended::refused(self.live, self.conn, refused);
                ended.close &= !self.conn.http().options.http1.keep_after_error;
                // Who asks for a tunnel may begin to use it before it is there.
                ended.close |= facts.connect;
                (ended, None)
            }
            Then::Answer(answer, at) => {
                let report = (head_bytes, log, delayed);
                let answered = self.answer(down, answer, (*at, facts, close), report);
                return After::next_if(answered.await);
            }
            Then::Forward(chosen) if facts.connect => {
                let tunnel = self.tunnel(down, chosen, facts, (head_bytes, log));
                Box::pin(tunnel).await;
                return After::End;
            }
            Then::Forward(chosen) => {
                let at = chosen.at;
                let call = Call {
                    worker: self.worker,
                    live: self.live,
                    conn: self.conn,
                    facts,
                    chosen,
                    // Limits in time are for what follows.
                    begun: if delayed || asked {
                        rt::now()
                    } else {
                        self.begun
                    },
                    close,
                };
                let ended = call::forward(&call, down, alarm).await;
                call.passed(&ended);
                if let HeadOut::Text(used) = &mut chosen.head {
                    *text = std::mem::take(used);
                }
                (ended, Some((at, chosen.granted())))
            }
            // Nothing is held back twice, and nobody is left to ask.
            Then::Delayed(_) | Then::Ask(_) => return After::End,
        };
        if delayed {
            ended.delayed();
        }
        if let Some(failure) = ended.failure.clone() {
            let close = close || ended.close;
            let answered = Box::pin(self.fail(down, &failure, facts, edits_of, close)).await;
            ended.broken |= !answered;
        }
        if ended.broken {
            // What came before the break is the caller's, even where both came at once.
            poll_fn(|cx| Poll::Ready(down.poll_flush(cx).is_ready())).await;
        }
        if let Some((mut up, _shared)) = ended.switched.take() {
            Box::pin(tunnel::run((&mut *down, &mut up), &mut ended, None)).await;
            ended.broken = true;
        }
        // A drain that began meanwhile was not announced: the next answer does that.
        let whole = !ended.broken && !ended.close;
        self.report(Some(facts), head_bytes, log, &ended);
        // Not for what this proxy alone has decided to end.
        let asked = !facts.keep && !self.worker.shared.overload.ends_connections();
        if whole && asked && down.is_drained() {
            return After::Over;
        }
        After::next_if(whole && !close && discard(down).await)
    }

    /// Reads a head and decides. `None` when the caller ended first.
    async fn read(
        &self,
        down: &mut Leg,
        alarm: &mut Alarm,
        text: &mut Vec<u8>,
    ) -> Result<Option<(Plan, usize)>, Failure> {
        let Leg::H1(leg) = down else { return Ok(None) };
        let http = self.conn.http();
        let timeouts = &http.options.timeouts;
        let deadline = earlier(
            timeouts.request_headers.map(|limit| self.begun + limit),
            timeouts.request.map(|limit| self.begun + limit),
        );
        let mut skipped = 0;
        loop {
            while leg.input.data().starts_with(b"\r\n") {
                leg.input.consume(2);
                skipped += 2;
                if skipped > EMPTY_LINES {
                    return Err(Failure::Malformed("http1.codec_error"));
                }
            }
            let read = parse::request(leg.input.data(), http, |head| {
                let scan =
                    fields::scan(head.fields).map_err(|bad| Failure::Malformed(bad.details()))?;
                if scan.chunked && head.version == Version::Http10 {
                    return Err(Failure::Malformed("http1.transfer_encoding_not_allowed"));
                }
                if scan.connection.hides {
                    return Err(Failure::Malformed("http1.connection_header_rejected"));
                }
                let ask = Ask {
                    method: head.method.as_bytes(),
                    target: head.target.as_bytes(),
                    authority: scan.host,
                    version: head.version,
                    fields: head.fields,
                    scan: &scan,
                    framing: scan.request_framing(),
                    upgrade: upgrade(head.version, &scan),
                    leave: None,
                };
                let text = std::mem::take(text);
                let plan = plan(self.worker, self.live, self.conn, self.routes, &ask, text);
                let plan = match plan {
                    // Where it ends is known, so the next one can be read.
                    Err(failure) if http.options.http1.keep_after_error => {
                        Plan::refused(&ask, failure)
                    }
                    plan => plan?,
                };
                Ok((plan, head.length))
            })?;
            if read.is_some() {
                return Ok(read);
            }
            // Looked at again only after a line has ended: a head that comes byte by byte would
            // cost the square of its size.
            loop {
                let before = leg.input.data().len();
                if http.max_head >= LARGE {
                    leg.input.make_room(http.max_head);
                }
                let idle = timeouts.stream_idle.map(|limit| rt::now() + limit);
                let more = alarm
                    .within(earlier(deadline, idle), poll_fn(|cx| leg.poll_fill(cx)))
                    .await;
                match more {
                    Some(Ok(0)) if leg.input.data().iter().all(u8::is_ascii_whitespace) => {
                        return Ok(None);
                    }
                    Some(Ok(0)) => return Err(Failure::Malformed("http1.codec_error")),
                    Some(Ok(_)) => {}
                    Some(Err(_)) => return Ok(None),
                    None => return Err(self.late()),
                }
                let data = leg.input.data();
                let new = data.get(before..).unwrap_or_default();
                if new.contains(&b'\n') || data.len() >= http.max_head {
                    break;
                }
            }
        }
    }

    /// Which limit a head has run into.
    fn late(&self) -> Failure {
        let timeouts = &self.conn.http().options.timeouts;
        let over =
            |limit: Option<Duration>| limit.is_some_and(|limit| self.begun.elapsed() >= limit);
        if over(timeouts.request_headers) {
            Failure::HeadTimeout
        } else if over(timeouts.request) {
            Failure::RequestTimeout
        } else {
            Failure::StreamIdle { complete: false }
        }
    }

    /// Answers what could not be read as a request.
    async fn refuse(&self, down: &mut Leg, failure: Failure) {
        let facts = Facts {
            version: Version::Http11,
            framing: Framing::None,
            head: false,
            idempotent: false,
            grpc: false,
            web: None,
            connect: false,
            upgrade: false,
            keep: false,
            held: false,
        };
        let started = || self.worker.shared.log.is_some();
        let table = self.conn.http().log.as_ref();
        let log = table.map_or_else(started, |table| table.logs()).then(|| {
            Box::new(AccessRecord {
                start: self.worker.shared.wall.millis(),
                downstream_local: self.conn.local.to_string(),
                downstream_remote: self.conn.remote.to_string(),
                direct_remote: self.conn.direct_remote().to_string(),
                connection: self.conn.state.id.get(),
                chain: self.conn.chain_name(),
                ..AccessRecord::default()
            })
        });
        let ended = Ended::new(ServiceId::default()).fail(failure.clone());
        self.fail(down, &failure, facts, None, true).await;
        self.report(Some(facts), 0, log, &ended);
    }

    /// Tells the caller of a failure. Whether that went out.
    async fn fail(
        &self,
        down: &mut Leg,
        failure: &Failure,
        facts: Facts,
        of: Option<(RouteAt, Option<&Granted>)>,
        close: bool,
    ) -> bool {
        let mut answer = failed(failure, &facts);
        answer.undelivered &= self.conn.by_peer();
        let none = HeaderOperations::default();
        let edits = of
            .and_then(|(at, granted)| Some((at.route(self.live)?, granted)))
            .map_or_else(Edits::default, |(route, granted)| {
                Edits::new(&none, &route.headers.response).with_granted(granted)
            });
        self.write(down, &answer, edits, (close, facts)).await
    }

    async fn write(
        &self,
        down: &mut Leg,
        answer: &Answer,
        edits: Edits<'_>,
        (close, facts): (bool, Facts),
    ) -> bool {
        let Leg::H1(leg) = down else { return false };
        leg.begin(Writer::Plain);
        let ends = (close, facts.version, facts.head);
        named(self.conn, answer).write_text(&mut leg.out, edits, ends);
        poll_fn(|cx| leg.poll_flush(cx)).await.is_ok()
    }

    /// Answers by the route itself.
    async fn answer(
        &self,
        down: &mut Leg,
        answer: &Answer,
        (at, facts, close): (Option<RouteAt>, Facts, bool),
        (head_bytes, log, delayed): (u64, Option<Box<AccessRecord>>, bool),
    ) -> bool {
        let none = HeaderOperations::default();
        let route = at.and_then(|at| at.route(self.live));
        let edits = route.map_or_else(Edits::default, |route| {
            Edits::new(&none, &route.headers.response)
        });
        let answered = self.write(down, answer, edits, (close, facts)).await;
        let mut ended = Ended::new(ServiceId::default());
        ended.status = answer.status;
        ended.details = own_details(at);
        ended.sent = u64::try_from(answer.body().len()).unwrap_or(0);
        if delayed {
            ended.delayed();
        }
        self.report(Some(facts), head_bytes, log, &ended);
        answered && !close && discard(down).await
    }

    async fn tunnel(
        &self,
        down: &mut Leg,
        chosen: &Chosen,
        facts: Facts,
        (head_bytes, log): (u64, Option<Box<AccessRecord>>),
    ) {
        let (mut ended, stream) =
            Box::pin(tunnel::connect(self.worker, self.live, self.conn, chosen)).await;
        if let (Some((stream, link)), Leg::H1(leg)) = (stream, &mut *down) {
            leg.begin(Writer::Plain);
            leg.out.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
            let mut up = Leg::H1(H1Leg::new(stream, Buffer::default()));
            Box::pin(tunnel::run((down, &mut up), &mut ended, link)).await;
        } else if let Some(failure) = ended.failure.clone() {
            self.fail(down, &failure, facts, None, true).await;
        }
        self.report(Some(facts), head_bytes, log, &ended);
    }

    fn report(
        &self,
        facts: Option<Facts>,
        head_bytes: u64,
        log: Option<Box<AccessRecord>>,
        ended: &Ended,
    ) {
        trace::end(self.worker, self.span.take(), self.begun, ended);
        observe::request(
            self.worker,
            self.live,
            self.conn,
            (facts, self.begun, head_bytes),
            log,
            ended,
        );
    }
}

/// Another protocol that a request asks for.
fn upgrade<'m>(version: Version, scan: &fields::Scan<'m>) -> Option<&'m [u8]> {
    let may = version == Version::Http11 && scan.request_framing() == Framing::None;
    // HTTP/2 by that way would be one hop's, and nobody would look into it (Envoy too takes the wish
    // out).
    scan.upgrade
        .filter(|name| may && scan.connection.upgrade && !name.eq_ignore_ascii_case(b"h2c"))
}

/// The proxy's own answer to a failed request.
pub(crate) fn failed(failure: &Failure, facts: &Facts) -> Answer {
    failed_for(failure, facts.grpc, facts.web.map(|web| web.answer))
}

/// The same for a caller of whom only this is known.
pub(crate) fn failed_for(failure: &Failure, grpc: bool, web: Option<Web>) -> Answer {
    let reply = failure.reply();
    let refusal = match failure {
        Failure::Filtered(refusal) => Some(refusal),
        _ => None,
    };
    let told = match failure {
        Failure::Unauthorized(told) => Some(told),
        _ => None,
    };
    Answer {
        status: reply.status,
        location: None,
        body: told.map_or(reply.body, |told| &told.body).to_owned(),
        overloaded: failure.is_overload(),
        undelivered: failure.never_reached(),
        headers: refusal
            .map(|refusal| &refusal.headers)
            .or(told.map(|told| &told.headers))
            .cloned()
            .unwrap_or_default(),
        web,
        grpc_status: grpc.then(|| {
            refusal.map_or_else(|| grpc_status(reply.status), |refusal| refusal.grpc_status)
        }),
        marks: None,
    }
}

/// `response_code_details` of an answer by the proxy itself; without a route it is the one about
/// the path.
pub(crate) fn own_details(at: Option<RouteAt>) -> &'static str {
    match at {
        Some(_) => "direct_response",
        None => "path_normalization_failed",
    }
}

/// Reads a body that nobody wanted, so that the next request can be read. False when there is too
/// much of it.
async fn discard(down: &mut Leg) -> bool {
    if down.is_drained() {
        return true;
    }
    let Leg::H1(leg) = down else { return true };
    let reading = poll_fn(|cx| leg.poll_discard(cx, DISCARD));
    tokio::time::timeout(Duration::from_secs(5), reading)
        .await
        .is_ok_and(|done| done)
}
