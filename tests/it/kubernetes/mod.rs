//! The control plane with a cluster as its source: the real binary against a fake API server.

mod accounts;
mod applied;
mod bad;
mod edited;
mod failover;
mod fake;
mod faulty;
mod gateways;
mod installed;
mod judged;
mod large;
mod seen;
mod several;
mod upgraded;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use fake::Fake;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use meshctl::rt::Tasks;
use serde_json::{Value, json};
use tokio::net::UnixStream;

const PATIENCE: Duration = Duration::from_secs(30);

const BOOKINFO: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: r1-a}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  clusterIP: 10.96.0.10
  selector: {app: reviews}
  ports: [{name: http, port: 9080, targetPort: http}]
status: {loadBalancer: {}}
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {selector: {app: ratings}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: details}
spec: {selector: {app: details}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: productpage}
spec: {selector: {app: productpage}, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
";

/// A split of the calls to reviews.
fn split(v1: u32, v2: u32) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "reviews"},
        "spec": {"hosts": ["reviews"], "http": [{"route": [
            {"destination": {"host": "reviews", "subset": "v1"}, "weight": v1},
            {"destination": {"host": "reviews", "subset": "v2"}, "weight": v2},
        ]}]},
    })
}

fn pod(name: &str, version: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "reviews", "version": version, "security.istio.io/tlsMode": "istio"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "reviews", "uid": "1", "controller": true}],
        },
        "spec": {
            "serviceAccountName": "bookinfo-reviews",
            "nodeName": "n1",
            "containers": [{"name": "reviews", "image": "reviews", "ports": [{"name": "http", "containerPort": 9080}]}],
        },
        "status": {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"},
    })
}

fn slice(pods: &[(&str, &str, bool)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(pod, address, ready)| {
            json!({
                "addresses": [address],
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": "default"},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "reviews-x", "labels": {"kubernetes.io/service-name": "reviews"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}],
    })
}

fn bookinfo(fake: &Fake) {
    fake.apply(BOOKINFO);
    fake.put(split(90, 10));
    fake.put(pod("reviews-0", "v1", "10.0.0.1"));
    fake.put(pod("reviews-1", "v2", "10.0.0.2"));
    fake.put(pod("reviews-2", "v2", "10.0.0.3"));
    fake.put(slice(&[
        ("reviews-0", "10.0.0.1", true),
        ("reviews-1", "10.0.0.2", true),
        ("reviews-2", "10.0.0.3", false),
    ]));
}

/// A control plane that follows `fake`.
struct Mesh {
    home: PathBuf,
    kubeconfig: PathBuf,
    control: Child,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.control.kill());
        drop(self.control.wait());
    }
}

impl Mesh {
    fn start(fake: &Fake) -> Self {
        Self::with(fake, &["--source", "kubernetes=fake"])
    }

    /// One that follows nothing.
    fn alone(fake: &Fake) -> Self {
        Self::with(fake, &[])
    }

    fn with(fake: &Fake, source: &[&str]) -> Self {
        let home = fake.dir().join("home");
        let kubeconfig = fake.kubeconfig();
        let run = |args: &[&str]| command(&home, &kubeconfig, args);
        let installed = run(&["install"]).output().unwrap();
        assert!(installed.status.success(), "{installed:?}");
        let mut serve = run(&["control-plane"]);
        serve.args(source);
        for port in ["--xds-port", "--tls-port", "--api-port", "--metrics-port"] {
            serve.args([port, "0"]);
        }
        let log = std::fs::File::create(fake.dir().join("log")).unwrap();
        let control = serve
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            home,
            kubeconfig,
            control,
        }
    }

    /// One that has listed everything.
    async fn ready(fake: &Fake) -> Self {
        let mesh = Self::start(fake);
        mesh.until("the first lists", "/ready", |(status, _)| *status == 200)
            .await;
        mesh
    }

    fn run(&self, args: &[&str]) -> Output {
        command(&self.home, &self.kubeconfig, args)
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed, for its JSON.
    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.with_file_name("log")).unwrap()
    }

    /// Asks the API, or says that nobody answers yet.
    async fn ask(&self, path: &str) -> (u16, Value) {
        ask(&self.home, path).await
    }

    async fn until(&self, what: &str, path: &str, done: impl Fn(&(u16, Value)) -> bool) -> Value {
        let deadline = meshctl::rt::now() + PATIENCE;
        loop {
            let answer = self.ask(path).await;
            if done(&answer) {
                return answer.1;
            }
            assert!(
                meshctl::rt::now() < deadline,
                "waited in vain for {what}: {answer:?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until calls to reviews are split like this.
    async fn until_split(&self, weights: &[u64]) {
        self.until("the split", "/routes?service=reviews", |(_, routes)| {
            weights_of(routes) == weights
        })
        .await;
    }

    /// Waits until these are the endpoints of reviews.
    async fn until_endpoints(&self, expected: &[&str]) {
        let path = "/endpoints?service=reviews";
        self.until("the endpoints", path, |(_, rows)| {
            addresses(rows) == expected
        })
        .await;
    }
}

/// Asks the API of the control plane at `home`, or says that nobody answers yet.
async fn ask(home: &std::path::Path, path: &str) -> (u16, Value) {
    let Ok(stream) = UnixStream::connect(home.join("control/api.sock")).await else {
        return (0, Value::Null);
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .unwrap();
    let asked = async {
        let request = Request::get(format!("/api/v1{path}"))
            .header("host", "meshctl")
            .body(Full::default())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    };
    tokio::select! {
        answer = asked => answer,
        ended = connection => panic!("{ended:?}"),
    }
}

fn command(home: &std::path::Path, kubeconfig: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command
        .args(args)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .env("KUBECONFIG", kubeconfig)
        .env("MESHCTL_HOME", home);
    command
}

fn weights_of(routes: &Value) -> Vec<u64> {
    let backends = routes[0]["backends"].as_array();
    backends
        .into_iter()
        .flatten()
        .map(|backend| backend["weight"].as_u64().unwrap())
        .collect()
}

fn addresses(rows: &Value) -> Vec<String> {
    let rows = rows.as_array();
    rows.into_iter()
        .flatten()
        .map(|row| {
            format!(
                "{} {}",
                row["address"].as_str().unwrap(),
                row["health"].as_str().unwrap()
            )
        })
        .collect()
}

fn named<'a>(rows: &'a Value, name: &str) -> &'a Value {
    let found = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {rows}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_serves_what_the_cluster_holds() {
    let fake = Fake::start();
    bookinfo(&fake);
    let mesh = Mesh::ready(&fake).await;
    let services = mesh.json(&["services", "-o", "json"]);
    assert_eq!(
        services.as_array().unwrap().len(),
        4,
        "all pages: {services}"
    );
    let reviews = named(&services, "reviews");
    assert_eq!(
        (&reviews["ready"], &reviews["instances"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(reviews["versions"], json!({"v1": 1, "v2": 2}));
    assert_eq!(reviews["addresses"], json!(["10.96.0.10"]));
    assert_eq!(reviews["mtls"], "permissive");
    let endpoints = mesh.json(&["endpoints", "reviews", "-o", "json"]);
    assert_eq!(
        addresses(&endpoints),
        [
            "10.0.0.1:9080 healthy",
            "10.0.0.2:9080 healthy",
            "10.0.0.3:9080 unhealthy"
        ]
    );
    let routes = mesh.json(&["routes", "reviews", "-o", "json"]);
    assert_eq!(weights_of(&routes), [90, 10]);
    assert_eq!(routes[0]["origin"], "VirtualService default/reviews");
    assert_eq!(endpoints[0]["mtls"], true, "its pod has a sidecar");

    let got = mesh.json(&["get", "virtualservice", "reviews", "-o", "json"]);
    let text = got.to_string();
    assert!(
        text.contains("\"weight\":90") && !text.contains("managedFields"),
        "{text}"
    );

    // What the cluster holds is changed there.
    let file = fake.dir().join("mine.yaml");
    std::fs::write(&file, split(50, 50).to_string()).unwrap();
    let file = file.to_str().unwrap();
    for args in [
        ["apply", "-f", file].as_slice(),
        &["delete", "virtualservice", "reviews"],
        &["canary", "set", "reviews", "v1=50", "v2=50"],
    ] {
        let refused = mesh.run(args);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{args:?}: {said}");
        assert!(
            said.contains("VirtualService default/reviews is kept in Kubernetes")
                && said.contains("kubectl"),
            "{said}"
        );
    }
    // What it does not hold stands beside it.
    let own = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: ratings}, \
               spec: {host: ratings, subsets: [{name: v1, labels: {version: v1}}]}}";
    std::fs::write(file, own).unwrap();
    let applied = mesh.run(&["apply", "-f", file]);
    assert!(applied.status.success(), "{applied:?}");
    let rules = mesh.json(&["get", "destinationrules", "-o", "json"]);
    assert_eq!(rules.as_array().unwrap().len(), 2, "{rules}");

    let check = mesh.json(&["check", "-o", "json"]);
    let sections = check["sections"].as_array().unwrap();
    let sources = sections.iter().find(|section| section["name"] == "sources");
    let source = &sources.unwrap()["checks"][0];
    assert_eq!(source["status"], "ok", "{source}");
    assert_eq!(source["text"], "Kubernetes is followed (fake)");
    let detail = source["detail"].as_str().unwrap();
    assert!(
        detail.contains("4 Service, 3 Pod, 1 EndpointSlice, 1 Node, Ingress is not installed")
            && detail.contains(" 1 VirtualService, 1 DestinationRule,")
            && detail.contains("PeerAuthentication is not installed"),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_arrive_and_what_is_gone_leaves() {
    let fake = Fake::start();
    bookinfo(&fake);
    let mesh = Mesh::ready(&fake).await;
    mesh.until_split(&[90, 10]).await;
    fake.put(split(50, 50));
    mesh.until_split(&[50, 50]).await;
    // A pod that is deleted leaves, even while its slice still names it.
    fake.delete("Pod", "reviews-1");
    mesh.until_endpoints(&["10.0.0.1:9080 healthy", "10.0.0.3:9080 unhealthy"])
        .await;
    // An endpoint that leaves its slice leaves, and one that is ready now may be called.
    fake.put(slice(&[("reviews-2", "10.0.0.3", true)]));
    mesh.until_endpoints(&["10.0.0.3:9080 healthy"]).await;
    // A pod arrives as two objects, in either order.
    fake.put(slice(&[
        ("reviews-2", "10.0.0.3", true),
        ("reviews-3", "10.0.0.4", true),
    ]));
    fake.put(pod("reviews-3", "v1", "10.0.0.4"));
    mesh.until_endpoints(&["10.0.0.3:9080 healthy", "10.0.0.4:9080 healthy"])
        .await;
    fake.delete("VirtualService", "reviews");
    mesh.until(
        "the default route",
        "/routes?service=reviews",
        |(_, routes)| routes[0]["origin"] == "Service default/reviews",
    )
    .await;
    fake.delete("Service", "details");
    mesh.until("one service less", "/services", |(_, services)| {
        services.as_array().is_some_and(|all| all.len() == 3)
    })
    .await;
    // A kind that is installed later, in an older version, is found.
    fake.install("security.istio.io/v1beta1");
    fake.apply(
        "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\n\
         metadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n",
    );
    mesh.until("strict", "/services", |(_, services)| {
        services.is_array() && named(services, "reviews")["mtls"] == "strict"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_history_is_listed_again_without_an_empty_world_in_between() {
    let fake = Fake::start();
    bookinfo(&fake);
    let mesh = Mesh::ready(&fake).await;
    mesh.until_split(&[90, 10]).await;
    let before = fake.asked();
    // A page takes far longer than changes are gathered for, so that a world of half a list would be seen.
    fake.expire(Duration::from_millis(400), |delete| {
        delete("Service", "details");
        delete("Pod", "reviews-2");
    });
    let deadline = meshctl::rt::now() + PATIENCE;
    loop {
        let (_, services) = mesh.ask("/services").await;
        let (_, routes) = mesh.ask("/routes?service=reviews").await;
        let reviews = named(&services, "reviews");
        assert_eq!(weights_of(&routes), [90, 10]);
        assert_eq!(named(&services, "ratings")["name"], "ratings");
        let count = services.as_array().unwrap().len();
        assert!(matches!(count, 3 | 4), "{services}");
        let instances = reviews["instances"].as_u64().unwrap();
        assert!(matches!(instances, 2 | 3), "{services}");
        // Seven kinds, one of them in two pages.
        if (count, instances) == (3, 2) && fake.asked().0 >= before.0 + 8 {
            break;
        }
        assert!(meshctl::rt::now() < deadline, "{services}\n{}", mesh.log());
    }
    // And it is followed from there.
    fake.put(split(10, 90));
    mesh.until_split(&[10, 90]).await;
    assert!(fake.asked().1 > before.1, "watches were begun anew");
    assert!(!mesh.log().contains("does not answer"), "{}", mesh.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_leaves_the_world_as_it_was() {
    let mut fake = Fake::start();
    bookinfo(&fake);
    let mesh = Mesh::ready(&fake).await;
    mesh.until_split(&[90, 10]).await;
    let (_, before) = mesh.ask("/services").await;
    fake.kill().await;
    let source = |check: &Value| {
        let sections = check["sections"].as_array().unwrap();
        let found = sections.iter().find(|section| section["name"] == "sources");
        found.unwrap()["checks"][0].clone()
    };
    mesh.until("the loss to be noticed", "/check", |(_, check)| {
        source(check)["status"] == "warning"
    })
    .await;
    let (_, check) = mesh.ask("/check").await;
    let detail = source(&check)["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("what is known stays in force"), "{detail}");
    assert_eq!(mesh.ask("/services").await.1, before);
    assert_eq!(mesh.ask("/ready").await.0, 200);
    // It misses something, comes back, and tells it.
    fake.put(split(20, 80));
    fake.delete("Pod", "reviews-0");
    fake.revive();
    mesh.until_split(&[20, 80]).await;
    mesh.until_endpoints(&["10.0.0.2:9080 healthy", "10.0.0.3:9080 unhealthy"])
        .await;
    mesh.until("all watches to be back", "/check", |(_, check)| {
        source(check)["status"] == "ok"
    })
    .await;
    let log = mesh.log();
    assert_eq!(
        log.matches("Kubernetes does not answer").count(),
        1,
        "{log}"
    );
    assert_eq!(log.matches("Kubernetes answers again").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_object_hurts_no_other() {
    let fake = Fake::start();
    bookinfo(&fake);
    let mut broken = split(1, 1);
    broken["metadata"]["name"] = "broken".into();
    broken["spec"]["hosts"] = json!(["ratings"]);
    broken["spec"]["http"][0]["timeout"] = "soon".into();
    fake.put(broken);
    let mesh = Mesh::ready(&fake).await;
    mesh.until_split(&[90, 10]).await;
    let (_, findings) = mesh.ask("/findings").await;
    let text = findings.to_string();
    assert!(
        text.contains("\"name\":\"broken\"") && text.contains("soon") && !text.contains("\"file\""),
        "{text}"
    );
    assert!(
        mesh.log().contains("VirtualService default/broken"),
        "{}",
        mesh.log()
    );
    // One that was good keeps its last good form, and others go on changing.
    let mut worse = split(30, 70);
    worse["spec"]["http"][0]["route"][0]["weight"] = "many".into();
    fake.put(worse);
    let mut rule = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "new"}});
    rule["spec"] = json!({"selector": {"app": "new"}, "ports": [{"port": 80}]});
    fake.put(rule);
    mesh.until("the next service", "/services", |(_, services)| {
        services.as_array().is_some_and(|all| all.len() == 5)
    })
    .await;
    mesh.until("the finding", "/findings", |(_, findings)| {
        findings.to_string().contains("\"many\"") || findings.to_string().contains("many")
    })
    .await;
    mesh.until_split(&[90, 10]).await;
    fake.put(split(60, 40));
    mesh.until_split(&[60, 40]).await;
    let (_, findings) = mesh.ask("/findings").await;
    assert!(!findings.to_string().contains("many"), "{findings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_served_once_everything_has_been_listed() {
    let mut fake = Fake::dead();
    bookinfo(&fake);
    fake.forbid("nodes");
    let mesh = Mesh::start(&fake);
    mesh.until("the loss to be noticed", "/check", |(status, check)| {
        *status == 200 && check.to_string().contains("proxies are not served yet")
    })
    .await;
    assert_eq!(mesh.ask("/ready").await.0, 503);
    let check = mesh.run(&["check"]);
    assert_eq!(check.status.code(), Some(1), "{check:?}");

    let (_, version) = mesh.ask("/version").await;
    let xds = version["xdsAddress"].as_str().unwrap().parse().unwrap();
    let tasks = Tasks::new();
    let mut proxy = crate::ads::proxy("p", xds, None, &tasks).await;
    let early = tokio::time::timeout(Duration::from_millis(200), proxy.view.changed()).await;
    assert!(
        early.is_err(),
        "a proxy was told of a world that is not known yet"
    );
    assert_eq!(mesh.ask("/proxies").await.1, json!([]));

    fake.revive();
    mesh.until("the first lists", "/ready", |(status, _)| *status == 200)
        .await;
    mesh.until_split(&[90, 10]).await;
    let subset = "outbound|9080|v1|reviews.default.svc.cluster.local";
    crate::stand::until("the view", 30, || {
        let view = proxy.view.load();
        let endpoints = &view.endpoints.get(subset)?.endpoints;
        (endpoints.len() == 1 && endpoints[0].mtls).then_some(())
    })
    .await;
    // What may not be read and can be done without is said.
    let (_, check) = mesh.ask("/check").await;
    assert!(
        check.to_string().contains("Node may not be read"),
        "{check}"
    );
    tasks.end().await;
}
