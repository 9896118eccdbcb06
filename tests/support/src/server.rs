//! The state that all requests share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use http::Response;
use serde_json::{Value, json};

use crate::auth::{Keys, User};
use crate::faults::Interrupt;
use crate::kinds::{self, Kind};
use crate::path::Ask;
use crate::serve::Out;
use crate::status::{Answer, Refusal};
use crate::store::{Key, Store};

/// Objects and the kinds that they may have.
#[derive(Debug)]
pub struct State {
    /// Objects.
    pub store: Store,
    /// Kinds, built in and defined.
    pub kinds: Vec<Arc<Kind>>,
    /// Whether somebody ends the pods that are deleted.
    pub kubelet: bool,
}

/// Everything that serves.
#[derive(Debug)]
pub struct Server {
    state: Mutex<State>,
    /// Authority and token key.
    pub keys: Keys,
    /// Seconds that the clock is ahead of the machine's.
    ahead: AtomicI64,
    /// Such as `v1.36.0`.
    pub version: String,
    /// What is looked at before a request is served.
    hooks: RwLock<Vec<Arc<dyn Before>>>,
    /// Where Services are reached: namespace, name, port.
    routes: RwLock<BTreeMap<(String, String, u64), SocketAddr>>,
    /// What befalls the watches that are under way.
    interrupts: tokio::sync::watch::Sender<Option<Interrupt>>,
    /// What is known of pods beside their objects.
    pub pods: crate::pods::Pods,
}

/// A look at requests before they are served: it may wait, or answer in the server's stead. Faults are such.
pub trait Before: Send + Sync + std::fmt::Debug {
    /// Nothing lets the request pass.
    fn before<'a>(
        &'a self,
        ask: &'a Ask,
        user: &'a User,
    ) -> Pin<Box<dyn Future<Output = Option<Response<Out>>> + Send + 'a>>;
}

/// The key of definitions of kinds.
pub const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

impl Server {
    /// An empty cluster with its usual namespaces.
    pub fn new(keys: Keys, version: &str) -> Arc<Self> {
        let server = Arc::new(Self {
            state: Mutex::new(State {
                store: Store::default(),
                kinds: kinds::built_in().into_iter().map(Arc::new).collect(),
                kubelet: false,
            }),
            keys,
            ahead: AtomicI64::new(0),
            version: version.to_owned(),
            hooks: RwLock::default(),
            routes: RwLock::default(),
            interrupts: tokio::sync::watch::Sender::new(None),
            pods: crate::pods::Pods::default(),
        });
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let namespace =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            let made = server.create_now("namespaces", "", namespace);
            debug_assert!(made.is_ok(), "{made:?}");
        }
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]},
        });
        let made = server.create_now("services", "default", service);
        debug_assert!(made.is_ok(), "{made:?}");
        server
    }

    /// The state; held only for moments, never across an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a look at requests.
    pub fn look(&self, hook: Arc<dyn Before>) {
        let mut hooks = self.hooks.write().unwrap_or_else(PoisonError::into_inner);
        hooks.push(hook);
    }

    /// Befalls every watch that is under way, and none that begins later.
    pub fn interrupt(&self, what: Interrupt) {
        self.interrupts.send_replace(Some(what));
    }

    /// What befalls watches from now on.
    pub fn interrupts(&self) -> tokio::sync::watch::Receiver<Option<Interrupt>> {
        self.interrupts.subscribe()
    }

    /// What the looks say of a request.
    pub async fn before(&self, ask: &Ask, user: &User) -> Option<Response<Out>> {
        let hooks = self
            .hooks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for hook in hooks {
            let answer = hook.before(ask, user).await;
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// Says where a Service is reached, as no pod runs here.
    pub fn route(&self, namespace: &str, service: &str, port: u64, address: SocketAddr) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.insert((namespace.to_owned(), service.to_owned(), port), address);
    }

    /// Where a Service is reached, or what a cluster would say that it is not.
    pub fn reach(&self, namespace: &str, service: &str, port: u64) -> Result<SocketAddr, String> {
        let found = self.state().store.get(&Key {
            resource: "services".into(),
            namespace: namespace.to_owned(),
            name: service.to_owned(),
        });
        let Some(found) = found else {
            return Err(format!("service \"{service}\" not found"));
        };
        let mut ports = found["spec"]["ports"].as_array().into_iter().flatten();
        if !ports.any(|p| p["port"] == port) {
            return Err(format!(
                "no service port {port} found for service \"{service}\""
            ));
        }
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), service.to_owned(), port);
        routes
            .get(&key)
            .copied()
            .ok_or_else(|| format!("no endpoints available for service \"{service}\""))
    }

    /// Seconds since 1970 by the cluster's clock.
    pub fn now(&self) -> i64 {
        let machine = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
        machine + self.ahead.load(Ordering::Relaxed)
    }

    /// Moves the cluster's clock.
    pub fn advance(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
    }

    /// The cluster's clock as objects carry it.
    pub fn timestamp(&self) -> String {
        stamp(self.now())
    }

    /// Creates as the cluster itself, past admission.
    pub fn create_now(&self, resource: &str, namespace: &str, object: Value) -> Answer<Arc<Value>> {
        let kind = self
            .state()
            .kind_of(resource)
            .ok_or_else(Refusal::no_path)?;
        let mut object = object;
        crate::prepare::create(&kind, &mut object, namespace, &self.timestamp())?;
        self.insert(&kind, object)
    }

    /// Stores a new object, and does what follows at once.
    pub fn insert(&self, kind: &Kind, object: Value) -> Answer<Arc<Value>> {
        let key = key_of(kind, &object);
        let mut state = self.state();
        if state.store.get(&key).is_some() {
            return Err(Refusal::exists(&kind.plural, &kind.group, &key.name));
        }
        if !key.namespace.is_empty() {
            state.check_namespace(kind, &key)?;
        }
        let stored = state.store.put(key, object);
        state.follow(kind, &stored);
        drop(state);
        if kind.key() == "namespaces" {
            self.furnish(&stored);
        }
        Ok(stored)
    }

    /// What every namespace holds: the default account and the cluster's root.
    fn furnish(&self, namespace: &Value) {
        let Some(name) = namespace["metadata"]["name"].as_str() else {
            return;
        };
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}});
        let root = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kube-root-ca.crt", "namespace": name},
            "data": {"ca.crt": self.keys.root()},
        });
        for (resource, object) in [("serviceaccounts", account), ("configmaps", root)] {
            let made = self.create_now(resource, name, object);
            debug_assert!(made.is_ok(), "{made:?}");
        }
    }

    /// The user of a bearer token; nothing if it is not valid for one of the audiences.
    pub fn user_of_token(&self, token: &str, audiences: &[String]) -> Option<(User, Vec<String>)> {
        let claims = self.keys.claims(token)?;
        if claims["exp"].as_i64()? <= self.now() || claims["nbf"].as_i64()? > self.now() {
            return None;
        }
        let meant: Vec<String> = claims["aud"]
            .as_array()?
            .iter()
            .filter_map(Value::as_str)
            .filter(|a| audiences.iter().any(|b| b == a))
            .map(str::to_owned)
            .collect();
        if meant.is_empty() {
            return None;
        }
        let ours = &claims["kubernetes.io"];
        let key = |resource: &str, name: &Value| Key {
            resource: resource.to_owned(),
            namespace: ours["namespace"].as_str().unwrap_or_default().to_owned(),
            name: name.as_str().unwrap_or_default().to_owned(),
        };
        let state = self.state();
        // A token lives no longer than its account, and than the pod it is bound to.
        let account = state
            .store
            .get(&key("serviceaccounts", &ours["serviceaccount"]["name"]))?;
        if account["metadata"]["uid"] != ours["serviceaccount"]["uid"] {
            return None;
        }
        if ours["pod"].is_object() {
            let pod = state.store.get(&key("pods", &ours["pod"]["name"]))?;
            if pod["metadata"]["uid"] != ours["pod"]["uid"] {
                return None;
            }
        }
        Some((crate::auth::of_claims(&claims), meant))
    }
}

impl State {
    /// A kind by its key, in the version that clients prefer.
    pub fn kind_of(&self, key: &str) -> Option<Arc<Kind>> {
        self.kinds
            .iter()
            .filter(|k| k.key() == key)
            .min_by_key(|k| kinds::version_rank(&k.version))
            .cloned()
    }

    /// A kind by group, version and plural.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.kinds
            .iter()
            .find(|k| k.group == group && k.version == version && k.plural == plural)
            .cloned()
    }

    /// Refuses what would be put where nothing may be.
    pub fn check_namespace(&self, kind: &Kind, key: &Key) -> Answer<()> {
        let namespace = self.store.get(&Key {
            resource: "namespaces".into(),
            namespace: String::new(),
            name: key.namespace.clone(),
        });
        let Some(namespace) = namespace else {
            return Err(Refusal::not_found("namespaces", "", &key.namespace));
        };
        if namespace["metadata"]["deletionTimestamp"].is_string() {
            let full = kind.key();
            let mut refusal = Refusal::new(
                403,
                "Forbidden",
                format!(
                    "{full} \"{}\" is forbidden: unable to create new content in namespace {} because it is being terminated",
                    key.name, key.namespace
                ),
            )
            .of(&kind.plural, &kind.group, &key.name);
            refusal.details["causes"] = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
                "message": format!("namespace {} is being terminated", key.namespace)}]);
            return Err(refusal);
        }
        Ok(())
    }

    /// Keeps the kinds in step with their definitions.
    pub fn follow(&mut self, kind: &Kind, object: &Value) {
        if kind.key() != DEFINITIONS {
            return;
        }
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        self.kinds.retain(|k| k.custom.is_none() || k.key() != name);
        let key = key_of(kind, object);
        if let Some(now) = self.store.get(&key) {
            self.kinds
                .extend(kinds::of_definition(&now).into_iter().map(Arc::new));
        }
    }
}

/// Where an object is kept.
pub fn key_of(kind: &Kind, object: &Value) -> Key {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    Key {
        resource: match kind.key().as_str() {
            // Two faces of the same objects.
            "events.events.k8s.io" => "events".into(),
            other => other.to_owned(),
        },
        namespace: if kind.namespaced {
            text(&object["metadata"]["namespace"])
        } else {
            String::new()
        },
        name: text(&object["metadata"]["name"]),
    }
}

/// RFC 3339 in whole seconds.
pub fn stamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

/// A random UUID.
pub fn uuid() -> String {
    let (a, b) = (fastrand::u64(..), fastrand::u64(..));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        0x8000 | ((b >> 48) & 0x3fff),
        b & 0xffff_ffff_ffff
    )
}
