//! Chains that have been verified before.
//!
//! A peer of the mesh connects again and again with the certificate that it has for a day, and the
//! signatures of its chain are a seventh of a handshake. That the peer holds the key is proved anew
//! each time; what its chain says is the same as before.

use std::sync::{Mutex, PoisonError};

use rustls_pki_types::{CertificateDer, UnixTime};

use super::material::validity;
use crate::rt;

/// More than the callers that one proxy has in a day, at 60 bytes each.
const MOST: usize = 4096;

/// Which chains were found good, and when they are. Belongs to one set of roots and one purpose: what
/// else decides about a chain must be part of the key, or throw this away.
#[derive(Debug, Default)]
pub(super) struct Verified {
    chains: Mutex<rt::HashMap<Fingerprint, Life>>,
}

/// SHA-256 of a chain.
pub(super) type Fingerprint = [u8; 32];

/// Seconds since 1970, both inclusive.
#[derive(Debug, Clone, Copy)]
struct Life {
    begins: u64,
    ends: u64,
}

impl Life {
    fn holds(self, now: UnixTime) -> bool {
        (self.begins..=self.ends).contains(&now.as_secs())
    }
}

impl Verified {
    /// Whether the chain of this fingerprint was found good and none of its certificates has ended.
    pub(super) fn holds(&self, chain: &Fingerprint, now: UnixTime) -> bool {
        let chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        chains.get(chain).is_some_and(|life| life.holds(now))
    }

    /// Takes note of a chain that was found good.
    pub(super) fn add(
        &self,
        chain: Fingerprint,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) {
        let Some(life) = life(leaf, intermediates) else {
            return;
        };
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= MOST {
            chains.retain(|_, life| life.holds(now));
        }
        if chains.len() >= MOST {
            chains.clear();
        }
        chains.insert(chain, life);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.chains.lock().unwrap().len()
    }
}

/// What a chain is known by. The lengths are part of it, so that no two chains are the same bytes.
pub(super) fn fingerprint(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Fingerprint {
    let certificates = || std::iter::once(leaf).chain(intermediates);
    let size = certificates()
        .map(|certificate| certificate.len() + 8)
        .sum();
    let mut bytes = Vec::with_capacity(size);
    for certificate in certificates() {
        bytes.extend_from_slice(&certificate.len().to_be_bytes());
        bytes.extend_from_slice(certificate);
    }
    super::sha256(&bytes)
}

/// When all certificates of a chain are valid; those that the path does not need shorten it too.
fn life(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<Life> {
    let (begins, ends) = std::iter::once(leaf).chain(intermediates).try_fold(
        (0, u64::MAX),
        |(begins, ends), certificate| {
            let (begin, end) = validity(certificate).ok()?;
            Some((begins.max(begin), ends.min(end)))
        },
    )?;
    Some(Life {
        // Up to the next whole second: too late rather than too early.
        begins: begins.div_ceil(1000),
        ends: ends / 1000,
    })
}
