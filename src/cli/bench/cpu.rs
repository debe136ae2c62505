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
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn work_shows() {
        // Another process: threads of this one, which other tests run in, end at any time.
        let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while of(busy.id()).is_none_or(|took| took < 100_000) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = of(busy.id());
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(took.is_some_and(|took| took >= 100_000), "{took:?} ns");
        assert_eq!(of(u32::MAX), None);
    }
}
