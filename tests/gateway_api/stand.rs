//! What the tests stand on: a control plane, a gateway process for each Gateway, sidecars, and the
//! applications, all on loopback addresses of this process's own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::case::Case;
use crate::client::{Answer, Tls};
use crate::echo::{App, ServerTls, Speaks};
use crate::pki::{Pki, trusted};
use crate::processes::Process;

const PROGRAM: &str = env!("CARGO_BIN_EXE_meshctl");

pub(crate) const INFRA: &str = "gateway-conformance-infra";
pub(crate) const APPS: &str = "gateway-conformance-app-backend";
pub(crate) const WEB: &str = "gateway-conformance-web-backend";
pub(crate) const MESH: &str = "gateway-conformance-mesh";
pub(crate) const CONSUMER: &str = "gateway-conformance-mesh-consumer";

/// The class of all Gateways here.
pub(crate) const CLASS: &str = "meshctl";

/// How long something may take to come about.
const PATIENCE: Duration = Duration::from_secs(6);

/// Ports of listeners; a gateway listens at [`OFFSET`] above each, where no privilege is needed.
const PORTS: [u16; 21] = [
    80, 443, 1111, 5300, 6443, 7443, 8080, 8090, 8443, 8883, 9300, 9301, 9302, 9310, 9311, 9312,
    9313, 9320, 9321, 5301, 5302,
];
const OFFSET: u16 = 20_000;

/// All that runs.
pub(crate) struct Stand {
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
    pub(crate) pki: Pki,
    apps: BTreeMap<(&'static str, String), Arc<App>>,
    /// Where the ports of applications are, by namespace, name and number.
    sockets: BTreeMap<(&'static str, String, u16), SocketAddr>,
    gateways: Mutex<BTreeMap<String, (Process, IpAddr)>>,
    sidecars: Mutex<BTreeMap<String, (Process, IpAddr)>>,
    _control_plane: Process,
    next: AtomicU8,
    /// What a test has brought, to be taken away after it.
    brought: Mutex<Vec<(String, String, String)>>,
    base: bool,
}

/// What is left of a test: nothing, or why it failed.
pub(crate) type Outcome = Result<(), String>;

impl Stand {
    /// A control plane with the namespaces, Gateways and applications that many tests need.
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let installed = run(&home, &["install", "-q"], None);
        assert!(installed.status.success(), "{installed:?}");
        let log = std::fs::File::create(dir.path().join("control-plane.log")).unwrap();
        let child = Command::new(PROGRAM)
            .arg("--home")
            .arg(&home)
            .args(["control-plane", "--listen"])
            .arg(address(1).to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut stand = Self {
            runtime,
            dir,
            pki: Pki::new(),
            apps: BTreeMap::new(),
            sockets: BTreeMap::new(),
            gateways: Mutex::default(),
            sidecars: Mutex::default(),
            _control_plane: Process(child),
            next: AtomicU8::new(2),
            brought: Mutex::default(),
            base: true,
        };
        let ready = SocketAddr::new(address(1), 15_080);
        stand
            .until("the control plane", || {
                std::net::TcpStream::connect(ready).map_err(|error| error.to_string())
            })
            .unwrap();
        stand.bring_base();
        stand.base = false;
        stand
    }

    fn bring_base(&mut self) {
        let base = crate::base::manifests(&self.pki);
        self.apply(&base).unwrap();
        for (namespace, name) in crate::base::HTTP_APPS {
            self.app(
                namespace,
                name,
                &[(3000, Speaks::Http1, false), (3001, Speaks::Http2, false)],
            );
        }
        for name in [
            "grpc-infra-backend-v1",
            "grpc-infra-backend-v2",
            "grpc-infra-backend-v3",
        ] {
            self.app(
                INFRA,
                name,
                &[(3000, Speaks::Http2, false), (8443, Speaks::Http2, true)],
            );
        }
        for (namespace, name) in [
            (INFRA, "tls-backend"),
            (INFRA, "tls-backend-2"),
            (APPS, "tls-backend"),
        ] {
            self.app(namespace, name, &[(8443, Speaks::Http1, true)]);
        }
        for name in crate::base::TCP_APPS {
            self.app(
                INFRA,
                name,
                &[(3000, Speaks::Bytes, false), (8443, Speaks::Bytes, true)],
            );
        }
        self.app(WEB, "tcp-web-backend", &[(3000, Speaks::Bytes, false)]);
    }

    /// Starts an application and registers it; its service is called as it.
    fn app(&mut self, namespace: &'static str, name: &str, ports: &[(u16, Speaks, bool)]) {
        let app = App::new(namespace, name);
        let mut args = vec![
            "register".to_owned(),
            name.to_owned(),
            format!("--service={name}"),
            format!("--address={}", self.spare()),
            format!("--namespace={namespace}"),
            "-q".to_owned(),
        ];
        for (port, speaks, tls) in ports {
            let alpn: &[&[u8]] = match speaks {
                Speaks::Http1 => &[b"http/1.1"],
                Speaks::Http2 => &[b"h2"],
                Speaks::Bytes => &[],
            };
            let tls = tls.then(|| ServerTls::new(self.pki.pair("backend"), None, alpn));
            let at = self.runtime.block_on(app.serve(*speaks, tls));
            args.push(format!("--port={port}={at}"));
            self.sockets.insert((namespace, name.to_owned(), *port), at);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.command(&args, None).unwrap();
        self.apps.insert((namespace, name.to_owned()), app);
    }

    /// An application that asks its callers for a certificate of `callers`, with a service of its name.
    pub(crate) fn app_for_callers(&self, name: &str, callers: &str) -> Outcome {
        let app = App::new(INFRA, name);
        let tls = ServerTls::new(self.pki.pair("backend"), Some(callers), &[b"http/1.1"]);
        let at = self.runtime.block_on(app.serve(Speaks::Http1, Some(tls)));
        let (address, port) = (
            format!("--address={}", self.spare()),
            format!("--port=8443={at}"),
        );
        let service = format!("--service={name}");
        let args = [
            "register", name, &service, &address, &port, "-q", "-n", INFRA,
        ];
        self.command(&args, None).map(drop)
    }

    /// Where a port of an application is.
    pub(crate) fn socket(&self, name: &str, port: u16) -> SocketAddr {
        self.sockets[&(INFRA, name.to_owned(), port)]
    }

    /// An application that runs.
    pub(crate) fn application(&self, name: &str) -> &App {
        &self.apps[&(INFRA, name.to_owned())]
    }

    fn spare(&self) -> IpAddr {
        address(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Runs a command of ours, and gives what it printed.
    pub(crate) fn command(&self, args: &[&str], input: Option<&str>) -> Result<String, String> {
        let output = run(&self.home(), args, input);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let said = [output.stdout, output.stderr].concat();
            Err(format!("{args:?}: {}", String::from_utf8_lossy(&said)))
        }
    }

    /// Applies manifests as Kubernetes would: references that lead nowhere are no reason to refuse.
    /// What they bring is gone after the test.
    pub(crate) fn apply(&self, manifests: &str) -> Outcome {
        let args = ["apply", "--force", "-f", "-", "-n", INFRA, "-o", "json"];
        let said = self.command(&args, Some(manifests))?;
        let said: Value =
            serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
        let text = |object: &Value, key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let objects = said["objects"].as_array().cloned().unwrap_or_default();
        if !self.base {
            let mut brought = self.brought.lock().unwrap();
            for object in &objects {
                if object["outcome"] == "created" {
                    let [kind, namespace, name] =
                        ["kind", "namespace", "name"].map(|key| text(object, key));
                    brought.push((kind, namespace, name));
                }
            }
        }
        self.settle()
    }

    /// Deletes one object.
    pub(crate) fn delete(&self, kind: &str, namespace: &str, name: &str) -> Outcome {
        self.command(&["delete", kind, name, "-n", namespace, "-q"], None)?;
        let mut brought = self.brought.lock().unwrap();
        brought.retain(|(_, n, own)| (n.as_str(), own.as_str()) != (namespace, name));
        drop(brought);
        self.settle()
    }

    /// Takes away what the test before has brought.
    pub(crate) fn clean(&self) {
        let brought = std::mem::take(&mut *self.brought.lock().unwrap());
        let mut left: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for (kind, namespace, name) in brought {
            left.entry((qualified(&kind), namespace))
                .or_default()
                .insert(name);
        }
        for ((kind, namespace), names) in &left {
            let mut args = vec!["delete", kind, "-n", namespace, "-q", "--ignore-not-found"];
            args.extend(names.iter().map(String::as_str));
            if let Err(error) = self.command(&args, None) {
                eprintln!("not cleaned up: {error}");
            }
        }
        // Gateways of one test are of no use to the next.
        let own: BTreeSet<&str> = crate::base::GATEWAYS.into_iter().collect();
        self.gateways
            .lock()
            .unwrap()
            .retain(|name, _| own.contains(name.as_str()));
    }

    /// Waits until every proxy has the newest configuration.
    pub(crate) fn settle(&self) -> Outcome {
        self.until("every proxy to be in sync", || {
            let said = self.command(&["proxies", "-o", "json"], None)?;
            let proxies: Vec<Value> = serde_json::from_str(&said).map_err(|e| e.to_string())?;
            match proxies.iter().find(|proxy| proxy["synced"] != true) {
                None => Ok(()),
                Some(proxy) => Err(proxy.to_string()),
            }
        })
    }

    /// Tries until it succeeds or patience is over.
    pub(crate) fn until<T>(
        &self,
        what: &str,
        mut done: impl FnMut() -> Result<T, String>,
    ) -> Result<T, String> {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            match done() {
                Ok(value) => return Ok(value),
                Err(error) if std::time::Instant::now() > deadline => {
                    return Err(format!("{what}: {error}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// The address of a Gateway's process, which is started when it is first asked for.
    pub(crate) fn gateway(&self, name: &str) -> Result<IpAddr, String> {
        if let Some((_, at)) = self.gateways.lock().unwrap().get(name) {
            return Ok(*at);
        }
        let ports: Vec<String> = PORTS
            .iter()
            .map(|port| format!("--listen={port}={}", port + OFFSET))
            .collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let more = [&["--gateway", name][..], &ports].concat();
        let running = self.proxy(INFRA, name, name, &more)?;
        let at = running.1;
        self.gateways
            .lock()
            .unwrap()
            .insert(name.to_owned(), running);
        Ok(at)
    }

    /// The outbound port of the sidecar of a pod of `echo`.
    pub(crate) fn sidecar(&self, namespace: &str, version: &str) -> Result<SocketAddr, String> {
        let name = format!("echo-{version}");
        let key = format!("{name}.{namespace}");
        if let Some((_, at)) = self.sidecars.lock().unwrap().get(&key) {
            return Ok(SocketAddr::new(*at, 15_001));
        }
        let own = if namespace == MESH { MESH } else { CONSUMER };
        let app = App::new(own, &name);
        let mut more = vec!["--service=echo".to_owned(), format!("--version={version}")];
        for (port, speaks) in [
            (8080, Speaks::Http1),
            (7070, Speaks::Http2),
            (9090, Speaks::Bytes),
        ] {
            let at = self.runtime.block_on(app.serve(speaks, None));
            more.push(format!("--app={port}={at}"));
        }
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let running = self.proxy(namespace, &name, "echo", &more)?;
        let at = running.1;
        self.sidecars.lock().unwrap().insert(key, running);
        Ok(SocketAddr::new(at, 15_001))
    }

    /// Starts a proxy and waits until it serves what it should.
    fn proxy(
        &self,
        namespace: &str,
        name: &str,
        account: &str,
        more: &[&str],
    ) -> Result<(Process, IpAddr), String> {
        let at = self.spare();
        let args = [
            "token",
            "create",
            "-q",
            "-n",
            namespace,
            "--service-account",
            account,
        ];
        let gateway = more.iter().position(|flag| *flag == "--gateway");
        let gateway = gateway.and_then(|at| more.get(at..at + 2));
        let args = [&args[..], gateway.unwrap_or_default()].concat();
        let token = self.command(&args, None)?;
        let short: String = name.chars().take(40).collect();
        let home = self.dir.path().join(format!("{namespace}-{short}"));
        let log = std::fs::File::create(self.dir.path().join(format!("{short}.log")));
        let log = log.map_err(|error| error.to_string())?;
        let child = Command::new(PROGRAM)
            .arg("--home")
            .arg(home)
            .args(["proxy", "--name", name, "--namespace", namespace])
            .args(["--service-account", account])
            .args(["--address", &at.to_string()])
            .args(["--control-plane", &format!("{}:15012", address(1))])
            .args(["--workers=1", "--admin-port=0"])
            .args(more)
            .env("MESHCTL_JOIN_TOKEN", token.trim())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let process = Process(child);
        let ours = |list: Vec<Value>| {
            let found = list.iter().any(|one| {
                one["name"] == name && one["namespace"] == namespace && one["synced"] == true
            });
            if found {
                Ok(())
            } else {
                Err(format!("{list:?}"))
            }
        };
        self.until(&format!("proxy {name}"), || {
            let said = self.command(&["proxies", "-o", "json"], None)?;
            ours(serde_json::from_str(&said).map_err(|e| e.to_string())?)
        })
        .map_err(|error| {
            let said = std::fs::read_to_string(self.dir.path().join(format!("{short}.log")));
            format!("{error}\n{}", said.unwrap_or_default())
        })?;
        self.settle()?;
        Ok((process, at))
    }

    /// Where a port of a Gateway's listener is reached.
    pub(crate) fn listener(&self, gateway: &str, port: u16) -> Result<SocketAddr, String> {
        Ok(SocketAddr::new(self.gateway(gateway)?, port + OFFSET))
    }

    /// Sends each case to port 80 of a Gateway, until what comes back is what is expected.
    pub(crate) fn expect(&self, gateway: &str, cases: &[Case]) -> Outcome {
        self.expect_at(self.listener(gateway, 80)?, cases)
    }

    pub(crate) fn expect_at(&self, to: SocketAddr, cases: &[Case]) -> Outcome {
        for case in cases {
            self.until(&case.name(), || self.runtime.block_on(case.run(to)))?;
        }
        Ok(())
    }

    /// Sends a case once.
    pub(crate) fn once(&self, to: SocketAddr, case: &Case) -> Result<Answer, String> {
        self.runtime.block_on(case.run(to))
    }

    /// Who answers, of `count` requests that are sent over time, each on a connection of its own.
    pub(crate) fn shares(
        &self,
        to: SocketAddr,
        case: &Case,
        count: u32,
    ) -> Result<BTreeMap<String, u32>, String> {
        let mut shares = BTreeMap::new();
        for _ in 0..count {
            let answer = self.once(to, case)?;
            let skipped = if case.ask.http2 { 5 } else { 0 };
            let report: Option<Value> = answer
                .body
                .get(skipped..)
                .and_then(|text| serde_json::from_slice(text).ok());
            let who = report.as_ref().and_then(|report| report["pod"].as_str());
            let who = who.ok_or_else(|| format!("no report: {answer:?}"))?;
            *shares.entry(who.to_owned()).or_default() += 1;
        }
        Ok(shares)
    }

    /// What an application says of itself over a byte stream.
    pub(crate) fn bytes(&self, to: SocketAddr, tls: Option<&Tls>) -> Result<Value, String> {
        self.runtime.block_on(crate::client::bytes(to, tls))
    }

    /// The payloads of two frames that go to the application and back.
    pub(crate) fn websocket(
        &self,
        to: SocketAddr,
        path: &str,
    ) -> Result<Vec<(u8, Vec<u8>)>, String> {
        self.runtime
            .block_on(crate::client::websocket(to, "any.example", path))
    }

    /// TLS for callers of gateways that show certificates of the usual authority.
    pub(crate) fn tls(&self, server_name: &str) -> Tls {
        Tls {
            server_name: server_name.to_owned(),
            roots: self.pki.ca.pem.clone(),
            client: None,
        }
    }

    /// An object with its status, as `meshctl get` shows it.
    pub(crate) fn object(&self, kind: &str, namespace: &str, name: &str) -> Result<Value, String> {
        let kind = qualified(kind);
        let said = self.command(&["get", &kind, name, "-n", namespace, "-o", "json"], None)?;
        let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        let mut list = said.as_array().cloned().unwrap_or_default();
        list.retain(|one| one["name"] == name);
        let first = list.first().cloned();
        let first = first.ok_or_else(|| format!("no {kind}/{name}"))?;
        Ok(first["object"].clone())
    }

    pub(crate) fn trusted(&self, name: &str, pem: &str) -> String {
        trusted(INFRA, name, pem)
    }
}

/// The name under which a kind is asked for where another group has one of the same name.
fn qualified(kind: &str) -> String {
    match kind {
        "Gateway" => "gateways.gateway.networking.k8s.io".to_owned(),
        other => other.to_owned(),
    }
}

/// Address `host` of this process: 127.x.y.host.
fn address(host: u8) -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 130 + high % 28, low, host))
}

fn run(home: &std::path::Path, args: &[&str], input: Option<&str>) -> Output {
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
