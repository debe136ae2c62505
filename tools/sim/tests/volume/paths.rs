//! Paths that fail and return: refused, reset, closed, silent; redirects; back-off; no path left.

use super::doubt::reconnect;
use mpio::base::Duration;
use mpio::path::State;
use mpio::volume::spec::Tunables;
use mpio::wire::nbd::NbdError;
use mpio_sim::net::{Net, ways};
use mpio_sim::world::{Setup, World, pattern, portal_addr};
use mpio_target::faults::Commands;
use mpio_target::{Fault, Rule};

#[test]
fn both_paths_carry_io_of_every_size() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    for (n, len) in [512, 4096, 65_536, 1 << 20, 32 << 20, 12_800].into_iter().enumerate() {
        let data = pattern(n as u64, len);
        w.write(c, n as u64 * 4096, &data).expect("written");
        assert!(w.read(c, n as u64 * 4096, len as u32).expect("read") == data, "{len} bytes");
    }
    let snapshot = w.volume().snapshot();
    assert!(snapshot.paths.iter().all(|p| p.stats.reads > 0 && p.stats.writes > 0));
    w.finish();
}

#[test]
fn a_killed_target_is_found_at_once_and_returns() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    let tokens: Vec<u64> = (0..64).map(|n| w.start_write(c, n * 4096, pattern(n, 4096))).collect();
    w.run(Duration::from_micros(150));
    w.kill(0);
    for token in tokens {
        w.answer(c, token).expect("no error");
    }
    assert_eq!(w.state(1), State::Active);
    w.start(0);
    let back = w.until_active();
    assert!(back < Duration::from_secs(3), "{back:?}");
    for n in 0..64 {
        assert!(w.read(c, n * 4096, 4096).expect("read") == pattern(n, 4096));
    }
    w.finish();
}

#[test]
fn silence_is_found_by_nop_out_and_io_goes_elsewhere() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    w.portals[0].net = Net::Silent;
    let tokens: Vec<u64> = (0..8).map(|n| w.start_read(c, n * 4096, 4096)).collect();
    let from = w.now;
    for token in tokens {
        w.answer(c, token).expect("no error");
    }
    assert!(w.now - from < Duration::from_millis(1200), "{:?}", w.now - from);
    w.until_state(0, State::Failed);
    assert!(w.log.iter().any(|n| n.what == "failed" && n.why.contains("1s")), "{}", w.story());
    reconnect(&mut w);
    w.finish();
}

#[test]
fn an_idle_path_that_falls_silent_is_found_too() {
    let mut w = World::new(Setup::default());
    w.portals[1].net = Net::Silent;
    let found = w.until("path 1 down", |w| w.state(1) != State::Active);
    assert!(found < Duration::from_millis(1600), "{found:?}");
    w.finish();
}

#[test]
fn reset_and_close_by_the_target_cost_no_request() {
    for fault in [Fault::Reset, Fault::ResetAfter, Fault::Close, Fault::Silence] {
        let mut w = World::new(Setup::default());
        let c = w.client();
        w.faults(0).set("cut", Rule::new(fault.clone()).on(Commands::Medium).skip(3).times(1));
        let data = pattern(9, 64 * 4096);
        for n in 0..64usize {
            w.start_write(c, n as u64 * 4096, data[n * 4096..(n + 1) * 4096].to_vec());
        }
        w.until("all written", |w| w.answers(c).count() == 64);
        assert!(w.answers(c).all(|done| done.result.is_ok()), "{fault:?}");
        assert_eq!(w.failures(0), 1, "{fault:?}");
        w.until_active();
        assert!(w.read(c, 0, 64 * 4096).expect("read") == data, "{fault:?}");
        w.finish();
    }
}

#[test]
fn back_off_grows_to_two_seconds_and_never_ends() {
    let mut w = World::new(Setup::default());
    w.kill(0);
    w.connects.clear();
    w.run(Duration::from_secs(30));
    let tries: Vec<_> = w.connects.iter().map(|(at, _)| *at).collect();
    let gaps: Vec<Duration> = tries.windows(2).map(|t| t[1] - t[0]).collect();
    assert!((24..38).contains(&tries.len()), "{gaps:?}");
    assert!(gaps.iter().all(|g| *g < Duration::from_millis(2100)), "{gaps:?}");
    assert!(gaps[0] < Duration::from_millis(150) && gaps[20] > Duration::from_millis(1400));
    w.start(0);
    assert!(w.until_active() < Duration::from_millis(2200));
    w.finish();
}

#[test]
fn a_login_refused_for_good_is_told_and_retried_slowly() {
    for (class, detail) in [(2, 1), (2, 3), (2, 2)] {
        let mut w = World::cold(Setup::default());
        w.faults(0).set("login", Rule::new(Fault::LoginStatus { class, detail }));
        w.until_state(1, State::Active);
        w.run(Duration::from_secs(20));
        let tries = w.connects.iter().filter(|(_, a)| *a == portal_addr(0)).count();
        assert_eq!((w.state(0), tries), (State::Failed, 1), "{}", w.reason(0));
        assert!(w.reason(0).contains("login failed"), "{}", w.reason(0));
        w.faults(0).remove("login");
        w.until_active();
        w.finish();
    }
}

#[test]
fn a_target_that_is_busy_is_tried_again_soon() {
    let mut w = World::cold(Setup::default());
    w.faults(0).set("login", Rule::new(Fault::LoginStatus { class: 3, detail: 1 }).times(4));
    assert!(w.until_active() < Duration::from_secs(3));
    w.finish();
}

#[test]
fn redirects_are_followed_where_allowed() {
    let setup = Setup { redirect_allow: vec![portal_addr(2)], ..three_portals() };
    for permanent in [false, true] {
        let mut w =
            World::cold(Setup { redirect_allow: setup.redirect_allow.clone(), ..three_portals() });
        let address = portal_addr(2).to_string();
        w.faults(0).set("move", Rule::new(Fault::Redirect { address, permanent }).times(1));
        w.until_active();
        w.connects.clear();
        w.node(0).reset_connections();
        w.until("a new connection", |w| !w.connects.is_empty());
        w.until_active();
        let to_new = w.connects.iter().filter(|(_, a)| *a == portal_addr(2)).count();
        // One of the two paths to node 0 was redirected; the other one lives at portal 2 anyway.
        assert_eq!(to_new, if permanent { 2 } else { 1 }, "{:?}", w.connects);
        w.finish();
    }
}

/// Portal 2 leads to node 0 as well.
fn three_portals() -> Setup {
    Setup { portals: ways(&[0, 1, 0]), ..Setup::default() }
}

#[test]
fn a_temporary_redirect_to_a_dead_end_returns_to_the_portal() {
    let mut w = World::cold(Setup { redirect_allow: vec![portal_addr(9)], ..Setup::default() });
    let address = portal_addr(9).to_string();
    w.faults(0).set("move", Rule::new(Fault::Redirect { address, permanent: false }).times(1));
    w.until_active();
    w.finish();
}

#[test]
fn redirects_elsewhere_and_without_end_are_not_followed() {
    let mut w = World::cold(Setup::default());
    let address = "192.0.2.1:3260".to_owned();
    w.faults(0).set("move", Rule::new(Fault::Redirect { address, permanent: false }));
    w.until_state(1, State::Active);
    w.run_ms(500);
    assert!(w.connects.iter().all(|(_, a)| *a != "192.0.2.1:3260".parse().unwrap()));
    assert!(w.reason(0).contains("redirect_allow"), "{}", w.reason(0));
    let mut w = World::cold(Setup { redirect_allow: vec![portal_addr(0)], ..Setup::default() });
    let address = portal_addr(0).to_string();
    w.faults(0).set("move", Rule::new(Fault::Redirect { address, permanent: false }));
    w.until_state(0, State::Failed);
    w.run_ms(500);
    assert!(w.reason(0).contains("redirects in a row"), "{}", w.reason(0));
    w.finish();
}

#[test]
fn with_no_path_requests_queue_and_then_fail() {
    let tunables = Tunables { no_path_timeout: Duration::from_secs(5), ..Tunables::default() };
    let mut w = World::new(Setup { tunables, ..Setup::default() });
    let c = w.client();
    w.kill(0);
    w.kill(1);
    w.run_ms(100);
    let read = w.start_read(c, 0, 512);
    let write = w.start_write(c, 4096, pattern(1, 4096));
    let from = w.now;
    assert_eq!(w.answer(c, read).map(drop), Err(NbdError::Io));
    assert_eq!(w.answer(c, write).map(drop), Err(NbdError::Io));
    let waited = w.now - from;
    assert!(
        waited > Duration::from_millis(4500) && waited < Duration::from_millis(5200),
        "{waited:?}"
    );
    assert_eq!(w.logged("down"), 1);
    let from = w.now;
    assert_eq!(w.read(c, 0, 512).map(drop), Err(NbdError::Io));
    assert!(w.now - from <= Duration::from_millis(60), "later ones fail at once");
    w.start(0);
    w.until_state(0, State::Active);
    w.read(c, 0, 512).expect("works again");
    w.run_ms(100);
    assert_eq!(w.logged("ok"), 1);
    w.start(1);
    w.until_active();
    w.finish();
}

#[test]
fn requests_queue_for_ever_when_asked_to() {
    let tunables = Tunables { no_path_timeout: Duration::MAX, ..Tunables::default() };
    let mut w = World::new(Setup { tunables, ..Setup::default() });
    let c = w.client();
    w.kill(0);
    w.kill(1);
    let read = w.start_read(c, 0, 512);
    w.run(Duration::from_secs(3600));
    assert!(!w.is_done(c, read));
    w.start(1);
    w.answer(c, read).expect("done");
    w.finish();
}

#[test]
fn a_go_waits_for_the_first_path_for_a_bounded_time() {
    let mut w = World::cold(Setup::default());
    w.kill(0);
    w.kill(1);
    let c = w.connect(0, mpio::export::client::ClientConfig::new("vm0"));
    w.run(Duration::from_secs(5));
    assert!(w.peers[c].export.is_none() && w.peers[c].ended.is_none());
    w.start(1);
    w.until("the export opens", |w| w.peers[c].export.is_some());
    w.kill(1);
    w.finish();
    let mut w = World::cold(Setup::default());
    w.kill(0);
    w.kill(1);
    let c = w.connect(0, mpio::export::client::ClientConfig::new("vm0"));
    let waited = w.until("refused", |w| w.peers[c].ended.is_some());
    assert!(waited >= Duration::from_secs(10) && waited < Duration::from_secs(11), "{waited:?}");
    w.vanish(c);
    w.finish();
}

/// Nothing in flight, window closed: no pings fail, no command is late, and still nothing moves.
#[test]
fn a_target_that_keeps_its_window_closed_is_left() {
    let mut w = World::new(Setup { policy: mpio::path::Policy::Failover, ..Setup::default() });
    let c = w.client();
    w.faults(0).set("window", Rule::new(Fault::Window(0)));
    let from = w.now;
    for n in 0..400 {
        w.read(c, n * 512, 512).expect("read");
    }
    assert!(w.now - from < Duration::from_secs(5), "{:?}", w.now - from);
    w.faults(0).clear();
    w.until_active();
    w.finish();
}

#[test]
fn a_probe_that_is_not_answered_does_not_wait_for_ever() {
    let mut w = World::cold(Setup::default());
    w.faults(0).set("hang", Rule::new(Fault::Mute).on(Commands::Opcode(0x12)));
    w.until_state(1, State::Active);
    w.until_state(0, State::Failed);
    w.faults(0).clear();
    w.until_active();
    w.finish();
}

#[test]
fn a_target_that_asks_for_a_logout_is_left_in_order() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    let data = pattern(3, 1 << 20);
    let token = w.start_write(c, 0, data.clone());
    w.run(Duration::from_micros(150));
    w.async_message(0, 1, 5);
    w.answer(c, token).expect("written");
    w.until("path 0 leaves", |w| w.state(0) != State::Active);
    w.until_active();
    assert!(w.read(c, 0, 1 << 20).expect("read") == data);
    let fences = w.volume().snapshot().fences;
    assert_eq!(fences.proven + fences.unproven, 0, "nothing was in doubt");
    w.finish();
}

/// An administrator disables a path while it logs out at the target's wish, and then its connection breaks:
/// it stays away, and can be enabled again.
#[test]
fn a_path_that_is_disabled_while_it_logs_out_stays_away() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    w.async_message(0, 1, 5);
    w.until("path 0 leaves", |w| w.state(0) != State::Active);
    let (now, name) = (w.now, w.volume().snapshot().paths[0].name.clone());
    w.volume().disable_path(now, &name, false).expect("path 1 is left");
    w.node(0).reset_connections();
    w.run(Duration::from_secs(5));
    assert_eq!(w.state(0), State::Disabled);
    assert_eq!(w.node(0).sessions(), 0, "it has logged out and not come back");
    w.write(c, 0, &pattern(1, 4096)).expect("written on path 1");
    let now = w.now;
    w.volume().enable_path(now, &name).expect("enabled");
    w.until_active();
    w.finish();
}
