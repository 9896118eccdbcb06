//! What a change costs the control plane: time until the last proxy has acknowledged it, bytes, CPU and
//! memory, with 500 proxies and a mesh of 1,000 services, then of 10,000, each with 10 endpoints.
//!
//! The control plane is a process of its own. Proxies are light, but speak real delta ADS over gRPC, one
//! connection each: they subscribe as ours do, keep what they have by version, acknowledge everything
//! and connect again with that. CPU is what the kernel says that the process used.
//! Run with `cargo bench --bench control`; with numbers as arguments (services, proxies) one case alone.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench that cannot go on should say where"
)]

mod mesh;
mod proxies;
mod server;

use std::process::Command;
use std::time::Duration;

use meshctl::rt::now;
use proxies::Fleet;
use server::Server;

const CASES: [usize; 2] = [1_000, 10_000];
const PROXIES: usize = 500;
/// Changes of each kind; half of them one way, half the other.
const CHANGES: usize = 20;
/// Nothing comes any more when nothing came for this long.
const QUIET: Duration = Duration::from_millis(400);

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
        case(services, proxies);
        return;
    }
    println!(
        "| services | proxies | what | ms to the last acknowledgement | CPU ms | bytes sent | responses | RSS MiB | its peak |\n|---|---|---|---|---|---|---|---|---|"
    );
    let own = std::env::current_exe().unwrap();
    for services in CASES {
        let mut case = Command::new(&own);
        case.args([services.to_string(), PROXIES.to_string()]);
        assert!(case.status().unwrap().success());
    }
}

fn case(services: usize, proxies: usize) {
    let home = tempfile::tempdir().unwrap();
    mesh::register(home.path(), services);
    let mut server = Server::start(home.path());
    mesh::apply(&server, services);
    let fleet = Fleet::new(server.address(), proxies, services);
    let say = |what: &str,
               took: Duration,
               cpu: f64,
               bytes: u64,
               responses: u64,
               server: &Server| {
        let (now, peak) = server.memory();
        let took = took.as_secs_f64() * 1000.0;
        println!(
            "| {services} | {proxies} | {what} | {took:.1} | {cpu:.1} | {bytes} | {responses} | {now:.0} | {peak:.0} |"
        );
    };

    let (cpu, begun) = (server.cpu(), now());
    fleet.connect();
    server.wait_synced(proxies);
    fleet.wait_quiet(QUIET);
    let took = fleet.last().duration_since(begun);
    let (bytes, responses) = fleet.counted();
    say(
        "all connect, with nothing",
        took,
        server.cpu() - cpu,
        bytes,
        responses,
        &server,
    );

    let cpu = server.cpu();
    std::thread::sleep(Duration::from_secs(4));
    let idle = (server.cpu() - cpu) / 4000.0;
    say(
        "a second of nothing",
        Duration::from_secs(1),
        idle * 1000.0,
        0,
        0,
        &server,
    );

    let kinds: [(&str, &dyn Fn(usize)); 2] = [
        ("an endpoint comes or goes", &|n| {
            mesh::change_endpoint(&server, n);
        }),
        ("the weights of a route", &|n| {
            mesh::change_route(&server, n);
        }),
    ];
    for (what, change) in kinds {
        change(0);
        fleet.wait_quiet(QUIET);
        let (mut took, mut cpu) = (Duration::ZERO, 0.0);
        let before = fleet.counted();
        for n in 1..=CHANGES {
            let seen = fleet.seen();
            let (used, begun) = (server.cpu(), now());
            change(n);
            fleet.wait_seen(&seen);
            fleet.wait_quiet(QUIET);
            let passed = begun.elapsed();
            took += fleet.last().duration_since(begun);
            cpu += server.cpu() - used - idle * passed.as_secs_f64() * 1000.0;
        }
        let each = u32::try_from(CHANGES).unwrap();
        let after = fleet.counted();
        say(
            what,
            took / each,
            cpu / f64::from(each),
            (after.0 - before.0) / u64::from(each),
            (after.1 - before.1) / u64::from(each),
            &server,
        );
    }

    fleet.expect_end();
    server.stop();
    let before = fleet.counted();
    let begun = now();
    server.start_again();
    server.wait_synced(proxies);
    let took = begun.elapsed();
    let after = fleet.counted();
    say(
        "a restart, all connect with what they have",
        took,
        server.cpu(),
        after.0 - before.0,
        after.1 - before.1,
        &server,
    );
}
