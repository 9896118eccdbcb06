//! An installation in a cluster: it comes, changes, and goes without a trace; and its replicas, as the account
//! that was installed for them.

mod joining;

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use cluster::Cluster;
use serde_json::{Value, json};

use super::command;

/// A cluster, and somebody who may everything there.
pub(super) struct Stand {
    pub(super) cluster: Cluster,
    pub(super) dir: tempfile::TempDir,
    pub(super) admin: PathBuf,
}

impl Stand {
    pub(super) async fn start() -> Self {
        Self::of(Cluster::start().await.unwrap())
    }

    pub(super) fn of(cluster: Cluster) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let admin = dir.path().join("admin");
        std::fs::write(&admin, cluster.admin().unwrap()).unwrap();
        Self {
            cluster,
            dir,
            admin,
        }
    }

    pub(super) fn run(&self, args: &[&str]) -> Output {
        let home = self.dir.path().join("home");
        command(&home, &self.admin, args).output().unwrap()
    }

    /// What was done to which object, by `install`.
    pub(super) fn install(&self, more: &[&str]) -> Vec<(String, String)> {
        let base = ["install", "--target", "kubernetes", "-o", "json"];
        let output = self.run(&[&base, more].concat());
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps = report["steps"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        steps
            .map(|step| (text(&step["name"]), text(&step["outcome"])))
            .collect()
    }

    pub(super) fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let found = self.cluster.get(resource, namespace, name);
        found.map(|object| (*object).clone())
    }

    /// Waits for something in the cluster.
    pub(super) async fn until<T>(&self, what: &str, find: impl Fn() -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = find() {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn holder(&self) -> Option<String> {
        let lease = self.object(
            "leases.coordination.k8s.io",
            "meshctl-system",
            "meshctl-leader",
        )?;
        let holder = lease["spec"]["holderIdentity"].as_str()?;
        Some(holder.to_owned())
    }
}

/// A control plane as the Deployment runs it: with the account's token, and nothing else.
pub(super) struct Replica {
    process: Child,
    pub(super) webhooks: u16,
    /// Where its API is, which comes by port-forward elsewhere.
    pub(super) api: u16,
    /// Where proxies come.
    pub(super) tls: u16,
    pub(super) log: PathBuf,
}

impl Replica {
    pub(super) fn start(stand: &Stand, name: &str) -> Self {
        let ports = [(); 3].map(|()| cluster::ports::free());
        Self::start_at(stand, name, ports)
    }

    /// One with these ports: for webhooks, its API, and proxies.
    pub(super) fn start_at(stand: &Stand, name: &str, ports: [u16; 3]) -> Self {
        Self::start_with(stand, name, ports, &[])
    }

    /// The same with more flags.
    pub(super) fn start_with(stand: &Stand, name: &str, ports: [u16; 3], more: &[&str]) -> Self {
        let [webhooks, api, tls] = ports;
        let dir = stand.dir.path();
        let settings = stand
            .object("configmaps", "meshctl-system", "meshctl")
            .unwrap();
        let file = dir.join("settings.json");
        let text = settings["data"]["settings.json"].as_str().unwrap();
        std::fs::write(&file, text).unwrap();
        let account = dir.join("account");
        let token = stand
            .cluster
            .token("meshctl-system", "meshctl", &[cluster::auth::ISSUER], 3_600)
            .unwrap();
        std::fs::write(&account, stand.cluster.kubeconfig_of_token(&token)).unwrap();
        let log = dir.join(format!("{name}.log"));
        let mut serve = command(
            &dir.join(name),
            &account,
            &["control-plane", "--in-cluster"],
        );
        serve
            .args([
                "--source",
                "kubernetes=test",
                "--webhook-port",
                &webhooks.to_string(),
                "--forward-port",
                &api.to_string(),
                "--tls-port",
                &tls.to_string(),
            ])
            .arg("--settings")
            .arg(&file);
        for port in ["--xds-port", "--api-port", "--metrics-port"] {
            serve.args([port, "0"]);
        }
        let process = serve
            .args(more)
            .env("POD_NAME", name)
            .env("POD_NAMESPACE", "meshctl-system")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            process,
            webhooks,
            api,
            tls,
            log,
        }
    }

    /// Has the cluster reach its webhooks through the Service, and waits until they are believed.
    pub(super) async fn serve_webhooks(&self, stand: &Stand) {
        let address = (Ipv4Addr::LOCALHOST, self.webhooks).into();
        stand
            .cluster
            .route("meshctl-system", "meshctl", 443, address);
        for (resource, name) in [
            ("mutatingwebhookconfigurations", "meshctl-injector"),
            ("validatingwebhookconfigurations", "meshctl-validator"),
        ] {
            let resource = format!("{resource}.admissionregistration.k8s.io");
            stand
                .until("the authority of the webhooks", || {
                    let found = stand.object(&resource, "", name)?;
                    let hooks = found["webhooks"].as_array()?.clone();
                    let told = |hook: &Value| hook["clientConfig"]["caBundle"].is_string();
                    hooks.iter().all(told).then_some(())
                })
                .await;
        }
        let port = self.webhooks;
        stand
            .until("the webhooks to listen", || {
                std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
            })
            .await;
    }

    /// Asks a webhook as the API server does: by the Service's name, believing `roots`.
    pub(super) fn ask(&self, roots: &Path, path: &str, object: &Value) -> Value {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {"uid": "1", "namespace": "shop", "operation": "CREATE", "object": object},
        });
        let name = "meshctl.meshctl-system.svc";
        let output = Command::new("curl")
            .args(["-sS", "--fail", "--cacert"])
            .arg(roots)
            .args(["--resolve", &format!("{name}:{}:127.0.0.1", self.webhooks)])
            .args([
                "-H",
                "content-type: application/json",
                "-d",
                &review.to_string(),
            ])
            .arg(format!("https://{name}:{}{path}", self.webhooks))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["response"]["uid"], "1");
        answer["response"].clone()
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// As a machine ends it: nothing is given up, nobody is told. What its ports were.
    pub(super) fn kill(mut self) -> [u16; 3] {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        [self.webhooks, self.api, self.tls]
    }

    /// Stops it where it is, or lets it go on.
    pub(super) fn freeze(&self, frozen: bool) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        let signal = if frozen {
            nix::sys::signal::Signal::SIGSTOP
        } else {
            nix::sys::signal::Signal::SIGCONT
        };
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// As the kubelet ends it.
    pub(super) fn end(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_comes_changes_and_goes_without_a_trace() {
    let stand = Stand::start().await;
    let checked = stand.run(&["check", "--pre", "--target", "kubernetes"]);
    assert!(checked.status.success(), "{checked:?}");

    let printed = stand.run(&[
        "install",
        "--target",
        "kubernetes",
        "--dry-run",
        "-o",
        "json",
    ]);
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let made = stand.install(&[]);
    assert_eq!(made.len(), printed["items"].as_array().unwrap().len());
    assert!(made.iter().all(|(_, what)| what == "created"), "{made:?}");
    let again = stand.install(&[]);
    assert_eq!(again.len(), made.len());
    assert!(
        again.iter().all(|(_, what)| what == "unchanged"),
        "{again:?}"
    );

    let more = stand.install(&["--set", "egress=true"]);
    let created = more.iter().filter(|(_, what)| what == "created");
    assert_eq!(created.count(), 4, "{more:?}");
    // What was set stays set, and what is no longer wanted goes.
    let same = stand.install(&[]);
    assert!(same.iter().all(|(_, what)| what == "unchanged"), "{same:?}");
    let less = stand.install(&["--set", "egress=false"]);
    let removed = less.iter().filter(|(_, what)| what == "removed");
    assert_eq!(removed.count(), 4, "{less:?}");
    assert_eq!(
        stand.object("deployments.apps", "meshctl-system", "istio-egressgateway"),
        None
    );

    let gone = stand.run(&["uninstall", "--target", "kubernetes", "--purge"]);
    assert!(gone.status.success(), "{gone:?}");
    stand
        .until("the namespace to be gone", || {
            let left = stand.object("namespaces", "", "meshctl-system");
            left.is_none().then_some(())
        })
        .await;
    let left = stand.run(&[
        "uninstall",
        "--target",
        "kubernetes",
        "--purge",
        "-o",
        "json",
    ]);
    let left: Value = serde_json::from_slice(&left.stdout).unwrap();
    assert_eq!((&left["removed"], &left["kept"]), (&json!([]), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_do_their_work_with_the_account_that_is_installed() {
    let stand = Stand::start().await;
    stand.install(&[]);
    let one = Replica::start(&stand, "one");
    let roots = stand
        .until("the roots in a namespace", || {
            let found = stand.object("configmaps", "default", "meshctl-ca-root-cert")?;
            Some(found["data"]["root-cert.pem"].as_str()?.to_owned())
        })
        .await;
    assert_eq!(stand.holder().as_deref(), Some("one"));
    let secret = stand.object("secrets", "meshctl-system", "meshctl-ca");
    assert!(secret.unwrap()["data"]["ca-key.pem"].is_string());
    for (resource, name) in [
        ("mutatingwebhookconfigurations", "meshctl-injector"),
        ("validatingwebhookconfigurations", "meshctl-validator"),
    ] {
        let resource = format!("{resource}.admissionregistration.k8s.io");
        stand
            .until("the authority of the webhooks", || {
                let found = stand.object(&resource, "", name)?;
                let hooks = found["webhooks"].as_array()?.clone();
                let told = |hook: &Value| hook["clientConfig"]["caBundle"].is_string();
                hooks.iter().all(told).then_some(())
            })
            .await;
    }

    let believed = stand.dir.path().join("roots.pem");
    std::fs::write(&believed, &roots).unwrap();
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "web-", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web"}]},
    });
    let patched = one.ask(&believed, "/inject", &pod);
    assert_eq!(
        (&patched["allowed"], &patched["patchType"]),
        (&json!(true), &json!("JSONPatch"))
    );
    let mut wrong = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"hosts": ["web"], "http": [{"rout": []}]},
    });
    let refused = one.ask(&believed, "/validate", &wrong);
    assert_eq!(refused["allowed"], false);
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(message.contains("did you mean \"route\""), "{message}");
    wrong["spec"]["http"] = json!([{"route": [{"destination": {"host": "web"}}]}]);
    assert_eq!(one.ask(&believed, "/validate", &wrong)["allowed"], true);

    // Another replica has the same authority, waits, and goes on when the first leaves.
    let two = Replica::start(&stand, "two");
    let log = two.log.clone();
    stand
        .until("the second replica", || {
            let log = std::fs::read_to_string(&log).ok()?;
            log.contains("proxies are served").then_some(())
        })
        .await;
    assert_eq!(two.ask(&believed, "/validate", &wrong)["allowed"], true);
    assert_eq!(stand.holder().as_deref(), Some("one"));
    one.end();
    stand
        .until("the second replica to write", || {
            (stand.holder().as_deref() == Some("two")).then_some(())
        })
        .await;
    two.end();
    for replica in ["one", "two"] {
        let log = std::fs::read_to_string(stand.dir.path().join(format!("{replica}.log")));
        let log = log.unwrap();
        assert!(!log.contains("forbidden"), "{replica}: {log}");
    }
}

/// The running replica would write the roots, the Lease and the rest anew.
#[tokio::test(flavor = "multi_thread")]
async fn what_still_runs_ends_before_anything_of_it_is_removed() {
    let stand = Stand::start().await;
    stand.install(&[]);
    let deployment = stand.object("deployments.apps", "meshctl-system", "meshctl");
    let uid = deployment.unwrap()["metadata"]["uid"].clone();
    // Its pod, which stays until its kubelet says that it has ended.
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "one",
            "namespace": "meshctl-system",
            "labels": {"app": "meshctl", "istio.io/rev": "default"},
            "finalizers": ["example.com/kubelet"],
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "meshctl", "uid": uid}],
        },
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "meshctl", "image": "meshctl",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    stand.curl("POST", "/api/v1/namespaces/meshctl-system/pods", &pod);
    let replica = Replica::start(&stand, "one");
    let written = || stand.object("configmaps", "default", "meshctl-ca-root-cert");
    stand.until("the roots", written).await;

    let mut uninstall = command(
        &stand.dir.path().join("home"),
        &stand.admin,
        &["uninstall", "--target", "kubernetes", "--purge"],
    );
    let mut uninstall = uninstall.stdout(Stdio::null()).spawn().unwrap();
    stand
        .until("the pod to be told to end", || {
            let pod = stand.object("pods", "meshctl-system", "one")?;
            pod["metadata"]["deletionTimestamp"]
                .is_string()
                .then_some(())
        })
        .await;
    // Meanwhile everything that it wrote is there.
    assert!(written().is_some());
    assert_eq!(stand.holder().as_deref(), Some("one"));
    assert_eq!(uninstall.try_wait().unwrap(), None);
    replica.end();
    let mut ended = stand.object("pods", "meshctl-system", "one").unwrap();
    ended["metadata"]["finalizers"] = json!([]);
    stand.curl("PUT", "/api/v1/namespaces/meshctl-system/pods/one", &ended);
    assert!(uninstall.wait().unwrap().success());
    assert_eq!(written(), None);
    stand
        .until("the namespace to be gone", || {
            let left = stand.object("namespaces", "", "meshctl-system");
            left.is_none().then_some(())
        })
        .await;
}
