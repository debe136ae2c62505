//! Every error of a configuration, with its exact message.

use super::*;
use crate::base::Duration;
use crate::volume::spec::{Failback, FenceMode};
use std::os::unix::fs::PermissionsExt;

const GOOD: &str = r#"[initiator]
name = "iqn.2026-11.example.host1:mpio"

[[portal]]
name = "a"
address = "10.10.1.10"
source = "10.10.1.1"

[[portal]]
name = "b"
address = "10.10.2.10"
source = "10.10.2.1"

[[device]]
name = "vm0"
targets = ["iqn.2026-11.example.san:ha1", "iqn.2026-11.example.san:ha1partner/0"]
lun = 1
export = "unix:/run/mpio/vm0.sock"
"#;

fn parse(text: &str) -> Result<(Config, Vec<Warning>), Vec<ConfigError>> {
    build::parse("m.toml", text, Path::new("/nonexistent"))
}

fn errors(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// `GOOD` with `from` replaced; it must be there.
fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

/// `GOOD` with a line added to its device (line 18).
fn device(line: &str) -> String {
    format!("{GOOD}{line}\n")
}

/// `GOOD` with a line added to portal b (line 13).
fn portal(line: &str) -> String {
    with("source = \"10.10.2.1\"\n", &format!("source = \"10.10.2.1\"\n{line}\n"))
}

#[test]
fn the_smallest_file() {
    let (config, warnings) = parse(GOOD).map_err(|e| e[0].to_string()).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.initiator_name, "iqn.2026-11.example.host1:mpio");
    assert_eq!(config.portals[1].address.to_string(), "10.10.2.10:3260");
    assert!(config.portals[0].discovery);
    let device = &config.devices[0];
    assert_eq!((device.targets[0].lun, device.targets[1].lun), (1, 0));
    assert_eq!(device.policy, Policy::RoundRobin);
    assert_eq!(device.tunables, Tunables::default());
    assert_eq!((device.lanes, device.buffer_memory, device.socket_mode), (1, 64 << 20, 0o600));
    assert_eq!((device.line, config.portals[1].line), (14, 9));
}

#[test]
fn every_key_is_read() {
    let text = device(
        r#"policy = "LQD"
wwid = "naa.60003ff44dc75adc"
prefer = "a:ha1"
weights = { "a:ha1" = 3, "b:ha1partner" = 0 }
failback = "30s"
fence = "overlap"
fence_timeout = "never"
shared = true
fence_reset = true
path_timeout = "500ms"
last_path_timeout = "5s"
command_timeout = "1s"
last_path_command_timeout = "1m"
nop_interval = "250ms"
no_path_timeout = 0
shutdown_timeout = "3s"
trust_identity = true
lanes = 2
queue_depth = 32
buffer_memory = "128MiB"
read_only = true
socket_mode = "0660""#,
    );
    let text = text.replacen(
        "source = \"10.10.2.1\"\n",
        "interface = \"eth2\"\nheader_digest = \"crc32c\"\ndata_digest = \"prefer-crc32c\"\n\
         redirect_allow = [\"10.10.2.11\"]\ndiscovery = false\ntargets = [\"iqn.2026-11.example.san:ha1\"]\n",
        1,
    );
    let (config, _) = parse(&text).map_err(|e| e[0].to_string()).unwrap();
    let d = &config.devices[0];
    let t = &d.tunables;
    assert_eq!(d.policy, Policy::LeastQueueDepth);
    assert_eq!(d.weights, [("a:ha1".to_owned(), 3), ("b:ha1partner".to_owned(), 0)]);
    assert_eq!(t.failback, Failback::After(Duration::from_secs(30)));
    assert_eq!((t.fence, t.fence_timeout), (FenceMode::Overlap, Duration::MAX));
    assert!(t.shared && t.fence_reset && t.trust_identity && d.read_only);
    assert_eq!(t.no_path_timeout, Duration::ZERO);
    assert_eq!(t.last_path_command_timeout, Duration::from_secs(60));
    assert_eq!((d.lanes, t.queue_depth, d.buffer_memory, d.socket_mode), (2, 32, 128 << 20, 0o660));
    let p = &config.portals[1];
    assert_eq!(p.interface.as_deref(), Some("eth2"));
    assert_eq!((p.header_digest, p.data_digest), (Digest::Crc32c, Digest::PreferCrc32c));
    assert_eq!(p.redirect_allow[0].to_string(), "10.10.2.11:3260");
    assert!(!p.discovery && p.targets.len() == 1);
}

#[test]
fn what_is_not_toml() {
    let found = errors("[initiator]\nname = \n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("m.toml:2: this is not TOML: "), "{}", found[0]);
    let twice = with("lun = 1\n", "lun = 1\nlun = 2\n");
    assert!(errors(&twice)[0].starts_with("m.toml:18: this is not TOML: "), "{:?}", errors(&twice));
}

#[test]
fn unknown_keys_have_a_suggestion() {
    let cases = [
        (device("polcy = \"RR\""), "m.toml:19: unknown key polcy in [[device]]; try: policy"),
        (
            device("path-timeout = \"1s\""),
            "m.toml:19: unknown key path-timeout in [[device]]; try: path_timeout",
        ),
        (portal("adress = \"x\""), "m.toml:13: unknown key adress in [[portal]]; try: address"),
        (
            format!("colour = 1\n{GOOD}"),
            "m.toml:1: unknown key colour in the file; try: one of initiator, portal, device",
        ),
        (
            with("[[portal]]", "[[portals]]"),
            "m.toml:4: unknown key portals in the file; try: portal",
        ),
        (
            with("[initiator]\n", "[initiator]\nalias = \"x\"\n"),
            "m.toml:2: unknown key alias in initiator; try: one of name",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(&text), [expected]);
    }
}

#[test]
fn keys_of_later_versions_say_so() {
    let cases = [
        (
            format!("[tls]\n{GOOD}"),
            "m.toml:1: tls is not available in this version of mpio; try: leave it out",
        ),
        (
            device("[metrics]\nlisten = \"x\""),
            "m.toml:19: metrics is not available in this version of mpio; try: leave it out",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(&text), [expected]);
    }
}

#[test]
fn what_is_missing() {
    assert_eq!(
        errors(""),
        [
            "m.toml: there is no [initiator]; try: [initiator] with name = \"iqn.2026-11.example.host1:mpio\""
        ]
    );
    let cases = [
        (
            with("name = \"iqn.2026-11.example.host1:mpio\"\n", ""),
            "m.toml:1: initiator has no name; try: name = \"iqn.2026-11.example.host1:mpio\"",
        ),
        (with("name = \"b\"\n", ""), "m.toml:9: [[portal]] has no name; try: name = \"a\""),
        (
            with("address = \"10.10.2.10\"\n", ""),
            "m.toml:9: [[portal]] has no address; try: address = \"10.10.1.10\"",
        ),
        (with("name = \"vm0\"\n", ""), "m.toml:14: [[device]] has no name; try: name = \"vm0\""),
        (
            with("export = \"unix:/run/mpio/vm0.sock\"\n", ""),
            "m.toml:14: [[device]] has no export; try: export = \"unix:/run/mpio/vm0.sock\"",
        ),
        (
            with("lun = 1\n", ""),
            "m.toml:16: target iqn.2026-11.example.san:ha1 has no LUN; try: lun = 1 for the device",
        ),
        (
            GOOD[..GOOD.find("[[device]]").unwrap()].to_owned(),
            "m.toml: there is no [[device]]; try: a table [[device]] that starts with name = \"vm0\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(&text), [expected]);
    }
    let empty = errors(&with(
        "targets = [\"iqn.2026-11.example.san:ha1\", \"iqn.2026-11.example.san:ha1partner/0\"]",
        "targets = []",
    ));
    assert!(empty[0].starts_with("m.toml:14: targets: the list is empty"), "{empty:?}");
}

#[test]
fn values_of_the_wrong_type() {
    let cases = [
        (
            with("lun = 1", "lun = \"1\""),
            "m.toml:17: lun: \"1\" is a string; try: a whole number from 0 to 16383",
        ),
        (
            with("lun = 1", "lun = 16384"),
            "m.toml:17: lun: 16384 is out of range; try: a whole number from 0 to 16383",
        ),
        (
            with("lun = 1", "lun = -1"),
            "m.toml:17: lun: -1 is out of range; try: a whole number from 0 to 16383",
        ),
        (
            with("lun = 1", "lun = 1.5"),
            "m.toml:17: lun: 1.5 is a number with a fraction; try: a whole number from 0 to 16383",
        ),
        (
            device("read_only = \"yes\""),
            "m.toml:19: read_only: \"yes\" is a string; try: true or false",
        ),
        (
            device("policy = \"least-byte\""),
            "m.toml:19: policy: \"least-byte\" is not a policy; try: least-bytes",
        ),
        (device("policy = 3"), "m.toml:19: policy: 3 is a number; try: a string in quotes"),
        (
            device("path_timeout = true"),
            "m.toml:19: path_timeout: true is a boolean; try: a duration in quotes, such as \"5s\"",
        ),
        (
            device("path_timeout = 5"),
            "m.toml:19: path_timeout: the duration \"5\" has no unit; try: a duration such as 250ms, 5s, 2m or never",
        ),
        (
            device("weights = \"a\""),
            "m.toml:19: weights: \"a\" is a string; try: a table in braces",
        ),
        (
            device("weights = { \"a:ha1\" = 101 }"),
            "m.toml:19: weights: 101 is out of range; try: a whole number from 0 to 100",
        ),
        (portal("chap = 1"), "m.toml:13: chap: 1 is a number; try: a table in braces"),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(&text), [expected]);
    }
}

#[test]
fn values_out_of_range() {
    let cases = [
        (
            device("path_timeout = \"5ms\""),
            "m.toml:19: path_timeout: 5ms is out of range; try: 10ms to 1h",
        ),
        (device("nop_interval = 0"), "m.toml:19: nop_interval: 0 is out of range; try: 10ms to 1m"),
        (
            device("path_timeout = \"5s\"\nlast_path_timeout = \"2s\""),
            "m.toml:20: last_path_timeout: 2s is shorter than path_timeout (5s); try: 5s or more",
        ),
        (
            device("last_path_command_timeout = \"1s\""),
            "m.toml:19: last_path_command_timeout: 1s is shorter than command_timeout (2s); try: 2s or more",
        ),
        (
            device("buffer_memory = \"1MiB\""),
            "m.toml:19: buffer_memory: 1 MiB is out of range; try: 33 MiB to 64 GiB",
        ),
        (
            device("buffer_memory = \"64MB\""),
            "m.toml:19: buffer_memory: \"MB\" is not a unit of size; try: a size such as 512KiB, 64MiB or 1GiB",
        ),
        (
            device("lanes = 0"),
            "m.toml:19: lanes: 0 is out of range; try: a whole number from 1 to 64",
        ),
        (device("queue_depth = 513"), "m.toml:19: queue_depth: 513 is out of range; try: 1 to 512"),
        (
            device("socket_mode = \"0999\""),
            "m.toml:19: socket_mode: \"0999\" is not a file mode; try: 0600, 0660 or 0666",
        ),
        (
            device("failback = \"imediate\""),
            "m.toml:19: failback: \"imediate\" is not a way to fail back; try: immediate",
        ),
        (
            device("fence = \"maybe\""),
            "m.toml:19: fence: \"maybe\" is not a mode of write ownership; try: overlap, strict, off",
        ),
        (
            portal("data_digest = \"md5\""),
            "m.toml:13: data_digest: \"md5\" is not a digest; try: none, crc32c or prefer-crc32c",
        ),
        (
            portal("interface = \"a/b\""),
            "m.toml:13: interface: \"a/b\" is not the name of an interface; try: eth2 (see `ip link`)",
        ),
        (
            portal("redirect_allow = [\"san.example\"]"),
            "m.toml:13: redirect_allow: \"san.example\" is a host name; try: an IP address: a redirect is not looked up",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(&text), [expected]);
    }
    let (config, _) =
        parse(&device("path_timeout = \"20s\"")).map_err(|e| e[0].to_string()).unwrap();
    assert_eq!(config.devices[0].tunables.last_path_timeout, Duration::from_secs(20));
}

#[test]
fn names_and_addresses() {
    let cases = [
        (
            with("iqn.2026-11.example.host1:mpio", "host1"),
            "m.toml:2: name: \"host1\" is not an iSCSI name; try: iqn.2026-11.example.san:ha1",
        ),
        (
            with("iqn.2026-11.example.host1:mpio", "iqn.2026-11.example.Host1:mpio"),
            "m.toml:2: name: \"iqn.2026-11.example.Host1:mpio\" has upper-case letters (RFC 3722); try: iqn.2026-11.example.host1:mpio",
        ),
        (
            with("\"10.10.2.10\"", "\"10.10.2\""),
            "m.toml:11: address: \"10.10.2\" is not an IPv4 address; try: 10.10.1.10, 10.10.1.10:3260 or [fd00::10]:3260",
        ),
        (
            with("\"10.10.2.10\"", "\"fd00::10\""),
            "m.toml:11: address: the IPv6 address \"fd00::10\" has no brackets; try: [fd00::10] or [fd00::10]:3260",
        ),
        (
            with("\"10.10.2.1\"", "\"eth0\""),
            "m.toml:12: source: \"eth0\" is not an IP address; try: an IP address of this host, such as 10.10.1.1 (see `ip addr`)",
        ),
        (
            with("\"10.10.2.1\"", "\"fd00::1\""),
            "m.toml:12: source: fd00::1 cannot reach 10.10.2.10: one is IPv4, one IPv6; try: a source of the family of 10.10.2.10",
        ),
        (
            with("unix:/run/mpio/vm0.sock", "/run/vm0"),
            "m.toml:18: export: \"/run/vm0\" is neither unix: nor tcp:; try: unix:/run/mpio/vm0.sock or tcp:127.0.0.1:10809",
        ),
        (
            with("\"vm0\"", "\"vm 0\""),
            "m.toml:15: name: \"vm 0\" is not a name; try: 1 to 64 of a-z, A-Z, 0-9, '.', '-', '_'",
        ),
        (
            with("ha1partner/0", "ha1partner/x"),
            "m.toml:16: targets: \"x\" is not a LUN; try: iqn.2026-11.example.san:ha1partner/1",
        ),
        (
            device("wwid = \"6000\""),
            "m.toml:19: wwid: \"6000\" is not a WWID; try: naa.6000…, as `mpio discover` shows it (naa., eui., t10. or name.)",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(&text), [expected]);
    }
}

#[test]
fn relations_between_tables() {
    let second = |name: &str, target: &str, export: &str, more: &str| {
        device(&format!(
            "\n[[device]]\nname = \"{name}\"\ntargets = [\"iqn.2026-11.example.san:{target}\"]\nlun = 1\nexport = \"{export}\"\n{more}"
        ))
    };
    let cases = [
        (
            second("vm0", "x", "unix:/run/x", ""),
            "m.toml:20: device vm0 is already defined in line 14; try: another name",
        ),
        (
            second("vm1", "x", "unix:/run//mpio/vm0.sock", ""),
            "m.toml:20: devices vm0 and vm1 have one export address, unix:/run/mpio/vm0.sock; try: an export address of its own",
        ),
        (
            second("vm1", "ha1", "unix:/run/x", ""),
            "m.toml:22: devices vm0 and vm1 both write to LUN 1 of iqn.2026-11.example.san:ha1; try: one device, or shared = true for both",
        ),
        (
            with("name = \"b\"", "name = \"a\""),
            "m.toml:9: portal a is already defined in line 4; try: another name",
        ),
        (
            with("10.10.2.10\"\nsource = \"10.10.2.1", "10.10.1.10:3260\"\nsource = \"10.10.1.1"),
            "m.toml:9: portal b is the same way as portal a in line 4; try: another address, source or interface",
        ),
        (
            device("prefer = \"a:ha2\""),
            "m.toml:14: prefer: device vm0 can have no path a:ha2; try: a:ha1",
        ),
        (
            device("weights = { \"c\" = 1 }"),
            "m.toml:14: weights: device vm0 can have no path c; try: one of a:ha1, a:ha1partner, b:ha1, b:ha1partner",
        ),
        (
            with("ha1partner/0", "ha1"),
            "m.toml:16: target iqn.2026-11.example.san:ha1 is listed twice; try: each target once: a device is one LUN",
        ),
        (
            portal("targets = [\"iqn.2026-11.example.san:ha1\"]"),
            "m.toml:9: targets: a portal that is asked for its targets needs no list; try: discovery = false with it, or leave it out",
        ),
        (
            GOOD.replace(
                "address = ",
                "discovery = false\ntargets = [\"iqn.2026-11.example.san:ha1\"]\naddress = ",
            ),
            "m.toml:20: target iqn.2026-11.example.san:ha1partner stands at no portal; try: its name in the targets of a portal, or a portal with discovery",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(&text), [expected]);
    }
    assert_eq!(errors(&second("vm1", "x", "tcp:127.0.0.1:1", "")), [""; 0]);
    let (config, _) = parse(&device("prefer = \"a:ha1#2\"")).map_err(|e| e[0].to_string()).unwrap();
    assert_eq!(config.devices[0].prefer.as_deref(), Some("a:ha1#2"));
}

#[test]
fn every_error_is_told_in_order() {
    let text = with("lun = 1", "lun = \"1\"").replacen("\"10.10.1.10\"", "7", 1);
    assert_eq!(
        errors(&format!("{text}polcy = \"RR\"\n")),
        [
            "m.toml:6: address: 7 is a number; try: a string in quotes",
            "m.toml:17: lun: \"1\" is a string; try: a whole number from 0 to 16383",
            "m.toml:19: unknown key polcy in [[device]]; try: policy",
        ]
    );
}

#[test]
fn warnings() {
    let texts = |text: &str| -> Vec<String> {
        parse(text).map_err(|e| e[0].to_string()).unwrap().1.into_iter().map(|w| w.text).collect()
    };
    assert_eq!(
        texts(&with("unix:/run/mpio/vm0.sock", "tcp:0.0.0.0:10809")),
        [
            "device vm0: tcp:0.0.0.0:10809 can be reached from other hosts, without authentication or encryption"
        ]
    );
    assert_eq!(
        texts(&device("socket_mode = \"0666\"")),
        ["device vm0: every user of this host may connect (socket_mode 0666)"]
    );
    assert_eq!(texts(&with("unix:/run/mpio/vm0.sock", "tcp:127.0.0.1:10809")), [""; 0]);
}

fn secret_dir() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("mpio-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for (name, text, mode) in [
        ("a", "initiator secret\n", 0o600),
        ("b", "target secret 12\n", 0o600),
        ("short", "short\n", 0o600),
        ("open", "initiator secret\n", 0o644),
    ] {
        let path = dir.join(name);
        if !path.exists() {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    dir
}

#[test]
fn chap() {
    let dir = secret_dir();
    let found = |line: &str| match build::parse("m.toml", &portal(line), &dir) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
    };
    let shown = dir.display();
    let cases = [
        ("chap = { secret_file = \"a\" }", "m.toml:13: chap has no user; try: user = \"host1\"".to_owned()),
        ("chap = { user = \"h\" }", "m.toml:13: chap has no secret_file; try: secret_file = \"/etc/mpio/a.secret\"".to_owned()),
        (
            "chap = { user = \"h\", secret_file = \"a\", mutual_user = \"t\" }",
            "m.toml:13: chap has no mutual_secret_file; try: mutual_secret_file = \"/etc/mpio/a.mutual\"".to_owned(),
        ),
        (
            "chap = { user = \"h\", secret_file = \"a\", mutual_user = \"t\", mutual_secret_file = \"a\" }",
            "m.toml:13: chap: the secret and the mutual secret are equal (RFC 7143 9.2.1 forbids it); try: another secret for the target".to_owned(),
        ),
        (
            "chap = { user = \"h\", secret_file = \"short\" }",
            "m.toml:13: chap: a secret of 5 bytes is shorter than 12 (RFC 7143 9.2.1); try: a longer secret on both sides, or allow_short_secret = true".to_owned(),
        ),
        (
            "chap = { user = \"h\", secret_file = \"open\" }",
            format!("m.toml:13: secret_file: {shown}/open can be read or written by others (mode 0644); try: chmod 0600 {shown}/open"),
        ),
        (
            "chap = { user = \"h\", secret_file = \"gone\" }",
            format!("m.toml:13: secret_file: {shown}/gone cannot be read: no such file or directory; try: a file that this user can read"),
        ),
        ("chap = { user = \"h\", secret = \"x\", secret_file = \"a\" }", "m.toml:13: unknown key secret in chap; try: one of user, secret_file, mutual_user, mutual_secret_file, allow_short_secret".to_owned()),
        (
            "chap = { user = \"h\", secret_file = \"a\" }\ndiscovery_chap = { user = \"h\", secret_file = \"b\", mutual_user = \"t\", mutual_secret_file = \"a\" }",
            "m.toml:9: chap: the secret of portal b is the mutual secret of portal b (RFC 7143 9.2.1 forbids it); try: another secret for the target".to_owned(),
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(found(line), [expected]);
    }
    let line = "chap = { user = \"h\", secret_file = \"a\", mutual_user = \"t\", mutual_secret_file = \"b\" }";
    let (config, _) =
        build::parse("m.toml", &portal(line), &dir).map_err(|e| e[0].to_string()).unwrap();
    let chap = config.portals[1].chap.as_ref().unwrap();
    assert_eq!(**chap.secret, *b"initiator secret");
    assert_eq!(**chap.mutual.as_ref().unwrap().1, *b"target secret 12");
    assert!(config.portals[1].discovery_chap.is_some());
    assert_eq!(
        found("chap = { user = \"h\", secret_file = \"short\", allow_short_secret = true }"),
        [""; 0]
    );
}

#[test]
fn what_depends_on_this_host() {
    let text = with("10.10.1.10\"\nsource = \"10.10.1.1", "127.0.0.1\"\nsource = \"127.0.0.2")
        .replace("10.10.2.1\"", "203.0.113.77\"")
        .replace("/run/mpio/vm0.sock", "/nonexistent/deeper/vm0.sock");
    let (mut config, _) = parse(&text).map_err(|e| e[0].to_string()).unwrap();
    config.file = Some("m.toml".into());
    let found: Vec<String> = check::host(&config).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "m.toml:9: portal b: source 203.0.113.77 is not an address of this host; try: an address from `ip addr`",
            "m.toml:14: device vm0: there is no directory /nonexistent/deeper; try: mkdir -p /nonexistent/deeper",
        ]
    );
    config.portals[0].interface = Some("nosuch0".into());
    assert!(check::host(&config)[0].problem.contains("this host has no interface nosuch0"));
}

#[test]
fn what_it_would_build() {
    let (config, _) = parse(GOOD).map_err(|e| e[0].to_string()).unwrap();
    let memory = check::memory(&config);
    assert_eq!(memory.payload, 64 << 20);
    assert!(memory.total() - memory.payload <= 32 << 20, "{memory:?}");
    let text = check::describe(&config);
    for line in [
        "initiator iqn.2026-11.example.host1:mpio\n",
        "portal a: source 10.10.1.1 -> 10.10.1.10:3260, discovery, no CHAP\n",
        "device vm0: round-robin -> unix:/run/mpio/vm0.sock, 1 lane of 64 MiB\n",
        "  target iqn.2026-11.example.san:ha1partner LUN 0\n",
        "  a silent path fails after 1s (the last one after 10s), then commands wait 1m for a path\n",
        "  up to 4 paths\n",
        "memory: at most ",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
}

#[test]
fn an_unreadable_file() {
    let gone = load(Path::new("/nonexistent/m.toml")).map(|_| ()).unwrap_err();
    assert_eq!(
        gone[0].to_string(),
        "/nonexistent/m.toml: the configuration cannot be read: no such file or directory; try: the path of a file that this user can read"
    );
}
