//! `authz`: who may call whom.

use std::time::Duration;

use clap::Subcommand;

use crate::api::authz::{AuthzCheck, AuthzReport, AuthzSuggestion};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

/// Say who may call whom, and write policies for what is called
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl authz check --from productpage-v1 --to reviews GET /reviews/1
  meshctl authz suggest > policies.yaml")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(Box<Check>),
    Suggest(Suggest),
}

/// Judge a call without making it: every policy, rule and condition
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl authz check --from productpage-v1 --to reviews GET /reviews/1
  meshctl authz check --from web.shop --to db --port 5432
  meshctl authz check --to reviews DELETE /reviews/1 -H 'x-tenant: a'
  meshctl authz check --from web --to cart GET / --claims '{\"sub\": \"alice\"}'

Without --from the caller has no identity of the mesh.
Exits 1 when the call would be refused.")]
struct Check {
    /// Upper case; for ports that carry requests
    #[arg(value_name = "METHOD", default_value = "GET")]
    method: String,
    /// With its query
    #[arg(value_name = "PATH", default_value = "/")]
    path: String,
    /// Workload or instance that calls, NAME or NAME.NAMESPACE
    #[arg(
        long,
        value_name = "WORKLOAD",
        default_value = "",
        hide_default_value = true
    )]
    from: String,
    /// Service, workload or instance that is called
    #[arg(long, value_name = "SERVICE")]
    to: String,
    /// Port of the service, or of the workload
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    port: u16,
    /// Address of the caller
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true)]
    from_ip: String,
    /// Host that is asked for, in place of the service's name
    #[arg(
        long,
        value_name = "HOST",
        default_value = "",
        hide_default_value = true
    )]
    host: String,
    /// Field of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "K: V", value_parser = parse::header)]
    headers: Vec<(String, String)>,
    /// What a verified token says, as JSON
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
}

/// Write the least policies that let pass what was called
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl authz suggest
  meshctl authz suggest reviews --window 1d | meshctl apply -f -

Policies are for what is called, and name the identities that called it.
Who called without one is told on stderr: no policy can let it in by name.
Exits 5 when there are such callers.")]
struct Suggest {
    /// NAME or NAME.NAMESPACE; all without it
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// What is taken into account
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse::duration)]
    window: Duration,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    match args.command {
        Command::Check(args) => check(*args, cx).await,
        Command::Suggest(args) => suggest(args, cx).await,
    }
}

async fn check(args: Check, cx: &Context) -> Result<Exit, CliError> {
    let claims = args
        .claims
        .as_deref()
        .map(serde_json::from_str)
        .transpose()
        .map_err(|error| CliError::usage(format!("--claims is not JSON: {error}")))?;
    let request = AuthzCheck {
        from: args.from,
        from_ip: args.from_ip,
        to: args.to,
        port: args.port,
        method: args.method,
        path: args.path,
        host: args.host,
        headers: args.headers,
        claims,
        namespace: cx.settings.namespace().to_owned(),
    };
    let report: AuthzReport = cx
        .client
        .post(&path(&["authz", "check"], &[]), &request)
        .await?;
    let allowed = report.trace.allowed;
    cx.out.report(&report)?;
    Ok(if allowed { Exit::Ok } else { Exit::Problem })
}

async fn suggest(args: Suggest, cx: &Context) -> Result<Exit, CliError> {
    let seconds = args.window.as_secs().to_string();
    let namespace = cx.settings.namespace();
    let service = args.service.map(|text| parse::qualified(&text, namespace));
    let (service, namespace) = match &service {
        Some((service, namespace)) => (Some(service.as_str()), Some(namespace.as_str())),
        None => (None, cx.only_namespace()),
    };
    let query = path(
        &["authz", "suggest"],
        &[
            ("window", Some(&seconds)),
            ("service", service),
            ("namespace", namespace),
        ],
    );
    let report: AuthzSuggestion = cx.client.get(&query).await?;
    cx.out.report(&report)?;
    for caller in &report.uncovered {
        let who = if caller.source.is_empty() {
            "somebody"
        } else {
            &caller.source
        };
        cx.out.note(&format!(
            "{who} called {}: {}",
            caller.service, caller.reason
        ));
    }
    Ok(if report.uncovered.is_empty() {
        Exit::Ok
    } else {
        Exit::Partly
    })
}
