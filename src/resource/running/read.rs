//! Pods, endpoint slices and nodes as Kubernetes says them, as far as endpoints need them.
//!
//! These are facts and not wishes, so they are read leniently: what is not asked for is passed over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use crate::mesh::Locality;
use crate::resource::kube::{EndpointSlice as Slice, SERVICE_NAME, SliceEndpoint as Endpoint};

/// Istio's label, set by injection: a proxy in front of the pod speaks mTLS.
const TLS_MODE: &str = "security.istio.io/tlsMode";
const REGION: [&str; 2] = [
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/region",
];
const ZONE: [&str; 2] = [
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/zone",
];
const SUBZONE: [&str; 1] = ["topology.istio.io/subzone"];

/// What an instance takes from its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) template: Arc<Template>,
    pub(super) node: String,
    /// The first is the one that the pod goes by.
    pub(super) addresses: Vec<IpAddr>,
}

/// What pods that are made alike have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Template {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) workload: String,
    pub(super) service_account: String,
    pub(super) port_names: BTreeMap<String, u16>,
    pub(super) mtls: bool,
}

/// Reads a Pod.
pub(super) fn pod(name: &str, text: &str) -> Result<Pod, serde_json::Error> {
    let raw: RawPod = serde_json::from_str(text)?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    let listed = raw.status.pod_ips.iter().map(|ip| ip.ip.as_str());
    for text in std::iter::once(raw.status.pod_ip.as_str()).chain(listed) {
        if let Ok(address) = text.parse()
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    let containers = raw.spec.containers.iter().chain(&raw.spec.init_containers);
    let mut port_names = BTreeMap::new();
    for port in containers.flat_map(|container| &container.ports) {
        let tcp = matches!(port.protocol.as_str(), "" | "TCP");
        if tcp && !port.name.is_empty() {
            port_names
                .entry(port.name.clone())
                .or_insert(port.container_port);
        }
    }
    let account = raw.spec.service_account_name;
    let template = Template {
        workload: workload(name, &raw.metadata),
        service_account: if account.is_empty() {
            "default".to_owned()
        } else {
            account
        },
        port_names,
        mtls: raw.metadata.labels.get(TLS_MODE).map(String::as_str) == Some("istio"),
        labels: raw.metadata.labels,
    };
    addresses.shrink_to_fit();
    Ok(Pod {
        template: Arc::new(template),
        node: raw.spec.node_name,
        addresses,
    })
}

/// What the pod is one of: the Deployment behind its ReplicaSet, else its owner, else itself.
fn workload(name: &str, metadata: &RawMetadata) -> String {
    let Some(owner) = metadata.owner_references.iter().find(|o| o.controller) else {
        return name.to_owned();
    };
    let hash = metadata.labels.get("pod-template-hash");
    let deployment = hash
        .filter(|_| owner.kind == "ReplicaSet")
        .and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    deployment.unwrap_or(&owner.name).to_owned()
}

/// Reads an EndpointSlice. One of names instead of addresses has no endpoints for us.
pub(super) fn slice(text: &str) -> Result<Slice, serde_json::Error> {
    let raw = serde_json::from_str::<RawSlice>(text)?;
    let ports = raw
        .ports
        .into_iter()
        .filter(|port| matches!(port.protocol.as_str(), "" | "TCP"))
        .filter_map(|port| Some((port.name, port.port?)))
        .collect();
    let endpoints = raw.endpoints.into_iter().filter_map(|endpoint| {
        let conditions = endpoint.conditions;
        // Unknown is ready, says the API; serving is ready where an old server does not say it.
        let ready = conditions.ready.unwrap_or(true);
        let pod = endpoint.target_ref.filter(|target| target.kind == "Pod");
        Some(Endpoint {
            address: endpoint.addresses.first()?.parse().ok()?,
            pod: pod.map(|target| target.name),
            zone: endpoint.zone,
            node: endpoint.node_name,
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        })
    });
    let mut endpoints: Vec<Endpoint> = endpoints.collect();
    // They are many, and kept.
    endpoints.shrink_to_fit();
    Ok(Slice {
        service: raw
            .metadata
            .labels
            .get(SERVICE_NAME)
            .cloned()
            .unwrap_or_default(),
        endpoints,
        ports,
    })
}

/// Reads where a Node is.
pub(super) fn node(text: &str) -> Result<Locality, serde_json::Error> {
    let labels = serde_json::from_str::<RawNode>(text)?.metadata.labels;
    let first = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| labels.get(*name).cloned())
            .unwrap_or_default()
    };
    Ok(Locality {
        region: first(&REGION),
        zone: first(&ZONE),
        subzone: first(&SUBZONE),
    })
}

/// Kubernetes writes an empty list as `null`, too.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMetadata {
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    owner_references: Vec<RawOwner>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawOwner {
    kind: String,
    name: String,
    #[serde(deserialize_with = "or_default")]
    controller: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawNode {
    metadata: RawMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: RawMetadata,
    spec: RawPodSpec,
    status: RawPodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    #[serde(deserialize_with = "or_default")]
    service_account_name: String,
    #[serde(deserialize_with = "or_default")]
    node_name: String,
    #[serde(deserialize_with = "or_default")]
    containers: Vec<RawContainer>,
    #[serde(deserialize_with = "or_default")]
    init_containers: Vec<RawContainer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawContainer {
    #[serde(deserialize_with = "or_default")]
    ports: Vec<RawContainerPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainerPort {
    #[serde(deserialize_with = "or_default")]
    name: String,
    container_port: u16,
    #[serde(deserialize_with = "or_default")]
    protocol: String,
}

#[derive(Debug, Default, Deserialize)]
struct RawPodStatus {
    #[serde(rename = "podIP", default, deserialize_with = "or_default")]
    pod_ip: String,
    #[serde(rename = "podIPs", default, deserialize_with = "or_default")]
    pod_ips: Vec<RawIp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawIp {
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSlice {
    metadata: RawMetadata,
    #[serde(deserialize_with = "or_default")]
    endpoints: Vec<RawEndpoint>,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<RawSlicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    #[serde(deserialize_with = "or_default")]
    addresses: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    conditions: RawConditions,
    target_ref: Option<RawTarget>,
    #[serde(deserialize_with = "or_default")]
    node_name: String,
    #[serde(deserialize_with = "or_default")]
    zone: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawTarget {
    kind: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSlicePort {
    #[serde(deserialize_with = "or_default")]
    name: String,
    port: Option<u16>,
    #[serde(deserialize_with = "or_default")]
    protocol: String,
}
