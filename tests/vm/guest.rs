//! What runs inside the virtual machine: this test program again, started there by `proofs.sh` and `stale.sh`.

use crate::harness::forwarder::{Fate, Forwarder, PASS};
use crate::harness::nexus::Names;
use crate::proofs::{
    Beside, Finding, LBA, LEN, QUESTIONS, Question, Storage, When, measure, reset_beside,
};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// What A's trouble is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Its old connection's bytes are late; new connections are not.
    Late,
    /// The device under its backing store is suspended.
    HungDisk,
}

/// Two of the guest's three targets over one disk: the first by the device `slow`, the others past it.
struct Guest {
    names: [Names; 2],
    forwarder: Forwarder,
    trouble: Trouble,
}

impl Guest {
    /// Node A is the guest's target `first`, node B the next one.
    fn new(trouble: Trouble, first: usize) -> Guest {
        let words = |name: &str| {
            let text = std::env::var(name).unwrap_or_else(|_| panic!("{name} is set in the guest"));
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let (portals, targets) = (words("portals"), words("targets"));
        let names = [0, 1].map(|node| Names {
            portal: portals[first + node].parse().unwrap(),
            target: targets[first + node].clone(),
            lun: 1,
            initiator: "iqn.2026-11.test.vm:proofs".to_owned(),
            isid: [0x80, 0, 0, 0, 0, node as u8 + 1],
        });
        let forwarder = Forwarder::start("127.0.0.51", &portals[first]);
        Guest { names, forwarder, trouble }
    }
}

impl Storage for Guest {
    fn names(&self, node: usize) -> Names {
        let mut names = self.names[node].clone();
        if node == 0 && self.trouble == Trouble::Late {
            names.portal = self.forwarder.address;
        }
        names
    }
    fn stick(&self) {
        match self.trouble {
            Trouble::Late => self.forwarder.present(Fate::Hold),
            Trouble::HungDisk => run("dmsetup", &["suspend", "--noflush", "--nolockfs", "slow"]),
        }
    }
    fn release(&self) {
        match self.trouble {
            Trouble::Late => self.forwarder.all(PASS),
            Trouble::HungDisk => run("dmsetup", &["resume", "slow"]),
        }
    }
    fn medium(&self) -> Vec<u8> {
        let skip = format!("skip={}", LBA * 512 / LEN as u64);
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/mapper/fast", "iflag=direct", &format!("bs={LEN}"), "count=1", &skip]);
        let output = dd.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
    fn settle(&self) -> Duration {
        Duration::from_millis(1500)
    }
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What `docs/write-ownership.md` says of LIO.
fn expected(trouble: Trouble, question: Question) -> Finding {
    use When::{Never, Released, Stuck};
    let (when, response, status_first) = match (trouble, question) {
        // The target never answers, and leaves a session behind that blocks its portal.
        (_, Question::AbortUnfinished | Question::ResetUnfinished) => (Never, None, false),
        (Trouble::Late, Question::AbortTask) => (Released, Some(1), true),
        (Trouble::Late, Question::Reset) => (Released, Some(0), true),
        (Trouble::Late, Question::Login | Question::LoginAndReset) => (Stuck, Some(0), false),
        (Trouble::HungDisk, _) => (Released, Some(0), false),
    };
    Finding { when, response, status_first, stale: false }
}

#[test]
#[ignore = "runs inside the virtual machine, started by proofs.sh"]
fn answers_that_prove() {
    let is_last =
        |question| matches!(question, Question::AbortUnfinished | Question::ResetUnfinished);
    let sound = QUESTIONS.into_iter().filter(|&question| !is_last(question));
    let mut cells: Vec<(Guest, Question)> = Vec::new();
    for question in sound {
        cells.push((Guest::new(Trouble::Late, 0), question));
        cells.push((Guest::new(Trouble::HungDisk, 0), question));
    }
    let mut wrong: Vec<String> = Vec::new();
    for (guest, question) in &cells {
        let finding = measure(guest, *question);
        let cell = format!("LIO, {:?}: {question}: {finding}", guest.trouble);
        println!("## {cell}");
        let expected = expected(guest.trouble, *question);
        if finding != expected {
            wrong.push(format!("{cell}; expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The last question, as both sessions are left behind for good: LIO answers neither the reset nor the write, although the
/// data came, and lets nobody into the session that has asked.
#[test]
#[ignore = "runs inside the virtual machine, started by proofs.sh"]
fn a_reset_beside_a_write_that_owes_data() {
    let found = reset_beside(&Guest::new(Trouble::HungDisk, 0));
    println!("## LIO, LOGICAL UNIT RESET while another session owes data: {found:?}");
    assert_eq!(found, Beside { reset: None, write: None, again: false });
}

/// Bytes of a block that reach the device as they are: aligned, and alive until the end. The kernel's initiator
/// sends from the caller's pages; a packet that is late carries what they hold then.
struct Page(Box<Aligned>);

#[repr(align(4096))]
struct Aligned([u8; 4096]);

impl Page {
    fn of(word: &str) -> Page {
        let mut page = Page(Box::new(Aligned([0; 4096])));
        let line = format!("{word}\n");
        page.0.0.iter_mut().zip(line.bytes().cycle()).for_each(|(byte, value)| *byte = value);
        page
    }
}

/// The story of the stale write on one device: W0, then, when the file `go` is there, W1 and W2 over it, each
/// acknowledged. The device is opened once, so that nobody probes it in between; the end waits for the file `end`.
#[test]
#[ignore = "runs inside the virtual machine, started by stale.sh"]
fn w1_then_w2() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let (name, run) = (variable("name"), PathBuf::from(variable("run")));
    let at: u64 = variable("at").parse().unwrap();
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_DIRECT)
        .open(variable("device"))
        .unwrap();
    let [w0, w1, w2] = ["W0", "W1", "W2"].map(Page::of);
    device.write_all_at(&w0.0.0, at * 4096).unwrap();
    std::fs::write(run.join(format!("{name}.ready")), "").unwrap();
    let wait_for = |file: &str| {
        while !run.join(file).exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for("go");
    let began = std::time::Instant::now();
    for (word, page) in [("W1", &w1), ("W2", &w2)] {
        device.write_all_at(&page.0.0, at * 4096).unwrap();
        println!("## {name}: {word} acknowledged after {:.1} s", began.elapsed().as_secs_f64());
    }
    std::fs::write(run.join(format!("{name}.done")), "").unwrap();
    wait_for("end");
}
