//! `proxies`: who is connected, and whether it has what it should have.

use crate::api::proxies::ProxySync;
use crate::api::{Problem, Reason};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

/// List the proxies and what each has acknowledged
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl proxies
  meshctl proxies reviews-v1-6b7c-x2x1z -o yaml

WORLD counts every change that proxies are told of: configuration, and who runs.
`meshctl config` shows what a proxy runs.")]
pub(crate) struct Args {
    /// NAME or NAME.NAMESPACE of one proxy
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let mut rows: Vec<ProxySync> = cx.client.get(&path(&["proxies"], &[])).await?;
    if let Some(namespace) = cx.only_namespace() {
        rows.retain(|row| row.namespace == namespace);
    }
    if let Some(typed) = &args.name {
        let (name, namespace) = parse::qualified(typed, cx.settings.namespace());
        rows.retain(|row| {
            row.name == *typed
                || row.proxy == *typed
                || (row.name == name && row.namespace == namespace)
        });
        if rows.is_empty() {
            return Err(CliError::Problem(
                Problem::new(Reason::NotFound, format!("no proxy is called {typed:?}"))
                    .hint("`meshctl proxies` lists all"),
            ));
        }
    }
    cx.out.report(&rows)?;
    Ok(Exit::Ok)
}
