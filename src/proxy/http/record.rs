//! What is noted of a request for logs and taps, as far as its head tells.

use crate::rt;
use crate::telemetry::AccessRecord;

use super::super::access_log::LogTable;
use super::super::context::{Conn, Worker};
use super::super::tap::{Head, Taps};
use super::plan::Ask;

/// The beginning of a line of log; none where nobody wants one. `target` is what `ask` means: of a URI its path.
pub(super) fn record(
    worker: &Worker,
    conn: &Conn,
    ask: &Ask<'_>,
    (authority, target): (&[u8], &[u8]),
) -> Option<Box<AccessRecord>> {
    let taps = &worker.shared.options.taps;
    let table = conn.http().log.as_deref();
    let logged = table.map_or(worker.shared.log.is_some(), LogTable::logs);
    if !logged && !taps.on() {
        return None;
    }
    let tapped = taps.on() && tapped(taps, worker, conn, ask, (authority, target));
    if !logged && !tapped {
        return None;
    }
    let mut record = begun(worker, conn, ask, (authority, target));
    record.tapped = tapped;
    let mut put = |name: &str| {
        let known = record
            .request_headers
            .iter()
            .any(|(known, _)| known == name);
        if let Some(value) = ask.fields.first(name).filter(|_| !known) {
            let value = String::from_utf8_lossy(value).into_owned();
            record.request_headers.push((name.to_owned(), value));
        }
    };
    table
        .into_iter()
        .flat_map(|table| &table.request)
        .for_each(|name| put(name));
    if tapped {
        taps.headers().iter().for_each(|name| put(name));
    }
    Some(Box::new(record))
}

/// Whether somebody may want to be told of it.
#[cold]
fn tapped(
    taps: &Taps,
    worker: &Worker,
    conn: &Conn,
    ask: &Ask<'_>,
    (authority, target): (&[u8], &[u8]),
) -> bool {
    let head = Head {
        conn,
        registry: &worker.shared.registry,
        fields: ask.fields,
        method: ask.method,
        target,
        authority,
        protocol: ask.version.name(),
    };
    taps.may_want(&head, worker.shared.millis(rt::now()))
}

#[cold]
fn begun(
    worker: &Worker,
    conn: &Conn,
    ask: &Ask<'_>,
    (authority, target): (&[u8], &[u8]),
) -> AccessRecord {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let field = |name: &str| ask.fields.first(name).map_or_else(String::new, text);
    AccessRecord {
        start: worker.shared.wall.millis(),
        method: text(ask.method),
        path: text(target),
        protocol: ask.version.name(),
        forwarded_for: field("x-forwarded-for"),
        user_agent: field("user-agent"),
        request_id: field("x-request-id"),
        authority: text(authority),
        downstream_local: conn.local.to_string(),
        downstream_remote: conn.remote.to_string(),
        direct_remote: conn.direct_remote().to_string(),
        server_name: conn.server_name.clone().unwrap_or_default(),
        inbound: conn.inbound(),
        tls: conn.tls,
        link: conn.link,
        mtls: conn.inbound() && conn.principal.is_some(),
        principal: conn.principal.clone().unwrap_or_default(),
        connection: conn.state.id.get(),
        chain: conn.chain_name(),
        ..AccessRecord::default()
    }
}
