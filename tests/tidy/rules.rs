//! The rules: each takes what it checks and gives its findings as `file:line: what`.

use std::path::Path;

use super::source::Source;

/// A layer and the layers that it may name.
pub type Edges<'a> = &'a [(&'a str, &'a [&'a str])];

/// Names that go against the order of the layers, and layers that the table does not have.
pub fn layers(file: &Source, edges: Edges) -> Vec<String> {
    let Some(layer) = file.layer() else { return Vec::new() };
    let Some((_, below)) = edges.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("{}: layer `{layer}` is not in the edge table", file.path)];
    };
    let mut out = Vec::new();
    for named in file.paths() {
        let [root, target, ..] = named.segments.as_slice() else { continue };
        let known = edges.iter().any(|(name, _)| name == target);
        if !matches!(root.as_str(), "crate" | "mpio") || !known || target == layer {
            continue;
        }
        if !below.contains(&target.as_str()) {
            let text = named.text();
            out.push(format!("{}:{}: `{layer}` must not know `{text}`", file.path, named.line));
        }
    }
    out
}

/// Paths that files below a folder must not name: `(folder, pattern, reason)`.
pub fn banned(file: &Source, bans: &[(&str, &str, &str)]) -> Vec<String> {
    let mut out = Vec::new();
    for (_, pattern, reason) in bans.iter().filter(|(folder, ..)| file.path.starts_with(folder)) {
        for named in file.paths().iter().filter(|named| named.matches(pattern)) {
            out.push(format!("{}:{}: `{}`: {reason}", file.path, named.line, named.text()));
        }
    }
    out
}

/// Crates that a folder may use; `all` are those that the package has.
pub fn crates(file: &Source, folder: &str, allowed: &[&str], all: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    for named in file.paths().iter().filter(|_| file.path.starts_with(folder)) {
        let root = named.segments[0].as_str();
        if all.iter().any(|name| name == root) && !allowed.contains(&root) {
            out.push(format!("{}:{}: `{root}` is not for {folder}", file.path, named.line));
        }
    }
    out
}

/// Unsafe code outside the files that may have it, and exceptions that are not needed.
pub fn no_unsafe(files: &[Source], exceptions: &[(&str, &str)]) -> Vec<String> {
    let mut out = Vec::new();
    let uses =
        |file: &Source| file.all_words().find(|(word, _)| *word == "unsafe").map(|(_, line)| line);
    for file in files {
        let excepted = exceptions.iter().any(|(prefix, _)| file.path.starts_with(prefix));
        if let (Some(line), false) = (uses(file), excepted) {
            out.push(format!("{}:{line}: unsafe code is only for src/ring", file.path));
        }
    }
    for (prefix, _) in exceptions {
        let needed = files.iter().any(|file| file.path.starts_with(prefix) && uses(file).is_some());
        if !needed {
            out.push(format!("{prefix}: listed as unsafe, and has none: take it off the list"));
        }
    }
    out
}

/// Files over `cap` lines that are not on the list, and list entries that are not needed.
pub fn file_length(files: &[Source], cap: usize, ratchet: &[(&str, usize)]) -> Vec<String> {
    let long = |file: &Source| (file.path.clone(), file.text.lines().count());
    let found: Vec<(String, usize)> =
        files.iter().map(long).filter(|(_, lines)| *lines > cap).collect();
    let known: Vec<(String, usize)> =
        ratchet.iter().map(|(path, lines)| ((*path).to_string(), *lines)).collect();
    compare(&found, &known, "lines", cap)
}

/// Functions over `cap` lines that are not on the list (`file::function`), and entries not needed.
pub fn function_length(files: &[Source], cap: usize, ratchet: &[(&str, usize)]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for function in file.functions().iter().filter(|function| function.lines > cap) {
            found.push((format!("{}::{}", file.path, function.name), function.lines));
        }
    }
    let known: Vec<(String, usize)> =
        ratchet.iter().map(|(name, lines)| ((*name).to_string(), *lines)).collect();
    compare(&found, &known, "lines", cap)
}

/// A ratchet: nothing new, nothing longer, and nothing listed longer than it is.
fn compare(
    found: &[(String, usize)],
    known: &[(String, usize)],
    unit: &str,
    cap: usize,
) -> Vec<String> {
    let mut out = Vec::new();
    for (name, size) in found {
        match known.iter().find(|(known, _)| known == name) {
            Some((_, listed)) if listed == size => {}
            Some((_, listed)) => {
                out.push(format!("{name}: {size} {unit}, and the list says {listed}"));
            }
            None => out.push(format!("{name}: {size} {unit}, more than {cap}")),
        }
    }
    for (name, _) in known.iter().filter(|(name, _)| !found.iter().any(|(f, _)| f == name)) {
        out.push(format!("{name}: listed as too long, and is not: take it off the list"));
    }
    out
}

/// Files that do not open with `//!`.
pub fn opening(file: &Source) -> Vec<String> {
    if file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![format!("{}:1: does not open with `//!` (what it is, and what it is not)", file.path)]
}

/// `unwrap()` in code that is not test code.
pub fn no_unwrap(file: &Source) -> Vec<String> {
    let lines = file.calls("unwrap");
    let say = |line| format!("{}:{line}: unwrap(): say with expect why it cannot fail", file.path);
    lines.into_iter().map(say).collect()
}

/// Notes to oneself, in code, comments or documents.
pub fn leftovers(path: &str, text: &str, notes: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if let Some(note) = notes.iter().find(|note| line.contains(**note)) {
            out.push(format!("{path}:{}: a leftover {note}", i + 1));
        }
    }
    out
}

/// Relative links of a document whose file is not there.
pub fn dead_links(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let (mut out, mut fenced) = (Vec::new(), false);
    for (i, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        for rest in line.split("](").skip(1) {
            let target = rest.split([')', ' ', '#']).next().unwrap_or("");
            let elsewhere = target.is_empty() || target.contains(':') || target.starts_with('/');
            if !elsewhere && !exists(&folder.join(target)) {
                out.push(format!("{path}:{}: dead link to `{target}`", i + 1));
            }
        }
    }
    out
}

/// Files taken from another package by `#[path]` that are not below one of the `shared` folders.
pub fn borrowed(file: &Source, shared: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    for (i, line) in file.text.lines().enumerate() {
        let Some(target) = line.trim_start().strip_prefix("#[path = \"") else { continue };
        let Some((_, inside)) = target.split_once("../src/") else { continue };
        if file.path.starts_with("tools/")
            && !shared.iter().any(|prefix| inside.starts_with(prefix))
        {
            out.push(format!("{}:{}: shares src/{inside}", file.path, i + 1));
        }
    }
    out
}
