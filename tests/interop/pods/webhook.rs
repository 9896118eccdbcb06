//! Pods by the webhook are the pods that the function makes, started as ProxyConfigs say at that moment.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::network::{ONLY_V4, in_namespace};
use super::world::World;
use super::{caller, server};
use crate::stand::until;

#[test]
fn pods_are_started_as_proxy_configs_say() {
    in_namespace(async || {
        let world = World::start(ONLY_V4).await;
        world.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "default", "labels": {"istio-injection": "enabled"}},
        }));
        // Before anybody says anything they are what the function makes of them.
        let plain = server(&world, "web-1", (1, 12), super::SYSTEM_PYTHON);
        let made = until("the webhook", 30, || asked(&world, &plain)).await;
        let function = world.meshed(&plain);
        let images = |pod: &Value| {
            let mut pod = pod.clone();
            let init = pod["spec"]["initContainers"].as_array_mut().unwrap();
            for container in init {
                let container = container.as_object_mut().unwrap();
                container.remove("image");
                container.remove("imagePullPolicy");
            }
            pod
        };
        assert_eq!(images(&made), images(&function));

        world.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "meshctl-system"},
            "data": {"mesh": "defaultConfig: {concurrency: 1, statusPort: 15999, terminationDrainDuration: 3s}"},
        }));
        world.apply(&json!({
            "apiVersion": "networking.istio.io/v1beta1", "kind": "ProxyConfig",
            "metadata": {"name": "two", "namespace": "default"},
            "spec": {"concurrency": 2, "environmentVariables": {"PLACE": "default"}},
        }));
        let made = until("both to be known", 30, || {
            let made = asked(&world, &plain)?;
            let proxy = proxy(&made);
            let args = proxy["args"].to_string();
            let known = ["--workers=2", "--status-port=15999", "--drain=3s"];
            known.iter().all(|arg| args.contains(arg)).then_some(made)
        })
        .await;
        let env = proxy(&made)["env"].to_string();
        assert!(
            env.contains(r#"{"name":"PLACE","value":"default"}"#),
            "{env}"
        );
        let app = &made["spec"]["containers"][0];
        assert_eq!(app["readinessProbe"]["httpGet"]["port"], 15999);

        // And such a pod works: its probes pass where they are asked now.
        let mut pod = world.start_pod(&made, 1, 12).await;
        let node = &world.nodes[1];
        let app = pod.container("app");
        until("the probe at the port that was chosen", 20, || {
            (pod.ask(node, &app["readinessProbe"])? == 200).then_some(())
        })
        .await;
        assert!(pod.ended("meshctl-proxy").is_none());
        // Another pod, made by hand, says for itself.
        let mut own = caller("own");
        own["metadata"]["annotations"] = json!({"proxy.istio.io/config": "statusPort: 15998"});
        let own = asked(&world, &own).unwrap();
        assert!(
            proxy(&own)["args"]
                .to_string()
                .contains("--status-port=15998")
        );
    });
}

fn proxy(pod: &Value) -> &Value {
    let all = pod["spec"]["initContainers"].as_array().unwrap();
    let found = all
        .iter()
        .find(|container| container["name"] == "meshctl-proxy");
    found.unwrap()
}

/// Asks the webhook as the API server does, and changes the pod as it says.
fn asked(world: &World, pod: &Value) -> Option<Value> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "1", "namespace": "default", "operation": "CREATE", "object": pod},
    });
    let (at, roots) = (world.families.system(1)[0], world.roots_file());
    let name = "meshctl.meshctl-system.svc";
    let output = Command::new("curl")
        .args(["-sS", "--fail", "--cacert"])
        .arg(roots)
        .args(["--resolve", &format!("{name}:15017:{at}")])
        .args([
            "-H",
            "content-type: application/json",
            "-d",
            &review.to_string(),
        ])
        .arg(format!("https://{name}:15017/inject"))
        .output()
        .unwrap();
    if !output.status.success() {
        return None;
    }
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    let patch = answer["response"]["patch"].as_str()?;
    let patch: json_patch::Patch =
        serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    Some(pod)
}
