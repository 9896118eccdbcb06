//! Signed tokens (JWT, RFC 7519): what they say, whose keys signed them, and what is wrong with them.
//!
//! Owns the reading of tokens and of key sets (JWKS, RFC 7517) and the check of signatures. All of it is a
//! function of its arguments: time is passed in, and where key sets come from is left to `control`,
//! where tokens stand in requests to `proxy`.
//!
//! A token is believed for its signature by a key that was configured, and for nothing else:
//!
//! - The algorithm must be one that the key is for, so a public key is never taken for a shared secret.
//!   There is no `none` and no HMAC.
//! - What a header says about keys (`jwk`, `jku`, `x5c`, `x5u`) is not looked at; `kid` only chooses among
//!   the configured ones. An extension that must be understood (`crit`) is not.
//! - Nothing is read leniently that another reader could read otherwise: base64url has no padding and no
//!   spare bits, an object has no name twice, and sizes and depths have bounds.

mod base64url;
mod json;
mod keys;
mod status;
mod token;

pub use keys::{Keys, KeysError, Skipped, minimal};
pub use status::Status;
pub use token::{Algorithm, Times, Token};

/// Longest token that is read, in bytes.
pub const MAX_TOKEN: usize = 32 << 10;
/// Longest key set that is read, in bytes.
pub const MAX_KEY_SET: usize = 256 << 10;
/// Most keys of a set; a token without `kid` is tried with each.
pub const MAX_KEYS: usize = 64;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wycheproof;
