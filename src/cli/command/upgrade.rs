//! `upgrade`: brings an installation in a cluster to this release.

use std::time::Duration;

use super::cluster::{self, ClusterArgs};
use super::install::Target;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

/// Bring an installation in a cluster to this release
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl upgrade --target kubernetes --dry-run | kubectl diff -f -
  meshctl upgrade --target kubernetes
  meshctl upgrade --target kubernetes --revision green --set replicas=3

It goes on only when the cluster can take it, one minor release at a time, and
is taken back when the new control plane does not run in time. Pods have the old
sidecar until they start anew; both speak with both.
On a machine the executable is all there is to replace.")]
pub(crate) struct Args {
    /// Where
    #[arg(long, value_enum, default_value_t, value_name = "TARGET")]
    target: Target,
    /// A setting to change with it; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    set: Vec<(String, String)>,
    /// Also when what is installed is newer than this release
    #[arg(long)]
    allow_downgrade: bool,
    /// Only print what would be applied
    #[arg(long)]
    dry_run: bool,
    /// How long everything may take until it runs
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse::duration)]
    timeout: Duration,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.target != Target::Kubernetes {
        return Err(CliError::usage(
            "on this machine the executable is the installation: replace it and restart the control plane",
        )
        .hint("for a cluster, add --target kubernetes"));
    }
    let wanted = cluster::upgrade::Wanted {
        place: args.cluster,
        set: args.set,
        allow_downgrade: args.allow_downgrade,
        dry_run: args.dry_run,
        patience: args.timeout,
    };
    cluster::upgrade::run(wanted, cx).await
}
