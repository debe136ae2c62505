//! Paths that owe answers: suspicion, the commands that are left behind, deadlines, and how long clients wait.
//! Every time here is virtual.

use super::doubt::reconnect;
use super::trusting;
use mpio::base::{Duration, Instant};
use mpio::export::client;
use mpio::path::{FenceMode, Op, PathIndex, Policy, State};
use mpio::volume::spec::Tunables;
use mpio::wire::nbd::Command;
use mpio_sim::net::{Net, ways};
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::faults::{Commands, SenseCode};
use mpio_target::{Fault, Rule};

const MS: fn(u64) -> Duration = Duration::from_millis;
const WRITE_10: u8 = 0x2a;

/// Requests of one block, each block used once, so many at a time.
struct Load {
    client: usize,
    writes: bool,
    next: u64,
    open: Vec<(u64, Instant)>,
    longest: Duration,
    count: u64,
}

impl Load {
    fn new(client: usize, writes: bool) -> Load {
        let next = if writes { 1 << 14 } else { 0 };
        Load { client, writes, next, open: Vec::new(), longest: Duration::ZERO, count: 0 }
    }

    fn start(&mut self, w: &mut World) {
        let at = self.next % (1 << 16) * 512;
        self.next += 1;
        let token = match self.writes {
            true => w.start_write(self.client, at, pattern(self.next, 512)),
            false => w.start_read(self.client, at, 512),
        };
        self.open.push((token, w.now));
    }

    /// Keeps `depth` requests open for `time`, then waits for the last ones.
    fn run(&mut self, w: &mut World, depth: usize, time: Duration) {
        let end = w.now + time;
        while w.now < end || !self.open.is_empty() {
            while w.now < end && self.open.len() < depth {
                self.start(w);
            }
            let (client, open) = (self.client, &self.open);
            w.until("an answer", |w| open.iter().any(|(token, _)| w.is_done(client, *token)));
            let done: Vec<_> = self.open.extract_if(.., |(t, _)| w.is_done(client, *t)).collect();
            for (token, from) in done {
                w.answer(client, token).expect("no error");
                self.longest = self.longest.max(w.now - from);
                self.count += 1;
            }
        }
    }
}

/// A world whose paths know how long an answer takes.
fn warm(setup: Setup) -> (World, usize) {
    let mut w = World::new(setup);
    let c = w.client();
    Load::new(c, false).run(&mut w, 4, MS(20));
    (w, c)
}

/// The longest that a request waits while `fault` strikes path 0 in the middle of a load.
fn longest(writes: bool, fault: impl Fn(&mut World)) -> (World, Duration) {
    let tunables = Tunables { hedge_reads: false, ..Tunables::default() };
    let (mut w, c) = warm(Setup { tunables, ..Setup::default() });
    let mut load = Load::new(c, writes);
    load.run(&mut w, 32, MS(20));
    assert!(load.longest < MS(5), "{:?}", load.longest);
    (0..32).for_each(|_| load.start(&mut w));
    w.run(Duration::from_micros(50));
    fault(&mut w);
    load.run(&mut w, 32, MS(100));
    let longest = load.longest;
    (w, longest)
}

fn hang(w: &mut World) {
    w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Medium));
}

fn silent(w: &mut World) {
    w.portals[0].net = Net::Silent;
}

fn frozen(w: &mut World) {
    w.faults(0).set("frozen", Rule::new(Fault::Freeze));
}

fn heal(mut w: World) {
    w.faults(0).clear();
    w.release(0);
    reconnect(&mut w);
    w.finish();
}

#[test]
fn reads_of_a_silent_path_wait_less_than_100_ms() {
    for fault in [silent, frozen] {
        let (w, longest) = longest(false, fault);
        assert!(longest < MS(100), "{longest:?}\n{}", w.story());
        assert!(w.log.iter().any(|n| n.what == "suspect"), "{}", w.story());
        heal(w);
    }
}

/// What a target had answered before it stopped may come later than all the patience with it.
#[test]
fn an_answer_that_was_on_its_way_is_no_sign_of_life() {
    let (w, longest) = longest(false, |w| {
        let late = Rule::new(Fault::Delay(MS(80), MS(80))).on(Commands::Medium).times(2);
        w.faults(0).set("late", late);
        w.faults(0).set("hang", Rule::new(Fault::Hold).on(Commands::Medium).skip(2));
    });
    assert!(longest < MS(100), "{longest:?}\n{}", w.story());
    heal(w);
}

#[test]
fn writes_of_a_silent_path_wait_for_path_timeout() {
    for fault in [silent, frozen] {
        let (w, longest) = longest(true, fault);
        assert!(longest > MS(900) && longest < MS(1250), "{longest:?}\n{}", w.story());
        heal(w);
    }
}

/// Pings are answered, and so is TEST UNIT READY.
#[test]
fn reads_of_a_hung_unit_wait_less_than_250_ms() {
    let (w, longest) = longest(false, hang);
    assert!(longest < MS(250), "{longest:?}\n{}", w.story());
    assert_eq!((w.state(0), w.failures(0)), (State::Suspect, 0), "the session is kept");
    heal(w);
}

#[test]
fn writes_of_a_hung_unit_wait_for_command_timeout() {
    let (w, longest) = longest(true, hang);
    assert!(longest > MS(1900) && longest < MS(2500), "{longest:?}\n{}", w.story());
    assert_eq!(w.failures(0), 0, "the session is kept");
    heal(w);
}

fn suspected(w: &World) -> usize {
    w.logged("suspect")
}

/// A read that the first path answers after 60 ms, and the other one, which was asked for a copy, after `other`; with
/// who asked, its token and when.
fn read_twice(other: Duration) -> (World, usize, u64, Instant) {
    let (mut w, c) = warm(Setup::default());
    for (node, delay) in [(0, MS(60)), (1, other)] {
        let slow = Rule::new(Fault::Delay(delay, delay)).on(Commands::Reads).blocks(9, 1);
        w.faults(node).set("slow", slow);
    }
    let now = w.now;
    w.volume().set_policy(now, Some(Policy::Failover), &[], None).expect("a policy");
    let read = w.start_read(c, 9 * 512, 512);
    w.run_ms(40);
    assert_eq!(w.state(0), State::Suspect, "{}", w.story());
    (w, c, read, now)
}

/// The old command stays where it is; whichever answer comes first counts.
#[test]
fn the_old_answer_of_a_read_wins_if_it_comes_first() {
    let (mut w, c, read, now) = read_twice(MS(300));
    w.answer(c, read).expect("read");
    let waited = w.now - now;
    assert!(waited >= MS(60) && waited < MS(62), "{waited:?}");
    assert_eq!(w.state(0), State::Active, "it has answered");
    let left = w.until("the loser's answer", |w| w.volumes[0].census().stragglers == 0);
    assert!(left < MS(900), "{left:?}");
    let reads = w.volume().snapshot().stats.reads;
    assert_eq!(w.read(c, 9 * 512, 512).expect("read").len(), 512);
    assert_eq!(w.volume().snapshot().stats.reads, reads + 1);
    w.faults(0).clear();
    w.faults(1).clear();
    w.finish();
}

/// Unless memory is short: then only the command that is in flight now is waited for.
#[test]
fn the_old_answer_of_a_read_is_let_go_where_memory_is_short() {
    let (mut w, c, read, now) = read_twice(MS(100));
    assert!(w.volumes[0].census().stragglers > 0);
    w.volume().drop_copies();
    w.answer(c, read).expect("read");
    let waited = w.now - now;
    assert!(waited >= MS(100), "{waited:?}");
    assert_eq!(w.state(0), State::Active, "it has answered");
    w.until("the loser's answer", |w| w.volumes[0].census().stragglers == 0);
    w.faults(0).clear();
    w.faults(1).clear();
    w.finish();
}

/// A suspect path gets a copy of a live read, or a read of its own where it hung, and comes back by steps.
#[test]
fn a_suspect_path_is_asked_and_trusted_by_steps() {
    let (mut w, c) = warm(Setup::default());
    hang(&mut w);
    for n in 0..8 {
        w.start_read(c, n * 512, 512);
    }
    w.until_state(0, State::Suspect);
    let hung = w.node(0).held();
    w.run(MS(1900));
    assert_eq!(w.node(0).held(), hung + 4, "a question every 250 ms, and not more than four open");
    w.faults(0).clear();
    w.run_ms(2000);
    assert_eq!(w.state(0), State::Active, "{}", w.story());
    assert_eq!(
        (w.node(0).held(), w.volume().census().stragglers),
        (0, 0),
        "aborted at their deadline"
    );
    assert_eq!(w.failures(0), 0);
    // It has answered a question and then, still under suspicion, nothing else.
    let before = w.executed(0, WRITE_10);
    for n in 0..16 {
        w.start_write(c, (100 + n) * 512, pattern(n, 512));
    }
    w.run_ms(1);
    assert!(w.executed(0, WRITE_10) - before <= 1, "one write at a time");
    Load::new(c, false).run(&mut w, 4, MS(2));
    Load::new(c, true).run(&mut w, 8, MS(5));
    let before = w.executed(0, WRITE_10);
    for n in 0..64 {
        w.start_write(c, (200 + n) * 512, pattern(n, 512));
    }
    w.run_ms(1);
    assert_eq!(w.executed(0, WRITE_10) - before, 32, "fully: its share of what came at once");
    w.finish();
}

#[test]
fn a_copy_of_a_live_read_is_what_a_suspect_path_is_asked() {
    let (mut w, c) = warm(Setup::default());
    hang(&mut w);
    for n in 0..4 {
        w.start_read(c, n * 512, 512);
    }
    w.until_state(0, State::Suspect);
    w.faults(0).clear();
    w.faults(1).set("slow", Rule::new(Fault::Delay(MS(400), MS(400))).on(Commands::Reads));
    let read = w.start_read(c, 77 * 512, 512);
    let from = w.now;
    w.answer(c, read).expect("read");
    assert!(w.now - from < MS(260), "the copy was faster: {:?}", w.now - from);
    assert_eq!(w.state(0), State::Active);
    w.faults(1).clear();
    w.finish();
}

/// ABORT TASK answered with 0 on the old session: the copy is dead, and the session was never dropped.
#[test]
fn a_write_past_its_deadline_is_aborted_and_repeated() {
    let (mut w, c) = warm(Setup { policy: Policy::Failover, ..Setup::default() });
    hang(&mut w);
    let from = w.now;
    let write = w.start_write(c, 0, pattern(1, 512));
    let overlapping = w.start_write(c, 0, pattern(2, 512));
    w.answer(c, write).expect("repeated");
    w.answer(c, overlapping).expect("proven");
    assert!(w.now - from < MS(2100), "{:?}", w.now - from);
    let fences = w.volume().snapshot().fences;
    assert_eq!((fences.proven, fences.pending, w.failures(0)), (1, 0, 0));
    assert_eq!(w.node(0).held(), 4, "questions only");
    assert!(w.reason(0).contains("hangs"), "{}", w.reason(0));
    assert_eq!(w.executed(0, WRITE_10), 0);
    heal(w);
}

/// ABORT TASK that is not answered proves nothing; the command's own status does, however late.
#[test]
fn a_write_that_cannot_be_aborted_stays_in_doubt_until_its_status() {
    let (mut w, c) = warm(Setup { policy: Policy::Failover, ..Setup::default() });
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    hang(&mut w);
    let write = w.start_write(c, 0, pattern(1, 512));
    w.answer(c, write).expect("repeated");
    let overlapping = w.start_write(c, 0, pattern(2, 512));
    w.run(MS(10_000));
    assert!(!w.is_done(c, overlapping));
    assert_eq!((w.state(0), w.failures(0)), (State::Suspect, 0), "not dropped to fence one unit");
    w.faults(0).clear();
    w.release(0);
    w.answer(c, overlapping).expect("the old write has ended");
    assert_eq!(w.volume().snapshot().fences.proven, 1);
    assert_eq!(w.read(c, 0, 512).expect("read"), pattern(2, 512));
    heal(w);
}

/// ABORT TASK of a read that is refused is asked for again: its place in the window is wanted.
#[test]
fn a_refused_abort_of_a_read_is_repeated() {
    for answer in [5, 255] {
        let tunables = Tunables { management_timeout: MS(3000), ..Tunables::default() };
        let (mut w, c) = warm(Setup { tunables, ..Setup::default() });
        w.faults(0).set("lost", Rule::new(Fault::Hold).on(Commands::Medium).blocks(7, 1).times(1));
        w.faults(0).set("tmf", Rule::new(Fault::TaskManagementAnswer(answer)));
        let reads: Vec<u64> = (0..2).map(|_| w.start_read(c, 7 * 512, 512)).collect();
        for read in reads {
            w.answer(c, read).expect("read elsewhere");
        }
        w.run_ms(2500);
        let refused = |w: &World| w.faults(0).struck("tmf");
        assert_eq!(
            (refused(&w), w.volume().census().stragglers),
            (1, 1),
            "{answer}: {}",
            w.story()
        );
        w.run_ms(3000);
        assert_eq!(
            (refused(&w), w.volume().census().stragglers),
            (2, 1),
            "{answer}: once per timeout"
        );
        w.faults(0).remove("tmf");
        w.run_ms(3000);
        assert_eq!((w.volume().census().stragglers, w.node(0).held()), (0, 0), "{answer}");
        assert_eq!((w.state(0), w.failures(0)), (State::Active, 0), "{answer}: {}", w.story());
        w.finish();
    }
}

/// Suspect, nothing outstanding, and no room for the question whether it answers again: nothing there is ever late.
#[test]
fn a_suspect_path_with_a_closed_window_is_given_up() {
    let (mut w, c) = warm(Setup::default());
    hang(&mut w);
    let reads: Vec<u64> = (0..4).map(|n| w.start_read(c, n * 512, 512)).collect();
    for read in reads {
        w.answer(c, read).expect("read elsewhere");
    }
    w.until_state(0, State::Suspect);
    w.faults(0).set("window", Rule::new(Fault::Window(0)));
    let in_flight = |w: &World| w.volumes[0].session(PathIndex::new(0)).map(|s| s.in_flight());
    w.until("every command aborted", |w| in_flight(w) == Some(0));
    assert_eq!(w.state(0), State::Suspect, "{}", w.story());
    let took = w.until_state(0, State::Failed);
    assert!(took > MS(1900) && took < MS(2200), "{took:?}");
    assert!(w.reason(0).contains("command window has been closed"), "{}", w.reason(0));
    heal(w);
}

/// A target that has lost one command, or answers one late: the path is not thrown out again and again for it.
#[test]
fn one_lost_command_accuses_its_path_once() {
    for writes in [false, true] {
        let tunables = Tunables { hedge_reads: false, ..Tunables::default() };
        let (mut w, c) = warm(Setup { tunables, ..Setup::default() });
        w.faults(0).set("lost", Rule::new(Fault::Hold).on(Commands::Medium).blocks(60_000, 1));
        let from = w.now;
        let (mut tokens, mut longest) = (Vec::new(), Duration::ZERO);
        for n in 0..2 {
            tokens.push(match writes {
                true => w.start_write(c, 60_000 * 512, pattern(n, 512)),
                false => w.start_read(c, 60_000 * 512, 512),
            });
        }
        while tokens.iter().any(|t| !w.is_done(c, *t)) {
            let mut load = Load::new(c, false);
            load.run(&mut w, 2, MS(1));
            longest = longest.max(load.longest);
        }
        let waited = w.now - from;
        let most = if writes { MS(2100) } else { MS(150) };
        assert!(waited < most && longest < MS(5), "{waited:?} {longest:?}");
        assert!((1..=2).contains(&suspected(&w)), "{}", w.story());
        heal(w);
    }
}

#[test]
fn with_no_other_path_a_suspect_one_carries_on_with_long_deadlines() {
    let (mut w, c) = warm(Setup { portals: ways(&[0]), ..Setup::default() });
    hang(&mut w);
    let read = w.start_read(c, 0, 512);
    let write = w.start_write(c, 512, pattern(1, 512));
    w.until_state(0, State::Suspect);
    w.run(MS(20_000));
    assert_eq!((w.state(0), w.failures(0)), (State::Suspect, 0));
    w.faults(0).clear();
    let other = w.start_read(c, 1024, 512);
    w.answer(c, other).expect("it carries what comes");
    let from = w.now;
    w.answer(c, read).expect("read");
    w.answer(c, write).expect("written");
    let waited = w.now - from;
    assert!(waited > MS(9_800) && waited < MS(10_200), "{waited:?}");
    heal(w);
}

/// The other path goes while commands are outstanding here: from then on they have more time.
#[test]
fn a_path_that_becomes_the_last_gives_its_commands_more_time() {
    let (mut w, c) = warm(Setup { policy: Policy::Failover, ..Setup::default() });
    silent(&mut w);
    let write = w.start_write(c, 0, pattern(1, 512));
    w.run_ms(700);
    w.portals[1].net = Net::Refuses;
    w.node(1).reset_connections();
    w.run_ms(3000);
    assert_eq!((w.state(0), w.failures(0)), (State::Suspect, 0), "{}", w.story());
    w.portals[0].net = Net::Works;
    w.answer(c, write).expect("it was only late");
    w.portals[1].net = Net::Works;
    assert_eq!(w.executed(1, WRITE_10), 0);
    heal(w);
}

/// A flush, a discard and zeroing by the unit may be long: they accuse nobody before their own deadline of a minute,
/// and then are given up like any other command.
#[test]
fn a_long_flush_discard_or_zeroing_is_no_silence() {
    let long = 1 << 20;
    let cases = [
        (0x35, Command::FLUSH, 0),
        (0x42, Command::TRIM, long),
        (0x93, Command::WRITE_ZEROES, long),
    ];
    for (opcode, command, len) in cases {
        for (delay, given_up) in [(MS(5000), 0), (MS(59_000), 0), (MS(64_000), 1)] {
            let (mut w, c) = warm(Setup { policy: Policy::Failover, ..Setup::default() });
            w.write(c, 0, &pattern(1, 512)).expect("written");
            let slow = Rule::new(Fault::Delay(delay, delay)).on(Commands::Opcode(opcode)).times(1);
            w.faults(0).set("slow", slow);
            let from = w.now;
            let token = w.ask(c, client::Op::Other { command, flags: 0, offset: 0, len });
            w.answer(c, token).expect("done");
            let limit = if given_up == 0 { delay } else { MS(60_000) };
            let took = w.now - from;
            assert!(took >= limit && took < limit + MS(1000), "{opcode:#x}: {took:?}");
            assert_eq!(
                (suspected(&w), w.failures(0) + w.failures(1)),
                (given_up, 0),
                "{}",
                w.story()
            );
            heal(w);
        }
    }
}

/// More than half of what a session takes is abandoned: it is dropped.
#[test]
fn a_session_full_of_abandoned_commands_is_dropped() {
    let tunables = Tunables { queue_depth: 16, ..Tunables::default() };
    let (mut w, c) = warm(Setup { tunables, ..Setup::default() });
    w.faults(0).set("tmf", Rule::new(Fault::TaskManagementMute));
    hang(&mut w);
    let tokens: Vec<u64> = (0..32).map(|n| w.start_read(c, n * 512, 512)).collect();
    for token in tokens {
        w.answer(c, token).expect("read");
    }
    let dropped = w.until_state(0, State::Failed);
    assert!(dropped > MS(1900) && dropped < MS(2200), "{dropped:?}");
    assert!(w.reason(0).contains("past their deadline"), "{}", w.reason(0));
    heal(w);
}

/// Without the fence a write past its deadline is aborted all the same: its place is wanted.
#[test]
fn in_every_mode_a_late_write_is_aborted() {
    for fence in [FenceMode::Off, FenceMode::Strict] {
        let tunables = Tunables { fence, ..Tunables::default() };
        let (mut w, c) = warm(Setup { tunables, policy: Policy::Failover, ..Setup::default() });
        hang(&mut w);
        w.write(c, 0, &pattern(1, 512)).expect("repeated");
        w.run_ms(10);
        assert_eq!((w.node(0).held(), w.failures(0)), (4, 0), "{fence:?}: questions only");
        heal(w);
    }
}

/// How long after its portal answers again a path is active.
fn back_after(net: Net, outage: Duration) -> Duration {
    let mut w = World::new(Setup::default());
    w.portals[0].net = net;
    if net == Net::Refuses {
        w.node(0).reset_connections();
    }
    w.run(outage);
    // A silence on an idle path is found 1.5 s after the last ping's answer.
    assert!(w.state(0) != State::Active || (net == Net::Silent && outage < MS(1600)));
    w.portals[0].net = Net::Works;
    let back = w.until_active();
    w.finish();
    back
}

#[test]
fn a_path_is_used_soon_after_its_portal_answers() {
    for net in [Net::Refuses, Net::Silent] {
        for outage in [1200, 1400, 1700, 2000, 2300, 2600, 2999] {
            let back = back_after(net, MS(outage));
            assert!(back < MS(500), "{net:?} {outage} ms: {back:?}");
        }
        for outage in [3500, 5000, 7300, 11_000, 30_000, 61_700] {
            let back = back_after(net, MS(outage));
            assert!(back < MS(2050), "{net:?} {outage} ms: {back:?}");
        }
    }
}

/// A daemon that stood still handles the answers that came meanwhile before any timer; and what nobody has
/// answered has its full time from then on.
#[test]
fn a_pause_of_the_daemon_is_no_fault_of_a_path() {
    for steady in [true, false] {
        let (mut w, c) = warm(Setup::default());
        silent(&mut w);
        let lost = w.start_write(c, 0, pattern(1, 512));
        w.run_ms(5);
        let other = w.start_write(c, 512, pattern(2, 512));
        w.run(Duration::from_micros(50));
        w.pause(MS(10_000), steady);
        let from = w.now;
        w.answer(c, other).expect("its answer is there");
        assert!(w.now - from < MS(1));
        w.run_ms(5);
        assert_eq!((w.state(1), w.failures(1)), (State::Active, 0));
        if steady {
            assert_eq!(w.failures(0), 0, "{}", w.story());
            w.answer(c, lost).expect("repeated");
            assert!(w.now - from > MS(900) && w.now - from < MS(1100), "{:?}", w.now - from);
        } else {
            assert_eq!(w.failures(0), 1, "what the clock is good for");
        }
        heal(w);
    }
}

/// A machine with other work to do lets the daemon wait for the processor: the paths are no slower for it, and one
/// that freezes right afterwards is found as soon as ever.
#[test]
fn what_waited_for_the_daemon_is_not_held_against_its_paths() {
    let tunables = Tunables { hedge_reads: false, ..Tunables::default() };
    let (mut w, c) = warm(Setup { tunables, ..Setup::default() });
    Load::new(c, true).run(&mut w, 4, MS(20));
    for round in 0..30 {
        let mut loads = [Load::new(c, false), Load::new(c, true)];
        loads.iter_mut().for_each(|load| (0..32).for_each(|_| load.start(&mut w)));
        w.run(Duration::from_micros(50));
        w.starve(MS(150));
        loads.iter_mut().for_each(|load| load.run(&mut w, 8, MS(1)));
        assert_eq!(suspected(&w), 0, "round {round}\n{}", w.story());
    }
    for path in [0, 1].map(PathIndex::new) {
        for op in [Op::Read, Op::Write] {
            let patience = w.volumes[0].suspect_after(path, op);
            assert!(patience < MS(20), "{op:?} on {path}: {patience:?}");
        }
    }
    w.finish();
}

/// What the daemon did not hear because it did not run was not withheld.
#[test]
fn a_stall_is_no_silence_of_a_path() {
    let tunables = Tunables { hedge_reads: false, ..Tunables::default() };
    let (mut w, c) = warm(Setup { tunables, ..Setup::default() });
    for node in 0..2 {
        let late = Rule::new(Fault::Delay(MS(105), MS(105))).on(Commands::Medium);
        w.faults(node).set("late", late);
    }
    let reads: Vec<u64> = (0..8).map(|n| w.start_read(c, n * 512, 512)).collect();
    w.run(Duration::from_micros(50));
    w.starve(MS(100));
    for read in reads {
        w.answer(c, read).expect("read");
    }
    assert_eq!(suspected(&w), 0, "{}", w.story());
    // Of one that is silent still the rest of its time runs.
    w.faults(0).set("late", Rule::new(Fault::Hold).on(Commands::Medium));
    w.faults(1).clear();
    for n in 0..64 {
        w.start_read(c, n * 512, 512);
    }
    w.run_ms(15);
    w.starve(MS(100));
    assert_eq!(suspected(&w), 0, "{}", w.story());
    w.run_ms(11);
    assert_eq!(suspected(&w), 1, "{}", w.story());
    heal(w);
}

/// Slow to write and quick to read (a write through to a mirror): that a path is given time to write does not let
/// its reads wait as long.
#[test]
fn reads_do_not_wait_as_long_as_writes_may() {
    let tunables = Tunables { hedge_reads: false, ..Tunables::default() };
    let (mut w, c) = warm(Setup { tunables, ..Setup::default() });
    for node in 0..2 {
        let slow = Rule::new(Fault::Delay(MS(30), MS(60))).on(Commands::Writes);
        w.faults(node).set("slow", slow);
    }
    Load::new(c, true).run(&mut w, 32, MS(1000));
    let before = suspected(&w);
    Load::new(c, true).run(&mut w, 1, MS(3000));
    assert_eq!(suspected(&w), before, "{}", w.story());
    hang(&mut w);
    let mut writes = Load::new(c, true);
    (0..4).for_each(|_| writes.start(&mut w));
    let from = w.now;
    let reads: Vec<u64> = (0..8).map(|n| w.start_read(c, n * 512, 512)).collect();
    for read in reads {
        w.answer(c, read).expect("read");
    }
    assert!(w.now - from < MS(50), "{:?}\n{}", w.now - from, w.story());
    heal(w);
}

const TEST_UNIT_READY: u8 = 0x00;

/// Nobody reads or writes, pings are answered, and the unit hangs.
#[test]
fn a_unit_that_hangs_behind_an_idle_path_is_found() {
    let mut w = World::new(Setup { tunables: trusting(), ..Setup::default() });
    w.faults(0).set("hang", Rule::new(Fault::Hold));
    let found = w.until_state(0, State::Suspect);
    assert!(found > MS(4000) && found < MS(7100), "{found:?}");
    assert!(w.reason(0).contains("TEST UNIT READY"), "{}", w.reason(0));
    w.run(MS(20_000));
    assert_eq!((w.state(0), w.failures(0), w.state(1)), (State::Suspect, 0, State::Active));
    heal(w);
}

#[test]
fn an_idle_path_whose_unit_is_not_ready_is_not_kept() {
    let mut w = World::new(Setup { tunables: trusting(), ..Setup::default() });
    let not_ready = Fault::Sense(SenseCode { key: 2, asc: 0x04, ascq: 0x01 });
    w.faults(0).set("becoming ready", Rule::new(not_ready));
    let found = w.until("path 0 out", |w| w.state(0) != State::Active);
    assert!(found <= MS(5100), "{found:?}");
    heal(w);
}

/// Idle paths are asked every five seconds, busy ones are not.
#[test]
fn only_idle_paths_are_asked() {
    let tunables = Tunables { check_interval: MS(20), ..Tunables::default() };
    let (mut w, c) = warm(Setup { tunables, ..Setup::default() });
    // A rule that only counts.
    let count = Rule::new(Fault::Delay(MS(0), MS(0))).on(Commands::Opcode(TEST_UNIT_READY));
    w.faults(0).set("count", count);
    let asked = |w: &World| w.faults(0).struck("count");
    let before = asked(&w);
    Load::new(c, false).run(&mut w, 64, MS(100));
    assert!(asked(&w) - before <= 1, "{}", asked(&w) - before);
    let before = asked(&w);
    w.run_ms(1000);
    assert!((40..=51).contains(&(asked(&w) - before)), "{}", asked(&w) - before);
    assert_eq!(suspected(&w), 0);
    w.finish();
}

/// A question of ours takes the only place of a session: commands go elsewhere, and come back when it is answered.
#[test]
fn a_question_of_ours_takes_room() {
    let tunables = Tunables { queue_depth: 1, check_interval: MS(20), ..Tunables::default() };
    let mut w = World::new(Setup { tunables, ..Setup::default() });
    let c = w.client();
    w.write(c, 0, &pattern(1, 4096)).expect("written");
    for node in 0..2 {
        let late = Rule::new(Fault::Delay(MS(200), MS(200)));
        w.faults(node).set("late", late.on(Commands::Opcode(TEST_UNIT_READY)));
    }
    w.run_ms(60);
    let took = {
        let before = w.now;
        assert_eq!(w.read(c, 0, 4096).expect("read"), pattern(1, 4096));
        w.now - before
    };
    assert!(took > MS(50), "both sessions were full, and it took {took:?}");
    w.finish();
}
