//! How HTTP is spoken on a chain, with what can be worked out before a request comes.

use std::sync::{Arc, LazyLock};

use super::super::access_log::LogTable;
use crate::mesh::HttpOptions;
use crate::mesh::http::{ClientCertOptions, RemoteOptions, RequestIdOptions, ServerHeader};

/// Options of a chain, ready for requests.
#[derive(Debug)]
pub(crate) struct HttpTable {
    pub(crate) options: Arc<HttpOptions>,
    /// Largest head in bytes.
    pub(crate) max_head: usize,
    /// Most fields in a head.
    pub(crate) max_fields: usize,
    /// Requests tell the application more, or less, than is usual.
    pub(crate) marks_requests: bool,
    /// Answers tell the caller more, or less, than is usual.
    pub(crate) marks_answers: bool,
    /// What is logged; where nothing is said, what the proxy was started with.
    pub(crate) log: Option<Arc<LogTable>>,
}

impl HttpTable {
    pub(crate) fn new(options: &Arc<HttpOptions>) -> Self {
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let (server, id) = (&options.server, &options.request_id);
        Self {
            max_head: size(options.limits.max_request_headers_kb).saturating_mul(1024),
            max_fields: size(options.limits.max_headers_count),
            marks_requests: options.remote != RemoteOptions::default()
                || *id != RequestIdOptions::default()
                || options.client_cert != ClientCertOptions::default()
                || !server.via.is_empty(),
            marks_answers: server.transformation != ServerHeader::PassThrough
                || !server.via.is_empty()
                || id.in_response,
            log: options
                .access_log
                .as_deref()
                .map(|logs| Arc::new(LogTable::new(logs))),
            options: Arc::clone(options),
        }
    }

    /// The usual options, for connections of which none are known.
    pub(crate) fn usual() -> &'static Self {
        static USUAL: LazyLock<HttpTable> = LazyLock::new(HttpTable::default);
        &USUAL
    }
}

impl Default for HttpTable {
    fn default() -> Self {
        Self::new(&Arc::default())
    }
}
