//! What the access log says of a request, as far as its head tells.

use crate::telemetry::AccessRecord;

use super::super::context::{Conn, Worker};
use super::plan::Ask;

/// The beginning of a line of log.
pub(super) fn record(
    worker: &Worker,
    conn: &Conn,
    ask: &Ask<'_>,
    authority: &[u8],
) -> AccessRecord {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let field = |name: &str| ask.fields.first(name).map_or_else(String::new, text);
    AccessRecord {
        start: worker.shared.wall.millis(),
        method: text(ask.method),
        path: text(ask.target),
        protocol: ask.version.name(),
        forwarded_for: field("x-forwarded-for"),
        user_agent: field("user-agent"),
        request_id: field("x-request-id"),
        authority: text(authority),
        downstream_local: conn.local.to_string(),
        downstream_remote: conn.remote.to_string(),
        server_name: conn.server_name.clone().unwrap_or_default(),
        ..AccessRecord::default()
    }
}
