//! NBD clients that come, go and misbehave.

use mpio::base::Duration;
use mpio::export::client::ClientConfig;
use mpio::limits;
use mpio::path::Policy;
use mpio::volume::Endpoint;
use mpio::wire::nbd::Command;
use mpio_sim::world::{Setup, World, pattern};
use mpio_target::faults::Commands;
use mpio_target::{Fault, Rule};

#[test]
fn many_clients_and_no_more_than_allowed() {
    let mut w = World::new(Setup::default());
    let clients: Vec<usize> = (0..limits::CLIENTS_PER_EXPORT_MAX).map(|_| w.client()).collect();
    let refused = w.connect(0, ClientConfig::new("vm0"));
    assert!(w.peers[refused].id.is_none());
    let tokens: Vec<(usize, u64)> = clients
        .iter()
        .flat_map(|c| (0..4).map(|n| (*c, n)).collect::<Vec<_>>())
        .map(|(c, n)| (c, w.start_write(c, (c as u64 * 4 + n) * 4096, pattern(n, 4096))))
        .collect();
    for (c, token) in tokens {
        w.answer(c, token).expect("written");
    }
    w.vanish(clients[3]);
    w.run_ms(10);
    w.client();
    w.finish();
}

/// What was held is dropped, what was sent ends, and its range is kept until then.
#[test]
fn a_client_that_vanishes_cannot_be_overtaken_by_its_past() {
    let mut w = World::new(Setup { policy: Policy::Failover, ..Setup::default() });
    let c = w.client();
    w.faults(0).set(
        "slow",
        Rule::new(Fault::Delay(Duration::from_millis(500), Duration::from_millis(500)))
            .on(Commands::Writes)
            .times(1),
    );
    w.start_write(c, 0, pattern(1, 4096));
    w.start_write(c, 0, pattern(2, 4096));
    w.run_ms(100);
    assert_eq!(w.volume().snapshot().held, 1);
    w.vanish(c);
    let back = w.client();
    assert_eq!(w.volume().snapshot().held, 0, "dropped");
    let from = w.now;
    w.write(back, 0, &pattern(3, 4096)).expect("written");
    assert!(w.now - from > Duration::from_millis(300), "it waited for the old one");
    assert_eq!(w.executed(0, 0x2a), 2);
    assert_eq!(w.read(back, 0, 4096).expect("read"), pattern(3, 4096));
    w.finish();
}

/// Thousands of requests queued, then gone: nothing of what had not been begun is done.
#[test]
fn a_dead_client_leaves_nothing_behind() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    w.kill(0);
    w.kill(1);
    for n in 0..3000 {
        w.start_write(c, n * 512, pattern(n, 512));
    }
    w.run_ms(100);
    w.vanish(c);
    w.run_ms(100);
    assert_eq!(w.volume().census().requests, 0);
    w.start(0);
    w.start(1);
    w.until_active();
    w.run_ms(500);
    assert_eq!(w.records().len(), 0, "the client was gone before a path was there");
    w.finish();
}

/// DISC: what is in flight is finished, then the volume closes the connection.
#[test]
fn a_client_that_says_goodbye_is_closed_after_its_last_answer() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    w.portals[0].delay = Duration::from_millis(20);
    w.portals[1].delay = Duration::from_millis(20);
    let tokens: Vec<u64> = (0..16).map(|n| w.start_write(c, n * 4096, pattern(n, 4096))).collect();
    w.peers[c].client.disconnect();
    w.until("closed", |w| w.peers[c].id.is_none());
    for token in tokens {
        w.answer(c, token).expect("answered before the end");
    }
    assert_eq!(w.records().len(), 16);
    w.finish();
}

#[test]
fn the_end_of_a_clients_input_ends_the_connection_after_its_answers() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    let token = w.start_write(c, 0, pattern(1, 1 << 20));
    w.peers[c].eof = true;
    w.until("closed", |w| w.peers[c].id.is_none());
    w.answer(c, token).expect("answered");
    w.finish();
}

/// Payload memory is far smaller than what is asked for: everybody is served in the end.
#[test]
fn memory_is_bounded_and_nobody_starves() {
    let mut w = World::new(Setup { buffer_memory: 8 << 20, ..Setup::default() });
    let clients: Vec<usize> = (0..4).map(|_| w.client()).collect();
    let mut tokens = Vec::new();
    for (n, c) in clients.iter().enumerate() {
        let at = n as u64 * (16 << 20);
        tokens.push((*c, w.start_write(*c, at, pattern(n as u64, 12 << 20))));
        for k in 0..64 {
            tokens.push((*c, w.start_read(*c, at + k * 65_536, 65_536)));
        }
    }
    for (c, token) in tokens {
        w.answer(c, token).expect("served");
    }
    for (n, c) in clients.iter().enumerate() {
        let read = w.read(*c, n as u64 * (16 << 20), 12 << 20).expect("read");
        assert!(read == pattern(n as u64, 12 << 20));
    }
    w.finish();
}

/// A client that does not read its answers waits; the others do not.
#[test]
fn a_client_that_reads_nothing_harms_nobody() {
    let mut w = World::new(Setup::default());
    let (deaf, other) = (w.client(), w.client());
    w.peers[deaf].deaf = true;
    for n in 0..200 {
        w.start_read(deaf, n * 4096, 1 << 20);
    }
    w.run_ms(100);
    assert!(w.volume().census().payload <= 66 << 20, "{}", w.volume().census().payload);
    for n in 0..64 {
        w.write(other, n << 16, &pattern(n, 65_536)).expect("served");
    }
    w.hear(deaf);
    w.until("everything read", |w| w.answers(deaf).count() == 200);
    w.finish();
}

/// What the driver has taken is booked until the kernel has it: a send that waits for the client holds it.
#[test]
fn a_send_in_flight_holds_what_it_sends() {
    const LEN: u32 = 1 << 20;
    let mut w = World::new(Setup::default());
    let c = w.client();
    w.peers[c].deaf = true;
    w.start_read(c, 0, LEN);
    w.run_ms(20);
    let endpoint = Endpoint::Client(w.peers[c].id.unwrap());
    let mut in_flight = Vec::new();
    let tx = w.volume().tx(endpoint).unwrap();
    while tx.take(64, &mut in_flight) > 0 {}
    w.start_read(c, 0, LEN);
    w.run_ms(20);
    let both = w.volume().census().payload;
    assert!(both >= 2 * u64::from(LEN), "{both} bytes are held");
    let now = w.now;
    w.volume().handle_sent(now, endpoint);
    let one = w.volume().census().payload;
    assert!(one >= u64::from(LEN) && one < both - u64::from(LEN), "{one} of {both} bytes are held");
}

#[test]
fn cache_and_requests_without_effect() {
    let mut w = World::new(Setup::default());
    let c = w.client();
    w.other(c, Command::CACHE, 0, 0, 1 << 20).expect("nothing to do");
    w.finish();
}
