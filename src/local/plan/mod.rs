//! Workloads in, pods out: names, addresses, ports, commands, environments. Pure.
//!
//! With `process` isolation the sidecar serves the pod's address at the ports that the manifest
//! names, so the application listens on a private port, which it learns from `$PORT`. With `netns`
//! the application has the pod's address for itself and traffic is captured.

mod env;
mod name;
mod sidecar;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use super::address::Network;
use super::spec::{ContainerSpec, PortProtocol, Probe, Workload};

pub use name::seed;

/// From SIGTERM to SIGKILL unless the manifest says otherwise. Kubernetes waits 30 s, but people
/// watch `down` end.
pub const GRACE: Duration = Duration::from_secs(5);

/// The container name of the sidecar.
pub const SIDECAR: &str = "proxy";

/// The sidecar's own ports, which no container may have.
pub const SIDECAR_PORTS: [u16; 8] = [
    15_000, 15_001, 15_006, 15_020, 15_021, 15_053, 15_079, 15_090,
];

/// How pods are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A loopback address each; works for everyone.
    Process,
    /// A network namespace each, with transparent capture; needs root.
    Netns,
}

impl Isolation {
    /// As the command line spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Netns => "netns",
        }
    }
}

/// What the plan depends on besides the manifests.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// How pods are kept apart.
    pub isolation: Isolation,
    /// Where addresses come from.
    pub network: Network,
    /// Decides the random part of pod names.
    pub seed: u64,
    /// Prefix of namespace names; unique for this run.
    pub instance: String,
    /// Our own executable: what `meshctl` as a command means, and what a sidecar is.
    pub executable: PathBuf,
    /// Where each pod has its directory.
    pub pods_dir: PathBuf,
    /// Handed on to every container: `PATH` and its like.
    pub base_env: Vec<(String, String)>,
    /// More arguments for every sidecar.
    pub sidecar_args: Vec<String>,
    /// `host:port` that sidecars get their configuration from.
    pub control_plane: String,
    /// Ports below this need root (`net.ipv4.ip_unprivileged_port_start`); 0 for root.
    pub first_free_port: u16,
}

/// One pod, ready to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    /// Unique within the namespace.
    pub name: String,
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The workload it comes from.
    pub workload: String,
    /// The `app` label, or the workload's name.
    pub service: String,
    /// The `version` label.
    pub version: Option<String>,
    /// Never empty; `default` when the manifest names none.
    pub service_account: String,
    /// The template's labels.
    pub labels: BTreeMap<String, String>,
    /// Where its ports are served.
    pub address: Ipv4Addr,
    /// The network namespace, with `netns`.
    pub netns: Option<String>,
    /// Its directory.
    pub dir: PathBuf,
    /// The sidecar's arguments after the executable, without the join token.
    pub sidecar: Option<Vec<String>>,
    /// The applications.
    pub containers: Vec<Container>,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

impl Pod {
    /// The TCP ports that the mesh sees.
    pub fn ports(&self) -> Vec<u16> {
        self.containers
            .iter()
            .flat_map(|container| &container.ports)
            .filter(|port| port.protocol == PortProtocol::Tcp)
            .map(|port| port.number)
            .collect()
    }
}

/// One application of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Unique within the pod.
    pub name: String,
    /// Program and arguments, expanded.
    pub command: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Where it runs; the supervisor's directory when absent.
    pub cwd: Option<PathBuf>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Until this passes the others wait.
    pub startup: Option<Probe>,
    /// Whether it takes traffic.
    pub readiness: Option<Probe>,
    /// Whether it is to be restarted.
    pub liveness: Option<Probe>,
    /// The user to run as.
    pub user: Option<u32>,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name, when it has one.
    pub name: Option<String>,
    /// What the mesh sees.
    pub number: u16,
    /// Where the application listens.
    pub listen: u16,
    /// TCP goes through the sidecar.
    pub protocol: PortProtocol,
}

/// Why workloads cannot be run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Only the image knows the program.
    #[error(
        "{origin}: container {container:?} of {workload:?} has no command, and its image {image:?} is not run here"
    )]
    NoCommand {
        /// Where.
        origin: String,
        /// Which workload.
        workload: String,
        /// Which container.
        container: String,
        /// Its image.
        image: String,
    },
    /// There is nothing to run.
    #[error("{origin}: {workload:?} has no containers")]
    NoContainers {
        /// Where.
        origin: String,
        /// Which workload.
        workload: String,
    },
    /// Two pods would have one name.
    #[error("{origin}: {kind} {name:?} is defined twice in namespace {namespace:?}")]
    Twice {
        /// Where the second one is.
        origin: String,
        /// Pod or container.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Where both are.
        namespace: String,
    },
    /// Two containers of a pod share its address.
    #[error("{origin}: port {port} is used twice in a pod of {workload:?}")]
    PortTwice {
        /// Where.
        origin: String,
        /// Which workload.
        workload: String,
        /// Which port.
        port: u16,
    },
    /// The sidecar needs it.
    #[error("{origin}: port {port} of {workload:?} belongs to the sidecar")]
    SidecarPort {
        /// Where.
        origin: String,
        /// Which workload.
        workload: String,
        /// Which port.
        port: u16,
    },
    /// The sidecar may not bind it.
    #[error("{origin}: port {port} of {workload:?} can only be served by root")]
    Privileged {
        /// Where.
        origin: String,
        /// Which workload.
        workload: String,
        /// Which port.
        port: u16,
        /// The first that everyone may use.
        first_free: u16,
    },
    /// `command` or `args` name a probe port that is not there.
    #[error(
        "{origin}: a probe of container {container:?} names port {port:?}, which it does not have"
    )]
    ProbePort {
        /// Where.
        origin: String,
        /// Which container.
        container: String,
        /// The name.
        port: String,
    },
    /// A `fieldRef` that a pod on this machine does not have.
    #[error(
        "{origin}: variable {name:?} takes its value from {field:?}, which pods on this machine do not have"
    )]
    Field {
        /// Where.
        origin: String,
        /// The variable.
        name: String,
        /// The path.
        field: String,
    },
    /// One block of addresses is for one mesh.
    #[error("{pods} pods are too many for one machine; {most} have an address")]
    TooMany {
        /// How many there would be.
        pods: u64,
        /// How many there can be.
        most: u32,
    },
}

impl PlanError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoCommand { .. } => {
                "add `command: [PROGRAM, ARGUMENT…]` to the container: pods on this machine are \
                 processes, so the program must be installed here"
                    .to_owned()
            }
            Self::NoContainers { .. } => "add spec.template.spec.containers".to_owned(),
            Self::Twice { .. } => "give each its own name".to_owned(),
            Self::PortTwice { .. } => {
                "containers of one pod share its address; give each port once".to_owned()
            }
            Self::SidecarPort { .. } => {
                "choose another port, or label the pod sidecar.istio.io/inject: \"false\"".to_owned()
            }
            Self::Privileged { first_free, .. } => format!(
                "use a containerPort from {first_free}, run as root, or lower net.ipv4.ip_unprivileged_port_start"
            ),
            Self::ProbePort { .. } => "name one of the container's own ports".to_owned(),
            Self::Field { .. } => {
                "metadata.name, metadata.namespace, metadata.labels['KEY'], spec.serviceAccountName, \
                 spec.nodeName, status.podIP and status.hostIP are there"
                    .to_owned()
            }
            Self::TooMany { .. } => "lower spec.replicas".to_owned(),
        })
    }
}

/// The pods of `workloads`, in their order.
pub fn plan(workloads: &[Workload], around: &Surroundings) -> Result<Vec<Pod>, PlanError> {
    let total: u64 = workloads.iter().map(|w| u64::from(w.replicas)).sum();
    if total > u64::from(Network::capacity()) {
        return Err(PlanError::TooMany {
            pods: total,
            most: Network::capacity(),
        });
    }
    let mut pods = Vec::new();
    let mut names = BTreeSet::new();
    for workload in workloads {
        check(workload, around)?;
        for replica in 0..workload.replicas {
            let name = name::pod_name(workload, replica, around.seed);
            if !names.insert((workload.namespace.clone(), name.clone())) {
                return Err(PlanError::Twice {
                    origin: workload.origin.clone(),
                    kind: "pod",
                    name,
                    namespace: workload.namespace.clone(),
                });
            }
            let address = u32::try_from(pods.len())
                .ok()
                .and_then(|index| around.network.pod(index))
                .ok_or(PlanError::TooMany {
                    pods: total,
                    most: Network::capacity(),
                })?;
            let index = pods.len();
            pods.push(pod(workload, name, address, index, around)?);
        }
    }
    Ok(pods)
}

fn pod(
    workload: &Workload,
    name: String,
    address: Ipv4Addr,
    index: usize,
    around: &Surroundings,
) -> Result<Pod, PlanError> {
    let spec = &workload.pod;
    let service = ["app", "app.kubernetes.io/name"]
        .iter()
        .find_map(|key| spec.labels.get(*key))
        .unwrap_or(&workload.name)
        .clone();
    let version = ["version", "app.kubernetes.io/version"]
        .iter()
        .find_map(|key| spec.labels.get(*key))
        .cloned();
    let service_account = if spec.service_account.is_empty() {
        "default".to_owned()
    } else {
        spec.service_account.clone()
    };
    let mut pod = Pod {
        // Two namespaces may have a pod of the same name.
        dir: around
            .pods_dir
            .join(format!("{}.{}", name, workload.namespace)),
        netns: (around.isolation == Isolation::Netns)
            .then(|| format!("meshctl-{}-{index}", around.instance)),
        name,
        namespace: workload.namespace.clone(),
        workload: workload.name.clone(),
        service,
        version,
        service_account,
        labels: spec.labels.clone(),
        address,
        sidecar: None,
        containers: Vec::new(),
        grace: spec.grace.unwrap_or(GRACE),
    };
    let private = private_ports(workload, around.isolation);
    for container in &spec.containers {
        let ports: Vec<Port> = container
            .ports
            .iter()
            .map(|port| Port {
                name: port.name.clone(),
                number: port.number,
                listen: match port.protocol {
                    PortProtocol::Tcp => private.get(&port.number).copied().unwrap_or(port.number),
                    PortProtocol::Udp => port.number,
                },
                protocol: port.protocol,
            })
            .collect();
        let env = env::environment(workload, &pod, container, &ports, around)?;
        let command = env::command(container, &env, around);
        pod.containers.push(Container {
            name: container.name.clone(),
            command,
            env,
            cwd: container.cwd.as_ref().map(PathBuf::from),
            ports,
            startup: container.startup.clone(),
            readiness: container.readiness.clone(),
            liveness: container.liveness.clone(),
            user: container.run_as_user,
        });
    }
    if spec.inject {
        pod.sidecar = Some(sidecar::arguments(&pod, around));
    }
    Ok(pod)
}

/// Where the application listens for each TCP port, when the sidecar has the port itself.
fn private_ports(workload: &Workload, isolation: Isolation) -> BTreeMap<u16, u16> {
    let spec = &workload.pod;
    if isolation == Isolation::Netns || !spec.inject {
        return BTreeMap::new();
    }
    let all = || {
        spec.containers
            .iter()
            .flat_map(|container| &container.ports)
    };
    let mut taken: BTreeSet<u16> = all().map(|port| port.number).collect();
    taken.extend(SIDECAR_PORTS);
    let mut private = BTreeMap::new();
    for port in all().filter(|port| port.protocol == PortProtocol::Tcp) {
        // N + 20000 is easy to recognise; ports above 45535 have to go elsewhere.
        let wanted = port.number.checked_add(20_000).unwrap_or(20_000);
        let listen = (wanted..=u16::MAX)
            .chain(20_000..wanted)
            .find(|candidate| !taken.contains(candidate));
        if let Some(listen) = listen {
            taken.insert(listen);
            private.insert(port.number, listen);
        }
    }
    private
}

fn check(workload: &Workload, around: &Surroundings) -> Result<(), PlanError> {
    let origin = || workload.origin.clone();
    let spec = &workload.pod;
    if spec.containers.is_empty() {
        return Err(PlanError::NoContainers {
            origin: origin(),
            workload: workload.name.clone(),
        });
    }
    let mut names = BTreeSet::from([SIDECAR]);
    let mut ports = BTreeSet::new();
    for container in &spec.containers {
        if !names.insert(&container.name) {
            return Err(PlanError::Twice {
                origin: origin(),
                kind: "container",
                name: container.name.clone(),
                namespace: workload.namespace.clone(),
            });
        }
        if container.command.is_empty() {
            return Err(PlanError::NoCommand {
                origin: origin(),
                workload: workload.name.clone(),
                container: container.name.clone(),
                image: container.image.clone(),
            });
        }
        for port in &container.ports {
            let workload_name = workload.name.clone();
            if !ports.insert((port.number, port.protocol == PortProtocol::Tcp)) {
                return Err(PlanError::PortTwice {
                    origin: origin(),
                    workload: workload_name,
                    port: port.number,
                });
            }
            if spec.inject && SIDECAR_PORTS.contains(&port.number) {
                return Err(PlanError::SidecarPort {
                    origin: origin(),
                    workload: workload_name,
                    port: port.number,
                });
            }
            if port.number < around.first_free_port {
                return Err(PlanError::Privileged {
                    origin: origin(),
                    workload: workload_name,
                    port: port.number,
                    first_free: around.first_free_port,
                });
            }
        }
        check_probes(workload, container)?;
    }
    Ok(())
}

fn check_probes(workload: &Workload, container: &ContainerSpec) -> Result<(), PlanError> {
    use super::spec::{Check, PortRef};
    let probes = [
        &container.startup,
        &container.readiness,
        &container.liveness,
    ];
    for probe in probes.into_iter().flatten() {
        let (Check::Http { port, .. } | Check::Tcp { port }) = &probe.check else {
            continue;
        };
        if let PortRef::Name(name) = port
            && !container
                .ports
                .iter()
                .any(|port| port.name.as_ref() == Some(name))
        {
            return Err(PlanError::ProbePort {
                origin: workload.origin.clone(),
                container: container.name.clone(),
                port: name.clone(),
            });
        }
    }
    Ok(())
}
