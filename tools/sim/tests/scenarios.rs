//! Every scenario in `scenarios/` holds, and one that expects what is not so does not.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mpio_sim::scenario::{parse, play};
use std::path::Path;

fn run(name: &str, text: &str) -> Result<(), String> {
    let told = |line: usize, what: String| format!("{name}:{line}: {what}");
    let scenario = parse(text).map_err(|trouble| told(trouble.line, trouble.what))?;
    let (_, result) = play(&scenario);
    result.map_err(|trouble| told(trouble.line, trouble.what))
}

#[test]
fn every_scenario_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut failures = Vec::new();
    let mut played = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "scenario") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            failures.extend(run(&name, &std::fs::read_to_string(&path).unwrap()).err());
            played += 1;
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(played >= 10, "{played} scenarios were found");
}

/// An expectation that does not hold is found, with its line.
#[test]
fn what_is_not_so_is_found() {
    for (text, line) in [
        ("write 0..8 as w1\nexpect open w1", 2),
        ("write 0..8 as w1\nwrite 0..4 as w2\nexpect read 0..8 = w1", 3),
        ("expect failed A within 1s", 1),
        ("silence A\nsilence B\nbegin write 0..8 as w1\nexpect answered w1 within 1s", 4),
        ("write 0..8\nexpect executed 0 2a 7", 2),
        ("expect read 0..8 = nobody", 1),
        ("kill 0\nkill 0", 2),
        ("write 0..8\nexpect stale", 0),
        (
            "setup policy failover\nsetup fence off\nhang 0 writes\nbegin write 0..8 as w1\nwait 10ms\nsilence A\nexpect answered w1\ngo on 0\nrestore A\nexpect active A\nwrite 0..8\nrelease 0\nread 0..8",
            0,
        ),
    ] {
        let found = run("t", text).expect_err(text);
        assert!(found.starts_with(&format!("t:{line}: ")), "{text}: {found}");
    }
}
