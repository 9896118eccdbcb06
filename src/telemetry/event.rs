//! The events that the data path reports, as small keys of interned names.

use crate::mesh::WorkloadRef;

use super::{Flag, Link};

/// Which end of a connection reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reporter {
    /// The caller's proxy.
    Source,
    /// The proxy in front of the application.
    Destination,
}

/// What is spoken, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP of any version.
    Http,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

impl Protocol {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// Whether the connection was mTLS, as far as the reporter says (a source always says `unknown`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Security {
    /// mTLS with a certificate of the mesh.
    MutualTls,
    /// Plaintext.
    None,
    /// Not said.
    Unknown,
}

impl Security {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// An interned [`PeerLabels`]; 0 is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(crate) u32);

/// An interned service; 0 is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub(crate) u32);

/// An interned route label; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub(crate) u32);

/// What metrics say about one end of a connection. Instances are left out: their names would grow
/// without bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerLabels {
    /// Workload, such as `reviews-v1`.
    pub workload: String,
    /// Namespace.
    pub namespace: String,
    /// Canonical service.
    pub service: String,
    /// Canonical revision.
    pub version: String,
    /// SPIFFE id; empty when not proven.
    pub principal: String,
}

impl PeerLabels {
    /// The labels of `workload`, proven to be `principal`.
    pub fn new(workload: &WorkloadRef, principal: &str) -> Self {
        Self {
            workload: workload.workload.clone(),
            namespace: workload.namespace.clone(),
            service: workload.service.clone(),
            version: workload.version.clone(),
            principal: principal.to_owned(),
        }
    }
}

/// The service that was called.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceLabels {
    /// Fully qualified name.
    pub host: String,
    /// Short name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

/// The label set of one HTTP request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpKey {
    /// Who reports.
    pub reporter: Reporter,
    /// Who called.
    pub source: PeerId,
    /// Who answered.
    pub destination: PeerId,
    /// What was called.
    pub service: ServiceId,
    /// The route that the caller's proxy took; none on the other side, which does not know.
    pub route: RouteId,
    /// Status; 0 when the caller went away before there was one.
    pub code: u16,
    /// `grpc-status`, when there was one.
    pub grpc_status: Option<u8>,
    /// Why it ended.
    pub flag: Flag,
    /// What was spoken.
    pub protocol: Protocol,
    /// Whether it was mTLS.
    pub security: Security,
}

impl HttpKey {
    /// The key that stands for this one when there are too many: only what has few values stays.
    pub(crate) fn folded(self) -> Self {
        Self {
            source: PeerId(0),
            destination: PeerId(0),
            service: ServiceId(0),
            route: RouteId(0),
            grpc_status: None,
            flag: Flag::None,
            code: self.code / 100 * 100,
            ..self
        }
    }
}

/// The label set of one TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpKey {
    /// Who reports.
    pub reporter: Reporter,
    /// Who called.
    pub source: PeerId,
    /// Who answered.
    pub destination: PeerId,
    /// What was called.
    pub service: ServiceId,
    /// Why it ended.
    pub flag: Flag,
    /// Whether it was mTLS.
    pub security: Security,
    /// What protects it; none where there is no connection. The last field, as metrics of Istio's leave
    /// it out.
    pub link: Option<Link>,
}

impl TcpKey {
    /// The key that stands for this one when there are too many: only what has few values stays.
    pub(crate) fn folded(self) -> Self {
        Self {
            source: PeerId(0),
            destination: PeerId(0),
            service: ServiceId(0),
            flag: Flag::None,
            ..self
        }
    }
}
