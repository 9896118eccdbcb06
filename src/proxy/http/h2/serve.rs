//! Serving an HTTP/2 connection: one task for the connection, and lanes that serve its streams.
//!
//! A lane is a task that serves one stream after the other, as a connection of HTTP/1 does: there
//! are as many as streams were under way at once, and none on a connection that rests.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::mesh::http::Underscores;
use crate::mesh::route::HeaderOperations;
use crate::rt;
use crate::telemetry::ServiceId;

use super::super::super::buffer::{Buffer, take_text};
use super::super::super::context::{Conn, Live, Worker};
use super::super::super::observe;
use super::super::super::stream::Stream;
use super::super::super::timer::Alarm;
use super::super::super::trace;
use super::super::answer::Answer;
use super::super::ask;
use super::super::call::{self, Call, Ended};
use super::super::edits::Edits;
use super::super::fields::{self, Fields};
use super::super::h1::request::{failed, failed_for, own_details};
use super::super::h1::serve::Routes;
use super::super::hold::hold;
use super::super::leg::{H1Leg, H2Leg, Leg};
use super::super::plan::{Ask, Facts, Plan, RouteAt, Then, named, plan};
use super::super::respond::Failure;
use super::super::{Framing, Version, tunnel};
use super::carry::Carrier;
use super::config::Config;
use super::frame::Reason;
use super::handle::{self, Handle};
use super::session::{Arrived, Role, Session};

/// Lanes without work are kept this long.
const LINGER: Duration = Duration::from_secs(5);

/// What the streams of a connection share.
struct Shared {
    worker: Rc<Worker>,
    conn: Box<Conn>,
    routes: RefCell<Routes>,
    session: handle::Shared,
    /// Lanes without work.
    free: RefCell<Vec<Rc<Lane>>>,
    over: Cell<bool>,
}

/// Where a lane gets its work.
#[derive(Default)]
struct Lane {
    work: Cell<Option<Arrived>>,
    waker: Cell<Option<Waker>>,
    over: Cell<bool>,
}

impl Lane {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Ends what belongs to a connection when its task ends, however it does.
struct Ending(Rc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.over.set(true);
        self.0.session.borrow_mut().close();
        self.0.end_lanes();
    }
}

/// Serves `stream` by the route table named `table`.
pub(crate) async fn serve(worker: Rc<Worker>, conn: Box<Conn>, table: Rc<str>, stream: Stream) {
    let session = Session::new(Role::Server, Config::of(conn.http()), rt::now());
    let shared = Rc::new(Shared {
        worker,
        conn,
        routes: RefCell::new(Routes::new(table)),
        session: Rc::new(RefCell::new(session)),
        free: RefCell::default(),
        over: Cell::new(false),
    });
    let _ending = Ending(Rc::clone(&shared));
    let mut carrier = Carrier::new(stream);
    run(&mut carrier, &shared).await;
    if let Some(fault) = shared.session.borrow().fault() {
        let registry = &shared.worker.shared.registry;
        registry.http2_ended("downstream", fault.detail);
        tracing::debug!(remote = %shared.conn.remote, %fault, "HTTP/2 connection ended");
    }
    Box::pin(carrier.finish()).await;
}

async fn run(carrier: &mut Carrier, shared: &Rc<Shared>) {
    let mut alarm = Alarm::default();
    let mut rested: Option<Instant> = None;
    let state = &shared.conn.state;
    let mut leaving = false;
    loop {
        let told = state.wake.notified();
        let mut told = std::pin::pin!(told);
        let over = poll_fn(|cx| {
            if !leaving
                && (state.draining.get() || std::future::Future::poll(told.as_mut(), cx).is_ready())
            {
                return Poll::Ready(false);
            }
            if carrier
                .poll(cx, &shared.session, || shared.begin_arrived())
                .is_ready()
            {
                return Poll::Ready(true);
            }
            if shared.free.borrow().is_empty() || shared.session.borrow().len() > 0 {
                rested = None;
                return Poll::Pending;
            }
            let until = *rested.get_or_insert_with(|| rt::now() + LINGER);
            if alarm.poll(cx, until).is_ready() {
                shared.end_lanes();
            }
            Poll::Pending
        })
        .await;
        if over {
            return;
        }
        if state.draining.get() {
            shared.session.borrow_mut().leave(rt::now());
            leaving = true;
        }
    }
}

impl Shared {
    /// Gives streams that came to lanes. Whether there were any.
    fn begin_arrived(self: &Rc<Self>) -> bool {
        let mut any = false;
        loop {
            let arrived = self.session.borrow_mut().arrived(rt::now);
            let Some(arrived) = arrived else {
                return any;
            };
            any = true;
            let free = self.free.borrow_mut().pop();
            if let Some(lane) = free {
                lane.work.set(Some(arrived));
                lane.wake();
            } else {
                let lane = Rc::new(Lane::default());
                lane.work.set(Some(arrived));
                tokio::task::spawn_local(run_lane(Rc::clone(self), lane));
            }
        }
    }

    fn end_lanes(&self) {
        for lane in self.free.take() {
            lane.over.set(true);
            lane.wake();
        }
    }
}

async fn run_lane(shared: Rc<Shared>, lane: Rc<Lane>) {
    let mut alarm = Alarm::default();
    loop {
        let work = poll_fn(|cx| {
            let work = lane.work.take();
            if work.is_some() || lane.over.get() {
                return Poll::Ready(work);
            }
            lane.waker.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
        let Some(work) = work else { return };
        one(&shared, work, &mut alarm).await;
        if shared.over.get() {
            return;
        }
        shared.free.borrow_mut().push(Rc::clone(&lane));
    }
}

/// Answers one stream.
async fn one(shared: &Rc<Shared>, mut arrived: Arrived, alarm: &mut Alarm) {
    let begun = rt::now();
    let (worker, conn) = (&shared.worker, &shared.conn);
    let live = worker.live();
    let handle = Handle::new(Rc::clone(&shared.session), (arrived.key, arrived.id));
    let mut leg = H2Leg::new(handle, false);
    leg.up_to(conn.http().options.limits.max_request_bytes);
    if arrived.head.fault_of_request().is_some() {
        leg.reset(Reason::PROTOCOL_ERROR);
    }
    if conn.http().options.limits.underscores == Underscores::DropHeader {
        arrived.head.drop_odd();
    }
    let planned = shared.plan(&live, &arrived);
    drop(arrived);
    let mut down = Leg::H2(leg);
    let mut plan = match planned {
        Ok(plan) => plan,
        Err(failure) => {
            let ended = Ended::new(ServiceId::default()).fail(failure.clone());
            answer(
                &mut down,
                conn,
                &failed_for(&failure, false, None),
                (Edits::default(), false),
            )
            .await;
            observe::request(worker, &live, conn, (None, begun, 0), None, &ended);
            return;
        }
    };
    let asked = matches!(plan.then, Then::Ask(_));
    let mut kept = true;
    if asked {
        let around = ask::Around {
            worker,
            live: &live,
            conn,
            routes: shared.routes.borrow_mut().index(&live),
        };
        let planned = ask::Planned {
            facts: &mut plan.facts,
            then: &mut plan.then,
            log: &mut plan.log,
            span: &mut plan.span,
        };
        kept = Box::pin(ask::ask(&around, &mut down, alarm, planned)).await;
    }
    let facts = plan.facts;
    let none = HeaderOperations::default();
    let edits = |at: RouteAt| {
        at.route(&live).map_or_else(Edits::default, |route| {
            Edits::new(&none, &route.headers.response)
        })
    };
    let delayed = matches!(plan.then, Then::Delayed(_));
    kept = kept && (!delayed || Box::pin(hold(&mut down, alarm, &mut plan.then)).await);
    let mut ended = match &plan.then {
        _ if !kept => {
            let gone = Ended::new(ServiceId::default()).fail(Failure::CallerGone);
            gone.unanswered()
        }
        Then::Fail(failure, meant) => {
            let own = failed(failure, &facts);
            answer(&mut down, conn, &own, (Edits::default(), facts.head)).await;
            Ended::refused(&live, conn, (failure, meant.as_deref()))
        }
        Then::Answer(own, at) => {
            let edits = at.map_or_else(Edits::default, edits);
            answer(&mut down, conn, own, (edits, facts.head)).await;
            let mut ended = Ended::new(ServiceId::default());
            ended.status = own.status;
            ended.details = own_details(*at);
            ended
        }
        Then::Forward(chosen) if facts.connect => {
            let (mut ended, stream) = Box::pin(tunnel::connect(worker, &live, conn, chosen)).await;
            if let (Some((stream, link)), Leg::H2(leg)) = (stream, &mut down) {
                leg.answer(false, |out| out.status(200));
                let mut up = Leg::H1(H1Leg::new(stream, Buffer::default()));
                Box::pin(tunnel::run((&mut down, &mut up), &mut ended, link)).await;
            } else if let Some(failure) = &ended.failure {
                let own = failed(failure, &facts);
                answer(&mut down, conn, &own, (Edits::default(), facts.head)).await;
            }
            ended
        }
        Then::Forward(chosen) => {
            let call = Call {
                worker,
                live: &live,
                conn,
                facts,
                chosen,
                // Limits in time are for what follows.
                begun: if delayed || asked { rt::now() } else { begun },
                close: false,
            };
            let mut ended = call::forward(&call, &mut down, alarm).await;
            call.passed(&ended);
            if let Some((mut up, _shared)) = ended.switched.take() {
                Box::pin(tunnel::run((&mut down, &mut up), &mut ended, None)).await;
            }
            finish(
                &mut down,
                conn,
                &ended,
                facts,
                edits(chosen.at).with_granted(chosen.granted()),
            )
            .await;
            ended
        }
        // Nothing is held back twice, and nobody is left to ask.
        Then::Delayed(_) | Then::Ask(_) => Ended::new(ServiceId::default()),
    };
    if delayed {
        ended.delayed();
    }
    trace::end(worker, plan.span, begun, &ended);
    observe::request(
        worker,
        &live,
        conn,
        (Some(facts), begun, plan.head_bytes),
        plan.log,
        &ended,
    );
}

impl Shared {
    /// Checks a request and decides.
    fn plan(&self, live: &Rc<Live>, arrived: &Arrived) -> Result<Plan, Failure> {
        let head = &arrived.head;
        if let Some(fault) = head.fault_of_request() {
            return Err(Failure::Malformed(fault));
        }
        if head.is_cut() {
            return Err(Failure::HeadTooLarge);
        }
        if self.conn.http().options.limits.underscores != Underscores::Allow && head.is_odd() {
            return Err(Failure::Malformed("http2.unexpected_underscore"));
        }
        let fields = Fields::Block(head);
        let bad = |_| Failure::Malformed(super::block::MESSAGING);
        let scan = fields::scan(fields).map_err(bad)?;
        let connect = head.method() == b"CONNECT";
        // What asks for another protocol is routed as what it is over HTTP/1.1, as Envoy does.
        let upgrade = head.protocol();
        let authority = head.authority().filter(|authority| !authority.is_empty());
        // Two names for one thing: whoever decided by the other one would be deceived.
        if let (Some(authority), Some(host)) = (authority, scan.host)
            && !authority.eq_ignore_ascii_case(host)
        {
            return Err(Failure::Malformed("http2.host_and_authority_differ"));
        }
        let framing = match scan.length {
            _ if arrived.end || connect => Framing::None,
            Some(0) | None => Framing::Chunked,
            Some(length) => Framing::Length(length),
        };
        let ask = Ask {
            method: if upgrade.is_some() {
                b"GET"
            } else {
                head.method()
            },
            target: if connect && upgrade.is_none() {
                b"/"
            } else {
                head.path()
            },
            authority: authority.or(scan.host),
            version: Version::Http2,
            fields,
            scan: &scan,
            framing,
            upgrade,
            leave: None,
        };
        let routes = self.routes.borrow_mut().index(live);
        let mut plan = plan(&self.worker, live, &self.conn, routes, &ask, take_text())?;
        plan.head_bytes = u64::try_from(head.size()).unwrap_or(0);
        Ok(plan)
    }
}

/// Tells the caller of a failure, or that its answer was cut off.
async fn finish(down: &mut Leg, conn: &Conn, ended: &Ended, facts: Facts, edits: Edits<'_>) {
    if let Some(failure) = &ended.failure {
        let mut own = failed(failure, &facts);
        own.undelivered &= conn.by_peer();
        answer(down, conn, &own, (edits, facts.head)).await;
        return;
    }
    if let Leg::H2(leg) = down
        && ended.broken
    {
        leg.reset(if leg.answered {
            Reason::INTERNAL_ERROR
        } else {
            Reason::CANCEL
        });
    }
}

/// Answers by the proxy itself.
async fn answer(down: &mut Leg, conn: &Conn, answer: &Answer, (edits, head): (Edits<'_>, bool)) {
    let Leg::H2(leg) = down else { return };
    let answer = named(conn, answer);
    let mut body = if head { &[] } else { answer.body() };
    leg.answer(body.is_empty(), |out| answer.write_h2(edits, out));
    while !body.is_empty() {
        // Fails only when the caller has gone, and then there is nobody to tell.
        match poll_fn(|cx| leg.poll_send(cx, body, true)).await {
            Ok(count) => body = body.get(count..).unwrap_or_default(),
            Err(_) => return,
        }
    }
}
