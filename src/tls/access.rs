//! The text of a token for the API: `ma_ID_SECRET_FINGERPRINT`.
//!
//! The id finds the record, the secret proves possession, and the fingerprint of the mesh's root lets its bearer
//! verify the control plane, so that the secret goes to nobody else.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroize as _;

use super::join::parts;
use super::{Error, hex, random};

/// What a token for the API starts with, for scanners that look for secrets.
pub const PREFIX: &str = "ma";

/// A token for the API in parts; printing it with `{}` shows the secret, `{:?}` does not.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// Names the record; not secret.
    pub id: String,
    /// 256 random bits.
    pub secret: [u8; 32],
    /// SHA-256 of the mesh's root certificate, when the token carries it.
    pub root: Option<[u8; 32]>,
}

impl AccessToken {
    /// A new random token for a mesh whose root has this SHA-256.
    pub fn generate(root: Option<[u8; 32]>) -> Result<Self, Error> {
        Ok(Self {
            id: hex(&random::<6>()?),
            secret: random()?,
            root,
        })
    }
}

impl Drop for AccessToken {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl FromStr for AccessToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::AccessToken { reason };
        let text = text.trim();
        if text.starts_with("mj_") {
            return Err(wrong(
                "it is for joining; `meshctl access create` makes tokens for the API",
            ));
        }
        if !text.starts_with("ma_") {
            return Err(wrong("it does not start with ma_"));
        }
        let (id, secret, root) = parts(text, PREFIX).map_err(wrong)?;
        Ok(Self { id, secret, root })
    }
}

impl fmt::Display for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}_{}_{}", self.id, hex(&self.secret))?;
        match &self.root {
            Some(root) => write!(f, "_{}", hex(root)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessToken({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip_and_debug_keeps_the_secret() {
        for root in [None, Some([7; 32])] {
            let token = AccessToken::generate(root).unwrap();
            assert!(!format!("{token:?}").contains(&hex(&token.secret)));
            let text = token.to_string();
            assert_eq!(text.parse::<AccessToken>().unwrap(), token);
            assert!(text.replace("ma_", "mj_").parse::<AccessToken>().is_err());
            assert!(text.parse::<super::super::JoinToken>().is_err());
            assert!(format!("{text}_").parse::<AccessToken>().is_err());
            let short = text.get(..text.len() - 1).unwrap();
            assert!(short.parse::<AccessToken>().is_err());
        }
    }
}
