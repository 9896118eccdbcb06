//! From a request's head to what will be done with it: checked, normalised, routed, rewritten.
//!
//! Runs in one go while the head is borrowed from the read buffer. What is needed later (the head
//! for the endpoint, indexes into the tables, a few facts) is taken out; nothing else is kept.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::mesh::claims::Claims;
use crate::mesh::http::Upgrades;
use crate::mesh::path::{BadPath, normalise};
use crate::mesh::route::{Action, AttemptHeaders, Forward, Request, Route, VirtualHost};
use crate::telemetry::AccessRecord;

use super::super::context::{Conn, Live, Worker};
use super::super::filter::Passed;
use super::super::filter::cors::Granted;
use super::super::jwt::Told;
use super::super::tables::RouteAction;
use super::super::tables::http::HttpTable;
use super::super::tables::route::ForwardTable;
use super::super::trace::{self, Passing, Span};
use super::answer::Answer;
use super::ask::{Asking, Leave};
use super::call::compare;
use super::control::Control;
use super::decide::decide;
pub(crate) use super::facts::Facts;
use super::facts::facts;
use super::fields::{Fields, Scan};
use super::h2::block::Block;
use super::hash::Hashed;
use super::judge::judged;
use super::marks::{AnswerMarks, RequestMarks};
use super::recode::{Answering, WebCall};
use super::record::record;
use super::respond::Failure;
use super::session::Session;
use super::target::effective;
pub(crate) use super::telling::{Noted, Telling};
use super::upgrade::Upgrade;
use super::{Framing, Version};

/// A request as it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'m> {
    pub(crate) method: &'m [u8],
    /// As sent: a path, an absolute URI, `*`, or `host:port` of a CONNECT.
    pub(crate) target: &'m [u8],
    /// `:authority`, or the `host` field.
    pub(crate) authority: Option<&'m [u8]>,
    pub(crate) version: Version,
    pub(crate) fields: Fields<'m>,
    pub(crate) scan: &'m Scan<'m>,
    pub(crate) framing: Framing,
    /// Another protocol that is asked for.
    pub(crate) upgrade: Option<&'m [u8]>,
    /// Somebody who was asked about it lets it pass.
    pub(crate) leave: Option<&'m Leave>,
}

/// A checked request and what will be done with it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) facts: Facts,
    pub(crate) then: Then,
    /// Size of the head as it came.
    pub(crate) head_bytes: u64,
    pub(crate) log: Option<Box<AccessRecord>>,
    /// What its trace will be told, where it is sampled.
    pub(crate) span: Option<Box<Span>>,
}

impl Plan {
    /// A request that is refused though it could be read.
    pub(crate) fn refused(ask: &Ask<'_>, failure: Failure) -> Self {
        Self {
            facts: facts(ask, false),
            then: Then::Fail(failure, None),
            head_bytes: 0,
            log: None,
            span: None,
        }
    }
}

/// What will be done.
#[derive(Debug)]
pub(crate) enum Then {
    /// Sent on.
    Forward(Chosen),
    /// Answered here, with the edits of this route.
    Answer(Answer, Option<RouteAt>),
    /// Refused; where it would have gone, if that is known.
    Fail(Failure, Option<Box<Meant>>),
    /// Held back on purpose first.
    Delayed(Box<Delayed>),
    /// Somebody else is asked first.
    Ask(Box<Asking>),
}

/// What happens to a request that is held back.
#[derive(Debug)]
pub(crate) struct Delayed {
    pub(crate) time: Duration,
    pub(crate) then: Then,
}

/// Where a request would have gone.
#[derive(Debug)]
pub(crate) struct Meant {
    pub(crate) at: RouteAt,
    /// Cluster index, if the view holds it.
    pub(crate) cluster: Option<usize>,
}

impl Then {
    /// The route and the cluster that are meant.
    fn meant(&self) -> Option<(RouteAt, Option<usize>)> {
        match self {
            Self::Forward(chosen) => Some((chosen.at, Some(chosen.cluster))),
            Self::Fail(_, meant) => meant.as_ref().map(|meant| (meant.at, meant.cluster)),
            Self::Answer(..) | Self::Delayed(_) | Self::Ask(_) => None,
        }
    }
}

/// A route, by its indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteAt {
    pub(crate) table: usize,
    pub(crate) host: usize,
    pub(crate) route: usize,
}

/// A route and the cluster drawn from it.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) at: RouteAt,
    /// Place among the route's clusters.
    pub(crate) target: usize,
    /// Cluster index.
    pub(crate) cluster: usize,
    pub(crate) head: HeadOut,
    /// What hardly any request has.
    pub(crate) rare: Option<Box<Rare>>,
}

/// What few requests have; apart, since a request's place in memory is a connection's.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Copies to be sent when the request has gone up.
    pub(crate) mirrors: RefCell<Vec<MirrorOut>>,
    /// Its end of a comparison of two answers.
    pub(crate) compared: Option<compare::End>,
    /// What filters gave it.
    pub(crate) passed: Option<Passed>,
    /// Another protocol that is asked for.
    pub(crate) upgrade: Option<Upgrade>,
    /// The host that was asked for, where the cluster goes where callers want.
    pub(crate) authority: Vec<u8>,
    /// What the request itself says about its limits.
    pub(crate) control: Option<Control>,
    /// What the answer tells the caller about the proxy, where that is not the usual.
    pub(crate) marks: Option<AnswerMarks>,
    /// Of what the route says.
    pub(crate) hashed: Option<Hashed>,
    /// What binds it to an endpoint.
    pub(crate) session: Option<Session>,
    /// Of the body, what was read already.
    pub(crate) held: RefCell<Vec<u8>>,
    /// Of the answer, what logs tell of or ask about.
    pub(crate) told: Option<Telling>,
}

impl Chosen {
    /// The host that was asked for, where the cluster goes where callers want.
    pub(crate) fn authority(&self) -> &[u8] {
        self.rare
            .as_ref()
            .map_or(&[][..], |rare| rare.authority.as_slice())
    }

    /// Another protocol that is asked for.
    pub(crate) fn upgrade(&self) -> Option<&Upgrade> {
        self.rare.as_ref()?.upgrade.as_ref()
    }

    /// What the request itself says about its limits.
    pub(crate) fn control(&self) -> Option<&Control> {
        self.rare.as_ref()?.control.as_ref()
    }

    /// What the answer tells the caller about the proxy, where that is not the usual.
    pub(crate) fn marks(&self) -> Option<&AnswerMarks> {
        self.rare.as_ref()?.marks.as_ref()
    }

    /// The hash of what the route says.
    pub(crate) fn hashed(&self) -> Option<&Hashed> {
        self.rare.as_ref()?.hashed.as_ref()
    }

    /// What binds it to an endpoint.
    pub(crate) fn session(&self) -> Option<&Session> {
        self.rare.as_ref()?.session.as_ref()
    }

    /// Its end of a comparison of two answers.
    pub(crate) fn compared(&self) -> Option<&compare::End> {
        self.rare.as_ref()?.compared.as_ref()
    }

    /// Fields of the answer that are to be noted.
    pub(crate) fn telling(&self) -> Option<&Telling> {
        self.rare.as_ref()?.told.as_ref()
    }

    /// What was noted for logs.
    pub(crate) fn told(&self) -> Option<Box<Noted>> {
        Some(self.telling()?.take())
    }

    /// What filters gave it.
    pub(crate) fn passed(&self) -> Option<&Passed> {
        self.rare.as_ref()?.passed.as_ref()
    }

    /// What may become of the answer's body.
    pub(crate) fn answering(&self, facts: &Facts) -> Option<Answering<'_>> {
        let passed = self.passed();
        let compressing = passed.and_then(|passed| passed.compressing.as_deref());
        (compressing.is_some() || facts.web.is_some()).then_some(Answering {
            compressing,
            web: facts.web.map(|web| web.answer),
        })
    }

    /// What a page of another origin is told in the answer.
    pub(crate) fn granted(&self) -> Option<&Granted> {
        self.passed()?.granted.as_deref()
    }

    /// Copies to be sent when the request has gone up, the first time that this is asked.
    pub(crate) fn mirrors(&self) -> Vec<MirrorOut> {
        self.rare
            .as_ref()
            .map_or_else(Vec::new, |rare| rare.mirrors.take())
    }
}

/// A copy of a request.
#[derive(Debug)]
pub(crate) struct MirrorOut {
    /// Cluster index.
    pub(crate) cluster: usize,
    pub(crate) head: HeadOut,
    /// Its end of a comparison of two answers.
    pub(crate) compared: Option<compare::End>,
}

impl Chosen {
    /// What a copy of a request is sent by.
    pub(crate) fn mirrored(at: RouteAt, out: MirrorOut) -> Self {
        let rare = out.compared.map(|end| {
            Box::new(Rare {
                compared: Some(end),
                ..Rare::default()
            })
        });
        Self {
            at,
            target: 0,
            cluster: out.cluster,
            head: out.head,
            rare,
        }
    }
}

/// The head for the endpoint.
#[derive(Debug)]
pub(crate) enum HeadOut {
    /// HTTP/1.1, without its last line end; in a byte string of the connection's.
    Text(Vec<u8>),
    /// HTTP/2.
    H2(Box<Block>),
}

impl HeadOut {
    /// The authority of the request as it leaves.
    pub(crate) fn authority(&self) -> Option<&[u8]> {
        match self {
            Self::H2(head) => head.authority(),
            Self::Text(_) => self.field("host"),
        }
    }

    /// The first field of that name as it leaves.
    fn field(&self, wanted: &str) -> Option<&[u8]> {
        match self {
            Self::H2(head) => head.first(wanted),
            Self::Text(head) => head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
                let at = line.iter().position(|byte| *byte == b':')?;
                let (name, value) = line.split_at_checked(at)?;
                name.eq_ignore_ascii_case(wanted.as_bytes())
                    .then(|| value.strip_prefix(b":"))?
                    .map(<[u8]>::trim_ascii)
            }),
        }
    }
}

/// A route's parts again, from its indexes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Routed<'t> {
    pub(crate) route: &'t Route,
    pub(crate) forward: &'t Forward,
    pub(crate) table: &'t ForwardTable,
    pub(crate) attempts: AttemptHeaders,
}

impl RouteAt {
    pub(crate) fn route(self, live: &Live) -> Option<&Route> {
        self.host(live)?.routes.get(self.route)
    }

    fn host(self, live: &Live) -> Option<&VirtualHost> {
        let table = live.tables.routes.get(self.table)?;
        table.router.table().hosts.get(self.host)
    }

    pub(crate) fn routed(self, live: &Live) -> Option<Routed<'_>> {
        let host = self.host(live)?;
        let route = host.routes.get(self.route)?;
        let table = live.tables.routes.get(self.table)?;
        match (&route.action, table.action(self.host, self.route)?) {
            (Action::Forward(forward), RouteAction::Forward(table)) => Some(Routed {
                route,
                forward,
                table,
                attempts: host.attempts,
            }),
            _ => None,
        }
    }
}

/// What routes judge: the normalised path and the effective host.
pub(super) struct Seen<'m> {
    pub(super) ask: &'m Ask<'m>,
    pub(super) authority: &'m [u8],
    pub(super) path: &'m [u8],
    /// It is the server that is meant (`*`).
    pub(super) whole: bool,
    /// What its tokens say.
    pub(super) told: Option<&'m Told<'m>>,
    pub(super) tls: bool,
}

impl Request for Seen<'_> {
    fn method(&self) -> &[u8] {
        self.ask.method
    }

    fn authority(&self) -> &[u8] {
        self.authority
    }

    fn scheme(&self) -> &[u8] {
        if self.tls { b"https" } else { b"http" }
    }

    fn path_and_query(&self) -> &[u8] {
        self.path
    }

    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        let mut go_on = true;
        if let Some(told) = self.told {
            for (field, value) in &told.added {
                if go_on && *field == name {
                    go_on = visit(value.as_bytes());
                }
            }
            if told.hides(name.as_bytes()) {
                return;
            }
        }
        self.ask.fields.each(|field, value| {
            if go_on && field.eq_ignore_ascii_case(name.as_bytes()) {
                go_on = visit(value);
            }
        });
    }

    fn claims(&self) -> Option<&Claims> {
        self.told?.claims.as_deref()
    }
}

/// Checks `ask` and decides. `text` is a byte string to write an HTTP/1 head into; it comes back
/// in [`HeadOut::Text`] or is dropped.
pub(crate) fn plan(
    worker: &Worker,
    live: &Live,
    conn: &Conn,
    routes: Option<usize>,
    ask: &Ask<'_>,
    text: Vec<u8>,
) -> Result<Plan, Failure> {
    let connect = ask.method == b"CONNECT";
    let http = conn.http();
    let (authority, target) = effective(ask, connect, conn, http)?;
    let mut facts = facts(ask, connect);
    let rules = live.rules(conn);
    let filters = rules.ok().and_then(|rules| rules.filters);
    if filters.is_some_and(|filters| filters.grpc_web) && !connect {
        facts.web = WebCall::of(ask.fields);
        facts.grpc |= facts.web.is_some();
    }
    let limit = http.options.limits.max_request_bytes;
    if limit.is_some_and(|most| {
        ask.scan
            .length
            .is_some_and(|length| length > u64::from(most))
    }) {
        return Err(Failure::BodyTooLarge);
    }
    if let Some(hint) = ask.scan.peer.filter(|_| conn.inbound()) {
        conn.learn(hint, &worker.shared.registry);
    }
    let meant = if connect { ask.target } else { target };
    let mut log = record(worker, conn, ask, (authority, meant));
    let path = if connect {
        Cow::Borrowed(&b"/"[..])
    } else if let Some(leave) = ask.leave {
        // As it was asked about.
        Cow::Borrowed(leave.path())
    } else {
        match normalise(target, http.options.path) {
            Ok(path) => path,
            Err(BadPath::Elsewhere(path)) if !facts.grpc => {
                return Ok(Plan {
                    facts,
                    then: Then::Answer(Answer::elsewhere(path), None),
                    head_bytes: 0,
                    log,
                    span: None,
                });
            }
            Err(_) => return Err(Failure::Path),
        }
    };
    // All of a server is where its root is.
    let whole = *path == *b"*";
    let seen = Seen {
        ask,
        authority,
        path: if whole { b"/" } else { &path },
        whole,
        told: None,
        tls: conn.tls,
    };
    let overload = &worker.shared.overload;
    facts.keep &= !overload.ends_connections() || facts.version == Version::Http2;
    let passing = trace::begin(worker, conn, ask, authority);
    let mut delay = Duration::ZERO;
    let then = if overload.refuses() {
        overload.refused.fetch_add(1, Ordering::Relaxed);
        Then::Fail(Failure::Overloaded, None)
    } else {
        let out = (facts, text, passing.as_ref());
        let told = filters.and_then(|filters| filters.jwt.as_deref());
        let told = told.map(|jwt| match ask.leave {
            Some(leave) => leave.told(),
            None => jwt.look(&worker.tokens, &seen, worker.shared.wall.millis() / 1_000),
        });
        let target = told.as_ref().and_then(|told| told.target.as_deref());
        if let (Some(record), Some(target)) = (&mut log, target) {
            record.path = String::from_utf8_lossy(target).into_owned();
        }
        let seen = Seen {
            path: target.unwrap_or(seen.path),
            told: told.as_ref(),
            ..seen
        };
        rules
            .map_err(Failure::from)
            .and_then(|rules| {
                judged(rules, conn, &seen).map_err(|denied| {
                    if let Some(record) = &mut log {
                        record.policy.clone_from(&denied.policy);
                    }
                    Failure::from(denied)
                })
            })
            .and_then(|asks| match asks {
                Some(provider) => Ok(Then::Ask(Asking::of(provider, (live, conn), &seen, facts))),
                None => switchable(ask, facts, http)
                    .and_then(|()| decide(worker, live, conn, routes, &seen, out, &mut delay)),
            })
            .unwrap_or_else(|failure| Then::Fail(failure, None))
    };
    if let (Some(record), Some(passing)) = (&mut log, &passing) {
        record.trace = passing.sampled();
    }
    let mut span = passing.and_then(Passing::into_span);
    if let (Some(span), Some((_, cluster))) = (&mut span, then.meant())
        && let Some(cluster) = live.tables.cluster(cluster)
    {
        span.to(&cluster.config);
    }
    if let (Some(record), Some((at, cluster))) = (&mut log, then.meant()) {
        record.route = at
            .route(live)
            .map(|route| route.name.clone())
            .unwrap_or_default();
        record.upstream_cluster = live
            .tables
            .cluster(cluster)
            .map(|cluster| cluster.config.name.clone())
            .unwrap_or_default();
        // As it is sent on: who had none is given one.
        if let Then::Forward(chosen) = &then
            && let Some(id) = chosen.head.field("x-request-id")
        {
            record.request_id = String::from_utf8_lossy(id).into_owned();
        }
    }
    let mut then = then;
    if let (Some(_), Then::Forward(chosen), Some(table)) = (&log, &mut then, &http.log)
        && table.notes()
    {
        chosen.rare.get_or_insert_default().told = Some(Telling::new(table));
    }
    let then = if delay.is_zero() {
        then
    } else {
        Then::Delayed(Box::new(Delayed { time: delay, then }))
    };
    Ok(Plan {
        facts,
        then,
        head_bytes: 0,
        log,
        span,
    })
}

/// Whether the caller may have what it wants to switch to.
fn switchable(ask: &Ask<'_>, facts: Facts, http: &HttpTable) -> Result<(), Failure> {
    let allowed = |protocol: &[u8]| http.options.upgrades.allow(protocol);
    if facts.connect && (ask.framing != Framing::None || ask.scan.length.is_some()) {
        return Err(Failure::Malformed("http1.body_disallowed"));
    }
    let wanted = match ask.upgrade {
        _ if facts.connect => Upgrades::CONNECT.as_bytes(),
        Some(protocol) => protocol,
        None => return Ok(()),
    };
    if allowed(wanted) {
        Ok(())
    } else {
        Err(Failure::Upgrade)
    }
}

/// `answer`, of the proxy's own, with the name that the listener gives to it.
pub(crate) fn named<'a>(conn: &Conn, answer: &'a Answer) -> Cow<'a, Answer> {
    let http = conn.http();
    if !http.marks_answers || answer.marks.is_some() {
        return Cow::Borrowed(answer);
    }
    Cow::Owned(Answer {
        marks: Some(Box::new(answer_marks(http, Fields::Text(&[]), None))),
        ..answer.clone()
    })
}

/// What an answer tells the caller about the proxy.
pub(crate) fn answer_marks(
    http: &HttpTable,
    fields: Fields<'_>,
    request: Option<&RequestMarks>,
) -> AnswerMarks {
    let id = http.options.request_id.in_response.then(|| {
        request
            .and_then(RequestMarks::request_id)
            .map(|id| id.to_vec())
            .or_else(|| fields.first("x-request-id").map(<[u8]>::to_vec))
    });
    AnswerMarks::new(&http.options.server, id.flatten())
}
