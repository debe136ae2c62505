//! How writes come into doubt: what the stories of write ownership begin with.

use mpio::path::Policy;
use mpio::volume::spec::Tunables;
use mpio_sim::net::Net;
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::faults::Commands;
use mpio_target::{Fault, PairConfig, Rule};

/// Failover, and targets that go on with what a session left behind.
pub fn setup(tunables: Tunables) -> Setup {
    let mut pair = PairConfig::default();
    for node in &mut pair.nodes {
        node.reinstatement_aborts = false;
    }
    Setup { pair, tunables, policy: Policy::Failover, ..Setup::default() }
}

/// The next write of blocks 0 to 7 hangs on a node.
pub fn hang_one(w: &World, node: usize) {
    let rule = Rule::new(Fault::Hold).on(Commands::Writes).blocks(0, 8).times(1);
    w.faults(node).set("hang", rule);
}

/// The first path's connections break, and it gets no new one; its node goes on with what it holds.
pub fn cut_off(w: &mut World) {
    w.portals[0].net = Net::Refuses;
    w.node(0).reset_connections();
}

/// The first path is in reach again, and every path active.
pub fn reconnect(w: &mut World) {
    w.portals[0].net = Net::Works;
    w.until_active();
}

/// A write of blocks 0 to 7 that hangs on node 0, which is cut off, was repeated on node 1 and acknowledged.
pub fn doubtful(w: &mut World, c: usize) {
    hang_one(w, 0);
    let token = w.start_write(c, 0, pattern(1, 4096));
    w.run_ms(50);
    assert_eq!(w.node(0).held(), 1);
    cut_off(w);
    w.answer(c, token).expect("repeated on the other path");
    let fences = w.volume().snapshot().fences;
    assert_eq!((fences.pending, fences.proven), (1, 0));
}
