//! Installations in a cluster: what `install`, `upgrade`, `tag`, `uninstall` and `check` do there.

pub(crate) mod health;
pub(crate) mod install;
pub(crate) mod preflight;
mod rollout;
pub(crate) mod tag;
pub(crate) mod uninstall;
pub(crate) mod upgrade;

use crate::cli::context::Context;
use crate::cli::contexts::{self, InCluster, Saved, Where};
use crate::cli::error::CliError;
use crate::cli::home::Installed;
use crate::cli::parse;
use crate::source::kubernetes::cluster::{Cluster, ClusterError};
use crate::source::kubernetes::{Access, KubernetesError};

/// Which cluster, and which installation there.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "CONTEXT")]
    kube_context: Option<String>,
    /// Which of several installations in a cluster, side by side [default: default]
    #[arg(long, value_name = "NAME", value_parser = parse::name)]
    revision: Option<String>,
    /// Namespace of the control plane [default: meshctl-system]
    #[arg(long, value_name = "NAMESPACE", value_parser = parse::name)]
    system_namespace: Option<String>,
}

impl ClusterArgs {
    /// Refuses them where this machine is meant.
    pub(crate) fn only_for_clusters(&self) -> Result<(), CliError> {
        for (given, name) in [
            (&self.kube_context, "--kube-context"),
            (&self.revision, "--revision"),
            (&self.system_namespace, "--system-namespace"),
        ] {
            if given.is_some() {
                return Err(CliError::usage(format!("{name} is for clusters"))
                    .hint("add --target kubernetes"));
            }
        }
        Ok(())
    }

    pub(crate) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("default")
    }

    pub(crate) fn system_namespace(&self) -> &str {
        let usual = crate::install::SYSTEM_NAMESPACE;
        self.system_namespace.as_deref().unwrap_or(usual)
    }

    /// The same place, another revision.
    pub(crate) fn of_revision(&self, revision: &str) -> Self {
        Self {
            revision: Some(revision.to_owned()),
            ..self.clone()
        }
    }

    /// Has commands mean the mesh that was installed, where there is no other; says how else it is meant.
    fn remember(&self, cx: &Context) -> Result<(), CliError> {
        let environment = &cx.settings.environment;
        let (saved_context, kubeconfig) = match &cx.settings.meant.place {
            Where::Cluster(meant) => (meant.kube_context.clone(), meant.kubeconfig.clone()),
            _ => (None, Vec::new()),
        };
        let current = || contexts::contexts(environment)?.current;
        let context = self.kube_context.clone().or(saved_context).or_else(current);
        // Without a kubeconfig it was installed from within, and nobody asks from here.
        let Some(context) = context else {
            return Ok(());
        };
        let name = match self.revision() {
            // That name is the mesh's on this machine.
            "default" if context == contexts::DEFAULT => format!("{context}-cluster"),
            "default" => context.clone(),
            revision => format!("{context}-{revision}"),
        };
        let place = Where::Cluster(InCluster {
            kube_context: Some(context),
            kubeconfig,
            system_namespace: self.system_namespace().to_owned(),
            revision: self.revision().to_owned(),
        });
        if cx.settings.meant.place == place {
            cx.out.note("commands are about this mesh: `meshctl check`");
            return Ok(());
        }
        let base = &cx.settings.base;
        let mut saved = Saved::load(base)?;
        saved.contexts.insert(name.clone(), place);
        if saved.current.is_none() && !Installed::path(base).exists() {
            saved.current = Some(name.clone());
            cx.out
                .note(&format!("commands are about this mesh: context {name}"));
        } else {
            cx.out.note(&format!(
                "commands are about it with --context {name}, or after `meshctl context use {name}`"
            ));
        }
        saved.store(base)
    }

    /// The cluster that is meant.
    pub(crate) async fn connect(&self, cx: &Context) -> Result<Cluster, CliError> {
        let environment = &cx.settings.environment;
        let access = match (&self.kube_context, &cx.settings.meant.place) {
            // The cluster of the mesh that is meant, unless another is named.
            (None, Where::Cluster(place)) => place.access(environment),
            (named, _) => Access {
                context: named.clone(),
                kubeconfig: environment.kubeconfig.clone(),
            },
        };
        Cluster::new(&access).await.map_err(unusable)
    }
}

fn unusable(error: KubernetesError) -> CliError {
    CliError::failed(error.to_string()).hint(error.hint())
}

/// In words, with what can be done about it.
pub(crate) fn failed(what: &str, error: &ClusterError) -> CliError {
    let wrapped = CliError::failed(format!("{what}: {error}"));
    match error {
        ClusterError::Away { .. } => wrapped.hint("see whether `kubectl version` works"),
        ClusterError::Forbidden(_) => {
            wrapped.hint("`meshctl check --pre --target kubernetes` lists what is lacking")
        }
        _ => wrapped,
    }
}
