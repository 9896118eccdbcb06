//! Asking somebody outside whether a request may be made (Envoy's `ext_authz`).
//!
//! It happens between a request's plan and what the plan says: where its chain asks somebody, the plan is
//! [`Then::Ask`] with a copy of the head. Once that may be made the head is changed as the answer says and
//! planned anew, now with a [`Leave`]: routes, redirects, filters and the head for the endpoint follow from
//! what was asked about, by the path that was asked about, and tries, copies and tunnels come behind.
//!
//! [`question`] is what is asked, `grpc` and `web` put it in the words of two protocols and read the answer,
//! [`change`] is what an answer changes, `exchange` sends one question, `held` reads the body that is part of it.

mod change;
mod exchange;
mod grpc;
mod held;
mod owned;
mod question;
#[cfg(test)]
mod tests;
mod web;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use crate::mesh::claims::Claims;
use crate::mesh::ext_authz::{Asks, ExtAuthz};
use crate::mesh::route::router::Found;
use crate::rt;
use crate::telemetry::{AccessRecord, Flag};

use super::super::context::{Conn, Live, Worker};
use super::super::ext_authz::{Provider, Stats};
use super::super::filter::Passed;
use super::super::jwt::Told;
use super::super::tables::RouteAction;
use super::super::tables::route::RouteTable;
use super::super::timer::Alarm;
use super::super::trace::Span;
use super::Framing;
use super::leg::Leg;
use super::plan::{Facts, Plan, Rare, Seen, Then};
use super::respond::Failure;
use change::{Bad, Changes};
use exchange::Put;
use owned::Owned;
use question::{Ends, Question};

/// So many may be asked about one request.
const MOST: usize = 8;
/// Tells the application that nobody answered.
const UNANSWERED: &str = "x-envoy-auth-failure-mode-allowed";

/// What is asked about, and whom.
#[derive(Debug)]
pub(crate) struct Asking {
    provider: Arc<Provider>,
    owned: Owned,
    question: Question,
    leave: Leave,
}

/// What is known of a request that somebody lets pass.
#[derive(Debug, Clone)]
pub(crate) struct Leave {
    asked: Vec<Arc<Provider>>,
    claims: Option<Arc<Claims>>,
    /// As it was asked about: never spelt otherwise again.
    path: Vec<u8>,
    /// What routes go by, where answers do not change that.
    routed: Option<Rc<Owned>>,
    /// What the caller is told in the answer.
    told: Changes,
}

/// Why a request may not be made, told by somebody who was asked, or by nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unauthorized {
    pub(crate) status: u16,
    /// Envoy's `response_code_details`.
    pub(crate) details: &'static str,
    pub(crate) body: String,
    /// Fields of the answer.
    pub(crate) headers: Vec<(String, String)>,
}

/// What somebody says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// It may be made, with these changes to its head and to its answer.
    Allowed(Changes, Changes),
    /// It may not.
    Denied(Unauthorized),
    /// Nothing that is an answer.
    Error,
}

impl Leave {
    /// Who was asked last.
    pub(crate) fn last(&self) -> Option<&Arc<Provider>> {
        self.asked.last()
    }

    /// The path as it was asked about.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// What its tokens said; what they change in the head is changed.
    pub(super) fn told(&self) -> Told<'static> {
        Told::kept(self.claims.clone())
    }

    /// The route: by the head as it came, unless answers may change it.
    pub(super) fn find<'t>(
        &self,
        table: &'t RouteTable,
        seen: &Seen<'_>,
    ) -> Option<(Found<'t>, &'t RouteAction)> {
        let Some(before) = &self.routed else {
            return table.find(seen);
        };
        before.with(seen.ask, |ask, path| {
            let told = self.told();
            table.find(&Seen {
                ask,
                authority: seen.authority,
                path: if seen.whole { seen.path } else { path },
                whole: seen.whole,
                told: Some(&told),
                tls: seen.tls,
            })
        })
    }

    /// Adds to `passed` what the caller is told.
    pub(super) fn tell(&self, passed: Option<Passed>) -> Option<Passed> {
        if self.told.is_empty() {
            return passed;
        }
        let mut passed = passed.unwrap_or_default();
        let granted = passed.granted.get_or_insert_default();
        self.told.tell(granted);
        Some(passed)
    }
}

impl Unauthorized {
    fn error(status: u16) -> Self {
        Self {
            status,
            details: "ext_authz_error",
            body: String::new(),
            headers: Vec::new(),
        }
    }

    /// Envoy's response flag.
    pub(crate) fn flag() -> Flag {
        Flag::Uaex
    }
}

impl From<Bad> for Unauthorized {
    fn from(_: Bad) -> Self {
        Self {
            details: "ext_authz_invalid",
            ..Self::error(500)
        }
    }
}

impl Asking {
    /// For `seen`, about which `provider` is to be asked.
    pub(super) fn of(
        provider: Arc<Provider>,
        around: (&Live, &Conn),
        seen: &Seen<'_>,
        facts: Facts,
    ) -> Box<Self> {
        let owned = Owned::of(seen);
        let leave = match seen.ask.leave {
            Some(leave) => leave.clone(),
            None => Leave {
                asked: Vec::new(),
                claims: seen.told.and_then(|told| told.claims.clone()),
                path: if seen.whole {
                    b"*".to_vec()
                } else {
                    seen.path.to_vec()
                },
                routed: None,
                told: Changes::default(),
            },
        };
        Box::new(Self {
            question: Question::of(around, seen, facts),
            provider,
            owned,
            leave,
        })
    }
}

/// What a request is asked about in.
pub(super) struct Around<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) live: &'a Rc<Live>,
    pub(super) conn: &'a Conn,
    /// Index of the request's route table.
    pub(super) routes: Option<usize>,
}

/// A request that was planned.
pub(super) struct Planned<'p> {
    pub(super) facts: &'p mut Facts,
    pub(super) then: &'p mut Then,
    pub(super) log: &'p mut Option<Box<AccessRecord>>,
    pub(super) span: &'p mut Option<Box<Span>>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Asks whomever the plan says, and puts what follows in its place. False when the caller has gone.
pub(super) async fn ask(
    around: &Around<'_>,
    down: &mut Leg,
    alarm: &mut Alarm,
    planned: Planned<'_>,
) -> bool {
    let Planned {
        facts,
        then,
        log,
        span,
    } = planned;
    let mut body = Vec::new();
    let mut rounds = 0;
    while let Then::Ask(asking) = then {
        rounds += 1;
        let provider = Arc::clone(&asking.provider);
        let wanted = provider.config.body.filter(|_| {
            // Of what goes on in another protocol there is no body.
            facts.framing != Framing::None && !facts.upgrade && !facts.connect
        });
        let mut partial = false;
        if let Some(wanted) = wanted {
            let expects = asking.owned.take_expect();
            let read = held::read(
                around.conn,
                down,
                alarm,
                (facts, &mut body),
                (wanted, expects),
            );
            match read.await {
                Ok(whole) => partial = !whole,
                Err(Failure::CallerGone) => return false,
                Err(failure) => {
                    *then = Then::Fail(failure, None);
                    return true;
                }
            }
        }
        // What is written otherwise than it came is known to be so only once it goes on.
        let unreadable = wanted.is_some() && facts.recodes();
        let outcome = if rounds > MOST || unreadable {
            Some(Outcome::Error)
        } else {
            let part = wanted.map(|wanted| {
                let most = usize::try_from(wanted.max_bytes).unwrap_or(usize::MAX);
                let part = body.get(..most).unwrap_or(&body);
                (part, partial)
            });
            let answer = one(around, &provider, &asking.question, part);
            while_there(down, answer).await
        };
        let Some(outcome) = outcome else {
            return false;
        };
        let next = follow(around, asking, outcome, unreadable || rounds > MOST);
        match next {
            Ok(plan) => {
                let held = facts.held;
                *facts = Facts { held, ..plan.facts };
                *then = plan.then;
                *span = plan.span;
                let begun = log.as_ref().map(|log| log.start);
                *log = plan.log;
                if let (Some(log), Some(begun)) = (log.as_mut(), begun) {
                    log.start = begun;
                }
            }
            Err(failure) => *then = Then::Fail(failure, None),
        }
    }
    if let Then::Forward(chosen) = then
        && !body.is_empty()
    {
        let rare = chosen.rare.get_or_insert_with(Box::<Rare>::default);
        rare.held.replace(body);
    }
    true
}

/// What follows from an answer. `closed` lets nothing pass without one.
fn follow(
    around: &Around<'_>,
    asking: &mut Asking,
    outcome: Outcome,
    closed: bool,
) -> Result<Plan, Failure> {
    let provider = &asking.provider;
    let (config, stats) = (&provider.config, &provider.stats);
    let refuse = |why: Unauthorized| Err(Failure::Unauthorized(Box::new(why)));
    let answered = matches!(outcome, Outcome::Allowed(..));
    let head = match outcome {
        Outcome::Denied(why) => {
            refused(stats, &why);
            return refuse(why);
        }
        Outcome::Error if closed || !config.fail_open => {
            count(&stats.error);
            return refuse(Unauthorized::error(config.status_on_error));
        }
        Outcome::Error => {
            count(&stats.error);
            count(&stats.failure_mode_allowed);
            let mut head = Changes::default();
            if config.tells_fail_open {
                head.set(UNANSWERED, "true");
            }
            head
        }
        Outcome::Allowed(head, told) => {
            asking.leave.told.extend(told);
            head
        }
    };
    if !head.is_empty() && !config.clear_route_cache && asking.leave.routed.is_none() {
        let before = asking.owned.at(asking.leave.path.clone());
        asking.leave.routed = Some(Rc::new(before));
    }
    let changed = asking.owned.change(&head, &mut asking.leave.path);
    if let Err(bad) = changed {
        count(&stats.invalid);
        return refuse(bad.into());
    }
    if config.clear_route_cache {
        asking.leave.routed = None;
    }
    if answered {
        count(&stats.ok);
    }
    asking.leave.asked.push(Arc::clone(provider));
    let mut plan = asking.owned.plan(around, &asking.leave)?;
    if let Then::Answer(answer, _) = &mut plan.then {
        asking.leave.told.answer(answer);
    }
    Ok(plan)
}

/// Asks `provider`, for as long as it may take.
async fn one(
    around: &Around<'_>,
    provider: &Provider,
    question: &Question,
    body: Option<(&[u8], bool)>,
) -> Outcome {
    let config = &provider.config;
    let put = match &config.asks {
        Asks::Grpc { .. } => grpc::question(question, config, body),
        Asks::Http(http) => web::question(question, (config, http), body),
    };
    answered((around.worker, around.live, around.conn), config, put).await
}

/// Asks `provider` whether a connection may carry bytes.
pub(crate) async fn about_bytes(
    around: (&Rc<Worker>, &Rc<Live>, &Conn),
    provider: &Provider,
) -> bool {
    let (config, stats) = (&provider.config, &provider.stats);
    let (_, live, conn) = around;
    let put = grpc::about_bytes(&Ends::of(live, conn), config);
    match answered(around, config, put).await {
        Outcome::Allowed(..) => {
            count(&stats.ok);
            true
        }
        Outcome::Denied(why) => {
            refused(stats, &why);
            false
        }
        Outcome::Error => {
            count(&stats.error);
            if config.fail_open {
                count(&stats.failure_mode_allowed);
            }
            config.fail_open
        }
    }
}

fn refused(stats: &Stats, why: &Unauthorized) {
    count(if why.details == "ext_authz_invalid" {
        &stats.invalid
    } else {
        &stats.denied
    });
}

/// What comes back for `put`.
async fn answered(around: (&Rc<Worker>, &Rc<Live>, &Conn), config: &ExtAuthz, put: Put) -> Outcome {
    let asked = async {
        let got = exchange::exchange(around, put).await?;
        Ok::<_, Failure>(match &config.asks {
            Asks::Grpc { .. } => grpc::answer(&got),
            Asks::Http(http) => web::answer(&got, http),
        })
    };
    let cluster = config.asks.cluster();
    let answered = if config.timeout.is_zero() {
        Some(asked.await)
    } else {
        let mut alarm = Alarm::default();
        alarm
            .within(rt::now().checked_add(config.timeout), asked)
            .await
    };
    match answered {
        Some(Ok(outcome)) => outcome,
        Some(Err(failure)) => {
            tracing::debug!(%failure, cluster, "whoever is asked does not answer");
            Outcome::Error
        }
        None => {
            tracing::debug!(cluster, "whoever is asked takes too long");
            Outcome::Error
        }
    }
}

/// What came first.
enum First<T> {
    Done(T),
    /// The caller is gone.
    Gone,
    /// The caller will send no more, and may wait for its answer.
    Quiet,
}

/// The result of `work`; none when the caller goes away before. By HTTP/1 one may end its own half and still
/// read, which is no leaving.
async fn while_there<T>(down: &mut Leg, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let first = poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(First::Done(done));
        }
        match down {
            Leg::H1(leg) => match leg.poll_gone(cx) {
                Poll::Ready(()) => Poll::Ready(First::Gone),
                Poll::Pending if leg.ended => Poll::Ready(First::Quiet),
                Poll::Pending => Poll::Pending,
            },
            Leg::H2(leg) => leg.poll_reset(cx).map(|_| First::Gone),
            Leg::Nobody => Poll::Pending,
        }
    })
    .await;
    match (first, down) {
        (First::Done(done), _) => Some(done),
        (First::Quiet, Leg::H1(leg)) => {
            let broken = pin!(leg.io.broken());
            tokio::select! {
                biased;
                done = work => Some(done),
                () = broken => None,
            }
        }
        _ => None,
    }
}
