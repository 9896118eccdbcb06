//! `apply`: sends manifests, all or nothing.

use std::path::PathBuf;

use crate::api::resources::{ApplyReport, ApplyRequest, Convergence};
use crate::cli::client::path;
use crate::cli::cluster::objects;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::render::resources::convergence;
use crate::cli::settings;
use crate::mesh::Severity;

use super::manifests;

/// Apply manifests: all of them, or none when one is refused
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl apply -f reviews-route.yaml
  meshctl apply -f examples/bookinfo -R
  meshctl inject -f pod.yaml | meshctl apply -f -
  meshctl apply -f route.yaml --dry-run       check only

A problem is printed as FILE:LINE:COLUMN; warnings do not stop the apply, errors
do. --force goes over errors about references (IST0101, IST0112) and names them;
nothing goes over what cannot be read, or is not honoured.")]
pub(crate) struct Args {
    /// File, directory, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// Also read the directories below a directory
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Only check, and say what would happen
    #[arg(long)]
    dry_run: bool,
    /// Apply in spite of references to what does not exist; requests there are answered 503
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let request = ApplyRequest {
        sources: manifests::read(&args.file, args.recursive)?,
        namespace: cx.settings.namespace().to_owned(),
        dry_run: args.dry_run,
        force: args.force,
        who: settings::who(),
    };
    let (report, stopped) = if let Some(mesh) = cx.client.mesh() {
        let done = objects::apply(mesh, &request, &cx.client).await?;
        (done.report, done.stopped)
    } else {
        let report: ApplyReport = cx.client.post(&path(&["resources"], &[]), &request).await?;
        (report, None)
    };
    for finding in &report.findings {
        cx.out.finding(finding);
    }
    cx.out.report(&report)?;
    let forced = report.findings.iter();
    let forced = forced.filter(|finding| finding.severity == Severity::Error);
    match forced.count() {
        0 => {}
        1 => cx.out.warn("1 error was overridden by --force"),
        many => cx
            .out
            .warn(&format!("{many} errors were overridden by --force")),
    }
    if args.dry_run {
        cx.out.note("nothing was changed (dry run)");
        return Ok(Exit::Ok);
    }
    if report.objects.is_empty() {
        cx.out.note("the files hold no objects");
    }
    let taken = tell(cx, report.revision, &report.convergence);
    if let Some(error) = stopped {
        cx.out.error(&error);
        return Ok(Exit::Partly);
    }
    Ok(taken)
}

/// Says how the proxies took a change; partly done when one did not.
pub(crate) fn tell(cx: &Context, revision: u64, taken: &Convergence) -> Exit {
    // An API server has no revisions of ours.
    let what = match revision {
        0 => "the change".to_owned(),
        revision => format!("revision {revision}"),
    };
    cx.out.note(&format!("{what} {}", convergence(taken)));
    for rejected in &taken.rejected {
        cx.out.warn(&format!("refused by {rejected}"));
    }
    if taken.rejected.is_empty() && taken.acknowledged >= taken.proxies {
        Exit::Ok
    } else {
        Exit::Partly
    }
}
