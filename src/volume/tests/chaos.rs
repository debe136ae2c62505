//! Random load over a few hot blocks, random faults, and a judge that knows nothing of the product.

use super::history::Block;
use super::wire::Net;
use super::world::{Setup, World, theirs};
use crate::base::{Duration, Payload};
use crate::export::client::{Answer, Op};
use crate::path::{FenceMode, Policy};
use crate::volume::spec::Tunables;
use mpio_target::faults::Commands;
use mpio_target::{Fault, PairConfig, Rule};
use proptest::prelude::*;

const BLOCKS: u64 = 12;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

enum Kind {
    Write(u64),
    Read,
}

struct Sent {
    peer: usize,
    token: u64,
    first: u64,
    blocks: u64,
    kind: Kind,
}

/// One run: load, faults, then everything heals and every answer is judged.
fn run(seed: u64, fence: FenceMode, steps: u64) -> Result<(), String> {
    let mut dice = Dice(seed | 1);
    let mut pair = PairConfig { size: 1 << 20, seed, ..PairConfig::default() };
    for node in &mut pair.nodes {
        node.reinstatement_aborts = dice.roll(2) == 0;
        node.abilities.fua = dice.roll(2) == 0;
    }
    let tunables = Tunables {
        fence,
        fence_timeout: Duration::MAX,
        no_path_timeout: Duration::MAX,
        sticky_bytes: dice.roll(2) * 8192,
        ..Tunables::default()
    };
    let portals = if dice.roll(2) == 0 { vec![0, 1] } else { vec![0, 1, 0] };
    let policy = Policy::ALL[dice.roll(Policy::ALL.len() as u64) as usize];
    let lanes = 1 + dice.roll(2) as u16;
    let mut w = World::new(Setup { pair, tunables, policy, portals, lanes, ..Setup::default() });
    w.segment = [700, 4096, 65_536][dice.roll(3) as usize];
    let mut peers: Vec<usize> = (0..3).map(|n| w.client_on(n % usize::from(lanes))).collect();
    let mut sent: Vec<Sent> = Vec::new();
    for step in 0..steps {
        for _ in 0..=dice.roll(3) {
            let peer = peers[dice.roll(3) as usize];
            sent.push(request(&mut w, &mut dice, peer));
        }
        if dice.roll(4) == 0 {
            fault(&mut w, &mut dice);
        }
        if dice.roll(8) == 0 {
            switch(&mut w, &mut dice);
        }
        if dice.roll(60) == 0 && step + 1 < steps {
            let which = dice.roll(3) as usize;
            w.vanish(peers[which]);
            peers[which] = w.client_on(which % usize::from(lanes));
        }
        w.run(Duration::from_micros([50, 300, 5_000, 200_000][dice.roll(4) as usize]));
    }
    heal(&mut w);
    w.until_active();
    w.until("every answer", |w| {
        sent.iter().all(|s| w.is_done(s.peer, s.token) || w.peers[s.peer].1.id.is_none())
    });
    for n in 0..BLOCKS {
        let token = w.start_read(peers[0], n * 512, 512);
        sent.push(Sent { peer: peers[0], token, first: n, blocks: 1, kind: Kind::Read });
        w.until("the last reads", |w| w.is_done(peers[0], token));
    }
    let verdict = judge(&mut w, &sent);
    w.finish();
    verdict.map_err(|why| format!("seed {seed:#x}: {why}"))
}

/// Another policy, and another weight for one path, under load.
fn switch(w: &mut World, dice: &mut Dice) {
    let policy = Policy::ALL[dice.roll(Policy::ALL.len() as u64) as usize];
    let now = w.now;
    let volume = w.volume();
    let names: Vec<String> = volume.snapshot().paths.into_iter().map(|path| path.name).collect();
    let name = &names[dice.roll(names.len() as u64) as usize];
    let weight = (name.clone(), dice.roll(4) as u32);
    let prefer = (dice.roll(2) == 0).then_some(name.as_str());
    volume.set_policy(now, Some(policy), &[weight], prefer).expect("a path of the device");
    assert_eq!(volume.policy(), policy);
}

fn request(w: &mut World, dice: &mut Dice, peer: usize) -> Sent {
    let first = dice.roll(BLOCKS);
    let blocks = (dice.roll(4) + 1).min(BLOCKS - first);
    let (token, kind) = match dice.roll(2) {
        0 => (w.start_read(peer, first * 512, blocks as u32 * 512), Kind::Read),
        _ => {
            let serial = w.peers[peer].1.sent + 1;
            let value = (peer as u64) << 32 | serial << 8;
            let data: Vec<u8> = (first..first + blocks)
                .flat_map(|n| (value | n).to_le_bytes().repeat(64))
                .collect();
            let fua = dice.roll(8) == 0;
            let op = Op::Write { offset: first * 512, data: Payload::from(data), fua };
            (w.submit(peer, op), Kind::Write(value))
        }
    };
    Sent { peer, token, first, blocks, kind }
}

fn fault(w: &mut World, dice: &mut Dice) {
    let node = dice.roll(2) as usize;
    let portal = dice.roll(w.portals.len() as u64) as usize;
    let now = theirs(w.now);
    let once = |fault| Rule::new(fault).on(Commands::Medium).times(1 + node as u64);
    match dice.roll(16) {
        0 => w.portals[portal].net = Net::Silent,
        1 => w.portals[portal].net = Net::Refuses,
        2 | 3 => w.portals.iter_mut().for_each(|p| p.net = Net::Works),
        4 => w.stall(portal, true),
        5 => (0..w.portals.len()).for_each(|p| w.stall(p, false)),
        6 if w.nodes[node].is_some() => w.kill(node),
        7 | 8 => start(w),
        9 => w.faults(node).set("hold", once(Fault::Hold)),
        10 => {
            if let Some(node) = &mut w.nodes[node] {
                node.release(now);
            }
        }
        11 => {
            let late = Duration::from_secs(4);
            w.faults(node).set("late", once(Fault::Delay(Duration::ZERO, late)).rate(0.3));
        }
        12 => w.faults(node).set("cut", once(Fault::ResetAfter)),
        13 => {
            if let Some(node) = &mut w.nodes[node] {
                node.unit_attention(0x29, 0x00);
            }
        }
        14 => w.faults(node).clear(),
        15 => {
            w.faults(node).set("busy", Rule::new(Fault::Status(0x08)).on(Commands::Medium).times(3))
        }
        _ => {}
    }
}

fn start(w: &mut World) {
    for node in 0..2 {
        if w.nodes[node].is_none() {
            w.start(node);
        }
    }
}

fn heal(w: &mut World) {
    start(w);
    w.portals.iter_mut().for_each(|p| p.net = Net::Works);
    for portal in 0..w.portals.len() {
        w.stall(portal, false);
    }
    for node in 0..2 {
        w.faults(node).clear();
    }
}

fn judge(w: &mut World, sent: &[Sent]) -> Result<(), String> {
    let mut blocks: Vec<Block> = (0..BLOCKS).map(|_| Block::starting(0)).collect();
    for s in sent {
        let peer = w.peer(s.peer);
        let (began, ended) = peer.stamps.of(s.token);
        let answer = peer.answers.get(&s.token);
        match &s.kind {
            Kind::Write(value) => {
                let ended = ended.filter(|_| matches!(answer, Some(Ok(_))));
                for n in s.first..s.first + s.blocks {
                    blocks[n as usize].write(value | n, began, ended);
                }
            }
            Kind::Read => {
                let Some(Ok(Answer::Data(data))) = answer else { continue };
                let data = data.to_vec();
                for (n, block) in (s.first..).zip(data.chunks(512)) {
                    let value = u64::from_le_bytes(block[..8].try_into().expect("8 bytes"));
                    if block.chunks(8).any(|word| word != value.to_le_bytes()) {
                        return Err(format!("block {n} is torn"));
                    }
                    let ended = ended.expect("an answer has a time");
                    blocks[n as usize].read(value, began, ended);
                }
            }
        }
    }
    for (n, block) in blocks.iter().enumerate() {
        block.check().map_err(|why| format!("block {n}: {why}"))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn every_read_is_explained_by_some_order_of_writes(seed: u64) {
        prop_assert_eq!(run(seed, FenceMode::Overlap, 150), Ok(()));
    }

    #[test]
    fn strict_too(seed: u64) {
        prop_assert_eq!(run(seed, FenceMode::Strict, 80), Ok(()));
    }
}

/// What the judge is worth: without the fence it finds old writes that land over newer ones.
#[test]
fn without_the_fence_the_judge_finds_corruption() {
    let found = (1..60u64)
        .any(|seed| run(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), FenceMode::Off, 150).is_err());
    assert!(found, "60 runs without a fence, and nothing was found");
}
