//! Seeds hold every rule, the same seed is the same run, and the simulator finds what it is there to find.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mpio_sim::check::Rule;
use mpio_sim::plan::{Bug, Plan};
use mpio_sim::report;
use mpio_sim::run::run;
use mpio_sim::world::DriverBug;

/// The first seed from 1 on that finds the bug by a rule that may find it, within `most` seeds.
#[track_caller]
fn finds(bug: Bug, most: u64, rules: &[Rule]) -> u64 {
    for seed in 1..=most {
        if let Err(failure) = run(&Plan::new(seed, Some(bug))) {
            let report = report::report(&failure);
            assert!(
                rules.contains(&failure.broken.rule),
                "{} is found otherwise:\n{report}",
                bug.name()
            );
            assert!(report.contains(&format!("seed {seed}: ")), "{report}");
            assert!(report.contains(&report::again(seed, Some(bug))), "{report}");
            assert!(report.lines().count() < 150, "{} lines", report.lines().count());
            println!("{}: found by seed {seed} of at most {most}", bug.name());
            return seed;
        }
    }
    panic!("{} was not found within {most} seeds", bug.name());
}

#[test]
fn seeds_hold() {
    for seed in 1..=60 {
        if let Err(failure) = run(&Plan::new(seed, None)) {
            panic!("\n{}", report::report(&failure));
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let mut hashes = Vec::new();
    for seed in 1..=12 {
        let once = run(&Plan::new(seed, None)).map_err(|f| report::report(&f)).unwrap();
        let again = run(&Plan::new(seed, None)).map_err(|f| report::report(&f)).unwrap();
        assert_eq!(once, again, "seed {seed}");
        hashes.push(once.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 12, "other seeds are other runs");
}

/// The same for a run that breaks a rule: the report can be had again.
#[test]
fn a_failure_repeats() {
    let bug = Bug::Driver(DriverBug::BufferReuse);
    let seed = finds(bug, 100, &[Rule::Order, Rule::Protocol, Rule::Panic]);
    let report = || run(&Plan::new(seed, Some(bug))).err().map(|f| report::report(&f));
    assert_eq!(report(), report());
}

#[test]
fn without_the_fence_the_stale_write_is_found() {
    finds(Bug::FenceOff, 100, &[Rule::Order]);
}

#[test]
fn a_lost_completion_is_found() {
    finds(Bug::Driver(DriverBug::LostCompletion), 100, &[Rule::Alive, Rule::Tidy]);
}

#[test]
fn a_buffer_reused_too_early_is_found() {
    let rules = [Rule::Order, Rule::Protocol, Rule::Panic];
    finds(Bug::Driver(DriverBug::BufferReuse), 100, &rules);
}

#[cfg(feature = "planted")]
mod planted {
    use super::*;
    use mpio::path::planted::Bug as Product;

    #[test]
    fn a_broken_connection_taken_for_a_proof_is_found() {
        finds(Bug::Product(Product::RetryTooLax), 400, &[Rule::Order]);
    }

    #[test]
    fn an_isid_that_changes_is_found() {
        finds(Bug::Product(Product::IsidChanges), 200, &[Rule::Order]);
    }

    #[test]
    fn a_skipped_reset_is_found() {
        finds(Bug::Product(Product::ResetSkipped), 200, &[Rule::Order]);
    }

    #[test]
    fn a_reset_beside_writes_on_their_way_is_found() {
        finds(Bug::Product(Product::ResetUnprepared), 400, &[Rule::Alive]);
    }

    #[test]
    fn a_flush_that_skips_a_target_is_found() {
        finds(Bug::Product(Product::FlushSkipsTarget), 50, &[Rule::Stable]);
    }

    #[test]
    fn a_range_released_at_the_reply_is_found() {
        finds(Bug::Product(Product::FreeAtReply), 200, &[Rule::Order]);
    }

    #[test]
    fn a_forgotten_grant_is_found() {
        finds(Bug::Product(Product::GrantForgotten), 50, &[Rule::Alive, Rule::Tidy]);
    }

    #[test]
    fn an_aborted_write_taken_for_done_is_found() {
        let rules = [Rule::Order, Rule::Panic, Rule::Tidy, Rule::Stable];
        finds(Bug::Product(Product::AbortedIsDone), 200, &rules);
    }

    #[test]
    fn what_an_earlier_daemon_left_behind_and_nobody_looks_at_is_found() {
        finds(Bug::Product(Product::LeftBehindIgnored), 400, &[Rule::Order]);
    }

    #[test]
    fn an_old_write_that_nobody_undoes_is_found() {
        finds(Bug::Product(Product::WatchForgotten), 1000, &[Rule::Order]);
    }

    #[test]
    fn a_unit_that_only_looks_alike_is_found() {
        finds(Bug::Product(Product::ContentUnread), 200, &[Rule::Apart]);
    }

    #[test]
    fn copies_that_nobody_paid_for_are_found() {
        finds(Bug::Product(Product::HedgesUnpaid), 200, &[Rule::Hedges]);
    }
}
