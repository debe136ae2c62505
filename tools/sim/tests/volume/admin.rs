//! An administrator's words under load, and the end of the daemon.

use super::doubt::hang_one;
use mpio::base::Duration;
use mpio::path::{FenceMode, Policy, State};
use mpio::volume::spec::Tunables;
use mpio::wire::nbd::NbdError;
use mpio_sim::net::Net;
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::faults::Commands;
use mpio_target::{Fault, Rule};

fn load(w: &mut World, c: usize, seed: u64) -> Vec<u64> {
    (0..64).map(|n| w.start_write(c, n * 4096, pattern(seed << 8 | n, 4096))).collect()
}

fn check(w: &mut World, c: usize, seed: u64, tokens: Vec<u64>) {
    for token in tokens {
        w.answer(c, token).expect("no error");
    }
    for n in 0..64 {
        assert!(w.read(c, n * 4096, 4096).expect("read") == pattern(seed << 8 | n, 4096));
    }
}

#[test]
fn paths_are_taken_out_and_put_back_under_load() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    for seed in 1..6 {
        let tokens = load(&mut w, c, seed);
        w.run(Duration::from_micros(120));
        let now = w.now;
        w.volume().disable_path(now, "a:0", false).expect("not the last");
        let last = w.volume().disable_path(now, "b:1", false).expect_err("the last");
        assert!(last.to_string().contains("--force"));
        if seed % 2 == 0 {
            w.node(0).unit_attention(0x29, 0x00);
            w.volume().recheck_path(now, "a:0").expect("nothing to do");
        }
        check(&mut w, c, seed, tokens);
        assert_eq!(w.state(0), State::Disabled);
        if seed % 3 != 0 {
            w.until("logged out", |w| w.nodes[0].as_ref().is_some_and(|n| n.sessions() == 0));
        }
        let now = w.now;
        w.volume().enable_path(now, "a:0").expect("enabled");
        w.until_active();
        w.volume().recheck_path(now, "b:1").expect("rechecked");
        w.until_active();
    }
    assert_eq!(w.failures(1), 0);
    w.finish();
}

#[test]
fn enabled_again_before_it_has_left() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    let tokens = load(&mut w, c, 1);
    w.run(Duration::from_micros(120));
    let now = w.now;
    w.volume().disable_path(now, "a:0", false).expect("disabled");
    w.volume().enable_path(now, "a:0").expect("enabled");
    check(&mut w, c, 1, tokens);
    w.until_active();
    w.finish();
}

#[test]
fn disabling_is_bounded_when_a_command_hangs() {
    let mut w = World::new(Setup { policy: Policy::Failover, ..Setup::default() });
    let c = w.client();
    w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Flushes));
    w.write(c, 0, &pattern(1, 4096)).expect("written");
    let op = mpio::wire::nbd::Command::FLUSH;
    let op = mpio::export::client::Op::Other { command: op, flags: 0, offset: 0, len: 0 };
    let token = w.ask(c, op);
    w.run_ms(10);
    let now = w.now;
    w.volume().disable_path(now, "a:0", false).expect("disabled");
    w.answer(c, token).expect("flushed elsewhere");
    assert!(w.now - now < Duration::from_secs(11), "{:?}", w.now - now);
    w.finish();
}

#[test]
fn disabled_in_every_phase() {
    for millis in 0..12 {
        let mut w = World::cold(Setup::default());
        w.run(Duration::from_micros(millis * 300));
        let now = w.now;
        w.volume().disable_path(now, "a:0", true).expect("disabled");
        w.until_state(1, State::Active);
        w.run_ms(100);
        assert_eq!(w.state(0), State::Disabled);
        let now = w.now;
        w.volume().enable_path(now, "a:0").expect("enabled");
        w.until_active();
        w.finish();
    }
}

#[test]
fn a_recheck_tries_a_failed_path_at_once() {
    let mut w = World::new(Setup::default());
    w.kill(0);
    w.run(Duration::from_secs(20));
    w.start(0);
    let now = w.now;
    w.volume().recheck_path(now, "a:0").expect("tried");
    assert!(w.until_active() < Duration::from_millis(20));
    w.finish();
}

#[test]
fn the_end_finishes_flushes_and_logs_out() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    let tokens = load(&mut w, c, 1);
    w.run(Duration::from_micros(120));
    let now = w.now;
    w.volume().drain(now);
    let took = w.until("drained", |w| w.drained[0]);
    assert!(took < Duration::from_millis(100), "{took:?}");
    for token in tokens {
        let done = w.take(c, token).expect("answered");
        assert!(matches!(done, Ok(_) | Err(NbdError::Shutdown)), "{done:?}");
    }
    let flushed = |node| w.executed(node, 0x35);
    assert_eq!((flushed(0), flushed(1)), (1, 1));
    assert_eq!([w.node(0).sessions(), w.node(1).sessions()], [0, 0]);
    w.run(Duration::from_secs(5));
    assert!(w.connects.len() == 2, "nothing connects any more");
    w.finish();
}

#[test]
fn the_end_is_bounded() {
    for fence in [FenceMode::Overlap, FenceMode::Strict] {
        let mut w = World::new(Setup {
            tunables: Tunables { fence, ..Tunables::default() },
            ..Setup::default()
        });
        let c = w.client();
        w.portals.iter_mut().for_each(|p| p.net = Net::Silent);
        let write = w.start_write(c, 0, pattern(1, 4096));
        let held = w.start_write(c, 0, pattern(2, 4096));
        let read = w.start_read(c, 0, 512);
        w.run_ms(100);
        let now = w.now;
        w.volume().drain(now);
        let took = w.until("drained", |w| w.drained[0]);
        assert!(took <= Duration::from_millis(10_060), "{took:?}");
        w.run_ms(100);
        let told = |w: &World, t| w.told(c, t).map(|r| r.as_ref().err().copied());
        let shutdown = Some(Some(NbdError::Shutdown));
        match fence {
            FenceMode::Strict => assert_eq!(told(&w, write), None),
            _ => assert_eq!([told(&w, write), told(&w, read)], [shutdown; 2]),
        }
        assert!(!matches!(told(&w, held), Some(None)), "never executed");
        assert!(w.peers[c].id.is_none(), "the client is closed");
    }
}

/// A write that was given up behind a hung disk, whose ABORT TASK is not answered: the path leaves within
/// `shutdown_timeout` all the same, the blocks stay held, and the proof comes when it is enabled again.
#[test]
fn disabling_is_bounded_with_a_write_in_doubt() {
    let tunables = Tunables { fence_timeout: Duration::MAX, ..Tunables::default() };
    let mut w = World::new(Setup { policy: Policy::Failover, tunables, ..Setup::default() });
    let c = w.client();
    hang_one(&w, 0);
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    w.write(c, 0, &pattern(1, 4096)).expect("repeated elsewhere");
    let second = w.start_write(c, 0, pattern(2, 4096));
    let now = w.now;
    w.volume().disable_path(now, "a:0", false).expect("disabled");
    w.run(Duration::from_secs(9));
    assert_eq!(w.node(0).sessions(), 1, "its command may still end");
    w.run(Duration::from_secs(2));
    assert_eq!((w.node(0).sessions(), w.state(0)), (0, State::Disabled), "{}", w.story());
    w.run(Duration::from_secs(60));
    assert!(!w.is_done(c, second), "nothing proves it dead");
    assert_eq!(w.volume().snapshot().fences.pending, 1);
    w.faults(0).clear();
    let now = w.now;
    w.volume().enable_path(now, "a:0").expect("enabled");
    w.answer(c, second).expect("proven");
    w.until_active();
    w.finish();
}
