//! `services`: what callers can name.

use crate::api::registry::ServiceReport;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;

/// List the services of the mesh
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl services
  meshctl services -n shop -o wide")]
pub(crate) struct Args {}

pub(crate) async fn run(_: Args, cx: &Context) -> Result<Exit, CliError> {
    let mut services: Vec<ServiceReport> = cx.client.get(&path(&["services"], &[])).await?;
    if let Some(namespace) = cx.only_namespace() {
        services.retain(|service| service.namespace == namespace);
    }
    cx.out.report(&services)?;
    Ok(Exit::Ok)
}
