//! Giving back memory that only the start needed.

use std::fs;

/// Lets the kernel take back the pages of code and constants; what is still used is mapped again from
/// the page cache when it is touched. The kernel maps 64 KiB around each first touch, so that a start
/// leaves 16 MB of the program resident, of which a sidecar goes on to use a fifth.
pub fn release_code() {
    let Ok(mappings) = fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for (start, length) in untouched(&mappings) {
        drop_pages(start, length);
    }
}

/// Start and length of what is mapped from files, cannot be written, and never was: of a page that
/// was (a relocated table), the file has no copy.
fn untouched(mappings: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in mappings.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        if first == "Anonymous:" {
            found.extend(candidate.take().filter(|_| second == "0"));
        } else if !first.ends_with(':') {
            let file = words.nth(3).is_some_and(|path| path.starts_with('/'));
            candidate = (file && matches!(second, "r-xp" | "r--p"))
                .then(|| range(first))
                .flatten();
        }
    }
    found
}

fn range(words: &str) -> Option<(usize, usize)> {
    let (start, end) = words.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[expect(
    unsafe_code,
    reason = "there is no safe call; what is dropped is read again from its file"
)]
fn drop_pages(start: usize, length: usize) {
    let Some(address) = std::ptr::NonNull::new(std::ptr::without_provenance_mut(start)) else {
        return;
    };
    // SAFETY: the range is a private mapping of a file that cannot be written and has no page of its
    // own (`Anonymous: 0`), so the kernel finds the same bytes in the file at the next touch.
    let dropped = unsafe {
        nix::sys::mman::madvise(address, length, nix::sys::mman::MmapAdvise::MADV_DONTNEED)
    };
    if let Err(error) = dropped {
        tracing::debug!(%error, "pages stay resident");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_file_still_has_is_released() {
        let mappings = "\
1000-3000 r--p 00000000 fe:00 1                          /opt/meshctl
Rss:                 100 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
3000-8000 r-xp 00002000 fe:00 1                          /opt/meshctl
Anonymous:             0 kB
8000-9000 r--p 00007000 fe:00 1                          /opt/meshctl
Anonymous:             4 kB
9000-a000 rw-p 00008000 fe:00 1                          /opt/meshctl
Anonymous:             0 kB
c000-d000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
e000-f000 r--p 00000000 00:00 0 
Anonymous:             0 kB
";
        assert_eq!(untouched(mappings), [(0x1000, 0x2000), (0x3000, 0x5000)]);
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        release_code();
        assert_eq!(untouched("nonsense\n\n1 r-xp x"), []);
    }
}
