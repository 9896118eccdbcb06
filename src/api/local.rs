//! What `up` answers over its socket: pods on this machine, their processes, their logs.

use serde::{Deserialize, Serialize};

/// A request: one JSON line on the supervisor's socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "op")]
pub enum LocalRequest {
    /// Answered by one [`LocalStatus`].
    Ps,
    /// Answered by one [`LogLine`] a line.
    #[serde(rename_all = "camelCase")]
    Logs(LogsQuery),
    /// Answered by the end of the stream, once the supervisor has stopped everything.
    Down,
}

/// Which log lines to send.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogsQuery {
    /// A pod, a workload, a service or `control-plane`; every pod when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// One container, `proxy` being the sidecar; all but the sidecar when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Keep sending as lines come.
    #[serde(default)]
    pub follow: bool,
    /// At most this many of the last lines of each container; all that are kept when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<usize>,
}

/// Everything that one `up` runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalStatus {
    /// The random name of this run.
    pub instance: String,
    /// The process that looks after all others.
    pub supervisor_pid: u32,
    /// `process` or `netns`.
    pub isolation: String,
    /// When it started, in milliseconds since the epoch.
    pub started_unix_ms: u64,
    /// The control plane, when this run started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<ContainerStatus>,
    /// In the order of the manifests.
    pub pods: Vec<PodStatus>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Unique within the namespace.
    pub name: String,
    /// The Kubernetes namespace of the manifest.
    pub namespace: String,
    /// The Deployment, StatefulSet or Pod it comes from.
    pub workload: String,
    /// The `app` label, or the workload's name.
    pub service: String,
    /// The `version` label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where its ports are served.
    pub address: String,
    /// The ports that the mesh sees.
    pub ports: Vec<u16>,
    /// Every container runs and passes its readiness probe.
    pub ready: bool,
    /// The network namespace, with `netns` isolation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The sidecar (`proxy`) and the applications.
    pub containers: Vec<ContainerStatus>,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerState {
    /// Not started yet.
    Pending,
    /// Its process runs.
    Running,
    /// It ended and will be started again.
    BackOff,
    /// It was told to end, and has.
    Stopped,
}

/// One process of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// The container's name; `proxy` is the sidecar.
    pub name: String,
    /// What it is doing.
    pub state: ContainerState,
    /// Runs and passes its readiness probe.
    pub ready: bool,
    /// The process, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// When it was last started, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_unix_ms: Option<u64>,
    /// How it last ended or why it could not start, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// Whose it is.
    pub pod: String,
    /// Which of its containers.
    pub container: String,
    /// RFC 3339, UTC.
    pub time: String,
    /// `stdout`, `stderr` or `meshctl` (said by the supervisor).
    pub stream: String,
    /// Without the line end.
    pub line: String,
}

/// An answer that is not the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// In words.
    pub error: String,
    /// The containers that there are, where one was asked for that there is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<String>,
}
