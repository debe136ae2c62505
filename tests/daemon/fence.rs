//! Writes in doubt in the real daemon: what is set counts at once and on every lane, and whose word ends a doubt.

use crate::harness::daemon::Daemon;
use crate::harness::embedded::Embedded;
use crate::harness::nbd::{Raw, WRITE};
use crate::says;
use mpio_target::faults::{Commands, Fault, Rule};
use std::io::Write;

fn send_write(client: &mut Raw, cookie: u64, fill: u8) {
    let mut write = Raw::request(WRITE, cookie, 0, 4096);
    write.extend([fill; 4096]);
    client.stream.write_all(&write).unwrap();
}

/// A write is in doubt on the path `a:ha1`, whose node lets nobody in any more; the next one to the same block waits.
fn doubtful(rig: &Embedded, daemon: &mut Daemon) -> Raw {
    let faults = rig.pair.node(0).faults();
    faults.set("refuse", Rule::new(Fault::Refuse));
    faults.set("cut", Rule::new(Fault::Reset).on(Commands::Writes).times(1));
    let mut client = Raw::open(daemon.export(), "vm0");
    send_write(&mut client, 1, 1);
    assert_eq!(client.reply().unwrap(), (0, 1), "repeated on the other path");
    send_write(&mut client, 2, 2);
    daemon.wait("a write that waits", |s| s["devices"][0]["held_writes"] == 1);
    client
}

/// Exit 0 is a proof; any other end is none, and it is asked again.
#[test]
fn a_fence_command_is_run_and_its_exit_code_counts() {
    let rig = Embedded::start("fence-command");
    let (asked, off) = (rig.scratch.path("asked"), rig.scratch.path("off"));
    let device = format!(
        "policy = \"failover\"\nfence_timeout = \"never\"\n\
         fence_command = \"echo $MPIO_DEVICE $MPIO_PATH $MPIO_TARGET $MPIO_PORTAL > {}; test -e {}\"\n",
        asked.display(),
        off.display()
    );
    let mut daemon = rig.daemon(&device);
    let mut client = doubtful(&rig, &mut daemon);
    daemon.wait("the first answer", |_| asked.exists());
    let text = || std::fs::read_to_string(&asked).unwrap();
    daemon.wait("the whole line", |_| text().ends_with('\n'));
    assert_eq!(text(), format!("vm0 a:ha1 {} {}\n", rig.target(0), rig.portal(0)));
    let status = daemon.status();
    assert_eq!(status["devices"][0]["fences"]["pending"], 1, "that was no proof");
    std::fs::write(&off, "").unwrap();
    assert_eq!(client.reply().unwrap(), (0, 2));
    let status = daemon.wait("proven", |s| s["devices"][0]["fences"]["pending"] == 0);
    let fences = &status["devices"][0]["fences"];
    assert_eq!((&fences["proven"], &fences["unproven"]), (&1.into(), &0.into()));
    says(&daemon.log(), &["fence_command proves nothing: it ended with exit status: 1", "fenced"]);
    daemon.stop();
}

/// `mpio set` reaches the ranges that are in doubt already, whatever lane they belong to, and `mpio fence` shows
/// what is in force.
#[test]
fn a_timeout_that_is_set_releases_what_is_held() {
    let rig = Embedded::start("fence-set");
    let mut daemon = rig.daemon("policy = \"failover\"\nfence_timeout = \"never\"\nlanes = 2\n");
    let mut client = doubtful(&rig, &mut daemon);
    says(
        &daemon.succeed(&["fence", "vm0"]),
        &[
            "vm0: fence overlap, never released without a proof\n",
            "1 in doubt, 1 writes held",
            "a:ha1",
        ],
    );
    daemon.succeed(&["set", "vm0", "fence_timeout=500ms"]);
    assert_eq!(client.reply().unwrap(), (0, 2), "released");
    let status = daemon.wait("released", |s| s["devices"][0]["fences"]["pending"] == 0);
    assert_eq!(status["devices"][0]["fences"]["unproven"], 1);
    let shown = daemon.succeed(&["fence", "vm0"]);
    says(&shown, &["vm0: fence overlap, released without a proof after 0.5 s\n", "0 in doubt"]);
    daemon.succeed(&["set", "vm0", "fence=strict"]);
    says(&daemon.succeed(&["fence", "vm0"]), &["vm0: fence strict, never released"]);
    daemon.stop();
}
