//! An agent of Consul, as far as its catalogue and health go: blocking queries by index, ACLs, stale
//! servers, and the ways in which it can be away.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use meshctl::net::{BindOptions, bind};
use meshctl::rt::Tasks;
use serde_json::{Value, json};
use tokio::sync::watch;

/// How it misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its servers have elected nobody; it answers 500.
    NoLeader,
    /// It lost its servers and answers from what it knew.
    Leaderless,
    /// It asks for patience.
    TooOften,
    /// Something else answers there.
    Garbage,
}

/// A question that it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) at: tokio::time::Instant,
}

#[derive(Default)]
struct Registry {
    /// Raft's: one more with each write.
    index: u64,
    /// By name, then by id: what `/v1/health/service` lists.
    services: BTreeMap<String, BTreeMap<String, Value>>,
    /// When each service changed last; of one that is gone, too.
    changed: BTreeMap<String, u64>,
    /// When a service came or went last.
    catalogue: u64,
    token: Option<String>,
    /// Services that the token may not read.
    hidden: Vec<String>,
    fault: Option<Fault>,
    asked: Vec<Asked>,
    open: usize,
    most_open: usize,
    /// Questions that are held back.
    waiting: usize,
}

impl Registry {
    fn write(&mut self, name: &str) {
        self.index += 1;
        self.changed.insert(name.to_owned(), self.index);
    }
}

#[derive(Default)]
struct Shared {
    registry: Mutex<Registry>,
    /// Counts everything that may wake a question.
    news: watch::Sender<u64>,
}

/// A running agent; it goes with this.
pub(crate) struct Agent {
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    serving: Option<Tasks>,
}

/// An instance as Consul lists it.
pub(crate) fn instance(service: &str, id: &str, address: &str, port: u16) -> Value {
    json!({
        "Node": {
            "ID": "", "Node": "node-1", "Address": "10.1.0.1", "Datacenter": "dc1",
            "TaggedAddresses": null, "Meta": null, "CreateIndex": 1, "ModifyIndex": 1,
        },
        "Service": {
            "ID": id, "Service": service, "Tags": [], "Address": address, "Meta": null, "Port": port,
            "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false,
        },
        "Checks": [
            {"Node": "node-1", "CheckID": "serfHealth", "Status": "passing", "ServiceID": ""},
            {"Node": "node-1", "CheckID": format!("service:{id}"), "Status": "passing", "ServiceID": id},
        ],
    })
}

impl Agent {
    pub(crate) fn start() -> Self {
        Self::with(None)
    }

    pub(crate) fn with(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let mut agent = Self {
            shared: Arc::default(),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            tls,
            serving: None,
        };
        agent.change(|registry| registry.index = 10);
        agent.serve();
        agent
    }

    fn change<T>(&self, change: impl FnOnce(&mut Registry) -> T) -> T {
        let changed = change(&mut self.shared.registry.lock().unwrap());
        self.shared.news.send_modify(|news| *news += 1);
        changed
    }

    /// Registers an instance, or replaces it.
    pub(crate) fn put(&self, entry: Value) {
        self.change(|registry| {
            let text = |pointer: &str| entry.pointer(pointer).unwrap().as_str().unwrap().to_owned();
            let (name, id) = (text("/Service/Service"), text("/Service/ID"));
            registry.write(&name);
            let new = !registry.services.contains_key(&name);
            let instances = registry.services.entry(name).or_default();
            instances.insert(id, entry);
            if new {
                registry.catalogue = registry.index;
            }
        });
    }

    /// Changes an instance.
    pub(crate) fn edit(&self, name: &str, id: &str, change: impl FnOnce(&mut Value)) {
        self.change(|registry| {
            registry.write(name);
            let entry = registry.services.get_mut(name).unwrap().get_mut(id);
            change(entry.unwrap());
        });
    }

    /// What the check of an instance says.
    pub(crate) fn status(&self, name: &str, id: &str, status: &str) {
        self.edit(name, id, |entry| {
            entry["Checks"][1]["Status"] = status.into();
        });
    }

    /// Takes an instance out.
    pub(crate) fn remove(&self, name: &str, id: &str) {
        self.change(|registry| {
            registry.write(name);
            let instances = registry.services.get_mut(name).unwrap();
            instances.remove(id).unwrap();
            if instances.is_empty() {
                registry.services.remove(name);
                registry.catalogue = registry.index;
            }
        });
    }

    /// Indexes begin anew, as after a snapshot was restored; who waits is woken.
    pub(crate) fn restored(&self) {
        self.change(|registry| {
            registry.index = 3;
            registry.catalogue = 2;
            let names: Vec<String> = registry.services.keys().cloned().collect();
            registry.changed = names.into_iter().map(|name| (name, 3)).collect();
        });
    }

    pub(crate) fn fault(&self, fault: Option<Fault>) {
        self.change(|registry| registry.fault = fault);
    }

    /// Only this token may ask from now on.
    pub(crate) fn require(&self, token: &str) {
        self.change(|registry| registry.token = Some(token.to_owned()));
    }

    /// The token may not read this service.
    pub(crate) fn hide(&self, name: &str) {
        self.change(|registry| {
            registry.hidden.push(name.to_owned());
            registry.index += 1;
            registry.catalogue = registry.index;
        });
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.registry.lock().unwrap().asked.clone()
    }

    /// The most connections that there were at a time.
    pub(crate) fn most_open(&self) -> usize {
        self.shared.registry.lock().unwrap().most_open
    }

    /// Waits until so many questions are held back.
    pub(crate) async fn until_waiting(&self, questions: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.shared.registry.lock().unwrap().waiting != questions {
            assert!(tokio::time::Instant::now() < deadline, "nobody waits");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Goes away, with all its connections.
    pub(crate) async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.end().await;
        }
    }

    /// Comes back where it was.
    pub(crate) fn serve(&mut self) {
        let listener = bind(self.address, BindOptions::default()).unwrap();
        self.address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let (shared, within) = (Arc::clone(&self.shared), tasks.clone());
        let tls = self.tls.clone().map(tokio_rustls::TlsAcceptor::from);
        tasks.spawn("agent", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                within.spawn("agent", async move {
                    let service = service_fn(|request| answer(Arc::clone(&shared), request));
                    let server = hyper::server::conn::http1::Builder::new();
                    {
                        let mut registry = shared.registry.lock().unwrap();
                        registry.open += 1;
                        registry.most_open = registry.most_open.max(registry.open);
                    }
                    // Clients may go in the middle of everything.
                    if let Some(tls) = tls {
                        if let Ok(stream) = tls.accept(stream).await {
                            drop(server.serve_connection(TokioIo::new(stream), service).await);
                        }
                    } else {
                        drop(server.serve_connection(TokioIo::new(stream), service).await);
                    }
                    shared.registry.lock().unwrap().open -= 1;
                });
            }
        });
        self.serving = Some(tasks);
    }
}

type Answer = Response<Full<Bytes>>;

/// A question that is held back, until this is dropped.
struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.registry.lock().unwrap().waiting -= 1;
    }
}

fn plain(status: u16, text: &str) -> Answer {
    Response::builder()
        .status(status)
        .body(Full::new(Bytes::copy_from_slice(text.as_bytes())))
        .unwrap()
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let path = request.uri().path().to_owned();
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let header = |name: &str| {
        request
            .headers()
            .get(name)?
            .to_str()
            .ok()
            .map(str::to_owned)
    };
    let token = header("x-consul-token");
    let mut news = shared.news.subscribe();
    {
        let mut registry = shared.registry.lock().unwrap();
        let (path, query) = (path.clone(), query.clone());
        let at = tokio::time::Instant::now();
        registry.asked.push(Asked { path, query, at });
    }
    let index: u64 = query.get("index").map_or(0, |text| text.parse().unwrap());
    let wait = query
        .get("wait")
        .map_or(300, |text| text.strip_suffix('s').unwrap().parse().unwrap());
    assert!(wait <= 600, "Consul cuts at ten minutes");
    let began = tokio::time::Instant::now();
    // Up to a sixteenth more, as Consul says.
    let until = began + Duration::from_secs(wait).mul_f64(1.0 + fastrand::f64() / 16.0);
    // A store that was replaced wakes everybody who waits on the old one.
    let asked_of = shared.registry.lock().unwrap().index;
    loop {
        news.mark_unchanged();
        {
            let registry = shared.registry.lock().unwrap();
            if let Some(refused) = refusal(&registry, token.as_deref()) {
                return Ok(refused);
            }
            let (current, body, filtered) = match path.strip_prefix("/v1/health/service/") {
                Some(name) => health(&registry, name),
                None if path == "/v1/catalog/services" => catalogue(&registry),
                None => return Ok(plain(404, "Invalid URL path")),
            };
            let replaced = registry.index < asked_of;
            let late = tokio::time::Instant::now() >= until;
            if index == 0 || current > index || replaced || late {
                let leader = registry.fault != Some(Fault::Leaderless);
                let mut response = Response::builder()
                    .header("content-type", "application/json")
                    .header("x-consul-index", current)
                    .header("x-consul-knownleader", leader.to_string())
                    .header("x-consul-lastcontact", "0")
                    .header("x-consul-effective-consistency", "stale");
                if filtered {
                    response = response.header("x-consul-results-filtered-by-acls", "true");
                }
                return Ok(response.body(Full::new(body.to_string().into())).unwrap());
            }
        }
        shared.registry.lock().unwrap().waiting += 1;
        let _waiting = Waiting(&shared);
        tokio::select! {
            changed = news.changed() => changed.unwrap(),
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

fn refusal(registry: &Registry, token: Option<&str>) -> Option<Answer> {
    if registry.token.is_some() && registry.token.as_deref() != token {
        let text = "rpc error making call: ACL not found";
        return Some(plain(403, text));
    }
    match registry.fault? {
        Fault::NoLeader => Some(plain(500, "No cluster leader")),
        Fault::TooOften => Some(plain(
            429,
            "Your IP is issuing too many concurrent connections",
        )),
        Fault::Garbage => Some(plain(200, "<html>welcome</html>")),
        Fault::Leaderless => None,
    }
}

fn catalogue(registry: &Registry) -> (u64, Value, bool) {
    let mut names: BTreeMap<&str, Vec<&Value>> = BTreeMap::from([("consul", Vec::new())]);
    for (name, instances) in &registry.services {
        let tags = instances
            .values()
            .filter_map(|entry| entry["Service"]["Tags"].as_array());
        names.insert(name, tags.flatten().collect());
    }
    names.retain(|name, _| !registry.hidden.iter().any(|hidden| hidden == name));
    let filtered = !registry.hidden.is_empty();
    (registry.catalogue.max(1), json!(names), filtered)
}

fn health(registry: &Registry, name: &str) -> (u64, Value, bool) {
    let name = name.replace("%20", " ");
    let current = registry.changed.get(&name).copied().unwrap_or(1);
    let entries: Vec<&Value> = registry
        .services
        .get(&name)
        .into_iter()
        .flat_map(BTreeMap::values)
        .collect();
    (current, json!(entries), false)
}
