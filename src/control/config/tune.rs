//! Tunables as an administrator writes them: in the file, and in `mpio set`. What exists and what is legal
//! is in [`crate::volume::tunables`]; here are lines, types of TOML and suggestions.

use super::document::{Section, mistyped, suggest};
use super::values::Wrong;
use crate::api::{Change, TunableStatus};
use crate::volume::spec::Tunables;
use crate::volume::tunables::{ALL, Kind, RELATIONS, Tunable, check, find, fixed, raise};
use std::borrow::Cow;
use std::collections::BTreeMap;
use toml::de::DeValue;

/// A refused key or value: the key, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The key.
    pub key: String,
    /// Why, and what would do.
    pub wrong: Wrong,
}

/// Reads every tunable of a `[[device]]`.
pub fn section(section: &Section<'_>, t: &mut Tunables) {
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    for tunable in ALL {
        let found = section.get(tunable.key, |value| set(tunable, t, &written(tunable, value)?));
        if let Some(found) = found {
            lines.insert(tunable.key, found.line);
        }
    }
    // A default gives way to what is written.
    let mut given = t.clone();
    raise(&mut given);
    for (_, key) in RELATIONS.iter().filter(|(_, key)| !lines.contains_key(key)) {
        let tunable = find(key).expect("relations are between tunables");
        let raised = tunable.text(&given);
        tunable.set(t, &raised).expect("as great as another one that is in range");
    }
    if let Err(broken) = check(t) {
        let line = |key| lines.get(key).copied().unwrap_or_default();
        let line = line(broken.key).max(line(broken.other));
        section.problems().wrong(line, broken.key, broken.wrong);
    }
}

/// Sets what `values` says, all of it or nothing, on a copy.
///
/// # Errors
/// The first key that is no tunable, value that is not legal, or relation that would not hold.
pub fn apply(now: &Tunables, values: &BTreeMap<String, String>) -> Result<Tunables, Refused> {
    let mut t = now.clone();
    for (key, value) in values {
        let refused = |wrong| Refused { key: key.clone(), wrong };
        let tunable = find(key).ok_or_else(|| refused(unknown(key)))?;
        set(tunable, &mut t, value).map_err(refused)?;
    }
    match check(&t) {
        Ok(()) => Ok(t),
        Err(broken) => Err(Refused { key: broken.key.to_owned(), wrong: broken.wrong }),
    }
}

/// What differs, in the order of the registry.
#[must_use]
pub fn changes(before: &Tunables, after: &Tunables) -> Vec<Change> {
    let change = |tunable: &Tunable| {
        let (from, to) = (tunable.text(before), tunable.text(after));
        (from != to).then(|| Change { key: tunable.key.to_owned(), from, to })
    };
    ALL.iter().filter_map(change).collect()
}

/// Every tunable as an administrator sees it.
#[must_use]
pub fn list(t: &Tunables) -> Vec<TunableStatus> {
    let one = |tunable: &Tunable| TunableStatus {
        key: tunable.key.to_owned(),
        value: tunable.text(t),
        default: tunable.text(&Tunables::default()),
        kind: tunable.type_name().to_owned(),
        unit: tunable.unit().to_owned(),
        range: tunable.range(),
        reason: tunable.reason.to_owned(),
    };
    ALL.iter().map(one).collect()
}

fn unknown(key: &str) -> Wrong {
    if let Some((problem, hint)) = fixed(key) {
        return Wrong::new(problem, hint);
    }
    let hint = suggest(key, ALL.iter().map(|tunable| tunable.key));
    Wrong::new("there is no such tunable", hint.unwrap_or("`mpio set DEVICE`, which lists them"))
}

/// As [`Tunable::set`], with the word that was meant.
fn set(tunable: &Tunable, t: &mut Tunables, text: &str) -> Result<(), Wrong> {
    tunable.set(t, text).map_err(|wrong| match &tunable.kind {
        Kind::Choice { words, .. } => {
            let meant = suggest(text, words.iter().copied()).map(str::to_owned);
            Wrong::new(wrong.problem, meant.unwrap_or(wrong.hint))
        }
        _ => wrong,
    })
}

/// The text of a value of the right type.
fn written<'v>(tunable: &Tunable, value: &'v DeValue<'_>) -> Result<Cow<'v, str>, Wrong> {
    let whole = || format!("a whole number from {}", tunable.range());
    match (&tunable.kind, value) {
        (Kind::Flag { .. }, DeValue::Boolean(flag)) => Ok(flag.to_string().into()),
        (Kind::Flag { .. }, other) => Err(mistyped(other, "true or false")),
        (Kind::Number { .. }, DeValue::Integer(integer)) => {
            let number = u64::from_str_radix(integer.as_str(), integer.radix());
            let out = || Wrong::new(format!("{} is out of range", integer.as_str()), whole());
            number.map(|number| number.to_string().into()).map_err(|_| out())
        }
        (Kind::Number { .. }, other) => Err(mistyped(other, &whole())),
        // `0` is the same in every unit, and a size without a unit is in bytes.
        (Kind::Duration { .. } | Kind::Size { .. }, DeValue::Integer(integer)) => {
            Ok(integer.as_str().into())
        }
        (_, DeValue::String(text)) => Ok(text.as_ref().into()),
        (Kind::Duration { .. }, other) => {
            Err(mistyped(other, "a duration in quotes, such as \"5s\""))
        }
        (Kind::Size { .. }, other) => Err(mistyped(other, "a size in quotes, such as \"64MiB\"")),
        (Kind::Choice { .. } | Kind::Text { .. }, other) => {
            Err(mistyped(other, "a string in quotes"))
        }
    }
}
