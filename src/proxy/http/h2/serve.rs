//! Serving an HTTP/2 connection: a task for each stream.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use http::Request;

use crate::mesh::route::HeaderOperations;
use crate::rt;
use crate::telemetry::ServiceId;

use super::super::super::buffer::take_text;
use super::super::super::context::{Conn, Worker};
use super::super::super::observe;
use super::super::super::stream::Stream;
use super::super::super::timer::Alarm;
use super::super::call::{self, Call, Ended};
use super::super::fields::{self, Fields, MAX_FIELDS, MAX_HEAD};
use super::super::h1::serve::{Routes, failed};
use super::super::head::{Answer, Edits};
use super::super::leg::{H2Leg, Leg};
use super::super::plan::{Ask, Facts, RouteAt, Then, plan};
use super::super::respond::Failure;
use super::super::{Framing, Version};
use super::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW};

/// Streams of a caller at once (Istio's gateways allow 1024; h2's own default is no limit).
const MAX_STREAMS: u32 = 1000;
/// Streams that were reset before they were looked at; more end the connection (CVE-2023-44487).
const MAX_RESETS: usize = 100;
/// A connection without streams is closed after this long (Envoy's default).
const IDLE: Duration = Duration::from_hours(1);

/// What the streams of a connection share.
struct Shared {
    worker: Rc<Worker>,
    conn: Conn,
    routes: RefCell<Routes>,
    streams: Cell<usize>,
}

/// Serves `stream` by the route table named `table`.
pub(crate) async fn serve(worker: Rc<Worker>, conn: Conn, table: Rc<str>, stream: Stream) {
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_concurrent_reset_streams(MAX_RESETS)
        .max_send_buffer_size(256 * 1024)
        .handshake::<_, Bytes>(stream);
    let connection = match handshake.await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%error, "HTTP/2 connection could not begin");
            return;
        }
    };
    let shared = Rc::new(Shared {
        worker,
        conn,
        routes: RefCell::new(Routes::new(table)),
        streams: Cell::new(0),
    });
    run(connection, &shared).await;
}

async fn run(mut connection: Connection<Stream, Bytes>, shared: &Rc<Shared>) {
    let mut alarm = Alarm::default();
    let mut leaving = false;
    loop {
        let state = &shared.conn.state;
        if state.draining.get() && !leaving {
            // h2 sends GOAWAY twice: a warning first, the last stream's number a round trip later.
            connection.graceful_shutdown();
            leaving = true;
        }
        let deadline = rt::now() + IDLE;
        let told = state.wake.notified();
        let mut told = std::pin::pin!(told);
        let accepted = poll_fn(|cx| {
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(Some(accepted));
            }
            if !leaving && std::future::Future::poll(told.as_mut(), cx).is_ready() {
                return Poll::Ready(None);
            }
            if shared.streams.get() == 0 && alarm.poll(cx, deadline).is_ready() {
                return Poll::Ready(Some(None));
            }
            Poll::Pending
        })
        .await;
        match accepted {
            None => {}
            Some(None) => return,
            Some(Some(Err(error))) => {
                tracing::debug!(%error, "HTTP/2 connection ended");
                return;
            }
            Some(Some(Ok((request, respond)))) => {
                shared.streams.set(shared.streams.get() + 1);
                let shared = Rc::clone(shared);
                tokio::task::spawn_local(async move {
                    let _one = OnDrop(&shared.streams);
                    one(&shared, request, respond).await;
                });
            }
        }
    }
}

/// Counts a stream as ended, even one whose task panicked.
struct OnDrop<'s>(&'s Cell<usize>);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Answers one stream.
async fn one(shared: &Rc<Shared>, request: Request<h2::RecvStream>, respond: SendResponse<Bytes>) {
    let begun = rt::now();
    let (worker, conn) = (&shared.worker, &shared.conn);
    let live = worker.live();
    let routes = shared.routes.borrow_mut().index(&live);
    let (head, body) = request.into_parts();
    let empty = body.is_end_stream();
    let mut alarm = Alarm::default();
    let planned = (|| {
        if head.headers.len() > MAX_FIELDS {
            return Err(Failure::HeadTooLarge);
        }
        let scan = fields::scan(Fields::Map(&head.headers))
            .map_err(|_| Failure::Malformed("http2.invalid_head"))?;
        if scan.chunked {
            return Err(Failure::Malformed("http2.invalid_head"));
        }
        if head.method == http::Method::CONNECT {
            return Err(Failure::Method);
        }
        let framing = match scan.length {
            _ if empty => Framing::None,
            Some(0) | None => Framing::Chunked,
            Some(length) => Framing::Length(length),
        };
        let target = head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let ask = Ask {
            method: head.method.as_str().as_bytes(),
            target: target.as_bytes(),
            authority: head
                .uri
                .authority()
                .map(|authority| authority.as_str().as_bytes())
                .or(scan.host),
            version: Version::Http2,
            fields: Fields::Map(&head.headers),
            scan: &scan,
            framing,
        };
        let mut plan = plan(worker, &live, conn, routes, &ask, take_text())?;
        plan.head_bytes = head
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 4)
            .sum::<usize>()
            .try_into()
            .unwrap_or(0);
        Ok(plan)
    })();
    let mut down = Leg::H2(H2Leg::called(body, respond));
    let plan = match planned {
        Ok(plan) => plan,
        Err(failure) => {
            let ended = Ended::new(ServiceId::default()).fail(failure.clone());
            answer(&mut down, &failed(&failure, false), Edits::default(), false);
            observe::request(worker, &live, conn, (None, begun, 0), None, &ended);
            return;
        }
    };
    let facts = plan.facts;
    let none = HeaderOperations::default();
    let edits = |at: RouteAt| {
        at.route(&live).map_or_else(Edits::default, |route| {
            Edits::new(&none, &route.headers.response)
        })
    };
    let ended = match &plan.then {
        Then::Fail(failure) => {
            answer(
                &mut down,
                &failed(failure, facts.grpc),
                Edits::default(),
                facts.head,
            );
            Ended::new(ServiceId::default()).fail(failure.clone())
        }
        Then::Answer(own, at) => {
            answer(&mut down, own, edits(*at), facts.head);
            let mut ended = Ended::new(ServiceId::default());
            ended.status = own.status;
            ended.details = "direct_response";
            ended
        }
        Then::Forward(chosen) => {
            let call = Call {
                worker,
                live: &live,
                conn,
                facts,
                chosen,
                begun,
                close: false,
            };
            let ended = call::forward(&call, &mut down, &mut alarm).await;
            finish(&mut down, &ended, facts, edits(chosen.at));
            ended
        }
    };
    observe::request(
        worker,
        &live,
        conn,
        (Some(facts), begun, plan.head_bytes),
        plan.log,
        &ended,
    );
}

/// Tells the caller of a failure, or that its answer was cut off.
fn finish(down: &mut Leg, ended: &Ended, facts: Facts, edits: Edits<'_>) {
    if let Some(failure) = &ended.failure {
        answer(down, &failed(failure, facts.grpc), edits, facts.head);
        return;
    }
    let Leg::H2(leg) = down else { return };
    if ended.broken {
        match &mut leg.send {
            Some(send) => send.send_reset(h2::Reason::INTERNAL_ERROR),
            None => {
                if let Some(respond) = &mut leg.respond {
                    respond.send_reset(h2::Reason::CANCEL);
                }
            }
        }
    }
}

/// Answers by the proxy itself.
fn answer(down: &mut Leg, answer: &Answer, edits: Edits<'_>, head: bool) {
    let Leg::H2(leg) = down else { return };
    let Some(respond) = &mut leg.respond else {
        return;
    };
    let body = if head { &[] } else { answer.body() };
    // Fails only when the caller has gone, and then there is nobody to tell.
    if let Ok(mut send) = respond.send_response(answer.to_h2(edits), body.is_empty())
        && !body.is_empty()
    {
        let _sent = send.send_data(Bytes::copy_from_slice(body), true);
    }
}
