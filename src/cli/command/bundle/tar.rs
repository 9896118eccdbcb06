//! A compressed tar archive (POSIX ustar), as `tar xzf` reads it.

use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Every part of an archive is filled up to this.
const BLOCK: usize = 512;
/// Longest name, and longest part before its last directory.
const NAME: usize = 100;
const PREFIX: usize = 155;

/// An archive that is being written to memory.
pub(super) struct Archive {
    packed: GzEncoder<Vec<u8>>,
    /// Seconds since 1970 that every file is of.
    at: u64,
}

impl Archive {
    pub(super) fn new(at: u64) -> Self {
        Self {
            packed: GzEncoder::new(Vec::new(), Compression::default()),
            at,
        }
    }

    /// Adds a file for its owner alone.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.packed
            .write_all(&header(name, bytes.len(), self.at)?)?;
        self.packed.write_all(bytes)?;
        let over = bytes.len() % BLOCK;
        if over > 0 {
            self.packed.write_all(&vec![0; BLOCK - over])?;
        }
        Ok(())
    }

    /// The whole of it.
    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.packed.write_all(&[0; 2 * BLOCK])?;
        self.packed.finish()
    }
}

fn header(name: &str, size: usize, at: u64) -> io::Result<Vec<u8>> {
    let (prefix, name) =
        split(name).ok_or_else(|| io::Error::other(format!("the name is too long: {name}")))?;
    let mut block = Vec::with_capacity(BLOCK);
    let mut field = |bytes: &[u8], length: usize| {
        block.extend_from_slice(bytes);
        block.resize(block.len() + length.saturating_sub(bytes.len()), 0);
    };
    field(name.as_bytes(), NAME);
    field(b"0000600\0", 8);
    field(b"0000000\0", 8);
    field(b"0000000\0", 8);
    field(format!("{size:011o}\0").as_bytes(), 12);
    field(format!("{at:011o}\0").as_bytes(), 12);
    // The sum is taken with blanks in its place.
    field(b"        ", 8);
    field(b"0", 1);
    field(b"", 100);
    field(b"ustar\x0000", 8);
    field(b"", 32 + 32 + 8 + 8);
    field(prefix.as_bytes(), PREFIX);
    block.resize(BLOCK, 0);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    for (to, from) in block.iter_mut().skip(148).zip(sum.bytes()) {
        *to = from;
    }
    Ok(block)
}

/// A name in two parts that fit, at a slash.
fn split(name: &str) -> Option<(&str, &str)> {
    if name.len() <= NAME {
        return Some(("", name));
    }
    name.match_indices('/')
        .filter_map(|(at, _)| name.split_at_checked(at))
        .map(|(prefix, rest)| (prefix, rest.trim_start_matches('/')))
        .find(|(prefix, rest)| prefix.len() <= PREFIX && rest.len() <= NAME)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_header_has_its_sum_and_files_fill_blocks() {
        let mut archive = Archive::new(1_800_000_000);
        archive.add("a/b.txt", b"hello").unwrap();
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(90));
        archive.add(&long, b"").unwrap();
        assert!(archive.add(&"x".repeat(300), b"").is_err());
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(archive.finish().unwrap().as_slice())
            .read_to_end(&mut bytes)
            .unwrap();
        assert_eq!(bytes.len(), 5 * BLOCK);
        assert!(bytes.starts_with(b"a/b.txt\0"));
        let mut first = bytes[..BLOCK].to_vec();
        let sum = String::from_utf8(first[148..154].to_vec()).unwrap();
        first[148..156].fill(b' ');
        let real: u32 = first.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(u32::from_str_radix(&sum, 8).unwrap(), real);
        assert_eq!(&bytes[BLOCK..BLOCK + 5], b"hello");
    }
}
