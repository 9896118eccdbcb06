//! `delete`: removes configuration objects.

use crate::api::Reason;
use crate::api::resources::ApplyReport;
use crate::cli::client::path;
use crate::cli::cluster::objects;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::settings;

use super::get::kind_and_name;

/// Delete configuration objects
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl delete virtualservice reviews
  meshctl delete dr/reviews -n shop
  meshctl delete vs reviews ratings --ignore-not-found")]
pub(crate) struct Args {
    /// KIND or KIND/NAME
    #[arg(value_name = "KIND")]
    kind: String,
    /// Names of the objects
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// It is no error when an object is not there
    #[arg(long)]
    ignore_not_found: bool,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let first = args.names.first().map(String::as_str);
    let (kind, single) = kind_and_name(&args.kind, first)?;
    let names: Vec<&str> = if args.names.is_empty() {
        single.into_iter().collect()
    } else {
        args.names.iter().map(String::as_str).collect()
    };
    if names.is_empty() {
        return Err(CliError::usage("which object? KIND NAME or KIND/NAME")
            .hint(format!("`meshctl get {kind}` lists them")));
    }
    let who = settings::who();
    let mut done = 0_usize;
    let mut worst = Exit::Ok;
    let mut whole: Option<ApplyReport> = None;
    for name in &names {
        let target = path(
            &["resources", kind, cx.settings.namespace(), name],
            &[("who", Some(&who))],
        );
        let namespace = cx.settings.namespace();
        let deleted = match cx.client.mesh() {
            Some(mesh) => objects::delete(mesh, kind, namespace, name).await,
            None => cx.client.delete::<ApplyReport>(&target).await,
        };
        match deleted {
            Ok(report) => {
                done += 1;
                whole = Some(match whole.take() {
                    None => report,
                    Some(mut whole) => {
                        whole.revision = report.revision;
                        whole.objects.extend(report.objects);
                        whole.findings.extend(report.findings);
                        whole.convergence = report.convergence;
                        whole
                    }
                });
            }
            Err(CliError::Problem(problem))
                if args.ignore_not_found && problem.reason == Reason::NotFound =>
            {
                cx.out.note(&format!("{kind}/{name} is not there"));
            }
            Err(error @ CliError::Problem(_)) => worst = cx.out.error(&error),
            Err(error) => return Err(error),
        }
    }
    if let Some(report) = &whole {
        for finding in &report.findings {
            cx.out.finding(finding);
        }
        cx.out.report(report)?;
        let taken = super::apply::tell(cx, report.revision, &report.convergence);
        if worst == Exit::Ok {
            worst = taken;
        }
    }
    if worst == Exit::Problem && done > 0 {
        worst = Exit::Partly;
    }
    Ok(worst)
}
