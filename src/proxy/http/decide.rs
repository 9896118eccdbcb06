//! Where a checked request goes: its route, what filters say of it, and the heads that are sent on.

use std::borrow::Cow;
use std::cell::RefCell;
use std::time::Duration;

use crate::mesh::ClusterKind;
use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::filter::RateLimitRule;
use crate::mesh::route::{Action, Forward, Route};
use crate::rt;

use super::super::buffer::take_text;
use super::super::context::{Conn, Live, Worker};
use super::super::filter::{self, Filter, Filters, Passed, Refusal};
use super::super::tables::route::ForwardTable;
use super::super::tables::{ClusterTable, RouteAction};
use super::super::trace::Passing;
use super::Version;
use super::answer::Answer;
use super::call::compare;
use super::control::{self, Control};
use super::edits::Edits;
use super::hash;
use super::head::RequestOut;
use super::marks::{Caller, RequestMarks};
use super::plan::{
    Chosen, Facts, HeadOut, Meant, MirrorOut, Rare, RouteAt, Seen, Then, answer_marks,
};
use super::respond::Failure;
use super::rewrite::{redirected, rewritten};
use super::session::{self, Fate, Session};
use super::upgrade::Upgrade;

/// Decides about `seen`. `text` is a byte string to write an HTTP/1 head into. Whatever the decision,
/// it waits for as long as `delay` says then.
pub(super) fn decide(
    worker: &Worker,
    live: &Live,
    conn: &Conn,
    routes: Option<usize>,
    seen: &Seen<'_>,
    (facts, text, trace): (Facts, Vec<u8>, Option<&Passing>),
    delay: &mut Duration,
) -> Result<Then, Failure> {
    let table_index = routes.ok_or(Failure::NoRoute)?;
    let table = live
        .tables
        .routes
        .get(table_index)
        .ok_or(Failure::NoRoute)?;
    let found = match seen.ask.leave {
        Some(leave) => leave.find(table, seen),
        None => table.find(seen),
    };
    let (found, action) = found.ok_or_else(|| unrouted(seen))?;
    let at = RouteAt {
        table: table_index,
        host: found.host_index,
        route: found.route_index,
    };
    if let Some(filters) = live.filters(conn).filter(|filters| filters.act(&[]))
        && !matches!(action, RouteAction::Forward(_))
    {
        // What is answered here takes no place for longer than that.
        let passed = filtered(worker, (conn, filters), seen, "", (&[], &[]), delay);
        drop(passed.map_err(Failure::Filtered)?);
    }
    match (&found.route.action, action) {
        (Action::Redirect(redirect), _) => Ok(Then::Answer(
            redirected(redirect, &found.route.matches.path, seen),
            Some(at),
        )),
        (Action::Respond(respond), _) => Ok(Then::Answer(
            Answer {
                status: respond.status,
                body: respond.body.clone(),
                ..Answer::default()
            },
            Some(at),
        )),
        (Action::Forward(forward), RouteAction::Forward(table)) => {
            let mut session = session::kept(live.filters(conn), table)
                .and_then(|how| Session::of(how, seen, || worker.shared.wall.millis()));
            let fate = session
                .as_mut()
                .map_or(Fate::New, |session| session.fate(table, live));
            let (target, index) = match fate {
                Fate::Lasts(to) => (to.target, Some(to.cluster)),
                Fate::New | Fate::Refused(_) => {
                    table.next().ok_or(Failure::NoCluster(forward.missing))?
                }
            };
            let drawn = forward.clusters.get(target);
            let passed = match live.filters(conn) {
                Some(filters) if filters.act(&table.filters) => {
                    let own = (forward.rate_limits.as_slice(), table.filters.as_slice());
                    let cluster = drawn.map_or("", |drawn| drawn.cluster.as_str());
                    match filtered(worker, (conn, filters), seen, cluster, own, delay) {
                        Ok(passed) => passed,
                        Err(refusal) => {
                            let meant = Box::new(Meant { at, cluster: index });
                            return Ok(Then::Fail(Failure::Filtered(refusal), Some(meant)));
                        }
                    }
                }
                _ => None,
            };
            let passed = match seen.ask.leave {
                Some(leave) => leave.tell(passed),
                None => passed,
            };
            if let Fate::Refused(status) = fate {
                let meant = Box::new(Meant { at, cluster: index });
                return Ok(Then::Fail(Failure::NoSession(status), Some(meant)));
            }
            let index = index.ok_or(Failure::NoCluster(forward.missing))?;
            let cluster = live
                .tables
                .cluster(Some(index))
                .ok_or(Failure::NoCluster(forward.missing))?;
            let edits = drawn.map_or_else(Edits::default, |drawn| {
                Edits::new(&drawn.headers.request, &found.route.headers.request)
            });
            let http = conn.http();
            let marks = http.marks_requests.then(|| {
                let caller = Caller::of(conn.remote.ip(), seen.ask.fields, &http.options.remote);
                let mut marks = RequestMarks::new(conn, seen.ask.fields, seen.ask.scan, caller);
                if seen.ask.leave.is_some() {
                    marks.keep_request_id();
                }
                if let Some(sampled) = trace.filter(|trace| trace.span.is_some()) {
                    marks.name_request(|| sampled.request_id());
                }
                Box::new(marks)
            });
            let control = (seen.ask.scan.controlled || table.looks_at_heads).then(|| {
                let whom = (control::is_trusted(conn, seen.ask.fields), facts.grpc);
                control::read(seen, seen.ask.fields, whom, (forward, table))
            });
            let authority = edits
                .host()
                .or(forward.rewrite.authority.as_deref())
                .map_or(seen.authority, str::as_bytes);
            let out = Out {
                conn,
                seen,
                facts,
                route: found.route,
                forward,
                edits,
                marks: marks.as_deref(),
                control: control.as_ref(),
                added: passed
                    .as_ref()
                    .map(|passed| passed.headers.as_slice())
                    .unwrap_or_default(),
                hides_encoding: passed
                    .as_ref()
                    .and_then(|passed| passed.compressing.as_ref())
                    .is_some_and(|how| how.policy.hide_accept_encoding),
                trace,
            };
            let mut mirrors = if forward.mirrors.is_empty() || facts.upgrade || facts.connect {
                Vec::new()
            } else {
                out.mirrors(live, table, authority)
            };
            // The first copy is the one that is compared.
            let compared = match (&forward.compare, mirrors.first_mut()) {
                (Some(how), Some(copy)) if how.share.takes(fastrand::u32(..)) => {
                    let (primary, shadow) = compare::pair(how);
                    copy.compared = Some(shadow);
                    Some(primary)
                }
                _ => None,
            };
            let head = out.head(cluster, authority, text);
            let hashed = match forward.hash.as_slice() {
                [] => None,
                policies => Some(hash::hash(policies, seen, conn)),
            };
            let asked = cluster.config.kind == ClusterKind::OriginalDestination;
            let upgrade = seen.ask.upgrade;
            let rare = !mirrors.is_empty()
                || passed.is_some()
                || upgrade.is_some()
                || control.is_some()
                || http.marks_answers
                || asked
                || hashed.is_some()
                || session.is_some();
            Ok(Then::Forward(Chosen {
                at,
                target,
                cluster: index,
                head,
                rare: rare.then(|| {
                    Box::new(Rare {
                        mirrors: RefCell::new(mirrors),
                        compared,
                        passed,
                        upgrade: upgrade.map(|wanted| Upgrade::new(wanted, seen.ask.fields)),
                        authority: if asked {
                            seen.authority.to_vec()
                        } else {
                            Vec::new()
                        },
                        marks: http
                            .marks_answers
                            .then(|| answer_marks(http, seen.ask.fields, marks.as_deref())),
                        control,
                        hashed,
                        session,
                        held: RefCell::default(),
                        told: None,
                    })
                }),
            }))
        }
        (Action::Forward(_), RouteAction::Answer) => Err(Failure::NoRoute),
    }
}

/// Of a request that has no route, a bad token is told first: filters stand before routes.
fn unrouted(seen: &Seen<'_>) -> Failure {
    let refusal = seen.told.and_then(|told| told.refusal.clone());
    refusal.map_or(Failure::NoRoute, Failure::Filtered)
}

/// What a chain's filters say of a request.
fn filtered(
    worker: &Worker,
    (conn, filters): (&Conn, &Filters),
    seen: &Seen<'_>,
    cluster: &str,
    (rules, overrides): (&[RateLimitRule], &[Filter]),
    delay: &mut Duration,
) -> Result<Option<Passed>, Box<Refusal>> {
    let now = rt::now();
    let believed = &conn.http().options.remote;
    let asked = filter::Asked {
        request: seen,
        remote: Caller::of(conn.remote.ip(), seen.ask.fields, believed).address,
        principal: conn.principal.as_deref(),
        denied: seen.told.and_then(|told| told.refusal.as_deref()),
        cluster,
        rules,
        own: &conn.own,
        since: worker.shared.since(now),
        now,
    };
    filter::run(&filters.all, overrides, &asked, delay)
}

/// What the head for an endpoint is made from.
struct Out<'o, 'm> {
    conn: &'o Conn,
    seen: &'o Seen<'m>,
    facts: Facts,
    route: &'o Route,
    forward: &'o Forward,
    edits: Edits<'o>,
    marks: Option<&'o RequestMarks>,
    control: Option<&'o Control>,
    /// Fields from filters.
    added: &'o [(String, String)],
    /// The endpoint does not learn which codings the caller takes.
    hides_encoding: bool,
    /// What is said of its trace.
    trace: Option<&'o Passing>,
}

impl Out<'_, '_> {
    fn head(&self, cluster: &ClusterTable, authority: &[u8], mut text: Vec<u8>) -> HeadOut {
        let (conn, seen, facts) = (self.conn, self.seen, self.facts);
        let path = match &self.forward.rewrite.path {
            _ if seen.whole => Cow::Borrowed(&b"*"[..]),
            None => Cow::Borrowed(seen.path),
            Some(rewrite) => Cow::Owned(rewritten(rewrite, &self.route.matches.path, seen.path)),
        };
        let out = RequestOut {
            method: seen.ask.method,
            path: &path,
            authority,
            fields: seen.ask.fields,
            told: seen.told,
            scan: seen.ask.scan,
            edits: self.edits,
            added: self.added,
            framing: facts.goes(),
            web: facts.web.is_some(),
            hides_encoding: self.hides_encoding,
            inbound: conn.inbound(),
            marks: self.marks,
            client_cert: conn.client_cert.as_deref(),
            tls: conn.tls,
            version: facts.version,
            upgrade: seen.ask.upgrade,
            key: facts.version == Version::Http2,
            // Peers are believed, as they only make their own request shorter.
            passes_deadline: seen.ask.scan.expected_timeout
                && self.forward.timeout.is_none()
                && (conn.principal.is_some() || control::is_trusted(conn, seen.ask.fields)),
            tells_grpc: self.control.is_some_and(|control| control.tell_grpc),
            trace: self.trace,
        };
        // Every server knows how to be asked for another protocol by HTTP/1.1, few by HTTP/2.
        let only_http2 = cluster.config.protocol == UpstreamProtocol::Http2;
        if speaks_http2(cluster, facts.version) && (!facts.upgrade || only_http2) {
            let tls = cluster.config.tls.is_some() || cluster.config.origination.is_some();
            return HeadOut::H2(Box::new(out.to_block(tls)));
        }
        text.clear();
        out.write_text(&mut text);
        HeadOut::Text(text)
    }

    /// Copies for those of the route's mirrors that take this request.
    fn mirrors(&self, live: &Live, table: &ForwardTable, authority: &[u8]) -> Vec<MirrorOut> {
        let mut all = Vec::new();
        for (mirror, cluster) in self.forward.mirrors.iter().zip(&table.mirrors) {
            let (Some(index), Some(found)) = (*cluster, live.tables.cluster(*cluster)) else {
                continue;
            };
            if !mirror.share.takes(fastrand::u32(..)) {
                continue;
            }
            let authority = if mirror.plain_host {
                Cow::Borrowed(authority)
            } else {
                Cow::Owned(shadow(authority))
            };
            all.push(MirrorOut {
                cluster: index,
                head: self.head(found, &authority, take_text()),
                compared: None,
            });
        }
        all
    }
}

/// Envoy's name for the host of a copy: `-shadow` behind the name, before the port.
fn shadow(authority: &[u8]) -> Vec<u8> {
    let name = crate::mesh::route::router::without_port(authority).len();
    let (name, port) = authority.split_at_checked(name).unwrap_or((authority, &[]));
    [name, b"-shadow", port].concat()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_by_its_host() {
        for (host, expected) in [
            ("reviews", "reviews-shadow"),
            ("reviews:9080", "reviews-shadow:9080"),
            ("[::1]:80", "[::1]-shadow:80"),
        ] {
            let made = String::from_utf8(shadow(host.as_bytes())).unwrap();
            assert_eq!(made, expected);
        }
    }
}
