//! What runs inside the virtual machine: this test program again, started there by `proofs.sh` and `stale.sh`.

use crate::harness::forwarder::{Fate, Forwarder, PASS};
use crate::harness::nexus::{Names, Nexus};
use crate::proofs::{Finding, LBA, LEN, QUESTIONS, Question, Storage, measure};
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

/// Two targets of the guest over one disk: A by the device `slow`, B by `fast`.
struct Guest {
    names: [Names; 2],
    forwarder: Forwarder,
    trouble: Trouble,
}

impl Guest {
    fn new(trouble: Trouble) -> Guest {
        let words = |name: &str| {
            let text = std::env::var(name).unwrap_or_else(|_| panic!("{name} is set in the guest"));
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let (portals, targets) = (words("portals"), words("targets"));
        let names = [0, 1].map(|node| Names {
            portal: portals[node].parse().unwrap(),
            target: targets[node].clone(),
            lun: 1,
            initiator: "iqn.2026-11.test.vm:proofs".to_owned(),
            isid: [0x80, 0, 0, 0, 0, node as u8 + 1],
        });
        let forwarder = Forwarder::start("127.0.0.51", &portals[0]);
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

#[test]
#[ignore = "runs inside the virtual machine, started by proofs.sh"]
fn answers_that_prove() {
    let storage = std::env::var("storage").unwrap();
    let mut wrong: Vec<String> = Vec::new();
    for trouble in [Trouble::Late, Trouble::HungDisk] {
        for question in QUESTIONS {
            if question == Question::AbortUnfinished {
                continue;
            }
            let finding: Finding = measure(&Guest::new(trouble), question);
            println!("## {storage}, {trouble:?}: {question}: {finding}");
        }
    }
    let guest = Guest::new(Trouble::Late);
    let finding: Finding = measure(&guest, Question::AbortUnfinished);
    println!("## {storage}, Late: {}: {finding}", Question::AbortUnfinished);
    let mut names = guest.names(0);
    let since = std::time::Instant::now();
    let again = Nexus::connect(&names).logged_in(Duration::from_secs(60));
    println!("## same nexus again: {again} after {:?}", since.elapsed());
    names.isid[5] = 77;
    let since = std::time::Instant::now();
    let again = Nexus::connect(&names).logged_in(Duration::from_secs(20));
    println!("## other nexus: {again} after {:?}", since.elapsed());
    let _ = &mut wrong;
    assert!(wrong.is_empty(), "{wrong:#?}");
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
