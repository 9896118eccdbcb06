//! From nothing to ready: namespaces, control plane, manifests, pods.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Uid};

use super::lent::Mesh;
use super::options::Options;
use super::shared::{Phase, Shared, Slot};
use crate::local::address::Network;
use crate::local::entry::Enter;
use crate::local::expand::expand;
use crate::local::plan::{Isolation, Pod, SIDECAR};
use crate::local::probe::Probes;
use crate::local::process::{Extra, Spec, Supervised};
use crate::local::state::{self, Ledger};
use crate::local::{LocalError, netns};
use crate::net::capture::CaptureSpec;
use crate::rt::Tasks;

/// The user of sidecars in their own namespace: capture lets its calls pass.
const SIDECAR_USER: u32 = 1337;

/// Where a sidecar says whether it is ready, as Istio's does.
const READY_PORT: u16 = 15_021;
const READY_PATH: &str = "/healthz/ready";

/// How often the control plane is asked whether it is ready.
const ASK: Duration = Duration::from_millis(50);

/// How long a join token may take; without one the sidecar starts with what it has.
const TOKEN: Duration = Duration::from_secs(3);

/// How long sidecars and the control plane have to drain.
const GRACE: Duration = Duration::from_secs(5);

/// Puts the address that pods reach us by into `text`.
pub(super) fn listening(text: &str, address: Ipv4Addr) -> String {
    expand(text, |name| {
        (name == "LISTEN_IP").then(|| address.to_string())
    })
}

/// The bridge and a namespace for each pod.
pub(super) async fn namespaces(
    pods: &[Pod],
    network: Network,
    instance: &str,
    ledger: &Ledger,
) -> Result<(), LocalError> {
    if netns::prepare_dir()? {
        ledger.change(|state| state.names_dir = true)?;
    }
    let bridge = netns::bridge_name(instance);
    let pods = pods.to_vec();
    Tasks::blocking(move || {
        netns::create_bridge(&bridge, network)?;
        let capture = CaptureSpec {
            ipv6: true,
            ..CaptureSpec::default()
        };
        for pod in &pods {
            if let Some(name) = &pod.netns {
                let capture = pod.sidecar.is_some().then_some(&capture);
                netns::create(name, &bridge, network, pod.address, capture)?;
            }
        }
        Ok(())
    })
    .await
    .unwrap_or(Ok(()))
}

/// Brings everything up in the background; the phase says how it went.
pub(super) fn begin(
    shared: &Arc<Shared>,
    options: Options,
    mesh: Arc<dyn Mesh>,
    listen_ip: Ipv4Addr,
) {
    let of = Arc::clone(shared);
    shared.tasks().spawn("bring up", async move {
        let outcome = tokio::select! {
            outcome = everything(&of, &options, &mesh, listen_ip) => outcome,
            () = of.ended() => Err(LocalError::Mesh("ended while starting".to_owned())),
        };
        match outcome {
            Ok(()) => {
                of.phase.send_replace(Phase::Up);
                tell_readiness(&of, &mesh);
            }
            Err(error) => of.fail(error),
        }
    });
}

/// Resolves when bring-up is over, so that nothing is started behind the back of a stop.
pub(super) async fn wait_over(shared: &Shared) {
    let mut phase = shared.phase.subscribe();
    // The sender lives as long as `shared`.
    let _gone = phase
        .wait_for(|phase| *phase != Phase::Starting)
        .await
        .is_err();
}

async fn everything(
    shared: &Arc<Shared>,
    options: &Options,
    mesh: &Arc<dyn Mesh>,
    listen_ip: Ipv4Addr,
) -> Result<(), LocalError> {
    let already = tokio::time::timeout(Duration::from_secs(1), mesh.ready()).await;
    if already != Ok(true) {
        if let Some(args) = &options.control_plane.args {
            start_control_plane(shared, options, args, listen_ip);
        }
        wait_for_control_plane(shared, options, mesh).await?;
    }
    mesh.prepare().await.map_err(LocalError::Mesh)?;
    for slot in &shared.slots {
        let running = start_pod(shared, slot, options, mesh)?;
        // Set once: bring-up runs once.
        let _again = slot.running.set(running).is_err();
    }
    Ok(())
}

fn start_control_plane(shared: &Shared, options: &Options, args: &[String], listen_ip: Ipv4Addr) {
    let mut command = vec![text(&options.executable)];
    command.extend(args.iter().map(|arg| listening(arg, listen_ip)));
    let spec = Spec {
        name: "control-plane".to_owned(),
        id: "meshctl/control-plane".to_owned(),
        command,
        env: own_env(options),
        cwd: None,
        enter: Enter::default(),
        extra: None,
        probes: Probes::default(),
        grace: GRACE,
    };
    let control = shared.host.supervise(spec, Arc::clone(&shared.control_log));
    // Set once: bring-up runs once.
    let _again = shared.control.set(control).is_err();
}

async fn wait_for_control_plane(
    shared: &Shared,
    options: &Options,
    mesh: &Arc<dyn Mesh>,
) -> Result<(), LocalError> {
    let ready = async {
        while !mesh.ready().await {
            tokio::time::sleep(ASK).await;
        }
    };
    if tokio::time::timeout(options.patience, ready).await.is_ok() {
        return Ok(());
    }
    let last = shared.control_log.tail(Some(3)).map(|(lines, _)| lines);
    let last_words: Vec<String> = last
        .unwrap_or_default()
        .into_iter()
        .map(|line| line.text)
        .collect();
    Err(LocalError::ControlPlane {
        seconds: options.patience.as_secs(),
        last_words: last_words.join(" / "),
    })
}

fn start_pod(
    shared: &Arc<Shared>,
    slot: &Slot,
    options: &Options,
    mesh: &Arc<dyn Mesh>,
) -> Result<Vec<Supervised>, LocalError> {
    let pod = &slot.pod;
    let id = |container: &str| format!("{}.{}/{container}", pod.name, pod.namespace);
    let mut logs = slot.logs.iter().map(|(_, log)| Arc::clone(log));
    let mut running = Vec::new();
    let netns = pod.netns.as_deref().map(netns::path);
    if let (Some(args), Some(log)) = (&pod.sidecar, pod.sidecar.as_ref().and_then(|_| logs.next()))
    {
        let user = match shared.isolation {
            Isolation::Process => None,
            Isolation::Netns => Some(SIDECAR_USER),
        };
        pod_dir(&pod.dir, user)?;
        let mut command = vec![text(&options.executable)];
        command.extend(args.iter().cloned());
        let spec = Spec {
            name: SIDECAR.to_owned(),
            id: id(SIDECAR),
            command,
            env: own_env(options),
            cwd: None,
            enter: Enter {
                netns: netns.clone(),
                user,
                ..Enter::default()
            },
            extra: Some(join(mesh, pod)),
            probes: Probes::ready_when(
                SocketAddr::new(pod.address.into(), READY_PORT),
                READY_PATH,
                pod.netns.as_deref(),
            ),
            grace: GRACE,
        };
        running.push(shared.host.supervise(spec, log));
    }
    let resolv = match &netns {
        Some(_) => Some(resolv_conf(pod)?),
        None => None,
    };
    for (container, log) in pod.containers.iter().zip(logs) {
        let spec = Spec {
            name: container.name.clone(),
            id: id(&container.name),
            command: container.command.clone(),
            env: container.env.clone(),
            cwd: container.cwd.clone(),
            enter: Enter {
                netns: netns.clone(),
                resolv: resolv.clone(),
                user: container.user.filter(|_| nix::unistd::geteuid().is_root()),
                ..Enter::default()
            },
            extra: None,
            probes: Probes::of(pod, container),
            grace: pod.grace,
        };
        running.push(shared.host.supervise(spec, log));
    }
    Ok(running)
}

/// A fresh token for every start: they are good for one use.
fn join(mesh: &Arc<dyn Mesh>, pod: &Arc<Pod>) -> Extra {
    let (mesh, pod) = (Arc::clone(mesh), Arc::clone(pod));
    Arc::new(move || {
        let (mesh, pod) = (Arc::clone(&mesh), Arc::clone(&pod));
        Box::pin(async move {
            match tokio::time::timeout(TOKEN, mesh.join_token(&pod)).await {
                Ok(Ok(Some(token))) => vec![("MESHCTL_JOIN_TOKEN".to_owned(), token)],
                Ok(Ok(None)) => Vec::new(),
                Ok(Err(reason)) => {
                    tracing::warn!(pod = pod.name, %reason, "no join token; the sidecar starts with what it has");
                    Vec::new()
                }
                Err(_) => {
                    tracing::warn!(
                        pod = pod.name,
                        "no join token in time; the sidecar starts with what it has"
                    );
                    Vec::new()
                }
            }
        })
    })
}

fn tell_readiness(shared: &Arc<Shared>, mesh: &Arc<dyn Mesh>) {
    for slot in &shared.slots {
        let mut statuses: Vec<_> = slot
            .running
            .get()
            .into_iter()
            .flatten()
            .map(|process| process.status.clone())
            .collect();
        let (mesh, pod) = (Arc::clone(mesh), Arc::clone(&slot.pod));
        shared.tasks().spawn("pod readiness", async move {
            let mut told = None;
            loop {
                let ready = statuses
                    .iter_mut()
                    .all(|status| status.borrow_and_update().ready);
                if told != Some(ready) {
                    told = Some(ready);
                    mesh.pod_ready(&pod, ready).await;
                }
                let changes = statuses.iter_mut().map(|status| Box::pin(status.changed()));
                let (changed, _, _) = futures_util::future::select_all(changes).await;
                if changed.is_err() {
                    return;
                }
            }
        });
    }
}

/// The sidecar's directory, its own where it has a user of its own.
fn pod_dir(path: &Path, user: Option<u32>) -> Result<(), LocalError> {
    let Some(user) = user else {
        return state::private_dir(path);
    };
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(parent)
            .map_err(LocalError::file(parent))?;
    }
    state::private_dir(path)?;
    nix::unistd::chown(path, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))
        .map_err(|error| LocalError::file(path)(error.into()))
}

/// Names as in a cluster; whoever the server is, capture sends the questions to the sidecar.
fn resolv_conf(pod: &Pod) -> Result<PathBuf, LocalError> {
    let path = pod.dir.with_extension("resolv.conf");
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(parent)
            .map_err(LocalError::file(parent))?;
    }
    let words = format!(
        "nameserver 127.0.0.1\nsearch {}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
        pod.namespace
    );
    std::fs::write(&path, words).map_err(LocalError::file(&path))?;
    // Applications may run as any user.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
        .map_err(LocalError::file(&path))?;
    Ok(path)
}

fn own_env(options: &Options) -> Vec<(String, String)> {
    let mut env = options.base_env.clone();
    env.extend(options.own_env.iter().cloned());
    env
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
