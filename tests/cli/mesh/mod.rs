//! The real binary against a real mesh: control plane, six pods, six sidecars, real requests.
//!
//! One mesh for all of it, since bringing one up takes longer than asking it everything. It has a
//! home and loopback addresses of its own, so that it touches no other mesh, and it is taken down
//! however the test ends.

mod answers;
mod pages;
mod refusals;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::run::{Home, Outcome};

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file of the project.
pub(crate) fn project(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    path.display().to_string()
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bookinfo with a sidecar each.
pub(crate) struct Mesh {
    pub(crate) home: Home,
}

impl Mesh {
    /// Installs; the pods come later.
    fn new() -> Self {
        Self { home: Home::new() }
    }

    /// A command's JSON; it must end well and keep to the rules for keys.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let value = self.home.run(&all).exits(0).json();
        camel(&args.join(" "), &value);
        value
    }

    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        self.home.run(args)
    }

    /// The pod of `service`, as `ps` tells of it.
    pub(crate) fn pod(&self, service: &str) -> Value {
        let status = self.json(&["ps"]);
        let pods = status["pods"].as_array().unwrap();
        let pod = pods.iter().find(|pod| pod["service"] == service);
        pod.unwrap_or_else(|| panic!("no pod of {service}: {status}"))
            .clone()
    }

    /// Address and port of a pod.
    fn at(&self, service: &str, port: u16) -> SocketAddr {
        let address = self.pod(service)["address"].as_str().unwrap().to_owned();
        format!("{address}:{port}").parse().unwrap()
    }

    /// Status and body of the shop's page, asked for as a browser would.
    fn page(&self) -> (u16, String) {
        get(self.at("productpage", 9_080), "/productpage", "productpage")
    }

    /// Status and body of what the page's sidecar gets for it.
    fn through(&self, url: &str) -> (u16, String) {
        let host = url.trim_start_matches("http://").split('/').next().unwrap();
        get(self.at("productpage", 15_001), url, host)
    }

    /// Waits until every pod is healthy for the registry, too.
    fn ready(&self) {
        until("six healthy endpoints", || {
            let endpoints = self.json(&["endpoints"]);
            let endpoints = endpoints.as_array().unwrap();
            let healthy = endpoints.iter().filter(|e| e["health"] == "healthy");
            (healthy.count() == 6).then_some(())
        });
        until("six proxies in sync", || {
            let proxies = self.json(&["proxies"]);
            let proxies = proxies.as_array().unwrap();
            let synced = proxies.iter().filter(|proxy| proxy["synced"] == true);
            (synced.count() == 6).then_some(())
        });
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let down = self.home.run(&["down", "--timeout", "20s"]);
        // Never a second panic: the first one is the one to read.
        assert!(
            down.code == Some(0) || std::thread::panicking(),
            "the mesh did not go down: {down}"
        );
    }
}

/// One request on a connection of its own.
fn get(to: SocketAddr, target: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or(0), answer)
}

/// Maps whose keys are names that people gave.
const NAMED: [&str; 10] = [
    "before",
    "after",
    "labels",
    "versions",
    "selector",
    "object",
    "ports",
    "portNames",
    "annotations",
    "items",
];

/// Every key is lowerCamelCase.
#[track_caller]
pub(crate) fn camel(what: &str, value: &Value) {
    match value {
        Value::Array(list) => list.iter().for_each(|item| camel(what, item)),
        Value::Object(map) => {
            for (key, item) in map {
                let named = NAMED.contains(&key.as_str());
                let resources = what.starts_with("config") || what.starts_with("inject");
                assert!(
                    resources
                        || key.starts_with(|c: char| c.is_ascii_lowercase())
                            && !key.contains(['_', '-', '.', ' ']),
                    "{what}: {key} is not lowerCamelCase"
                );
                if !named {
                    camel(what, item);
                }
            }
        }
        _ => {}
    }
}

#[test]
fn every_command_keeps_its_word() {
    let mesh = Mesh::new();
    answers::before(&mesh);
    mesh.ready();
    answers::configuration(&mesh);
    answers::registry(&mesh);
    answers::proxies(&mesh);
    answers::traffic(&mesh);
    answers::identities(&mesh);
    answers::bundled(&mesh);
    answers::named_ports(&mesh);
    pages::fit_eighty_columns(&mesh);
    refusals::nothing_is_half_applied(&mesh);
    refusals::brought_manifests_are_read_or_explained(&mesh);
    refusals::nobody_stands_behind_a_service_of_others(&mesh);
    answers::deletion(&mesh);
    answers::after(&mesh);
}
