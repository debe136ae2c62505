//! Portals by every kind of address: IPv6, and the name of a host.

use crate::harness::daemon::{Daemon, commands_of, path_of};
use crate::harness::embedded::{Embedded, PATHS};
use crate::open;
use mpio_target::config::PairConfig;

/// The device is whole, its paths are shown as `source -> address`, and each carries I/O.
#[track_caller]
fn serves(rig: &Embedded, config: &str, source: &str) {
    let mut daemon = Daemon::start(&rig.scratch, None, config);
    let status = daemon.status();
    for (index, path) in PATHS.iter().enumerate() {
        let path = path_of(&status, path);
        assert_eq!(path["portal"], rig.portal(index).as_str(), "{path}");
        assert_eq!(path["source"], source, "{path}");
    }
    let mut client = open(&daemon);
    for block in 0..8_u8 {
        client.write(u64::from(block) * 4096, &[block; 4096]).unwrap();
        assert!(client.read(u64::from(block) * 4096, 4096).unwrap() == [block; 4096]);
    }
    daemon.wait("I/O on both paths", |now| PATHS.iter().all(|path| commands_of(now, path) > 0));
    daemon.stop();
}

#[test]
fn portals_on_ipv6_are_found_and_used() {
    let portals = ["[::1]:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
    let rig = Embedded::with("ipv6", PairConfig { portals, ..PairConfig::default() });
    assert!(rig.portal(0).starts_with("[::1]:"), "{}", rig.portal(0));
    let config = rig.config("").replace("source = \"127.0.0.1\"", "source = \"::1\"");
    serves(&rig, &config, "::1");
}

/// What the target advertises is an address, not the name: it is the same portal all the same.
#[test]
fn portals_by_the_name_of_a_host_are_found_and_used() {
    let rig = Embedded::start("host-name");
    let config = rig.config("").replace("address = \"127.0.0.1:", "address = \"localhost:");
    assert_eq!(config.matches("localhost").count(), 2, "{config}");
    serves(&rig, &config, "127.0.0.1");
}
