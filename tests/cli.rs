//! Every command as an administrator meets it: exit codes, what is printed where, and what each message says.
//!
//! Deliberately not here: what a daemon does under load or attack (`tests/hostile.rs`), and its life from start
//! to end (`tests/daemon.rs`).
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "cli/attach.rs"]
mod attach;
#[path = "cli/check.rs"]
mod check;
#[path = "cli/discover.rs"]
mod discover;
mod harness;
#[path = "cli/running.rs"]
mod running;
#[path = "cli/set.rs"]
mod set;

use harness::daemon::mpio;
use harness::process::Finished;

/// Exit code and message of a command that must fail: one or more lines, each `mpio: what: why; try: …`.
#[track_caller]
fn refused(done: &Finished, code: i32) -> &str {
    assert_eq!(done.code, Some(code), "{done:?}");
    let lines: Vec<&str> = done.stderr.lines().collect();
    assert!(!lines.is_empty(), "it says nothing: {done:?}");
    for line in &lines {
        let text = line.strip_prefix("mpio: ").unwrap_or_else(|| panic!("no `mpio: `: {line}"));
        assert!(text.contains(": ") && text.contains("; try: "), "no cause or remedy: {line}");
    }
    &done.stderr
}

/// Whether `text` has all of `parts`.
#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn every_command_explains_itself() {
    let commands: [(&str, &[&str]); 12] = [
        ("", &["Examples:", "mpio attach", "Exit codes: 0 done, 1 tried and failed, 2 wrong"]),
        ("discover", &["Usage: mpio discover", "PORTAL[@SOURCE]", "--source", "Examples:"]),
        ("serve", &["Usage: mpio serve", "--config <FILE>", "--log-format", "SIGTERM", "Example:"]),
        ("attach", &["--portal", "--target", "--lun", "--export", "--policy", "Example:"]),
        ("config", &["check"]),
        ("config check", &["Usage: mpio config check", "<FILE>", "memory"]),
        ("status", &["[DEVICE]", "--json", "--control"]),
        ("set", &["KEY=VALUE", "path_timeout=2s", "all tunables are shown", "Examples:"]),
        ("bench", &["TARGET", "--destructive", "--per-path", "--rate", "--report", "Examples:"]),
        (
            "policy",
            &["failover (FOO)", "round-robin (RR)", "latency", "--weight", "--prefer", "Examples:"],
        ),
        ("fence", &["confirm-dead", "list", "--json", "your word", "Examples:"]),
        ("path", &["disable", "enable", "recheck", "--force", "last usable", "Examples:"]),
    ];
    for (command, parts) in commands {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = mpio(&words);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "mpio {command} --help");
        says(&help.stdout, parts);
        // The usage line is one line, however long.
        let mut lines = help.stdout.lines().filter(|line| !line.starts_with("Usage:"));
        let wide = lines.find(|line| line.chars().count() > 100);
        assert_eq!(wide, None, "mpio {command} --help is wider than a terminal");
    }
    let version = mpio(&["--version"]);
    assert_eq!(version.code, Some(0));
    assert_eq!(version.stdout, format!("mpio {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments_are_exit_code_2_and_one_line_with_a_remedy() {
    let nothing = mpio(&[]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(2), ""));
    says(&nothing.stderr, &["Usage: mpio", "Commands:"]);
    let cases: [(&[&str], &[&str]); 8] = [
        (&["statsu"], &["unrecognized subcommand 'statsu'", "'status'"]),
        (&["status", "--jsno"], &["unexpected argument '--jsno'", "'--json'"]),
        (&["serve"], &["--config <FILE>"]),
        (&["discover"], &["<PORTAL[@SOURCE]>"]),
        (&["attach", "--lun", "x"], &["invalid value 'x' for '--lun <N>'"]),
        (&["path", "vm0", "a:ha1", "away"], &["'away'", "disable, enable, recheck"]),
        (&["policy", "vm0", "--weight", "a:ha1=101"], &["PATH=N, N from 0 to 100"]),
        (&["serve", "--config", "/dev/null", "--log-level", "=?="], &["--log-level"]),
    ];
    for (arguments, parts) in cases {
        let done = mpio(arguments);
        let text = refused(&done, 2);
        assert_eq!((text.lines().count(), done.stdout.as_str()), (1, ""), "{text}");
        says(text, parts);
    }
}

#[test]
fn without_a_daemon_the_exit_code_is_3() {
    let scratch = harness::Scratch::new("cli-none");
    let nothing = scratch.path("nothing.sock");
    // A socket that was left behind: there is a file, and nobody listens.
    let stale = scratch.path("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let file = scratch.file("file", "");
    for (path, why) in [
        (&nothing, "there is no such socket"),
        (&stale, "nobody listens there"),
        (&file, "nobody listens there"),
    ] {
        let path = path.to_string_lossy();
        for command in [&["status"][..], &["status", "--json"], &["policy", "vm0"]] {
            let done = mpio(&[command, &["--control", &path]].concat());
            let text = refused(&done, 3);
            says(text, &["no daemon", &path, why, "mpio serve --config FILE", "--control"]);
            assert_eq!(done.stdout, "");
        }
        let done = mpio(&["path", "vm0", "a:ha1", "disable", "--control", &path]);
        says(refused(&done, 3), &["no daemon"]);
    }
}

/// A reader that has seen enough is no error: no message, no panic, exit code 0.
#[test]
fn a_closed_pipe_is_no_error() {
    let scratch = harness::Scratch::new("cli-pipe");
    let mpio = harness::daemon::MPIO;
    let code = scratch.path("code");
    let run = |arguments: &str, to: &str| {
        let script =
            format!("( sleep 0.2; {mpio} {arguments}; echo $? > {} ) {to}", code.display());
        let done = harness::process::finish(None, "sh", &["-c", &script]);
        (std::fs::read_to_string(&code).unwrap(), done)
    };
    for arguments in ["--help", "--version", "attach --help"] {
        let (code, done) = run(arguments, "| head -n 0");
        assert_eq!((code.as_str(), done.stderr.as_str()), ("0\n", ""), "{arguments}");
    }
    // The same for messages: whoever closed stderr gets the exit code only.
    for arguments in ["", "statsu"] {
        let (code, done) = run(arguments, "2>&1 | head -n 0");
        assert_eq!((code.as_str(), done.stderr.as_str()), ("2\n", ""), "{arguments}");
    }
}
