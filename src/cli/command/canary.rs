//! `canary`: shifts weights between versions.

use clap::Subcommand;

use crate::api::canary::{CanaryReport, CanarySet, CanaryStatus};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{parse, settings};

/// Shift traffic between versions of a service
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary set reviews v1=90 v3=10
  meshctl canary set reviews.shop v3=100 --match header:end-user=jason
  meshctl canary status reviews
  meshctl canary list")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Set(Set),
    Status(Status),
    List(List),
}

/// Set the weights now; say when every proxy has them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary set reviews v1=90 v3=10
  meshctl canary set reviews v3=100
  meshctl canary set reviews v2=100 --match header:end-user=jason

A version that is not named gets nothing.
Exits 5 when a proxy did not acknowledge.")]
struct Set {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Weights; shares are of their sum
    #[arg(value_name = "VERSION=WEIGHT", required = true, value_parser = parse::weight)]
    weights: Vec<(String, u32)>,
    /// Only for requests with this header; may be repeated
    #[arg(long = "match", value_name = "header:NAME=VALUE", value_parser = parse::condition)]
    matches: Vec<String>,
}

/// Show the split of one service with what each version really got
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary status reviews
  meshctl canary status reviews.shop -o json")]
struct Status {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// List the services that are split between versions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary list
  meshctl canary list -n shop -o json")]
struct List {}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    match args.command {
        Command::Set(args) => set(args, cx).await,
        Command::Status(args) => {
            let (service, namespace) = parse::qualified(&args.service, cx.settings.namespace());
            let status: CanaryStatus = cx
                .client
                .get(&path(&["canaries", &namespace, &service], &[]))
                .await?;
            cx.out.report(&status)?;
            Ok(Exit::Ok)
        }
        Command::List(List {}) => {
            let mut all: Vec<CanaryStatus> = cx.client.get(&path(&["canaries"], &[])).await?;
            if let Some(namespace) = cx.only_namespace() {
                all.retain(|canary| parse::qualified(&canary.service, "").1 == namespace);
            }
            cx.out.report(&all)?;
            Ok(Exit::Ok)
        }
    }
}

async fn set(args: Set, cx: &Context) -> Result<Exit, CliError> {
    for (at, (version, _)) in args.weights.iter().enumerate() {
        if args
            .weights
            .iter()
            .skip(at + 1)
            .any(|(other, _)| other == version)
        {
            return Err(CliError::usage(format!("{version} is given two weights")));
        }
    }
    if args.weights.iter().all(|(_, weight)| *weight == 0) {
        return Err(CliError::usage("all weights are 0, so nobody would serve"));
    }
    let (service, namespace) = parse::qualified(&args.service, cx.settings.namespace());
    let request = CanarySet {
        weights: args.weights,
        matches: args.matches,
        who: settings::who(),
    };
    let report: CanaryReport = cx
        .client
        .post(&path(&["canaries", &namespace, &service], &[]), &request)
        .await?;
    cx.out.report(&report)?;
    Ok(super::apply::tell(cx, report.revision, &report.convergence))
}
