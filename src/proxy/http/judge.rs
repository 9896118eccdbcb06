//! Whether a request may be made, before it is routed.

use std::sync::Arc;

use crate::mesh::path::loosest;
use crate::mesh::rbac;
use crate::mesh::route::matching::split_query;

use super::super::context::Conn;
use super::super::ext_authz::{self, Provider};
use super::super::rbac::Denied;
use super::super::taken::Rules;
use super::ask::Leave;
use super::marks::Caller;
use super::plan::Seen;

/// Whether the caller may do that. Of a caller with a bad token that is told first, where its filter stands.
/// Who else is to be asked, if somebody is.
pub(super) fn judged(
    rules: Rules<'_>,
    conn: &Conn,
    seen: &Seen<'_>,
) -> Result<Option<Arc<Provider>>, Denied> {
    let Some(filters) = rules.filters.filter(|filters| filters.judges) else {
        return Ok(None);
    };
    if seen.told.is_some_and(|told| told.refusal.is_some()) {
        return Ok(None);
    }
    let remote = if filters.looks_behind {
        let believed = &rules.http.options.remote;
        Caller::of(conn.remote.ip(), seen.ask.fields, believed).address
    } else {
        conn.remote.ip()
    };
    let (path, _) = split_query(seen.path);
    let loose = loosest(path);
    let facts = rbac::Facts {
        request: Some(seen),
        loose_path: loose.as_deref(),
        ..conn.connection(remote).facts()
    };
    let last = seen.ask.leave.and_then(Leave::last);
    ext_authz::walk(filters, &facts, &conn.own.known, last)
}
