//! What the long-running commands log, and where.

use std::future::Future;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::context::Context;

/// Libraries whose log we say in our own words.
const SAID_HERE: &str = "kube_client=off,kube_runtime=off";

/// Starts logging to standard error for a command that serves. `RUST_LOG` wins over `-v`, which
/// wins over `level`.
pub(crate) fn start(cx: &Context, level: &str) {
    let settings = &cx.settings;
    // kube reports each attempt as an error; its source here says what matters of them, once.
    let level = match (settings.quiet, settings.verbose) {
        (true, _) => format!("error,{SAID_HERE}"),
        (false, 0) => format!("{level},{SAID_HERE}"),
        (false, 1) => format!("meshctl=debug,info,{SAID_HERE}"),
        (false, _) => "trace".to_owned(),
    };
    let filter = settings
        .environment
        .rust_log
        .as_deref()
        .and_then(|wanted| wanted.parse::<Targets>().ok())
        .or_else(|| level.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
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

/// Resolves when the process is asked to end (SIGINT, SIGTERM, SIGHUP). Listens from the call on,
/// not from the first poll: whoever holds a terminal or processes must not be killed in between.
pub(crate) fn asked_to_end() -> impl Future<Output = ()> {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    // One that cannot be listened for ends us anyway.
    let mut signals: Vec<Signal> = kinds
        .into_iter()
        .filter_map(|kind| signal(kind).ok())
        .collect();
    std::future::poll_fn(move |cx| {
        if signals
            .iter_mut()
            .any(|signal| signal.poll_recv(cx).is_ready())
        {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
}
