//! What this process, or another, uses of memory, files and CPU, as the kernel says.

use std::fs;
use std::time::Duration;

const PAGE: u64 = 4096;

/// Bytes of memory that the process keeps resident.
pub fn resident() -> Option<u64> {
    resident_of(std::process::id())
}

/// Bytes of memory that process `pid` keeps resident.
pub fn resident_of(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE)
}

/// Time that all threads of process `pid` have been on a CPU, by the scheduler's clock; threads that
/// ended count no more.
pub fn cpu_of(pid: u32) -> Option<Duration> {
    let mut nanos = 0_u64;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // A thread that ends while it is looked at.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else {
            continue;
        };
        nanos += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (nanos > 0).then(|| Duration::from_nanos(nanos))
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
    fn work_takes_time_on_a_cpu() {
        let own = std::process::id();
        let before = cpu_of(own).unwrap();
        let mut sum = 0_u64;
        while cpu_of(own).unwrap() < before + Duration::from_millis(5) {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(sum > 0);
        assert_eq!(cpu_of(u32::MAX), None);
    }

    #[test]
    fn an_open_file_counts() {
        let before = open_files().unwrap();
        let _file = fs::File::open("/proc/self/statm").unwrap();
        assert!(open_files().unwrap() > before);
        assert!(resident().unwrap() > 1 << 20);
    }
}
