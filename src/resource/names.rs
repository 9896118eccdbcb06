//! The names by which people ask for kinds.

/// A kind that is read.
#[derive(Clone, Copy)]
struct Name {
    /// As objects are filed: with its group where another kind has that name.
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    group: &'static str,
    namespaced: bool,
}

const fn name(
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    group: &'static str,
) -> Name {
    Name {
        kind,
        plural,
        short,
        group,
        namespaced: true,
    }
}

/// A kind that lives in no namespace.
const fn cluster(name: Name) -> Name {
    Name {
        namespaced: false,
        ..name
    }
}

const CORE: &str = "";
const APPS: &str = "apps";
const EDGE: &str = "networking.k8s.io";
const FLAGGER: &str = "flagger.app";
const SPLITS: &str = "split.smi-spec.io";
const SPECS: &str = "specs.smi-spec.io";
const LINKERD: &str = "linkerd.io";
const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";
const GATEWAYS: &str = crate::resource::gateway_api::GROUP;
const POLICIES: &str = "policy.meshctl.dev";

/// Of two kinds of one name the first is meant where no group is given.
const NAMES: &[Name] = &[
    cluster(name("Namespace", "namespaces", &["ns"], CORE)),
    name("Service", "services", &["svc"], CORE),
    name("Pod", "pods", &["po"], CORE),
    name("Deployment", "deployments", &["deploy"], APPS),
    name("StatefulSet", "statefulsets", &["sts"], APPS),
    name("ReplicaSet", "replicasets", &["rs"], APPS),
    name("DaemonSet", "daemonsets", &["ds"], APPS),
    name("ServiceAccount", "serviceaccounts", &["sa"], CORE),
    name("ConfigMap", "configmaps", &["cm"], CORE),
    name("Secret", "secrets", &[], CORE),
    name("EndpointSlice", "endpointslices", &[], "discovery.k8s.io"),
    name("Ingress", "ingresses", &["ing"], EDGE),
    cluster(name("IngressClass", "ingressclasses", &[], EDGE)),
    name("VirtualService", "virtualservices", &["vs"], NETWORKING),
    name("DestinationRule", "destinationrules", &["dr"], NETWORKING),
    name("ServiceEntry", "serviceentries", &["se"], NETWORKING),
    name("Gateway", "gateways", &["gw"], NETWORKING),
    name("Sidecar", "sidecars", &[], NETWORKING),
    name("WorkloadEntry", "workloadentries", &["we"], NETWORKING),
    name("WorkloadGroup", "workloadgroups", &["wg"], NETWORKING),
    name("ProxyConfig", "proxyconfigs", &[], NETWORKING),
    name(
        "PeerAuthentication",
        "peerauthentications",
        &["pa"],
        SECURITY,
    ),
    name(
        "RequestAuthentication",
        "requestauthentications",
        &["ra"],
        SECURITY,
    ),
    name(
        "AuthorizationPolicy",
        "authorizationpolicies",
        &["ap"],
        SECURITY,
    ),
    name("Telemetry", "telemetries", &["telemetry"], TELEMETRY),
    cluster(name("GatewayClass", "gatewayclasses", &["gc"], GATEWAYS)),
    name(
        "Gateway.gateway.networking.k8s.io",
        "gateways",
        &["gtw"],
        GATEWAYS,
    ),
    name("HTTPRoute", "httproutes", &[], GATEWAYS),
    name("GRPCRoute", "grpcroutes", &[], GATEWAYS),
    name("TLSRoute", "tlsroutes", &[], GATEWAYS),
    name("TCPRoute", "tcproutes", &[], GATEWAYS),
    name("ReferenceGrant", "referencegrants", &["refgrant"], GATEWAYS),
    name(
        "BackendTLSPolicy",
        "backendtlspolicies",
        &["btlspolicy"],
        GATEWAYS,
    ),
    name("RateLimitPolicy", "ratelimitpolicies", &[], POLICIES),
    name("CompressionPolicy", "compressionpolicies", &[], POLICIES),
    name("FaultInjection", "faultinjections", &[], POLICIES),
    name("HeaderPolicy", "headerpolicies", &[], POLICIES),
    name("ShadowDiff", "shadowdiffs", &[], POLICIES),
    name("Canary", "canaries", &[], POLICIES),
    name("Canary.flagger.app", "canaries", &[], FLAGGER),
    name("TrafficSplit", "trafficsplits", &["ts"], SPLITS),
    name("HTTPRouteGroup", "httproutegroups", &["htr"], SPECS),
    name("ServiceProfile", "serviceprofiles", &["sp"], LINKERD),
];

impl Name {
    /// Without its group.
    fn bare(&self) -> &'static str {
        let bare = self.kind.split_once('.');
        bare.map_or(self.kind, |(bare, _)| bare)
    }

    fn is(&self, text: &str) -> bool {
        let (name, group) = match text.split_once('.') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        let named = self.bare().eq_ignore_ascii_case(name) || self.plural == name;
        (named && group.is_none_or(|group| group == self.group)) || self.short.contains(&text)
    }
}

/// The kind that `text` names: `VirtualService`, `virtualservices` or `vs`, in any case, and with its
/// group (`gateways.gateway.networking.k8s.io`) where it is not the first of that name.
pub fn kind_named(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let mut names = NAMES.iter();
    names.find(|name| name.is(&text)).map(|name| name.kind)
}

/// Every kind that is read.
pub fn kinds() -> Vec<&'static str> {
    NAMES.iter().map(|name| name.kind).collect()
}

/// Whether objects of `kind` live in a namespace.
pub fn namespaced(kind: &str) -> bool {
    let mut names = NAMES.iter();
    names
        .find(|name| name.kind == kind)
        .is_none_or(|name| name.namespaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_any_of_their_names() {
        for text in ["VirtualService", "virtualservices", "VS"] {
            assert_eq!(kind_named(text), Some("VirtualService"));
        }
        assert_eq!(kind_named("ing"), Some("Ingress"));
        assert_eq!(kind_named("networkpolicy"), None);
        assert!(!namespaced("Namespace") && namespaced("Service"));
    }

    #[test]
    fn of_two_kinds_of_one_name_the_group_tells() {
        for (text, kind) in [
            ("gateways", "Gateway"),
            ("gateways.networking.istio.io", "Gateway"),
            (
                "gateways.gateway.networking.k8s.io",
                "Gateway.gateway.networking.k8s.io",
            ),
            (
                "Gateway.gateway.networking.k8s.io",
                "Gateway.gateway.networking.k8s.io",
            ),
            ("gtw", "Gateway.gateway.networking.k8s.io"),
        ] {
            assert_eq!(kind_named(text), Some(kind), "{text}");
        }
        assert_eq!(kind_named("gateways.example.com"), None);
        assert_eq!(kind_named("virtualservice.security.istio.io"), None);
    }
}
