//! `token`: secrets with which proxies elsewhere join.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;

use crate::api::identity::{TokenEntry, TokenReport, TokenRequest};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;
use crate::cli::render::identity::lifetime;
use crate::cli::render::{Page, Render};

/// Create, list and revoke join tokens for proxies elsewhere
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl token create --service-account reviews
  meshctl token create -n shop --service-account cart --uses 3 --ttl 10m
  meshctl token create --gateway edge
  meshctl token list
  meshctl token revoke 5d0f2c6a41e8")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// List tokens: whom each is for, and how often it was used
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl token list
  meshctl token list -o json

Secrets are kept nowhere, so none is shown. A spent or expired token goes
after a week; one with which a gateway joined stays until it is revoked.")]
struct List {}

/// Take tokens back: nobody joins with them, and no gateway serves by them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl token revoke 5d0f2c6a41e8

Certificates that were given out stay good: see `meshctl identity revoke`.")]
struct Revoke {
    /// Ids of tokens, as `meshctl token list` shows them
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// Create a token; it is printed once and stored nowhere in the clear
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl token create --service-account reviews
  MESHCTL_JOIN_TOKEN=$(meshctl token create -q --service-account reviews) \\
      meshctl proxy --service reviews --service-account reviews \\
      --app 127.0.0.1:9080

The proxy joins with the same -n and --service-account, or --gateway. Only
what joins with a token for a gateway, or is written down as a workload that
the Gateway chooses, is sent the Secrets that Gateways name.")]
struct Create {
    /// The account that the bearer may claim; the namespace is -n [default: that of --gateway, or default]
    #[arg(long, value_name = "ACCOUNT", value_parser = parse::name)]
    service_account: Option<String>,
    /// Let the account serve this gateway, with the Secrets that it names
    #[arg(long, value_name = "NAME", value_parser = parse::name)]
    gateway: Option<String>,
    /// How often it may be used
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// How long it is good for
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse::duration)]
    ttl: Duration,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    match args.command {
        Command::Create(args) => create(args, cx).await,
        Command::List(List {}) => {
            let all: Vec<TokenEntry> = cx.client.get(&path(&["tokens"], &[])).await?;
            cx.out.report(&all)?;
            Ok(Exit::Ok)
        }
        Command::Revoke(args) => revoke(args.ids, cx).await,
    }
}

async fn create(args: Create, cx: &Context) -> Result<Exit, CliError> {
    if args.ttl < Duration::from_secs(1) {
        return Err(CliError::usage("a token is good for at least 1s"));
    }
    let account = args.service_account.or_else(|| args.gateway.clone());
    let request = TokenRequest {
        namespace: cx.settings.namespace().to_owned(),
        service_account: account.unwrap_or_else(|| "default".to_owned()),
        uses: args.uses,
        ttl_seconds: args.ttl.as_secs(),
        gateway: args.gateway,
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

async fn revoke(ids: Vec<String>, cx: &Context) -> Result<Exit, CliError> {
    for id in &ids {
        let _gone: Value = cx.client.delete(&path(&["tokens", id], &[])).await?;
    }
    cx.out.report(&Revoked { revoked: ids })?;
    Ok(Exit::Ok)
}

/// Tokens that are good for nothing any more.
#[derive(Debug, Serialize)]
struct Revoked {
    revoked: Vec<String>,
}

impl Render for Revoked {
    fn text(&self, _: &Page) -> String {
        let lines = self
            .revoked
            .iter()
            .map(|id| format!("token {id} revoked\n"));
        lines.collect()
    }

    fn names(&self) -> Vec<String> {
        self.revoked.clone()
    }
}
