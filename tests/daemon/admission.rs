//! Who may run beside whom, and who may ask what: one daemon per initiator name, one user per control socket.

use crate::harness::daemon::{Daemon, MPIO};
use crate::harness::embedded::{Embedded, initiator_name};
use crate::harness::process::finish;
use crate::harness::{Scratch, free_port};
use crate::{open, says};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;

/// ISIDs are derived from the configuration: a second daemon of the same name would take the first one's sessions.
#[test]
fn a_second_daemon_of_the_same_name_is_refused_and_told_whose_it_is() {
    let rig = Embedded::start("twice");
    let mut first = rig.daemon("");
    let other = Scratch::new("twice-other");
    let config = rig.config(&format!("export = \"unix:{}\"", other.path("vm0.sock").display()));
    let file = other.file("mpio.toml", &config);
    let control = other.path("control.sock");
    let runtime = format!("XDG_RUNTIME_DIR={}", rig.scratch.path("runtime").display());
    let (file, socket) = (file.to_string_lossy(), control.to_string_lossy());
    let serve = [&runtime, MPIO, "serve", "--config", &file, "--control", &socket];
    let done = finish(None, "env", &serve);
    assert_eq!(done.code, Some(1), "{done:?}");
    let pid = format!("pid {}", first.pid());
    says(&done.stderr, &["mpio: initiator name ", &rig.initiator, "in use", &pid, "; try: "]);
    assert!(!control.exists() && !other.path("vm0.sock").exists());
    // Another name is another initiator: both run.
    let config = config.replace(&rig.initiator, &initiator_name());
    let second = Daemon::start(&other, None, &config);
    drop(open(&second));
    second.stop();
    // The first one has noticed nothing of either.
    first.assert_running();
    let status = first.status();
    assert_eq!((&status["devices"][0]["state"]), "ok");
    assert!(status["devices"][0]["paths"].as_array().unwrap().iter().all(|p| p["failures"] == 0));
    // A third one of another name on the same sockets is refused before it disturbs anything.
    let third = rig.config("").replace(&rig.initiator, &initiator_name());
    let file = other.file("third.toml", &third);
    let file = file.to_string_lossy();
    for control in [first.control().to_path_buf(), other.path("third.sock")] {
        let words = ["serve", "--config", &file, "--control", &control.to_string_lossy()];
        let done = crate::harness::daemon::mpio(&words);
        assert_eq!(done.code, Some(1), "{done:?}");
        says(&done.stderr, &["another process listens on", "; try: "]);
    }
    drop(open(&first));
    first.stop();
}

/// The control socket belongs to the daemon's user: by its mode, and, should that be widened, by a look at who asks.
#[test]
fn another_user_may_not_command_the_daemon() {
    let rig = Embedded::start("other-user");
    let daemon = rig.daemon("");
    for socket in [daemon.control(), daemon.export()] {
        let mode = std::fs::metadata(socket).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", socket.display());
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT CHECKED: becoming another user takes root");
        return daemon.stop();
    }
    // A copy that everybody may run, wherever the build directory is.
    let program = rig.scratch.path("mpio");
    std::fs::copy(MPIO, &program).unwrap();
    let (program, control) = (program.to_string_lossy(), daemon.control().to_string_lossy());
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", &program];
    let status = ["status", "--control", &control];
    let done = finish(None, "setpriv", &[&nobody[..], &status].concat());
    assert_eq!((done.code, done.stdout.as_str()), (Some(3), ""), "{done:?}");
    says(&done.stderr, &["mpio: no daemon: ", "it belongs to another user", "; try: "]);
    std::fs::set_permissions(daemon.control(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let disable = ["path", "vm0", "a:ha1", "disable", "--control", &control];
    for command in [&status[..], &disable] {
        let done = finish(None, "setpriv", &[&nobody[..], command].concat());
        assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{done:?}");
        says(
            &done.stderr,
            &["control socket: user id 65534 may not command this daemon", "; try: "],
        );
    }
    assert_eq!(daemon.status()["devices"][0]["state"], "ok", "nothing has happened");
    says(&daemon.log(), &["refused a user", "uid=65534"]);
    daemon.stop();
}

/// A plain TCP export is reachable; one beyond loopback is warned about, in the log and by the check.
#[test]
fn a_tcp_export_is_reachable_and_warned_about_beyond_loopback() {
    let rig = Embedded::start("tcp");
    for (address, warned) in [("127.0.0.1", false), ("0.0.0.0", true)] {
        let port = free_port(&["127.0.0.1", "0.0.0.0"]);
        let daemon = rig.daemon(&format!("export = \"tcp:{address}:{port}\""));
        let uri = format!("nbd://127.0.0.1:{port}/vm0");
        let mut greeting = [0; 16];
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect(&uri);
        std::io::Read::read_exact(&mut stream, &mut greeting).unwrap();
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT");
        let log = daemon.log();
        let has =
            log.contains("can be reached from other hosts, without authentication or encryption");
        assert_eq!(has, warned, "{log}");
        drop(stream);
        daemon.stop();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
    // An address in use, and one that is not ours: refused with the address.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign = "192.0.2.7:10809".to_owned();
    assert!(UdpSocket::bind(&foreign).is_err(), "192.0.2.7 is for documentation");
    for (address, why) in [
        (taken.local_addr().unwrap().to_string(), "is in use"),
        (foreign, "is not an address of this host"),
    ] {
        let config = rig.config(&format!("export = \"tcp:{address}\""));
        let file = rig.scratch.file("wrong.toml", config);
        let control = rig.scratch.path("control.sock");
        let (file, control) = (file.to_string_lossy(), control.to_string_lossy());
        let done =
            crate::harness::daemon::mpio(&["serve", "--config", &file, "--control", &control]);
        assert_eq!(done.code, Some(1), "{done:?}");
        let last = done.stderr.lines().last().unwrap_or_default();
        says(last, &["mpio: export of device vm0: ", why, "; try: "]);
    }
}
