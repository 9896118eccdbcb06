//! `bench`: what the mesh costs on this machine.

use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{bench, parse};

/// Measure what the mesh costs here: direct, one hop, two hops
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl bench
  meshctl bench --target http://127.0.0.1:8080/health
  meshctl bench -o json | jq '.paths[] | {path, addedP99Ms, cpuMicrosPerRequest}'

Paths: the application itself; through its sidecar; through the caller's
sidecar, mutual TLS and its own sidecar. They are measured in turns, so that
a busy moment falls on all: first at an even --rate, for latency, then as fast
as answers come, for CPU. CPU and memory are those of the sidecars.
It runs in a throw-away home and touches no other mesh. Exit 1 when a request
failed.")]
pub(crate) struct Args {
    /// An application that is there, in place of one that is started
    #[arg(long, value_name = "URL", value_parser = bench::target)]
    target: Option<bench::Target>,
    /// How long to measure, all paths together
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse::duration)]
    duration: Duration,
    /// Requests a second while latency is measured
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.duration < bench::SHORTEST {
        return Err(CliError::usage(format!(
            "--duration is at least {} s, as each path is measured several times",
            bench::SHORTEST.as_secs()
        )));
    }
    let asked = bench::Asked {
        target: args.target,
        length: args.duration,
        rate: args.rate,
        connections: usize::from(args.connections),
    };
    let report = bench::run(cx, &asked).await?;
    cx.out.report(&report)?;
    Ok(if report.failed == 0 {
        Exit::Ok
    } else {
        Exit::Problem
    })
}
