//! What the long-running commands log, and where.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::context::Context;

/// Starts logging to standard error for a command that serves. `RUST_LOG` wins over `-v`, which
/// wins over `level`.
pub(crate) fn start(cx: &Context, level: &str) {
    let settings = &cx.settings;
    let level = match (settings.quiet, settings.verbose) {
        (true, _) => "error",
        (false, 0) => level,
        (false, 1) => "meshctl=debug,info",
        (false, _) => "trace",
    };
    let filter = settings
        .environment
        .rust_log
        .as_deref()
        .and_then(|wanted| EnvFilter::try_new(wanted).ok())
        .unwrap_or_else(|| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(settings.colour_err)
        .with_target(false)
        .with_writer(std::io::stderr);
    // It fails only when logging has been started already, which is as good.
    let _started = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .is_ok();
}

/// Resolves when the process is asked to end (SIGINT, SIGTERM, SIGHUP).
pub(crate) async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            // Without a handler the signal ends us anyway.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}
