//! The conformance tables in `tests/conformance/` are held to the tree: every test that a row names exists, every row
//! has a test or a reason, every id is there once. Each rule is shown to fail on a planted fault at the bottom.
//!
//! Not here: whether a test shows what its row says. That is for a reader to judge.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::path::Path;

const TABLES: [&str; 3] = ["iscsi.md", "scsi.md", "nbd.md"];

const HEADER: &str = "| id | requirement | section | level | shown by |";
const LEVELS: [&str; 7] =
    ["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY", "peer MUST", "choice"];
/// How the reason of a row without a test begins.
const REASONS: [&str; 4] = ["not used: ", "later: ", "choice: ", "gap: "];

/// A table of this many rows or fewer was not read right.
const ROWS_MIN: usize = 40;

#[derive(Debug, Default, PartialEq)]
struct Counts {
    rows: usize,
    tested: usize,
    reasoned: BTreeMap<&'static str, usize>,
}

/// Tables as name and text in, findings as `table:line: what` out; `read` gives the text of a file of the tree.
fn check(tables: &[(&str, &str)], read: &dyn Fn(&str) -> Option<String>) -> (Vec<String>, Counts) {
    let mut findings = Vec::new();
    let mut counts = Counts::default();
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for (name, text) in tables {
        let mut header_seen = false;
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| line.starts_with('|')) {
            let place = format!("{name}:{number}");
            if line == HEADER {
                header_seen = true;
                continue;
            }
            if line.starts_with("|---") {
                continue;
            }
            if !header_seen {
                findings.push(format!("{place}: no header `{HEADER}` above this row"));
            }
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [id, requirement, section, level, shown] = cells[..] else {
                findings.push(format!("{place}: {} cells, expected 5", cells.len()));
                continue;
            };
            counts.rows += 1;
            if let Some(first) = ids.insert(id.to_owned(), place.clone()) {
                findings.push(format!("{place}: id `{id}` is also at {first}"));
            }
            if id.is_empty() || requirement.is_empty() || section.is_empty() {
                findings.push(format!("{place}: an empty cell"));
            }
            if !LEVELS.contains(&level) {
                findings.push(format!("{place}: level `{level}`, expected one of {LEVELS:?}"));
            }
            let (found, tested, reason) = shown_by(&place, shown, read);
            findings.extend(found);
            counts.tested += usize::from(tested);
            if let Some(reason) = reason {
                *counts.reasoned.entry(reason).or_default() += 1;
            }
        }
    }
    (findings, counts)
}

/// The last cell: tests in backquotes, or a reason, or tests and a reason for the rest of the requirement. Findings,
/// whether there is a test, and how the reason begins.
fn shown_by(
    place: &str,
    cell: &str,
    read: &dyn Fn(&str) -> Option<String>,
) -> (Vec<String>, bool, Option<&'static str>) {
    let mut findings = Vec::new();
    let mut tested = false;
    let mut rest = cell;
    while let Some(quoted) = rest.strip_prefix('`') {
        let Some((test, after)) = quoted.split_once('`') else { break };
        tested = true;
        match test.split_once("::") {
            Some((path, name)) => findings.extend(missing(place, path, name, read)),
            None => findings.push(format!("{place}: `{test}` is not path::test")),
        }
        rest = after.trim_start_matches([',', ';', ' ']);
    }
    let reason = REASONS.into_iter().find(|word| rest.starts_with(word) && rest != word.trim_end());
    if reason.is_none() && !rest.is_empty() {
        findings.push(format!("{place}: `{rest}` is no reason; one begins with {REASONS:?}"));
    } else if reason.is_none() && !tested {
        findings.push(format!("{place}: neither test nor reason"));
    }
    (findings, tested, reason)
}

/// What is wrong with a test that a row names.
fn missing(
    place: &str,
    path: &str,
    name: &str,
    read: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let Some(text) = read(path) else { return Some(format!("{place}: no file {path}")) };
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let call = format!("fn {name}(");
    let Some(at) = lines.iter().position(|line| {
        line.strip_prefix("async ").unwrap_or(line).strip_prefix(call.as_str()).is_some()
    }) else {
        return Some(format!("{place}: no function {name} in {path}"));
    };
    let mut above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
    if above.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test")) {
        None
    } else {
        Some(format!("{place}: {name} in {path} is not a test"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_tables_hold() {
    let mut findings = Vec::new();
    for name in TABLES {
        let text = std::fs::read_to_string(root().join("tests/conformance").join(name)).unwrap();
        let read = |path: &str| std::fs::read_to_string(root().join(path)).ok();
        let (found, counts) = check(&[(name, &text)], &read);
        findings.extend(found);
        assert!(counts.rows >= ROWS_MIN, "{name}: {} rows, is it read right?", counts.rows);
        println!(
            "{name}: {} rows, {} with a test, reasons: {:?}",
            counts.rows, counts.tested, counts.reasoned
        );
    }
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

const GOOD: &str = "\
Some words first.

| id | requirement | section | level | shown by |
|---|---|---|---|---|
| a-1 | does it | 1.2 | MUST | `src/a.rs::one` |
| a-2 | and this | 1.3 | SHOULD | `src/a.rs::one`, `src/a.rs::two`; later: the rest |
| a-3 | not that | 1.4 | MAY | not used: never sent |
";

const TREE: &str = "\
    /// Words.
    #[test]
    fn one() {}
        #[test]
        #[should_panic(expected = \"it\")]
        fn two(x: u8) {}
    fn helper() {}
";

fn read(path: &str) -> Option<String> {
    (path == "src/a.rs").then(|| TREE.to_owned())
}

#[test]
fn a_good_table_passes() {
    let (findings, counts) = check(&[("t.md", GOOD)], &read);
    assert_eq!(findings, Vec::<String>::new());
    let reasoned = BTreeMap::from([("later: ", 1), ("not used: ", 1)]);
    assert_eq!(counts, Counts { rows: 3, tested: 2, reasoned });
}

#[test]
fn planted_faults_are_found() {
    for (from, to, expected) in [
        ("`src/a.rs::one` |", "`src/a.rs::three` |", "t.md:5: no function three in src/a.rs"),
        ("`src/a.rs::one` |", "`src/a.rs::on` |", "t.md:5: no function on in src/a.rs"),
        ("`src/a.rs::one` |", "`src/b.rs::one` |", "t.md:5: no file src/b.rs"),
        ("`src/a.rs::one` |", "`src/a.rs::helper` |", "t.md:5: helper in src/a.rs is not a test"),
        ("`src/a.rs::one` |", "`one` |", "t.md:5: `one` is not path::test"),
        ("`src/a.rs::one` |", " |", "t.md:5: neither test nor reason"),
        ("not used: never sent", "no time", "t.md:7: `no time` is no reason"),
        ("not used: never sent", "not used:", "t.md:7: `not used:` is no reason"),
        ("; later: the rest", "; soon", "t.md:6: `soon` is no reason"),
        ("| a-3 |", "| a-1 |", "t.md:7: id `a-1` is also at t.md:5"),
        ("| SHOULD |", "| OUGHT |", "t.md:6: level `OUGHT`"),
        ("| 1.2 |", "|  |", "t.md:5: an empty cell"),
        ("| 1.2 |", "| 1.2 | 1.3 |", "t.md:5: 6 cells, expected 5"),
        ("| id | requirement ", "| id | what ", "t.md:3: no header"),
    ] {
        let planted = GOOD.replacen(from, to, 1);
        assert_ne!(planted, GOOD, "nothing was planted: {from}");
        let (findings, _) = check(&[("t.md", &planted)], &read);
        assert!(!findings.is_empty(), "{to}: not found");
        assert!(findings[0].starts_with(expected), "{to}: {findings:?}");
    }
    // The same id in two tables.
    let (findings, _) = check(&[("t.md", GOOD), ("u.md", GOOD)], &read);
    assert_eq!(findings[0], "u.md:5: id `a-1` is also at t.md:5");
}
