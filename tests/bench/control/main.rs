//! What a change costs the control plane: time until the last proxy has acknowledged it, bytes, CPU and
//! memory, with 500 proxies and a mesh of 1,000 services, then of 10,000, each with 10 endpoints.
//!
//! The control plane is a process of its own. Proxies are light, but speak real delta ADS over gRPC, one
//! connection each: they subscribe as ours do, keep what they have by version, acknowledge everything
//! and connect again with that. CPU is what the kernel says that the process used. Of every change it is
//! checked that each proxy that it concerns was sent the one resource, which reads as changed, and that
//! nobody was sent anything else. Run with `cargo bench --bench control`; with arguments (services,
//! proxies, `sidecars`) one case alone.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench that cannot go on should say where"
)]

mod mesh;
mod proxies;
mod server;

use std::process::Command;
use std::time::Duration;

use mesh::{CHANGES, Mesh};
use meshctl::rt::now;
use proxies::{Counted, Fleet};
use server::Server;

const CASES: [(usize, bool); 4] = [
    (1_000, false),
    (10_000, false),
    (1_000, true),
    (10_000, true),
];
const PROXIES: usize = 500;
/// Of each kind; half of them one way, half the other.
const REPEATED: usize = 20;
/// Nothing comes any more when nothing came for this long.
const QUIET: Duration = Duration::from_millis(300);
/// How long nothing happens, to see what that costs.
const IDLE: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [what, home, port] = &arguments[..]
        && what == "serve"
    {
        server::serve(home.as_ref(), port.parse().unwrap());
        return;
    }
    let numbers: Vec<usize> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    if let [services, proxies] = *numbers {
        let sidecars = arguments.iter().any(|argument| argument == "sidecars");
        let mesh = Mesh { services, sidecars };
        case(mesh, proxies);
        return;
    }
    println!(
        "| services | proxies | what | ms | CPU ms | bytes sent | resources | bytes received | RSS MiB | its peak |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let own = std::env::current_exe().unwrap();
    for (services, sidecars) in CASES {
        let mut case = Command::new(&own);
        case.args([services.to_string(), PROXIES.to_string()]);
        case.args(sidecars.then_some("sidecars"));
        assert!(case.status().unwrap().success());
    }
}

/// What something cost, of the control plane alone.
#[derive(Default)]
struct Cost {
    took: Duration,
    cpu: f64,
    counted: Counted,
}

fn case(mesh: Mesh, proxies: usize) {
    let home = tempfile::tempdir().unwrap();
    mesh::register(home.path(), mesh.services);
    let mut server = Server::start(home.path());
    let say = |what: &str, cost: &Cost, server: &Server| {
        let (now, peak) = server.memory();
        let Mesh { services, sidecars } = mesh;
        let scoped = if sidecars { ", Sidecars" } else { "" };
        let took = cost.took.as_secs_f64() * 1000.0;
        let (cpu, counted) = (cost.cpu, &cost.counted);
        let (sent, resources, received) = (counted.sent, counted.resources, counted.received);
        println!(
            "| {services}{scoped} | {proxies} | {what} | {took:.1} | {cpu:.1} | {sent} | {resources} | {received} | {now:.0} | {peak:.0} |"
        );
    };

    let (cpu, begun) = (server.cpu(), now());
    mesh.apply(&server);
    let cost = Cost {
        took: begun.elapsed(),
        cpu: server.cpu() - cpu,
        ..Cost::default()
    };
    say("applied, nobody connected", &cost, &server);

    let fleet = Fleet::new(server.address(), proxies, mesh.services);
    let (cpu, begun) = (server.cpu(), now());
    fleet.connect();
    server.wait_synced(proxies);
    fleet.wait_quiet(QUIET);
    let cost = Cost {
        took: fleet.last().duration_since(begun),
        cpu: server.cpu() - cpu,
        counted: fleet.counted(),
    };
    say("all connect, with nothing", &cost, &server);

    let (cpu, begun) = (server.cpu(), now());
    std::thread::sleep(IDLE);
    let idle = (server.cpu() - cpu) / begun.elapsed().as_secs_f64();
    let cost = Cost {
        took: Duration::from_secs(1),
        cpu: idle,
        ..Cost::default()
    };
    say("a second of nothing", &cost, &server);

    for change in CHANGES {
        // What is made once is not what is measured.
        for first in [true, false] {
            change.make(&mesh, &server, &fleet, first);
        }
        let before = fleet.counted();
        let (used, begun) = (server.cpu(), now());
        let took: Duration = (0..REPEATED)
            .map(|n| change.make(&mesh, &server, &fleet, n.is_multiple_of(2)))
            .sum();
        let passed = begun.elapsed().as_secs_f64();
        let each = u32::try_from(REPEATED).unwrap();
        let cost = Cost {
            took: took / each,
            cpu: (server.cpu() - used - idle * passed) / f64::from(each),
            counted: (fleet.counted() - before) / u64::from(each),
        };
        server.wait_synced(proxies);
        say(change.what, &cost, &server);
    }

    fleet.expect_end();
    server.stop();
    let before = fleet.counted();
    let begun = now();
    server.start_again();
    server.wait_synced(proxies);
    let cost = Cost {
        took: begun.elapsed(),
        cpu: server.cpu(),
        counted: fleet.counted() - before,
    };
    say("a restart, all connect with what they have", &cost, &server);
    assert_eq!(cost.counted.resources, 0, "all of it was there already");
    CHANGES[0].make(&mesh, &server, &fleet, true);
}
