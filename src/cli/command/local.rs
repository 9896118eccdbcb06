//! The one place that calls the layer that runs pods: `up`, `down`, `ps`, `logs` and the hidden
//! commands go through here.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use crate::api::local::{LocalStatus, LogLine, LogsQuery};
use crate::cli::context::Context;
use crate::cli::error::CliError;

/// How a `down` ended.
#[expect(dead_code, reason = "made once the layer below is called here")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Down {
    /// The supervisor ended everything.
    Stopped,
    /// The supervisor was gone; what it had left was cleaned up.
    CleanedUp,
    /// There was nothing.
    NothingUp,
}

/// Runs what `up` starts us again for (`sample-app`, `pod-exec`, `pod-guard`); `args` are without
/// the program. Before anything is parsed and any thread started.
pub(crate) fn hidden(args: &[OsString]) -> Option<ExitCode> {
    let _ = args;
    None
}

/// What is up.
#[expect(
    clippy::unused_async,
    reason = "awaits once the layer below is called here"
)]
pub(crate) async fn status(cx: &Context) -> Result<LocalStatus, CliError> {
    let _ = cx;
    Err(CliError::NotBuilt("running pods"))
}

/// Gives each log line to `each` until there are no more or `each` says false.
#[expect(
    clippy::unused_async,
    reason = "awaits once the layer below is called here"
)]
pub(crate) async fn logs(
    cx: &Context,
    query: LogsQuery,
    each: impl FnMut(LogLine) -> bool,
) -> Result<(), CliError> {
    let _ = (cx, query, each);
    Err(CliError::NotBuilt("running pods"))
}

/// Ends what is up.
#[expect(
    clippy::unused_async,
    reason = "awaits once the layer below is called here"
)]
pub(crate) async fn down(cx: &Context, deadline: Duration) -> Result<Down, CliError> {
    let _ = (cx, deadline);
    Err(CliError::NotBuilt("running pods"))
}

/// Runs `args.file` until told to end, or hands over to a supervisor in the background.
#[expect(
    clippy::unused_async,
    reason = "awaits once the layer below is called here"
)]
pub(crate) async fn up(args: super::up::Args, cx: &Context) -> Result<(), CliError> {
    let _ = (args, cx);
    Err(CliError::NotBuilt("running pods"))
}
