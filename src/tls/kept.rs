//! Private keys that are wiped from memory when they are no longer kept.
//!
//! What the cryptographic library holds of them for a handshake is its own to wipe.

use std::fmt;
use std::ops::Deref;

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroize as _;

/// The private key of a certificate; not printed.
pub struct Secret(PrivateKeyDer<'static>);

impl From<PrivateKeyDer<'static>> for Secret {
    fn from(key: PrivateKeyDer<'static>) -> Self {
        Self(key)
    }
}

impl Deref for Secret {
    type Target = PrivateKeyDer<'static>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Clone for Secret {
    fn clone(&self) -> Self {
        Self(self.0.clone_key())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A pair of keys that signs, such as an authority's.
pub(super) struct Pair(KeyPair);

impl From<KeyPair> for Pair {
    fn from(key: KeyPair) -> Self {
        Self(key)
    }
}

impl Deref for Pair {
    type Target = KeyPair;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for Pair {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Pair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}
