//! `mpio demo`, as a newcomer runs it: what it tells, its report, and its exit code.

#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod harness;

use harness::Scratch;
use harness::daemon::mpio;

#[test]
fn the_demo_cuts_heals_and_finds_every_byte_right() {
    let scratch = Scratch::new("demo");
    let report = scratch.path("demo.html");
    let done = mpio(&["demo", "--seconds", "8", "--report", report.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{}\n{}", done.stdout, done.stderr);
    for words in [
        "CUT: a:ha1",
        "HEAL: packets to a:ha1",
        "CUT: the target of b:ha1partner",
        "0 wrong blocks, 0 errors",
    ] {
        assert!(done.stdout.contains(words), "{words:?} in\n{}", done.stdout);
    }
    let html = std::fs::read_to_string(&report).unwrap();
    assert!(html.contains("every byte was right") && html.contains("<svg"));
}
