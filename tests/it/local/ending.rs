//! How it ends: down, signals, kill -9, and the state of the machine afterwards.

use meshctl::local::supervisor::{Daemon, daemonise};

use super::*;

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
    place.assert_clean("none");
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
    meshctl::local::netns::available().unwrap();
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
