//! `canary`: shifts weights between versions, by hand or by a rollout that judges what comes of it.

mod start;
mod watch;

use std::time::Duration;

use clap::Subcommand;

use crate::api::Reason;
use crate::api::canary::{CanaryReport, CanarySet, CanaryStatus};
use crate::api::rollouts::{Order, Rollout, RolloutList};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::render::rollouts::{Listed, RolloutStatus};
use crate::cli::{parse, settings};

/// Try a new version with a share of the requests
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary start reviews --to v3 --steps 1,5,25,50,100
  meshctl canary watch reviews
  meshctl canary set reviews v1=90 v3=10
  meshctl canary list")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Start(Box<start::Args>),
    Status(Status),
    Watch(Watch),
    Pause(Pause),
    Resume(Resume),
    Promote(Promote),
    Abort(Abort),
    Undo(Undo),
    History(History),
    List(List),
    Set(Set),
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

/// Show how a canary stands, and what each version really got
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary status reviews
  meshctl canary status reviews -o wide        with what happened
  meshctl canary status reviews.shop -o json")]
struct Status {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// Watch a canary until it is over
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary watch reviews
  meshctl canary watch reviews --timeout 10m
  meshctl canary watch reviews -o json        a line for each change

Exits 0 when the new version has everything, 1 when it was rolled back or
nothing could be said, and 3 when --timeout passed.")]
struct Watch {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
    /// How long is waited
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    timeout: Option<Duration>,
}

/// Have a canary stay where it is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary pause reviews
  meshctl canary pause reviews.shop -o json

Weights stay as they are until `resume`, `promote` or `abort`.")]
struct Pause {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// Let a canary go on, or pass a gate
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary resume reviews
  meshctl canary resume reviews.shop -o json")]
struct Resume {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// Give the new version everything now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary promote reviews
  meshctl canary promote reviews.shop -o json

Steps that are left are skipped.")]
struct Promote {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// Give the stable version everything back now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary abort reviews
  meshctl canary abort reviews.shop -o json")]
struct Abort {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// Go back to the version before a canary that succeeded
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary undo reviews
  meshctl canary undo reviews.shop -o json")]
struct Undo {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// List the canaries of a service with what was measured
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary history reviews
  meshctl canary history reviews -o json")]
struct History {
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
        Command::Start(args) => start::run(*args, cx).await,
        Command::Status(args) => status(&args.service, cx).await,
        Command::Watch(args) => {
            let (service, namespace) = parse::qualified(&args.service, cx.settings.namespace());
            watch::watch(cx, &namespace, &service, args.timeout).await
        }
        Command::Pause(args) => order(&args.service, "pause", cx).await,
        Command::Resume(args) => order(&args.service, "resume", cx).await,
        Command::Promote(args) => order(&args.service, "promote", cx).await,
        Command::Abort(args) => order(&args.service, "abort", cx).await,
        Command::Undo(args) => order(&args.service, "undo", cx).await,
        Command::History(args) => {
            let (service, namespace) = parse::qualified(&args.service, cx.settings.namespace());
            let question = path(&["rollouts", &namespace, &service, "history"], &[]);
            let all: RolloutList = cx.client.get(&question).await?;
            cx.out.report(&all)?;
            Ok(Exit::Ok)
        }
        Command::List(List {}) => list(cx).await,
    }
}

/// Tells a canary something.
async fn order(service: &str, word: &str, cx: &Context) -> Result<Exit, CliError> {
    let (service, namespace) = parse::qualified(service, cx.settings.namespace());
    let request = Order {
        who: settings::who(),
    };
    let told: Rollout = cx
        .client
        .post(
            &path(&["rollouts", &namespace, &service, word], &[]),
            &request,
        )
        .await?;
    cx.out.report(&told)?;
    Ok(Exit::Ok)
}

/// What is answered, or nothing where there is no such thing.
async fn maybe<T: serde::de::DeserializeOwned>(
    cx: &Context,
    question: &str,
) -> Result<Result<T, CliError>, CliError> {
    match cx.client.get(question).await {
        Ok(found) => Ok(Ok(found)),
        Err(CliError::Problem(problem)) if problem.reason == Reason::NotFound => {
            Ok(Err(CliError::Problem(problem)))
        }
        Err(error) => Err(error),
    }
}

async fn status(service: &str, cx: &Context) -> Result<Exit, CliError> {
    let (service, namespace) = parse::qualified(service, cx.settings.namespace());
    let split = path(&["canaries", &namespace, &service], &[]);
    let split: Result<CanaryStatus, CliError> = maybe(cx, &split).await?;
    let run = path(&["rollouts", &namespace, &service], &[]);
    match maybe::<Rollout>(cx, &run).await? {
        Ok(rollout) => {
            let (versions, split) = match split {
                Ok(split) => (split.versions, split.origin),
                Err(_) => (Vec::new(), String::new()),
            };
            cx.out.report(&RolloutStatus {
                rollout,
                versions,
                split,
            })?;
        }
        Err(_) => cx.out.report(&split?)?,
    }
    Ok(Exit::Ok)
}

async fn list(cx: &Context) -> Result<Exit, CliError> {
    let splits: Vec<CanaryStatus> = cx.client.get(&path(&["canaries"], &[])).await?;
    // A control plane of an earlier version has none.
    let found: Result<RolloutList, CliError> = maybe(cx, &path(&["rollouts"], &[])).await?;
    let mut rollouts = found.map_or_else(|_| Vec::new(), |list| list.rollouts);
    let mut all: Vec<Listed> = splits
        .into_iter()
        .map(|split| {
            let is_its =
                |run: &Rollout| split.service == format!("{}.{}", run.service, run.namespace);
            let at = rollouts.iter().position(is_its);
            Listed {
                rollout: at.map(|at| rollouts.swap_remove(at)),
                split,
            }
        })
        .collect();
    // One that waits for its start has split nothing yet.
    all.extend(rollouts.into_iter().map(|run| Listed {
        split: CanaryStatus {
            service: format!("{}.{}", run.service, run.namespace),
            versions: Vec::new(),
            origin: String::new(),
            changed_unix_ms: run.updated_unix_ms,
        },
        rollout: Some(run),
    }));
    if let Some(namespace) = cx.only_namespace() {
        all.retain(|one| parse::qualified(&one.split.service, "").1 == namespace);
    }
    cx.out.report(&all)?;
    Ok(Exit::Ok)
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
