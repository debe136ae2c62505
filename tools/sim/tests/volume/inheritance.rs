//! A process that dies with writes on their way, and what its successor does: the state file and the start.

use super::doubt::{cut_off, doubtful, hang_one, reconnect, setup};
use mpio::base::Duration;
use mpio::path::{FenceMode, Policy, State};
use mpio::volume::spec::Tunables;
use mpio_sim::net::Net;
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::faults::Commands;
use mpio_target::{Fault, Rule};

const WRITE_10: u8 = 0x2a;

/// A write hangs on node 0; then the process dies.
fn killed(w: &mut World) {
    let c = w.client();
    hang_one(w, 0);
    w.start_write(c, 0, pattern(1, 4096));
    w.run_ms(50);
    assert_eq!(w.node(0).held(), 1);
    assert_eq!(w.state_file.len(), 2, "{:?}", w.state_file);
}

#[test]
fn no_write_leaves_before_its_nexus_is_written_down() {
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    w.record_delay = Some(Duration::from_secs(3));
    let token = w.start_write(c, 0, pattern(1, 4096));
    assert_eq!(w.read(c, 8192, 512).expect("reads go on"), vec![0; 512]);
    w.run(Duration::from_secs(2));
    assert_eq!(w.executed(0, WRITE_10) + w.executed(1, WRITE_10), 0);
    assert!(!w.is_done(c, token));
    w.answer(c, token).expect("written");
    let from = w.now;
    w.write(c, 0, &pattern(2, 4096)).expect("written");
    assert!(w.now - from < Duration::from_millis(10), "once for a nexus");
    assert_eq!(w.state_file.len(), 2);
    let record = &w.state_file[0];
    assert_eq!((record.path.as_str(), record.portal_group), ("a:0", Some(1)));
    // Neither for the next session of the same nexus.
    w.node(0).reset_connections();
    w.until_active();
    w.write(c, 0, &pattern(3, 4096)).expect("written");
    assert_eq!(w.state_file.len(), 2);
    w.finish();
}

/// The policy chooses among all paths, and a record that takes long is not waited for by everybody.
#[test]
fn a_slow_record_leaves_the_other_paths_their_writes() {
    let mut w = World::new(Setup { policy: Policy::RoundRobin, ..setup(Tunables::default()) });
    let c = w.client();
    for n in 0..8 {
        w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
    }
    let before = (w.executed(0, WRITE_10), w.executed(1, WRITE_10));
    assert!(before.0 > 0 && before.1 > 0, "{before:?}");
    let now = w.now;
    w.volume().disable_path(now, "a:0", false).expect("disabled");
    w.until("logged out", |w| w.state_file.len() == 1);
    let now = w.now;
    w.volume().enable_path(now, "a:0").expect("enabled");
    w.until_active();
    w.record_delay = Some(Duration::from_secs(20));
    let from = w.now;
    w.write(c, 0, &pattern(3, 4096)).expect("by the other path");
    assert!(w.now - from < Duration::from_millis(200), "{:?}", w.now - from);
    let after = (w.executed(0, WRITE_10), w.executed(1, WRITE_10));
    assert_eq!(after, (before.0, before.1 + 1));
    w.finish();
}

#[test]
fn a_record_that_cannot_be_written_is_told_and_tried_again() {
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    w.record_delay = None;
    let token = w.start_write(c, 0, pattern(1, 4096));
    w.run(Duration::from_secs(5));
    assert!(!w.is_done(c, token));
    assert!(w.logged("state file") >= 4, "{}", w.story());
    w.record_delay = Some(Duration::ZERO);
    w.answer(c, token).expect("written");
    w.finish();
}

/// What the earlier process had acknowledged may be in a cache still: a flush of this one speaks for it.
#[test]
fn the_first_flush_covers_what_the_earlier_process_wrote() {
    let syncs = |w: &World| [w.executed(0, 0x35), w.executed(1, 0x35)];
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    w.write(c, 0, &pattern(1, 4096)).expect("written");
    w.restart_daemon(|_| true);
    w.until_active();
    let c = w.client();
    assert_eq!(syncs(&w), [0, 0]);
    w.flush(c).expect("flushed");
    assert_eq!(syncs(&w), [1, 1], "nobody knows where it wrote");
    w.flush(c).expect("nothing new");
    assert_eq!(syncs(&w), [1, 1]);
    w.finish();
}

#[test]
fn a_clean_logout_strikes_it_out_and_a_lost_session_does_not() {
    let mut w = World::new(setup(Tunables::default()));
    let c = w.client();
    w.write(c, 0, &pattern(1, 4096)).expect("written");
    assert_eq!(w.state_file.len(), 2);
    let now = w.now;
    w.volume().disable_path(now, "a:0", false).expect("disabled");
    w.until_state(0, State::Disabled);
    w.until("logged out", |w| w.state_file.len() == 1);
    assert_eq!(w.state_file[0].path, "b:1");
    let now = w.now;
    w.volume().enable_path(now, "a:0").expect("enabled");
    w.until_active();
    w.write(c, 0, &pattern(2, 4096)).expect("written");
    w.until("written down again", |w| w.state_file.len() == 2);
    // In doubt when the service ends: it stays in the file.
    w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Writes).times(1));
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    w.write(c, 0, &pattern(3, 4096)).expect("repeated");
    let now = w.now;
    w.volume().drain(now);
    w.until("drained", |w| w.drained[0]);
    assert_eq!(w.state_file.iter().map(|r| r.path.as_str()).collect::<Vec<_>>(), ["a:0"]);
}

/// `kill -9` between W1 and its repeat by the client through the new process is the same case as a lost path.
#[test]
fn what_a_killed_process_left_on_its_way_never_lands_over_a_newer_write() {
    for stalled in [false, true] {
        let mut w = World::new(setup(Tunables::default()));
        if stalled {
            // The bytes are still in the network, and arrive after the new login.
            let c = w.client();
            w.write(c, 65_536, &pattern(9, 512)).expect("the nexus is written down");
            w.stall(0, true);
            w.start_write(c, 0, pattern(1, 4096));
            w.run_ms(50);
        } else {
            killed(&mut w);
        }
        w.restart_daemon(|_| true);
        assert_eq!(w.logged("left behind"), 0, "told in the first turn");
        w.portals[0].net = Net::Refuses;
        let c = w.client();
        assert_eq!(w.logged("left behind"), 2);
        let token = w.start_write(c, 0, pattern(2, 4096));
        let elsewhere = w.start_write(c, 1 << 20, pattern(3, 4096));
        assert!(w.read(c, 0, 512).is_ok(), "reads go on");
        w.run(Duration::from_secs(10));
        assert!(!w.is_done(c, token) && !w.is_done(c, elsewhere), "nobody knows which blocks");
        w.portals[0].net = Net::Works;
        w.answer(c, token).expect("proven");
        w.answer(c, elsewhere).expect("proven");
        w.stall(0, false);
        w.until_active();
        w.run_ms(500);
        assert_eq!(w.node(0).held(), 0);
        assert_eq!(w.read(c, 0, 4096).expect("read"), pattern(2, 4096));
        let fences = w.volume().snapshot().fences;
        assert_eq!((fences.pending, fences.proven, fences.unproven), (0, 1, 0));
        assert_eq!(w.state_file.len(), 2, "their sessions live on");
        w.finish();
    }
}

/// A nexus whose path is not configured any more: told loudly, released by a word or by `fence_timeout`.
#[test]
fn what_has_no_path_any_more_waits_for_a_word_or_the_timeout() {
    for word in [true, false] {
        let mut w = World::new(setup(Tunables::default()));
        killed(&mut w);
        let mut other = w.state_file[0].clone();
        (other.isid, other.path) = ([0x80, 9, 9, 9, 9, 9], "old:ha1".to_owned());
        w.state_file.push(other);
        w.restart_daemon(|path| path != "old:ha1");
        let c = w.client();
        let from = w.now;
        let token = w.start_write(c, 0, pattern(2, 4096));
        w.run(Duration::from_secs(5));
        assert!(!w.is_done(c, token));
        assert!(w.log.iter().any(|n| n.why.contains("not configured any more")), "{}", w.story());
        let now = w.now;
        let doubts = w.volume().doubts(now);
        let old = doubts.iter().find(|doubt| doubt.path == "old:ha1").expect("in doubt");
        assert!(old.trying.contains("not configured any more"), "{doubts:?}");
        if word {
            // The path to the same target has waited for that, too.
            assert_eq!(w.volume().confirm_dead(now, "old:ha1", false), Ok(0));
        }
        w.answer(c, token).expect("goes on");
        let waited = w.now - from;
        assert_eq!(waited > Duration::from_secs(25), !word, "{waited:?}");
        let fences = w.volume().snapshot().fences;
        assert_eq!((fences.proven, fences.unproven), (u64::from(word), u64::from(!word)));
        w.until("struck out", |w| w.state_file.iter().all(|r| r.path != "old:ha1"));
        assert_eq!(w.state_file.len(), 2);
        w.finish();
    }
}

/// In `strict`, what was left behind waits for a proof for ever, and nobody is told anything before.
#[test]
fn strict_waits_for_what_was_left_behind_for_ever() {
    let tunables = Tunables { fence: FenceMode::Strict, ..Tunables::default() };
    let mut w = World::new(setup(tunables));
    killed(&mut w);
    w.restart_daemon(|_| true);
    w.portals[0].net = Net::Refuses;
    let c = w.client();
    let token = w.start_write(c, 0, pattern(2, 4096));
    w.run(Duration::from_secs(100));
    assert!(!w.is_done(c, token));
    w.portals[0].net = Net::Works;
    w.answer(c, token).expect("proven");
    w.until_active();
    w.finish();
}

/// Several lanes leave several nexuses behind; each is logged into again by its own lane.
#[test]
fn every_lane_settles_what_it_left_behind() {
    let mut w = World::new(Setup { lanes: 2, ..setup(Tunables::default()) });
    let (a, b) = (w.client(), w.client_on(1));
    w.write(a, 0, &pattern(1, 512)).expect("written");
    w.write(b, 0, &pattern(1, 512)).expect("written");
    assert_eq!(w.state_file.len(), 4);
    w.restart_daemon(|_| true);
    let c = w.client();
    w.write(c, 0, &pattern(2, 4096)).expect("written");
    w.until_active();
    let fences = w.volume().snapshot().fences;
    assert_eq!((fences.pending, fences.proven), (0, 1));
    w.finish();
}

/// `fence_command`: asked when a path has no session and could not log in again; exit code 0 is a proof.
#[test]
fn a_fence_command_that_succeeds_is_a_proof() {
    let fence_command = Some("is-off \"$MPIO_TARGET\"".to_owned());
    let tunables = Tunables { fence_command, fence_timeout: Duration::MAX, ..Tunables::default() };
    let mut w = World::new(setup(tunables));
    let c = w.client();
    doubtful(&mut w, c);
    let second = w.start_write(c, 0, pattern(2, 4096));
    w.run(Duration::from_secs(1));
    assert_eq!(w.commands.len(), 0, "a login gets its chance first");
    w.run(Duration::from_secs(20));
    assert_eq!(w.commands.len(), 1, "one at a time");
    let command = w.commands.remove(0);
    assert_eq!((command.path.as_str(), &*command.command), ("a:0", "is-off \"$MPIO_TARGET\""));
    assert!(command.target.ends_with(":ha1") && command.portal.is_some());
    let now = w.now;
    w.volume().handle_fence_command(now, command.id, Err("exit code 1".to_owned()));
    w.run(Duration::from_secs(4));
    assert!(!w.is_done(c, second) && w.commands.is_empty(), "{:?}", w.commands);
    w.run(Duration::from_secs(2));
    let command = w.commands.remove(0);
    let now = w.now;
    w.volume().handle_fence_command(now, command.id, Ok(()));
    w.answer(c, second).expect("proven");
    assert_eq!(w.volume().snapshot().fences.proven, 1);
    assert_eq!(w.logged("not fenced"), 1);
    w.run(Duration::from_secs(10));
    assert!(w.commands.is_empty(), "nothing is in doubt any more");
    reconnect(&mut w);
    w.finish();
}

/// What came into doubt after the command had begun is not proven by it.
#[test]
fn a_fence_command_proves_only_what_was_in_doubt_before_it() {
    let tunables = Tunables {
        fence_command: Some("true".to_owned()),
        fence_timeout: Duration::MAX,
        ..Tunables::default()
    };
    let mut w = World::new(setup(tunables));
    let c = w.client();
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementAnswer(5)));
    w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Writes).times(1));
    let first = w.start_write(c, 0, pattern(1, 4096));
    w.run_ms(50);
    cut_off(&mut w);
    w.answer(c, first).expect("repeated");
    w.until("asked", |w| !w.commands.is_empty());
    let command = w.commands.remove(0);
    // The node was only away: the path returns (its reset is refused), and the next write there hangs too.
    reconnect(&mut w);
    w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Writes).times(1));
    let second = w.start_write(c, 65_536, pattern(2, 4096));
    w.answer(c, second).expect("repeated");
    assert_eq!(w.volume().snapshot().fences.pending, 2);
    let now = w.now;
    w.volume().handle_fence_command(now, command.id, Ok(()));
    assert_eq!(w.volume().snapshot().fences.pending, 1);
    w.faults(0).clear();
    w.until("the rest proven", |w| w.volumes[0].snapshot().fences.pending == 0);
    w.until_active();
    w.finish();
}
