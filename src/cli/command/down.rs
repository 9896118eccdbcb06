//! `down`: ends what `up` runs.

use std::time::Duration;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;
use crate::cli::progress::Progress;
use crate::cli::render::{Page, Render};

use crate::local::client::Down;

use super::local;

/// End the pods that `up` runs, and leave nothing behind
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl down
  meshctl down --timeout 5s                   do not wait long for slow ones

What `meshctl install` made stays; `meshctl uninstall --purge` removes it.")]
pub(crate) struct Args {
    /// How long the pods may take to end before they are killed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse::duration)]
    timeout: Duration,
}

/// How it went.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// `stopped`, `cleanedUp` after a supervisor that was gone, or `nothingUp`.
    outcome: &'static str,
}

impl Render for Report {
    fn text(&self, _: &Page) -> String {
        format!("{}\n", self.outcome)
    }

    fn names(&self) -> Vec<String> {
        vec![self.outcome.to_owned()]
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let step = Progress::new(&cx.out).step("pods");
    let (outcome, words) = match local::down(cx, args.timeout).await {
        Ok(Down::Stopped) => ("stopped", "stopped"),
        Ok(Down::CleanedUp) => ("cleanedUp", "cleaned up after a supervisor that was gone"),
        Ok(Down::NothingUp) => ("nothingUp", "none were up"),
        Err(error) => {
            step.failed();
            return Err(error);
        }
    };
    step.done(words);
    if !cx.out.for_people() {
        cx.out.report(&Report { outcome })?;
    }
    Ok(Exit::Ok)
}
