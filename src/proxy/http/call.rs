//! Sending a request to endpoints of its cluster until one answers.
//!
//! A request is delivered a second time only when its policy says so, or when the first delivery
//! cannot have been processed: nothing was written, or a kept connection had died under it and the
//! method may be repeated.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::mesh::ClusterKind;
use crate::rt::{self, Backoff};
use crate::telemetry::{Flag, PeerId, RouteId, ServiceId};

use super::super::balance::{self, outlier::Outcome};
use super::super::connect::{self, Target};
use super::super::context::{Conn, Live, Worker, introduction};
use super::super::limit;
use super::super::pool::{self, Lease, Multiplexed, Tag};
use super::super::tables::{ClusterTable, EndpointEntry};
use super::super::timer::Alarm;
use super::Framing;
use super::drive::{Drive, End, Relay, h2_failure, nothing_written};
use super::h2::block::Block;
use super::head::Edits;
use super::leg::{H1Leg, H2Leg, Leg, Replay, Writer};
use super::plan::{Chosen, Facts, HeadOut, Routed};
use super::respond::Failure;

/// A request to be sent on, with what it needs.
pub(crate) struct Call<'c> {
    pub(crate) worker: &'c Rc<Worker>,
    pub(crate) live: &'c Rc<Live>,
    pub(crate) conn: &'c Conn,
    pub(crate) facts: Facts,
    pub(crate) chosen: &'c Chosen,
    pub(crate) begun: Instant,
    /// The caller's connection ends with this request.
    pub(crate) close: bool,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) flag: Flag,
    pub(crate) details: &'static str,
    /// To be answered for the endpoint, as nothing was answered yet.
    pub(crate) failure: Option<Failure>,
    /// The answer was cut off or could not be delivered: the caller's stream is broken.
    pub(crate) broken: bool,
    /// The caller's connection cannot carry another request.
    pub(crate) close: bool,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) destination: PeerId,
    pub(crate) service: ServiceId,
    pub(crate) route: RouteId,
    pub(crate) retries: u32,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) upstream_local: Option<SocketAddr>,
    pub(crate) upstream_time: Option<Duration>,
    /// Both sides speak another protocol from here on.
    pub(crate) switched: Option<Box<H1Leg>>,
}

impl Ended {
    pub(crate) fn new(service: ServiceId) -> Self {
        Self {
            status: 0,
            grpc_status: None,
            flag: Flag::None,
            details: "via_upstream",
            failure: None,
            broken: false,
            close: false,
            received: 0,
            sent: 0,
            destination: PeerId::default(),
            service,
            route: RouteId::default(),
            retries: 0,
            upstream: None,
            upstream_local: None,
            upstream_time: None,
            switched: None,
        }
    }

    /// Ended by `failure`, which the caller is told.
    pub(crate) fn fail(mut self, failure: Failure) -> Self {
        let reply = failure.reply();
        self.status = reply.status;
        self.flag = reply.flag;
        self.details = reply.details;
        self.close |= reply.close;
        self.failure = Some(failure);
        self
    }
}

/// How one try ended, for the decision about another.
struct Tried {
    end: End,
    /// The endpoint may have begun to process it.
    delivered: bool,
    /// It went over a connection that had been kept.
    reused: bool,
}

struct Active<'e>(&'e EndpointEntry);

impl<'e> Active<'e> {
    fn new(entry: &'e EndpointEntry) -> Self {
        entry.state.active.fetch_add(1, Ordering::Relaxed);
        entry.state.requests.fetch_add(1, Ordering::Relaxed);
        Self(entry)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.state.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends the request on and passes the answer to `down`.
pub(crate) async fn forward(call: &Call<'_>, down: &mut Leg, alarm: &mut Alarm) -> Ended {
    let tables = &call.live.tables;
    let Some(cluster) = tables.cluster(Some(call.chosen.cluster)) else {
        return Ended::new(ServiceId::default()).fail(Failure::NoCluster);
    };
    let Some(routed) = call.chosen.at.routed(call.live) else {
        return Ended::new(cluster.service).fail(Failure::NoRoute);
    };
    let mut ended = Ended::new(cluster.service);
    if !call.conn.inbound() {
        ended.route = routed.table.label;
    }
    let limits = &cluster.config.limits;
    let Some(_place) = limit::hold(&cluster.counters.requests, limits.max_requests) else {
        cluster.counters.overflowed.fetch_add(1, Ordering::Relaxed);
        return ended.fail(Failure::Overflow);
    };
    Calling {
        call,
        cluster,
        routed,
        deadline: routed.forward.timeout.map(|timeout| call.begun + timeout),
        ended,
        replay: Replay::default(),
        refused: SmallVec::new(),
        tries: 0,
        fresh: false,
    }
    .run(down, alarm)
    .await
}

struct Calling<'c> {
    call: &'c Call<'c>,
    cluster: &'c ClusterTable,
    routed: Routed<'c>,
    deadline: Option<Instant>,
    ended: Ended,
    replay: Replay,
    /// Endpoints that this request has failed at.
    refused: SmallVec<[u64; 4]>,
    tries: u32,
    /// Kept connections are not to be trusted any more.
    fresh: bool,
}

impl<'c> Calling<'c> {
    async fn run(mut self, down: &mut Leg, alarm: &mut Alarm) -> Ended {
        let retry = self.routed.table.retry.as_ref();
        let mut backoff = retry.map(|retry| Backoff::new(retry.base, retry.base * 10));
        let mut left = retry.map_or(0, |retry| retry.attempts);
        let mut held = None;
        loop {
            self.tries += 1;
            let tried = self.attempt(down, alarm, left > 0).await;
            drop(held.take());
            let failure = match tried.end {
                End::Done | End::Switched => return self.ended,
                End::Cut => return self.cut(&Failure::Broken),
                End::CallerGone => {
                    self.ended.broken = true;
                    return self.ended.fail(Failure::CallerGone).unanswered();
                }
                End::Retry(status) => Err(status),
                End::Failed(failure) => Ok(failure),
            };
            let unprocessed = !tried.delivered || matches!(failure, Ok(Failure::RefusedStream));
            let stale = tried.reused
                && matches!(failure, Ok(Failure::Broken | Failure::RefusedStream))
                && (unprocessed || self.call.facts.idempotent);
            if stale && !self.fresh && self.replay.is_whole() {
                // The kept connection had died under the request; that says nothing about the endpoint.
                self.fresh = true;
                self.refused.clear();
                continue;
            }
            let again = left > 0
                && self.replay.is_whole()
                && match &failure {
                    Err(_) => true,
                    Ok(failure) => retry.is_some_and(|retry| {
                        failure.reply().retry.iter().any(|on| retry.on(*on))
                            || (!tried.delivered
                                && retry.on(crate::mesh::route::RetryOn::ResetBeforeRequest))
                    }),
                };
            if again {
                held = limit::hold(
                    &self.cluster.counters.retries,
                    self.cluster.config.limits.max_retries,
                );
                if held.is_some() {
                    left -= 1;
                    self.ended.retries += 1;
                    let wait = backoff
                        .as_mut()
                        .map_or(Duration::ZERO, |backoff| backoff.next(fastrand::f64()));
                    let pause = tokio::time::sleep(wait);
                    if alarm.within(self.deadline, pause).await.is_some() {
                        continue;
                    }
                    return self.ended.fail(Failure::Timeout);
                }
            }
            return match failure {
                // An answer that was held back for another try that may not be made.
                Err(_) => self.ended.fail(Failure::Overflow),
                Ok(failure) => {
                    let retried = self.tries > 1 && left == 0 && retry.is_some();
                    let mut ended = self.ended.fail(failure);
                    if retried && ended.flag != Flag::Ut {
                        ended.flag = Flag::Urx;
                    }
                    ended
                }
            };
        }
    }

    /// Ends an answer that had begun.
    fn cut(mut self, failure: &Failure) -> Ended {
        let reply = failure.reply();
        self.ended.flag = reply.flag;
        self.ended.details = "upstream_reset_after_response_started{connection_termination}";
        self.ended.broken = true;
        self.ended.close = true;
        self.ended
    }

    async fn attempt(&mut self, down: &mut Leg, alarm: &mut Alarm, may_retry: bool) -> Tried {
        let undelivered = |failure| Tried {
            end: End::Failed(failure),
            delivered: false,
            reused: false,
        };
        let call = self.call;
        let retry = self.routed.table.retry.as_ref();
        let per_try = retry.and_then(|retry| retry.per_try);
        let try_deadline = per_try.map(|limit| rt::now() + limit);
        let deadline = match (self.deadline, try_deadline) {
            (Some(whole), Some(this)) => Some(whole.min(this)),
            (whole, this) => whole.or(this),
        };
        let too_late = |deadline: Option<Instant>| match deadline {
            Some(deadline) if rt::now() >= deadline => Failure::Timeout,
            _ => Failure::TryTimeout,
        };

        let target = match alarm.within(deadline, self.target()).await {
            Some(Ok(target)) => target,
            Some(Err(failure)) => return undelivered(failure),
            None => return undelivered(too_late(self.deadline)),
        };
        self.ended.upstream = Some(target.address);
        let active = target.entry.map(Active::new);
        if let Some(entry) = target.entry {
            self.ended.destination = entry.peer;
            self.refused.push(entry.state.id);
        }

        let obtained = {
            let (worker, live) = (call.worker, call.live);
            let work = async {
                match call.chosen.head {
                    HeadOut::Text(_) => {
                        pool::http1(worker, live, self.cluster, &target, self.fresh).await
                    }
                    HeadOut::H2(_) => pool::http2(worker, live, self.cluster, &target).await,
                }
            };
            alarm.within(deadline, work).await
        };
        let lease = match obtained {
            Some(Ok(lease)) => lease,
            Some(Err(failure)) => {
                if failure == Failure::Overflow {
                    self.cluster
                        .counters
                        .overflowed
                        .fetch_add(1, Ordering::Relaxed);
                } else {
                    self.judge(&target, Outcome::Failed);
                }
                return undelivered(failure);
            }
            None => {
                self.judge(&target, Outcome::Failed);
                return undelivered(too_late(self.deadline));
            }
        };
        let kept = lease.was_used();
        let mut up = match self.begin(lease) {
            Ok(up) => up,
            Err(failure) => {
                if !kept {
                    self.judge(&target, Outcome::Failed);
                }
                return Tried {
                    reused: kept,
                    ..undelivered(failure)
                };
            }
        };
        let reused = up.reused;

        let relay_retry = retry.filter(|_| may_retry && self.replay.is_whole());
        let edits = self
            .routed
            .forward
            .clusters
            .get(call.chosen.target)
            .map_or_else(Edits::default, |target| {
                Edits::new(
                    &target.headers.response,
                    &self.routed.route.headers.response,
                )
            });
        let mut drive = Drive {
            down,
            up: &mut up.leg,
            replay: &mut self.replay,
            relay: Relay {
                edits,
                facts: call.facts,
                begun: call.begun,
                close: call.close || !call.facts.keep,
                retry: relay_retry,
            },
            uploaded: up.sent_end,
            upload_broke: false,
            seen: None,
            received: 0,
            sent: 0,
        };
        let end = poll_fn(|cx| {
            if let Poll::Ready(end) = drive.poll(cx) {
                return Poll::Ready(end);
            }
            let Some(deadline) = deadline else {
                return Poll::Pending;
            };
            alarm.poll(cx, deadline).map(|()| match drive.seen {
                None => End::Failed(too_late(self.deadline)),
                Some(_) => End::Cut,
            })
        })
        .await;
        let uploaded = drive.uploaded && !drive.upload_broke;
        let seen = drive.seen;
        self.ended.received += drive.received;
        self.ended.sent += drive.sent;
        drop(active);
        self.finish(&target, seen, &end, down, uploaded);
        if call.facts.grpc && self.ended.grpc_status.is_none() {
            self.ended.grpc_status = up.leg.grpc_status();
        }
        let delivered = !nothing_written(&up.leg);
        if matches!(end, End::Switched) {
            self.ended.status = 101;
            if let Leg::H1(leg) = up.leg {
                self.ended.switched = Some(leg);
            }
        } else if matches!(end, End::Done)
            && uploaded
            && seen.is_some_and(|seen| seen.reusable)
            && let (Leg::H1(leg), Some(tag)) = (up.leg, up.tag)
            && leg.input.is_empty()
            && !leg.ended
        {
            let most = self.cluster.config.limits.max_requests_per_connection;
            call.worker.pools.give_back(leg, tag, most);
        }
        Tried {
            end,
            delivered,
            reused,
        }
    }

    /// Takes note of how a try went.
    fn finish(
        &mut self,
        target: &Target<'_>,
        seen: Option<super::drive::SeenHead>,
        end: &End,
        down: &Leg,
        uploaded: bool,
    ) {
        if let Some(seen) = seen {
            self.ended.status = seen.status;
            self.ended.grpc_status = seen.grpc_status;
            self.ended.close |= seen.close || !uploaded || !down.is_drained();
            self.ended.upstream_time = Some(seen.at.duration_since(self.call.begun));
        }
        match (end, seen) {
            (End::CallerGone | End::Failed(Failure::BadBody), _) => {}
            (End::Retry(status), _) => self.judge(target, Outcome::Status(*status)),
            (End::Failed(_) | End::Cut, _) => self.judge(target, Outcome::Failed),
            (_, Some(seen)) => self.judge(target, Outcome::Status(seen.status)),
            (_, None) => {}
        }
    }

    fn judge(&self, target: &Target<'_>, outcome: Outcome) {
        if let (Some(policy), Some(entry)) = (&self.cluster.config.outlier, target.entry) {
            let now = self.call.worker.shared.millis(rt::now());
            let set = &self.cluster.endpoints;
            entry.state.outlier.record(policy, set, outcome, now);
        }
    }

    async fn target(&self) -> Result<Target<'c>, Failure> {
        let call = self.call;
        if self.cluster.config.kind == ClusterKind::OriginalDestination {
            let authority = &call.chosen.authority;
            let address = Box::pin(connect::meant(
                call.worker,
                call.live,
                call.conn.meant,
                authority,
            ))
            .await?;
            return Ok(Target {
                address,
                entry: None,
            });
        }
        pick(self.cluster, &self.refused, call.worker, call.begun)
    }

    /// Puts the head (and what went up in an earlier try) on the connection.
    fn begin(&mut self, lease: Lease) -> Result<Up, Failure> {
        match (lease, &self.call.chosen.head) {
            (Lease::H1(leg, tag), HeadOut::Text(head)) => Ok(self.begin_text(leg, tag, head)),
            (Lease::H2(shared), HeadOut::H2(head)) => self.begin_h2(shared, head),
            _ => Err(Failure::BadResponse),
        }
    }

    fn begin_text(&mut self, mut leg: Box<H1Leg>, mut tag: Tag, head: &[u8]) -> Up {
        let facts = &self.call.facts;
        let coded = facts.framing == Framing::Chunked && facts.version == super::Version::Http2;
        leg.begin(if coded {
            Writer::Chunked
        } else {
            Writer::Plain
        });
        leg.reader = super::h1::body::BodyReader::default();
        leg.out.clear();
        leg.out.extend_from_slice(head);
        if self.tries > 1 && !self.call.conn.inbound() {
            let mut text = itoa::Buffer::new();
            leg.out.extend_from_slice(b"x-envoy-attempt-count: ");
            leg.out
                .extend_from_slice(text.format(self.tries).as_bytes());
            leg.out.extend_from_slice(b"\r\n");
        }
        if tag.mtls && tag.uses == 0 {
            leg.out.extend_from_slice(super::fields::PEER.as_bytes());
            leg.out.extend_from_slice(b": ");
            let own = &self.call.worker.shared.options.workload;
            leg.out.extend_from_slice(introduction(own).as_bytes());
            leg.out.extend_from_slice(b"\r\n");
        }
        leg.out.extend_from_slice(b"\r\n");
        leg.push(&self.replay.kept);
        let reused = tag.uses > 0;
        tag.uses = tag.uses.saturating_add(1);
        self.ended.upstream_local = tag.local;
        Up {
            leg: Leg::H1(leg),
            tag: Some(tag),
            sent_end: false,
            reused,
            _shared: None,
        }
    }

    fn begin_h2(&mut self, shared: Rc<Multiplexed>, head: &Block) -> Result<Up, Failure> {
        let uses = shared.uses.get();
        let facts = &self.call.facts;
        let end = facts.framing == Framing::None;
        let tries = (self.tries > 1 && !self.call.conn.inbound()).then_some(self.tries);
        let opened = shared.client.open((end, facts.head), |out| {
            out.request(head);
            if let Some(tries) = tries {
                let mut text = itoa::Buffer::new();
                let tries = text.format(tries).as_bytes();
                out.field(b"x-envoy-attempt-count", tries, false);
            }
            if shared.mtls && uses == 0 {
                let own = introduction(&self.call.worker.shared.options.workload);
                out.field(super::fields::PEER.as_bytes(), own.as_bytes(), false);
            }
        });
        let stream = opened.map_err(h2_failure)?;
        shared.uses.set(uses.saturating_add(1));
        self.ended.upstream_local = shared.local;
        let mut leg = H2Leg::new(stream, end);
        if !self.replay.kept.is_empty() {
            leg.push(&self.replay.kept);
        }
        Ok(Up {
            leg: Leg::H2(leg),
            tag: None,
            sent_end: end,
            reused: uses > 0,
            _shared: Some(shared),
        })
    }
}

impl Ended {
    fn unanswered(mut self) -> Self {
        self.failure = None;
        self.close = true;
        self
    }
}

/// Draws an endpoint of a cluster that has its own.
pub(crate) fn pick<'t>(
    cluster: &'t ClusterTable,
    refused: &[u64],
    worker: &Worker,
    now: Instant,
) -> Result<Target<'t>, Failure> {
    let set = &cluster.endpoints;
    let balancer = cluster.config.load_balancer;
    let now = match cluster.config.outlier {
        Some(_) => worker.shared.millis(now),
        None => 0,
    };
    let entry = balance::pick(set, balancer, refused, now)
        // Every endpoint was tried: start over rather than give up.
        .or_else(|| match refused {
            [] => None,
            _ => balance::pick(set, balancer, &[], now),
        })
        .ok_or(Failure::NoEndpoint)?;
    Ok(Target {
        address: entry.endpoint.address,
        entry: Some(entry),
    })
}

/// The endpoint's side of a try.
struct Up {
    leg: Leg,
    tag: Option<Tag>,
    sent_end: bool,
    reused: bool,
    /// The connection stays while the stream is on it.
    _shared: Option<Rc<Multiplexed>>,
}
