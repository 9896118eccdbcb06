//! The command line of a pod's sidecar.

use super::{Isolation, Pod, Surroundings};
use crate::local::spec::PortProtocol;

pub(super) fn arguments(pod: &Pod, around: &Surroundings) -> Vec<String> {
    let mut args = vec!["proxy".to_owned()];
    let mut flag = |name: &str, value: String| {
        args.push(format!("--{name}"));
        args.push(value);
    };
    flag("service", pod.service.clone());
    flag("namespace", pod.namespace.clone());
    flag("service-account", pod.service_account.clone());
    flag("name", pod.name.clone());
    if let Some(version) = &pod.version {
        flag("version", version.clone());
    }
    if !pod.labels.is_empty() {
        let labels: Vec<String> = pod
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        flag("labels", labels.join(","));
    }
    flag("address", pod.address.to_string());
    for container in &pod.containers {
        for port in &container.ports {
            if port.protocol == PortProtocol::Tcp {
                // Inside a namespace the call to the application goes over its loopback, which is
                // not captured again.
                let host = match around.isolation {
                    Isolation::Process => pod.address.to_string(),
                    Isolation::Netns => "127.0.0.1".to_owned(),
                };
                flag("app", format!("{}={host}:{}", port.number, port.listen));
                if let Some(name) = &port.name {
                    flag("port-name", format!("{name}={}", port.number));
                }
            }
        }
    }
    flag("outbound-port", "15001".to_owned());
    flag("inbound-port", "15006".to_owned());
    flag("admin-port", "15000".to_owned());
    let capture = match around.isolation {
        Isolation::Process => "none",
        Isolation::Netns => "transparent",
    };
    flag("capture", capture.to_owned());
    flag("control-plane", around.control_plane.clone());
    flag("home", pod.dir.to_string_lossy().into_owned());
    args.extend(around.sidecar_args.iter().cloned());
    args
}
