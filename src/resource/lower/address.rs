//! Virtual addresses of services that were given none.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::mesh::Hostname;

/// Istio's range for addresses that it gives itself: reserved (class E), so no machine has one.
const FIRST: u32 = 0xF0F0_0000;
/// 240.240.0.0 and 240.240.255.255 are left out, as they look like a network and a broadcast.
const COUNT: u32 = 0xFFFE;

/// Its counterpart where a cluster has IPv6 alone: Istio's range too, of those for benchmarks.
const FIRST_V6: u128 = 0x2001_0002_0000_0000_0000_0000_0000_0000;

/// The address of `host`, of IPv6 where that is all that callers have: by its name, so it is the same tomorrow and on every machine; the next free
/// one where two names meet. `None` when the range is used up.
pub(super) fn allocate(host: &Hostname, v6: bool, taken: &mut BTreeSet<IpAddr>) -> Option<IpAddr> {
    let start = hash(host.as_str()) % COUNT;
    (0..COUNT)
        .map(|step| {
            let offset = (start + step) % COUNT;
            let v4 = FIRST + 1 + offset;
            if v6 {
                IpAddr::V6(Ipv6Addr::from(FIRST_V6 + u128::from(v4)))
            } else {
                IpAddr::V4(Ipv4Addr::from(v4))
            }
        })
        .find(|address| taken.insert(*address))
}

/// FNV-1a: stable over releases of the language, unlike its own hasher.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811C_9DC5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_stable_and_never_shared() {
        let host: Hostname = "reviews.default.svc.cluster.local".parse().unwrap();
        let mut taken = BTreeSet::new();
        let first = allocate(&host, false, &mut taken).unwrap();
        assert_eq!(allocate(&host, false, &mut BTreeSet::new()), Some(first));
        let second = allocate(&host, false, &mut taken).unwrap();
        assert_ne!(first, second);
        for number in 0..5000 {
            let host = Hostname::service(&format!("s{number}"), "default");
            let Some(IpAddr::V4(address)) = allocate(&host, false, &mut taken) else {
                panic!("{host}")
            };
            assert_eq!(address.octets()[..2], [240, 240]);
        }
        assert_eq!(taken.len(), 5002);
        let other = allocate(&host, true, &mut taken).unwrap().to_string();
        assert!(other.starts_with("2001:2::f0f0:"), "{other}");
    }
}
