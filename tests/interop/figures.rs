//! Everybody who counts requests says the same: who sends them, both proxies, Prometheus, and `stats`. And what the
//! boards in `assets/grafana` and Istio's own ask of a real Prometheus has an answer.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meshctl::net::{BindOptions, bind};
use meshctl::rt::Tasks;
use meshctl::telemetry::registry::to_float;
use serde_json::Value;

use crate::backend::Caller;
use crate::load::Load;
use crate::mesh::{App, Mesh, program, service};
use crate::processes::Process;
use crate::stand::until;

/// Every so many requests take long.
const SLOW_EVERY: u64 = 25;
const SLOW: Duration = Duration::from_millis(60);

/// Answers `name`; every 25th takes 60 ms, every 50th is 503.
fn uneven(name: &'static str, tasks: &Tasks) -> SocketAddr {
    use hyper::service::service_fn;
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, count) = (tasks.clone(), Arc::new(AtomicU64::new(0)));
    tasks.spawn("backend", async move {
        while let Ok((io, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            connections.spawn("connection", async move {
                let answer = service_fn(move |_: hyper::Request<hyper::body::Incoming>| {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    async move {
                        if number.is_multiple_of(SLOW_EVERY) {
                            tokio::time::sleep(SLOW).await;
                        }
                        let status = if number % 50 == 7 { 503 } else { 200 };
                        let body = http_body_util::Full::new(bytes::Bytes::from(name));
                        let response = hyper::Response::builder().status(status).body(body);
                        Ok::<_, std::convert::Infallible>(response.unwrap())
                    }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(io), answer)
                    .await;
                let _ended = served.is_ok();
            });
        }
    });
    address
}

/// What was sent: how many, how many of those were not 200, and how long each took.
#[derive(Debug, Default)]
struct Sent {
    requests: u64,
    bad: u64,
    took_ms: Vec<f64>,
}

impl Sent {
    async fn send(&mut self, to: SocketAddr, host: &'static str, count: u64) {
        let caller = Caller::new(to);
        for _ in 0..count {
            let since = meshctl::rt::now();
            let (status, _) = caller.get(host, "/").await.unwrap();
            self.took_ms.push(since.elapsed().as_secs_f64() * 1_000.0);
            self.requests += 1;
            self.bad += u64::from(status != 200);
        }
    }

    fn p99(&mut self) -> f64 {
        self.took_ms.sort_by(f64::total_cmp);
        self.took_ms[self.took_ms.len() * 99 / 100]
    }
}

/// A page of metrics.
fn page(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Sum of `istio_requests_total` on the page of a proxy, of lines with all of `labels`.
fn counted(at: IpAddr, labels: &[&str]) -> u64 {
    let text = page(SocketAddr::new(at, 15_090), "/stats/prometheus");
    text.lines()
        .filter(|line| line.starts_with("istio_requests_total{"))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

fn row(mesh: &Mesh, args: &[&str]) -> Option<Value> {
    let report = mesh.json(&[&["stats", "web", "--window", "30m"], args].concat());
    report["rows"].as_array().unwrap().first().cloned()
}

fn stats(mesh: &Mesh, args: &[&str]) -> u64 {
    row(mesh, args).map_or(0, |row| row["requests"].as_u64().unwrap())
}

async fn agree(mesh: &Mesh, sent: &Sent) {
    until("stats to count what was sent", 30, || {
        let all = stats(mesh, &[]);
        assert!(all <= sent.requests, "{all} of {}", sent.requests);
        (all == sent.requests).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_counts_says_the_same_whatever_is_killed_meanwhile() {
    let tasks = Tasks::new();
    let mut mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(&service("shop", &[("http", 9080)]));
    let app = |service, version, at| App {
        service,
        version,
        port: 9080,
        at,
        flags: &[],
    };
    let (v1, v2) = (uneven("v1", &tasks), uneven("v2", &tasks));
    let webs = [
        mesh.sidecar(&app("web", "v1", v1)).await,
        mesh.sidecar(&app("web", "v2", v2)).await,
    ];
    let unused = uneven("shop", &tasks);
    let shop_app = app("shop", "v1", unused);
    let mut shop = mesh.sidecar(&shop_app).await;
    mesh.settled().await;

    let mut sent = Sent::default();
    sent.send(shop.outbound(), "web:9080", 1_500).await;
    agree(&mesh, &sent).await;
    let source = counted(
        shop.address,
        &["reporter=\"source\"", "destination_service_name=\"web\""],
    );
    let arrived: u64 = webs
        .iter()
        .map(|web| counted(web.address, &["reporter=\"destination\""]))
        .sum();
    assert_eq!((source, arrived), (sent.requests, sent.requests));
    let all = row(&mesh, &[]).unwrap();
    let good = 100.0 * to_float(sent.requests - sent.bad) / to_float(sent.requests);
    assert!(
        (all["successPercent"].as_f64().unwrap() - good).abs() < 1e-9,
        "{all}"
    );
    // The slow 4 % are above the 96th percentile.
    let (said, real) = (all["latencyP99Ms"].as_f64().unwrap(), sent.p99());
    eprintln!(
        "p99 of stats {said:.1} ms, of who sent {real:.1} ms, off by {:.1} %",
        (said / real - 1.0) * 100.0
    );
    // The histogram's error, and what the way to the first proxy takes.
    assert!((said - real).abs() <= real * 0.143 + 2.0, "{said} {real}");
    let classes = row(&mesh, &["--code", "5xx"]).unwrap();
    assert_eq!(classes["requests"].as_u64().unwrap(), sent.bad);

    // The control plane is killed in the middle, and is away for a while.
    sent.send(shop.outbound(), "web:9080", 150).await;
    mesh.kill_control_plane();
    sent.send(shop.outbound(), "web:9080", 150).await;
    mesh.start_control_plane().await;
    sent.send(shop.outbound(), "web:9080", 150).await;
    agree(&mesh, &sent).await;

    // Another process of the same proxy has soon counted more than the first had.
    let token = mesh.run(
        &["token", "create", "-q", "--service-account", "shop-account"],
        None,
    );
    mesh.restart(&mut shop, &shop_app, token.trim());
    until("the new process to serve", 20, || {
        TcpStream::connect(shop.outbound()).ok()
    })
    .await;
    mesh.settled().await;
    sent.send(shop.outbound(), "web:9080", 2_500).await;
    agree(&mesh, &sent).await;

    // One takes over from the other, and both count.
    let old = mesh.replace(&mut shop, &shop_app);
    sent.send(shop.outbound(), "web:9080", 300).await;
    agree(&mesh, &sent).await;
    drop(old);

    // Point by point it is as many, and by version, too.
    let points = |by: &str| -> u64 {
        let socket = mesh.home().join("control/api.sock");
        let url = format!(
            "http://localhost/api/v1/series?window=1800&step=1&service=web.default&by={by}"
        );
        let (ok, text) = program(
            "curl",
            &["-sS", "--unix-socket", &socket.display().to_string(), &url],
        );
        assert!(ok, "{text}");
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["stepSeconds"], 1, "{report}");
        let rows = report["rows"].as_array().unwrap();
        let points = rows
            .iter()
            .flat_map(|row| row["points"].as_array().unwrap());
        points
            .map(|point| point["requests"].as_u64().unwrap())
            .sum()
    };
    assert_eq!(points("service"), sent.requests);
    assert_eq!(points("version,code,source,route"), sent.requests);
}

/// Says back whatever it hears.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                let _ended = std::io::copy(&mut reader, &mut stream);
            });
        }
    });
    address
}

/// Leads bytes at the port of a gateway to `db`.
const BYTES: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop-edge}
spec:
  selector: {istio: shop-edge}
  servers:
  - port: {number: 18090, name: bytes, protocol: TCP}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bytes}
spec:
  hosts: [db.example.com]
  gateways: [shop-edge]
  tcp:
  - route: [{destination: {host: db, port: {number: 5432}}}]
";

/// Connections of bytes, one after the other, until the mesh is gone.
fn bytes_through(gateway: SocketAddr) {
    std::thread::spawn(move || {
        let once = || -> std::io::Result<()> {
            let mut stream = TcpStream::connect(gateway)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            for _ in 0..20 {
                stream.write_all(&[7; 1_000])?;
                stream.read_exact(&mut [0; 1_000])?;
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        };
        while once().is_ok() {}
    });
}

/// Asks a real Prometheus.
struct Prometheus {
    _process: Process,
    at: SocketAddr,
}

impl Prometheus {
    /// Scrapes every second. None where there is no Prometheus, which is said.
    fn start(dir: &Path, control_plane: SocketAddr, proxies: &[IpAddr]) -> Option<Self> {
        let program = ["/usr/bin/prometheus", "prometheus"]
            .into_iter()
            .find(|name| {
                Command::new(name)
                    .arg("--version")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_ok()
            })?;
        let shipped = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/assets/prometheus/local.yaml"
        ))
        .unwrap();
        let config = shipped
            .replace("127.0.0.1:15014", &control_plane.to_string())
            .replace("scrape_interval: 5s", "scrape_interval: 1s")
            .replace("scrape_timeout: 4s", "scrape_timeout: 1s");
        assert_ne!(config, shipped);
        std::fs::write(dir.join("prometheus.yaml"), config).unwrap();
        let targets: Vec<String> = proxies
            .iter()
            .map(|proxy| format!("{proxy}:15090"))
            .collect();
        let file = serde_json::json!([{"targets": targets}]).to_string();
        std::fs::write(dir.join("meshctl-proxies.json"), file).unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], cluster::ports::free()));
        let log = std::fs::File::create(dir.join("prometheus.log")).unwrap();
        let child = Command::new(program)
            .arg(format!(
                "--config.file={}",
                dir.join("prometheus.yaml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("prometheus").display()
            ))
            .arg(format!("--web.listen-address={at}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Some(Self {
            _process: Process(child),
            at,
        })
    }

    /// The samples of an expression, or why there are none.
    fn ask(&self, expression: &str) -> Result<Vec<Value>, String> {
        let url = format!("http://{}/api/v1/query", self.at);
        let query = format!("query={expression}");
        let (ok, text) = program("curl", &["-sS", "--get", "--data-urlencode", &query, &url]);
        if !ok {
            return Err(text);
        }
        let answer: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
        let samples = answer["data"]["result"].as_array().ok_or(text)?;
        // What is not a number says nothing.
        let number = |sample: &&Value| sample["value"][1] != "NaN";
        Ok(samples.iter().filter(number).cloned().collect())
    }
}

/// Every expression of the boards, with Grafana's variables filled in, and of Istio's.
fn expressions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let boards = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/grafana");
    for entry in std::fs::read_dir(boards).unwrap() {
        let path = entry.unwrap().path();
        let board: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            board["uid"].is_string() && board["schemaVersion"].is_number(),
            "{name}"
        );
        let mut ids = std::collections::BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{name}: an id twice"
            );
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().unwrap();
                let expression = expression
                    .replace("$__rate_interval", "1m")
                    .replace("$__range", "5m")
                    .replace("$service", ".*")
                    .replace("$workload", ".*");
                assert!(!expression.contains('$'), "{name}: {expression}");
                all.push((format!("{name}: {}", panel["title"]), expression));
            }
        }
    }
    let istios = include_str!("istio_queries.txt").lines();
    all.extend(
        istios
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(|line| ("Istio".to_owned(), line.to_owned())),
    );
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_answers_what_the_boards_ask() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(&service("db", &[("tcp", 5432)]));
    let app = |service, version, port, at| App {
        service,
        version,
        port,
        at,
        flags: &[],
    };
    let v1 = mesh
        .sidecar(&app("web", "v1", 9080, uneven("v1", &tasks)))
        .await;
    let v2 = mesh
        .sidecar(&app("web", "v2", 9080, uneven("v2", &tasks)))
        .await;
    let shop = mesh
        .sidecar(&app("shop", "v1", 9080, uneven("shop", &tasks)))
        .await;
    let db = mesh.sidecar(&app("db", "v1", 5432, echo())).await;
    mesh.settled().await;
    let control_plane = SocketAddr::new(Mesh::xds().ip(), 15_014);
    mesh.apply(BYTES);
    let (_gateway, edge) = mesh.gateway("shop-edge", &[18_090]).await;
    let all = [v1.address, v2.address, shop.address, db.address, edge];
    let Some(prometheus) = Prometheus::start(mesh.path(), control_plane, &all) else {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci.is_empty()),
            "no Prometheus in CI"
        );
        eprintln!("skipped: there is no Prometheus");
        return;
    };
    let load = Load::start(shop.outbound(), "web:9080", 2);
    // Somebody who is not of the mesh, in plaintext.
    let stranger = Load::start(v1.inbound(9080), "web:9080", 1);
    bytes_through(SocketAddr::new(edge, 18_090));
    let expressions = expressions();
    assert!(expressions.len() > 90, "{}", expressions.len());
    let mut round = 0;
    let mut open = expressions.clone();
    let deadline = meshctl::rt::now() + Duration::from_secs(80);
    while !open.is_empty() && meshctl::rt::now() < deadline {
        // Something changes now and then, or nobody would know how long a change takes.
        round += 1;
        mesh.apply(&service(&format!("changed-{round}"), &[("http", 80)]));
        tokio::time::sleep(Duration::from_secs(2)).await;
        open.retain(|(_, expression)| {
            prometheus
                .ask(expression)
                .is_ok_and(|samples| samples.is_empty())
                || prometheus.ask(expression).is_err()
        });
    }
    let why: Vec<String> = open
        .iter()
        .map(|(panel, expression)| {
            format!("{panel}: {expression}: {:?}", prometheus.ask(expression))
        })
        .collect();
    assert!(open.is_empty(), "no data for\n{}", why.join("\n"));
    eprintln!(
        "{} expressions of boards answered, {} of them Istio's",
        expressions.len(),
        expressions
            .iter()
            .filter(|(panel, _)| panel == "Istio")
            .count()
    );

    let sent: usize = load.stop().await.values().sum();
    let _plain = stranger.stop().await;
    let exact = "sum(istio_requests_total{reporter=\"source\",source_workload=~\"shop.*\",destination_service_name=\"web\"})";
    until("Prometheus to have the last scrape", 20, || {
        let samples = prometheus.ask(exact).ok()?;
        let counted: usize = samples.first()?["value"][1].as_str()?.parse().ok()?;
        assert!(counted <= sent, "{counted} of {sent}");
        (counted == sent).then_some(())
    })
    .await;
    let from_shop = ["--from", "shop-v1"];
    let mut told = 0;
    until("stats to say the same", 20, || {
        let rows = mesh.json(&[&["stats", "web", "--window", "30m"], &from_shop[..]].concat());
        told = rows["rows"].as_array()?.first()?["requests"].as_u64()?;
        (usize::try_from(told).unwrap() == sent).then_some(())
    })
    .await;
    eprintln!("{sent} requests by who sent them, {sent} by Prometheus, {told} by stats");
}
