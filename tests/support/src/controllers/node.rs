//! Nodes, the scheduler and the kubelet. Nothing runs: pods get a node and an address, and their containers are
//! said to run, or to have ended well if they belong to a Job.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{Work, condition, controller, is_going, text};
use crate::store::Key;

/// A node's object.
pub(super) fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/region": "region-1", "topology.kubernetes.io/zone": "zone-1",
        }},
        "spec": {"podCIDR": "10.244.0.0/16"},
    })
}

pub(super) fn status() -> Value {
    json!({
        "addresses": [{"type": "InternalIP", "address": HOST}],
        "capacity": {"cpu": "8", "memory": "16Gi", "pods": "500"},
        "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "500"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}],
        "nodeInfo": {"kubeletVersion": "v1.36.0", "operatingSystem": "linux", "architecture": "amd64"},
    })
}

const HOST: &str = "192.168.0.10";

/// The next address of a pod.
fn address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % (256 * 250);
    format!("10.244.{}.{}", number / 250, number % 250 + 1)
}

impl Work {
    /// Nodes that take pods.
    fn open_nodes(&self) -> Vec<String> {
        let state = self.server.state();
        let all = state.store.list("nodes", "");
        let open = all.filter(|(_, node)| node["spec"]["unschedulable"] != true);
        open.map(|(key, _)| key.name.clone()).collect()
    }

    /// What becomes of a pod: scheduled, started, ended.
    pub(super) fn pod(&self, at: &Key, pod: &Value) {
        if is_going(pod) {
            // The kubelet ends its containers, and the object goes unless a finalizer holds it.
            let now = self.server.timestamp();
            let mut state = self.server.state();
            state.ended(at, &now);
            return;
        }
        if pod["status"]["phase"] != "Pending" {
            return;
        }
        let now = self.server.timestamp();
        if text(&pod["spec"]["nodeName"]).is_empty() {
            let gated = pod["spec"]["schedulingGates"]
                .as_array()
                .is_some_and(|g| !g.is_empty());
            let open = self.open_nodes();
            let Some(node) = fastrand::choice(&open).filter(|_| !gated) else {
                return;
            };
            self.edit(at, |pod| {
                pod["spec"]["nodeName"] = node.clone().into();
                condition(&mut pod["status"], "PodScheduled", true, "", "", &now);
            });
            return;
        }
        if !self.settings.ready {
            return;
        }
        let is_job = controller(pod).is_some_and(|o| o["kind"] == "Job");
        self.edit(at, |pod| start(pod, is_job, &now));
    }
}

fn start(pod: &mut Value, is_job: bool, now: &str) {
    let ip = if pod["spec"]["hostNetwork"] == true {
        HOST.to_owned()
    } else {
        address()
    };
    let ran = json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}});
    let runs = json!({"running": {"startedAt": now}});
    let statuses = |list: &str, done: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        let said = containers.map(|container| {
            let done = done(container);
            json!({
                "name": container["name"], "image": container["image"], "imageID": "",
                "containerID": format!("memory://{}/{}", text(&pod["metadata"]["uid"]), text(&container["name"])),
                "ready": !done || list == "initContainers", "started": !done, "restartCount": 0,
                "state": if done { ran.clone() } else { runs.clone() },
            })
        });
        said.collect()
    };
    let containers = statuses("containers", &|_| is_job);
    // A sidecar of Kubernetes' own kind goes on running.
    let before = statuses("initContainers", &|c| {
        is_job || c["restartPolicy"] != "Always"
    });
    let mut status = pod["status"].clone();
    status["phase"] = if is_job { "Succeeded" } else { "Running" }.into();
    status["hostIP"] = HOST.into();
    status["hostIPs"] = json!([{"ip": HOST}]);
    status["podIP"] = ip.clone().into();
    status["podIPs"] = json!([{"ip": ip}]);
    status["startTime"] = now.into();
    status["containerStatuses"] = containers.into();
    if !before.is_empty() {
        status["initContainerStatuses"] = before.into();
    }
    condition(&mut status, "PodScheduled", true, "", "", now);
    for kind in ["PodReadyToStartContainers", "Initialized"] {
        condition(&mut status, kind, true, "", "", now);
    }
    for kind in ["ContainersReady", "Ready"] {
        let reason = if is_job { "PodCompleted" } else { "" };
        condition(&mut status, kind, !is_job, reason, "", now);
    }
    pod["status"] = status;
}
