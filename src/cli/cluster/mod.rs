//! A mesh in a cluster, asked from outside: through the API server, by a connection to the control plane's pods.
//!
//! Nothing listens on this machine for it: the stream of a port-forward is the connection, TLS with the control plane
//! goes through it, and the token in it is one that the API server gave to who asks. What several replicas must be
//! asked for, and how their answers become one, is left to [`merge`].

pub(crate) mod edit;
mod lines;
mod merge;
pub(crate) mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Method, StatusCode};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::api::access::Role;
use crate::api::{PREFIX, Problem, Reason};
use crate::control::rest::roles::{RULES, Rule};
use crate::install::{
    API_AUDIENCE, API_PORT, LEASE, NAME, OPERATOR, REVISION, ROOT_KEY, ROOTS, VIEWER, of_revision,
};
use crate::rt::now;
use crate::source::kubernetes::cluster::{Cluster, ClusterError, ObjectRef};
use crate::tls::{self, Pin};

use super::client::{Asked, speak};
use super::contexts::{InCluster, Meant};
use super::error::{CliError, Way};
use super::settings::Environment;
use merge::{How, Whom};

/// How long a token is good for: the shortest that API servers give.
const TOKEN_SECONDS: u32 = 600;
/// After this time another is asked for.
const TOKEN_USE: Duration = Duration::from_mins(8);
/// How long it may take to reach a pod.
const PATIENCE: Duration = Duration::from_secs(10);

/// A mesh in a cluster.
pub(crate) struct Mesh {
    name: String,
    place: InCluster,
    environment: Environment,
    guessed: bool,
    session: OnceCell<Session>,
    /// Replicas that did not answer a question that was for all.
    silent: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("name", &self.name)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// What was found out of it.
pub(crate) struct Session {
    pub(crate) cluster: Cluster,
    tls: Arc<ClientConfig>,
    server: ServerName<'static>,
    host: String,
    /// Pods that are ready; the one that writes first.
    pub(crate) replicas: Vec<String>,
    /// The one that writes.
    pub(crate) leader: Option<String>,
    tokens: Mutex<BTreeMap<Role, (Instant, HeaderValue)>>,
}

/// An answer, with its status.
pub(crate) type Answered = (StatusCode, Bytes);

impl Mesh {
    pub(crate) fn new(meant: &Meant, place: InCluster, environment: &Environment) -> Self {
        Self {
            name: meant.name.clone(),
            place,
            environment: environment.clone(),
            guessed: meant.guessed,
            session: OnceCell::new(),
            silent: Mutex::default(),
        }
    }

    /// In words.
    pub(crate) fn place(&self) -> String {
        let (namespace, revision) = (&self.place.system_namespace, &self.place.revision);
        let revision = match revision.as_str() {
            "default" => String::new(),
            revision => format!(", revision {revision}"),
        };
        format!("cluster {} (namespace {namespace}{revision})", self.name)
    }

    /// Where it is installed.
    pub(crate) fn installed(&self) -> &InCluster {
        &self.place
    }

    /// Replicas that did not answer when all were asked.
    pub(crate) fn silent(&self) -> Vec<String> {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.iter().cloned().collect()
    }

    fn unreachable(&self, source: io::Error) -> CliError {
        CliError::Unreachable {
            place: self.place(),
            way: Way::Cluster,
            source,
        }
    }

    /// What an error of the API server is to a person who did `what`.
    fn failed(&self, what: &str, role: Role, error: ClusterError) -> CliError {
        match error {
            ClusterError::Away { reason, .. } => {
                self.unreachable(io::Error::other(format!("its API server: {reason}")))
            }
            ClusterError::Forbidden(message) => {
                let namespace = &self.place.system_namespace;
                let account = if role == Role::Viewer {
                    VIEWER
                } else {
                    OPERATOR
                };
                let account = of_revision(account, &self.place.revision);
                let place = self.place();
                let message = format!("{place}: cannot {what}: {message}");
                let problem = Problem::new(Reason::Denied, message);
                CliError::Problem(problem.hint(format!("`kubectl create rolebinding NAME -n {namespace} --role={account} --user=YOU` by an administrator gives this right")))
            }
            error => CliError::failed(format!("{}: cannot {what}: {error}", self.place())),
        }
    }

    /// Who is there; found out once.
    pub(crate) async fn session(&self) -> Result<&Session, CliError> {
        self.session.get_or_try_init(|| self.open()).await
    }

    /// A connection to the API server, and nothing more.
    pub(crate) async fn connect(&self) -> Result<Cluster, CliError> {
        let access = self.place.access(&self.environment);
        Cluster::new(&access)
            .await
            .map_err(|error| CliError::failed(error.to_string()).hint(error.hint()))
    }

    async fn open(&self) -> Result<Session, CliError> {
        let namespace = &self.place.system_namespace;
        let named = |name: &str| of_revision(name, &self.place.revision);
        let cluster = self.connect().await?;
        let selector = format!("app={NAME},{REVISION}={}", self.place.revision);
        let pods = cluster
            .list("Pod", Some(namespace), &selector)
            .await
            .map_err(|error| self.failed("list the control plane's pods", Role::Viewer, error))?;
        let ready: Vec<String> = pods
            .iter()
            .filter(|pod| is_ready(pod))
            .map(|pod| ObjectRef::of(pod).name)
            .collect();
        if ready.is_empty() {
            return Err(self.nobody(&cluster, pods.len()).await);
        }
        let object = |kind: &str, name: String| ObjectRef {
            kind: kind.to_owned(),
            namespace: Some(namespace.clone()),
            name,
        };
        let lease = object("Lease", named(LEASE));
        let lease = cluster.get(&lease).await;
        let lease = lease.map_err(|error| self.failed("see who writes", Role::Viewer, error))?;
        let leader = lease
            .as_ref()
            .and_then(|lease| lease.pointer("/spec/holderIdentity")?.as_str())
            .filter(|holder| ready.iter().any(|name| name == holder))
            .map(str::to_owned);
        let roots = cluster.get(&object("ConfigMap", named(ROOTS))).await;
        let roots =
            roots.map_err(|error| self.failed("read the mesh's root", Role::Viewer, error))?;
        let roots = roots
            .as_ref()
            .and_then(|roots| roots.get("data")?.get(ROOT_KEY)?.as_str())
            .ok_or_else(|| {
                self.unreachable(io::Error::other(format!(
                    "ConfigMap {namespace}/{} has no {ROOT_KEY} yet",
                    named(ROOTS)
                )))
            })?;
        let wrong = |error: tls::Error| CliError::failed(format!("the mesh's root: {error}"));
        let roots = tls::material::certificates(roots).map_err(wrong)?;
        let tls = tls::api_client_config(&Pin::Roots(roots), None).map_err(wrong)?;
        let host = format!("{}.{namespace}.svc", named(NAME));
        let server = ServerName::try_from(host.clone())
            .map_err(|_| CliError::usage(format!("{host:?} is not the name of a service")))?;
        let mut replicas = ready;
        replicas.sort_by_key(|name| Some(name) != leader.as_ref());
        Ok(Session {
            cluster,
            tls: Arc::new(tls),
            server,
            host,
            replicas,
            leader,
            tokens: Mutex::default(),
        })
    }

    /// Why there is nobody to ask.
    async fn nobody(&self, cluster: &Cluster, pods: usize) -> CliError {
        let namespace = &self.place.system_namespace;
        if pods > 0 {
            let one = if pods == 1 { "pod is" } else { "pods are" };
            let words = format!("{pods} {one} there, and none is ready");
            return self.unreachable(io::Error::other(words));
        }
        let which = ObjectRef {
            kind: "Namespace".to_owned(),
            namespace: None,
            name: namespace.clone(),
        };
        // Who may not look at namespaces is told of pods only.
        let missing = matches!(cluster.get(&which).await, Ok(None));
        let words = match (missing, self.guessed) {
            (true, true) => "no mesh is installed there, nor on this machine".to_owned(),
            (true, false) => "no mesh is installed there".to_owned(),
            (false, _) => format!("no pod of the control plane is in namespace {namespace}"),
        };
        self.unreachable(io::Error::other(words))
    }

    /// A token for `role` or more.
    async fn bearer(&self, session: &Session, role: Role) -> Result<HeaderValue, CliError> {
        {
            let tokens = session
                .tokens
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let fresh = tokens
                .range(role..)
                .find(|(_, (since, _))| now().saturating_duration_since(*since) < TOKEN_USE);
            if let Some((_, (_, token))) = fresh {
                return Ok(token.clone());
            }
        }
        let namespace = &self.place.system_namespace;
        let accounts: &[(Role, &str)] = match role {
            Role::Viewer => &[(Role::Viewer, VIEWER), (Role::Operator, OPERATOR)],
            _ => &[(Role::Operator, OPERATOR)],
        };
        let mut refused = None;
        for (given, account) in accounts {
            let account = of_revision(account, &self.place.revision);
            let asked = session
                .cluster
                .token(namespace, &account, API_AUDIENCE, TOKEN_SECONDS);
            let what = format!("get a token of {namespace}/{account} for the control plane's API");
            match asked.await {
                Ok(token) => {
                    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                        .map_err(|_| CliError::failed("the API server's token is none"))?;
                    value.set_sensitive(true);
                    let mut tokens = session
                        .tokens
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    tokens.insert(*given, (now(), value.clone()));
                    return Ok(value);
                }
                Err(ClusterError::Refused { code: 404, message }) => {
                    return Err(CliError::failed(format!("cannot {what}: {message}")).hint(
                        "the installation is of an older version; run `meshctl install --target kubernetes` again",
                    ));
                }
                // The first is what is lacking.
                Err(error @ ClusterError::Forbidden(_)) => {
                    refused.get_or_insert((what, error));
                }
                Err(error) => return Err(self.failed(&what, role, error)),
            }
        }
        Err(match refused {
            Some((what, error)) => self.failed(&what, role, error),
            None => CliError::failed("nobody gives a token"),
        })
    }

    /// Asks one replica.
    async fn ask_one(
        &self,
        session: &Session,
        pod: &str,
        asked: &Asked<'_>,
        bearer: &HeaderValue,
    ) -> Result<Answered, CliError> {
        let stream = self.reach(session, pod).await?;
        let of_pod = |words: String| self.unreachable(io::Error::other(format!("{pod}: {words}")));
        let broken = |error: io::Error| of_pod(error.to_string());
        speak(stream, (&session.host, Some(bearer)), asked, &broken).await
    }

    /// Asks whom the question is for, and makes one answer of theirs.
    pub(crate) async fn ask(&self, asked: &Asked<'_>) -> Result<Answered, CliError> {
        let session = self.session().await?;
        let role = role_of(&asked.method, &asked.path);
        let bearer = if asked.path.ends_with("/access/self") {
            // Who asks what they may is told the most.
            match self.bearer(session, Role::Operator).await {
                Err(CliError::Problem(_)) => self.bearer(session, role).await?,
                bearer => bearer?,
            }
        } else {
            self.bearer(session, role).await?
        };
        match Whom::of(&asked.method, &asked.path) {
            Whom::Any => {
                let answer = self.ask_any(session, asked, &bearer).await?;
                self.measured(session, asked, &bearer, answer).await
            }
            Whom::Leader => {
                let leader = session.leader.as_deref().ok_or_else(|| {
                    self.unreachable(io::Error::other(
                        "no ready replica holds the Lease, so none writes",
                    ))
                })?;
                let (status, body) = self.ask_one(session, leader, asked, &bearer).await?;
                if !status.is_success() {
                    return Ok((status, body));
                }
                let body = self.told_everywhere(session, body).await?;
                Ok((status, body))
            }
            Whom::Every(how) => {
                let question = how.question(asked);
                let answers = self.ask_all(session, &question, &bearer).await?;
                let (status, body) = how.merge(answers)?;
                if how != How::Stats || !status.is_success() {
                    return Ok((status, body));
                }
                let ejections = self.ejections(session, &bearer).await?;
                let body = merge::count_ejections(asked, &body, &ejections)?;
                Ok((status, body))
            }
        }
    }

    /// An answer of one replica, with what all have measured in place of what it did.
    async fn measured(
        &self,
        session: &Session,
        asked: &Asked<'_>,
        bearer: &HeaderValue,
        (status, body): Answered,
    ) -> Result<Answered, CliError> {
        let several = session.replicas.len() > 1 && status.is_success();
        let Some(what) = merge::measures(asked).filter(|_| several) else {
            return Ok((status, body));
        };
        let Ok(mut answer) = serde_json::from_slice::<Value>(&body) else {
            return Ok((status, body));
        };
        match what {
            merge::Measured::Ejections => {
                let ejections = self.ejections(session, bearer).await?;
                answer = merge::put_ejections(answer, &ejections)?;
            }
            merge::Measured::Backends => merge::without_shares(&mut answer),
            merge::Measured::Versions => {
                let path = format!("{PREFIX}/stats?window=60&by=version");
                let asked = How::Stats.question(&Asked::get(&path));
                let answers = self.ask_all(session, &asked, bearer).await?;
                let (_, stats) = How::Stats.merge(answers)?;
                let stats: Value = serde_json::from_slice(&stats).unwrap_or_default();
                let rows = stats.get("rows").and_then(Value::as_array);
                merge::put_shares(&mut answer, rows.map_or(&[], Vec::as_slice));
            }
        }
        Ok((status, Bytes::from(answer.to_string())))
    }

    /// What proxies of all replicas have ejected.
    async fn ejections(&self, session: &Session, bearer: &HeaderValue) -> Result<Bytes, CliError> {
        let path = format!("{PREFIX}/ejections");
        let answers = self.ask_all(session, &Asked::get(&path), bearer).await?;
        let (status, body) = How::Lists.merge(answers)?;
        // One of an older version knows of none.
        let none = Bytes::from_static(b"[]");
        Ok(if status.is_success() { body } else { none })
    }

    /// The first replica that answers.
    async fn ask_any(
        &self,
        session: &Session,
        asked: &Asked<'_>,
        bearer: &HeaderValue,
    ) -> Result<Answered, CliError> {
        let mut failed = None;
        for pod in &session.replicas {
            match self.ask_one(session, pod, asked, bearer).await {
                Err(error @ CliError::Unreachable { .. }) => {
                    tracing::debug!(pod, error = %error.chain(), "another replica is asked");
                    failed.get_or_insert(error);
                }
                answer => return answer,
            }
        }
        Err(failed.unwrap_or_else(|| self.unreachable(io::Error::other("there is no replica"))))
    }

    /// Every replica at once. Those that are silent are remembered, and are an error when all are.
    async fn ask_all(
        &self,
        session: &Session,
        asked: &Asked<'_>,
        bearer: &HeaderValue,
    ) -> Result<Vec<Answered>, CliError> {
        let asking = session
            .replicas
            .iter()
            .map(|pod| self.ask_one(session, pod, asked, bearer));
        let (mut answers, mut failed) = (Vec::new(), None);
        for (pod, answer) in session.replicas.iter().zip(join_all(asking).await) {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error @ CliError::Unreachable { .. }) => {
                    tracing::debug!(pod, error = %error.chain(), "a replica is silent");
                    let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
                    silent.insert(pod.clone());
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) if answers.is_empty() => Err(error),
            _ => Ok(answers),
        }
    }

    /// Waits until the other replicas' proxies have what the leader wrote, and adds that to its answer.
    async fn told_everywhere(&self, session: &Session, body: Bytes) -> Result<Bytes, CliError> {
        let Ok(mut report) = serde_json::from_slice::<Value>(&body) else {
            return Ok(body);
        };
        let written = report.get("written").and_then(Value::as_array);
        let Some(written) = written.filter(|written| !written.is_empty()).cloned() else {
            return Ok(body);
        };
        let others = session
            .replicas
            .iter()
            .filter(|pod| Some(*pod) != session.leader.as_ref());
        let others: Vec<&String> = others.collect();
        let taken = self.converged(session, &others, &written).await?;
        if let Some(own) = report.get_mut("convergence") {
            for one in &taken {
                merge::add_convergence(own, one);
            }
        }
        Ok(Bytes::from(report.to_string()))
    }

    /// How the proxies of `replicas` took what was `written` to the API server.
    async fn converged(
        &self,
        session: &Session,
        replicas: &[&String],
        written: &[Value],
    ) -> Result<Vec<Value>, CliError> {
        let body = serde_json::json!({"written": written}).to_string();
        let path = format!("{PREFIX}/convergence");
        let asked = Asked {
            method: Method::POST,
            path: path.as_str().into(),
            body: Some(body.into_bytes()),
        };
        let bearer = self.bearer(session, Role::Viewer).await?;
        let asking = replicas
            .iter()
            .map(|pod| self.ask_one(session, pod, &asked, &bearer));
        let mut taken = Vec::new();
        for (pod, answer) in replicas.iter().zip(join_all(asking).await) {
            match answer {
                Ok((status, body)) if status.is_success() => {
                    taken.extend(serde_json::from_slice::<Value>(&body).ok());
                }
                Ok(_) | Err(CliError::Unreachable { .. }) => {
                    let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
                    silent.insert((*pod).clone());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// How all proxies took what was `written` to the API server by us.
    pub(crate) async fn taken(&self, written: &[Value]) -> Result<Value, CliError> {
        let session = self.session().await?;
        let all: Vec<&String> = session.replicas.iter().collect();
        let mut sum = serde_json::json!({});
        for one in self.converged(session, &all, written).await? {
            merge::add_convergence(&mut sum, &one);
        }
        Ok(sum)
    }

    /// What each replica answers, by its name; silent ones have none.
    pub(crate) async fn each(
        &self,
        path: &str,
    ) -> Result<Vec<(String, Result<Answered, CliError>)>, CliError> {
        let session = self.session().await?;
        let path = format!("{PREFIX}{path}");
        let asked = Asked::get(&path);
        let bearer = self.bearer(session, Role::Viewer).await?;
        let asking = session
            .replicas
            .iter()
            .map(|pod| self.ask_one(session, pod, &asked, &bearer));
        let answers = join_all(asking).await;
        Ok(session.replicas.iter().cloned().zip(answers).collect())
    }
}

/// Whether a pod serves.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().any(|one| {
        one.get("type").and_then(Value::as_str) == Some("Ready")
            && one.get("status").and_then(Value::as_str) == Some("True")
    });
    ready && pod.pointer("/metadata/deletionTimestamp").is_none()
}

/// The least that may ask this, by the control plane's own table.
fn role_of(method: &Method, path: &str) -> Role {
    let path = path.split('?').next().unwrap_or_default();
    let path = path.strip_prefix(PREFIX).unwrap_or(path);
    // What only the socket's owner may is refused by the control plane, in its words.
    rule_of(method, path).map_or(Role::Viewer, |rule| rule.role.min(Role::Operator))
}

/// The control plane's rule for `method` of `path`, which is below the API's prefix and without a query.
pub(crate) fn rule_of(method: &Method, path: &str) -> Option<&'static Rule> {
    let is = |route: &str| {
        let (mut route, mut path) = (route.split('/'), path.split('/'));
        loop {
            match (route.next(), path.next()) {
                (None, None) => return true,
                (Some(known), Some(part)) if known.starts_with('{') || known == part => {}
                _ => return false,
            }
        }
    };
    RULES
        .iter()
        .find(|rule| rule.method == method.as_str() && is(rule.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_takes_the_lesser_role() {
        let role = |method: Method, path: &str| role_of(&method, path);
        assert_eq!(role(Method::GET, "/api/v1/stats?window=5"), Role::Viewer);
        assert_eq!(role(Method::POST, "/api/v1/diff"), Role::Viewer);
        assert_eq!(
            role(Method::POST, "/api/v1/canaries/default/reviews"),
            Role::Operator
        );
        assert_eq!(role(Method::GET, "/api/v1/canaries/a/b"), Role::Viewer);
        assert_eq!(role(Method::POST, "/api/v1/access/tokens"), Role::Operator);
        assert_eq!(role(Method::GET, "/ready"), Role::Viewer);
    }
}
