//! `shadow`: what copies of calls were answered, against what callers got.

use std::time::Duration;

use crate::api::shadow::ShadowReport;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

/// Show in what answers to mirrored calls differ
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl shadow
  meshctl shadow reviews --window 10m
  meshctl shadow reviews --fail              exit 1 when anything differed

Compared are services with a ShadowDiff whose calls a route mirrors: status,
the fields that it names, and bodies by the structure of their JSON, less what
it ignores. /shadow of a proxy's admin endpoint has examples of the values.")]
pub(crate) struct Args {
    /// NAME or NAME.NAMESPACE of a service
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// How far back, at most 1h
    #[arg(long, short = 't', value_name = "DURATION", default_value = "1h", value_parser = parse::duration)]
    window: Duration,
    /// Exit 1 when something differed, or a copy was not answered
    #[arg(long)]
    fail: bool,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.window < Duration::from_secs(1) {
        return Err(CliError::usage("the window is at least 1s"));
    }
    let window = args.window.as_secs().to_string();
    let query = path(
        &["shadows"],
        &[
            ("window", Some(&window)),
            ("service", args.service.as_deref()),
            ("namespace", Some(cx.settings.namespace())),
        ],
    );
    let report: ShadowReport = cx.client.get(&query).await?;
    let bad = report
        .services
        .iter()
        .any(|row| row.different + row.unanswered > 0);
    cx.out.report(&report)?;
    Ok(if args.fail && bad {
        Exit::Problem
    } else {
        Exit::Ok
    })
}
