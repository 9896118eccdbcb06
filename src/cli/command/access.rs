//! `access`: who may use the control plane's API from other machines.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use crate::api::access::{
    AccessEntry, AccessReport, AccessRequest, GrantRequest, Role as Given, WhoAmI,
};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;
use crate::cli::render::identity::lifetime;
use crate::cli::render::{Page, Render};

/// Say who may use the API from other machines, and as what
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl access create ci --role viewer > ci.token
  meshctl access grant spiffe://cluster.local/ns/ops/sa/anna --role operator
  meshctl access list
  meshctl --api mesh.example.com:15443 --api-token-file ci.token services

A viewer sees everything but secrets; an operator may change the mesh, too.
Who else may is said where the control plane runs, on its Unix socket.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    Grant(Grant),
    List(List),
    Revoke(Revoke),
    Whoami(Whoami),
}

/// What is given.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// See everything but secrets
    Viewer,
    /// Change the mesh, too
    Operator,
}

impl From<Role> for Given {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
        }
    }
}

/// Make a token for the API; it is printed once and stored nowhere in the clear
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl access create ci --role viewer > ci.token
  meshctl access create anna --role operator --ttl 8h

The token carries the fingerprint of the mesh's root, so that its bearer
knows the control plane. After the root was rotated, give --api-ca with it.")]
struct Create {
    /// Whom it is for
    name: String,
    /// What its bearer may do: viewer or operator
    #[arg(long, value_enum, value_name = "ROLE", hide_possible_values = true)]
    role: Role,
    /// How long it is good for, at most 90 days
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse::duration)]
    ttl: Duration,
}

/// Let an identity of the mesh in by its certificate
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl access grant spiffe://cluster.local/ns/ops/sa/anna --role operator
  meshctl identity issue -n ops --service-account anna --out ./anna
  meshctl --api mesh.example.com:15443 --api-identity ./anna services")]
struct Grant {
    /// Whose
    #[arg(value_name = "SPIFFE-ID")]
    identity: String,
    /// What it may do: viewer or operator
    #[arg(long, value_enum, value_name = "ROLE", hide_possible_values = true)]
    role: Role,
    /// How long [default: until it is revoked]
    #[arg(long, value_name = "DURATION", default_value = "0", hide_default_value = true, value_parser = parse::duration)]
    ttl: Duration,
}

/// List who may
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl access list
  meshctl access list -o json")]
struct List {}

/// Let tokens and identities in no more
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl access revoke 5d0f2c6a41e8
  meshctl access revoke spiffe://cluster.local/ns/ops/sa/anna")]
struct Revoke {
    /// Ids, as `meshctl access list` shows them
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// Say who the control plane takes you for
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl access whoami
  meshctl --api mesh.example.com:15443 --api-token-file t access whoami")]
struct Whoami {}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    match args.command {
        Command::Create(args) => create(args, cx).await?,
        Command::Grant(args) => {
            let request = GrantRequest {
                spiffe_id: args.identity,
                role: args.role.into(),
                ttl_seconds: args.ttl.as_secs(),
            };
            let _done: Value = cx
                .client
                .post(&path(&["access", "grants"], &[]), &request)
                .await?;
            cx.out.report(&Granted {
                spiffe_id: request.spiffe_id,
                role: request.role,
            })?;
        }
        Command::List(List {}) => {
            let all: Vec<AccessEntry> = cx.client.get(&path(&["access"], &[])).await?;
            cx.out.report(&all)?;
        }
        Command::Revoke(args) => {
            for id in &args.ids {
                let _gone: Value = cx.client.delete(&path(&["access", id], &[])).await?;
            }
            cx.out.report(&Revoked { revoked: args.ids })?;
        }
        Command::Whoami(Whoami {}) => {
            let me: WhoAmI = cx.client.get(&path(&["access", "self"], &[])).await?;
            cx.out.report(&me)?;
        }
    }
    Ok(Exit::Ok)
}

async fn create(args: Create, cx: &Context) -> Result<(), CliError> {
    if args.ttl < Duration::from_secs(1) {
        return Err(CliError::usage("a token is good for at least 1s"));
    }
    let request = AccessRequest {
        name: args.name,
        role: args.role.into(),
        ttl_seconds: args.ttl.as_secs(),
    };
    let target = path(&["access", "tokens"], &[]);
    let report: AccessReport = cx.client.post(&target, &request).await?;
    cx.out.report(&report)?;
    cx.out.note(&format!(
        "token {} makes {} {}, {}",
        report.id,
        request.name,
        request.role,
        lifetime(report.expires_unix_ms, cx.wall.millis())
    ));
    Ok(())
}

/// Who is let in now.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Granted {
    spiffe_id: String,
    role: Given,
}

impl Render for Granted {
    fn text(&self, _: &Page) -> String {
        format!("{} may use the API as {}\n", self.spiffe_id, self.role)
    }

    fn names(&self) -> Vec<String> {
        vec![self.spiffe_id.clone()]
    }
}

/// Who is let in no more.
#[derive(Debug, Serialize)]
struct Revoked {
    revoked: Vec<String>,
}

impl Render for Revoked {
    fn text(&self, _: &Page) -> String {
        let lines = self.revoked.iter().map(|id| format!("{id} revoked\n"));
        lines.collect()
    }

    fn names(&self) -> Vec<String> {
        self.revoked.clone()
    }
}
