//! Network namespaces with veth pairs between them, and silent cuts with nft. All gone when dropped.
//!
//! Names carry the process id, so that runs side by side do not meet; nothing of the host's own network is
//! touched: hosts under test live in namespaces too.

use super::process::{Finished, finish};
use super::require_root;
use std::sync::atomic::{AtomicU32, Ordering};

/// One namespace.
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Makes a namespace with its loopback up; `role` is part of its name.
    #[track_caller]
    pub fn new(role: &str) -> NetNs {
        require_root();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let netns = NetNs { name: format!("mpio-{}-{number}-{role}", std::process::id()) };
        ip(&["netns", "add", &netns.name]);
        ip(&["-n", &netns.name, "link", "set", "lo", "up"]);
        netns
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connects the two by a veth pair: `link` on this side with `own` addresses, `e0` on the other with
    /// `other` addresses (with prefix lengths). The first address is the kernel's choice as a source.
    #[track_caller]
    pub fn connect(&self, link: &str, own: &[&str], node: &NetNs, other: &[&str]) {
        let (here, there) = (self.name.as_str(), node.name.as_str());
        ip(&[
            "-n", here, "link", "add", link, "type", "veth", "peer", "name", "e0", "netns", there,
        ]);
        for (name, device, addresses) in [(here, link, own), (there, "e0", other)] {
            for address in addresses {
                ip(&["-n", name, "address", "add", address, "dev", device]);
            }
            ip(&["-n", name, "link", "set", device, "up"]);
        }
    }

    /// From now on every packet in and out of this namespace is dropped, and nobody is told.
    #[track_caller]
    pub fn cut_silently(&self) {
        self.nft(
            "add table inet cut; \
             add chain inet cut in { type filter hook input priority 0; policy drop; }; \
             add chain inet cut out { type filter hook output priority 0; policy drop; }",
        );
    }

    /// Ends a silent cut.
    #[track_caller]
    pub fn heal(&self) {
        self.nft("delete table inet cut");
    }

    /// Takes `link` down or up.
    #[track_caller]
    pub fn set_link(&self, link: &str, up: bool) {
        ip(&["-n", &self.name, "link", "set", link, if up { "up" } else { "down" }]);
    }

    /// Runs a program inside.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Finished {
        finish(Some(self), program, arguments)
    }

    #[track_caller]
    fn nft(&self, commands: &str) {
        let done = self.run("nft", &[commands]);
        assert_eq!(done.code, Some(0), "nft {commands}: {}", done.stderr);
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        // Its links go with it; processes inside were started later, and were ended before.
        let _ = finish(None, "ip", &["netns", "delete", &self.name]);
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let done = finish(None, "ip", arguments);
    assert_eq!(done.code, Some(0), "ip {}: {}", arguments.join(" "), done.stderr);
}
