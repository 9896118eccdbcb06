//! Endpoints and EndpointSlices of Services, and addresses of load balancers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::pods::is_ready;
use super::{Work, is_going, key, owned_by, text};
use crate::status::Answer;
use crate::store::Key;

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGER: &str = "endpointslice.kubernetes.io/managed-by";

/// Whether a Service's selector takes a pod; one without a selector takes none.
pub(super) fn selects(service: &Value, pod: &Value) -> bool {
    let Some(selector) = service["spec"]["selector"].as_object() else {
        return false;
    };
    let labels = &pod["metadata"]["labels"];
    !selector.is_empty() && selector.iter().all(|(k, v)| labels[k.as_str()] == *v)
}

/// The port of a pod that a Service's port means.
fn port(pod: &Value, port: &Value) -> Option<i64> {
    match &port["targetPort"] {
        Value::String(name) => {
            let containers = ["initContainers", "containers"];
            let containers = containers
                .iter()
                .filter_map(|l| pod["spec"][*l].as_array())
                .flatten();
            let mut ports = containers.filter_map(|c| c["ports"].as_array()).flatten();
            let found =
                ports.find(|p| p["name"] == name.as_str() && p["protocol"] == port["protocol"]);
            found?["containerPort"].as_i64()
        }
        Value::Null => port["port"].as_i64(),
        other => other.as_i64(),
    }
}

fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let all = service["spec"]["ports"].as_array().into_iter().flatten();
    all.filter_map(|p| {
        let number = port(pod, p)?;
        let mut port = json!({"name": text(&p["name"]), "port": number, "protocol": p["protocol"]});
        if p["appProtocol"].is_string() {
            port["appProtocol"] = p["appProtocol"].clone();
        }
        Some(port)
    })
    .collect()
}

impl Work {
    pub(super) async fn service(&self, at: &Key, service: &Value) -> Answer<()> {
        if is_going(service) {
            return Ok(());
        }
        if self.settings.load_balancers
            && service["spec"]["type"] == "LoadBalancer"
            && service["status"]["loadBalancer"]["ingress"].is_null()
        {
            let address = format!("203.0.113.{}", fastrand::u8(1..255));
            self.edit(at, |service| {
                service["status"]["loadBalancer"] =
                    json!({"ingress": [{"ip": address, "ipMode": "VIP"}]});
            });
        }
        if !service["spec"]["selector"].is_object() || service["spec"]["type"] == "ExternalName" {
            return Ok(());
        }
        let pods: Vec<Arc<Value>> = {
            let state = self.server.state();
            let all = state.store.list("pods", &at.namespace);
            let taken = all.filter(|(_, pod)| {
                let phase = &pod["status"]["phase"];
                selects(service, pod)
                    && pod["status"]["podIP"].is_string()
                    && *phase != "Succeeded"
                    && *phase != "Failed"
            });
            taken.map(|(_, pod)| pod.clone()).collect()
        };
        // A named port may be another in each pod.
        let mut groups: BTreeMap<String, (Vec<Value>, Vec<Arc<Value>>)> = BTreeMap::new();
        for pod in pods {
            let ports = ports(service, &pod);
            let named = Value::from(ports.clone()).to_string();
            groups
                .entry(named)
                .or_insert((ports, Vec::new()))
                .1
                .push(pod);
        }
        let groups: Vec<_> = groups.into_values().collect();
        self.slices(service, &groups).await?;
        self.endpoints(service, &groups).await
    }

    async fn slices(
        &self,
        service: &Value,
        groups: &[(Vec<Value>, Vec<Arc<Value>>)],
    ) -> Answer<()> {
        const SLICES: &str = "endpointslices.discovery.k8s.io";
        let meta = &service["metadata"];
        let (namespace, name) = (text(&meta["namespace"]), text(&meta["name"]));
        let early = service["spec"]["publishNotReadyAddresses"] == true;
        let mut left = self.controlled(SLICES, service);
        for (ports, pods) in groups {
            let endpoints: Vec<Value> = pods
                .iter()
                .map(|pod| {
                    let (ready, going) = (is_ready(pod), is_going(pod));
                    json!({
                        "addresses": [pod["status"]["podIP"]],
                        "conditions": {"ready": early || (ready && !going), "serving": ready, "terminating": going},
                        "nodeName": pod["spec"]["nodeName"], "zone": "zone-1",
                        "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
                    })
                })
                .collect();
            let same = left.iter().position(|s| s["ports"] == json!(ports));
            if let Some(slice) = same.map(|at| left.remove(at)) {
                self.edit(
                    &key(SLICES, namespace, text(&slice["metadata"]["name"])),
                    |slice| {
                        slice["endpoints"] = endpoints.into();
                    },
                );
                continue;
            }
            let mut labels = meta["labels"].clone();
            labels[SERVICE] = name.into();
            labels[MANAGER] = "endpointslice-controller.k8s.io".into();
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "generateName": format!("{name}-"), "namespace": namespace, "labels": labels,
                    "ownerReferences": owned_by(service),
                },
                "ports": ports, "endpoints": endpoints,
            });
            self.create("endpointslice", SLICES, slice).await?;
        }
        for slice in left {
            self.remove(&key(SLICES, namespace, text(&slice["metadata"]["name"])));
        }
        Ok(())
    }

    async fn endpoints(
        &self,
        service: &Value,
        groups: &[(Vec<Value>, Vec<Arc<Value>>)],
    ) -> Answer<()> {
        let meta = &service["metadata"];
        let (namespace, name) = (text(&meta["namespace"]), text(&meta["name"]));
        let early = service["spec"]["publishNotReadyAddresses"] == true;
        let subsets: Vec<Value> = groups
            .iter()
            .map(|(ports, pods)| {
                let mut subset = json!({});
                for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                    let all = pods.iter().filter(|p| (early || is_ready(p)) == ready);
                    let all: Vec<Value> = all.filter(|p| !is_going(p)).map(|pod| json!({
                        "ip": pod["status"]["podIP"], "nodeName": pod["spec"]["nodeName"],
                        "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
                    })).collect();
                    if !all.is_empty() {
                        subset[field] = all.into();
                    }
                }
                subset["ports"] = json!(ports);
                subset
            })
            .collect();
        let at = key("endpoints", namespace, name);
        if self.server.state().store.get(&at).is_some() {
            self.edit(&at, |endpoints| {
                if subsets.is_empty() {
                    if let Some(fields) = endpoints.as_object_mut() {
                        fields.shift_remove("subsets");
                    }
                } else {
                    endpoints["subsets"] = subsets.into();
                }
            });
            return Ok(());
        }
        let mut endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": name, "namespace": namespace, "labels": meta["labels"]},
        });
        if !subsets.is_empty() {
            endpoints["subsets"] = subsets.into();
        }
        self.create("endpoint", "endpoints", endpoints)
            .await
            .map(drop)
    }
}
