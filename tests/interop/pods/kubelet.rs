//! What a kubelet does with a pod, as far as its sidecar can tell: volumes, variables, init containers in their
//! order, sidecars among them, hooks, probes from the node's address, and the two signals of its end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::network::{Node, Space};
use crate::processes::Process;
use crate::stand::until;

/// What a pod needs from its cluster.
pub(super) struct Given<'a> {
    /// A directory for it alone.
    pub(super) dir: PathBuf,
    /// A token of its account, for the authority.
    pub(super) token: &'a str,
    /// The roots of the mesh.
    pub(super) roots: &'a str,
    /// `resolv.conf`.
    pub(super) names: &'a str,
}

/// A pod that runs.
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    /// As it was created.
    pub(super) object: Value,
    pub(super) space: Space,
    containers: BTreeMap<String, Process>,
    dir: PathBuf,
}

/// Directories that a pod has for itself; what is mounted lies below them.
const OWN: [&str; 3] = ["/etc", "/run", "/var/lib"];

impl Pod {
    /// Its namespaces, network and volumes; no container runs.
    pub(super) fn new(object: &Value, (node, number): (&Node, u8), given: &Given<'_>) -> Self {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let dir = &given.dir;
        fs::create_dir_all(dir.join("volumes")).unwrap();
        let copied = Command::new("cp")
            .args(["-a", "/etc"])
            .arg(dir.join("etc"))
            .status();
        assert!(copied.unwrap().success());
        for own in ["run/bin", "lib"] {
            fs::create_dir_all(dir.join(own)).unwrap();
        }
        fs::write(dir.join("run/bin/meshctl"), "").unwrap();
        let resolv = dir.join("etc/resolv.conf");
        // It may be a link to elsewhere.
        drop(fs::remove_file(&resolv));
        fs::write(&resolv, given.names).unwrap();
        let mut lines = String::new();
        for (own, at) in ["etc", "run", "lib"].iter().zip(OWN) {
            writeln!(lines, "mount --bind {} {at}", dir.join(own).display()).unwrap();
        }
        let program = env!("CARGO_BIN_EXE_meshctl");
        writeln!(lines, "mount --bind {program} /run/bin/meshctl").unwrap();
        for volume in list(object, "/spec/volumes") {
            let source = source(volume, object, given);
            let name = &volume["name"];
            let mounts = containers(object)
                .flat_map(|container| list(container, "/volumeMounts"))
                .filter(|mount| mount["name"] == *name);
            let mut places: Vec<&str> = mounts
                .map(|mount| mount["mountPath"].as_str().unwrap())
                .collect();
            places.sort_unstable();
            places.dedup();
            for place in places {
                let from = source.display();
                writeln!(lines, "mkdir -p {place}\nmount --bind {from} {place}").unwrap();
            }
        }
        let space = Space::new(&lines);
        let addresses = node.attach(&space, number);
        Self {
            name,
            addresses,
            object: object.clone(),
            space,
            containers: BTreeMap::new(),
            dir: dir.clone(),
        }
    }

    /// Runs what comes before the containers of a pod, then these, as far as `until` says.
    pub(super) async fn start(&mut self, node: &Node) {
        let object = self.object.clone();
        for container in list(&object, "/spec/initContainers") {
            let name = text(container, "/name");
            if container["restartPolicy"] == "Always" {
                self.run(container);
                if container["startupProbe"].is_object() {
                    let probe = container["startupProbe"].clone();
                    until(&format!("{name} to start"), 60, || {
                        (self.ask(node, &probe)? == 200).then_some(())
                    })
                    .await;
                }
            } else {
                let output = self.command(container).output().unwrap();
                assert!(output.status.success(), "{name}: {output:?}");
            }
        }
        for container in list(&object, "/spec/containers") {
            self.run(container);
            let hook = list(container, "/lifecycle/postStart/exec/command");
            if !hook.is_empty() {
                let output = self.inside(container, hook).output().unwrap();
                assert!(output.status.success(), "{container}: {output:?}");
            }
        }
    }

    /// Starts a container.
    pub(super) fn run(&mut self, container: &Value) {
        let name = text(container, "/name");
        let log = fs::File::create(self.log(&name)).unwrap();
        let child = self
            .command(container)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.containers.insert(name, Process(child));
    }

    fn log(&self, container: &str) -> PathBuf {
        self.dir.join(format!("{container}.log"))
    }

    pub(super) fn said(&self, container: &str) -> String {
        fs::read_to_string(self.log(container)).unwrap_or_default()
    }

    fn command(&self, container: &Value) -> Command {
        let words: Vec<Value> = [list(container, "/command"), list(container, "/args")].concat();
        self.inside(container, &words)
    }

    /// `words` as the container would run them: its user, its capabilities, its variables.
    pub(super) fn inside(&self, container: &Value, words: &[Value]) -> Command {
        let context = &container["securityContext"];
        let mut command = self.space.command("setpriv");
        let id = |field: &str| context[field].as_u64().unwrap_or(0).to_string();
        let mut bounds = "-all".to_owned();
        for capability in list(context, "/capabilities/add") {
            let name = capability.as_str().unwrap().to_lowercase();
            write!(bounds, ",+{name}").unwrap();
        }
        command
            .arg(format!("--reuid={}", id("runAsUser")))
            .arg(format!("--regid={}", id("runAsGroup")))
            .args(["--clear-groups", "--no-new-privs", "--inh-caps=-all"]);
        if context["capabilities"].is_object() {
            command.arg(format!("--bounding-set={bounds}"));
        }
        command
            .arg("env")
            .arg("-i")
            .arg("PATH=/run/bin:/usr/bin:/bin");
        let env = self.env(container);
        for (name, value) in &env {
            command.arg(format!("{name}={value}"));
        }
        for word in words {
            let mut word = word.as_str().unwrap().to_owned();
            for (name, value) in &env {
                word = word.replace(&format!("$({name})"), value);
            }
            command.arg(word);
        }
        command
    }

    /// The downward API.
    fn env(&self, container: &Value) -> BTreeMap<String, String> {
        let ips: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        let value = |variable: &Value| match variable.pointer("/valueFrom/fieldRef/fieldPath") {
            None => text(variable, "/value"),
            Some(path) => match path.as_str().unwrap() {
                "metadata.name" => self.name.clone(),
                "metadata.namespace" => text(&self.object, "/metadata/namespace"),
                "spec.serviceAccountName" => text(&self.object, "/spec/serviceAccountName"),
                "status.podIP" => ips.first().unwrap().clone(),
                "status.podIPs" => ips.join(","),
                other => panic!("{other} is not in this kubelet"),
            },
        };
        let variables = list(container, "/env").iter();
        variables
            .map(|variable| (text(variable, "/name"), value(variable)))
            .collect()
    }

    /// A container of the pod by name.
    pub(super) fn container(&self, name: &str) -> Value {
        let mut all = containers(&self.object);
        all.find(|container| container["name"] == name)
            .unwrap()
            .clone()
    }

    /// Asks a probe by HTTP from the node, at the address that the pod goes by; the status of the answer.
    pub(super) fn ask(&self, node: &Node, probe: &Value) -> Option<u16> {
        ask_at(node, probe, *self.addresses.first()?)
    }

    /// A program of the application's, which is captured.
    pub(super) fn exec(&self, program: &str, args: &[&str]) -> Output {
        self.space.command(program).args(args).output().unwrap()
    }

    /// What `curl` says, with these arguments.
    pub(super) fn curl(&self, args: &[&str]) -> Result<String, String> {
        let base = ["-sS", "--fail", "-m", "5"];
        let output = self.exec("curl", &[&base, args].concat());
        let words = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() {
            Ok(words(output.stdout))
        } else {
            Err(words(output.stderr))
        }
    }

    /// What the application that is called says.
    pub(super) fn call(&self, url: &str) -> Value {
        let said = self.curl(&[url]);
        let said = said.unwrap_or_else(|error| panic!("{} calls {url}: {error}", self.name));
        serde_json::from_str(&said).unwrap()
    }

    /// A page of the proxy's administration.
    pub(super) fn admin(&self, path: &str) -> Result<String, String> {
        self.curl(&[&format!("http://127.0.0.1:15000{path}")])
    }

    pub(super) fn signal(&self, container: &str, signal: Signal) {
        let id = self.containers[container].0.id();
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }

    /// How a container ended, once it has.
    pub(super) fn ended(&mut self, container: &str) -> Option<ExitStatus> {
        let process = self.containers.get_mut(container).unwrap();
        process.0.try_wait().unwrap()
    }

    /// As when its machine is lost: nothing of it says goodbye.
    pub(super) fn lose(self) {
        drop(self);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for container in self.containers.keys() {
                let said = self.said(container);
                let lines: Vec<&str> = said.lines().rev().take(30).collect();
                let lines: Vec<&str> = lines.into_iter().rev().collect();
                eprintln!("{} {container}:\n{}", self.name, lines.join("\n"));
            }
        }
    }
}

/// As [`Pod::ask`], at an address of the pod.
pub(super) fn ask_at(node: &Node, probe: &Value, at: IpAddr) -> Option<u16> {
    let get = &probe["httpGet"];
    let port = u16::try_from(get["port"].as_u64()?).ok()?;
    let url = format!("http://{}{}", SocketAddr::new(at, port), text(get, "/path"));
    let output = node
        .space
        .command("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-m",
            "3",
            &url,
        ])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().parse().ok()
}

fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    let found = value.pointer(pointer).and_then(Value::as_array);
    found.map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

fn containers(object: &Value) -> impl Iterator<Item = &Value> {
    let init = list(object, "/spec/initContainers").iter();
    init.chain(list(object, "/spec/containers"))
}

/// Where the content of a volume lies.
fn source(volume: &Value, object: &Value, given: &Given<'_>) -> PathBuf {
    let dir = given
        .dir
        .join("volumes")
        .join(volume["name"].as_str().unwrap());
    fs::create_dir_all(&dir).unwrap();
    let file = |name: &Value, content: &str, mode| {
        let path = dir.join(name.as_str().unwrap());
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    if volume["emptyDir"].is_object() {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    } else if volume["configMap"].is_object() {
        assert_eq!(volume["configMap"]["name"], "meshctl-ca-root-cert");
        file(&json!("root-cert.pem"), given.roots, 0o644);
    } else if let Some(token) = volume.pointer("/projected/sources/0/serviceAccountToken") {
        assert_eq!(token["audience"], "istio-ca");
        // Of whom the pod runs as, where it has one user.
        file(&token["path"], given.token, 0o600);
        own_by_proxy(&dir.join(token["path"].as_str().unwrap()));
    } else {
        for item in list(volume, "/downwardAPI/items") {
            let field = match item["fieldRef"]["fieldPath"].as_str().unwrap() {
                "metadata.labels" => &object["metadata"]["labels"],
                "metadata.annotations" => &object["metadata"]["annotations"],
                other => panic!("{other} is not in this kubelet"),
            };
            let mut lines = String::new();
            for (key, value) in field.as_object().into_iter().flatten() {
                // Quoted as in Go, which for these is as in JSON.
                writeln!(lines, "{key}={value}").unwrap();
            }
            file(&item["path"], &lines, 0o644);
        }
    }
    dir
}

fn own_by_proxy(path: &Path) {
    chown(path, Some(1337), Some(1337)).unwrap();
}
