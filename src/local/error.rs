//! What can go wrong when pods are run on this machine.

use std::io;
use std::path::PathBuf;

use super::plan::PlanError;

/// Why something could not be brought up, asked or taken down.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The manifests cannot be run here.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Another `up` uses this home.
    #[error("pods are already up in {0}")]
    AlreadyUp(PathBuf),
    /// No `up` uses this home.
    #[error("no pods are up in {0}")]
    NotUp(PathBuf),
    /// `logs` was asked for something that is not there.
    #[error("no pod, workload or service is called {0:?}")]
    NoSuchPod(String),
    /// `logs` was asked for a container that no pod of that name has.
    #[error("no container is called {name:?}")]
    NoSuchContainer {
        /// The container.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A file or directory of ours could not be used.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A process could not be started.
    #[error("cannot start {what}")]
    Spawn {
        /// Which.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No range of addresses is free.
    #[error("no free range of addresses in {0}")]
    NoAddresses(&'static str),
    /// The network of the pods could not be made or removed.
    #[error("cannot set up the network of the pods: {what}")]
    Network {
        /// Which step.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The control plane did not become ready.
    #[error("the control plane is not ready after {seconds} s{}", tail(.last_words))]
    ControlPlane {
        /// How long we waited.
        seconds: u64,
        /// What it last said.
        last_words: String,
    },
    /// The caller's [`super::supervisor::Mesh`] refused.
    #[error("{0}")]
    Mesh(String),
    /// Some pods are not ready yet.
    #[error("not ready after {seconds} s: {}", .pods.join(", "))]
    NotReady {
        /// How long we waited.
        seconds: u64,
        /// Those that are not, with the reason where there is one.
        pods: Vec<String>,
    },
    /// The background supervisor ended before it answered.
    #[error("the supervisor ended at once{}", tail(.0))]
    Daemon(String),
    /// The supervisor's answer was cut off or made no sense.
    #[error("the supervisor gave no proper answer")]
    Answer(#[source] io::Error),
    /// Something would not end.
    #[error("still there after {seconds} s: {what}")]
    Stuck {
        /// How long we waited.
        seconds: u64,
        /// What.
        what: String,
    },
}

impl LocalError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Plan(error) => error.hint(),
            Self::AlreadyUp(_) => Some("end it with `meshctl down`, or use another --home".into()),
            Self::NotUp(_) => Some("start it with `meshctl up FILE…`".into()),
            Self::NoSuchContainer { known, .. } => {
                Some(format!("its containers: {}", known.join(", ")))
            }
            Self::NoSuchPod(_) => Some("`meshctl ps` lists what is up".into()),
            Self::NotReady { .. } => Some("`meshctl ps` and `meshctl logs NAME` say more".into()),
            Self::Network { .. } => {
                Some("`--isolation process` needs no network of its own and no root".into())
            }
            _ => None,
        }
    }

    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

fn tail(words: &str) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!("; it said: {words}")
    }
}
