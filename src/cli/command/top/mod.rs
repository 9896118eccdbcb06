//! `top`: golden signals live, full screen.
//!
//! [`state`] holds what is shown and what keys do to it (pure), [`draw`] paints it, [`screen`] owns
//! the terminal. Not on a terminal it prints one table and ends.

mod draw;
mod screen;
mod state;

use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

use super::stats::{self, By, Query};

/// Watch requests, success and latencies live; q leaves
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl top
  meshctl top reviews --interval 500ms
  meshctl top | cat                        one table, as not on a terminal

Keys: q leave, ? help, / filter, s sort, p pause, + - interval, j k move")]
pub(crate) struct Args {
    /// NAME or NAME.NAMESPACE of one service; all without it
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// How far back each figure looks
    #[arg(long, short = 't', value_name = "DURATION", default_value = "10s", value_parser = parse::duration)]
    window: Duration,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse::duration)]
    interval: Duration,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.window < Duration::from_secs(1) {
        return Err(CliError::usage("the window is at least 1s"));
    }
    let query = Query {
        window: args.window,
        service: args
            .service
            .map(|service| parse::qualified(&service, cx.settings.namespace())),
        by: vec![By::Version],
        ..Query::default()
    };
    let full_screen =
        cx.settings.stdout_terminal && !cx.settings.environment.dumb && cx.out.for_people();
    if full_screen {
        screen::run(cx, query, args.interval).await?;
    } else {
        cx.out.report(&stats::fetch(cx, &query).await?)?;
    }
    Ok(Exit::Ok)
}
