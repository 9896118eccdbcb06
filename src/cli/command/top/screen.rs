//! The terminal of `top`: taken, given back however it ends, and fed with keys and figures.

use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use ratatui::DefaultTerminal;
use tokio::time::Instant;

use crate::api::Version;
use crate::api::stats::StatsReport;
use crate::api::tap::Call;
use crate::cli::client::path;
use crate::cli::command::stats::{self, Query};
use crate::cli::command::tap::read_call;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::logging;
use crate::rt;

use super::state::{Around, Effect, Level, State};
use super::{draw, tapped};

/// The header changes rarely, so it is asked for rarely.
const HEADER: Duration = Duration::from_secs(5);
/// How long until a tap that ended is opened again.
const AGAIN: Duration = Duration::from_secs(2);
/// Time between two frames at least, where only calls come.
const FRAME: Duration = Duration::from_millis(50);
/// Calls between two frames at most.
const BATCH: usize = 256;

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
pub(super) async fn run(
    cx: &Context,
    (query, level): (Query, Level),
    interval: Duration,
) -> Result<(), CliError> {
    let mut state = State::new(&cx.settings.meant.name, query.window, interval);
    // The first answer comes before the screen is taken: a control plane that is not there is an
    // error in words rather than an empty screen.
    state.update(stats::fetch(cx, &query).await?);
    state.begin(level);
    let end = logging::asked_to_end();
    tokio::pin!(end);
    let mut screen = Screen::take()?;
    let colours = cx.settings.colour_out;
    let mut keys = EventStream::new();
    let mut look = rt::now();
    let mut header_due = rt::now();
    let mut listening = Listening::new(cx);
    let mut drawn: Option<Instant> = None;
    let mut hurry = true;
    loop {
        // However many calls come; the next look draws in any case.
        if hurry || drawn.is_none_or(|drawn| drawn.elapsed() >= FRAME) {
            screen
                .terminal
                .draw(|frame| draw::draw(frame, &mut state, colours))
                .map_err(CliError::Terminal)?;
            drawn = Some(rt::now());
        }
        hurry = true;
        let asked = state.asked(&query);
        let wanted = state.tapped();
        let ask = async {
            tokio::time::sleep_until(look).await;
            let header = if rt::now() >= header_due {
                Some(header(cx).await)
            } else {
                None
            };
            let report = match &asked {
                Some(asked) => Some(stats::fetch(cx, asked).await),
                None => None,
            };
            (report, header)
        };
        tokio::select! {
            () = &mut end => return Ok(()),
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    match state.key(key) {
                        Effect::Quit => return Ok(()),
                        Effect::Ask => look = rt::now(),
                        Effect::Redraw => {}
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(CliError::Terminal(error)),
                None => return Ok(()),
            },
            calls = listening.calls(wanted) => match calls {
                Ok(calls) => {
                    for call in calls {
                        state.call(call);
                    }
                    hurry = false;
                }
                Err(error) => state.trouble = Some(words(&error)),
            },
            (report, header) = ask => {
                look = rt::now() + state.interval;
                if let Some(report) = report {
                    take(&mut state, report);
                }
                if let Some((server, proxies)) = header {
                    header_due = rt::now() + HEADER;
                    state.server = server.or(state.server);
                    state.proxies = proxies.or(state.proxies);
                }
            }
        }
    }
}

type Opened = BoxStream<'static, Result<Vec<u8>, CliError>>;

/// The tap of what is looked at.
struct Listening<'c> {
    cx: &'c Context,
    of: Around,
    /// Goes on though something else is looked at meanwhile: it may take longer than an interval.
    opening: Option<BoxFuture<'c, Result<Opened, CliError>>>,
    open: Option<Opened>,
    again: Option<Instant>,
}

impl<'c> Listening<'c> {
    fn new(cx: &'c Context) -> Self {
        Self {
            cx,
            of: Around::default(),
            opening: None,
            open: None,
            again: None,
        }
    }

    fn close(&mut self) {
        (self.opening, self.open, self.again) = (None, None, None);
    }

    /// The calls that came meanwhile; never any where none are `wanted`.
    async fn calls(&mut self, wanted: Option<Around>) -> Result<Vec<Call>, CliError> {
        let Some(wanted) = wanted else {
            self.close();
            return std::future::pending().await;
        };
        if self.of != wanted {
            self.close();
            self.of = wanted;
        }
        if self.open.is_none() {
            if let (None, Some(again)) = (&self.opening, self.again) {
                tokio::time::sleep_until(again).await;
            }
            let (cx, of) = (self.cx, self.of.clone());
            let opening = self.opening.get_or_insert_with(|| {
                Box::pin(async move {
                    let asked = tapped(of.0);
                    cx.client.lines(&asked.path(cx), asked.role()).await
                })
            });
            let opened = opening.await;
            self.opening = None;
            self.again = Some(rt::now() + AGAIN);
            self.open = Some(opened?);
        }
        let Some(lines) = &mut self.open else {
            return Ok(Vec::new());
        };
        let Some(first) = lines.next().await else {
            self.open = None;
            return Ok(Vec::new());
        };
        // Drawn at most so often, however many there are.
        let mut read = vec![first];
        while let Some(Some(line)) = lines.next().now_or_never() {
            read.push(line);
            if read.len() >= BATCH {
                break;
            }
        }
        let mut calls = Vec::new();
        for line in read {
            match line {
                Ok(line) if line.is_empty() => {}
                Ok(line) => calls.push(read_call(&line)?),
                Err(error) => {
                    self.open = None;
                    return Err(error);
                }
            }
        }
        Ok(calls)
    }
}

/// A control plane that goes away leaves the last figures and a word about it.
fn take(state: &mut State, report: Result<StatsReport, CliError>) {
    match report {
        Ok(report) => state.update(report),
        Err(error) => state.trouble = Some(words(&error)),
    }
}

fn words(error: &CliError) -> String {
    match error {
        CliError::Unreachable { .. } => {
            "the control plane does not answer; trying again".to_owned()
        }
        error => error.to_string(),
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
