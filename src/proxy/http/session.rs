//! Sessions: the endpoint that a caller was told, and telling it, as Envoy's stateful sessions do.
//!
//! What a caller says is only looked up among the endpoints that its route leads to: an address of
//! anything else is none. Of several clusters the one goes on that has the endpoint, whatever their
//! weights are now. A try after the first goes where it would go without a session, and the caller is
//! told where that was.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;

use crate::mesh::Health;
use crate::mesh::route::Request;
use crate::mesh::session::{SessionBy, SessionCookie, StatefulSession};

use super::super::context::Live;
use super::super::filter::Filters;
use super::super::health::flags::Why;
use super::super::tables::route::ForwardTable;
use super::super::tables::{EndpointEntry, EndpointSet};
use super::hash;

/// A longer text holds no address.
const LONGEST: usize = 256;

/// What Envoy writes into cookies (`source/extensions/http/stateful_session/cookie/cookie.proto`).
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Told {
    #[prost(string, tag = "1")]
    address: String,
    /// In seconds since 1970, so that all proxies mean the same; 0 is never.
    #[prost(uint64, tag = "2")]
    expires: u64,
}

/// The session of one request.
#[derive(Debug)]
pub(crate) struct Session {
    how: Arc<StatefulSession>,
    /// What the caller was told before, if that still holds.
    told: Option<SocketAddr>,
    /// The place of the endpoint in the request's cluster, where the session goes on.
    place: Option<usize>,
    /// In seconds since 1970.
    now: u64,
}

/// Where a session goes on: a place in the route's list, and its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lasting {
    pub(crate) target: usize,
    pub(crate) cluster: usize,
}

/// What became of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// There is none yet, or its endpoint is out and another may take over.
    New,
    /// It goes on.
    Lasts(Lasting),
    /// It may go on nowhere; the answer is of this status.
    Refused(u16),
}

/// How sessions are kept for requests of a route on a chain with `filters`.
pub(crate) fn kept<'t>(
    filters: Option<&'t Filters>,
    table: &'t ForwardTable,
) -> Option<&'t Arc<StatefulSession>> {
    let chain = filters?.session.as_ref()?;
    let how = table.session.as_ref().unwrap_or(chain);
    how.by.is_some().then_some(how)
}

impl Session {
    /// The session that `request` has or begins; none where its path has none. `now` is in
    /// milliseconds since 1970.
    pub(crate) fn of(
        how: &Arc<StatefulSession>,
        request: &dyn Request,
        now: impl FnOnce() -> u64,
    ) -> Option<Self> {
        let now = now() / 1000;
        let told = match how.by.as_ref()? {
            SessionBy::Cookie(cookie) => {
                if !cookie.is_for(request.path_and_query()) {
                    return None;
                }
                let name = cookie.name.as_bytes();
                hash::find_cookie(request, name, |value| from_cookie(value, now))
            }
            SessionBy::Header(name) => {
                let mut told = None;
                request.header(name, &mut |value| {
                    told = decoded(value).and_then(|text| address(&text));
                    false
                });
                told
            }
        };
        Some(Self {
            how: Arc::clone(how),
            told,
            place: None,
            now,
        })
    }

    /// Looks for the session's endpoint where the route leads.
    pub(crate) fn fate(&mut self, table: &ForwardTable, live: &Live) -> Fate {
        let Some(told) = self.told else {
            return Fate::New;
        };
        let mut there = false;
        for (target, index) in table.targets().enumerate() {
            let Some((cluster, found)) = index.zip(live.tables.cluster(index)) else {
                continue;
            };
            let set = &found.endpoints;
            let place = set.addresses.find(&set.entries, told);
            let Some((place, entry)) = place.and_then(|at| Some((at, set.entries.get(at)?))) else {
                continue;
            };
            if may_take(set, entry) {
                self.place = Some(place);
                return Fate::Lasts(Lasting { target, cluster });
            }
            there = true;
        }
        match (self.how.strict, there) {
            (false, _) => Fate::New,
            (true, true) => Fate::Refused(StatefulSession::UNAVAILABLE),
            (true, false) => Fate::Refused(self.how.gone_status),
        }
    }

    /// The endpoint where the session goes on.
    pub(crate) fn endpoint<'s>(&self, set: &'s EndpointSet) -> Option<&'s EndpointEntry> {
        set.entries.get(self.place?)
    }

    /// Whether the caller is to be told of `entry`.
    fn is_news(&self, entry: &EndpointEntry) -> bool {
        self.told != Some(entry.address)
    }

    /// Whether a field of the answer gives way to what the caller is told.
    pub(crate) fn replaces(&self, name: &[u8], entry: &EndpointEntry) -> bool {
        match &self.how.by {
            Some(SessionBy::Header(own)) => {
                name.eq_ignore_ascii_case(own.as_bytes()) && self.is_news(entry)
            }
            Some(SessionBy::Cookie(_)) | None => false,
        }
    }

    /// Says in an answer where the session is, if the caller does not know.
    pub(crate) fn tell(&self, entry: &EndpointEntry, put: impl FnOnce(&[u8], &[u8])) {
        if !self.is_news(entry) {
            return;
        }
        let address = entry.address.to_string();
        match &self.how.by {
            Some(SessionBy::Cookie(cookie)) => {
                put(
                    b"set-cookie",
                    to_cookie(cookie, address, self.now).as_bytes(),
                );
            }
            Some(SessionBy::Header(name)) => {
                put(name.as_bytes(), STANDARD.encode(address).as_bytes());
            }
            None => {}
        }
    }
}

/// Whether an endpoint is well enough for a session to go on there.
fn may_take(set: &EndpointSet, entry: &EndpointEntry) -> bool {
    let told = set.endpoint(entry).map_or(Health::Healthy, |it| it.health);
    let health = match told {
        _ if entry.state.health.is_out() => Health::Unhealthy,
        Health::Healthy if entry.state.health.holds(Why::Degraded) => Health::Degraded,
        told => told,
    };
    set.config.balancing.session_health.0.contains(&health)
}

fn decoded(value: &[u8]) -> Option<Vec<u8>> {
    (value.len() <= LONGEST).then(|| STANDARD.decode(value).ok())?
}

fn address(text: &[u8]) -> Option<SocketAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The address in a cookie: as a message with its end, or bare, as older Envoys write it.
fn from_cookie(value: &[u8], now: u64) -> Option<SocketAddr> {
    let bytes = decoded(value)?;
    if let Some(bare) = address(&bytes) {
        return Some(bare);
    }
    let told = Told::decode(&*bytes).ok()?;
    (told.expires == 0 || now <= told.expires).then(|| address(told.address.as_bytes()))?
}

fn to_cookie(cookie: &SessionCookie, address: String, now: u64) -> String {
    let lasts = cookie.ttl.as_secs();
    let told = Told {
        address,
        expires: if lasts == 0 {
            0
        } else {
            now.saturating_add(lasts)
        },
    };
    let value = STANDARD.encode(told.encode_to_vec());
    hash::set_cookie(
        (&cookie.name, &value),
        lasts,
        (&cookie.path, &cookie.attributes),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cookie(ttl: u64) -> SessionCookie {
        SessionCookie {
            name: "s".to_owned(),
            ttl: Duration::from_secs(ttl),
            path: "/cart".to_owned(),
            attributes: vec![("SameSite".to_owned(), "Strict".to_owned())],
        }
    }

    fn value(text: &str) -> &[u8] {
        let rest = text.strip_prefix("s=\"").unwrap();
        rest.split('"').next().unwrap().as_bytes()
    }

    #[test]
    fn a_cookie_is_written_as_envoy_writes_it() {
        let text = to_cookie(&cookie(0), "1.2.3.4:80".to_owned(), 1000);
        // Field 1, ten bytes long.
        assert_eq!(
            text,
            format!(
                "s=\"{}\"; Path=/cart; SameSite=Strict; HttpOnly",
                STANDARD.encode(b"\x0a\x0a1.2.3.4:80")
            )
        );
        let text = to_cookie(&cookie(60), "1.2.3.4:80".to_owned(), 1000);
        assert!(text.contains("; Max-Age=60; Path=/cart"), "{text}");
        // Field 2, 1060 as a varint.
        let expected = STANDARD.encode(b"\x0a\x0a1.2.3.4:80\x10\xa4\x08");
        assert_eq!(value(&text), expected.as_bytes());
    }

    #[test]
    fn a_cookie_is_read_until_it_ends_and_in_its_older_form() {
        let told = Some("1.2.3.4:80".parse().unwrap());
        let text = to_cookie(&cookie(60), "1.2.3.4:80".to_owned(), 1000);
        assert_eq!(from_cookie(value(&text), 1060), told);
        assert_eq!(from_cookie(value(&text), 1061), None);
        let text = to_cookie(&cookie(0), "1.2.3.4:80".to_owned(), 1000);
        assert_eq!(from_cookie(value(&text), u64::MAX), told);
        // The example of Envoy's documentation.
        assert_eq!(from_cookie(b"MS4yLjMuNDo4MA==", 0), told);
        let six = to_cookie(&cookie(0), "[::1]:80".to_owned(), 0);
        assert_eq!(
            from_cookie(value(&six), 0),
            Some("[::1]:80".parse().unwrap())
        );
    }

    #[test]
    fn garbage_is_no_session() {
        for text in [
            "",
            "x",
            "1.2.3.4:80",
            "MS4yLjMuNDo4MA=",
            "Z2FyYmFnZQ==",
            "CgA=",
            "////",
        ] {
            assert_eq!(from_cookie(text.as_bytes(), 0), None, "{text}");
        }
        let long = STANDARD.encode([b'1'; 400]);
        assert_eq!(from_cookie(long.as_bytes(), 0), None);
    }
}
