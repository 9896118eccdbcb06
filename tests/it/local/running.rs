//! What runs: pods, restarts, probes, logs.

use futures_util::future::BoxFuture;
use meshctl::api::local::ContainerState;
use meshctl::local::plan::Pod;
use meshctl::local::supervisor::Mesh;

use super::*;

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

/// Hands out numbered tokens and notes what it is told.
#[derive(Debug, Default)]
struct Tokens {
    given: std::sync::atomic::AtomicU32,
    told: std::sync::Mutex<Vec<(String, bool)>>,
}

impl Mesh for Tokens {
    fn ready(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { true })
    }

    fn join_token<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Result<Option<String>, String>> {
        let number = self
            .given
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::pin(async move { Ok(Some(format!("{}-token-{number}", pod.service))) })
    }

    fn pod_ready<'a>(&'a self, pod: &'a Pod, ready: bool) -> BoxFuture<'a, ()> {
        self.told.lock().unwrap().push((pod.service.clone(), ready));
        Box::pin(async {})
    }
}

#[tokio::test]
async fn every_start_of_a_sidecar_has_a_token_of_its_own() {
    let place = Place::new();
    let tokens = Arc::new(Tokens::default());
    let options = place.options(Isolation::Process, vec![echo("joins", true)]);
    let mesh: Arc<dyn Mesh> = Arc::<Tokens>::clone(&tokens);
    let up = Supervisor::start(options, mesh).await.unwrap();
    up.wait_ready(LONG).await.unwrap();
    let sidecar = up.status().pods[0].containers[0].clone();
    assert_eq!(sidecar.name, "proxy");
    kill(pid(sidecar.pid.unwrap()), Signal::SIGTERM).unwrap();
    poll("readiness gone and back", async || {
        let told = tokens.told.lock().unwrap().clone();
        let told: Vec<bool> = told.into_iter().map(|(_, ready)| ready).collect();
        told.ends_with(&[true, false, true]).then_some(())
    })
    .await;
    let calls = fs::read_to_string(place.script().with_extension("calls")).unwrap();
    let starts: Vec<&str> = calls.lines().collect();
    assert_eq!(starts.len(), 2, "{calls}");
    assert!(starts[0].ends_with("joins with joins-token-0"), "{calls}");
    assert!(starts[1].ends_with("joins with joins-token-1"), "{calls}");
    assert!(
        starts[0].starts_with("proxy --service joins --namespace default"),
        "{calls}"
    );
    up.stop().await.unwrap();
}

#[tokio::test]
async fn pending_pods_are_shown_before_the_control_plane_is_there() {
    #[derive(Debug)]
    struct Never;
    impl Mesh for Never {
        fn ready(&self) -> BoxFuture<'_, bool> {
            Box::pin(async { false })
        }
        fn join_token<'a>(&'a self, _: &'a Pod) -> BoxFuture<'a, Result<Option<String>, String>> {
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
