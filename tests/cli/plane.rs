//! A control plane by itself, and who knocks at it: ports in use, a locked or damaged store, tokens,
//! certificates.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meshctl::control::{store_dir, trust, trust_dir};
use meshctl::mesh::SpiffeId;
use meshctl::rt::Wall;
use meshctl::tls::{Authority, Material};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::mesh::until;
use super::run::{BINARY, Home, Outcome};

/// Any free port for each of them.
const ANYWHERE: [&str; 4] = [
    "--xds-port=0",
    "--tls-port=0",
    "--api-port=0",
    "--metrics-port=0",
];

/// A control plane in the background, ended with the test.
pub(crate) struct Plane<'h> {
    home: &'h Home,
    child: Child,
    log: PathBuf,
}

impl<'h> Plane<'h> {
    pub(crate) fn start(home: &'h Home) -> Self {
        Self::start_with(home, &ANYWHERE)
    }

    pub(crate) fn start_with(home: &'h Home, args: &[&str]) -> Self {
        if !home.path().exists() {
            home.run(&["install"]).exits(0);
        }
        let log = home.beside("control.log");
        let child = home
            .command(&["control-plane"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let plane = Self { home, child, log };
        until("an answer of the control plane", || {
            (home.run(&["version"]).code == Some(0)).then_some(())
        });
        plane
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Where proxies join.
    pub(crate) fn tls(&self) -> String {
        let version = self.home.run(&["version", "-o", "json"]).exits(0).json();
        version["controlPlane"]["tlsAddress"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn token(&self, account: &str) -> String {
        let args = [
            "token",
            "create",
            "--service-account",
            account,
            "-o",
            "json",
        ];
        self.home.run(&args).exits(0).json()["token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Ends it as systemd would.
    pub(crate) fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Plane<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill().is_ok();
        let _reaped = self.child.wait().is_ok();
    }
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: http, port: 80}]}
";

/// A port that nobody has just now.
pub(crate) fn free() -> u16 {
    cluster::ports::free()
}

#[test]
fn a_source_that_is_not_there_is_refused() {
    let home = Home::new();
    home.run(&["install", "-q"]).exits(0);
    let missing = home.beside("missing");
    let broken = home.beside("kubeconfig");
    std::fs::write(&broken, "a: [b").unwrap();
    let files = format!("files={}", missing.display());
    for (source, kubeconfig, words) in [
        (files.as_str(), &missing, "cannot read the manifests in"),
        (
            "kubernetes",
            &missing,
            "missing cannot be read: No such file",
        ),
        (
            "kubernetes",
            &broken,
            "kubeconfig cannot be read: unclosed bracket '[' at line 1, column 4",
        ),
    ] {
        let args = [&["control-plane", "--source", source], &ANYWHERE[..]].concat();
        let mut command = home.command(&args);
        command.env("KUBECONFIG", kubeconfig);
        let outcome = home.finish(command, "").exits(1);
        assert!(outcome.stderr.contains(words), "{source}: {outcome}");
        assert!(outcome.stderr.contains("hint: "), "{source}: {outcome}");
    }
}

#[test]
fn a_demo_whose_port_is_taken_starts_nothing() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let outcome = home.run(&["demo", "--port", &port]).exits(1);
    assert!(
        outcome.stderr.contains("choose another --port"),
        "{outcome}"
    );
    assert!(!outcome.stderr.contains("Start a mesh"), "{outcome}");
}

#[test]
fn a_port_in_use_is_named_with_its_option_and_nothing_is_lost() {
    let home = Home::new();
    let plane = Plane::start(&home);
    home.feed(&["apply", "-f", "-"], SERVICE).exits(0);
    plane.stop();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for option in ["--xds-port", "--tls-port", "--api-port", "--metrics-port"] {
        let mut args = vec!["control-plane".to_owned()];
        args.extend(
            ANYWHERE
                .iter()
                .filter(|other| !other.starts_with(option))
                .map(|other| (*other).to_owned()),
        );
        args.push(format!("{option}={port}"));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let outcome = home.run(&args).exits(1);
        assert_eq!(
            outcome.stderr,
            format!(
                "error: cannot listen on 127.0.0.1:{port}: Address already in use\n\
                 hint: another program has this port, perhaps another control plane; \
                 choose another with {option}\n"
            )
        );
        home.run(&["get", "svc"]).exits(4);
    }
    let pre = home
        .run(&["install", "--set", &format!("metricsPort={port}")])
        .exits(0);
    assert!(pre.stderr.contains("settings"), "{pre}");
    let pre = home.run(&["check", "--pre"]).exits(1);
    assert!(
        pre.stdout
            .contains(&format!("× port {port} is free for metrics")),
        "{pre}"
    );
    let args: Vec<&str> = ["control-plane"]
        .iter()
        .chain(&ANYWHERE[..3])
        .copied()
        .collect();
    let set = home.run(&args).exits(1);
    assert!(
        set.stderr.contains(&format!("127.0.0.1:{port}")),
        "the setting counts: {set}"
    );

    let _plane = Plane::start(&home);
    assert!(home.run(&["get", "svc"]).exits(0).stdout.contains("shop"));
}

#[test]
fn a_proxy_whose_port_is_in_use_says_which() {
    let home = Home::new();
    let plane = Plane::start(&home);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for option in ["--outbound-port", "--admin-port"] {
        let outcome = joining(&home, &plane, "shop", &[option, &port]).exits(1);
        let words = format!("error: cannot listen on 127.0.0.1:{port} for ");
        assert!(outcome.stderr.contains(&words), "{outcome}");
        assert!(
            outcome
                .stderr
                .contains(&format!("hint: another process listens on port {port}")),
            "{outcome}"
        );
    }
}

#[test]
fn a_store_has_one_owner() {
    let home = Home::new();
    let plane = Plane::start(&home);
    let args: Vec<&str> = ["control-plane"].iter().chain(&ANYWHERE).copied().collect();
    let outcome = home.run(&args).exits(1);
    let words = format!("control/store is in use by process {}\n", plane.child.id());
    assert!(outcome.stderr.contains(&words), "{outcome}");
    assert!(
        outcome.stderr.contains("hint: one process owns the store"),
        "{outcome}"
    );
    home.feed(&["apply", "-f", "-"], SERVICE).exits(0);
    let args = ["uninstall", "--purge"];
    let kept = home.run(&args).exits(1);
    assert!(
        kept.stderr.contains("a control plane runs in [DIR]/home"),
        "{kept}"
    );
    home.run(&["install"]).exits(0);
    assert!(home.run(&["get", "svc"]).exits(0).stdout.contains("shop"));
}

#[test]
fn a_flipped_byte_is_said_and_repaired() {
    let home = Home::new();
    Plane::start(&home).stop();
    for (round, file) in ["journal", "database"].into_iter().enumerate() {
        let plane = Plane::start(&home);
        let name = format!("shop-{round}");
        home.feed(
            &["apply", "-f", "-"],
            &SERVICE.replace("shop}\nspec", &format!("{name}}}\nspec")),
        )
        .exits(0);
        plane.stop();
        let store = store_dir(&home.path());
        let path = if file == "database" {
            store.join("db/db")
        } else {
            newest(&store, "journal.")
        };
        let mut bytes = fs::read(&path).unwrap();
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        bytes[used[used.len() / 2]] ^= 0x10;
        fs::write(&path, bytes).unwrap();

        let plane = Plane::start(&home);
        let said = plane.said();
        let checked = home.run(&["check", "-o", "json"]).json();
        let store = checked["sections"].as_array().unwrap().iter();
        let store = store
            .clone()
            .find(|section| section["name"] == "store")
            .unwrap();
        let whole = &store["checks"][2];
        if file == "journal" {
            assert!(said.contains("STORE DAMAGED AND REPAIRED"), "{said}");
            assert!(said.contains("No acknowledged write was lost"), "{said}");
            assert_eq!(whole["status"], "warning", "{checked}");
        }
        // A byte that nobody reads any more need not be noticed; what was written is there.
        assert_eq!(
            said.contains("REPAIRED"),
            whole["status"] == "warning",
            "{said} {checked}"
        );
        for written in 0..=round {
            let name = format!("shop-{written}");
            home.run(&["get", "svc", &name]).exits(0);
        }
        plane.stop();
    }
}

fn newest(dir: &std::path::Path, prefix: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(prefix)
        })
        .collect();
    found.sort();
    found.pop().unwrap()
}

#[test]
fn where_nothing_can_be_made_there_is_no_home() {
    let home = Home::new();
    let pod = home.write(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n\
         spec: {containers: [{name: a, image: a, command: [sleep, '1']}]}\n",
    );
    let pod = pod.to_str().unwrap();
    // Root may write everywhere but here.
    for (at, why) in [
        ("/proc/meshctl", "No such file or directory"),
        ("file", "File exists"),
    ] {
        home.write("file", "mine");
        for args in [&["install"][..], &["up", "-d", pod]] {
            let mut command = home.command(args);
            command.env("MESHCTL_HOME", at);
            let outcome = home.finish(command, "").exits(1);
            assert!(outcome.stderr.contains(&format!(": {why}")), "{outcome}");
            assert!(
                outcome.stderr.contains("choose another --home"),
                "{outcome}"
            );
        }
        let mut command = home.command(&["check", "--pre"]);
        command.env("MESHCTL_HOME", at);
        let outcome = home.finish(command, "").exits(1);
        assert!(
            outcome.stdout.contains("hint: choose another --home"),
            "{outcome}"
        );
        let mut command = home.command(&["control-plane"]);
        command.env("MESHCTL_HOME", at);
        let outcome = home.finish(command, "").exits(1);
        assert!(
            outcome.stderr.contains("nothing is installed in"),
            "{outcome}"
        );
        assert_eq!(fs::read_to_string(home.beside("file")).unwrap(), "mine");
    }
}

/// A proxy that is expected to end by itself; its name is `service` and its home its own.
fn joining(home: &Home, plane: &Plane<'_>, service: &str, more: &[&str]) -> Outcome {
    let token = plane.token(service);
    let mut args = vec!["--service-account", service, "--join", &token];
    args.extend(more);
    home.run_proxy(&plane.tls(), service, &args)
}

impl Home {
    /// A command that is expected to end by itself; exit code 124 when it does not.
    fn run_bounded(&self, args: &[&str]) -> Outcome {
        let mut bounded = Command::new("timeout");
        bounded.arg("20").arg(BINARY).args(args);
        let like = self.command(&[]);
        bounded
            .current_dir(self.path().parent().unwrap())
            .env_clear();
        for (name, value) in like.get_envs() {
            bounded.env(name, value.unwrap_or_default());
        }
        self.finish(bounded, "")
    }

    /// `proxy` for an application that is not there, on ports of its own.
    fn run_proxy(&self, control: &str, service: &str, more: &[&str]) -> Outcome {
        let (outbound, admin) = (free().to_string(), free().to_string());
        let mut args = vec![
            "proxy",
            "--service",
            service,
            "--name",
            service,
            "--app",
            "18080=127.0.0.1:1",
            "--control-plane",
            control,
        ];
        for (option, port) in [("--outbound-port", &outbound), ("--admin-port", &admin)] {
            if !more.contains(&option) {
                args.extend([option, port]);
            }
        }
        args.extend(more);
        self.run_bounded(&args)
    }
}

/// A proxy that goes on; ended with the test.
pub(crate) struct Proxy(pub(crate) Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _gone = self.0.kill().is_ok();
        let _reaped = self.0.wait().is_ok();
    }
}

#[test]
fn a_token_is_for_one_identity_once() {
    let home = Home::new();
    let plane = Plane::start(&home);
    let control = plane.tls();
    let token = plane.token("cart");
    let with = |name: &str, account: &str, token: &str| {
        let args = ["--service-account", account, "--join", token];
        home.run_proxy(&control, name, &args).exits(1)
    };
    let other = with("other", "default", &token);
    assert!(
        other.stderr.contains(
            "is for default/cart, not for default/default (join with \
                               --namespace default --service-account cart, or make a token by"
        ),
        "{other}"
    );
    let garbled = with("other", "cart", "mj_123");
    assert!(garbled.stderr.contains("copy all of it"), "{garbled}");
    let parts: Vec<&str> = token.split('_').collect();
    let unknown = format!("mj_000000000000_{}_{}", parts[2], parts[3]);
    let unknown = with("other", "cart", &unknown);
    assert!(
        unknown.stderr.contains("this join token is not known here"),
        "{unknown}"
    );

    // The README's words.
    let (inbound, outbound, admin) = (free(), free().to_string(), free().to_string());
    let app = format!("{inbound}=127.0.0.1:1");
    let child = Command::new(BINARY)
        .args(["--home", home.beside("cart").to_str().unwrap()])
        .args(["proxy", "--service", "cart", "--service-account", "cart"])
        .args(["--app", &app, "--join", &token, "--control-plane", &control])
        .args(["--outbound-port", &outbound, "--admin-port", &admin])
        .env_clear()
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _cart = Proxy(child);
    until("the proxy's arrival", || {
        let proxies = home.run(&["proxies", "-o", "json"]).exits(0).json();
        (proxies[0]["identity"] == "spiffe://cluster.local/ns/default/sa/cart").then_some(())
    });
    let twice = with("late", "cart", &token);
    assert!(
        twice.stderr.contains("has already been used, last at 20"),
        "{twice}"
    );
    assert!(
        twice
            .stderr
            .contains("make a new one with `meshctl token create`"),
        "{twice}"
    );
    let none = home
        .run_proxy(&control, "none", &["--service-account", "cart"])
        .exits(1);
    assert!(
        none.stderr
            .contains("has no usable certificate and no join token"),
        "{none}"
    );
    assert!(
        none.stderr
            .contains("hint: `meshctl token create --namespace default --service-account cart`"),
        "{none}"
    );
    let stored = home.beside("cart/proxy");
    let name = fs::read_dir(stored)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    let cart = home.beside("cart");
    let args = [
        "--home",
        cart.to_str().unwrap(),
        "--service-account",
        "wishlist",
        "--name",
        name.to_str().unwrap(),
    ];
    let mut all = vec![
        "proxy",
        "--service",
        "cart",
        "--app",
        "127.0.0.1:1",
        "--control-plane",
        &control,
    ];
    all.extend(args);
    let other = home.run_bounded(&all).exits(1);
    assert!(
        other
            .stderr
            .contains("/sa/wishlist, but the certificate in"),
        "{other}"
    );
    assert!(
        !other.stderr.contains("--dir"),
        "only options that there are: {other}"
    );
    let kept = home.run(&["proxies", "-o", "json"]).exits(0).json();
    assert_eq!(
        kept.as_array().map(Vec::len),
        Some(1),
        "nobody else came in"
    );
    let secret = token.split('_').nth(2).unwrap();
    assert!(!plane.said().contains(secret), "no secret in the log");
}

#[test]
fn a_token_of_another_mesh_leads_nowhere() {
    let (ours, theirs) = (Home::new(), Home::new());
    let plane = Plane::start(&ours);
    let other = Plane::start(&theirs);
    let token = other.token("cart");
    let args = ["--service-account", "cart", "--join", &token];
    let outcome = ours.run_proxy(&plane.tls(), "cart", &args).exits(1);
    assert!(
        outcome.stderr.contains(
            "is not the one that the join token is for: the peer did not send the pinned root"
        ),
        "{outcome}"
    );
}

fn now() -> u64 {
    Wall::System.millis()
}

fn openssl(home: &Home, control: &str, name: &str, material: &Material) -> String {
    let pems = material.to_pems();
    let file = |kind: &str, text: &str| home.write(&format!("{name}.{kind}"), text);
    let (chain, key) = (file("crt", &pems.chain), file("key", &pems.key));
    let root = trust_dir(&home.path()).join("root-cert.pem");
    let output = Command::new("timeout")
        .args(["20", "openssl", "s_client", "-ign_eof", "-verify_return_error", "-alpn", "h2", "-connect", control])
        .args(["-CAfile".as_ref(), root.as_os_str(), "-cert".as_ref(), chain.as_os_str()])
        .args(["-key".as_ref(), key.as_os_str()])
        // Whoever is let in is asked for HTTP/2, and hears at once that this is none.
        .stdin(File::open(home.write("hello", "GET / HTTP/1.1\r\n\r\n")).unwrap())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn expired_and_foreign_certificates_are_refused_at_the_door() {
    let home = Home::new();
    let plane = Plane::start(&home);
    let control = plane.tls();
    let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/cart".parse().unwrap();
    let mesh = trust::authority(
        &trust_dir(&home.path()),
        "cluster.local",
        &trust::CaOptions::default(),
        &Wall::System,
    )
    .unwrap();
    let hour = Duration::from_hours(1);
    let member = mesh.issue_pair(&id, hour, now()).unwrap();
    let expired = mesh
        .issue_pair(&id, Duration::from_mins(1), now() - 7_200_000)
        .unwrap();
    let stranger = Authority::generate("cluster.local", now()).unwrap();
    let foreign = stranger.issue_pair(&id, hour, now()).unwrap();
    let text = openssl(&home, &control, "member", &member);
    assert!(
        !text.contains("alert") && text.contains("Verify return code: 0"),
        "{text}"
    );
    for (name, material) in [("expired", &expired), ("foreign", &foreign)] {
        let text = openssl(&home, &control, name, material);
        assert!(text.contains("alert"), "{name}: {text}");
        // A proxy that finds it in its directory says what is wrong with it.
        let dir = home.path().join("proxy").join(name);
        fs::create_dir_all(&dir).unwrap();
        material.store(&dir).unwrap();
    }
    let outcome = home
        .run_proxy(&control, "expired", &["--service-account", "cart"])
        .exits(1);
    assert!(
        outcome
            .stderr
            .contains("has no usable certificate and no join token"),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("expired"), "{outcome}");
    let none: Value = home.run(&["proxies", "-o", "json"]).exits(0).json();
    assert_eq!(none, serde_json::json!([]));
    // With a token of the mesh the foreign certificate is replaced rather than used.
    let token = plane.token("cart");
    let args = [
        "--service-account",
        "cart",
        "--join",
        &token,
        "--admin-port",
        "1",
    ];
    let outcome = home.run_proxy(&control, "foreign", &args);
    let stored = Material::load(&home.path().join("proxy/foreign"), now());
    assert!(
        stored.is_ok_and(|kept| kept.chain != foreign.chain),
        "{outcome}"
    );
}
