//! Initiator session ids (RFC 7143 section 11.12.5).
//!
//! An ISID together with our name is the initiator port: the same after a restart, so that a new daemon
//! reinstates the sessions of the old one instead of standing beside them, and different for every
//! session that can live at the same time. So it is derived from what is configured, and from nothing
//! that the kernel or a target chose. Commands other than `serve` use random ones.
//!
//! Layout of type 10b (random): byte 0 is 0x80, bytes 1-3 the random part, bytes 4-5 the qualifier; here
//! all five are bits of a hash.

use super::config::{Config, Device, Portal, Target};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;

/// First byte of the random format: T = 10b, A reserved.
const RANDOM_FORMAT: u8 = 0x80;

/// What makes a session unlike every other one of this initiator.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Our iSCSI name.
    pub initiator: &'a str,
    /// Device name.
    pub device: &'a str,
    /// Portal name.
    pub portal: &'a str,
    /// Portal address as configured, with its port.
    pub address: &'a str,
    /// Configured source, or empty.
    pub source: &'a str,
    /// The target's name.
    pub target: &'a str,
    /// LUN as a number.
    pub lun: u64,
    /// Lane.
    pub lane: u16,
}

/// The stable ISID of a session.
#[must_use]
pub fn stable(id: &Identity<'_>) -> [u8; 6] {
    let mut hash = Sha256::new();
    hash.update(b"mpio isid 1");
    for part in [id.initiator, id.device, id.portal, id.address, id.source, id.target] {
        // The length goes first, so that no two lists of parts give the same bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(id.lun.to_be_bytes());
    hash.update(id.lane.to_be_bytes());
    let digest = hash.finalize();
    let mut isid = [0; 6];
    isid[0] = RANDOM_FORMAT;
    isid[1..].copy_from_slice(&digest[..5]);
    isid
}

/// The stable ISID of one configured session.
#[must_use]
pub fn of(
    config: &Config,
    device: &Device,
    portal: &Portal,
    target: &Target,
    lane: u16,
) -> [u8; 6] {
    stable(&Identity {
        initiator: &config.initiator_name,
        device: &device.name,
        portal: &portal.name,
        address: &portal.address.to_string(),
        source: &portal.source.map_or(String::new(), |source| source.to_string()),
        target: &target.name,
        lun: target.lun,
        lane,
    })
}

/// An ISID for a session that nobody will want to reinstate.
///
/// # Errors
/// When the kernel has no random bytes.
pub fn random() -> Result<[u8; 6], getrandom::Error> {
    let mut isid = [0; 6];
    getrandom::fill(&mut isid)?;
    isid[0] = RANDOM_FORMAT;
    Ok(isid)
}

/// Two sessions of one configuration with the same ISID: the second would end the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collision {
    /// The two sessions.
    pub sessions: [String; 2],
    /// Line of the second one's device.
    pub line: usize,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = &self.sessions;
        write!(f, "{a} and {b} would have the same session id")
    }
}

/// Whether every session that the configuration can make has an ISID of its own.
///
/// # Errors
/// The first two sessions that do not.
pub fn check(config: &Config) -> Result<(), Collision> {
    let mut seen: HashMap<[u8; 6], String> = HashMap::new();
    for device in &config.devices {
        for portal in &config.portals {
            for target in &device.targets {
                for lane in 0..device.lanes {
                    let session = format!("{}/{}/{}/{lane}", device.name, portal.name, target.name);
                    let isid = of(config, device, portal, target, lane);
                    if let Some(other) = seen.insert(isid, session.clone()) {
                        return Err(Collision { sessions: [other, session], line: device.line });
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Identity<'static> = Identity {
        initiator: "iqn.2026-11.example.host1:mpio",
        device: "vm0",
        portal: "a",
        address: "10.10.1.10:3260",
        source: "10.10.1.1",
        target: "iqn.2026-11.example.san:ha1",
        lun: 1,
        lane: 0,
    };

    /// Fixed for ever: another value would leave the sessions of the previous version standing.
    #[test]
    fn the_derivation_does_not_change() {
        assert_eq!(stable(&ID), [0x80, 0x95, 0x7f, 0x21, 0x45, 0xa5]);
    }

    /// RFC 7143 11.12.5: T = 10b in the two high bits of byte 0, the reserved A field zero.
    #[test]
    fn random_format() {
        assert_eq!(stable(&ID)[0], 0x80);
        let (a, b) = (random().unwrap(), random().unwrap());
        assert_eq!((a[0], b[0]), (0x80, 0x80));
        assert_ne!(a, b);
    }

    #[test]
    fn every_part_counts() {
        let others = [
            Identity { initiator: "iqn.2026-11.example.host2:mpio", ..ID },
            Identity { device: "vm1", ..ID },
            Identity { portal: "b", ..ID },
            Identity { address: "10.10.1.10:3261", ..ID },
            Identity { source: "", ..ID },
            Identity { target: "iqn.2026-11.example.san:ha1partner", ..ID },
            Identity { lun: 2, ..ID },
            Identity { lane: 1, ..ID },
            // The same bytes, cut elsewhere.
            Identity { device: "vm0a", portal: "", ..ID },
        ];
        for other in others {
            assert_ne!(stable(&other), stable(&ID), "{other:?}");
        }
    }
}
