//! Reading and writing single objects of a cluster, as the JSON that its API server keeps.
//!
//! What the watches do not do: applying, deleting, asking what may be done. Kinds are named by a table, so
//! that nothing is discovered for what is known.

use std::fmt;
use std::time::Duration;

use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use thiserror::Error;

use super::{Access, KubernetesError, configuration, kinds};

/// Who wrote a field, as server-side apply keeps it.
pub const MANAGER: &str = "meshctl";
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects a page.
const PAGE: usize = 500;

/// Where objects of a kind are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The kind.
    pub kind: &'static str,
    /// Group and version, as in `apiVersion`.
    pub version: &'static str,
    /// The kind in paths.
    pub plural: &'static str,
    /// It lives in a namespace.
    pub namespaced: bool,
}

const fn place(
    kind: &'static str,
    version: &'static str,
    plural: &'static str,
    namespaced: bool,
) -> Place {
    Place {
        kind,
        version,
        plural,
        namespaced,
    }
}

/// Every kind that is written.
pub const PLACES: &[Place] = &[
    place("Namespace", "v1", "namespaces", false),
    place(
        "CustomResourceDefinition",
        "apiextensions.k8s.io/v1",
        "customresourcedefinitions",
        false,
    ),
    place("ServiceAccount", "v1", "serviceaccounts", true),
    place(
        "ClusterRole",
        "rbac.authorization.k8s.io/v1",
        "clusterroles",
        false,
    ),
    place(
        "ClusterRoleBinding",
        "rbac.authorization.k8s.io/v1",
        "clusterrolebindings",
        false,
    ),
    place("Role", "rbac.authorization.k8s.io/v1", "roles", true),
    place(
        "RoleBinding",
        "rbac.authorization.k8s.io/v1",
        "rolebindings",
        true,
    ),
    place("ConfigMap", "v1", "configmaps", true),
    place("Secret", "v1", "secrets", true),
    place("Service", "v1", "services", true),
    place("Pod", "v1", "pods", true),
    place(
        "PodDisruptionBudget",
        "policy/v1",
        "poddisruptionbudgets",
        true,
    ),
    place("Deployment", "apps/v1", "deployments", true),
    place("Lease", "coordination.k8s.io/v1", "leases", true),
    place(
        "MutatingWebhookConfiguration",
        "admissionregistration.k8s.io/v1",
        "mutatingwebhookconfigurations",
        false,
    ),
    place(
        "ValidatingWebhookConfiguration",
        "admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
        false,
    ),
];

impl Place {
    /// Of a kind in [`PLACES`].
    pub fn of(kind: &str) -> Option<&'static Self> {
        PLACES.iter().find(|place| place.kind == kind)
    }

    /// The path of all objects, or of one.
    fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let root = if self.version.contains('/') {
            "apis"
        } else {
            "api"
        };
        let mut path = format!("/{root}/{}", self.version);
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: String,
    /// Its namespace; none for the whole cluster's.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

impl ObjectRef {
    /// Which one `object` is.
    pub fn of(object: &Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer)?.as_str().map(str::to_owned);
        Self {
            kind: text("/kind").unwrap_or_default(),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name").unwrap_or_default(),
        }
    }
}

/// Why something was not done.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// The API server does not answer, or not in time.
    #[error("the API server of {cluster} does not answer: {reason}")]
    Away {
        /// Which cluster.
        cluster: String,
        /// Why.
        reason: String,
    },
    /// We may not.
    #[error("{0}")]
    Forbidden(String),
    /// Somebody changed it meanwhile, or has it already.
    #[error("{0}")]
    Conflict(String),
    /// The API server says no.
    #[error("{message}")]
    Refused {
        /// The status of the answer.
        code: u16,
        /// Its words.
        message: String,
    },
    /// A kind that is not in [`PLACES`].
    #[error("objects of kind {0:?} are not written here")]
    Kind(String),
}

impl ClusterError {
    /// Whether it says nothing of the object, but that the API server cannot take anything now.
    pub fn passes(&self) -> bool {
        match self {
            Self::Away { .. } => true,
            Self::Refused { code, .. } => matches!(code, 401 | 429 | 500..),
            Self::Forbidden(_) | Self::Conflict(_) | Self::Kind(_) => false,
        }
    }

    /// Whether it says that we may not: no role lets us. A namespace that is being deleted, quotas and admission
    /// forbid, too, but are no matter of rights, and have other words.
    pub fn lacks_rights(&self) -> bool {
        matches!(self, Self::Forbidden(message) if message.contains("\" cannot "))
    }
}

/// What applying came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was otherwise.
    Changed,
    /// It was so already.
    Unchanged,
}

impl Outcome {
    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// A cluster whose objects are read and written one by one.
#[derive(Clone)]
pub struct Cluster {
    pub(super) client: Client,
    name: String,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// The one that `access` means. Nothing is asked of it yet.
    pub async fn new(access: &Access) -> Result<Self, KubernetesError> {
        let (mut config, name) = configuration(access).await?;
        config.read_timeout = Some(PATIENCE);
        config.reset_reader_on_write = true;
        let client = Client::try_from(config).map_err(|error| KubernetesError::Credentials {
            cluster: name.clone(),
            source: Box::new(error),
        })?;
        Ok(Self { client, name })
    }

    /// The context, or the address of the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        media: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClusterError> {
        let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media)
            .body(bytes)
            .map_err(|error| ClusterError::Refused {
                code: 0,
                message: format!("{path:?} is no path: {error}"),
            })?;
        self.in_time(self.client.request::<Value>(request)).await
    }

    /// What `asking` comes to, unless it takes too long.
    pub(super) async fn in_time<T>(
        &self,
        asking: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        let away = |reason: String| ClusterError::Away {
            cluster: self.name.clone(),
            reason,
        };
        let answer = tokio::time::timeout(PATIENCE, asking)
            .await
            .map_err(|_| away(format!("no answer after {} s", PATIENCE.as_secs())))?;
        answer.map_err(|error| match error {
            kube::Error::Api(status) => match status.code {
                403 => ClusterError::Forbidden(status.message.clone()),
                409 => ClusterError::Conflict(status.message.clone()),
                code => ClusterError::Refused {
                    code,
                    message: status.message.clone(),
                },
            },
            error => away(crate::rt::chain(&error)),
        })
    }

    /// `gitVersion`, such as `v1.33.1`.
    pub async fn version(&self) -> Result<String, ClusterError> {
        let version = self.ask(Method::GET, "/version", JSON, None).await?;
        let text = version.get("gitVersion").and_then(Value::as_str);
        Ok(text.unwrap_or_default().to_owned())
    }

    /// The object, if it is there.
    pub async fn get(&self, which: &ObjectRef) -> Result<Option<Value>, ClusterError> {
        let place = known(&which.kind)?;
        let path = place.path(which.namespace.as_deref(), Some(&which.name));
        match self.ask(Method::GET, &path, JSON, None).await {
            Ok(object) => Ok(Some(object)),
            Err(ClusterError::Refused { code: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every object of a kind, with these labels (a label selector; empty is all), in pages.
    pub async fn list(
        &self,
        kind: &str,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        self.pages(kind, namespace, ("labelSelector", selector))
            .await
    }

    /// The objects of this name in all namespaces: what may be listed by who may see this name only.
    pub async fn list_named(&self, kind: &str, name: &str) -> Result<Vec<Value>, ClusterError> {
        let selector = format!("metadata.name={name}");
        self.pages(kind, None, ("fieldSelector", &selector)).await
    }

    async fn pages(
        &self,
        kind: &str,
        namespace: Option<&str>,
        (parameter, selector): (&str, &str),
    ) -> Result<Vec<Value>, ClusterError> {
        let place = known(kind)?;
        let path = place.path(namespace, None);
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let path = format!("{path}?{}", query(parameter, selector, &next));
            let mut page = self.ask(Method::GET, &path, JSON, None).await?;
            let items = page.get_mut("items").map(Value::take);
            if let Some(Value::Array(items)) = items {
                all.extend(items.into_iter().map(|mut item| {
                    // Items of a list do not say what they are.
                    if let Value::Object(fields) = &mut item {
                        fields.insert("apiVersion".to_owned(), json!(place.version));
                        fields.insert("kind".to_owned(), json!(place.kind));
                    }
                    item
                }));
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(token) if !token.is_empty() => token.clone_into(&mut next),
                _ => return Ok(all),
            }
        }
    }

    /// Makes the cluster have `object`'s fields, and says what that changed. Fields that were applied before and
    /// are not in `object` go; those of others stay. `force` takes fields from who has them.
    pub async fn apply(&self, object: &Value, force: bool) -> Result<Outcome, ClusterError> {
        let which = ObjectRef::of(object);
        let place = known(&which.kind)?;
        let before = self.get(&which).await?;
        let path = place.path(which.namespace.as_deref(), Some(&which.name));
        let path = format!("{path}?fieldManager={MANAGER}&force={force}");
        let after = self.ask(Method::PATCH, &path, APPLY, Some(object)).await?;
        let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
        Ok(match before {
            None => Outcome::Created,
            Some(before) if version(&before) == version(&after) => Outcome::Unchanged,
            Some(_) => Outcome::Changed,
        })
    }

    /// Makes the object; [`ClusterError::Conflict`] when it is there.
    pub async fn create(&self, object: &Value) -> Result<Value, ClusterError> {
        let which = ObjectRef::of(object);
        let place = known(&which.kind)?;
        let path = place.path(which.namespace.as_deref(), None);
        let path = format!("{path}?fieldManager={MANAGER}");
        self.ask(Method::POST, &path, JSON, Some(object)).await
    }

    /// Puts the object in place of one of the same `resourceVersion`; [`ClusterError::Conflict`] when it is another.
    pub async fn replace(&self, object: &Value) -> Result<Value, ClusterError> {
        let which = ObjectRef::of(object);
        let place = known(&which.kind)?;
        let path = place.path(which.namespace.as_deref(), Some(&which.name));
        let path = format!("{path}?fieldManager={MANAGER}");
        self.ask(Method::PUT, &path, JSON, Some(object)).await
    }

    /// Changes the object by a JSON merge patch.
    pub async fn patch(&self, which: &ObjectRef, patch: &Value) -> Result<Value, ClusterError> {
        let place = known(&which.kind)?;
        let path = place.path(which.namespace.as_deref(), Some(&which.name));
        let path = format!("{path}?fieldManager={MANAGER}");
        self.ask(Method::PATCH, &path, MERGE, Some(patch)).await
    }

    /// Deletes it, and in the background what it owns; whether it was there.
    pub async fn delete(&self, which: &ObjectRef) -> Result<bool, ClusterError> {
        let place = known(&which.kind)?;
        let path = place.path(which.namespace.as_deref(), Some(&which.name));
        let options =
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        match self.ask(Method::DELETE, &path, JSON, Some(&options)).await {
            Ok(_) => Ok(true),
            Err(ClusterError::Refused { code: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// An object of a kind that people define, if it is there.
    pub async fn get_custom(&self, which: Custom<'_>) -> Result<Option<Value>, ClusterError> {
        match self.ask(Method::GET, &custom(which), JSON, None).await {
            Ok(object) => Ok(Some(object)),
            Err(ClusterError::Refused { code: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an object of a kind that people define.
    pub async fn create_custom(&self, object: &Value) -> Result<Value, ClusterError> {
        let path = custom_of(object, false);
        let path = format!("{path}?fieldManager={MANAGER}");
        self.ask(Method::POST, &path, JSON, Some(object)).await
    }

    /// Puts the object in place of one of the same `resourceVersion`.
    pub async fn replace_custom(&self, object: &Value) -> Result<Value, ClusterError> {
        let path = custom_of(object, true);
        let path = format!("{path}?fieldManager={MANAGER}");
        self.ask(Method::PUT, &path, JSON, Some(object)).await
    }

    /// Changes an object of a kind that people define by a JSON merge patch.
    pub async fn merge_custom(
        &self,
        which: Custom<'_>,
        patch: &Value,
    ) -> Result<Value, ClusterError> {
        let path = format!("{}?fieldManager={MANAGER}", custom(which));
        self.ask(Method::PATCH, &path, MERGE, Some(patch)).await
    }

    /// Deletes an object of a kind that people define; whether it was there.
    pub async fn delete_custom(&self, which: Custom<'_>) -> Result<bool, ClusterError> {
        match self.ask(Method::DELETE, &custom(which), JSON, None).await {
            Ok(_) => Ok(true),
            Err(ClusterError::Refused { code: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Replaces the status of an object of the same `resourceVersion`.
    pub async fn replace_status(
        &self,
        which: Custom<'_>,
        object: &Value,
    ) -> Result<Value, ClusterError> {
        let path = format!("{}/status?fieldManager={MANAGER}", custom(which));
        self.ask(Method::PUT, &path, JSON, Some(object)).await
    }

    /// Whether we may do this.
    pub async fn may(
        &self,
        verb: &str,
        place: &Place,
        namespace: Option<&str>,
    ) -> Result<bool, ClusterError> {
        let group = place.version.split_once('/').map_or("", |(group, _)| group);
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": verb,
                "group": group,
                "resource": place.plural,
                "namespace": namespace.filter(|_| place.namespaced),
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = self.ask(Method::POST, path, JSON, Some(&review)).await?;
        Ok(answer.pointer("/status/allowed") == Some(&Value::Bool(true)))
    }
}

/// An object of a kind that people define: `apiVersion`, kind, namespace if it has one, name.
pub type Custom<'a> = (&'a str, &'a str, Option<&'a str>, &'a str);

fn custom((version, kind, namespace, name): Custom<'_>) -> String {
    let plural = kinds::plural(kind, version);
    let mut path = format!("/apis/{version}");
    if let Some(namespace) = namespace {
        path.push_str("/namespaces/");
        path.push_str(namespace);
    }
    path + "/" + &plural + "/" + name
}

/// The path of `object`, or of where it is made.
fn custom_of(object: &Value, itself: bool) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    let path = custom((
        version.unwrap_or_default(),
        kind.unwrap_or_default(),
        text("/metadata/namespace"),
        text("/metadata/name").unwrap_or_default(),
    ));
    match path.rsplit_once('/') {
        Some((collection, _)) if !itself => collection.to_owned(),
        _ => path,
    }
}

fn query(parameter: &str, selector: &str, next: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &PAGE.to_string());
    for (name, value) in [(parameter, selector), ("continue", next)] {
        if !value.is_empty() {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

fn known(kind: &str) -> Result<&'static Place, ClusterError> {
    Place::of(kind).ok_or_else(|| ClusterError::Kind(kind.to_owned()))
}
