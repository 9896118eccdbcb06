//! One finished request or connection, turned into metrics and a line of log.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::rt;
use crate::telemetry::{
    AccessRecord, Flag, HttpKey, Link, LinkKey, Linked, PeerId, Protection, Protocol, Reporter,
    Security, ServiceId, TcpCells, TcpKey,
};

use super::connect::Dialed;
use super::context::{Conn, Live, Worker};
use super::http::call::Ended;
use super::http::plan::Facts;
use super::tables::ClusterTable;
use super::tap::Seen;

/// Who is who on `conn`, as the reporter sees it.
fn ends(live: &Live, conn: &Conn, destination: PeerId) -> (Reporter, PeerId, PeerId, Security) {
    if conn.inbound() {
        let security = if conn.tls {
            Security::MutualTls
        } else {
            Security::None
        };
        (Reporter::Destination, conn.peer.get(), live.own, security)
    } else {
        (Reporter::Source, live.own, destination, Security::Unknown)
    }
}

/// Counts a connection to an endpoint while it lasts; not one to the application.
pub(crate) fn dialed(
    worker: &Worker,
    live: &Live,
    cluster: &ClusterTable,
    (dialed, protocol): (&Dialed, Protocol),
) -> Option<Linked> {
    let key = LinkKey {
        reporter: Reporter::Source,
        source: live.own,
        destination: dialed.peer,
        service: cluster.service,
        protocol,
        link: dialed.link,
    };
    (!cluster.config.is_inward()).then(|| worker.recorder.link(key))
}

/// Counts a caller's connection while it lasts, from its first request on: only then it is known who calls
/// and which service is meant.
pub(crate) fn arrived(worker: &Worker, live: &Live, conn: &Conn, service: ServiceId) {
    // Of the application beside nothing is known, which is most of what a sidecar sees on its way out.
    if conn.link.is_none() || conn.linked.get().is_some() {
        return;
    }
    first(worker, live, conn, (service, Protocol::Http));
}

#[cold]
fn first(worker: &Worker, live: &Live, conn: &Conn, what: (ServiceId, Protocol)) {
    let (service, protocol) = what;
    let service = if conn.inbound() { service } else { live.front };
    let Some(link) = conn.link.filter(|_| service != ServiceId::default()) else {
        return;
    };
    // The applications' own TLS, on its way out.
    if !conn.inbound() && !worker.shared.gateway {
        return;
    }
    let key = LinkKey {
        reporter: Reporter::Destination,
        source: conn.peer.get(),
        destination: live.own,
        service,
        protocol,
        link,
    };
    conn.linked.get_or_init(|| worker.recorder.link(key));
}

/// Reports a request.
pub(crate) fn request(
    worker: &Rc<Worker>,
    live: &Live,
    conn: &Conn,
    (facts, begun, head_bytes): (Option<Facts>, Instant, u64),
    log: Option<Box<AccessRecord>>,
    ended: &Ended,
) {
    let duration = begun.elapsed();
    let (reporter, source, destination, security) = ends(live, conn, ended.destination);
    let grpc = facts.is_some_and(|facts| facts.grpc);
    let key = HttpKey {
        reporter,
        source,
        destination,
        service: ended.service,
        route: ended.route,
        code: ended.status,
        grpc_status: ended.grpc_status.filter(|_| grpc),
        flag: ended.flag,
        protocol: if grpc { Protocol::Grpc } else { Protocol::Http },
        security,
    };
    arrived(worker, live, conn, ended.service);
    if let Some(link) = conn.linked.get() {
        link.request();
    }
    worker.recorder.http(
        key,
        (duration, ended.retries),
        head_bytes + ended.received,
        ended.sent,
    );
    let Some(mut record) = log else {
        return;
    };
    record.code = ended.status;
    record.flag = ended.flag;
    record.details = ended.details;
    record.received = ended.received;
    record.sent = ended.sent;
    record.duration = duration;
    record.upstream_time = ended.upstream_time;
    if let Some(failure) = &ended.failure {
        record.upstream_failure = failure.transport_reason();
    }
    if let Some(address) = ended.upstream {
        record.upstream_host = address.to_string();
    }
    if let Some(address) = ended.upstream_local {
        record.upstream_local = address.to_string();
    }
    record.grpc = grpc;
    record.grpc_status = key.grpc_status;
    (record.source, record.destination) = (source, destination);
    record.service = ended.service;
    record.mtls |= ended.mtls;
    record.attempts = ended.retries + u32::from(ended.upstream.is_some());
    if let Some(noted) = &ended.told {
        let since = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(begun));
        record.response_headers.clone_from(&noted.fields);
        record.response_trailers.clone_from(&noted.trailers);
        record.request_time = since(noted.received);
        record.connected_time = since(noted.connected);
        record.sent_time = since(noted.sent);
        record.upstream_protocol = noted.protocol;
        record.upstream_link = noted.link;
        if ended.mtls {
            record.upstream_principal = worker.shared.registry.peer_labels(destination).principal;
            record.own_principal = live
                .identity
                .as_ref()
                .map_or_else(String::new, |own| own.id.clone());
        }
    }
    conn.tell_certificates(&mut record);
    tell(worker, conn, &Arc::from(record));
}

/// Writes a call where it is logged, and tells whoever looks.
fn tell(worker: &Worker, conn: &Conn, record: &Arc<AccessRecord>) {
    let (shared, registry) = (&worker.shared, &worker.shared.registry);
    match (&conn.http().log, &shared.log) {
        (Some(table), _) => table.write(record, &Seen { record, registry }, &shared.options.logs),
        (None, Some(log)) => log.write(record),
        (None, None) => {}
    }
    if record.tapped {
        let now = shared.millis(rt::now());
        shared.options.taps.offer(record, now, registry);
    }
}

impl Conn {
    /// The name of the chain that took it.
    pub(crate) fn chain_name(&self) -> String {
        let name = self.state.chain_name.borrow();
        name.as_deref().unwrap_or_default().to_owned()
    }

    /// Puts what is known of certificates into a record.
    pub(crate) fn tell_certificates(&self, record: &mut AccessRecord) {
        if let Some(shown) = &self.shown {
            let [peer, own] = &**shown;
            record.shown.clone_from(peer);
            record.own_shown.clone_from(own);
        }
    }
}

/// Counts a TCP connection while it lasts, and logs it at its end.
#[derive(Debug)]
pub(crate) struct TcpReport {
    pub(crate) cells: Arc<TcpCells>,
    began: Instant,
}

impl TcpReport {
    pub(crate) fn open(
        worker: &Worker,
        live: &Live,
        conn: &Conn,
        (destination, link): (PeerId, Option<Link>),
        (service, flag): (ServiceId, Flag),
    ) -> Self {
        let link = if conn.inbound() {
            conn.link
        } else {
            // At a gateway there is an edge before this one, too.
            first(worker, live, conn, (service, Protocol::Tcp));
            let carries = conn.link.map(|link| link.protection) == Some(Protection::Carried);
            link.map(|link| match link.protection {
                Protection::Plain(_) if carries => Link::bare(Protection::Carried),
                _ => link,
            })
        };
        let (reporter, source, destination, security) = ends(live, conn, destination);
        let cells = worker.recorder.tcp(TcpKey {
            reporter,
            source,
            destination,
            service,
            flag,
            security,
            link,
        });
        cells.opened.add(1);
        Self {
            cells,
            began: rt::now(),
        }
    }

    /// It began at `begun`, before it was known where it leads.
    pub(crate) fn since(self, begun: Instant) -> Self {
        Self {
            began: begun,
            ..self
        }
    }

    /// Whether connections of bytes like `conn` are logged.
    pub(crate) fn logs(worker: &Worker, conn: &Conn) -> bool {
        let started = || worker.shared.log.is_some();
        conn.log.as_ref().map_or_else(started, |table| table.logs())
    }

    pub(crate) fn close(self, worker: &Worker, conn: &Conn, mut record: AccessRecord) {
        self.cells.closed.add(1);
        if !Self::logs(worker, conn) {
            return;
        }
        record.duration = self.began.elapsed();
        let millis = u64::try_from(record.duration.as_millis()).unwrap_or(0);
        record.start = worker.shared.wall.millis().saturating_sub(millis);
        // As Envoy has it: what the caller dialled, before the kernel redirected it.
        record.downstream_local = conn.meant.unwrap_or(conn.local).to_string();
        record.downstream_remote = conn.remote.to_string();
        record.direct_remote = conn.direct_remote().to_string();
        record.server_name = conn.server_name.clone().unwrap_or_default();
        record.principal = conn.principal.clone().unwrap_or_default();
        record.connection = conn.state.id.get();
        record.chain = conn.chain_name();
        conn.tell_certificates(&mut record);
        record.inbound = conn.inbound();
        record.tls = conn.tls;
        record.link = conn.link;
        record.mtls |= conn.inbound() && conn.principal.is_some();
        record.source = conn.peer.get();
        let (shared, record) = (&worker.shared, &Arc::new(record));
        let registry = &shared.registry;
        match (&conn.log, &shared.log) {
            (Some(table), _) => {
                table.write(record, &Seen { record, registry }, &shared.options.logs);
            }
            (None, Some(log)) => log.write(record),
            (None, None) => {}
        }
    }
}
