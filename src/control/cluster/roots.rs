//! What the replica that writes keeps in the cluster: the roots that proxies believe, in every namespace, and
//! the same for the API server, which asks our webhooks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Membership;
use super::amiss::is_leaving;
use super::denied::Denied;
use super::leader::{Leads, elected, written_labels};
use crate::control::Control;
use crate::install::{INJECTOR, ROOT_KEY, ROOTS, VALIDATOR, of_revision};
use crate::rt::{Backoff, Tasks};
use crate::source::kubernetes::cluster::{Cluster, ClusterError, ObjectRef, Outcome};

/// How often it is looked whether there are other namespaces or roots: both are known here already.
const LOOK: Duration = Duration::from_secs(1);
/// How often everything is compared with the cluster, where somebody may have changed it.
const COMPARE: Duration = Duration::from_secs(30);

/// Starts it; ends with `tasks`.
pub(super) fn start(
    control: &Arc<Control>,
    cluster: &Cluster,
    membership: &Membership,
    leads: Leads,
    tasks: &Tasks,
) {
    let keeper = Keeper {
        control: Arc::clone(control),
        cluster: cluster.clone(),
        revision: membership.revision.clone(),
        denied: Denied::default(),
    };
    tasks.spawn("roots", keeper.run(leads));
}

struct Keeper {
    control: Arc<Control>,
    cluster: Cluster,
    revision: String,
    denied: Denied,
}

/// What is known to be in the cluster.
#[derive(Default)]
struct Kept {
    /// The roots.
    roots: String,
    /// Namespaces that have them.
    namespaces: BTreeSet<String>,
    /// When the cluster was asked last.
    compared: Option<Instant>,
}

impl Keeper {
    async fn run(mut self, mut leads: Leads) {
        let mut kept = Kept::default();
        let mut led = false;
        let mut backoff = Backoff::new(LOOK, COMPARE);
        loop {
            if !*leads.borrow() {
                led = false;
                elected(&mut leads).await;
            }
            if !led {
                // Another may have written meanwhile.
                kept = Kept::default();
                led = true;
            }
            let pause = match self.round(&mut kept).await {
                Ok(()) => {
                    backoff.reset();
                    LOOK
                }
                // What is known to be there stays known, so that nothing is written again for nothing.
                Err(error) if self.denied.is("ConfigMaps with the roots", &error) => COMPARE,
                Err(error) => {
                    tracing::debug!(%error, "the roots are compared with the cluster's later");
                    backoff.next(fastrand::f64())
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn round(&mut self, kept: &mut Kept) -> Result<(), ClusterError> {
        let roots = self.control.trust.authority().roots_pem();
        let overdue = kept.compared.is_none_or(|at| at.elapsed() >= COMPARE);
        if overdue || kept.roots != roots {
            kept.namespaces = self.compare(&roots).await?;
            for (kind, name) in [
                ("MutatingWebhookConfiguration", INJECTOR),
                ("ValidatingWebhookConfiguration", VALIDATOR),
            ] {
                match self.webhooks(kind, name, &roots).await {
                    Ok(()) => self.denied.may(kind),
                    Err(error) if self.denied.is(kind, &error) => {}
                    Err(error) => {
                        tracing::warn!(%error, kind, "the authority of the webhooks was not written");
                    }
                }
            }
            kept.compared = Some(Instant::now());
            kept.roots.clone_from(&roots);
        }
        for namespace in self.namespaces().await.difference(&kept.namespaces.clone()) {
            match self.write(namespace, &roots).await {
                Ok(outcome) => {
                    if outcome != Outcome::Unchanged {
                        tracing::info!(%namespace, "roots written");
                    }
                }
                Err(error) if error.passes() || error.lacks_rights() => return Err(error),
                // One that is being deleted since a moment takes nothing any more. Tried again when all are compared.
                Err(error) => tracing::debug!(%error, %namespace, "roots not written"),
            }
            kept.namespaces.insert(namespace.clone());
        }
        self.denied.may("ConfigMaps with the roots");
        Ok(())
    }

    /// Every namespace that takes something, as the watch knows them: one that is being deleted does not.
    async fn namespaces(&self) -> BTreeSet<String> {
        let found = self.control.index.objects("Namespace", None, None).await;
        let stays = found.into_iter().filter(|found| !is_leaving(&found.object));
        stays.map(|found| found.name).collect()
    }

    fn name(&self) -> String {
        of_revision(ROOTS, &self.revision)
    }

    /// The namespaces that have these roots.
    async fn compare(&self, roots: &str) -> Result<BTreeSet<String>, ClusterError> {
        let found = self.cluster.list_named("ConfigMap", &self.name()).await?;
        let same = |object: &&Value| {
            let data = object.get("data").and_then(|data| data.get(ROOT_KEY));
            data.and_then(Value::as_str) == Some(roots)
        };
        Ok(found
            .iter()
            .filter(same)
            .filter_map(|object| ObjectRef::of(object).namespace)
            .collect())
    }

    async fn write(&self, namespace: &str, roots: &str) -> Result<Outcome, ClusterError> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.name(),
                "namespace": namespace,
                "labels": written_labels(&self.revision),
            },
            "data": {ROOT_KEY: roots},
        });
        self.cluster.apply(&object, true).await
    }

    /// Has the API server believe our certificate.
    async fn webhooks(&self, kind: &str, name: &str, roots: &str) -> Result<(), ClusterError> {
        let which = ObjectRef {
            kind: kind.to_owned(),
            namespace: None,
            name: of_revision(name, &self.revision),
        };
        // Without one, the installation has none.
        let Some(mut object) = self.cluster.get(&which).await? else {
            return Ok(());
        };
        let bundle = json!(STANDARD.encode(roots));
        let mut changed = false;
        let hooks = object.get_mut("webhooks").and_then(Value::as_array_mut);
        for hook in hooks.into_iter().flatten() {
            let client = &mut hook["clientConfig"];
            if client.get("caBundle") != Some(&bundle) {
                client["caBundle"] = bundle.clone();
                changed = true;
            }
        }
        if changed {
            // Lost to another writer, it is done at the next comparison.
            self.cluster.replace(&object).await?;
            tracing::info!(webhooks = %which, "the authority of the webhooks is written");
        }
        Ok(())
    }
}
