//! Twenty minutes of everything at once: full load while endpoints come and go, weights change and
//! certificates are renewed, each every second. Nothing may fail, grow or leak.
//!
//! Run it by name: `cargo nextest run --run-ignored only soak`; `MESHCTL_SOAK_SECONDS` shortens it.

use std::time::Duration;

use meshctl::rt::{Tasks, now};

use crate::backend::backend;
use crate::load::Load;
use crate::mesh::{App, Mesh, STRICT, Sidecar, service};

const HOST: &str = "reviews:9080";
const CALLERS: usize = 32;

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    kib: u64,
    descriptors: usize,
}

fn held(pid: u32) -> Held {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    Held { kib, descriptors }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Memory of the last quarter against that of the quarter after the first: warm against warm.
fn grew(samples: &[Held]) -> (u64, u64) {
    let quarter = samples.len() / 4;
    let of = |part: &[Held]| median(part.iter().map(|held| held.kib).collect());
    (
        of(&samples[quarter..quarter * 2]),
        of(&samples[quarter * 3..]),
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "20 minutes"]
async fn nothing_fails_grows_or_leaks_while_everything_changes() {
    let seconds = std::env::var_os("MESHCTL_SOAK_SECONDS")
        .map_or(1_200, |text| text.to_str().unwrap().parse().unwrap());
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("reviews", &[("http", 9080)]));
    mesh.apply(STRICT);
    // Renewed at half their life by three proxies: more often than once a second together.
    let flags = ["--certificate-ttl", "4s"];
    let start = async |service: &str, version: &'static str| {
        let app = App {
            service,
            version,
            port: 9080,
            at: backend(version, &tasks),
            flags: &flags,
        };
        mesh.sidecar(&app).await
    };
    let v1 = start("reviews", "v1").await;
    let v3 = start("reviews", "v3").await;
    let caller = start("productpage", "v0").await;
    // An instance without a sidecar, which comes and goes.
    let extra = backend("extra", &tasks);
    let extra_port = format!("9080={extra}");
    let names: [&Sidecar; 3] = [&caller, &v1, &v3];
    let idle: Vec<Held> = names.map(|one| held(one.pid())).to_vec();

    let load = Load::start(caller.outbound(), HOST, CALLERS);
    let end = now() + Duration::from_secs(seconds);
    let mut samples: [Vec<Held>; 3] = Default::default();
    let mut changes: u32 = 0;
    while now() < end {
        let second = tokio::time::sleep(Duration::from_secs(1));
        changes += 1;
        let weight = changes * 37 % 101;
        let (one, three) = (format!("v1={weight}"), format!("v3={}", 100 - weight));
        mesh.run(&["canary", "set", "reviews", "-q", &one, &three], None);
        if changes % 2 == 1 {
            let address = extra.ip().to_string();
            mesh.run(
                &[
                    "register",
                    "extra-1",
                    "-q",
                    "--service",
                    "reviews",
                    "--version",
                    "v1",
                    "--address",
                    &address,
                    "--port",
                    &extra_port,
                ],
                None,
            );
        } else {
            mesh.run(&["deregister", "extra-1", "-q"], None);
        }
        for (samples, one) in samples.iter_mut().zip(names) {
            samples.push(held(one.pid()));
        }
        second.await;
    }
    let counts = load.stop().await;
    let failed: Vec<_> = counts
        .iter()
        .filter(|(who, _)| !["v1", "v3", "extra"].contains(&who.as_str()))
        .collect();
    let sum: usize = counts.values().sum();
    eprintln!(
        "{seconds} s, {changes} changes of weights and endpoints, {sum} requests: {counts:?}"
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(counts.contains_key("extra"), "{counts:?}");
    for ((samples, one), idle) in samples.iter().zip(names).zip(&idle) {
        let (early, late) = grew(samples);
        let most = samples.iter().map(|held| held.descriptors).max().unwrap();
        let last = held(one.pid());
        eprintln!(
            "{}: {} KiB idle, {early} early, {late} late; descriptors {} idle, {most} at most, {} afterwards",
            one.name, idle.kib, idle.descriptors, last.descriptors
        );
        assert!(
            late <= early + early / 10 + 512,
            "{}: {early} to {late} KiB",
            one.name
        );
        // What stays are connections that are kept for the next request.
        assert!(
            last.descriptors <= idle.descriptors + 2 * CALLERS + 16,
            "{}: {} descriptors, {} before",
            one.name,
            last.descriptors,
            idle.descriptors
        );
    }
    drop(mesh);
    tasks.end().await;
}
