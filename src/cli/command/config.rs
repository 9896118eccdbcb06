//! `config`: what one proxy runs.

use clap::ValueEnum;
use serde_json::Value;

use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::render::config::Config;

/// Print what a proxy was given
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl config routes reviews-v1-6b7c-x2x1z
  meshctl config clusters productpage-v1-5d8f-k2k4z -o json

`meshctl proxies` lists the names.
The table shows the plain fields; -o json and -o yaml show all.
Secrets show the identity and the root's fingerprint, never keys.")]
pub(crate) struct Args {
    /// Which part: listeners, routes, clusters, endpoints or secrets
    #[arg(value_enum, value_name = "PART", hide_possible_values = true)]
    part: Part,
    /// Name of the proxy
    #[arg(value_name = "PROXY")]
    proxy: String,
}

/// A part of a proxy's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    #[value(alias = "listener")]
    Listeners,
    #[value(alias = "route")]
    Routes,
    #[value(alias = "cluster")]
    Clusters,
    #[value(alias = "endpoint")]
    Endpoints,
    #[value(alias = "secret")]
    Secrets,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Listeners => "listeners",
            Self::Routes => "routes",
            Self::Clusters => "clusters",
            Self::Endpoints => "endpoints",
            Self::Secrets => "secrets",
        }
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let query = path(&["proxies", &args.proxy, "config", args.part.name()], &[]);
    let config: Value = cx.client.get(&query).await?;
    cx.out.report(&Config::new(args.part.name(), config))?;
    Ok(Exit::Ok)
}
