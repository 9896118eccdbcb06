//! `diff`: what files would change, before they are applied.

use std::path::PathBuf;

use crate::api::diff::{DiffReport, DiffRequest};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::control::preview::Preview;

use super::manifests;

/// Show what manifests would change, before they are applied
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl diff -f reviews-route.yaml
  meshctl diff -f manifests/ -R -o json
  meshctl diff -f new.yaml --against old.yaml      without a control plane
  meshctl diff -f manifests/ --use-control-plane=false

Objects are compared field by field; of each proxy that is connected (else of
one in each namespace), what it listens on, routes, calls and balances.

The exit code is 0 whether or not there are differences, and 1 when the change
would be refused. With --exit-code it is as kubectl diff has it: 0 without
differences, 1 with some, and 2 when it would be refused or cannot be told.")]
pub(crate) struct Args {
    /// File, directory, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// Also read the directories below a directory
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Compare with these files, not with what the control plane runs
    #[arg(long, value_name = "FILE", num_args = 1..)]
    against: Vec<PathBuf>,
    /// Compare with what the control plane runs; =false compares with nothing
    #[arg(
        short = 'k',
        long,
        alias = "use-kube",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        hide_possible_values = true
    )]
    use_control_plane: bool,
    /// Exit with 1 when something would change, and with 2 on errors
    #[arg(long)]
    exit_code: bool,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let report = match report(&args, cx).await {
        Ok(report) => report,
        Err(error @ CliError::Problem(_)) if args.exit_code => {
            cx.out.error(&error);
            return Ok(Exit::Usage);
        }
        Err(error) => return Err(error),
    };
    let exit = show(&report, cx)?;
    let differs = !report.objects.is_empty() || !report.proxies.is_empty();
    Ok(match (args.exit_code, exit) {
        (true, Exit::Ok) if differs => Exit::Problem,
        (true, Exit::Problem) => Exit::Usage,
        _ => exit,
    })
}

/// Prints what would change and what is wrong with it.
pub(super) fn show(report: &DiffReport, cx: &Context) -> Result<Exit, CliError> {
    for finding in &report.findings {
        cx.out.finding(finding);
    }
    cx.out.report(report)?;
    if cx.out.for_people() && report.unchanged_proxies > 0 && !report.proxies.is_empty() {
        let noun = match report.unchanged_proxies {
            1 => "1 other proxy stays as it is".to_owned(),
            many => format!("{many} other proxies stay as they are"),
        };
        cx.out.note(&noun);
    }
    if report.refused {
        cx.out.warn("this would be refused for the errors above");
        return Ok(Exit::Problem);
    }
    Ok(Exit::Ok)
}

async fn report(args: &Args, cx: &Context) -> Result<DiffReport, CliError> {
    let sources = manifests::read(&args.file, args.recursive)?;
    let namespace = cx.settings.namespace().to_owned();
    if args.against.is_empty() && args.use_control_plane {
        let request = DiffRequest {
            sources,
            namespace,
            revision: None,
        };
        return cx.client.post(&path(&["diff"], &[]), &request).await;
    }
    let against = manifests::read(&args.against, args.recursive)?;
    let preview = Preview::alone(&sources, &against, &namespace).map_err(CliError::Problem)?;
    Ok(preview.report(&[]))
}
