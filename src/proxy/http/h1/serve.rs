//! Serving an HTTP/1 connection: one request after the other.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::mesh::route::HeaderOperations;
use crate::rt;
use crate::telemetry::{AccessRecord, ServiceId};

use super::super::super::buffer::{Buffer, give_text, take_text};
use super::super::super::context::{Conn, Live, Worker};
use super::super::super::observe;
use super::super::super::stream::Stream;
use super::super::super::timer::Alarm;
use super::super::call::{self, Call, Ended};
use super::super::fields;
use super::super::head::{Answer, Edits};
use super::super::leg::{H1Leg, Leg, Writer};
use super::super::plan::{Ask, Chosen, Facts, HeadOut, Plan, RouteAt, Then, plan};
use super::super::respond::{Failure, grpc_status};
use super::super::{Framing, Version, tunnel};
use super::body::BodyReader;
use super::parse;

/// A connection on which no request is under way is closed after this long (Envoy's default).
const IDLE: Duration = Duration::from_hours(1);
/// A head that has begun must be complete within this.
const HEAD: Duration = Duration::from_mins(1);
/// Of a body that nobody wants, this much is read so that the connection can go on.
const DISCARD: u64 = 256 * 1024;

/// Serves `stream` by the route table named `table`; `first` was read for detection.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    conn: Conn,
    table: Rc<str>,
    (stream, first): (Stream, Buffer),
) {
    let mut leg = Leg::H1(H1Leg::new(stream, first));
    let mut alarm = Alarm::default();
    let mut text = Vec::new();
    let mut routes = Routes::new(table);
    loop {
        let Some(()) = wait_for_request(&mut leg, &conn, &mut alarm).await else {
            return;
        };
        let live = worker.live();
        let routes = routes.index(&live);
        if text.capacity() == 0 {
            text = take_text();
        }
        let begun = rt::now();
        let request = Request {
            worker: &worker,
            live: &live,
            conn: &conn,
            routes,
            begun,
        };
        let go_on = request.run(&mut leg, &mut alarm, &mut text).await;
        let Leg::H1(own) = &mut leg else { return };
        if !go_on || own.ended && own.input.is_empty() {
            Box::pin(close(&mut own.io, &mut own.input)).await;
            return;
        }
        if own.input.is_empty() {
            give_text(std::mem::take(&mut text));
        }
    }
}

/// A route table by name, and its index in the version of the tables that was last seen.
#[derive(Debug)]
pub(crate) struct Routes {
    name: Rc<str>,
    seen: Option<(Rc<Live>, Option<usize>)>,
}

impl Routes {
    pub(crate) fn new(name: Rc<str>) -> Self {
        Self { name, seen: None }
    }

    /// The index in `live`.
    pub(crate) fn index(&mut self, live: &Rc<Live>) -> Option<usize> {
        match &self.seen {
            Some((seen, index)) if Rc::ptr_eq(seen, live) => *index,
            _ => {
                let index = live.tables.route_index(&self.name);
                self.seen = Some((Rc::clone(live), index));
                index
            }
        }
    }
}

/// Waits for the first bytes of a request, without memory while there are none. `None` when the
/// connection is to end.
async fn wait_for_request(leg: &mut Leg, conn: &Conn, alarm: &mut Alarm) -> Option<()> {
    let Leg::H1(leg) = leg else { return None };
    if !leg.input.is_empty() {
        return Some(());
    }
    conn.state.idle.set(true);
    let mut deadline = None;
    let filled = poll_fn(|cx| match leg.poll_fill(cx) {
        Poll::Ready(filled) => Poll::Ready(filled.unwrap_or(0)),
        Poll::Pending => {
            leg.rest();
            let deadline = *deadline.get_or_insert_with(|| rt::now() + IDLE);
            alarm.poll(cx, deadline).map(|()| 0)
        }
    })
    .await;
    conn.state.idle.set(false);
    (filled > 0).then_some(())
}

/// Ends a connection so that the caller gets the last answer: what it still sends is read and
/// thrown away for a moment, as closing over unread bytes resets the connection.
async fn close(io: &mut Stream, input: &mut Buffer) {
    if io.shutdown().await.is_err() {
        return;
    }
    let linger = async {
        for _ in 0..64 {
            input.consume(usize::MAX / 2);
            match poll_fn(|cx| io.poll_fill(cx, input)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    // Whether the caller ended too or time ran out makes no difference any more.
    let _lingered = tokio::time::timeout(Duration::from_millis(500), linger).await;
}

struct Request<'r> {
    worker: &'r Rc<Worker>,
    live: &'r Rc<Live>,
    conn: &'r Conn,
    routes: Option<usize>,
    begun: Instant,
}

impl Request<'_> {
    /// Reads, answers and reports one request. False when the connection must end.
    async fn run(&self, down: &mut Leg, alarm: &mut Alarm, text: &mut Vec<u8>) -> bool {
        let read = self.read(down, alarm, text).await;
        let (plan, length) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return false,
            Err(failure) => {
                self.refuse(down, failure).await;
                return false;
            }
        };
        let Leg::H1(leg) = down else { return false };
        leg.input.consume(length);
        let facts = plan.facts;
        let raw =
            matches!(&plan.then, Then::Forward(chosen) if matches!(chosen.head, HeadOut::Text(_)));
        leg.reader = BodyReader::new(facts.framing, raw);
        let head_bytes = u64::try_from(length).unwrap_or(0);
        let close = self.conn.state.draining.get() || !facts.keep;

        let (mut ended, edits_of) = match plan.then {
            Then::Fail(failure) => (Ended::new(ServiceId::default()).fail(failure), None),
            Then::Answer(answer, at) => {
                return self
                    .answer(down, answer, (at, facts, close), (head_bytes, plan.log))
                    .await;
            }
            Then::Forward(chosen) if facts.connect => {
                return self
                    .tunnel(down, &chosen, facts, (head_bytes, plan.log))
                    .await;
            }
            Then::Forward(chosen) => {
                let at = chosen.at;
                let call = Call {
                    worker: self.worker,
                    live: self.live,
                    conn: self.conn,
                    facts,
                    chosen: &chosen,
                    begun: self.begun,
                    close,
                };
                let ended = call::forward(&call, down, alarm).await;
                if let HeadOut::Text(used) = chosen.head {
                    *text = used;
                }
                (ended, Some(at))
            }
        };
        if let Some(failure) = ended.failure.clone() {
            let answered = self
                .fail(down, &failure, facts, edits_of, close || ended.close)
                .await;
            ended.broken |= !answered;
        }
        if let Some(mut up) = ended.switched.take() {
            if let Leg::H1(leg) = down {
                Box::pin(tunnel::run(leg, &mut up, &mut ended)).await;
            }
            ended.broken = true;
        }
        // A drain that began meanwhile was not announced: the next answer does that.
        let go_on = !ended.broken && !ended.close && !close;
        self.report(Some(facts), head_bytes, plan.log, &ended);
        go_on && discard(down).await
    }

    /// Reads a head and decides. `None` when the caller ended first.
    async fn read(
        &self,
        down: &mut Leg,
        alarm: &mut Alarm,
        text: &mut Vec<u8>,
    ) -> Result<Option<(Plan, usize)>, Failure> {
        let Leg::H1(leg) = down else { return Ok(None) };
        loop {
            let read = parse::request(leg.input.data(), |head| {
                let scan =
                    fields::scan(head.fields).map_err(|bad| Failure::Malformed(bad_fields(bad)))?;
                if scan.chunked && head.version == Version::Http10 {
                    return Err(Failure::Malformed("http1.transfer_encoding_in_http10"));
                }
                let ask = Ask {
                    method: head.method.as_bytes(),
                    target: head.target.as_bytes(),
                    authority: scan.host,
                    version: head.version,
                    fields: head.fields,
                    scan: &scan,
                    framing: scan.request_framing(),
                };
                let text = std::mem::take(text);
                let plan = plan(self.worker, self.live, self.conn, self.routes, &ask, text)?;
                Ok((plan, head.length))
            })?;
            if let Some((plan, length)) = read {
                return Ok(Some((plan, length)));
            }
            let more = alarm
                .within(Some(self.begun + HEAD), poll_fn(|cx| leg.poll_fill(cx)))
                .await;
            match more {
                Some(Ok(0)) if leg.input.data().iter().all(u8::is_ascii_whitespace) => {
                    return Ok(None);
                }
                Some(Ok(0)) => return Err(Failure::Malformed("http1.incomplete_head")),
                Some(Ok(_)) => {}
                Some(Err(_)) => return Ok(None),
                None => return Err(Failure::RequestTimeout),
            }
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
            connect: false,
            upgrade: false,
            keep: false,
        };
        let log = self.worker.shared.log.is_some().then(|| {
            Box::new(AccessRecord {
                start: self.worker.shared.wall.millis(),
                downstream_local: self.conn.local.to_string(),
                downstream_remote: self.conn.remote.to_string(),
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
        at: Option<RouteAt>,
        close: bool,
    ) -> bool {
        let answer = failed(failure, facts.grpc);
        let none = HeaderOperations::default();
        let edits = at
            .and_then(|at| at.route(self.live))
            .map_or_else(Edits::default, |route| {
                Edits::new(&none, &route.headers.response)
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
        answer.write_text(&mut leg.out, edits, (close, facts.version, facts.head));
        poll_fn(|cx| leg.poll_flush(cx)).await.is_ok()
    }

    /// Answers by the route itself.
    async fn answer(
        &self,
        down: &mut Leg,
        answer: Answer,
        (at, facts, close): (RouteAt, Facts, bool),
        (head_bytes, log): (u64, Option<Box<AccessRecord>>),
    ) -> bool {
        let none = HeaderOperations::default();
        let edits = at.route(self.live).map_or_else(Edits::default, |route| {
            Edits::new(&none, &route.headers.response)
        });
        let answered = self.write(down, &answer, edits, (close, facts)).await;
        let mut ended = Ended::new(ServiceId::default());
        ended.status = answer.status;
        ended.details = "direct_response";
        ended.sent = u64::try_from(answer.body().len()).unwrap_or(0);
        self.report(Some(facts), head_bytes, log, &ended);
        answered && !close && discard(down).await
    }

    async fn tunnel(
        &self,
        down: &mut Leg,
        chosen: &Chosen,
        facts: Facts,
        (head_bytes, log): (u64, Option<Box<AccessRecord>>),
    ) -> bool {
        let (mut ended, stream) =
            Box::pin(tunnel::connect(self.worker, self.live, self.conn, chosen)).await;
        if let (Some(stream), Leg::H1(leg)) = (stream, &mut *down) {
            leg.begin(Writer::Plain);
            leg.out.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
            let mut up = H1Leg::new(stream, Buffer::default());
            Box::pin(tunnel::run(leg, &mut up, &mut ended)).await;
        } else if let Some(failure) = ended.failure.clone() {
            self.fail(down, &failure, facts, None, true).await;
        }
        self.report(Some(facts), head_bytes, log, &ended);
        false
    }

    fn report(
        &self,
        facts: Option<Facts>,
        head_bytes: u64,
        log: Option<Box<AccessRecord>>,
        ended: &Ended,
    ) {
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

/// The proxy's own answer to a failed request.
pub(crate) fn failed(failure: &Failure, grpc: bool) -> Answer {
    let reply = failure.reply();
    Answer {
        status: reply.status,
        location: None,
        body: reply.body.to_owned(),
        overloaded: *failure == Failure::Overflow,
        grpc_status: grpc.then(|| grpc_status(reply.status)),
    }
}

fn bad_fields(bad: fields::BadFields) -> &'static str {
    match bad {
        fields::BadFields::TwoFramings => "http1.content_length_and_transfer_encoding",
        fields::BadFields::SeveralLengths => "http1.several_content_lengths",
        fields::BadFields::Length => "http1.invalid_content_length",
        fields::BadFields::TransferEncoding => "http1.unsupported_transfer_encoding",
        fields::BadFields::SeveralHosts => "http1.several_hosts",
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
