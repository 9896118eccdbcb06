//! From manifests to what runs on this machine.

use std::collections::BTreeMap;

use crate::cli::error::CliError;
use crate::local::spec::{
    Check, ContainerPort, ContainerSpec, EnvValue, EnvVar, PodSpec, PortProtocol, PortRef, Probe,
    Workload, WorkloadKind,
};
use crate::mesh::service::TargetPort;
use crate::resource::kube::{self, ProbeAction};
use crate::resource::{Kind, Object};

/// The workloads among `objects`, with environments from their ConfigMaps.
pub(crate) fn workloads(objects: &[Object]) -> Result<Vec<Workload>, CliError> {
    let maps: BTreeMap<(&str, &str), &kube::ConfigMap> = objects
        .iter()
        .filter_map(|object| match &object.body {
            Kind::ConfigMap(map) => Some((
                (
                    object.metadata.namespace.as_str(),
                    object.metadata.name.as_str(),
                ),
                map,
            )),
            _ => None,
        })
        .collect();
    let mut out = Vec::new();
    for object in objects {
        let (kind, replicas, template) = match &object.body {
            Kind::Workload(workload) if object.kind == "StatefulSet" => (
                WorkloadKind::StatefulSet,
                workload.replicas,
                &workload.template,
            ),
            Kind::Workload(workload) => (
                WorkloadKind::Deployment,
                workload.replicas,
                &workload.template,
            ),
            Kind::Pod(pod) => (WorkloadKind::Pod, 1, &pod.template),
            _ => continue,
        };
        let origin = object.origin.to_string();
        let spec = &template.spec;
        let containers = spec
            .containers
            .iter()
            .map(|container| one(container, &object.metadata.namespace, &maps, &origin))
            .collect::<Result<_, _>>()?;
        out.push(Workload {
            name: object.metadata.name.clone(),
            namespace: object.metadata.namespace.clone(),
            kind,
            replicas,
            pod: PodSpec {
                service_account: spec.service_account.clone(),
                labels: template.labels.clone(),
                containers,
                inject: !is_false(template),
                grace: spec.termination_grace,
            },
            origin,
        });
    }
    Ok(out)
}

/// `sidecar.istio.io/inject: "false"`, as a label or an annotation.
fn is_false(template: &kube::PodTemplate) -> bool {
    let key = "sidecar.istio.io/inject";
    let said = template
        .labels
        .get(key)
        .or_else(|| template.annotations.get(key));
    said.is_some_and(|value| value == "false")
}

fn one(
    container: &kube::Container,
    namespace: &str,
    maps: &BTreeMap<(&str, &str), &kube::ConfigMap>,
    origin: &str,
) -> Result<ContainerSpec, CliError> {
    let mut env = Vec::new();
    for name in &container.env_from {
        if let Some(map) = maps.get(&(namespace, name.as_str())) {
            env.extend(map.data.iter().map(|(name, value)| EnvVar {
                name: name.clone(),
                value: EnvValue::Text(value.clone()),
            }));
        }
    }
    for variable in &container.env {
        let value = match &variable.value {
            kube::EnvValue::Text(text) => Some(EnvValue::Text(text.clone())),
            kube::EnvValue::Field(path) => Some(EnvValue::Field(path.clone())),
            kube::EnvValue::ConfigMapKey {
                name,
                key,
                optional,
            } => {
                let found = maps
                    .get(&(namespace, name.as_str()))
                    .and_then(|map| map.data.get(key));
                match (found, optional) {
                    (Some(value), _) => Some(EnvValue::Text(value.clone())),
                    (None, true) => None,
                    (None, false) => {
                        return Err(
                            missing(origin, container, &variable.name, "ConfigMap", name)
                                .hint("name the file that holds it, too"),
                        );
                    }
                }
            }
            kube::EnvValue::SecretKey { optional: true, .. } => None,
            kube::EnvValue::SecretKey { name, .. } => {
                return Err(missing(origin, container, &variable.name, "Secret", name)
                    .hint("secrets are not handed to processes; give the value in `env`"));
            }
            kube::EnvValue::Resource(what) => {
                return Err(missing(origin, container, &variable.name, "resource", what)
                    .hint("processes have no resource limits here; give the value in `env`"));
            }
        };
        if let Some(value) = value {
            env.push(EnvVar {
                name: variable.name.clone(),
                value,
            });
        }
    }
    Ok(ContainerSpec {
        name: container.name.clone(),
        image: container.image.clone(),
        command: container.command.clone(),
        args: container.args.clone(),
        env,
        cwd: container.working_dir.clone(),
        ports: container
            .ports
            .iter()
            .map(|port| ContainerPort {
                name: (!port.name.is_empty()).then(|| port.name.clone()),
                number: port.port,
                protocol: if port.datagram {
                    PortProtocol::Udp
                } else {
                    PortProtocol::Tcp
                },
            })
            .collect(),
        startup: container.startup.as_ref().map(probe),
        readiness: container.readiness.as_ref().map(probe),
        liveness: container.liveness.as_ref().map(probe),
        run_as_user: None,
    })
}

fn missing(
    origin: &str,
    container: &kube::Container,
    variable: &str,
    kind: &str,
    name: &str,
) -> CliError {
    CliError::failed(format!(
        "{origin}: variable {variable} of container {} comes from {kind} {name}, which is not here",
        container.name
    ))
}

/// A probe as it is run here; gRPC probes are asked as TCP, which says that something listens.
fn probe(probe: &kube::Probe) -> Probe {
    let port = |port: &TargetPort| match port {
        TargetPort::Number(number) => PortRef::Number(*number),
        TargetPort::Name(name) => PortRef::Name(name.clone()),
    };
    let check = match &probe.action {
        ProbeAction::Http {
            https: true,
            port: at,
            ..
        }
        | ProbeAction::Tcp { port: at } => Check::Tcp { port: port(at) },
        ProbeAction::Http {
            path,
            port: at,
            headers,
            ..
        } => Check::Http {
            port: port(at),
            path: path.clone(),
            headers: headers.clone(),
        },
        ProbeAction::Exec(command) => Check::Exec {
            command: command.clone(),
        },
        ProbeAction::Grpc { port, .. } => Check::Tcp {
            port: PortRef::Number(*port),
        },
    };
    Probe {
        check,
        initial_delay: probe.initial_delay,
        period: probe.period,
        timeout: probe.timeout,
        successes: probe.success_threshold,
        failures: probe.failure_threshold,
    }
}
