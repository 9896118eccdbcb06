//! Kinds of Kubernetes, as far as a mesh and pods without Kubernetes need them.
//!
//! Fields that concern only a cluster are known by name and passed over, so that a misspelt one is
//! still found.

use std::collections::BTreeMap;

use super::istio::MeshConfig;

mod ingress;
mod pod;
mod service;
mod workload;

pub use ingress::{
    BackendPort, ClassParameters, Ingress, IngressBackend, IngressClass, IngressPath, IngressRule,
    IngressTls, PathType,
};
pub use pod::{
    Container, ContainerPort, EnvValue, EnvVar, Pod, PodSpec, PodTemplate, Probe, ProbeAction,
};
pub use service::{ClusterIp, Port, Service};
pub use workload::Workload;

pub(super) use ingress::{ingress, ingress_class};
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
    /// Istio's MeshConfig, in the ConfigMap that has it.
    pub mesh: Option<Box<MeshConfig>>,
}
