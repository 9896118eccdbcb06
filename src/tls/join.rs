//! The text of a join token: `mj_ID_SECRET_FINGERPRINT`.
//!
//! The id finds the record, the secret proves possession, and the fingerprint of the mesh's root
//! lets the joiner verify the control plane at first contact. All three are hexadecimal, so that a
//! double click selects the whole token.

use std::fmt;
use std::str::FromStr;

use super::{Error, hex, random};

/// A join token in parts; printing it with `{}` shows the secret, `{:?}` does not.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Names the record; not secret.
    pub id: String,
    /// 256 random bits.
    pub secret: [u8; 32],
    /// SHA-256 of the mesh's root certificate, when the token carries it.
    pub root: Option<[u8; 32]>,
}

impl JoinToken {
    /// A new random token for a mesh whose root has this SHA-256.
    pub fn generate(root: Option<[u8; 32]>) -> Result<Self, Error> {
        Ok(Self {
            id: hex(&random::<6>()?),
            secret: random()?,
            root,
        })
    }
}

/// Id, secret and fingerprint.
pub(super) type Parts = (String, [u8; 32], Option<[u8; 32]>);

/// Reads `PREFIX_ID_SECRET` or `PREFIX_ID_SECRET_FINGERPRINT`.
pub(super) fn parts(text: &str, prefix: &'static str) -> Result<Parts, &'static str> {
    let mut parts = text.trim().split('_');
    if parts.next() != Some(prefix) {
        return Err("it does not start with its prefix");
    }
    let id = parts
        .next()
        .filter(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()))
        .ok_or("its id is not 12 hexadecimal digits")?;
    let secret = parts
        .next()
        .and_then(unhex)
        .ok_or("its secret is not 64 hexadecimal digits")?;
    let root = match parts.next() {
        None => None,
        Some(root) => Some(unhex(root).ok_or("its fingerprint is not 64 hexadecimal digits")?),
    };
    if parts.next().is_some() {
        return Err("it has more than four parts");
    }
    Ok((id.to_ascii_lowercase(), secret, root))
}

impl FromStr for JoinToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if !text.trim().starts_with("mj_") {
            return Err(Error::Token {
                reason: "it does not start with mj_",
            });
        }
        let (id, secret, root) = parts(text, "mj").map_err(|reason| Error::Token { reason })?;
        Ok(Self { id, secret, root })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mj_{}_{}", self.id, hex(&self.secret))?;
        match &self.root {
            Some(root) => write!(f, "_{}", hex(root)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

/// 32 bytes from 64 hexadecimal digits.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().try_fold(0_u8, |value, digit| {
            let digit = char::from(*digit).to_digit(16)?;
            Some(value << 4 | u8::try_from(digit).ok()?)
        })?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn debug_keeps_the_secret() {
        let token = JoinToken::generate(None).unwrap();
        assert!(!format!("{token:?}").contains(&hex(&token.secret)));
        assert!(token.to_string().contains(&hex(&token.secret)));
    }

    proptest! {
        #[test]
        fn tokens_round_trip(with_root in any::<bool>(), root in any::<[u8; 32]>()) {
            let token = JoinToken::generate(with_root.then_some(root)).unwrap();
            prop_assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token);
        }

        #[test]
        fn other_texts_are_refused(text in "(mj_)?[0-9a-fé_]{0,90}") {
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
