//! `demo`: the whole thing on real processes.

use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

/// Show the whole mesh on real processes in a minute, and clean up
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Longest time that it may take
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse::duration)]
    pub(crate) duration: Duration,
    /// Port on which the sample application is shown
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub(crate) port: u16,
}

#[expect(
    clippy::unused_async,
    reason = "awaits once the layer below is called here"
)]
pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let _ = (args, cx);
    Err(CliError::NotBuilt("the demo"))
}
