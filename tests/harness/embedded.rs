//! The embedded mirrored pair as storage of a test: in this process, on loopback, with faults and a journal
//! that the test can reach.

use super::Scratch;
use super::daemon::Daemon;
use mpio_target::config::PairConfig;
use mpio_target::tcp::TargetPair;
use std::sync::atomic::{AtomicU32, Ordering};

/// Names of the pair's paths, when the portals are called `a` and `b`.
pub const PATHS: [&str; 2] = ["a:ha1", "b:ha1partner"];

/// An initiator name that no other test has: there is one lock per name.
pub fn initiator_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("iqn.2026-11.test.embedded:p{}n{number}", std::process::id())
}

/// A pair, and the configuration of a daemon that uses it.
pub struct Embedded {
    /// Files of this test.
    pub scratch: Scratch,
    /// The storage.
    pub pair: TargetPair,
    /// The initiator's name in [`config`](Embedded::config).
    pub initiator: String,
}

impl Embedded {
    /// A well-behaved pair.
    #[track_caller]
    pub fn start(name: &str) -> Embedded {
        Embedded::with(name, PairConfig::default())
    }

    /// A pair of this configuration.
    #[track_caller]
    pub fn with(name: &str, config: PairConfig) -> Embedded {
        let pair = TargetPair::start(config).unwrap();
        Embedded { scratch: Scratch::new(name), pair, initiator: initiator_name() }
    }

    /// Where node 0 or 1 listens.
    pub fn portal(&self, index: usize) -> String {
        self.pair.node(index).addr().to_string()
    }

    /// The target of node 0 or 1.
    pub fn target(&self, index: usize) -> String {
        self.pair.pair().config().nodes[index].target.clone()
    }

    /// A configuration: portals `a` and `b` from 127.0.0.1 with the lines of `portal` in each, a device `vm0`
    /// with LUN 0 of both targets and the lines of `device`, exported on `vm0.sock`.
    pub fn config_with(&self, portal: &str, device: &str) -> String {
        let [a, b] = [0, 1].map(|index| self.portal(index));
        let [ha1, partner] = [0, 1].map(|index| self.target(index));
        let export = if device.contains("export =") {
            String::new()
        } else {
            format!("export = \"unix:{}\"\n", self.scratch.path("vm0.sock").display())
        };
        format!(
            "[initiator]\nname = \"{}\"\n\n\
             [[portal]]\nname = \"a\"\naddress = \"{a}\"\nsource = \"127.0.0.1\"\n{portal}\n\
             [[portal]]\nname = \"b\"\naddress = \"{b}\"\nsource = \"127.0.0.1\"\n{portal}\n\
             [[device]]\nname = \"vm0\"\ntargets = [\"{ha1}\", \"{partner}\"]\nlun = 0\n{export}{device}\n",
            self.initiator
        )
    }

    /// [`config_with`](Embedded::config_with) nothing more for the portals.
    pub fn config(&self, device: &str) -> String {
        self.config_with("", device)
    }

    /// A daemon whose device is whole.
    #[track_caller]
    pub fn daemon(&self, device: &str) -> Daemon {
        Daemon::start(&self.scratch, None, &self.config(device))
    }
}
