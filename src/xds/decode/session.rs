//! Sessions, in a chain and of routes.

use super::super::pb::{
    Any, core, http_cookie, is, session, session_cookie, session_header, to_duration,
};
use super::fields::Fields;
use super::{Fault, unpack};
use crate::mesh::session::{SessionBy, SessionCookie, StatefulSession, is_name};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&SESSION, &ROUTE, &COOKIE_STATE, &COOKIE, &HEADER_STATE];

const SESSION: Fields = Fields {
    message: "StatefulSession",
    understood: &[
        (1, "session_state"),
        (2, "strict"),
        (4, "status_on_strict_destination_not_found"),
    ],
    // It only counts.
    tuning: &[(3, "stat_prefix")],
    refused: &[],
};
const ROUTE: Fields = Fields {
    message: "StatefulSessionPerRoute",
    understood: &[(1, "disabled"), (2, "stateful_session")],
    tuning: &[],
    refused: &[],
};
const COOKIE_STATE: Fields = Fields {
    message: "CookieBasedSessionState",
    understood: &[(1, "cookie")],
    tuning: &[],
    refused: &[],
};
const COOKIE: Fields = Fields {
    message: "Cookie",
    understood: &[(1, "name"), (2, "ttl"), (3, "path"), (4, "attributes")],
    tuning: &[],
    refused: &[],
};
const HEADER_STATE: Fields = Fields {
    message: "HeaderBasedSessionState",
    understood: &[(1, "name")],
    tuning: &[],
    refused: &[],
};

/// Of a chain.
pub(super) fn decode(
    from: &session::StatefulSession,
    ignored: &mut Vec<String>,
) -> Result<StatefulSession, Fault> {
    SESSION.audit(from, ignored)?;
    let by = from.session_state.as_ref();
    let by = by.map(|state| told_by(state, ignored)).transpose()?;
    let gone_status = match u16::try_from(from.status_on_strict_destination_not_found) {
        _ if !from.strict || by.is_none() => StatefulSession::UNAVAILABLE,
        Ok(0) => StatefulSession::UNAVAILABLE,
        Ok(status) if (200..600).contains(&status) => status,
        _ => {
            let status = from.status_on_strict_destination_not_found;
            return Err(Fault::Invalid(format!("{status} is not an HTTP status")));
        }
    };
    Ok(StatefulSession {
        strict: from.strict && by.is_some(),
        by,
        gone_status,
    })
}

/// Of a route.
pub(super) fn of_route(
    from: &session::StatefulSessionPerRoute,
    ignored: &mut Vec<String>,
) -> Result<StatefulSession, Fault> {
    use session::stateful_session_per_route::Override;
    ROUTE.audit(from, ignored)?;
    match &from.r#override {
        // Envoy takes a false one for true as well.
        Some(Override::Disabled(_)) => Ok(StatefulSession::default()),
        Some(Override::StatefulSession(session)) => decode(session, ignored),
        None => Err(Fault::Invalid(
            "StatefulSessionPerRoute has neither disabled nor stateful_session".to_owned(),
        )),
    }
}

fn told_by(
    from: &core::TypedExtensionConfig,
    ignored: &mut Vec<String>,
) -> Result<SessionBy, Fault> {
    let none = Any::default();
    let config = from.typed_config.as_ref().unwrap_or(&none);
    if is::<session_cookie::CookieBasedSessionState>(config) {
        let state: session_cookie::CookieBasedSessionState = unpack(config)?;
        COOKIE_STATE.audit(&state, ignored)?;
        return cookie(&state.cookie.unwrap_or_default(), ignored).map(SessionBy::Cookie);
    }
    if is::<session_header::HeaderBasedSessionState>(config) {
        let state: session_header::HeaderBasedSessionState = unpack(config)?;
        HEADER_STATE.audit(&state, ignored)?;
        let name = state.name.to_ascii_lowercase();
        if !is_name(&name) {
            let message =
                format!("{name:?} is no name of a header, by which a session could be told");
            return Err(Fault::Invalid(message));
        }
        return Ok(SessionBy::Header(name));
    }
    Err(Fault::Unsupported {
        message: "StatefulSession",
        field: format!("session_state {:?}", from.name),
    })
}

fn cookie(from: &http_cookie::Cookie, ignored: &mut Vec<String>) -> Result<SessionCookie, Fault> {
    COOKIE.audit(from, ignored)?;
    if !is_name(&from.name) {
        let name = &from.name;
        let message = format!("{name:?} is no name of a cookie, by which a session could be told");
        return Err(Fault::Invalid(message));
    }
    let ttl = match &from.ttl {
        None => std::time::Duration::ZERO,
        Some(ttl) => to_duration(ttl)
            .ok_or_else(|| Fault::Invalid("ttl is not a duration of at least zero".to_owned()))?,
    };
    let attributes = from.attributes.iter();
    Ok(SessionCookie {
        name: from.name.clone(),
        ttl,
        path: from.path.clone(),
        attributes: attributes
            .map(|attribute| (attribute.name.clone(), attribute.value.clone()))
            .collect(),
    })
}
