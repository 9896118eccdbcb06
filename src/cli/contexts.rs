//! Which mesh is meant: contexts that were saved, installations on this machine, contexts of the kubeconfig.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::rt::disk::{private_dir, write_private};
use crate::source::kubernetes::Access;
use crate::source::kubernetes::reach::Contexts;

use super::error::CliError;
use super::home::Installed;
use super::settings::Environment;

/// The file with what was saved, in the home.
const FILE: &str = "contexts.json";
/// The installation that is the home itself.
pub(crate) const DEFAULT: &str = "default";

/// A mesh in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InCluster {
    /// Context of the kubeconfig; none is the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kube_context: Option<String>,
    /// Files of the kubeconfig; none are those that KUBECONFIG names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) kubeconfig: Vec<PathBuf>,
    /// Namespace of the control plane.
    pub(crate) system_namespace: String,
    /// Which installation there.
    pub(crate) revision: String,
}

impl InCluster {
    /// The usual installation in the cluster of a context.
    pub(crate) fn usual(kube_context: Option<String>) -> Self {
        Self {
            kube_context,
            kubeconfig: Vec::new(),
            system_namespace: crate::install::SYSTEM_NAMESPACE.to_owned(),
            revision: "default".to_owned(),
        }
    }

    /// How its API server is reached.
    pub(crate) fn access(&self, environment: &Environment) -> Access {
        let named = &self.kubeconfig;
        Access {
            context: self.kube_context.clone(),
            kubeconfig: if named.is_empty() {
                environment.kubeconfig.clone()
            } else {
                named.clone()
            },
        }
    }
}

/// A control plane that serves its API over TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AtAddress {
    /// Host and port.
    pub(crate) api: String,
    /// File with its mesh's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// File with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// Directory with a certificate to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<PathBuf>,
}

/// Where a mesh is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum Where {
    /// On this machine, in a home.
    Home,
    /// In a cluster.
    Cluster(InCluster),
    /// At an address.
    Address(AtAddress),
}

/// What was saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Saved {
    /// The one that is meant when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    pub(crate) contexts: BTreeMap<String, Where>,
}

impl Saved {
    pub(crate) fn load(base: &Path) -> Result<Self, CliError> {
        let path = base.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Self::default());
            }
            Err(error) => return Err(CliError::file("read", path)(error)),
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            CliError::failed(format!("{} is damaged: {error}", path.display()))
                .hint("remove it, and add its contexts again with `meshctl context add`")
        })
    }

    pub(crate) fn store(&self, base: &Path) -> Result<(), CliError> {
        let path = base.join(FILE);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| CliError::failed(format!("cannot write the contexts: {error}")))?;
        text.push(b'\n');
        private_dir(base).map_err(CliError::file("make", base))?;
        write_private(&path, &text).map_err(CliError::file("write", path))
    }
}

/// The mesh that commands are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meant {
    /// Its name; `default` for the home itself.
    pub(crate) name: String,
    pub(crate) place: Where,
    /// Nobody named it: it is the cluster at hand, where there is nothing on this machine.
    pub(crate) guessed: bool,
}

impl Meant {
    fn new(name: &str, place: Where) -> Self {
        Self {
            name: name.to_owned(),
            place,
            guessed: false,
        }
    }

    /// What `typed` (or the environment) names, else the current one, else what there is.
    pub(crate) fn resolve(
        typed: Option<&str>,
        base: &Path,
        environment: &Environment,
    ) -> Result<Self, CliError> {
        let saved = Saved::load(base)?;
        let named = typed.or(saved.current.as_deref());
        let Some(name) = named else {
            return Ok(Self::at_hand(base, environment));
        };
        if let Some(place) = saved.contexts.get(name) {
            return Ok(Self::new(name, place.clone()));
        }
        let there = is_plain(name) && Installed::path(&home_of(base, name)).is_file();
        if name == DEFAULT || there || typed.is_none() {
            return Ok(Self::new(name, Where::Home));
        }
        let known = contexts(environment).unwrap_or_default();
        if known.names.iter().any(|known| known == name) {
            let place = Where::Cluster(InCluster::usual(Some(name.to_owned())));
            return Ok(Self::new(name, place));
        }
        // One that is yet to be installed.
        Ok(Self::new(name, Where::Home))
    }

    /// A mesh on this machine, else that of the kubeconfig's current context.
    fn at_hand(base: &Path, environment: &Environment) -> Self {
        let home = Self::new(DEFAULT, Where::Home);
        if Installed::path(base).exists() {
            return home;
        }
        match contexts(environment).and_then(|known| known.current) {
            Some(current) => Self {
                name: current.clone(),
                place: Where::Cluster(InCluster::usual(Some(current))),
                guessed: true,
            },
            None => home,
        }
    }
}

/// The kubeconfig's contexts; one that cannot be read has none here, and says why where it is used.
pub(crate) fn contexts(environment: &Environment) -> Option<Contexts> {
    if environment.kubeconfig.is_empty() {
        return None;
    }
    let access = Access {
        context: None,
        kubeconfig: environment.kubeconfig.clone(),
    };
    match Contexts::read(&access) {
        Ok(known) => Some(known),
        Err(error) => {
            tracing::debug!(%error, "the kubeconfig is left out");
            None
        }
    }
}

/// Where an installation of this name is, below the home.
pub(crate) fn home_of(base: &Path, name: &str) -> PathBuf {
    if name == DEFAULT || !is_plain(name) {
        base.to_owned()
    } else {
        base.join("contexts").join(name)
    }
}

/// Whether it can name an installation on this machine.
pub(crate) fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= 63 && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(dir: &Path) -> Environment {
        let file = dir.join("config");
        let text = "current-context: kind-a\ncontexts:\n- {name: kind-a, context: {cluster: a, user: a}}\n- {name: \"arn:aws:b\", context: {cluster: a, user: a}}\n";
        std::fs::write(&file, text).unwrap();
        Environment {
            kubeconfig: vec![file],
            ..Environment::default()
        }
    }

    #[test]
    fn what_is_named_goes_before_what_is_saved_before_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("home");
        let environment = kubeconfig(dir.path());
        let meant = |typed: Option<&str>| {
            let meant = Meant::resolve(typed, &base, &environment).unwrap();
            let place = match meant.place {
                Where::Home => "home".to_owned(),
                Where::Cluster(at) => format!("cluster {}", at.kube_context.unwrap_or_default()),
                Where::Address(at) => at.api,
            };
            (meant.name, place, meant.guessed)
        };
        let is = |name: &str, place: &str, guessed| (name.to_owned(), place.to_owned(), guessed);
        assert_eq!(meant(None), is("kind-a", "cluster kind-a", true));
        assert_eq!(meant(Some("default")), is("default", "home", false));
        assert_eq!(
            meant(Some("arn:aws:b")),
            is("arn:aws:b", "cluster arn:aws:b", false)
        );
        assert_eq!(meant(Some("new")), is("new", "home", false));
        // An installation on this machine goes before the cluster at hand.
        private_dir(&base).unwrap();
        Installed::default().store(&base).unwrap();
        assert_eq!(meant(None), is("default", "home", false));
        let saved = Saved {
            current: Some("prod".to_owned()),
            contexts: [(
                "prod".to_owned(),
                Where::Cluster(InCluster::usual(Some("far".to_owned()))),
            )]
            .into(),
        };
        saved.store(&base).unwrap();
        assert_eq!(Saved::load(&base).unwrap(), saved);
        assert_eq!(meant(None), is("prod", "cluster far", false));
        assert_eq!(meant(Some("default")), is("default", "home", false));
        assert_eq!(meant(Some("kind-a")), is("kind-a", "cluster kind-a", false));
    }
}
