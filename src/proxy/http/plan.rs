//! From a request's head to what will be done with it: checked, normalised, routed, rewritten.
//!
//! Runs in one go while the head is borrowed from the read buffer. What is needed later (the head
//! for the endpoint, indexes into the tables, a few facts) is taken out; nothing else is kept.

use std::borrow::Cow;

use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::http::Upgrades;
use crate::mesh::route::{Action, AttemptHeaders, Forward, Request, Route, VirtualHost};
use crate::telemetry::AccessRecord;

use super::super::context::{Conn, Live, Worker};
use super::super::tables::http::HttpTable;
use super::super::tables::route::ForwardTable;
use super::super::tables::{ClusterTable, RouteAction};
use super::answer::Answer;
use super::control::{self, Control};
use super::fields::{Fields, Scan};
use super::h2::block::Block;
use super::hash::{self, Hashed};
use super::head::{Edits, RequestOut};
use super::marks::{AnswerMarks, Caller, RequestMarks};
use super::path::{BadPath, normalise};
use super::record::record;
use super::respond::Failure;
use super::rewrite::{redirected, rewritten};
use super::target::effective;
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
}

/// What stays known of a request.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a request, each asked for by name"
)]
pub(crate) struct Facts {
    pub(crate) version: Version,
    pub(crate) framing: Framing,
    /// HEAD: the answer has no body.
    pub(crate) head: bool,
    /// Doing it twice does what doing it once does (RFC 9110, 9.2.2), or the application has a key
    /// to tell.
    pub(crate) idempotent: bool,
    pub(crate) grpc: bool,
    pub(crate) connect: bool,
    /// Asks for another protocol.
    pub(crate) upgrade: bool,
    /// The connection may carry another request.
    pub(crate) keep: bool,
}

/// A checked request and what will be done with it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) facts: Facts,
    pub(crate) then: Then,
    /// Size of the head as it came.
    pub(crate) head_bytes: u64,
    pub(crate) log: Option<Box<AccessRecord>>,
}

impl Plan {
    /// A request that is refused though it could be read.
    pub(crate) fn refused(ask: &Ask<'_>, failure: Failure) -> Self {
        Self {
            facts: facts(ask, false),
            then: Then::Fail(failure),
            head_bytes: 0,
            log: None,
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
    /// Refused.
    Fail(Failure),
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
    /// Another protocol that is asked for.
    pub(crate) upgrade: Option<Box<Upgrade>>,
    /// What the request itself says about its limits; nothing, mostly.
    pub(crate) control: Option<Box<Control>>,
    /// The host that was asked for, where the cluster goes where callers want.
    pub(crate) authority: Vec<u8>,
    /// What the answer tells the caller about the proxy, where that is not the usual.
    pub(crate) marks: Option<Box<AnswerMarks>>,
    /// Of what the route says; apart, as hardly any does.
    pub(crate) hashed: Option<Box<Hashed>>,
}

/// The head for the endpoint.
#[derive(Debug)]
pub(crate) enum HeadOut {
    /// HTTP/1.1, without its last line end; in a byte string of the connection's.
    Text(Vec<u8>),
    /// HTTP/2.
    H2(Box<Block>),
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
    ask: &'m Ask<'m>,
    pub(super) authority: &'m [u8],
    pub(super) path: &'m [u8],
    /// It is the server that is meant (`*`).
    whole: bool,
    tls: bool,
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
        self.ask.fields.each(|field, value| {
            if go_on && field.eq_ignore_ascii_case(name.as_bytes()) {
                go_on = visit(value);
            }
        });
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
    let facts = facts(ask, connect);
    let limit = http.options.limits.max_request_bytes;
    if limit.is_some_and(|most| {
        ask.scan
            .length
            .is_some_and(|length| length > u64::from(most))
    }) {
        return Err(Failure::BodyTooLarge);
    }
    let log = worker
        .shared
        .log
        .is_some()
        .then(|| Box::new(record(worker, conn, ask, authority)));
    let path = if connect {
        Cow::Borrowed(&b"/"[..])
    } else {
        match normalise(target, http.options.path) {
            Ok(path) => path,
            Err(BadPath::Elsewhere(path)) if !facts.grpc => {
                return Ok(Plan {
                    facts,
                    then: Then::Answer(elsewhere(path), None),
                    head_bytes: 0,
                    log,
                });
            }
            Err(_) => return Err(Failure::Path),
        }
    };
    if let Some(hint) = ask.scan.peer.filter(|_| conn.inbound()) {
        conn.learn(hint, &worker.shared.registry);
    }
    // All of a server is where its root is.
    let whole = *path == *b"*";
    let seen = Seen {
        ask,
        authority,
        path: if whole { b"/" } else { &path },
        whole,
        tls: conn.tls,
    };
    let then = match switchable(ask, facts, http) {
        Ok(()) => decide(live, conn, routes, &seen, facts, text).unwrap_or_else(Then::Fail),
        Err(failure) => Then::Fail(failure),
    };
    let mut log = log;
    if let (Some(record), Then::Forward(chosen)) = (&mut log, &then) {
        record.route = chosen
            .at
            .route(live)
            .map(|route| route.name.clone())
            .unwrap_or_default();
        record.upstream_cluster = live
            .tables
            .cluster(Some(chosen.cluster))
            .map(|cluster| cluster.config.name.clone())
            .unwrap_or_default();
    }
    Ok(Plan {
        facts,
        then,
        head_bytes: 0,
        log,
    })
}

/// Sends the caller to `path` of the same host.
fn elsewhere(mut path: Vec<u8>) -> Answer {
    if let [b'/', b'/' | b'\\', ..] = *path {
        // "//name" would be another host.
        path.splice(..0, *b"/.");
    }
    Answer {
        status: 307,
        location: Some(String::from_utf8_lossy(&path).into_owned()),
        ..Answer::default()
    }
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

fn facts(ask: &Ask<'_>, connect: bool) -> Facts {
    let connection = &ask.scan.connection;
    let keep = match ask.version {
        Version::Http10 => connection.keep_alive && !connection.close,
        Version::Http11 => !connection.close,
        Version::Http2 => true,
    };
    Facts {
        version: ask.version,
        framing: ask.framing,
        head: ask.method == b"HEAD",
        idempotent: matches!(
            ask.method,
            b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
        ) || ask.scan.idempotency_key,
        grpc: ask.scan.grpc,
        connect,
        upgrade: ask.upgrade.is_some(),
        keep,
    }
}

fn decide(
    live: &Live,
    conn: &Conn,
    routes: Option<usize>,
    seen: &Seen<'_>,
    facts: Facts,
    text: Vec<u8>,
) -> Result<Then, Failure> {
    let table_index = routes.ok_or(Failure::NoRoute)?;
    let table = live
        .tables
        .routes
        .get(table_index)
        .ok_or(Failure::NoRoute)?;
    let (found, action) = table.find(seen).ok_or(Failure::NoRoute)?;
    let at = RouteAt {
        table: table_index,
        host: found.host_index,
        route: found.route_index,
    };
    match (&found.route.action, action) {
        (Action::Redirect(redirect), _) => Ok(Then::Answer(redirected(redirect, seen), Some(at))),
        (Action::Respond(respond), _) => Ok(Then::Answer(
            Answer {
                status: respond.status,
                body: respond.body.clone(),
                ..Answer::default()
            },
            Some(at),
        )),
        (Action::Forward(forward), RouteAction::Forward(table)) => {
            let (target, cluster) = table.next().ok_or(Failure::NoCluster)?;
            let index = cluster.ok_or(Failure::NoCluster)?;
            let cluster = live.tables.cluster(cluster).ok_or(Failure::NoCluster)?;
            let edits = forward
                .clusters
                .get(target)
                .map_or_else(Edits::default, |target| {
                    Edits::new(&target.headers.request, &found.route.headers.request)
                });
            let http = conn.http();
            let marks = http.marks_requests.then(|| {
                let caller = Caller::of(conn.remote.ip(), seen.ask.fields, &http.options.remote);
                Box::new(RequestMarks::new(
                    conn,
                    seen.ask.fields,
                    seen.ask.scan,
                    caller,
                ))
            });
            let control = (seen.ask.scan.controlled || table.looks_at_heads).then(|| {
                let whom = (control::is_trusted(conn, seen.ask.fields), facts.grpc);
                Box::new(control::read(seen, seen.ask.fields, whom, (forward, table)))
            });
            let head = head_out(
                conn,
                (cluster, marks.as_deref()),
                seen,
                (facts, control.as_deref()),
                (found.route, forward, edits),
                text,
            );
            let hashed = match forward.hash.as_slice() {
                [] => None,
                policies => Some(Box::new(hash::hash(policies, seen, conn))),
            };
            Ok(Then::Forward(Chosen {
                control,
                at,
                target,
                cluster: index,
                head,
                upgrade: seen
                    .ask
                    .upgrade
                    .map(|protocol| Box::new(Upgrade::new(protocol, seen.ask.fields))),
                authority: match cluster.config.kind {
                    crate::mesh::ClusterKind::OriginalDestination => seen.authority.to_vec(),
                    _ => Vec::new(),
                },
                marks: http
                    .marks_answers
                    .then(|| Box::new(answer_marks(http, seen.ask.fields, marks.as_deref()))),
                hashed,
            }))
        }
        (Action::Forward(_), RouteAction::Answer) => Err(Failure::NoRoute),
    }
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

fn head_out(
    conn: &Conn,
    (cluster, marks): (&ClusterTable, Option<&RequestMarks>),
    seen: &Seen<'_>,
    (facts, control): (Facts, Option<&Control>),
    (route, forward, edits): (&Route, &Forward, Edits<'_>),
    mut text: Vec<u8>,
) -> HeadOut {
    let path = match &forward.rewrite.path {
        _ if seen.whole => Cow::Borrowed(&b"*"[..]),
        None => Cow::Borrowed(seen.path),
        Some(rewrite) => Cow::Owned(rewritten(rewrite, &route.matches.path, seen.path)),
    };
    let authority = edits
        .host()
        .or(forward.rewrite.authority.as_deref())
        .map_or(seen.authority, str::as_bytes);
    let out = RequestOut {
        method: seen.ask.method,
        path: &path,
        authority,
        fields: seen.ask.fields,
        scan: seen.ask.scan,
        edits,
        framing: facts.framing,
        inbound: conn.inbound(),
        marks,
        client_cert: conn.client_cert.as_deref(),
        tls: conn.tls,
        version: facts.version,
        upgrade: seen.ask.upgrade,
        key: facts.version == Version::Http2,
        // Peers are believed, as they only make their own request shorter.
        passes_deadline: (conn.principal.is_some() || control::is_trusted(conn, seen.ask.fields))
            && forward.timeout.is_none(),
        tells_grpc: control.is_some_and(|control| control.tell_grpc),
    };
    // Every server knows how to be asked for another protocol by HTTP/1.1, few by HTTP/2.
    let only_http2 = cluster.config.protocol == UpstreamProtocol::Http2;
    if speaks_http2(cluster, facts.version) && (!facts.upgrade || only_http2) {
        let tls = cluster.config.tls.is_some();
        return HeadOut::H2(Box::new(out.to_block(tls)));
    }
    text.clear();
    out.write_text(&mut text);
    HeadOut::Text(text)
}

/// Whether `cluster` is called by HTTP/2 for a caller that speaks `version`.
fn speaks_http2(cluster: &ClusterTable, version: Version) -> bool {
    match cluster.config.protocol {
        UpstreamProtocol::Http1 => false,
        // Where the peer turns out to speak HTTP/1.1, the head is written anew.
        UpstreamProtocol::Http2 | UpstreamProtocol::Negotiated => true,
        UpstreamProtocol::Downstream => version == Version::Http2,
    }
}
