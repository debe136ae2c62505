//! The registry of tunables: the one place that knows each one's key, type, range, default and reason.
//!
//! The configuration file, `mpio set`, the documentation and the simulator all read it. Every tunable can
//! be changed under load; what is fixed once the daemon runs is no tunable, and stands in [`fixed`].
//!
//! Deliberately not here: what a tunable does (its field in [`Tunables`] is read where it is needed), and
//! where its text stood.

use super::spec::{Failback, FenceMode, FenceProof, Tunables};
use crate::base::Duration;
use crate::base::text::{self, Wrong};
use crate::limits;

mod table;

pub use table::ALL;

/// Longest text of a tunable in bytes.
const TEXT_MAX: usize = 4096;

/// Reads and writes one field.
pub struct Field<T: 'static> {
    get: fn(&Tunables) -> T,
    set: fn(&mut Tunables, T),
}

/// What a value can be, and where it is kept.
pub enum Kind {
    /// A time, written `250ms`, `5s`, `2m`, `1h`.
    Duration {
        /// Least value.
        min: Duration,
        /// Greatest value.
        max: Duration,
        /// Whether `never` ([`Duration::MAX`]) is legal as well.
        never: bool,
        /// Where it is kept.
        field: Field<Duration>,
    },
    /// A whole number.
    Number {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
        /// What is counted.
        unit: &'static str,
        /// Where it is kept.
        field: Field<u64>,
    },
    /// A number of bytes, written `64MiB`.
    Size {
        /// Least value in bytes.
        min: u64,
        /// Greatest value in bytes.
        max: u64,
        /// Where it is kept.
        field: Field<u64>,
    },
    /// `true` or `false`.
    Flag {
        /// Where it is kept.
        field: Field<bool>,
    },
    /// One of a few words.
    Choice {
        /// What a wrong word is told that it is not.
        what: &'static str,
        /// The words.
        words: &'static [&'static str],
        /// A time, up to this one, is legal as well.
        delay_max: Option<Duration>,
        /// Where it is kept.
        field: Field<Chosen>,
    },
    /// Free text; empty for none.
    Text {
        /// Where it is kept.
        field: Field<Option<String>>,
    },
}

/// Value of a [`Kind::Choice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// One of its words.
    Word(&'static str),
    /// A time instead.
    After(Duration),
}

/// One tunable.
pub struct Tunable {
    /// Its key, in the configuration and in `mpio set`.
    pub key: &'static str,
    /// Type, range and place.
    pub kind: Kind,
    /// Why it is there, in one sentence.
    pub reason: &'static str,
}

/// One that must not be less than another: `(lesser, greater)`.
pub const RELATIONS: [(&str, &str); 3] = [
    ("path_timeout", "last_path_timeout"),
    ("command_timeout", "last_path_command_timeout"),
    ("reconnect_min", "reconnect_max"),
];

/// Tunables that say how the storage is, rather than how to behave: chance has no say in them.
const STATEMENTS: [&str; 6] =
    ["fence", "fence_proof", "fence_command", "shared", "fence_reset", "trust_identity"];

/// The tunable of this key.
#[must_use]
pub fn find(key: &str) -> Option<&'static Tunable> {
    ALL.iter().find(|tunable| tunable.key == key)
}

/// Why a key of `[[device]]` is no tunable, and what to try instead; `None` for keys that do not exist.
#[must_use]
pub fn fixed(key: &str) -> Option<(&'static str, &'static str)> {
    const RESTART: (&str, &str) = (
        "it is fixed when the daemon starts",
        "the configuration file, and a restart of the daemon",
    );
    match key {
        "policy" | "prefer" | "weights" => {
            Some(("it is no tunable but part of the policy", "mpio policy DEVICE"))
        }
        "name" | "targets" | "lun" | "wwid" | "export" | "socket_mode" | "lanes"
        | "buffer_memory" | "read_only" => Some(RESTART),
        _ => None,
    }
}

impl Tunable {
    /// Type of the value, for scripts.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Duration { .. } => "duration",
            Kind::Number { .. } => "number",
            Kind::Size { .. } => "size",
            Kind::Flag { .. } => "flag",
            Kind::Choice { .. } => "choice",
            Kind::Text { .. } => "text",
        }
    }

    /// What is counted.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Duration { .. } => "time",
            Kind::Number { unit, .. } => unit,
            Kind::Size { .. } => "bytes",
            Kind::Flag { .. } | Kind::Choice { .. } | Kind::Text { .. } => "",
        }
    }

    /// Its value, as it is written; empty for no text.
    #[must_use]
    pub fn text(&self, t: &Tunables) -> String {
        match &self.kind {
            Kind::Duration { field, .. } => text::duration_text((field.get)(t)),
            Kind::Number { field, .. } => (field.get)(t).to_string(),
            Kind::Size { field, .. } => text::size_word((field.get)(t)),
            Kind::Flag { field } => (field.get)(t).to_string(),
            Kind::Choice { field, .. } => match (field.get)(t) {
                Chosen::Word(word) => word.to_owned(),
                Chosen::After(delay) => text::duration_text(delay),
            },
            Kind::Text { field } => (field.get)(t).unwrap_or_default(),
        }
    }

    /// What is legal, in words.
    #[must_use]
    pub fn range(&self) -> String {
        match &self.kind {
            Kind::Duration { min, max, never, .. } => {
                let or_never = if *never { ", or never" } else { "" };
                format!("{} to {}{or_never}", text::duration_text(*min), text::duration_text(*max))
            }
            Kind::Number { min, max, .. } => format!("{min} to {max}"),
            Kind::Size { min, max, .. } => {
                format!("{} to {}", text::size_word(*min), text::size_word(*max))
            }
            Kind::Flag { .. } => "true or false".to_owned(),
            Kind::Choice { words, delay_max, .. } => match delay_max {
                None => words.join(", "),
                Some(max) => {
                    format!("{}, or a time up to {}", words.join(", "), text::duration_text(*max))
                }
            },
            Kind::Text { .. } => format!("up to {TEXT_MAX} bytes, empty for none"),
        }
    }

    /// Changes its value to the one that `written` says.
    ///
    /// # Errors
    /// What is wrong with it; nothing is changed then.
    pub fn set(&self, t: &mut Tunables, written: &str) -> Result<(), Wrong> {
        match &self.kind {
            Kind::Duration { min, max, never, field } => {
                let value = self.duration(written)?;
                let legal = (*min..=*max).contains(&value) || *never && value == Duration::MAX;
                self.within(legal, written)?;
                (field.set)(t, value);
            }
            Kind::Number { min, max, field, .. } => {
                let digits = !written.is_empty() && written.bytes().all(|b| b.is_ascii_digit());
                if !digits {
                    let problem = format!("{written:?} is not a whole number");
                    return Err(Wrong::new(problem, self.range()));
                }
                let value = written.parse().ok().filter(|n| (*min..=*max).contains(n));
                self.within(value.is_some(), written)?;
                (field.set)(t, value.unwrap_or(*min));
            }
            Kind::Size { min, max, field } => {
                let value = text::size(written)?;
                self.within((*min..=*max).contains(&value), written)?;
                (field.set)(t, value);
            }
            Kind::Flag { field } => match written {
                "true" => (field.set)(t, true),
                "false" => (field.set)(t, false),
                _ => {
                    let problem = format!("{written:?} is neither true nor false");
                    return Err(Wrong::new(problem, "true or false"));
                }
            },
            Kind::Choice { what, words, delay_max, field } => {
                let chosen = match words.iter().find(|word| **word == written) {
                    Some(word) => Chosen::Word(word),
                    None => Chosen::After(self.delay(written, what, *delay_max)?),
                };
                (field.set)(t, chosen);
            }
            Kind::Text { field } => {
                if written.len() > TEXT_MAX || written.contains('\0') {
                    let problem = format!("a text of {} bytes is not usable", written.len());
                    return Err(Wrong::new(problem, self.range()));
                }
                (field.set)(t, Some(written.to_owned()).filter(|text| !text.is_empty()));
            }
        }
        Ok(())
    }

    fn within(&self, legal: bool, written: &str) -> Result<(), Wrong> {
        match legal {
            true => Ok(()),
            false => Err(Wrong::new(format!("{written} is out of range"), self.range())),
        }
    }

    /// A time; where a century is too long, the range is a better hint than `never`.
    fn duration(&self, written: &str) -> Result<Duration, Wrong> {
        text::duration(written).map_err(|wrong| match wrong.hint == "never" {
            true => Wrong::new(wrong.problem, self.range()),
            false => wrong,
        })
    }

    fn delay(&self, written: &str, what: &str, max: Option<Duration>) -> Result<Duration, Wrong> {
        let no_word = || Wrong::new(format!("{written:?} is not {what}"), self.range());
        let max = max.ok_or_else(no_word)?;
        let delay = text::duration(written).map_err(|_| no_word())?;
        self.within(delay <= max, written)?;
        Ok(delay)
    }
}

/// Two tunables of which the one that has to be the greater one is less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Key of the one that is too little.
    pub key: &'static str,
    /// Key of the one that it must not be less than.
    pub other: &'static str,
    /// What is wrong, and what would be right.
    pub wrong: Wrong,
}

/// Checks what must hold between tunables.
///
/// # Errors
/// The first relation that does not hold.
pub fn check(t: &Tunables) -> Result<(), Broken> {
    let duration = |key| match find(key).map(|tunable| &tunable.kind) {
        Some(Kind::Duration { field, .. }) => (field.get)(t),
        _ => unreachable!("only times are related"),
    };
    for (other, key) in RELATIONS {
        let (less, least) = (duration(key), duration(other));
        if less < least {
            let (less, least) = (text::duration_text(less), text::duration_text(least));
            let problem = format!("{less} is shorter than {other} ({least})");
            return Err(Broken {
                key,
                other,
                wrong: Wrong::new(problem, format!("{least} or more")),
            });
        }
    }
    Ok(())
}

/// Raises the greater one of each relation that does not hold.
pub fn raise(t: &mut Tunables) {
    t.last_path_timeout = t.last_path_timeout.max(t.path_timeout);
    t.last_path_command_timeout = t.last_path_command_timeout.max(t.command_timeout);
    t.reconnect_max = t.reconnect_max.max(t.reconnect_min);
}

/// What is legal, and so dangerous that it has to be said aloud.
#[must_use]
pub fn warnings(t: &Tunables) -> Vec<String> {
    let mut out = Vec::new();
    if t.fence == FenceMode::Off {
        out.push(
            "fence = \"off\" is UNSAFE: after a path was lost, an old write may land over a newer one, \
             silently"
                .to_owned(),
        );
    }
    if t.fence != FenceMode::Off && t.fence_proof == FenceProof::Reinstatement {
        out.push(
            "fence_proof = \"reinstatement\" is only safe with targets that were shown to end a lost \
             session's commands at the next login"
                .to_owned(),
        );
    }
    out
}

/// `base` with about half of its tunables changed by chance: mostly near the default, sometimes anywhere
/// in the range, sometimes at its ends. What says how the storage is stays as it is. `random` gives
/// evenly distributed numbers.
#[must_use]
pub fn randomise(base: &Tunables, mut random: impl FnMut() -> u64) -> Tunables {
    let mut t = base.clone();
    for tunable in ALL.iter().filter(|tunable| !STATEMENTS.contains(&tunable.key)) {
        if random().is_multiple_of(2) {
            tunable.randomise(&mut t, &mut random);
        }
    }
    raise(&mut t);
    t
}

impl Tunable {
    fn randomise(&self, t: &mut Tunables, random: &mut impl FnMut() -> u64) {
        match &self.kind {
            Kind::Duration { min, max, never, field } => {
                if *never && random().is_multiple_of(16) {
                    (field.set)(t, Duration::MAX);
                    return;
                }
                let micros = |d: Duration| d.as_micros() as u64;
                let near = micros((field.get)(&Tunables::default()));
                let value = pick(micros(*min), micros(*max), near, random);
                // As an administrator would write it.
                let whole = if value < 10_000 { value } else { value - value % 1_000 };
                (field.set)(t, Duration::from_micros(whole.max(micros(*min))));
            }
            Kind::Number { min, max, field, .. } | Kind::Size { min, max, field } => {
                let near = (field.get)(&Tunables::default());
                (field.set)(t, pick(*min, *max, near, random));
            }
            Kind::Flag { field } => (field.set)(t, random().is_multiple_of(2)),
            Kind::Choice { words, delay_max, field, .. } => {
                let choices = words.len() + usize::from(delay_max.is_some());
                let chosen = match (words.get(random() as usize % choices), delay_max) {
                    (None, Some(max)) => {
                        let millis = pick(0, max.as_millis() as u64, 10_000, random);
                        Chosen::After(Duration::from_millis(millis))
                    }
                    (word, _) => Chosen::Word(word.unwrap_or(&words[0])),
                };
                (field.set)(t, chosen);
            }
            Kind::Text { .. } => {}
        }
    }
}

/// A value of `min..=max`: an end, anything, or (mostly) within a factor of eight of `near`.
fn pick(min: u64, max: u64, near: u64, random: &mut impl FnMut() -> u64) -> u64 {
    let (low, high) = match random() % 16 {
        0 => return min,
        1 => return max,
        2 => (min, max),
        _ => ((near / 8).clamp(min, max), near.saturating_mul(8).clamp(min, max)),
    };
    // Even in the logarithm: as many below the default as above.
    let bits = |n: u64| (n.max(1) as f64).log2();
    let share = (random() >> 11) as f64 / (1_u64 << 53) as f64;
    let value = (bits(low) + share * (bits(high) - bits(low))).exp2();
    (value as u64).clamp(low, high)
}

#[cfg(test)]
mod tests;
