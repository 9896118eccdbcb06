//! What the size of a mesh costs: CPU per request, memory and the time of a change, with 1, 100 and
//! 10,000 routes and clusters and up to 100,000 endpoints.
//!
//! Each case is a process of its own with one worker. By 16 connections requests go to 16 of the hosts
//! (or to as many as there are), spread over the table, and of each to the endpoint of the first
//! priority, so that every case has as many connections to endpoints: what differs is what the proxy
//! has to know. CPU is what the worker's thread ran for, as the kernel counts it.
//! Run with `cargo bench --bench scale`; with numbers as arguments (routes, endpoints) one case alone.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a bench that cannot go on should say where"
)]

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use meshctl::mesh::listener::{ChainLimits, ChainMatch, Direction, HttpCodec, ListenerOptions};
use meshctl::mesh::route::{Action, Forward, HeaderEdits, Match, WeightedCluster};
use meshctl::mesh::{
    Assignment, Chain, ChainAction, Cluster, Endpoint, Listener, LoadBalancer, Origin, Route,
    RouteTable, View, VirtualHost, WorkloadRef,
};
use meshctl::net::{self, BindOptions, ConnectOptions};
use meshctl::proxy::{self, Options};
use meshctl::rt::{Drain, Published, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const CASES: [(usize, usize); 5] = [
    (1, 1),
    (100, 100),
    (10_000, 10_000),
    (10_000, 100_000),
    (1, 100_000),
];
/// Rounds of a case; the middle one counts.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const CALLERS: usize = 16;
const HOSTS: usize = 16;
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

fn main() {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    if let [routes, endpoints] = *numbers {
        println!("{}", case(routes, endpoints));
        return;
    }
    println!(
        "| routes, clusters | endpoints | CPU µs a request | against the first | first answer ms | RSS MiB | bytes an endpoint | a change ms | its CPU ms, control | worker |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let own = std::env::current_exe().unwrap();
    let mut first = None;
    for (routes, endpoints) in CASES {
        let output = Command::new(&own)
            .args([routes.to_string(), endpoints.to_string()])
            .output()
            .unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        let mut parts: Vec<f64> = line
            .split_whitespace()
            .filter_map(|part| part.parse().ok())
            .collect();
        assert_eq!(
            parts.len(),
            6,
            "{line}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let cpu = parts.remove(0);
        let base = *first.get_or_insert((cpu, parts[1]));
        let per_endpoint = if endpoints > 100 {
            let count = f64::from(u32::try_from(endpoints).unwrap());
            format!("{:.0}", (parts[1] - base.1) * 1_048_576.0 / count)
        } else {
            "-".to_owned()
        };
        println!(
            "| {routes} | {endpoints} | {cpu:.2} | {:+.1} % | {:.0} | {:.1} | {per_endpoint} | {} | {:.1} | {:.2} |",
            (cpu / base.0 - 1.0) * 100.0,
            parts[0],
            parts[1],
            // Of the only host no answer shows when it changed.
            if routes > 1 {
                format!("{:.1}", parts[2])
            } else {
                "-".to_owned()
            },
            parts[3],
            parts[4],
        );
    }
}

/// Microseconds a request, milliseconds to the first answer, MiB, and milliseconds of a change: until
/// it was in force, of the control thread, of the worker.
fn case(routes: usize, endpoints: usize) -> String {
    let (backend, other) = (serve(ANSWER), serve(OTHER));
    let bind = free();
    let view = view(bind, routes, endpoints, backend);
    let begun = now();
    let views = Published::new(view);
    let (reader, identities) = (views.reader(), Published::new(None).reader());
    let (_drain, signal) = Drain::new();
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            let options = Options {
                workers: 1,
                ..Options::default()
            };
            runtime().block_on(proxy::run(options, reader, identities, signal))
        })
        .unwrap();
    let runtime = runtime();
    let probe = |host: usize| {
        runtime.block_on(async move {
            let mut stream = open(bind).await;
            ask(&mut stream, host).await
        })
    };
    probe(0);
    let ready = begun.elapsed();

    let done = Arc::new(AtomicU64::new(0));
    let go_on = Arc::new(AtomicBool::new(true));
    let (counted, going) = (Arc::clone(&done), Arc::clone(&go_on));
    let load = std::thread::spawn(move || {
        let runtime = self::runtime();
        let local = tokio::task::LocalSet::new();
        for caller in 0..CALLERS {
            let (done, go_on) = (Arc::clone(&counted), Arc::clone(&going));
            local.spawn_local(async move {
                let mut stream = open(bind).await;
                let mut host = caller;
                while go_on.load(Ordering::Relaxed) {
                    // Spread over the whole table.
                    let step = (routes / HOSTS).max(1);
                    ask(&mut stream, host * step % routes).await;
                    host = (host + 1) % HOSTS.min(routes);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        runtime.block_on(local);
    });
    let mut rounds: Vec<f64> = (0..=ROUNDS)
        .map(|_| {
            let before = (done.load(Ordering::Relaxed), ran("worker-0"));
            std::thread::sleep(ROUND);
            let requests = done.load(Ordering::Relaxed) - before.0;
            (ran("worker-0") - before.1) / 1000.0 / float(requests)
        })
        .skip(1)
        .collect();
    rounds.sort_by(f64::total_cmp);
    go_on.store(false, Ordering::Relaxed);
    load.join().unwrap();
    let memory = resident();

    // The endpoints of one cluster become another one.
    let mut changed = View::clone(&views.load());
    let last = format!("c{}", routes - 1);
    let mut assignment = if endpoints / routes > 1 {
        Assignment::clone(&changed.endpoints[&last])
    } else {
        Assignment::default()
    };
    if routes > 1 {
        assignment = Assignment::default();
    }
    assignment.endpoints.push(Endpoint::at(other));
    changed
        .endpoints
        .insert(last, Arc::new(Assignment::new(assignment.endpoints)));
    let before = (ran("control"), ran("worker-0"));
    let begun = now();
    views.publish(changed);
    let mut asked = 0;
    if routes > 1 {
        while probe(routes - 1) != 201 {
            asked += 1;
        }
    } else {
        std::thread::sleep(Duration::from_secs(1));
    }
    let took = begun.elapsed();
    let control = (ran("control") - before.0) / 1e6;
    let worker = (ran("worker-0") - before.1) / 1e6 - f64::from(asked) * 0.05;
    format!(
        "{:.3} {:.1} {memory:.2} {:.2} {control:.2} {:.2}",
        rounds[ROUNDS / 2],
        ready.as_secs_f64() * 1000.0,
        took.as_secs_f64() * 1000.0,
        worker.max(0.0),
    )
}

/// One host, route and cluster for each of `routes`, and `endpoints` spread over them; all of them
/// are addresses of loopback, where one server listens.
fn view(bind: SocketAddr, routes: usize, endpoints: usize, backend: SocketAddr) -> View {
    let mut view = View::default();
    let mut hosts = Vec::new();
    let each = endpoints / routes;
    for n in 0..routes {
        let name = format!("c{n}");
        let cluster = Cluster {
            name: name.clone(),
            load_balancer: LoadBalancer::RoundRobin,
            ..Cluster::default()
        };
        let members = (0..each).map(|at| {
            let number = u32::try_from(n * each + at).unwrap() + 0x7f01_0000;
            let mut endpoint =
                Endpoint::at(SocketAddr::new(number.to_be_bytes().into(), backend.port()));
            endpoint.workload = WorkloadRef {
                instance: format!("app{n}-v1-7d9c5b8f6-{at:05}"),
                workload: format!("app{n}-v1"),
                namespace: "default".to_owned(),
                service: format!("app{n}"),
                version: "v1".to_owned(),
            };
            endpoint
        });
        let mut members: Vec<Endpoint> = members.collect();
        for endpoint in members.iter_mut().skip(1) {
            endpoint.priority = 1;
        }
        let host = format!("{name}.default.svc.cluster.local");
        hosts.push(VirtualHost {
            name: host.clone(),
            domains: vec![format!("{host}:80"), host],
            routes: vec![Route {
                name: String::new(),
                matches: Match::default(),
                action: Action::Forward(Forward {
                    clusters: vec![WeightedCluster {
                        cluster: name.clone(),
                        weight: 1,
                        headers: HeaderEdits::default(),
                    }],
                    ..Forward::default()
                }),
                headers: HeaderEdits::default(),
                origin: Origin::default(),
            }],
            ..VirtualHost::default()
        });
        view.endpoints
            .insert(name.clone(), Arc::new(Assignment::new(members)));
        view.clusters.insert(name, Arc::new(cluster));
    }
    let table = RouteTable {
        name: "t".to_owned(),
        ignore_port: true,
        hosts,
    };
    view.routes.insert("t".to_owned(), Arc::new(table));
    let listener = Listener {
        name: "l".to_owned(),
        bind,
        direction: Direction::Outbound,
        transparent: false,
        chains: vec![Chain {
            name: "c".to_owned(),
            matches: ChainMatch::default(),
            tls: None,
            action: ChainAction::Http {
                routes: "t".to_owned(),
                codec: HttpCodec::Http1,
                options: Arc::default(),
            },
            filters: Vec::new(),
            guards: Vec::new(),
            limits: ChainLimits::default(),
        }],
        default_chain: None,
        detect_timeout: Duration::ZERO,
        options: ListenerOptions::default(),
    };
    view.listeners.insert("l".to_owned(), Arc::new(listener));
    view
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn free() -> SocketAddr {
    runtime().block_on(async {
        let socket = net::bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap();
        socket.local_addr().unwrap()
    })
}

/// A server on a thread of its own that answers everything with `answer`.
fn serve(answer: &'static [u8]) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let local = tokio::task::LocalSet::new();
        local.spawn_local(async move {
            let socket: TcpListener =
                net::bind(([0, 0, 0, 0], 0).into(), BindOptions::default()).unwrap();
            tell.send(socket.local_addr().unwrap()).unwrap();
            loop {
                let (mut tcp, _) = socket.accept().await.unwrap();
                tokio::task::spawn_local(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(1..) = tcp.read(&mut buffer).await {
                        if tcp.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        runtime().block_on(local);
    });
    let port = told.recv().unwrap().port();
    ([127, 0, 0, 1], port).into()
}

/// Connects, once somebody listens.
async fn open(to: SocketAddr) -> TcpStream {
    loop {
        match net::connect(to, ConnectOptions::default()).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// The status of an answer.
async fn ask(stream: &mut TcpStream, host: usize) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: c{host}.default.svc.cluster.local\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    let mut read = 0;
    loop {
        let count = stream.read(&mut buffer[read..]).await.unwrap();
        assert!(count > 0, "the proxy closed");
        read += count;
        let text = String::from_utf8_lossy(&buffer[..read]);
        let Some(end) = text.find("\r\n\r\n") else {
            continue;
        };
        let length = text
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        if read >= end + 4 + length {
            return text[9..12].parse().unwrap();
        }
    }
}

/// Nanoseconds for which threads of this name have run.
fn ran(name: &str) -> f64 {
    let mut sum = 0.0;
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            let text = read("schedstat");
            sum += text.split(' ').next().unwrap().parse::<f64>().unwrap();
        }
    }
    sum
}

/// MiB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let kib: f64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib / 1024.0
}

fn float(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}
