//! Session tickets with an age limit that is checked, not only hinted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::ProducesTickets;

use super::Error;
use crate::rt::{UnixMillis, Wall};

/// The longest that a ticket resumes a session. Resumption skips the certificates, so this is also
/// how long a peer may go on opening connections after its certificate ended.
pub(super) const LONGEST: Duration = Duration::from_mins(10);

/// rustls' ticketer forgets keys after twelve hours, too long beside short-lived certificates; the
/// time of issue goes inside the encrypted ticket and is compared when it comes back.
pub(super) struct ShortTickets {
    inner: Arc<dyn ProducesTickets>,
    lifetime: Duration,
    wall: Wall,
}

impl ShortTickets {
    /// Fresh keys, never shared between two configurations.
    pub(super) fn new(lifetime: Duration, wall: Wall) -> Result<Self, Error> {
        Ok(Self {
            inner: rustls::crypto::aws_lc_rs::Ticketer::new()?,
            lifetime: lifetime.clamp(Duration::from_secs(1), LONGEST),
            wall,
        })
    }
}

impl fmt::Debug for ShortTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShortTickets")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

impl ProducesTickets for ShortTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut dated = Vec::with_capacity(8 + plain.len());
        dated.extend_from_slice(&self.wall.millis().to_be_bytes());
        dated.extend_from_slice(plain);
        self.inner.encrypt(&dated)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let dated = self.inner.decrypt(cipher)?;
        let (issued, plain) = dated.split_first_chunk::<8>()?;
        let issued: UnixMillis = u64::from_be_bytes(*issued);
        // A clock set back makes the age negative: no resumption then, just a full handshake.
        let age = self.wall.millis().checked_sub(issued)?;
        (u128::from(age) <= self.lifetime.as_millis()).then(|| plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_resumes_until_its_age_limit_and_not_elsewhere() {
        let wall = Wall::fixed(1_000_000);
        let tickets = ShortTickets::new(Duration::from_secs(10), wall.clone()).unwrap();
        let ticket = tickets.encrypt(b"session").unwrap();
        wall.advance(Duration::from_secs(10));
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        wall.advance(Duration::from_millis(1));
        assert_eq!(tickets.decrypt(&ticket), None);
        let other = ShortTickets::new(Duration::from_secs(10), wall).unwrap();
        assert_eq!(other.decrypt(&tickets.encrypt(b"s").unwrap()), None);
    }
}
