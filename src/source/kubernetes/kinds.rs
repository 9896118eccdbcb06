//! Which kinds are followed, and what is kept of each object.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Map, Value};

/// A kind that is followed.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// What objects are filed under: with the group where another kind has that name.
    pub(super) filed: &'static str,
    pub(super) plural: &'static str,
    pub(super) group: &'static str,
    /// The first that the server knows is followed.
    pub(super) versions: &'static [&'static str],
    /// The one object that is followed, by namespace and name; all of them when absent.
    pub(super) only: Option<(&'static str, &'static str)>,
    /// What there is without it.
    pub(super) without: Without,
    /// Removes what nobody here asks for, so that it neither takes room nor counts as a change.
    trim: fn(&mut Map<String, Value>),
}

/// What it means that a kind cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    /// Nothing can be served.
    Nothing,
    /// It is not installed, and so there are no such objects.
    NotInstalled,
    /// It may not be read, and the rest is served without it.
    Less,
}

/// In the order in which they are reported.
pub(super) const KINDS: &[Kind] = &[
    core("Namespace", "namespaces", own),
    core("Service", "services", own),
    core("Pod", "pods", pod),
    Kind {
        group: "discovery.k8s.io",
        ..core("EndpointSlice", "endpointslices", slice)
    },
    Kind {
        without: Without::Less,
        ..core("Node", "nodes", node)
    },
    edge("Ingress", "ingresses"),
    edge("IngressClass", "ingressclasses"),
    // What somebody wrote for the whole mesh. One of Istio's beside us is not for us.
    Kind {
        without: Without::Less,
        only: Some(("meshctl-system", "istio")),
        ..core("ConfigMap", "configmaps", own)
    },
    istio("VirtualService", "virtualservices", "networking.istio.io"),
    istio("DestinationRule", "destinationrules", "networking.istio.io"),
    istio("ServiceEntry", "serviceentries", "networking.istio.io"),
    istio("Gateway", "gateways", "networking.istio.io"),
    istio("Sidecar", "sidecars", "networking.istio.io"),
    istio("ProxyConfig", "proxyconfigs", "networking.istio.io"),
    istio("WorkloadEntry", "workloadentries", "networking.istio.io"),
    istio("WorkloadGroup", "workloadgroups", "networking.istio.io"),
    other("TrafficSplit", "trafficsplits", "split.smi-spec.io"),
    other("HTTPRouteGroup", "httproutegroups", "specs.smi-spec.io"),
    Kind {
        versions: &["v1alpha2", "v1alpha1"],
        ..other("ServiceProfile", "serviceprofiles", "linkerd.io")
    },
    istio(
        "PeerAuthentication",
        "peerauthentications",
        "security.istio.io",
    ),
    istio(
        "RequestAuthentication",
        "requestauthentications",
        "security.istio.io",
    ),
    istio(
        "AuthorizationPolicy",
        "authorizationpolicies",
        "security.istio.io",
    ),
    Kind {
        versions: &["v1", "v1alpha1"],
        ..istio("Telemetry", "telemetries", "telemetry.istio.io")
    },
    gateways("GatewayClass", "gatewayclasses"),
    Kind {
        filed: "Gateway.gateway.networking.k8s.io",
        ..gateways("Gateway", "gateways")
    },
    gateways("HTTPRoute", "httproutes"),
    gateways("GRPCRoute", "grpcroutes"),
    gateways("TLSRoute", "tlsroutes"),
    gateways("TCPRoute", "tcproutes"),
    gateways("ReferenceGrant", "referencegrants"),
    gateways("BackendTLSPolicy", "backendtlspolicies"),
    policy("RateLimitPolicy", "ratelimitpolicies"),
    policy("CompressionPolicy", "compressionpolicies"),
    policy("HeaderPolicy", "headerpolicies"),
    policy("FaultInjection", "faultinjections"),
    policy("ShadowDiff", "shadowdiffs"),
    policy("Canary", "canaries"),
    Kind {
        filed: "Canary.flagger.app",
        versions: &["v1beta1"],
        ..other("Canary", "canaries", "flagger.app")
    },
];

/// What is followed one by one, as gateways name it. Of a cluster's Secrets no other is asked for.
pub(super) static NAMED: [Kind; 2] = [
    Kind {
        without: Without::Less,
        ..core("Secret", "secrets", credential)
    },
    Kind {
        without: Without::Less,
        ..core("ConfigMap", "configmaps", credential)
    },
];

const fn core(name: &'static str, plural: &'static str, trim: fn(&mut Map<String, Value>)) -> Kind {
    Kind {
        name,
        filed: name,
        plural,
        group: "",
        versions: &["v1"],
        only: None,
        without: Without::Nothing,
        trim,
    }
}

/// What was read before the kind was, may not be allowed to be read.
const fn edge(name: &'static str, plural: &'static str) -> Kind {
    Kind {
        group: "networking.k8s.io",
        without: Without::Less,
        ..core(name, plural, own)
    }
}

/// Kinds of other meshes.
const fn other(name: &'static str, plural: &'static str, group: &'static str) -> Kind {
    Kind {
        group,
        versions: &["v1alpha4", "v1alpha3", "v1alpha2", "v1alpha1"],
        without: Without::Less,
        ..core(name, plural, own)
    }
}

const fn istio(name: &'static str, plural: &'static str, group: &'static str) -> Kind {
    Kind {
        name,
        filed: name,
        plural,
        group,
        versions: &["v1", "v1beta1", "v1alpha3"],
        only: None,
        without: Without::NotInstalled,
        trim: own,
    }
}

const fn gateways(name: &'static str, plural: &'static str) -> Kind {
    Kind {
        versions: &["v1", "v1beta1", "v1alpha3", "v1alpha2"],
        trim: spec,
        ..istio(name, plural, "gateway.networking.k8s.io")
    }
}

const fn policy(name: &'static str, plural: &'static str) -> Kind {
    Kind {
        versions: &["v1alpha1"],
        ..istio(name, plural, "policy.meshctl.dev")
    }
}

/// A followed kind in paths; of another, as English has it.
pub(super) fn plural(kind: &str, api_version: &str) -> String {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let known = KINDS
        .iter()
        .find(|known| known.name == kind && known.group == group);
    known.map_or_else(
        || kind.to_lowercase() + "s",
        |known| known.plural.to_owned(),
    )
}

impl Kind {
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        let named = GroupVersionKind::gvk(self.group, version, self.name);
        ApiResource::from_gvk_with_plural(&named, self.plural)
    }

    /// What is kept of an object.
    pub(super) fn trimmed(&self, mut object: Value) -> Value {
        if let Value::Object(fields) = &mut object {
            (self.trim)(fields);
        }
        object
    }
}

/// What people wrote is kept as it is, but for the ledger of who wrote which field.
fn own(object: &mut Map<String, Value>) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("managedFields");
    }
}

/// As [`own`], without the status, which is ours and others' to write and nobody's here to read.
fn spec(object: &mut Map<String, Value>) {
    own(object);
    object.remove("status");
}

fn pod(object: &mut Map<String, Value>) {
    keep(
        object,
        &["apiVersion", "kind", "metadata", "spec", "status"],
    );
    within(
        object,
        "metadata",
        &["name", "namespace", "labels", "ownerReferences"],
    );
    within(
        object,
        "spec",
        &[
            "serviceAccountName",
            "nodeName",
            "containers",
            "initContainers",
        ],
    );
    within(object, "status", &["podIP", "podIPs"]);
    for containers in ["containers", "initContainers"] {
        let list = object
            .get_mut("spec")
            .and_then(|spec| spec.get_mut(containers)?.as_array_mut());
        for container in list.into_iter().flatten() {
            if let Value::Object(container) = container {
                keep(container, &["name", "ports"]);
            }
        }
    }
}

fn slice(object: &mut Map<String, Value>) {
    within(object, "metadata", &["name", "namespace", "labels"]);
}

/// What of it can be shown or held against others, and nothing else: tokens and passwords do not get here.
fn credential(object: &mut Map<String, Value>) {
    keep(object, &["apiVersion", "kind", "metadata", "type", "data"]);
    // What kubectl notes in annotations is the object again.
    let known = [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ];
    within(object, "metadata", &known);
    let texts = [
        "tls.crt",
        "tls.key",
        "tls.ocsp-staple",
        "ca.crt",
        "ca.crl",
        "cert",
        "key",
        "cacert",
        "crl",
    ];
    within(object, "data", &texts);
}

fn node(object: &mut Map<String, Value>) {
    keep(object, &["apiVersion", "kind", "metadata"]);
    within(object, "metadata", &["name", "labels"]);
}

fn within(object: &mut Map<String, Value>, field: &str, wanted: &[&str]) {
    if let Some(Value::Object(fields)) = object.get_mut(field) {
        keep(fields, wanted);
    }
}

fn keep(fields: &mut Map<String, Value>, wanted: &[&str]) {
    fields.retain(|name, _| wanted.contains(&name.as_str()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::{Running, kind_named};

    #[test]
    fn every_kind_is_one_that_is_read_or_one_that_runs() {
        for kind in KINDS {
            assert!(
                Running::keeps(kind.name)
                    != (kind_named(&format!("{}.{}", kind.plural, kind.group)) == Some(kind.filed))
                    || matches!(kind.name, "Pod" | "EndpointSlice"),
                "{}",
                kind.name
            );
        }
    }

    #[test]
    fn a_sign_of_life_is_no_change_of_a_pod_or_node() {
        let of = |kind: &str| KINDS.iter().find(|known| known.name == kind).unwrap();
        let pod = |version: &str, started: bool| {
            json!({
                "metadata": {"name": "a", "resourceVersion": version, "labels": {"app": "a"}},
                "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1}]}]},
                "status": {"podIP": "10.0.0.1", "containerStatuses": [{"started": started}]},
            })
        };
        assert_eq!(
            of("Pod").trimmed(pod("1", false)),
            of("Pod").trimmed(pod("2", true))
        );
        let node = |beat: &str| json!({"metadata": {"name": "n", "resourceVersion": beat}, "status": {"conditions": [beat]}});
        assert_eq!(of("Node").trimmed(node("1")), of("Node").trimmed(node("2")));
    }

    #[test]
    fn of_a_secret_only_certificates_are_kept() {
        let secret = json!({
            "metadata": {"name": "a", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "s3cret"}},
            "type": "Opaque",
            "data": {"tls.crt": "Yw==", "tls.key": "aw==", "password": "s3cret", "token": "s3cret"},
        });
        assert_eq!(
            NAMED[0].trimmed(secret),
            json!({"metadata": {"name": "a"}, "type": "Opaque", "data": {"tls.crt": "Yw==", "tls.key": "aw=="}})
        );
    }

    #[test]
    fn what_people_wrote_keeps_fields_that_nobody_knows() {
        let kind = KINDS
            .iter()
            .find(|known| known.name == "VirtualService")
            .unwrap();
        let object = json!({"metadata": {"name": "a", "managedFields": [1], "generation": 3}, "spec": {"novel": true}});
        assert_eq!(
            kind.trimmed(object),
            json!({"metadata": {"name": "a", "generation": 3}, "spec": {"novel": true}})
        );
    }
}
