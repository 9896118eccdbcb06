//! Installations in a cluster: what `install`, `upgrade`, `tag`, `uninstall` and `check` do there.

pub(crate) mod install;
pub(crate) mod preflight;
pub(crate) mod tag;
pub(crate) mod uninstall;
pub(crate) mod upgrade;

use crate::cli::context::Context;
use crate::cli::error::CliError;
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

    /// The cluster that is meant.
    pub(crate) async fn connect(&self, cx: &Context) -> Result<Cluster, CliError> {
        let access = Access {
            context: self.kube_context.clone(),
            kubeconfig: cx.settings.environment.kubeconfig.clone(),
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
