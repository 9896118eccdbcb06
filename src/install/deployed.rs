//! What a Gateway of the Gateway API is given in a cluster: an account, a Deployment of proxies, the Service that
//! reaches them.
//!
//! Proxies listen at the very ports of the listeners (a namespace of its own lets who is not root do so), so that
//! another listener is another port of the Service and never another pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::gateways::{self, GRACE_SECONDS, READY_PORT};
use super::{NAME, REVISION, Settings, WRITTEN, labels, pod_security, spread};
use crate::resource::json::set;

/// Whose proxies they are (the Gateway API's label).
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Annotation by which a Gateway says of which type its Service is (Istio's).
pub const SERVICE_TYPE: &str = "networking.istio.io/service-type";
/// No Service is called anything longer.
const MOST_CHARS: usize = 63;

/// A Gateway that is given a Deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: String,
    /// Of which object of that name.
    pub uid: String,
    /// With its version, as the cluster has it.
    pub api_version: String,
    /// What everything made for it is labelled with, as it says.
    pub labels: BTreeMap<String, String>,
    /// And annotated.
    pub annotations: BTreeMap<String, String>,
    /// Ports of its listeners, each with the name of what is spoken.
    pub ports: BTreeMap<u16, &'static str>,
    /// `LoadBalancer`, `NodePort` or `ClusterIP`.
    pub service: String,
    /// Addresses that it asks for.
    pub addresses: Vec<IpAddr>,
}

impl Asked {
    /// What everything made for it is called (Istio's way).
    pub fn called(&self) -> String {
        format!("{}-{}", self.name, self.class)
    }

    /// Why nothing can be called so.
    pub fn misnamed(&self) -> Option<String> {
        let name = self.called();
        let fits = name.len() <= MOST_CHARS
            && !name.contains('.')
            && name.starts_with(|c: char| c.is_ascii_lowercase());
        (!fits).then(|| {
            format!(
                "no Service can be called {name}: it takes a letter first, then letters, digits and dashes, {MOST_CHARS} in all"
            )
        })
    }

    fn metadata(&self, settings: &Settings) -> Value {
        let mut own = self.own_labels(settings);
        own.insert(WRITTEN.to_owned(), json!("control-plane"));
        let mut metadata = json!({
            "name": self.called(),
            "namespace": self.namespace,
            "labels": own,
            // When the Gateway goes, the cluster removes what was made for it.
            "ownerReferences": [{
                "apiVersion": self.api_version,
                "kind": "Gateway",
                "name": self.name,
                "uid": self.uid,
                "controller": true,
            }],
        });
        if !self.annotations.is_empty() {
            set(&mut metadata, "annotations", json!(self.annotations));
        }
        metadata
    }

    /// What it says, and over that what we find it by.
    fn own_labels(&self, settings: &Settings) -> Map<String, Value> {
        let said = self.labels.iter();
        let mut all: Map<String, Value> = said
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        all.extend(labels(settings, "gateway"));
        all.insert(GATEWAY_NAME.to_owned(), json!(self.name));
        all
    }
}

/// What `asked` is given, with `replicas` proxies.
pub fn deployed(settings: &Settings, asked: &Asked, replicas: u32) -> Vec<Value> {
    let metadata = || asked.metadata(settings);
    let selector = json!({GATEWAY_NAME: asked.name});
    let mut all = vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata()}),
        service(asked, &metadata(), &selector),
    ];
    if replicas > 1 {
        all.push(json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(),
            "spec": {"minAvailable": 1, "selector": {"matchLabels": selector}},
        }));
    }
    all.push(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template(settings, asked, &selector),
        },
    }));
    all
}

fn service(asked: &Asked, metadata: &Value, selector: &Value) -> Value {
    let mut seen = BTreeSet::from([READY_PORT]);
    let mut ports = vec![json!({
        "name": "status-port", "port": READY_PORT, "protocol": "TCP", "targetPort": READY_PORT,
    })];
    let listeners = asked.ports.iter().filter(|(port, _)| seen.insert(**port));
    ports.extend(listeners.map(|(port, spoken)| {
        json!({"name": format!("{spoken}-{port}"), "port": port, "protocol": "TCP", "targetPort": port})
    }));
    let mut spec = json!({"type": asked.service, "selector": selector, "ports": ports});
    if asked.service == "LoadBalancer"
        && let Some(address) = asked.addresses.first()
    {
        set(&mut spec, "loadBalancerIP", address.to_string());
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

fn template(settings: &Settings, asked: &Asked, selector: &Value) -> Value {
    let name = asked.called();
    let mut pod_labels = asked.own_labels(settings);
    for (key, value) in [
        ("app", name.as_str()),
        ("sidecar.istio.io/inject", "false"),
        (REVISION, &settings.revision),
    ] {
        pod_labels.insert(key.to_owned(), json!(value));
    }
    let mut annotations = gateways::scraped();
    annotations.extend(
        asked
            .annotations
            .iter()
            .map(|(key, value)| (key.clone(), json!(value))),
    );
    // A proxy carries labels of its gateway's name, by which Services and Gateways of Istio would choose it that
    // are not meant.
    let more = vec![format!("--labels=app={name},istio={name}")];
    let container = gateways::container(settings, (&asked.name, &name), &[], more);
    json!({
        "metadata": {"labels": pod_labels, "annotations": annotations},
        "spec": {
            "serviceAccountName": name,
            // It asks the API server nothing.
            "automountServiceAccountToken": false,
            "securityContext": ports_of_its_own(pod_security()),
            "affinity": spread(selector),
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "containers": [container],
            "volumes": gateways::volumes(settings),
        },
    })
}

/// Lets who is not root listen at any port, of the pod's own network (one of the sysctls that Pod Security calls safe).
fn ports_of_its_own(mut security: Value) -> Value {
    let sysctls = json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]);
    set(&mut security, "sysctls", sysctls);
    security
}

/// Selects what [`deployed`] gave, of a revision.
pub fn selector(revision: &str) -> String {
    format!("app.kubernetes.io/managed-by={NAME},{REVISION}={revision},{WRITTEN},{GATEWAY_NAME}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::Profile;

    fn asked() -> Asked {
        Asked {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            class: "meshctl".to_owned(),
            uid: "7".to_owned(),
            api_version: "gateway.networking.k8s.io/v1".to_owned(),
            ports: [(443, "https"), (80, "http"), (15_021, "http")].into(),
            service: "LoadBalancer".to_owned(),
            ..Asked::default()
        }
    }

    #[test]
    fn what_a_gateway_says_is_on_everything_and_cannot_undo_ours() {
        let settings = Settings::new(Profile::Default);
        let mut asked = asked();
        let own = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        asked.labels = [
            own("team", "edge"),
            own(GATEWAY_NAME, "stolen"),
            own("app", "cart"),
        ]
        .into();
        asked.annotations = [own("cost", "7")].into();
        let all = deployed(&settings, &asked, 2);
        assert_eq!(all.len(), 4);
        for object in &all {
            let metadata = &object["metadata"];
            assert_eq!(metadata["name"], "web-meshctl");
            assert_eq!(metadata["labels"]["team"], "edge");
            assert_eq!(metadata["labels"][GATEWAY_NAME], "web");
            assert_eq!(metadata["annotations"]["cost"], "7");
            assert_eq!(metadata["ownerReferences"][0]["uid"], "7");
        }
        let template = &all[3]["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["app"], "web-meshctl");
        assert_eq!(template["metadata"]["labels"][GATEWAY_NAME], "web");
        let ports = all[1]["spec"]["ports"].as_array().unwrap();
        let ports: Vec<String> = ports.iter().map(|port| port["port"].to_string()).collect();
        assert_eq!(ports, ["15021", "80", "443"]);
        // One proxy needs no budget, which would only keep nodes from being drained.
        assert_eq!(deployed(&settings, &asked, 1).len(), 3);
    }

    #[test]
    fn another_listener_is_no_other_pod() {
        let settings = Settings::new(Profile::Default);
        let (before, mut after) = (asked(), asked());
        after.ports.insert(8443, "https");
        let of = |asked: &Asked| deployed(&settings, asked, 2);
        assert_ne!(of(&before)[1], of(&after)[1]);
        assert_eq!(of(&before)[3], of(&after)[3]);
    }

    #[test]
    fn names_that_no_service_can_have_are_said() {
        for (name, fits) in [("web", true), ("web.shop", false), ("0web", false)] {
            let asked = Asked {
                name: name.to_owned(),
                ..asked()
            };
            assert_eq!(asked.misnamed().is_none(), fits, "{name}");
        }
        let long = Asked {
            name: "a".repeat(56),
            ..asked()
        };
        assert!(long.misnamed().is_some());
    }
}
