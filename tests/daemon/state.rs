//! The state file: what a killed daemon leaves behind, and what the next one makes of it.

use crate::harness::daemon::Daemon;
use crate::harness::embedded::Embedded;
use crate::harness::nbd::{Raw, WRITE};
use crate::{open, says};
use mpio_target::config::PairConfig;
use mpio_target::faults::{Commands, Fault, Rule};
use std::io::Write;
use std::path::PathBuf;

/// A pair whose nodes go on with what a session left behind, like targets with a queue in front of the disk.
fn rig(name: &str) -> Embedded {
    let mut config = PairConfig::default();
    for node in &mut config.nodes {
        node.reinstatement_aborts = false;
    }
    Embedded::with(name, config)
}

fn state_files(rig: &Embedded) -> Vec<PathBuf> {
    let files = std::fs::read_dir(rig.scratch.path("state")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

/// A write hangs in node `ha1`; the daemon that sent it is gone.
fn killed_with_a_write_on_its_way(rig: &Embedded, config: &str) {
    let mut first = Daemon::start(&rig.scratch, None, config);
    assert!(state_files(rig).is_empty(), "nothing was written yet");
    let hold = Rule::new(Fault::Hold).on(Commands::Writes).times(1);
    rig.pair.node(0).faults().set("hold", hold);
    let mut client = Raw::open(first.export(), "vm0");
    let mut write = Raw::request(WRITE, 1, 0, 4096);
    write.extend([1; 4096]);
    client.stream.write_all(&write).unwrap();
    first.wait("the write in the target", |_| rig.pair.node(0).faults().struck("hold") == 1);
    first.kill();
}

/// `kill -9` between a write and its repeat through the next daemon: the old write never lands over the new one.
#[test]
fn an_old_write_of_a_killed_daemon_never_lands_over_a_new_one() {
    let rig = rig("state-kill");
    let config = rig.config("policy = \"failover\"\n");
    killed_with_a_write_on_its_way(&rig, &config);
    let files = state_files(&rig);
    assert_eq!(files.len(), 1, "{files:?}");
    let text = std::fs::read_to_string(&files[0]).unwrap();
    says(
        &text,
        &["\"path\": \"a:ha1\"", "\"isid\"", &rig.target(0), &rig.portal(0), "\"portal_group\""],
    );
    let mut second = Daemon::start(&rig.scratch, None, &config);
    says(&second.log(), &["left behind", "did not log out", "a:ha1"]);
    let mut client = open(&second);
    client.write(0, &[2; 4096]).unwrap();
    // What the target still held would be executed now.
    assert_eq!(rig.pair.node(0).release(), 0, "the old write is dead");
    assert!(client.read(0, 4096).unwrap() == [2; 4096], "the old write has landed");
    let status = second.wait("proven", |s| s["devices"][0]["fences"]["pending"] == 0);
    assert_eq!(status["devices"][0]["fences"]["proven"], 1);
    drop(client);
    second.stop();
    assert_eq!(state_files(&rig), Vec::<PathBuf>::new(), "logged out in order");
}

/// A path that is not configured any more: said loudly; writes wait for a word or for `fence_timeout`.
#[test]
fn what_is_not_configured_any_more_is_told_and_released_by_a_word() {
    let rig = rig("state-gone");
    killed_with_a_write_on_its_way(&rig, &rig.config("policy = \"failover\"\n"));
    let config = rig.config("policy = \"failover\"\nfence_timeout = \"never\"\n");
    let config = config.replace("name = \"a\"", "name = \"c\"");
    let mut second = Daemon::start(&rig.scratch, None, &config);
    says(&second.log(), &["not configured any more", "confirm-dead a:ha1"]);
    let mut client = Raw::open(second.export(), "vm0");
    let mut write = Raw::request(WRITE, 1, 8192, 4096);
    write.extend([2; 4096]);
    client.stream.write_all(&write).unwrap();
    second.wait("a write that waits", |s| s["devices"][0]["held_writes"] == 1);
    says(&second.succeed(&["fence", "vm0"]), &["a:ha1", "left behind by an earlier process"]);
    let done = second.succeed(&["fence", "vm0", "confirm-dead", "a:ha1"]);
    assert_eq!(done, "vm0: path a:ha1: 1 ranges released, 0 still in doubt\n");
    assert_eq!(client.reply().unwrap(), (0, 1));
    second.stop();
    assert_eq!(state_files(&rig), Vec::<PathBuf>::new());
}

/// What it said may matter: nobody goes on without it.
#[test]
fn a_damaged_state_file_stops_the_start() {
    let rig = rig("state-damaged");
    let config = rig.config("policy = \"failover\"\n");
    killed_with_a_write_on_its_way(&rig, &config);
    std::fs::write(&state_files(&rig)[0], "{\"version\": 1, \"dev").unwrap();
    let mut second = Daemon::launch(&rig.scratch, None, &config);
    let end = second.wait_for_exit(std::time::Duration::from_secs(20));
    assert_eq!(end.code(), Some(1));
    says(&second.log(), &["state file ", "it is damaged", "; try: "]);
}
