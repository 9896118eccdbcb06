//! `history`: who changed what.

use crate::api::diff::RevisionReport;
use crate::api::resources::HistoryEntry;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;

use super::get::kind_and_name;

/// Print who changed what and when, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl history
  meshctl history virtualservice
  meshctl history virtualservice reviews       each change of it, with its diff
  meshctl history --diff 17                    all that revision 17 changed
  meshctl history --limit 100 -o wide

Who is the user of the process that asked, as the kernel says. `meshctl rollback`
goes back to a revision. The newest 1000 changes are kept, of at most 64 MiB.")]
pub(crate) struct Args {
    /// Only changes of this kind of object; KIND or KIND/NAME
    #[arg(value_name = "KIND")]
    kind: Option<String>,
    /// Only changes of this object
    #[arg(value_name = "NAME", requires = "kind")]
    name: Option<String>,
    /// At most so many; 0 is all
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Show what each change did field by field; of one revision, if given
    #[arg(long, value_name = "REVISION", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "the flag, and its value")]
    diff: Option<Option<u64>>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let (kind, name) = match &args.kind {
        None => (None, None),
        Some(kind) => {
            let (kind, name) = kind_and_name(kind, args.name.as_deref())?;
            (Some(kind), name)
        }
    };
    let revision = args.diff.flatten().map(|revision| revision.to_string());
    let limit = args.limit.to_string();
    // Changes of one object are told with what they did.
    let diff = args.diff.is_some() || name.is_some();
    let query = path(
        &["history"],
        &[
            ("kind", kind),
            ("name", name),
            ("namespace", cx.only_namespace()),
            ("revision", revision.as_deref()),
            ("limit", Some(&limit)),
            ("diff", diff.then_some("true")),
        ],
    );
    if !diff {
        let mut entries: Vec<HistoryEntry> = cx.client.get(&query).await?;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.revision));
        cx.out.report(&entries)?;
        return Ok(Exit::Ok);
    }
    let mut revisions: Vec<RevisionReport> = cx.client.get(&query).await?;
    revisions.sort_by_key(|revision| std::cmp::Reverse(revision.entry.revision));
    if let (Some(revision), true) = (&revision, revisions.is_empty()) {
        return Err(
            CliError::failed(format!("there is no revision {revision} of these"))
                .hint("`meshctl history` lists them"),
        );
    }
    cx.out.report(&revisions)?;
    Ok(Exit::Ok)
}
