//! `mpio discover`: several portals, some of them dead, from the right and from the wrong address, with CHAP.

use crate::harness::daemon::mpio;
use crate::harness::embedded::Embedded;
use crate::harness::free_port;
use crate::{refused, says};
use mpio_target::config::PairConfig;
use mpio_target::faults::{Fault, Rule};
use mpio_target::{Chap, ChapAlgorithm};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

const WWID: &str = "naa.6000000102030405060708090a0b0c0d";

#[test]
fn portals_targets_and_luns_from_the_right_source() {
    let rig = Embedded::start("discover");
    let [a, b] = [0, 1].map(|index| rig.portal(index));
    let done = mpio(&["discover", &format!("{a}@127.0.0.1"), &b]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    says(
        &done.stdout,
        &[
            &format!("portal {a} from 127.0.0.1\n  iqn.2026-11.example.san:ha1\n"),
            &format!("at {a}, portal group 1\n    LUN 0  {WWID}  64 MiB  512-byte blocks"),
            &format!("portal {b}\n  iqn.2026-11.example.san:ha1partner\n"),
            &format!("at {b}, portal group 2"),
        ],
    );
    let done = mpio(&["discover", &a, &b, "--source", "127.0.0.1", "--json"]);
    let report: Value = serde_json::from_str(&done.stdout).expect("one JSON object");
    assert_eq!(report["version"], 1);
    let portal = &report["portals"][1];
    assert_eq!((&portal["portal"], &portal["source"]), (&b.into(), &"127.0.0.1".into()));
    let target = &portal["targets"][0];
    assert_eq!(target["name"], "iqn.2026-11.example.san:ha1partner");
    assert_eq!(target["portals"][0]["portal_group"], 2);
    let lun = &target["luns"][0];
    assert_eq!((&lun["lun"], &lun["wwid"]), (&0.into(), &WWID.into()));
    assert_eq!(lun["size_bytes"], 64 << 20);
    assert!(lun["vendor"].is_string() && portal["error"].is_null());
}

#[test]
fn one_dead_portal_does_not_hide_the_others() {
    let rig = Embedded::start("discover-dead");
    let a = rig.portal(0);
    let dead = format!("127.0.0.1:{}", free_port(&["127.0.0.1"]));
    let done = mpio(&["discover", &dead, &a]);
    let text = refused(&done, 1);
    says(text, &[&format!("portal {dead}: connection refused"), "no target listens there"]);
    says(&done.stdout, &[&format!("portal {dead}\n  not reached\n"), WWID]);
    // In JSON the reason stands with its portal.
    let done = mpio(&["discover", &dead, &a, "--json"]);
    assert_eq!(done.code, Some(1));
    let report: Value = serde_json::from_str(&done.stdout).expect("one JSON object");
    assert!(report["portals"][0]["error"].as_str().unwrap().contains("connection refused"));
    assert!(report["portals"][1]["error"].is_null());
}

#[test]
fn sources_that_cannot_work() {
    let rig = Embedded::start("discover-source");
    let a = rig.portal(0);
    let done = mpio(&["discover", &a, "--source", "203.0.113.9"]);
    let way =
        format!("portal {a} from source 203.0.113.9: the source is not an address of this host");
    says(refused(&done, 1), &[&way, "`ip addr`"]);
    // A source on loopback leads nowhere else.
    let done = mpio(&["discover", "203.0.113.1@127.0.0.1"]);
    says(refused(&done, 1), &["portal 203.0.113.1:3260 from source 127.0.0.1", "no route"]);
    let done = mpio(&["discover", &a, "--source", "here"]);
    says(refused(&done, 2), &["--source: ", "here"]);
    let done = mpio(&["discover", "fd00::1"]);
    says(refused(&done, 2), &["brackets", "[fd00::1]"]);
    let done = mpio(&["discover", "no-such-host.invalid"]);
    says(refused(&done, 1), &["portal no-such-host.invalid:3260: its name cannot be looked up"]);
}

#[test]
fn chap_is_asked_for_refused_and_passed() {
    let chap = Chap {
        user: "host1".into(),
        secret: b"a secret of 21 bytes.".to_vec(),
        mutual: Some(("san".into(), b"another of 19 bytes".to_vec())),
        algorithms: ChapAlgorithm::ALL.to_vec(),
    };
    let mut config = PairConfig::default();
    for node in &mut config.nodes {
        node.chap = Some(chap.clone());
        node.discovery_chap = Some(chap.clone());
    }
    let rig = Embedded::with("discover-chap", config);
    let a = rig.portal(0);
    let secret = |name: &str, text: &str| {
        let file = rig.scratch.file(name, text);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file.to_string_lossy().into_owned()
    };
    let (own, wrong) =
        (secret("own", "a secret of 21 bytes.\n"), secret("wrong", "a wrong secret!"));
    let theirs = secret("theirs", "another of 19 bytes\n");
    let done = mpio(&["discover", &a]);
    says(refused(&done, 1), &[&format!("portal {a}"), "CHAP", "--chap-user"]);
    let done = mpio(&["discover", &a, "--chap-user", "host1", "--chap-secret-file", &wrong]);
    says(refused(&done, 1), &[&format!("portal {a}"), "authentication"]);
    let flags = ["--chap-user", "host1", "--chap-secret-file", &own];
    let done = mpio(&[&["discover", &a], &flags[..]].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    says(&done.stdout, &[WWID]);
    let mutual = ["--mutual-user", "san", "--mutual-secret-file", &theirs];
    let done = mpio(&[&["discover", &a], &flags[..], &mutual].concat());
    assert_eq!(done.code, Some(0), "{done:?}");
    let liar = ["--mutual-user", "san", "--mutual-secret-file", &wrong];
    let done = mpio(&[&["discover", &a], &flags[..], &liar].concat());
    says(refused(&done, 1), &[&format!("portal {a}"), "mutual secret differs"]);
    let done = mpio(&["discover", &a, "--chap-user", "host1"]);
    says(refused(&done, 2), &["--chap-secret-file <FILE>"]);
}

/// A portal that accepts and says nothing, and one that closes at once.
#[test]
fn portals_that_are_no_targets() {
    let rig = Embedded::start("discover-mute");
    let [a, b] = [0, 1].map(|index| rig.portal(index));
    rig.pair.node(0).faults().set("mute", Rule::new(Fault::HalfOpen));
    rig.pair.node(1).faults().set("refuse", Rule::new(Fault::Refuse));
    let done = mpio(&["discover", &a, &b]);
    let text = refused(&done, 1);
    says(text, &[&format!("portal {a}: no login within 5"), &format!("portal {b}: ")]);
    says(text, &["connection reset by peer"]);
    assert_eq!(text.lines().count(), 2, "{text}");
}
