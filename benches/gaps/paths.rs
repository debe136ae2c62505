//! Paths that come back, and paths that are not equally fast.

use crate::Figures;
use crate::faults::with_rig;
use crate::fio::{Fio, Report};
use crate::harness::daemon::{Daemon, path_of};
use crate::harness::embedded::{Embedded, PATHS};
use crate::harness::tgtd;
use mpio_target::config::PairConfig;
use mpio_target::faults::{Commands, Fault, Rule};
use std::time::{Duration, Instant};

/// How much later one path answers.
const LATER: Duration = Duration::from_millis(30);
/// How long each load of a comparison runs.
const LOAD: Duration = Duration::from_secs(2);

/// From the end of a silent cut of `outage` until the path is used again.
fn back_after(outage: Duration) -> Result<Figures, String> {
    with_rig("policy = \"round-robin\"", |rig| {
        let load = Duration::from_secs(outage.as_secs() + 12);
        let fio = Fio::start(&rig.daemon.uri(), "randread", 4, load, &rig.scratch.path(""));
        rig.network.nodes[0].cut_silently();
        std::thread::sleep(outage);
        rig.network.nodes[0].heal();
        let healed = Instant::now();
        let active =
            |daemon: &Daemon| path_of(&daemon.status(), tgtd::PATHS[0])["state"] == "active";
        while !active(&rig.daemon) {
            if healed.elapsed() > Duration::from_secs(10) {
                return Err("not active within 10 s".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let back = healed.elapsed();
        drop(fio);
        Ok(vec![back.as_secs_f64() * 1e3])
    })
}

/// Shorter than the back-off's last step.
pub fn back_after_a_short_outage() -> Result<Figures, String> {
    back_after(Duration::from_secs(2))
}

/// Longer.
pub fn back_after_a_long_outage() -> Result<Figures, String> {
    back_after(Duration::from_secs(8))
}

/// Path A answers 30 ms later: what `latency` with hedged reads (the default) makes of it.
pub fn one_slow_path() -> Result<Figures, String> {
    let config = PairConfig { size: 1 << 30, ..PairConfig::default() };
    let pair = Embedded::with("gaps-slow", config);
    let mut daemon = pair.daemon("policy = \"round-robin\"\ntrust_identity = true");
    daemon.wait_until_active(PATHS[0]);
    let slow = Rule::new(Fault::Delay(LATER, LATER)).on(Commands::Medium);
    pair.pair.node(0).faults().set("slow", slow);
    let under = |daemon: &Daemon, policy: &[&str]| -> Result<Report, String> {
        let changed = daemon.command(&[&["policy", "vm0"], policy].concat());
        if changed.code != Some(0) {
            return Err(format!("policy {policy:?}: {}", changed.stderr.trim()));
        }
        // It learns what the paths are like.
        std::thread::sleep(Duration::from_millis(500));
        Fio::start(&daemon.uri(), "randread", 32, LOAD, &pair.scratch.path("")).finish()
    };
    // In turn, so that a machine that becomes slower meanwhile hits all of them.
    let before = under(&daemon, &["failover", "--prefer", PATHS[1]])?.reads;
    let latency = under(&daemon, &["latency"])?.reads;
    let after = under(&daemon, &["failover", "--prefer", PATHS[1]])?.reads;
    let even = under(&daemon, &["round-robin"])?.reads;
    daemon.stop();
    Ok(vec![
        latency.iops / even.iops,
        200.0 * latency.iops / (before.iops + after.iops),
        2.0 * latency.p999_ms / (before.p999_ms + after.p999_ms),
    ])
}
