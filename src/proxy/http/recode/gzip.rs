//! Compression as gzip (RFC 1952).

use std::cell::RefCell;
use std::fmt;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Compressors that wait for work, of each thread at most. Each is a third of a megabyte.
const KEPT: usize = 4;
/// Room that is made for output at a time.
const ROOM: usize = 4096;
/// Magic, deflate, no flags, no time, no extra flags, unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

thread_local! {
    static FREE: RefCell<Vec<(u8, Compress)>> = const { RefCell::new(Vec::new()) };
}

/// One body.
pub(crate) struct Gzip {
    /// There until it is given back.
    deflate: Option<Compress>,
    level: u8,
    check: Crc,
    begun: bool,
}

impl fmt::Debug for Gzip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gzip")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Gzip {
    /// At `level` from 1 (fast) to 9 (small); 0 is the usual.
    pub(crate) fn new(level: u8) -> Self {
        let kept = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            let at = free.iter().position(|(of, _)| *of == level)?;
            Some(free.swap_remove(at).1)
        });
        let deflate = kept.ok().flatten().unwrap_or_else(|| {
            let usual = Compression::default();
            let level = if level == 0 {
                usual
            } else {
                Compression::new(u32::from(level.min(9)))
            };
            Compress::new(level, false)
        });
        Self {
            deflate: Some(deflate),
            level,
            check: Crc::new(),
            begun: false,
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(&HEAD);
        }
    }

    pub(super) fn put(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.begin(out);
        self.check.update(data);
        self.run(data, FlushCompress::None, out);
    }

    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        self.run(&[], FlushCompress::Sync, out);
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        self.run(&[], FlushCompress::Finish, out);
        out.extend_from_slice(&self.check.sum().to_le_bytes());
        out.extend_from_slice(&self.check.amount().to_le_bytes());
    }

    fn run(&mut self, data: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
        let Some(deflate) = &mut self.deflate else {
            return;
        };
        let mut rest = data;
        loop {
            out.reserve(ROOM);
            let before = deflate.total_in();
            let status = deflate.compress_vec(rest, out, flush);
            let taken = usize::try_from(deflate.total_in() - before).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            // While it fills all the room that there is, it has more to say.
            let full = out.len() == out.capacity();
            match status {
                Ok(Status::Ok) if full || !rest.is_empty() => {}
                Ok(Status::Ok) if matches!(flush, FlushCompress::Finish) => {}
                // An error is that of a wrong call, of which there is none.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

impl Drop for Gzip {
    fn drop(&mut self) {
        let Some(mut deflate) = self.deflate.take() else {
            return;
        };
        deflate.reset();
        // While the thread ends there is nobody to keep it for.
        let _kept = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push((self.level, deflate));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn plain(packed: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(packed)
            .read_to_end(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn what_was_flushed_can_be_read_before_the_end() {
        let (mut gzip, mut out) = (Gzip::new(0), Vec::new());
        gzip.put(b"data: one\n\n", &mut out);
        gzip.flush(&mut out);
        let mut reader = flate2::read::GzDecoder::new(out.as_slice());
        let mut first = [0; 11];
        reader.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"data: one\n\n");
        gzip.finish(&mut out);
        assert_eq!(plain(&out), b"data: one\n\n");
    }

    proptest! {
        #[test]
        fn bodies_come_out_as_they_went_in(
            parts in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..20_000), any::<bool>()), 0..6),
            level in 0..10_u8,
        ) {
            let (mut gzip, mut out, mut whole) = (Gzip::new(level), Vec::new(), Vec::new());
            for (part, flush) in &parts {
                gzip.put(part, &mut out);
                whole.extend_from_slice(part);
                if *flush {
                    gzip.flush(&mut out);
                }
            }
            gzip.finish(&mut out);
            prop_assert_eq!(plain(&out), whole);
        }
    }
}
