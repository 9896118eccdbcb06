//! What is to run, in plain words: the part of a manifest that matters on one machine.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// A Deployment, StatefulSet or Pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Workload {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, or the default one.
    pub namespace: String,
    /// Decides how its pods are named.
    pub kind: WorkloadKind,
    /// How many pods; 1 unless the manifest says otherwise.
    pub replicas: u32,
    /// What each pod is.
    pub pod: PodSpec,
    /// Where it was written, for messages: `bookinfo.yaml:23`.
    #[serde(skip)]
    pub origin: String,
}

/// How pods are named and whether there can be several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum WorkloadKind {
    /// `reviews-v1-5d8f7c9b6-x2x4z`
    Deployment,
    /// `db-0`
    StatefulSet,
    /// Its own name.
    Pod,
}

/// The template of a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PodSpec {
    /// `serviceAccountName`; `default` when empty.
    pub service_account: String,
    /// The template's labels.
    pub labels: BTreeMap<String, String>,
    /// The applications.
    pub containers: Vec<ContainerSpec>,
    /// Whether it gets a sidecar (`sidecar.istio.io/inject`).
    pub inject: bool,
    /// From SIGTERM to SIGKILL (`terminationGracePeriodSeconds`); 5 s when absent.
    pub grace: Option<Duration>,
}

/// One container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ContainerSpec {
    /// Unique within the pod.
    pub name: String,
    /// Not pulled; only named in messages.
    pub image: String,
    /// What to run. `meshctl` stands for this executable.
    pub command: Vec<String>,
    /// Appended to the command.
    pub args: Vec<String>,
    /// In the manifest's order, which matters for `$(NAME)`.
    pub env: Vec<EnvVar>,
    /// `workingDir`.
    pub cwd: Option<String>,
    /// The ports it serves.
    pub ports: Vec<ContainerPort>,
    /// Until this passes the others wait.
    pub startup: Option<Probe>,
    /// Whether it takes traffic.
    pub readiness: Option<Probe>,
    /// Whether it is to be restarted.
    pub liveness: Option<Probe>,
    /// `securityContext.runAsUser`; honoured by root only.
    pub run_as_user: Option<u32>,
}

/// A variable and where its value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: EnvValue,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum EnvValue {
    /// As written, with `$(NAME)` expanded.
    Text(String),
    /// `valueFrom.fieldRef.fieldPath`, for example `status.podIP`.
    Field(String),
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerPort {
    /// Its name, when it has one.
    pub name: Option<String>,
    /// `containerPort`.
    pub number: u16,
    /// TCP unless the manifest says otherwise.
    pub protocol: PortProtocol,
}

/// The transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PortProtocol {
    /// Goes through the sidecar.
    Tcp,
    /// Goes past the sidecar.
    Udp,
}

/// A check of a container. The defaults are Kubernetes'.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probe {
    /// What is asked.
    pub check: Check,
    /// `initialDelaySeconds`.
    pub initial_delay: Duration,
    /// `periodSeconds`.
    pub period: Duration,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// `successThreshold`.
    pub successes: u32,
    /// `failureThreshold`.
    pub failures: u32,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Check {
    /// A status from 200 to 399 passes.
    Http {
        /// Number or name of a container port.
        port: PortRef,
        /// Path and query.
        path: String,
        /// `httpHeaders`, in order.
        headers: Vec<(String, String)>,
    },
    /// An accepted connection passes.
    Tcp {
        /// Number or name of a container port.
        port: PortRef,
    },
    /// Exit code 0 passes.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PortRef {
    /// `9080`
    Number(u16),
    /// `http`
    Name(String),
}

impl Probe {
    /// `check` with Kubernetes' defaults: every 10 s, 1 s each, out after 3.
    pub fn new(check: Check) -> Self {
        Self {
            check,
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            successes: 1,
            failures: 3,
        }
    }
}
