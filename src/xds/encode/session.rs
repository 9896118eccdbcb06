//! Sessions, in a chain and of routes.

use super::super::pb::{
    Any, any, core, duration, http_cookie, session, session_cookie, session_header,
};
use crate::mesh::session::{SessionBy, SessionCookie, StatefulSession};

/// For a chain.
pub(super) fn encode(from: &StatefulSession) -> Any {
    any(&message(from))
}

/// For a route.
pub(super) fn of_route(from: &StatefulSession) -> Any {
    use session::stateful_session_per_route::Override;
    any(&session::StatefulSessionPerRoute {
        r#override: Some(match from.by {
            None => Override::Disabled(true),
            Some(_) => Override::StatefulSession(message(from)),
        }),
    })
}

fn message(from: &StatefulSession) -> session::StatefulSession {
    let status = from.gone_status;
    let usual = !from.strict || status == StatefulSession::UNAVAILABLE;
    session::StatefulSession {
        session_state: from.by.as_ref().map(state),
        strict: from.strict,
        status_on_strict_destination_not_found: if usual { 0 } else { status.into() },
        ..Default::default()
    }
}

fn state(from: &SessionBy) -> core::TypedExtensionConfig {
    let (name, config) = match from {
        SessionBy::Cookie(SessionCookie {
            name,
            ttl,
            path,
            attributes,
        }) => {
            let attributes = attributes
                .iter()
                .map(|(name, value)| http_cookie::CookieAttribute {
                    name: name.clone(),
                    value: value.clone(),
                });
            let cookie = http_cookie::Cookie {
                name: name.clone(),
                ttl: (!ttl.is_zero()).then(|| duration(*ttl)).flatten(),
                path: path.clone(),
                attributes: attributes.collect(),
            };
            let state = session_cookie::CookieBasedSessionState {
                cookie: Some(cookie),
            };
            ("envoy.http.stateful_session.cookie", any(&state))
        }
        SessionBy::Header(name) => {
            let state = session_header::HeaderBasedSessionState { name: name.clone() };
            ("envoy.http.stateful_session.header", any(&state))
        }
    };
    core::TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(config),
    }
}
