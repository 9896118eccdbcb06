//! Giving back memory that only the start needed.

use std::fs;

/// Lets the kernel take back the pages of this program's code; what still runs is mapped again from
/// the page cache when it is touched. The kernel maps 64 KiB around each first touch, so that a start
/// leaves three quarters of the code resident (13 of 17 MB), of which a sidecar goes on to use a fifth.
pub fn release_code() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let Ok(program) = fs::read_link("/proc/self/exe") else {
        return;
    };
    for (start, length) in code(&maps, &program.to_string_lossy()) {
        drop_pages(start, length);
    }
}

/// Start and length of the executable, read-only mappings of `program`.
fn code(maps: &str, program: &str) -> Vec<(usize, usize)> {
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (range, rights) = (words.next()?, words.next()?);
            if rights != "r-xp" || !line.ends_with(program) {
                return None;
            }
            let (start, end) = range.split_once('-')?;
            let start = usize::from_str_radix(start, 16).ok()?;
            let end = usize::from_str_radix(end, 16).ok()?;
            Some((start, end.checked_sub(start)?))
        })
        .collect()
}

#[expect(
    unsafe_code,
    reason = "there is no safe call; the mapping is read-only and backed by the program's file"
)]
fn drop_pages(start: usize, length: usize) {
    let Some(address) = std::ptr::NonNull::new(std::ptr::without_provenance_mut(start)) else {
        return;
    };
    // SAFETY: the range is a private mapping that nobody can write to (`r-xp`), so it holds nothing
    // but what is in the file, and the kernel reads it from there again at the next touch.
    let dropped = unsafe {
        nix::sys::mman::madvise(address, length, nix::sys::mman::MmapAdvise::MADV_DONTNEED)
    };
    if let Err(error) = dropped {
        tracing::debug!(%error, "code pages stay resident");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_is_released() {
        let maps = "\
1000-3000 r--p 00000000 fe:00 1 /opt/meshctl
3000-8000 r-xp 00002000 fe:00 1 /opt/meshctl
8000-9000 rw-p 00007000 fe:00 1 /opt/meshctl
a000-b000 r-xp 00000000 fe:00 2 /lib/libc.so.6
c000-d000 rwxp 00000000 00:00 0
";
        assert_eq!(code(maps, "/opt/meshctl"), [(0x3000, 0x5000)]);
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        release_code();
        assert_eq!(code("nonsense\n\n1 r-xp x", "x"), []);
    }
}
