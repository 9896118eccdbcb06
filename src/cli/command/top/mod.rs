//! `top`: golden signals live, full screen.
//!
//! [`state`] holds what is shown and what keys do to it, [`calls`] counts live calls (both pure), [`draw`] and
//! [`live`] paint it, [`screen`] owns the terminal. Not on a terminal it prints tables and ends.

mod calls;
mod draw;
mod live;
mod screen;
mod state;

use std::time::Duration;

use futures_util::StreamExt as _;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{logging, parse};
use crate::rt;

use super::stats::{self, By, Query};
use super::tap;
use calls::{Calls, CallsReport};
use state::Level;

/// Calls a second that are counted.
const RATE: u32 = 1_000;

/// Watch requests, success and latencies live; q leaves
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl top
  meshctl top reviews --interval 500ms
  meshctl top --calls reviews              live calls, those alike in a row
  meshctl top --batch --count 3            three tables, as for a pipe

Keys: q leave, ? help, Enter look closer, t live calls, / filter, s sort,
p pause, + - interval")]
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
    /// Live calls rather than services
    #[arg(long)]
    calls: bool,
    /// Print tables rather than take the screen, as where the output is no terminal
    #[arg(long)]
    batch: bool,
    /// So many tables, with --batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.window < Duration::from_secs(1) {
        return Err(CliError::usage("the window is at least 1s"));
    }
    let (all, named) = (args.service.is_none(), args.service.unwrap_or_default());
    let (service, namespace) = parse::qualified(&named, cx.settings.namespace());
    let around = (!all).then(|| format!("{service}.{namespace}"));
    let query = Query {
        window: args.window,
        service: (!all).then_some((service, namespace)),
        by: vec![By::Version],
        ..Query::default()
    };
    let full_screen = !args.batch
        && cx.settings.stdout_terminal
        && !cx.settings.environment.dumb
        && cx.out.for_people();
    if full_screen {
        let level = if args.calls {
            Level::Calls(around)
        } else {
            Level::Services
        };
        screen::run(cx, (query, level), args.interval).await?;
        return Ok(Exit::Ok);
    }
    let end = logging::asked_to_end();
    tokio::pin!(end);
    for number in 0..args.count {
        if number > 0 {
            if !args.calls {
                tokio::select! {
                    () = &mut end => break,
                    () = tokio::time::sleep(args.interval) => {}
                }
            }
            if cx.out.for_people() {
                cx.out.data("\n")?;
            }
        }
        if args.calls {
            tokio::select! {
                () = &mut end => break,
                report = listen(cx, around.clone(), args.window) => cx.out.report(&report?)?,
            }
        } else {
            cx.out.report(&stats::fetch(cx, &query).await?)?;
        }
    }
    Ok(Exit::Ok)
}

/// The calls of a time.
async fn listen(
    cx: &Context,
    service: Option<String>,
    window: Duration,
) -> Result<CallsReport, CliError> {
    let asked = tapped(service);
    let mut lines = cx.client.lines(&asked.path(cx), asked.role()).await?;
    let until = rt::now() + window;
    let mut calls = Calls::default();
    while let Ok(Some(line)) = tokio::time::timeout_at(until, lines.next()).await {
        let line = line?;
        if !line.is_empty() {
            calls.add(tap::read_call(&line)?);
        }
    }
    Ok(CallsReport::new(&calls, window.as_secs()))
}

/// What is asked for to see the calls around `service`.
fn tapped(service: Option<String>) -> tap::Asked {
    tap::Asked {
        service,
        rate: RATE,
        ..tap::Asked::default()
    }
}
