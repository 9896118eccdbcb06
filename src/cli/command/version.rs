//! `version`: of this program and of the control plane.

use serde::Serialize;

use crate::api::Version;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::render::{Page, Render, number};

/// Print the versions of this program and of the control plane
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl version
  meshctl version --client -q                 only of this program
  meshctl version -o json | jq -r .controlPlane.tlsAddress

Exits 4 when no control plane answers, after printing its own version.")]
pub(crate) struct Args {
    /// Only of this program; asks nobody
    #[arg(long)]
    client: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    client: Client,
    #[serde(skip_serializing_if = "Option::is_none")]
    control_plane: Option<Version>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Client {
    version: &'static str,
}

impl Render for Report {
    fn text(&self, page: &Page) -> String {
        let mut text = format!("Client         {}\n", self.client.version);
        if let Some(server) = &self.control_plane {
            text.push_str(&format!(
                "Control plane  {}\n\
                 \x20 process      {}, up for {}\n\
                 \x20 revision     {}\n\
                 \x20 trust domain {}\n\
                 \x20 xDS          {}\n\
                 \x20 xDS and CA   {} (TLS)\n",
                server.version,
                server.pid,
                number::age(server.started_unix_ms, page.now_unix_ms),
                server.revision,
                server.trust_domain,
                server.xds_address,
                server.tls_address,
            ));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        vec![self.client.version.to_owned()]
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let mut report = Report {
        client: Client {
            version: env!("CARGO_PKG_VERSION"),
        },
        control_plane: None,
    };
    if args.client {
        cx.out.report(&report)?;
        return Ok(Exit::Ok);
    }
    match cx.client.get::<Version>(&path(&["version"], &[])).await {
        Ok(version) => {
            let same = version.version == report.client.version;
            report.control_plane = Some(version);
            cx.out.report(&report)?;
            if !same {
                cx.out
                    .warn("client and control plane have different versions");
            }
            Ok(Exit::Ok)
        }
        // One's own version is known whatever the other side says.
        Err(error) => {
            cx.out.report(&report)?;
            Err(error)
        }
    }
}
