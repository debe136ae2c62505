//! `mpio config check`, and `mpio serve` with the same files: what is refused, where, and with which words.

use crate::harness::Scratch;
use crate::harness::daemon::mpio;
use crate::{refused, says};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A file that is right; the cases change one thing each. `@` stands for the directory of the test.
const GOOD: &str = "\
[initiator]
name = \"iqn.2026-11.test.check:mpio\"

[[portal]]
name = \"a\"
address = \"127.0.0.11\"
source = \"127.0.0.1\"

[[portal]]
name = \"b\"
address = \"127.0.0.12:3261\"

[[device]]
name = \"vm0\"
targets = [\"iqn.2026-11.example.san:ha1\", \"iqn.2026-11.example.san:ha1partner\"]
lun = 1
policy = \"round-robin\"
export = \"unix:@/vm0.sock\"
";

fn good(scratch: &Scratch) -> String {
    GOOD.replace('@', &scratch.path("").display().to_string())
}

#[test]
fn a_good_file_says_what_it_builds_and_what_it_takes() {
    let scratch = Scratch::new("check-good");
    let file = scratch.file("mpio.toml", good(&scratch));
    let done = mpio(&["config", "check", &file.to_string_lossy()]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    says(
        &done.stdout,
        &[
            &format!("{}: ok", file.display()),
            "initiator iqn.2026-11.test.check:mpio",
            "portal a: source 127.0.0.1 -> 127.0.0.11:3260",
            "portal b: any source -> 127.0.0.12:3261",
            "device vm0: round-robin -> unix:",
            "target iqn.2026-11.example.san:ha1partner LUN 1",
            "up to 4 paths",
            "memory: at most ",
            " MiB payload",
        ],
    );
    // Nothing was made: no socket, no lock of that name.
    assert!(!scratch.path("vm0.sock").exists());
}

#[test]
fn what_works_and_is_worth_a_word_is_a_warning() {
    let scratch = Scratch::new("check-warn");
    let text = good(&scratch).replace("unix:", "tcp:0.0.0.0:10809#").replace("#", "\" # ");
    let file = scratch.file("mpio.toml", text);
    let done = mpio(&["config", "check", &file.to_string_lossy()]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let place = format!("mpio: {}:13: warning: device vm0: tcp:0.0.0.0:10809", file.display());
    says(&done.stderr, &[&place, "without authentication or encryption"]);
}

/// One wrong file: what is replaced by what, the line that is named, and what must be said.
struct Case {
    from: &'static str,
    to: &'static str,
    line: usize,
    says: &'static [&'static str],
}

const fn case(
    from: &'static str,
    to: &'static str,
    line: usize,
    says: &'static [&'static str],
) -> Case {
    Case { from, to, line, says }
}

const CASES: &[Case] = &[
    case("lun = 1", "lun = = 1", 16, &["this is not TOML"]),
    case("[[device]]", "[[device]", 13, &["this is not TOML"]),
    case("policy =", "polcy =", 17, &["polcy", "policy"]),
    case("[[portal]]", "[[portla]]", 4, &["portla", "portal"]),
    case("source =", "srouce =", 7, &["srouce", "source"]),
    case("lun = 1", "lun = \"one\"", 16, &["lun", "number"]),
    case("lun = 1", "lun = 99999", 16, &["lun", "16383"]),
    case("lun = 1\n", "", 15, &["has no LUN", "lun = 1"]),
    case("round-robin", "round-robbin", 17, &["round-robbin", "round-robin"]),
    case("round-robin", "weighted-path", 17, &["is not a policy", "try: weighted-paths"]),
    case("127.0.0.12:3261", "127.0.0.12:99999", 11, &["99999", "not a TCP port"]),
    case("127.0.0.11", "fd00::1", 6, &["brackets", "[fd00::1]"]),
    case("source = \"127.0.0.1\"", "source = \"eth0\"", 7, &["eth0", "IP address"]),
    case("source = \"127.0.0.1\"", "source = \"203.0.113.7\"", 4, &["203.0.113.7", "`ip addr`"]),
    case("source = \"127.0.0.1\"", "source = \"::1\"", 7, &["one is IPv4, one IPv6"]),
    case("iqn.2026-11.test.check:mpio", "host1", 2, &["host1", "not an iSCSI name"]),
    case("[initiator]\n", "", 1, &["initiator"]),
    case("name = \"b\"", "name = \"a\"", 9, &["portal a is already defined in line 4"]),
    case("127.0.0.12:3261\"", "127.0.0.11\"\nsource = \"127.0.0.1\"", 9, &["the same way"]),
    case("export = \"unix:", "export = \"", 18, &["neither unix: nor tcp:"]),
    case("export = \"unix:", "export = \"unix:gone/", 18, &["not absolute"]),
    case("unix:", "unix:/no/such/place", 13, &["no directory /no/such/place", "mkdir -p"]),
    case("lun = 1", "lun = 1\nno_path_timeout = \"soon\"", 17, &["soon", "5s"]),
    case("lun = 1", "lun = 1\nno_path_timeout = 60", 17, &["60", "s"]),
    case("lun = 1", "lun = 1\nbuffer_memory = \"1MiB\"", 17, &["1 MiB", "out of range"]),
    case("lun = 1", "lun = 1\nlanes = 0", 17, &["lanes", "1"]),
    case("lun = 1", "lun = 1\nread_only = \"yes\"", 17, &["read_only", "true"]),
    case("lun = 1", "lun = 1\nwwid = \"6000\"", 17, &["6000", "naa."]),
    case("lun = 1", "lun = 1\nprefer = \"a:ha2\"", 13, &["a:ha2", "a:ha1"]),
    case("lun = 1", "lun = 1\nhedge_reads = 1", 17, &["hedge_reads", "true or false"]),
    case("lun = 1", "lun = 1\nsuspect_after = \"2s\"", 17, &["suspect_after", "1ms to 1s"]),
    case("lun = 1", "lun = 1\nlun = 2", 17, &["duplicate key", "`lun = 2`"]),
    case("ha1partner\"", "ha1\"", 15, &["is listed twice"]),
    case("targets = [", "targets = [] #", 13, &["the list is empty"]),
    case("lun = 1", "lun = 1\nchap = {}", 17, &["chap"]),
    case("name = \"b\"", "name = \"b\"\nchap = { user = \"u\" }", 11, &["secret_file"]),
    case(
        "name = \"b\"",
        "name = \"b\"\nchap = { user = \"u\", secret_file = \"/gone/secret\" }",
        11,
        &["/gone/secret cannot be read: no such file"],
    ),
];

#[test]
fn every_mistake_has_its_line_its_cause_and_its_remedy() {
    let scratch = Scratch::new("check-bad");
    for Case { from, to, line, says: parts } in CASES {
        let text = good(&scratch);
        assert!(text.contains(from), "{from} is not in the good file");
        let file = scratch.file("mpio.toml", text.replacen(from, to, 1));
        let done = mpio(&["config", "check", &file.to_string_lossy()]);
        eprintln!("{from} => {to}\n{}", done.stderr);
        let shown = refused(&done, 2);
        let place = format!("mpio: {}:{line}: ", file.display());
        assert!(shown.lines().any(|l| l.starts_with(&place)), "line {line}, in:\n{shown}");
        says(shown, parts);
        assert_eq!(done.stdout, "", "nothing is promised");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_order() {
    let scratch = Scratch::new("check-all");
    let text = good(&scratch)
        .replace("policy =", "polcy =")
        .replace("lun = 1", "lun = \"x\"")
        .replace("source =", "sorce =");
    let file = scratch.file("mpio.toml", text);
    let done = mpio(&["config", "check", &file.to_string_lossy()]);
    let shown = refused(&done, 2);
    let place = |line: usize| shown.find(&format!("mpio.toml:{line}: "));
    let places = [place(7), place(16), place(17)];
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{shown}");
}

#[test]
fn files_that_cannot_be_read() {
    let scratch = Scratch::new("check-file");
    let gone = scratch.path("gone.toml");
    let done = mpio(&["config", "check", &gone.to_string_lossy()]);
    says(refused(&done, 2), &[&gone.to_string_lossy(), "no such file or directory"]);
    let done = mpio(&["config", "check", "/"]);
    says(refused(&done, 2), &["is a directory"]);
    let noise = scratch.file("noise.toml", b"[initiator]\n\xff\xfe");
    let done = mpio(&["config", "check", &noise.to_string_lossy()]);
    says(refused(&done, 2), &["noise.toml:2: ", "UTF-8"]);
    let empty = scratch.file("empty.toml", "");
    let done = mpio(&["config", "check", &empty.to_string_lossy()]);
    says(refused(&done, 2), &["[initiator]"]);
}

/// A second device of the good file, changed by the caller.
fn second(scratch: &Scratch) -> String {
    let device = good(scratch);
    let device = &device[device.find("[[device]]").unwrap()..];
    device.replace("\"vm0\"", "\"vm1\"").replace("lun = 1", "lun = 2")
}

#[test]
fn two_devices_that_get_in_each_others_way() {
    let scratch = Scratch::new("check-two");
    let check = |more: &str| {
        let file = scratch.file("mpio.toml", good(&scratch) + more);
        // The daemon refuses what the check refuses, in the same words.
        let check = mpio(&["config", "check", &file.to_string_lossy()]);
        let control = scratch.path("control.sock");
        let config = file.to_string_lossy();
        let serve = mpio(&["serve", "--config", &config, "--control", &control.to_string_lossy()]);
        assert_eq!(refused(&serve, 2), refused(&check, 2));
        assert!(!control.exists() && !scratch.path("vm0.sock").exists(), "nothing was exported");
        check.stderr
    };
    let shown = check(&second(&scratch));
    says(&shown, &["mpio.toml:19: devices vm0 and vm1 have one export address, unix:", "; try: "]);
    let other = second(&scratch).replace("vm0.sock", "vm1.sock");
    says(&check(&other.replace("lun = 2", "lun = 1")), &["both write to LUN 1 of iqn."]);
    says(
        &check(&other.replace("\"vm1\"", "\"vm0\"")),
        &["device vm0 is already defined in line 13"],
    );
    // An address for all of this host is in the way of each of its addresses.
    let tcp = |text: &str, address: &str| {
        let start = text.find("unix:").unwrap();
        let end = start + text[start..].find('"').unwrap();
        format!("{}tcp:{address}{}", &text[..start], &text[end..])
    };
    let text = tcp(&good(&scratch), "127.0.0.1:10809") + &tcp(&other, "0.0.0.0:10809");
    let file = scratch.file("mpio.toml", text);
    let done = mpio(&["config", "check", &file.to_string_lossy()]);
    says(refused(&done, 2), &["one export address"]);
}

/// Secrets that others can read are refused before anything is exported; so are secrets that RFC 7143
/// section 9.2.1 forbids.
#[test]
fn secrets_that_are_none() {
    let scratch = Scratch::new("check-secret");
    let secret = |name: &str, content: &str, mode: u32| {
        let file = scratch.file(name, content);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let check = |chap: &str| {
        let text = good(&scratch).replace("name = \"b\"", &format!("name = \"b\"\nchap = {chap}"));
        let file = scratch.file("mpio.toml", text).to_string_lossy().into_owned();
        let check = mpio(&["config", "check", &file]);
        let control = scratch.path("control.sock").to_string_lossy().into_owned();
        if check.code == Some(2) {
            let serve = mpio(&["serve", "--config", &file, "--control", &control]);
            assert_eq!(refused(&serve, 2), check.stderr);
            let exists = |name: &str| scratch.path(name).exists();
            assert!(!Path::new(&control).exists() && !exists("vm0.sock"), "nothing was exported");
        }
        check
    };
    let one_way = "{ user = \"host1\", secret_file = \"secret\" }";
    secret("secret", "a secret of 21 bytes.\n", 0o600);
    says(&check(one_way).stdout, &["portal b: any source -> 127.0.0.12:3261, discovery, CHAP"]);
    for mode in [0o644, 0o604, 0o602] {
        secret("secret", "a secret of 21 bytes.\n", mode);
        let done = check(one_way);
        let text = refused(&done, 2);
        let mode = format!("(mode {mode:04o})");
        says(text, &["mpio.toml:11: ", "/secret can be read or written by others", &mode, "chmod"]);
        assert!(!text.contains("21 bytes"), "a secret never shows: {text}");
    }
    secret("secret", "short", 0o600);
    says(refused(&check(one_way), 2), &["shorter than 12", "allow_short_secret = true"]);
    secret("secret", "a secret of 21 bytes.", 0o600);
    let mutual = "{ user = \"host1\", secret_file = \"secret\", mutual_user = \"san\", \
                  mutual_secret_file = \"secret\" }";
    says(refused(&check(mutual), 2), &["the secret and the mutual secret are equal"]);
}
