//! Pods without Kubernetes: up, restarts, logs, down, and nothing left behind.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meshctl::api::local::{ContainerState, LocalStatus, LogsQuery};
use meshctl::local::LocalError;
use meshctl::local::client::{self, Down};
use meshctl::local::plan::Isolation;
use meshctl::local::spec::{
    Check, ContainerPort, ContainerSpec, PodSpec, PortProtocol, PortRef, Probe, Workload,
    WorkloadKind,
};
use meshctl::local::supervisor::{
    ControlPlane, Daemon, NoMesh, Options, Supervisor, daemonise, ended_by_signal,
};
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
             if [ \"$1\" = proxy ]; then while [ $# -gt 0 ]; do [ \"$1\" = --address ] && A=\"$2\"; shift; done; \
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

#[tokio::test]
async fn pods_come_up_answer_and_go_without_a_trace() {
    let place = Place::new();
    let mut two = echo("two", false);
    two.replicas = 2;
    let up = place.up(vec![two, echo("meshed", true)]).await;
    up.wait_ready(LONG).await.unwrap();
    let status = client::ps(&place.home()).await.unwrap();
    assert_eq!(status, up.status());
    assert_eq!(status.pods.len(), 3);
    assert!(status.pods.iter().all(|pod| pod.ready));
    let meshed = &status.pods[2];
    let names: Vec<&str> = meshed.containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["proxy", "app"]);
    for pod in &status.pods[..2] {
        let answer = get(&format!("{}:9080", pod.address), "/x").await;
        assert!(
            answer.contains(&format!("\"podname\":\"{}\"", pod.name)),
            "{answer}"
        );
    }
    // Behind a sidecar the application has its private port.
    let answer = get(&format!("{}:29080", meshed.address), "/x").await;
    assert!(answer.contains(&meshed.name), "{answer}");

    let again = Supervisor::start(
        place.options(Isolation::Process, vec![echo("other", false)]),
        Arc::new(NoMesh),
    )
    .await;
    assert!(matches!(again, Err(LocalError::AlreadyUp(_))), "{again:?}");

    let home = place.home();
    let (ran, down) = tokio::join!(
        up.run(std::future::pending()),
        client::down(&home, Duration::from_secs(20))
    );
    ran.unwrap();
    assert_eq!(down.unwrap(), Down::Stopped);
    place.assert_clean(&status.instance);
    assert_eq!(client::down(&home, LONG).await.unwrap(), Down::NothingUp);
    assert!(matches!(client::ps(&home).await, Err(LocalError::NotUp(_))));
}

#[tokio::test]
async fn a_killed_container_is_started_again() {
    let place = Place::new();
    let up = place.up(vec![echo("victim", false)]).await;
    up.wait_ready(LONG).await.unwrap();
    let before = up.status().pods[0].containers[0].clone();
    kill(pid(before.pid.unwrap()), Signal::SIGKILL).unwrap();
    let after = poll("restart", async || {
        let now = up.status().pods[0].containers[0].clone();
        (now.restarts == 1 && now.ready).then_some(now)
    })
    .await;
    assert_ne!(after.pid, before.pid);
    assert_eq!(after.last_exit.as_deref(), Some("ended by SIGKILL"));
    let instance = up.status().instance;
    up.stop().await.unwrap();
    place.assert_clean(&instance);
}

#[tokio::test]
async fn what_a_container_leaves_running_is_ended_with_it() {
    let place = Place::new();
    // The grandchild leaves group and session, as daemons do.
    let script = "setsid sleep 1000 & echo started; sleep 0.2; exit 4";
    let up = place
        .up(vec![workload("forker", &["sh", "-c", script], false)])
        .await;
    poll("first exit", async || {
        up.status().pods[0].containers[0].last_exit.clone()
    })
    .await;
    let status = up.status().pods[0].containers[0].clone();
    assert_eq!(status.last_exit.as_deref(), Some("ended with exit code 4"));
    let instance = up.status().instance;
    let sleepers = || {
        let all = marked(&instance);
        all.iter()
            .filter(|(_, command)| command == "sleep\x001000\x00")
            .count()
    };
    poll("second start", async || {
        (up.status().pods[0].containers[0].restarts > 0).then_some(())
    })
    .await;
    assert!(sleepers() <= 1, "each start leaves one behind");
    up.stop().await.unwrap();
    place.assert_clean(&instance);
}

#[tokio::test]
async fn a_container_that_crashes_waits_longer_each_time_and_says_why() {
    let place = Place::new();
    let script = "echo out; echo err >&2; exit 3";
    let crash = workload("crash", &["sh", "-c", script], false);
    let missing = workload("missing", &["/no/such/program"], false);
    let up = place.up(vec![crash, missing]).await;
    poll("three restarts", async || {
        (up.status().pods[0].containers[0].restarts >= 3).then_some(())
    })
    .await;
    let mut lines = Vec::new();
    let query = LogsQuery {
        name: Some("crash".to_owned()),
        ..LogsQuery::default()
    };
    client::logs(&place.home(), query, |line| {
        lines.push(line);
        true
    })
    .await
    .unwrap();
    let said = |stream: &str| lines.iter().filter(|line| line.stream == stream).count();
    assert!(said("stdout") >= 3 && said("stderr") >= 3, "{lines:?}");
    let waits: Vec<f64> = lines
        .iter()
        .filter_map(|line| {
            line.line
                .strip_prefix("ended with exit code 3; starting again in ")
        })
        .map(|rest| rest.trim_end_matches(" s").parse().unwrap())
        .collect();
    // Half to whole of 0.5, 1 and 2 s.
    for (wait, most) in waits.iter().zip([0.5, 1.0, 2.0]) {
        assert!(
            (most / 2.0 - 0.06..=most + 0.06).contains(wait),
            "{waits:?}"
        );
    }
    let missing = poll("the missing program", async || {
        let status = up.status().pods[1].containers[0].clone();
        status.last_exit
    })
    .await;
    assert_eq!(missing, "ended with exit code 127");
    let query = LogsQuery {
        name: Some("missing".to_owned()),
        tail: Some(2),
        ..LogsQuery::default()
    };
    let mut words = Vec::new();
    client::logs(&place.home(), query, |line| {
        words.push(line.line);
        true
    })
    .await
    .unwrap();
    assert!(
        words[0].contains("cannot run /no/such/program"),
        "{words:?}"
    );
    let query = LogsQuery {
        name: Some("nobody".to_owned()),
        ..LogsQuery::default()
    };
    let nobody = client::logs(&place.home(), query, |_| true).await;
    assert!(matches!(nobody, Err(LocalError::NoSuchPod(name)) if name == "nobody"));
    up.stop().await.unwrap();
}

#[tokio::test]
async fn logs_are_followed_as_they_come() {
    let place = Place::new();
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done";
    let up = place
        .up(vec![workload("talker", &["sh", "-c", script], false)])
        .await;
    up.wait_ready(LONG).await.unwrap();
    let query = LogsQuery {
        follow: true,
        ..LogsQuery::default()
    };
    let mut seen = Vec::new();
    client::logs(&place.home(), query, |line| {
        seen.push(line.line);
        seen.len() < 20
    })
    .await
    .unwrap();
    let expected: Vec<String> = (1..=20).map(|i| format!("line {i}")).collect();
    assert_eq!(seen, expected);
    up.stop().await.unwrap();
}

#[tokio::test]
async fn a_container_that_ignores_sigterm_is_killed_after_its_grace() {
    let place = Place::new();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let up = place
        .up(vec![workload("stubborn", &["sh", "-c", script], false)])
        .await;
    poll("the trap", async || {
        let log = place.home().join("local/logs");
        let pod = fs::read_dir(log)
            .unwrap()
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with("stubborn"))?;
        let text = fs::read_to_string(pod.path().join("app.log")).ok()?;
        text.contains("ready").then_some(())
    })
    .await;
    let instance = up.status().instance;
    let begun = tokio::time::Instant::now();
    up.stop().await.unwrap();
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(6),
        "{took:?}"
    );
    place.assert_clean(&instance);
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_the_container() {
    let place = Place::new();
    let mut sick = echo("sick", false);
    sick.pod.containers[0].liveness = Some(Probe {
        period: Duration::from_millis(100),
        failures: 2,
        ..Probe::new(Check::Http {
            port: PortRef::Number(9080),
            path: "/status/503".to_owned(),
            headers: Vec::new(),
        })
    });
    // The echo server answers /status/N for every program.
    let up = place.up(vec![sick]).await;
    let exit = poll("restart", async || {
        up.status().pods[0].containers[0].last_exit.clone()
    })
    .await;
    assert_eq!(exit, "liveness probe failed: status 503");
    up.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_planned_leaves_nothing() {
    let place = Place::new();
    let mut nothing = workload("nothing", &[], false);
    nothing.pod.containers[0].image = "nginx:1".to_owned();
    let options = place.options(Isolation::Process, vec![nothing]);
    let error = Supervisor::start(options, Arc::new(NoMesh))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("has no command"), "{error}");
    assert!(error.hint().unwrap().contains("command:"));
    place.assert_clean("none");
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

#[tokio::test]
async fn a_killed_supervisor_takes_everything_with_it() {
    let place = Place::new();
    let mut up = spawn_up(&place, "process");
    let status = all_ready(&place).await;
    assert_eq!(status.supervisor_pid, up.id());
    up.kill().unwrap();
    up.wait().unwrap();
    poll("clean-up by the guard", async || {
        let files = fs::read_dir(place.home()).unwrap().count();
        (marked(&status.instance).is_empty() && files == 0).then_some(())
    })
    .await;
    place.assert_clean(&status.instance);
}

#[tokio::test]
async fn down_cleans_up_when_supervisor_and_guard_were_killed() {
    let place = Place::new();
    let mut up = spawn_up(&place, "process");
    let status = all_ready(&place).await;
    kill(pid(guard_of(&place)), Signal::SIGKILL).unwrap();
    up.kill().unwrap();
    up.wait().unwrap();
    // Direct children die with the supervisor; what they started is for `down`.
    poll("death of direct children", async || {
        let left = marked(&status.instance);
        left.iter()
            .all(|(_, command)| command.starts_with("sleep"))
            .then_some(())
    })
    .await;
    let down = client::down(&place.home(), LONG).await.unwrap();
    assert_eq!(down, Down::CleanedUp);
    place.assert_clean(&status.instance);
}

#[tokio::test]
async fn ctrl_c_and_sigterm_end_everything() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let place = Place::new();
        let mut up = spawn_up(&place, "process");
        let status = all_ready(&place).await;
        kill(pid(up.id()), signal).unwrap();
        assert!(up.wait().unwrap().success());
        place.assert_clean(&status.instance);
    }
}

#[tokio::test]
async fn a_daemon_answers_and_a_failed_one_repeats_its_last_words() {
    let place = Place::new();
    let daemon = |isolation: &str| Daemon {
        home: place.home(),
        executable: place.script(),
        args: vec!["up".into(), place.home().into(), isolation.into()],
    };
    let supervisor = daemonise(&daemon("process")).await.unwrap();
    let status = all_ready(&place).await;
    assert_eq!(status.supervisor_pid, supervisor);
    let again = daemonise(&daemon("process")).await;
    assert!(matches!(again, Err(LocalError::AlreadyUp(_))), "{again:?}");
    assert_eq!(
        client::down(&place.home(), LONG).await.unwrap(),
        Down::Stopped
    );
    place.assert_clean(&status.instance);

    let broken = Daemon {
        args: vec!["no-such-subcommand-of-pod-exec".into()],
        executable: place.script(),
        home: place.home(),
    };
    let error = daemonise(&broken).await.unwrap_err();
    assert!(matches!(error, LocalError::Daemon(_)), "{error}");
}

#[expect(clippy::print_stderr, reason = "who runs the tests should see it")]
fn skip() {
    eprintln!("SKIPPED: network namespaces need root");
}

/// Namespaces, bridges, directories and mounts that only `netns` makes.
fn machine() -> String {
    let ask = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts: Vec<&str> = mounts
        .lines()
        .filter(|line| line.contains("netns") || line.contains("resolv"))
        .collect();
    let run: Vec<_> = fs::read_dir("/run")
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains("meshctl"))
        .collect();
    format!(
        "{}\n{}\n{mounts:?}\n{run:?}\n{}\n{}",
        ask("ip", &["netns"]),
        ask("ip", &["-br", "-4", "addr"]),
        ask("nft", &["list", "ruleset"]),
        Path::new("/run/netns").exists(),
    )
}

/// One after the other: the tests compare the state of the machine.
#[tokio::test]
async fn namespaces_isolate_pods_and_vanish() {
    if !nix::unistd::geteuid().is_root() {
        skip();
        return;
    }
    let before = machine();
    let place = Place::new();
    let mut asker = workload(
        "asker",
        &[
            "sh",
            "-c",
            "cat /etc/resolv.conf; ip -4 -br addr; ip route; sleep 1000",
        ],
        true,
    );
    asker.pod.containers[0].readiness = None;
    let options = place.options(Isolation::Netns, vec![echo("plain", false), asker]);
    let up = Supervisor::start(options, Arc::new(NoMesh)).await.unwrap();
    up.wait_ready(LONG).await.unwrap();
    let status = up.status();
    let (plain, asker) = (&status.pods[0], &status.pods[1]);
    assert!(plain.address.starts_with("10.77."));
    let answer = get(&format!("{}:9080", plain.address), "/x").await;
    assert!(answer.contains(&plain.name), "{answer}");
    let proxy = asker.containers[0].pid.unwrap();
    let uids = fs::read_to_string(format!("/proc/{proxy}/status")).unwrap();
    assert!(uids.contains("Uid:\t1337\t1337\t1337\t1337"), "{uids}");
    let mut words = String::new();
    let query = LogsQuery {
        name: Some("asker".to_owned()),
        ..LogsQuery::default()
    };
    client::logs(&place.home(), query, |line| {
        words.push_str(&line.line);
        words.push('\n');
        true
    })
    .await
    .unwrap();
    for expected in [
        "search default.svc.cluster.local",
        &asker.address,
        "default via 10.77.",
    ] {
        assert!(words.contains(expected), "{expected}: {words}");
    }
    let rules = Command::new("ip")
        .args([
            "netns",
            "exec",
            asker.netns.as_ref().unwrap(),
            "nft",
            "list",
            "ruleset",
        ])
        .output()
        .unwrap();
    let rules = String::from_utf8(rules.stdout).unwrap();
    assert!(rules.contains("redirect to :15006"), "{rules}");
    up.stop().await.unwrap();
    place.assert_clean(&status.instance);
    assert_eq!(machine(), before);

    // Killed, with and without the guard.
    for guarded in [true, false] {
        let place = Place::new();
        let mut up = spawn_up(&place, "netns");
        let status = all_ready(&place).await;
        if !guarded {
            kill(pid(guard_of(&place)), Signal::SIGKILL).unwrap();
        }
        up.kill().unwrap();
        up.wait().unwrap();
        if !guarded {
            assert_ne!(machine(), before);
        }
        assert_eq!(
            client::down(&place.home(), LONG).await.unwrap(),
            Down::CleanedUp
        );
        place.assert_clean(&status.instance);
        assert_eq!(machine(), before, "guarded: {guarded}");
    }
}

#[tokio::test]
async fn pending_pods_are_shown_before_the_control_plane_is_there() {
    #[derive(Debug)]
    struct Never;
    impl meshctl::local::supervisor::Mesh for Never {
        fn ready(&self) -> futures_util::future::BoxFuture<'_, bool> {
            Box::pin(async { false })
        }
        fn join_token<'a>(
            &'a self,
            _: &'a meshctl::local::plan::Pod,
        ) -> futures_util::future::BoxFuture<'a, Result<Option<String>, String>> {
            Box::pin(async { Err("no".to_owned()) })
        }
    }
    let place = Place::new();
    let mut options = place.options(Isolation::Process, vec![echo("waits", false)]);
    options.patience = Duration::from_millis(800);
    options.control_plane.args = Some(vec!["control-plane".to_owned()]);
    let up = Supervisor::start(options, Arc::new(Never)).await.unwrap();
    let status = client::ps(&place.home()).await.unwrap();
    assert_eq!(status.pods[0].containers[0].state, ContainerState::Pending);
    let error = up.wait_ready(LONG).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the control plane is not ready after"),
        "{error}"
    );
    let instance = status.instance;
    up.stop().await.unwrap();
    place.assert_clean(&instance);
}
