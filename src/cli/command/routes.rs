//! `routes`: the effective route table, and why a request goes where it goes.

use crate::api::routes::{ExplainReport, ExplainRequest, RouteReport};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

/// Show where requests go, with shares; --explain says why
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl routes
  meshctl routes reviews --from productpage-v1
  meshctl routes --gateway edge
  meshctl routes --explain GET http://reviews:9080/reviews/1 \\
      -H 'end-user: jason'
  meshctl routes --explain GET https://shop.example.com/ --gateway edge")]
pub(crate) struct Args {
    /// NAME or NAME.NAMESPACE of the service that is called; all without it
    #[arg(value_name = "SERVICE", conflicts_with = "explain")]
    service: Option<String>,
    /// The workload that calls, as its routes may differ: NAME or NAME.NAMESPACE
    #[arg(long, value_name = "WORKLOAD")]
    from: Option<String>,
    /// What a gateway does with requests from outside: the proxy or the Gateway, NAME or
    /// NAME.NAMESPACE
    #[arg(
        long,
        value_name = "GATEWAY",
        conflicts_with_all = ["from", "service"]
    )]
    gateway: Option<String>,
    /// Walk the routes with this request and show each condition
    #[arg(long, num_args = 2, value_names = ["METHOD", "URL"])]
    explain: Option<Vec<String>>,
    /// A header of the request to explain; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse::header, requires = "explain")]
    header: Vec<(String, String)>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if let Some([method, url]) = args.explain.as_deref() {
        let request = ExplainRequest {
            method: method.to_ascii_uppercase(),
            url: absolute(url)?,
            headers: args.header,
            from: args.from.unwrap_or_default(),
            gateway: args.gateway.unwrap_or_default(),
            namespace: cx.settings.namespace().to_owned(),
        };
        let report: ExplainReport = cx
            .client
            .post(&path(&["routes", "explain"], &[]), &request)
            .await?;
        cx.out.report(&report)?;
        return Ok(Exit::Ok);
    }
    if let Some(gateway) = &args.gateway {
        let query = path(
            &["routes"],
            &[
                ("gateway", Some(gateway.as_str())),
                ("namespace", Some(cx.settings.namespace())),
            ],
        );
        let routes: Vec<RouteReport> = cx.client.get(&query).await?;
        cx.out.report(&routes)?;
        return Ok(Exit::Ok);
    }
    let named = args
        .service
        .map(|service| parse::qualified(&service, cx.settings.namespace()));
    let (service, namespace) = match &named {
        Some((service, namespace)) => (Some(service.as_str()), Some(namespace.as_str())),
        None => (None, cx.only_namespace()),
    };
    let query = path(
        &["routes"],
        &[
            ("service", service),
            ("namespace", namespace),
            ("from", args.from.as_deref()),
        ],
    );
    let routes: Vec<RouteReport> = cx.client.get(&query).await?;
    cx.out.report(&routes)?;
    Ok(Exit::Ok)
}

const EXAMPLE: &str = "such as http://reviews:9080/reviews/1";

/// `reviews:9080/x` means `http://reviews:9080/x`, as with curl.
fn absolute(url: &str) -> Result<String, CliError> {
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let parsed: http::Uri = url
        .parse()
        .map_err(|error| CliError::usage(format!("{url:?} is not a URL: {error}")).hint(EXAMPLE))?;
    if parsed.host().is_none_or(str::is_empty) {
        return Err(CliError::usage(format!("{url:?} names no host")).hint(EXAMPLE));
    }
    Ok(url)
}
