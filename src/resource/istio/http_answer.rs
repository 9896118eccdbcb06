//! What a route answers by itself: redirects and direct responses.

use crate::mesh::route::{Redirect, Respond};
use crate::resource::reader::Value;

pub(super) fn redirect(value: &Value<'_>) -> Redirect {
    let fields = value.fields();
    fields.refuse("prefixRewrite", "redirect with the whole path: uri: /…");
    let scheme = fields
        .get("scheme")
        .and_then(|value| value.choice(&[("http", "http"), ("https", "https")]));
    let mut port = fields.port("port");
    if let Some(derive) = fields.get("derivePort") {
        match (
            derive.choice(&[
                ("FROM_PROTOCOL_DEFAULT", true),
                ("FROM_REQUEST_PORT", false),
            ]),
            scheme,
        ) {
            (Some(true), Some("https")) => port = Some(443),
            (Some(true), Some(_)) => port = Some(80),
            (Some(true), None) => derive.error_hint(
                "the default port of which scheme?",
                "write scheme: http or scheme: https beside it",
            ),
            _ => {}
        }
    }
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
        scheme: scheme.map(str::to_owned),
        authority: fields.text("authority"),
        port,
        path: fields.text("uri"),
    };
    fields.finish();
    redirect
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
        fields.refuse("bytes", "write a text: body: {string: …}");
        let text = fields.text("string");
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
