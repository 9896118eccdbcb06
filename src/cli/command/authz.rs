//! `authz`: who may call whom.

use std::time::Duration;

use clap::Subcommand;

use crate::api::Reason;
use crate::api::authz::{AuthzCheck, AuthzReport, AuthzSuggestion};
use crate::api::resources::{ApplyReport, ApplyRequest, SourceText};
use crate::api::stats::StatsReport;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{parse, settings};
use crate::mesh::destinations::ROOTS;

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
    DefaultDeny(DefaultDeny),
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

/// Refuse every call in the mesh that no policy allows
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl authz default-deny on
  meshctl authz default-deny off
  meshctl authz default-deny status

It is an AuthorizationPolicy that allows nothing, for the whole mesh, so that
every workload needs one that allows its callers. Before it is switched on, the
calls of the last hour are judged: where one would be refused from then on,
nothing is done without --force.
Exits 1 when it is not switched on, or with status when it is off.")]
struct DefaultDeny {
    #[arg(value_enum)]
    to: Switch,
    /// Also when calls that were made in the last hour will be refused
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
    Status,
}

/// Name of the policy by which nothing is allowed.
const DEFAULT_DENY: &str = "default-deny";

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    match args.command {
        Command::Check(args) => check(*args, cx).await,
        Command::Suggest(args) => suggest(args, cx).await,
        Command::DefaultDeny(args) => default_deny(args, cx).await,
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

/// Calls of the last hour for whose target no policy allows anything yet: `caller -> service`.
async fn unallowed(cx: &Context) -> Result<Vec<String>, CliError> {
    let query = path(
        &["stats"],
        &[("window", Some("3600")), ("by", Some("source"))],
    );
    let report: StatsReport = cx.client.get(&query).await?;
    let mut left = Vec::new();
    for row in report.rows {
        let request = AuthzCheck {
            from: row.source.clone(),
            to: row.service.clone(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
            namespace: cx.settings.namespace().to_owned(),
            ..AuthzCheck::default()
        };
        let checked = cx
            .client
            .post::<_, AuthzReport>(&path(&["authz", "check"], &[]), &request)
            .await;
        let guarded = match checked {
            Ok(report) => {
                let mut all = report.trace.policies.iter();
                all.any(|policy| policy.action == "ALLOW" && !policy.dry_run)
            }
            // Who is gone will not call.
            Err(CliError::Problem(problem)) if problem.reason == Reason::NotFound => true,
            Err(error) => return Err(error),
        };
        if !guarded {
            let who = if row.source.is_empty() {
                "somebody outside the mesh"
            } else {
                &row.source
            };
            left.push(format!("{who} -> {}", row.service));
        }
    }
    left.sort();
    left.dedup();
    Ok(left)
}

async fn default_deny(args: DefaultDeny, cx: &Context) -> Result<Exit, CliError> {
    let root = ROOTS.first().copied().unwrap_or_default();
    let own = |who: Option<&str>| {
        path(
            &["resources", "AuthorizationPolicy", root, DEFAULT_DENY],
            &[("who", who)],
        )
    };
    match args.to {
        Switch::Status => {
            let list = path(
                &["resources", "AuthorizationPolicy"],
                &[("namespace", Some(root)), ("name", Some(DEFAULT_DENY))],
            );
            let found: Result<Vec<serde_json::Value>, CliError> = cx.client.get(&list).await;
            let on = match found {
                Ok(found) => !found.is_empty(),
                Err(CliError::Problem(problem)) if problem.reason == Reason::NotFound => false,
                Err(error) => return Err(error),
            };
            cx.out.data(if on { "on\n" } else { "off\n" })?;
            Ok(if on { Exit::Ok } else { Exit::Problem })
        }
        Switch::Off => {
            let report: ApplyReport = cx.client.delete(&own(Some(&settings::who()))).await?;
            cx.out.report(&report)?;
            Ok(super::apply::tell(cx, report.revision, &report.convergence))
        }
        Switch::On => {
            let left = unallowed(cx).await?;
            if !left.is_empty() && !args.force {
                for call in &left {
                    cx.out.note(call);
                }
                return Err(CliError::failed(format!(
                    "{} calls of the last hour would be refused: no policy allows them",
                    left.len()
                ))
                .hint("`meshctl authz suggest | meshctl apply -f -` allows what was seen; --force does it all the same"));
            }
            let text = serde_json::json!({
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "metadata": {"name": DEFAULT_DENY, "namespace": root},
                "spec": {},
            });
            let request = ApplyRequest {
                sources: vec![SourceText {
                    name: format!("authz {DEFAULT_DENY}"),
                    text: text.to_string(),
                }],
                namespace: root.to_owned(),
                dry_run: false,
                force: false,
                who: settings::who(),
            };
            let report: ApplyReport = cx.client.post(&path(&["resources"], &[]), &request).await?;
            cx.out.report(&report)?;
            Ok(super::apply::tell(cx, report.revision, &report.convergence))
        }
    }
}
