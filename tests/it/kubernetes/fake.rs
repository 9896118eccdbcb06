//! A Kubernetes API server, as far as a client that lists and watches can tell: pages, watches as
//! lines of JSON, bookmarks, an expiring history, kinds that are not installed, and a plug to pull.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path as Segments, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use meshctl::net::{BindOptions, bind};
use meshctl::rt::Tasks;
use serde_json::{Value, json};
use tokio::sync::watch;

/// No page is longer, whatever is asked for, so that every list here has several.
const PAGE: usize = 2;

/// Group and version, plural, namespace, name.
type Name = (String, String, String, String);

#[derive(Default)]
struct Cluster {
    version: u64,
    objects: BTreeMap<Name, Value>,
    /// What happened, by version, with the kind that it happened to.
    log: VecDeque<(u64, (String, String), &'static str, Value)>,
    /// Watches that begin before this version have missed something.
    oldest: u64,
    groups: BTreeSet<String>,
    /// Plurals that the client's account may not read.
    forbidden: BTreeSet<String>,
    /// What is said of tokens, as the status of a TokenReview.
    tokens: BTreeMap<String, Value>,
    /// Tokens that were asked about, with the audiences that were named.
    reviewed: Vec<(String, Value)>,
    lists: u64,
    watches: u64,
    /// How long a page takes.
    delay: Duration,
}

#[derive(Clone)]
struct Shared {
    cluster: Arc<Mutex<Cluster>>,
    changed: watch::Sender<()>,
}

/// A running (or dead) server; its objects outlive it.
pub(crate) struct Fake {
    shared: Shared,
    address: SocketAddr,
    tasks: Option<Tasks>,
    dir: tempfile::TempDir,
}

/// Where objects of a kind are.
fn place(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "Namespace" => ("v1", "namespaces"),
        "Service" => ("v1", "services"),
        "Pod" => ("v1", "pods"),
        "Node" => ("v1", "nodes"),
        "EndpointSlice" => ("discovery.k8s.io/v1", "endpointslices"),
        "Ingress" => ("networking.k8s.io/v1", "ingresses"),
        "IngressClass" => ("networking.k8s.io/v1", "ingressclasses"),
        "TrafficSplit" => ("split.smi-spec.io/v1alpha4", "trafficsplits"),
        "HTTPRouteGroup" => ("specs.smi-spec.io/v1alpha4", "httproutegroups"),
        "ServiceProfile" => ("linkerd.io/v1alpha2", "serviceprofiles"),
        "VirtualService" => ("networking.istio.io/v1", "virtualservices"),
        "DestinationRule" => ("networking.istio.io/v1", "destinationrules"),
        "ServiceEntry" => ("networking.istio.io/v1", "serviceentries"),
        "Gateway" => ("networking.istio.io/v1", "gateways"),
        "Sidecar" => ("networking.istio.io/v1", "sidecars"),
        "WorkloadEntry" => ("networking.istio.io/v1", "workloadentries"),
        "WorkloadGroup" => ("networking.istio.io/v1", "workloadgroups"),
        "PeerAuthentication" => ("security.istio.io/v1beta1", "peerauthentications"),
        other => panic!("{other}"),
    }
}

impl Fake {
    /// A server without objects, which knows Istio's networking kinds and not its security ones.
    pub(crate) fn start() -> Self {
        let mut fake = Self::dead();
        fake.revive();
        fake
    }

    /// One whose port is taken and not answered on yet.
    pub(crate) fn dead() -> Self {
        let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
        let groups = ["v1", "discovery.k8s.io/v1", "networking.istio.io/v1"];
        let cluster = Cluster {
            version: 100,
            groups: groups.map(str::to_owned).into(),
            ..Cluster::default()
        };
        Self {
            shared: Shared {
                cluster: Arc::new(Mutex::new(cluster)),
                changed: watch::Sender::new(()),
            },
            address: listener.local_addr().unwrap(),
            tasks: None,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Serves, on the same port as before.
    pub(crate) fn revive(&mut self) {
        let listener = bind(self.address, BindOptions::default()).unwrap();
        let router = Router::new()
            .route("/api/{version}/{plural}", get(core))
            .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
            .route("/apis/{group}/{version}/{plural}", get(grouped))
            .fallback(async || not_found())
            .with_state(self.shared.clone());
        let tasks = Tasks::new();
        let connections = tasks.clone();
        tasks.spawn("accept", async move {
            while let Ok((io, _)) = listener.accept().await {
                let service = TowerToHyperService::new(router.clone());
                connections.spawn("connection", async move {
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(io), service)
                        .await;
                    // Clients go as they please.
                    drop(served);
                });
            }
        });
        self.tasks = Some(tasks);
    }

    /// Pulls the plug: the port is closed and every connection breaks.
    pub(crate) async fn kill(&mut self) {
        if let Some(tasks) = self.tasks.take() {
            tasks.end().await;
        }
    }

    /// A kubeconfig for this server. The authority in it is never asked, as the server speaks plaintext,
    /// but without one the client would look for those of the machine.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        let authority = base64::engine::general_purpose::STANDARD.encode(authority.pem());
        let path = self.dir.path().join("config");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: fake\n\
             contexts: [{{name: fake, context: {{cluster: fake, user: me}}}}]\n\
             clusters: [{{name: fake, cluster: {{server: 'http://{}', certificate-authority-data: {authority}}}}}]\n\
             users: [{{name: me, user: {{token: secret}}}}]\n",
            self.address
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn lock<T>(&self, act: impl FnOnce(&mut Cluster) -> T) -> T {
        let done = act(&mut self.shared.cluster.lock().unwrap());
        self.shared.changed.send_replace(());
        done
    }

    /// Makes or changes the objects of a manifest, one after the other.
    pub(crate) fn apply(&self, manifest: &str) {
        for document in manifest
            .split("---\n")
            .filter(|text| !text.trim().is_empty())
        {
            let object = meshctl::resource::json::read(document, "test", 1).unwrap();
            self.put(object);
        }
    }

    /// Makes or changes an object.
    pub(crate) fn put(&self, object: Value) {
        self.lock(|cluster| cluster.put(object));
    }

    pub(crate) fn delete(&self, kind: &str, name: &str) {
        self.lock(|cluster| cluster.delete(kind, name));
    }

    /// Forgets all history: whoever watches must list again. What `meanwhile` does is not told.
    pub(crate) fn expire(
        &self,
        delay: Duration,
        meanwhile: impl FnOnce(&mut dyn FnMut(&str, &str)),
    ) {
        self.lock(|cluster| {
            meanwhile(&mut |kind, name| cluster.delete(kind, name));
            cluster.version += 1;
            cluster.log.clear();
            cluster.oldest = cluster.version;
            cluster.delay = delay;
        });
    }

    /// The server knows the kinds of this group and version from now on.
    pub(crate) fn install(&self, group: &str) {
        self.lock(|cluster| cluster.groups.insert(group.to_owned()));
    }

    /// From now on this is said of `token`.
    pub(crate) fn say_of(&self, token: &str, status: Value) {
        self.lock(|cluster| cluster.tokens.insert(token.to_owned(), status));
    }

    /// Tokens that were asked about, with the audiences that were named.
    pub(crate) fn reviewed(&self) -> Vec<(String, Value)> {
        self.lock(|cluster| cluster.reviewed.clone())
    }

    /// The account may not list and watch these any more.
    pub(crate) fn forbid(&self, plural: &str) {
        self.lock(|cluster| cluster.forbidden.insert(plural.to_owned()));
    }

    /// It may again.
    pub(crate) fn permit(&self, plural: &str) {
        self.lock(|cluster| cluster.forbidden.remove(plural));
    }

    /// Pages that were listed, and watches that were begun.
    pub(crate) fn asked(&self) -> (u64, u64) {
        self.lock(|cluster| (cluster.lists, cluster.watches))
    }
}

impl Cluster {
    fn put(&mut self, mut object: Value) {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let (group, plural) = place(&kind);
        self.version += 1;
        let metadata = object["metadata"].as_object_mut().unwrap();
        if !matches!(kind.as_str(), "Namespace" | "Node") {
            metadata
                .entry("namespace")
                .or_insert_with(|| "default".into());
        }
        metadata.insert("uid".to_owned(), "u".into());
        metadata.insert(
            "creationTimestamp".to_owned(),
            "2026-11-01T10:00:00Z".into(),
        );
        metadata.insert(
            "resourceVersion".to_owned(),
            self.version.to_string().into(),
        );
        metadata.insert("generation".to_owned(), self.version.into());
        metadata.insert(
            "managedFields".to_owned(),
            json!([{"manager": "kubectl", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]),
        );
        let text = |key: &str| {
            object["metadata"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let name = (
            group.to_owned(),
            plural.to_owned(),
            text("namespace"),
            text("name"),
        );
        let of = (name.0.clone(), name.1.clone());
        let known = self.objects.insert(name, object.clone()).is_some();
        let what = if known { "MODIFIED" } else { "ADDED" };
        self.log.push_back((self.version, of, what, object));
    }

    fn delete(&mut self, kind: &str, name: &str) {
        let (group, plural) = place(kind);
        let namespace = if matches!(kind, "Namespace" | "Node") {
            ""
        } else {
            "default"
        };
        let name = [group, plural, namespace, name].map(str::to_owned);
        let of = (name[0].clone(), name[1].clone());
        let mut object = self.objects.remove(&name.into()).unwrap();
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.log.push_back((self.version, of, "DELETED", object));
    }
}

/// TokenReview. As the real one, it looks at audiences only where some are named.
async fn review(State(shared): State<Shared>, Json(mut asked): Json<Value>) -> Response {
    let mut cluster = shared.cluster.lock().unwrap();
    if cluster.forbidden.contains("tokenreviews") {
        let said = "tokenreviews.authentication.k8s.io is forbidden: User \"me\" cannot create it";
        let said = status(403, "Forbidden", said);
        return (StatusCode::FORBIDDEN, Json(said)).into_response();
    }
    assert_eq!(asked["apiVersion"], "authentication.k8s.io/v1");
    assert_eq!(asked["kind"], "TokenReview");
    let token = asked["spec"]["token"].as_str().unwrap().to_owned();
    let audiences = asked["spec"]["audiences"].clone();
    asked["status"] = match cluster.tokens.get(&token) {
        Some(status) => status.clone(),
        None => json!({"user": {}, "error": "[invalid bearer token, unknown]"}),
    };
    cluster.reviewed.push((token, audiences));
    (StatusCode::CREATED, Json(asked)).into_response()
}

type Parameters = Query<BTreeMap<String, String>>;

async fn core(
    State(shared): State<Shared>,
    Segments((version, plural)): Segments<(String, String)>,
    Query(parameters): Parameters,
) -> Response {
    answer(shared, (version, plural), &parameters).await
}

async fn grouped(
    State(shared): State<Shared>,
    Segments((group, version, plural)): Segments<(String, String, String)>,
    Query(parameters): Parameters,
) -> Response {
    answer(shared, (format!("{group}/{version}"), plural), &parameters).await
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": message})
}

/// As the real one says it where it does not even know the group: not in JSON.
fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

async fn answer(
    shared: Shared,
    of: (String, String),
    parameters: &BTreeMap<String, String>,
) -> Response {
    if !shared.cluster.lock().unwrap().groups.contains(&of.0) {
        return not_found();
    }
    if shared.cluster.lock().unwrap().forbidden.contains(&of.1) {
        let said = format!("{} is forbidden: User \"me\" cannot list it", of.1);
        let said = status(403, "Forbidden", &said);
        return (StatusCode::FORBIDDEN, Json(said)).into_response();
    }
    if parameters.get("watch").is_some_and(|watch| watch == "true") {
        let from = parameters["resourceVersion"].parse().unwrap();
        assert_eq!(parameters["allowWatchBookmarks"], "true");
        shared.cluster.lock().unwrap().watches += 1;
        return Body::from_stream(events(shared, of, from)).into_response();
    }
    let delay = shared.cluster.lock().unwrap().delay;
    tokio::time::sleep(delay).await;
    let mut cluster = shared.cluster.lock().unwrap();
    cluster.lists += 1;
    let begin: usize = match parameters.get("continue").filter(|token| !token.is_empty()) {
        None => 0,
        Some(token) => token.parse().unwrap(),
    };
    let asked: usize = parameters["limit"].parse().unwrap();
    let all: Vec<&Value> = cluster
        .objects
        .iter()
        .filter(|(name, _)| (&name.0, &name.1) == (&of.0, &of.1))
        .map(|(_, object)| object)
        .collect();
    let end = (begin + asked.min(PAGE)).min(all.len());
    let items: Vec<Value> = all[begin..end]
        .iter()
        .map(|object| {
            let mut item = (*object).clone();
            // Items of built-in kinds do not say what they are.
            if !of.0.contains("istio") {
                item.as_object_mut().unwrap().remove("kind");
                item.as_object_mut().unwrap().remove("apiVersion");
            }
            item
        })
        .collect();
    let next = if end < all.len() {
        end.to_string()
    } else {
        String::new()
    };
    Json(json!({
        "kind": "List",
        "apiVersion": of.0,
        "metadata": {"resourceVersion": cluster.version.to_string(), "continue": next},
        "items": items,
    }))
    .into_response()
}

/// What happens to a kind after version `from`, a line each; between that, bookmarks.
fn events(
    shared: Shared,
    of: (String, String),
    from: u64,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
    let changed = shared.changed.subscribe();
    let begin = (shared, changed, Some(from));
    futures_util::stream::unfold(begin, move |(shared, mut changed, at)| {
        let of = of.clone();
        async move {
            let mut at = at?;
            loop {
                changed.mark_unchanged();
                let mut lines = String::new();
                let mut told = false;
                let mut tell = |line: Value| lines.push_str(&(line.to_string() + "\n"));
                {
                    let cluster = shared.cluster.lock().unwrap();
                    if at < cluster.oldest {
                        let gone = status(410, "Expired", "too old resource version");
                        let line = json!({"type": "ERROR", "object": gone}).to_string() + "\n";
                        drop(cluster);
                        return Some((Ok(line.into()), (shared, changed, None)));
                    }
                    for (_, _, what, object) in cluster
                        .log
                        .iter()
                        .filter(|(version, kind, ..)| *version > at && *kind == of)
                    {
                        tell(json!({"type": what, "object": object}));
                        told = true;
                    }
                    if !told && cluster.version > at {
                        let version = cluster.version.to_string();
                        tell(
                            json!({"type": "BOOKMARK", "object": {"kind": "x", "apiVersion": "v1", "metadata": {"resourceVersion": version}}}),
                        );
                    }
                    at = cluster.version;
                }
                if !lines.is_empty() {
                    return Some((Ok(lines.into()), (shared, changed, Some(at))));
                }
                // The sender is in `shared`, so it outlives this.
                changed.changed().await.unwrap();
            }
        }
    })
}
