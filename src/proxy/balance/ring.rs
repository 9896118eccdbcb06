//! Endpoints placed by a hash, so that equal requests meet the same one: Envoy's ring and Maglev
//! table, entry for entry.

use crate::mesh::cluster::{HashFunction, RingHash};

use super::hash::{murmur2, xx64};
use super::{float, floor};

/// An endpoint to be placed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placed {
    /// What is hashed: its address.
    pub(crate) key: String,
    /// Share of the whole, of 1.
    pub(crate) share: f64,
    /// What is found.
    pub(crate) index: u32,
}

/// Points with endpoints, sorted.
#[derive(Debug)]
pub(crate) struct Ring(Box<[(u64, u32)]>);

/// A table of endpoints.
#[derive(Debug)]
pub(crate) struct Maglev(Box<[u32]>);

impl Ring {
    /// Every endpoint gets a number of points by its share, and the least one a whole number.
    pub(crate) fn new(placed: &[Placed], config: &RingHash) -> Self {
        let least = placed.iter().map(|p| p.share).fold(1.0_f64, f64::min);
        if placed.is_empty() || least <= 0.0 {
            return Self(Box::default());
        }
        let scale = ((least * float(config.min_size)).ceil() / least).min(float(config.max_size));
        let mut ring = Vec::with_capacity(usize::try_from(floor(scale.ceil())).unwrap_or(0));
        let mut have = 0.0;
        let mut wanted = 0.0;
        let mut text = String::new();
        for endpoint in placed {
            wanted += scale * endpoint.share;
            let mut number = 0_u64;
            while have < wanted {
                text.clear();
                text.push_str(&endpoint.key);
                text.push('_');
                text.push_str(itoa::Buffer::new().format(number));
                let point = match config.function {
                    HashFunction::Xx => xx64(text.as_bytes(), 0),
                    HashFunction::Murmur2 => murmur2(text.as_bytes()),
                };
                ring.push((point, endpoint.index));
                number += 1;
                have += 1.0;
            }
        }
        ring.sort_unstable();
        Self(ring.into_boxed_slice())
    }

    /// The endpoint of the first point at or after `hash`; `skip` points further for another try.
    pub(crate) fn find(&self, hash: u64, skip: usize) -> Option<u32> {
        let at = self.0.partition_point(|(point, _)| *point < hash);
        let at = at.checked_add(skip)?.checked_rem(self.0.len())?;
        self.0.get(at).map(|(_, index)| *index)
    }
}

/// An endpoint's walk through the table.
struct Walk {
    index: u32,
    offset: u64,
    step: u64,
    taken: u64,
    share: f64,
    target: f64,
}

impl Maglev {
    /// Endpoints take turns, by weight, each the next free entry of its own permutation.
    pub(crate) fn new(placed: &[Placed], size: u32) -> Self {
        let size = u64::from(size.max(2));
        let most = placed.iter().map(|p| p.share).fold(0.0_f64, f64::max);
        // In a stable order: the entries depend on it.
        let mut sorted: Vec<&Placed> = placed.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let mut walks: Vec<Walk> = sorted
            .iter()
            .map(|endpoint| Walk {
                index: endpoint.index,
                offset: xx64(endpoint.key.as_bytes(), 0) % size,
                step: xx64(endpoint.key.as_bytes(), 1) % (size - 1) + 1,
                taken: 0,
                share: endpoint.share,
                target: 0.0,
            })
            .collect();
        if walks.is_empty() || most <= 0.0 {
            return Self(Box::default());
        }
        let mut table: Vec<Option<u32>> = vec![None; usize::try_from(size).unwrap_or(0)];
        let mut filled = 0;
        let mut turn = 0.0;
        while filled < table.len() {
            turn += 1.0;
            for walk in &mut walks {
                if filled == table.len() {
                    break;
                }
                if turn * walk.share < walk.target {
                    continue;
                }
                walk.target += most;
                // With a prime size it comes by every entry.
                for _ in 0..size {
                    let at = (walk.offset + walk.step * walk.taken) % size;
                    walk.taken += 1;
                    let entry = usize::try_from(at).ok().and_then(|at| table.get_mut(at));
                    if let Some(entry) = entry
                        && entry.is_none()
                    {
                        *entry = Some(walk.index);
                        filled += 1;
                        break;
                    }
                }
            }
        }
        Self(table.into_iter().flatten().collect())
    }

    /// The endpoint for `hash`; another one for another `attempt`.
    pub(crate) fn find(&self, hash: u64, attempt: usize) -> Option<u32> {
        let attempt = u64::try_from(attempt).unwrap_or(0);
        let hash = if attempt > 0 {
            hash ^ (u64::MAX - attempt + 1)
        } else {
            hash
        };
        let size = u64::try_from(self.0.len()).ok()?;
        let at = hash.checked_rem(size)?;
        self.0.get(usize::try_from(at).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(weights: &[u32]) -> Vec<Placed> {
        let sum: u32 = weights.iter().sum();
        (0_u32..)
            .zip(weights)
            .map(|(index, weight)| Placed {
                key: format!("127.0.0.1:{}", 90 + index),
                share: f64::from(*weight) / f64::from(sum),
                index,
            })
            .collect()
    }

    /// The ring of Envoy's own test (`RingHashLoadBalancerTest.Basic`: six hosts, twelve points).
    #[test]
    fn the_ring_is_envoys() {
        let config = RingHash {
            min_size: 12,
            ..RingHash::default()
        };
        let ring = Ring::new(&placed(&[1; 6]), &config);
        assert_eq!(ring.0.len(), 12);
        for (hash, port) in [
            (0, 94),
            (3_551_244_743_356_806_947, 95),
            (3_551_244_743_356_806_948, 93),
            (u64::MAX, 94),
        ] {
            assert_eq!(ring.find(hash, 0), Some(port - 90), "{hash}");
        }
        assert_eq!(ring.find(0, 1), ring.find(ring.0[0].0 + 1, 0));
    }

    /// The table of Envoy's own test (`MaglevLoadBalancerTest.Basic`: six hosts, seven entries).
    #[test]
    fn the_table_is_envoys() {
        let table = Maglev::new(&placed(&[1; 6]), 7);
        let ports: Vec<u32> = (0..7).map(|h| table.find(h, 0).unwrap() + 90).collect();
        assert_eq!(ports, [92, 94, 90, 91, 95, 90, 93]);
    }

    #[test]
    fn shares_follow_weights() {
        let weights = [1_u32, 2, 5];
        let ring = Ring::new(&placed(&weights), &RingHash::default());
        let table = Maglev::new(&placed(&weights), 65_537);
        for (index, weight) in (0_u32..).zip([1_usize, 2, 5]) {
            let points = ring.0.iter().filter(|(_, at)| *at == index).count();
            assert_eq!(points, 128 * weight, "{index}");
            let entries = table.0.iter().filter(|at| **at == index).count();
            assert!(entries.abs_diff(65_537 * weight / 8) < 8, "{entries}");
        }
    }

    #[test]
    fn few_requests_move_when_one_endpoint_goes() {
        let before = placed(&[1; 10]);
        let mut after = before.clone();
        after.remove(3);
        for place in &mut after {
            place.share = 1.0 / 9.0;
        }
        let moved = |find: &dyn Fn(&[Placed], u64) -> Option<u32>| {
            (0..2_000_u64)
                .map(|n| xx64(&n.to_le_bytes(), 0))
                .filter(|hash| {
                    let first = find(&before, *hash);
                    first != Some(3) && first != find(&after, *hash)
                })
                .count()
        };
        let config = RingHash::default();
        let rings = [Ring::new(&before, &config), Ring::new(&after, &config)];
        let by_ring = moved(&|of, hash| rings[usize::from(of.len() == 9)].find(hash, 0));
        // Those who stay get more points each, so that the ring keeps its size; these take some, too.
        assert!(by_ring < 250, "{by_ring}");
        let tables = [Maglev::new(&before, 65_537), Maglev::new(&after, 65_537)];
        let by_table = moved(&|of, hash| tables[usize::from(of.len() == 9)].find(hash, 0));
        // Envoy's turns are counted in floating point, which moves a few more than the paper's.
        assert!(by_table < 200, "{by_table}");
        assert!(Ring::new(&[], &config).find(7, 0).is_none());
        assert!(Maglev::new(&[], 7).find(7, 0).is_none());
    }
}
