//! What a span says: its name, and the tags that Envoy and Istio set.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mesh::WorkloadRef;
use crate::mesh::tracing::TagFrom;

use super::super::options::Options;
use super::span::Span;
use super::usual;

/// Who makes spans, in the words of whoever reads them.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    /// Envoy's `node_id`.
    pub(super) node: String,
    pub(super) workload: WorkloadRef,
    pub(super) cluster: String,
    /// The root of its identities.
    pub(super) mesh: String,
    pub(super) variables: Arc<BTreeMap<String, String>>,
}

impl Maker {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            node: options.node.clone(),
            workload: options.workload.clone(),
            cluster: options.cluster_id.clone(),
            mesh: options
                .tracing
                .control_plane
                .as_ref()
                .map(|to| to.server.trust_domain.clone())
                .unwrap_or_default(),
            variables: Arc::clone(&options.tracing.variables),
        }
    }

    /// Istio's name for a workload: its canonical service and namespace.
    pub(super) fn service(&self) -> String {
        format!("{}.{}", self.workload.service, self.workload.namespace)
    }
}

/// What a span is called: the service and port that were called, as Istio names routes, else the host.
pub(super) fn name(span: &Span) -> String {
    let named = span.cluster.as_ref().and_then(|cluster| {
        let service = cluster.service.as_ref()?;
        let port = cluster.name.split('|').nth(1)?;
        Some(format!("{}:{port}/*", service.host))
    });
    named.unwrap_or_else(|| match span.host.as_str() {
        "" => "unknown".to_owned(),
        host => host.to_owned(),
    })
}

/// The tags of a span, in order of their names where nothing else says.
pub(super) fn tags(span: &Span, maker: &Maker) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::with_capacity(32);
    let mut put = |name: &str, value: String| all.push((name.to_owned(), value));
    let dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    put("component", "proxy".to_owned());
    put("node_id", maker.node.clone());
    put("http.method", span.method.clone());
    put("http.url", span.url.clone());
    put("http.protocol", span.protocol.to_owned());
    put("downstream_cluster", dash(&span.downstream_cluster));
    put("user_agent", dash(&span.user_agent));
    put("request_size", span.request_bytes.to_string());
    put("response_size", span.response_bytes.to_string());
    put("response_flags", span.flag.name().to_owned());
    put("http.status_code", span.status.to_string());
    put("peer.address", span.peer.ip().to_canonical().to_string());
    if !span.request_id.is_empty() {
        put("guid:x-request-id", span.request_id.clone());
    }
    if !span.client_trace_id.is_empty() {
        put("guid:x-client-trace-id", span.client_trace_id.clone());
    }
    if let Some(cluster) = &span.cluster {
        put("upstream_cluster", cluster.name.clone());
        // Envoy's second name, without what metrics cannot have.
        put("upstream_cluster.name", cluster.name.replace('|', ";"));
    }
    if let Some(upstream) = span.upstream {
        put("upstream_address", upstream.to_string());
    }
    if span.retries > 0 {
        put("retry.count", span.retries.to_string());
    }
    if let Some(grpc) = &span.grpc {
        put("grpc.path", grpc.path.clone());
        put("grpc.authority", span.host.clone());
        put("grpc.content_type", grpc.content_type.clone());
        if !grpc.timeout.is_empty() {
            put("grpc.timeout", grpc.timeout.clone());
        }
        if let Some(status) = span.grpc_status {
            put("grpc.status_code", status.to_string());
        }
    }
    if span.failed() {
        put("error", "true".to_owned());
    }
    // Where somebody says how calls are traced, these are among what is said.
    if Arc::ptr_eq(&span.how, usual()) {
        let own = &maker.workload;
        put("istio.canonical_service", own.service.clone());
        put("istio.canonical_revision", own.version.clone());
        put("istio.namespace", own.namespace.clone());
        put("istio.cluster_id", maker.cluster.clone());
        put("istio.mesh_id", maker.mesh.clone());
    }
    for (name, tag) in &span.how.tags {
        let found = match tag.from {
            TagFrom::Literal => Some(tag.value.clone()),
            TagFrom::Environment => maker.variables.get(&tag.value).cloned(),
            TagFrom::Header => {
                let mut headers = span.headers.iter();
                let found = headers.find(|(of, _)| of == name);
                found.map(|(_, value)| value.clone())
            }
        };
        let or = || (!tag.default.is_empty()).then(|| tag.default.clone());
        let Some(value) = found.or_else(or) else {
            continue;
        };
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => all.push((name.clone(), value)),
        }
    }
    all
}
