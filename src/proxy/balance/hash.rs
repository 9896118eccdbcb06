//! Envoy's hash functions: xxHash64, and the MurmurHash2 (64 bits) of the C++ standard library.

use std::fmt::Write as _;
use std::net::IpAddr;

const PRIME1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PRIME3: u64 = 0x1656_67B1_9E37_79F9;
const PRIME4: u64 = 0x85EB_CA77_C2B2_AE63;
const PRIME5: u64 = 0x27D4_EB2F_1656_67C5;

/// xxHash64 of `data`.
pub(crate) fn xx64(data: &[u8], seed: u64) -> u64 {
    let mut rest = data;
    let mut hash = if data.len() >= 32 {
        let mut lanes = [
            seed.wrapping_add(PRIME1).wrapping_add(PRIME2),
            seed.wrapping_add(PRIME2),
            seed,
            seed.wrapping_sub(PRIME1),
        ];
        while let Some((stripe, after)) = rest.split_first_chunk::<32>() {
            for (lane, word) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
                *lane = round(*lane, little(word));
            }
            rest = after;
        }
        let [a, b, c, d] = lanes;
        let mut hash = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        for lane in lanes {
            hash = (hash ^ round(0, lane))
                .wrapping_mul(PRIME1)
                .wrapping_add(PRIME4);
        }
        hash
    } else {
        seed.wrapping_add(PRIME5)
    };
    hash = hash.wrapping_add(u64::try_from(data.len()).unwrap_or(0));
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        hash = (hash ^ round(0, little(word)))
            .rotate_left(27)
            .wrapping_mul(PRIME1)
            .wrapping_add(PRIME4);
        rest = after;
    }
    if let Some((word, after)) = rest.split_first_chunk::<4>() {
        hash = (hash ^ little(word).wrapping_mul(PRIME1))
            .rotate_left(23)
            .wrapping_mul(PRIME2)
            .wrapping_add(PRIME3);
        rest = after;
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(PRIME5))
            .rotate_left(11)
            .wrapping_mul(PRIME1);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(PRIME2);
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(PRIME3);
    hash ^ (hash >> 32)
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(PRIME2))
        .rotate_left(31)
        .wrapping_mul(PRIME1)
}

fn little(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

/// MurmurHash2 as `std::hash` of libstdc++ has it, with its seed (Envoy's `MURMUR_HASH_2`).
pub(crate) fn murmur2(data: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let length = u64::try_from(data.len()).unwrap_or(0);
    let mut hash = SEED ^ length.wrapping_mul(MULTIPLIER);
    let words = data.chunks_exact(8);
    let rest = words.remainder();
    for word in words {
        let word = mix(little(word).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        hash = (hash ^ little(rest)).wrapping_mul(MULTIPLIER);
    }
    hash = mix(hash).wrapping_mul(MULTIPLIER);
    mix(hash)
}

/// The hash of a caller's address.
pub(crate) fn source_ip(address: IpAddr) -> u64 {
    let mut text = String::with_capacity(40);
    // Writing to a `String` cannot fail.
    let _infallible = write!(text, "{}", address.to_canonical()).is_ok();
    xx64(text.as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the reference library and libstdc++ say.
    #[test]
    fn hashes_are_those_of_the_reference() {
        for (text, seed, hash) in [
            ("", 0, 17_241_709_254_077_376_921_u64),
            ("foo", 0, 3_728_699_739_546_630_719),
            ("127.0.0.1:90_0", 0, 16_117_243_373_044_804_889),
            ("127.0.0.1:90_0", 1, 15_580_919_109_578_915_572),
            (&"a".repeat(33), 0, 1_798_061_103_824_220_747),
            (&"a".repeat(100), 0, 3_985_758_137_895_276_467),
            (&"a".repeat(100), 1, 7_327_231_169_516_906_010),
            (
                "Nobody inspects the spammish repetition",
                0,
                18_144_624_926_692_707_313,
            ),
        ] {
            assert_eq!(xx64(text.as_bytes(), seed), hash, "{text}");
        }
        for (text, hash) in [
            ("", 6_142_509_188_972_423_790_u64),
            ("a", 4_993_892_634_952_068_459),
            ("hello", 2_762_169_579_135_187_400),
            ("hello, world", 4_795_077_891_475_041_234),
            ("127.0.0.1:80_12", 4_625_759_345_738_680_431),
        ] {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
    }
}
