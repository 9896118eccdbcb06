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
  meshctl demo --port 8080
  meshctl demo -o json | jq '.steps[] | {name, value, good}'

It runs in a throw-away home, touches no other mesh, and exits 1 when a figure is off.")]
pub(crate) struct Args {
    /// Longest time that it may take
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse::duration)]
    pub(crate) duration: Duration,
    /// Also show the shop's page meanwhile, at http://127.0.0.1:PORT/productpage
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let passed = demo::run(cx, args.duration, args.port).await?;
    Ok(if passed { Exit::Ok } else { Exit::Problem })
}
