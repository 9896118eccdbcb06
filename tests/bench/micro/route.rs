//! What finding a route costs, in time and allocations, as a table grows.
//!
//! A lookup is on the path of every request, so it must not allocate: the `alloc` lines that divan
//! prints for these benches should stay empty. Run with `cargo bench --bench route`.

use std::sync::Arc;

use divan::{AllocProfiler, Bencher, black_box};
use meshctl::mesh::route::{
    Action, Forward, HeaderEdits, HeaderMatch, Match, PathMatch, Pattern, Request, Route,
    RouteTable, Router, TextMatch, VirtualHost, WeightedCluster,
};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// A request as the proxy sees one: borrowed bytes.
struct Get {
    authority: String,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

impl Request for Get {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }
    fn scheme(&self) -> &[u8] {
        b"http"
    }
    fn path_and_query(&self) -> &[u8] {
        self.path.as_bytes()
    }
    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (key, value) in self.headers {
            if *key == name && !visit(value.as_bytes()) {
                return;
            }
        }
    }
}

fn route(matches: Match, cluster: &str) -> Route {
    Route {
        name: String::new(),
        matches,
        action: Action::Forward(Forward {
            clusters: vec![WeightedCluster {
                cluster: cluster.to_owned(),
                weight: 1,
                headers: HeaderEdits::default(),
            }],
            ..Forward::default()
        }),
        headers: HeaderEdits::default(),
        origin: meshctl::mesh::Origin::default(),
    }
}

/// `services` virtual hosts under the four names each has in a mesh, plus one wildcard in ten.
fn table(services: usize, routes: &[Route]) -> Router {
    let hosts = (0..services)
        .map(|n| {
            let name = format!("service-{n}.default.svc.cluster.local");
            let mut domains = vec![
                name.clone(),
                format!("{name}:9080"),
                format!("service-{n}"),
                format!("service-{n}.default"),
            ];
            if n % 10 == 0 {
                domains.push(format!("*.team-{n}.example.com"));
            }
            VirtualHost {
                name: format!("{name}:9080"),
                domains,
                routes: routes.to_vec(),
                ..VirtualHost::default()
            }
        })
        .collect();
    Router::new(&Arc::new(RouteTable {
        name: "9080".to_owned(),
        ignore_port: true,
        hosts,
    }))
}

fn get(service: usize, path: &'static str) -> Get {
    Get {
        authority: format!("service-{service}.default.svc.cluster.local:9080"),
        path,
        headers: &[
            ("user-agent", "curl/8"),
            ("accept", "*/*"),
            ("end-user", "jason"),
        ],
    }
}

/// One route a host: what most services have.
#[divan::bench(args = [1, 100, 10_000])]
fn one_route(bencher: Bencher<'_, '_>, services: usize) {
    let router = table(services, &[route(Match::default(), "out")]);
    let request = get(services / 2, "/reviews/1");
    bencher.bench_local(|| black_box(router.find(black_box(&request)).is_some()));
}

/// The host is found by a wildcard, which walks the suffixes: the worst case of a host lookup.
#[divan::bench(args = [1, 100, 10_000])]
fn wildcard_host(bencher: Bencher<'_, '_>, services: usize) {
    let router = table(services, &[route(Match::default(), "out")]);
    let request = Get {
        authority: "a.team-0.example.com".to_owned(),
        path: "/",
        headers: &[],
    };
    bencher.bench_local(|| black_box(router.find(black_box(&request)).is_some()));
}

/// Prefix routes before the one that matches.
#[divan::bench(args = [1, 10, 100])]
fn last_prefix(bencher: Bencher<'_, '_>, routes: usize) {
    let mut list: Vec<Route> = (1..routes)
        .map(|n| {
            let path = PathMatch::Prefix(format!("/api/v{n}/"));
            route(
                Match {
                    path,
                    ..Match::default()
                },
                "out",
            )
        })
        .collect();
    list.push(route(Match::default(), "rest"));
    let router = table(1, &list);
    let request = get(0, "/reviews/1?page=2");
    bencher.bench_local(|| black_box(router.find(black_box(&request)).is_some()));
}

/// A header decides, as in a canary by user.
#[divan::bench]
fn header(bencher: Bencher<'_, '_>) {
    let by_user = Match {
        headers: vec![HeaderMatch {
            name: "end-user".to_owned(),
            value: TextMatch::Exact("jason".to_owned()),
            invert: false,
        }],
        ..Match::default()
    };
    let router = table(1, &[route(by_user, "v2"), route(Match::default(), "v1")]);
    let request = get(0, "/reviews/1");
    bencher.bench_local(|| black_box(router.find(black_box(&request)).is_some()));
}

/// A regular expression decides.
#[divan::bench]
fn regex(bencher: Bencher<'_, '_>) {
    let pattern = Pattern::new("/reviews/[0-9]+(/.*)?").expect("a pattern");
    let by_path = Match {
        path: PathMatch::Regex(pattern),
        ..Match::default()
    };
    let router = table(1, &[route(by_path, "v2"), route(Match::default(), "v1")]);
    let request = get(0, "/reviews/1");
    bencher.bench_local(|| black_box(router.find(black_box(&request)).is_some()));
}
