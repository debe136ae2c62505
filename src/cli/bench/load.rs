//! The load that was asked for, checked: every number in its range, every combination meant.

use crate::cli::Failure;
use crate::cli::args::BenchArgs;
use crate::control::config::values;
use crate::limits::{CLIENTS_PER_EXPORT_MAX, NBD_PAYLOAD_MAX, REQUESTS_PER_LANE_MAX};
use std::fmt;
use std::ops::RangeInclusive;

/// Smallest request, bytes: no block device has smaller blocks.
const SIZE_MIN: u64 = 512;
/// Longest run, seconds: a week.
const SECONDS_MAX: u64 = 7 * 24 * 3600;
/// Highest rate of the open loop, requests per second.
const RATE_MAX: u64 = 10_000_000;

/// What is asked of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Of hundred requests, how many are reads.
    pub read_percent: u32,
    /// One block after the other instead of anywhere.
    pub sequential: bool,
    /// Bytes per request.
    pub size: u32,
    /// Requests in flight on each connection.
    pub depth: usize,
    /// NBD connections.
    pub connections: usize,
    /// Threads that drive them.
    pub threads: usize,
    /// Measured time.
    pub seconds: u64,
    /// Time before it.
    pub ramp: u64,
    /// Requests per second of all connections together.
    pub rate: Option<u64>,
    /// Compare what comes back with what was written.
    pub verify: bool,
}

impl Load {
    /// From the flags.
    ///
    /// # Errors
    /// Exit code 2 with the flag, the range and the reason.
    pub fn new(args: &BenchArgs) -> Result<Load, Failure> {
        let read_percent = match (args.write, args.mixed) {
            (true, _) => 0,
            (false, Some(percent)) => percent,
            (false, None) => 100,
        };
        let connections = within("--connections", args.connections, 1..=CLIENTS_PER_EXPORT_MAX)?;
        let load = Load {
            read_percent: within("--mixed", read_percent, 0..=100)?,
            sequential: args.sequential,
            size: size(&args.size)?,
            depth: within("--depth", args.depth, 1..=REQUESTS_PER_LANE_MAX)?,
            connections,
            threads: within("--threads", args.threads, 1..=connections).map_err(
                |mut failure| {
                    failure.messages[0].push_str(" (a connection belongs to one thread)");
                    failure
                },
            )?,
            seconds: within("--seconds", args.seconds, 1..=SECONDS_MAX)?,
            ramp: within("--ramp", args.ramp, 0..=SECONDS_MAX)?,
            rate: args.rate.map(|rate| within("--rate", rate, 1..=RATE_MAX)).transpose()?,
            verify: args.verify,
        };
        if load.writes() && !args.destructive {
            return Err(Failure::wrong(
                "--write, --mixed: they overwrite what is on the device, anywhere; \
                 try: --destructive, if nothing on it is needed any more",
            ));
        }
        if load.verify && !load.writes() {
            return Err(Failure::wrong(
                "--verify: only what this run has written can be checked; \
                 try: --write --verify or --mixed --verify",
            ));
        }
        Ok(load)
    }

    /// Whether it changes the device.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.read_percent < 100
    }

    /// `read`, `write` or `mixed`.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match self.read_percent {
            100 => "read",
            0 => "write",
            _ => "mixed",
        }
    }

    /// `random` or `sequential`.
    #[must_use]
    pub fn pattern(&self) -> &'static str {
        if self.sequential { "sequential" } else { "random" }
    }
}

impl fmt::Display for Load {
    /// `random read, 4 KiB, depth 32, 1 connection`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pattern(), self.mode())?;
        if self.mode() == "mixed" {
            write!(f, " ({} % reads)", self.read_percent)?;
        }
        write!(f, ", {}, depth {}", values::size_text(self.size.into()), self.depth)?;
        match self.connections {
            1 => f.write_str(", 1 connection")?,
            n => write!(f, " on each of {n} connections")?,
        }
        match self.rate {
            Some(rate) => write!(f, ", {rate} requests/s"),
            None => Ok(()),
        }
    }
}

/// `4k`, `128k`, `1m`, `4KiB`, or a number of bytes.
fn size(text: &str) -> Result<u32, Failure> {
    const HINT: &str = "512, 4k, 128k or 1m";
    let unit = match text.bytes().last() {
        Some(b'k' | b'K') => Some("KiB"),
        Some(b'm' | b'M') => Some("MiB"),
        _ => None,
    };
    let whole = match unit {
        Some(unit) => format!("{}{unit}", &text[..text.len() - 1]),
        None => text.to_owned(),
    };
    let wrong = |problem: String| Failure::wrong(format!("--size: {problem}; try: {HINT}"));
    let bytes = values::size(&whole).map_err(|_| wrong(format!("{text:?} is not a size")))?;
    let range = SIZE_MIN..=u64::from(NBD_PAYLOAD_MAX);
    if !range.contains(&bytes) || !bytes.is_multiple_of(SIZE_MIN) {
        return Err(wrong(format!(
            "{text} is out of range: a multiple of {SIZE_MIN} up to {}",
            values::size_text(NBD_PAYLOAD_MAX.into())
        )));
    }
    Ok(bytes as u32)
}

fn within<T: PartialOrd + fmt::Display + Copy>(
    flag: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, Failure> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (range.start(), range.end());
    Err(Failure::wrong(format!("{flag}: {value} is out of range; try: {low} to {high}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn load(words: &str) -> Result<Load, Failure> {
        let words = format!("mpio bench vm0 {words}");
        match Cli::try_parse_from(words.split_whitespace()).unwrap().command {
            Command::Bench(args) => Load::new(&args),
            _ => panic!("not bench"),
        }
    }

    #[test]
    fn what_is_said_is_what_is_done() {
        let said = |words| load(words).unwrap().to_string();
        assert_eq!(said(""), "random read, 4 KiB, depth 32, 1 connection");
        assert_eq!(
            said("--write --destructive --size 128k --depth 16 --sequential --connections 4"),
            "sequential write, 128 KiB, depth 16 on each of 4 connections"
        );
        assert_eq!(
            said("--mixed --destructive --rate 1000"),
            "random mixed (70 % reads), 4 KiB, depth 32, 1 connection, 1000 requests/s"
        );
        assert_eq!(load("--mixed=30 --destructive").unwrap().read_percent, 30);
        assert_eq!(load("--size 1m").unwrap().size, 1 << 20);
        assert_eq!(load("--size 4KiB").unwrap().size, 4096);
    }

    #[test]
    fn out_of_range_is_exit_code_2_and_says_the_range() {
        for (words, part) in [
            ("--depth 0", "--depth: 0 is out of range; try: 1 to 1024"),
            ("--depth 1025", "1 to 1024"),
            ("--size 0", "out of range"),
            ("--size 100", "a multiple of 512 up to 32 MiB"),
            ("--size 33m", "out of range"),
            ("--size big", "\"big\" is not a size; try: 512, 4k"),
            ("--size k", "is not a size"),
            ("--size 9999999999999999999k", "is not a size"),
            ("--seconds 0", "--seconds: 0 is out of range"),
            ("--connections 257", "1 to 256"),
            ("--threads 2", "1 to 1 (a connection belongs to one thread)"),
            ("--rate 0", "--rate"),
            ("--mixed=101 --destructive", "--mixed: 101"),
            ("--write", "--destructive"),
            ("--mixed", "--destructive"),
            ("--verify", "--write --verify"),
        ] {
            let failure = load(words).unwrap_err();
            let text = failure.messages.join("\n");
            assert!(failure.code == 2 && text.contains(part) && text.contains("; try: "), "{text}");
        }
    }
}
