//! The watch list: an old write that lands after its range was released without a proof is found and undone.

use super::doubt::{self, cut_off, doubtful, hang_one, reconnect};
use super::trusting;
use mpio::base::Duration;
use mpio::volume::spec::Tunables;
use mpio::wire::nbd::Command;
use mpio_sim::net::Net;
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::faults::Commands;
use mpio_target::{Fault, Rule};

/// Little patience.
fn setup() -> Setup {
    doubt::setup(Tunables { fence_timeout: Duration::from_secs(5), ..trusting() })
}

fn fences(w: &mut World) -> (u64, u64, u64, u64) {
    let s = w.volume().snapshot();
    (s.fences.pending, s.fences.unproven, s.watched, s.repaired)
}

/// A write of blocks 0 to 7 is in doubt, and was released unproven.
fn released(w: &mut World, c: usize) {
    doubtful(w, c);
    w.run(Duration::from_secs(6));
    assert_eq!(fences(w), (0, 1, 1, 0), "{}", w.story());
}

/// The old write has landed over a newer one; the path is back, and the check's first read over it hangs for a while.
fn hanging_check() -> (World, usize) {
    let mut w = World::new(setup());
    let c = w.client();
    released(&mut w, c);
    w.write(c, 0, &pattern(2, 4096)).expect("not held any more");
    lands(&mut w);
    w.faults(0).set("slow", Rule::new(Fault::Hold).on(Commands::Reads).blocks(0, 8).times(1));
    reconnect(&mut w);
    w.until("the check reads", |w| w.faults(0).struck("slow") == 1);
    (w, c)
}

/// Everything that was released is looked at.
fn looked_at(w: &mut World) {
    w.until("looked at", |w| w.volumes[0].snapshot().watched == 0);
}

/// The old write is executed on the node that is cut off.
fn lands(w: &mut World) {
    w.release(0);
}

#[test]
fn blocks_that_the_old_write_has_hit_are_rewritten() {
    let mut w = World::new(setup());
    let c = w.client();
    released(&mut w, c);
    // Blocks 2 and 3, then 3 again; 8 is beside it.
    w.write(c, 1024, &pattern(2, 1024)).expect("not held any more");
    w.write(c, 1536, &pattern(3, 512)).expect("not held any more");
    w.write(c, 4096, &pattern(4, 512)).expect("beside");
    lands(&mut w);
    let stale = w.read(c, 1024, 1024).expect("read");
    assert_eq!(stale, &pattern(1, 4096)[1024..2048], "the old write has landed");
    reconnect(&mut w);
    looked_at(&mut w);
    assert_eq!(fences(&mut w), (0, 1, 0, 2));
    let mut right = pattern(1, 4096);
    right[1024..2048].copy_from_slice(&pattern(2, 1024));
    right[1536..2048].copy_from_slice(&pattern(3, 512));
    right.extend(pattern(4, 512));
    assert_eq!(w.read(c, 0, 4608).expect("read"), right);
    assert_eq!((w.logged("repaired"), w.logged("differs")), (1, 0));
    w.finish();
}

#[test]
fn what_is_right_is_left_alone() {
    let mut w = World::new(setup());
    let c = w.client();
    released(&mut w, c);
    w.write(c, 0, &pattern(2, 4096)).expect("not held any more");
    let before = w.records().len();
    // The reset ends it before it lands.
    reconnect(&mut w);
    looked_at(&mut w);
    assert_eq!(fences(&mut w), (0, 1, 0, 0));
    assert_eq!((w.logged("repaired"), w.logged("differs")), (0, 0));
    let writes = w.records()[before..].iter().filter(|r| r.opcode == 0x2a).count();
    assert_eq!(writes, 0, "nothing was written");
    assert_eq!(w.read(c, 0, 4096).expect("read"), pattern(2, 4096));
    w.finish();
}

/// Another host has written there: nothing of ours is put over it.
#[test]
fn what_somebody_else_wrote_is_only_reported() {
    let mut w = World::new(setup());
    let c = w.client();
    released(&mut w, c);
    w.write(c, 0, &pattern(2, 4096)).expect("not held any more");
    w.pair.store(1).write(3 * 512, &pattern(7, 512)).expect("written");
    reconnect(&mut w);
    looked_at(&mut w);
    assert_eq!((w.logged("repaired"), w.logged("differs")), (0, 1));
    assert_eq!(w.read(c, 3 * 512, 512).expect("read"), pattern(7, 512));
    w.finish();
}

/// What was never acknowledged after the old write may be either: it is not touched, nor told.
#[test]
fn without_a_newer_write_there_is_nothing_to_mend() {
    let mut w = World::new(setup());
    let c = w.client();
    released(&mut w, c);
    lands(&mut w);
    reconnect(&mut w);
    looked_at(&mut w);
    assert_eq!((w.logged("repaired"), w.logged("differs")), (0, 0));
    w.finish();
}

/// Client reads of the range do not take the path before it was looked at; others do.
#[test]
fn reads_of_the_range_wait_for_the_check() {
    let (mut w, c) = hanging_check();
    w.kill(1);
    let token = w.start_read(c, 0, 4096);
    let beside = w.start_read(c, 8192, 512);
    w.answer(c, beside).expect("read over the path that is left");
    w.run_ms(300);
    assert!(!w.is_done(c, token), "it would be old data");
    lands(&mut w);
    match w.answer(c, token).expect("read") {
        mpio::export::client::Answer::Data(data) => assert_eq!(data.to_vec(), pattern(2, 4096)),
        other => panic!("{other:?}"),
    }
    w.start(1);
    w.until_active();
    assert_eq!(fences(&mut w).3, 8);
    w.finish();
}

/// No room to watch: the range stays taken, and is told once.
#[test]
fn a_range_that_cannot_be_watched_stays_taken() {
    let mut s = setup();
    s.tunables.watch_memory = 8191;
    let mut w = World::new(s);
    let c = w.client();
    doubtful(&mut w, c);
    let held = w.start_write(c, 0, pattern(2, 512));
    w.run(Duration::from_secs(20));
    assert!(!w.is_done(c, held));
    assert_eq!(fences(&mut w), (1, 0, 0, 0));
    assert_eq!(w.logged("watch list full"), 1);
    w.portals[0].net = Net::Works;
    w.answer(c, held).expect("proven");
    w.until_active();
    w.finish();
}

/// A late WRITE SAME of zeros: what was written since is put back.
#[test]
fn late_zeros_are_undone() {
    let mut w = World::new(setup());
    let c = w.client();
    w.write(c, 0, &pattern(9, 4096)).expect("written");
    let hang = Rule::new(Fault::Hold).on(Commands::Writes).times(1);
    w.faults(0).set("hang", hang);
    let token = w.ask(
        c,
        mpio::export::client::Op::Other {
            command: Command::WRITE_ZEROES,
            flags: 0,
            offset: 0,
            len: 4096,
        },
    );
    w.run_ms(50);
    assert_eq!(w.node(0).held(), 1);
    cut_off(&mut w);
    w.answer(c, token).expect("repeated");
    w.run(Duration::from_secs(6));
    w.write(c, 512, &pattern(2, 512)).expect("not held any more");
    lands(&mut w);
    assert_eq!(w.read(c, 512, 512).expect("read"), vec![0; 512], "it has landed");
    reconnect(&mut w);
    looked_at(&mut w);
    assert_eq!(w.read(c, 512, 512).expect("read"), pattern(2, 512));
    w.finish();
}

/// The path fails in the middle of the check: another time.
#[test]
fn a_check_that_is_cut_off_is_made_again() {
    let (mut w, c) = hanging_check();
    w.node(0).reset_connections();
    w.run_ms(10);
    assert_eq!(fences(&mut w).2, 1);
    w.until_active();
    looked_at(&mut w);
    assert_eq!(fences(&mut w), (0, 1, 0, 8));
    assert_eq!(w.read(c, 0, 4096).expect("read"), pattern(2, 4096));
    w.finish();
}

/// The old write's own status comes after all, on its session: that is when to look.
#[test]
fn a_status_that_comes_late_is_when_to_look() {
    let mut w = World::new(setup());
    let c = w.client();
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    hang_one(&w, 0);
    w.write(c, 0, &pattern(1, 4096)).expect("repeated on the other path");
    w.run(Duration::from_secs(8));
    assert_eq!(fences(&mut w), (0, 1, 1, 0));
    w.write(c, 0, &pattern(2, 4096)).expect("not held any more");
    lands(&mut w);
    looked_at(&mut w);
    assert_eq!((fences(&mut w).3, w.failures(0)), (8, 0));
    assert_eq!(w.read(c, 0, 4096).expect("read"), pattern(2, 4096));
    w.faults(0).clear();
    w.finish();
}
