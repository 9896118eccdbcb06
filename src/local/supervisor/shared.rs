//! What the supervisor, its socket and its background work all see.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::local::{ContainerState, ContainerStatus, LocalStatus, LogsQuery, PodStatus};
use crate::local::LocalError;
use crate::local::logs::{Log, Source};
use crate::local::plan::{Isolation, Pod, SIDECAR};
use crate::local::process::{Host, Supervised};
use crate::local::state;
use crate::rt::{Tasks, Wall};

/// How far bring-up is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Up,
    Failed,
}

/// Everything of one run.
#[derive(Debug)]
pub(in crate::local) struct Shared {
    pub(super) instance: String,
    pub(super) isolation: Isolation,
    pub(super) host: Host,
    pub(super) slots: Vec<Slot>,
    pub(super) control: OnceLock<Supervised>,
    pub(super) control_log: Arc<Log>,
    pub(super) phase: watch::Sender<Phase>,
    failure: Mutex<Option<LocalError>>,
    end: CancellationToken,
    started_unix_ms: u64,
}

/// A pod and, once they are started, its processes.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) pod: Arc<Pod>,
    /// The sidecar's first, where there is one; then the containers' in their order.
    pub(super) logs: Vec<(String, Arc<Log>)>,
    pub(super) running: OnceLock<Vec<Supervised>>,
}

impl Slot {
    pub(super) fn new(pod: Pod, dir: &Path) -> Result<Self, LocalError> {
        let directory = format!("{}.{}", pod.name, pod.namespace);
        let sidecar = pod.sidecar.is_some().then_some(SIDECAR);
        let logs = sidecar
            .into_iter()
            .chain(
                pod.containers
                    .iter()
                    .map(|container| container.name.as_str()),
            )
            .map(|name| Ok((name.to_owned(), open_log(dir, &directory, name)?)))
            .collect::<Result<_, LocalError>>()?;
        Ok(Self {
            pod: Arc::new(pod),
            logs,
            running: OnceLock::new(),
        })
    }

    fn containers(&self) -> Vec<ContainerStatus> {
        match self.running.get() {
            Some(running) => running
                .iter()
                .map(|process| process.status.borrow().clone())
                .collect(),
            None => self.logs.iter().map(|(name, _)| pending(name)).collect(),
        }
    }

    fn status(&self) -> PodStatus {
        let pod = &self.pod;
        let containers = self.containers();
        PodStatus {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            workload: pod.workload.clone(),
            service: pod.service.clone(),
            version: pod.version.clone(),
            address: pod.address.to_string(),
            ports: pod.ports(),
            ready: containers.iter().all(|container| container.ready),
            netns: pod.netns.clone(),
            containers,
        }
    }

    /// Resolves once every container is ready; never when the pod is not started.
    pub(super) async fn ready(&self) {
        let Some(running) = self.running.get() else {
            return std::future::pending().await;
        };
        for process in running {
            let mut status = process.status.clone();
            if status.wait_for(|status| status.ready).await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn is_called(&self, name: &str) -> bool {
        let pod = &self.pod;
        [&pod.name, &pod.workload, &pod.service]
            .into_iter()
            .any(|own| own == name || format!("{own}.{}", pod.namespace) == name)
    }
}

fn pending(name: &str) -> ContainerStatus {
    ContainerStatus {
        name: name.to_owned(),
        state: ContainerState::Pending,
        ready: false,
        pid: None,
        restarts: 0,
        started_unix_ms: None,
        last_exit: None,
    }
}

impl Shared {
    pub(super) fn new(
        instance: String,
        isolation: Isolation,
        host: Host,
        slots: Vec<Slot>,
        control_log: Arc<Log>,
    ) -> Self {
        Self {
            instance,
            isolation,
            started_unix_ms: host.wall.millis(),
            host,
            slots,
            control: OnceLock::new(),
            control_log,
            phase: watch::Sender::new(Phase::Starting),
            failure: Mutex::new(None),
            end: CancellationToken::new(),
        }
    }

    pub(in crate::local) fn tasks(&self) -> &Tasks {
        &self.host.tasks
    }

    /// Asks for the end of the run.
    pub(in crate::local) fn end(&self) {
        self.end.cancel();
    }

    /// Resolves once the end was asked for.
    pub(super) async fn ended(&self) {
        self.end.cancelled().await;
    }

    pub(super) fn fail(&self, error: LocalError) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.phase.send_replace(Phase::Failed);
    }

    pub(super) fn take_failure(&self) -> Option<LocalError> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(in crate::local) fn status(&self) -> LocalStatus {
        LocalStatus {
            instance: self.instance.clone(),
            supervisor_pid: std::process::id(),
            isolation: self.isolation.as_str().to_owned(),
            started_unix_ms: self.started_unix_ms,
            control_plane: self
                .control
                .get()
                .map(|control| control.status.borrow().clone()),
            pods: self.slots.iter().map(Slot::status).collect(),
        }
    }

    /// The pods that are not ready, each with what is known of the reason.
    pub(super) fn not_ready(&self) -> Vec<String> {
        let pods = self.slots.iter().map(Slot::status);
        pods.filter(|pod| !pod.ready)
            .map(|pod| {
                let why = pod.containers.iter().find(|container| !container.ready);
                match why.map(|container| (&container.name, &container.last_exit)) {
                    Some((name, Some(exit))) => format!("{} ({name} {exit})", pod.name),
                    Some((name, None)) => format!("{} ({name})", pod.name),
                    None => pod.name,
                }
            })
            .collect()
    }

    /// The logs that `query` is about; none when nothing is called so.
    pub(in crate::local) fn logs(&self, query: &LogsQuery) -> Vec<Source> {
        if query.name.as_deref() == Some("control-plane") {
            return vec![Source {
                pod: "control-plane".to_owned(),
                container: "control-plane".to_owned(),
                log: Arc::clone(&self.control_log),
            }];
        }
        let named = |slot: &&Slot| query.name.as_ref().is_none_or(|name| slot.is_called(name));
        let wanted = |container: &str| match &query.container {
            Some(wanted) => wanted == container,
            None => container != SIDECAR,
        };
        self.slots
            .iter()
            .filter(named)
            .flat_map(|slot| slot.logs.iter().map(move |log| (slot, log)))
            .filter(|(_, (container, _))| wanted(container))
            .map(|(slot, (container, log))| Source {
                pod: slot.pod.name.clone(),
                container: container.clone(),
                log: Arc::clone(log),
            })
            .collect()
    }

    /// Names of the containers of what `query` names, each once.
    pub(in crate::local) fn containers_of(&self, query: &LogsQuery) -> Vec<String> {
        let named = |slot: &&Slot| query.name.as_ref().is_none_or(|name| slot.is_called(name));
        let slots = self.slots.iter().filter(named);
        let mut names: Vec<String> = slots
            .flat_map(|slot| slot.logs.iter().map(|(container, _)| container.clone()))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Applications first, so that their last calls still find a sidecar; the control plane last.
    pub(super) async fn stop_processes(&self) {
        let all = || {
            self.slots
                .iter()
                .filter_map(|slot| slot.running.get())
                .flatten()
        };
        for sidecars in [false, true] {
            let wave: Vec<&Supervised> = all()
                .filter(|process| (process.status.borrow().name == SIDECAR) == sidecars)
                .collect();
            end(&wave).await;
        }
        if let Some(control) = self.control.get() {
            end(&[control]).await;
        }
    }
}

async fn end(processes: &[&Supervised]) {
    for process in processes {
        process.stop();
    }
    for process in processes {
        process.stopped().await;
    }
}

/// The log of one container below the run's directory.
pub(super) fn open_log(dir: &Path, pod: &str, container: &str) -> Result<Arc<Log>, LocalError> {
    let dir = dir.join("logs").join(pod);
    state::private_dir(&dir)?;
    let path = dir.join(format!("{container}.log"));
    Log::open(path.clone(), Wall::System)
        .map(Arc::new)
        .map_err(LocalError::file(path))
}
