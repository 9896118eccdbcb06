//! How much of its memory and files this process uses, as the kernel says.

use std::fs;

const PAGE: u64 = 4096;

/// Bytes of memory that the process keeps resident.
pub fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE)
}

/// Bytes of memory used by and allowed to the process's control group; `None` without a limit.
pub fn group_memory() -> Option<(u64, u64)> {
    let number = |path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max")?;
    Some((number("/sys/fs/cgroup/memory.current")?, limit))
}

/// Files that the process has open.
pub fn open_files() -> Option<u64> {
    // Linux says it since 6.2; with 100,000 connections a list would take 50 ms.
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size);
    }
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    // The directory itself is open while it is read.
    u64::try_from(count)
        .ok()
        .map(|count| count.saturating_sub(1))
}

/// Files that the process may have open; `None` without a limit.
pub fn most_files() -> Option<u64> {
    files_limit(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn files_limit(limits: &str) -> Option<u64> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 4096                 files\n";
        assert_eq!(files_limit(text), Some(1024));
        assert_eq!(
            files_limit("Max open files  unlimited  unlimited  files"),
            None
        );
    }

    #[test]
    fn an_open_file_counts() {
        let before = open_files().unwrap();
        let _file = fs::File::open("/proc/self/statm").unwrap();
        assert!(open_files().unwrap() > before);
        assert!(resident().unwrap() > 1 << 20);
    }
}
