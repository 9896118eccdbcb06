//! The names by which people ask for kinds.

/// Kind, its plural, its short names, and whether it lives in a namespace.
const NAMES: &[(&str, &str, &[&str], bool)] = &[
    ("Namespace", "namespaces", &["ns"], false),
    ("Service", "services", &["svc"], true),
    ("Pod", "pods", &["po"], true),
    ("Deployment", "deployments", &["deploy"], true),
    ("StatefulSet", "statefulsets", &["sts"], true),
    ("ReplicaSet", "replicasets", &["rs"], true),
    ("DaemonSet", "daemonsets", &["ds"], true),
    ("ServiceAccount", "serviceaccounts", &["sa"], true),
    ("ConfigMap", "configmaps", &["cm"], true),
    ("Secret", "secrets", &[], true),
    ("Ingress", "ingresses", &["ing"], true),
    ("IngressClass", "ingressclasses", &[], false),
    ("VirtualService", "virtualservices", &["vs"], true),
    ("DestinationRule", "destinationrules", &["dr"], true),
    ("ServiceEntry", "serviceentries", &["se"], true),
    ("Gateway", "gateways", &["gw"], true),
    ("Sidecar", "sidecars", &[], true),
    ("WorkloadEntry", "workloadentries", &["we"], true),
    ("WorkloadGroup", "workloadgroups", &["wg"], true),
    ("TrafficSplit", "trafficsplits", &["ts"], true),
    ("HTTPRouteGroup", "httproutegroups", &["htr"], true),
    ("ServiceProfile", "serviceprofiles", &["sp"], true),
    ("ProxyConfig", "proxyconfigs", &[], true),
    ("PeerAuthentication", "peerauthentications", &["pa"], true),
];

/// The kind that `text` names: `VirtualService`, `virtualservices` or `vs`, in any case.
pub fn kind_named(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    NAMES
        .iter()
        .find(|(kind, plural, short, _)| {
            kind.eq_ignore_ascii_case(&text) || *plural == text || short.contains(&text.as_str())
        })
        .map(|(kind, ..)| *kind)
}

/// Every kind that is read.
pub fn kinds() -> Vec<&'static str> {
    NAMES.iter().map(|(kind, ..)| *kind).collect()
}

/// Whether objects of `kind` live in a namespace.
pub fn namespaced(kind: &str) -> bool {
    NAMES
        .iter()
        .find(|(known, ..)| *known == kind)
        .is_none_or(|(.., namespaced)| *namespaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_any_of_their_names() {
        for text in ["VirtualService", "virtualservices", "VS"] {
            assert_eq!(kind_named(text), Some("VirtualService"));
        }
        assert_eq!(kind_named("httproute"), None);
        assert!(!namespaced("Namespace") && namespaced("Service"));
    }
}
