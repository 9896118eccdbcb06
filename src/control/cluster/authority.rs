//! The authority that replicas share: a Secret in the system namespace.
//!
//! The first replica makes it, and a Secret that somebody brought along (Istio's `cacerts`) goes before it. It
//! is written to files of mode 0600 that the control plane follows as any authority that is plugged in, so
//! another Secret is another authority, without a restart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::Membership;
use super::denied::Denied;
use super::leader::written_labels;
use crate::control::trust::{self, CaOptions, TrustError};
use crate::install::{AUTHORITY, PLUGGED};
use crate::rt::disk::{private_dir, write_private};
use crate::rt::{Backoff, Tasks, Wall};
use crate::source::kubernetes::cluster::{Cluster, ClusterError, ObjectRef};

/// How often the Secrets are looked at.
const WATCH: Duration = Duration::from_secs(10);

/// The files of an authority in Istio's layout, and whether one must be there.
const FILES: [(&str, bool); 4] = [
    ("cert-chain.pem", false),
    ("root-cert.pem", true),
    ("ca-cert.pem", true),
    // Last: what is read in between is an old key with a new certificate, which is refused, and read again.
    ("ca-key.pem", true),
];

/// An authority's files by name.
type Texts = Vec<(&'static str, Zeroizing<Vec<u8>>)>;

/// Where the shared authority is written.
#[derive(Debug, Clone)]
pub(in crate::control) struct Shared {
    dir: PathBuf,
    trust_domain: String,
    namespace: String,
    revision: String,
    own: CaOptions,
}

impl Shared {
    pub(in crate::control) fn new(
        home: &Path,
        trust_domain: &str,
        membership: &Membership,
        own: &CaOptions,
    ) -> Self {
        Self {
            dir: home.join("control").join("ca-shared"),
            trust_domain: trust_domain.to_owned(),
            namespace: membership.namespace.clone(),
            revision: membership.revision.clone(),
            own: own.clone(),
        }
    }

    /// Fetches the authority, or makes it; waits for an API server that does not answer. What it comes to as
    /// options of the control plane.
    pub(in crate::control) async fn prepare(
        &self,
        cluster: &Cluster,
        wall: &Wall,
    ) -> Result<CaOptions, TrustError> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
        let mut denied = Denied::default();
        // The same again is nothing new.
        let mut said = String::new();
        let mut say = |error: ClusterError, what: &str| {
            let words = format!("{what}: {error}");
            if words != said {
                tracing::error!(%error, "the control plane waits, as it cannot {what}");
                said = words;
            }
        };
        let texts = loop {
            match self.fetch(cluster).await {
                Ok(Some(texts)) => break texts,
                Ok(None) => match self.make(cluster, wall).await {
                    // Whether by us or by another replica, it is there now.
                    Ok(()) | Err(MakeError::Cluster(ClusterError::Conflict(_))) => continue,
                    Err(MakeError::Trust(error)) => return Err(error),
                    Err(MakeError::Cluster(error)) if denied.is(MAKE, &error) => {}
                    Err(MakeError::Cluster(error)) => say(error, MAKE),
                },
                Err(error) if denied.is(READ, &error) => {}
                Err(error) => say(error, READ),
            }
            tokio::time::sleep(backoff.next(fastrand::f64())).await;
        };
        self.write(&texts)?;
        Ok(CaOptions {
            plugged: Some(self.dir.clone()),
            ..self.own.clone()
        })
    }

    /// Goes on following it; ends with `tasks`.
    pub(in crate::control) fn follow(self, cluster: Cluster, tasks: &Tasks) {
        tasks.spawn("authority", async move {
            let mut denied = Denied::default();
            loop {
                tokio::time::sleep(WATCH).await;
                let written = match self.fetch(&cluster).await {
                    Ok(Some(texts)) => {
                        denied.may(READ);
                        self.write(&texts).map_err(|error| error.to_string())
                    }
                    Err(error) if denied.is(READ, &error) => continue,
                    // Gone: what is known goes on, and the next replica that starts makes another.
                    Ok(None) => Err("it is gone".to_owned()),
                    Err(error) => Err(error.to_string()),
                };
                if let Err(error) = written {
                    tracing::warn!(%error, "the Secret with the authority was not followed");
                }
            }
        });
    }

    /// What the Secrets hold; none when there is neither.
    async fn fetch(&self, cluster: &Cluster) -> Result<Option<Texts>, ClusterError> {
        for name in [PLUGGED, AUTHORITY] {
            if let Some(secret) = cluster.get(&self.secret(name)).await? {
                return texts(&secret).map(Some).map_err(|lacking| {
                    let message = format!("Secret {}/{name} {lacking}", self.namespace);
                    ClusterError::Refused { code: 0, message }
                });
            }
        }
        Ok(None)
    }

    fn secret(&self, name: &str) -> ObjectRef {
        ObjectRef {
            kind: "Secret".to_owned(),
            namespace: Some(self.namespace.clone()),
            name: name.to_owned(),
        }
    }

    async fn make(&self, cluster: &Cluster, wall: &Wall) -> Result<(), MakeError> {
        // Made where an own authority is made; those files go once the Secret is there.
        let dir = self.dir.with_extension("new");
        remove(&dir)?;
        trust::authority(&dir, &self.trust_domain, &self.own, wall).map_err(MakeError::Trust)?;
        let read = |name: &str| {
            let path = dir.join(name);
            let bytes = std::fs::read(&path).map(Zeroizing::new);
            bytes.map_err(|source| MakeError::Trust(TrustError::File { path, source }))
        };
        let (root, key) = (read("root-cert.pem")?, read("ca-key.pem")?);
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": AUTHORITY,
                "namespace": self.namespace,
                "labels": written_labels(&self.revision),
            },
            "type": "istio.io/ca-root",
            "data": {
                "ca-cert.pem": STANDARD.encode(&root),
                "ca-key.pem": STANDARD.encode(&key),
                "cert-chain.pem": "",
                "root-cert.pem": STANDARD.encode(&root),
            },
        });
        let created = cluster.create(&secret).await;
        remove(&dir)?;
        created.map(drop).map_err(MakeError::Cluster)
    }

    fn write(&self, texts: &Texts) -> Result<(), TrustError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TrustError::File { path, source }
        };
        private_dir(&self.dir).map_err(failed(&self.dir))?;
        for (name, bytes) in texts {
            let path = self.dir.join(name);
            // Most times it is the same, and a file that does not change is not read anew.
            if std::fs::read(&path).is_ok_and(|there| there == **bytes) {
                continue;
            }
            write_private(&path, bytes).map_err(failed(&path))?;
        }
        Ok(())
    }
}

/// What is done with Secrets, for who must be let.
const READ: &str = "read the Secret with the authority";
const MAKE: &str = "make the Secret with the authority";

enum MakeError {
    Trust(TrustError),
    Cluster(ClusterError),
}

fn remove(dir: &Path) -> Result<(), MakeError> {
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(MakeError::Trust(TrustError::File {
                path: dir.to_owned(),
                source,
            }))
        }
        _ => Ok(()),
    }
}

/// The files in a Secret, or what is wrong with it.
fn texts(secret: &Value) -> Result<Texts, String> {
    let mut texts = Vec::new();
    for (name, needed) in FILES {
        let encoded = secret.get("data").and_then(|data| data.get(name)?.as_str());
        let bytes = STANDARD.decode(encoded.unwrap_or_default());
        let bytes = Zeroizing::new(bytes.map_err(|_| format!("has a {name} that is not base64"))?);
        if needed && bytes.is_empty() {
            return Err(format!("lacks {name}"));
        }
        texts.push((name, bytes));
    }
    Ok(texts)
}
