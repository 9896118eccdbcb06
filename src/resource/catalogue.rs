//! Every kind that people bring, and what is done with it.

use super::gateway_api::GROUP;
use super::suggest::nearest;

/// What is done with a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Read and meant.
    Read {
        /// The kind's name.
        kind: &'static str,
        /// It lives in a namespace.
        namespaced: bool,
        /// The version is gone from clusters: the one to write today.
        modern: Option<&'static str>,
    },
    /// Known, and none of the mesh's business: left out, and said so.
    Unused {
        /// It may change what traffic is allowed, so that leaving it out deserves a warning.
        restricts: bool,
    },
    /// Known, and not honoured: refused, with an alternative.
    Refused(&'static str),
    /// One of Istio's kinds from before `PeerAuthentication`.
    OldPolicy,
    /// Not known, and perhaps what was meant.
    Unknown(String),
}

const WORKLOADS: [&str; 4] = ["Deployment", "StatefulSet", "ReplicaSet", "DaemonSet"];
const CORE: [&str; 6] = [
    "Namespace",
    "Service",
    "Pod",
    "ServiceAccount",
    "ConfigMap",
    "Secret",
];
/// Kinds for callers from outside, and whether they live in a namespace.
const INGRESS: [(&str, bool); 2] = [("Ingress", true), ("IngressClass", false)];
const ISTIO: [(&str, &str); 12] = [
    ("VirtualService", "networking.istio.io"),
    ("DestinationRule", "networking.istio.io"),
    ("ServiceEntry", "networking.istio.io"),
    ("Gateway", "networking.istio.io"),
    ("Sidecar", "networking.istio.io"),
    ("WorkloadEntry", "networking.istio.io"),
    ("WorkloadGroup", "networking.istio.io"),
    ("PeerAuthentication", "security.istio.io"),
    ("RequestAuthentication", "security.istio.io"),
    ("AuthorizationPolicy", "security.istio.io"),
    ("ProxyConfig", "networking.istio.io"),
    ("Telemetry", "telemetry.istio.io"),
];

/// Kinds of other meshes that are read: kind, group, versions.
const IMPORTED: [(&str, &str, &[&str]); 4] = [
    ("Canary.flagger.app", "flagger.app", &["v1beta1"]),
    (
        "TrafficSplit",
        "split.smi-spec.io",
        &["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"],
    ),
    (
        "HTTPRouteGroup",
        "specs.smi-spec.io",
        &["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"],
    ),
    ("ServiceProfile", "linkerd.io", &["v1alpha1", "v1alpha2"]),
];

/// The one kind that says what runs and is written down too.
const ENDPOINT_SLICE: (&str, &str) = ("EndpointSlice", "discovery.k8s.io");

/// Kinds of the Gateway API: as they are written, as they are filed, whether they live in a namespace.
const GATEWAY_API: [(&str, &str, bool); 8] = [
    ("GatewayClass", "GatewayClass", false),
    // Istio has a kind of that name.
    ("Gateway", "Gateway.gateway.networking.k8s.io", true),
    ("HTTPRoute", "HTTPRoute", true),
    ("GRPCRoute", "GRPCRoute", true),
    ("TLSRoute", "TLSRoute", true),
    ("TCPRoute", "TCPRoute", true),
    ("ReferenceGrant", "ReferenceGrant", true),
    ("BackendTLSPolicy", "BackendTLSPolicy", true),
];
/// The mesh's own kinds, of [`POLICY`].
const OWN: [&str; 6] = [
    "Canary",
    "CompressionPolicy",
    "FaultInjection",
    "HeaderPolicy",
    "RateLimitPolicy",
    "ShadowDiff",
];
/// Group of the mesh's own kinds.
const POLICY: &str = "policy.meshctl.dev";

/// Kinds of clusters that a mesh has no use for.
const UNUSED: [(&str, &str); 25] = [
    ("Event", ""),
    ("Node", ""),
    ("Endpoints", ""),
    ("PersistentVolume", ""),
    ("PersistentVolumeClaim", ""),
    ("LimitRange", ""),
    ("ResourceQuota", ""),
    ("ReplicationController", ""),
    ("Job", "batch"),
    ("CronJob", "batch"),
    ("HorizontalPodAutoscaler", "autoscaling"),
    ("PodDisruptionBudget", "policy"),
    ("PodSecurityPolicy", "policy"),
    ("NetworkPolicy", "networking.k8s.io"),
    ("Role", "rbac.authorization.k8s.io"),
    ("RoleBinding", "rbac.authorization.k8s.io"),
    ("ClusterRole", "rbac.authorization.k8s.io"),
    ("ClusterRoleBinding", "rbac.authorization.k8s.io"),
    ("StorageClass", "storage.k8s.io"),
    ("PriorityClass", "scheduling.k8s.io"),
    ("CustomResourceDefinition", "apiextensions.k8s.io"),
    ("APIService", "apiregistration.k8s.io"),
    (
        "MutatingWebhookConfiguration",
        "admissionregistration.k8s.io",
    ),
    (
        "ValidatingWebhookConfiguration",
        "admissionregistration.k8s.io",
    ),
    ("Lease", "coordination.k8s.io"),
];

const AUTHORIZATION: &str = "to accept this would leave open what it closes; write an AuthorizationPolicy (security.istio.io/v1), which says by principals, namespaces, methods and paths who may call";
const EXTERNAL: &str =
    "write a ServiceEntry (networking.istio.io/v1) for the hosts outside the mesh";
const ENVOY: &str = "meshctl's proxy is not Envoy; retries, timeouts, header edits and limits are in VirtualService and DestinationRule, and what its patches are about has native ways";
const UDP: &str = "meshctl carries no UDP; let callers reach the service without a proxy";
const ROUTES: &str = "write a VirtualService (networking.istio.io/v1) with the same matches";

/// Kinds of meshes that are refused, with what to do instead.
const REFUSED: [(&str, &str, &str); 31] = [
    ("EnvoyFilter", "networking.istio.io", ENVOY),
    ("WasmPlugin", "extensions.istio.io", ENVOY),
    ("TrafficExtension", "extensions.istio.io", ENVOY),
    (
        "IstioOperator",
        "install.istio.io",
        "`meshctl install` takes its settings as flags",
    ),
    ("ServiceRole", "rbac.istio.io", AUTHORIZATION),
    ("ServiceRoleBinding", "rbac.istio.io", AUTHORIZATION),
    ("RbacConfig", "rbac.istio.io", AUTHORIZATION),
    ("ClusterRbacConfig", "rbac.istio.io", AUTHORIZATION),
    ("RouteRule", "config.istio.io", ROUTES),
    ("EgressRule", "config.istio.io", EXTERNAL),
    (
        "DestinationPolicy",
        "config.istio.io",
        "write a DestinationRule (networking.istio.io/v1)",
    ),
    (
        "QuotaSpec",
        "config.istio.io",
        "limits of a service are in DestinationRule connectionPool",
    ),
    (
        "QuotaSpecBinding",
        "config.istio.io",
        "limits of a service are in DestinationRule connectionPool",
    ),
    (
        "rule",
        "config.istio.io",
        "Mixer is gone from every mesh; remove it",
    ),
    (
        "handler",
        "config.istio.io",
        "Mixer is gone from every mesh; remove it",
    ),
    (
        "instance",
        "config.istio.io",
        "Mixer is gone from every mesh; remove it",
    ),
    ("UDPRoute", "gateway.networking.k8s.io", UDP),
    (
        "ListenerSet",
        "gateway.networking.k8s.io",
        "write its listeners into the Gateway",
    ),
    (
        "BackendTrafficPolicy",
        "gateway.networking.k8s.io",
        "write a DestinationRule",
    ),
    ("TrafficTarget", "access.smi-spec.io", AUTHORIZATION),
    ("TCPRoute", "specs.smi-spec.io", ROUTES),
    ("UDPRoute", "specs.smi-spec.io", ROUTES),
    ("Server", "policy.linkerd.io", AUTHORIZATION),
    ("ServerAuthorization", "policy.linkerd.io", AUTHORIZATION),
    ("AuthorizationPolicy", "policy.linkerd.io", AUTHORIZATION),
    ("MeshTLSAuthentication", "policy.linkerd.io", AUTHORIZATION),
    ("NetworkAuthentication", "policy.linkerd.io", AUTHORIZATION),
    ("HTTPRoute", "policy.linkerd.io", ROUTES),
    (
        "HTTPLocalRateLimitPolicy",
        "policy.linkerd.io",
        "limits of a service are in DestinationRule connectionPool",
    ),
    ("EgressNetwork", "policy.linkerd.io", EXTERNAL),
    (
        "ExternalWorkload",
        "workload.linkerd.io",
        "register the machine with `meshctl proxy --join TOKEN`",
    ),
];

/// Group and version of an `apiVersion`.
fn split(api_version: &str) -> (&str, &str) {
    api_version.rsplit_once('/').unwrap_or(("", api_version))
}

/// What is done with `kind` of `api_version`.
pub(crate) fn standing(api_version: &str, kind: &str) -> Standing {
    let (group, version) = split(api_version);
    let version_of = |versions: &[&str], kind: &'static str, namespaced: bool| {
        if versions.contains(&version) {
            Standing::Read {
                kind,
                namespaced,
                modern: None,
            }
        } else {
            let prefix = if group.is_empty() { "" } else { "/" };
            Standing::Unknown(format!("write apiVersion: {group}{prefix}v1"))
        }
    };
    if let Some(known) = CORE.iter().find(|known| **known == kind)
        && group.is_empty()
    {
        return version_of(&["v1"], known, *known != "Namespace");
    }
    if let Some(known) = WORKLOADS.iter().find(|known| **known == kind)
        && matches!(group, "apps" | "extensions")
    {
        return match (group, version) {
            ("apps", "v1") => version_of(&["v1"], known, true),
            (_, "v1beta1" | "v1beta2") => Standing::Read {
                kind: known,
                namespaced: true,
                modern: Some("apps/v1"),
            },
            _ => Standing::Unknown("write apiVersion: apps/v1".to_owned()),
        };
    }
    if (kind, group) == ENDPOINT_SLICE {
        return version_of(&["v1"], ENDPOINT_SLICE.0, true);
    }
    let edge = INGRESS.iter().find(|(known, _)| *known == kind);
    if let Some((known, namespaced)) = edge
        && matches!(group, "networking.k8s.io" | "extensions")
    {
        return match (group, version) {
            ("networking.k8s.io", "v1") => version_of(&["v1"], known, *namespaced),
            (_, "v1beta1") => Standing::Read {
                kind: known,
                namespaced: *namespaced,
                modern: Some("networking.k8s.io/v1"),
            },
            _ => Standing::Unknown("write apiVersion: networking.k8s.io/v1".to_owned()),
        };
    }
    if let Some((known, _)) = ISTIO.iter().find(|known| **known == (kind, group)) {
        let versions: &[&str] = match *known {
            "Telemetry" => &["v1", "v1alpha1"],
            _ => &["v1", "v1beta1", "v1alpha3"],
        };
        return version_of(versions, known, true);
    }
    if let Some((_, filed, namespaced)) = GATEWAY_API.iter().find(|(known, ..)| *known == kind)
        && group == GROUP
    {
        let versions = ["v1", "v1beta1", "v1alpha3", "v1alpha2"];
        return version_of(&versions, filed, *namespaced);
    }
    if let Some(known) = OWN.iter().find(|known| **known == kind)
        && group == POLICY
    {
        return match version {
            "v1alpha1" => version_of(&["v1alpha1"], known, true),
            _ => Standing::Unknown(format!("write apiVersion: {POLICY}/v1alpha1")),
        };
    }
    let imported = IMPORTED
        .iter()
        .find(|(known, of, _)| known.split('.').next() == Some(kind) && *of == group);
    if let Some((known, of, versions)) = imported {
        return if versions.contains(&version) {
            Standing::Read {
                kind: known,
                namespaced: true,
                modern: None,
            }
        } else {
            let newest = versions.last().copied().unwrap_or_default();
            Standing::Unknown(format!("write apiVersion: {of}/{newest}"))
        };
    }
    if matches!(kind, "Policy" | "MeshPolicy")
        && matches!(group, "security.istio.io" | "authentication.istio.io")
    {
        return Standing::OldPolicy;
    }
    if UNUSED.contains(&(kind, group)) {
        return Standing::Unused {
            restricts: kind == "NetworkPolicy",
        };
    }
    if let Some((_, _, instead)) = REFUSED
        .iter()
        .find(|(known, of, _)| *known == kind && *of == group)
    {
        return Standing::Refused(instead);
    }
    Standing::Unknown(unknown(api_version, kind))
}

fn unknown(api_version: &str, kind: &str) -> String {
    let workloads = WORKLOADS.iter().map(|kind| (*kind, "apps/v1".to_owned()));
    let core = CORE.iter().map(|kind| (*kind, "v1".to_owned()));
    let istio = ISTIO
        .iter()
        .map(|(kind, group)| (*kind, format!("{group}/v1")));
    let gateways = GATEWAY_API
        .iter()
        .map(|(kind, ..)| (*kind, format!("{GROUP}/v1")));
    let own = OWN.iter().map(|kind| (*kind, format!("{POLICY}/v1alpha1")));
    let slices = (ENDPOINT_SLICE.0, format!("{}/v1", ENDPOINT_SLICE.1));
    let edge = INGRESS
        .iter()
        .map(|(kind, _)| (*kind, "networking.k8s.io/v1".to_owned()));
    let imported = IMPORTED.iter().map(|(kind, group, versions)| {
        let newest = versions.last().copied().unwrap_or_default();
        (*kind, format!("{group}/{newest}"))
    });
    let edge = edge.chain(imported);
    let known: Vec<(&str, String)> = core
        .chain(workloads)
        .chain(edge)
        .chain(istio)
        .chain(gateways)
        .chain(own)
        .chain([slices])
        .collect();
    if let Some((_, version)) = known.iter().find(|(name, _)| *name == kind) {
        return format!("{kind} is of apiVersion {version}; did you mean that?");
    }
    let names = known
        .iter()
        .map(|(name, _)| *name)
        .chain(REFUSED.iter().map(|(name, _, _)| *name))
        .chain(UNUSED.iter().map(|(name, _)| *name));
    match nearest(kind, names) {
        Some(name) => match known.iter().find(|(known, _)| *known == name) {
            Some((_, version)) => format!("did you mean {name} ({version})?"),
            None => format!("did you mean {name}?"),
        },
        None => format!(
            "kinds that are read: {}; apiVersion is {api_version:?}",
            known
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}
