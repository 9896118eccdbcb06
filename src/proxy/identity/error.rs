//! Why there is no identity, and what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::mesh::SpiffeId;
use crate::tls;

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Nothing stored that can be used, and nothing to ask with.
    #[error("{id} has no usable certificate and no join token")]
    NoToken {
        /// The identity wanted.
        id: SpiffeId,
        /// Why the stored certificate cannot be used.
        #[source]
        stored: Box<tls::Error>,
    },
    /// First contact needs to know the root.
    #[error("the mesh's root is not known: the token carries no fingerprint of it")]
    NoPin,
    /// The file with the token.
    #[error("cannot read the join token from {path}")]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file with the mesh's roots.
    #[error("cannot read the mesh's roots from {path}")]
    RootFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A certificate of someone else.
    #[error("this proxy is to be {wanted}, but {whence} is for {found}")]
    OtherIdentity {
        /// The identity wanted.
        wanted: Box<SpiffeId>,
        /// The identity found.
        found: Box<SpiffeId>,
        /// Where it was found.
        whence: String,
    },
    /// The CA said no.
    #[error("the control plane refuses a certificate for {id}: {reason}")]
    Refused {
        /// The identity wanted.
        id: SpiffeId,
        /// Its words.
        reason: String,
    },
    /// The CA could not be asked.
    #[error("cannot get a certificate from {address}: {reason}")]
    Unreachable {
        /// The control plane.
        address: String,
        /// What happened.
        reason: String,
    },
    /// At first contact: not the mesh that the token is of.
    #[error("the control plane at {address} is not the one that the join token is for: {reason}")]
    Stranger {
        /// The control plane.
        address: String,
        /// What it showed.
        reason: String,
    },
    /// The answer's root is not the mesh's.
    #[error("the control plane answered with a root that is not the pinned one ({found})")]
    Root {
        /// SHA-256 of the root in the answer.
        found: String,
    },
    /// A token, request or answer cannot be read.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

impl IdentityError {
    /// Whether the same request may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoToken { id, .. } => Some(format!(
                "`meshctl token create --namespace {} --service-account {}` prints one; give it with --join",
                id.namespace, id.service_account
            )),
            Self::NoPin => {
                Some("copy the whole join token, from mj_ to its last digit; with another token give --root-cert".to_owned())
            }
            Self::OtherIdentity { .. } => {
                Some(
                    "give another --name (or --home), or the --namespace and --service-account that the certificate was made for"
                        .to_owned(),
                )
            }
            Self::Root { .. } | Self::Stranger { .. } => Some(
                "the token is of another mesh, or someone stands between; make a new token"
                    .to_owned(),
            ),
            Self::Tls(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }
}
