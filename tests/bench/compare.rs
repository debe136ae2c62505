//! `--per-path`: every path alone, every policy, a verdict, and a device that is afterwards as it was.

use crate::harness::daemon::{Daemon, path_of};
use crate::harness::embedded::{Embedded, PATHS};
use crate::harness::wait_for;
use crate::{bench, ended, interrupt, json, refused, start};
use mpio_target::faults::{Commands, Fault, Rule};
use nix::sys::signal::Signal;
use std::io::Read;
use std::time::Duration;

#[track_caller]
fn as_it_was(daemon: &mut Daemon) {
    let status =
        daemon.wait("the device as it was", |status| status["devices"][0]["state"] == "ok");
    assert_eq!(status["devices"][0]["policy"], "failover");
    for path in PATHS {
        assert_eq!(path_of(&status, path)["state"], "active", "{path}");
    }
    assert_eq!(daemon.succeed(&["policy", "vm0"]), "vm0: failover, prefers b:ha1partner\n");
}

#[test]
fn the_best_path_and_the_best_policy_are_named() {
    let rig = Embedded::start("bench-series");
    let mut daemon = rig.daemon("policy = \"failover\"\nprefer = \"b:ha1partner\"");
    // One path is slow by a time that no busy machine hides.
    let slow = Fault::Delay(Duration::from_millis(40), Duration::from_millis(50));
    rig.pair.node(0).faults().set("slow", Rule::new(slow).on(Commands::Reads));
    let report = rig.scratch.path("series.html");
    let words = format!("--per-path --depth 4 --seconds 2 --json --report {}", report.display());
    let done = json(&bench(&daemon, &words), 0);
    let runs = done["per_path"].as_array().unwrap();
    let names: Vec<&str> = runs.iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(names[..2], PATHS);
    assert!(runs.iter().all(|run| run["iops_of_rounds"].as_array().unwrap().len() == 2), "{done}");
    for policy in ["failover", "round-robin", "least-queue-depth"] {
        assert!(names[2..].contains(&policy), "{names:?}");
    }
    assert_eq!(done["best"]["path"], PATHS[1], "{done}");
    assert!(names[2..].contains(&done["best"]["policy"].as_str().unwrap()));
    let p50 = |index: usize| runs[index]["latency_us"]["p50"].as_f64().unwrap();
    assert!(p50(0) >= 40_000.0, "the slow path alone answers in {} us", p50(0));
    let html = std::fs::read_to_string(&report).unwrap();
    for part in ["best path here: b:ha1partner alone of 2", "best policy here", "a:ha1 alone"] {
        assert!(html.contains(part), "{part:?} in the report");
    }
    as_it_was(&mut daemon);
    // For people: one line each, and the verdict.
    let text = bench(&daemon, "--per-path --depth 4 --seconds 1");
    for part in
        ["a:ha1 alone", "best path here: b:ha1partner", "best policy here: ", " x of the best"]
    {
        assert!(text.stdout.contains(part), "{part:?} in {}", text.stdout);
    }
    as_it_was(&mut daemon);
    daemon.stop();
}

#[test]
fn an_interrupt_in_the_middle_puts_everything_back() {
    let rig = Embedded::start("bench-series-int");
    let mut daemon = rig.daemon("policy = \"failover\"\nprefer = \"b:ha1partner\"");
    let run = start(&daemon, "--per-path --seconds 60 --json");
    daemon.wait_for_path(PATHS[1], "disabled", |state| state == "disabled");
    std::thread::sleep(Duration::from_millis(1200));
    interrupt(&run);
    let done = json(&ended(run), 0);
    assert_eq!(done["per_path"].as_array().unwrap().len(), 1);
    assert_eq!(done["per_path"][0]["interrupted"], true);
    as_it_was(&mut daemon);
    daemon.stop();
}

/// The daemon hangs: Ctrl-C ends the run all the same, with the commands that put the device back by hand.
#[test]
fn an_interrupt_ends_it_although_the_daemon_hangs() {
    let rig = Embedded::start("bench-series-hang");
    let mut daemon = rig.daemon("policy = \"failover\"\nprefer = \"b:ha1partner\"");
    let mut run = start(&daemon, "--per-path --seconds 60 --json");
    daemon.wait_for_path(PATHS[1], "disabled", |state| state == "disabled");
    std::thread::sleep(Duration::from_millis(1200));
    daemon.signal(Signal::SIGSTOP);
    interrupt(&run);
    // Far below the half minute that other commands wait for a daemon.
    let limit = Duration::from_secs(20);
    let ended = wait_for(limit, "its end", || run.try_wait().unwrap());
    daemon.signal(Signal::SIGCONT);
    assert_eq!(ended.code(), Some(3));
    let mut said = String::new();
    run.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    for part in [
        "not everything is as it was",
        "no answer within 3 s",
        "mpio path vm0 b:ha1partner enable",
        "mpio policy vm0 failover --prefer b:ha1partner",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    daemon.succeed(&["path", "vm0", PATHS[1], "enable"]);
    daemon.wait_until_active(PATHS[1]);
    as_it_was(&mut daemon);
    daemon.stop();
}

/// A path that an administrator has taken out stays out, and one path alone is nothing to compare.
#[test]
fn a_disabled_path_stays_disabled() {
    let rig = Embedded::start("bench-series-one");
    let daemon = rig.daemon("");
    daemon.succeed(&["path", "vm0", PATHS[0], "disable"]);
    refused(&bench(&daemon, "--per-path --seconds 1"), 1, &["1 usable path", "nothing to compare"]);
    assert_eq!(path_of(&daemon.status(), PATHS[0])["state"], "disabled");
    daemon.stop();
}
