//! Sets of public keys (JWKS), and whether one of them made a signature.

use std::fmt;

use aws_lc_rs::signature::{self as sig, ParsedPublicKey, RsaPublicKeyComponents};
use serde_json::{Map, Value};

use super::{Algorithm, MAX_KEY_SET, MAX_KEYS, Status, Token, base64url, json};

/// Why a text is no set of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Longer than anybody's.
    #[error("the key set is longer than {MAX_KEY_SET} bytes")]
    TooLarge,
    /// No object, or one with a name twice.
    #[error("the key set is no JSON object in which every name stands once")]
    Json,
    /// No list of keys.
    #[error("the key set has no list \"keys\"")]
    NoList,
    /// More than are tried.
    #[error("the key set has {found} keys, more than {MAX_KEYS}")]
    TooMany {
        /// How many.
        found: usize,
    },
}

/// A key that verifies nothing here, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its place in the list.
    pub at: usize,
    /// Why, in a few words.
    pub reason: String,
}

/// The keys of one issuer, ready to verify.
#[derive(Debug, Default)]
pub struct Keys {
    keys: Vec<Key>,
    /// Those that verify nothing here.
    pub skipped: Vec<Skipped>,
}

struct Key {
    kid: Option<String>,
    /// For each algorithm that it may be used with.
    uses: Vec<(Algorithm, ParsedPublicKey)>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.uses.iter().map(|(of, _)| of.name()).collect();
        write!(f, "Key({:?}, {})", self.kid, names.join(" "))
    }
}

impl Keys {
    /// Reads a JWKS. Keys that verify nothing here (for encryption, with shared secrets, of unknown
    /// kinds) are skipped, since issuers add such; what is left may be none.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        if text.len() > MAX_KEY_SET {
            return Err(KeysError::TooLarge);
        }
        let set = json::object(text.as_bytes()).ok_or(KeysError::Json)?;
        let Some(Value::Array(list)) = set.get("keys") else {
            return Err(KeysError::NoList);
        };
        if list.len() > MAX_KEYS {
            return Err(KeysError::TooMany { found: list.len() });
        }
        let mut all = Self::default();
        for (at, value) in list.iter().enumerate() {
            match key(value) {
                Ok(key) => all.keys.push(key),
                Err(reason) => all.skipped.push(Skipped { at, reason }),
            }
        }
        Ok(all)
    }

    /// Whether nothing can be verified.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many verify.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether one of these signed `token`.
    pub fn verify(&self, token: &Token) -> Result<(), Status> {
        let signed = token.signed.as_bytes();
        let claims = (token.algorithm, token.kid.as_deref());
        self.verify_signature(claims, signed, &token.signature)
    }

    /// Whether one of these made `signature` of `signed`, which claims to be of an algorithm and a key.
    /// Of keys with a `kid`, only those of the claimed one are tried.
    pub fn verify_signature(
        &self,
        (algorithm, kid): (Algorithm, Option<&str>),
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), Status> {
        if self.keys.is_empty() {
            return Err(Status::NoKeys);
        }
        let named = |key: &&Key| match (key.kid.as_deref(), kid) {
            (Some(own), Some(kid)) => own == kid,
            _ => true,
        };
        let mut fits = false;
        for key in self.keys.iter().filter(named) {
            let uses = key.uses.iter();
            for (_, public) in uses.filter(|(of, _)| *of == algorithm) {
                fits = true;
                if public.verify_sig(signed, signature).is_ok() {
                    return Ok(());
                }
            }
        }
        Err(if fits {
            Status::Verification
        } else {
            Status::NoSuchKey
        })
    }
}

/// The keys of a JWKS that verify, with no more than is needed for it, so that nothing else is a change;
/// `None` where there are none.
pub fn minimal(text: &str) -> Result<Option<String>, KeysError> {
    const NEEDED: [&str; 9] = ["kty", "kid", "use", "alg", "n", "e", "crv", "x", "y"];
    let skipped = Keys::parse(text)?.skipped;
    let set = json::object(text.as_bytes()).ok_or(KeysError::Json)?;
    let list = set.get("keys").and_then(Value::as_array);
    let good = list.into_iter().flatten().enumerate();
    let good = good.filter(|(at, _)| skipped.iter().all(|skipped| skipped.at != *at));
    let keys: Vec<Value> = good
        .filter_map(|(_, key)| {
            let key = key.as_object()?;
            let of = NEEDED.iter().filter_map(|name| {
                // Those that a key does not use may be anything.
                let value = key.get(*name).filter(|value| value.is_string())?;
                Some(((*name).to_owned(), value.clone()))
            });
            Some(Value::Object(of.collect()))
        })
        .collect();
    Ok((!keys.is_empty()).then(|| serde_json::json!({"keys": keys}).to_string()))
}

/// A member that is a text; `None` without it.
fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match key.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{name:?} is no text")),
    }
}

/// A member that is bytes.
fn bytes(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = text(key, name)?.ok_or_else(|| format!("{name:?} is missing"))?;
    base64url::decode(text.as_bytes()).ok_or_else(|| format!("{name:?} is no base64url"))
}

fn key(value: &Value) -> Result<Key, String> {
    let Value::Object(key) = value else {
        return Err("no object".to_owned());
    };
    match text(key, "use")? {
        None | Some("sig") => {}
        Some(other) => return Err(format!("its use is {other:?}, not \"sig\"")),
    }
    match key.get("key_ops") {
        None => {}
        Some(Value::Array(list)) if list.iter().any(|of| of == "verify") => {}
        Some(_) => return Err("its key_ops have no \"verify\"".to_owned()),
    }
    let only = text(key, "alg")?;
    let kid = text(key, "kid")?.map(str::to_owned);
    let uses = match text(key, "kty")? {
        Some("RSA") => rsa(key, only)?,
        Some("EC") => ec(key, only)?,
        Some("OKP") => okp(key, only)?,
        Some("oct") => return Err("it is a shared secret".to_owned()),
        Some(other) => return Err(format!("its kty is {other:?}")),
        None => return Err("\"kty\" is missing".to_owned()),
    };
    Ok(Key { kid, uses })
}

/// Of `of`, what `only` allows.
fn allowed(of: &[Algorithm], only: Option<&str>) -> Result<Vec<Algorithm>, String> {
    let Some(name) = only else {
        return Ok(of.to_vec());
    };
    match Algorithm::named(name).filter(|found| of.contains(found)) {
        Some(found) => Ok(vec![found]),
        None => Err(format!("its alg {name:?} is not for keys of its kind")),
    }
}

fn rsa(
    key: &Map<String, Value>,
    only: Option<&str>,
) -> Result<Vec<(Algorithm, ParsedPublicKey)>, String> {
    use Algorithm::{Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
    let number = |name: &str| {
        let bytes = bytes(key, name)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok::<_, String>(bytes.get(zeros..).unwrap_or_default().to_vec())
    };
    let (n, e) = (number("n")?, number("e")?);
    let first = n.first().map_or(8, |byte| byte.leading_zeros());
    let bits = (n.len() * 8).saturating_sub(usize::try_from(first).unwrap_or_default());
    if !(2048..=8192).contains(&bits) {
        return Err(format!("its modulus has {bits} bits, not 2048 to 8192"));
    }
    let odd = |bytes: &[u8]| bytes.last().is_some_and(|byte| byte % 2 == 1);
    if !odd(&n) || !odd(&e) || e == [1] || e.len() > 4 {
        return Err("it is no RSA key that verifies".to_owned());
    }
    let all = allowed(&[Rs256, Rs384, Rs512, Ps256, Ps384, Ps512], only)?;
    let parts = RsaPublicKeyComponents { n, e };
    let ready = all.into_iter().map(|of| {
        let how = match of {
            Rs384 => &sig::RSA_PKCS1_2048_8192_SHA384,
            Rs512 => &sig::RSA_PKCS1_2048_8192_SHA512,
            Ps256 => &sig::RSA_PSS_2048_8192_SHA256,
            Ps384 => &sig::RSA_PSS_2048_8192_SHA384,
            Ps512 => &sig::RSA_PSS_2048_8192_SHA512,
            _ => &sig::RSA_PKCS1_2048_8192_SHA256,
        };
        let public = parts.to_parsed_public_key(how);
        public.map(|public| (of, public))
    });
    let ready = ready.collect::<Result<Vec<_>, _>>();
    ready.map_err(|_| "it is no RSA key".to_owned())
}

fn ec(
    key: &Map<String, Value>,
    only: Option<&str>,
) -> Result<Vec<(Algorithm, ParsedPublicKey)>, String> {
    let (of, how, length) = match text(key, "crv")? {
        Some("P-256") => (Algorithm::Es256, &sig::ECDSA_P256_SHA256_FIXED, 32),
        Some("P-384") => (Algorithm::Es384, &sig::ECDSA_P384_SHA384_FIXED, 48),
        Some("P-521") => (Algorithm::Es512, &sig::ECDSA_P521_SHA512_FIXED, 66),
        Some(other) => return Err(format!("its curve is {other:?}")),
        None => return Err("\"crv\" is missing".to_owned()),
    };
    allowed(&[of], only)?;
    let mut point = vec![4];
    for name in ["x", "y"] {
        let coordinate = bytes(key, name)?;
        // RFC 7518, 6.2.1.2: as long as the curve's field, always.
        if coordinate.len() != length {
            return Err(format!("{name:?} has not {length} bytes"));
        }
        point.extend(coordinate);
    }
    let public = ParsedPublicKey::new(how, point);
    let public = public.map_err(|_| "it is no point of its curve".to_owned())?;
    Ok(vec![(of, public)])
}

fn okp(
    key: &Map<String, Value>,
    only: Option<&str>,
) -> Result<Vec<(Algorithm, ParsedPublicKey)>, String> {
    match text(key, "crv")? {
        Some("Ed25519") => {}
        Some(other) => return Err(format!("its curve is {other:?}")),
        None => return Err("\"crv\" is missing".to_owned()),
    }
    allowed(&[Algorithm::EdDsa], only)?;
    let point = bytes(key, "x")?;
    if point.len() != 32 {
        return Err("\"x\" has not 32 bytes".to_owned());
    }
    let public = ParsedPublicKey::new(&sig::ED25519, point);
    let public = public.map_err(|_| "it is no point of its curve".to_owned())?;
    Ok(vec![(Algorithm::EdDsa, public)])
}
