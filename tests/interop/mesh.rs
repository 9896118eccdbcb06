//! A mesh of real processes: the executable as control plane and as sidecars, on loopback
//! addresses of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;

use crate::processes::Process;
use crate::stand::until;

const PROGRAM: &str = env!("CARGO_BIN_EXE_meshctl");

/// The control plane and its home.
pub(crate) struct Mesh {
    dir: tempfile::TempDir,
    control_plane: Option<Process>,
    next: AtomicU8,
}

/// What a sidecar stands before.
#[derive(Debug, Clone)]
pub(crate) struct App<'a> {
    pub(crate) service: &'a str,
    pub(crate) version: &'a str,
    /// Port of the workload, and where the application really listens.
    pub(crate) port: u16,
    pub(crate) at: SocketAddr,
    /// More flags.
    pub(crate) flags: &'a [&'a str],
}

/// A sidecar that runs.
pub(crate) struct Sidecar {
    process: Process,
    pub(crate) address: IpAddr,
    pub(crate) name: String,
}

impl Sidecar {
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Where its application calls.
    pub(crate) fn outbound(&self) -> SocketAddr {
        SocketAddr::new(self.address, 15_001)
    }

    /// Where peers call `port`.
    pub(crate) fn inbound(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }
}

impl Mesh {
    /// A home with a control plane that serves.
    pub(crate) async fn start() -> Self {
        let mut mesh = Self::new();
        mesh.run(&["install", "-q"], None);
        mesh.start_control_plane().await;
        mesh
    }

    /// A place for a home.
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            control_plane: None,
            next: AtomicU8::new(2),
        }
    }

    /// Address `host` of this mesh: 127.x.y.host, where x and y come from the process.
    fn address(host: u8) -> IpAddr {
        let [.., high, low] = std::process::id().to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(127, 100 + high % 28, low, host))
    }

    /// An address of this mesh that nobody uses.
    pub(crate) fn spare(&self) -> IpAddr {
        Self::address(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn xds() -> SocketAddr {
        SocketAddr::new(Self::address(1), 15_010)
    }

    pub(crate) fn tls() -> SocketAddr {
        SocketAddr::new(Self::address(1), 15_012)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// For threads that call [`run`] beside the test.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn log(&self, name: &str) -> std::fs::File {
        std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("{name}.log")))
            .unwrap()
    }

    /// Everything that `name` has said.
    pub(crate) fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap()
    }

    /// Starts the control plane, and waits until it answers.
    pub(crate) async fn start_control_plane(&mut self) {
        self.start_control_plane_with(&[]).await;
    }

    /// The same with more flags.
    pub(crate) async fn start_control_plane_with(&mut self, flags: &[&str]) {
        self.start_control_plane_as(Command::new(PROGRAM), flags)
            .await;
    }

    /// The same with at most `files` open in the process.
    pub(crate) async fn start_control_plane_with_files(&mut self, files: u32) {
        let mut limited = Command::new("sh");
        limited.args([
            "-c",
            &format!("ulimit -n {files}; exec \"$0\" \"$@\""),
            PROGRAM,
        ]);
        self.start_control_plane_as(limited, &[]).await;
    }

    async fn start_control_plane_as(&mut self, mut program: Command, flags: &[&str]) {
        let child = program
            .arg("--home")
            .arg(self.home())
            .args(["control-plane", "--listen"])
            .arg(Self::address(1).to_string())
            .args(flags)
            .stdin(Stdio::null())
            .stdout(self.log("control-plane"))
            .stderr(self.log("control-plane"))
            .spawn()
            .unwrap();
        self.control_plane = Some(Process(child));
        let ready = SocketAddr::new(Self::address(1), 15_080);
        until("the control plane", 20, || {
            std::net::TcpStream::connect(ready).is_ok().then_some(())
        })
        .await;
    }

    /// SIGKILL, and gone.
    pub(crate) fn kill_control_plane(&mut self) {
        drop(self.control_plane.take());
    }

    /// Runs a command of ours, which may fail.
    pub(crate) fn try_run(&self, args: &[&str], input: Option<&str>) -> Output {
        run(&self.home(), args, input)
    }

    /// Runs a command of ours and gives what it printed.
    pub(crate) fn run(&self, args: &[&str], input: Option<&str>) -> String {
        let output = self.try_run(args, input);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.run(&args, None)).unwrap()
    }

    /// Applies manifests.
    pub(crate) fn apply(&self, manifests: &str) {
        self.run(&["apply", "-f", "-"], Some(manifests));
    }

    /// Starts a sidecar, and waits until peers may call it.
    pub(crate) async fn sidecar(&self, app: &App<'_>) -> Sidecar {
        let address = self.spare();
        let name = format!("{}-{}", app.service, app.version);
        let account = format!("{}-account", app.service);
        let token = self.run(
            &["token", "create", "-q", "--service-account", &account],
            None,
        );
        let process = self.process(app, (&name, address), Some(token.trim()), &[]);
        let sidecar = Sidecar {
            process,
            address,
            name,
        };
        until("the sidecar to be registered and in sync", 30, || {
            let healthy = self.json(&["register", "--list"]);
            let synced = self.json(&["proxies"]);
            let found = |list: &Value, matches: &dyn Fn(&Value) -> bool| {
                list.as_array().unwrap().iter().any(matches)
            };
            let ours = sidecar.name.as_str();
            (found(&healthy, &|one| {
                one["instance"]["name"] == ours && one["instance"]["health"] == "healthy"
            }) && found(&synced, &|one| one["name"] == ours && one["synced"] == true))
            .then_some(())
        })
        .await;
        sidecar
    }

    /// Starts a gateway that serves `ports` of Gateways (`PORT`, or `PORT=OWN`), and waits until it is in
    /// sync. Its address.
    pub(crate) async fn gateway(
        &self,
        name: &str,
        ports: &[impl std::fmt::Display],
    ) -> (Process, IpAddr) {
        self.gateway_with(name, ports, &[]).await
    }

    /// The same with more flags.
    pub(crate) async fn gateway_with(
        &self,
        name: &str,
        ports: &[impl std::fmt::Display],
        flags: &[&str],
    ) -> (Process, IpAddr) {
        let address = self.spare();
        let token = self.run(&["token", "create", "-q", "--gateway", name], None);
        let child = Command::new(PROGRAM)
            .arg("--home")
            .arg(self.dir.path().join(name))
            .args(["proxy", "--gateway", name, "--name", name])
            .args(flags)
            .args(["--address", &address.to_string()])
            .args(["--control-plane", &Self::tls().to_string()])
            .args(ports.iter().map(|port| format!("--listen={port}")))
            .env("MESHCTL_JOIN_TOKEN", token.trim())
            .stdin(Stdio::null())
            .stdout(self.log(name))
            .stderr(self.log(name))
            .spawn()
            .unwrap();
        let process = Process(child);
        until("the gateway to be in sync", 30, || {
            let proxies = self.json(&["proxies"]);
            let mut proxies = proxies.as_array().unwrap().iter();
            proxies
                .any(|one| one["name"] == name && one["synced"] == true)
                .then_some(())
        })
        .await;
        (process, address)
    }

    fn process(
        &self,
        app: &App<'_>,
        (name, address): (&str, IpAddr),
        token: Option<&str>,
        more: &[&str],
    ) -> Process {
        let child = Command::new(PROGRAM)
            .arg("--home")
            .arg(self.dir.path().join(name))
            .args(["proxy", "--service", app.service, "--version", app.version])
            .args(["--name", name])
            .args(["--service-account", &format!("{}-account", app.service)])
            .args(["--app", &format!("{}={}", app.port, app.at)])
            .args(["--address", &address.to_string()])
            .args(["--control-plane", &Self::tls().to_string()])
            .args(app.flags)
            .args(more)
            .envs(token.map(|token| ("MESHCTL_JOIN_TOKEN", token)))
            .stdin(Stdio::null())
            .stdout(self.log(name))
            .stderr(self.log(name))
            .spawn()
            .unwrap();
        Process(child)
    }

    /// Starts a second process for a sidecar, which takes over from the first, and gives that.
    pub(crate) fn replace(&self, sidecar: &mut Sidecar, app: &App<'_>) -> Process {
        let who = (sidecar.name.as_str(), sidecar.address);
        let next = self.process(app, who, None, &["--hot-restart"]);
        std::mem::replace(&mut sidecar.process, next)
    }

    /// Kills a sidecar and starts it again, with this token in its environment.
    pub(crate) fn restart(&self, sidecar: &mut Sidecar, app: &App<'_>, token: &str) {
        let _gone = sidecar.process.0.kill();
        let _gone = sidecar.process.0.wait();
        let who = (sidecar.name.as_str(), sidecar.address);
        sidecar.process = self.process(app, who, Some(token), &[]);
    }

    /// Waits until every proxy has the newest configuration.
    pub(crate) async fn settled(&self) {
        until("every proxy to be in sync", 20, || {
            let proxies = self.json(&["proxies"]);
            let proxies = proxies.as_array().unwrap();
            proxies
                .iter()
                .all(|one| one["synced"] == true)
                .then_some(())
        })
        .await;
    }
}

/// Runs a command of ours on `home`.
pub(crate) fn run(home: &Path, args: &[&str], input: Option<&str>) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(PROGRAM)
        .arg("--home")
        .arg(home)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    if let Some(input) = input {
        // It may have ended without reading: its exit says why.
        let _read = stdin.write_all(input.as_bytes()).is_ok();
    }
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// A service of `ports`, each a name (which says the protocol) and a number.
pub(crate) fn service(name: &str, ports: &[(&str, u16)]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  ports:\n"
    );
    for (port, number) in ports {
        writeln!(text, "  - {{name: {port}, port: {number}}}").unwrap();
    }
    text
}

/// Everybody refuses plaintext.
pub(crate) const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
";

/// Runs another program and gives whether it succeeded, and all that it printed.
pub(crate) fn program(name: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(name)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Adds what another caller counted.
pub(crate) fn add(sum: &mut BTreeMap<String, usize>, more: BTreeMap<String, usize>) {
    for (who, count) in more {
        *sum.entry(who).or_default() += count;
    }
}
