//! `demo`: the whole thing on real processes.

use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{demo, parse};

/// Show the whole mesh on real processes in a minute, and clean up
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl demo
  meshctl demo -o json | jq '.steps[] | {name, value, good}'

It runs in a throw-away home, touches no other mesh, and exits 1 when a figure is off.")]
pub(crate) struct Args {
    /// Longest time that it may take
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse::duration)]
    pub(crate) duration: Duration,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let passed = demo::run(cx, args.duration).await?;
    Ok(if passed { Exit::Ok } else { Exit::Problem })
}
