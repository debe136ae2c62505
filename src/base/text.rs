//! The syntax of durations and sizes, in configuration files and on the command line alike.
//!
//! Deliberately not here: which values are allowed where. That is told by who asks.

use super::Duration;
use core::fmt;

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub hint: String,
}

impl Wrong {
    /// From the two parts of the message.
    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Wrong {
        Wrong { problem: problem.into(), hint: hint.into() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; try: {}", self.problem, self.hint)
    }
}

/// `100us`, `250ms`, `5s`, `2m`, `1h`, `0`, `never` (which is [`Duration::MAX`]).
pub fn duration(text: &str) -> Result<Duration, Wrong> {
    const HINT: &str = "a duration such as 250ms, 5s, 2m or never";
    if text == "never" {
        return Ok(Duration::MAX);
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Wrong::new(format!("{text:?} is not a duration"), HINT));
    }
    let micros_per_unit = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "" => return Err(Wrong::new(format!("the duration {text:?} has no unit"), HINT)),
        _ => return Err(Wrong::new(format!("{unit:?} is not a unit of time"), HINT)),
    };
    let micros = number.parse::<u64>().ok().and_then(|n| n.checked_mul(micros_per_unit));
    // Longer than a century is a slip of the finger, and `never` is the word for it.
    match micros.filter(|&m| m <= 100 * 365 * 24 * 3_600_000_000) {
        Some(micros) => Ok(Duration::from_micros(micros)),
        None => Err(Wrong::new(format!("the duration {text:?} is too long"), "never")),
    }
}

/// A duration as it is written in the configuration.
#[must_use]
pub fn duration_text(d: Duration) -> String {
    const UNITS: [(u128, &str); 4] =
        [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")];
    let micros = d.as_micros();
    if d == Duration::MAX {
        return "never".to_owned();
    }
    if micros == 0 {
        return "0".to_owned();
    }
    match UNITS.iter().find(|(unit, _)| micros.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", micros / unit),
        None => format!("{micros}us"),
    }
}

/// `64MiB`, `512KiB`, `1GiB`, or a number of bytes.
pub fn size(text: &str) -> Result<u64, Wrong> {
    const HINT: &str = "a size such as 512KiB, 64MiB or 1GiB";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Wrong::new(format!("{text:?} is not a size"), HINT));
    }
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(Wrong::new(format!("{unit:?} is not a unit of size"), HINT)),
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)) {
        Some(bytes) => Ok(bytes),
        None => Err(Wrong::new(format!("the size {text:?} is too large"), HINT)),
    }
}

/// A size for people: the largest binary unit that keeps it short.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() < 0.05 || unit == 0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A size as it is written in the configuration: exact, in the largest unit that keeps it whole.
#[must_use]
pub fn size_word(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem<T: fmt::Debug>(result: Result<T, Wrong>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        assert_eq!(duration("1h").unwrap(), Duration::from_secs(3600));
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        assert_eq!(duration("never").unwrap(), Duration::MAX);
        let hint = "; try: a duration such as 250ms, 5s, 2m or never";
        assert_eq!(problem(duration("5")), format!("the duration \"5\" has no unit{hint}"));
        assert_eq!(problem(duration("5 s")), format!("\" s\" is not a unit of time{hint}"));
        assert_eq!(problem(duration("-1s")), format!("\"-1s\" is not a duration{hint}"));
        assert_eq!(problem(duration("")), format!("\"\" is not a duration{hint}"));
        let long = "99999999999999999999s";
        assert_eq!(
            problem(duration(long)),
            format!("the duration {long:?} is too long; try: never")
        );
        for text in ["0", "50us", "1500us", "250ms", "5s", "2m", "never", "90m", "24h"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("64MiB").unwrap(), 64 << 20);
        assert_eq!(size("512KiB").unwrap(), 512 << 10);
        assert_eq!(size("4096").unwrap(), 4096);
        let hint = "; try: a size such as 512KiB, 64MiB or 1GiB";
        assert_eq!(problem(size("64MB")), format!("\"MB\" is not a unit of size{hint}"));
        assert_eq!(problem(size("MiB")), format!("\"MiB\" is not a size{hint}"));
        assert!(size("99999999999GiB").is_err());
        assert_eq!(size_text(64 << 20), "64 MiB");
        assert_eq!(size_text(1536), "1.5 KiB");
        assert_eq!(size_text(7), "7 B");
        for text in ["0", "7", "512KiB", "1536KiB", "64MiB", "1GiB"] {
            assert_eq!(size_word(size(text).unwrap()), text);
        }
    }
}
