//! `history`: who changed what.

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
  meshctl history virtualservice reviews
  meshctl history --limit 100 -o wide")]
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
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let mut entries: Vec<HistoryEntry> = cx.client.get(&path(&["history"], &[])).await?;
    if let Some(kind) = &args.kind {
        let (kind, name) = kind_and_name(kind, args.name.as_deref())?;
        entries.retain(|entry| {
            entry.objects.iter().any(|object| {
                same_kind(kind, &object.kind) && name.is_none_or(|name| object.name == name)
            })
        });
    }
    if let Some(namespace) = cx.only_namespace() {
        entries.retain(|entry| {
            entry
                .objects
                .iter()
                .any(|object| object.namespace == namespace)
        });
    }
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.revision));
    if args.limit > 0 {
        entries.truncate(args.limit);
    }
    cx.out.report(&entries)?;
    Ok(Exit::Ok)
}

/// Whether `typed` names `kind`: any case, a plural, or its capitals (`vs`), as kubectl takes them.
fn same_kind(typed: &str, kind: &str) -> bool {
    let typed = typed.to_ascii_lowercase();
    let lower = kind.to_ascii_lowercase();
    let capitals: String = kind
        .chars()
        .filter(char::is_ascii_uppercase)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let short = match lower.as_str() {
        "service" => "svc",
        "deployment" => "deploy",
        _ => &capitals,
    };
    typed == lower
        || typed == short
        || typed.strip_suffix('s') == Some(&lower)
        || typed.strip_suffix("ies").map(|stem| format!("{stem}y")) == Some(lower)
}

#[cfg(test)]
mod tests {
    use super::same_kind;

    #[test]
    fn kinds_are_taken_as_kubectl_takes_them() {
        for typed in ["VirtualService", "virtualservices", "vs"] {
            assert!(same_kind(typed, "VirtualService"), "{typed}");
        }
        assert!(same_kind("svc", "Service"));
        assert!(same_kind("deploy", "Deployment"));
        assert!(same_kind("ServiceEntries", "ServiceEntry"));
        assert!(same_kind("pa", "PeerAuthentication"));
        assert!(!same_kind("dr", "VirtualService"));
        assert!(!same_kind("s", "Service"));
    }
}
