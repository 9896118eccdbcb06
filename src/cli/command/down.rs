//! `down`: ends what `up` runs.

use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;
use crate::cli::progress::Progress;

use crate::local::client::Down;

use super::local;

/// End the pods that `up` runs, and leave nothing behind
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the pods may take to end before they are killed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse::duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let step = Progress::new(&cx.out).step("pods");
    match local::down(cx, args.timeout).await {
        Ok(Down::Stopped) => step.done("stopped"),
        Ok(Down::CleanedUp) => step.done("cleaned up after a supervisor that was gone"),
        Ok(Down::NothingUp) => step.done("none were up"),
        Err(error) => {
            step.failed();
            return Err(error);
        }
    }
    Ok(Exit::Ok)
}
