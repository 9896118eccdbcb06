//! `fault`: lets calls go wrong on purpose, for a while.

use std::time::Duration;

use clap::Subcommand;

use crate::api::faults::{FaultSet, FaultStatus, InjectionReport};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{parse, settings};

/// Let calls go wrong on purpose, for a while
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl fault inject reviews --delay 2s --percent 10 --for 5m
  meshctl fault inject ratings.shop --abort 503 --for 30s
  meshctl fault list
  meshctl fault clear reviews")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inject(Inject),
    Clear(Clear),
    List(List),
}

/// Delay or abort some calls of a service; it ends by itself
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl fault inject reviews --delay 2s --abort 503 --percent 10 --for 5m
  meshctl fault inject cart --abort UNAVAILABLE --for 1m
  meshctl fault inject reviews --delay 7s --match header:end-user=jason --for 1h

It goes over faults that a VirtualService says, and leaves that as it is.
Injecting again replaces what was injected.
Exits 5 when a proxy did not acknowledge.")]
struct Inject {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Hold calls back for this long
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    delay: Option<Duration>,
    /// Answer calls with this: 503, or UNAVAILABLE or grpc:14
    #[arg(long, value_name = "STATUS")]
    abort: Option<String>,
    /// Of how many calls, from 0 to 100
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0, value_parser = percent)]
    percent: f64,
    /// How long it lasts
    #[arg(long = "for", value_name = "DURATION", value_parser = parse::duration)]
    lasts: Duration,
    /// Only for calls with this header; may be repeated
    #[arg(long = "match", value_name = "header:NAME=VALUE", value_parser = parse::condition)]
    matches: Vec<String>,
}

/// End a fault before its time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl fault clear reviews
  meshctl fault clear --all")]
struct Clear {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE", required_unless_present = "all")]
    service: Option<String>,
    /// All faults, of the namespace if one is named
    #[arg(long, conflicts_with = "service")]
    all: bool,
}

/// List the faults that are injected
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl fault list
  meshctl fault list -n shop -o json")]
struct List {}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    match args.command {
        Command::Inject(args) => inject(args, cx).await,
        Command::Clear(args) => clear(args, cx).await,
        Command::List(List {}) => {
            cx.out.report(&list(cx).await?)?;
            Ok(Exit::Ok)
        }
    }
}

async fn list(cx: &Context) -> Result<Vec<FaultStatus>, CliError> {
    let mut all: Vec<FaultStatus> = cx.client.get(&path(&["faults"], &[])).await?;
    if let Some(namespace) = cx.only_namespace() {
        all.retain(|fault| parse::qualified(&fault.service, "").1 == namespace);
    }
    Ok(all)
}

async fn inject(args: Inject, cx: &Context) -> Result<Exit, CliError> {
    if args.delay.is_none() && args.abort.is_none() {
        return Err(CliError::usage("what goes wrong? --delay, --abort or both"));
    }
    if args.lasts.is_zero() {
        return Err(CliError::usage("--for 0 would be over at once"));
    }
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (service, namespace) = parse::qualified(&args.service, cx.settings.namespace());
    let request = FaultSet {
        delay_ms: args.delay.map(millis),
        abort: args.abort,
        percent: args.percent,
        for_ms: millis(args.lasts),
        matches: args.matches,
        who: settings::who(),
    };
    let target = path(&["faults", &namespace, &service], &[]);
    let report: InjectionReport = cx.client.post(&target, &request).await?;
    cx.out.report(&report)?;
    Ok(super::apply::tell(cx, report.revision, &report.convergence))
}

async fn clear(args: Clear, cx: &Context) -> Result<Exit, CliError> {
    let who = settings::who();
    let services = if let Some(service) = args.service {
        vec![parse::qualified(&service, cx.settings.namespace())]
    } else {
        let all = list(cx).await?;
        let named = all.iter();
        named
            .map(|fault| parse::qualified(&fault.service, ""))
            .collect()
    };
    if services.is_empty() {
        cx.out.note("no fault is injected");
    }
    let mut worst = Exit::Ok;
    for (service, namespace) in services {
        let target = path(&["faults", &namespace, &service], &[("who", Some(&who))]);
        let report: InjectionReport = cx.client.delete(&target).await?;
        cx.out.report(&report)?;
        let taken = super::apply::tell(cx, report.revision, &report.convergence);
        if worst == Exit::Ok {
            worst = taken;
        }
    }
    Ok(worst)
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|number| (0.0..=100.0).contains(number))
        .ok_or_else(|| format!("{text:?} is not a percentage from 0 to 100"))
}
