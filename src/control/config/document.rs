//! Reading a TOML document by hand, so that every error has its line and every key its suggestion.
//!
//! A [`Section`] is one table. Its getters record the keys that were asked for; [`Section::finish`] turns
//! every other key into an error. Nothing stops at the first error: they are collected in [`Problems`].

use super::values::Wrong;
use std::cell::RefCell;
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One error in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1; 0 when the error has no place in the file.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigError {
    /// `FILE:LINE: what is wrong; try: what is expected`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.problem)?,
            line => write!(f, "{}:{line}: {}", self.file, self.problem)?,
        }
        match &self.hint {
            Some(hint) => write!(f, "; try: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Where errors of one file are collected.
pub struct Problems {
    file: String,
    line_starts: Vec<usize>,
    found: RefCell<Vec<ConfigError>>,
}

impl Problems {
    /// For a file with this text.
    #[must_use]
    pub fn new(file: &str, text: &str) -> Problems {
        let line_starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Problems { file: file.to_owned(), line_starts, found: RefCell::default() }
    }

    /// Line of a byte offset, from 1.
    #[must_use]
    pub fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset)
    }

    /// Records an error.
    pub fn add(&self, line: usize, problem: impl Into<String>, hint: Option<String>) {
        let error = ConfigError { file: self.file.clone(), line, problem: problem.into(), hint };
        self.found.borrow_mut().push(error);
    }

    /// Records a refused value of a key.
    pub fn wrong(&self, line: usize, key: &str, wrong: Wrong) {
        self.add(line, format!("{key}: {}", wrong.problem), Some(wrong.hint));
    }

    /// All errors in order of lines.
    #[must_use]
    pub fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.found.into_inner();
        errors.sort_by_key(|error| error.line);
        errors
    }

    /// Whether nothing was wrong so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }
}

/// A value and the line that it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its line, from 1.
    pub line: usize,
}

/// One table of the document.
pub struct Section<'t> {
    label: &'static str,
    line: usize,
    table: &'t DeTable<'t>,
    problems: &'t Problems,
    asked: RefCell<Vec<&'static str>>,
    later: &'static [&'static str],
}

impl<'t> Section<'t> {
    /// The table `table`, which starts at `offset` and is called `label` in messages.
    #[must_use]
    pub fn new(
        label: &'static str,
        table: &'t DeTable<'t>,
        offset: usize,
        problems: &'t Problems,
    ) -> Section<'t> {
        let line = problems.line(offset);
        Section { label, line, table, problems, asked: RefCell::default(), later: &[] }
    }

    /// Keys that a later version knows: they get a message of their own.
    #[must_use]
    pub fn later(mut self, keys: &'static [&'static str]) -> Section<'t> {
        self.later = keys;
        self
    }

    /// Line of the header.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Where errors go.
    #[must_use]
    pub fn problems(&self) -> &'t Problems {
        self.problems
    }

    fn raw(&self, key: &'static str) -> Option<(&'t DeValue<'t>, usize, usize)> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((value.get_ref(), self.problems.line(name.span().start), value.span().start))
    }

    /// Applies `parse` to the value of `key`; an error is recorded with its line.
    pub fn get<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&'t DeValue<'t>) -> Result<T, Wrong>,
    ) -> Option<Located<T>> {
        let (value, line, _) = self.raw(key)?;
        match parse(value) {
            Ok(value) => Some(Located { value, line }),
            Err(wrong) => {
                self.problems.wrong(line, key, wrong);
                None
            }
        }
    }

    /// A string, given to `parse`.
    pub fn text<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Located<T>> {
        self.get(key, |value| match value {
            DeValue::String(text) => parse(text),
            other => Err(mistyped(other, "a string in quotes")),
        })
    }

    /// A boolean.
    pub fn flag(&self, key: &'static str) -> Option<Located<bool>> {
        self.get(key, |value| match value {
            DeValue::Boolean(flag) => Ok(*flag),
            other => Err(mistyped(other, "true or false")),
        })
    }

    /// A whole number of `range`.
    pub fn number(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<Located<u64>> {
        self.get(key, |value| number(value, &range))
    }

    /// Whether the key is written, right or wrong.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A key that must be there: says so if it is not.
    pub fn require<T>(&self, key: &'static str, found: Option<T>, example: &str) -> Option<T> {
        if found.is_none() && !self.has(key) {
            let problem = format!("{} has no {key}", self.label);
            self.problems.add(self.line, problem, Some(format!("{key} = {example}")));
        }
        found
    }

    /// A list; each element goes through `parse`.
    pub fn list<T>(
        &self,
        key: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<Located<T>>> {
        let (value, line, _) = self.raw(key)?;
        let DeValue::Array(array) = value else {
            self.problems.wrong(line, key, mistyped(value, "a list of strings in brackets"));
            return None;
        };
        let mut out = Vec::new();
        for element in array.iter() {
            let line = self.problems.line(element.span().start);
            let parsed = match element.get_ref() {
                DeValue::String(text) => parse(text),
                other => Err(mistyped(other, "strings in quotes")),
            };
            match parsed {
                Ok(value) => out.push(Located { value, line }),
                Err(wrong) => self.problems.wrong(line, key, wrong),
            }
        }
        Some(out)
    }

    /// A table inside this one.
    pub fn table(&self, key: &'static str) -> Option<Section<'t>> {
        let (value, line, offset) = self.raw(key)?;
        match value {
            DeValue::Table(table) => Some(Section::new(key, table, offset, self.problems)),
            other => {
                self.problems.wrong(line, key, mistyped(other, "a table in braces"));
                None
            }
        }
    }

    /// All tables of `[[key]]`.
    pub fn tables(&self, key: &'static str, label: &'static str) -> Vec<Section<'t>> {
        let Some((value, line, _)) = self.raw(key) else { return Vec::new() };
        let wrong = |other: &DeValue| mistyped(other, &format!("a table under the header {label}"));
        let DeValue::Array(array) = value else {
            self.problems.wrong(line, key, wrong(value));
            return Vec::new();
        };
        let section = |element: &'t Spanned<DeValue<'t>>| match element.get_ref() {
            DeValue::Table(table) => {
                Some(Section::new(label, table, element.span().start, self.problems))
            }
            other => {
                self.problems.wrong(line, key, wrong(other));
                None
            }
        };
        array.iter().filter_map(section).collect()
    }

    /// Every entry, for tables whose keys are free (weights).
    pub fn entries<T>(
        &self,
        mut parse: impl FnMut(&str, &'t DeValue<'t>) -> Result<T, Wrong>,
    ) -> Vec<(String, Located<T>)> {
        let mut out = Vec::new();
        for (key, value) in self.table {
            let line = self.problems.line(key.span().start);
            match parse(key.get_ref(), value.get_ref()) {
                Ok(value) => out.push((key.get_ref().to_string(), Located { value, line })),
                Err(wrong) => self.problems.wrong(line, self.label, wrong),
            }
        }
        out
    }

    /// Refuses every key that was not asked for, with a suggestion.
    pub fn finish(self) {
        let asked = self.asked.into_inner();
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if asked.contains(&name) {
                continue;
            }
            let line = self.problems.line(key.span().start);
            if self.later.contains(&name) {
                let problem = format!("{name} is not available in this version of mpio");
                self.problems.add(line, problem, Some("leave it out".to_owned()));
                continue;
            }
            let hint = suggest(name, asked.iter().copied())
                .map_or_else(|| format!("one of {}", asked.join(", ")), str::to_owned);
            self.problems.add(line, format!("unknown key {name} in {}", self.label), Some(hint));
        }
    }
}

/// A whole number of `range` in a value.
pub fn number(value: &DeValue<'_>, range: &std::ops::RangeInclusive<u64>) -> Result<u64, Wrong> {
    let hint = format!("a whole number from {} to {}", range.start(), range.end());
    let DeValue::Integer(integer) = value else {
        return Err(mistyped(value, &hint));
    };
    let parsed = u64::from_str_radix(integer.as_str(), integer.radix());
    match parsed {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(Wrong::new(format!("{} is out of range", integer.as_str()), hint)),
    }
}

/// The message for a value of another type.
#[must_use]
pub fn mistyped(value: &DeValue<'_>, expected: &str) -> Wrong {
    let is = match value {
        DeValue::String(text) => format!("{:?} is a string", text.as_ref()),
        DeValue::Integer(number) => format!("{} is a number", number.as_str()),
        DeValue::Float(number) => format!("{} is a number with a fraction", number.as_str()),
        DeValue::Boolean(flag) => format!("{flag} is a boolean"),
        DeValue::Datetime(_) => "this is a date".to_owned(),
        DeValue::Array(_) => "this is a list".to_owned(),
        DeValue::Table(_) => "this is a table".to_owned(),
    };
    Wrong::new(is, expected)
}

/// The known word that is closest to `word`, if any is close enough to be meant.
pub fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_close_or_absent() {
        let known = ["policy", "export", "path_timeout", "lun"];
        assert_eq!(suggest("polcy", known), Some("policy"));
        assert_eq!(suggest("path-timeout", known), Some("path_timeout"));
        assert_eq!(suggest("Export", known), Some("export"));
        assert_eq!(suggest("colour", known), None);
    }

    #[test]
    fn lines_are_those_of_keys_elements_and_headers() {
        let text = "# one\n\n[[d]]\nname = \"x\"\nlist = [\n  \"a\",\n  7,\n]\nbad = 1\n";
        let problems = Problems::new("f.toml", text);
        let root = DeTable::parse(text).unwrap();
        let root = Section::new("the file", root.get_ref(), 0, &problems);
        let d = root.tables("d", "[[d]]").pop().unwrap();
        assert_eq!(d.line(), 3);
        assert_eq!(d.text("name", |t| Ok(t.to_owned())).unwrap().line, 4);
        assert_eq!(d.list("list", |t| Ok(t.to_owned())).unwrap()[0].line, 6);
        d.require("size", None::<u8>, "1");
        d.finish();
        root.finish();
        let errors: Vec<String> = problems.into_errors().iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "f.toml:3: [[d]] has no size; try: size = 1",
                "f.toml:7: list: 7 is a number; try: strings in quotes",
                "f.toml:9: unknown key bad in [[d]]; try: one of name, list",
            ]
        );
    }
}
