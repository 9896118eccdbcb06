//! `rollback`: configuration as it was, in one change.

use crate::api::diff::{DiffReport, DiffRequest, RollbackRequest};
use crate::api::resources::ApplyReport;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::settings;

/// Go back to what a revision left, in one new change
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl history                      who changed what, with revisions
  meshctl rollback 17 --dry-run        what would change
  meshctl rollback 17                  as it was after revision 17

It happens whole or not at all: it is refused when it brings an error with what
else there is today. It is itself a revision, so it can be undone.")]
pub(crate) struct Args {
    /// The revision to go back to; 0 is before the first change
    #[arg(value_name = "REVISION")]
    revision: u64,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.dry_run {
        let request = DiffRequest {
            revision: Some(args.revision),
            namespace: cx.settings.namespace().to_owned(),
            ..DiffRequest::default()
        };
        let report: DiffReport = cx.client.post(&path(&["diff"], &[]), &request).await?;
        let exit = super::diff::show(&report, cx)?;
        cx.out.note("nothing was changed (dry run)");
        return Ok(exit);
    }
    let request = RollbackRequest {
        revision: args.revision,
        who: settings::who(),
    };
    let report: ApplyReport = cx.client.post(&path(&["rollback"], &[]), &request).await?;
    for finding in &report.findings {
        cx.out.finding(finding);
    }
    cx.out.report(&report)?;
    if report.objects.is_empty() {
        cx.out.note("nothing has changed since");
    }
    Ok(super::apply::tell(cx, report.revision, &report.convergence))
}
