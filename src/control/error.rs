//! Why a control plane does not run, and what to do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::signer;
use super::trust::TrustError;
use crate::source::kubernetes;
use crate::source::store::StoreError;

/// Why a control plane did not start, or ended.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The home cannot be used.
    #[error("{}: {source}", path.display())]
    Home {
        /// Which path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory that is to be followed cannot be read.
    #[error("cannot read the manifests in {}: {source}", path.display())]
    Source {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error("the store {} cannot be opened: {source}", path.display())]
    Store {
        /// Which store.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// The authority cannot be opened.
    #[error("the mesh's authority cannot be opened: {0}")]
    Trust(#[from] TrustError),
    /// A port cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: String,
        /// The option that gives another; none for the API's socket.
        option: Option<&'static str>,
        /// Why.
        source: io::Error,
    },
    /// The certificate of the TLS port cannot be made.
    #[error("the TLS port has no certificate: {0}")]
    Signer(#[from] signer::SignError),
    /// The cluster cannot be followed.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::KubernetesError),
    /// A server ended by itself.
    #[error("the {what} server ended: {source}")]
    Served {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl ControlError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Home { .. } => Some("give another home with --home or MESHCTL_HOME".to_owned()),
            Self::Source { .. } => {
                Some("give a directory that is there: --source files=DIR".to_owned())
            }
            Self::Store { source, .. } => source.hint().map(str::to_owned),
            Self::Signer(error) => error.hint().map(str::to_owned),
            Self::Kubernetes(error) => Some(error.hint().to_owned()),
            Self::Listen {
                source,
                option: Some(option),
                ..
            } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
                "another program has this port, perhaps another control plane; choose another with {option}"
            )),
            _ => None,
        }
    }
}
