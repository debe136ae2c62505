//! The program as an administrator runs it, against the embedded pair: output, exit codes, the demo.
//!
//! What needs real targets is in `real_targets.rs`; single messages are tested beside the code that
//! words them.

use mpio_target::{PairConfig, TargetPair};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const TARGETS: [&str; 2] = ["iqn.2026-11.example.san:ha1", "iqn.2026-11.example.san:ha1partner"];

fn mpio() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mpio"));
    command.stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    mpio().args(words).output().expect("the program runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn pair() -> TargetPair {
    let mut config = PairConfig::default();
    for node in &mut config.nodes {
        node.lun = 1;
    }
    TargetPair::start(config).expect("loopback is there")
}

fn directory(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("mpio-cli-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    dir
}

/// Ends the process however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn attach(pair: &TargetPair, dir: &Path, more: &[&str]) -> Running {
    let portals = [0, 1].map(|node| format!("{}@127.0.0.1", pair.node(node).addr()));
    let export = format!("unix:{}", dir.join("x.sock").display());
    let child = mpio()
        .args(["attach", "--portal", &portals[0], "--portal", &portals[1]])
        .args(["--target", TARGETS[0], TARGETS[1], "--export", &export, "--trust-identity"])
        .arg("--control")
        .arg(dir.join("control.sock"))
        .args(more)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    Running(child)
}

#[test]
fn the_demo_cuts_heals_and_finds_every_byte_right() {
    let dir = directory("demo");
    let report = dir.join("demo.html");
    let output =
        run(&["demo", "--seconds", "8", "--report", report.to_str().expect("a path in UTF-8")]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}\n{}", stderr(&output));
    for words in [
        "CUT: a:ha1",
        "HEAL: packets to a:ha1",
        "CUT: the target of b:ha1partner",
        "0 wrong blocks, 0 errors",
    ] {
        assert!(text.contains(words), "{words:?} in\n{text}");
    }
    let html = std::fs::read_to_string(&report).expect("the report was written");
    assert!(html.contains("every byte was right") && html.contains("<svg"));
    std::fs::remove_dir_all(dir).expect("the directory is ours");
}

#[test]
fn discover_lists_targets_and_luns_and_names_portals_that_do_not_answer() {
    let pair = pair();
    let (a, b) = (pair.node(0).addr().to_string(), pair.node(1).addr().to_string());
    let output = run(&["discover", &a, &b, "--source", "127.0.0.1", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    for (index, name) in TARGETS.iter().enumerate() {
        let target = &found["portals"][index]["targets"][0];
        assert_eq!(target["name"], *name);
        assert_eq!(target["luns"][0]["lun"], 1);
        assert_eq!(target["luns"][0]["size_bytes"], 64 << 20);
        assert!(target["luns"][0]["wwid"].as_str().expect("a WWID").starts_with("naa."));
    }
    pair.node(1).kill();
    let output = run(&["discover", &a, &b]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains(TARGETS[0]), "the other portal is still listed");
    let expected = format!("mpio: discovery: portal {b}: connection refused: ");
    assert!(stderr(&output).starts_with(&expected), "{}", stderr(&output));
}

#[test]
fn attach_status_policy_path_and_a_clean_end() {
    let (pair, dir) = (pair(), directory("attach"));
    let mut running = attach(&pair, &dir, &["--lun", "1"]);
    let control = dir.join("control.sock");
    let control = control.to_str().expect("a path in UTF-8");
    let until = Instant::now() + Duration::from_secs(20);
    let status = loop {
        let output = run(&["status", "--json", "--control", control]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if status["devices"][0]["state"] == "ok" {
            break status;
        }
        assert!(Instant::now() < until, "not ok: {status}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let names = |i: usize| status["devices"][0]["paths"][i]["name"].clone();
    assert_eq!((names(0), names(1)), ("p1:ha1".into(), "p2:ha1partner".into()));
    assert_eq!(status["devices"][0]["paths"][0]["source"], "127.0.0.1");
    let ask = |words: &[&str]| {
        let output = run(&[words, &["--control", control]].concat());
        (output.status.code(), stdout(&output) + &stderr(&output))
    };
    assert_eq!(ask(&["policy", "disk0", "LQD"]), (Some(0), "disk0: least-queue-depth\n".into()));
    assert_eq!(ask(&["path", "disk0", "p1:ha1", "disable"]).0, Some(0));
    let (code, text) = ask(&["path", "disk0", "p2:ha1partner", "disable"]);
    assert!(code == Some(1) && text.contains("--force"), "{code:?} {text}");
    assert_eq!(ask(&["path", "disk0", "p3:ha1", "enable"]).0, Some(2));
    assert_eq!(ask(&["status", "disk1"]).0, Some(2));
    let pid = nix::unistd::Pid::from_raw(running.0.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is running");
    assert_eq!(running.0.wait().expect("it ends").code(), Some(0));
    assert!(!dir.join("x.sock").exists() && !Path::new(control).exists());
    assert_eq!(ask(&["status"]).0, Some(3));
    std::fs::remove_dir_all(dir).expect("the directory is ours");
}

#[test]
fn attach_gives_up_on_a_lun_that_does_not_exist_and_on_another_wwid() {
    let pair = pair();
    let cases: [(&[&str], &str); 2] = [
        (&["--lun", "7"], "the target has no LUN here"),
        (
            &["--lun", "1", "--wwid", "naa.6000000000000000000000000000beef"],
            "naa.6000000000000000000000000000beef",
        ),
    ];
    for (index, (flags, words)) in cases.into_iter().enumerate() {
        let dir = directory(&format!("hopeless-{index}"));
        let mut running = attach(&pair, &dir, flags);
        let mut text = String::new();
        running.0.stderr.take().expect("it is piped").read_to_string(&mut text).expect("text");
        assert_eq!(running.0.wait().expect("it ends").code(), Some(1), "{text}");
        let last = text.lines().last().expect("a message");
        assert!(last.starts_with("mpio: device disk0: ") && last.contains(words), "{last}");
        std::fs::remove_dir_all(dir).expect("the directory is ours");
    }
}

#[test]
fn config_check_and_its_exit_codes() {
    let dir = directory("config");
    let file = dir.join("m.toml");
    let text = "[initiator]\nname = \"iqn.2026-11.example:x\"\n[[portal]]\nname = \"a\"\naddress = \"127.0.0.1\"\n\
                [[device]]\nname = \"vm0\"\ntargets = [\"iqn.2026-11.example:t\"]\nlun = 1\nexport = \"tcp:127.0.0.1\"\n";
    let check = |text: &str| {
        std::fs::write(&file, text).expect("a file");
        run(&["config", "check", file.to_str().expect("a path in UTF-8")])
    };
    let good = check(text);
    assert_eq!(good.status.code(), Some(0), "{}", stderr(&good));
    assert!(stdout(&good).contains("memory: at most "), "{}", stdout(&good));
    let bad = check(&text.replace("lun = 1", "lnu = 1"));
    assert_eq!(bad.status.code(), Some(2));
    let expected = format!("mpio: {}:9: unknown key lnu in [[device]]; try: lun\n", file.display());
    assert!(stderr(&bad).contains(&expected), "{}", stderr(&bad));
    let wrong =
        check(&text.replace(
            "address = \"127.0.0.1\"",
            "address = \"127.0.0.1\"\nsource = \"203.0.113.5\"",
        ));
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("source 203.0.113.5 is not an address of this host"));
    std::fs::remove_dir_all(dir).expect("the directory is ours");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = mpio()
        .args(["--help"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let mut text = String::new();
    BufReader::new(child.stderr.take().expect("it is piped")).read_line(&mut text).expect("text");
    assert_eq!((child.wait().expect("it ends").code(), text.as_str()), (Some(0), ""));
}
