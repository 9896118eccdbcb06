//! The terminal of `top`: taken, given back however it ends, and fed with keys and figures.

use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;

use crate::api::Version;
use crate::api::stats::StatsReport;
use crate::cli::client::path;
use crate::cli::command::stats::{self, Query};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::logging;
use crate::rt;

use super::draw;
use super::state::{Effect, State};

/// The header changes rarely, so it is asked for rarely.
const HEADER: Duration = Duration::from_secs(5);

/// Gives the terminal back when it goes, also when something failed. A panic is taken care of by
/// the hook that `ratatui` sets.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn take() -> Result<Self, CliError> {
        let terminal = ratatui::try_init().map_err(CliError::Terminal)?;
        Ok(Self { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // When the terminal is gone there is nothing to restore.
        let _restored = ratatui::try_restore().is_ok();
    }
}

/// Shows figures until a key or a signal ends it.
pub(super) async fn run(cx: &Context, query: Query, interval: Duration) -> Result<(), CliError> {
    let mut state = State::new(&cx.settings.meant.name, query.window, interval);
    // The first answer comes before the screen is taken: a control plane that is not there is an
    // error in words rather than an empty screen.
    state.update(stats::fetch(cx, &query).await?);
    let end = logging::asked_to_end();
    tokio::pin!(end);
    let mut screen = Screen::take()?;
    let colours = cx.settings.colour_out;
    let mut keys = EventStream::new();
    let mut look = rt::now();
    let mut header_due = rt::now();
    loop {
        screen
            .terminal
            .draw(|frame| draw::draw(frame, &mut state, colours))
            .map_err(CliError::Terminal)?;
        let ask = async {
            tokio::time::sleep_until(look).await;
            let header = if rt::now() >= header_due {
                Some(header(cx).await)
            } else {
                None
            };
            (stats::fetch(cx, &query).await, header)
        };
        tokio::select! {
            () = &mut end => return Ok(()),
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    if state.key(key) == Effect::Quit {
                        return Ok(());
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(CliError::Terminal(error)),
                None => return Ok(()),
            },
            (report, header) = ask => {
                look = rt::now() + state.interval;
                take(&mut state, report);
                if let Some((server, proxies)) = header {
                    header_due = rt::now() + HEADER;
                    state.server = server.or(state.server);
                    state.proxies = proxies.or(state.proxies);
                }
            }
        }
    }
}

/// A control plane that goes away leaves the last figures and a word about it.
fn take(state: &mut State, report: Result<StatsReport, CliError>) {
    match report {
        Ok(report) => state.update(report),
        Err(CliError::Unreachable { .. }) => {
            state.trouble = Some("the control plane does not answer; trying again".to_owned());
        }
        Err(error) => state.trouble = Some(error.to_string()),
    }
}

async fn header(cx: &Context) -> (Option<Version>, Option<usize>) {
    let version = path(&["version"], &[]);
    let proxies = path(&["proxies"], &[]);
    let (version, proxies) = tokio::join!(
        cx.client.get::<Version>(&version),
        cx.client.get::<Vec<serde_json::Value>>(&proxies)
    );
    (version.ok(), proxies.ok().map(|rows| rows.len()))
}
