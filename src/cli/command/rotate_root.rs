//! `identity rotate-root`: another root for the mesh, without a failed request.

use std::time::Duration;

use crate::api::identity::{RotationPhase, RotationRequest, RotationStep, TrustReport};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;
use crate::cli::progress::Progress;
use crate::cli::render::{Page, Render};

/// How often it is looked how far proxies are.
const LOOK: Duration = Duration::from_millis(300);

/// Replace the mesh's root certificate, in three steps that leave no proxy behind
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl identity rotate-root
  meshctl identity rotate-root --status
  meshctl identity rotate-root --abandon

First every proxy comes to believe a new root beside the old one, then the new one signs and every proxy
renews its certificate, then the old one is believed no more. Each step waits for all proxies that are
connected. Interrupted, it goes on where it was when it is run again.")]
pub(super) struct Args {
    /// Only show the roots and how far the proxies are
    #[arg(long, conflicts_with_all = ["abandon", "force"])]
    status: bool,
    /// Forget a new root that signs nothing yet
    #[arg(long, conflicts_with = "force")]
    abandon: bool,
    /// Leave proxies behind that lag when the time of a step is over
    #[arg(long)]
    force: bool,
    /// How long each step waits for the proxies
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse::duration)]
    wait: Duration,
}

impl Render for TrustReport {
    fn text(&self, page: &Page) -> String {
        let mut text = format!(
            "root is {}, {} proxies connected\n",
            page.paint.strong(self.phase.to_string()),
            self.connected
        );
        for (index, root) in self.roots.iter().enumerate() {
            let does = if index == 0 { "signs" } else { "believed" };
            text += &format!("  {root}  {does}\n");
        }
        for (names, what) in [
            (&self.not_believing, "do not believe these roots yet"),
            (&self.not_renewed, "have a certificate of another root"),
        ] {
            if !names.is_empty() {
                text += &format!("{} {what}: {}\n", names.len(), names.join(", "));
            }
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.roots.clone()
    }
}

pub(super) async fn run(args: &Args, cx: &Context) -> Result<Exit, CliError> {
    if args.status {
        cx.out.report(&report(cx).await?)?;
        return Ok(Exit::Ok);
    }
    if args.abandon {
        let report = step(cx, RotationStep::Abandon, false).await?;
        cx.out.report(&report)?;
        return Ok(Exit::Ok);
    }
    let progress = Progress::new(&cx.out);
    let old = report(cx).await?;
    if old.phase == RotationPhase::Steady {
        let doing = progress.step("a new root is introduced");
        step(cx, RotationStep::Introduce, false).await?;
        doing.done("");
    }
    if report(cx).await?.phase == RotationPhase::Introduced {
        let doing = progress.step("every proxy believes it");
        let all = wait(cx, args, |report| &report.not_believing, &doing).await?;
        step(cx, RotationStep::Replace, args.force).await?;
        doing.done(&all);
    }
    let doing = progress.step("every proxy has a certificate of it");
    let all = wait(cx, args, |report| &report.not_renewed, &doing).await?;
    step(cx, RotationStep::Finish, args.force).await?;
    doing.done(&all);
    let doing = progress.step("the old root is believed no more");
    let all = wait(cx, args, |report| &report.not_believing, &doing).await?;
    doing.done(&all);
    cx.out.report(&report(cx).await?)?;
    Ok(Exit::Ok)
}

async fn report(cx: &Context) -> Result<TrustReport, CliError> {
    cx.client.get(&path(&["trust"], &[])).await
}

async fn step(cx: &Context, step: RotationStep, force: bool) -> Result<TrustReport, CliError> {
    let request = RotationRequest { step, force };
    let at = path(&["trust", "rotation"], &[]);
    cx.client.post(&at, &request).await
}

/// Waits until nobody lags, or for as long as is given; says how many there are.
async fn wait(
    cx: &Context,
    args: &Args,
    lagging: fn(&TrustReport) -> &Vec<String>,
    doing: &crate::cli::progress::Step<'_>,
) -> Result<String, CliError> {
    let begun = crate::rt::now();
    let mut quiet = 0;
    loop {
        let report = report(cx).await?;
        let names = lagging(&report);
        // What was acknowledged is taken over in a moment, so once is not enough.
        quiet = if names.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 {
            return Ok(format!("{} proxies", report.connected));
        }
        if begun.elapsed() > args.wait {
            if args.force {
                return Ok(format!("{} left behind", names.len()));
            }
            return Err(CliError::failed(format!(
                "{} of {} proxies lag after {:?}: {}",
                names.len(),
                report.connected,
                args.wait,
                names.join(", ")
            ))
            .hint("run it again to go on, or with --force to leave them behind"));
        }
        doing.update(&format!("{} to go", names.len()));
        tokio::time::sleep(LOOK).await;
    }
}
