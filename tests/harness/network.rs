//! The dedicated storage network of a test: three namespaces, a host with two storage subnets and a storage
//! node on each. The configured sources are *second* addresses of the host's links, which the kernel would
//! never choose by itself. Nothing of the machine's own network is touched.

use super::netns::NetNs;
use super::tgtd::Pair;
use super::{Scratch, noise, require};

/// What the configuration binds to; the first addresses of the links are .1.
pub const SOURCES: [&str; 2] = ["10.77.1.7", "10.77.2.7"];
/// Where the nodes listen.
pub const NODES: [&str; 2] = ["10.77.1.10", "10.77.2.10"];
/// The host's links to the nodes.
pub const LINKS: [&str; 2] = ["eth1", "eth2"];

/// A host with a link to each of two storage nodes.
pub struct Network {
    /// Where `mpio` runs.
    pub host: NetNs,
    /// Where the targets run.
    pub nodes: [NetNs; 2],
}

impl Network {
    /// Makes the namespaces and links.
    #[track_caller]
    pub fn new() -> Network {
        require(&["ip", "nft", "ss", "tgtd", "tgtadm", "setpriv", "timeout"]);
        let network =
            Network { host: NetNs::new("host"), nodes: [NetNs::new("a"), NetNs::new("b")] };
        network.host.connect(
            LINKS[0],
            &["10.77.1.1/24", "10.77.1.7/24"],
            &network.nodes[0],
            &["10.77.1.10/24"],
        );
        network.host.connect(
            LINKS[1],
            &["10.77.2.1/24", "10.77.2.7/24"],
            &network.nodes[1],
            &["10.77.2.10/24"],
        );
        network
    }

    /// A `tgtd` on each node over one file of `size` bytes of noise.
    #[track_caller]
    pub fn pair(&self, scratch: &Scratch, size: usize) -> Pair<'_> {
        let portals = NODES.map(|address| format!("{address}:3260"));
        Pair::start_at(
            scratch,
            [Some(&self.nodes[0]), Some(&self.nodes[1])],
            &portals,
            &noise(size, 3),
        )
    }

    /// Local addresses of the host's established connections to `node`.
    #[track_caller]
    pub fn sources_towards(&self, node: &str) -> Vec<String> {
        let done = self.host.run("ss", &["-Htn", "state", "established", "dst", node]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.stdout
            .lines()
            .filter_map(|line| line.split_whitespace().nth(2)?.rsplit_once(':'))
            .map(|(address, _)| address.to_owned())
            .collect()
    }
}
