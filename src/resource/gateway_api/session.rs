//! `sessionPersistence` of a rule, as the API has it now (`cookie`, `header`) and as its releases until
//! 1.4 had it (`sessionName`, `cookieConfig`).

use std::time::Duration;

use super::reference::word;
use crate::resource::istio::header_name;
use crate::resource::reader::{Fields, Value};

/// How requests of one caller stay together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionPersistence {
    /// By a cookie.
    Cookie {
        /// One is made up without it.
        name: Option<String>,
        /// That of the route's condition without it.
        path: Option<String>,
        /// Of the session and of its cookie; until the browser ends without it.
        lifetime: Option<Duration>,
    },
    /// By a header of this name, lower case; one is made up without it.
    Header(Option<String>),
}

/// The shortest that a cookie can say.
const SHORTEST: Duration = Duration::from_secs(1);

/// Reads `sessionPersistence` of a rule.
pub(super) fn session(fields: &Fields<'_>) -> Option<SessionPersistence> {
    let value = fields.get("sessionPersistence")?;
    let fields = value.fields();
    let kind = fields.get("type");
    let kind = kind.and_then(|value| word(&value, &["Cookie", "Header"]));
    let by_header = kind == Some("Header");
    fields.refuse(
        "idleTimeout",
        "write absoluteTimeout with lifetimeType: Permanent, after which a session ends, used or not",
    );
    let until = fields.get("absoluteTimeout");
    let cookie = fields.get("cookie");
    let header = fields.get("header");
    let config = fields.get("cookieConfig");
    let older = fields.get("sessionName");
    fields.finish();
    let written = [("cookie", &cookie), ("cookieConfig", &config)];
    for (name, value) in written.into_iter().filter(|_| by_header) {
        if let Some(value) = value {
            value.error_hint(
                format!("{name:?} is for sessions of type Cookie"),
                "remove it, or write type: Cookie",
            );
        }
    }
    if let (false, Some(header)) = (by_header, &header) {
        header.error_hint(
            "\"header\" is for sessions of type Header",
            "remove it, or write type: Header",
        );
    }
    if let (Some(_), Some(older)) = (cookie.as_ref().or(header.as_ref()), &older) {
        older.error_hint(
            "the name of a session is written twice",
            "remove sessionName, which later versions of the API do not have",
        );
    }
    let older = older.and_then(|value| token(&value));
    if by_header {
        if let Some(until) = until {
            until.refuse(
                "sessions that are told by a header last as long as callers send it",
                "remove absoluteTimeout, or write type: Cookie and lifetimeType: Permanent",
            );
        }
        let name = header.and_then(|value| {
            let fields = value.fields();
            let name = fields.require("name");
            fields.finish();
            token(&name?)
        });
        let name = name.or(older).map(|name| name.to_ascii_lowercase());
        return Some(SessionPersistence::Header(name));
    }
    let (mut name, mut path, mut permanent) = (older, None, None);
    if let Some(value) = cookie {
        let fields = value.fields();
        name = fields.get("name").and_then(|value| token(&value)).or(name);
        let written = fields.get("path").map(|value| cookie_path(&value));
        path = Some(written.flatten().unwrap_or_else(|| "/".to_owned()));
        permanent = lifetime(&fields);
        fields.finish();
    }
    if let Some(value) = config {
        let fields = value.fields();
        permanent = permanent.or(lifetime(&fields));
        fields.finish();
    }
    Some(SessionPersistence::Cookie {
        name,
        path,
        lifetime: within(&value, until.as_ref(), permanent.unwrap_or_default()),
    })
}

/// Whether the cookie outlives the browser.
fn lifetime(fields: &Fields<'_>) -> Option<bool> {
    let value = fields.get("lifetimeType")?;
    Some(word(&value, &["Session", "Permanent"])? == "Permanent")
}

/// How long a session lasts. What lasts is told with its cookie, which then is not gone with the browser.
fn within(value: &Value<'_>, until: Option<&Value<'_>>, permanent: bool) -> Option<Duration> {
    let Some(until) = until else {
        if permanent {
            value.error_hint(
                "a permanent cookie needs absoluteTimeout, which says how long it lasts",
                "absoluteTimeout: 1h",
            );
        }
        return None;
    };
    if !permanent {
        until.refuse(
            "that a session ends while its cookie lasts as long as the browser is not honoured by meshctl yet",
            "write lifetimeType: Permanent, or remove absoluteTimeout",
        );
        return None;
    }
    let lifetime = until.duration()?;
    if lifetime < SHORTEST {
        until.error_hint(
            "a cookie lasts for at least a second",
            "absoluteTimeout: 1h",
        );
        return None;
    }
    Some(lifetime)
}

/// The name of a cookie or a header.
fn token(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let name = header_name(value, &text).filter(|name| !name.starts_with(':'));
    let longest = 256;
    if name.as_ref().is_none_or(|name| name.len() > longest) {
        if name.is_some() || text.starts_with(':') {
            value.error_hint(
                "this cannot be the name of a session",
                "letters, digits and -, at most 256 of them",
            );
        }
        return None;
    }
    // Names of cookies know case.
    Some(text)
}

fn cookie_path(value: &Value<'_>) -> Option<String> {
    let path = value.text()?;
    let good = path.starts_with('/')
        && path.len() <= 1024
        && path
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b';');
    if !good {
        value.error_hint(
            format!("{path:?} is no path of a cookie"),
            "write an absolute one, such as /cart",
        );
    }
    good.then_some(path)
}
