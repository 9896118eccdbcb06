//! A Kubernetes cluster as a source: what its API server holds, complete first and then as it changes.
//!
//! Owns the connection, one watch for each kind, and how things stand between us and the server.
//! Objects leave here as the JSON that the server keeps; what they say is left to `resource`, and
//! that nothing is lost while the server is away to whoever takes the batches: there just are none.

pub mod cluster;
mod gather;
mod kinds;
mod kubeconfig;
mod named;
mod pace;
pub mod reach;
pub mod review;
pub mod rights;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use kube::Config;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, KubeconfigError};
use thiserror::Error;
use tokio::sync::{mpsc, watch as channel};

pub use super::Change;
use crate::resource::Key;
use crate::rt::{Tasks, UnixMillis, Wall};

/// How long one watch lasts before it is renewed. Kubernetes' clients take 290 s; a connection that
/// died without a word is noticed only then, and eight requests a minute are nothing to a server.
const WATCH_SECONDS: u32 = 60;
/// No watch is begun sooner after the last of its kind: a server may end them as soon as they begin.
const REWATCH: Duration = Duration::from_secs(1);
/// A server that says nothing for this long is away: longer than a watch.
const SILENCE: Duration = Duration::from_secs(70);

/// Which cluster, and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// A context of the kubeconfig; none is its current one, or the cluster that we run in.
    pub context: Option<String>,
    /// The files that are the kubeconfig; with none, the cluster that we run in is meant.
    pub kubeconfig: Vec<PathBuf>,
}

/// A cluster that is being followed.
#[derive(Debug)]
pub struct Followed {
    /// Changes that came together. The first batch has everything, and may be empty.
    pub batches: mpsc::Receiver<Vec<Change>>,
    /// How things stand.
    pub status: channel::Receiver<Status>,
    /// What is followed one by one.
    pub named: Named,
}

/// Secrets and ConfigMaps that are followed one by one, because somebody names them.
#[derive(Debug)]
pub struct Named {
    /// Which are to be followed.
    pub wanted: channel::Sender<BTreeSet<Key>>,
    /// Those of them of which it is known that they are not there, or may not be read.
    pub absent: channel::Receiver<BTreeSet<Key>>,
}

/// How things stand between us and the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The context, or the address of the server.
    pub cluster: String,
    /// Every kind that is followed.
    pub kinds: Vec<KindStatus>,
}

/// How things stand with one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindStatus {
    /// Such as `VirtualService`.
    pub kind: &'static str,
    /// Objects that are known.
    pub objects: usize,
    /// What is being done.
    pub standing: Standing,
    /// Whether it has been listed once, or is known to be missing.
    pub listed: bool,
}

/// What is being done about a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is being listed for the first time.
    Listing,
    /// Its changes arrive.
    Following,
    /// The cluster does not have it (or does not show it), for this reason; it is looked for now and then.
    Missing(String),
    /// The cluster has it in versions alone that this release does not read, as this says; what was known stays.
    Unread(String),
    /// The server does not answer; what was known last stays.
    Away {
        /// What it says, or why it says nothing.
        reason: String,
        /// Since when.
        since_unix_ms: UnixMillis,
    },
}

/// Whether the API server said that we may not, as [`watch`] has its words.
fn is_forbidden(reason: &str) -> bool {
    reason.ends_with("(403)")
}

impl Status {
    /// Kinds that the cluster has and this release does not read, in words.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        self.kinds.iter().filter_map(|kind| match &kind.standing {
            Standing::Unread(reason) => Some(reason.as_str()),
            _ => None,
        })
    }

    /// Kinds that may not be listed and watched.
    pub fn forbidden(&self) -> impl Iterator<Item = &'static str> {
        self.kinds.iter().filter_map(|kind| match &kind.standing {
            Standing::Away { reason, .. } if is_forbidden(reason) => Some(kind.kind),
            _ => None,
        })
    }

    /// Whether everything has been listed once, so that nothing is missing from the world.
    pub fn complete(&self) -> bool {
        self.kinds.iter().all(|kind| kind.listed)
    }

    /// The first kind that the server does not answer for, with the reason.
    pub fn away(&self) -> Option<(&'static str, &str, UnixMillis)> {
        self.kinds.iter().find_map(|kind| match &kind.standing {
            Standing::Away {
                reason,
                since_unix_ms,
            } => Some((kind.kind, reason.as_str(), *since_unix_ms)),
            _ => None,
        })
    }
}

/// Why a cluster cannot be followed at all.
#[derive(Debug, Error)]
pub enum KubernetesError {
    /// A file of the kubeconfig cannot be read.
    #[error("the kubeconfig {} cannot be read: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The kubeconfig says something wrong, or has no such context.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// There is no kubeconfig, and we do not run in a cluster.
    #[error("no cluster is configured: {0}")]
    NoCluster(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The credentials or certificates cannot be used.
    #[error("the credentials for {cluster} cannot be used: {source}")]
    Credentials {
        /// Which cluster.
        cluster: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

impl KubernetesError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "KUBECONFIG names the files, else it is ~/.kube/config",
            Self::Kubeconfig(_) => {
                "see `kubectl config get-contexts` for the contexts that there are"
            }
            Self::NoCluster(_) => "set KUBECONFIG, or run the control plane in the cluster",
            Self::Credentials { .. } => "see whether `kubectl get services` works",
        }
    }
}

/// Begins to follow the cluster; ends with `tasks`. Only what is wrong on this machine is an error:
/// a server that does not answer is waited for.
pub async fn follow(
    access: &Access,
    wall: &Wall,
    tasks: &Tasks,
) -> Result<Followed, KubernetesError> {
    let (mut config, cluster) = configuration(access).await?;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    // kube would ask a busy server again for minutes, and say nothing meanwhile.
    config.default_retry = false;
    let client = ClientBuilder::try_from(config)
        .map(|builder| builder.with_layer(&pace::Pace::new(REWATCH)).build())
        .map_err(|error| KubernetesError::Credentials {
            cluster: cluster.clone(),
            source: Box::new(error),
        })?;
    let (words, heard) = mpsc::channel(64);
    for (index, kind) in kinds::KINDS.iter().enumerate() {
        tasks.spawn(
            "kubernetes",
            watch::watch(
                client.clone(),
                (
                    kind,
                    kind.only
                        .map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
                ),
                index,
                words.clone(),
            ),
        );
    }
    let (wanted, asked) = channel::channel(BTreeSet::new());
    let (tell, absent) = channel::channel(BTreeSet::new());
    let follower = named::Follower::new(client, kinds::KINDS.len(), words, tell, tasks.clone());
    tasks.spawn("kubernetes", follower.run(asked));
    // Nothing of it is wanted yet, so nothing is missing.
    let one_by_one = KindStatus {
        kind: kinds::NAMED[0].name,
        objects: 0,
        standing: Standing::Following,
        listed: true,
    };
    let status = channel::Sender::new(Status {
        cluster,
        kinds: kinds::KINDS
            .iter()
            .map(|kind| KindStatus {
                kind: kind.name,
                objects: 0,
                standing: Standing::Listing,
                listed: false,
            })
            .chain([one_by_one])
            .collect(),
    });
    // One batch waits while one is being worked on; more gather before it.
    let (out, batches) = mpsc::channel(1);
    let followed = Followed {
        batches,
        status: status.subscribe(),
        named: Named { wanted, absent },
    };
    tasks.spawn(
        "kubernetes",
        gather::gather(heard, out, status, wall.clone()),
    );
    Ok(followed)
}

/// The configuration, and what its cluster is called.
async fn configuration(access: &Access) -> Result<(Config, String), KubernetesError> {
    let wrong = |error| KubernetesError::Kubeconfig(Box::new(error));
    let options = KubeConfigOptions {
        context: access.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = if access.kubeconfig.is_empty() && access.context.is_none() {
        Config::incluster().map_err(|error| KubernetesError::NoCluster(Box::new(error)))?
    } else {
        let read = kubeconfig::read(&access.kubeconfig)?;
        Config::from_custom_kubeconfig(read, &options)
            .await
            .map_err(wrong)?
    };
    let server = config.cluster_url.to_string();
    let cluster = access.context.as_deref().unwrap_or(&server);
    let cluster = cluster.trim_end_matches('/').to_owned();
    Ok((config, cluster))
}
