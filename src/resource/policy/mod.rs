//! The mesh's own kinds, `policy.meshctl.dev`: what is asked of a mesh and has no kind of Istio's.
//!
//! Each is for workloads by labels or for targets by name, never both; for neither, it is for its
//! namespace, and in the root of the mesh for all of it.

mod canary;
mod compression;
mod fault;
mod header;
mod rate_limit;
mod shadow;
mod target;

use std::sync::Arc;

pub use fault::{grpc_name, grpc_status};
pub use target::{Target, Targets};

pub use canary::canary_object;
pub(super) use canary::{canary, finish, millis};
pub(super) use compression::compression_policy;
pub(super) use fault::fault_injection;
pub(super) use header::header_policy;
pub(super) use rate_limit::rate_limit_policy;
pub(super) use shadow::shadow_diff;
pub use shadow::{shadow_name, shadow_object};
pub(super) use target::target;

use crate::mesh::filter::{Compressor, Fault, LocalRateLimit};
use crate::mesh::rollout::Spec;
use crate::mesh::route::HeaderEdits;
use crate::mesh::shadow::Comparison;

/// A RateLimitPolicy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RateLimitPolicy {
    /// For whom.
    pub targets: Targets,
    /// What is taken; its name is filled in when it is lowered.
    pub limit: Arc<LocalRateLimit>,
}

/// A CompressionPolicy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CompressionPolicy {
    /// For whom.
    pub targets: Targets,
    /// Which answers, and how.
    pub how: Arc<Compressor>,
}

/// A FaultInjection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultInjection {
    /// Name of the Service, in the same namespace.
    pub service: String,
    /// What goes wrong.
    pub fault: Arc<Fault>,
    /// When that ends.
    pub until_unix_ms: u64,
}

/// A ShadowDiff.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShadowDiff {
    /// Name of the Service, in the same namespace, whose calls are copied.
    pub service: String,
    /// What is compared; its service is filled in when it is lowered.
    pub how: Arc<Comparison>,
}

/// A Canary, of the mesh's own kind or of Flagger's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Canary {
    /// Name of the Service, in the same namespace.
    pub service: String,
    /// The workload whose version is tried, where the version itself is not named.
    pub workload: String,
    /// What that is, as it is written: `apps/v1 Deployment`.
    pub workload_kind: String,
    /// Nothing is begun while it is so.
    pub suspended: bool,
    /// What is wanted. Versions may still be unknown.
    pub spec: Spec,
}

/// A HeaderPolicy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderPolicy {
    /// For whom.
    pub targets: Targets,
    /// What is changed.
    pub edits: HeaderEdits,
}
