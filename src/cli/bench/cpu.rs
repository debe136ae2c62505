//! Processor time of another process, with the scheduler's resolution.

use std::fs;

/// Nanoseconds on a processor, user and system, of all threads of `pid` so far; `None` when it is gone or is
/// not ours to look at.
#[must_use]
pub fn of(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut sum = 0;
    for task in tasks.flatten() {
        // First field of schedstat: time on a processor. A thread that ends meanwhile takes its part along.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum +=
            text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows() {
        let before = of(std::process::id()).unwrap();
        let mut x = 1u64;
        for i in 0..5_000_000u64 {
            x = std::hint::black_box(x.wrapping_mul(i | 1));
        }
        std::hint::black_box(x);
        let took = of(std::process::id()).unwrap() - before;
        assert!(took > 100_000, "{took} ns");
        assert_eq!(of(u32::MAX), None);
    }
}
