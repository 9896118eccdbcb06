//! One call, as its span will tell of it. Made for the few calls that are sampled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::Cluster;
use crate::mesh::tracing::{TagFrom, Tracing};
use crate::telemetry::Flag;

use super::super::context::{Conn, Worker};
use super::super::http::call::Ended;
use super::super::http::plan::Ask;
use super::context::Ids;

/// Of what a caller sent, at most so many bytes are kept.
const MOST: usize = 256;

/// A call.
#[derive(Debug)]
pub(crate) struct Span {
    pub(super) ids: Ids,
    pub(super) parent: Option<u64>,
    pub(super) how: Arc<Tracing>,
    /// Of calls that came to this proxy for its application, or from outside; else of the caller's.
    pub(super) server: bool,
    pub(super) begun_unix_us: u64,
    pub(super) duration: Duration,
    pub(super) method: String,
    pub(super) url: String,
    pub(super) host: String,
    pub(super) protocol: &'static str,
    pub(super) user_agent: String,
    /// `x-envoy-downstream-service-cluster`.
    pub(super) downstream_cluster: String,
    pub(super) client_trace_id: String,
    pub(super) request_id: String,
    pub(super) peer: SocketAddr,
    pub(super) grpc: Option<Grpc>,
    /// Values of headers that tags of its own come from, by the tag's name.
    pub(super) headers: Vec<(String, String)>,
    /// Where it was sent.
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u8>,
    pub(super) flag: Flag,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) retries: u32,
}

/// What is told of a call of gRPC.
#[derive(Debug, Default)]
pub(super) struct Grpc {
    pub(super) path: String,
    pub(super) content_type: String,
    pub(super) timeout: String,
}

/// Text of at most `most` bytes.
fn text(bytes: &[u8], most: usize) -> String {
    String::from_utf8_lossy(bytes.get(..most).unwrap_or(bytes)).into_owned()
}

impl Span {
    pub(super) fn begin(
        worker: &Worker,
        conn: &Conn,
        ask: &Ask<'_>,
        (authority, how): (&[u8], &Arc<Tracing>),
        (ids, parent): (Ids, Option<u64>),
    ) -> Box<Self> {
        let field = |name: &str| {
            let value = ask.fields.first(name);
            value.map_or_else(String::new, |value| text(value, MOST))
        };
        let longest = usize::try_from(how.max_path).unwrap_or(MOST);
        let path = text(ask.target, longest);
        let host = text(authority, MOST);
        let url = if ask.target.starts_with(b"/") {
            let scheme = match field("x-forwarded-proto") {
                said if said == "https" || said == "http" => said,
                _ if conn.tls => "https".to_owned(),
                _ => "http".to_owned(),
            };
            format!("{scheme}://{host}{path}")
        } else {
            path.clone()
        };
        let grpc = ask.scan.grpc.then(|| Grpc {
            path,
            content_type: field("content-type"),
            timeout: field("grpc-timeout"),
        });
        let tags = how.tags.iter();
        let headers = tags.filter(|(_, tag)| tag.from == TagFrom::Header);
        let headers = headers.filter_map(|(name, tag)| {
            let value = ask.fields.first(&tag.value)?;
            Some((name.clone(), text(value, MOST)))
        });
        Box::new(Self {
            ids,
            parent,
            how: Arc::clone(how),
            server: conn.inbound() || worker.shared.gateway,
            begun_unix_us: worker.shared.wall.micros(),
            duration: Duration::ZERO,
            method: text(ask.method, MOST),
            url,
            host,
            protocol: ask.version.name(),
            user_agent: field("user-agent"),
            downstream_cluster: field("x-envoy-downstream-service-cluster"),
            client_trace_id: field("x-client-trace-id"),
            request_id: field("x-request-id"),
            peer: conn.remote,
            grpc,
            headers: headers.collect(),
            cluster: None,
            upstream: None,
            status: 0,
            grpc_status: None,
            flag: Flag::None,
            request_bytes: 0,
            response_bytes: 0,
            retries: 0,
        })
    }

    /// It is sent to `cluster`.
    pub(crate) fn to(&mut self, cluster: &Arc<Cluster>) {
        self.cluster = Some(Arc::clone(cluster));
    }

    pub(super) fn end(&mut self, duration: Duration, ended: &Ended) {
        self.duration = duration;
        self.status = ended.status;
        self.grpc_status = ended.grpc_status.filter(|_| self.grpc.is_some());
        self.flag = ended.flag;
        self.request_bytes = ended.received;
        self.response_bytes = ended.sent;
        self.retries = ended.retries;
        self.upstream = ended.upstream;
    }

    /// Whether somebody should look into it: Envoy's rule.
    pub(super) fn failed(&self) -> bool {
        let broken = matches!(self.flag, Flag::Dc | Flag::Uc | Flag::Ur | Flag::Upe);
        // Those that are no fault of the caller's: unknown, deadline, exhausted, aborted, unimplemented,
        // internal, unavailable, loss.
        let grpc = self
            .grpc_status
            .is_some_and(|status| matches!(status, 2 | 4 | 8 | 10 | 12 | 13 | 14 | 15));
        self.status == 0 || self.status >= 500 || grpc || broken
    }
}
