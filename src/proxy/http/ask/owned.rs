//! A copy of a request's head, for the time that somebody is asked about it.

use super::super::super::buffer::take_text;
use super::super::fields::{Fields, scan};
use super::super::plan::{Ask, Plan, Seen, plan};
use super::super::respond::Failure;
use super::super::{Framing, Version};
use super::change::{Bad, Changes};
use super::{Around, Leave};

/// A head. What its tokens change is changed.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    method: Vec<u8>,
    target: Vec<u8>,
    authority: Option<Vec<u8>>,
    version: Version,
    fields: Vec<(String, Vec<u8>)>,
    framing: Framing,
    upgrade: Option<Vec<u8>>,
    /// The path that it had, where routes go by that.
    path: Vec<u8>,
}

impl Owned {
    pub(super) fn of(seen: &Seen<'_>) -> Self {
        let ask = seen.ask;
        let mut fields = Vec::new();
        let hides = |name: &[u8]| seen.told.is_some_and(|told| told.hides(name));
        ask.fields.each(|name, value| {
            if !hides(name) {
                let name = String::from_utf8_lossy(name).into_owned();
                fields.push((name, value.to_vec()));
            }
        });
        for (name, value) in seen.told.iter().flat_map(|told| &told.added) {
            fields.push(((*name).to_owned(), value.as_bytes().to_vec()));
        }
        Self {
            method: ask.method.to_vec(),
            target: ask.target.to_vec(),
            authority: ask.authority.map(<[u8]>::to_vec),
            version: ask.version,
            fields,
            framing: ask.framing,
            upgrade: ask.upgrade.map(<[u8]>::to_vec),
            path: Vec::new(),
        }
    }

    /// A copy, for routes to go by.
    pub(super) fn at(&self, path: Vec<u8>) -> Self {
        Self {
            path,
            ..self.clone()
        }
    }

    /// Takes the wish out to be told that the body may come. Whether it was there.
    pub(super) fn take_expect(&mut self) -> bool {
        let before = self.fields.len();
        self.fields
            .retain(|(name, _)| !name.eq_ignore_ascii_case("expect"));
        self.fields.len() != before
    }

    pub(super) fn change(&mut self, changes: &Changes, path: &mut Vec<u8>) -> Result<(), Bad> {
        changes.apply(&mut self.fields, path)
    }

    fn headers(&self) -> Vec<httparse::Header<'_>> {
        let fields = self.fields.iter();
        fields
            .map(|(name, value)| httparse::Header { name, value })
            .collect()
    }

    /// `then` of this head in the place of `ask`'s, and its path.
    pub(super) fn with<T>(
        &self,
        ask: &Ask<'_>,
        then: impl FnOnce(&Ask<'_>, &[u8]) -> Option<T>,
    ) -> Option<T> {
        let headers = self.headers();
        let fields = Fields::Text(&headers);
        // It was read before.
        let scan = scan(fields).ok()?;
        let ask = Ask {
            method: &self.method,
            target: &self.target,
            authority: self.authority.as_deref(),
            fields,
            scan: &scan,
            upgrade: self.upgrade.as_deref(),
            ..*ask
        };
        then(&ask, &self.path)
    }

    /// Plans it anew, with `leave`.
    pub(super) fn plan(&self, around: &Around<'_>, leave: &Leave) -> Result<Plan, Failure> {
        let headers = self.headers();
        let fields = Fields::Text(&headers);
        let scan = scan(fields).map_err(|bad| Failure::Malformed(bad.details()))?;
        let ask = Ask {
            method: &self.method,
            target: &self.target,
            authority: self.authority.as_deref(),
            version: self.version,
            fields,
            scan: &scan,
            framing: self.framing,
            upgrade: self.upgrade.as_deref(),
            leave: Some(leave),
        };
        let (worker, live) = (around.worker, around.live);
        plan(worker, live, around.conn, around.routes, &ask, take_text())
    }
}
