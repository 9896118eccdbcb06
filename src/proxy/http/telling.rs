//! What is noted of a call for logs while it passes; only where one tells of it.

use std::cell::RefCell;

use tokio::time::Instant;

use super::super::access_log::LogTable;
use super::fields::Fields;
use super::leg::Trailers;
use crate::rt;
use crate::telemetry::Link;

/// What logs tell of a call that is only known while it passes.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    names: Vec<String>,
    trailers: Vec<String>,
    noted: RefCell<Box<Noted>>,
}

/// What was noted of the last try.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// Fields of the answer.
    pub(crate) fields: Vec<(String, String)>,
    /// Fields behind it.
    pub(crate) trailers: Vec<(String, String)>,
    /// When all of the request had come.
    pub(crate) received: Option<Instant>,
    /// When there was a connection for it.
    pub(crate) connected: Option<Instant>,
    /// When all of it had gone.
    pub(crate) sent: Option<Instant>,
    /// What protects the connection.
    pub(crate) link: Option<Link>,
    /// What is spoken on it.
    pub(crate) protocol: &'static str,
}

impl Telling {
    pub(crate) fn new(table: &LogTable) -> Self {
        Self {
            names: table.response.clone(),
            trailers: table.trailers.clone(),
            noted: RefCell::default(),
        }
    }

    /// What was noted.
    #[expect(
        clippy::unnecessary_box_returns,
        reason = "it is in a box already, and stays in it"
    )]
    pub(crate) fn take(&self) -> Box<Noted> {
        self.noted.take()
    }

    /// Of a try that is passed on.
    pub(crate) fn note(&self, fields: Fields<'_>) {
        let found = self.names.iter().filter_map(|name| {
            let value = String::from_utf8_lossy(fields.first(name)?).into_owned();
            Some((name.clone(), value))
        });
        self.noted.borrow_mut().fields = found.collect();
    }

    /// There is a connection for a try.
    pub(crate) fn connected(&self, link: Link, protocol: &'static str) {
        let mut noted = self.noted.borrow_mut();
        noted.connected = Some(rt::now());
        (noted.link, noted.protocol) = (Some(link), protocol);
    }

    /// The request has gone, and so has come.
    pub(crate) fn sent(&self) {
        let mut noted = self.noted.borrow_mut();
        let now = rt::now();
        noted.sent = Some(now);
        noted.received.get_or_insert(now);
    }

    /// An answer has ended with `trailers`.
    pub(crate) fn ended(&self, trailers: Trailers<'_>) {
        if self.trailers.is_empty() {
            return;
        }
        let mut found = Vec::new();
        trailers.each(|name, value| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let name = text(name).to_ascii_lowercase();
            if self.trailers.contains(&name) {
                found.push((name, text(value)));
            }
        });
        self.noted.borrow_mut().trailers = found;
    }
}
