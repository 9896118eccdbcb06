//! A container's environment and command line.

use super::{Isolation, PlanError, Pod, Port, Surroundings};
use crate::local::expand::expand;
use crate::local::spec::{ContainerSpec, EnvValue, PortProtocol, Workload};

/// Everything the container's processes see. The manifest's own variables come last and win.
pub(super) fn environment(
    workload: &Workload,
    pod: &Pod,
    container: &ContainerSpec,
    ports: &[Port],
    around: &Surroundings,
) -> Result<Vec<(String, String)>, PlanError> {
    let mut env = Env(around.base_env.clone());
    let address = pod.address.to_string();
    env.set("POD_NAME", pod.name.clone());
    env.set("POD_NAMESPACE", pod.namespace.clone());
    env.set("POD_IP", address.clone());
    env.set("HOSTNAME", pod.name.clone());
    match around.isolation {
        Isolation::Process => {
            env.set("HOST", address.clone());
            if workload.pod.inject {
                let proxy = format!("http://{address}:15001");
                env.set("HTTP_PROXY", proxy.clone());
                env.set("http_proxy", proxy);
                // Whatever the caller's shell exempts must not go past the sidecar.
                env.set("NO_PROXY", String::new());
                env.set("no_proxy", String::new());
            }
        }
        Isolation::Netns => env.set("HOST", "0.0.0.0".to_owned()),
    }
    let mut first = true;
    for port in ports.iter().filter(|p| p.protocol == PortProtocol::Tcp) {
        if first {
            env.set("PORT", port.listen.to_string());
            first = false;
        }
        env.set(&format!("PORT_{}", port.number), port.listen.to_string());
        if let Some(name) = &port.name {
            let name: String = name
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() {
                        c.to_ascii_uppercase()
                    } else {
                        '_'
                    }
                })
                .collect();
            env.set(&format!("PORT_{name}"), port.listen.to_string());
        }
    }
    for variable in &container.env {
        let value = match &variable.value {
            // As in Kubernetes, a value sees what was set before it.
            EnvValue::Text(text) => expand(text, |name| env.get(name)),
            EnvValue::Field(path) => field(pod, around, path).ok_or_else(|| PlanError::Field {
                origin: workload.origin.clone(),
                name: variable.name.clone(),
                field: path.clone(),
            })?,
        };
        env.set(&variable.name, value);
    }
    Ok(env.0)
}

/// Program and arguments; `meshctl` stands for our own executable.
pub(super) fn command(
    container: &ContainerSpec,
    env: &[(String, String)],
    around: &Surroundings,
) -> Vec<String> {
    let lookup = |name: &str| {
        env.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let mut command: Vec<String> = container
        .command
        .iter()
        .chain(&container.args)
        .map(|word| expand(word, lookup))
        .collect();
    if let Some(program) = command.first_mut()
        && program == "meshctl"
    {
        *program = around.executable.to_string_lossy().into_owned();
    }
    command
}

struct Env(Vec<(String, String)>);

impl Env {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    }
}

/// The downward API, as far as a process has it.
fn field(pod: &Pod, around: &Surroundings, path: &str) -> Option<String> {
    if let Some(key) = path
        .strip_prefix("metadata.labels['")
        .and_then(|rest| rest.strip_suffix("']"))
    {
        // A label that is not there is the empty string, as in Kubernetes.
        return Some(pod.labels.get(key).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => pod.name.clone(),
        "metadata.namespace" => pod.namespace.clone(),
        "spec.serviceAccountName" => pod.service_account.clone(),
        "spec.nodeName" => "localhost".to_owned(),
        "status.podIP" | "status.podIPs" => pod.address.to_string(),
        "status.hostIP" | "status.hostIPs" => around.network.host().to_string(),
        _ => return None,
    })
}
