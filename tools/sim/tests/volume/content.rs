//! Two units that report the same names are told apart by their content, and a blank one by what is written.

use mpio::base::Duration;
use mpio::path::State;
use mpio::volume::spec::Tunables;
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::faults::Commands;
use mpio_target::{Fault, Pair, PairConfig, Rule};

fn setup() -> Setup {
    let pair = PairConfig { blank: true, ..PairConfig::default() };
    Setup { pair, ..Setup::default() }
}

/// Writes something into the first blocks, as a partition table would be there.
fn label(pair: &Pair, seed: u64) {
    pair.store(0).write(0, &pattern(seed, 4096)).expect("the store takes it");
}

/// A world whose second portal leads to a unit of its own, under the same names.
fn look_alikes(prepare: impl Fn(&Pair, &Pair)) -> (World, Pair) {
    let mut w = World::cold(setup());
    let other = Pair::new(setup().pair).expect("a pair");
    w.nodes[1] = Some(other.node(1, 1));
    prepare(&w.pair, &other);
    (w, other)
}

#[test]
fn one_unit_with_content_is_merged_before_any_client_comes() {
    let mut w = World::cold(setup());
    label(&w.pair, 1);
    let took = w.until_active();
    assert!(took < Duration::from_millis(100), "no waiting where nothing differs: {took:?}");
    assert_eq!(w.executed(0, 0x2a) + w.executed(1, 0x2a), 0);
    w.finish();
}

#[test]
fn two_units_with_other_content_are_never_merged() {
    let (mut w, other) = look_alikes(|a, b| {
        label(a, 1);
        label(b, 2);
    });
    w.until_state(0, State::Active);
    w.until_state(1, State::Mismatched);
    assert!(w.reason(1).contains("the content differs: block 0"), "{}", w.reason(1));
    let c = w.client();
    for n in 0..64 {
        w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
        assert_eq!(w.read(c, n * 4096, 4096).expect("read"), pattern(n, 4096));
    }
    // Looked at again and again, with the same result.
    w.run(Duration::from_secs(100));
    assert_ne!(w.state(1), State::Active);
    assert_eq!(other.journal().count(), 0, "nothing was written there");
    w.finish();
}

/// The storage was put right (the mirror has its content now): nobody has to tell.
#[test]
fn a_unit_that_has_become_the_same_is_used_within_half_a_minute() {
    let (mut w, other) = look_alikes(|a, b| {
        label(a, 1);
        label(b, 2);
    });
    w.until_state(0, State::Active);
    w.until_state(1, State::Mismatched);
    w.run(Duration::from_secs(35));
    label(&other, 1);
    let took = w.until_state(1, State::Active);
    assert!(took < Duration::from_secs(35), "{took:?}");
    w.finish();
}

#[test]
fn a_blank_unit_is_merged_when_a_written_block_is_read_back() {
    let mut w = World::cold(setup());
    w.until_state(0, State::Active);
    w.run(Duration::from_secs(5));
    assert_eq!(w.state(1), State::Probing);
    assert!(w.reason(1).contains("blank"), "{}", w.reason(1));
    let c = w.client();
    // Zeros over zeros say nothing.
    w.write(c, 1 << 20, &[0; 4096]).expect("written");
    w.run(Duration::from_secs(3));
    assert_eq!(w.state(1), State::Probing);
    w.write(c, 2 << 20, &pattern(1, 4096)).expect("written");
    let took = w.until_active();
    assert!(took < Duration::from_millis(50), "at once: {took:?}");
    w.finish();
}

/// Writes go on while a written block is being read over the path in question: one question at a time.
#[test]
fn writes_while_the_written_block_is_read_back() {
    let mut w = World::cold(setup());
    w.until_state(0, State::Active);
    w.run(Duration::from_secs(1));
    assert_eq!(w.state(1), State::Probing);
    let late = Duration::from_millis(20);
    w.faults(1).set("late", Rule::new(Fault::Delay(late, late)).on(Commands::Reads));
    let c = w.client();
    for n in 0..1000 {
        w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
    }
    w.until_active();
    w.finish();
}

#[test]
fn two_blank_units_are_told_apart_by_the_first_write() {
    let (mut w, other) = look_alikes(|_, _| {});
    w.until_state(0, State::Active);
    let c = w.client();
    w.write(c, 2 << 20, &pattern(1, 4096)).expect("written");
    w.until_state(1, State::Mismatched);
    for n in 0..64 {
        w.write(c, n * 4096, &pattern(n, 4096)).expect("written");
    }
    assert_eq!(other.journal().count(), 0);
    w.finish();
}

/// A read over the path in service that is not answered gives its place back, although nobody waits for it
/// any more and the target does not answer the first ABORT TASK either: with a queue of one nothing else
/// could be sent there.
#[test]
fn a_reference_read_without_an_answer_gives_its_place_back() {
    for orphaned in [false, true] {
        let tunables = Tunables {
            queue_depth: 1,
            trust_identity: false,
            nop_interval: Duration::from_secs(5),
            check_interval: Duration::from_secs(600),
            ..Tunables::default()
        };
        let mut w = World::cold(Setup { tunables, ..setup() });
        label(&w.pair, 1);
        w.until_active();
        let c = w.client();
        w.kill(1);
        w.until("path 1 out", |w| w.state(1) != State::Active);
        let once = |fault| Rule::new(fault).times(1);
        w.faults(0).set("mute", once(Fault::Mute).on(Commands::Reads));
        w.faults(0).set("tmf", once(Fault::TaskManagementMute));
        w.start(1);
        w.until_state(1, State::Probing);
        w.run_ms(100);
        if orphaned {
            w.kill(1);
        }
        let token = w.start_read(c, 0, 512);
        w.run(Duration::from_secs(1));
        assert!(!w.is_done(c, token) || w.state(1) == State::Active, "the place is taken");
        w.answer(c, token).expect("read");
        if orphaned {
            w.start(1);
        }
        w.until_active();
        w.finish();
    }
}

/// The path to the right unit goes: the other one, which nobody has proven, does not take its place.
#[test]
fn an_unproven_path_does_not_stand_in() {
    let (mut w, other) = look_alikes(|_, _| {});
    w.until_state(0, State::Active);
    let c = w.client();
    assert_eq!(w.read(c, 0, 512).expect("read"), [0; 512]);
    w.kill(0);
    let late = w.start_read(c, 0, 512);
    w.run(Duration::from_secs(20));
    assert!(!w.is_done(c, late) && w.state(1) == State::Probing, "{:?}", w.state(1));
    assert!(w.reason(1).contains("path in service"), "{}", w.reason(1));
    w.start(0);
    w.until_state(0, State::Active);
    w.answer(c, late).expect("read");
    assert_eq!(other.journal().count(), 0);
    w.finish();
}

/// Before anybody has read or written anything, either path may be the first.
#[test]
fn the_first_path_may_go_before_it_was_used() {
    let mut w = World::cold(setup());
    w.until_state(0, State::Active);
    w.kill(0);
    w.until_state(1, State::Active);
    w.start(0);
    w.until_state(0, State::Probing);
    let c = w.client();
    w.write(c, 0, &pattern(3, 4096)).expect("written");
    w.until_active();
    w.finish();
}

#[test]
fn a_unit_that_was_swapped_for_one_with_the_same_names_is_refused() {
    let mut w = World::cold(setup());
    label(&w.pair, 1);
    w.until_active();
    let c = w.client();
    let other = Pair::new(setup().pair).expect("a pair");
    label(&other, 2);
    w.kill(1);
    w.until_state(1, State::Failed);
    w.nodes[1] = Some(other.node(1, 9));
    w.until_state(1, State::Mismatched);
    w.write(c, 0, &pattern(4, 4096)).expect("written");
    assert_eq!(other.journal().count(), 0);
    w.kill(1);
    w.start(1);
    w.until_active();
    w.finish();
}

/// Under load, with the blocks in question written all the time.
#[test]
fn a_path_comes_back_under_load() {
    let mut w = World::cold(setup());
    label(&w.pair, 1);
    w.until_active();
    let c = w.client();
    w.kill(1);
    w.until_state(1, State::Failed);
    w.start(1);
    let mut n = 0;
    while w.state(1) != State::Active {
        n += 1;
        assert!(n < 10_000, "{} {}", w.state(1), w.reason(1));
        w.write(c, n % 8 * 4096, &pattern(n, 4096)).expect("written");
    }
    w.finish();
}

/// Lanes have sessions of their own, but there is one device.
#[test]
fn what_one_lane_has_proven_counts_for_all() {
    let mut w = World::cold(Setup { lanes: 2, ..setup() });
    w.run(Duration::from_secs(3));
    let c = w.client();
    w.write(c, 0, &pattern(1, 4096)).expect("written");
    w.until_active();
    w.finish();
}
