//! `token`: secrets with which proxies elsewhere join.

use std::time::Duration;

use clap::Subcommand;

use crate::api::identity::{TokenReport, TokenRequest};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;
use crate::cli::render::identity::lifetime;

/// Create join tokens for proxies that run elsewhere
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl token create --service-account reviews
  meshctl token create -n shop --service-account cart --uses 3 --ttl 10m")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
}

/// Create a token; it is printed once and stored nowhere in the clear
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl token create --service-account reviews
  MESHCTL_JOIN_TOKEN=$(meshctl token create -q --service-account reviews) \\
      meshctl proxy --service reviews --service-account reviews \\
      --app 127.0.0.1:9080

The proxy joins with the same -n and --service-account.")]
struct Create {
    /// The account that the bearer may claim; the namespace is -n
    #[arg(long, value_name = "ACCOUNT", default_value = "default", value_parser = parse::name)]
    service_account: String,
    /// How often it may be used
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// How long it is good for
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse::duration)]
    ttl: Duration,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let Command::Create(args) = args.command;
    if args.ttl < Duration::from_secs(1) {
        return Err(CliError::usage("a token is good for at least 1s"));
    }
    let request = TokenRequest {
        namespace: cx.settings.namespace().to_owned(),
        service_account: args.service_account,
        uses: args.uses,
        ttl_seconds: args.ttl.as_secs(),
    };
    let report: TokenReport = cx.client.post(&path(&["tokens"], &[]), &request).await?;
    cx.out.report(&report)?;
    cx.out.note(&format!(
        "token {} stands for {}, {}",
        report.id,
        report.spiffe_id,
        lifetime(report.expires_unix_ms, cx.wall.millis())
    ));
    Ok(Exit::Ok)
}
