//! Calls as they happen, told by real sidecars: by whom, which, how many, and what is left when nobody looks.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use meshctl::rt::Tasks;
use serde_json::Value;

use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, Sidecar, program, service};
use crate::processes::Process;
use crate::stand::until;

/// `meshctl tap` with what it has printed.
struct Tapper {
    process: Process,
    lines: Receiver<String>,
}

impl Tapper {
    fn start(mesh: &Mesh, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_meshctl"))
            .arg("--home")
            .arg(mesh.home())
            .arg("tap")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            process: Process(child),
            lines,
        }
    }

    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(10)).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// What came until nothing has come for `quiet`.
    fn rest(&self, quiet: Duration) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(quiet) {
            all.push(line);
        }
        all
    }

    fn silent(&self) {
        let said = self.rest(Duration::from_millis(400));
        assert!(said.is_empty(), "{said:?}");
    }
}

fn gauge(address: IpAddr, name: &str) -> u64 {
    let (_, text) = program(
        "curl",
        &[
            "-sS",
            "-m",
            "5",
            &format!("http://{address}:15000/stats/prometheus"),
        ],
    );
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Waits until each proxy has so many taps.
async fn taps(proxies: &[&Sidecar], count: u64) {
    until("the proxies to have the taps", 10, || {
        let mut all = proxies.iter();
        all.all(|one| gauge(one.address, "meshctl_taps ") == count)
            .then_some(())
    })
    .await;
}

async fn shop(tasks: &Tasks) -> (Mesh, Sidecar, Sidecar) {
    let mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(&service("empty", &[("http", 9080)]));
    let app = |service, at| App {
        service,
        version: "v1",
        port: 9080,
        at,
        flags: &[],
    };
    let web = mesh.sidecar(&app("web", backend("web", tasks))).await;
    let shop = mesh.sidecar(&app("shop", backend("shop", tasks))).await;
    mesh.settled().await;
    (mesh, web, shop)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_is_told_once_and_only_to_who_asks_for_it() {
    let tasks = Tasks::new();
    let (mesh, web, shop) = shop(&tasks).await;
    let both = [&web, &shop];
    let caller = Caller::new(shop.outbound());
    assert_eq!(gauge(web.address, "meshctl_taps "), 0);

    let all = Tapper::start(&mesh, &["-o", "json"]);
    let failed = Tapper::start(&mesh, &["-o", "json", "--status", "5xx"]);
    let path = Tapper::start(&mesh, &["--path", "/b", "--method", "get", "--to", "web"]);
    let header = Tapper::start(
        &mesh,
        &[
            "-o",
            "json",
            "--header",
            "User-Agent: probe",
            "--show-header",
            "user-agent",
            "--query",
        ],
    );
    let slow = Tapper::start(&mesh, &["-o", "json", "--min-latency", "5s"]);
    // The proxy of the shop is asked of everything, that of the other not about calls of the shop.
    let from = Tapper::start(&mesh, &["-o", "json", "--from", "shop-v1"]);
    taps(&[&shop], 6).await;
    taps(&[&web], 5).await;

    // Between two sidecars: told by the caller's.
    assert_eq!(
        caller.get("web:9080", "/a?token=secret").await.unwrap().0,
        200
    );
    let call = all.next();
    for (key, expected) in [
        ("source", "shop-v1.default"),
        ("destination", "web-v1.default"),
        ("service", "web.default"),
        ("version", "v1"),
        ("method", "GET"),
        ("authority", "web:9080"),
        ("path", "/a"),
        ("flags", ""),
        ("protocol", "http"),
    ] {
        assert_eq!(call[key], expected, "{key} {call}");
    }
    assert_eq!(
        (&call["status"], &call["mtls"]),
        (&Value::from(200), &Value::from(true)),
        "{call}"
    );
    assert_eq!(
        call["responseBytes"],
        caller.get("web:9080", "/a").await.unwrap().1.len(),
        "{call}"
    );
    assert!(
        call["durationMs"]
            .as_f64()
            .is_some_and(|ms| ms > 0.0 && ms < 5_000.0),
        "{call}"
    );
    assert!(call.get("headers").is_none(), "{call}");
    assert_eq!(from.next()["path"], "/a");
    all.next();
    from.next();

    // To nobody: only the caller's proxy knows.
    assert_eq!(caller.get("empty:9080", "/none").await.unwrap().0, 503);
    for tap in [&all, &failed] {
        let call = tap.next();
        assert_eq!(
            (&call["status"], &call["flags"]),
            (&Value::from(503), &Value::from("UH")),
            "{call}"
        );
        assert_eq!(
            (&call["service"], &call["destination"]),
            (&Value::from("empty.default"), &Value::from(""))
        );
    }
    from.next();

    // From outside the mesh: told by the one who took it.
    let plain = format!("http://{}/b?token=secret", web.inbound(9080));
    assert!(program("curl", &["-sS", "-m", "10", "-f", "-A", "probe", &plain]).0);
    let call = all.next();
    assert_eq!(call["destination"], "web-v1.default", "{call}");
    assert!(
        call["source"].as_str().unwrap().starts_with("127."),
        "{call}"
    );
    assert_eq!(
        (&call["mtls"], &call["path"]),
        (&Value::from(false), &Value::from("/b"))
    );
    let call = header.next();
    assert_eq!(call["headers"], serde_json::json!({"user-agent": "probe"}));
    assert_eq!(call["path"], "/b?token=secret");
    let line = path.lines.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(
        line.contains(" dst=web-v1.default tls=false :method=GET "),
        "{line}"
    );
    assert!(line.contains(" :path=/b :status=200 "), "{line}");

    for tap in [&all, &failed, &path, &header, &slow, &from] {
        tap.silent();
    }
    let audit = mesh.run(&["identity", "audit"], None);
    assert!(
        audit.contains("api read") && audit.contains("GET /tap with queries user-agent"),
        "{audit}"
    );

    // Killed, interrupted, out of reach: nothing is left of them at any proxy.
    drop(all);
    let _told = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(failed.process.0.id()).unwrap()),
        nix::sys::signal::Signal::SIGINT,
    );
    let mut failed = failed;
    let left = failed.process.0.wait().unwrap();
    assert!(left.success(), "{left:?}");
    drop((path, header, slow, from));
    taps(&both, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_leaves_when_it_has_enough_and_comes_back_after_the_control_plane() {
    let tasks = Tasks::new();
    let (mut mesh, web, shop) = shop(&tasks).await;
    let caller = Caller::new(shop.outbound());

    let mut two = Tapper::start(&mesh, &["web", "--max", "2", "-o", "json"]);
    taps(&[&web, &shop], 1).await;
    for _ in 0..5 {
        caller.get("web:9080", "/").await.unwrap();
    }
    assert_eq!(two.rest(Duration::from_secs(1)).len(), 2);
    assert!(two.process.0.wait().unwrap().success());
    taps(&[&web, &shop], 0).await;

    // Whoever reads the lines has enough.
    let closed = Command::new("sh")
        .args(["-c", "\"$0\" --home \"$1\" tap | head -n 1; echo left"])
        .arg(env!("CARGO_BIN_EXE_meshctl"))
        .arg(mesh.home())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    taps(&[&shop], 1).await;
    caller.get("web:9080", "/").await.unwrap();
    let closed = closed.wait_with_output().unwrap();
    assert!(
        String::from_utf8_lossy(&closed.stdout).ends_with("left\n"),
        "{closed:?}"
    );
    assert!(closed.stderr.is_empty(), "{closed:?}");
    taps(&[&web, &shop], 0).await;

    // A control plane that goes takes its taps with it, and proxies ask its next run again.
    let mut cut = Tapper::start(&mesh, &[]);
    taps(&[&shop], 1).await;
    mesh.kill_control_plane();
    assert_eq!(cut.process.0.wait().unwrap().code(), Some(1));
    taps(&[&web, &shop], 0).await;
    mesh.start_control_plane().await;
    let again = Tapper::start(&mesh, &["-o", "json"]);
    until("the proxies to have the tap", 30, || {
        (gauge(shop.address, "meshctl_taps ") == 1).then_some(())
    })
    .await;
    caller.get("web:9080", "/again").await.unwrap();
    assert_eq!(again.next()["path"], "/again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_under_load_keeps_to_its_rate_and_its_filter() {
    let tasks = Tasks::new();
    let (mesh, _web, shop) = shop(&tasks).await;
    let caller = Caller::new(shop.outbound());
    let some = Tapper::start(&mesh, &["-o", "json", "--rate", "20"]);
    let none = Tapper::start(&mesh, &["-o", "json", "--path", "/nowhere"]);
    taps(&[&shop], 2).await;
    let began = meshctl::rt::now();
    let mut calls = 0;
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(caller.get("web:9080", "/load").await.unwrap().0, 200);
        calls += 1;
    }
    let told = some.rest(Duration::from_secs(1)).len();
    assert!(calls > 200, "{calls}");
    // As many as its bucket holds at once, and then as many as come into it.
    assert!((40..=100).contains(&told), "{told} of {calls}");
    none.silent();
}
