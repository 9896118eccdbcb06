//! Sessions in the tables of one proxy.

use std::sync::Arc;

use crate::mesh::Hostname;
use crate::mesh::filter::HttpFilter;
use crate::mesh::route::{Action, Forward, Route};
use crate::mesh::session::{SessionBy, StatefulSession};
use crate::mesh::world::Config;

/// Gives a route that has no sessions of its own those of the first of `services`, where it leads,
/// that has some.
pub(super) fn of_services<'h>(
    config: &Config,
    services: impl IntoIterator<Item = &'h Hostname>,
    forward: &mut Forward,
) {
    if session(forward).is_some() {
        return;
    }
    let mut services = services.into_iter();
    let found = services.find_map(|host| config.services.get(host)?.session.as_ref());
    if let Some(found) = found {
        HttpFilter::StatefulSession(Arc::clone(found)).put_into(&mut forward.filters);
    }
}

/// What a route says of sessions.
pub(super) fn session(forward: &Forward) -> Option<&Arc<StatefulSession>> {
    forward.filters.iter().find_map(|filter| match filter {
        HttpFilter::StatefulSession(session) => Some(session),
        _ => None,
    })
}

/// For a route where callers speak TLS: cookies are kept from connections without it.
pub(super) fn secure(route: &mut Route) {
    let Action::Forward(forward) = &mut route.action else {
        return;
    };
    let filters = forward.filters.iter_mut();
    let sessions = filters.filter_map(|filter| match filter {
        HttpFilter::StatefulSession(session) => Some(session),
        _ => None,
    });
    for session in sessions {
        if let Some(SessionBy::Cookie(cookie)) = &mut Arc::make_mut(session).by {
            cookie.attributes.push(("Secure".to_owned(), String::new()));
        }
    }
}
