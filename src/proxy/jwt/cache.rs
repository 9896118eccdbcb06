//! Tokens whose signature was found good, by digest.
//!
//! One of each worker, so that nothing is locked. It holds two generations: when the young one is full,
//! it becomes the old one, and what was not asked for since is gone. Keys that change make another
//! provider, whose tokens are not found any more.

use std::sync::Arc;

use crate::jwt::Token;
use crate::mesh::claims::Claims;
use crate::rt::HashMap;

/// Longest token that is remembered.
pub(super) const MOST: usize = 8 << 10;
/// Tokens of a generation.
const TOKENS: usize = 256;

/// A provider, and the digest of a token.
pub(super) type Key = (u64, [u8; 32]);

/// A token that one of its issuer's keys signed.
#[derive(Debug, Clone)]
pub(super) struct Good {
    pub(super) token: Arc<Token>,
    pub(super) claims: Arc<Claims>,
}

/// Tokens of one worker.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    young: HashMap<Key, Good>,
    old: HashMap<Key, Good>,
}

impl Cache {
    pub(super) fn find(&mut self, key: Key) -> Option<Good> {
        if let Some(good) = self.young.get(&key) {
            return Some(good.clone());
        }
        let good = self.old.remove(&key)?;
        self.keep(key, good.clone());
        Some(good)
    }

    pub(super) fn keep(&mut self, key: Key, good: Good) {
        if self.young.len() >= TOKENS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, good);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
