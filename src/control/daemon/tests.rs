//! The daemon's life over its real sockets.

use super::*;
use crate::api::{Answer, Command, DeviceState, Outcome, PathAction, PathState, Request};
use crate::control::config::{Address, Device, Export, Portal, Target};
use crate::path::AVAILABLE;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

fn config(dir: &Path, targets: &[&str]) -> Config {
    let target = |name: &&str| Target { name: (*name).to_owned(), lun: 1, line: 0 };
    let export = Export::Unix(dir.join("vm0.sock"));
    // Nobody listens on the discard port: the lane may try, nothing will come of it.
    let mut portal = Portal::new("a", Address { host: "127.0.0.1".into(), port: 9 }, None);
    portal.discovery = false;
    let mut device = Device::new("vm0", targets.iter().map(target).collect(), export);
    device.tunables.shutdown_timeout = Duration::from_secs(1);
    Config {
        file: None,
        initiator_name: "iqn.2026-11.example:daemon-test".into(),
        portals: vec![portal],
        devices: vec![device],
    }
}

/// Runs a daemon while `client` talks to it, then stops it; gives the daemon's result.
fn with_daemon(
    name: &str,
    change: impl FnOnce(&mut Options),
    client: impl FnOnce(&Path) + Send + 'static,
) -> Result<(), DaemonError> {
    let dir = std::env::temp_dir().join(format!("mpio-daemon-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let control = dir.join("control.sock");
    let stop = Arc::new(Notify::new());
    let mut options = Options {
        config: config(&dir, &["iqn.2026-11.example:ha1", "iqn.2026-11.example:ha2"]),
        control: Control::At(control.clone()),
        isids: Isids::Random,
        must_start: false,
        signals: false,
        stop: stop.clone(),
        memory_locked: false,
    };
    change(&mut options);
    let there = control.clone();
    let client = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(5);
        while !there.exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client(&there)));
        stop.notify_one();
        result
    });
    let result = run(options);
    client.join().unwrap().unwrap();
    assert!(!control.exists() && !dir.join("vm0.sock").exists(), "sockets are removed");
    std::fs::remove_dir_all(dir).unwrap();
    result
}

fn ask(control: &Path, command: Command) -> Outcome {
    let mut stream = UnixStream::connect(control).unwrap();
    let mut line = serde_json::to_vec(&Request::new(command)).unwrap();
    line.push(b'\n');
    stream.write_all(&line).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    serde_json::from_str::<Answer>(&answer).unwrap().result
}

/// The text of a refusal.
fn refusal(control: &Path, command: Command) -> String {
    match ask(control, command) {
        Outcome::Error(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn status(control: &Path) -> crate::api::DeviceStatus {
    for _ in 0..100 {
        let Outcome::Status(mut status) = ask(control, Command::Status { device: None }) else {
            panic!("a status")
        };
        if !status.devices[0].paths.is_empty() {
            return status.devices.remove(0);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no paths");
}

#[test]
fn a_static_portal_gives_paths_and_commands_reach_the_lane() {
    let result = with_daemon(
        "life",
        |_| (),
        |control| {
            let device = status(control);
            let names: Vec<&str> = device.paths.iter().map(|path| path.name.as_str()).collect();
            assert_eq!(names, ["a:ha1", "a:ha2"]);
            assert!(device.export.ends_with("/vm0.sock") && device.export.starts_with("unix:/"));
            assert_ne!(device.state, DeviceState::Ok);
            assert_ne!(device.paths[0].state, PathState::Active);
            let policy = |policy: &str, prefer: Option<&str>| Command::Policy {
                device: "vm0".into(),
                policy: Some(policy.into()),
                weights: Default::default(),
                prefer: prefer.map(str::to_owned),
            };
            let Outcome::Policy(status) = ask(control, policy("LQD", None)) else {
                panic!("a policy")
            };
            assert_eq!(status.policy, "least-queue-depth");
            assert_eq!(
                refusal(control, policy("LQX", None)),
                format!("policy LQX: \"LQX\" is not a policy; try: {AVAILABLE}")
            );
            let weigh = |weight| Command::Policy {
                device: "vm0".into(),
                policy: Some("WP".into()),
                weights: [("a:ha1".to_owned(), weight)].into(),
                prefer: None,
            };
            let Outcome::Policy(status) = ask(control, weigh(0)) else { panic!("a policy") };
            assert_eq!((status.policy.as_str(), status.weights["a:ha1"]), ("weighted-paths", 0));
            assert_eq!(
                refusal(control, weigh(101)),
                "weight of a:ha1: 101 is out of range; try: a whole number from 0 to 100"
            );
            assert_eq!(
                refusal(control, policy("RR", Some("a:ha3"))),
                "path a:ha3: device vm0 has no such path; try: a:ha1"
            );
            assert_eq!(
                refusal(control, Command::Status { device: Some("vm1".into()) }),
                "device vm1: there is no such device; try: vm0"
            );
            let recheck = Command::Path {
                device: "vm0".into(),
                path: "a:ha1".into(),
                action: PathAction::Recheck,
                force: false,
            };
            assert_eq!(ask(control, recheck), Outcome::Done {});
        },
    );
    result.unwrap();
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused() {
    let result = with_daemon(
        "twice",
        |_| (),
        |control| {
            status(control);
            let mut config = config(Path::new("/tmp"), &["iqn.2026-11.example:ha1"]);
            config.devices[0].export = Export::Tcp("127.0.0.1:0".parse().unwrap());
            let second = run(Options {
                config,
                control: Control::At(control.to_owned()),
                isids: Isids::Random,
                must_start: false,
                signals: false,
                stop: Arc::new(Notify::new()),
                memory_locked: false,
            });
            assert_eq!(
                second.unwrap_err().to_string(),
                format!(
                    "control socket: another process listens on {}; try: stop that process, or another path",
                    control.display()
                )
            );
        },
    );
    result.unwrap();
}

#[test]
fn a_portal_that_refuses_is_an_event_and_does_not_stop_the_daemon() {
    let discover = |options: &mut Options| options.config.portals[0].discovery = true;
    let result = with_daemon("down", discover, |control| {
        for _ in 0..100 {
            let Outcome::Status(status) =
                ask(control, Command::Status { device: Some("vm0".into()) })
            else {
                panic!("a status")
            };
            if let Some(event) = status.devices[0].events.first() {
                assert_eq!((event.path.as_str(), event.what.as_str()), ("a", "portal-down"));
                assert!(
                    event.why.contains("portal 127.0.0.1:9: connection refused"),
                    "{}",
                    event.why
                );
                assert_eq!(status.devices[0].state, DeviceState::Down);
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no event");
    });
    result.unwrap();
}

#[test]
fn attach_gives_up_when_no_portal_answers() {
    let change = |options: &mut Options| {
        options.config.portals[0].discovery = true;
        options.must_start = true;
    };
    let error = with_daemon("hopeless", change, |control| {
        while control.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let error = error.unwrap_err().to_string();
    assert_eq!(
        error,
        "device vm0: discovery: portal 127.0.0.1:9: connection refused: the host answers, no target \
         listens there; try: start the target, or check the port"
    );
}
