//! What a pair is made of, as plain data. Every default is a well-behaved target; everything that is
//! wrong on purpose is a rule of [`crate::faults`], not a setting here.

use crate::journal::{self, Scope};
use crate::store::Backing;
use std::net::{Ipv4Addr, SocketAddr};

/// A mirrored pair: one logical unit behind two targets.
#[derive(Debug, Clone)]
pub struct PairConfig {
    /// Where the two nodes listen; port 0 takes a free one.
    pub portals: [SocketAddr; 2],
    /// The two targets.
    pub nodes: [NodeConfig; 2],
    /// Size in bytes, a multiple of the block size.
    pub size: u64,
    /// Logical block size in bytes: 512 or 4096.
    pub block_size: u32,
    /// Where the bytes are kept.
    pub backing: Backing,
    /// Whether both nodes show the same bytes. `false` gives two units that only look alike.
    pub mirrored: bool,
    /// Memory without a byte in it. Otherwise its last block carries a label that is different for each
    /// medium, as a disk in use has something there: a blank unit proves nothing to a multipath initiator.
    pub blank: bool,
    /// What the journal records.
    pub journal: Scope,
    /// Records that the journal keeps.
    pub journal_capacity: usize,
    /// Seed of everything that faults decide by chance.
    pub seed: u64,
}

impl Default for PairConfig {
    fn default() -> PairConfig {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        PairConfig {
            portals: [loopback, loopback],
            nodes: [
                NodeConfig::new("iqn.2026-11.example.san:ha1", 1),
                NodeConfig::new("iqn.2026-11.example.san:ha1partner", 2),
            ],
            size: 64 * 1024 * 1024,
            block_size: 512,
            backing: Backing::Memory,
            mirrored: true,
            blank: false,
            journal: Scope::Changes,
            journal_capacity: journal::CAPACITY,
            seed: 0,
        }
    }
}

/// One target of the pair.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// iSCSI target name.
    pub target: String,
    /// TargetAlias, told at login.
    pub alias: Option<String>,
    /// Target portal group tag.
    pub portal_group: u16,
    /// LUN of the unit, 0 to 16383.
    pub lun: u16,
    /// Portals that SendTargets tells besides the one asked: address and portal group tag.
    pub more_portals: Vec<(String, u16)>,
    /// Targets that SendTargets tells besides this one (they cannot be logged into).
    pub more_targets: Vec<(String, Vec<(String, u16)>)>,
    /// Authentication asked of normal sessions.
    pub chap: Option<Chap>,
    /// Authentication asked of discovery sessions.
    pub discovery_chap: Option<Chap>,
    /// What is negotiated.
    pub negotiation: Negotiation,
    /// Commands that may be outstanding per session: the width of the CmdSN window.
    pub window: u32,
    /// What the unit says about itself.
    pub identity: Identity,
    /// What the unit can do.
    pub abilities: Abilities,
    /// Size in bytes that this node claims, if not the medium's (never beyond it).
    pub claimed_size: Option<u64>,
    /// Whether a session that takes the place of an older one ends the commands of that one, as
    /// RFC 7143 section 6.3.5 asks. Real targets were measured not to.
    pub reinstatement_aborts: bool,
    /// Whether LOGICAL UNIT RESET is carried out while a write of another session waits for its data. If not, it
    /// is never answered, and neither is that write, and the nexus that asked is let in no more: LIO of Linux
    /// 6.1 was measured to be so.
    pub reset_beside_open_writes: bool,
}

impl NodeConfig {
    /// A well-behaved target without authentication.
    #[must_use]
    pub fn new(target: &str, portal_group: u16) -> NodeConfig {
        NodeConfig {
            target: target.to_owned(),
            alias: None,
            portal_group,
            lun: 0,
            more_portals: Vec::new(),
            more_targets: Vec::new(),
            chap: None,
            discovery_chap: None,
            negotiation: Negotiation::default(),
            window: 128,
            identity: Identity::default(),
            abilities: Abilities::default(),
            claimed_size: None,
            reinstatement_aborts: true,
            reset_beside_open_writes: true,
        }
    }
}

/// Secrets of one direction or both (RFC 7143 section 12.1.3).
#[derive(Clone, PartialEq, Eq)]
pub struct Chap {
    /// Name that the initiator must give.
    pub user: String,
    /// Secret that the initiator must know.
    pub secret: Vec<u8>,
    /// Name and secret by which this target proves itself, if it is asked to.
    pub mutual: Option<(String, Vec<u8>)>,
    /// Algorithms that this target takes; of the initiator's list the first one of these is used.
    pub algorithms: Vec<ChapAlgorithm>,
}

impl core::fmt::Debug for Chap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Chap {{ user: {:?}, .. }}", self.user)
    }
}

/// Hash of a CHAP response, by its registered number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChapAlgorithm {
    /// MD5 (5).
    Md5 = 5,
    /// SHA-1 (6).
    Sha1 = 6,
    /// SHA-256 (7).
    Sha256 = 7,
    /// SHA3-256 (8).
    Sha3 = 8,
}

impl ChapAlgorithm {
    /// All of them, strongest first.
    pub const ALL: [ChapAlgorithm; 4] =
        [ChapAlgorithm::Sha3, ChapAlgorithm::Sha256, ChapAlgorithm::Sha1, ChapAlgorithm::Md5];

    /// The algorithm with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<ChapAlgorithm> {
        ChapAlgorithm::ALL.into_iter().find(|a| *a as u64 == number)
    }
}

/// The target's side of the operational keys (RFC 7143 section 13).
#[derive(Debug, Clone)]
pub struct Negotiation {
    /// HeaderDigest values that this target takes, in no order: the initiator's first one wins.
    pub header_digest: Digests,
    /// DataDigest, the same.
    pub data_digest: Digests,
    /// InitialR2T: `true` forbids unsolicited Data-Out.
    pub initial_r2t: bool,
    /// ImmediateData: `false` forbids data in the command.
    pub immediate_data: bool,
    /// MaxRecvDataSegmentLength that this target declares; `None` says nothing (8192).
    pub max_recv_segment: Option<u32>,
    /// MaxBurstLength.
    pub max_burst: u32,
    /// FirstBurstLength.
    pub first_burst: u32,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u32,
    /// DataPDUInOrder: `false` lets Data-In PDUs of one sequence change places.
    pub pdu_in_order: bool,
    /// DataSequenceInOrder: `false` lets sequences change places.
    pub sequence_in_order: bool,
    /// DefaultTime2Wait, seconds.
    pub time2wait: u32,
    /// DefaultTime2Retain, seconds.
    pub time2retain: u32,
    /// Whether GOOD comes in the last Data-In (phase collapse) or in a response of its own.
    pub phase_collapse: bool,
    /// Longest text in one Text Response, so that answers span several; `None` is as long as fits.
    pub text_chunk: Option<usize>,
    /// Longest segment of one Data-In, below what the initiator can take.
    pub data_in_segment: Option<u32>,
}

impl Default for Negotiation {
    fn default() -> Negotiation {
        Negotiation {
            header_digest: Digests::default(),
            data_digest: Digests::default(),
            initial_r2t: false,
            immediate_data: true,
            max_recv_segment: Some(256 * 1024),
            max_burst: 16_776_192,
            first_burst: 256 * 1024,
            max_outstanding_r2t: 8,
            pdu_in_order: true,
            sequence_in_order: true,
            time2wait: 2,
            time2retain: 0,
            phase_collapse: true,
            text_chunk: None,
            data_in_segment: None,
        }
    }
}

/// Digest values that a target takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// Takes `None`.
    pub none: bool,
    /// Takes `CRC32C`.
    pub crc32c: bool,
}

impl Default for Digests {
    fn default() -> Digests {
        Digests { none: true, crc32c: true }
    }
}

/// What INQUIRY and its pages tell. Equal on both nodes of a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// T10 vendor, 8 bytes at most.
    pub vendor: String,
    /// Product, 16 bytes at most.
    pub product: String,
    /// Revision, 4 bytes at most.
    pub revision: String,
    /// Unit serial number (page 80h).
    pub serial: String,
    /// NAA designator of the unit: 8 or 16 bytes; `None` leaves it out of page 83h.
    pub naa: Option<Vec<u8>>,
    /// EUI-64 designator of the unit: 8, 12 or 16 bytes.
    pub eui64: Option<Vec<u8>>,
    /// Whether a T10 vendor designator is told.
    pub t10: bool,
}

impl Default for Identity {
    fn default() -> Identity {
        Identity {
            vendor: "MPIO".to_owned(),
            product: "MIRROR".to_owned(),
            revision: "0001".to_owned(),
            serial: "mirror-0001".to_owned(),
            naa: Some(vec![
                0x60, 0x00, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b,
                0x0c, 0x0d,
            ]),
            eui64: None,
            t10: true,
        }
    }
}

/// What the unit can do. Turning something off gives INVALID COMMAND OPERATION CODE for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// WCE of the caching page.
    pub write_cache: bool,
    /// DPOFUA: FUA is taken.
    pub fua: bool,
    /// WP: every change is refused.
    pub write_protect: bool,
    /// READ CAPACITY (16) and the other 16-byte forms that are not needed below 2 TiB.
    pub read_capacity_16: bool,
    /// MODE SENSE (10); MODE SENSE (6) is always there.
    pub mode_sense_10: bool,
    /// UNMAP.
    pub unmap: bool,
    /// WRITE SAME (10) and (16).
    pub write_same: bool,
    /// GET LBA STATUS.
    pub lba_status: bool,
    /// SYNCHRONIZE CACHE.
    pub synchronize_cache: bool,
    /// Deallocated blocks read as zeros, and the unit says so (LBPRZ).
    pub zeros_when_deallocated: bool,
    /// Pages B0h, B1h, B2h are told.
    pub block_pages: bool,
    /// MAXIMUM TRANSFER LENGTH, blocks; 0 tells nothing and takes all.
    pub max_transfer: u32,
    /// OPTIMAL TRANSFER LENGTH, blocks; 0 tells nothing.
    pub optimal_transfer: u32,
    /// MAXIMUM UNMAP LBA COUNT, blocks.
    pub max_unmap: u32,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
    pub max_unmap_descriptors: u32,
    /// MAXIMUM WRITE SAME LENGTH, blocks; 0 tells nothing.
    pub max_write_same: u64,
    /// Sense in descriptor format (D_SENSE).
    pub descriptor_sense: bool,
    /// Asymmetric access: the state told by REPORT TARGET PORT GROUPS, as its code (0 optimized,
    /// 1 non-optimized, 2 standby, 3 unavailable); `None` is no ALUA at all. It is what the pair begins
    /// with; [`Access`](crate::Access) changes it.
    pub alua: Option<u8>,
    /// TPGS: 1 the storage alone changes the states, 2 initiators do (SET TARGET PORT GROUPS), 3 both.
    pub alua_by: u8,
    /// Implicit transition time of the extended header, seconds; 0 tells none.
    pub alua_transition_secs: u8,
    /// Page 83h tells the target port group of the port.
    pub alua_group_told: bool,
    /// A new nexus finds a unit attention (29/00, 29/07 when it comes back).
    pub unit_attention_at_login: bool,
}

impl Default for Abilities {
    fn default() -> Abilities {
        Abilities {
            write_cache: true,
            fua: true,
            write_protect: false,
            read_capacity_16: true,
            mode_sense_10: true,
            unmap: true,
            write_same: true,
            lba_status: true,
            synchronize_cache: true,
            zeros_when_deallocated: true,
            block_pages: true,
            max_transfer: 0,
            optimal_transfer: 0,
            max_unmap: 1 << 20,
            max_unmap_descriptors: 256,
            max_write_same: 1 << 22,
            descriptor_sense: false,
            alua: None,
            alua_by: 1,
            alua_transition_secs: 10,
            alua_group_told: true,
            unit_attention_at_login: true,
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Only two block sizes are built.
    #[error("block size {0}: expected 512 or 4096")]
    BlockSize(u32),
    /// The size is not a whole number of blocks, or zero.
    #[error("size {0}: expected a multiple of the block size above 0")]
    Size(u64),
    /// LUNs above 16383 need an addressing method that is not built.
    #[error("LUN {0}: expected 0 to 16383")]
    Lun(u16),
    /// A node cannot claim more than there is.
    #[error("claimed size {0}: expected at most the size of the medium, in whole blocks")]
    ClaimedSize(u64),
}

impl PairConfig {
    /// Whether a pair can be made of this.
    ///
    /// # Errors
    /// The first setting that does not work.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.block_size != 512 && self.block_size != 4096 {
            return Err(ConfigError::BlockSize(self.block_size));
        }
        let whole = |size: u64| size > 0 && size.is_multiple_of(u64::from(self.block_size));
        if !whole(self.size) || self.size > i64::MAX as u64 {
            return Err(ConfigError::Size(self.size));
        }
        for node in &self.nodes {
            if node.lun > 0x3fff {
                return Err(ConfigError::Lun(node.lun));
            }
            if let Some(size) = node.claimed_size
                && (!whole(size) || size > self.size)
            {
                return Err(ConfigError::ClaimedSize(size));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named() {
        assert_eq!(PairConfig::default().check(), Ok(()));
        let bad = PairConfig { block_size: 520, ..PairConfig::default() };
        assert_eq!(bad.check(), Err(ConfigError::BlockSize(520)));
        let bad = PairConfig { size: 513, ..PairConfig::default() };
        assert_eq!(bad.check(), Err(ConfigError::Size(513)));
        let mut bad = PairConfig::default();
        bad.nodes[1].claimed_size = Some(bad.size + 512);
        assert_eq!(bad.check(), Err(ConfigError::ClaimedSize(bad.size + 512)));
        bad.nodes[0].lun = 16384;
        assert_eq!(bad.check(), Err(ConfigError::Lun(16384)));
    }

    #[test]
    fn secrets_are_not_printed() {
        let chap = Chap {
            user: "u".to_owned(),
            secret: b"very secret".to_vec(),
            mutual: None,
            algorithms: ChapAlgorithm::ALL.to_vec(),
        };
        assert!(!format!("{chap:?}").contains("secret: "));
    }
}
