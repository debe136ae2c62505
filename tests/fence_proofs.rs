//! Which answers of a real target prove that an old write is dead: `tgtd`, stuck in three ways. The table in
//! `docs/write-ownership.md` is what is asserted here; the kernel's own target is asked in the virtual machine
//! (`tests/vm.rs`).
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod harness;
mod proofs;

use harness::forwarder::{Fate, Forwarder, PASS};
use harness::nexus::Names;
use harness::tgtd::{HungDisk, Pair, TARGETS};
use harness::{Scratch, noise, require};
use proofs::{Beside, Finding, LBA, LEN, QUESTIONS, Storage, When, measure, reset_beside};
use std::cell::RefCell;
use std::os::unix::fs::FileExt;

const MIB: usize = 1024 * 1024;

/// Rounds of each cell.
const ROUNDS: usize = 1;

/// What A's trouble is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The process is stopped.
    Frozen,
    /// Its old connection's bytes are late; new connections are not.
    Late,
    /// Its disk threads are stopped: it answers, and executes nothing.
    HungDisk,
}

/// Two `tgtd` over one file.
struct Tgtd {
    _scratch: Scratch,
    pair: Pair<'static>,
    forwarder: Forwarder,
    trouble: Trouble,
    disk: RefCell<Option<HungDisk>>,
}

impl Tgtd {
    fn new(trouble: Trouble) -> Tgtd {
        let scratch = Scratch::new("proofs");
        let pair = Pair::start(&scratch, &noise(4 * MIB, 1));
        let forwarder = Forwarder::start("127.0.0.31", &pair.nodes[0].portal);
        Tgtd { _scratch: scratch, pair, forwarder, trouble, disk: RefCell::new(None) }
    }
}

impl Storage for Tgtd {
    fn names(&self, node: usize) -> Names {
        let portal = match (node, self.trouble) {
            (0, Trouble::Late) => self.forwarder.address,
            _ => self.pair.nodes[node].portal.parse().unwrap(),
        };
        Names {
            portal,
            target: TARGETS[node].to_owned(),
            lun: 1,
            initiator: "iqn.2026-11.test.host:proofs".to_owned(),
            isid: [0x80, 0, 0, 0, 0, node as u8 + 1],
        }
    }
    fn stick(&self) {
        match self.trouble {
            Trouble::Frozen => self.pair.nodes[0].freeze(),
            Trouble::Late => self.forwarder.present(Fate::Hold),
            Trouble::HungDisk => *self.disk.borrow_mut() = Some(self.pair.nodes[0].hang_disk()),
        }
    }
    fn release(&self) {
        match self.trouble {
            Trouble::Frozen => self.pair.nodes[0].thaw(),
            Trouble::Late => self.forwarder.all(PASS),
            Trouble::HungDisk => drop(self.disk.borrow_mut().take()),
        }
    }
    fn medium(&self) -> Vec<u8> {
        let mut held = vec![0; LEN];
        let file = std::fs::File::open(&self.pair.backing).unwrap();
        file.read_exact_at(&mut held, LBA * 512).unwrap();
        held
    }
}

/// Measures every question in every round, prints the rows, and compares them with what the table says.
#[track_caller]
fn assert_row(trouble: Trouble, expected: [Finding; 4]) {
    require(&["tgtd", "tgtadm", "setpriv"]);
    let mut wrong = Vec::new();
    for (question, expected) in QUESTIONS.into_iter().zip(expected) {
        for _ in 0..ROUNDS {
            let finding = measure(&Tgtd::new(trouble), question);
            eprintln!("tgtd, {trouble:?}: {question}: {finding}");
            if finding != expected {
                wrong.push(format!("{question}: {finding}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{trouble:?}: {wrong:#?}");
}

/// An answer that came as long as W1 was stuck, with this response code.
const fn at_once(response: u8, stale: bool) -> Finding {
    Finding { when: When::Stuck, response: Some(response), status_first: false, stale }
}

/// An answer that came only when A was let go, before or after W1's own status; W1 did not land after it.
const fn withheld(response: u8, status_first: bool) -> Finding {
    Finding { when: When::Released, response: Some(response), status_first, stale: false }
}

#[test]
fn tgtd_that_was_stopped() {
    assert_row(
        Trouble::Frozen,
        [withheld(1, true), withheld(0, true), withheld(0, false), withheld(0, false)],
    );
}

#[test]
fn tgtd_behind_a_late_network() {
    assert_row(
        Trouble::Late,
        [withheld(1, true), withheld(0, true), at_once(0, false), at_once(0, false)],
    );
}

/// Here a login alone is shown to prove nothing: it is answered, and W1 lands afterwards.
#[test]
fn tgtd_whose_disk_hangs() {
    assert_row(
        Trouble::HungDisk,
        [withheld(1, true), withheld(0, true), at_once(0, true), withheld(0, false)],
    );
}

/// Nobody is stuck here; the write ends with a unit attention. LIO never answers this.
#[test]
fn tgtd_is_reset_beside_a_write_that_owes_data() {
    require(&["tgtd", "tgtadm", "setpriv"]);
    let found = reset_beside(&Tgtd::new(Trouble::HungDisk));
    assert_eq!(found, Beside { reset: Some(0), write: Some(2), again: true });
}
