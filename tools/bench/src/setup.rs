//! What is measured: each set-up is up when it was made, and down when it is dropped.

use crate::process::{BenchError, Cores, Running, command, finish, io};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Size of every disk, MiB.
pub const SIZE_MIB: u32 = 256;
/// The embedded targets' names.
const TARGETS: [&str; 2] = ["iqn.2026-11.example.san:ha1", "iqn.2026-11.example.san:ha1partner"];
/// The name of `tgtd`'s target.
const TGT: &str = "iqn.2026-11.example.san:tgt";

/// Programs and places of this run.
#[derive(Debug, Clone)]
pub struct Env {
    /// Where `mpio` and `mpio-target` are.
    pub bin: PathBuf,
    /// Sockets, logs.
    pub directory: PathBuf,
    /// Processors.
    pub cores: Cores,
}

impl Env {
    fn socket(&self, what: &str) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        self.directory.join(format!("{what}{number}.sock"))
    }

    fn own(&self, program: &str) -> std::process::Command {
        command(self.cores, &self.bin.join(program))
    }

    fn system(&self, program: &str) -> std::process::Command {
        command(self.cores, Path::new(program))
    }
}

/// A target and where it listens.
#[derive(Debug)]
pub struct Storage {
    /// Portals, targets; one for each path.
    pub paths: Vec<(String, String)>,
    /// LUN.
    pub lun: u32,
    /// The process; lives as long as this.
    _process: Running,
}

impl Storage {
    /// The embedded pair, in memory.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn embedded(env: &Env) -> Result<Storage, BenchError> {
        let mut command = env.own("mpio-target");
        let size = SIZE_MIB.to_string();
        command.args(["--portals", "127.0.0.1:0", "127.0.0.2:0", "--size", &size, "--targets"]);
        command.args(TARGETS);
        let mut process = Running::start("target", command, &env.directory)?;
        let paths = process.until(|process| {
            let text = process.output();
            let paths: Vec<(String, String)> = text
                .lines()
                .filter_map(|line| {
                    let mut words = line.split(' ');
                    Some((words.next()?.to_owned(), words.next()?.to_owned()))
                })
                .collect();
            (paths.len() == 2).then_some(paths)
        })?;
        Ok(Storage { paths, lun: 0, _process: process })
    }

    /// `tgtd` over a file that stays in the page cache.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn tgtd(env: &Env) -> Result<Storage, BenchError> {
        let portal = format!("127.0.0.3:{}", free_port()?);
        let ipc = env.directory.join("tgt");
        let disk = env.directory.join("tgt.img");
        let file = std::fs::File::create(&disk).map_err(io("tgt.img"))?;
        file.set_len(u64::from(SIZE_MIB) << 20).map_err(io("tgt.img"))?;
        let mut command = env.system("tgtd");
        command.env("TGT_IPC_SOCKET", &ipc);
        command.args(["-f", "-C", "97", "--iscsi", &format!("portal={portal}")]);
        let mut process = Running::start("tgtd", command, &env.directory)?;
        let admin = |words: &[&str]| {
            let mut command = env.system("tgtadm");
            command.env("TGT_IPC_SOCKET", &ipc).args(["-C", "97", "--lld", "iscsi"]).args(words);
            finish("tgtadm", &mut command)
        };
        process.until(|_| admin(&["--op", "show", "--mode", "system"]).ok())?;
        let disk = disk.to_string_lossy().into_owned();
        admin(&["--op", "new", "--mode", "target", "--tid", "1", "-T", TGT])?;
        admin(&["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", &disk])?;
        admin(&["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"])?;
        Ok(Storage { paths: vec![(portal, TGT.to_owned())], lun: 1, _process: process })
    }

    /// As libiscsi writes it.
    #[must_use]
    pub fn url(&self) -> String {
        let (portal, target) = &self.paths[0];
        format!("iscsi://{portal}/{target}/{}", self.lun)
    }
}

fn free_port() -> Result<u16, BenchError> {
    let listener = std::net::TcpListener::bind("127.0.0.3:0").map_err(io("127.0.0.3"))?;
    Ok(listener.local_addr().map_err(io("127.0.0.3"))?.port())
}

/// How an `mpio` is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// For people.
    pub name: &'static str,
    /// Paths of each device. Beyond one per node, from a source address each.
    pub paths: usize,
    /// Header and data digests.
    pub digests: bool,
    /// Lanes of each device.
    pub lanes: u32,
    /// A lane looks for answers this long before it sleeps.
    pub spin: &'static str,
    /// Devices over the same unit; the first one is measured.
    pub devices: usize,
    /// It has carried large requests for a minute before it is measured.
    pub aged: bool,
}

/// One device, one path, and every tunable as it is by default.
pub const PLAIN: Setup =
    Setup { name: "mpio", paths: 1, digests: false, lanes: 1, spin: "0", devices: 1, aged: false };

/// Something that serves NBD.
#[derive(Debug)]
pub struct Server {
    /// Where, as a URI.
    pub uri: String,
    /// Whose processor time is counted.
    pub pid: u32,
    /// Everything that belongs to it.
    _processes: Vec<Running>,
}

impl Server {
    /// `mpio` before `storage`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn mpio(env: &Env, storage: &Storage, setup: &Setup) -> Result<Server, BenchError> {
        let socket = env.socket("mpio");
        let control = socket.with_extension("control");
        let config = socket.with_extension("toml");
        let text = config_text(&socket, storage, setup);
        std::fs::write(&config, text).map_err(io(config.display().to_string()))?;
        let mut command = env.own("mpio");
        command.arg("serve").arg("--config").arg(&config).arg("--control").arg(&control);
        command.args(["--log-level", "error"]);
        command.env("XDG_RUNTIME_DIR", &env.directory).env("XDG_STATE_HOME", &env.directory);
        let mut process = Running::start("mpio", command, &env.directory)?;
        let ask = || {
            let mut command = env.own("mpio");
            command.args(["status", "--json", "--control"]).arg(&control);
            let text = finish("mpio status", &mut command).ok()?;
            let status: serde_json::Value = serde_json::from_str(&text).ok()?;
            let devices = status["devices"].as_array()?;
            let all = devices.len() == setup.devices && devices.iter().all(|d| d["state"] == "ok");
            all.then_some(())
        };
        process.until(|_| ask())?;
        let uri = format!("nbd+unix:///vm0?socket={}", socket.display());
        Ok(Server { uri, pid: process.pid(), _processes: vec![process] })
    }

    /// `qemu-nbd` with libiscsi, on the first path.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn qemu(env: &Env, storage: &Storage) -> Result<Server, BenchError> {
        let mut command = env.system("qemu-nbd");
        command.args(["-t", "-e", "16", "-f", "raw", "--cache=none", "-k"]);
        Server::on_socket(env, "qemu-nbd", command, |command, socket| {
            command.arg(socket).arg(storage.url());
        })
    }

    /// `nbdkit memory`: NBD without iSCSI.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn nbdkit(env: &Env) -> Result<Server, BenchError> {
        let size = format!("{SIZE_MIB}M");
        Server::on_socket(env, "nbdkit", env.system("nbdkit"), |command, socket| {
            command.args(["-f", "-U"]).arg(socket).args(["memory", &size]);
        })
    }

    /// The byte relay before [`Server::nbdkit`]; its processor time is the relay's.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn relay(env: &Env) -> Result<Server, BenchError> {
        let behind = Server::nbdkit(env)?;
        let path = behind.uri.split_once("socket=").map_or("", |(_, path)| path).to_owned();
        let own = std::env::current_exe().map_err(io("our own path"))?;
        let mut relay =
            Server::on_socket(env, "relay", command(env.cores, &own), |command, socket| {
                command.arg("relay").arg(socket).arg(path);
            })?;
        relay._processes.extend(behind._processes);
        Ok(relay)
    }

    fn on_socket(
        env: &Env,
        what: &str,
        mut command: std::process::Command,
        add: impl FnOnce(&mut std::process::Command, &Path),
    ) -> Result<Server, BenchError> {
        let socket = env.socket(what);
        add(&mut command, &socket);
        let mut process = Running::start(what, command, &env.directory)?;
        process.until(|_| socket.exists().then_some(()))?;
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        Ok(Server { uri, pid: process.pid(), _processes: vec![process] })
    }
}

/// The first `count` ways to `nodes` nodes: which node, and from which address. Beyond one to each node, each
/// comes from an address of its own.
fn ways(nodes: usize, count: usize) -> Vec<(usize, Option<String>)> {
    let source = |index: usize| (count > nodes).then(|| format!("127.0.1.{}", index / nodes + 1));
    (0..count).map(|index| (index % nodes, source(index))).collect()
}

fn config_text(socket: &Path, storage: &Storage, setup: &Setup) -> String {
    let name = socket.file_stem().unwrap_or_default().to_string_lossy();
    let pid = std::process::id();
    let mut text = format!("[initiator]\nname = \"iqn.2026-11.bench:{name}.p{pid}\"\n");
    let digest = if setup.digests { "crc32c" } else { "none" };
    let mut targets: Vec<&str> = Vec::new();
    for (index, (node, source)) in ways(storage.paths.len(), setup.paths).iter().enumerate() {
        let (portal, target) = &storage.paths[*node];
        let source = source.as_ref().map_or(String::new(), |ip| format!("source = \"{ip}\"\n"));
        text.push_str(&format!(
            "[[portal]]\nname = \"p{index}\"\naddress = \"{portal}\"\n{source}discovery = false\n\
             targets = [\"{target}\"]\nheader_digest = \"{digest}\"\ndata_digest = \"{digest}\"\n"
        ));
        if !targets.contains(&target.as_str()) {
            targets.push(target);
        }
    }
    let targets =
        targets.iter().map(|target| format!("\"{target}\"")).collect::<Vec<_>>().join(", ");
    for device in 0..setup.devices {
        // The first one's socket is the one that was asked for.
        let export = match device {
            0 => socket.display().to_string(),
            n => socket.with_extension(format!("{n}.sock")).display().to_string(),
        };
        text.push_str(&format!(
            "[[device]]\nname = \"vm{device}\"\ntargets = [{targets}]\nlun = {}\ntrust_identity = true\n\
             export = \"unix:{export}\"\nlanes = {}\nspin = \"{}\"\nshared = {}\n",
            storage.lun,
            setup.lanes,
            setup.spin,
            setup.devices > 1
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_paths_come_from_addresses_of_their_own() {
        let source = |k: u32| Some(format!("127.0.1.{k}"));
        assert_eq!(ways(2, 1), [(0, None)]);
        assert_eq!(ways(2, 2), [(0, None), (1, None)]);
        assert_eq!(ways(2, 3), [(0, source(1)), (1, source(1)), (0, source(2))]);
    }
}
