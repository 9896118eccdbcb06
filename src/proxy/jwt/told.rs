//! What goes on with a request once its tokens were looked at.

use std::sync::Arc;

use serde_json::Value;

use crate::jwt::Status;
use crate::mesh::claims::Claims;
use crate::mesh::route::Request;
use crate::mesh::route::matching::split_query;
use crate::telemetry::Flag;

use super::super::filter::Refusal;
use super::Provider;
use super::need::Taken;
use super::places::{Place, without_params};

/// Longest path in an answer that says what a token is needed for (Envoy's).
const REALM: usize = 256;

/// What is known of a request's caller, and what changes in the request's head.
#[derive(Debug)]
pub(crate) struct Told<'t> {
    /// What a good token says, where rules may know.
    pub(crate) claims: Option<Arc<Claims>>,
    /// Fields that tell it to the endpoint.
    pub(crate) added: Vec<(&'t str, String)>,
    /// Fields that are not the caller's to write.
    owned: &'t [String],
    /// Fields whose tokens are not for the endpoint.
    spent: Vec<&'t str>,
    /// Parameters of that kind.
    params: Vec<&'t str>,
    /// The target without those, where there were some.
    pub(crate) target: Option<Vec<u8>>,
    /// Why the request is answered here.
    pub(crate) refusal: Option<Box<Refusal>>,
}

impl<'t> Told<'t> {
    pub(super) fn new(owned: &'t [String]) -> Self {
        Self {
            claims: None,
            added: Vec::new(),
            owned,
            spent: Vec::new(),
            params: Vec::new(),
            target: None,
            refusal: None,
        }
    }

    /// Of a request whose head says already what its tokens change.
    pub(crate) fn kept(claims: Option<Arc<Claims>>) -> Self {
        Self {
            claims,
            ..Self::new(&[])
        }
    }

    /// Whether the field of this name is taken out of the request.
    pub(crate) fn hides(&self, name: &[u8]) -> bool {
        let same = |own: &str| name.eq_ignore_ascii_case(own.as_bytes());
        self.spent.iter().any(|own| same(own)) || self.owned.iter().any(|own| same(own))
    }

    /// With what a good token says.
    pub(super) fn tell(&mut self, provider: &'t Provider, taken: &Taken<'t>) {
        let (config, token) = (&provider.config, &taken.good.token);
        if config.tells {
            self.claims = Some(Arc::clone(&taken.good.claims));
        }
        if !config.payload_header.is_empty() {
            let mut text = token.payload_text().to_owned();
            while config.pad_payload_header && !text.len().is_multiple_of(4) {
                text.push('=');
            }
            self.added.push((&config.payload_header, text));
        }
        for to in &config.claim_headers {
            let mut claim = to.claim.split('.');
            let first = claim.next().and_then(|name| token.payload.get(name));
            let found = claim.fold(first, |value, name| value?.as_object()?.get(name));
            if let Some(text) = found.and_then(written) {
                self.added.push((&to.header, text));
            }
        }
        if config.forward {
            return;
        }
        match taken.place {
            Place::Header(name) => self.spent.push(name),
            Place::Param(name) => self.params.push(name),
            Place::Cookie => {}
        }
    }

    /// Takes spent parameters out of `target`.
    pub(super) fn strip(&mut self, target: &[u8]) {
        if !self.params.is_empty() {
            self.target = Some(without_params(target, &self.params));
        }
    }

    pub(super) fn refuse(&mut self, status: Status, request: &dyn Request, quiet: bool) {
        let (code, grpc_status) = match status {
            Status::AudienceNotAllowed => (403, 7),
            _ => (401, 16),
        };
        let mut headers = Vec::new();
        if !quiet {
            // A token may stand in the query.
            let (path, _) = split_query(request.path_and_query());
            let path = path.get(..REALM).unwrap_or(path);
            let uri = [request.scheme(), b"://", request.authority(), path].concat();
            let uri: String = String::from_utf8_lossy(&uri)
                .chars()
                .flat_map(|letter| {
                    let quoted = matches!(letter, '"' | '\\').then_some('\\');
                    quoted.into_iter().chain([letter])
                })
                .filter(|letter| letter.is_ascii() && !letter.is_ascii_control())
                .collect();
            let error = match status {
                Status::Missing => "",
                _ => ", error=\"invalid_token\"",
            };
            let value = format!("Bearer realm=\"{uri}\"{error}");
            headers.push(("www-authenticate".to_owned(), value));
        }
        self.refusal = Some(Box::new(Refusal {
            status: code,
            flag: Flag::None,
            details: status.details(),
            body: if quiet { "" } else { status.text() },
            grpc_status,
            headers,
        }));
    }
}

/// A claim as a header has it: texts, numbers and truths; others have none (Envoy's rule). Nor does a
/// text that would not end where its field does.
fn written(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => {
            let float = number.as_f64()?;
            match number.as_u64() {
                Some(whole) => whole.to_string(),
                None if float >= 0.0
                    && float.fract() == 0.0
                    && float < 18_446_744_073_709_551_615.0 =>
                {
                    format!("{float:.0}")
                }
                None => format!("{float:.6}"),
            }
        }
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    let sendable = !text.is_empty() && !text.bytes().any(|byte| byte.is_ascii_control());
    sendable.then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_written_as_envoy_does() {
        for (value, text) in [
            (json!("alice"), Some("alice")),
            (json!(7), Some("7")),
            (
                json!(18_446_744_073_709_551_615_u64),
                Some("18446744073709551615"),
            ),
            (json!(2.0), Some("2")),
            (json!(1.5), Some("1.500000")),
            (json!(-3), Some("-3.000000")),
            (json!(true), Some("true")),
            (json!(null), None),
            (json!(["a"]), None),
            (json!({"a": 1}), None),
            (json!(""), None),
            (json!("a\r\nx-admin: true"), None),
            (json!("a\u{0}b"), None),
        ] {
            assert_eq!(written(&value).as_deref(), text, "{value}");
        }
    }
}
