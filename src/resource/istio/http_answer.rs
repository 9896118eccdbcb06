//! What a route answers by itself: redirects and direct responses.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::mesh::route::{Redirect, Respond};
use crate::resource::reader::Value;

/// A redirect, and whether it is to the port that was asked for.
pub(super) fn redirect(value: &Value<'_>) -> (Redirect, bool) {
    let fields = value.fields();
    let scheme = fields
        .get("scheme")
        .and_then(|value| value.choice(&[("http", 80), ("https", 443)]));
    let port = fields.port("port");
    let derived = fields.get("derivePort").and_then(|value| {
        if port.is_some() {
            value.error_hint("a redirect has one port", "write port or derivePort");
        }
        value.choice(&[
            ("FROM_PROTOCOL_DEFAULT", false),
            ("FROM_REQUEST_PORT", true),
        ])
    });
    let path = fields.text("uri");
    let prefix = fields.get("prefixRewrite").and_then(|value| {
        if path.is_some() {
            value.error_hint("a redirect has one path", "write uri or prefixRewrite");
        }
        value.text()
    });
    let status = fields.get("redirectCode").and_then(|value| {
        let code = value.integer(300, 399)?;
        if !matches!(code, 301 | 302 | 303 | 307 | 308) {
            value.error(format!(
                "expected one of 301, 302, 303, 307 and 308, found {code}"
            ));
        }
        u16::try_from(code).ok()
    });
    let redirect = Redirect {
        status: status.unwrap_or(301),
        scheme: scheme.map(|port| if port == 80 { "http" } else { "https" }.to_owned()),
        authority: fields.text("authority"),
        // Without a change of scheme the default is what it was.
        port: port.or(scheme.filter(|_| derived == Some(false))),
        path,
        prefix,
    };
    fields.finish();
    (redirect, derived == Some(true))
}

/// Envoy's limit for bodies that it answers by itself.
const MAX_BODY_BYTES: usize = 4096;

pub(super) fn respond(value: &Value<'_>) -> Respond {
    let fields = value.fields();
    let status = fields
        .require("status")
        .and_then(|value| value.integer(200, 599))
        .and_then(|status| u16::try_from(status).ok());
    let body = fields.get("body").and_then(|value| {
        let fields = value.fields();
        let text = fields.text("string");
        let bytes = fields.get("bytes").and_then(|value| {
            if text.is_some() {
                value.error_hint("an answer has one body", "write string or bytes");
            }
            decoded(&value)
        });
        let text = text.or(bytes);
        fields.finish();
        if text
            .as_ref()
            .is_some_and(|text| text.len() > MAX_BODY_BYTES)
        {
            value.error(format!("a body has at most {MAX_BODY_BYTES} bytes"));
        }
        text
    });
    fields.finish();
    Respond {
        status: status.unwrap_or(503),
        body: body.unwrap_or_default(),
    }
}

/// Bytes, as JSON writes them.
fn decoded(value: &Value<'_>) -> Option<String> {
    let Ok(bytes) = STANDARD.decode(value.text()?.trim()) else {
        value.error_hint("this is not base64", "write a text: body: {string: …}");
        return None;
    };
    let text = String::from_utf8(bytes).ok();
    if text.is_none() {
        value.refuse(
            "a body that is no text is not honoured by meshctl yet",
            "answer with a text, or let an application answer",
        );
    }
    text
}
