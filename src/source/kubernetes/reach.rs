//! What a person's tool asks of an API server beside objects: a connection into a pod, a token of a service
//! account, a log.

use http::{Method, Request};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};
use tokio::io::DuplexStream;

use super::Access;
use super::KubernetesError;
use super::cluster::{Cluster, ClusterError};
use super::kubeconfig;

/// The contexts of a kubeconfig.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contexts {
    /// Their names.
    pub names: Vec<String>,
    /// The one that is meant when none is named.
    pub current: Option<String>,
}

impl Contexts {
    /// Of the kubeconfig that `access` names; nothing is asked of any cluster.
    pub fn read(access: &Access) -> Result<Self, KubernetesError> {
        let read = kubeconfig::read(&access.kubeconfig)?;
        Ok(Self {
            names: read.contexts.into_iter().map(|one| one.name).collect(),
            current: read.current_context.filter(|name| !name.is_empty()),
        })
    }
}

impl Cluster {
    /// A connection to `port` on the loopback of a pod, through the API server.
    pub async fn dial(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<DuplexStream, ClusterError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let ports = [port];
        let mut opened = self.in_time(pods.portforward(pod, &ports)).await?;
        opened
            .take_stream(port)
            .ok_or_else(|| ClusterError::Refused {
                code: 0,
                message: format!("the API server did not forward port {port} of {namespace}/{pod}"),
            })
    }

    /// A token of a service account for `audience`, good for `seconds`.
    pub async fn token(
        &self,
        namespace: &str,
        account: &str,
        audience: &str,
        seconds: u32,
    ) -> Result<String, ClusterError> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": seconds},
        });
        let answer = self
            .ask(Method::POST, &path, "application/json", Some(&request))
            .await?;
        let token = answer.pointer("/status/token").and_then(Value::as_str);
        token
            .map(str::to_owned)
            .ok_or_else(|| ClusterError::Refused {
                code: 0,
                message: format!("the API server gave no token of {namespace}/{account}"),
            })
    }

    /// The last `lines` of what a container of a pod wrote; of its only one when none is named.
    pub async fn log(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        lines: u32,
    ) -> Result<String, ClusterError> {
        let mut path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?tailLines={lines}");
        if let Some(container) = container {
            path.push_str("&container=");
            path.push_str(container);
        }
        let request = Request::builder().uri(&path).body(Vec::new());
        let request = request.map_err(|error| ClusterError::Refused {
            code: 0,
            message: format!("{path:?} is no path: {error}"),
        })?;
        self.in_time(self.client.request_text(request)).await
    }

    /// What the API server answers at `path`, if there is such a path.
    pub async fn get_path(&self, path: &str) -> Result<Option<Value>, ClusterError> {
        match self.ask(Method::GET, path, "application/json", None).await {
            Ok(found) => Ok(Some(found)),
            Err(ClusterError::Refused { code: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A kind of configuration that is followed in clusters, as paths have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// Its group; empty for the core.
    pub group: &'static str,
    /// The kind in paths.
    pub plural: &'static str,
    /// As objects name it.
    pub kind: &'static str,
}

impl Followed {
    /// The kind that objects are filed under as `filed`.
    pub fn of(filed: &str) -> Option<Self> {
        let mut kinds = super::kinds::KINDS.iter();
        let found = kinds.find(|kind| kind.filed == filed)?;
        Some(Self {
            group: found.group,
            plural: found.plural,
            kind: found.name,
        })
    }
}

impl Cluster {
    /// Makes the cluster have `object`'s fields by server-side apply at `path`, its own; with `only_try` it says
    /// what would come of it. `force` takes fields from who has them.
    pub async fn apply_at(
        &self,
        path: &str,
        object: &Value,
        only_try: bool,
        force: bool,
    ) -> Result<Value, ClusterError> {
        let dry = if only_try { "&dryRun=All" } else { "" };
        let manager = super::cluster::MANAGER;
        let path = format!("{path}?fieldManager={manager}&force={force}{dry}");
        let media = "application/apply-patch+yaml";
        self.ask(Method::PATCH, &path, media, Some(object)).await
    }

    /// Puts `object` in the place of what is at `path`, if that is still of the version that `object` names.
    pub async fn replace_at(&self, path: &str, object: &Value) -> Result<Value, ClusterError> {
        let path = format!("{path}?fieldManager={}", super::cluster::MANAGER);
        self.ask(Method::PUT, &path, "application/json", Some(object))
            .await
    }

    /// Whether we may do `verb` to an object of a kind.
    pub async fn may_do(
        &self,
        verb: &str,
        kind: &Followed,
        (namespace, name): (&str, &str),
    ) -> Result<bool, ClusterError> {
        let review = serde_json::json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": verb, "group": kind.group, "resource": kind.plural, "namespace": namespace, "name": name,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = self
            .ask(Method::POST, path, "application/json", Some(&review))
            .await?;
        Ok(answer.pointer("/status/allowed") == Some(&Value::Bool(true)))
    }

    /// Deletes what is at `path`; whether it was there.
    pub async fn delete_at(&self, path: &str) -> Result<bool, ClusterError> {
        match self
            .ask(Method::DELETE, path, "application/json", None)
            .await
        {
            Ok(_) => Ok(true),
            Err(ClusterError::Refused { code: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
