//! The page in a real browser: over a real mesh under load, and over a control plane that says what it is told to.
//!
//! What the browser does is in `tests/web`; here are the processes around it, and what comes to the listener from who
//! is no page of it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::processes::Process;

const PROGRAM: &str = env!("CARGO_BIN_EXE_meshctl");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a browser and what drives it are there; where `CI` is set they must be.
fn browser() -> bool {
    let modules = root().join("tests/web/node_modules/playwright-core");
    let there = modules.exists() && Path::new("/usr/bin/chromium").exists();
    if !there {
        assert!(
            std::env::var_os("CI").is_none(),
            "no browser: install chromium and nodejs, and run `npm ci` in tests/web"
        );
        eprintln!(
            "SKIPPED: no browser; install chromium and nodejs, and run `npm ci` in tests/web"
        );
    }
    there
}

/// Runs a script of `tests/web`, and fails with what it says.
fn script(name: &str, variables: &[(&str, &str)]) -> String {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let output = Command::new("node")
        .arg("--test")
        .arg(root().join("tests/web").join(name))
        .env("SHOTS", target.join("dashboard"))
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let figures = said
        .lines()
        .filter(|line| line.trim_start().starts_with("# ") && line.contains(" ms"));
    for line in figures {
        eprintln!("{line}");
    }
    said
}

#[test]
fn every_view_can_be_seen_read_and_used() {
    if browser() {
        let said = script("views.test.mjs", &[]);
        assert!(said.contains("# fail 0"), "{said}");
    }
}

#[test]
fn every_action_does_what_it_says() {
    if browser() {
        let said = script("actions.test.mjs", &[]);
        assert!(said.contains("# fail 0"), "{said}");
    }
}

#[test]
fn two_hundred_services_move_without_stutter() {
    if browser() {
        let said = script("large.test.mjs", &[]);
        assert!(said.contains("replaying:"), "{said}");
    }
}

/// A mesh of real pods.
struct Mesh(tempfile::TempDir);

impl Mesh {
    fn start() -> Self {
        let mesh = Self(tempfile::tempdir().unwrap());
        mesh.run(&["install", "-q"]);
        let bookinfo = root().join("examples/bookinfo");
        mesh.run(&["up", "-d", "-q", bookinfo.to_str().unwrap()]);
        mesh
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env("MESHCTL_HOME", self.0.path().join("home"))
            .env("HOME", self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        output
    }

    /// Where an application's sidecar takes calls.
    fn endpoint(&self, service: &str) -> SocketAddr {
        let output = self.run(&["endpoints", service, "-o", "json"]);
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        rows[0]["address"].as_str().unwrap().parse().unwrap()
    }

    /// The dashboard's process and its link.
    fn dashboard(&self, flags: &[&str]) -> (Process, String) {
        let mut arguments = vec!["dashboard", "--no-browser", "--port", "0", "-o", "json"];
        arguments.extend(flags);
        let mut child = self
            .command(&arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        (Process(child), told["url"].as_str().unwrap().to_owned())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _down = self.command(&["down"]).output().is_ok();
    }
}

/// One request as it is written, and the answer's head and body.
fn ask(at: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or_default(), answer)
}

/// Calls `at` again and again until it is dropped.
struct Load(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Load {
    fn on(at: SocketAddr) -> Self {
        let going = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&going);
        let thread = std::thread::spawn(move || {
            for number in 1_u128.. {
                if !told.load(Ordering::Relaxed) {
                    break;
                }
                let request = format!(
                    "GET /productpage HTTP/1.1\r\nhost: productpage:9080\r\nconnection: close\r\n\
                     traceparent: 00-{number:032x}-00000000000000a1-01\r\n\r\n"
                );
                let (status, _) = ask(at, &request);
                assert_eq!(status, 200);
            }
        });
        Self(going, Some(thread))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a call failed");
        }
    }
}

#[test]
fn every_view_shows_a_real_mesh_and_every_change_reaches_it() {
    if !browser() {
        return;
    }
    let mesh = Mesh::start();
    let load = Load::on(mesh.endpoint("productpage"));
    let (_dashboard, link) = mesh.dashboard(&[]);
    let said = script("real.test.mjs", &[("LINK", &link)]);
    assert!(said.contains("# fail 0"), "{said}");
    // What the page says that one could type can be typed.
    let commands: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once("command: meshctl ")?.1.into())
        .collect();
    assert!(commands.len() > 10, "{said}");
    for command in commands {
        if !command.contains("CALLER") {
            let words: Vec<&str> = command.split_whitespace().collect();
            mesh.run(&words);
        }
    }
    drop(load);
}

/// The parts of a link: address and secret.
fn parts(link: &str) -> (SocketAddr, String) {
    let (address, secret) = link
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once("/#session="))
        .unwrap();
    (address.parse().unwrap(), secret.to_owned())
}

fn request(method: &str, path: &str, host: &str, said: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in said {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text.push_str("\r\n");
    text
}

#[test]
fn nobody_but_the_opened_page_is_answered() {
    let mesh = Mesh(tempfile::tempdir().unwrap());
    mesh.run(&["install", "-q"]);
    let listen = crate::processes::free().ip().to_string();
    let control_plane = mesh
        .command(&["control-plane", "--listen", &listen])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _control_plane = Process(control_plane);
    mesh.run(&["check", "--wait", "20s"]);
    let (dashboard, link) = mesh.dashboard(&[]);
    let (at, secret) = parts(&link);
    let (host, shown) = (at.to_string(), ("x-meshctl-session", secret.as_str()));
    let own = format!("http://{host}");
    let version = "/api/v1/version";

    let (status, answer) = ask(at, &request("GET", version, &host, &[shown]));
    assert_eq!(status, 200, "{answer}");
    assert!(
        answer.contains("\"trustDomain\":\"cluster.local\""),
        "{answer}"
    );
    // Rebinding: the page's own name leads to loopback, the secret is not known.
    let evil = format!("evil.example:{}", at.port());
    for said in [&[][..], &[shown][..]] {
        assert_eq!(ask(at, &request("GET", version, &evil, said)).0, 403);
        assert_eq!(ask(at, &request("GET", "/", &evil, said)).0, 403);
    }
    // Without the secret, with a guessed one, and in places where it does not count.
    let guessed = secret.replace(|c: char| c.is_ascii_digit(), "0");
    for said in [
        &[][..],
        &[("x-meshctl-session", guessed.as_str())],
        &[("cookie", &*format!("x-meshctl-session={secret}"))],
        &[("authorization", &*format!("Bearer {secret}"))],
    ] {
        assert_eq!(
            ask(at, &request("GET", version, &host, said)).0,
            401,
            "{said:?}"
        );
    }
    let in_query = format!("{version}?x-meshctl-session={secret}");
    assert_eq!(ask(at, &request("GET", &in_query, &host, &[])).0, 401);
    // Forged requests of other pages, even ones that learned the secret.
    for site in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let forged = request("POST", "/api/v1/resources", &host, &[shown, site]);
        assert_eq!(ask(at, &forged).0, 403, "{site:?}");
    }
    let preflight = [
        ("origin", "http://evil.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-meshctl-session"),
    ];
    let (status, answer) = ask(at, &request("OPTIONS", version, &host, &preflight));
    assert_eq!(status, 403);
    assert!(
        !answer.to_ascii_lowercase().contains("access-control-allow"),
        "{answer}"
    );
    // Nobody shows the page in theirs, it runs its own files only, and no cookie is set.
    for path in ["/", "/app.js", version, "/session"] {
        let (_, answer) = ask(at, &request("GET", path, &host, &[shown, ("origin", &own)]));
        let answer = answer.to_ascii_lowercase();
        for line in [
            "frame-ancestors 'none'",
            "default-src 'self'",
            "x-frame-options: deny",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(answer.contains(line), "{path}: {line}");
        }
        assert!(!answer.contains("set-cookie"), "{path}");
        assert!(!answer.contains(&secret), "{path} tells the secret");
    }
    drop(dashboard);

    let (_dashboard, link) = mesh.dashboard(&["--read-only"]);
    let (at, secret) = parts(&link);
    let (host, shown) = (at.to_string(), ("x-meshctl-session", secret.as_str()));
    for (method, path) in [
        ("POST", "/api/v1/resources"),
        ("DELETE", "/api/v1/resources/Service/default/x"),
        ("POST", "/api/v1/rollback"),
        ("POST", "/api/v1/canaries/default/x"),
        ("POST", "/api/v1/nothing"),
        ("PUT", "/api/v1/registry/instances/default/x/heartbeat"),
        ("POST", "/api/v1/access/tokens"),
    ] {
        let (status, answer) = ask(at, &request(method, path, &host, &[shown]));
        assert_eq!(status, 403, "{method} {path}: {answer}");
        assert!(answer.contains("read-only"), "{answer}");
    }
    assert_eq!(ask(at, &request("GET", version, &host, &[shown])).0, 200);
    // A question that is too long for a query.
    let asked = ask(at, &request("POST", "/api/v1/authz/check", &host, &[shown]));
    assert_ne!(asked.0, 403, "{}", asked.1);
}

#[test]
fn the_committed_page_is_what_its_sources_make() {
    let sources = root().join("assets/web");
    if !sources.join("node_modules/esbuild").exists() {
        assert!(
            std::env::var_os("CI").is_none(),
            "the page cannot be built: run `npm ci` in assets/web"
        );
        eprintln!("SKIPPED: the page cannot be built; run `npm ci` in assets/web");
        return;
    }
    let fresh = tempfile::tempdir().unwrap();
    let output = Command::new("npm")
        .args(["run", "--silent", "build"])
        .current_dir(&sources)
        .env("DIST", fresh.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let committed = root().join("assets/dist");
    let mut names: Vec<_> = std::fs::read_dir(&committed)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names.len(), 12, "{names:?}");
    for name in names {
        let same = std::fs::read(committed.join(&name)).unwrap()
            == std::fs::read(fresh.path().join(&name)).unwrap();
        assert!(
            same,
            "assets/dist/{name:?} is not what `npm run build` in assets/web makes"
        );
    }
}
