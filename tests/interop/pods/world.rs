//! A cluster: its API server, a control plane that was installed there, two nodes, names and a server outside.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::Cluster;
use meshctl::inject::{InjectConfig, Namespace, Outcome, mesh_pod};
use meshctl::mesh::Origin;
use serde_json::{Value, json};

use super::kubelet::{Given, Pod};
use super::names;
use super::network::{Families, Node, router};
use crate::processes::Process;
use crate::stand::until;

/// The port of the webhooks in a pod.
const WEBHOOKS: u16 = 15_017;

pub(super) const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/pods/app.py");

pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) families: Families,
    pub(super) nodes: [Node; 2],
    pub(super) inject: InjectConfig,
    dir: tempfile::TempDir,
    roots: String,
    _names: names::Server,
    processes: Vec<Process>,
}

impl World {
    pub(super) async fn start(families: Families) -> Self {
        router(families);
        let nodes = [1, 2].map(|number| Node::new(number, families));
        let cluster = Cluster::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let config = cluster.admin().unwrap();
        std::fs::write(dir.path().join("admin"), &config).unwrap();
        for (field, file) in [
            ("certificate-authority-data", "ca"),
            ("client-certificate-data", "cert"),
            ("client-key-data", "key"),
        ] {
            let line = config.lines().find(|line| line.contains(field)).unwrap();
            let data = line.split(": ").last().unwrap().trim();
            std::fs::write(dir.path().join(file), STANDARD.decode(data).unwrap()).unwrap();
        }
        let servers = families.system(53);
        let names = names::Server::start(&servers, families).await;
        let mut world = Self {
            cluster,
            families,
            nodes,
            inject: InjectConfig {
                image: "meshctl".to_owned(),
                kubernetes: Some((1, 36)),
                ..InjectConfig::default()
            },
            dir,
            roots: String::new(),
            _names: names,
            processes: Vec::new(),
        };
        let control = world.control_plane();
        world.processes.extend([control, outside(families)]);
        world.roots = until("the roots of the mesh", 60, || {
            let found = world
                .cluster
                .get("configmaps", "default", "meshctl-ca-root-cert")?;
            Some(found["data"]["root-cert.pem"].as_str()?.to_owned())
        })
        .await;
        world.serve_webhooks().await;
        world
    }

    /// Has the API server reach the webhooks of the control plane, and waits until they are believed.
    async fn serve_webhooks(&self) {
        let address = SocketAddr::new(self.families.system(1)[0], WEBHOOKS);
        let service = "meshctl";
        self.cluster.route("meshctl-system", service, 443, address);
        for (kind, name) in [
            ("mutatingwebhookconfigurations", "meshctl-injector"),
            ("validatingwebhookconfigurations", "meshctl-validator"),
        ] {
            let kind = format!("{kind}.admissionregistration.k8s.io");
            until("the authority of the webhooks", 60, || {
                let found = self.cluster.get(&kind, "", name)?;
                let hooks = found["webhooks"].as_array()?;
                let told = |hook: &Value| hook["clientConfig"]["caBundle"].is_string();
                hooks.iter().all(told).then_some(())
            })
            .await;
        }
        until("the webhooks to listen", 60, || {
            std::net::TcpStream::connect(address).ok()
        })
        .await;
    }

    /// Installs, and runs what was installed as the account that was installed for it.
    fn control_plane(&self) -> Process {
        let dir = self.dir.path();
        let command = |config: &str, args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
            command
                .args(args)
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .env("HOME", dir)
                .env("KUBECONFIG", dir.join(config))
                .env("MESHCTL_HOME", dir.join("home"));
            command
        };
        let install = ["install", "--target", "kubernetes", "-o", "json"];
        let output = command("admin", &install).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let settings = self
            .cluster
            .get("configmaps", "meshctl-system", "meshctl")
            .unwrap();
        let text = settings["data"]["settings.json"].as_str().unwrap();
        std::fs::write(dir.join("settings.json"), text).unwrap();
        let token = self
            .cluster
            .token("meshctl-system", "meshctl", &[cluster::auth::ISSUER], 3_600)
            .unwrap();
        let config = self.cluster.kubeconfig_of_token(&token);
        std::fs::write(dir.join("account"), config).unwrap();
        let listen = self.families.system(1)[0].to_string();
        let args = [
            "control-plane",
            "--in-cluster",
            "--source",
            "kubernetes=test",
            "--listen",
            &listen,
            "--xds-port",
            "0",
            "--api-port",
            "0",
            "--metrics-port",
            "0",
        ];
        let log = std::fs::File::create(dir.join("control-plane.log")).unwrap();
        let child = command("account", &args)
            .arg("--settings")
            .arg(dir.join("settings.json"))
            .env("POD_NAME", "meshctl-0")
            .env("POD_NAMESPACE", "meshctl-system")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Process(child)
    }

    /// Asks the API server, as an administrator.
    fn api(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Value {
        let dir = self.dir.path();
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "-X", method]);
        for (flag, file) in [("--cacert", "ca"), ("--cert", "cert"), ("--key", "key")] {
            command.arg(flag).arg(dir.join(file));
        }
        if let Some((kind, value)) = body {
            command.args(["-H", &format!("content-type: {kind}")]);
            command.args(["-d", &value.to_string()]);
        }
        let url = format!("https://{}{path}", self.cluster.address());
        let output = command.arg(&url).output().unwrap();
        assert!(output.status.success(), "{method} {path}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn path(object: &Value) -> String {
        let version = object["apiVersion"].as_str().unwrap();
        let root = if version.contains('/') { "apis" } else { "api" };
        let kind = object["kind"].as_str().unwrap().to_lowercase();
        let name = object["metadata"]["name"].as_str().unwrap();
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{kind}s/{name}"),
            None => format!("/{root}/{version}/{kind}s/{name}"),
        }
    }

    /// Creates or changes an object, with its status if it has one.
    pub(super) fn apply(&self, object: &Value) {
        let query = "fieldManager=test&force=true";
        let kind = "application/apply-patch+yaml";
        let path = Self::path(object);
        self.api("PATCH", &format!("{path}?{query}"), Some((kind, object)));
        if object["status"].is_object() {
            let path = format!("{path}/status?{query}");
            self.api("PATCH", &path, Some((kind, object)));
        }
    }

    pub(super) fn delete(&self, object: &Value) {
        let path = Self::path(object);
        self.api("DELETE", &path, None);
    }

    /// A pod of `default`, of an account called as its label `app`, meshed as the webhook does.
    pub(super) fn meshed(&self, pod: &Value) -> Value {
        let namespace = Namespace {
            name: "default".to_owned(),
            labels: Some([("istio-injection".to_owned(), "enabled".to_owned())].into()),
            ..Namespace::default()
        };
        let asked = meshctl::inject::Pod {
            template: pod,
            workload: "",
            namespace: &namespace,
        };
        match mesh_pod(asked, &self.inject, &Origin::default()) {
            (Outcome::Meshed(pod), _) => pod,
            other => panic!("{other:?}"),
        }
    }

    /// A pod at its node: created, with its addresses in its status, and nothing started.
    pub(super) fn place(&self, pod: &Value, node: usize, number: u8) -> Pod {
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap();
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": "default"},
        }));
        let token = self
            .cluster
            .token("default", account, &["istio-ca"], 3_600)
            .unwrap();
        let servers = self.families.system(53);
        let mut resolv =
            "search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
                .to_owned();
        for server in servers {
            writeln!(resolv, "nameserver {server}").unwrap();
        }
        let given = Given {
            dir: self
                .dir
                .path()
                .join(pod["metadata"]["name"].as_str().unwrap()),
            token: &token,
            roots: &self.roots,
            names: &resolv,
        };
        let addresses = self.families.pod(self.nodes[node].number, number);
        let mut object = pod.clone();
        object["spec"]["nodeName"] = json!(format!("node-{}", node + 1));
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        object["status"] = json!({"phase": "Running", "podIP": addresses[0], "podIPs": ips});
        self.apply(&object);
        Pod::new(&object, (&self.nodes[node], number), &given)
    }

    /// Places and starts a pod.
    pub(super) async fn start_pod(&self, pod: &Value, node: usize, number: u8) -> Pod {
        let mut placed = self.place(pod, node, number);
        placed.start(&self.nodes[node]).await;
        placed
    }

    /// A service for pods with `app: NAME`, with these ports (name, number, target), at its number's addresses.
    pub(super) fn service(&self, name: &str, number: u8, ports: &[(&str, u16, u16)]) {
        let ips = self.families.service(number);
        let kinds: Vec<&str> = ips.iter().map(family).collect();
        let ports: Vec<Value> = ports
            .iter()
            .map(|(name, port, target)| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"}))
            .collect();
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "selector": {"app": name}, "ports": ports, "type": "ClusterIP",
                "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": kinds,
                "ipFamilyPolicy": if ips.len() == 2 { "RequireDualStack" } else { "SingleStack" },
            },
        }));
    }

    /// What the endpoint controller says: a slice a family.
    pub(super) fn slices(&self, service: &str, ports: &[(&str, u16)], pods: &[(&Pod, bool)]) {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"}))
            .collect();
        for (at, ip) in self.families.service(1).iter().enumerate() {
            let kind = family(ip);
            let endpoints: Vec<Value> = pods
                .iter()
                .map(|(pod, ready)| {
                    json!({
                        "addresses": [pod.addresses[at]],
                        "conditions": {"ready": ready, "serving": ready, "terminating": false},
                        "targetRef": {"kind": "Pod", "name": pod.name, "namespace": "default"},
                    })
                })
                .collect();
            self.apply(&json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{service}-{}", kind.to_lowercase()), "namespace": "default",
                    "labels": {"kubernetes.io/service-name": service},
                },
                "addressType": kind, "ports": ports, "endpoints": endpoints,
            }));
        }
    }

    /// The roots of the mesh.
    pub(super) fn roots_file(&self) -> PathBuf {
        let path = self.dir.path().join("roots.pem");
        std::fs::write(&path, &self.roots).unwrap();
        path
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("control-plane.log")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(40).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            eprintln!("control plane:\n{}", lines.join("\n"));
        }
    }
}

fn family(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Servers outside the cluster.
fn outside(families: Families) -> Process {
    let at = |number: u8, port: u16| {
        let all = families.outside(number).into_iter();
        all.map(move |ip| json!([ip, port]))
    };
    let http: Vec<Value> = at(7, 80).chain(at(7, 9998)).chain(at(8, 80)).collect();
    let udp: Vec<Value> = at(7, 5005).collect();
    let config = json!({"name": "outside", "http": http, "udp": udp});
    let child = Command::new("/usr/bin/python3")
        .args([APP, &config.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Process(child)
}

/// `http://ADDRESS:PORT/PATH`.
pub(super) fn url(ip: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(ip, port))
}
