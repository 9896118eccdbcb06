//! Pods without Kubernetes: up, restarts, logs, down, and nothing left behind.

mod ending;
mod running;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meshctl::api::local::{LocalStatus, LogsQuery};
use meshctl::local::LocalError;
use meshctl::local::client::{self, Down};
use meshctl::local::plan::Isolation;
use meshctl::local::spec::{
    Check, ContainerPort, ContainerSpec, PodSpec, PortProtocol, PortRef, Probe, Workload,
    WorkloadKind,
};
use meshctl::local::supervisor::{ControlPlane, NoMesh, Options, Supervisor, ended_by_signal};
use meshctl::net::{ConnectOptions, connect};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const LONG: Duration = Duration::from_secs(30);

/// A home, and an executable in which a sidecar is an echo server on the readiness port, since
/// these tests are about processes. `up` in it is [`supervisor_process`].
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The sidecar's own user has to reach the script.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = Self { dir };
        let script = format!(
            "#!/bin/sh\n\
             if [ \"$1\" = up ]; then shift; export UP_HOME=\"$1\" UP_ISOLATION=\"$2\" UP_SCRIPT=\"$0\"; \
             exec {} --exact --ignored --nocapture local::supervisor_process; fi\n\
             if [ \"$1\" = proxy ]; then echo \"$@ joins with $MESHCTL_JOIN_TOKEN\" >> \"$0.calls\" 2>/dev/null; while [ $# -gt 0 ]; do [ \"$1\" = --address ] && A=\"$2\"; shift; done; \
             HOST=$A PORT=15021 exec {bin} sample-app --name echo; fi\n\
             exec {bin} \"$@\"\n",
            std::env::current_exe().unwrap().display(),
            bin = env!("CARGO_BIN_EXE_meshctl"),
        );
        fs::write(place.script(), script).unwrap();
        fs::set_permissions(place.script(), fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn script(&self) -> PathBuf {
        self.dir.path().join("meshctl")
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn options(&self, isolation: Isolation, workloads: Vec<Workload>) -> Options {
        options(&self.home(), &self.script(), isolation, workloads)
    }

    async fn up(&self, workloads: Vec<Workload>) -> Supervisor {
        Supervisor::start(
            self.options(Isolation::Process, workloads),
            Arc::new(NoMesh),
        )
        .await
        .unwrap()
    }

    fn assert_clean(&self, instance: &str) {
        let left = marked(instance);
        assert!(left.is_empty(), "processes left: {left:?}");
        let files: Vec<_> = fs::read_dir(self.home())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(files.is_empty(), "files left: {files:?}");
    }
}

fn options(home: &Path, script: &Path, isolation: Isolation, workloads: Vec<Workload>) -> Options {
    Options {
        home: home.to_owned(),
        executable: script.to_owned(),
        isolation,
        workloads,
        base_env: vec![(
            "PATH".to_owned(),
            "/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        )],
        own_env: Vec::new(),
        sidecar_args: Vec::new(),
        control_plane: ControlPlane {
            args: None,
            address: "$(LISTEN_IP):15012".to_owned(),
        },
        patience: Duration::from_secs(10),
    }
}

fn workload(name: &str, command: &[&str], inject: bool) -> Workload {
    Workload {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        kind: WorkloadKind::Deployment,
        replicas: 1,
        pod: PodSpec {
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            containers: vec![ContainerSpec {
                name: "app".to_owned(),
                command: command.iter().map(|word| (*word).to_owned()).collect(),
                ..ContainerSpec::default()
            }],
            inject,
            grace: Some(Duration::from_secs(2)),
            ..PodSpec::default()
        },
        origin: "test.yaml:1".to_owned(),
    }
}

fn echo(name: &str, inject: bool) -> Workload {
    let mut echo = workload(name, &["meshctl", "sample-app", "--name", "echo"], inject);
    let container = &mut echo.pod.containers[0];
    container.ports = vec![ContainerPort {
        name: Some("http".to_owned()),
        number: 9080,
        protocol: PortProtocol::Tcp,
    }];
    container.readiness = Some(Probe::new(Check::Http {
        port: PortRef::Name("http".to_owned()),
        path: "/health".to_owned(),
        headers: Vec::new(),
    }));
    echo
}

/// Processes of a run, by the mark in their environment.
fn marked(instance: &str) -> Vec<(String, String)> {
    let wanted = format!("MESHCTL_INSTANCE={instance}");
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let environ = fs::read(entry.path().join("environ")).ok()?;
            let found = environ
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted.as_bytes());
            let command = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            found.then(|| (entry.file_name().to_string_lossy().into_owned(), command))
        })
        .collect()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap())
}

async fn poll<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what} did not happen"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn get(to: &str, path: &str) -> String {
    let mut stream = connect(to.parse().unwrap(), ConnectOptions::default())
        .await
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The supervisor as a process of its own; started by tests through the script, never directly.
#[tokio::test]
#[ignore = "a helper process of other tests"]
async fn supervisor_process() {
    let variable = |name: &str| std::env::var_os(name);
    let Some(home) = variable("UP_HOME") else {
        return;
    };
    let script = PathBuf::from(variable("UP_SCRIPT").unwrap());
    let isolation = match variable("UP_ISOLATION") {
        Some(name) if name == "netns" => Isolation::Netns,
        _ => Isolation::Process,
    };
    let forker = workload(
        "forker",
        &["sh", "-c", "setsid sleep 1000 & sleep 1000"],
        false,
    );
    let options = options(
        Path::new(&home),
        &script,
        isolation,
        vec![echo("meshed", true), forker],
    );
    let up = Supervisor::start(options, Arc::new(NoMesh)).await.unwrap();
    up.run(ended_by_signal()).await.unwrap();
}

fn spawn_up(place: &Place, isolation: &str) -> Child {
    Command::new(place.script())
        .args(["up".as_ref(), place.home().as_os_str(), isolation.as_ref()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

async fn all_ready(place: &Place) -> LocalStatus {
    poll("all pods ready", async || {
        let status = client::ps(&place.home()).await.ok()?;
        let both = status.pods.iter().all(|pod| pod.ready);
        // The grandchild too.
        let sleepers = marked(&status.instance)
            .iter()
            .filter(|(_, command)| command.starts_with("sleep"))
            .count();
        (both && sleepers == 2).then_some(status)
    })
    .await
}

fn guard_of(place: &Place) -> u32 {
    let state = fs::read(place.home().join("local/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    u32::try_from(state["guard"]["pid"].as_u64().unwrap()).unwrap()
}
