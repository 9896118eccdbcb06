//! What rules say of a connection or a request.
//!
//! Servers differ in how they read what is ambiguous: some take `/a;v=1` for `/a`, some look at the case
//! of paths, some take the first of two fields of one name. So a term is judged in every [`Reading`], and
//! what keeps somebody out holds when it does in one of them, what lets somebody in only when it does in all. A
//! negation turns that around.

use std::net::{IpAddr, SocketAddr};

use super::{Action, Rules, Term};
use crate::mesh::path::loosest;
use crate::mesh::route::matching::split_query;
use crate::mesh::route::router::without_port;
use crate::mesh::route::{HeaderMatch, Request, TextMatch};

/// What is judged.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// None for bytes.
    pub request: Option<&'a dyn Request>,
    /// The caller's proven identity.
    pub principal: Option<&'a str>,
    /// The address of whoever connected.
    pub direct: IpAddr,
    /// The address of whoever began, as trusted proxies tell it.
    pub remote: IpAddr,
    /// The address that the caller meant.
    pub local: SocketAddr,
    /// The TLS server name.
    pub server_name: Option<&'a str>,
    /// The path of the request as the most lenient server reads it, where that is another one
    /// ([`loosest`]).
    pub loose_path: Option<&'a [u8]>,
}

/// Which readings of something ambiguous count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It holds in one of them: for rules that keep out.
    Some,
    /// It holds in all of them: for rules that let in.
    All,
}

impl Reading {
    fn turned(self) -> Self {
        match self {
            Self::Some => Self::All,
            Self::All => Self::Some,
        }
    }

    /// For rules of an action.
    pub fn of(action: Action) -> Self {
        match action {
            Action::Allow => Self::All,
            Action::Deny | Action::Log => Self::Some,
        }
    }

    fn of_two(self, one: bool, other: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Some => one || other(),
            Self::All => one && other(),
        }
    }
}

/// What follows from rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'r> {
    /// It passes.
    pub passes: bool,
    /// The policy that holds; the first by name.
    pub policy: Option<&'r str>,
}

impl Rules {
    /// What these say of `facts`, one policy after the other.
    pub fn judge(&self, facts: &Facts<'_>) -> Verdict<'_> {
        let reading = Reading::of(self.action);
        let found = self
            .policies
            .iter()
            .find(|(_, entry)| entry.holds(facts, reading));
        self.verdict(found.map(|(name, _)| name.as_str()))
    }

    /// What follows when this is the first policy that holds.
    pub fn verdict<'r>(&self, policy: Option<&'r str>) -> Verdict<'r> {
        let passes = match self.action {
            Action::Allow => policy.is_some(),
            Action::Deny => policy.is_none(),
            Action::Log => true,
        };
        Verdict { passes, policy }
    }
}

impl super::Entry {
    /// Whether it holds.
    pub fn holds(&self, facts: &Facts<'_>, reading: Reading) -> bool {
        let one = |terms: &[Term]| terms.iter().any(|term| holds(term, facts, reading));
        one(&self.principals) && one(&self.permissions)
    }
}

/// Whether a term holds.
pub fn holds(term: &Term, facts: &Facts<'_>, reading: Reading) -> bool {
    match term {
        Term::Any => true,
        Term::All(terms) => terms.iter().all(|term| holds(term, facts, reading)),
        Term::OneOf(terms) => terms.iter().any(|term| holds(term, facts, reading)),
        Term::Not(term) => !holds(term, facts, reading.turned()),
        Term::Header(of) => facts
            .request
            .is_some_and(|request| header(of, request, reading)),
        Term::Host(value) => facts.request.is_some_and(|request| host(value, request)),
        Term::Path(value) => path(facts, reading, &|path, any_case, loosely| {
            text(value, path, any_case) || (loosely && loose(value, path, any_case))
        }),
        Term::Template(template) => path(facts, reading, &|path, any_case, _| {
            template.matches(path, any_case)
        }),
        Term::Claim(of) => facts
            .request
            .is_some_and(|request| of.holds(request.claims())),
        Term::To(net) => net.contains(&facts.local.ip().to_canonical()),
        Term::ToPorts(first, last) => (*first..=*last).contains(&facts.local.port()),
        Term::ServerName(value) => value.holds(facts.server_name.unwrap_or_default().as_bytes()),
        Term::Caller(value) => facts
            .principal
            .is_some_and(|principal| value.holds(principal.as_bytes())),
        Term::From(net) => net.contains(&facts.direct.to_canonical()),
        Term::Behind(net) => net.contains(&facts.remote.to_canonical()),
    }
}

/// Servers may take two fields for their first, their last, or one with a comma.
fn header(of: &HeaderMatch, request: &dyn Request, reading: Reading) -> bool {
    if of.name == ":method" {
        // Servers there are that know no case of methods.
        let method = request.method();
        let upper = || of.value.holds(&method.to_ascii_uppercase()) != of.invert;
        return reading.of_two(of.value.holds(method) != of.invert, upper);
    }
    let (mut count, mut some, mut all) = (0, false, true);
    if !of.name.starts_with(':') && of.name != "host" {
        request.header(&of.name, &mut |value| {
            count += 1;
            let held = of.value.holds(value) != of.invert;
            (some, all) = (some || held, all && held);
            true
        });
    }
    match reading {
        _ if count < 2 => of.holds(request),
        Reading::Some => some || of.holds(request),
        Reading::All => all,
    }
}

fn host(value: &TextMatch, request: &dyn Request) -> bool {
    let authority = request.authority();
    text(value, authority, true) || text(value, without_port(authority), true)
}

/// Whether `value` holds for `of`, perhaps whatever the case.
fn text(value: &TextMatch, of: &[u8], any_case: bool) -> bool {
    if !any_case {
        return value.holds(of);
    }
    match value {
        TextMatch::Exact(exact) => of.eq_ignore_ascii_case(exact.as_bytes()),
        TextMatch::Prefix(prefix) => of
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes())),
        TextMatch::Suffix(suffix) => of
            .len()
            .checked_sub(suffix.len())
            .and_then(|at| of.get(at..))
            .is_some_and(|end| end.eq_ignore_ascii_case(suffix.as_bytes())),
        // A pattern says itself what it makes of case.
        TextMatch::Regex(_) => value.holds(of) || value.holds(&of.to_ascii_lowercase()),
        TextMatch::Present => true,
    }
}

/// Whether `value`, read as leniently as `path`, holds for it: `/a%20b` is meant by `/a%20b`.
fn loose(value: &TextMatch, path: &[u8], any_case: bool) -> bool {
    let read = |text: &String| {
        let bytes = loosest(text.as_bytes())?;
        String::from_utf8(bytes).ok()
    };
    let value = match value {
        TextMatch::Exact(exact) => read(exact).map(TextMatch::Exact),
        TextMatch::Prefix(prefix) => read(prefix).map(TextMatch::Prefix),
        TextMatch::Suffix(suffix) => read(suffix).map(TextMatch::Suffix),
        TextMatch::Regex(_) | TextMatch::Present => None,
    };
    value.is_some_and(|value| text(&value, path, any_case))
}

fn path(facts: &Facts<'_>, reading: Reading, fits: &dyn Fn(&[u8], bool, bool) -> bool) -> bool {
    let Some(request) = facts.request else {
        return false;
    };
    // What keeps out does so whatever the case; what lets in is about what was written.
    let any_case = reading == Reading::Some;
    let (path, _) = split_query(request.path_and_query());
    let held = fits(path, any_case, false);
    match facts.loose_path {
        None => held,
        Some(other) => reading.of_two(held, || fits(other, any_case, true)),
    }
}
