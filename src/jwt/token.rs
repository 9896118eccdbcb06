//! A token taken apart, before anybody believes it.

use serde_json::{Map, Value};

use super::{MAX_TOKEN, Status, base64url, json};

/// How a token is signed (RFC 7518, 3.1; RFC 8037). What is not here is refused: `none` and everything
/// with a shared secret above all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    Rs256,
    /// RSA, PKCS #1 v1.5, SHA-384.
    Rs384,
    /// RSA, PKCS #1 v1.5, SHA-512.
    Rs512,
    /// RSA, PSS, SHA-256.
    Ps256,
    /// RSA, PSS, SHA-384.
    Ps384,
    /// RSA, PSS, SHA-512.
    Ps512,
    /// ECDSA over P-256, SHA-256.
    Es256,
    /// ECDSA over P-384, SHA-384.
    Es384,
    /// ECDSA over P-521, SHA-512.
    Es512,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// As `alg` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// By its name, letter by letter.
    pub fn named(name: &str) -> Option<Self> {
        // RFC 9864 names the curve.
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Self::ALL.into_iter().find(|known| known.name() == name)
    }
}

/// When a token is good, in seconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// `exp`; without it, for ever.
    pub expires: Option<u64>,
    /// `nbf`.
    pub not_before: Option<u64>,
    /// `iat`.
    pub issued: Option<u64>,
}

impl Times {
    /// Whether a token is good at `now`; clocks may differ by `skew` seconds.
    pub fn check(self, now: u64, skew: u64) -> Result<(), Status> {
        let begins = self.not_before.max(self.issued).unwrap_or_default();
        if begins > now.saturating_add(skew) {
            return Err(Status::NotYetValid);
        }
        match self.expires {
            Some(expires) if now > expires.saturating_add(skew) => Err(Status::Expired),
            _ => Ok(()),
        }
    }
}

/// A token that can be read. Whether it is genuine, [`super::Keys::verify`] says.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// How it claims to be signed.
    pub algorithm: Algorithm,
    /// Which key it claims to be signed by.
    pub kid: Option<String>,
    /// When it is good.
    pub times: Times,
    /// All that it says.
    pub payload: Map<String, Value>,
    /// What is signed.
    pub(super) signed: String,
    /// Where in that the payload begins.
    pub(super) payload_at: usize,
    pub(super) signature: Vec<u8>,
}

impl Token {
    /// Reads `text`, which must be a token from end to end.
    pub fn parse(text: &[u8]) -> Result<Self, Status> {
        if text.len() > MAX_TOKEN {
            return Err(Status::TooLarge);
        }
        let text = std::str::from_utf8(text).map_err(|_| Status::BadFormat)?;
        let mut parts = text.split('.');
        let (Some(header), Some(body), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Status::BadFormat);
        };
        let bytes = base64url::decode(header.as_bytes()).ok_or(Status::HeaderBase64)?;
        let fields = json::object(&bytes).ok_or(Status::HeaderJson)?;
        let algorithm = match fields.get("alg") {
            Some(Value::String(name)) => {
                Algorithm::named(name).ok_or(Status::HeaderAlgUnsupported)?
            }
            _ => return Err(Status::HeaderAlg),
        };
        let kid = match fields.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Status::HeaderKid),
        };
        if fields.contains_key("crit") {
            return Err(Status::HeaderCrit);
        }
        let bytes = base64url::decode(body.as_bytes()).ok_or(Status::PayloadBase64)?;
        let payload = json::object(&bytes).ok_or(Status::PayloadJson)?;
        for (name, status) in [
            ("iss", Status::Issuer),
            ("sub", Status::Subject),
            ("jti", Status::Id),
        ] {
            if payload.get(name).is_some_and(|value| !value.is_string()) {
                return Err(status);
            }
        }
        let audience = match payload.get("aud") {
            None | Some(Value::String(_)) => true,
            Some(Value::Array(list)) => list.iter().all(Value::is_string),
            Some(_) => false,
        };
        if !audience {
            return Err(Status::Audience);
        }
        let time = |name: &str, kind, range| match payload.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => seconds(number).map(Some).ok_or(range),
            Some(_) => Err(kind),
        };
        let times = Times {
            issued: time("iat", Status::IssuedAt, Status::IssuedAtRange)?,
            not_before: time("nbf", Status::NotBefore, Status::NotBeforeRange)?,
            expires: time("exp", Status::Expiry, Status::ExpiryRange)?,
        };
        let signature = base64url::decode(signature.as_bytes()).ok_or(Status::SignatureBase64)?;
        Ok(Self {
            algorithm,
            kid,
            times,
            payload_at: header.len() + 1,
            signed: format!("{header}.{body}"),
            payload,
            signature,
        })
    }

    /// Who says to have issued it; empty without.
    pub fn issuer(&self) -> &str {
        let issuer = self.payload.get("iss").and_then(Value::as_str);
        issuer.unwrap_or_default()
    }

    /// Whom it is for.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let (one, list) = match self.payload.get("aud") {
            Some(Value::String(one)) => (Some(one.as_str()), None),
            Some(Value::Array(list)) => (None, Some(list)),
            _ => (None, None),
        };
        let list = list.into_iter().flatten().filter_map(Value::as_str);
        one.into_iter().chain(list)
    }

    /// The payload as it stood in the token.
    pub fn payload_text(&self) -> &str {
        self.signed.get(self.payload_at..).unwrap_or_default()
    }
}

/// A NumericDate, of which parts of seconds are left out.
fn seconds(number: &serde_json::Number) -> Option<u64> {
    if let Some(whole) = number.as_u64() {
        return Some(whole);
    }
    // By text, as there is no conversion from floats that cannot go wrong.
    let float = number.as_f64().filter(|float| *float >= 0.0)?;
    format!("{:.0}", float.trunc()).parse().ok()
}
