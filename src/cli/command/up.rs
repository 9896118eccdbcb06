//! `up`: runs manifests as pods on this machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;

use super::proxy::LogForm;

/// Run manifests as pods on this machine, with sidecars
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl up -d examples/bookinfo
  meshctl up shop.yaml --isolation netns      as root: transparent capture

Isolation: process gives each pod a loopback address, netns (root) a network
namespace with transparent capture, auto takes netns where it works.

Containers run as processes: `command` says what, the image is not pulled.
Without root a pod finds its port in $PORT and its sidecar in $HTTP_PROXY.
`meshctl logs NAME -c proxy` shows the access log of a sidecar.
Ctrl-C (or `meshctl down` after -d) ends all of it and leaves nothing behind.")]
pub(crate) struct Args {
    /// Manifests: files or directories
    #[arg(value_name = "FILE", required = true)]
    pub(crate) file: Vec<PathBuf>,
    /// Also read the directories below a directory
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// How pods are kept apart
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub(crate) isolation: How,
    /// Return when all is ready, and go on in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// How sidecars log requests, for `meshctl logs -c proxy`
    #[arg(long, value_enum, default_value_t = LogForm::Text, value_name = "FORM")]
    pub(crate) access_log: LogForm,
    /// How long the pods may take to become ready
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse::duration)]
    pub(crate) timeout: Duration,
}

/// How pods are kept apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum How {
    // netns for root where it works, process for others
    #[default]
    Auto,
    // A loopback address each
    Process,
    // A network namespace each; needs root
    Netns,
}

impl How {
    /// As it is typed.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Process => "process",
            Self::Netns => "netns",
        }
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    super::local::up(args, cx).await?;
    Ok(Exit::Ok)
}
