//! How often one address may fail to prove who it is.
//!
//! A token has 256 random bits, so nobody guesses one; this keeps those who try from costing more than a refusal,
//! and from filling the log of refusals.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Failures at once.
const BURST: u32 = 10;
/// Then one in this time.
const EVERY: Duration = Duration::from_secs(6);
/// Addresses that are remembered; the one that has been quiet for longest makes room.
const MOST: usize = 4_096;

/// Failures by address.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: BTreeMap<IpAddr, (u32, Instant)>,
}

impl Throttle {
    /// Whether `from` has failed too often to be listened to now; how long until it is again.
    pub(super) fn refuses(&mut self, from: IpAddr, now: Instant) -> Option<Duration> {
        let (count, since) = self.recovered(whole(from), now)?;
        (count >= BURST).then(|| EVERY.saturating_sub(now.saturating_duration_since(since)))
    }

    /// Counts a failure of `from`.
    pub(super) fn failed(&mut self, from: IpAddr, now: Instant) {
        let from = whole(from);
        let (count, since) = self.recovered(from, now).unwrap_or((0, now));
        if !self.failures.contains_key(&from) && self.failures.len() >= MOST {
            let quiet = self.failures.iter().min_by_key(|(_, (_, since))| *since);
            let quiet = quiet.map(|(address, _)| *address);
            quiet.and_then(|address| self.failures.remove(&address));
        }
        self.failures
            .insert(from, (count.saturating_add(1).min(BURST), since));
    }

    /// What is left of the failures of `from`.
    fn recovered(&mut self, from: IpAddr, now: Instant) -> Option<(u32, Instant)> {
        let (count, since) = self.failures.get_mut(&from)?;
        while *count > 0 && now.saturating_duration_since(*since) >= EVERY {
            *count -= 1;
            *since += EVERY;
        }
        if *count == 0 {
            self.failures.remove(&from);
            return None;
        }
        Some((*count, *since))
    }
}

/// Whoever has one address of a network of IPv6 has all of it.
pub(super) fn whole(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    v6.to_ipv4_mapped().map_or_else(
        || IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        IpAddr::V4,
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_failures_at_once_then_one_in_six_seconds() {
        let mut throttle = Throttle::default();
        let (bad, good): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(throttle.refuses(bad, start), None);
            throttle.failed(bad, start);
        }
        assert_eq!(throttle.refuses(bad, start), Some(EVERY));
        assert_eq!(throttle.refuses(good, start), None);
        let later = start + EVERY;
        assert_eq!(throttle.refuses(bad, later), None);
        throttle.failed(bad, later);
        assert!(throttle.refuses(bad, later).is_some());
        let much_later = later + EVERY * BURST;
        assert_eq!(throttle.refuses(bad, much_later), None);
        assert!(throttle.failures.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_caller_and_memory_is_bounded() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        for last in 0..BURST {
            throttle.failed(format!("2001:db8::{last:x}").parse().unwrap(), now);
        }
        let other: IpAddr = "2001:db8::ffff".parse().unwrap();
        assert!(throttle.refuses(other, now).is_some());
        assert_eq!(
            whole("::ffff:10.0.0.1".parse().unwrap()),
            "10.0.0.1".parse::<IpAddr>().unwrap()
        );
        for address in 0..20_000_u32 {
            throttle.failed(
                Ipv4Addr::from_bits(address).into(),
                now + Duration::from_millis(1),
            );
        }
        assert_eq!(throttle.failures.len(), MOST);
    }
}
