//! The dedicated storage network: sessions leave from the configured address and from no other.
//!
//! Three namespaces: a host with two storage subnets, and a storage node on each. The configured sources are
//! *second* addresses of the host's links, which the kernel would never choose by itself, so that a session
//! that is not bound cannot look right by luck. Nothing of the machine's own network is touched.
#![cfg(feature = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod harness;

use harness::daemon::{Daemon, MPIO, path_of};
use harness::network::{LINKS, NODES, Network, SOURCES};
use harness::process::{Process, command, finish_within};
use harness::tgtd::{PATHS, TARGETS};
use harness::{Scratch, require};
use std::time::{Duration, Instant};

const MIB: usize = 1024 * 1024;

/// RFC 7143 knows no source; the storage network does: each session, discovery included, is bound.
#[test]
fn sessions_leave_from_the_configured_sources_and_survive_a_silent_cut() {
    require(&["fio"]);
    let network = Network::new();
    let scratch = Scratch::new("binding");
    let pair = network.pair(&scratch, 48 * MIB);
    let config = pair.config(&scratch, SOURCES, "policy = \"round-robin\"");
    let mut daemon = Daemon::start(&scratch, Some(&network.host), &config);

    for (source, node) in SOURCES.iter().zip(NODES) {
        let sources = network.sources_towards(node);
        assert!(!sources.is_empty(), "no session to {node}");
        assert!(
            sources.iter().all(|address| address == source),
            "{sources:?} towards {node}, not only {source}"
        );
    }
    let status = daemon.status();
    for (path, source) in PATHS.iter().zip(SOURCES) {
        assert_eq!(path_of(&status, path)["source"], source);
    }

    // A load that lasts longer than what follows, verified as it goes.
    let mut fio = command(None, "timeout");
    fio.args(["120", "fio", "--name=load", "--ioengine=nbd", &format!("--uri={}", daemon.uri())]);
    fio.args(["--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=32M", "--randrepeat=0"]);
    fio.args([
        "--verify=crc32c",
        "--verify_state_save=0",
        "--verify_backlog=256",
        "--verify_fatal=1",
        "--time_based",
        "--runtime=25",
    ]);
    let mut fio = Process::start("fio", fio, &scratch.path("fio.log"));
    daemon.wait_until_all_carry_io(&PATHS);

    network.nodes[0].cut_silently();
    let cut = Instant::now();
    daemon.wait_for_path(PATHS[0], "neither active nor suspect", |state| {
        state != "active" && state != "suspect"
    });
    println!("{} failed {:.2} s after the silent cut", PATHS[0], cut.elapsed().as_secs_f64());
    daemon.wait_until_all_carry_io(&PATHS[1..]);
    std::thread::sleep(Duration::from_secs(2));
    fio.assert_running();

    network.nodes[0].heal();
    daemon.wait_until_active(PATHS[0]);
    println!("{} active again {:.2} s after the silent cut", PATHS[0], cut.elapsed().as_secs_f64());
    daemon.wait_until_all_carry_io(&PATHS);
    // The session that came back is bound like the first.
    let sources = network.sources_towards(NODES[0]);
    assert!(
        !sources.is_empty() && sources.iter().all(|address| address == SOURCES[0]),
        "{sources:?}"
    );

    let status = fio.wait_for_exit(Duration::from_secs(120));
    assert!(status.success(), "fio ended with {status}:\n{}", fio.output());
    assert_eq!(daemon.status()["devices"][0]["errors"], 0);
    daemon.stop();
}

#[test]
fn a_wrong_source_is_an_error_that_names_source_and_portal() {
    let network = Network::new();
    let scratch = Scratch::new("wrong-source");
    let pair = network.pair(&scratch, 48 * MIB);
    let portal = pair.nodes[0].portal.as_str();
    let discover = |source: &str| {
        let limit = Duration::from_secs(60);
        finish_within(limit, Some(&network.host), MPIO, &["discover", portal, "--source", source])
    };

    let right = discover(SOURCES[0]);
    assert_eq!(right.code, Some(0), "{}", right.stderr);
    assert!(right.stdout.contains(TARGETS[0]), "{}", right.stdout);

    // An address that this host does not have; and one that it has on the other network, from where the
    // node cannot answer.
    for wrong in ["10.77.9.9", SOURCES[1]] {
        let done = discover(wrong);
        assert_eq!(done.code, Some(1), "from {wrong}: {}\n{}", done.stdout, done.stderr);
        assert!(done.stderr.starts_with("mpio: "), "{}", done.stderr);
        for address in [wrong, NODES[0]] {
            assert!(done.stderr.contains(address), "no {address} in: {}", done.stderr);
        }
    }
    let (absent, unreachable) = (discover("10.77.9.9").stderr, discover(SOURCES[1]).stderr);
    assert_ne!(
        absent.replace("10.77.9.9", "X"),
        unreachable.replace(SOURCES[1], "X"),
        "a source that is not ours and a portal that does not answer it are different causes"
    );
}

#[test]
fn a_portal_with_a_wrong_source_does_not_keep_the_device_down() {
    let network = Network::new();
    let scratch = Scratch::new("half");
    let pair = network.pair(&scratch, 48 * MIB);
    let config = pair.config(&scratch, ["10.77.9.9", SOURCES[1]], "policy = \"round-robin\"");
    let mut daemon = Daemon::launch(&scratch, Some(&network.host), &config);
    let status = daemon.wait_until_active(PATHS[1]);
    assert_eq!(status["devices"][0]["state"], "degraded", "{status}");
    assert!(
        network.sources_towards(NODES[0]).is_empty(),
        "connected to {} from an address of its own choice",
        NODES[0]
    );
    let log = daemon.log();
    assert!(log.contains("10.77.9.9") && log.contains(NODES[0]), "{log}");
    daemon.stop();
}

/// `interface`: what is bound to a link leaves by no other, whatever the routes say; discovery too.
#[test]
fn a_portal_bound_to_an_interface_is_reached_by_that_link_only() {
    let network = Network::new();
    let scratch = Scratch::new("interface");
    let pair = network.pair(&scratch, 48 * MIB);
    let bound = |portal: usize, lines: &str, config: &str| {
        let source = format!("source = \"{}\"\n", SOURCES[portal]);
        config.replace(&source, &format!("{source}{lines}\n"))
    };
    let plain = pair.config(&scratch, SOURCES, "policy = \"round-robin\"");
    let by = |link: &str| format!("interface = \"{link}\"");
    let right = bound(0, &by(LINKS[0]), &bound(1, &by(LINKS[1]), &plain));
    Daemon::start(&scratch, Some(&network.host), &right).stop();

    // The link to the other node: the route to the first one exists, and is not taken.
    let discovered = bound(0, &by(LINKS[1]), &plain);
    let taken = bound(0, &format!("{}\ndiscovery = false", by(LINKS[1])), &plain);
    for (config, known) in [(discovered, false), (taken, true)] {
        let mut daemon = Daemon::launch(&scratch, Some(&network.host), &config);
        daemon.wait_until_active(PATHS[1]);
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let reached = network.sources_towards(NODES[0]);
            assert!(reached.is_empty(), "connected to {} past {}", NODES[0], LINKS[1]);
            std::thread::sleep(Duration::from_millis(50));
        }
        let status = daemon.status();
        let paths = status["devices"][0]["paths"].as_array().unwrap();
        let state = paths.iter().find(|path| path["name"] == PATHS[0]).map(|path| &path["state"]);
        assert_eq!(state.is_some(), known, "{status}");
        assert!(state.is_none_or(|state| state != "active"), "{status}");
        daemon.stop();
    }
}

/// The harness itself: both subnets work, a silent cut is silent, a healed one works again.
#[test]
fn namespaces_connect_and_cut() {
    require(&["iscsi-ls"]);
    let network = Network::new();
    let scratch = Scratch::new("namespaces");
    let _pair = network.pair(&scratch, 48 * MIB);
    let list = |node: &str| {
        let limit = Duration::from_secs(3);
        finish_within(limit, Some(&network.host), "iscsi-ls", &[&format!("iscsi://{node}:3260")])
            .code
    };
    assert_eq!(NODES.map(list), [Some(0), Some(0)]);
    network.nodes[0].cut_silently();
    assert_eq!(NODES.map(list), [Some(124), Some(0)], "silence, not a refusal");
    network.nodes[0].heal();
    assert_eq!(NODES.map(list), [Some(0), Some(0)]);
    network.host.set_link(LINKS[0], false);
    assert_ne!(list(NODES[0]), Some(0));
    network.host.set_link(LINKS[0], true);
}
