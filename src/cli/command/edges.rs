//! `edges`: who calls whom, and what protects that.

use std::time::Duration;

use crate::api::edges::EdgesReport;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

/// Show who calls whom, and whether and how it is encrypted
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl edges
  meshctl edges reviews                      calls from and to reviews
  meshctl edges --from productpage-v1 -o wide
  meshctl edges --insecure                   exit 1 when there are any

What is said comes from the connections themselves, at both ends; where these
disagree, both are shown. -o wide adds identities, cipher and key exchange.")]
pub(crate) struct Args {
    /// NAME or NAME.NAMESPACE of a service or workload at either end
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// How far back, at most 15m
    #[arg(long, short = 't', value_name = "DURATION", default_value = "1m", value_parser = parse::duration)]
    window: Duration,
    /// Only calls from this workload
    #[arg(long, value_name = "WORKLOAD")]
    from: Option<String>,
    /// Only calls to this service or workload
    #[arg(long, value_name = "SERVICE")]
    to: Option<String>,
    /// Only what is in plaintext or told differently; exit 1 when there is any
    #[arg(long)]
    insecure: bool,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.window < Duration::from_secs(1) {
        return Err(CliError::usage("the window is at least 1s"));
    }
    let window = args.window.as_secs().to_string();
    let query = path(
        &["edges"],
        &[
            ("window", Some(&window)),
            ("service", args.service.as_deref()),
            ("namespace", Some(cx.settings.namespace())),
            ("only", cx.only_namespace()),
            ("from", args.from.as_deref()),
            ("to", args.to.as_deref()),
            ("insecure", args.insecure.then_some("true")),
        ],
    );
    let report: EdgesReport = cx.client.get(&query).await?;
    let found = args.insecure && !report.edges.is_empty();
    cx.out.report(&report)?;
    Ok(if found { Exit::Problem } else { Exit::Ok })
}
