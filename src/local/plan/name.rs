//! Names like those that Kubernetes gives, the same ones for the same seed.

use std::path::Path;

use crate::local::spec::{Workload, WorkloadKind};

/// Kubernetes' alphabet for random suffixes: no vowels, nothing that looks like another.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The seed that belongs to a home, so that its pods keep their names and addresses.
pub fn seed(home: &Path) -> u64 {
    fnv(home.as_os_str().as_encoded_bytes(), FNV_BASIS)
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

pub(super) fn pod_name(workload: &Workload, replica: u32, seed: u64) -> String {
    match workload.kind {
        WorkloadKind::Pod => workload.name.clone(),
        WorkloadKind::StatefulSet => format!("{}-{replica}", workload.name),
        WorkloadKind::Deployment => {
            // The template decides the first part, so it changes when the template does.
            let template = serde_json::to_vec(&workload.pod).unwrap_or_default();
            let template = fnv(&template, FNV_BASIS);
            let own = fnv(
                format!("{}/{}/{replica}", workload.namespace, workload.name).as_bytes(),
                seed ^ FNV_BASIS,
            );
            format!(
                "{}-{}-{}",
                workload.name,
                letters(template, 9),
                letters(own, 5)
            )
        }
    }
}

/// FNV-1a, then mixed, since its low bits alone are weak.
fn fnv(bytes: &[u8], basis: u64) -> u64 {
    let mut hash = bytes.iter().fold(basis, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ hash >> 33
}

fn letters(mut number: u64, count: usize) -> String {
    let base = 27_u64;
    let mut out = String::with_capacity(count);
    for _ in 0..count {
        let index = usize::try_from(number % base).unwrap_or(0);
        out.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'b')));
        number /= base;
    }
    out
}
