//! `endpoints`: where a service's requests can go.

use crate::api::registry::EndpointReport;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

/// List the endpoints of services
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl endpoints
  meshctl endpoints reviews
  meshctl endpoints reviews.shop -o wide")]
pub(crate) struct Args {
    /// NAME or NAME.NAMESPACE; all services without it
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let named = args
        .service
        .map(|service| parse::qualified(&service, cx.settings.namespace()));
    let (service, namespace) = match &named {
        Some((service, namespace)) => (Some(service.as_str()), Some(namespace.as_str())),
        None => (None, cx.only_namespace()),
    };
    let query = path(
        &["endpoints"],
        &[("service", service), ("namespace", namespace)],
    );
    let endpoints: Vec<EndpointReport> = cx.client.get(&query).await?;
    cx.out.report(&endpoints)?;
    Ok(Exit::Ok)
}
