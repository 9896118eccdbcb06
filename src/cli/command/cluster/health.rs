//! Whether a mesh in a cluster is well: a line for each thing, looked at with the rights of who asks.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::upgrade::is_newer;
use crate::api::check::{Check, CheckReport, CheckSection, CheckStatus};
use crate::cli::cluster::{Mesh, is_ready};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::control::cluster::rights;
use crate::inject::PROXY;
use crate::install::{INJECTOR, NAME, REVISION, ROOT_KEY, ROOTS, VALIDATOR, of_revision};
use crate::source::kubernetes::cluster::{Cluster, ClusterError, ObjectRef};
use crate::source::kubernetes::rights::Whose;
use crate::tls;

/// How rights are mended.
const RESTORE: &str = "`meshctl install --target kubernetes` again, of the control plane's version, restores the account, its roles and their bindings";

/// A root that ends sooner than this is a warning, in seconds: thirty days.
const SOON: i64 = 30 * 24 * 3_600;

/// Everything that can be looked at from outside. An error when nothing can be.
pub(crate) async fn report(mesh: &Mesh, cx: &Context) -> Result<CheckReport, CliError> {
    let cluster = mesh.connect().await?;
    let at = mesh.installed();
    let look = Look {
        cluster: &cluster,
        namespace: &at.system_namespace,
        revision: &at.revision,
        now: i64::try_from(cx.wall.millis() / 1_000).unwrap_or_default(),
    };
    let (replicas, deployed) = look.control_plane().await?;
    let mut sections = vec![section("control plane", replicas)];
    let session = mesh.session().await;
    match &session {
        Ok(session) => {
            let leader = session.leader.as_deref();
            let own = sections.iter_mut().next();
            if let Some(own) = own {
                own.checks.push(match leader {
                    Some(_) => well("a ready replica writes"),
                    None => check(
                        "a ready replica writes",
                        CheckStatus::Failed,
                        "the Lease names no ready pod".to_owned(),
                        "it takes 15 s after a replica was lost; after that, look at the pods' logs",
                    ),
                });
            }
            for (pod, answer) in mesh.each("/check").await? {
                sections.extend(of_replica(&pod, answer));
            }
        }
        Err(error) => {
            if let Some(own) = sections.iter_mut().next() {
                own.checks.push(check(
                    "its API can be asked",
                    CheckStatus::Failed,
                    error.chain(),
                    &error.advice().unwrap_or_default(),
                ));
            }
        }
    }
    let root = look.root().await;
    let root = root.as_ref().map(String::as_str);
    let mut trust = vec![look.root_lasts(root)];
    trust.push(look.roots_everywhere(root).await);
    trust.extend(look.webhooks(root).await);
    sections.push(section("trust", trust));
    sections.push(section("rights", vec![look.rights().await]));
    sections.push(section("kinds", vec![look.definitions().await]));
    sections.push(section(
        "sidecars",
        look.sidecars(deployed.as_deref()).await,
    ));
    Ok(CheckReport { sections })
}

fn section(name: &str, checks: Vec<Check>) -> CheckSection {
    CheckSection {
        name: name.to_owned(),
        checks,
    }
}

fn check(text: &str, status: CheckStatus, detail: String, hint: &str) -> Check {
    Check {
        text: text.to_owned(),
        status,
        detail,
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
    }
}

fn well(text: &str) -> Check {
    check(text, CheckStatus::Ok, String::new(), "")
}

/// What could not be looked at is not said to be well.
fn unseen(text: &str, error: &ClusterError) -> Check {
    let hint = match error {
        ClusterError::Forbidden(_) => "somebody with the ClusterRole view, or more, sees it",
        _ => "see whether `kubectl version` works",
    };
    check(
        text,
        CheckStatus::Warning,
        format!("not looked at: {error}"),
        hint,
    )
}

/// What one replica says of itself.
fn of_replica(
    pod: &str,
    answer: Result<(http::StatusCode, bytes::Bytes), CliError>,
) -> Vec<CheckSection> {
    let text = "it answers";
    let failed = |detail: String| {
        let hint = format!("`kubectl logs {pod}` says more");
        let failed = check(text, CheckStatus::Failed, detail, &hint);
        vec![section(&format!("replica {pod}"), vec![failed])]
    };
    match answer {
        Ok((status, body)) if status.is_success() => {
            let Ok(report) = serde_json::from_slice::<CheckReport>(&body) else {
                return failed(
                    "its answer makes no sense; it may be of another version".to_owned(),
                );
            };
            let named = report.sections.into_iter().map(|of| CheckSection {
                name: format!("replica {pod}: {}", of.name),
                checks: of.checks,
            });
            named.collect()
        }
        Ok((status, _)) => failed(format!("status {status}")),
        Err(error) => failed(error.chain()),
    }
}

struct Look<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    revision: &'a str,
    /// Seconds since 1970.
    now: i64,
}

fn count(object: &Value, pointer: &str) -> u64 {
    let count = object.pointer(pointer).and_then(Value::as_u64);
    count.unwrap_or_default()
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    let text = object.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default()
}

fn some_of(all: &[String]) -> String {
    let shown = all.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(5) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Look<'_> {
    fn named(&self, name: &str) -> String {
        of_revision(name, self.revision)
    }

    fn which(&self, kind: &str, name: &str, in_namespace: bool) -> ObjectRef {
        ObjectRef {
            kind: kind.to_owned(),
            namespace: in_namespace.then(|| self.namespace.to_owned()),
            name: self.named(name),
        }
    }

    /// The Deployment and its pods, and the image that it runs. Unreachable when its API server is.
    async fn control_plane(&self) -> Result<(Vec<Check>, Option<String>), CliError> {
        let available = "its Deployment has all its replicas";
        let deployment = match self
            .cluster
            .get(&self.which("Deployment", NAME, true))
            .await
        {
            Err(error @ ClusterError::Away { .. }) => {
                return Err(CliError::Unreachable {
                    place: self.cluster.name().to_owned(),
                    way: crate::cli::error::Way::Cluster,
                    source: std::io::Error::other(error.to_string()),
                });
            }
            other => other,
        };
        let mut image = None;
        let mut checks = vec![match &deployment {
            Ok(None) => check(
                available,
                CheckStatus::Failed,
                format!(
                    "there is no Deployment {}/{}",
                    self.namespace,
                    self.named(NAME)
                ),
                "`meshctl install --target kubernetes` makes it; --context names another mesh",
            ),
            Err(error) => unseen(available, error),
            Ok(Some(found)) => {
                let pod = found.pointer("/spec/template/spec/containers/0/image");
                image = pod.and_then(Value::as_str).map(str::to_owned);
                let (wanted, ready) = (
                    count(found, "/spec/replicas"),
                    count(found, "/status/availableReplicas"),
                );
                if ready >= wanted {
                    well(available)
                } else {
                    check(
                        available,
                        if ready == 0 {
                            CheckStatus::Failed
                        } else {
                            CheckStatus::Warning
                        },
                        format!("{ready} of {wanted} are available"),
                        &format!("`kubectl describe pods -n {}` says why", self.namespace),
                    )
                }
            }
        }];
        let ready = "a pod of it is ready";
        let selector = format!("app={NAME},{REVISION}={}", self.revision);
        let pods = self.cluster.list("Pod", Some(self.namespace), &selector);
        checks.push(match pods.await {
            Err(error) => unseen(ready, &error),
            Ok(pods) if pods.iter().any(is_ready) => well(ready),
            Ok(pods) => check(
                ready,
                CheckStatus::Failed,
                format!("{} pods are there, and none is ready", pods.len()),
                &format!("`kubectl describe pods -n {}` says why", self.namespace),
            ),
        });
        Ok((checks, image))
    }

    /// The mesh's root, as PEM.
    async fn root(&self) -> Result<String, ClusterError> {
        let which = self.which("ConfigMap", ROOTS, true);
        let found = self.cluster.get(&which).await?;
        let root = found
            .as_ref()
            .and_then(|map| map.get("data")?.get(ROOT_KEY));
        let root = root.and_then(Value::as_str).unwrap_or_default();
        Ok(root.to_owned())
    }

    fn root_lasts(&self, root: Result<&str, &ClusterError>) -> Check {
        let name = "the mesh's root is there, and lasts";
        let root = match root {
            Ok(root) => root,
            Err(error) => return unseen(name, error),
        };
        let found = tls::material::certificates(root).unwrap_or_default();
        let ends = found.iter().filter_map(|der| {
            let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
            Some(certificate.validity().not_after.timestamp())
        });
        let hint = "`meshctl identity rotate-root`, or a new authority in the Secret cacerts";
        match ends.min() {
            None => check(
                name,
                CheckStatus::Failed,
                format!(
                    "ConfigMap {}/{} has none",
                    self.namespace,
                    self.named(ROOTS)
                ),
                "the replica that writes makes it; look at its log",
            ),
            Some(end) if end <= self.now => {
                check(name, CheckStatus::Failed, "it has expired".to_owned(), hint)
            }
            Some(end) if end - self.now < SOON => check(
                name,
                CheckStatus::Warning,
                format!("it ends in {} days", (end - self.now) / 86_400),
                hint,
            ),
            Some(_) => well(name),
        }
    }

    async fn roots_everywhere(&self, root: Result<&str, &ClusterError>) -> Check {
        let name = "every namespace has the mesh's root";
        let Ok(root) = root else {
            return check(name, CheckStatus::Warning, "it is not known".to_owned(), "");
        };
        let namespaces = match self.cluster.list("Namespace", None, "").await {
            Ok(found) => found,
            Err(error) => return unseen(name, &error),
        };
        let maps = self
            .cluster
            .list_named("ConfigMap", &self.named(ROOTS))
            .await;
        let maps = match maps {
            Ok(found) => found,
            Err(error) => return unseen(name, &error),
        };
        let have: BTreeSet<&str> = maps
            .iter()
            .filter(|map| {
                let held = map
                    .get("data")
                    .and_then(|data| data.get(ROOT_KEY)?.as_str());
                held == Some(root)
            })
            .map(|map| text(map, "/metadata/namespace"))
            .collect();
        let lack: Vec<String> = namespaces
            .iter()
            .filter(|namespace| text(namespace, "/status/phase") != "Terminating")
            .map(|namespace| text(namespace, "/metadata/name").to_owned())
            .filter(|name| !have.contains(name.as_str()))
            .collect();
        if lack.is_empty() {
            return well(name);
        }
        check(
            name,
            CheckStatus::Failed,
            format!("{} lack it, or have another", some_of(&lack)),
            "the replica that writes keeps it; look at its log",
        )
    }

    async fn webhooks(&self, root: Result<&str, &ClusterError>) -> Vec<Check> {
        let mut checks = Vec::new();
        for (kind, name, what) in [
            (
                "MutatingWebhookConfiguration",
                INJECTOR,
                "sidecars are put into pods",
            ),
            (
                "ValidatingWebhookConfiguration",
                VALIDATOR,
                "wrong configuration is refused",
            ),
        ] {
            let which = self.which(kind, name, false);
            let found = match self.cluster.get(&which).await {
                Ok(found) => found,
                Err(error) => {
                    checks.push(unseen(what, &error));
                    continue;
                }
            };
            let Some(found) = found else {
                checks.push(check(
                    what,
                    CheckStatus::Warning,
                    format!("there is no {which}"),
                    "`meshctl install --target kubernetes` makes it, unless it was told not to",
                ));
                continue;
            };
            let hooks = found.get("webhooks").and_then(Value::as_array);
            let believes = |hook: &Value| {
                let bundle = text(hook, "/clientConfig/caBundle");
                let bundle = STANDARD.decode(bundle).unwrap_or_default();
                root.is_ok_and(|root| !root.is_empty() && bundle == root.as_bytes())
            };
            checks.push(if hooks.into_iter().flatten().all(believes) {
                well(what)
            } else {
                check(
                    what,
                    CheckStatus::Failed,
                    format!("{which} does not believe the mesh's root"),
                    "the replica that writes keeps it; look at its log",
                )
            });
        }
        checks
    }

    /// Whether the control plane may do what this version does, as the API server judges it.
    async fn rights(&self) -> Check {
        let name = "the control plane may do what it does";
        let account = self.which("ServiceAccount", NAME, true);
        match self.cluster.get(&account).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                return check(
                    name,
                    CheckStatus::Failed,
                    format!("there is no {account}, as which it would do it"),
                    RESTORE,
                );
            }
            Err(error) => return unseen(name, &error),
        }
        let at = (self.namespace, self.revision);
        let whose = Whose::Account(self.namespace, &account.name);
        match rights::lacking(self.cluster, at, whose).await {
            Ok(lacking) if lacking.rights.is_empty() => well(name),
            Ok(lacking) => {
                let words = lacking.words();
                let detail = if lacking.rights.len() == lacking.of {
                    format!("{account} may do nothing: no role is bound to it")
                } else {
                    format!("{account} may not {}", words.join("; "))
                };
                check(name, CheckStatus::Failed, detail, RESTORE)
            }
            Err(error) => unseen(name, &error),
        }
    }

    /// Whether a newer release defined the kinds: what only that release knows is not read by this one.
    async fn definitions(&self) -> Check {
        let name = "kinds are defined as this release has them";
        let selector = format!("app.kubernetes.io/managed-by={NAME}");
        let found = self
            .cluster
            .list("CustomResourceDefinition", None, &selector);
        let found = match found.await {
            Ok(found) => found,
            Err(error) => return unseen(name, &error),
        };
        let newer: BTreeSet<&str> = found
            .iter()
            .filter_map(|one| label(one, "app.kubernetes.io/version"))
            .filter(|release| is_newer(release))
            .collect();
        if newer.is_empty() {
            return well(name);
        }
        check(
            name,
            CheckStatus::Warning,
            format!(
                "a newer release defined them ({}); objects with what only that one knows are left out",
                newer.into_iter().collect::<Vec<_>>().join(", ")
            ),
            "use the newer meshctl for the control plane, too: `meshctl upgrade`",
        )
    }

    /// Pods that should have a sidecar and have none, and those with one of another version.
    async fn sidecars(&self, image: Option<&str>) -> Vec<Check> {
        let (has, same) = (
            "pods in labelled namespaces have a sidecar",
            "sidecars are of the control plane's version",
        );
        let listed = async {
            let namespaces = self.cluster.list("Namespace", None, "").await?;
            let pods = self.cluster.list("Pod", None, "").await?;
            Ok((namespaces, pods))
        };
        let (namespaces, pods) = match listed.await {
            Ok(found) => found,
            Err(error) => return vec![unseen(has, &error)],
        };
        let labelled: BTreeSet<&str> = namespaces
            .iter()
            .filter(|namespace| {
                let own = label(namespace, REVISION) == Some(self.revision);
                let injected = label(namespace, "istio-injection") == Some("enabled");
                own || (self.revision == "default" && injected)
            })
            .map(|namespace| text(namespace, "/metadata/name"))
            .collect();
        let (mut without, mut other) = (Vec::new(), Vec::new());
        for pod in &pods {
            let namespace = text(pod, "/metadata/namespace");
            let name = format!("{namespace}/{}", text(pod, "/metadata/name"));
            let ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
            match sidecar(pod) {
                _ if ended => {}
                Some(found) => {
                    if image.is_some_and(|image| image != found) {
                        other.push(name);
                    }
                }
                None => {
                    let refuses = label(pod, "sidecar.istio.io/inject") == Some("false");
                    let host = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
                    if labelled.contains(namespace) && !refuses && !host {
                        without.push(name);
                    }
                }
            }
        }
        let told = |name: &str, which: &[String]| {
            if which.is_empty() {
                return well(name);
            }
            let hint = "`kubectl rollout restart` of their Deployments has them made anew";
            check(name, CheckStatus::Warning, some_of(which), hint)
        };
        vec![told(has, &without), told(same, &other)]
    }
}

/// A label of an object.
fn label<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
    object.pointer("/metadata/labels")?.get(key)?.as_str()
}

/// The image of a pod's sidecar.
fn sidecar(pod: &Value) -> Option<&str> {
    ["containers", "initContainers"]
        .iter()
        .filter_map(|list| pod.get("spec")?.get(*list)?.as_array())
        .flatten()
        .find(|container| container["name"] == PROXY || container["name"] == "istio-proxy")
        .and_then(|container| container["image"].as_str())
}
