//! Kinds of Kubernetes, as far as a mesh and pods without Kubernetes need them.
//!
//! Fields that concern only a cluster are known by name and passed over, so that a misspelt one is
//! still found.

use std::collections::BTreeMap;

mod endpoint_slice;
mod pod;
mod service;
mod workload;

pub use endpoint_slice::{EndpointSlice, SliceEndpoint};
pub use pod::{
    Container, ContainerPort, EnvValue, EnvVar, Pod, PodSpec, PodTemplate, Probe, ProbeAction,
};
pub use service::{ClusterIp, Port, Service};
pub use workload::Workload;

pub(super) use endpoint_slice::{SERVICE_NAME, endpoint_slice};
pub(super) use pod::pod;
pub(super) use service::{service, unique};
pub(super) use workload::workload;

/// A namespace; all that matters is in its metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {}

/// Texts for the environment of pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigMap {
    /// By key.
    pub data: BTreeMap<String, String>,
}
