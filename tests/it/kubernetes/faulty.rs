//! An API server that is killed, slow, busy or wrong, while a mesh runs on it: the real control plane as the
//! installed account, and a sidecar whose calls never fail. What changes meanwhile is there afterwards, once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster::faults::{Fault, Faults};
use cluster::store::Key;
use meshctl::net::{BindOptions, bind};
use meshctl::rt::{Tasks, now};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::command;
use super::installed::{Replica, Stand};

const SYSTEM: &str = "meshctl-system";
const ROUTES: &str = "httproutes.gateway.networking.k8s.io";
/// The slice's key, and the two applications that it may name.
const SLICES: &str = "endpointslices.discovery.k8s.io";
const NAMES: [&str; 2] = ["a", "b"];

/// What befalls the API server.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    Killed,
    Of(Fault),
}

/// What `check` says of it.
impl Trouble {
    fn words(self) -> &'static str {
        match self {
            Self::Killed => "no answer for",
            Self::Of(Fault::Slow(_)) => "it took",
            Self::Of(Fault::Gone | Fault::GoneInStream) => "(410)",
            Self::Of(Fault::TooMany(_)) => "(429)",
            Self::Of(Fault::Internal) => "(500)",
            Self::Of(Fault::Unauthorized) => "(401)",
            // Nothing is refused, and nothing answers late.
            Self::Of(Fault::Ended | Fault::Mute) => "",
        }
    }

    /// Whether the control plane can write meanwhile.
    fn lets_write(self) -> bool {
        !matches!(
            self,
            Self::Killed | Self::Of(Fault::TooMany(_) | Fault::Internal | Fault::Unauthorized)
        )
    }
}

/// What the calls through the sidecar came to.
#[derive(Debug, Default)]
struct Calls {
    made: AtomicUsize,
    failed: Mutex<Vec<String>>,
    last: Mutex<String>,
}

/// A cluster with a mesh, and somebody who calls without end.
struct Scene {
    stand: Stand,
    replica: Replica,
    faults: Arc<Faults>,
    calls: Arc<Calls>,
    apps: [SocketAddr; 2],
    /// Where the changes of this test begin in the server's history.
    since: u64,
    /// Seconds for everything to come to everybody.
    patience: u64,
    tasks: Tasks,
    /// What a command printed last.
    said: Mutex<String>,
    _sidecar: Process,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Scene {
    async fn start() -> Self {
        let stand = Stand::start().await;
        stand.install(&[]);
        let account = format!("system:serviceaccount:{SYSTEM}:meshctl");
        let faults = Faults::of(stand.cluster.server(), &account);
        let tasks = Tasks::new();
        let apps = apps(&tasks);
        put(
            &stand,
            "namespaces",
            "",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        );
        put(
            &stand,
            "serviceaccounts",
            "shop",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "cart"}}),
        );
        for name in ["cart", "other"] {
            put(&stand, "services", "shop", service(name, apps[0].port()));
        }
        for (name, at) in NAMES.iter().zip(apps) {
            let pod = json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"app": "cart"}},
                "spec": {"serviceAccountName": "cart", "containers": [{"name": "app", "image": "app"}]},
            });
            put(&stand, "pods", "shop", pod.clone());
            let mut runs = pod;
            runs["status"] = json!({
                "phase": "Running",
                "podIP": at.ip().to_string(),
                "podIPs": [{"ip": at.ip().to_string()}],
                "conditions": [{"type": "Ready", "status": "True"}],
            });
            put(&stand, "pods", "shop", runs);
        }
        put(&stand, SLICES, "shop", slice(0, apps[0]));
        let client = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "client-1", "labels": {"app": "client"}},
            "spec": {"serviceAccountName": "cart", "containers": [{"name": "app", "image": "app"}]},
        });
        put(&stand, "pods", "shop", client);
        let replica = Replica::start(&stand, "one");
        let roots = stand
            .until("the roots in a namespace", || {
                let found = stand.object("configmaps", "shop", "meshctl-ca-root-cert")?;
                Some(found["data"]["root-cert.pem"].as_str()?.to_owned())
            })
            .await;
        let log = replica.log.clone();
        stand
            .until("the control plane to serve", || {
                let log = std::fs::read_to_string(&log).ok()?;
                log.contains("proxies are served").then_some(())
            })
            .await;
        let (sidecar, outbound) = sidecar(&stand, &replica, &roots);
        let calls = Arc::new(Calls::default());
        until_called(&stand, &replica, outbound).await;
        tasks.spawn("calls", call_on(outbound, Arc::clone(&calls)));
        let since = stand.cluster.server().state().store.revision();
        let scene = Self {
            since,
            patience: 25,
            stand,
            replica,
            faults,
            calls,
            apps,
            tasks,
            said: Mutex::default(),
            _sidecar: sidecar,
        };
        scene.until_well().await;
        scene.faults.take();
        scene
    }

    /// A command of somebody at the control plane itself, who needs no API server.
    fn json(&self, args: &[&str]) -> Option<Value> {
        let home = self.stand.dir.path().join("one");
        let none = home.join("no-kubeconfig");
        let output = command(&home, &none, &[args, &["-o", "json"]].concat())
            .output()
            .unwrap();
        let read = serde_json::from_slice(&output.stdout);
        *self.said.lock().unwrap() = format!("{output:?}");
        read.ok()
    }

    /// What `check` says of the cluster: whether all is well, and the details.
    fn checked(&self) -> Option<(bool, String)> {
        let report = self.json(&["check"])?;
        let sections = report["sections"].as_array()?.clone();
        let sources = sections.iter().find(|one| one["name"] == "sources")?;
        let checks = sources["checks"].as_array()?.iter();
        let well = checks.clone().all(|one| one["status"] == "ok");
        let details = checks.filter_map(|one| one["detail"].as_str());
        Some((well, details.collect::<Vec<_>>().join("\n")))
    }

    async fn until_well(&self) {
        self.until("the cluster to be followed again", || {
            self.checked()?.0.then_some(())
        })
        .await;
    }

    /// As [`Stand::until`], with what the control plane said.
    async fn until<T>(&self, what: &str, find: impl Fn() -> Option<T>) -> T {
        let deadline = now() + Duration::from_secs(self.patience);
        loop {
            if let Some(found) = find() {
                return found;
            }
            assert!(
                now() < deadline,
                "waited in vain for {what}: {}\n{}",
                self.said.lock().unwrap(),
                std::fs::read_to_string(&self.replica.log).unwrap()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until_calls(&self, more: usize) {
        let wanted = self.calls.made.load(Ordering::Relaxed) + more;
        self.until("calls through the sidecar", || {
            (self.calls.made.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    fn begin(&self, trouble: Trouble) {
        match trouble {
            Trouble::Killed => self.stand.cluster.kill(),
            Trouble::Of(fault) => self.faults.begin(self.stand.cluster.server(), fault),
        }
    }

    fn end(&self) {
        self.stand.cluster.revive();
        self.faults.end();
    }

    /// What people and controllers change, the `round`th time.
    fn change(&self, round: usize) {
        let stand = &self.stand;
        put(
            stand,
            SLICES,
            "shop",
            slice(round % 2, self.apps[round % 2]),
        );
        put(
            stand,
            "services",
            "shop",
            service(&format!("new-{round}"), 80),
        );
        if round > 1 {
            let key = key("services", "shop", &format!("new-{}", round - 1));
            stand.cluster.server().state().store.remove(&key);
        }
        let name = format!("route-{round}");
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "other"}],
                "rules": [{"backendRefs": [{"name": "cart", "port": i64::from(self.apps[0].port())}]}],
            },
        });
        put(stand, ROUTES, "shop", route);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("space-{round}")}});
        put(stand, "namespaces", "", namespace);
    }

    /// Waits until everything of the `round`th change has come to everybody.
    async fn until_changed(&self, round: usize) {
        self.until("the sidecar to call the other", || {
            (*self.calls.last.lock().unwrap() == NAMES[round % 2]).then_some(())
        })
        .await;
        self.until("services as they are now", || {
            let services = self.json(&["services"])?;
            let services = services.as_array()?;
            let has = |name: String| services.iter().any(|one| one["name"] == name);
            let now = has(format!("new-{round}")) && !has(format!("new-{}", round.wrapping_sub(1)));
            now.then_some(())
        })
        .await;
        self.until("the status of the route", || {
            let route = self
                .stand
                .object(ROUTES, "shop", &format!("route-{round}"))?;
            route["status"]["parents"][0]["conditions"][0]
                .is_object()
                .then_some(())
        })
        .await;
        self.until("the roots in the new namespace", || {
            let space = format!("space-{round}");
            self.stand
                .object("configmaps", &space, "meshctl-ca-root-cert")
        })
        .await;
    }

    /// Writes of the control plane since the last time, without those of its Lease.
    fn writes(&self) -> Vec<String> {
        let asked = self.faults.take();
        let writes = asked.iter().filter(|asked| asked.writes());
        let writes = writes.map(|asked| &asked.ask);
        let mut writes: Vec<String> = writes
            .filter(|ask| ask.resource != "leases")
            .map(|ask| {
                let (verb, of, sub) = (&ask.verb, &ask.resource, &ask.subresource);
                format!("{verb} {of}/{sub} {}/{}", ask.namespace, ask.name)
            })
            .collect();
        writes.sort();
        writes
    }

    /// Each object changed as often as was meant: made by the test, and once more by the control plane.
    fn nothing_twice(&self) {
        let store = &self.stand.cluster.server().state().store;
        let mut times: BTreeMap<(String, String), usize> = BTreeMap::new();
        for change in store.since_all(self.since).unwrap() {
            if change.key.resource.starts_with("leases") || change.key.resource == SLICES {
                continue;
            }
            let name = format!("{}/{}", change.key.namespace, change.key.name);
            *times.entry((change.key.resource, name)).or_default() += 1;
        }
        for ((resource, name), times) in times {
            let expected = match resource.as_str() {
                ROUTES => 2,
                "services" => continue,
                _ => 1,
            };
            assert_eq!(times, expected, "{resource} {name}");
        }
    }

    /// One fault from its beginning until nothing of it is left; how long that took after its end.
    async fn round(&mut self, round: usize, trouble: Trouble, hold: Duration) -> Duration {
        assert_eq!(self.writes(), Vec::<String>::new(), "before {trouble:?}");
        self.begin(trouble);
        let begun = now();
        self.change(round);
        if !trouble.words().is_empty() {
            self.until(&format!("check to say {trouble:?}"), || {
                let (well, said) = self.checked()?;
                (!well && said.contains(trouble.words())).then_some(())
            })
            .await;
        }
        self.until_calls(50).await;
        let left = hold.saturating_sub(begun.elapsed());
        // The hold of the long test; the quick one waits for conditions only.
        tokio::time::sleep(left).await;
        if !trouble.lets_write() {
            assert_eq!(self.writes(), Vec::<String>::new(), "during {trouble:?}");
        }
        self.end();
        let ended = now();
        self.until_changed(round).await;
        let took = ended.elapsed();
        self.until_well().await;
        self.until_calls(10).await;
        let mut expected = vec![
            format!("patch configmaps/ space-{round}/meshctl-ca-root-cert"),
            format!("update httproutes/status shop/route-{round}"),
        ];
        expected.sort();
        assert_eq!(self.writes(), expected, "after {trouble:?}");
        assert_eq!(*self.calls.failed.lock().unwrap(), Vec::<String>::new());
        took
    }

    async fn over(self) {
        self.nothing_twice();
        let log = std::fs::read_to_string(&self.replica.log).unwrap();
        assert_eq!(log.matches("proxies are served").count(), 1, "{log}");
        assert!(!log.contains("panicked"), "{log}");
        self.replica.end();
        self.tasks.end().await;
    }
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    Key {
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// Makes or changes an object as the cluster itself, past admission.
fn put(stand: &Stand, resource: &str, namespace: &str, object: Value) {
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let server = stand.cluster.server();
    let found = stand.object(resource, namespace, &name);
    if let Some(mut found) = found {
        for (field, value) in object.as_object().unwrap() {
            if field != "metadata" {
                found[field] = value.clone();
            }
        }
        let key = key(resource, namespace, &name);
        server.state().store.put(key, found);
    } else {
        server.create_now(resource, namespace, object).unwrap();
    }
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": port, "protocol": "TCP", "targetPort": port}]},
    })
}

fn slice(which: usize, app: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "cart-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "cart"}},
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [app.ip().to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": NAMES[which], "namespace": "shop"},
        }],
        "ports": [{"name": "http", "port": app.port(), "protocol": "TCP"}],
    })
}

/// Two applications that say their names, at one port of two addresses.
fn apps(tasks: &Tasks) -> [SocketAddr; 2] {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let mut port = 0;
    [1, 2].map(|last| {
        let address: SocketAddr = ([127, high | 64, low, last], port).into();
        let listener = bind(address, BindOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        port = address.port();
        let name = NAMES[usize::from(last - 1)];
        let connections = tasks.clone();
        tasks.spawn("app", async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn("app-connection", async move {
                    let mut stream = BufReader::new(stream);
                    while head(&mut stream).await.is_some() {
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{name}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    })
}

/// The lines of a head.
async fn head<S: tokio::io::AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            return Some(lines);
        }
        lines.push(line.trim().to_owned());
    }
}

fn sidecar(stand: &Stand, replica: &Replica, roots: &str) -> (Process, SocketAddr) {
    let home = stand.dir.path().join("client");
    std::fs::create_dir_all(&home).unwrap();
    let token = stand.cluster.token("shop", "cart", &["istio-ca"], 3_600);
    let (file, root) = (home.join("token"), home.join("root.pem"));
    std::fs::write(&file, token.unwrap()).unwrap();
    std::fs::write(&root, roots).unwrap();
    let outbound = cluster::ports::free_address();
    let args = [
        "proxy",
        "--namespace=shop",
        "--service=client",
        "--service-account=cart",
        "--name=client-1",
        "--app=127.0.0.1:1",
        "--inbound-port=0",
        "--admin-port=0",
        "--status-port=0",
        "--workers=1",
    ];
    let process = command(&home, &home.join("no-kubeconfig"), &args)
        .arg(format!("--outbound-port={}", outbound.port()))
        .arg(format!("--control-plane=127.0.0.1:{}", replica.tls))
        .arg(format!("--join-file={}", file.display()))
        .arg(format!("--root-cert={}", root.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(home.join("log")).unwrap())
        .spawn()
        .unwrap();
    (Process(process), outbound)
}

/// One call on a connection of its own: the body, or what went wrong.
async fn call(outbound: SocketAddr) -> Result<String, String> {
    let call = async {
        let socket = tokio::net::TcpSocket::new_v4().map_err(|e| e.to_string())?;
        let stream = socket.connect(outbound).await.map_err(|e| e.to_string())?;
        let mut stream = BufReader::new(stream);
        let ask =
            "GET / HTTP/1.1\r\nhost: cart.shop.svc.cluster.local\r\nconnection: close\r\n\r\n";
        let sent = stream.write_all(ask.as_bytes()).await;
        sent.map_err(|error| error.to_string())?;
        let lines = head(&mut stream).await.ok_or("no head")?;
        let mut body = String::new();
        let read = stream.read_to_string(&mut body).await;
        read.map_err(|error| error.to_string())?;
        if lines[0].contains("200") {
            Ok(body)
        } else {
            Err(format!("{lines:?} {body}"))
        }
    };
    tokio::time::timeout(Duration::from_secs(5), call)
        .await
        .unwrap_or_else(|_| Err("no answer".to_owned()))
}

async fn until_called(stand: &Stand, replica: &Replica, outbound: SocketAddr) {
    let deadline = now() + Duration::from_secs(30);
    loop {
        match call(outbound).await {
            Ok(_) => return,
            Err(error) => assert!(
                now() < deadline,
                "{error}: {}\n{}",
                std::fs::read_to_string(stand.dir.path().join("client/log")).unwrap(),
                std::fs::read_to_string(&replica.log).unwrap()
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn call_on(outbound: SocketAddr, calls: Arc<Calls>) {
    loop {
        match call(outbound).await {
            Ok(name) => *calls.last.lock().unwrap() = name,
            Err(error) => calls.failed.lock().unwrap().push(error),
        }
        calls.made.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_outlives_an_api_server_that_fails_and_nothing_is_lost_or_done_twice() {
    let mut scene = Scene::start().await;
    let troubles = [
        Trouble::Killed,
        Trouble::Of(Fault::Slow(Duration::from_millis(1_200))),
        Trouble::Of(Fault::Gone),
        Trouble::Of(Fault::GoneInStream),
        Trouble::Of(Fault::TooMany(1)),
        Trouble::Of(Fault::Internal),
        Trouble::Of(Fault::Unauthorized),
        Trouble::Of(Fault::Ended),
    ];
    for (round, trouble) in troubles.into_iter().enumerate() {
        scene.round(round + 1, trouble, Duration::ZERO).await;
    }
    // From outside, it is said that the cluster does not answer.
    scene.begin(Trouble::Killed);
    let outside = scene.stand.run(&["check"]);
    assert_eq!(outside.status.code(), Some(4), "{outside:?}");
    scene.end();
    scene.over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_end_at_once_are_not_begun_at_once() {
    let scene = Scene::start().await;
    scene.begin(Trouble::Of(Fault::Ended));
    scene.faults.take();
    let begun = now();
    let kinds = scene.until("some watches", || {
        let asked = scene.faults.count("watch");
        (asked > 300).then_some(asked)
    });
    let asked = kinds.await;
    // Some sixty kinds, each once a second.
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2), "{asked} in {took:?}");
    scene.end();
    scene.over().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "ten minutes"]
#[expect(clippy::print_stderr, reason = "what it measured is for a person")]
async fn a_mesh_outlives_ten_minutes_of_faults() {
    let seed = std::env::vars()
        .find(|(name, _)| name == "FAULTS_SEED")
        .map_or_else(|| fastrand::u64(..), |(_, seed)| seed.parse().unwrap());
    eprintln!("FAULTS_SEED={seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::start().await;
    // A watch that fell silent is noticed when it should have ended: after 65 s.
    scene.patience = 100;
    let begun = now();
    let mut round = 0;
    let mut longest = BTreeMap::<String, (usize, Duration)>::new();
    while begun.elapsed() < Duration::from_mins(10) {
        round += 1;
        let trouble = match chance.u8(0..9) {
            0 => Trouble::Killed,
            1 => Trouble::Of(Fault::Slow(Duration::from_millis(chance.u64(1_100..2_500)))),
            2 => Trouble::Of(Fault::Gone),
            3 => Trouble::Of(Fault::GoneInStream),
            4 => Trouble::Of(Fault::TooMany(chance.u64(1..5))),
            5 => Trouble::Of(Fault::Internal),
            6 => Trouble::Of(Fault::Unauthorized),
            7 => Trouble::Of(Fault::Ended),
            _ => Trouble::Of(Fault::Mute),
        };
        let hold = Duration::from_secs(chance.u64(1..45));
        eprintln!("{:>4} s: {trouble:?} begins", begun.elapsed().as_secs());
        let took = scene.round(round, trouble, hold).await;
        let calls = scene.calls.made.load(Ordering::Relaxed);
        eprintln!(
            "{:>4} s: {trouble:?} for {hold:?}; all there {took:?} after it; {calls} calls",
            begun.elapsed().as_secs()
        );
        let name = format!("{trouble:?}");
        let name = name.split(['(', ')']).nth(1).unwrap_or(&name).to_owned();
        let entry = longest.entry(name).or_default();
        *entry = (entry.0 + 1, entry.1.max(took));
    }
    let calls = scene.calls.made.load(Ordering::Relaxed);
    eprintln!(
        "{round} faults, {calls} calls, none failed; longest until all was there: {longest:?}"
    );
    scene.over().await;
}
