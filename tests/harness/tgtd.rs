//! Real `tgtd` processes as storage nodes, and a pair of them that shows one logical unit.
//!
//! The identity that a `tgtd` reports is made of target id, LUN, `scsi_id` and `scsi_sn`; both nodes of a pair
//! get the same ones, and one backing file. Each node has a management socket of its own in the test's
//! directory (`TGT_IPC_SOCKET`), so that neither other tests nor a `tgtd` of the system are met, and no root
//! is needed.

use super::netns::NetNs;
use super::process::{Process, command, finish};
use super::{Scratch, free_port, wait_for};
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Target names of a pair's nodes.
pub const TARGETS: [&str; 2] = ["iqn.2026-11.test.san:ha1", "iqn.2026-11.test.san:ha1partner"];

/// Names of a pair's paths, when the portals are called `a` and `b`.
pub const PATHS: [&str; 2] = ["a:ha1", "b:ha1partner"];

/// What both nodes report as VPD page 80h.
pub const SERIAL: &str = "ha1lun1";

/// One storage node.
pub struct Tgtd<'a> {
    /// Address and port that it listens on.
    pub portal: String,
    /// Its target's name.
    pub target: String,
    netns: Option<&'a NetNs>,
    socket: PathBuf,
    control: u32,
    backing: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl<'a> Tgtd<'a> {
    /// Starts a node that shows `backing` as LUN 1 of `target` on `portal`.
    #[track_caller]
    pub fn start(
        scratch: &Scratch,
        netns: Option<&'a NetNs>,
        control: u32,
        portal: &str,
        target: &str,
        backing: &Path,
    ) -> Tgtd<'a> {
        let mut node = Tgtd {
            portal: portal.to_owned(),
            target: target.to_owned(),
            netns,
            socket: scratch.path("tgtd"),
            control,
            backing: backing.to_path_buf(),
            log: scratch.path(&format!("tgtd{control}.log")),
            process: None,
        };
        node.restart();
        node
    }

    /// Starts it again after [`kill`](Tgtd::kill), with the same portal, target and unit.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "tgtd {} is running", self.control);
        let mut command = command(self.netns, "tgtd");
        command.env("TGT_IPC_SOCKET", &self.socket).args([
            "-f",
            "-C",
            &self.control.to_string(),
            "--iscsi",
            &format!("portal={}", self.portal),
        ]);
        let mut process = Process::start(format!("tgtd {}", self.control), command, &self.log);
        wait_for(Duration::from_secs(20), "tgtd's management socket", || {
            process.assert_running();
            (self.administer(&["--op", "show", "--mode", "system"]) == Some(0)).then_some(())
        });
        self.process = Some(process);
        let backing = self.backing.to_string_lossy().into_owned();
        let identity = format!(
            "vendor_id=TEST,product_id=MIRROR,product_rev=0001,scsi_id=TEST-ha1-lun1,scsi_sn={SERIAL},thin_provisioning=1"
        );
        let unit = ["--mode", "logicalunit", "--tid", "1", "--lun", "1"];
        let steps: [&[&str]; 4] = [
            &["--op", "new", "--mode", "target", "--tid", "1", "-T", &self.target],
            &[&["--op", "new"], &unit[..], &["-b", &backing]].concat(),
            &[&["--op", "update"], &unit[..], &["--params", &identity]].concat(),
            &["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"],
        ];
        for step in steps {
            assert_eq!(self.administer(step), Some(0), "tgtadm {}", step.join(" "));
        }
    }

    /// SIGKILL: connections are reset, nothing is finished.
    pub fn kill(&mut self) {
        self.process.take().expect("tgtd is running").kill();
    }

    /// SIGSTOP: it stays silent, its connections stay open.
    pub fn freeze(&self) {
        self.process.as_ref().expect("tgtd is running").signal(Signal::SIGSTOP);
    }

    /// SIGCONT after [`freeze`](Tgtd::freeze).
    pub fn thaw(&self) {
        self.process.as_ref().expect("tgtd is running").signal(Signal::SIGCONT);
    }

    /// Stops the threads that read and write the backing file where they do, and nothing else: the target goes on
    /// answering logins, pings and TEST UNIT READY while its disk hangs. Dropping the result lets them go on.
    #[track_caller]
    pub fn hang_disk(&self) -> HungDisk {
        HungDisk::new(self.process.as_ref().expect("tgtd is running").pid())
    }

    /// Runs `tgtadm` against this node and gives its exit code.
    pub fn administer(&self, arguments: &[&str]) -> Option<i32> {
        let control = self.control.to_string();
        let mut words = vec![format!("TGT_IPC_SOCKET={}", self.socket.display()), "tgtadm".into()];
        words.extend(["-C", &control, "--lld", "iscsi"].map(str::to_owned));
        words.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        finish(None, "env", &words).code
    }
}

/// A process whose threads, but for the first, stop where they reach for the disk.
pub struct HungDisk {
    release: Option<Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl HungDisk {
    fn new(process: u32) -> HungDisk {
        let tasks = format!("/proc/{process}/task");
        let threads: Vec<Pid> = std::fs::read_dir(&tasks)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap())
            .filter(|&thread: &i32| thread != process as i32)
            .map(Pid::from_raw)
            .collect();
        assert!(!threads.is_empty(), "process {process} has one thread only");
        let (release, released) = channel();
        let (stopped, wait) = channel();
        // Only the thread that traces another may let it go on.
        let tracer = std::thread::spawn(move || {
            for &thread in &threads {
                ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
                ptrace::interrupt(thread).unwrap();
                waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
                ptrace::syscall(thread, None).unwrap();
            }
            stopped.send(()).unwrap();
            while released.try_recv() == Err(TryRecvError::Empty) {
                stop_at_the_disk(&tasks);
                std::thread::sleep(Duration::from_millis(1));
            }
            for &thread in &threads {
                if ptrace::detach(thread, None).is_err() {
                    // It is not at the disk, but waits for work.
                    let _ = ptrace::interrupt(thread);
                    let _ = waitpid(thread, Some(WaitPidFlag::__WALL));
                    let _ = ptrace::detach(thread, None);
                }
            }
        });
        wait.recv().expect("the disk threads stop");
        HungDisk { release: Some(release), tracer: Some(tracer) }
    }
}

/// Lets this thread's tracees run on unless they are about to read or write. Anywhere else they may hold a lock, or
/// be waited for, by the thread that answers pings.
fn stop_at_the_disk(tasks: &str) {
    let disk = [libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_fdatasync, libc::SYS_fsync];
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
    loop {
        let (thread, signal) = match waitpid(None, Some(flags)) {
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                let call = std::fs::read_to_string(format!("{tasks}/{thread}/syscall"));
                let number = call.ok().and_then(|call| call.split(' ').next()?.parse().ok());
                if number.is_some_and(|number| disk.contains(&number)) {
                    continue;
                }
                (thread, None)
            }
            Ok(WaitStatus::Stopped(thread, signal)) => (thread, Some(signal)),
            Ok(WaitStatus::PtraceEvent(thread, ..)) => (thread, None),
            _ => return,
        };
        let _ = ptrace::syscall(thread, signal);
    }
}

impl Drop for HungDisk {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(tracer) = self.tracer.take() {
            let _ = tracer.join();
        }
    }
}

/// Two nodes with one backing file, that is: two paths to one logical unit.
pub struct Pair<'a> {
    /// The nodes, in the order of [`TARGETS`].
    pub nodes: [Tgtd<'a>; 2],
    /// What both write to.
    pub backing: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

impl Pair<'static> {
    /// A pair on two loopback addresses and a free port, over `content`.
    #[track_caller]
    pub fn start(scratch: &Scratch, content: &[u8]) -> Pair<'static> {
        let addresses = ["127.0.0.11", "127.0.0.12"];
        let port = free_port(&addresses);
        let portals = addresses.map(|address| format!("{address}:{port}"));
        Pair::start_at(scratch, [None, None], &portals, content)
    }
}

impl<'a> Pair<'a> {
    /// A pair on `portals`, each node in its namespace.
    #[track_caller]
    pub fn start_at(
        scratch: &Scratch,
        netns: [Option<&'a NetNs>; 2],
        portals: &[String; 2],
        content: &[u8],
    ) -> Pair<'a> {
        Pair::start_sparse_at(scratch, netns, portals, content, content.len() as u64)
    }

    /// [`start_at`](Pair::start_at), with a file of `size` bytes that begins with `content`; the rest is a hole.
    #[track_caller]
    pub fn start_sparse_at(
        scratch: &Scratch,
        netns: [Option<&'a NetNs>; 2],
        portals: &[String; 2],
        content: &[u8],
        size: u64,
    ) -> Pair<'a> {
        let backing = scratch.file("lun.img", content);
        std::fs::File::options().write(true).open(&backing).unwrap().set_len(size).unwrap();
        let node = |index: usize| {
            let control = index as u32 + 1;
            Tgtd::start(scratch, netns[index], control, &portals[index], TARGETS[index], &backing)
        };
        Pair { nodes: [node(0), node(1)], size, backing: backing.clone() }
    }

    /// Node 1 shows `content` of its own from now on, under the same identity: not one unit, but two.
    #[track_caller]
    pub fn split(&mut self, scratch: &Scratch, content: &[u8]) -> PathBuf {
        let other = scratch.file("other.img", content);
        self.nodes[1].kill();
        self.nodes[1].backing.clone_from(&other);
        self.nodes[1].restart();
        other
    }

    /// Configuration of a device `vm0` over this pair: portals `a` and `b` from `sources`, exported on
    /// `scratch`'s `vm0.sock`. `device` is added to the device's table.
    pub fn config(&self, scratch: &Scratch, sources: [&str; 2], device: &str) -> String {
        let portal = |index: usize| {
            format!(
                "[[portal]]\nname = \"{}\"\naddress = \"{}\"\nsource = \"{}\"\n\n",
                ["a", "b"][index],
                self.nodes[index].portal,
                sources[index]
            )
        };
        format!(
            "[initiator]\nname = \"iqn.2026-11.test.host{}:mpio\"\n\n{}{}[[device]]\nname = \"vm0\"\n\
             targets = [\"{}\", \"{}\"]\nlun = 1\nexport = \"unix:{}\"\n{device}\n",
            // One lock per initiator name: tests that run side by side need names of their own.
            self.nodes[0].portal.rsplit(':').next().unwrap_or_default(),
            portal(0),
            portal(1),
            TARGETS[0],
            TARGETS[1],
            scratch.path("vm0.sock").display(),
        )
    }
}
