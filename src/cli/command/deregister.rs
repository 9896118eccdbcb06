//! `deregister`: takes an instance out of the registry.

use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

/// Take an instance out of the registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl deregister db-1
  meshctl deregister db-1.shop")]
pub(crate) struct Args {
    /// NAME or NAME.NAMESPACE of the instance; `meshctl register --list` shows them
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let (name, namespace) = parse::qualified(&args.name, cx.settings.namespace());
    let target = path(&["registry", "instances", &namespace, &name], &[]);
    cx.client.delete::<serde_json::Value>(&target).await?;
    if cx.out.for_people() {
        cx.out.data(&format!("instance/{name} deregistered\n"))?;
    } else {
        cx.out
            .structure(&serde_json::json!({ "instance": name, "namespace": namespace }))?;
    }
    Ok(Exit::Ok)
}
