//! RequestAuthentication: whose tokens are taken, and where they stand.

use std::collections::BTreeSet;
use std::time::Duration;

use super::header_edits::header_name;
use super::security_target::targets;
use crate::jwt::{Keys, MAX_KEYS};
use crate::mesh::jwt_authn::{
    ClaimHeader, JwtHeader, JwtPlaces, JwtProvider, KeySource, NO_KEYS, SPACED_CLAIMS, TokenRule,
};
use crate::resource::codes;
use crate::resource::policy::Targets;
use crate::resource::reader::{Fields, Value};

/// A fetch of keys must be done within this (Istio's default).
const TIMEOUT: Duration = Duration::from_secs(5);

/// A RequestAuthentication.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestAuthentication {
    /// For whom.
    pub targets: Targets,
    /// Whose tokens are taken; none: nothing is asked.
    pub rules: Vec<TokenRule>,
}

pub(in crate::resource) fn request_authentication(fields: &Fields<'_>) -> RequestAuthentication {
    let Some(spec) = fields.get("spec") else {
        return RequestAuthentication::default();
    };
    let spec = spec.fields();
    let authentication = RequestAuthentication {
        targets: targets(
            &spec,
            ("a RequestAuthentication", "tokens are not looked at"),
        ),
        rules: spec.list("jwtRules").iter().filter_map(rule).collect(),
    };
    spec.finish();
    authentication
}

fn rule(value: &Value<'_>) -> Option<TokenRule> {
    let fields = value.fields();
    let issuer = fields.text("issuer").unwrap_or_default();
    let snake = fields.get("jwks_uri");
    let uri = fields.get("jwksUri").or(snake);
    let inline = fields.get("jwks");
    let timeout = fields.get("timeout").and_then(|value| {
        let time = value.duration()?;
        if time < Duration::from_millis(1) {
            value.error_hint("a timeout is at least 1ms", "timeout: 5s");
        }
        Some(time)
    });
    let mut provider = JwtProvider {
        audiences: named(&fields, "audiences", "an audience"),
        keys: NO_KEYS.into(),
        from: JwtPlaces {
            headers: fields
                .list("fromHeaders")
                .iter()
                .filter_map(header)
                .collect(),
            params: named(&fields, "fromParams", "a parameter"),
            cookies: named(&fields, "fromCookies", "a cookie"),
        },
        forward: fields.boolean("forwardOriginalToken").unwrap_or_default(),
        payload_header: fields
            .get("outputPayloadToHeader")
            .and_then(|value| output(&value))
            .unwrap_or_default(),
        claim_headers: fields
            .list("outputClaimToHeaders")
            .iter()
            .filter_map(claim)
            .collect(),
        tells: true,
        spaced_claims: SPACED_CLAIMS.map(str::to_owned).into(),
        ..JwtProvider::default()
    };
    let spaced: BTreeSet<String> = named(&fields, "spaceDelimitedClaims", "a claim")
        .into_iter()
        .collect();
    provider.spaced_claims.extend(spaced);
    fields.finish();
    let source = match (uri, inline) {
        (Some(_), Some(inline)) => {
            inline.error_hint(
                "a rule has one of jwksUri and jwks",
                "remove one of them; jwksUri follows the issuer's keys when they change",
            );
            return None;
        }
        (Some(uri), None) => KeySource::Url(url(&uri)?),
        (None, Some(inline)) => {
            provider.keys = keys(&inline)?.into();
            KeySource::Inline
        }
        (None, None) if issuer.is_empty() => KeySource::Inline,
        (None, None) => discovery(value, &issuer)?,
    };
    if issuer.is_empty() && !matches!(source, KeySource::Url(_)) {
        value.error_hint(
            "a rule needs an issuer",
            "issuer: what the claim iss of its tokens says, such as https://accounts.example.com",
        );
        return None;
    }
    provider.issuer = issuer;
    Some(TokenRule {
        provider,
        source,
        timeout: timeout.unwrap_or(TIMEOUT),
    })
}

/// Texts that say something.
fn named(fields: &Fields<'_>, field: &'static str, what: &str) -> Vec<String> {
    let list = fields.list(field);
    let texts = list.iter().filter_map(|value| {
        let text = value.text()?;
        if text.is_empty() {
            value.error_hint(
                format!("{what} is not empty"),
                format!("remove it, or leave out {field:?}"),
            );
        }
        (!text.is_empty()).then_some(text)
    });
    texts.collect()
}

fn header(value: &Value<'_>) -> Option<JwtHeader> {
    let fields = value.fields();
    let name = fields.require("name");
    let prefix = fields.text("prefix").unwrap_or_default();
    fields.finish();
    let name = name?;
    let text = header_name(&name, &name.text()?)?;
    Some(JwtHeader { name: text, prefix })
}

fn claim(value: &Value<'_>) -> Option<ClaimHeader> {
    let fields = value.fields();
    let header = fields.require("header");
    let claim = fields.require("claim");
    fields.finish();
    let header = output(&header?)?;
    let claim = claim?;
    let text = claim.text()?;
    if text.split('.').any(str::is_empty) {
        claim.error_hint(
            format!("{text:?} is not the name of a claim"),
            "claim: sub, or address.country for one inside another",
        );
        return None;
    }
    Some(ClaimHeader {
        header,
        claim: text,
    })
}

/// A header that tells something of a token: none that says how a request is carried, or by whom.
fn output(value: &Value<'_>) -> Option<String> {
    const OURS: [&str; 13] = [
        ":authority",
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "content-length",
        "content-type",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "x-forwarded-client-cert",
    ];
    let text = value.text()?;
    let name = header_name(value, &text)?;
    if OURS.contains(&name.as_str()) || name.starts_with("x-envoy-") {
        value.error_hint(
            format!("{name:?} says how a request is carried, and cannot tell of its token"),
            "write a name of your own, such as x-jwt-sub",
        );
        return None;
    }
    Some(name)
}

/// An address of keys.
fn url(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if !is_url(&text) {
        value.error_hint(
            format!("{text:?} is not the address of a key set"),
            "jwksUri: https://accounts.example.com/keys",
        );
        return None;
    }
    if !text.starts_with("https://") {
        value.warn(
            codes::KEYS_UNPROTECTED,
            "the keys are fetched without TLS: whoever stands between can sign tokens",
            "jwksUri: https://…, or write the keys into jwks",
        );
    }
    Some(text)
}

fn is_url(text: &str) -> bool {
    let read = text.parse::<http::Uri>();
    read.is_ok_and(|uri| {
        let scheme = uri.scheme_str();
        matches!(scheme, Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

/// Where the keys of an issuer are that says itself where.
fn discovery(value: &Value<'_>, issuer: &str) -> Option<KeySource> {
    if issuer.starts_with("https://") && is_url(issuer) {
        return Some(KeySource::Discovery(issuer.to_owned()));
    }
    if issuer.starts_with("http://") && is_url(issuer) {
        value.warn(
            codes::KEYS_UNPROTECTED,
            "where the keys are is asked without TLS: whoever stands between can sign tokens",
            "write the keys into jwks, or name them by jwksUri: https://…",
        );
        return Some(KeySource::Discovery(issuer.to_owned()));
    }
    value.error_hint(
        "there is no way to the keys of this issuer: its name is no URL",
        "jwksUri: https://accounts.example.com/keys, or the keys themselves in jwks",
    );
    None
}

/// Keys that were written down.
fn keys(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let set = match Keys::parse(&text) {
        Ok(set) => set,
        Err(error) => {
            value.error_hint(
                error.to_string(),
                format!(
                    "jwks: '{{\"keys\": [{{\"kty\": \"RSA\", …}}]}}', of at most {MAX_KEYS} keys"
                ),
            );
            return None;
        }
    };
    let skipped: Vec<String> = set
        .skipped
        .iter()
        .map(|skipped| format!("key {}: {}", skipped.at, skipped.reason))
        .collect();
    if set.is_empty() {
        value.error_hint(
            match skipped.as_slice() {
                [] => "the key set is empty, so no token would be good".to_owned(),
                list => format!("no key verifies tokens: {}", list.join("; ")),
            },
            "keys of RSA (2048 bits and more), EC (P-256, P-384, P-521) or OKP (Ed25519), for use \"sig\"",
        );
        return None;
    }
    if !skipped.is_empty() {
        value.warn(
            codes::KEYS_SKIPPED,
            format!("some keys verify no tokens here: {}", skipped.join("; ")),
            "remove them from jwks, or replace them",
        );
    }
    Some(text)
}
