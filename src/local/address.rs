//! Which addresses the pods of one `up` have, picked so that two meshes on a machine do not meet.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use super::LocalError;

/// 1 024 addresses for each `up`: the first is the host's side, the pods follow.
const BLOCK: u32 = 1024;

/// Nobody is expected here; whoever listens on it owns the block.
const CLAIM_PORT: u16 = 15_079;

/// How many blocks are tried before giving up.
const TRIES: u32 = 48;

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: u32,
}

impl Network {
    /// The prefix length of a block.
    pub const PREFIX: u8 = 22;

    /// The block that begins at `base`.
    pub fn new(base: Ipv4Addr) -> Self {
        Self {
            base: u32::from(base) & !(BLOCK - 1),
        }
    }

    /// The host's side: the bridge, or where the control plane may listen.
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base | 1)
    }

    /// The address of the `index`th pod; `None` when the block is used up.
    pub fn pod(self, index: u32) -> Option<Ipv4Addr> {
        // The last address of a block is its broadcast address.
        (index < BLOCK - 3).then(|| Ipv4Addr::from(self.base + 2 + index))
    }

    /// How many pods have an address.
    pub fn capacity() -> u32 {
        BLOCK - 3
    }

    fn holds(self, address: Ipv4Addr) -> bool {
        u32::from(address) & !(BLOCK - 1) == self.base
    }
}

/// A block that is ours until this is dropped.
#[derive(Debug)]
pub struct Claim {
    /// The block.
    pub network: Network,
    _owner: TcpListener,
}

/// A free block of loopback addresses, the same one for the same `seed` where possible.
pub fn claim_loopback(seed: u64) -> Result<Claim, LocalError> {
    // 127.16.0.0 to 127.239.255.255: clear of 127.0.0.1, of resolvers at 127.0.0.53 and the like.
    let blocks = 224 * 64;
    claim(seed, blocks, 127 << 24 | 16 << 16, |_| true)
        .ok_or(LocalError::NoAddresses("127.0.0.0/8"))
}

/// A free block of 10.77.0.0/16 that no interface of this machine uses.
pub fn claim_bridge(seed: u64) -> Result<Claim, LocalError> {
    let used: Vec<Ipv4Addr> = nix::ifaddrs::getifaddrs()
        .map(|all| {
            all.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
                .collect()
        })
        .unwrap_or_default();
    // The claim is made on the loopback block of the same number: 127.77.x.1.
    let claim = claim(seed, 64, 127 << 24 | 77 << 16, |network| {
        let bridge = bridge_block(network);
        !used.iter().any(|address| bridge.holds(*address))
    });
    claim
        .map(|claim| Claim {
            network: bridge_block(claim.network),
            ..claim
        })
        .ok_or(LocalError::NoAddresses("10.77.0.0/16"))
}

fn bridge_block(loopback: Network) -> Network {
    Network {
        base: loopback.base & 0x00ff_ffff | 10 << 24,
    }
}

fn claim(seed: u64, blocks: u32, first: u32, free: impl Fn(Network) -> bool) -> Option<Claim> {
    let start = u32::try_from(seed % u64::from(blocks)).unwrap_or(0);
    (0..TRIES.min(blocks)).find_map(|step| {
        let network = Network {
            base: first + (start + step) % blocks * BLOCK,
        };
        if !free(network) {
            return None;
        }
        let owner = TcpListener::bind((IpAddr::V4(network.host()), CLAIM_PORT)).ok()?;
        Some(Claim {
            network,
            _owner: owner,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_twice_gives_two_blocks() {
        let first = claim_loopback(0xfeed_0001).unwrap();
        let second = claim_loopback(0xfeed_0001).unwrap();
        assert_ne!(first.network, second.network);
        let freed = first.network;
        drop(first);
        assert_eq!(claim_loopback(0xfeed_0001).unwrap().network, freed);
    }

    #[test]
    fn a_block_ends_before_its_broadcast_address() {
        let network = Network::new(Ipv4Addr::new(10, 77, 4, 9));
        assert_eq!(network.host().to_string(), "10.77.4.1");
        assert_eq!(network.pod(0).unwrap().to_string(), "10.77.4.2");
        let last = network.pod(Network::capacity() - 1).unwrap();
        assert_eq!(last.to_string(), "10.77.7.254");
        assert_eq!(network.pod(Network::capacity()), None);
    }
}
