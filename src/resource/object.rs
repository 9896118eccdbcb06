//! One object: what it is called, where it was written, what it says, and its raw form.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::gateway_api::{
    self, BackendTlsPolicy, GatewayClass, GrpcRoute, HttpRoute, ReferenceGrant, TcpRoute, TlsRoute,
};
use super::istio::{
    AuthorizationPolicy, DestinationRule, Gateway, PeerAuthentication, ProxyConfig,
    RequestAuthentication, ServiceEntry, Sidecar, Telemetry, VirtualService, WorkloadEntry,
    WorkloadGroup,
};
use super::kube::{
    ConfigMap, EndpointSlice, Ingress, IngressClass, Namespace, Pod, Service, Workload,
};
use super::linkerd::ServiceProfile;
use super::policy::{
    Canary, CompressionPolicy, FaultInjection, HeaderPolicy, RateLimitPolicy, ShadowDiff,
};
use super::smi::{HttpRouteGroup, TrafficSplit};
use super::tree::{Node, Place, Tree, join};
use crate::mesh::{Finding, Origin, Severity};

/// What an object is filed under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// As [`Object::kind`].
    pub kind: String,
    /// Empty for kinds without one.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Everything that people want, by key.
pub type Objects = BTreeMap<Key, Arc<Object>>;

/// What every object says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace; empty for kinds without one.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was made (RFC 3339), if someone has said so; the older of two objects in conflict wins.
    pub created: Option<String>,
}

/// One object that was read without an error.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// As written, such as `networking.istio.io/v1`.
    pub api_version: String,
    /// Such as `VirtualService`; with its group where another kind has that name, such as
    /// `Gateway.gateway.networking.k8s.io`.
    pub kind: &'static str,
    /// Name, namespace, labels.
    pub metadata: Metadata,
    /// Where it was written.
    pub origin: Origin,
    /// What it says.
    pub body: Kind,
    /// The whole of it as JSON, with its namespace filled in; reads again as the same object.
    pub raw: serde_json::Value,
    /// Path in the document → where it stands; empty when it was not read from a file.
    pub(super) places: BTreeMap<String, Place>,
}

/// What an object says, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `v1`.
    Namespace(Namespace),
    /// `v1`.
    Service(Service),
    /// `v1`.
    Pod(Pod),
    /// `apps/v1`: Deployment, StatefulSet, ReplicaSet or DaemonSet; [`Object::kind`] says which.
    Workload(Workload),
    /// `v1`; its name is all that matters.
    ServiceAccount,
    /// `v1`; read for the environment of pods, not by the mesh.
    ConfigMap(ConfigMap),
    /// `v1`; kept, not looked into.
    Secret,
    /// `discovery.k8s.io/v1`.
    EndpointSlice(EndpointSlice),
    /// `networking.k8s.io`.
    Ingress(Ingress),
    /// `networking.k8s.io`.
    IngressClass(IngressClass),
    /// `networking.istio.io`.
    VirtualService(VirtualService),
    /// `networking.istio.io`.
    DestinationRule(DestinationRule),
    /// `networking.istio.io`.
    ServiceEntry(ServiceEntry),
    /// `networking.istio.io`.
    Sidecar(Sidecar),
    /// `networking.istio.io`.
    WorkloadEntry(WorkloadEntry),
    /// `networking.istio.io`.
    WorkloadGroup(WorkloadGroup),
    /// `networking.istio.io`.
    Gateway(Gateway),
    /// `split.smi-spec.io`.
    TrafficSplit(TrafficSplit),
    /// `specs.smi-spec.io`.
    HttpRouteGroup(HttpRouteGroup),
    /// `linkerd.io`.
    ServiceProfile(ServiceProfile),
    /// `networking.istio.io`; read when pods are injected, not by the mesh.
    ProxyConfig(ProxyConfig),
    /// `security.istio.io`.
    PeerAuthentication(PeerAuthentication),
    /// `security.istio.io`.
    RequestAuthentication(RequestAuthentication),
    /// `telemetry.istio.io`.
    Telemetry(Telemetry),
    /// Who may call whom.
    AuthorizationPolicy(AuthorizationPolicy),
    /// `gateway.networking.k8s.io`.
    GatewayClass(GatewayClass),
    /// `gateway.networking.k8s.io`.
    ListeningGateway(gateway_api::Gateway),
    /// `gateway.networking.k8s.io`.
    HttpRoute(HttpRoute),
    /// `gateway.networking.k8s.io`.
    GrpcRoute(GrpcRoute),
    /// `gateway.networking.k8s.io`.
    TlsRoute(TlsRoute),
    /// `gateway.networking.k8s.io`.
    TcpRoute(TcpRoute),
    /// `gateway.networking.k8s.io`.
    ReferenceGrant(ReferenceGrant),
    /// `gateway.networking.k8s.io`.
    BackendTlsPolicy(BackendTlsPolicy),
    /// `policy.meshctl.dev`.
    RateLimitPolicy(RateLimitPolicy),
    /// `policy.meshctl.dev`.
    CompressionPolicy(CompressionPolicy),
    /// `policy.meshctl.dev`.
    FaultInjection(FaultInjection),
    /// `policy.meshctl.dev`.
    HeaderPolicy(HeaderPolicy),
    /// `policy.meshctl.dev`.
    ShadowDiff(ShadowDiff),
    /// `policy.meshctl.dev` and `flagger.app`; run by the control plane, and no part of the world.
    Canary(Box<Canary>),
}

impl Object {
    /// What it is filed under.
    pub fn key(&self) -> Key {
        Key {
            kind: self.kind.to_owned(),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
        }
    }

    /// A finding about the field at `path`, with its line and column or those of the nearest field around it.
    pub fn finding(
        &self,
        severity: Severity,
        code: &str,
        path: &str,
        message: impl Into<String>,
    ) -> Finding {
        Finding::new(severity, code, &self.origin_of(path), message).at(path)
    }

    /// Where the field at `path` was written.
    pub fn origin_of(&self, path: &str) -> Origin {
        let mut around = path;
        let place = loop {
            if let Some(place) = self.places.get(around) {
                break *place;
            }
            match around.rfind(['.', '[']).and_then(|at| around.get(..at)) {
                Some(shorter) => around = shorter,
                None => return self.origin.clone(),
            }
        };
        Origin {
            line: place.line,
            column: place.column,
            ..self.origin.clone()
        }
    }

    /// Line and column of every field, by its path; none where it was not read from a file.
    pub fn places(&self) -> BTreeMap<String, (u32, u32)> {
        let places = self.places.iter();
        places
            .map(|(path, place)| (path.clone(), (place.line, place.column)))
            .collect()
    }

    /// Orders objects that are in conflict: the oldest first, then by namespace and name.
    pub fn seniority(&self) -> (&str, &str, &str) {
        // '~' sorts after every digit, so objects without a time are the youngest.
        let created = self.metadata.created.as_deref().unwrap_or("~");
        (created, &self.metadata.namespace, &self.metadata.name)
    }
}

/// The place of every node of `tree`, by path.
pub(super) fn places(tree: &Tree) -> BTreeMap<String, Place> {
    fn walk(tree: &Tree, path: String, places: &mut BTreeMap<String, Place>) {
        match &tree.node {
            Node::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    walk(item, format!("{path}[{index}]"), places);
                }
            }
            Node::Map(entries) => {
                for (key, value) in entries {
                    walk(value, join(&path, &key.text), places);
                }
            }
            _ => {}
        }
        if tree.place.line > 0 {
            places.insert(path, tree.place);
        }
    }
    let mut places = BTreeMap::new();
    walk(tree, String::new(), &mut places);
    places
}
