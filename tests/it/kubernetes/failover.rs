//! The writing replica of two is killed under load: another writes in its stead, proxies go on without a failed
//! request and get what is newer from the other replica, and the killed one comes back as a follower.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cluster::Cluster;
use cluster::store::Key;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::{Tasks, now};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::installed::{Replica, Stand};
use super::seen::{SYSTEM, address, run_pod, start};
use super::{ask, command};

/// Writers move in this time, whatever happened to who wrote.
const MOVED: Duration = Duration::from_secs(15);
/// How often configuration changes.
const CHANGES: Duration = Duration::from_millis(200);
/// How often each client asks.
const ASKED: Duration = Duration::from_millis(4);
/// Where `cart` is called.
const PORT: u16 = 8080;

pub(super) const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: cart, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// What every call is to show: the number of the change that was made last.
fn round_of(number: u64) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {"hosts": ["cart"], "http": [{
            "route": [{"destination": {"host": "cart"}}],
            "headers": {"response": {"set": {"x-round": number.to_string()}}},
        }]},
    })
}

/// Puts an object, as somebody who may.
pub(super) fn put(cluster: &Cluster, resource: &str, mut object: Value) {
    let text = |name: &str| object["metadata"][name].as_str().unwrap().to_owned();
    let key = Key {
        resource: resource.to_owned(),
        namespace: text("namespace"),
        name: text("name"),
    };
    let server = cluster.server();
    let found = server.state().store.get(&key);
    match found {
        None => {
            server
                .create_now(resource, &key.namespace, object)
                .map(drop)
                .unwrap();
        }
        Some(found) => {
            object["metadata"] = found["metadata"].clone();
            server.state().store.put(key, object);
        }
    }
}

/// A pod's proxy that knows both replicas.
pub(super) struct Sidecar {
    process: Child,
    log: PathBuf,
    /// Where its application calls.
    pub(super) outbound: SocketAddr,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Sidecar {
    pub(super) fn start(
        (stand, planes): (&Stand, &str),
        service: &str,
        name: &str,
        application: SocketAddr,
    ) -> Self {
        Self::of_version((stand, planes), service, name, ("", application))
    }

    /// One of a version.
    pub(super) fn of_version(
        (stand, planes): (&Stand, &str),
        service: &str,
        name: &str,
        (version, application): (&str, SocketAddr),
    ) -> Self {
        let mut labels = json!({"app": service, "security.istio.io/tlsMode": "istio"});
        if !version.is_empty() {
            labels["version"] = version.into();
        }
        run_pod(stand, "shop", name, &labels, service);
        let home = stand.dir.path().join(name);
        std::fs::create_dir_all(&home).unwrap();
        let (token, root, log) = (home.join("token"), home.join("root.pem"), home.join("log"));
        let text = stand.cluster.token("shop", service, &["istio-ca"], 3_600);
        std::fs::write(&token, text.unwrap()).unwrap();
        let roots = stand.object("configmaps", SYSTEM, "meshctl-ca-root-cert");
        let roots = roots.unwrap()["data"]["root-cert.pem"].clone();
        std::fs::write(&root, roots.as_str().unwrap()).unwrap();
        let fixed = [
            "proxy",
            "--namespace=shop",
            "--inbound-port=0",
            "--outbound-port=15001",
            "--admin-port=0",
            "--status-port=0",
            "--workers=1",
        ];
        let process = command(&home, &home.join("no-kubeconfig"), &fixed)
            .arg(format!("--service={service}"))
            .arg(format!("--service-account={service}"))
            .arg(format!("--app={PORT}={application}"))
            .arg(format!("--name={name}"))
            .arg(format!("--address={}", address(name)))
            .arg(format!("--control-plane={planes}"))
            .arg(format!("--join-file={}", token.display()))
            .arg(format!("--root-cert={}", root.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let outbound = SocketAddr::new(address(name).parse().unwrap(), 15_001);
        Self {
            process,
            log,
            outbound,
        }
    }
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    failed: Mutex<Vec<String>>,
    /// The newest round, by client.
    rounds: Mutex<Vec<u64>>,
    over: AtomicBool,
}

impl Seen {
    fn rounds(&self) -> Vec<u64> {
        self.rounds.lock().unwrap().clone()
    }
}

/// Calls `cart` again and again over one connection to a sidecar, which nothing may end.
async fn call(seen: Arc<Seen>, which: usize, outbound: SocketAddr) {
    let tcp = connect(outbound, ConnectOptions::default()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(tcp))
            .await
            .unwrap();
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let mut every = tokio::time::interval(ASKED);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !seen.over.load(Ordering::Relaxed) {
        every.tick().await;
        let request = http::Request::get("/").header("host", "cart.shop");
        let answer = async {
            let request = request.body(Full::default()).map_err(|e| e.to_string())?;
            let answer = sender.send_request(request).await;
            let answer = answer.map_err(|e| e.to_string())?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            if head.status != 200 || body != "cart" {
                return Err(format!("{} {body:?}", head.status));
            }
            let round = head.headers.get("x-round");
            let round = round.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            round.ok_or_else(|| "no round".to_owned())
        };
        match tokio::time::timeout(Duration::from_secs(10), answer).await {
            Ok(Ok(round)) => {
                seen.answered.fetch_add(1, Ordering::Relaxed);
                seen.rounds.lock().unwrap()[which] = round;
            }
            Ok(Err(why)) => return seen.failed.lock().unwrap().push(why),
            Err(_) => return seen.failed.lock().unwrap().push("no answer".to_owned()),
        }
    }
    drop(sender);
    connections.join_next().await.unwrap().unwrap().unwrap();
}

/// Which proxies have a stream to a replica.
pub(super) async fn proxies_of(stand: &Stand, replica: &str) -> BTreeSet<String> {
    let (_, rows) = ask(&stand.dir.path().join(replica), "/proxies").await;
    let rows = rows.as_array().into_iter().flatten();
    rows.map(|row| row["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn both(stand: &Stand) -> [BTreeSet<String>; 2] {
    [
        proxies_of(stand, "one").await,
        proxies_of(stand, "two").await,
    ]
}

async fn until(what: &str, limit: Duration, mut done: impl AsyncFnMut() -> bool) -> Duration {
    let began = now();
    while !done().await {
        assert!(began.elapsed() < limit, "waited {limit:?} for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

/// What answers behind the sidecars of `cart`.
fn application(tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let at = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(axum::routing::get(|| async { "cart" }));
    tasks.spawn("application", async move {
        drop(axum::serve(listener, router).await);
    });
    at
}

/// Starts proxies, the last of `web` until both replicas have some: which comes to whom is chance.
async fn proxies(
    stand: &Stand,
    replicas: &[Replica; 2],
    service: &str,
    application: SocketAddr,
    how_many: u8,
) -> Vec<Sidecar> {
    let planes = replicas
        .each_ref()
        .map(|one| format!("127.0.0.1:{}", one.tls));
    let planes = planes.join(",");
    let mut started = Vec::new();
    for i in 0..how_many {
        // The last letter makes the address, and `o` and `e` are the replicas'.
        let letter = char::from(if service == "cart" { b'1' } else { b'p' } + i);
        let name = format!("{service}-{letter}");
        loop {
            let sidecar = Sidecar::start((stand, &planes), service, &name, application);
            until(&name, Duration::from_secs(30), async || {
                let [one, two] = both(stand).await;
                one.contains(&name) || two.contains(&name)
            })
            .await;
            let alone = both(stand).await.iter().any(BTreeSet::is_empty);
            if i + 1 < how_many || service == "cart" || !alone {
                started.push(sidecar);
                break;
            }
            drop(sidecar);
            until("its end", Duration::from_secs(30), async || {
                let [one, two] = both(stand).await;
                !one.contains(&name) && !two.contains(&name)
            })
            .await;
        }
    }
    started
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "what was measured")]
async fn when_who_writes_is_killed_another_writes_and_no_request_fails() {
    let (stand, replicas) = start().await;
    super::seen::apply(&stand, "shop.yaml", SHOP);
    let stand = Arc::new(stand);
    let tasks = Tasks::new();
    let application = application(&tasks);
    let round = Arc::new(AtomicU64::new(1));
    put(
        &stand.cluster,
        "virtualservices.networking.istio.io",
        round_of(1),
    );
    let _carts = proxies(&stand, &replicas, "cart", application, 2).await;
    super::seen::slice(&stand, &["cart-1", "cart-2"]);

    let webs = proxies(&stand, &replicas, "web", application, 8).await;
    let leader = stand.holder().unwrap();
    let heir = if leader == "one" { "two" } else { "one" };
    let before = [
        proxies_of(&stand, &leader).await,
        proxies_of(&stand, heir).await,
    ];
    let all: BTreeSet<String> = before.iter().flatten().cloned().collect();
    assert_eq!(all.len(), 10, "{before:?}");
    assert!(before.iter().all(|some| !some.is_empty()), "{before:?}");

    // One that has a stream need not have been sent anything yet.
    for web in &webs {
        until("a proxy to listen", Duration::from_secs(20), async || {
            connect(web.outbound, ConnectOptions::default())
                .await
                .is_ok()
        })
        .await;
    }
    // Load, and a change five times a second, from here to the end.
    let seen = Arc::new(Seen::default());
    seen.rounds.lock().unwrap().resize(webs.len(), 0);
    let mut clients = JoinSet::new();
    for (which, web) in webs.iter().enumerate() {
        clients.spawn(call(Arc::clone(&seen), which, web.outbound));
    }
    let mut writer = JoinSet::new();
    {
        let (stand, round, seen) = (Arc::clone(&stand), Arc::clone(&round), Arc::clone(&seen));
        writer.spawn(async move {
            let mut every = tokio::time::interval(CHANGES);
            while !seen.over.load(Ordering::Relaxed) {
                every.tick().await;
                let next = round.load(Ordering::Relaxed) + 1;
                put(
                    &stand.cluster,
                    "virtualservices.networking.istio.io",
                    round_of(next),
                );
                round.store(next, Ordering::Relaxed);
            }
        });
    }
    let everybody_has = |wanted: u64| {
        let seen = Arc::clone(&seen);
        async move || {
            let failed = seen.failed.lock().unwrap().clone();
            assert!(failed.is_empty(), "{failed:?}");
            seen.rounds().iter().all(|round| *round >= wanted)
        }
    };
    until("changes", Duration::from_secs(20), everybody_has(5)).await;

    let [one, two] = replicas;
    let (dead, alive) = if leader == "one" {
        (one, two)
    } else {
        (two, one)
    };
    let ports = dead.kill();
    let killed = now();
    // Something that only who writes does.
    let later = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "later"}});
    stand
        .cluster
        .server()
        .create_now("namespaces", "", later)
        .unwrap();

    until("all at the other", MOVED, async || {
        proxies_of(&stand, heir).await == all
    })
    .await;
    let linked = killed.elapsed();
    let wanted = round.load(Ordering::Relaxed) + 1;
    until("newer configuration", MOVED, everybody_has(wanted)).await;
    let newer = killed.elapsed();
    until("another holder", MOVED, async || {
        stand.holder().as_deref() == Some(heir)
    })
    .await;
    let held = killed.elapsed();
    until("another writer", MOVED, async || {
        let roots = stand.object("configmaps", "later", "meshctl-ca-root-cert");
        roots.is_some()
    })
    .await;
    let written = killed.elapsed();
    println!(
        "after the kill: all proxies at the other replica {linked:?}, newer configuration in force {newer:?}, the Lease moved {held:?}, written {written:?}"
    );
    assert!(written < MOVED, "{written:?}");

    // The dead one comes back, serves, and does not write while the other does.
    let back = Replica::start_at(&stand, &leader, ports);
    let log = || std::fs::read_to_string(&back.log).unwrap();
    until("its return", Duration::from_secs(30), async || {
        log().contains("proxies are served")
    })
    .await;
    let renewed = || -> Value {
        let lease = stand.object("leases.coordination.k8s.io", SYSTEM, "meshctl-leader");
        lease.unwrap()["spec"]["renewTime"].clone()
    };
    for _ in 0..2 {
        let before = renewed();
        until("a renewal", MOVED, async || renewed() != before).await;
    }
    assert_eq!(stand.holder().as_deref(), Some(heir));
    assert!(!log().contains("this replica writes"), "{}", log());

    // Whose replica ends in peace finds the one that came back.
    alive.end();
    until("all at the one that came back", MOVED, async || {
        proxies_of(&stand, &leader).await == all
    })
    .await;
    let wanted = round.load(Ordering::Relaxed) + 1;
    until("newer configuration", MOVED, everybody_has(wanted)).await;
    until("it to write", MOVED, async || {
        stand.holder().as_deref() == Some(&leader)
    })
    .await;

    seen.over.store(true, Ordering::Relaxed);
    writer.join_next().await.unwrap().unwrap();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let failed = seen.failed.lock().unwrap().clone();
    assert!(failed.is_empty(), "{failed:?}");
    let answered = seen.answered.load(Ordering::Relaxed);
    println!("{answered} requests, none failed");
    assert!(answered > 1_000);
    for web in &webs {
        let log = std::fs::read_to_string(&web.log).unwrap();
        assert!(!log.contains("refused part"), "{log}");
    }
    tasks.end().await;
}
