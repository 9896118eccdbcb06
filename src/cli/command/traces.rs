//! `traces`: what calls went through, hop by hop.

use std::time::Duration;

use crate::api::traces::{TraceReport, TracesReport};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

/// Show the ways that calls took through the mesh, hop by hop
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl traces                             the newest traces
  meshctl traces --service reviews --errors  those in which something failed
  meshctl traces --min-duration 100ms
  meshctl traces 4bf92f3577b34da6a3ce929d0e0e4736

One call in a hundred is sampled unless a Telemetry says otherwise, and every
call whose own trace context says so. Hops become one trace where the
application passes traceparent (or its B3 fields) on. The control plane keeps
the newest 16 MiB of spans in memory.")]
pub(crate) struct Args {
    /// The trace to show, by its number
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Only traces that this service has a part in
    #[arg(long, value_name = "SERVICE", conflicts_with = "id")]
    service: Option<String>,
    /// Only traces in which something failed
    #[arg(long, conflicts_with = "id")]
    errors: bool,
    /// Only traces that took this long at least
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, conflicts_with = "id")]
    min_duration: Option<Duration>,
    /// So many, at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if let Some(id) = &args.id {
        let report: TraceReport = cx.client.get(&path(&["traces", id], &[])).await?;
        cx.out.report(&report)?;
        return Ok(Exit::Ok);
    }
    let least = args.min_duration.map(|least| least.as_millis().to_string());
    let limit = args.limit.to_string();
    let query = path(
        &["traces"],
        &[
            ("service", args.service.as_deref()),
            ("namespace", Some(cx.settings.namespace())),
            ("errors", args.errors.then_some("true")),
            ("minDurationMs", least.as_deref()),
            ("limit", Some(&limit)),
        ],
    );
    let report: TracesReport = cx.client.get(&query).await?;
    cx.out.report(&report)?;
    Ok(Exit::Ok)
}
